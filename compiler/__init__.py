"""Model in, artifact out; nothing here runs a simulation.

Reading order, which is also the order of the passes in `compile_model`: ir, layers/, frontend,
linear, compose, populations, passes/legalise, calibrate, spiking, passes/convert_*, compensate,
reconstruction, neurons, netlist, schedule, passes/quantise, artifact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    import torch

    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.calibrate import Ranges
    from lapilli.compiler.calibration_options import Calibration
    from lapilli.compiler.da_qcfs_options import DAQCFS
    from lapilli.compiler.frontend import Network
    from lapilli.compiler.ir import Graph
    from lapilli.compiler.numerics import FloatArray
    from lapilli.compiler.populations import PopulationGraph
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.compiler.spiking import SpikingGraph
    from lapilli.hardware_profiles import Profile

Observe = Callable[[str, Any, Any], None]
"""observe(pass_name, before, after), after each pass: the one hook for printing and timing."""
Progress = Callable[[str, int, int], None]
"""progress(stage, done, total): called during long stages."""
PRECISE = 64
"""Images on which staircases are compared with the captured network: float64 takes its time."""


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """A network captured and measured on its calibration images, before a method is chosen.

    images: (N, ...) as the network takes them; preprocessing: (mean, std) that they went through.
    """

    graph: Graph
    populations: PopulationGraph
    ranges: Ranges
    images: FloatArray
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())


def compile_model(
    model: torch.nn.Module | torch.export.ExportedProgram | Network,
    calibration: FloatArray,
    method: object,
    profile: Profile,
    *,
    calibrate: str | DAQCFS | Reconstruct | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Artifact:
    """Compile a trained network for a chip.

    model: also a file's network, from `frontend.network_file`.
    calibration: float images (N, ...) as the model takes them; method: options of one of
    passes.METHODS; calibrate: how rounding is compensated, one of calibration_options.CALIBRATIONS
    or its options (None: the method's own default); preprocessing: (mean, std), per channel, that
    was applied to the images, to be remembered.
    Raises UnsupportedOperatorError, CaptureError, InputError, NetlistError, StateOverflowError.
    """
    _chosen(method, calibrate)  # what is wrong with them is told before anything is computed
    measured = measure_model(
        model, calibration, observe=observe, progress=progress, preprocessing=preprocessing
    )
    return convert_measured(
        measured, method, profile, calibrate=calibrate, observe=observe, progress=progress
    )


def measure_model(
    model: torch.nn.Module | torch.export.ExportedProgram | Network,
    calibration: FloatArray,
    *,
    observe: Observe | None = None,
    progress: Progress | None = None,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Measured:
    """The first half of `compile_model`, the same for all methods."""
    from lapilli.compiler.activations import is_stepped
    from lapilli.compiler.calibrate import calibrate as measure
    from lapilli.compiler.calibrate import check_images
    from lapilli.compiler.frontend import network_of

    told = _Told(observe, progress)
    check_images(calibration, "calibration set")
    network = network_of(model)
    graph = network.capture(calibration)
    told.done("capture", network, graph)
    populations = _legalised(graph, told)
    stepped = any(
        p.activation is not None and is_stepped(p.activation) for p in populations.populations
    )
    ranges = measure(
        populations,
        calibration,
        reference=network.precise if stepped and network.precise else network.run,
        compared=PRECISE if stepped else network.most,
        precise=stepped and network.precise is not None,
        returned=graph.returned,
        progress=told.stage("calibrate"),
    )
    told.done("calibrate", populations, ranges)
    return Measured(graph, populations, ranges, calibration, preprocessing)


def convert_measured(
    measured: Measured,
    method: object,
    profile: Profile,
    *,
    calibrate: str | DAQCFS | Reconstruct | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """The second half of `compile_model`: any number of times for one network."""
    from importlib.metadata import version

    import torch

    from lapilli.compiler import artifact
    from lapilli.compiler.passes import METHODS
    from lapilli.compiler.passes.quantise import quantise

    told = _Told(observe, progress)
    name, correction = _chosen(method, calibrate)
    populations, ranges, images = measured.populations, measured.ranges, measured.images
    spiking = METHODS[name].convert(populations, ranges, method)
    spiking.verify()
    told.done(f"convert_{name}", ranges, spiking)
    correction = _as_trained(populations, spiking, calibrate, correction)
    corrected, how = _corrected(spiking, populations, images, correction, profile, told)
    netlist = quantise(corrected, profile)
    told.done("quantise", corrected, netlist)
    provenance = artifact.Provenance(
        lapilli_version=version("lapilli"),
        torch_version=str(torch.__version__),  # a subclass of str: no plain value
        method=name,
        options={**_recorded(method), **how},
        profile=profile.name,
        calibration_hash=ranges.digest,
        calibration_samples=ranges.samples,
        input_mean=measured.preprocessing[0],
        input_std=measured.preprocessing[1],
        ann_macs=_macs(measured.graph),
        outputs=measured.graph.returned,
        rounding=_rounding(corrected, ranges),
    )
    return artifact.Artifact(netlist, provenance)


def _chosen(
    method: object, calibrate: str | DAQCFS | Reconstruct | None
) -> tuple[str, Calibration]:
    """The method's name, and how rounding is compensated."""
    from lapilli.compiler.calibration_options import options_of
    from lapilli.compiler.passes import METHODS, method_of

    name = method_of(method)
    return name, options_of(METHODS[name].calibrate if calibrate is None else calibrate)


def _as_trained(
    populations: PopulationGraph, spiking: SpikingGraph, asked: object, correction: Calibration
) -> Calibration:
    """No compensation for what was trained as it counts, unless it is asked for and can be."""
    from lapilli.compiler.activations import dynamics_of
    from lapilli.compiler.errors import InputError

    trained = {p: d for p in populations.populations if (d := dynamics_of(p.activation))}
    if asked is None:
        return "none" if trained or _counts_as_trained(populations, spiking) else correction
    uneven = [p for p, dynamics in trained.items() if not dynamics.even]
    if uneven and correction != "none":
        raise InputError(
            "option calibrate",
            "compensation knows the mean count of every layer",
            found=f"{uneven[0].name} at {uneven[0].where}: {dynamics_of(uneven[0].activation)}",
            allowed="none",
            remedy="Leave calibrate out: what was trained with spikes is compiled as it is.",
        )
    return correction


def _counts_as_trained(populations: PopulationGraph, spiking: SpikingGraph) -> bool:
    """Is every activation a staircase of as many levels as its neurons have?"""
    from lapilli.compiler.activations import staircase_top

    levels = {p.name: p.high - p.low for p in spiking.populations}
    tops = {
        p.name: staircase_top(p.activation)
        for p in populations.populations
        if p.role == "activation"
    }
    return bool(tops) and all(top and top[1] == levels[name] for name, top in tops.items())


def _recorded(method: object) -> dict[str, Any]:
    """The method's options as provenance keeps them: levels of many populations as a list."""
    from lapilli.compiler.passes.mixed_levels import parts
    from lapilli.compiler.storage import MAX_TEXT

    options: dict[str, Any] = asdict(method)  # type: ignore[call-overload]
    if len(options.get("mixed", "")) > MAX_TEXT:
        options["mixed"] = parts(options["mixed"])
    return options


@final
@dataclass(frozen=True)
class _Told:
    """Whom a compilation tells what."""

    observe: Observe | None
    progress: Progress | None

    def stage(self, name: str) -> Callable[[int, int], None] | None:
        """Who is told how far a long stage is."""
        progress = self.progress
        return None if progress is None else lambda n, total: progress(name, n, total)

    def done(self, name: str, before: Any, after: Any) -> None:
        """A pass is over."""
        if self.observe is not None:
            self.observe(name, before, after)


def _legalised(graph: Graph, told: _Told) -> PopulationGraph:
    """Graph -> graph -> ... -> populations, each verified."""
    from lapilli.compiler.passes.legalise import legalise
    from lapilli.compiler.passes.reorder_pools import reorder_pools
    from lapilli.compiler.passes.split_joins import split_joins

    for rewrite in (reorder_pools, split_joins):
        rewritten = rewrite(graph)
        rewritten.verify()
        told.done(rewrite.__name__, graph, rewritten)
        graph = rewritten
    populations = legalise(graph)
    populations.verify()
    told.done("legalise", graph, populations)
    return populations


def _corrected(
    spiking: SpikingGraph,
    populations: PopulationGraph,
    images: FloatArray,
    correction: Calibration,
    profile: Profile,
    told: _Told,
) -> tuple[SpikingGraph, dict[str, Any]]:
    """The network with its rounding compensated, and what provenance says of that."""
    from lapilli.compiler.calibration_options import recorded
    from lapilli.compiler.compensate import compensate
    from lapilli.compiler.da_qcfs import da_qcfs
    from lapilli.compiler.da_qcfs_options import DAQCFS
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.compiler.reconstruction.training import reconstruct

    report, how = told.stage("compensate"), recorded(correction)
    if isinstance(correction, DAQCFS):
        corrected = da_qcfs(spiking, populations, images, correction, progress=report)
    else:  # reconstruction starts from the compensation in closed form
        simple = "least-squares" if isinstance(correction, Reconstruct) else correction
        corrected = compensate(spiking, populations, images, simple, progress=report)
    corrected.verify()
    told.done("compensate", spiking, corrected)
    if not isinstance(correction, Reconstruct):
        return corrected, how
    report = told.stage("reconstruct")
    found = reconstruct(corrected, populations, images, correction, profile, progress=report)
    found.spiking.verify()
    told.done("reconstruct", corrected, found)
    return found.spiking, {
        **how,
        "reconstruct_done": found.steps,
        "reconstruct_rate": found.rate,
        "reconstruct_before": found.before,
        "reconstruct_after": found.after if found.rate else found.before,
    }


def _rounding(graph: SpikingGraph, ranges: Ranges) -> dict[str, float]:
    """What counting costs each population; pools count nothing anew."""
    return {
        p.name: ranges[p.name].rounding_error(p.low, p.high, p.count_scale)
        for p in graph.populations
        if p.model not in ("source", "max", "readout") and not p.offset.any()
    }


def _macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of the float layers that have any."""
    from lapilli.compiler.layers import MEANING

    macs = {node.name: MEANING[type(node)].macs(node) for node in graph if type(node) in MEANING}
    return {layer: count for layer, count in macs.items() if count}
