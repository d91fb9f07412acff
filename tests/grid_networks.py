"""Networks whose weights, biases and thresholds are multiples of powers of two.

Quantising them loses nothing (`assert_lossless` says so), so that a netlist has to send, step by
step, what the layers that were trained send.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.linear import Array
from lapilli.compiler.numerics import FloatArray
from lapilli.layers import MultiThreshold, SpikingLayer, SpikingNetwork

Make = Callable[[str], nn.Module]
INPUT_STEP = 1 / 128


class Residual(nn.Module):
    """Four activations, one of them of a sum, and pooling by averages of four."""

    def __init__(self, make: Make, shortcut: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.act = make("act")
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.between = make("between")
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.summed = make("summed")
        self.shortcut = shortcut
        self.pool = nn.AvgPool2d(2)
        self.dense = nn.Linear(16, 6)
        self.hidden = make("hidden")
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = self.pool(self.summed(self.third(self.between(self.second(x))) + x * self.shortcut))
        y: Tensor = self.out(self.hidden(self.dense(x.flatten(1))))
        return y


def odd(steps: int) -> int:
    """The odd factor of the steps: what means over them are to be multiples of."""
    return steps // (steps & -steps)


def on_grid(network: nn.Module, seed: int, single: bool = False, times: int = 1) -> nn.Module:
    """Weights 4 n / 256, -25 <= n <= 31, the first of every row 127 / 256; biases times m / 64.

    So the largest weight takes all bits, and spikes worth up to four times less are whole, too.
    single: weights are -1/4, 0 or 1/4, so that they are whole times any share of the steps, too.
    """
    rng = np.random.default_rng(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            shape = tuple(module.weight.shape)
            weight = 64 * rng.integers(-1, 2, shape) if single else 4 * rng.integers(-25, 32, shape)
            weight.reshape(len(weight), -1)[:, 0] = 64 if single else 127
            bias = times * rng.integers(-16, 33, len(weight))
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(weight / 256))
                assert module.bias is not None
                module.bias.copy_(torch.from_numpy(bias / 64))
    return network.eval()


def images(count: int, seed: int = 0, times: int = 1) -> FloatArray:
    """(N, 1, 4, 4) on the grid of the input, whose largest value is among them."""
    x = np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4))
    x[:, 0, 0, 0] = 255
    return (x * times * INPUT_STEP).astype(np.float32)


def network(
    make: Callable[[str], SpikingLayer], steps: int, seed: int, single: bool = False
) -> SpikingNetwork:
    """Thresholds are to be multiples of odd(steps), as the biases are."""
    shortcut = 1.0 if single else 127 / 128
    return SpikingNetwork(on_grid(Residual(make, shortcut), seed, single, odd(steps)), steps)


def compiled(trained: SpikingNetwork, x: FloatArray) -> Artifact:
    return lapilli.compile(trained.analog(), calibration=x, method=trained.method())


def counts_per_step(trained: SpikingNetwork, x: FloatArray) -> tuple[dict[str, Array], Array]:
    """Spikes of every layer, (N, T, *shape), in spikes, and the outputs (N, ...)."""
    sent: dict[str, Array] = {}

    def keep(name: str, layer: SpikingLayer) -> None:
        def hook(module: nn.Module, args: object, y: Tensor) -> None:
            levels = layer.levels if isinstance(layer, MultiThreshold) else 1
            one = (layer.threshold / levels).reshape(-1, *(1,) * (y.ndim - 2))
            counts = (y / one).unflatten(0, (layer.steps, -1)).transpose(0, 1)
            sent[name] = counts.detach().numpy()

        hooks.append(layer.register_forward_hook(hook))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in trained.layers().items():
        keep(name, layer)
    outputs = trained(torch.from_numpy(x)).detach().numpy()
    for handle in hooks:
        handle.remove()
    return sent, outputs


def assert_lossless(net: Artifact, trained: SpikingNetwork) -> None:
    """Thresholds in the netlist's units stand for exactly those of the layers."""
    for name, layer in trained.layers().items():
        levels = layer.levels if isinstance(layer, MultiThreshold) else 1
        for p in net.netlist.populations:
            if p.name == name or p.name.startswith(f"{name}.t"):
                threshold = np.asarray(p.neuron.threshold * p.state_scale)  # type: ignore[attr-defined]
                wide = (layer.threshold.detach() / levels).reshape(-1, *(1,) * (len(p.shape) - 1))
                expected = np.broadcast_to(wide.numpy(), p.shape)
                np.testing.assert_array_equal(np.broadcast_to(threshold, p.shape), expected)


def assert_same_spikes(trained: SpikingNetwork, x: FloatArray) -> dict[str, Array]:
    """The netlist's spikes on the reference engine are the layers', in every step."""
    net = compiled(trained, x)
    assert_lossless(net, trained)
    expected, outputs = counts_per_step(trained, x)
    trace = lapilli.run(net, x, record="spikes")
    for name, train in expected.items():
        if name in trace.spikes:
            np.testing.assert_array_equal(trace.spikes[name], train, name)
            continue
        for t in range(trained.steps):
            np.testing.assert_array_equal(trace.counts[f"{name}.t{t}"], train[:, t], f"{name} {t}")
    np.testing.assert_allclose(trace.outputs, outputs, rtol=1e-6)  # a mean of floats
    return expected
