"""Where a conversion loses accuracy: each stage alone, each layer alone, and all of it.

Signal-to-noise ratios are 10 log10(sum of squared float activity / sum of squared error), in dB,
over all images and units; infinite where nothing is lost.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import numpy.typing as npt

from lapilli import scores
from lapilli.compiler.errors import InputError
from lapilli.compiler.outputs import returned

if TYPE_CHECKING:
    from torch import Tensor

    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.dequantise import RealNetlist, Rule
    from lapilli.compiler.populations import Population

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Cause = Literal["none", "input", "clip", "rounding", "weights", "shift"]

BATCH = 32
"""Images at a time: three float64 networks are held."""
WORST = 3
KEPT = 2**12
"""Values of an image's outputs up to which those of every layer alone are kept and scored."""
MOST_LEVELS, MOST_INPUT_BITS = 255, 16
FLOOR_DB = -200.0
"""Where the float network is silent and the netlist is not."""
FOREIGN_DB = 6.0
"""Weights that are further off are those of another training: no rounding is as coarse."""


@final
@dataclass(frozen=True)
class Stage:
    """One part of the conversion applied to the whole float network: outputs against its own.

    correct: images of the right class, None without labels or classes.
    """

    name: str
    meaning: str
    output_db: float
    correct: int | None


@final
@dataclass(frozen=True)
class Layer:
    """One population. In dB against the float network's activity:

    cumulative_db: what the netlist sends, after all layers before it; own_db: what it would send
    if it were given the float network's activity; clip_db, rounding_db, weights_db, shift_db: the
    same with the range of its counts alone, the rounding within that range, its weights, and the
    mean error per channel of weights and biases (which corrections of earlier layers' rounding
    bring); output_db, correct: the float network with this population alone as own_db has it.
    cause: the largest of the four; input: rounding of the network's input.
    """

    name: str
    role: str
    cumulative_db: float
    own_db: float
    clip_db: float
    rounding_db: float
    weights_db: float
    shift_db: float
    output_db: float
    correct: int | None
    cause: Cause


@final
@dataclass(frozen=True)
class Blame:
    """stages in the order of STAGES; layers in the network's order; worst: (layer, suggestion)."""

    images: int
    float_correct: int | None
    stages: tuple[Stage, ...]
    layers: tuple[Layer, ...]
    worst: tuple[tuple[str, str], ...]

    def report(self) -> dict[str, Any]:
        """Plain values, as --json prints them; an infinite ratio is None."""
        made = asdict(self)
        for row in (*made["stages"], *made["layers"]):
            row.update({k: None for k, v in row.items() if k.endswith("_db") and math.isinf(v)})
        made["worst"] = [{"layer": name, "suggestion": text} for name, text in self.worst]
        return made


