"""A network of spiking layers over the steps of its window, and its way to the compiler."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.convert_fast_snn import FastSNN
from lapilli.compiler.passes.convert_lm_ht import LMHT
from lapilli.compiler.passes.convert_rate import Rate
from lapilli.compiler.passes.mixed_levels import written
from lapilli.compiler.training.spiking_layers import (
    IF,
    MultiThreshold,
    SignedIF,
    SpikingLayer,
    checked_count,
)


@final
class SpikingNetwork(nn.Module):
    """`network`, whose activations are spiking layers, run for `steps` steps of one image.

    network: takes (N, ...) and returns a tensor, or tuples, lists and dicts of tensors, (N, ...).
    Its layers get the number of steps. Raises InputError for networks without spiking layers, and
    for steps that a layer which mixes them was not made for.
    """

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        self.network = network
        self.steps = checked_count("SpikingNetwork", "steps", steps)
        for layer in self.layers().values():
            layer.steps = steps

    def layers(self) -> dict[str, SpikingLayer]:
        """The spiking layers by the names of their places in `network`."""
        found = {n: m for n, m in self.network.named_modules() if isinstance(m, SpikingLayer)}
        if not found:
            raise InputError(
                type(self.network).__name__,
                "a spiking network has spiking layers",
                found="none",
                allowed="IF, SignedIF or MultiThreshold in place of activations",
                remedy="Put them in with lapilli.compiler.training.substitution.substituted.",
            )
        return found

    def forward(self, x: Tensor) -> Any:
        """What the network returns for images (N, ...), as the mean over the steps."""
        return _each(lambda y: y.mean(0), self.per_step(x))

    def per_step(self, x: Tensor) -> Any:
        """What the network returns in each step, (T, N, ...), with the image in every step."""
        folded = self.network(x.repeat(self.steps, *(1,) * (x.ndim - 1)))
        return _each(lambda y: y.reshape(self.steps, -1, *y.shape[1:]), folded)

    def analog(self) -> nn.Module:
        """A copy to be compiled: every layer as the staircase that answers a constant drive."""
        network = copy.deepcopy(self.network).eval()
        for module in network.modules():
            if isinstance(module, SpikingLayer):
                module.analog = True
        return network

    def method(self) -> Rate | FastSNN | LMHT:
        """The conversion under which a netlist computes what was trained.

        Thresholds, leaks and mixed steps are the layers' own. Max pools of spikes are compiled as
        those of counts, which is something else where there are several steps: the kinds of recipes
        refuse them (`pools_of_spikes.check_pools`). Raises InputError for layers of
        several kinds, or with differing resets or starts of IF.
        """
        found = self.layers()
        layers = list(found.values())
        kinds = {type(layer) for layer in layers}
        first = layers[0]
        if len(kinds) == 1 and isinstance(first, SignedIF):
            return FastSNN(levels=self.steps, settle=False)
        if len(kinds) == 1 and isinstance(first, MultiThreshold):
            return _lm_ht({n: m for n, m in found.items() if isinstance(m, MultiThreshold)})
        alike = {(m.initial, m.reset) for m in layers if isinstance(m, IF)}
        if kinds == {IF} and len(alike) == 1 and isinstance(first, IF):
            return Rate(steps=self.steps, initial=first.initial, reset=first.reset)
        raise InputError(
            "SpikingNetwork",
            "all layers are of one kind, with one start and one reset",
            found=", ".join(sorted({f"{type(m).__name__}({m.extra_repr()})" for m in layers})),
            allowed="one method's neurons",
            remedy="Use the same layer everywhere.",
        )


def _lm_ht(layers: dict[str, MultiThreshold]) -> LMHT:
    """keep and mixing say what all layers have in common: each brings its own along."""
    every = list(layers.values())
    mixing = {m.mixing for m in every}
    keeps = {float(m.kept().detach()) for m in every}
    most = max(m.levels for m in every)
    return LMHT(
        levels=most,
        steps=every[0].steps,
        keep=keeps.pop() if len(keeps) == 1 else 1.0,
        mixing=mixing.pop() if len(mixing) == 1 else "none",
        mixed=written({name: m.levels for name, m in layers.items() if m.levels != most}),
    )


def _each(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, _each(change, item)) for key, item in value.items())
    items = [_each(change, item) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
