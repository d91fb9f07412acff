"""What `robustness` compares: networks of either kind, asked for classes, faulty or not."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import lapilli
from lapilli import data, float_faults, scores
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.corruptions import generator
from lapilli.runtime import faults

Images = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]

BATCH = 256


@final
@dataclass(frozen=True)
class Fault:
    """One kind of imperfect hardware, see `FAULTS`."""

    strengths: tuple[float, ...]
    unit: str
    source: str
    most: float


FAULTS = {
    "weights": Fault(
        (0.02, 0.05, 0.1, 0.2, 0.3),
        "standard deviation, of each weight",
        "analog synapses that are written inexactly, or drift",
        math.inf,
    ),
    "dead": Fault(
        (0.01, 0.02, 0.05, 0.1, 0.2),
        "share of the neurons of every population",
        "neurons stuck at no spike",
        1.0,
    ),
}
"""Hardware faults, of netlists (`runtime.faults`) and of float networks (`float_faults`) alike."""


class Contestant(ABC):
    """A network that classifies images (N, ...) in 0..1, before any normalisation."""

    name: str

    @abstractmethod
    def classify(self, images: Images, *, strict: bool = False) -> Classes:
        """The class of each image (N,); strict: values out of the network's range are refused."""

    @abstractmethod
    def classify_with(self, fault: str, strength: float, seed: int, images: Images) -> Classes:
        """The same on hardware with a fault."""


@final
@dataclass(frozen=True)
class Compiled(Contestant):
    """A model file, on the reference engine."""

    name: str
    artifact: Artifact
    bits: int

    def classify(self, images: Images, *, strict: bool = False) -> Classes:
        return self._classes(self.artifact, images, strict)

    def classify_with(self, fault: str, strength: float, seed: int, images: Images) -> Classes:
        rng, netlist = generator(fault, seed), self.artifact.netlist
        if fault == "weights":
            netlist = faults.noisy_weights(netlist, strength, rng, self.bits)
        else:
            netlist = faults.dead_neurons(netlist, strength, rng)
        return self._classes(replace(self.artifact, netlist=netlist), images, False)

    def _classes(self, artifact: Artifact, images: Images, strict: bool) -> Classes:
        origin = artifact.provenance
        if origin.input_mean:
            images = data.normalise(images, origin.input_mean, origin.input_std)
        if not strict:
            # What an input cannot hold saturates; of clean images it would be a mistake.
            source, scale = artifact.netlist.source, artifact.netlist.input.state_scale
            images = np.clip(images, source.low * scale, source.high * scale)
        trace = lapilli.run(artifact, images, record="outputs")
        chosen = scores.choose(artifact.outputs, trace.named_outputs)
        return _checked(self.name, chosen.classes, chosen.reason, len(images))


@final
@dataclass(frozen=True)
class Float(Contestant):
    """A network of torch; mean, std: its normalisation per channel, or empty."""

    name: str
    network: nn.Module
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def classify(self, images: Images, *, strict: bool = False) -> Classes:
        return self._classes(self.network, images)

    def classify_with(self, fault: str, strength: float, seed: int, images: Images) -> Classes:
        rng = generator(fault, seed)
        with ExitStack() as stack:
            network: Any
            if fault == "weights":
                network = float_faults.noisy_weights(self.network, strength, rng)
            else:
                network = stack.enter_context(
                    float_faults.dead_neurons(self.network, strength, rng)
                )
            return self._classes(network, images)

    def _classes(self, network: Any, images: Images) -> Classes:
        if self.mean or self.std:
            images = data.normalise(images, self.mean, self.std)
        found = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                result = network(torch.from_numpy(images[start : start + BATCH]))
                values = result.numpy() if isinstance(result, torch.Tensor) else None
                classes = None if values is None else scores.classes(values)
                what = type(result).__name__ if values is None else f"shape {values.shape[1:]}"
                expected = len(images[start : start + BATCH])
                found.append(_checked(self.name, classes, f"it returns {what}", expected))
        return np.concatenate(found)


def contestant(
    name: str,
    model: object,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Contestant:
    """An Artifact, or a torch.nn.Module with its normalisation. Raises InputError for others."""
    if isinstance(model, Artifact):
        from lapilli import hardware_profiles

        known = model.provenance.profile in hardware_profiles.names()
        limits = hardware_profiles.load(model.provenance.profile).limits if known else None
        stored = limits.weight_bits if limits is not None else None
        return Compiled(name, model, int(stored.value) if stored else faults.WEIGHT_BITS)
    if isinstance(model, nn.Module):
        return Float(name, copy.deepcopy(model).eval(), tuple(mean), tuple(std))
    raise InputError(
        f"model {name}",
        "a model file or a network of torch is compared",
        found=type(model).__name__,
        allowed="Artifact or torch.nn.Module",
        remedy="Compile it first, or name the network's callable.",
    )


def _checked(name: str, classes: Classes | None, reason: str | None, images: int) -> Classes:
    if classes is not None and classes.shape == (images,):
        return classes
    raise InputError(
        f"model {name}",
        "the network gives each image a class",
        found=reason or "classes of pixels",
        allowed="one output (N, classes)",
        remedy="Compare networks that classify images.",
    )
