"""The command line: `lapilli demo | compile | run | verify | estimate | export | ...`.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done, 1 a
check failed, 2 bad input, 3 the environment, 130 interrupted. Everything heavy is imported by the
command that needs it, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lapilli import cli_options, cli_outputs, cli_search, network_inputs, terminal
from lapilli.cli_blame import blame
from lapilli.cli_compare import compare
from lapilli.cli_estimate import estimate
from lapilli.cli_export import export
from lapilli.cli_map import map_
from lapilli.cli_operators import operators
from lapilli.cli_robustness import robustness
from lapilli.cli_train import train
from lapilli.failures import exit_code_of

VERIFY_IMAGES = 16
CALIBRATION_IMAGES = 512
LAVA_TIMEOUT_S = 3600.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    # Threads of torch that wait for each other sleep: spinning is slow on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(exit_code_of(lambda: group.main(given, "lapilli", standalone_mode=False), given))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lapilli", prog_name="lapilli")
def group() -> None:
    """Compile trained PyTorch networks to integer spiking networks; run, verify, price them."""


group.add_command(blame)
group.add_command(compare)
group.add_command(estimate)
group.add_command(export)
group.add_command(map_)
group.add_command(operators)
group.add_command(robustness)
group.add_command(train)


def _timeout() -> cli_options.Decorator:
    return click.option(
        "--timeout",
        "timeout_s",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        default=LAVA_TIMEOUT_S,
        show_default=True,
        help="End a Lava run that takes longer.",
    )


def _processes() -> cli_options.Decorator:
    return click.option(
        "--processes",
        type=click.Choice(["lapilli", "stock"]),
        default="lapilli",
        show_default=True,
        help="With the backend lava: ours, or only those that ship with it.",
    )


def _stop() -> cli_options.Decorator:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        margin = click.option(
            "--stop-margin",
            metavar="X",
            type=click.FloatRange(min=0, min_open=True),
            help="End an image once its best output leads by X, in the network's units (rate).",
        )
        after = click.option(
            "--stop-after",
            metavar="STEPS",
            type=click.IntRange(min=1),
            help="With --stop-margin: not before so many steps; default: 1.",
        )
        return margin(after(command))

    return add


class _CompileCommand(click.Command):
    """Adds --method and the methods' own options, which are known once they are imported."""

    _made: list[click.Parameter] | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if self._made is None:
            from lapilli import importers, method_options, methods

            method = click.Option(
                ["--method"],
                type=click.Choice(list(methods.METHODS)),
                help="How activity becomes spikes.  [required without a target]",
            )
            made = method_options.options(methods.METHODS)
            known = {option.name for option in made}
            more = [
                click.Option([f"--{name}"], type=kind, help=f"{text}  [{importers.files(name)}]")
                for name, (kind, text) in importers.OPTIONS.items()
                if name not in known
            ]
            self._made = [method, *made, *more]
        own = super().get_params(ctx)
        return [*own[:-1], *self._made, own[-1]]  # --help stays last


