"""What a population is in stock processes: a cell, and what every rule for one needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Population
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime.lava.stock.plan import Clear, Stage, Wire

PROFILE = "Compile for the profile lava-stock."
OURS = "Run it with processes='lapilli'."


@final
@dataclass(frozen=True, eq=False)
class Constant:
    """Values (period, size) or (period, 1) added to a stage's input, by the step in its window.

    lag: steps from the cell's first stage to this one.
    """

    stage: str
    lag: int
    values: Array

    @property
    def period(self) -> int:
        """Steps after which the values repeat."""
        return len(self.values)


@final
@dataclass(frozen=True)
class Restart:
    """`variable` of a stage is `value` when its window begins, `lag` steps after the cell's."""

    stage: str
    variable: str
    lag: int = 0
    value: int = 0

    def at(self, first: int, steps: int) -> Clear:
        """For a cell whose window begins in step `first`."""
        return Clear(self.stage, self.variable, self.value, (first + self.lag - 1) % steps)


@final
@dataclass(frozen=True, eq=False)
class Cell:
    """A chain of stages; `latency`: steps from the first, which receives, to the last, which sends.

    The first receives what the population receives, in the same step; each synapse in the chain
    costs one. Restarts are stock `Reset` processes, which write a variable at the end of a step, so
    they work in the step before a window begins.
    """

    stages: tuple[Stage, ...]
    latency: int = 0
    wires: tuple[Wire, ...] = ()
    constants: tuple[Constant, ...] = ()
    restarts: tuple[Restart, ...] = ()

    @property
    def entry(self) -> str:
        """Name of the stage that receives."""
        return self.stages[0].name

    @property
    def exit(self) -> str:
        """Name of the stage that sends."""
        return self.stages[-1].name


def refusal(p: Population, rule: str, found: object, allowed: object, remedy: str) -> NetlistError:
    """What a population breaks that stock processes need."""
    where = f"{p.name} ({type(p.neuron).__name__})"
    return NetlistError(where, rule, found=found, allowed=allowed, remedy=remedy)


def flat(values: Array, p: Population) -> Int64Array:
    """A parameter of every neuron, (size,)."""
    return np.broadcast_to(values, p.shape).reshape(-1)


def part(p: Population, what: str) -> str:
    """The name of a stage within a cell; no population has it, for their names are printable."""
    return f"{p.name}\t{what}"


def shared(values: Array, p: Population, name: str, process: str) -> int:
    """The one value of a parameter that a stock process has only once."""
    found = np.unique(flat(values, p))
    if found.size > 1:
        rule = f"all neurons of a {process} have one {name}"
        raise refusal(p, rule, f"{found.size} of them", "one", OURS)
    return int(found[0])


def constants(stage: str, values: Array) -> tuple[Constant, ...]:
    """A constant for the first stage of a cell, unless it is zero."""
    return (Constant(stage, 0, values),) if values.any() else ()
