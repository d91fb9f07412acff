"""Chips that do not exist: small ones, so that small networks need several cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lapilli.hardware_profiles import Profile, Quantity, load


def quantity(value: Any) -> Quantity[Any]:
    """A number that nobody measured."""
    return Quantity(value, "unit", "a test", "assumed")


def chip(like: str = "loihi2", **limits: int | None) -> Profile:
    """A chip like a real one, with other limits, that lets every neuron have its own threshold."""
    real = load(like)
    changed = {name: None if n is None else quantity(n) for name, n in limits.items()}
    features = replace(real.features, threshold_sharing=quantity("neuron"))
    return replace(real, name="small", features=features, limits=replace(real.limits, **changed))
