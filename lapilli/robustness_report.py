"""What was found about networks under noise: accuracies, and who was right where another failed."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from lapilli.contestants import FAULTS, Fault
from lapilli.corruptions import CORRUPTIONS, Corruption

KINDS = (*CORRUPTIONS, *FAULTS)
"""Every kind of noise, of images first, then of hardware."""


@final
@dataclass(frozen=True)
class Cell:
    """One network under one kind at one strength: correct images, per seed."""

    model: str
    kind: str
    strength: float
    images: int
    correct: tuple[int, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of every seed, 0..1."""
        return tuple(right / self.images for right in self.correct)

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Over the seeds, of the sample (n - 1); 0 for one seed."""
        return statistics.stdev(self.accuracies) if len(self.correct) > 1 else 0.0


@final
@dataclass(frozen=True)
class Duel:
    """Two networks on the same images: how many only one got right, summed over the seeds."""

    kind: str
    strength: float
    first: str
    second: str
    only_first: int
    only_second: int


@final
@dataclass(frozen=True)
class Robustness:
    """clean: correct images without noise, per network; strengths: per kind, in rising order."""

    images: int
    seeds: int
    clean: Mapping[str, int]
    strengths: Mapping[str, tuple[float, ...]]
    cells: tuple[Cell, ...]
    duels: tuple[Duel, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the networks, in the order in which they were given."""
        return tuple(self.clean)

    def cell(self, model: str, kind: str, strength: float) -> Cell:
        """One network under one kind at one strength. Raises KeyError."""
        for cell in self.cells:
            if (cell.model, cell.kind, cell.strength) == (model, kind, strength):
                return cell
        raise KeyError((model, kind, strength))

    def of_kind(self, model: str, kind: str) -> float:
        """Accuracy under a kind, the mean over its strengths."""
        return statistics.fmean(c.mean for c in self.cells if (c.model, c.kind) == (model, kind))

    def overall(self, model: str) -> float:
        """The mean over the kinds of `of_kind`: mean corruption accuracy."""
        return statistics.fmean(self.of_kind(model, kind) for kind in self.strengths)

    def report(self) -> dict[str, Any]:
        """Plain values, as --json prints them. Accuracies are fractions."""
        return {
            "images": self.images,
            "seeds": self.seeds,
            "models": [
                {
                    "name": name,
                    "clean": right / self.images,
                    "overall": self.overall(name),
                    "kinds": {kind: self.of_kind(name, kind) for kind in self.strengths},
                }
                for name, right in self.clean.items()
            ],
            "kinds": [_kind_report(kind, values) for kind, values in self.strengths.items()],
            "cells": [
                {
                    "model": c.model,
                    "kind": c.kind,
                    "strength": c.strength,
                    "mean": c.mean,
                    "std": c.std,
                    "correct": list(c.correct),
                }
                for c in self.cells
            ],
            "duels": [
                {
                    "kind": d.kind,
                    "strength": d.strength,
                    "first": d.first,
                    "second": d.second,
                    "only_first": d.only_first,
                    "only_second": d.only_second,
                }
                for d in self.duels
            ],
        }

    def csv(self) -> str:
        """One line per network, kind, strength and seed; kind "none", strength 0: clean images."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(("model", "kind", "strength", "unit", "seed", "correct", "images"))
        for name, right in self.clean.items():
            lines.writerow((name, "none", 0, "", "", right, self.images))
        for cell in self.cells:
            unit = about(cell.kind).unit
            for seed, right in enumerate(cell.correct):
                row = (cell.model, cell.kind, f"{cell.strength:g}", unit, seed, right, cell.images)
                lines.writerow(row)
        return text.getvalue()


def about(kind: str) -> Corruption | Fault:
    """Unit, source and usual strengths of a kind."""
    return CORRUPTIONS[kind] if kind in CORRUPTIONS else FAULTS[kind]


def middle(strengths: Sequence[float]) -> float:
    """The strength that is looked at first: the middle one, or the one below the middle."""
    return sorted(strengths)[(len(strengths) - 1) // 2]


def _kind_report(kind: str, strengths: tuple[float, ...]) -> dict[str, Any]:
    known = about(kind)
    return {
        "kind": kind,
        "of": "images" if kind in CORRUPTIONS else "hardware",
        "unit": known.unit,
        "source": known.source,
        "strengths": list(strengths),
        "middle": middle(strengths),
    }
