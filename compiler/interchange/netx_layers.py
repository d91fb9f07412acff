"""What the layers of a `.net` file mean to netx, each value checked; what netx skips is refused.

Everything that netx runs otherwise than the file says, or does not read, becomes a note.
Source: lava-dl 0.6, lava/lib/dl/netx/hdf5.py and netx/utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np

from lapilli.compiler.interchange.netx_file import NetxFile, Tree, keys, refuse
from lapilli.compiler.interchange.netx_weights import MAX_WEIGHT
from lapilli.compiler.linear import Shape
from lapilli.compiler.numerics import Int64Array, drop_fraction
from lapilli.compiler.soundness import MAX_TAPS

MAX_NEURONS = 2**24
"""Of one layer: beyond any chip, and 128 MB as int64."""
MAX_DELAY = 62
MAX_GEOMETRY = 127
"""Lava's Conv keeps kernel, stride, padding, dilation and groups in 8 bits."""
UNITY = 4096
UNIT = 6
"""Binary places of weights, thresholds and biases in a file."""
Notes = list[str]


@final
@dataclass(frozen=True)
class Cuba:
    """A LIF neuron in the file's units (real * 64); decays are 12-bit fractions."""

    threshold: int
    current_decay: int
    voltage_decay: int


@final
@dataclass(frozen=True)
class Sdnn:
    """A sigma-delta neuron in the file's units; sigma: it only adds up (the key sigma_output)."""

    threshold: int
    sigma: bool


Neuron = Cuba | Sdnn
INTEGRATOR = Cuba(threshold=2**17, current_decay=0, voltage_decay=UNITY)
"""What netx takes for a dense layer without a neuron; it never fires."""


