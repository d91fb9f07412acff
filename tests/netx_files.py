"""Small `.net` files as slayer's export writes them, for the tests of the import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Layer = dict[str, Any]


def write(path: Path, layers: list[Layer]) -> Path:
    """A file of these layers; nested dicts become groups, a type is stored as slayer does."""
    with h5py.File(path, "w") as file:
        for i, layer in enumerate(layers):
            put(file.create_group(f"layer/{i}"), layer)
    return path


def put(group: h5py.Group, values: Mapping[str, Any]) -> None:
    """Datasets and groups by name."""
    for key, value in values.items():
        if isinstance(value, dict):
            put(group.create_group(key), value)
        elif key == "type" and group.name.count("/") == 2:
            group.create_dataset("type", (1,), "S10", [value.encode("ascii")])
        else:
            group[key] = value


def layer_types(path: Path) -> list[tuple[str, bool]]:
    """Type of every layer, and whether it has neurons."""
    with h5py.File(path) as file:
        layers = [file[f"layer/{i}"] for i in range(len(file["layer"]))]
        kinds = [np.asarray(layer["type"][()]).reshape(-1)[0].decode() for layer in layers]
        return [(kind, "neuron" in layer) for kind, layer in zip(kinds, layers, strict=True)]


def cuba(threshold: int = 40, current: int = 1024, voltage: int = 128, **more: Any) -> Layer:
    """A CUBA neuron."""
    return {
        **{"type": "CUBA", "iDecay": current, "vDecay": voltage, "vThMant": threshold},
        **{"refDelay": 1, "gradedSpike": False},
        **more,
    }


def sdnn(threshold: int = 3, **more: Any) -> Layer:
    """A sigma-delta neuron."""
    return {"type": "SDNN", "activation": "relu", "vThMant": threshold, **more}


def source(shape: tuple[int, ...], neuron: Layer | None = None, **more: Any) -> Layer:
    """The input layer."""
    given = {} if neuron is None else {"neuron": neuron}
    return {"type": "input", "shape": np.array(shape), **given, **more}


def dense(weight: Any, neuron: Layer | None = None, **more: Any) -> Layer:
    """A dense layer with weights (out, in)."""
    weight = np.asarray(weight)
    given = {"neuron": cuba() if neuron is None else neuron}
    shape = np.array([len(weight)])
    return {"type": "dense", "shape": shape, "weight": weight, **given, **more}


def dense_rec(weight: Any, weight_rec: Any, neuron: Layer | None = None, **more: Any) -> Layer:
    """A recurrent layer."""
    more = {"weight_rec": np.asarray(weight_rec), **more}
    return {**dense(weight, neuron, **more), "type": "dense_rec"}


def flatten(shape: tuple[int, ...]) -> Layer:
    """A flatten layer."""
    return {"type": "flatten", "shape": np.array([int(np.prod(shape)), 1, 1])}


def conv(
    weight: Any,
    in_shape: tuple[int, int, int],
    neuron: Layer | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    **more: Any,
) -> Layer:
    """A convolution with PyTorch's weights (O, C / groups, kH, kW)."""
    weight = np.asarray(weight)
    sizes = [
        (in_shape[a + 1] + 2 * padding[a] - dilation[a] * (weight.shape[a + 2] - 1) - 1)
        // stride[a]
        + 1
        for a in (0, 1)
    ]
    return {
        **{"type": "conv", "shape": np.array([len(weight), *sizes]), "weight": weight},
        **{"stride": np.array(stride), "padding": np.array(padding)},
        **{"dilation": np.array(dilation), "groups": groups},
        "neuron": cuba() if neuron is None else neuron,
        **more,
    }


def mixed(rng: np.random.Generator, *shape: int, top: int = 60) -> np.ndarray:
    """Weights of both signs, odd ones among them."""
    weight = rng.integers(-top, top + 1, shape)
    weight.flat[0], weight.flat[-1] = -top + 1, top - 1
    return weight
