"""Neurons and drives at the edges of 24 bits, of every model: what states, ports and sums hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lapilli.compiler.linear import Array, frozen
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
STEPS = 5


def edges(rng: np.random.Generator, low: int, high: int, size: int) -> Array:
    """Integers in low .. high, half of them at the ends, at zero and beside these."""
    special = [low, low + 1, -1, 0, 1, high - 1, high, *rng.integers(low, high + 1, 7)]
    return np.clip(rng.choice(special, size), low, high)


def drives(rng: np.random.Generator, size: int, windows: int) -> Array:
    """(windows, STEPS, size): at the ends of 24 bits, of what an s_out carries, and small."""
    limits = (9, TOP, 2**25, 2**31 - 1)
    rows = [edges(rng, -limits[i % 4], limits[i % 4], size) for i in range(windows * STEPS)]
    return np.array(rows).reshape(windows, STEPS, size)


def _integers(values: object) -> Array:
    return frozen(values, np.int64)


def _parameters(rng: np.random.Generator, size: int) -> list[Array]:
    """Threshold, bias, initial."""
    limits = ((1, TOP), (-TOP, TOP), (-TOP, TOP))
    return [_integers(edges(rng, low, high, size)) for low, high in limits]


def _ladder(rng: np.random.Generator, size: int) -> Ladder:
    rungs = [edges(rng, -TOP, TOP, size) for _ in range(5)]
    _, bias, initial = _parameters(rng, size)
    rises, foot = _integers([1] * 5), _integers(0)
    return Ladder(_integers(np.sort(rungs, axis=0)), rises, foot, bias, initial, 0, 5, "unary")


def _curve(rng: np.random.Generator, size: int) -> Ladder:
    rungs = _integers(np.sort([edges(rng, -TOP, TOP, size) for _ in range(9)], axis=0))
    rises = rng.integers(-1, 2, (9, size))
    foot, initial = (_integers(edges(rng, -3, 3, size)) for _ in range(2))
    return Ladder(rungs, _integers(rises), foot, _integers(0), initial, -12, 12, "changes")


def _graded_max(rng: np.random.Generator, size: int) -> GradedMax:
    return GradedMax(_parameters(rng, size)[1], 23, 1, 5, 6, "graded")


def _graded_max_changes(rng: np.random.Generator, size: int) -> GradedMax:
    return GradedMax(_parameters(rng, size)[1], 2, 11, -9, 2**11 - 11, "changes")


def _product(rng: np.random.Generator, size: int) -> Product:
    threshold, bias, start = _parameters(rng, size)
    return Product(threshold, bias, start, 22, -TOP, 12, -TOP, 0, "graded")


def _product_changes(rng: np.random.Generator, size: int) -> Product:
    threshold, bias, start = _parameters(rng, size)
    return Product(threshold, bias, start, 3, TOP, 0, 1 - 2**22, 2**22 - 1, "changes")


def _product_unary(rng: np.random.Generator, size: int) -> Product:
    threshold, bias, start = _parameters(rng, size)
    return Product(threshold, bias, start, 9, 0, 3, 0, 5, "unary")


def _lif(rng: np.random.Generator, size: int) -> LIF:
    bias = _integers(edges(rng, -(2**15), 2**15 - 1, size))
    return LIF(_parameters(rng, size)[0], bias, 100, 3)


def _relay(rng: np.random.Generator, size: int) -> Relay:
    low, high = -edges(rng, 0, TOP, size), edges(rng, 0, TOP, size)
    return Relay(_integers(low), _integers(high), _integers(0), _integers(2**31 - 1))


def _lava_delta(rng: np.random.Generator, size: int) -> LavaDelta:
    return LavaDelta(_integers(edges(rng, 0, 2**17, size)), 1 - 2**20, 2**20 - 1, 1, 2)


def _lava_sigma_delta(rng: np.random.Generator, size: int) -> LavaSigmaDelta:
    limits = ((0, 2**16), (-9, 9), (-(2**22), 2**22), (0, 2**22), (-9, 9))
    parameters = [_integers(edges(rng, low, high, size)) for low, high in limits]
    return LavaSigmaDelta(*parameters, -(2**22), 2**22, 1, 3, "relu")


BUILDERS: dict[str, Callable[[np.random.Generator, int], NeuronModel]] = {
    "Source": lambda rng, size: Source(-7, 9, "first"),
    "Source held": lambda rng, size: Source(-7, 9, "held"),
    "Source changes": lambda rng, size: Source(-TOP, TOP, "changes"),
    "SoftResetIF": lambda rng, size: SoftResetIF(*_parameters(rng, size)),
    "HardResetIF": lambda rng, size: HardResetIF(*_parameters(rng, size)),
    "SignedIF": lambda rng, size: SignedIF(*_parameters(rng, size), 3),
    "SignedIF with a current": lambda rng, size: SignedIF(
        *_parameters(rng, size), 3, *_parameters(rng, size)[1:2]
    ),
    "MultiThreshold": lambda rng, size: MultiThreshold(*_parameters(rng, size), 15, 0),
    "MultiThreshold that leaks": lambda rng, size: MultiThreshold(*_parameters(rng, size), 9, 77),
    "Window graded": lambda rng, size: Window(*_parameters(rng, size), 15, "graded"),
    "Window unary": lambda rng, size: Window(*_parameters(rng, size), 5, "unary"),
    "Window unary-last": lambda rng, size: Window(*_parameters(rng, size), 5, "unary-last"),
    "Ladder": _ladder,
    "OrGate": lambda rng, size: OrGate(),
    "RateMax": lambda rng, size: RateMax(23),
    "RateGate": lambda rng, size: RateGate(23),
    "SigmaDelta": lambda rng, size: SigmaDelta(*_parameters(rng, size), 15),
    "Readout": lambda rng, size: Readout(*_parameters(rng, size)[1:]),
    "LIF": _lif,
    "LavaDelta": _lava_delta,
    "LavaSigmaDelta": _lava_sigma_delta,
    "Ladder up and down": _curve,
    "Window signed": lambda rng, size: Window(*_parameters(rng, size), TOP, "graded", -TOP),
    "SigmaDelta signed": lambda rng, size: SigmaDelta(
        *_parameters(rng, size), 2**22 - 1, 1 - 2**22
    ),
    "Window above zero": lambda rng, size: Window(*_parameters(rng, size), 9, "graded", 3),
    "GradedMax": _graded_max,
    "GradedMax changes": _graded_max_changes,
    "Product": _product,
    "Product changes": _product_changes,
    "Product unary": _product_unary,
    "Relay": _relay,
}
"""Name, of which the first word is the model -> the neurons; total over `MODELS`."""
