"""The legalised float graph: populations of neurons joined by linear maps only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from lapilli.compiler.errors import CaptureError
from lapilli.compiler.linear import Array, LinearMap, Shape

if TYPE_CHECKING:
    from lapilli.compiler.activations import Activation

Role = Literal["input", "activation", "max", "product", "readout"]
"""What a population computes: nothing (input), a function of its drive, the largest of what its
connection reads, the product of what its two connections deliver, or the drive itself (readout).
"""


@final
@dataclass(frozen=True, eq=False)
class Population:
    """N units of one role.

    shape: channels first, at least one axis; bias broadcasts to it (of activations and readouts);
    where: place in the user's code; activation: of that role alone.
    """

    name: str
    shape: Shape
    role: Role
    bias: Array
    where: str = ""
    activation: Activation | None = None


@final
@dataclass(frozen=True, eq=False)
class Connection:
    """target's drive += map(source's activity); the map's shapes are views of both shapes.

    Into a "max", the map's weights are 0 and 1, and what it reads is compared instead of added up;
    into a "product" there are two, whose results are multiplied.
    """

    source: str
    target: str
    map: LinearMap


@final
@dataclass(frozen=True, eq=False)
class PopulationGraph:
    """Populations in topological order (inputs first) and the maps between them."""

    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]

    def __getitem__(self, name: str) -> Population:
        return next(p for p in self.populations if p.name == name)

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
            fits &= len(drives) in _DRIVES.get(p.role, range(1, len(drives) + 1))
            fits &= (p.role == "activation") == (p.activation is not None)
            if p.name in shapes or not fits:
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
            role = p.role if p.activation is None else p.activation.name
            lines.append(f"{p.name}: {role} {list(p.shape)}{bias}")
            lines += [f"    {c.map.pretty()} <- {c.source}" for c in self.into(p.name)]
        return "\n".join(lines)


_DRIVES = {"input": (0,), "max": (1,), "product": (2,)}
"""How many connections a role takes, where not any number from one."""
