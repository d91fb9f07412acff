"""Fast-SNN: a quantised ANN as signed spikes, then its weights tuned layer by layer.

Spikes that arrive unevenly make counts differ from the quantised activity, the more the deeper the
layer. Each layer after the first is tuned in turn so that its mean spikes come near the activity
that the quantised ANN has there; all layers before it stay as they were tuned, and no threshold
changes. Source: Hu et al., TPAMI 2023 (arXiv 2305.19868), section on layer-wise fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, distributed, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.options import check_count, check_flag, check_range, check_text
from lapilli.compiler.training.objectives import Supervised, of_a_class
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.pools_of_spikes import check_pools
from lapilli.compiler.training.process_group import joined
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.quantised import (
    Quantised,
    QuantisedNetwork,
    parametrised,
    set_weight_bits,
)
from lapilli.compiler.training.quantised_file import quantised_network
from lapilli.compiler.training.recipe import MOST, Recipe
from lapilli.compiler.training.spiking_layers import SignedIF
from lapilli.compiler.training.spiking_network import SpikingNetwork
from lapilli.compiler.training.substitution import substituted
from lapilli.compiler.training.weight_quantisers import LowBitWeights, leave_rounded


@final
@dataclass(frozen=True)
class FastSnn:
    """Options of the kind fast-snn.

    quantised: how the quantised ANN is trained, first; its levels are the steps of the window, 3
    for 2 bits. trained: instead of that, the .safetensors of a recipe with QCFS layers. epochs, 0
    for no tuning, and rate: of each layer. keep_if_better: a layer's tuned weights are kept only
    where the spiking network then does better on the training images, by its accuracy or its loss.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    quantised: Quantised = field(default_factory=lambda: Quantised(levels=3))
    trained: str = ""
    epochs: int = 1
    rate: float = 1e-3
    keep_if_better: bool = True

    def __post_init__(self) -> None:
        check_text("fast-snn.trained", self.trained)
        check_count("fast-snn.epochs", self.epochs, 0, MOST)
        check_range("fast-snn.rate", self.rate, 0, 1e3)
        check_flag("fast-snn.keep_if_better", self.keep_if_better)
        if (self.quantised.method, self.quantised.settings) != (Quantised().method, {}):
            raise InputError(
                "option fast-snn.quantised",
                "what is tuned is compiled as it was tuned, without settling",
                found=f"method {self.quantised.method}, settings {self.quantised.settings}",
                allowed="neither method nor settings",
                remedy="Leave them out; a recipe of the kind quantised takes them.",
            )


def plan_fast_snn(network: nn.Module, recipe: Recipe, images: Tensor) -> Plan:
    """Stages of the quantised ANN, then one or two for each of its layers but the first.

    images: (N, ...) as the network takes them. Raises InputError and CaptureError.
    """
    options: FastSnn = recipe.options
    if options.trained:
        network = quantised_network(network, Path(options.trained), images)
    tuned = TunedNetwork(network, options, recipe.loss, images)
    if not options.trained:
        training = tuned.training_stages(recipe)
        stages = [*training[:-1], _then(training[-1], tuned.take_over)]
    else:
        stages = []
    share = options.rate / recipe.training.rate if recipe.training.rate else 0.0
    if options.epochs:
        for place in tuned.parameters_of:
            stages += tuned.tuning_stages(place, share)
    return Plan(tuned, tuple(stages), tuned.predict, tuned.finished)


