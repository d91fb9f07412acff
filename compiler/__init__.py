"""Model in, artifact out; nothing here runs a simulation.

Reading order, which is also the order of the passes in `compile_model`: ir, layers/, frontend,
linear, compose, populations, passes/legalise, calibrate, spiking, passes/convert_*, compensate,
reconstruction, neurons, netlist, schedule, passes/quantise, artifact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.ir import Graph
    from lapilli.compiler.numerics import FloatArray
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.hardware_profiles import Profile

Observe = Callable[[str, Any, Any], None]
"""observe(pass_name, before, after), after each pass: the one hook for printing and timing."""
Progress = Callable[[str, int, int], None]
"""progress(stage, done, total): called during long stages."""


def compile_model(
    model: torch.nn.Module,
    calibration: FloatArray,
    method: object,
    profile: Profile,
    *,
    calibrate: str | Reconstruct | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Artifact:
    """Compile a trained network for a chip.

    calibration: float images (N, ...) as the model takes them; method: options of one of
    passes.METHODS; calibrate: how rounding is compensated, one of compensate.CALIBRATIONS (None:
    the method's own default), or "reconstruct", or Reconstruct(...) with options; preprocessing:
    (mean, std), per channel, that was applied to the images, to be remembered.
    Raises UnsupportedOperatorError, CaptureError, InputError, NetlistError, StateOverflowError.
    """
    from importlib.metadata import version

    import torch

    from lapilli.compiler import artifact
    from lapilli.compiler.calibrate import calibrate as measure
    from lapilli.compiler.calibrate import check_images
    from lapilli.compiler.compensate import CALIBRATIONS, compensate
    from lapilli.compiler.frontend import capture, evaluation_copy
    from lapilli.compiler.passes import METHODS, method_of
    from lapilli.compiler.passes.legalise import legalise
    from lapilli.compiler.passes.options import check_choice
    from lapilli.compiler.passes.quantise import quantise
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.compiler.reconstruction.training import reconstruct

    def stage(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda n, total: progress(name, n, total)

    def done(name: str, before: Any, after: Any) -> None:
        if observe is not None:
            observe(name, before, after)

    name = method_of(method)
    training = Reconstruct() if calibrate == "reconstruct" else calibrate
    correction: str = METHODS[name].calibrate
    if training is not None and not isinstance(training, Reconstruct):
        check_choice("calibrate", training, (*CALIBRATIONS, "reconstruct"))
        correction = training
    check_images(calibration, "calibration set")
    network = evaluation_copy(model)
    graph = capture(network, calibration)
    done("capture", network, graph)
    populations = legalise(graph)
    populations.verify()
    done("legalise", graph, populations)
    ranges = measure(populations, calibration, reference=network, progress=stage("calibrate"))
    done("calibrate", populations, ranges)
    spiking = METHODS[name].convert(populations, ranges, method)
    spiking.verify()
    done(f"convert_{name}", ranges, spiking)
    corrected = compensate(
        spiking, populations, calibration, correction, progress=stage("compensate")
    )
    corrected.verify()
    done("compensate", spiking, corrected)
    how: dict[str, Any] = {"calibrate": correction}
    if isinstance(training, Reconstruct):
        found = reconstruct(
            corrected, populations, calibration, training, profile, progress=stage("reconstruct")
        )
        found.spiking.verify()
        done("reconstruct", corrected, found)
        corrected = found.spiking
        how = {"calibrate": "reconstruct", **_plain(training), "reconstruct_done": found.steps}
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
    )
    return artifact.Artifact(netlist, provenance)


def _plain(options: Reconstruct) -> dict[str, Any]:
    """Options that say how a result can be had again."""
    values = asdict(replace(options, checkpoint=None))
    return {f"reconstruct_{name}": v for name, v in values.items() if v is not None}


def _macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of the float layers that have any."""
    from lapilli.compiler.layers import MEANING

    macs = {node.name: MEANING[type(node)].macs(node) for node in graph if type(node) in MEANING}
    return {layer: count for layer, count in macs.items() if count}