@final
@dataclass(frozen=True, eq=False)
class Geometry:
    """Of a convolution, all (y, x)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@final
@dataclass(frozen=True, eq=False)
class Layer:
    """One layer that computes, or the input without a neuron; shape is (C, H, W) or (N,).

    weight: (out, in), or (O, C / groups, kH, kW); recurrent: (out, out); bias: one per channel or
    output, or of shape; delay: (out, in) steps. flatten: the layer reads its input flattened.
    """

    name: str
    where: str
    kind: str
    shape: Shape
    neuron: Neuron | None = None
    weight: Int64Array = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    recurrent: Int64Array | None = None
    bias: Int64Array | None = None
    delay: Int64Array | None = None
    geometry: Geometry | None = None
    flatten: bool = False


def layers(file: NetxFile) -> tuple[tuple[Layer, ...], Notes]:
    """The layers in order, flatten layers dropped, and what is to be told about them."""
    found: list[Layer] = []
    notes: Notes = []
    flatten = ""
    for i, tree in enumerate(file.layers):
        kind = tree.get("type")
        where = f"{file.path}: /layer/{i}"
        if not isinstance(kind, str):
            raise refuse(f"{where}/type", "every layer has a type", "none", "a text")
        where = f"{where} ({kind})"
        if kind == "flatten":
            flatten = where
            continue
        if kind not in KINDS:
            reason = REFUSED.get(kind, "netx knows no such layer, and skips it without a word")
            raise refuse(
                where,
                f"layer type {kind!r} can be imported: {reason}",
                kind,
                ", ".join([*KINDS, "flatten"]),
                "Train the network without it.",
            )
        if flatten and kind not in ("dense", "dense_rec"):
            raise _misplaced(flatten, kind)
        reader = _Reader(f"layer{i}.{kind}", where, tree, notes)
        reader.tell_unknown()
        found.append(KINDS[kind](reader, bool(flatten)))
        flatten = ""
    if flatten:
        raise _misplaced(flatten, "nothing")
    return tuple(found), notes


def _misplaced(where: str, found: str) -> Exception:
    rule = "flatten stands before a dense layer: netx would put it before the next dense one"
    return refuse(where, rule, f"before {found}", "dense, dense_rec")


REFUSED: Final = {
    "pool": "netx does not implement it",
    "convT": "netx does not implement it",
    "unpool": "netx does not implement it",
    "average": "netx does not implement it",
    "concat": "netx does not implement it",
    "dense_comp": "netx has no complex dense layer by this name",
}
_NEURON_KEYS = {"type", "iDecay", "vDecay", "vThMant", "refDelay", "gradedSpike", "activation"} | {
    *("sigma_output", "scaleRho", "tauRho", "theta", "wgtExp"),
}
_LAYER_KEYS = {"type", "shape", "neuron", "weight", "weight_rec", "bias", "delay"} | {
    *("stride", "padding", "dilation", "groups"),
    *("inFeatures", "outFeatures", "inChannels", "outChannels", "kernelSize"),
}


@final
@dataclass(frozen=True)
class _Reader:
    """Checked access to one layer."""

    name: str
    where: str
    tree: Tree
    notes: Notes

    def note(self, text: str) -> None:
        self.notes.append(f"{self.name}: {text}")

    def tell_unknown(self) -> None:
        neuron = self.tree.get("neuron")
        inner = neuron if isinstance(neuron, dict) else {}
        if "messageBits" in inner:
            rule = "messageBits is absent: netx cannot run a network that has it"
            raise refuse(f"{self.where}/neuron", rule, "messageBits", "no such key")
        unknown = sorted({*self.tree} - _LAYER_KEYS)
        unknown += [f"neuron/{key}" for key in sorted({*inner} - _NEURON_KEYS)]
        if unknown:
            shown = ", ".join(ascii(key)[1:-1] for key in unknown)
            self.note(f"not read, as netx does not: {shown[:200]}")

    def numbers(self, key: str, tree: Tree | None = None, prefix: str = "") -> np.ndarray[Any, Any]:
        """The numbers of a dataset, finite and of 32 bits."""
        values = (self.tree if tree is None else tree).get(key)
        where = f"{self.where}/{prefix}{key}"
        if not isinstance(values, np.ndarray):
            found = "a text" if isinstance(values, str) else "a group" if values else "nothing"
            raise refuse(where, "is an array of numbers", found, "a dataset")
        if values.size and not (
            np.isfinite(values).all() and -MAX_WEIGHT <= values.min() <= values.max() <= MAX_WEIGHT
        ):
            found = f"{values.min()}..{values.max()}"
            raise refuse(where, "numbers are finite and have 32 bits", found, f"+-{MAX_WEIGHT}")
        return values

    def whole(self, key: str) -> Int64Array:
        """As netx reads weights, biases and delays: with their fractions dropped."""
        values = self.numbers(key)
        result = drop_fraction(values)
        dropped = int(np.count_nonzero(result != values))
        if dropped:
            self.note(f"netx drops the fractions of {dropped} of {values.size} values of {key}")
        return result

    def integer(
        self, key: str, low: int, high: int, tree: Tree | None = None, prefix: str = ""
    ) -> int:
        """One integer of a range."""
        values = self.numbers(key, tree, prefix)
        found = values.tolist() if values.size < 9 else f"shape {values.shape}"
        good = values.size == 1 and values.dtype.kind in "iu"
        if not good or not low <= values.item() <= high:
            rule, allowed = "is one integer in range", f"{low}..{high}, of an integer type"
            raise refuse(f"{self.where}/{prefix}{key}", rule, found, allowed)
        return int(values.item())

    def sizes(self, key: str, ranks: tuple[int, ...], low: int, high: int) -> tuple[int, ...]:
        """A list of integers, as long as one of `ranks`; a scalar counts as one."""
        values = self.numbers(key).reshape(-1)
        good = values.dtype.kind in "iu" and len(values) in ranks
        if not good or not all(low <= value <= high for value in values.tolist()):
            rule = f"is {' or '.join(map(str, ranks))} integers in range"
            found = f"{values.dtype} {values[:8].tolist()}"
            raise refuse(f"{self.where}/{key}", rule, found, f"{low}..{high}")
        return tuple(int(value) for value in values)

    def pair(self, key: str, low: int) -> tuple[int, int]:
        """(y, x) of a convolution."""
        found = self.sizes(key, (1, 2), low, MAX_GEOMETRY)
        return found[0], found[-1]

    def shape(self, ranks: tuple[int, ...]) -> Shape:
        """The layer's shape, (C, H, W) or (N,)."""
        shape = self.sizes("shape", ranks, 1, MAX_NEURONS)
        if math.prod(shape) > MAX_NEURONS:
            raise refuse(f"{self.where}/shape", "layers have a usual size", shape, MAX_NEURONS)
        return shape

    def neuron(self) -> Neuron | None:
        """The neuron model; None where there is no group for it."""
        tree = self.tree.get("neuron")
        if tree is None:
            return None
        where = f"{self.where}/neuron"
        kind = tree.get("type") if isinstance(tree, dict) else None
        if not isinstance(tree, dict) or not isinstance(kind, str):
            raise refuse(where, "a neuron has a type", "none", "a group with a text type")
        if kind in ("CUBA", "LOIHI"):
            return self._cuba(tree)
        if kind == "SDNN":
            sigma = "sigma_output" in tree
            activation = tree.get("activation", "relu")
            if str(activation).lower() != "relu" and not sigma:
                self.note(f"netx runs ReLU, whatever the file says: activation {activation!r}")
            # netx does not read the threshold of neurons that only add up.
            threshold = 0 if sigma else self._neuron_integer(tree, "vThMant", 2**11 - 1)
            return Sdnn(threshold, sigma)
        reason = "resonators are complex" if "RF" in kind else "netx knows no such neuron"
        raise refuse(where, f"the neuron can be imported: {reason}", kind, "CUBA, LOIHI, SDNN")

    def _cuba(self, tree: Tree) -> Cuba:
        for key, usual in (("refDelay", 1), ("gradedSpike", False)):
            value = tree.get(key)
            if isinstance(value, np.ndarray) and value.size == 1 and value.item() != usual:
                self.note(f"netx ignores {key} {value.item()}")
        return Cuba(
            self._neuron_integer(tree, "vThMant", 2**23 - 1),
            self._neuron_integer(tree, "iDecay", UNITY),
            self._neuron_integer(tree, "vDecay", UNITY),
        )

    def _neuron_integer(self, tree: Tree, key: str, high: int) -> int:
        return self.integer(key, 0, high, tree, "neuron/")


