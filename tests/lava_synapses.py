"""Synapses of every geometry between stock Lava processes: prints what they send as JSON.

Run by test_lava_synapse.py in a process of its own. Importing it imports no Lava: the test takes
the maps, the spikes and the parameters from here.
"""

from __future__ import annotations

import json

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Sparse,
    frozen,
)

SHAPE = (4, 6, 5)
LARGEST = (1, 1, 15, 2**16, 2**23 - 1, 0)
"""Magnitude of the payloads of each step: binary first, then of both signs, silence last."""
STEPS = len(LARGEST) + 1  # what the last but one leaves
THRESHOLD, BIAS, WINDOW = 2**22, -3, 9
CURRENTS = (
    [2**40, -(2**40), 2**23 - 2, 2**31, 5, 2**41],
    [-5, 5, 1, 1, -(2**33), -(2**41)],
    [-(2**40), 2**40, 0, -(2**31), 1, 0],
    [3, -3, 0, 2**62, -(2**62), 0],
)
"""What arrives in each step, far beyond 24 and 32 bits, (step, neuron)."""


def spikes() -> Array:
    """Graded payloads of every step, (*SHAPE, steps)."""
    rng = np.random.default_rng(0)
    steps = [rng.integers(-n, n + 1, SHAPE) for n in LARGEST]
    steps[0] = abs(steps[0])
    return np.stack(steps, axis=-1)


def _weights(*shape: int) -> Array:
    return frozen(np.random.default_rng(shape).integers(-128, 128, shape), np.int8)


def synapses() -> dict[str, tuple[LinearMap, int]]:
    """Name -> map, exponent."""
    up = _weights(4, 2, 3, 2)
    matrix = np.array(_weights(7, 120)) * (np.random.default_rng(1).random((7, 120)) < 0.2)
    return {
        "same": (Conv(_weights(3, 4, 3, 3), SHAPE, (3, 6, 5), (1, 1), (1, 1)), 0),
        "strided": (Conv(_weights(2, 4, 3, 2), SHAPE, (2, 3, 3), (2, 2), (1, 1)), 3),
        "dilated": (Conv(_weights(2, 4, 2, 3), SHAPE, (2, 4, 5), (1, 1), (0, 2), (2, 2)), 0),
        "grouped": (Conv(_weights(6, 2, 1, 3), SHAPE, (6, 6, 5), padding=(0, 1), groups=2), 1),
        "depthwise": (Conv(_weights(4, 1, 2, 2), SHAPE, (4, 3, 2), (2, 2), groups=4), 0),
        "cropped": (Conv(_weights(2, 4, 1, 1), SHAPE, (2, 4, 5), padding=(-1, 2)), 2),
        "up": (ConvTransposed(_weights(4, 3, 2, 2), SHAPE, (3, 12, 10), (2, 2)), 0),
        "up padded": (ConvTransposed(up, SHAPE, (2, 11, 13), (2, 3), (1, 1)), 3),
        "up dilated": (ConvTransposed(up, SHAPE, (2, 14, 8), (2, 1), (0, -1), (1, 2)), 0),
        "up grouped": (ConvTransposed(up, SHAPE, (4, 6, 5), (1, 1), (1, 0), groups=2), 1),
        "up depthwise": (
            ConvTransposed(_weights(4, 1, 4, 4), SHAPE, (4, 12, 10), (2, 2), (1, 1), groups=4),
            0,
        ),
        "dense": (Dense(_weights(5, 120), SHAPE, (5,)), 2),
        "part": (DensePart(_weights(4, 50), SHAPE, (4,), 30), 3),
        "sparse": (Sparse.from_matrix(sp.csr_matrix(matrix), SHAPE, (7,)), 1),
        "diagonal": (Diagonal(_weights(4, 1, 1), SHAPE, SHAPE), 3),
    }


def sent() -> dict[str, list[list[int]]]:
    """What every synapse sends, one list per step."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import PyReceiveModelFloat
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Stimulus

    from lapilli.runtime.lava import Synapse

    source, sinks = Stimulus(data=spikes()), {}
    for name, (linear_map, exponent) in synapses().items():
        synapse = Synapse(map=linear_map, exponent=exponent, name=name)
        sinks[name] = Sink(shape=synapse.a_out.shape, buffer=STEPS)
        source.s_out.connect(synapse.s_in)
        synapse.a_out.connect(sinks[name].a_in)
    # The fixed-point sink keeps 32 bits; float64 keeps these integers exactly.
    models = {Sink: PyReceiveModelFloat}
    source.run(
        RunSteps(STEPS), Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=models)
    )
    found = {
        name: np.moveaxis(sink.data.get(), -1, 0).reshape(STEPS, -1).astype(np.int64).tolist()
        for name, sink in sinks.items()
    }
    source.stop()
    return found


def saturating() -> dict[str, list[list[int]]]:
    """Spikes of every step, and v at the end, of neurons under currents of up to 2**62."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Stimulus

    from lapilli.runtime.lava import SoftResetIF, Synapse

    # One spike per step chooses the row of currents; two halves join at a_in, where they add up.
    columns = np.array(CURRENTS, np.int64).T
    choice = Stimulus(data=np.eye(len(CURRENTS), dtype=int))
    size = len(columns)
    neurons = SoftResetIF(shape=(size,), threshold=THRESHOLD, bias=BIAS, window=WINDOW, offset=1)
    half = columns // 2
    for part in (half, columns - half):
        synapse = Synapse(map=Dense(frozen(part), (len(CURRENTS),), (size,)))
        choice.s_out.connect(synapse.s_in)
        synapse.a_out.connect(neurons.a_in)
    sink = Sink(shape=(size,), buffer=len(CURRENTS) + 1)
    neurons.s_out.connect(sink.a_in)
    neurons.run(RunSteps(len(CURRENTS) + 1), Loihi2SimCfg(select_tag="fixed_pt"))
    fired = sink.data.get().astype(np.int64).T[1:].tolist()
    result = {"spikes": fired, "v": [neurons.v.get().astype(np.int64).tolist()]}
    neurons.stop()
    return result


if __name__ == "__main__":
    print(json.dumps({"sent": sent(), "saturating": saturating()}))
