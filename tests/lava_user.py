"""A user of Lava who takes Lapilli's processes and nothing else: prints one JSON object.

Run by test_lava_processes.py in a process of its own; stock Lava processes stand at both ends.
Importing it imports no Lava: the test takes the network's numbers from here.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from lapilli.compiler.linear import Conv, Dense, Diagonal, frozen

WINDOW, STEPS, DELAY = 4, 14, 2
IN_SHAPE, OUT_SHAPE = (2, 4, 5), (3, 4, 5)


def stimulus() -> np.ndarray:
    """Graded spikes, (*IN_SHAPE, STEPS)."""
    return np.random.default_rng(0).integers(-4, 8, (*IN_SHAPE, STEPS))


def convolution() -> Conv:
    """Three channels, of the same size as the two that come in."""
    weight = np.random.default_rng(1).integers(-9, 10, (3, 2, 3, 3))
    return Conv(frozen(weight), IN_SHAPE, OUT_SHAPE, (1, 1), (1, 1))


def scale() -> Diagonal:
    """A shortcut around the convolution's neurons."""
    return Diagonal(frozen(3), OUT_SHAPE, OUT_SHAPE)


def matrix() -> Dense:
    """Into two outputs."""
    return Dense(frozen(np.random.default_rng(2).integers(-9, 10, (2, 60))), (60,), (2,))


THRESHOLD, BIAS, INITIAL = 40, 2, 20
LEVELS = 3


def run() -> dict[str, object]:
    """Stimulus -> convolution -> SoftResetIF -> (straight, and late) -> Window -> Readout."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Stimulus

    from lapilli.runtime.lava import Readout, SoftResetIF, Synapse, Window

    source = Stimulus(data=stimulus())
    into = Synapse(map=convolution(), exponent=1)
    first = SoftResetIF(
        shape=OUT_SHAPE,
        threshold=THRESHOLD,
        bias=BIAS,
        initial=INITIAL,
        window=WINDOW,
        offset=1,
        name="first",
    )
    straight, late = Synapse(map=scale()), Synapse(map=scale(), exponent=2, delay=DELAY)
    second = Window(
        shape=OUT_SHAPE, threshold=5, levels=LEVELS, sending="unary", window=WINDOW, offset=2
    )
    out_of = Synapse(map=matrix(), in_shape=OUT_SHAPE)
    readout = Readout(shape=(2,), bias=1, window=STEPS)
    spikes, counts = (Sink(shape=OUT_SHAPE, buffer=STEPS) for _ in range(2))
    for sender, receiver in (
        (source.s_out, into.s_in),
        (into.a_out, first.a_in),
        (first.s_out, spikes.a_in),
        (first.s_out, straight.s_in),
        (first.s_out, late.s_in),
        (straight.a_out, second.a_in),
        (late.a_out, second.a_in),
        (second.s_out, counts.a_in),
        (second.s_out, out_of.s_in),
        (out_of.a_out, readout.a_in),
    ):
        sender.connect(receiver)
    readout.run(RunSteps(STEPS), Loihi2SimCfg(select_tag="fixed_pt"))
    result = {
        "first": spikes.data.get().astype(np.int64).tolist(),
        "second": counts.data.get().astype(np.int64).tolist(),
        "first v": first.v.get().astype(np.int64).tolist(),
        "readout v": readout.v.get().astype(np.int64).tolist(),
        "name": first.name,
    }
    readout.stop()
    return result


def interfered() -> list[int]:
    """The membrane after 3 steps, after the user has set it, and after 2 more steps."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from lapilli.runtime.lava import SoftResetIF

    neuron, found = SoftResetIF(shape=(2,), threshold=100, bias=1, window=10), []
    for steps in (3, 2):
        neuron.run(RunSteps(steps), Loihi2SimCfg(select_tag="fixed_pt"))
        found.append(int(neuron.v.get()[1]))
        neuron.v.set(np.array([20, 50]))
        found.append(int(neuron.v.get()[1]))
    neuron.stop()
    return found


def refusals() -> list[str]:
    """What the processes say to arguments that cannot be."""
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from lapilli.runtime.lava import Readout, SoftResetIF, Source, Synapse, Window

    def integers(process: AbstractProcess) -> None:
        process.run(RunSteps(1), Loihi2SimCfg(select_tag="fixed_pt"))

    shape = (2,)
    wrong: list[Callable[[], object]] = [
        lambda: SoftResetIF(shape=shape, threshold=1, window=0),
        lambda: Readout(shape=shape, window=1, offset=-1),
        lambda: integers(SoftResetIF(shape=shape, threshold=1.5, window=1, name="real")),
        lambda: SoftResetIF(shape=shape, threshold=[1, 2, 3], window=1),
        lambda: SoftResetIF(shape=shape, threshold="high", window=1),
        lambda: Window(shape=shape, threshold=1, levels=5, sending="unary", window=4),
        lambda: Window(shape=shape, threshold=1, levels=4, sending="late", window=4),
        lambda: Source(inputs=[[1, 2]], low=0, high=2**31, timing="first", window=1),
        lambda: Source(inputs=[[1, 2]], low=0, high=1, timing="train", window=1),
        lambda: integers(Source(inputs=[0.5], low=0, high=1, timing="held", window=1, name="x")),
        lambda: Synapse(map=matrix(), delay=-1),
        lambda: integers(Synapse(map=Diagonal(frozen(0.5), shape, shape), name="half")),
        lambda: integers(Synapse(map=matrix(), exponent=-1, name="halved")),
    ]
    messages = []
    for attempt in wrong:
        try:
            attempt()
        except ValueError as error:
            messages.append(str(error))
        else:
            messages.append("accepted")
    return messages


if __name__ == "__main__":
    print(json.dumps({"refusals": refusals(), "interfered": interfered(), **run()}))