def _input(reader: _Reader, flatten: bool) -> Layer:
    neuron = reader.neuron()
    given = [
        key for key in ("weight", "bias") if key in reader.tree and reader.numbers(key).size == 1
    ]
    if given and neuron is not None:
        values = ", ".join(f"{key} {reader.numbers(key).reshape(-1)[:3].tolist()}" for key in given)
        reader.note(f"netx does not apply the input transform ({values}): inputs come transformed")
    return Layer(reader.name, reader.where, "input", reader.shape((1, 2, 3)), neuron)


def _dense(reader: _Reader, flatten: bool) -> Layer:
    if isinstance(reader.tree.get("weight"), dict):
        rule = "weights are real: complex dense layers (RF neurons) cannot be imported"
        raise refuse(f"{reader.where}/weight", rule, "a group", "a dataset (out, in)")
    size = math.prod(reader.shape((1, 2, 3)))
    neuron = reader.neuron()
    if neuron is None:
        reader.note("no neuron: as in netx it adds up and never fires")
        neuron = INTEGRATOR
    weight = _matrix(reader, "weight", size)
    recurrent = None
    if reader.name.endswith("dense_rec"):
        recurrent = _matrix(reader, "weight_rec", size)
        if recurrent.shape != (size, size):
            rule = "recurrent weights join the layer with itself"
            raise refuse(f"{reader.where}/weight_rec", rule, recurrent.shape, (size, size))
    bias = None
    if "bias" in reader.tree:
        bias = reader.whole("bias")
        if bias.shape not in ((), (size,)):
            raise refuse(f"{reader.where}/bias", "one per neuron", bias.shape, (size,))
    delay = _delay(reader, weight.shape) if "delay" in reader.tree else None
    if delay is not None and recurrent is not None and weight.shape != recurrent.shape:
        rule = "netx uses one array of delays for both matrices of a recurrent layer"
        raise refuse(f"{reader.where}/delay", rule, weight.shape, recurrent.shape)
    return Layer(
        *(reader.name, reader.where, "dense", (size,), neuron, weight, recurrent, bias, delay),
        flatten=flatten,
    )


