"""Weights, biases and thresholds rounded as `passes.quantise` will, but differentiable.

Per channel of a population one unit of the membrane follows from the largest weight into it, and
from the exponents of its connections, which are read from a netlist made on the way. The gradient
passes the rounding unchanged (a straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.linear import Conv, ConvTransposed, Dense, Diagonal, LinearMap
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import signed_range
from lapilli.compiler.passes.quantise import WEIGHT_BITS
from lapilli.compiler.passes.thresholds import shifts
from lapilli.compiler.spiking import SpikingGraph
from lapilli.hardware_profiles import Profile

TINY = 1e-20
"""Stands in for the unit of a channel without weights."""


@final
@dataclass(frozen=True, eq=False)
class _Drive:
    """One connection: the axis of its weight that runs along the target's channels.

    rounded: is every row one channel's, so that the rounding is known? peaks: (C,), the largest
    weights, where nothing is trained.
    """

    index: int
    exponent: int
    axis: int
    rounded: bool
    peaks: Tensor | None


@final
class Grid:
    """The rounding of a whole network, for given exponents of its connections."""

    def __init__(
        self,
        graph: SpikingGraph,
        exponents: Sequence[int],
        maps: Sequence[tuple[LinearMap, bool] | None],
        profile: Profile,
    ):
        """exponents: per connection; maps: see `Student.maps`."""
        self.exponents = list(exponents)
        bits = profile.limits.weight_bits
        self._top = signed_range(int(bits.value) if bits else WEIGHT_BITS)[1]
        self._shared = profile.features.threshold_sharing.value == "population"
        self._shifts = shifts(profile)
        self._into: dict[str, list[_Drive]] = {
            p.name: []
            for p in graph.populations
            if p.model not in ("source", "max", "product")  # which have no units of their own
        }
        self._shapes = {p.name: p.shape for p in graph.populations}
        # The rungs of a ladder round by themselves, and are not rounded to its unit here.
        self._initial = {
            p.name: 0.0 if p.model == "ladder" else p.initial for p in graph.populations
        }
        self._readouts = {p.name for p in graph.populations if p.model == "readout"}
        self._exact = {p.name for p in graph.populations if p.model in ("readout", "ladder")}
        for index, (c, known) in enumerate(zip(graph.connections, maps, strict=True)):
            if known is None or c.target not in self._into:
                continue
            (linear, trained), shape = known, self._shapes[c.target]
            axis = _axis(linear)
            alone = isinstance(linear, Diagonal) and linear.weight.shape[:1] != shape[:1]
            drive = _Drive(
                index,
                exponents[index],
                axis or 0,
                trained and axis is not None and not alone and linear.out_shape[0] == shape[0],
                None if trained and axis is not None else _peaks(linear, shape),
            )
            self._into[c.target].append(drive)

    def rounded(
        self, weights: list[Tensor], biases: dict[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Weights and biases (with the starting membrane) that the integers stand for."""
        weights, biases = list(weights), dict(biases)
        for name, drives in self._into.items():
            bias, ndim = biases[name], len(self._shapes[name])
            with torch.no_grad():
                unit = self._unit(name, drives, weights, bias.device)
                # In units of the membrane; a readout has no threshold.
                threshold = (1.0 / unit + 0.5).floor().clamp_min(1.0)
                if name in self._exact:
                    threshold = 1.0 / unit
            for drive in drives:
                if drive.rounded:
                    weight, size = weights[drive.index], 2.0**drive.exponent
                    scales = [
                        _along(v, weight, drive.axis) for v in (unit * size, size / threshold)
                    ]
                    weights[drive.index] = _rounded(weight, *scales)
            wide = (-1,) + (1,) * (ndim - 1) if unit.ndim else ()
            start = (threshold * self._initial[name]).floor() / threshold
            fine, worth = unit.reshape(wide), (1.0 / threshold).reshape(wide)
            biases[name] = _rounded(bias, fine, worth)
            if name not in self._readouts:
                biases[name] = biases[name] + start.reshape(wide)
        return weights, biases

    def _unit(
        self, name: str, drives: list[_Drive], weights: list[Tensor], device: torch.device
    ) -> Tensor:
        """(C,) or (): one unit of the membrane, in thresholds."""
        unit = torch.full((), TINY, device=device)
        for drive in drives:
            peaks = drive.peaks
            if peaks is None:
                peaks = _largest(weights[drive.index], drive.axis, self._shapes[name][0])
            unit = torch.maximum(unit, peaks.to(device) / (self._top * 2.0**drive.exponent))
        if self._shared or name in self._readouts:
            unit = unit.max()
        if self._shifts and name not in self._readouts:
            unit = torch.exp2(torch.ceil(torch.log2(unit) - 1e-6))
        return unit


def exponents_of(graph: SpikingGraph, netlist: Netlist) -> list[int]:
    """Per connection of the graph, its exponent: a netlist lists them target by target."""
    found = {
        p.name: iter([c.exponent for c in netlist.connections if c.target == p.name])
        for p in graph.populations
    }
    return [next(found[c.target]) for c in graph.connections]


def _axis(linear: LinearMap) -> int | None:
    """The axis of the weight that runs along the map's output channels, if there is one."""
    if isinstance(linear, ConvTransposed):
        return 1 if linear.groups == 1 else None
    return 0 if isinstance(linear, (Conv, Dense, Diagonal)) else None


def _peaks(linear: LinearMap, shape: tuple[int, ...]) -> Tensor | None:
    """The largest weight into each channel, (C,), or into any, ()."""
    full = np.broadcast_to(linear.row_peaks(), linear.out_shape)
    if linear.out_shape[0] != shape[0]:
        full = full.reshape(shape) if full.size == np.prod(shape) else full.max(keepdims=True)
    peaks = full.reshape(len(full), -1).max(axis=1).astype(np.float32)
    return torch.from_numpy(np.array(peaks))


def _largest(weight: Tensor, axis: int, channels: int) -> Tensor:
    """(C,): the largest weight into each channel."""
    if weight.ndim == 0:
        return weight.abs()
    rows = weight.abs().transpose(0, axis).reshape(weight.shape[axis], -1).amax(1)
    if len(rows) % channels == 0:  # a row for each unit, or for each channel
        return rows.reshape(channels, -1).amax(1)
    return rows.repeat_interleave(channels // len(rows))


def _along(values: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Values of channels, (C,) or (), for the rows of a weight along `axis`."""
    if values.ndim == 0:
        return values
    values = values.repeat_interleave(weight.shape[axis] // len(values))
    return values.reshape([-1 if k == axis else 1 for k in range(weight.ndim)])


def _rounded(values: Tensor, scale: Tensor, worth: Tensor) -> Tensor:
    """values in integers of `scale`, each of which stands for `worth`."""
    with torch.no_grad():
        change = (values / scale + 0.5).floor() * worth - values
    return values + change
