"""One number with what is needed to trust it: its unit, its source, and how far it may be off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, Literal, TypeVar, final

Confidence = Literal["measured", "published", "quoted", "inferred", "recalled", "assumed"]
_V = TypeVar("_V")


@final
@dataclass(frozen=True)
class Trust:
    """What a confidence means, and the factor within which the true value is taken to lie."""

    meaning: str
    factor: float
    reason: str


CONFIDENCES: Mapping[Confidence, Trust] = MappingProxyType(
    {
        "measured": Trust(
            "measured on silicon, read in the primary artefact",
            1.25,
            "two measured static powers of one Loihi 2 chip, 0.232 and 0.282 W, are 1.22 apart",
        ),
        "published": Trust(
            "published, read in a primary or near-primary text",
            1.5,
            "two published energies of a Loihi 1 synaptic event, 23.6 and 35.5 pJ, are 1.50 apart",
        ),
        "quoted": Trust(
            "stated by someone else, the original not read",
            2.0,
            "our judgement: between a published and an inferred number",
        ),
        "inferred": Trust(
            "derived by us, the derivation is in the source",
            3.0,
            "a Loihi 2 synaptic event: 9.5 pJ by itself, about 30 pJ if it alone carried the power",
        ),
        "recalled": Trust(
            "recalled from a text that we could not read; check before citing",
            3.0,
            "our judgement: no better than an inferred number",
        ),
        "assumed": Trust(
            "chosen by us, nothing stands behind it",
            5.0,
            "our judgement: the order of magnitude only",
        ),
    }
)


@final
@dataclass(frozen=True)
class Quantity(Generic[_V]):
    """One value with what is needed to trust it: unit, source, confidence."""

    value: _V
    unit: str
    source: str
    confidence: Confidence


Real = Quantity[float]
Count = Quantity[int]
