"""What one neuron of each model does in one step, in Python integers: the oracle of `step`.

Written from the docstrings and from DESIGN section 3, without numpy and without `NeuronModel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lapilli.compiler.netlist import Population
from lapilli.compiler.neurons import (
    LIF,
    GradedMax,
    HardResetIF,
    Ladder,
    LavaDelta,
    LavaSigmaDelta,
    MultiThreshold,
    NeuronModel,
    OrGate,
    Product,
    RateGate,
    RateMax,
    Readout,
    Relay,
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Source,
    Window,
)

TOP = 2**23 - 1
"""The largest membrane; the smallest is its negative."""


def saturated(v: int) -> int:
    """v in 24 bits."""
    return min(max(v, -TOP), TOP)


@dataclass
class Neuron:
    """One neuron: its model, its parameters as Python integers, and what it keeps ("v", ...)."""

    model: Any
    p: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def v(self) -> int:
        """The membrane."""
        return int(self.kept.get("v", 0))

    def step(self, drive: int, tau: int, steps: int) -> int:
        """Update by one step; the spike sent."""
        return STEPS[type(self.model)](self, drive, tau, steps)


def neurons(p: Population) -> list[Neuron]:
    """The neurons of a population, in C order."""
    parameters = {
        key: _per_neuron(value, p.shape, key in p.neuron.LEADING)
        for key, value in vars(p.neuron).items()
        if isinstance(value, np.ndarray)
    }
    return [
        Neuron(p.neuron, {key: values[i] for key, values in parameters.items()})
        for i in range(p.size)
    ]


def _per_neuron(values: Any, shape: tuple[int, ...], leading: bool) -> list[Any]:
    if not leading:
        return list(np.broadcast_to(values, shape).reshape(-1).tolist())
    rungs = [_per_neuron(rung, shape, False) for rung in values]
    return [list(ladder) for ladder in zip(*rungs, strict=True)]


def _source(n: Neuron, drive: int, tau: int, steps: int) -> int:
    silent = n.model.timing == "first" and tau > 0
    sent = 0 if silent else min(max(drive, n.model.low), n.model.high)
    if n.model.timing != "changes":
        return sent
    before = n.kept.get("before", 0) if tau else 0
    n.kept["before"] = sent
    return sent - before


def _soft_reset_if(n: Neuron, drive: int, tau: int, steps: int) -> int:
    v = saturated((n.p["initial"] if tau == 0 else n.v) + drive + n.p["bias"])
    spike = int(v >= n.p["threshold"])
    n.kept["v"] = v - spike * n.p["threshold"]
    return spike


def _hard_reset_if(n: Neuron, drive: int, tau: int, steps: int) -> int:
    v = saturated((n.p["initial"] if tau == 0 else n.v) + drive + n.p["bias"])
    spike = int(v >= n.p["threshold"])
    n.kept["v"] = 0 if spike else v
    return spike


def _readout(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated((n.p["initial"] if tau == 0 else n.v) + drive + n.p["bias"])
    return 0


def _levels_reached(n: Neuron, lowest: int = 0) -> int:
    count = min(max(lowest, n.v // n.p["threshold"] - 1), n.model.levels)  # a start for the loop
    while count < n.model.levels and n.v >= (count + 1) * n.p["threshold"]:
        count += 1
    return count


def _window(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated((n.p["initial"] + n.p["bias"] if tau == 0 else n.v) + drive)
    return _sent(n, _levels_reached(n, n.model.lowest), tau, steps)


def _sent(n: Neuron, activity: int, tau: int, steps: int) -> int:
    if n.model.sending == "changes":
        before = n.kept.get("activity", 0) if tau else 0
        n.kept["activity"] = activity
        return activity - before
    count = activity if tau == steps - 1 else 0
    if n.model.sending == "graded":
        return count
    if n.model.sending == "unary-last":  # the paper's test in the x-th step of T: n > T - x
        if tau == steps - 1:
            n.kept["window"] = [int(count > steps - x) for x in range(1, steps + 1)]
        return n.kept["window"].pop(0) if n.kept.get("window") else 0
    waiting = n.kept.get("waiting", 0) + count
    spike = int(waiting > 0)
    n.kept["waiting"] = waiting - spike
    return spike


def _sigma_delta(n: Neuron, drive: int, tau: int, steps: int) -> int:
    before = n.kept.get("activity", 0) if tau else 0
    n.kept["v"] = saturated((n.p["initial"] + n.p["bias"] if tau == 0 else n.v) + drive)
    n.kept["activity"] = _levels_reached(n, n.model.lowest)
    return int(n.kept["activity"]) - before


def _signed_if(n: Neuron, drive: int, tau: int, steps: int) -> int:
    fired = n.kept.get("fired", 0) if tau else 0
    v = saturated((n.p["initial"] + n.p["bias"] if tau == 0 else n.v) + drive + n.p["current"])
    spike = 0
    if v >= n.p["threshold"] and fired < n.model.levels:
        spike = 1
    elif v < 0 and fired > 0:
        spike = -1
    n.kept.update(v=v - spike * n.p["threshold"], fired=fired + spike)
    return spike


def _multi_threshold(n: Neuron, drive: int, tau: int, steps: int) -> int:
    start = n.p["initial"] if tau == 0 else n.v
    n.kept["v"] = saturated(_less(start, n.model.decay) + drive + n.p["bias"])
    count = _levels_reached(n)
    n.kept["v"] = n.v - count * n.p["threshold"]
    return count


def _ladder(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated((n.p["initial"] + n.p["bias"] if tau == 0 else n.v) + drive)
    rungs = zip(n.p["thresholds"], n.p["rises"], strict=True)
    activity = n.p["foot"] + sum(rise for rung, rise in rungs if n.v >= rung)
    return _sent(n, activity, tau, steps)


def _graded_max(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated((n.p["bias"] if tau == 0 else n.v) + drive)
    fields = [n.v // 2 ** (n.model.bits * k) % 2**n.model.bits for k in range(n.model.inputs)]
    return _sent(n, min(max(fields) + n.model.lowest, n.model.levels), tau, steps)


def _product(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated((n.p["bias"] if tau == 0 else n.v) + drive)
    high, low = divmod(n.v, 2**n.model.bits)
    u = (low + n.model.lowest_factor) * high * 2**n.model.shift
    quotient = (u + n.p["initial_product"]) // n.p["threshold"]
    return _sent(n, min(max(quotient, n.model.lowest), n.model.levels), tau, steps)


def _or_gate(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated(drive)
    return int(drive > 0)


def _relay(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated(drive)
    return n.v


def _rate_max(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated(drive)
    spikes = [n.v // 2**k % 2 for k in range(n.model.inputs)]
    earlier = [[]] if tau == 0 else n.kept["earlier"]
    n.kept["earlier"] = [*earlier, spikes]
    sums = [
        [sum(train) for train in zip(*part, strict=True)]
        for part in (earlier[1:], n.kept["earlier"][1:])
    ]
    return max(sums[1]) - max(sums[0], default=0)


def _rate_gate(n: Neuron, drive: int, tau: int, steps: int) -> int:
    n.kept["v"] = saturated(drive)
    spikes = [n.v // 2**k % 2 for k in range(n.model.inputs)]
    n.kept["earlier"] = [*([] if tau == 0 else n.kept["earlier"]), spikes]
    best = spike = -1
    for k in range(n.model.inputs):
        count = sum(step[k] for step in n.kept["earlier"])
        if count > best:
            best, spike = count, spikes[k]
    return spike


def _less(x: int, decay: int) -> int:
    kept = abs(x) * (4096 - decay) // 4096
    return kept if x >= 0 else -kept


def _lif(n: Neuron, drive: int, tau: int, steps: int) -> int:
    u = _less(n.kept.get("u", 0) if tau else 0, n.model.current_decay) + drive * 64
    if u > 2**23:
        u -= 2**24
    elif u <= -(2**23):
        u += 2**24
    v = saturated(_less(n.v if tau else 0, n.model.voltage_decay) + u + n.p["bias"] * 64)
    fires = v > n.p["threshold"] * 64
    n.kept.update(u=u, v=0 if fires else v)
    return int(fires)


def _lava_delta(n: Neuron, drive: int, tau: int, steps: int) -> int:
    if tau == 0:
        n.kept.update(v=0, residue=0)
    act = min(max(drive, n.model.low), n.model.high) * 2 ** (n.model.spike_exp + n.model.state_exp)
    return _changed(n, act, "v")


def _changed(n: Neuron, act: int, kept: str) -> int:
    change = act - n.kept[kept] + n.kept["residue"]
    fires = abs(change) >= n.p["threshold"] * 2 ** (n.model.spike_exp + n.model.state_exp)
    n.kept.update({kept: act, "residue": 0 if fires else change})
    return int(change // 2**n.model.state_exp) if fires else 0


def _lava_sigma_delta(n: Neuron, drive: int, tau: int, steps: int) -> int:
    if tau == 0:
        n.kept.update(v=n.p["initial"], act=n.p["activity"], residue=n.p["residue"])
    n.kept["v"] = min(max(n.v + drive, n.model.low), n.model.high)
    act = n.v + n.p["bias"] * 2 ** (n.model.spike_exp + n.model.state_exp)
    return _changed(n, act if n.model.activation == "unit" else max(act, 0), "act")


STEPS: dict[type[NeuronModel], Callable[[Neuron, int, int, int], int]] = {
    Source: _source,
    SoftResetIF: _soft_reset_if,
    HardResetIF: _hard_reset_if,
    Window: _window,
    SigmaDelta: _sigma_delta,
    SignedIF: _signed_if,
    MultiThreshold: _multi_threshold,
    Ladder: _ladder,
    OrGate: _or_gate,
    RateMax: _rate_max,
    RateGate: _rate_gate,
    GradedMax: _graded_max,
    Product: _product,
    Relay: _relay,
    Readout: _readout,
    LIF: _lif,
    LavaDelta: _lava_delta,
    LavaSigmaDelta: _lava_sigma_delta,
}
"""One per model, total over `neurons.MODELS`."""
