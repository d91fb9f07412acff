"""Training with activations of a few levels, and weights of a few bits: a quantised ANN.

Every activation becomes a QCFS layer whose threshold is learned, so the spiking network of as many
levels computes the same. Sources: Bu et al., ICLR 2022 (QCFS); Li et al., ICLR 2020 (weights);
Hu et al., TPAMI 2023 (fewer bits stage by stage).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes import METHODS
from lapilli.compiler.passes.mixed_levels import MOST_LEVELS
from lapilli.compiler.passes.options import (
    check_choice,
    check_count,
    check_flag,
    check_range,
    check_text,
)
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.quantised_file import quantised_network
from lapilli.compiler.training.recipe import MOST, Recipe
from lapilli.compiler.training.spiking_layers import SpikingLayer
from lapilli.compiler.training.substitution import AT_ONCE, called_at, substituted
from lapilli.compiler.training.teacher import objective_of
from lapilli.compiler.training.weight_quantisers import (
    FLOAT,
    Family,
    LowBitWeights,
    WeightQuantiser,
    check_bits,
    leave_rounded,
    quantise_weights,
)

METHODS_OF_LEVELS = ("parallel", "fast-snn", "sigma-delta")
"""Methods whose neurons count exactly what a QCFS layer of as many levels says."""
SMOOTH = 2**16 - 1
"""Levels of a stage of 32 bits: float32 in all but name, in sixteen bits."""
LEAST = 2.0**-5
"""Of its start: a threshold is not learned to be less than that."""
CANDIDATES = 64
SAMPLES = 2**18
"""Values of an activation that its threshold is chosen on."""


@final
@dataclass(frozen=True)
class Quantised:
    """Options of the kind quantised.

    levels: of every activation; weight_bits: of weights but those of the first and the last layer,
    which have first_last_bits; 32 for float weights, also of these. weights: multiples of one step,
    or sums of powers of two; weight_clip: where these are cut, at first, in standard deviations.
    progressive: bits of the stages before the one with these levels and bits, as 32 -> 4 -> 3:
    activations of 2**bits - 1 levels, weights of so many bits but no fewer than weight_bits;
    progressive_epochs, progressive_weight_decay: of each of them, those of `training` where empty;
    threshold: the start;
    "calibrated": of least squared rounding error on the calibration images; a network with QCFS
    layers brings its own. per_channel: a threshold for each channel; learn: are they trained?
    trained: the .safetensors of a recipe with QCFS layers, from which training goes on; its
    thresholds are kept as they are, per channel or not.
    method: how the network is compiled; settings: that method's other options.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    levels: int = 4
    weight_bits: int = FLOAT
    weights: Family = "uniform"
    weight_clip: float = 3.0
    first_last_bits: int = 8
    progressive: tuple[int, ...] = ()
    progressive_epochs: tuple[int, ...] = ()
    progressive_weight_decay: tuple[float, ...] = ()
    threshold: float | Literal["calibrated"] = "calibrated"
    per_channel: bool = False
    learn: bool = True
    trained: str = ""
    method: str = "parallel"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_count("quantised.levels", self.levels, 1, MOST_LEVELS)
        check_choice("quantised.weights", self.weights, ("uniform", "apot"))
        check_text("quantised.trained", self.trained)
        check_bits("quantised.weight_bits", self.weights, self.weight_bits)
        check_bits("quantised.first_last_bits", "uniform", self.first_last_bits)
        check_range("quantised.weight_clip", self.weight_clip, 0.1, 100)
        for bits in self.progressive:
            if bits != FLOAT:
                check_count("quantised.progressive", bits, 1, 16)
        for epochs in self.progressive_epochs:
            check_count("quantised.progressive_epochs", epochs, 1, MOST)
        for decay in self.progressive_weight_decay:
            check_range("quantised.progressive_weight_decay", decay, 0, 1)
        self._check_as_many("progressive_epochs", len(self.progressive_epochs))
        self._check_as_many("progressive_weight_decay", len(self.progressive_weight_decay))
        if self.threshold != "calibrated":
            check_range("quantised.threshold", self.threshold, 1e-6, 1e6)
        check_flag("quantised.per_channel", self.per_channel)
        check_flag("quantised.learn", self.learn)
        check_choice("quantised.method", self.method, METHODS_OF_LEVELS)
        self.chosen()

    def _check_as_many(self, option: str, given: int) -> None:
        if given and given != len(self.progressive):
            raise InputError(
                f"option quantised.{option}",
                "every stage before the last one has its own",
                found=f"{given} numbers",
                allowed=f"{len(self.progressive)}, or none",
                remedy="Give as many as quantised.progressive has stages.",
            )

    def chosen(self) -> object:
        """The method's options. Raises InputError for settings that it does not have."""
        method = METHODS[self.method].options
        known = [key for key in method.__dataclass_fields__ if key != "levels"]
        if unknown := [key for key in self.settings if key not in known]:
            raise InputError(
                "quantised.settings",
                f"settings are options of the method {self.method} besides levels",
                found=", ".join(unknown),
                allowed=", ".join(known),
                remedy="Correct the names.",
            )
        return method(levels=self.levels, **self.settings)

    def stages(self, epochs: int) -> list[tuple[str, int, int, int, float | None]]:
        """(name, levels, weight bits, epochs, weight decay) of every stage, as `Stage` has them;
        epochs: of the last one."""
        count = len(self.progressive)
        each = self.progressive_epochs or (epochs,) * count
        decays = self.progressive_weight_decay or (None,) * count
        found: list[tuple[str, int, int, int, float | None]] = []
        for bits, some, decay in zip(self.progressive, each, decays, strict=True):
            levels = SMOOTH if bits == FLOAT else 2**bits - 1
            found.append((f"{bits} bits", levels, self._rounded(bits), some, decay))
        return [*found, (f"{self.levels} levels", self.levels, self.weight_bits, epochs, None)]

    def _rounded(self, bits: int) -> int:
        """Weight bits of a stage of so many: the nearest that the grid knows."""
        bits = max(bits, self.weight_bits)
        try:
            check_bits("quantised.progressive", self.weights, bits)
        except InputError:
            return FLOAT
        return bits


