"""A netlist in real numbers beside the float network that it was compiled from.

Everything is float64, in which the integers of a netlist add up exactly: populations are the float
network's, matched by name, and an activity is worth (activity - count_offset) / count_scale counts,
whole ones or not. So any part of the conversion can be applied alone: the range of the counts, the
rounding to counts, the weights and biases, a whole population.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.errors import InputError
from lapilli.compiler.execute import FloatExecutor, TorchMap, active, as_tensor
from lapilli.compiler.frontend import network_of
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Ladder, Readout
from lapilli.compiler.numerics import FloatArray, half_up, round_down
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.passes.reorder_pools import reorder_pools
from lapilli.compiler.passes.split_joins import split_joins
from lapilli.compiler.populations import Population, PopulationGraph

SNAP = 1e-6
"""Of one unit of v: what float64 may be off where the drive is a whole number."""
_CPU = torch.device("cpu")
Activity = Mapping[str, Tensor]
Rule = Callable[[Population, Activity], Tensor]
"""What a population's activity is, (N, *shape), from the activity of those it reads."""


def float_graph(model: object, images: FloatArray) -> PopulationGraph:
    """The legalised float network of a model, as `compile_model` makes it from images (N, ...)."""
    return legalise(split_joins(reorder_pools(network_of(model).capture(images))))


def check_match(graph: PopulationGraph, netlist: Netlist) -> None:
    """Raise InputError unless the netlist has the float network's populations, shapes and wiring.

    A netlist may have more: relays, and the stages of pools.
    """
    theirs = {p.name: p.shape for p in netlist.populations}
    missing = [p.name for p in graph.populations if theirs.get(p.name) != p.shape]
    extra = [name for name in theirs if _origin(name) not in {p.name for p in graph.populations}]
    rewired = [] if missing or extra else list(_rewired(graph, netlist))
    if missing or extra or rewired:
        what = (("not in the file", missing), ("only in the file", extra), ("wired", rewired))
        raise InputError(
            "model and file",
            "the file was compiled from the model, population by population",
            found="; ".join(f"{label}: {', '.join(names[:5])}" for label, names in what if names),
            allowed="the same populations, shapes and connections",
            remedy="Name the model that the file was compiled from. Files of other tools, and "
            "networks unrolled in time (lm-ht with T-GIM), have no float network beside them.",
        )


def _rewired(graph: PopulationGraph, netlist: Netlist) -> Iterable[str]:
    for p in graph.populations:
        if p.role not in ("max", "product"):
            sources = sorted(c.source for c in graph.into(p.name))
            if sources != sorted(_origin(c.source) for c in netlist.into(p.name)):
                yield p.name


def _origin(name: str) -> str:
    """The float network's population that a relay or a stage of a pool stands for.

    >>> _origin("relu.relay3"), _origin("pool.stage0"), _origin("layer1.relu")
    ('relu', 'pool', 'layer1.relu')
    """
    start, dot, last = name.rpartition(".")
    return start if dot and last.rstrip("0123456789") in ("relay", "stage") else name


