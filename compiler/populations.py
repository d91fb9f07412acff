"""The legalised float graph: populations of neurons joined by linear maps only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from lapilli.compiler.errors import CaptureError
from lapilli.compiler.linear import Array, LinearMap, Shape

Role = Literal["input", "relu", "readout"]
"""What a population computes from its drive: nothing (input), max(drive, 0), or the drive."""


@final
@dataclass(frozen=True, eq=False)
class Population:
    """N units with one activation. bias broadcasts to shape; where: place in the user's code."""

    name: str
    shape: Shape
    role: Role
    bias: Array
    where: str = ""


@final
@dataclass(frozen=True, eq=False)
class Connection:
    """target's drive += map(source's activity)."""

    source: str
    target: str
    map: LinearMap


@final
@dataclass(frozen=True, eq=False)
class PopulationGraph:
    """Populations in topological order (inputs first) and the maps between them."""

    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Readout populations, in the order of the network's outputs."""
        return tuple(p.name for p in self.populations if p.role == "readout")

    def into(self, target: str) -> tuple[Connection, ...]:
        """The connections into one population."""
        return tuple(c for c in self.connections if c.target == target)

    def verify(self) -> None:
        """Raise CaptureError unless every map fits and every population is driven."""
        sizes: dict[str, Population] = {}
        for population in self.populations:
            drives = self.into(population.name)
            fits = all(
                c.source in sizes
                and c.map.in_size == math.prod(sizes[c.source].shape)
                and c.map.out_size == math.prod(population.shape)
                for c in drives
            )
            if not fits or (population.role == "input") == bool(drives):
                raise CaptureError(
                    population.name,
                    "each population is driven by earlier ones through maps that fit it",
                    found=[f"{c.source} {c.map.in_shape}->{c.map.out_shape}" for c in drives],
                    allowed=population.shape,
                    remedy="An output that does not depend on the input cannot be compiled.",
                )
            sizes[population.name] = population

    def pretty(self) -> str:
        """One line per population with its incoming maps."""
        lines = []
        for p in self.populations:
            drives = " + ".join(
                f"{type(c.map).__name__}({c.source})" for c in self.into(p.name)
            )
            lines.append(f"{p.name}: {p.role}{list(p.shape)} <- {drives or 'user'}")
        return "\n".join(lines)
