"""The spiking network as a differentiable function of its weights and biases.

Everything is in units of the neurons: between populations travel counts, and a drive counts the
thresholds that the membrane holds. So a weight holds the source's amplitude and the target's
threshold, too, as the integer weights of the netlist do: training weights trains all three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.execute import TorchMap, TorchMax, apply_map, as_tensor
from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    Diagonal,
    LinearMap,
    along_channels,
    frozen,
)
from lapilli.compiler.reconstruction.rounding import Grid
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation

BIAS_STEP = 0.1
"""How much faster than a weight a bias moves: in its own units, the range of the counts."""
_TRAINED: tuple[type[LinearMap], ...] = (Dense, Conv, ConvTransposed, Diagonal)
"""Forms whose weights are trained; the gradient of a sparse matrix would be a full one."""


@final
@dataclass(frozen=True, eq=False)
class Units:
    """What numbers stand for in one population; arrays are () or (C,).

    worth: activity per count; step: drive per count (a readout: 1); initial: fraction of a step
    that the membrane starts with; low, high: range of the counts (a readout: none); offset: the
    drive that counts nothing, in steps, and the activity of no count, in counts.
    """

    worth: Array
    step: Array
    initial: float
    low: int
    high: int
    role: str
    offset: tuple[Array, Array] = (np.zeros(()), np.zeros(()))


UNBIASED = ("source", "max", "product")
"""Models that have no bias."""


def units_of(graph: SpikingGraph, p: SpikingPopulation) -> Units:
    """The one place that knows the neuron models."""
    one = np.ones(())
    if p.model == "source":
        return Units(p.amplitude, p.amplitude, 0.5, p.low, p.high, "input")
    if p.model == "readout":
        return Units(one, one, 0.0, 0, 0, "readout")
    if p.model == "max":  # compares counts as they are
        return Units(p.count_scale, p.count_scale, 0.0, p.low, p.high, "max")
    step = np.asarray(p.threshold / (graph.steps if graph.hold else 1))
    initial = 0.0 if p.model == "ladder" else p.initial  # whose rungs round
    role = p.model if p.model in ("ladder", "product") else "neuron"
    offset = np.asarray(p.offset / step), np.asarray(p.offset / p.count_scale)
    return Units(p.count_scale, step, initial, p.low, p.high, role, offset)


class _Staircase(torch.autograd.Function):
    """floor(v) within low..high; its gradient is that of v, and 0 where the count is clipped."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, low: int, high: int) -> Tensor:
        steps = v.floor()
        counts = steps.clamp(low, high)
        ctx.save_for_backward(counts == steps)
        return counts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None


