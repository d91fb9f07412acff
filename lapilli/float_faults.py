"""Imperfect hardware for float networks: the counterpart of `lapilli.runtime.faults`.

The network itself is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lapilli.compiler.errors import InputError
from lapilli.compiler.numerics import half_up
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.spiking_layers import SpikingLayer

_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "elu"),
    *("elu_", "selu", "selu_", "celu", "celu_", "gelu", "silu", "mish", "softplus", "sigmoid"),
    *("sigmoid_", "tanh", "tanh_", "hardtanh", "hardtanh_", "hardsigmoid", "hardswish"),
    *("logsigmoid", "softsign"),
)
ACTIVATIONS = frozenset(
    found
    for home in (functional, torch, Tensor)
    for name in _NAMES
    if (found := getattr(home, name, None)) is not None
)
"""Functions whose results are the activity of neurons, as functions and methods of torch."""
LAYERS: tuple[type[nn.Module], ...] = (QCFS, SpikingLayer)
"""Layers of our own that are activations; steps that are folded into the batch share a fate."""


def noisy_weights(network: nn.Module, strength: float, rng: np.random.Generator) -> nn.Module:
    """A copy whose weights w are w * (1 + strength * z), z standard normal.

    Weights are parameters of two or more dimensions: biases and normalisations are spared, as they
    become parameters of neurons.
    """
    noisy = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in noisy.parameters():
            if parameter.ndim >= 2:
                noise = rng.standard_normal(tuple(parameter.shape), np.float32)
                parameter.mul_(1 + strength * torch.from_numpy(noise).to(parameter))
    return noisy


class _Deaths(TorchFunctionMode):
    """Zeroes the same units of every activation in each pass; `forward` begins a pass."""

    def __init__(self, share: float, rng: np.random.Generator):
        initialise: Any = super().__init__  # typed by torch 2.13, and not by 2.3
        initialise()
        self.share, self.rng = share, rng
        self.masks: list[Tensor] = []
        self.calls = self.within = 0

    def enter(self, module: nn.Module, args: Any) -> None:
        """A layer of LAYERS begins: what it calls is its own business."""
        self.within += 1

    def leave(self, module: nn.Module, args: Any, result: Tensor) -> Tensor:
        """It ends with the activity of its neurons."""
        self.within -= 1
        return self.silence(result)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outside = func in ACTIVATIONS and not self.within
        return self.silence(result) if outside else result

    def silence(self, result: Tensor) -> Tensor:
        """result, the activity of the next population, in which the same units are zero."""
        if self.calls == len(self.masks):
            self.masks.append(self._mask(result))
        self.calls += 1
        return result.mul_(self.masks[self.calls - 1])

    def _mask(self, result: Tensor) -> Tensor:
        size = result[0].numel()
        alive = np.ones(size, np.float32)
        alive[self.rng.permutation(size)[: int(half_up(self.share * size))]] = 0
        return torch.from_numpy(alive).to(result).reshape(result.shape[1:])


@contextmanager
def dead_neurons(
    network: nn.Module, share: float, rng: np.random.Generator
) -> Iterator[Callable[[Tensor], Any]]:
    """A function like `network`, in which half_up(share * N) units of every activation are zero.

    Activations are calls of ACTIVATIONS, wherever the network makes them, and LAYERS; the first
    dimension of their results is the batch. Raises InputError, once called, where there are none.
    """
    deaths = _Deaths(share, rng)
    hooks = [
        hook
        for module in network.modules()
        if isinstance(module, LAYERS)
        for hook in (
            module.register_forward_pre_hook(deaths.enter),
            module.register_forward_hook(deaths.leave),
        )
    ]

    def forward(images: Tensor) -> Any:
        deaths.calls = deaths.within = 0
        with torch.no_grad(), deaths:
            result = network(images)
        if not deaths.calls:
            raise InputError(
                f"fault dead: {type(network).__name__}",
                "the network has activations that are known",
                found="none",
                allowed="relu, sigmoid, tanh and others of torch.nn.functional",
                remedy="Leave this fault out for this network.",
            )
        return result

    try:
        yield forward
    finally:
        for hook in hooks:
            hook.remove()
