"""Exactness where sums, payloads and parameters are large, and where the input is never zero."""

from __future__ import annotations

import netlists
import numpy as np
import oracles
import pytest
import torch
from netlists import connection, integers, population, proven

from lapilli.compiler.execute import TorchMap
from lapilli.compiler.linear import Conv, Dense, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    HardResetIF,
    MultiThreshold,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
    Timing,
    Window,
)
from lapilli.runtime import reference
from lapilli.runtime.verification import reaches

ZERO = integers(0)


def line(source: Source, neuron: NeuronModel, steps: int, weight: int = 1) -> Netlist:
    """An input of one value, one neuron, one readout."""
    one = Dense(frozen([[weight]], np.int8), (1,), (1,))
    netlist = Netlist(
        (
            population("input", (1,), source),
            population("it", (1,), neuron),
            population("out", (1,), Readout(ZERO, ZERO)),
        ),
        (connection("input", "it", one), connection("it", "out", one)),
        steps,
    )
    return proven(netlist)


def check(netlist: Netlist, inputs: np.ndarray) -> None:  # type: ignore[type-arg]
    """The engine against loops over Python integers, events and proven reaches included."""
    netlist.verify()
    expected = oracles.simulate(netlist, inputs)
    trace = reference.run(netlist, inputs, record="states")
    for name, spikes in trace.spikes.items():
        assert spikes.tolist() == expected.spikes[name].tolist()
        assert trace.counts[name].tolist() == expected.spikes[name].sum(1).tolist()
    for name, states in trace.states.items():
        assert states.tolist() == expected.states[name].tolist()
    events = oracles.events(netlist, expected)
    for name, counted in trace.events.items():
        assert (counted.spikes, counted.synops, counted.input_macs) == (
            *(events[name].spikes, events[name].synops, events[name].input_macs),
        )
    cut, states = reaches(netlist, trace)
    assert {n: v.tolist() for n, v in cut.items()} == {n: v.tolist() for n, v in states.items()}


@pytest.mark.parametrize("timing", ["first", "held", "train", "changes"])
@pytest.mark.parametrize(("low", "high"), [(3, 9), (-9, -3), (0, 1), (5, 5)])
def test_inputs_that_are_never_zero(timing: Timing, low: int, high: int) -> None:
    """Zeros come all the same: at borders, and in steps in which nothing is sent."""
    rng = np.random.default_rng(1)
    kernel = frozen(rng.integers(-9, 10, (2, 1, 3, 3)), np.int8)
    padded = Conv(kernel, (1, 4, 4), (2, 4, 4), (1, 1), (1, 1))
    read = Dense(frozen(rng.integers(-9, 10, (3, 32)), np.int8), (2, 4, 4), (3,))
    for neuron in (HardResetIF(integers(7), ZERO, ZERO), SoftResetIF(integers(7), ZERO, ZERO)):
        netlist = proven(
            Netlist(
                (
                    population("input", (1, 4, 4), Source(low, high, timing)),
                    population("it", (2, 4, 4), neuron),
                    population("out", (3,), Readout(ZERO, ZERO)),
                ),
                (connection("input", "it", padded), connection("it", "out", read)),
                4,
            )
        )
        check(netlist, netlists.random_inputs(rng, netlist, 3))


def test_counts_beyond_the_integers_of_float32() -> None:
    many = MultiThreshold(integers(1), integers(2**21 + 1), ZERO, 2**22, 0)
    check(line(Source(0, 1, "held"), many, 9, weight=0), np.ones((1, 1), np.int64))
    wide = line(Source(0, 2**20 + 1, "held"), SoftResetIF(integers(2**22), ZERO, ZERO), 17, 0)
    check(wide, np.full((2, 1), 2**20 + 1))


def test_parameters_beyond_the_integers_of_float32() -> None:
    split = Window(integers(2), integers(2**25 + 1), integers(-(2**25) + 6), 9, "graded")
    check(line(Source(0, 3, "first"), split, 2), np.array([[0], [1], [2], [3]]))


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 2)])
def test_padded_kernels_of_one_tap(width: int, stride: tuple[int, int]) -> None:
    """Some of these end the process in torch 2.3 on a CPU, channels last."""
    rng = np.random.default_rng(0)
    size = (4 - 1) // stride[0] + 1, (width + 1) // stride[1] + 1
    conv = Conv(
        frozen(rng.integers(-9, 10, (1, 2, 1, 1)), np.float64), (2, 4, width), (1, *size),
        stride, (0, 1),
    )  # fmt: skip
    x = rng.integers(-9, 10, (20, 2, 4, width)).astype(np.float64)
    apply = TorchMap(conv, torch.float32, torch.device("cpu"))
    found = apply(torch.tensor(x, dtype=torch.float32)).numpy()
    assert found.tolist() == conv.apply(x).tolist()
