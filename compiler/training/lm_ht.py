"""LM-HT networks, trained directly or from a quantised network that they equal at the start.

Source: Hao et al., NeurIPS 2024 (arXiv 2402.00411), algorithm 1. A spike is worth the threshold of
a level, so that neither biases nor the first layer need a factor L; with L * T levels the network
then equals the quantised one exactly in every layer (theorem 4.4, and methods without its gap).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.convert_lm_ht import LMHT
from lapilli.compiler.passes.options import (
    check_choice,
    check_count,
    check_flag,
    check_range,
    check_text,
)
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.pools_of_spikes import check_pools
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.quantised import PositiveThresholds, calibrated_tops
from lapilli.compiler.training.quantised_file import quantised_network
from lapilli.compiler.training.recipe import Recipe
from lapilli.compiler.training.spiking_layers import MultiThreshold
from lapilli.compiler.training.spiking_network import SpikingNetwork
from lapilli.compiler.training.substitution import called_at, substituted
from lapilli.compiler.training.teacher import objective_of

DIRECT = 2.0
"""Activity of L spikes in every step in direct training: theta = 2 / L (appendix A.3)."""


@final
@dataclass(frozen=True)
class LmHt:
    """Options of the kind lm-ht.

    levels: thresholds L; steps: T. mixing: of the steps in front of every layer, by a matrix that
    starts as their mean and is learned, or not (learn_mixing). keep: what a step leaves of the
    membrane at the start, learned on request (learn_keep), 0 .. 1; initial: the membrane that an
    image starts with. start: "direct", thresholds of 2 for random weights; "float", thresholds
    that round the float network's activity on the calibration images best; "qcfs", those of the
    network's own QCFS layers, or of the file `quantised`, the .safetensors that a recipe with QCFS
    layers wrote. learn_thresholds: train them, too; the paper does not. single_threshold: the model
    file holds neurons of one threshold in L times as many steps; without mixing and leak only.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    levels: int = 2
    steps: int = 2
    mixing: Literal["none", "causal", "full"] = "none"
    learn_mixing: bool = True
    keep: float = 1.0
    learn_keep: bool = False
    initial: Literal["half", "zero"] = "half"
    start: Literal["direct", "float", "qcfs"] = "float"
    quantised: str = ""
    learn_thresholds: bool = False
    single_threshold: bool = False

    def __post_init__(self) -> None:
        check_count("lm-ht.levels", self.levels, 1, 255)
        check_count("lm-ht.steps", self.steps, 1, 1024)
        check_flag("lm-ht.learn_mixing", self.learn_mixing)
        check_range("lm-ht.keep", self.keep, 0, 1)
        check_flag("lm-ht.learn_keep", self.learn_keep)
        check_choice("lm-ht.initial", self.initial, ("half", "zero"))
        check_choice("lm-ht.start", self.start, ("direct", "float", "qcfs"))
        check_text("lm-ht.quantised", self.quantised)
        check_flag("lm-ht.learn_thresholds", self.learn_thresholds)
        check_flag("lm-ht.single_threshold", self.single_threshold)
        self.method()
        if self.single_threshold and self.learn_keep:
            raise InputError(
                "option lm-ht.single_threshold",
                "neurons of one threshold stand for several where nothing leaks",
                found="learn_keep",
                allowed="learn_keep = false",
                remedy="Leave one of the two out.",
            )
        if self.quantised and self.start != "qcfs":
            raise InputError(
                "option lm-ht.quantised",
                "a quantised network is what start = 'qcfs' starts from",
                found=f"start {self.start!r}",
                allowed="start = 'qcfs'",
                remedy="Set it, or leave quantised out.",
            )

    def method(self) -> LMHT:
        """The conversion. Raises InputError for what no chip does."""
        return LMHT(
            levels=self.levels,
            steps=self.steps,
            keep=self.keep,
            mixing=self.mixing,
            single_threshold=self.single_threshold,
        )

    def layer(self, threshold: float | Tensor) -> MultiThreshold:
        """A layer of the network."""
        made = MultiThreshold(
            self.levels,
            self.steps,
            threshold,
            mixing=self.mixing,
            keep=self.keep,
            learn_keep=self.learn_keep,
            initial=self.initial,
            learn_threshold=self.learn_thresholds,
        )
        if made.logits is not None:
            made.logits.requires_grad_(self.learn_mixing)
        return made


def lm_ht_network(network: nn.Module, options: LmHt, images: Tensor) -> SpikingNetwork:
    """The network with multi-threshold layers, as training starts from it.

    images: (N, ...) as the network takes them. Raises InputError and CaptureError.
    """
    seen = images.cpu().numpy()
    if options.start == "direct":
        made = substituted(network, lambda place, channels, largest: options.layer(DIRECT), seen)
    elif options.start == "float":
        tops = calibrated_tops(network, options.levels * options.steps, images)
        made = substituted(network, lambda place, *_: options.layer(tops[place]), seen)
    else:
        if options.quantised:
            network = quantised_network(network, Path(options.quantised), images)
        _check_quantised(network, images)
        made = substituted(network, lambda place, channels, own: options.layer(own), seen)
    return SpikingNetwork(made, options.steps)


def plan_lm_ht(network: nn.Module, recipe: Recipe, images: Tensor, *teachers: nn.Module) -> Plan:
    """One stage: the loss of the outputs' mean over the steps. teachers: of the recipe."""
    options: LmHt = recipe.options
    spiking = lm_ht_network(network, options, images)
    check_pools(spiking, images)
    loss = objective_of(spiking, recipe, images[:2], teachers)
    objective = PositiveThresholds(loss, list(spiking.layers().values()))
    return Plan(
        objective,
        (Stage("train", objective, recipe.training.epochs, end=objective.lift),),
        predict=evaluated(spiking),
        finished=lambda: (
            spiking.analog(),
            options.method() if options.single_threshold else spiking.method(),
        ),
    )


def _check_quantised(network: nn.Module, images: Tensor) -> None:
    """Raise InputError unless every activation is a QCFS: others have no threshold to take."""
    own = {place for place, m in network.named_modules() if isinstance(m, QCFS)}
    others: list[str] = []

    def note(place: str, channels: int, largest: Tensor) -> nn.Module:
        if not called_at(own, place):
            others.append(place)
        return nn.ReLU()

    substituted(network, note, images[:1].cpu().numpy())
    if others:
        raise InputError(
            "option lm-ht.start",
            "thresholds are taken from a network of QCFS layers",
            found=f"other activations: {', '.join(others[:5])}",
            allowed="QCFS for all, in the network, or in the file `quantised`",
            remedy="Name the .safetensors of a recipe with QCFS layers, or use start = 'float'.",
        )
