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
    from importlib.metadata import version

    import torch

    from lapilli.compiler import artifact
    from lapilli.compiler.calibrate import calibrate as measure
    from lapilli.compiler.calibrate import check_images
    from lapilli.compiler.calibration_options import options_of
    from lapilli.compiler.frontend import network_of
    from lapilli.compiler.passes import METHODS, method_of
    from lapilli.compiler.passes.quantise import quantise

    told = _Told(observe, progress)
    name = method_of(method)
    correction = options_of(METHODS[name].calibrate if calibrate is None else calibrate)
    check_images(calibration, "calibration set")
    network = network_of(model)
    graph = network.capture(calibration)
    told.done("capture", network, graph)
    populations = _legalised(graph, told)
    ranges = measure(
        populations,
        calibration,
        reference=network.run,
        compared=network.most,
        returned=graph.returned,
        progress=told.stage("calibrate"),
    )
    told.done("calibrate", populations, ranges)
    spiking = METHODS[name].convert(populations, ranges, method)
    spiking.verify()
    told.done(f"convert_{name}", ranges, spiking)
    corrected, how = _corrected(spiking, populations, calibration, correction, profile, told)
    netlist = quantise(corrected, profile)
    told.done("quantise", corrected, netlist)
    provenance = artifact.Provenance(
        lapilli_version=version("lapilli"),
        torch_version=str(torch.__version__),  # a subclass of str: no plain value
        method=name,
        options={**asdict(method), **how},  # type: ignore[call-overload]
        profile=profile.name,
        calibration_hash=ranges.digest,
        calibration_samples=ranges.samples,
        input_mean=preprocessing[0],
        input_std=preprocessing[1],
        ann_macs=_macs(graph),
        outputs=graph.returned,
        rounding=_rounding(corrected, ranges),
    )
    return artifact.Artifact(netlist, provenance)


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
    return found.spiking, {**how, "reconstruct_done": found.steps}


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
