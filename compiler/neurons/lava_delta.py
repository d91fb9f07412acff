"""Lava's delta encoder, bit by bit: the input layer of a sigma-delta network of SLAYER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import STATE_BITS, Flaw, Interval, NeuronModel, State, integers
from lapilli.compiler.numerics import Int64Array, shift_left, signed_range

MAX_EXPONENT = 16


class _Delta(Protocol):
    @property
    def threshold(self) -> Array: ...
    @property
    def spike_exp(self) -> int: ...
    @property
    def state_exp(self) -> int: ...


@final
@dataclass(frozen=True, eq=False)
class LavaDelta(NeuronModel):
    """Sends what its drive changed by, once that is enough: `lava.proc.sdn.Delta`, fixed_pt.

    act = clip(drive, low, high) * 2**(spike_exp + state_exp); change = act - v + residue; where
    |change| >= threshold * 2**(spike_exp + state_exp) it sends floor(change / 2**state_exp) and the
    residue is 0, elsewhere the residue is the change; v = act. All are 0 when a window starts.
    Lava does not clip: low .. high is what the input may be, and v has 24 bits.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "residue")

    threshold: Array
    low: int
    high: int
    spike_exp: int
    state_exp: int

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        act, residue = state["v"], state["residue"]
        if tau == 0:
            act, residue = np.zeros_like(act), np.zeros_like(residue)
        before = act
        act = shift_left(np.clip(drive, self.low, self.high), self.spike_exp + self.state_exp)
        sent, residue = delta(act - before + residue, self.threshold, self)
        return {"v": act, "residue": residue}, sent

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        exponent = self.spike_exp + self.state_exp
        clipped = (np.clip(bound, self.low, self.high) for bound in drive)
        low, high = (shift_left(integers(bound), exponent) for bound in clipped)
        return Interval(np.minimum(low, 0), np.maximum(high, 0))

    def flaw(self, steps: int) -> Flaw | None:
        largest = max(abs(self.low), abs(self.high))
        return delta_flaw(self, largest * 2 ** (self.spike_exp + self.state_exp))

    def payload(self) -> tuple[int, int]:
        return delta_payload(self, *self._acts())

    def window_total(self, steps: int) -> tuple[int, int]:
        return delta_total(self, *self._acts(), steps)

    def _acts(self) -> tuple[int, int]:
        unit = 2 ** (self.spike_exp + self.state_exp)
        return min(self.low, 0) * unit, max(self.high, 0) * unit


def delta(change: Int64Array, threshold: Array, exponents: _Delta) -> tuple[Int64Array, Int64Array]:
    """What is sent of a change of activity, and what is left of it for later."""
    unit = exponents.spike_exp + exponents.state_exp
    fires = np.abs(change) >= shift_left(integers(threshold), unit)
    # The bits below state_exp are neither sent nor kept, in Lava too.
    return shift_left(change * fires, -exponents.state_exp), change * ~fires


def delta_flaw(model: _Delta, largest: int) -> Flaw | None:
    """What is wrong with a delta encoder of activities up to `largest`; None if it is sound."""
    exponents = (model.spike_exp, model.state_exp)
    if not 0 <= min(exponents) <= max(exponents) <= MAX_EXPONENT:
        return Flaw("exponents are small", exponents, f"0..{MAX_EXPONENT}")
    top = signed_range(STATE_BITS)[1]
    highest = int(model.threshold.max()) * 2 ** sum(exponents)
    if model.threshold.min() < 0 or highest > top:
        found = f"{model.threshold.min()}..{model.threshold.max()}, times 2**{sum(exponents)}"
        return Flaw("thresholds are not negative and fit the state", found, f"0..{top}")
    if largest > top:
        return Flaw("activities fit the state", f"up to {largest}", f"{-top}..{top}")
    return None


def delta_payload(model: _Delta, low: int, high: int) -> tuple[int, int]:
    """Bounds of one spike where the activity lies in low .. high, 0 included."""
    span = high - low + _left_over(model)
    return -(span >> model.state_exp) - 1, span >> model.state_exp


def delta_total(model: _Delta, low: int, high: int, steps: int) -> tuple[int, int]:
    """Bounds of the spikes summed over any start of a window of `steps`."""
    # Changes add up to the activity but for the residue; each spike is floored.
    rest = _left_over(model)
    return ((low - rest) >> model.state_exp) - steps, (high + rest) >> model.state_exp


def _left_over(model: _Delta) -> int:
    unit: int = 2 ** (model.spike_exp + model.state_exp)
    return max(int(model.threshold.max()) * unit - 1, 0)
