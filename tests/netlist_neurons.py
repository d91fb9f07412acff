"""Neurons with random parameters that suit what drives them: some fire, few always, few never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lapilli.compiler.linear import Array, Shape, frozen
from lapilli.compiler.neurons import (
    LIF,
    AnySending,
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
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Timing,
    Window,
)

Coding = Literal[
    "graded",
    "unary",
    "rate",
    "hard",
    "signed",
    "multi",
    "ladder",
    "or",
    "max",
    "gate",
    "sigma-delta",
    "lif",
    "lava-delta",
    "lava-sigma-delta",
    "train",
    "signed window",
    "signed sigma-delta",
    "curve",
    "curve, unary",
    "curve, changes",
    "graded max",
    "graded max, changes",
    "product",
    "product, unary",
    "product, changes",
    "sorted or",
    "unary-last",
    "sorted or, last",
    "relays",
    "relays, unary",
]
TIMINGS: dict[str, Timing] = {
    **dict.fromkeys(("rate", "hard", "signed", "multi", "lif"), "held"),
    **dict.fromkeys(("or", "max", "gate", "lava-delta", "lava-sigma-delta", "train"), "train"),
    "sigma-delta": "changes",
    "signed sigma-delta": "changes",
    **dict.fromkeys(("curve, changes", "graded max, changes", "product, changes"), "changes"),
}
"""How the input of a coding comes; "first" for those that are not here."""


@dataclass(frozen=True)
class Drive:
    """What reaches a population at most, in a step and in a window, and the levels to count in."""

    shape: Shape
    step: int
    total: int
    levels: int


def random_neuron(rng: np.random.Generator, coding: Coding, drive: Drive) -> NeuronModel:
    """A neuron of the coding, with parameters shared, per channel or per neuron."""
    return _MAKERS[coding](rng, drive)


def _size(rng: np.random.Generator, shape: Shape) -> Shape:
    sizes: list[Shape] = [(), (shape[0],) + (1,) * (len(shape) - 1), shape]
    return sizes[rng.integers(3)]


def _integers(*values: Any) -> list[Array]:
    return [frozen(value, np.int64) for value in values]


def _parameters(rng: np.random.Generator, drive: Drive, unit: int) -> list[Array]:
    """Threshold, bias, initial; a fifth of the proven bound is an ordinary drive."""
    size = _size(rng, drive.shape)
    threshold = rng.integers(max(unit // 8, 1), max(unit // 4, 1) + 2, size)
    bias = rng.integers(-threshold // 4, threshold // 4 + 1)
    return _integers(threshold, bias, threshold // 2)


def _stepwise(rng: np.random.Generator, drive: Drive) -> list[Array]:
    return _parameters(rng, drive, drive.step)


def _windowed(rng: np.random.Generator, drive: Drive) -> list[Array]:
    return _parameters(rng, drive, drive.total // drive.levels)


def _signed(rng: np.random.Generator, drive: Drive) -> NeuronModel:
    threshold, bias, initial = _stepwise(rng, drive)
    # With a current that flows in every step in about half of them.
    current = frozen(bias // 4 if int(bias.sum()) % 2 else np.zeros_like(bias))
    return SignedIF(threshold, bias, initial, drive.levels, current)


def _multi(rng: np.random.Generator, drive: Drive) -> NeuronModel:
    threshold, bias, initial = _parameters(rng, drive, drive.step // 2)
    return MultiThreshold(threshold, bias, initial, drive.levels, int(rng.choice([0, 300])))


def _ladder(rng: np.random.Generator, drive: Drive) -> NeuronModel:
    unit, size = max(drive.total // 8, 4), (drive.levels, *_size(rng, drive.shape))
    thresholds = np.sort(rng.integers(-unit // 4, unit, size), axis=0)
    bias = rng.integers(-9, 10, _size(rng, drive.shape))
    sending: Literal["graded", "unary"] = "unary" if rng.random() < 0.5 else "graded"
    parameters = _integers(thresholds, np.ones(drive.levels), 0, bias, 5)
    return Ladder(*parameters, 0, drive.levels, sending)


def _lif(rng: np.random.Generator, drive: Drive) -> NeuronModel:
    threshold, bias, _ = _parameters(rng, drive, drive.step)
    bias = np.clip(bias, -(2**15), 2**15 - 1)
    return LIF(
        *_integers(threshold, bias), int(rng.choice([1500, 4096])), int(rng.choice([0, 300]))
    )


def _lava_delta(rng: np.random.Generator, drive: Drive) -> NeuronModel:
    threshold = rng.integers(0, 5, _size(rng, drive.shape))
    return LavaDelta(*_integers(threshold), -20, 32, 1, 3)


def _lava_sigma_delta(rng: np.random.Generator, drive: Drive) -> NeuronModel:
    top = 2**13  # of v; what is sent has 8 bits less
    sizes = [_size(rng, drive.shape) for _ in range(4)]
    threshold, bias = rng.integers(0, 4, sizes[0]), rng.integers(-2, 3, sizes[1])
    initial, activity = (rng.integers(0, top // 4 + 1, size) for size in sizes[2:])
    starts = _integers(threshold, bias, initial, activity, 3)
    return LavaSigmaDelta(*starts, -top, top, 1, 8, "relu" if rng.random() < 0.5 else "unit")


def _curve(rng: np.random.Generator, drive: Drive, sending: AnySending) -> NeuronModel:
    """Up and down; for ones, from 0 up and one step down at the end."""
    unit, rungs = max(drive.total // 8, 4), 2 * drive.levels
    thresholds = np.sort(rng.integers(-unit // 4, unit, (rungs, *_size(rng, drive.shape))), axis=0)
    rises = rng.integers(-1, 2, (rungs, *_size(rng, drive.shape)))
    foot = rng.integers(-1, 3, _size(rng, drive.shape))
    bias = rng.integers(-9, 10, _size(rng, drive.shape))
    lowest, levels = int(rises.cumsum(axis=0).min()), int(rises.cumsum(axis=0).max())
    lowest, levels = min(lowest, 0) + int(foot.min()), max(levels, 0) + int(foot.max())
    if sending == "unary":
        foot, lowest, levels = foot * 0, 0, drive.levels
        rises = np.abs(rises) * (np.abs(rises).cumsum(axis=0) <= levels)
        rises[-1] = np.where(rises[:-1].any(axis=0), -1, 1)
    parameters = _integers(thresholds, rises, foot, bias, 5)
    return Ladder(*parameters, lowest, levels, sending)


def _graded_max(
    rng: np.random.Generator, drive: Drive, sending: Literal["graded", "changes"]
) -> NeuronModel:
    bits, lowest = int(rng.integers(3, 6)), int(rng.integers(-4, 3))
    bias = rng.integers(-99, 100, _size(rng, drive.shape))
    return GradedMax(*_integers(bias), 3, bits, lowest, lowest + 2**bits - 2, sending)


def _product(rng: np.random.Generator, drive: Drive, sending: AnySending) -> NeuronModel:
    bits, shift = int(rng.integers(2, 6)), int(rng.integers(0, 2))
    threshold, bias, initial = _windowed(rng, drive)
    threshold = threshold * 2**shift
    lowest = 0 if sending == "unary" else -2
    factor = int(rng.integers(-(2**bits) // 2, 1))
    parameters = _integers(threshold, bias, initial)
    return Product(*parameters, bits, factor, shift, lowest, drive.levels, sending)


def _train(rng: np.random.Generator, drive: Drive) -> NeuronModel:
    makers = [_MAKERS[coding] for coding in ("rate", "hard", "signed", "multi")]
    return makers[rng.integers(4)](rng, drive)


_MAKERS: dict[str, Callable[[np.random.Generator, Drive], NeuronModel]] = {
    "graded": lambda rng, drive: Window(*_windowed(rng, drive), drive.levels, "graded"),
    "unary": lambda rng, drive: Window(*_windowed(rng, drive), drive.levels, "unary"),
    "unary-last": lambda rng, drive: Window(*_windowed(rng, drive), drive.levels, "unary-last"),
    "rate": lambda rng, drive: SoftResetIF(*_stepwise(rng, drive)),
    "hard": lambda rng, drive: HardResetIF(*_stepwise(rng, drive)),
    "signed": _signed,
    "multi": _multi,
    "ladder": _ladder,
    "or": lambda rng, drive: OrGate(),
    "max": lambda rng, drive: RateMax(3),
    "gate": lambda rng, drive: RateGate(3),
    "sigma-delta": lambda rng, drive: SigmaDelta(*_windowed(rng, drive), drive.levels),
    "lif": _lif,
    "lava-delta": _lava_delta,
    "lava-sigma-delta": _lava_sigma_delta,
    "train": _train,
    "signed window": lambda rng, drive: Window(
        *_windowed(rng, drive), drive.levels, "graded", -drive.levels - 1
    ),
    "signed sigma-delta": lambda rng, drive: SigmaDelta(
        *_windowed(rng, drive), drive.levels, -drive.levels - 1
    ),
    "curve": lambda rng, drive: _curve(rng, drive, "graded"),
    "curve, unary": lambda rng, drive: _curve(rng, drive, "unary"),
    "curve, changes": lambda rng, drive: _curve(rng, drive, "changes"),
    "graded max": lambda rng, drive: _graded_max(rng, drive, "graded"),
    "graded max, changes": lambda rng, drive: _graded_max(rng, drive, "changes"),
    "product": lambda rng, drive: _product(rng, drive, "graded"),
    "product, unary": lambda rng, drive: _product(rng, drive, "unary"),
    "product, changes": lambda rng, drive: _product(rng, drive, "changes"),
    "relays": lambda rng, drive: Window(*_windowed(rng, drive), drive.levels, "graded"),
    "relays, unary": lambda rng, drive: Window(*_windowed(rng, drive), drive.levels, "unary"),
    "sorted or": lambda rng, drive: Window(*_windowed(rng, drive), drive.levels, "unary"),
    "sorted or, last": lambda rng, drive: Window(
        *_windowed(rng, drive), drive.levels, "unary-last"
    ),
}