@final
class TunedNetwork(nn.Module):
    """The quantised ANN, the spiking network that is tuned, and how far that is judged.

    parameters_of: layer, by its place -> names of the weights and biases that lead to it from the
    layers before, which are tuned with it; in the order of the layers, without those that spikes do
    not reach: they are exact.
    """

    def __init__(self, network: nn.Module, options: FastSnn, loss: str, images: Tensor) -> None:
        super().__init__()
        self.options, self.loss = options, loss
        how = options.quantised
        self._quantised = QuantisedNetwork(network, how, images)
        self.ann = self._quantised.network
        self.parameters_of = _parameters_of(self.ann, images)
        self.spiking = self._spikes(network, images)
        self.kept = self._spikes(network, images) if options.keep_if_better else None
        self._quantised.set_precision(how.levels, how.weight_bits)
        self.take_over()
        self.scores = _Scores()
        self._shown: list[nn.Module] = [self.spiking]  # in a list, lest it be registered twice

    def _spikes(self, network: nn.Module, images: Tensor) -> SpikingNetwork:
        """Its parameters are named as the quantised ANN's are."""
        how, own = self.options.quantised, self._quantised.layers

        def layer(place: str, channels: int, largest: Tensor) -> SignedIF:
            return SignedIF(how.levels, own[place].threshold.detach())

        made = SpikingNetwork(substituted(network, layer, images.numpy()), how.levels)
        check_pools(made, images)
        quantisers = parametrised(made, how, images)
        set_weight_bits(quantisers, how.weight_bits, how.first_last_bits)
        return made

    def take_over(self) -> None:
        """All weights and thresholds of the quantised ANN."""
        for spiking in (self.spiking, self.kept):
            if spiking is not None:
                spiking.network.load_state_dict(self.ann.state_dict())

    def training_stages(self, recipe: Recipe) -> tuple[Stage, ...]:
        """Of the quantised ANN."""
        objective = self._quantised.objective(recipe)
        stages = self._quantised.stages(objective, recipe.training.epochs)
        return tuple(_first(stage, partial(self._show, self.ann)) for stage in stages)

    def tuning_stages(self, place: str, share: float) -> list[Stage]:
        """Tune the layer at `place`; keep that or not. share: of the recipe's rate."""
        tune = _Nearer(self.ann, self.spiking, place)
        begin = partial(self._train_only, place)
        found = [Stage(f"tune {place}", tune, self.options.epochs, share, begin=begin)]
        if self.kept is not None:
            judge = _Judge(self.spiking, self.kept, self.loss, self.scores)
            begin = partial(self._train_only, None)
            found.append(Stage(f"judge {place}", judge, 1, 0.0, begin=begin, end=judge.decide))
        return found

    def _train_only(self, place: str | None) -> None:
        self._show(self.spiking)
        self.scores.sums.zero_()
        how = self.options.quantised
        self._quantised.set_precision(how.levels, how.weight_bits)
        self.ann.requires_grad_(False)
        if self.kept is not None:
            self.kept.requires_grad_(False)
        chosen = self.parameters_of[place] if place is not None else ()
        for name, parameter in self.spiking.network.named_parameters():
            parameter.requires_grad_(name in chosen)

    def _show(self, network: nn.Module) -> None:
        self._shown[:] = [network]

    def predict(self, x: Tensor) -> Tensor:
        """Of what is being trained: the quantised ANN at first."""
        return evaluated(self._shown[0])(x)

    def finished(self) -> tuple[nn.Module, object]:
        """The network to compile, and how."""
        self._show(self.spiking)
        leave_rounded(self.spiking)
        return self.spiking.analog(), self.spiking.method()


@final
class _Nearer(nn.Module):
    """Mean squared difference between a layer's mean spikes and the quantised ANN's activity.

    Both networks stay in evaluation mode; gradients are the quantised layer's (see `SignedIF`).
    """

    def __init__(self, ann: nn.Module, spiking: SpikingNetwork, place: str) -> None:
        super().__init__()
        self.ann, self.spiking = ann, spiking
        self._place = place

    def train(self, mode: bool = True) -> _Nearer:
        """Never in training mode: BatchNorm keeps its statistics."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = _output_of(self.ann.get_submodule(self._place), lambda: self.ann(x))
        layer = self.spiking.network.get_submodule(self._place)
        sent = _output_of(layer, lambda: self.spiking.per_step(x))
        mean = sent.view(self.spiking.steps, *wanted.shape).mean(0)
        return (mean - wanted).square().mean()


@final
class _Scores(nn.Module):
    """sums (2,): of the network as tuned, and as kept; the more the better."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor
        self.register_buffer("sums", torch.zeros(2, dtype=torch.float64))


