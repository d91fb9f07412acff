"""Chips that do not exist: small ones, so that small networks need several cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

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


def with_graded(profile: Profile) -> Profile:
    """The same chip, whose spikes carry integers of any width."""
    features = replace(profile.features, graded_spikes=quantity(True))
    return replace(profile, features=features, limits=replace(profile.limits, payload_bits=None))


TIGHT: dict[str, tuple[int, int]] = {
    "neurons_per_core": (20, 150),
    "neuron_groups_per_core": (1, 4),
    "synapse_words_per_core": (500, 3000),
    "pool_words_per_core": (500, 3000),
    "input_axons_per_core": (100, 600),
    "input_axon_words_per_core": (100, 600),
    "output_axons_per_core": (150, 900),
    "synapse_formats_per_core": (2, 6),
    "threshold_profiles_per_core": (1, 40),
    "compartment_profiles_per_core": (1, 4),
    "cores_per_chip": (1, 9),
}
"""Smallest and largest of what a random chip allows; on small networks these bind."""


def random_chip(rng: np.random.Generator, graded: bool) -> Profile:
    """Like Loihi 2 or Loihi 1, with a few limits that are tight; neurons may be programs.

    graded: does the network need graded spikes? If not, the chip like Loihi 1 has binary ones, and
    the host computes the drive of an analog input.
    """
    like = str(rng.choice(["loihi1", "loihi2"]))
    chosen = rng.choice(list(TIGHT), int(rng.integers(1, 5)), replace=False)
    limits: dict[str, int | None] = {name: int(rng.integers(*TIGHT[name])) for name in chosen}
    if like == "loihi1":
        limits["synapse_words_per_axon"] = int(rng.integers(24, 257))
    drawn = chip(like, payload_bits=None, weight_exponent_max=None, **limits)
    features = replace(
        drawn.features,
        graded_spikes=quantity(graded or like == "loihi2"),
        programmable_neurons=quantity(True),
    )
    return replace(drawn, features=features)
