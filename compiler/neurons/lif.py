"""Lava's leaky integrate and fire, bit by bit: what networks trained with SLAYER are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import (
    STATE_BITS,
    Flaw,
    Interval,
    NeuronModel,
    State,
    integers,
)
from lapilli.compiler.numerics import (
    Int64Array,
    saturate,
    shift_left,
    shift_towards_zero,
    signed_range,
)

DECAY_BITS = 12
UNITY = 2**DECAY_BITS
"""A decay of UNITY forgets everything in one step, a decay of 0 nothing."""
UNIT_EXPONENT = 6
"""u and v hold drives, biases and thresholds times 2**UNIT_EXPONENT."""
CURRENT_TOP = 2 ** (STATE_BITS - 1)
"""Lava keeps u = +CURRENT_TOP, one more than 24 bits hold; its opposite wraps to it."""
MAX_DRIVE = 2 ** (STATE_BITS - UNIT_EXPONENT)
"""Drives up to this magnitude wrap u at most once a step, which is all that Lava undoes."""
MAX_BIAS = 2**15
FIXPOINT_STEPS = 4096
"""Steps for which the reach is followed; beyond, v may be anywhere."""


@final
@dataclass(frozen=True, eq=False)
class LIF(NeuronModel):
    """Current u and membrane v, both 0 when a window starts; exactly `lava.proc.lif.LIF`, fixed_pt.

    u = wrap(decay(u, current_decay) + drive * 64), with decay(x, d) = x * (4096 - d) / 4096 towards
    zero; v = clip(decay(v, voltage_decay) + u + bias * 64, +-(2**23 - 1));
    s = v > threshold * 64; v = 0 where it fired, u stays.
    wrap: modulo 2**24 once, where u = +2**23 stays and u = -2**23 becomes +2**23, as in Lava.
    In Lava's names: du = current_decay - 1, dv = voltage_decay, bias_mant = bias, bias_exp = 6,
    vth = threshold. bias has 16 bits; decays are 0 .. 4096.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "u")

    threshold: Array
    bias: Array
    current_decay: int
    voltage_decay: int

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        u, v = state["u"], state["v"]
        if tau == 0:
            u, v = np.zeros_like(u), np.zeros_like(v)
        u = self.current(u, drive)
        v = self.membrane(v, u)
        spikes = (v > shift_left(integers(self.threshold), UNIT_EXPONENT)).astype(np.int64)
        return {"v": v * (1 - spikes), "u": u}, spikes

    def current(self, u: Array, drive: Array) -> Int64Array:
        """u after a step with this drive."""
        return _wrapped(_decayed(u, self.current_decay) + shift_left(drive, UNIT_EXPONENT))

    def membrane(self, v: Array, u: Array) -> Int64Array:
        """v after a step, before it is compared with the threshold."""
        charged = _decayed(v, self.voltage_decay) + u + shift_left(self.bias, UNIT_EXPONENT)
        return saturate(charged, STATE_BITS)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        # Both updates are monotone in u and v as long as u does not wrap.
        drive = Interval(integers(drive.low), integers(drive.high))
        top = integers(signed_range(STATE_BITS)[1])
        excess = np.maximum(np.abs(drive.low).max(), np.abs(drive.high).max()) - MAX_DRIVE
        everywhere = Interval(-top - max(excess, 0), top + max(excess, 0))
        if excess > 0:
            return everywhere  # beyond what the state holds: `verify` refuses it
        fires = shift_left(integers(self.threshold), UNIT_EXPONENT)
        u_low = u_high = v_low = v_high = low = high = integers(0)
        for _ in range(min(steps, FIXPOINT_STEPS)):
            before = (u_low, u_high, v_low, v_high)
            u_low = _decayed(u_low, self.current_decay) + shift_left(drive.low, UNIT_EXPONENT)
            u_high = _decayed(u_high, self.current_decay) + shift_left(drive.high, UNIT_EXPONENT)
            if u_low.min() <= -CURRENT_TOP or u_high.max() > CURRENT_TOP:
                return everywhere
            v_low, v_high = self.membrane(v_low, u_low), self.membrane(v_high, u_high)
            low, high = np.minimum(low, v_low), np.maximum(high, v_high)
            v_low = np.where(v_high > fires, np.minimum(v_low, 0), v_low)
            v_high = np.maximum(np.minimum(v_high, fires), v_low)
            after = (u_low, u_high, v_low, v_high)
            if all(np.array_equal(*pair) for pair in zip(before, after, strict=True)):
                return Interval(low, high)
        return Interval(low, high) if steps <= FIXPOINT_STEPS else everywhere

    def flaw(self, steps: int) -> Flaw | None:
        top = signed_range(STATE_BITS)[1]
        decays = (self.current_decay, self.voltage_decay)
        if not 0 <= min(decays) <= max(decays) <= UNITY:
            return Flaw("decays are fractions of 4096", decays, f"0..{UNITY}")
        if not 0 <= self.threshold.min() <= self.threshold.max() <= top:
            found = f"{self.threshold.min()}..{self.threshold.max()}"
            return Flaw("thresholds are not negative and fit the state", found, f"0..{top}")
        if not -MAX_BIAS <= self.bias.min() <= self.bias.max() < MAX_BIAS:
            found = f"{self.bias.min()}..{self.bias.max()}"
            return Flaw("biases have 16 bits", found, f"{-MAX_BIAS}..{MAX_BIAS - 1}")
        return None

    def payload(self) -> tuple[int, int]:
        return 0, 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, steps


def _decayed(x: Array, decay: int) -> Int64Array:
    return shift_towards_zero(integers(x) * (UNITY - decay), DECAY_BITS)


def _wrapped(u: Int64Array) -> Int64Array:
    over, under = u > CURRENT_TOP, u <= -CURRENT_TOP
    turns: Int64Array = under.astype(np.int64) - over.astype(np.int64)
    return integers(u + 2 * CURRENT_TOP * turns)