STAGES: Mapping[str, str] = {
    "input": "the input rounded",
    "clip": "activity clipped to the range of the counts",
    "levels": "activity clipped and rounded to counts",
    "weights": "weights and biases rounded, activity not",
    "together": "all of that, in real numbers",
    "executed": "the netlist as it runs: time, reset, integers",
}


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), of sums of squares; infinite without noise."""
    if noise <= 0:
        return math.inf
    return max(10 * math.log10(signal / noise), FLOOR_DB) if signal > 0 else FLOOR_DB


def blame(
    model: object,
    artifact: Artifact,
    images: Array,
    labels: npt.NDArray[np.int64] | None = None,
    *,
    progress: Progress | None = None,
) -> Blame:
    """Measure every stage and every layer on images (N, *shape) as the model takes them.

    Raises InputError where model and artifact do not belong together, for images in time, and for
    neurons without a unit of a quantised ANN.
    """
    import torch

    from lapilli.compiler.dequantise import RealNetlist, float_graph

    shape = artifact.netlist.input.shape
    if len(images) == 0 or images.shape[1:] != shape:
        raise InputError(
            "images",
            "images have the shape that the float network was compiled for",
            found=images.shape,
            allowed=f"(N, {', '.join(map(str, shape))}), N >= 1",
            remedy="Pass still images: the float network knows no time.",
        )
    real = RealNetlist(float_graph(model, images), artifact.netlist)
    measured = _Measured(artifact, real)
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            measured.add(images[start : start + BATCH], start)
            if progress is not None:
                progress(min(start + BATCH, len(images)), len(images))
    return measured.result(labels)


@final
class _Measured:
    """Sums of squares so far, and the outputs."""

    def __init__(self, artifact: Artifact, real: RealNetlist):
        self.artifact, self.real, self.images = artifact, real, 0
        self.signal: dict[str, float] = defaultdict(float)
        self.noise: dict[tuple[str, str], float] = defaultdict(float)
        self.outputs: dict[str, list[list[Array]]] = defaultdict(list)
        self.few = sum(p.size for p in artifact.netlist.outputs) <= KEPT

    def add(self, images: Array, start: int) -> None:
        """A batch, of which the first image has this number."""
        import torch

        from lapilli.runtime import run

        real = self.real
        x = torch.from_numpy(images.astype(np.float64))
        clean = real.run(real.exact, x)
        self.images += len(images)
        self._keep("float", clean)
        stages: dict[str, tuple[Rule, Tensor]] = {
            "input": (real.exact, real.input(x)),
            "clip": (real.clipped, x),
            "levels": (real.levelled, x),
            "weights": (real.weighted, x),
            "together": (real.counted, real.input(x)),
        }
        for name, (rule, first) in stages.items():
            self._keep(name, real.run(rule, first))
        trace = run(self.artifact, images, record="counts", seed=start)
        executed = {
            p.name: torch.from_numpy(
                trace.readouts[p.name] * p.state_scale
                if p.name in trace.readouts
                else trace.counts[p.name] * p.count_scale + p.count_offset
            )
            for p in self.artifact.netlist.populations
        }
        self._keep("executed", executed)
        for p in real.graph.populations:
            self.signal[p.name] += _energy(clean[p.name])
            self.noise[p.name, "cumulative"] += _energy(executed[p.name] - clean[p.name])
            self._layer(p, clean)

    def _layer(self, p: Population, clean: Mapping[str, Tensor]) -> None:
        """One population alone."""
        real, value = self.real, clean[p.name]
        own = real.input(value) if p.role == "input" else real.counted(p, clean)
        self._own(p.name, "own", own - value)
        if p.role == "input":
            self._own(p.name, "rounding", own - value)
        else:
            clipped = real.clip(p, value)
            self._own(p.name, "clip", clipped - value)
            self._own(p.name, "rounding", real.level(p, value) - clipped)
            error = (real.weighted(p, clean) - value).transpose(0, 1).flatten(1)
            mean = error.mean(1, keepdim=True)
            self._own(p.name, "shift", mean.expand_as(error))
            self._own(p.name, "weights", error - mean)
        self._keep(f"alone {p.name}", real.rerun(clean, p.name, own), alone=True)

    def _own(self, name: str, part: str, error: Tensor) -> None:
        self.noise[name, part] += _energy(error)

    def _keep(self, name: str, activity: Mapping[str, Tensor], *, alone: bool = False) -> None:
        """The outputs of a network that differs from the float one; its errors at the readouts."""
        found = [activity[p.name].numpy() for p in self.artifact.netlist.outputs]
        if self.few or not alone:
            self.outputs[name].append(found)
        if name == "float":
            self.last = found
        errors = zip(found, self.last, strict=True)
        self.noise["", name] += sum(float(((a - b) ** 2).sum()) for a, b in errors)

    def result(self, labels: npt.NDArray[np.int64] | None) -> Blame:
        """Everything measured, in dB and images."""
        energy = sum(self.signal[p.name] for p in self.artifact.netlist.outputs)
        stages = tuple(
            Stage(name, text, decibels(energy, self.noise["", name]), self._correct(name, labels))
            for name, text in STAGES.items()
        )
        layers = tuple(self._measured(p, energy, labels) for p in self.real.graph.populations)
        worst = sorted((x for x in layers if x.cause != "none"), key=lambda x: x.output_db)[:WORST]
        named = tuple((x.name, _suggestion(x, self.artifact)) for x in worst)
        return Blame(self.images, self._correct("float", labels), stages, layers, named)

    def _measured(
        self, p: Population, energy: float, labels: npt.NDArray[np.int64] | None
    ) -> Layer:
        part = {k: decibels(self.signal[p.name], self.noise[p.name, k]) for k in _RATIOS}
        alone = f"alone {p.name}"
        return Layer(
            name=p.name,
            role=p.role,
            cumulative_db=part["cumulative"],
            own_db=part["own"],
            clip_db=part["clip"],
            rounding_db=part["rounding"],
            weights_db=part["weights"],
            shift_db=part["shift"],
            output_db=decibels(energy, self.noise["", alone]),
            correct=self._correct(alone, labels),
            cause=self._cause(p),
        )

    def _cause(self, p: Population) -> Cause:
        if self.noise[p.name, "own"] <= 0:
            return "none"
        if p.role == "input":
            return "input"
        return max(_PARTS, key=lambda part: self.noise[p.name, part])

    def _correct(self, name: str, labels: npt.NDArray[np.int64] | None) -> int | None:
        batches = self.outputs.get(name)
        if labels is None or not batches:
            return None
        whole = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        declared = self.artifact.outputs
        values = {o.name: returned(o, whole[o.readout]) for o in declared}
        accuracy = scores.accuracy(scores.choose(declared, values, labels).classes, labels)
        return None if accuracy is None else int(accuracy["correct"])


_PARTS: tuple[Literal["clip", "rounding", "weights", "shift"], ...] = (
    "clip",
    "rounding",
    "weights",
    "shift",
)
_RATIOS = ("cumulative", "own", *_PARTS)


def _energy(values: Tensor) -> float:
    return float((values * values).sum())


def _suggestion(layer: Layer, artifact: Artifact) -> str:
    """The option that this layer's largest error asks for."""
    trained = artifact.provenance.options.get("calibrate") == "reconstruct"
    if layer.weights_db is not None and layer.weights_db < FOREIGN_DB and not trained:
        return "its weights are not those that were compiled: check MODEL and --weights"
    return next(_advice(layer.cause, dict(artifact.provenance.options), artifact))


