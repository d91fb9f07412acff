"""What an execution leaves behind: integers of every population, outputs in real units, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final, get_args

import numpy as np
import numpy.typing as npt

from lapilli.compiler.netlist import Netlist
from lapilli.runtime.metrics import ImageEvents, PopulationEvents
from lapilli.runtime.step_events import StepEvents

Array = npt.NDArray[Any]
Record = Literal["outputs", "counts", "spikes", "states"]
"""What is kept beside the readouts: nothing; counts; and each step's spikes; and membranes."""
RECORDS: tuple[Record, ...] = get_args(Record)
Progress = Callable[[int, int], None]
"""Called with (done, total) in the unit that the backend works in: images or steps."""


@final
@dataclass(frozen=True, eq=False)
class Trace:
    """One run over N images; keys are populations.

    counts: (N, *shape) spikes summed over the window, payloads included (no readouts); readouts:
    (N, *shape) the readouts' v after the last step; spikes, states: (N, steps, *shape) spikes sent
    and v after each step, empty unless recorded; the steps of v begin at the population's
    `Schedule.first`, those of its spikes at its `Schedule.sends`; events: exact operation counts,
    empty where the backend does not count; image_events: the same for each image; step_events:
    of each step if they were asked for, None where nobody knows the steps; input_clipped:
    input values that were out of range and saturated; stopped: (N,) steps after which each image
    ended, if early stopping was asked for: everything above is then of these steps, and zero
    beyond; silent: (N,) steps after which no population sent anything any more, for networks that
    have to fall silent (`Netlist.settling`), on the reference engine; names: of the outputs, in
    their order, empty where a netlist was executed of which nobody knows them.
    """

    backend: str
    outputs: Array | list[Array]
    counts: Mapping[str, Array]
    readouts: Mapping[str, Array]
    spikes: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    events: Mapping[str, PopulationEvents] = field(default_factory=dict)
    input_clipped: int = 0
    stopped: Array | None = None
    silent: Array | None = None
    names: tuple[str, ...] = ()
    image_events: Mapping[str, ImageEvents] = field(default_factory=dict)
    step_events: Mapping[str, StepEvents | None] = field(default_factory=dict)

    def recorded(self, record: Record) -> Trace:
        """The trace as `record` would have left it, if it kept more than that."""
        kept = RECORDS.index(record)
        return replace(
            self,
            counts=self.counts if kept >= RECORDS.index("counts") else {},
            spikes=self.spikes if kept >= RECORDS.index("spikes") else {},
            states=self.states if kept >= RECORDS.index("states") else {},
        )

    @property
    def named_outputs(self) -> dict[str, Array]:
        """The outputs by name: dict keys and tuple positions of what the network returns."""
        values = self.outputs if isinstance(self.outputs, list) else [self.outputs]
        names = self.names or tuple(str(i) for i in range(len(values)))
        return dict(zip(names, values, strict=True))


def real_outputs(
    netlist: Netlist, readouts: Mapping[str, Array], stopped: Array | None = None
) -> Array | list[Array]:
    """The readouts as `real_values` has them; a list where there are several."""
    values = real_values(netlist, readouts, stopped)
    return values[0] if len(values) == 1 else values


def real_values(
    netlist: Netlist, readouts: Mapping[str, Array], stopped: Array | None = None
) -> list[Array]:
    """The readouts in the network's own units, float64, (N, *shape) each.

    stopped: steps (N,) after which each image ended: of a constant current, what came in fewer
    steps counts for more.
    """
    values = [np.asarray(readouts[p.name] * p.state_scale) for p in netlist.outputs]
    if stopped is not None and netlist.source.timing == "held":
        share = netlist.steps / stopped
        values = [value * share.reshape(-1, *(1,) * (value.ndim - 1)) for value in values]
    return values
