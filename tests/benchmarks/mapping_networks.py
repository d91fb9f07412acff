"""Networks to be laid out on cores: those that others published core counts of, and large ones.

    python tests/benchmarks/mapping_networks.py [NAME...] [--cache FOLDER]

Structure is what counts: integer weights are random and small. The classifiers of vision are real
networks with random weights, compiled as a user compiles them; --cache keeps them as files. A
published network with hardware's own input layer has a population of neurons that the host drives.
"""

from __future__ import annotations

import argparse
import math
import resource
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from netlists import connection, integers, population, proven

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.linear import Conv, Dense, Diagonal, LinearMap, Shape, frozen
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    LIF,
    HardResetIF,
    NeuronModel,
    Readout,
    SigmaDelta,
    SoftResetIF,
    Source,
    Window,
)

ROOT = Path(__file__).resolve().parents[2]
ZERO = integers(0)
MOST = 4
"""Magnitude of the random weights: proven reaches stay within 24 bits, whatever the depth."""
Pair = tuple[int, int]


class Chain:
    """A network of layers one behind the other, from the input to a readout."""

    def __init__(self, shape: Shape, source: Source, neuron: NeuronModel, steps: int, seed: int):
        self._rng = np.random.default_rng(seed)
        self._neuron, self._steps = neuron, steps
        self._populations: list[Population] = [population("input", shape, source)]
        self._connections: list[Connection] = []

    @property
    def shape(self) -> Shape:
        """Of the last layer."""
        return self._populations[-1].shape

    def add(self, name: str, linear_map: LinearMap, neuron: NeuronModel | None = None) -> None:
        """A population that the last one drives."""
        self._connections.append(connection(self._populations[-1].name, name, linear_map))
        self._populations.append(population(name, linear_map.out_shape, neuron or self._neuron))

    def spikes(self, name: str, neuron: NeuronModel | None = None) -> None:
        """Neurons that take what the last population sends, one each."""
        self.add(name, Diagonal(frozen(1, np.int8), self.shape, self.shape), neuron)

    def conv(
        self,
        name: str,
        channels: int,
        kernel: int,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        size: Pair | None = None,
        depthwise: bool = False,
    ) -> None:
        """A convolution; size: of the output, where it reads beyond the far borders."""
        inputs, *plane = self.shape
        groups = inputs if depthwise else 1
        weight = self._weights((channels, inputs // groups, kernel, kernel))
        size = size or (
            (plane[0] + 2 * padding[0] - kernel) // stride[0] + 1,
            (plane[1] + 2 * padding[1] - kernel) // stride[1] + 1,
        )
        shape = (channels, *size)
        self.add(name, Conv(weight, self.shape, shape, stride, padding, (1, 1), groups))

    def average(self, name: str, window: int) -> None:
        """An average pool with neurons of its own."""
        channels, height, width = self.shape
        weight = frozen(np.ones((channels, 1, window, window)), np.int8)
        shape, step = (channels, height // window, width // window), (window, window)
        self.add(name, Conv(weight, self.shape, shape, step, (0, 0), (1, 1), channels))

    def dense(self, name: str, outputs: int, neuron: NeuronModel | None = None) -> None:
        """A fully connected layer."""
        weight = self._weights((outputs, math.prod(self.shape)))
        self.add(name, Dense(weight, self.shape, (outputs,)), neuron)

    def read(self, name: str, outputs: int) -> Netlist:
        """The network with a fully connected readout behind its last layer."""
        self.dense(name, outputs, Readout(ZERO, ZERO))
        netlist = Netlist(tuple(self._populations), tuple(self._connections), self._steps)
        return proven(netlist)

    def _weights(self, shape: Shape) -> Any:
        return frozen(self._rng.integers(-MOST, MOST + 1, shape, dtype=np.int8))


PILOT_NET: tuple[tuple[int, Pair, Pair], ...] = (
    (24, (2, 2), (0, 0)),
    (36, (2, 2), (0, 0)),
    (48, (2, 2), (0, 0)),
    (64, (1, 2), (0, 1)),
    (64, (1, 1), (0, 0)),
)
"""Channels, stride, padding of PilotNet's 3x3 convolutions (lava-dl, netx/pilotnet_sdnn)."""


def _pilot_net(chain: Chain) -> Netlist:
    for index, (channels, stride, padding) in enumerate(PILOT_NET, start=1):
        chain.conv(f"conv{index}", channels, 3, stride, padding)
    for outputs in (100, 50, 10):
        chain.dense(f"dense{outputs}", outputs)
    return chain.read("dense1", 1)


def pilot_net_sdnn() -> Netlist:
    """200x66x3, sigma-delta neurons; frames are encoded as changes off chip."""
    neuron = SigmaDelta(integers(64), ZERO, integers(32), 7)
    return _pilot_net(Chain((3, 200, 66), Source(0, 15, "changes"), neuron, 1, seed=1))


def pilot_net_lif() -> Netlist:
    """200x66x3, leaky neurons, with a layer of neurons for the input."""
    neuron = LIF(integers(64), ZERO, 1024, 128)
    chain = Chain((3, 200, 66), Source(0, 15, "held"), neuron, 16, seed=2)
    chain.spikes("image")
    return _pilot_net(chain)


def mnist_mlp() -> Netlist:
    """784-128-64-10, leaky neurons; the input's spikes come from off chip."""
    chain = Chain((784,), Source(0, 1, "train"), LIF(integers(64), ZERO, 1024, 128), 32, seed=3)
    chain.dense("dense128", 128)
    chain.dense("dense64", 64)
    return chain.read("dense10", 10)


CIFAR_MOBILE_NET: tuple[tuple[int, int], ...] = (
    *((64, 1), (128, 2), (128, 1)),  # channels, stride of the depthwise convolution before
    *((256, 2), (256, 1)),
)


def cifar_mobile_net() -> Netlist:
    """NxTF's pseudo-MobileNet, 32x32x3, soft reset; input on chip, 76,810 neurons behind it."""
    neuron = SoftResetIF(integers(4096), ZERO, integers(2048))
    chain = Chain((3, 32, 32), Source(0, 255, "held"), neuron, 512, seed=4)
    chain.spikes("image", HardResetIF(integers(255), ZERO, ZERO))
    # Keras pads at the far borders only where it strides over an even plane.
    chain.conv("conv", 32, 3, (2, 2), size=(16, 16))
    for index, (channels, stride) in enumerate(CIFAR_MOBILE_NET, start=1):
        inputs, height, width = chain.shape
        padding, size = 2 - stride, (height // stride, width // stride)
        step = (stride, stride)
        chain.conv(f"dw{index}", inputs, 3, step, (padding, padding), size, depthwise=True)
        chain.conv(f"pw{index}", channels, 1)
    chain.average("pool", 2)
    return chain.read("dense", 10)


def mobile_net() -> Netlist:
    """MobileNet of 28 layers, 4.2 M parameters, 128x128, reset to zero, input on chip.

    NxTF's network of 16 chips is only described so; these are the layers of Howard et al. 2017.
    """
    neuron = HardResetIF(integers(4096), ZERO, ZERO)
    chain = Chain((3, 128, 128), Source(0, 255, "held"), neuron, 64, seed=5)
    chain.spikes("image", HardResetIF(integers(255), ZERO, ZERO))
    chain.conv("conv", 32, 3, (2, 2), size=(64, 64))
    layers = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    layers += [*[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for index, (channels, stride) in enumerate(layers, start=1):
        inputs, height, width = chain.shape
        padding, size = 2 - stride, (height // stride, width // stride)
        step = (stride, stride)
        chain.conv(f"dw{index}", inputs, 3, step, (padding, padding), size, depthwise=True)
        chain.conv(f"pw{index}", channels, 1)
    chain.average("pool", 4)
    return chain.read("dense", 1000)


def billion(layers: int = 8) -> Netlist:
    """Convolutions over planes of 2048x2048, 134 M neurons each: 1.11 G neurons in all."""
    neuron = Window(integers(2048), ZERO, integers(1024), 3, "graded")
    chain = Chain((3, 2048, 2048), Source(0, 15, "first"), neuron, 1, seed=6)
    for index in range(1, layers + 1):
        chain.conv(f"conv{index}", 32, 3, padding=(1, 1))
    for channels, stride in ((32, 2), (64, 4), (64, 4), (128, 8)):
        height = chain.shape[1] // stride
        name = f"plane{height}"
        chain.conv(name, channels, 3, (stride, stride), (1, 1), (height, height))
    return chain.read("dense", 10)


def resnet20() -> Artifact:
    """The ResNet-20 of the examples, 32x32, compiled; random weights."""
    import public_networks

    images = public_networks.images(1, 32)
    network = runpy.run_path(str(ROOT / "examples" / "03_resnet20.py"))["ResNet20"]()
    return _compiled(public_networks.with_statistics(network, images), images)


def classifier(name: str) -> Artifact:
    """A classifier of torchvision at 224x224, compiled; random weights, one image."""
    import public_networks

    images = public_networks.images(1, 224)
    return _compiled(public_networks.built(name, images), images)


def _compiled(network: Any, images: Any) -> Artifact:
    return lapilli.compile(
        network,
        calibration=images,
        method=lapilli.methods.Parallel(levels=8),
        profile="loihi2",
        calibrate="none",
    )


BUILT: Mapping[str, Callable[[], Netlist]] = MappingProxyType(
    {
        "pilotnet-sdnn": pilot_net_sdnn,
        "pilotnet-lif": pilot_net_lif,
        "mnist-mlp": mnist_mlp,
        "cifar-mobilenet": cifar_mobile_net,
        "mobilenet-28": mobile_net,
        "billion": billion,
    }
)
"""Networks that are built here, in seconds."""
COMPILED: Mapping[str, Callable[[], Artifact]] = MappingProxyType(
    {
        "resnet20": resnet20,
        **{name: partial(classifier, name) for name in ("resnet50", "mobilenet_v2", "vgg16")},
    }
)
"""Networks that are compiled, in minutes."""
NAMES = (*BUILT, *COMPILED)


def load(name: str, cache: Path | None = None) -> Netlist:
    """A network by name; those that are compiled are kept in the folder `cache`, if given."""
    if name not in COMPILED:
        return BUILT[name]()
    if cache is None:
        return COMPILED[name]().netlist
    path = cache / f"{name}.h5"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        COMPILED[name]().save(path)
    return lapilli.load(path).netlist


def main() -> int:
    """Build networks and say what they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--cache", type=Path, help="folder of compiled networks")
    options = parser.parse_args()
    for name in options.names or NAMES:
        start = time.perf_counter()
        netlist = load(name, options.cache)
        seconds = time.perf_counter() - start
        neurons = sum(p.size for p in netlist.populations[1:])
        weights = sum(c.map.weight.size for c in netlist.connections)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name:<16} {neurons:>14,} neurons {weights:>12,} weights "
            f"{sum(c.map.dense_macs for c in netlist.connections):>16,} synapses "
            f"{len(netlist.populations):>4} populations {seconds:6.1f} s {peak:5.2f} GiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