def plan_quantised(
    network: nn.Module, recipe: Recipe, images: Tensor, *teachers: nn.Module
) -> Plan:
    """A stage for each precision; the last one is what is compiled.

    images: (N, ...), they choose where thresholds start. teachers: of the recipe. Raises
    CaptureError as `substituted` does.
    """
    options: Quantised = recipe.options
    made = QuantisedNetwork(network, options, images)
    objective = made.objective(recipe, *teachers)
    return Plan(
        objective,
        made.stages(objective, recipe.training.epochs),
        predict=evaluated(made.network),
        finished=lambda: (made.finished(), options.chosen()),
    )


@final
class QuantisedNetwork:
    """network: a copy of the given one, with QCFS layers and rounded weights.

    layers: its QCFS layers, by their places.
    """

    def __init__(self, network: nn.Module, options: Quantised, images: Tensor) -> None:
        self.options, self._few = options, images[:2]
        if options.trained:
            network = quantised_network(network, Path(options.trained), images)
        own = {place for place, m in network.named_modules() if isinstance(m, QCFS)}
        self.network = substituted(network, partial(_layer, options, own), images.numpy())
        self.layers = {n: m for n, m in self.network.named_modules() if isinstance(m, QCFS)}
        if options.threshold == "calibrated" and not own:
            calibrate_thresholds(self.network, list(self.layers.values()), options, images)
        self.quantisers = parametrised(self.network, options, images)
        self._trained = [p for p in self.network.parameters() if p.requires_grad]

    def objective(self, recipe: Recipe, *teachers: nn.Module) -> PositiveThresholds:
        """The recipe's loss; thresholds stay positive."""
        loss = objective_of(self.network, recipe, self._few, teachers)
        return PositiveThresholds(loss, list(self.layers.values()))

    def stages(self, objective: PositiveThresholds, epochs: int) -> tuple[Stage, ...]:
        """Of the options; each goes on from the one before."""
        return tuple(
            Stage(
                *(name, objective, some),
                begin=partial(self.set_precision, levels, bits),
                end=objective.lift,
                weight_decay=decay,
            )
            for name, levels, bits, some, decay in self.options.stages(epochs)
        )

    def set_precision(self, levels: int, bits: int) -> None:
        """Levels of activations, bits of weights; and what is trained then."""
        for parameter in self._trained:
            parameter.requires_grad_(True)
        for layer in self.layers.values():
            layer.levels = levels
            layer.threshold.requires_grad_(self.options.learn)
        set_weight_bits(self.quantisers, bits, self.options.first_last_bits)

    def finished(self) -> nn.Module:
        """In evaluation mode, with rounded weights as plain parameters."""
        self.set_precision(self.options.levels, self.options.weight_bits)
        leave_rounded(self.network)
        return self.network.eval()


def parametrised(
    network: nn.Module, options: Quantised, images: Tensor
) -> Sequence[WeightQuantiser]:
    """Rounds the network's weights; nothing where the recipe leaves them float."""
    if options.weight_bits == FLOAT:
        return []
    like = LowBitWeights(options.weights, options.weight_bits, options.weight_clip)
    return quantise_weights(network, like, options.first_last_bits, images)


