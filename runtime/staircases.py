"""Counts of `Staircase` neurons in torch: what a batch of membranes stands for.

Tested equal to `Staircase.count`. For floor division see `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.execute import as_tensor
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Population
from lapilli.compiler.neurons import (
    GradedMax,
    Ladder,
    NeuronModel,
    Product,
    SigmaDelta,
    Staircase,
    Window,
)

Parameters = dict[str, Tensor]
AT_A_TIME = 2**17
"""Membranes that are worked on in one go: few enough to stay in cache."""


def parameters(p: Population, dtype: torch.dtype, device: torch.device) -> Parameters:
    """The integer arrays of a population's neurons, as its kernel wants them."""
    arrays: dict[str, Array] = {
        key: value for key, value in vars(p.neuron).items() if isinstance(value, np.ndarray)
    }
    if isinstance(p.neuron, Staircase):
        arrays["beginning"] = p.neuron.beginning()
    return {key: as_tensor(value, dtype, device) for key, value in arrays.items()}


def counts(p: Population, parameters: Parameters, v: Tensor) -> Tensor:
    """`Staircase.count` of v (N, K, *shape), some images at a time."""
    neuron = p.neuron
    images = max(1, AT_A_TIME // max(v[:1].numel(), 1))
    parts = [v[start : start + images] for start in range(0, len(v), images)]
    found = [_COUNTS[type(neuron)](neuron, parameters, part) for part in parts]
    return found[0] if len(found) == 1 else torch.cat(found)


def _levels(neuron: Window | SigmaDelta, parameters: Parameters, v: Tensor) -> Tensor:
    return torch.floor_(v / parameters["threshold"]).clamp_(neuron.lowest, neuron.levels)


def _height(neuron: Ladder, parameters: Parameters, v: Tensor) -> Tensor:
    height = parameters["foot"].expand(v.shape).clone()
    passed = torch.empty_like(v)
    # Two passes per rung, in cache, are faster than a search for each neuron's place.
    for threshold, rise in zip(parameters["thresholds"], parameters["rises"], strict=True):
        torch.ge(v, threshold, out=passed)
        height.addcmul_(passed, rise)
    return height


def _largest_field(neuron: GradedMax, parameters: Parameters, v: Tensor) -> Tensor:
    largest, above = _split(v, neuron.bits)
    for _ in range(1, neuron.inputs):
        field, above = _split(above, neuron.bits)
        torch.maximum(largest, field, out=largest)
    return largest.add_(neuron.lowest).clamp_(max=neuron.levels)


def _product(neuron: Product, parameters: Parameters, v: Tensor) -> Tensor:
    low, high = _split(v, neuron.bits)
    u = low.add_(neuron.lowest_factor).mul_(high).mul_(2**neuron.shift)
    n = u.add_(parameters["initial_product"]).div_(parameters["threshold"]).floor_()
    return n.clamp_(neuron.lowest, neuron.levels)


def _split(v: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The lowest field of v, and what is above it; powers of two divide exactly."""
    above = (v * 2.0**-bits).floor_()
    return torch.sub(v, above, alpha=2**bits), above


_COUNTS: dict[type[NeuronModel], Callable[[Any, Parameters, Tensor], Tensor]] = {
    Window: _levels,
    SigmaDelta: _levels,
    Ladder: _height,
    GradedMax: _largest_field,
    Product: _product,
}
"""What a membrane stands for, of every model that is a `Staircase`."""
STAIRCASES = tuple(_COUNTS)