@group.command("compile", cls=_CompileCommand)
@click.argument("model")
@cli_options.weights()
@cli_options.data("--calib", "calibration images", required=False)
@click.option(
    "--calib-samples",
    metavar="N",
    type=click.IntRange(min=1),
    default=CALIBRATION_IMAGES,
    show_default=True,
    help="Calibrate on the first N images of the training split.",
)
@click.option("--profile", metavar="NAME", default="loihi2", show_default=True, help="the chip")
@click.option(
    "--calibrate",
    metavar="NAME",
    help="how rounding is compensated: none, bias, least-squares, da-qcfs or reconstruct (minutes: "
    "trained towards the float network); the last two take options, as in reconstruct:steps=400; "
    "default: as the method asks",
)
@cli_options.normalisation(
    "normalisation per channel: 0.485,0.456,0.406", "as --mean; both are kept in the file"
)
@cli_search.options
@cli_options.output("the model file")
@cli_options.common
def compile_(
    model: str,
    weights: Path | None,
    spec: str | None,
    calib_samples: int,
    method: str | None,
    profile: str,
    calibrate: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    output: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Compile MODEL into a model file: package.module:callable, a .net or a .nir file."""
    import lapilli
    from lapilli import data, importers, method_options, models, render, reports

    wanted = cli_search.asked(given)
    if importers.importer_of(model) is not None:
        needless: dict[str, object] = {"--weights": weights, "--calib": spec, "--method": method}
        needless.update({"--calibrate": calibrate, "--mean": mean, "--std": std})
        needless.update(wanted.flags() if wanted is not None else {})
        cli_options.show(_import(model, profile, output, given, needless), as_json, render.compiled)
        return
    if spec is None or (method is None and wanted is None):
        raise click.UsageError(f"Missing option '{'--calib' if spec is None else '--method'}'.")
    if wanted is not None:
        artifact, found = cli_search.search(
            *(model, weights, spec, calib_samples, method, profile, calibrate),
            preprocessing=(mean, std),
            given=given,
            wanted=wanted,
        )
        artifact.save(output)
        report = {"artifact": reports.identity(artifact, output), "search": found}
        cli_options.show({**report, **reports.inspect_report(artifact)}, as_json, render.compiled)
        return
    assert method is not None
    options = method_options.build(lapilli.methods.METHODS, method, given)
    with terminal.bars() as bar:
        dataset = data.load(
            spec, split="train", limit=calib_samples, progress=bar("reading calibration images")
        )
        images = dataset.images
        if mean or std:
            images = data.normalise(images, mean, std)
        artifact = lapilli.compile(
            models.load(model, weights),
            calibration=images,
            method=options,
            profile=profile,
            calibrate=calibrate,
            observe=terminal.stopwatch("compile"),
            progress=terminal.staged(bar),
            preprocessing=(mean, std),
        )
    artifact = replace(artifact, provenance=replace(artifact.provenance, labels=dataset.names))
    artifact.save(output)
    report = {"artifact": reports.identity(artifact, output), **reports.inspect_report(artifact)}
    cli_options.show(report, as_json, render.compiled)


def _import(
    model: str, profile: str, output: Path, given: dict[str, Any], needless: dict[str, object]
) -> dict[str, Any]:
    """Write the network of another tool as a model file, tell its notes; the report."""
    import lapilli
    from lapilli import reports

    for name, value in needless.items():
        if value:
            raise click.UsageError(f"{name} has no use for {Path(model).suffix} files.")
    options = {name: value for name, value in given.items() if value is not None}
    artifact = lapilli.compile(model, profile=profile, **options)
    for line in artifact.provenance.notes.splitlines():
        terminal.say(f"note: {line}")
    artifact.save(output)
    return {"artifact": reports.identity(artifact, output), **reports.inspect_report(artifact)}


@group.command()
@cli_options.model_file()
@cli_options.data()
@click.option("--backend", default="reference", show_default=True, help="reference or lava")
@_processes()
@_stop()
@cli_outputs.options
@cli_options.limit()
@_timeout()
@cli_options.common
def run(
    model_file: Path,
    spec: str,
    backend: str,
    processes: str,
    stop_margin: float | None,
    stop_after: int | None,
    readout: str | None,
    seed: int,
    score: str | None,
    save_outputs: Path | None,
    save_pictures: Path | None,
    limit: int | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Run a model file on images: outputs, accuracy, agreement, spikes, synaptic operations."""
    import lapilli
    from lapilli import render, reports
    from lapilli.runtime import backends_with

    (backend,) = backends_with((backend,), processes)
    if stop_margin is None and stop_after is not None:
        raise click.UsageError("--stop-after goes with --stop-margin.")
    stop = None if stop_margin is None else lapilli.EarlyStop(stop_margin, stop_after or 1)
    artifact = lapilli.load(model_file)
    with terminal.bars() as bar:
        dataset = network_inputs.images(artifact, spec, limit, bar)
        evaluation = reports.evaluate(
            artifact,
            dataset.images,
            labels=dataset.labels,
            score=score,
            backend=backend,
            timeout_s=timeout_s,
            stop=stop,
            readout=readout,
            seed=seed,
            progress=bar(f"running on {backend}"),
        )
    if save_outputs is not None:
        cli_outputs.save(save_outputs, evaluation.outputs)
    if save_pictures is not None:
        from lapilli import pictures

        outputs = reports.as_read(artifact, readout)
        for path in pictures.save(save_pictures, outputs, evaluation.outputs):
            terminal.say(f"wrote {path}")
    report = {
        "artifact": reports.identity(artifact, model_file),
        **reports.run_report(evaluation, dataset, backend, artifact.outputs, readout),
    }
    cli_options.show(report, as_json, render.run)


@group.command()
@cli_options.model_file()
@cli_options.data()
@cli_options.limit(VERIFY_IMAGES)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=("reference", "lava"),
    show_default=True,
    help="Compare these; may be given more than once.",
)
@_processes()
@_timeout()
@cli_options.common
def verify(
    model_file: Path,
    spec: str,
    limit: int,
    backends: tuple[str, ...],
    processes: str,
    timeout_s: float,
    as_json: bool,
) -> int:
    """Check every equality, spike by spike; exit code 1 and the first difference if one fails."""
    import lapilli
    from lapilli import render, reports

    artifact = lapilli.load(model_file)
    with terminal.bars() as bar:
        dataset = network_inputs.images(artifact, spec, limit, bar)
        verification = lapilli.verify(
            artifact,
            dataset.images,
            backends=backends,
            processes=processes,
            progress=terminal.staged(bar),
            timeout_s=timeout_s,
        )
    report = {
        "artifact": reports.identity(artifact, model_file),
        "data": reports.data_report(dataset),
        **reports.verification_report(verification),
    }
    cli_options.show(report, as_json, render.verification)
    return 0 if verification.ok else 1


@group.command()
@cli_options.model_file()
@cli_search.plot
@cli_options.common
def inspect(model_file: Path, plot_front: Path | None, as_json: bool) -> None:
    """Provenance, populations, proven ranges and schedule of a model file."""
    import lapilli
    from lapilli import render, reports

    artifact = lapilli.load(model_file)
    cli_search.draw_stored(plot_front, artifact)
    report = {
        "artifact": reports.identity(artifact, model_file),
        **reports.inspect_report(artifact),
    }
    cli_options.show(report, as_json, render.inspection)


@group.command()
@click.argument("name", required=False)
@cli_options.common
def profiles(name: str | None, as_json: bool) -> None:
    """List the hardware profiles, or every number of the one called NAME with its source.

    NAME may be the path of a file of your own, ending in .json; docs/profiles.md says how to write
    one.
    """
    from lapilli import hardware_profiles, render, reports

    if name is not None:
        cli_options.show(
            reports.profile_report(hardware_profiles.load(name)), as_json, render.profile
        )
        return
    listed = [hardware_profiles.load(known) for known in hardware_profiles.names()]
    report = {"profiles": [reports.profile_summary(p) for p in listed]}
    cli_options.show(report, as_json, render.profile_list)


@group.command()
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the weights and the model files there.",
)
@cli_options.common
def demo(keep: Path | None, as_json: bool) -> int:
    """Train, compile, verify and price a small network on handwritten digits."""
    from lapilli import demo as demonstration

    with terminal.bars() as bar:
        report = demonstration.run(bar, keep)
    cli_options.show(report, as_json, demonstration.tables)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    main()
