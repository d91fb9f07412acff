"""`lapilli robustness`: accuracy of several networks under noise and on imperfect hardware."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lapilli import cli_options, plot_files, terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lapilli.robustness_report import Robustness

Report = dict[str, Any]


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return None if value is None else tuple(part.strip() for part in value.split(","))


def _strengths(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, tuple[float, ...]]:
    given = {}
    for value in values:
        kind, equals, numbers = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not like gaussian=0.05,0.1")
        given[kind.strip()] = _parsed(numbers, value)
    return given


def _parsed(text: str, whole: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise click.BadParameter(f"{whole!r} holds something that is no number") from None


@click.command("robustness")
@click.argument("specs", metavar="MODEL...", nargs=-1, required=True)
@cli_options.data()
@cli_options.limit()
@click.option("--name", "names", multiple=True, help="A label; one per MODEL, in their order.")
@click.option(
    "--kinds",
    metavar="KIND,...",
    callback=_names,
    help="gaussian, salt-and-pepper, speckle, poisson, occlusion, jpeg; weights, dead (hardware); "
    "default: all that fit the images",
)
@click.option(
    "--strengths",
    metavar="KIND=X,...",
    multiple=True,
    callback=_strengths,
    help="Other strengths than the usual five; may be given once per kind.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@cli_options.normalisation(
    "normalisation of float networks", "as --mean; model files hold their own"
)
@plot_files.option("Draw it.")
@cli_options.output(
    "Write every number there.",
    "FILE.csv|json",
    required=False,
    check=cli_options.ends_in("a table", ".csv", ".json"),
)
@cli_options.common
def robustness(
    specs: tuple[str, ...],
    spec: str,
    limit: int | None,
    names: tuple[str, ...],
    kinds: tuple[str, ...] | None,
    strengths: dict[str, tuple[float, ...]],
    seeds: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    plot: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare networks under noise and faults: MODEL is a .h5 file, or a float network as
    package.module:callable=WEIGHTS (or without weights).
    """
    import lapilli
    from lapilli import data, reports, robustness_plot

    labels = _labels(specs, names)
    models = {name: _model(given) for name, given in zip(labels, specs, strict=True)}
    with terminal.bars() as bar:
        dataset = data.load(spec, split="test", limit=limit, progress=bar("reading images"))
        found = lapilli.robustness(
            models,
            dataset.images,
            dataset.labels,
            kinds=kinds,
            strengths=strengths,
            seeds=seeds,
            mean=mean,
            std=std,
            progress=bar("running networks"),
        )
    report = {"data": reports.data_report(dataset), **found.report()}
    if output is not None:
        text = found.csv() if output.suffix == ".csv" else json.dumps(report, indent=2) + "\n"
        cli_options.write(output, text.encode())
    if plot is not None:
        where = report["data"]
        title = f"{where['source']}, {where['split']} split, {where['images']} images, "
        drawn = robustness_plot.picture(found, title + _seeds(seeds), plot.suffix)
        cli_options.write(plot, drawn)
    cli_options.show(report, as_json, lambda told: _tables(told, found))


def _labels(specs: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    if names and len(names) != len(specs):
        raise click.UsageError(f"{len(names)} labels for {len(specs)} networks.")
    labels = names or tuple(
        Path(spec).stem if spec.endswith(".h5") else spec.partition("=")[0] for spec in specs
    )
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise click.UsageError(f"Two networks are called {twice[0]}: tell them apart with --name.")
    return labels


def _model(spec: str) -> Any:
    import lapilli
    from lapilli import models

    if spec.endswith(".h5"):
        return lapilli.load(spec)
    callable_, _, weights = spec.partition("=")
    return models.load(callable_, Path(weights) if weights else None)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _tables(report: Report, found: Robustness) -> Iterator[RenderableType]:
    from lapilli.render import table
    from lapilli.robustness_report import about

    names = [terminal.plain(name) for name in found.models]
    where = report["data"]
    made = table(
        f"{where['source']}, {where['split']} split, {where['images']} images, "
        f"{_seeds(found.seeds)}: accuracy in %",
        ("noise", "strength", *names),
        caption="* middle strength; +- standard deviation over the seeds",
    )
    made.add_row("none", "", *(f"{100 * n / found.images:.2f}" for n in found.clean.values()))
    for known in report["kinds"]:
        kind = known["kind"]
        made.add_section()
        for strength in known["strengths"]:
            cells = [found.cell(model, kind, strength) for model in found.models]
            made.add_row(
                kind if strength == known["strengths"][0] else "",
                f"{strength:g}{'*' if strength == known['middle'] else ' '}",
                *(f"{100 * c.mean:.2f} +- {100 * c.std:.2f}" for c in cells),
            )
    yield made
    yield from _summary(found, names)
    yield "Strengths: " + "; ".join(f"{kind}: {about(kind).unit}" for kind in found.strengths) + "."


def _summary(found: Robustness, names: list[str]) -> Iterator[RenderableType]:
    from lapilli.render import table

    pairs = list(itertools.combinations(range(len(names)), 2))
    columns = [f"{names[a]} : {names[b]}" for a, b in pairs]
    made = table(
        "Mean over the strengths, in %" + ("; images that only one of two got right" * bool(pairs)),
        ("noise", *names, *columns),
    )
    for kind in found.strengths:
        duels = [duel for duel in found.duels if duel.kind == kind]
        made.add_row(
            kind,
            *(f"{100 * found.of_kind(m, kind):.2f}" for m in found.models),
            *_won(found, duels),
        )
    made.add_section()
    overall = (f"{100 * found.overall(model):.2f}" for model in found.models)
    made.add_row("mean over the kinds", *overall, *_won(found, found.duels))
    yield made


def _won(found: Robustness, duels: Any) -> Iterator[str]:
    """12 : 7 for each pair of networks."""
    for first, second in itertools.combinations(found.models, 2):
        fought = [duel for duel in duels if (duel.first, duel.second) == (first, second)]
        won = sum(duel.only_first for duel in fought), sum(duel.only_second for duel in fought)
        yield f"{won[0]:,} : {won[1]:,}"
