"""`lapilli estimate`: energy and latency of one inference, with what they rest on."""

from __future__ import annotations

from pathlib import Path

import click

from lapilli import cli_options, network_inputs, plot_files, terminal


@click.command("estimate")
@cli_options.model_file()
@cli_options.data()
@cli_options.limit()
@cli_options.profile("another chip than the one compiled for, or a board")
@click.option(
    "--placed",
    is_flag=True,
    help="Place it on cores first, with the spikes counted here: packets, hops, chips.",
)
@cli_options.without()
@click.option(
    "--neurobench", is_flag=True, help="NeuroBench's metrics, too: every step is run for them."
)
@click.option(
    "--steps", "by_step", is_flag=True, help="With --json: spikes and synops of each step, too."
)
@plot_files.option("Draw what costs energy: an inference, and every layer.")
@cli_options.common
def estimate(
    model_file: Path,
    spec: str,
    limit: int | None,
    profile: str | None,
    placed: bool,
    without: tuple[str, ...],
    neurobench: bool,
    by_step: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Energy and latency of one inference, as bands, with sources and what is not counted."""
    import lapilli
    from lapilli import render_energy, reports
    from lapilli.chips import chip_of

    artifact = lapilli.load(model_file)
    with terminal.bars() as bar:
        runs, layout = artifact, None
        if placed:
            from lapilli import placed_estimate

            # What can be refused at once is refused before minutes of counting.
            chip = chip_of(artifact, profile)
            runs = placed_estimate.fitting(artifact, chip)
        dataset = network_inputs.images(artifact, spec, limit, bar)
        evaluation = reports.evaluate(
            runs,
            dataset.images,
            agreement_images=0,
            step_events=by_step,
            progress=bar("counting events"),
        )
        if placed:
            layout = placed_estimate.layout_of(
                artifact,
                evaluation.events,
                dataset.images,
                chip,
                progress=terminal.staged(bar),
            )
        report = {
            "artifact": reports.identity(artifact, model_file),
            **reports.estimate_report(runs, evaluation, dataset, profile, without, layout),
        }
        if neurobench:
            metrics = lapilli.neurobench(
                artifact, dataset.images, progress=bar("NeuroBench's metrics")
            )
            report["neurobench"] = metrics.as_dict()
    if plot is not None:
        from lapilli import estimate_plot

        drawn = estimate_plot.picture(report["estimate"], model_file.name, plot.suffix)
        cli_options.write(plot, drawn)
    cli_options.show(report, as_json, render_energy.estimate)
