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
    """N units with one activation.

    shape: channels first, at least one axis; bias broadcasts to it; where: place in the user's
    code.
    """

    name: str
    shape: Shape
    role: Role
    bias: Array
    where: str = ""


@final
@dataclass(frozen=True, eq=False)
class Connection:
    """target's drive += map(source's activity); the map's shapes are views of both shapes."""

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
        """Raise CaptureError unless names are unique, every map fits, and populations are driven.

        Each is driven by earlier ones, all but the input by at least one.
        """
        shapes: dict[str, Shape] = {}
        for p in self.populations:
            drives = self.into(p.name)
            fits = all(
                c.source in shapes
                and c.map.in_size == math.prod(shapes[c.source])
                and c.map.out_size == math.prod(p.shape)
                for c in drives
            )
            if p.name in shapes or not fits or (p.role == "input") == bool(drives):
                raise CaptureError(
                    p.name,
                    "each population has its own name and is driven by earlier ones through maps "
                    "that fit it",
                    found=[f"{c.source} {c.map.in_shape}->{c.map.out_shape}" for c in drives],
                    allowed=f"maps into {p.shape}, none into the input",
                    remedy="This is a fault of Lapilli's legalisation: please report it.",
                )
            shapes[p.name] = p.shape
        lost = [c.target for c in self.connections if c.target not in shapes]
        if lost or not self.outputs:
            raise CaptureError(
                "populations",
                "connections end in populations, and there is a readout",
                found=f"connections into {lost}" if lost else "no readout",
                allowed=", ".join(shapes),
                remedy="This is a fault of Lapilli's legalisation: please report it.",
            )

    def pretty(self) -> str:
        """One line per population, and one for each map into it."""
        lines = []
        for p in self.populations:
            bias = "" if not p.bias.any() else f" + bias{list(p.bias.shape)}"
            lines.append(f"{p.name}: {p.role} {list(p.shape)}{bias}")
            lines += [f"    {c.map.pretty()} <- {c.source}" for c in self.into(p.name)]
        return "\n".join(lines)