def _advice(cause: Cause, options: Mapping[str, Any], artifact: Artifact) -> Iterator[str]:
    """Options that are not chosen yet, the most fitting first."""
    levels = options.get("levels")
    bits = options.get("input_bits")
    if cause == "input" and isinstance(bits, int) and bits < MOST_INPUT_BITS:
        yield f"--input-bits {min(bits + 2, MOST_INPUT_BITS)}: the input is rounded too coarsely"
    if cause == "weights":
        yield (
            f"a profile with wider weights than {artifact.provenance.profile} has, "
            "or --calibrate reconstruct, which trains them as they are rounded"
        )
    if cause == "clip" and options.get("clip") == "percentile" and options["percentile"] < 100:
        yield f"--percentile above {options['percentile']:g}, or --clip least-error"
    if cause in ("clip", "rounding") and options.get("per_channel") is False:
        yield "--per-channel: one threshold for all channels fits few of them"
    if cause == "rounding" and options.get("clip") == "percentile":
        yield "--clip least-error: the range is wide, and its counts far apart"
    if cause == "shift" and options.get("calibrate") == "none":
        yield "--calibrate least-squares: a bias does not fit its integers"
    if cause != "weights" and isinstance(levels, int) and levels < MOST_LEVELS:
        trained = options.get("calibrate") == "reconstruct"
        more = f"--levels {min(2 * levels, MOST_LEVELS)}"
        yield more if trained else f"{more}, or --calibrate reconstruct"
    if isinstance(options.get("steps"), int):
        yield f"--steps {2 * options['steps']}"
    yield "--calibrate reconstruct"
