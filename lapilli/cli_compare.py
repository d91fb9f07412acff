"""`lapilli compare`: several compiled networks side by side on the same images."""

from __future__ import annotations

from pathlib import Path

import click

from lapilli import cli_options, plot_files, terminal

AGAINST = ("energy", "streaming", "dynamic", "latency", "energy-delay", "cores")
"""As `compare_report.COSTS`, known without importing it: --help is quick."""


@click.command("compare")
@click.argument(
    "model_files", metavar="MODEL.H5...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@cli_options.data()
@cli_options.limit()
@cli_options.profile("one chip for all; default: those compiled for")
@click.option("--placed", is_flag=True, help="Place each on cores first, as `estimate` does.")
@click.option(
    "--against",
    type=click.Choice(AGAINST),
    default="energy",
    show_default=True,
    help="The Pareto front sets accuracy against this.",
)
@cli_options.without()
@cli_options.score()
@plot_files.option("Draw accuracy against it, with bands and the front.")
@cli_options.common
def compare(
    model_files: tuple[Path, ...],
    spec: str,
    limit: int | None,
    profile: str | None,
    placed: bool,
    against: str,
    without: tuple[str, ...],
    score: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Compare model files on the same images: accuracy, size, energy, time, the Pareto front."""
    from lapilli import compare_networks, data, hardware_profiles, render_compare, reports

    # What can be refused at once is refused before images are read.
    rules = compare_networks.Rules(placed, against, without, score)
    entries = compare_networks.read(model_files)
    chip = None if profile is None else hardware_profiles.load(profile)
    with terminal.bars() as bar:
        dataset = data.load(spec, split="test", limit=limit, progress=bar("reading images"))
        if plot is not None and dataset.labels is None:
            raise click.UsageError("--plot draws accuracy: it needs data with labels.")
        found = compare_networks.compare_entries(
            entries,
            dataset.images,
            dataset.labels,
            chip,
            rules,
            terminal.staged(bar),
        )
    report = {
        "data": reports.data_report(dataset),
        "placed": placed,
        "without": list(without),
        **found.as_dict(),
    }
    if plot is not None:
        from lapilli import compare_plot

        title = f"{dataset.source}, {dataset.split} split, {len(dataset):,} images"
        cli_options.write(plot, compare_plot.picture(found, title, plot.suffix))
    cli_options.show(report, as_json, render_compare.comparison)