class _Ladder(torch.autograd.Function):
    """The count at v; its gradient is the slope over one step to either side.

    at, rises: (K, ...) rungs in steps; foot: the count below them.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, at: Tensor, rises: Tensor, foot: Tensor) -> Tensor:
        def count(x: Tensor) -> Tensor:
            counts = foot.expand(x.shape).clone()
            for rung, rise in zip(at, rises, strict=True):
                counts += (x >= rung) * rise
            return counts

        ctx.save_for_backward((count(v + 1) - count(v - 1)) / 2)
        return count(v)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None, None


@final
class _Synapses:
    """One connection in units of its ends: `weight` is what is trained, () where nothing is."""

    def __init__(self, c: SpikingConnection, ends: Mapping[str, Units], shapes: Any, device: Any):
        self.connection = c
        source, target = ends[c.source], ends[c.target]
        pools = target.role == "max"
        bare = pools or target.role == "product"  # zeros and ones, which stay so
        self.map = _facing(c.map, shapes[c.source], shapes[c.target])
        # Where the map sees other views than its ends have, their units stay outside of it.
        ends_of = (
            (np.ones(()) if pools else source.worth, self.map.in_shape, shapes[c.source]),
            (np.ones(()) if bare else 1.0 / target.step, self.map.out_shape, shapes[c.target]),
        )
        fit = [values.ndim == 0 or seen == shape for values, seen, shape in ends_of]
        self._columns, self._rows = (
            values if inside else np.ones(())
            for inside, (values, _, _) in zip(fit, ends_of, strict=True)
        )
        self.map = self.map.scaled(self._rows, self._columns)
        self._before, self._after = (
            None if inside else as_tensor(along_channels(values, shape), torch.float32, device)
            for inside, (values, _, shape) in zip(fit, ends_of, strict=True)
        )
        self.whole = all(fit)
        self.trained = isinstance(self.map, _TRAINED) and bool(self.map.weight.any()) and not bare
        self._fixed: Callable[[Tensor], Tensor] | None = None
        if not self.trained:
            applied = TorchMax(self.map, device) if pools else None
            self._fixed = applied or TorchMap(self.map, torch.float32, device)
        self.shape, self._full = _tied(self.map)
        weight = np.asarray(self.map.weight, np.float32).reshape(self._full)
        index = tuple(slice(size) for size in self.shape)
        self.start = as_tensor(weight[index], torch.float32, device)
        self.alive = (self.start != 0).to(torch.float32)
        used = self.start[self.start != 0]
        # Rows and columns have a factor of their own (its logarithm), so that a threshold or an
        # amplitude, which scales many weights, moves as fast as one weight.
        self.factors = [
            torch.zeros([size if k == axis else 1 for k in range(self.start.ndim)], device=device)
            for axis, size in enumerate(self.start.shape[:2])
            if self.start.ndim > 1 and size > 1
        ]
        self.size = float(used.square().mean().sqrt()) if used.numel() else 1.0

    def made(self, parameters: Iterator[Tensor]) -> Tensor:
        """The weight that the next parameters make: zeros stay zero."""
        weight = next(parameters) * self.alive
        for _ in self.factors:
            weight = weight * next(parameters).exp()
        return weight

    def drive(self, counts: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(N, *source shape) -> (N, *target shape)."""
        if self._before is not None:
            counts = counts * self._before
        if self._fixed is not None:
            drive = self._fixed(counts)
        else:
            full = weight.expand(self._full).reshape(self.map.weight.shape)
            drive = apply_map(self.map, full, counts)
        drive = drive.reshape(len(counts), *shape)
        return drive if self._after is None else drive * self._after

    def connection_with(self, weight: Tensor) -> SpikingConnection:
        """The connection with a trained weight, in the units it had."""
        c = self.connection
        if not self.trained:
            return c
        trained = np.broadcast_to(weight.detach().cpu().double().numpy(), self._full)
        made = self.map.with_weight(trained.reshape(self.map.weight.shape))
        made = made.scaled(1.0 / self._rows, 1.0 / self._columns)
        return replace(c, map=replace(made, in_shape=c.map.in_shape, out_shape=c.map.out_shape))


def _facing(linear: LinearMap, source: tuple[int, ...], target: tuple[int, ...]) -> LinearMap:
    """The map in the shapes of its ends, where that is only another view."""
    return replace(linear, in_shape=source, out_shape=target) if type(linear) is Dense else linear


