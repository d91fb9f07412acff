"""Stock Lava neurons and netx's weight functions, run alone: prints one JSON object.

    python lava_stock_neurons.py neurons | weights

Run by test_netx_import_lava.py in a process of its own; importing it imports no Lava.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from lapilli.compiler.linear import frozen
from lapilli.compiler.neurons import LIF, LavaDelta, LavaSigmaDelta, NeuronModel

STEPS, SIZE = 60, 40
TOP = 2**23
Case = tuple[NeuronModel, np.ndarray]


def number(value: Any) -> np.ndarray:
    """A parameter."""
    return frozen(value, np.int64)


def _lif(current: int, voltage: int, reach: int, threshold: int = 300) -> Case:
    rng = np.random.default_rng(reach + current)
    drive = rng.integers(-reach, reach + 1, (STEPS, SIZE))
    drive[STEPS // 2 :, ::2] = rng.choice([-reach, reach], (STEPS - STEPS // 2, SIZE // 2))
    bias = rng.integers(-300, 300, SIZE)
    bias[:2] = -(2**15), 2**15 - 1
    return LIF(number(threshold), number(bias), current, voltage), drive


def _edge() -> Case:
    """u lands on +2**23, on -2**23 (which wraps to +2**23 and fires), and one unit beside each."""
    unit = TOP // 64
    drive = np.zeros((6, 6), np.int64)
    drive[0] = unit, -unit, unit + 1, -unit - 1, unit - 1, 1 - unit
    drive[3] = drive[0]
    drive[4] = -2 * drive[0]
    return LIF(number(2**17 - 1), number(0), 4096, 0), drive


def _delta(threshold: int, reach: int = 2047) -> Case:
    rng = np.random.default_rng(threshold)
    drive = rng.integers(-9, 10, (STEPS, SIZE)).cumsum(0).clip(-reach, reach)
    drive[-9:] = rng.choice([-reach, reach], (9, SIZE))
    return LavaDelta(number(threshold), -reach, reach, 6, 6), drive


def _sigma_delta(threshold: int, reach: int = 10**6) -> Case:
    rng = np.random.default_rng(threshold)
    drive = rng.integers(-reach, reach + 1, (STEPS, SIZE)) // 20
    bias = rng.integers(-300, 300, SIZE)
    zero = number(0)
    limits = (1 - TOP, TOP - 1)
    model = LavaSigmaDelta(
        *(number(threshold), number(bias), zero, zero, zero, *limits, 6, 6, "relu")
    )
    return model, drive


CASES: dict[str, Callable[[], Case]] = {
    "LIF": lambda: _lif(410, 410, 90),
    "LIF that forgets nothing": lambda: _lif(0, 0, 2**14),
    "LIF that forgets all": lambda: _lif(4096, 4096, 2**17),
    "LIF at its limits": lambda: _lif(7, 1, 2**18, 2**17 - 1),
    "LIF without threshold": lambda: _lif(1024, 1, 40, 0),
    "LIF at the edge of its current": _edge,
    "Delta": lambda: _delta(7),
    "Delta that sends all": lambda: _delta(0),
    "SigmaDelta": lambda: _sigma_delta(5),
    "SigmaDelta that sends all": lambda: _sigma_delta(0),
}


def _process(model: NeuronModel, shape: tuple[int, ...]) -> Any:
    from lava.proc.lif import process as lif
    from lava.proc.sdn.process import Delta, SigmaDelta

    threshold = int(model.threshold)  # type: ignore[attr-defined]
    if isinstance(model, LIF):
        bias = np.broadcast_to(model.bias, shape).copy()
        return lif.LIF(
            shape=shape,
            du=model.current_decay - 1,
            dv=model.voltage_decay,
            vth=threshold,
            bias_mant=bias,
            bias_exp=6,
        )
    more = {"shape": shape, "vth": threshold, "spike_exp": 6, "state_exp": 6}
    if isinstance(model, LavaDelta):
        return Delta(**more)
    assert isinstance(model, LavaSigmaDelta)
    return SigmaDelta(bias=np.broadcast_to(model.bias, shape).copy(), **more)


def neurons() -> dict[str, dict[str, list[Any]]]:
    """Spikes of every step and the last membranes, of every case."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Stimulus

    found = {}
    for name, build in CASES.items():
        model, drive = build()
        process = _process(model, drive.shape[1:])
        source = Stimulus(data=drive.T.astype(np.int32))
        sink = Sink(shape=drive.shape[1:], buffer=len(drive))
        source.s_out.connect(process.a_in)
        process.s_out.connect(sink.a_in)
        process.run(RunSteps(len(drive)), Loihi2SimCfg(select_tag="fixed_pt"))
        kept = {LIF: "v", LavaDelta: "act", LavaSigmaDelta: "sigma"}[type(model)]
        found[name] = {
            "spikes": sink.data.get().T.astype(np.int64).tolist(),
            "v": getattr(process, kept).get().astype(np.int64).tolist(),
        }
        process.stop()
    return found


def weights() -> list[dict[str, Any]]:
    """Matrices, and what optimize_weight_bits and Lava's Dense make of them."""
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    rng, found = np.random.default_rng(0), []
    ranges = [(-1, 2), (-1, 1), (-1, 0), (0, 1), (0, 2), (-9, 1)]
    while len(found) < 4000:
        top = int(rng.choice([1, 2, 4, 40, 127, 128, 254, 255, 256, 260, 400, 5000]))
        low, high = ranges[rng.integers(len(ranges))]
        weight = rng.integers(low * top, high * top + 1, (2, int(rng.integers(1, 5))))
        weight *= 2 ** int(rng.choice([0, 0, 0, 1, 3]))
        if not weight.any():
            continue
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(divide="ignore"):
            scaled, bits, exponent, _ = optimize_weight_bits(weight.copy())
        mode = determine_sign_mode(scaled)
        stored = truncate_weights(clip_weights(scaled, mode, num_bits=8), mode, bits)
        spikes = rng.integers(0, 2, (weight.shape[1], 5))
        total = stored @ spikes
        drive = np.left_shift(total, exponent) if exponent > 0 else np.right_shift(total, -exponent)
        found.append(
            {
                **{"weight": weight.tolist(), "scaled": scaled.tolist(), "bits": bits},
                **{"exponent": exponent, "stored": stored.tolist()},
                **{"spikes": spikes.tolist(), "drive": drive.tolist()},
            }
        )
    return found


if __name__ == "__main__":
    print(json.dumps({"neurons": neurons, "weights": weights}[sys.argv[1]]()))