def _matrix(reader: _Reader, key: str, size: int) -> Int64Array:
    weight = reader.whole(key)
    if weight.ndim == 1 and weight.size % size == 0:
        weight = weight.reshape(size, -1)
    if weight.ndim != 2 or len(weight) != size or not weight.size:
        raise refuse(f"{reader.where}/{key}", "weights are (out, in)", weight.shape, f"({size}, n)")
    return weight


def _delay(reader: _Reader, shape: Shape) -> Int64Array:
    delay = reader.whole("delay")
    highest = reader.numbers("delay").max(initial=0)
    if highest > MAX_DELAY:
        reader.note(f"netx limits delays of up to {highest:g} to 0..{MAX_DELAY}")
        delay = np.clip(delay, 0, MAX_DELAY)
    if delay.min(initial=0) < 0:
        raise refuse(f"{reader.where}/delay", "delays are not negative", delay.min(), "0..62")
    if delay.shape == (shape[0],):
        if delay.any():
            reader.note("netx delays the inputs of each neuron, where slayer delays its spikes")
        delay = delay[:, np.newaxis]
    elif delay.shape not in ((), (shape[1],), shape):
        allowed = f"(), ({shape[0]},), ({shape[1]},) or {shape}"
        raise refuse(f"{reader.where}/delay", "delays fit the weights", delay.shape, allowed)
    return np.broadcast_to(delay, shape)


def _conv(reader: _Reader, flatten: bool) -> Layer:
    neuron = reader.neuron()
    if neuron is None:
        rule = "a convolution has a neuron, or netx cannot build it"
        raise refuse(reader.where, rule, keys(reader.tree), "a group neuron")
    if "delay" in reader.tree:
        reader.note("netx ignores the delays of a convolution")
    weight = reader.whole("weight")
    weight = weight[..., 0] if weight.ndim == 5 and weight.shape[4] == 1 else weight
    if weight.ndim != 4 or not weight.size or math.prod(weight.shape[2:]) > MAX_TAPS:
        rule = "weights are (O, C / groups, kH, kW)"
        raise refuse(f"{reader.where}/weight", rule, weight.shape, "four axes")
    shape = reader.shape((3,))
    bias = None
    if "bias" in reader.tree:
        bias = reader.whole("bias")
        if bias.shape == shape[::-1]:  # one per neuron, in Lava's order (W, H, C)
            bias = bias.transpose()
        elif bias.shape == shape[:1]:
            bias = bias.reshape(-1, 1, 1)
        else:
            raise refuse(f"{reader.where}/bias", "one per channel", bias.shape, shape[:1])
    geometry = Geometry(
        reader.pair("stride", 1),
        reader.pair("padding", 0),
        reader.pair("dilation", 1),
        reader.integer("groups", 1, MAX_GEOMETRY),
    )
    return Layer(
        *(reader.name, reader.where, "conv", shape, neuron, weight),
        bias=bias,
        geometry=geometry,
    )


KINDS: Final[dict[str, Callable[[_Reader, bool], Layer]]] = {
    "input": _input,
    "dense": _dense,
    "dense_rec": _dense,
    "conv": _conv,
}
"""Every layer type that is imported, beside flatten."""
