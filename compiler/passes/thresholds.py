"""Thresholds where a chip does not take any integer: powers of two, even ones, resets kept apart.

The profile says what a chip does: `features.threshold_division` and `features.soft_reset`.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons import (
    STATE_BITS,
    Interval,
    Ladder,
    MultiThreshold,
    NeuronModel,
    SigmaDelta,
    SoftResetIF,
    Window,
)
from lapilli.compiler.numerics import Int64Array, exponent_below, half_up, signed_range
from lapilli.compiler.spiking import Model
from lapilli.hardware_profiles import Profile

_DIVIDING: tuple[Model, ...] = ("window", "sigma_delta", "multi_threshold")
"""Models that count how many thresholds their membrane holds."""


def divisible(
    unit: Array, threshold: Array, model: Model, profile: Profile, *, always: bool = False
) -> Array:
    """The finest unit, not below `unit`, in which the threshold is what the chip divides by.

    unit, threshold: () or (C,), in the same real units. A power of two costs up to one bit.
    always: a power of two also for chips that divide by any integer.
    """
    if model not in _DIVIDING or not (always or shifts(profile)):
        return unit
    unit, threshold = np.broadcast_arrays(unit, threshold)
    ratios = (threshold / unit).reshape(-1).tolist()
    # A quotient of 8 may come out as 8 - 1e-15, for the unit was derived from the threshold.
    exponents = np.array([exponent_below(ratio * (1 + 1e-9)) for ratio in ratios])
    return np.asarray(threshold / 2.0 ** exponents.reshape(threshold.shape))


def integer_threshold(ratio: Array, model: Model, profile: Profile) -> Int64Array:
    """The threshold in units of the state: the nearest integer, or even one, that is positive."""
    if model == "soft_reset_if" and _kept_apart(profile):
        return 2 * np.maximum(half_up(ratio / 2), 1)
    return np.maximum(half_up(ratio), 1)


def state_limits(model: Model, profile: Profile) -> tuple[int, int]:
    """The range of what `occupied` says."""
    bits = min(int(profile.limits.state_bits.value), STATE_BITS)
    exponent = profile.limits.threshold_exponent
    if model == "soft_reset_if" and _kept_apart(profile) and exponent is not None:
        bits -= int(exponent.value)
    return signed_range(bits)


def occupied(
    neuron: NeuronModel, step: Interval, total: Interval, steps: int, profile: Profile
) -> Interval:
    """What the widest variable of the chip's neuron has to hold; see `NeuronModel.reach`."""
    reach = neuron.reach(step, total, steps)
    if isinstance(neuron, Ladder):  # rungs out of reach lie just above it
        return Interval(reach.low, reach.high + 1)
    if isinstance(neuron, (Window, SigmaDelta, MultiThreshold)) and shifts(profile):
        # A shift alone has no cap: the levels are subtracted before it, and added after.
        return Interval(reach.low - (neuron.levels + 1) * neuron.threshold, reach.high)
    if not isinstance(neuron, SoftResetIF) or not _kept_apart(profile):
        return reach
    sums = neuron.accumulated(total, steps)
    # Half the threshold is the neuron's own; one step's current passes through, too.
    half = neuron.threshold // 2
    return Interval(np.minimum(sums.low - half, step.low), np.maximum(sums.high - half, step.high))


def shifts(profile: Profile) -> bool:
    """Does the chip divide by powers of two only?"""
    return profile.features.threshold_division.value == "power-of-two"


def _kept_apart(profile: Profile) -> bool:
    return profile.features.soft_reset.value == "kept apart"
