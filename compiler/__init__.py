"""Model in, artifact out; nothing here runs a simulation.

Reading order, which is also the order of the passes in `compile_model`: ir, layers/, frontend,
linear, compose, populations, passes/legalise, calibrate, spiking, passes/convert_*, compensate,
reconstruction, neurons, netlist, schedule, passes/quantise, artifact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.calibrate import Ranges
    from lapilli.compiler.da_qcfs_options import DAQCFS
    from lapilli.compiler.frontend import Network
    from lapilli.compiler.ir import Graph
    from lapilli.compiler.numerics import FloatArray
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
    from lapilli.compiler.calibration_options import options_of, recorded
    from lapilli.compiler.compensate import compensate
    from lapilli.compiler.da_qcfs import da_qcfs
    from lapilli.compiler.da_qcfs_options import DAQCFS
    from lapilli.compiler.frontend import network_of
    from lapilli.compiler.passes import METHODS, method_of
    from lapilli.compiler.passes.legalise import legalise
    from lapilli.compiler.passes.quantise import quantise
    from lapilli.compiler.passes.reorder_pools import reorder_pools
    from lapilli.compiler.passes.split_joins import split_joins
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.compiler.reconstruction.training import reconstruct

    def stage(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda n, total: progress(name, n, total)

    def done(name: str, before: Any, after: Any) -> None:
        if observe is not None:
            observe(name, before, after)

    name = method_of(method)
    correction = options_of(METHODS[name].calibrate if calibrate is None else calibrate)
    check_images(calibration, "calibration set")
    network = network_of(model)
    graph = network.capture(calibration)
    done("capture", network, graph)
    ordered = reorder_pools(graph)
    ordered.verify()
    done("reorder_pools", graph, ordered)
    joined = split_joins(ordered)
    joined.verify()
    done("split_joins", ordered, joined)
    populations = legalise(joined)
    populations.verify()
    done("legalise", joined, populations)
    ranges = measure(
        populations,
        calibration,
        reference=network.run,
        compared=network.most,
        returned=graph.returned,
        progress=stage("calibrate"),
    )
    done("calibrate", populations, ranges)
    spiking = METHODS[name].convert(populations, ranges, method)
    spiking.verify()
    done(f"convert_{name}", ranges, spiking)
    report = stage("compensate")
    if isinstance(correction, DAQCFS):
        corrected = da_qcfs(spiking, populations, calibration, correction, progress=report)
    else:
        simple = correction if isinstance(correction, str) else METHODS[name].calibrate
        corrected = compensate(spiking, populations, calibration, simple, progress=report)
    corrected.verify()
    done("compensate", spiking, corrected)
    how = recorded(correction)
    if isinstance(correction, Reconstruct):
        found = reconstruct(
            corrected, populations, calibration, correction, profile, progress=stage("reconstruct")
        )
        found.spiking.verify()
        done("reconstruct", corrected, found)
        corrected, how = found.spiking, {**how, "reconstruct_done": found.steps}
    netlist = quantise(corrected, profile)
    done("quantise", corrected, netlist)
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
