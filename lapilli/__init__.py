"""Lapilli: trained PyTorch networks to bit-exact integer spiking networks for Lava and Loihi.

    net = lapilli.compile(model, calibration=images, method=lapilli.methods.Parallel(levels=8))
    net.save("model.h5")
    trace = lapilli.run(net, images)

This is the front door: it holds no logic, and imports what it needs when it is called.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt
    import torch

    from lapilli import methods as methods
    from lapilli.blame_report import Blame
    from lapilli.compare_report import Comparison
    from lapilli.compiler import Observe
    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.da_qcfs_options import DAQCFS
    from lapilli.compiler.frontend import Network
    from lapilli.compiler.mapping import Objective, Placement
    from lapilli.compiler.pareto import FrontPoint
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.hardware_profiles import Profile
    from lapilli.robustness_report import Robustness
    from lapilli.runtime.early_stop import EarlyStop as EarlyStop
    from lapilli.runtime.energy import Estimate
    from lapilli.runtime.layout import Layout
    from lapilli.runtime.neurobench_metrics import NeuroBench
    from lapilli.runtime.trace import Record, Trace
    from lapilli.runtime.verification import Verification
    from lapilli.search_run import Search

    Images = npt.NDArray[Any] | torch.Tensor

_LAZY = ("methods", "hardware_profiles", "compiler", "runtime")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"lapilli.{name}")
    if name == "EarlyStop":
        from lapilli.runtime.early_stop import EarlyStop

        return EarlyStop
    if name == "__version__":
        from importlib.metadata import version

        return version("lapilli")
    raise AttributeError(f"module 'lapilli' has no attribute {name!r}")


def _array(images: Images) -> npt.NDArray[Any]:
    """Images as a numpy array, whatever they came as."""
    import numpy as np

    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    return np.asarray(images, dtype=np.float32)


def _profile(profile: str | Path | Profile) -> Profile:
    from lapilli.hardware_profiles import load

    return load(profile) if isinstance(profile, (str, Path)) else profile


def _chip(artifact: Artifact, profile: str | Path | Profile | None) -> Profile:
    from lapilli.chips import chip_of

    return chip_of(artifact, profile)


def compile(
    model: torch.nn.Module | torch.export.ExportedProgram | Network | str | Path,
    *,
    calibration: Images | None = None,
    method: object = None,
    profile: str | Path | Profile = "loihi2",
    calibrate: str | DAQCFS | Reconstruct | None = None,
    observe: Observe | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
    **options: Any,
) -> Artifact:
    """Compile a trained network; see `lapilli.compiler.compile_model`.

    calibration: images (N, ...) as the model takes them; method: for example
    lapilli.methods.Parallel(levels=8); calibrate: "none", "bias", "least-squares", "da-qcfs" or
    "reconstruct", the last two with options as in "da-qcfs:rule=average" or
    lapilli.methods.Reconstruct(steps=400).
    model may also be an exported program, or the path of a .pt2 or .onnx file; or that of a file of
    another tool (`lapilli.importers`), with options of its own and neither calibration nor method:
    lapilli.compile("net.net", steps=64).
    """
    if isinstance(model, (str, Path)):
        from lapilli.compiler.frontend import FILES, network_file
        from lapilli.importers import read

        if Path(model).suffix.lower() not in FILES:
            return read(model, _profile(profile), options)
        model = network_file(Path(model))
    if calibration is None or method is None or options:
        wrong = ", ".join(options) or "no calibration or no method"
        raise TypeError(f"a network is compiled with calibration and method; found {wrong}")
    from lapilli.compiler import compile_model

    return compile_model(
        model,
        _array(calibration),
        method,
        _profile(profile),
        calibrate=calibrate,
        observe=observe,
        progress=progress,
        preprocessing=preprocessing,
    )


def search(
    model: torch.nn.Module | torch.export.ExportedProgram | Network | str | Path,
    *,
    calibration: Images,
    labels: npt.NDArray[Any] | None = None,
    held_out: tuple[Images, npt.NDArray[Any] | None] | None = None,
    target_accuracy: float | None = None,
    target_energy: float | str | None = None,
    profile: str | Path | Profile = "loihi2",
    calibrate: str | DAQCFS | Reconstruct | None = None,
    levels: Sequence[int] | None = None,
    codings: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    seconds: float = 600.0,
    seed: int = 0,
    observe: Observe | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    tell: Callable[[FrontPoint], None] | None = None,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Search:
    """Choose levels per layer and a coding for a target; see `lapilli.level_search.search`.

    target_accuracy: percent, for the least energy; or target_energy: J, or text such as "5uJ", for
    the best accuracy. Both are measured on `held_out`, (images, labels), or on one half of the
    calibration images (drawn by seed), which is then not calibrated on; without labels, agreement
    with the float network stands for accuracy. codings: of "graded", "unary", "sigma-delta" and
    "rate", None for all that the profile allows; options: of all methods alike, such as
    {"input_bits": 6}. Raises InputError where no network reaches the target.
    """
    from lapilli.level_search import search as find

    if isinstance(model, (str, Path)):
        from lapilli.compiler.frontend import network_file

        model = network_file(Path(model))
    given = None if held_out is None else (_array(held_out[0]), held_out[1])
    return find(
        model,
        _array(calibration),
        labels,
        given,
        target_accuracy=target_accuracy,
        target_energy=target_energy,
        profile=_profile(profile),
        calibrate=calibrate,
        levels=levels,
        codings=codings,
        options=options,
        seconds=seconds,
        seed=seed,
        observe=observe,
        progress=progress,
        tell=tell,
        preprocessing=preprocessing,
    )


def load(path: str | Path) -> Artifact:
    """Read and check a compiled network. Raises ArtifactError."""
    from lapilli.compiler.artifact import read

    return read(path)


def run(
    artifact: Artifact,
    images: Images,
    *,
    backend: str = "reference",
    processes: str = "lapilli",
    record: Record = "counts",
    progress: Callable[[int, int], None] | None = None,
    timeout_s: float | None = None,
    stop: EarlyStop | None = None,
    readout: str | None = None,
    seed: int = 0,
    step_events: bool = False,
) -> Trace:
    """Execute a compiled network on images (N, ...); see `lapilli.runtime.run`.

    readout: None for what the network itself returns, or "logits", "softmax", "argmax",
    "poisson-softmax", "winner-softmax" (drawn from seed); see `lapilli.runtime.readout`.

    processes: with backend "lava", "lapilli" for ours or "stock" for those that Lava ships with.
    step_events: count the events of each step, too (`Trace.step_events`).
    """
    from lapilli.runtime import backends_with
    from lapilli.runtime import run as execute

    return execute(
        artifact,
        _array(images),
        backend=backends_with([backend], processes)[0],
        record=record,
        progress=progress,
        timeout_s=timeout_s,
        stop=stop,
        readout=readout,
        seed=seed,
        step_events=step_events,
    )


def quantised_ann(artifact: Artifact, images: Images) -> Trace:
    """What the quantised ANN of the same integers computes for the images."""
    return run(artifact, images, backend="quantised-ann")


def verify(
    artifact: Artifact,
    images: Images,
    *,
    backends: Sequence[str] = ("reference", "lava"),
    processes: str = "lapilli",
    progress: Callable[[str, int, int], None] | None = None,
    timeout_s: float | None = None,
) -> Verification:
    """Check every equality on these images; see `lapilli.runtime.verification.verify`."""
    from lapilli.runtime import backends_with
    from lapilli.runtime.verification import verify as check

    return check(
        artifact,
        _array(images),
        backends=backends_with(backends, processes),
        progress=progress,
        timeout_s=timeout_s,
    )


def estimate(
    artifact: Artifact,
    images: Images,
    *,
    profile: str | Path | Profile | None = None,
    without: Sequence[str] = (),
    placed: bool = False,
    placement: Placement | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Energy and latency of one inference, counted on these images.

    profile: the chip, or a board; None takes that of the placement, or else the one that the
    network was compiled for; without: constants to leave out, such as "energy.chip_static_mw";
    placed: place the network first, with what these images make it send; or placement: of it.
    """
    if placed or placement is not None:
        from lapilli.placed_estimate import estimate as on_cores

        return on_cores(
            artifact,
            _array(images),
            None if profile is None else _profile(profile),
            without,
            placement,
            progress,
        )
    trace = run(artifact, images, record="outputs", progress=progress)
    return estimate_events(artifact, trace, profile=profile, without=without)