def _tied(linear: LinearMap) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of what is trained, which is spread over the second shape, a view of the weight.

    A pooling merged with a dense layer has equal weights for all pixels of a channel: they stay
    equal, for images are too few to tell them apart.
    """
    if not isinstance(linear, Dense) or len(linear.in_shape) < 2:
        return linear.weight.shape, linear.weight.shape
    rows, channels = linear.out_size, linear.in_shape[0]
    full = (rows, channels, linear.in_size // channels)
    weight = linear.weight.reshape(full)
    spread = np.abs(weight - weight[:, :, :1]).max(initial=0.0)
    equal = spread <= 1e-6 * np.abs(weight).max(initial=0.0)
    return ((rows, channels, 1) if equal else full), full


@final
class Student:
    """The network that is trained; all its parameters lie in one vector, as does their gradient.

    Each is kept relative to its own size at the start, so that one learning rate suits all.
    outputs: the readouts' size, by name: the unit of their biases.
    """

    def __init__(self, graph: SpikingGraph, outputs: Mapping[str, float], device: torch.device):
        self.graph = graph
        self._units = {p.name: units_of(graph, p) for p in graph.populations}
        shapes = {p.name: p.shape for p in graph.populations}
        self._synapses = [_Synapses(c, self._units, shapes, device) for c in graph.connections]
        # Per population what drives it: index and source of connections.
        self._into: dict[str, list[tuple[int, str]]] = {p.name: [] for p in graph.populations}
        for index, c in enumerate(graph.connections):
            self._into[c.target].append((index, c.source))
        self._rungs = {p.name: self._ladder(p, device) for p in graph.populations if p.rungs}
        starts, scales = [], []
        for s in self._synapses:
            if s.trained:
                starts += [s.start, *s.factors]
                scales += [s.size, *(1.0 for _ in s.factors)]
        for p in graph.populations:
            if p.model not in UNBIASED:
                units = self._units[p.name]
                bias = np.asarray(p.bias / along_channels(units.step, p.shape))
                starts.append(as_tensor(bias, torch.float32, device))
                span = outputs[p.name] if units.role == "readout" else units.high - units.low
                scales.append(BIAS_STEP * span)
        self.scales = scales
        sizes = [start.numel() for start in starts]
        flat = [start.flatten() / scale for start, scale in zip(starts, scales, strict=True)]
        self.values = torch.cat(flat)
        self.gradient = torch.zeros_like(self.values)
        self._parameters: list[Tensor] = []
        both = (torch.split(vector, sizes) for vector in (self.values, self.gradient))
        parts = zip(*both, starts, strict=True)
        for value, gradient, start in parts:
            leaf = value.view(start.shape).requires_grad_()
            leaf.grad = gradient.view(start.shape)
            self._parameters.append(leaf)

    def _ladder(self, p: SpikingPopulation, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Rungs in steps, rises and the count below them, for units of shape p.shape."""
        assert p.rungs is not None
        step = along_channels(self._units[p.name].step, p.shape)
        at = np.stack([np.asarray(along_channels(rung, p.shape) / step) for rung in p.rungs.at])
        rises = np.stack([along_channels(rise, p.shape) for rise in p.rungs.rises])
        foot = along_channels(p.rungs.start, p.shape)
        return tuple(as_tensor(v, torch.float32, device) for v in (at, rises, foot))  # type: ignore[return-value]

    def run(self, images: Tensor, grid: Grid | None = None) -> dict[str, Tensor]:
        """Counts of every population, and the readouts' drives, (N, *shape), for images.

        grid: rounds the weights as the netlist will.
        """
        weights, biases = self.trained()
        if grid is not None:
            weights, biases = grid.rounded(weights, biases)
        else:
            biases = {name: bias + self._units[name].initial for name, bias in biases.items()}
        counts: dict[str, Tensor] = {}
        for p in self.graph.populations:
            units = self._units[p.name]
            if units.role == "input":
                counts[p.name] = _payload(images, p, units)
                continue
            drives = [
                self._synapses[index].drive(counts[source], weights[index], p.shape)
                for index, source in self._into[p.name]
            ]
            counts[p.name] = self._counted(p, units, drives, biases.get(p.name))
        return counts

    def _counted(
        self, p: SpikingPopulation, units: Units, drives: list[Tensor], bias: Tensor | None
    ) -> Tensor:
        """The count, or what a readout adds up to; counts of an offset are not whole."""
        if units.role == "max":
            return drives[0]
        if bias is None:  # a product, of activities
            step = as_tensor(along_channels(units.step, p.shape), torch.float32, drives[0].device)
            drive = drives[0] * drives[1] / step + units.initial
        else:
            drive = sum(drives, bias)
        if units.role == "readout":
            return drive
        shift, rest = (
            as_tensor(along_channels(v, p.shape), torch.float32, drive.device) for v in units.offset
        )
        if p.rungs is not None:
            at, rises, foot = self._rungs[p.name]
            return _Ladder.apply(drive, at, rises, foot)  # type: ignore[no-untyped-call,no-any-return]
        counts: Tensor = _Staircase.apply(drive - shift, units.low, units.high)  # type: ignore[no-untyped-call]
        return counts + rest

    def trained(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Per connection its weight, and by name the biases, in units of the neurons."""
        parameters = iter(
            [value * scale for value, scale in zip(self._parameters, self.scales, strict=True)]
        )
        weights = [s.made(parameters) if s.trained else s.start for s in self._synapses]
        biased = (p.name for p in self.graph.populations if p.model not in UNBIASED)
        biases = {name: next(parameters) for name in biased}
        return weights, biases

    def maps(self) -> list[tuple[LinearMap, bool] | None]:
        """Per connection its map in units of its ends, and whether it is trained.

        None where the units of an end stay outside of the map.
        """
        return [(s.map, s.trained) if s.whole else None for s in self._synapses]

    def spiking(self) -> SpikingGraph:
        """The spiking network with what was trained."""
        weights, biases = self.trained()
        connections = tuple(
            s.connection_with(weight) for s, weight in zip(self._synapses, weights, strict=True)
        )
        populations = tuple(
            replace(p, bias=self._in_activity(p, biases[p.name])) if p.name in biases else p
            for p in self.graph.populations
        )
        return replace(self.graph, populations=populations, connections=connections)

    def _in_activity(self, p: SpikingPopulation, bias: Tensor) -> Array:
        step = along_channels(self._units[p.name].step, p.shape)
        return frozen(bias.detach().cpu().double().numpy() * step)


def _payload(images: Tensor, p: SpikingPopulation, units: Units) -> Tensor:
    scale = as_tensor(along_channels(units.worth, p.shape), torch.float32, images.device)
    return torch.floor(images / scale + 0.5).clamp(units.low, units.high)