@final
class RealNetlist:
    """Rules (`Rule`) for every part of a conversion, for a float network and its netlist."""

    def __init__(self, graph: PopulationGraph, netlist: Netlist):
        """Raises InputError where they do not match, or units are not those of a quantised ANN."""
        check_match(graph, netlist)
        if not netlist.has_quantised_ann:
            raise InputError(
                "file",
                "the count of every neuron is a function of its whole drive",
                found=", ".join(sorted({type(p.neuron).__name__ for p in netlist.populations})),
                allowed="neurons that a quantised ANN has units for",
                remedy="Compile without leak, with reset by subtraction.",
            )
        self.graph, self.netlist = graph, netlist
        self._float = FloatExecutor(graph, _CPU, torch.float64)
        self._maps = {
            id(c): TorchMap(c.map, torch.float64, _CPU)
            for p in graph.populations
            if p.role not in ("max", "product")
            for c in netlist.into(p.name)
        }
        self._held = netlist.steps if netlist.source.timing in ("held", "train") else 1

    def run(self, rule: Rule, x: Tensor) -> dict[str, Tensor]:
        """Activity of every population when all but the input, x (N, *shape), follow a rule."""
        activity: dict[str, Tensor] = {}
        for p in self.graph.populations:
            activity[p.name] = x if p.role == "input" else rule(p, activity)
        return activity

    def rerun(self, clean: Activity, name: str, value: Tensor) -> dict[str, Tensor]:
        """The float network's activity `clean`, with one population's replaced by `value`."""
        activity, changed = {**clean, name: value}, {name}
        for p in self.graph.populations:
            if changed & {c.source for c in self.graph.into(p.name)} and p.name != name:
                activity[p.name] = self.exact(p, activity)
                changed.add(p.name)
        return activity

    def input(self, x: Tensor) -> Tensor:
        """The input as the source sends it; spike trains say it exactly, on average."""
        source = self.netlist.source
        if source.timing == "train":
            return x
        scale = self.netlist.input.state_scale
        counts = np.clip(half_up(x.numpy() / scale), source.low, source.high)
        return torch.from_numpy(counts * scale)

    def exact(self, p: Population, activity: Activity) -> Tensor:
        """The float network."""
        return active(p, self._float.drive(p, activity))

    def clipped(self, p: Population, activity: Activity) -> Tensor:
        """Clipped to what the smallest and the largest count stand for."""
        return self.clip(p, self.exact(p, activity))

    def clip(self, p: Population, value: Tensor) -> Tensor:
        """An activity of p, no further than its counts go; pools and readouts have no own limit."""
        bounds = self._bounds(p)
        if bounds is None:
            return value
        scale, offset = self._scale(p.name), self._offset(p.name)
        return torch.minimum(
            torch.maximum(value, bounds[0] * scale + offset), bounds[1] * scale + offset
        )

    def levelled(self, p: Population, activity: Activity) -> Tensor:
        """Rounded to what the nearest count stands for."""
        return self.level(p, self.exact(p, activity))

    def level(self, p: Population, value: Tensor) -> Tensor:
        """An activity of p as its nearest count says it."""
        bounds = self._bounds(p)
        if bounds is None:
            return value
        scale, offset = self._scale(p.name), self._offset(p.name)
        counts = torch.floor((value - offset) / scale + 0.5).clamp(*bounds)
        return counts * scale + offset

    def weighted(self, p: Population, activity: Activity) -> Tensor:
        """The float network with the netlist's weights and biases, and no counting."""
        if p.role in ("max", "product"):
            return self.exact(p, activity)
        unit = self.netlist[p.name]
        neuron, scale = unit.neuron, _wide(unit.state_scale)
        total = self.total(p, activity)
        if isinstance(neuron, Readout):
            constant = neuron.quantised(np.zeros(unit.shape, np.int64), self.netlist.steps)
            return (total + _wide(constant)) * scale
        bias = _wide(self._bias(p.name))
        drive = (total + bias) * scale / self._held
        if not isinstance(neuron, Ladder):  # whose rungs say where its counts begin
            step = _wide(np.asarray(neuron.threshold)) * scale / self._held  # type: ignore[attr-defined]
            drive = drive + self._offset(p.name) / self._scale(p.name) * step
        return active(p, drive)

    def counted(self, p: Population, activity: Activity) -> Tensor:
        """What the netlist's population makes of it: weights, bias and thresholds as they are.

        The quantised ANN, but for products, whose activity is rounded to the nearest count.
        """
        if p.role in ("max", "product"):
            return self.levelled(p, activity)
        unit = self.netlist[p.name]
        total = round_down(self.total(p, activity).numpy() + SNAP)
        value = torch.from_numpy(unit.neuron.quantised(total, self.netlist.steps)).double()
        if isinstance(unit.neuron, Readout):
            return value * _wide(unit.state_scale)
        return value * self._scale(p.name) + self._offset(p.name)

    def total(self, p: Population, activity: Activity) -> Tensor:
        """p's drive of a whole window, in units of its v, without bias."""
        result = torch.zeros((), dtype=torch.float64)
        for c in self.netlist.into(p.name):
            source = _origin(c.source)
            counts = (activity[source] - self._offset(source)) / self._scale(source)
            drive = self._maps[id(c)](counts).reshape(-1, *p.shape)
            result = result + drive * 2.0**c.exponent
        return result

    def _bias(self, name: str) -> Array:
        """What a window adds to v besides the drive, and without what rounds half up."""
        neuron = self.netlist[name].neuron
        bias = np.asarray(neuron.bias)  # type: ignore[attr-defined]
        current = getattr(neuron, "current", None)
        return bias * self._held if current is None else bias + current * self.netlist.steps

    def _bounds(self, p: Population) -> tuple[float, float] | None:
        """Smallest and largest count of what counts for itself."""
        if p.role in ("input", "max", "readout"):
            return None
        low, high = self.netlist[p.name].neuron.window_total(self.netlist.steps)
        return float(low), float(high)

    def _scale(self, name: str) -> Tensor:
        return _wide(self.netlist[name].count_scale)

    def _offset(self, name: str) -> Tensor:
        return _wide(self.netlist[name].count_offset)


def _wide(values: Array) -> Tensor:
    return as_tensor(values, torch.float64, _CPU)