def set_weight_bits(quantisers: Sequence[WeightQuantiser], bits: int, ends: int) -> None:
    """bits for all but the ends; float weights for all where they are float."""
    for quantiser in quantisers:
        if isinstance(quantiser, LowBitWeights):
            quantiser.bits = bits
            quantiser.clip.requires_grad_(bits != FLOAT)  # what is not used gets no gradient
        else:
            quantiser.bits = FLOAT if bits == FLOAT else ends


def calibrated_tops(network: nn.Module, levels: int, images: Tensor) -> dict[str, Tensor]:
    """Place -> threshold, (), with which so many levels round the float activity best.

    images: (N, ...) as the network takes them. Raises CaptureError as `substituted` does.
    """
    made = QuantisedNetwork(network, Quantised(levels=levels), images.cpu())
    return {place: layer.threshold.detach().clone() for place, layer in made.layers.items()}


def calibrate_thresholds(
    network: nn.Module, layers: Sequence[QCFS], options: Quantised, images: Tensor
) -> None:
    """Set thresholds to those of least squared rounding error, each in the unrounded network.

    BatchNorm that has not seen anything yet takes the images' own statistics, as in training.
    """
    found: list[list[Tensor]] = [[] for _ in layers]

    def note(tops: list[Tensor], layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        values = args[0].clamp(min=0).transpose(0, 1).flatten(1)
        values = values if options.per_channel else values.reshape(1, -1)
        tops.append(least_error(values, options.levels))

    hooks = [
        layer.register_forward_pre_hook(partial(note, tops))
        for layer, tops in zip(layers, found, strict=True)
    ]
    before = network.training
    for layer in layers:
        layer.levels = SMOOTH
    with torch.no_grad():
        network.eval()
        new = _new_norms(network) if len(images) > 1 else []
        state = copy.deepcopy([norm.state_dict() for norm in new])
        for norm in new:
            norm.train()
        for part in images.tensor_split(-(-len(images) // AT_ONCE)):
            network(part)
        for norm, own in zip(new, state, strict=True):
            norm.load_state_dict(own)
        network.train(before)
        for layer, hook, tops in zip(layers, hooks, found, strict=True):
            hook.remove()
            layer.levels = options.levels
            best = torch.stack(tops).mean(0)
            pooled = best[best > 0].mean() if bool((best > 0).any()) else torch.ones(())
            best = torch.where(best > 0, best, pooled)  # channels that were silent
            layer.threshold.copy_(best if options.per_channel else best[0])


def _new_norms(network: nn.Module) -> list[nn.Module]:
    """The normalisations whose statistics are still those that they were made with."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    found = [m for m in network.modules() if isinstance(m, norms)]
    return [m for m in found if m.num_batches_tracked is not None and m.num_batches_tracked == 0]


def least_error(values: Tensor, levels: int) -> Tensor:
    """(C,): the top of a staircase of so many levels that rounds (C, M), >= 0, with least error.

    Of CANDIDATES tops up to the largest value; 0 where that is 0.
    """
    largest = values.amax(1)
    if values.numel() > SAMPLES:
        values = values[:, :: -(-values.numel() // SAMPLES)]
    best, least = largest.clone(), torch.full_like(largest, torch.inf)
    for k in range(1, CANDIDATES + 1):
        step = (largest * k / CANDIDATES / levels).clamp(min=torch.finfo(values.dtype).tiny)
        rounded = torch.floor(values / step[:, None] + 0.5).clamp(max=levels) * step[:, None]
        error = (rounded - values).square().mean(1)
        better = error < least
        best = torch.where(better, step * levels, best)
        least = torch.where(better, error, least)
    return torch.where(largest > 0, best, 0.0)


def _layer(
    options: Quantised, own: Collection[str], place: str, channels: int, largest: Tensor
) -> QCFS:
    """At first as high as the largest activity, or as the option says; own: places of layers that
    keep their threshold, or thresholds."""
    if options.threshold != "calibrated":
        start: Tensor = torch.tensor(float(options.threshold))
    elif called_at(own, place):
        start = largest
    else:
        start = largest if options.per_channel or largest.ndim == 0 else largest.max()
        start = torch.where(start > 0, start, torch.ones(()))
    if options.per_channel and start.ndim == 0:
        start = start.expand(channels)
    return QCFS(options.levels, start)


@final
class PositiveThresholds(nn.Module):
    """An objective, before which thresholds that fell too low are lifted."""

    def __init__(self, objective: nn.Module, layers: Sequence[QCFS | SpikingLayer]) -> None:
        super().__init__()
        self.objective = objective
        self._layers = tuple(layers)
        self._floors = tuple(LEAST * float(layer.threshold.detach().min()) for layer in layers)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.lift()
        loss: Tensor = self.objective(x, y)
        return loss

    def lift(self) -> None:
        """Also at the end of a stage: its last step may have gone too far."""
        with torch.no_grad():
            for layer, floor in zip(self._layers, self._floors, strict=True):
                layer.threshold.clamp_(min=floor)
