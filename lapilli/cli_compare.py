"""`lapilli compare`: several compiled networks side by side on the same images."""

from __future__ import annotations

from pathlib import Path

import click

from lapilli import plot_files, terminal

AGAINST = ("energy", "streaming", "dynamic", "latency", "energy-delay", "cores")
"""As `compare_report.COSTS`, known without importing it: --help is quick."""


@click.command("compare")
@click.argument(
    "model_files", metavar="MODEL.H5...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--data", "spec", metavar="DATA", required=True, help="images, as `run` takes them")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Use the first N images.")
@click.option(
    "--profile", metavar="NAME|FILE", help="one chip for all; default: those compiled for"
)
@click.option("--placed", is_flag=True, help="Place each on cores first, as `estimate` does.")
@click.option(
    "--against",
    type=click.Choice(AGAINST),
    default="energy",
    show_default=True,
    help="The Pareto front sets accuracy against this.",
)
@plot_files.option("Draw accuracy against it, with bands and the front.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def compare(
    model_files: tuple[Path, ...],
    spec: str,
    limit: int | None,
    profile: str | None,
    placed: bool,
    against: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Compare model files on the same images: accuracy, size, energy, time, the Pareto front."""
    from lapilli import compare_networks, data, hardware_profiles, render_compare, reports
    from lapilli.compiler.sealed_file import write_whole

    # What can be refused at once is refused before images are read.
    entries = compare_networks.read(model_files)
    chip = None if profile is None else hardware_profiles.load(profile)
    with terminal.bars() as bar:
        dataset = data.load(spec, split="test", limit=limit, progress=bar("reading images"))
        if plot is not None and dataset.labels is None:
            raise click.UsageError("--plot draws accuracy: it needs data with labels.")
        counters: dict[str, terminal.Count] = {}
        found = compare_networks.compare_entries(
            entries,
            dataset.images,
            dataset.labels,
            profile=chip,
            placed=placed,
            against=against,
            progress=lambda stage, done, of: counters.setdefault(stage, bar(stage))(done, of),
        )
    report = {"data": reports.data_report(dataset), "placed": placed, **found.as_dict()}
    if plot is not None:
        from lapilli import compare_plot

        title = f"{dataset.source}, {dataset.split} split, {len(dataset):,} images"
        write_whole(plot, compare_plot.picture(found, title, plot.suffix))
        terminal.say(f"wrote {plot}")
    if as_json:
        terminal.show_json(report)
    else:
        terminal.show(*render_compare.comparison(report))