def compare(
    models: Sequence[Artifact | str | Path] | Mapping[str, Artifact | str | Path],
    images: Images,
    labels: npt.NDArray[Any] | None = None,
    *,
    profile: str | Path | Profile | None = None,
    placed: bool = False,
    against: str = "energy",
    without: Sequence[str] = (),
    score: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Compiled networks side by side on the same images: accuracy, size, energy, time, the front.

    models: artifacts or model files; images: before normalisation; against: what the Pareto front
    sets against accuracy, "energy", "streaming", "dynamic", "latency", "energy-delay" or "cores";
    see `lapilli.compare_networks.compare`.
    """
    from lapilli.compare_networks import compare as measure

    return measure(
        models,
        _array(images),
        labels,
        profile=None if profile is None else _profile(profile),
        placed=placed,
        against=against,
        without=without,
        score=score,
        progress=progress,
    )


def neurobench(
    artifact: Artifact,
    images: Images,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NeuroBench:
    """NeuroBench's metrics on these images; see `lapilli.runtime.neurobench_metrics`."""
    from lapilli.runtime.neurobench_metrics import of_artifact

    return of_artifact(artifact, _array(images), seed=seed, progress=progress)


def estimate_events(
    artifact: Artifact,
    trace: Trace,
    *,
    profile: str | Path | Profile | None = None,
    without: Sequence[str] = (),
    layout: Layout | None = None,
) -> Estimate:
    """Energy and latency from the events of a run that was made already.

    layout: of a placement, see `lapilli.placed_estimate`; artifact is then the placed network.
    """
    from lapilli.compiler.schedule import schedule
    from lapilli.runtime.energy import estimate as price

    netlist = artifact.netlist
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    return price(
        trace.events,
        _chip(artifact, profile),
        latency_steps=plan.latency,
        interval_steps=plan.interval,
        ann_macs=dict(artifact.provenance.ann_macs),
        graded=netlist.graded,
        without=without,
        layout=layout,
    )


def blame(
    model: torch.nn.Module | torch.export.ExportedProgram | Network | str | Path,
    artifact: Artifact,
    images: Images,
    labels: npt.NDArray[Any] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Blame:
    """Where accuracy is lost, per layer and per stage; see `lapilli.blame_report.blame`.

    model: what the artifact was compiled from, or the path of its .pt2 or .onnx file.
    """
    from lapilli.blame_report import blame as measure

    if isinstance(model, (str, Path)):
        from lapilli.compiler.frontend import network_file

        model = network_file(Path(model))
    return measure(model, artifact, _array(images), labels, progress=progress)


def robustness(
    models: Mapping[str, Artifact | torch.nn.Module],
    images: Images,
    labels: npt.NDArray[Any] | None,
    *,
    kinds: Sequence[str] | None = None,
    strengths: Mapping[str, Sequence[float]] | None = None,
    seeds: int = 3,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Accuracy of several networks under noise and on imperfect hardware, on the same images.

    images: in 0..1, before normalisation; see `lapilli.noise_trials.robustness`.
    """
    from lapilli.noise_trials import robustness as measure

    return measure(
        models,
        _array(images),
        labels,
        kinds=kinds,
        strengths=strengths,
        seeds=seeds,
        mean=mean,
        std=std,
        progress=progress,
    )


def place(
    artifact: Artifact,
    *,
    profile: str | Path | Profile | None = None,
    objective: Objective = "cores",
    rates: Mapping[str, float] | None = None,
    whole: Iterable[str] = (),
    effort: float = 1.0,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Placement:
    """Which core holds which neurons, and where it sits; see `lapilli.compiler.mapping.place`.

    profile: the chip or system; None takes the one that the network was compiled for. objective:
    "cores", "latency" or "energy". rates: mean spikes per neuron and step of populations, 1 where
    none is given; whole: populations that stay on one core.
    """
    from lapilli.compiler.mapping import place as lay_out

    return lay_out(
        artifact.netlist,
        _chip(artifact, profile),
        objective=objective,
        rates=rates,
        whole=whole,
        effort=effort,
        seed=seed,
        progress=progress,
    )
