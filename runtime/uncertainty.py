"""How far figures may be off that are made from uncertain constants.

A constant with factor f is drawn log-normal about its value, so that 19 of 20 draws lie between
value / f and value * f: constants are known up to a ratio, and what was read is likelier than the
ends of its band. Constants err independently. A figure is computed once for every draw; its band
holds 19 of 20 of the results, so that of a single constant is the constant's own.

Draws are stratified (one in each of DRAWS intervals of equal probability, in an order that belongs
to the constant's name): the same constants give the same bands, whatever else is in a profile.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from lapilli.hardware_profiles import CONFIDENCES, Profile, Quantity

DRAWS = 4100
"""With 20 times an odd number, two draws stand exactly at 2.5 and 97.5 percent."""
SEED = 8
WITHIN = 0.95
_LOW, _HIGH = (DRAWS // 20 - 1) // 2, DRAWS - 1 - (DRAWS // 20 - 1) // 2
_SIGMAS = float(ndtri((1 + WITHIN) / 2))
_LEAST_SHARE = 0.005
"""Smaller shares of a variance are not told: chance correlations of independent draws."""

Figure: TypeAlias = npt.NDArray[np.float64]
"""(1 + DRAWS,): first with every constant as it stands, then one value for every draw."""


@final
@dataclass(frozen=True)
class Band:
    """A figure with every constant as it stands, and the ends between which 19 of 20 draws lie."""

    low: float
    mid: float
    high: float


@final
@dataclass(frozen=True)
class Share:
    """The part that one constant has in the variance of a figure's logarithm, 0..1."""

    figure: str
    key: str
    confidence: str
    share: float


@final
@dataclass(frozen=True)
class Uncertainty:
    """How bands were made, and what makes them wide: shares, the largest first, per figure."""

    distribution: str
    draws: int
    seed: int
    within: float
    shares: tuple[Share, ...]

    def dominant(self, figure: str) -> Share | None:
        """The constant that makes the band of this figure wide; None of one that is zero."""
        return next((share for share in self.shares if share.figure == figure), None)


@final
class Constants:
    """The constants of one profile as figures; those left out, or not known, are zero."""

    def __init__(self, profile: Profile, without: frozenset[str] = frozenset()):
        self.profile = profile
        self._known = {k: q for k, q in profile.quantities() if k not in without}

    def __call__(self, key: str) -> Figure:
        """The draws of, for example, "energy.synop_pj"."""
        quantity = self._known.get(key)
        if quantity is None:
            return np.zeros(1 + DRAWS)
        return drawn(self._name(key), quantity)

    def knows(self, key: str) -> bool:
        """Is there such a constant, and is it to be counted?"""
        return key in self._known

    def used(self, prefixes: tuple[str, ...]) -> Mapping[str, Quantity[Any]]:
        """Those whose keys begin in one of these ways, under the names that draws belong to."""
        return {
            self._name(key): quantity
            for key, quantity in self._known.items()
            if key.startswith(prefixes)
        }

    def _name(self, key: str) -> str:
        """A system's constants are those of its chip, but for what it states itself."""
        system = self.profile.system
        ours = system is None or not self.profile.from_chip(key)
        return f"{self.profile.name if ours or system is None else system.chip}.{key}"


@lru_cache(maxsize=256)
def deviations(name: str) -> Figure:
    """Standard normal draws of the constant of that name, (1 + DRAWS,); the first is 0."""
    # The legacy generator: numpy promises that its stream stays as it is.
    order = np.random.RandomState([SEED, zlib.crc32(name.encode())]).permutation(DRAWS)
    result: Figure = np.concatenate([[0.0], ndtri((order + 0.5) / DRAWS)])
    result.flags.writeable = False
    return result


def drawn(name: str, quantity: Quantity[float]) -> Figure:
    """The value itself, then one value for every draw."""
    spread = math.log(CONFIDENCES[quantity.confidence].factor) / _SIGMAS
    return np.asarray(quantity.value * np.exp(spread * deviations(name)))


def band(figure: Figure) -> Band:
    """Its middle and the ends of its band; the middle is within, should a long tail leave it."""
    mid = float(figure[0])
    ends = np.partition(figure[1:], [_LOW, _HIGH])
    return Band(min(float(ends[_LOW]), mid), mid, max(float(ends[_HIGH]), mid))


def shares(
    figures: Mapping[str, Figure], constants: Mapping[str, Quantity[Any]]
) -> tuple[Share, ...]:
    """What of each figure's variance goes with which constant, in logarithms.

    Squared correlations, as parts of their sum: for a product of constants they are exact, for sums
    a good approximation, and near enough to tell which constant to measure first.
    """
    found = []
    for name, figure in figures.items():
        if figure[0] <= 0:
            continue
        result = np.log(figure[1:])
        result -= result.mean()
        squares = {key: float(deviations(key)[1:] @ result) ** 2 for key in constants}
        whole = sum(squares.values())
        parts = {key: square / whole for key, square in squares.items()} if whole else {}
        for key, part in sorted(parts.items(), key=lambda item: -item[1]):
            if part >= _LEAST_SHARE:
                found.append(Share(name, key, constants[key].confidence, part))
    return tuple(found)


def uncertainty(
    figures: Mapping[str, Figure], constants: Mapping[str, Quantity[Any]]
) -> Uncertainty:
    """How the bands of these figures came about."""
    return Uncertainty("log-normal", DRAWS, SEED, WITHIN, shares(figures, constants))
