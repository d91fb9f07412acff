"""`lapilli map`: a compiled network on cores, chips and boards."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lapilli import plot_files, terminal
from lapilli.cli_outputs import in_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.mapping import Objective
    from lapilli.data import Dataset

OBJECTIVES = ("cores", "latency", "energy")
"""As `compiler.mapping.OBJECTIVES`, known without importing it: --help is quick."""
_FILE = click.Path(path_type=Path, dir_okay=False)


def ending(suffix: str, kind: str) -> Any:
    """A callback that refuses files of another kind, and folders that are not there."""

    def check(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is not None and path.suffix != suffix:
            raise click.BadParameter(f"a {kind} ends in {suffix}, not in {path.suffix!r}")
        return in_folder(context, parameter, path)

    return check


@click.command("map")
@click.argument("model_file", metavar="MODEL.H5", type=click.Path(path_type=Path))
@click.option(
    "--profile", metavar="NAME|FILE", help="the chip or system; default: the one compiled for"
)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="cores",
    show_default=True,
    help="What is made small: cores, the time of a step, or its energy.",
)
@click.option("--data", "spec", metavar="DATA", help="Measure spikes on images, as `run` does.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), help="With --data: the first N images."
)
@click.option(
    "--whole",
    metavar="POPULATION",
    multiple=True,
    help="Keep this one on a single core; may be given more than once.",
)
@click.option(
    "--effort",
    metavar="X",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="How long cores are moved on the mesh; 0: not at all.",
)
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True)
@plot_files.option("Draw cores, their use and the traffic.")
@click.option(
    "-o",
    "--output",
    metavar="FILE.json",
    type=_FILE,
    callback=ending(".json", "placement"),
    help="Write every core there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every core.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def map_(
    model_file: Path,
    profile: str | None,
    objective: Objective,
    spec: str | None,
    limit: int | None,
    whole: tuple[str, ...],
    effort: float,
    seed: int,
    plot: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Place a model file on cores, chips and boards: counts, bound, traffic, time of a step."""
    import lapilli
    from lapilli import map_plot, map_report, render_map, reports
    from lapilli.chips import chip_of
    from lapilli.compiler.sealed_file import write_whole

    if limit is not None and spec is None:
        raise click.UsageError("--limit goes with --data.")
    artifact = lapilli.load(model_file)
    chip = chip_of(artifact, profile)
    rates, measured_on = None, None
    with terminal.bars() as bar:
        if spec is not None:
            from lapilli.compiler.mapping.refusals import whole_exists

            # What can be refused at once is refused before minutes of measuring.
            whole_exists(artifact.netlist, whole)
            artifact.netlist.verify(chip)
            dataset, images = _images(artifact, spec, limit, bar("reading images"))
            measured_on = reports.data_report(dataset)
            count = bar("counting spikes")
            rates = map_report.measured_rates(artifact, images, chip, count)
        counters: dict[str, terminal.Count] = {}
        start = time.perf_counter()
        placement = lapilli.place(
            artifact,
            profile=chip,
            objective=objective,
            rates=rates,
            whole=whole,
            effort=effort,
            seed=seed,
            progress=lambda stage, done, of: counters.setdefault(stage, bar(stage))(done, of),
        )
        seconds = time.perf_counter() - start
    report = {
        "artifact": reports.identity(artifact, model_file),
        "data": measured_on,
        "effort": effort,
        "seed": seed,
        "seconds": seconds,
        **map_report.placement_report(artifact.netlist, placement, chip, rates),
    }
    if as_json or output is not None:
        report.update(map_report.every_core(placement, chip))
    if output is not None:
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        write_whole(output, text.encode())
        terminal.say(f"wrote {output}")
    if plot is not None:
        write_whole(
            plot, map_plot.picture(placement, chip, title=model_file.name, ending=plot.suffix)
        )
        terminal.say(f"wrote {plot}")
    if as_json:
        terminal.show_json(report)
    else:
        terminal.show(*render_map.placement(report))


def _images(
    artifact: Artifact, spec: str, limit: int | None, count: terminal.Count
) -> tuple[Dataset, npt.NDArray[np.float32]]:
    """Test images, and the same normalised as those that the network was compiled with."""
    from lapilli import data

    dataset = data.load(spec, split="test", limit=limit, progress=count)
    p = artifact.provenance
    if not p.input_mean:
        return dataset, dataset.images
    return dataset, data.normalise(dataset.images, p.input_mean, p.input_std)