@final
class _Judge(nn.Module):
    """Counts, over the training images, how well the network does as tuned and as kept so far."""

    def __init__(
        self, tuned: SpikingNetwork, kept: SpikingNetwork, loss: str, scores: _Scores
    ) -> None:
        super().__init__()
        self.tuned, self.kept, self.scores = tuned, kept, scores
        self._loss = loss
        self._value = Supervised(tuned, loss).loss
        self.still = nn.Parameter(torch.zeros(()))  # an optimiser wants something

    def train(self, mode: bool = True) -> _Judge:
        """Never in training mode: BatchNorm keeps its statistics."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = [network(x) for network in (self.tuned, self.kept)]
            self.scores.sums += _of_all(torch.stack([self._score(out, y) for out in outputs]))
            loss = self._value(outputs[0], y, 0.0)
        return loss + 0 * self.still

    def _score(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self._loss == "classes":
            right = (outputs.argmax(1) == y) & of_a_class(outputs, y)
            return right.sum().double()
        return -self._value(outputs, y, 0.0).double() * len(y)

    def decide(self) -> None:
        """The better one goes on; the one kept so far where both are alike."""
        better, other = self.tuned, self.kept
        if not self.scores.sums[0] > self.scores.sums[1]:
            better, other = other, better
        other.load_state_dict(better.state_dict())


def _of_all(scores: Tensor) -> Tensor:
    """The sum over all processes; at once, because buffers are the first process's before a step
    (DistributedDataParallel), and in a checkpoint."""
    if joined():
        distributed.all_reduce(scores)
    return scores


def _output_of(layer: nn.Module, run: Callable[[], Any]) -> Tensor:
    """What the layer returns while `run` is called."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        run()
    finally:
        hook.remove()
    return seen[0]


def _parameters_of(ann: nn.Module, images: Tensor) -> dict[str, frozenset[str]]:
    """See `TunedNetwork`. A parameter that leads to several layers is tuned with the first."""
    layers = {name: m for name, m in ann.named_modules() if isinstance(m, QCFS)}
    fixed = {id(layer.threshold) for layer in layers.values()}
    fixed |= {id(m.clip) for m in ann.modules() if isinstance(m, LowBitWeights)}
    names: dict[Tensor, str] = {p: n for n, p in ann.named_parameters() if id(p) not in fixed}
    made, sent = _cut(ann, layers, images[:2])
    found: dict[str, frozenset[str]] = {}
    for k, (place, output) in enumerate(made.items()):
        inputs = [*names, *sent[:k]]
        slopes = torch.autograd.grad(output.sum(), inputs, retain_graph=True, allow_unused=True)
        reached = [x for x, slope in zip(inputs, slopes, strict=True) if slope is not None]
        own = frozenset(names.pop(x) for x in reached if x in names)
        if own and len(reached) > len(own):  # spikes reach it, too
            found[place] = own
    return found


def _cut(
    ann: nn.Module, layers: Mapping[str, QCFS], images: Tensor
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What layers return, in their order, each as a function of `sent`: what those before it gave
    to the network; and of the parameters, all of which get gradients."""
    made: dict[str, Tensor] = {}
    sent: list[Tensor] = []

    def separate(place: str, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        made[place] = output
        sent.append(output.detach().requires_grad_())
        return sent[-1].clone()  # which may be changed in place

    hooks = [m.register_forward_hook(partial(separate, name)) for name, m in layers.items()]
    before, trained = ann.training, [p for p in ann.parameters() if p.requires_grad]
    with torch.set_grad_enabled(True):
        ann.requires_grad_(True).eval()(images)
    ann.requires_grad_(False).train(before)
    for parameter in trained:
        parameter.requires_grad_(True)
    for hook in hooks:
        hook.remove()
    return made, sent


def _then(stage: Stage, more: Callable[[], None]) -> Stage:
    def end() -> None:
        stage.end()
        more()

    return replace(stage, end=end)


def _first(stage: Stage, more: Callable[[], None]) -> Stage:
    def begin() -> None:
        more()
        stage.begin()

    return replace(stage, begin=begin)
