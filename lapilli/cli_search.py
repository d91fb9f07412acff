"""`lapilli compile --target-accuracy 80` or `--target-energy 5uJ`: a search by command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click

from lapilli import cli_options, plot_files, terminal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.pareto import FrontPoint
    from lapilli.data import Dataset
    from lapilli.search_run import Search

Report = dict[str, Any]
SAMPLES = 1000
SECONDS = 600.0


plot = plot_files.option(
    "Draw accuracy against energy of the networks that a search found.", "--plot-front"
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All options of the search; `asked` takes them from what the command is given."""
    many = "; a list with commas"
    made = (
        click.option(
            "--target-accuracy",
            metavar="PERCENT",
            type=float,
            help="Search levels per layer and a coding: the least energy with this accuracy.",
        ),
        click.option(
            "--target-energy",
            metavar="ENERGY",
            help="The same: the best accuracy with no more energy per inference, as in 5uJ.",
        ),
        click.option("--codings", help=f"Search these: graded, unary, sigma-delta, rate{many}"),
        click.option("--search-levels", metavar="N,N", help=f"Search these levels{many}"),
        click.option(
            "--search-data",
            metavar="DATA",
            help="Measure candidates on these images; default: the test split of --calib",
        ),
        click.option(
            "--search-samples",
            metavar="N",
            type=click.IntRange(min=1),
            help=f"on so many of them  [default: {SAMPLES}]",
        ),
        click.option(
            "--search-seconds",
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True),
            help=f"Begin no candidate that would be done later.  [default: {SECONDS:g}]",
        ),
        click.option(
            "--search-seed",
            metavar="N",
            type=click.IntRange(min=0),
            help="where random numbers of the search begin  [default: 0]",
        ),
        plot,
    )
    for add in reversed(made):
        command = add(command)
    return command


@final
@dataclass(frozen=True)
class Asked:
    """The options of the search, as given."""

    target_accuracy: float | None = None
    target_energy: str | None = None
    codings: str | None = None
    search_levels: str | None = None
    search_data: str | None = None
    search_samples: int | None = None
    search_seconds: float | None = None
    search_seed: int | None = None
    plot_front: Path | None = None

    def flags(self) -> dict[str, object]:
        """What was given, by its name on the command line."""
        given = {k: v for k, v in asdict(self).items() if v is not None}
        return {f"--{name.replace('_', '-')}": str(value) for name, value in given.items()}


def asked(given: dict[str, Any]) -> Asked | None:
    """The search's options, taken out of `given`; None where there is no target.

    Raises click.UsageError for options that mean nothing without one, or with two.
    """
    found = Asked(**{name: given.pop(name, None) for name in Asked.__dataclass_fields__})
    targets = [name for name in ("--target-accuracy", "--target-energy") if name in found.flags()]
    if len(targets) == 2:
        raise click.UsageError(f"{' and '.join(targets)} exclude each other: give one.")
    if not targets:
        for name in found.flags():
            raise click.UsageError(f"{name} goes with --target-accuracy or --target-energy.")
        return None
    return found


def search(
    model: str,
    weights: Path | None,
    spec: str,
    calib_samples: int,
    method: str | None,
    profile: str,
    calibrate: str | None,
    *,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]],
    given: Mapping[str, Any],
    wanted: Asked,
) -> tuple[Artifact, Report]:
    """The network that was found, and the report of the search."""
    from lapilli import hardware_profiles, models, reports, search_options
    from lapilli.level_search import search as find

    search_options.goal(wanted.target_accuracy, wanted.target_energy)
    shared = {name: value for name, value in given.items() if value is not None}
    codings = None if wanted.codings is None else _listed(wanted.codings)
    chosen = search_options.checked_codings(codings, method)
    search_options.checked_options(shared, chosen)
    with terminal.bars() as bar:
        images, measured_on = _images(spec, calib_samples, wanted, bar)
        prepared = [_normalised(d.images, *preprocessing) for d in (images, measured_on)]
        found = find(
            models.load(model, weights),
            prepared[0],
            None,
            (prepared[1], measured_on.labels),
            target_accuracy=wanted.target_accuracy,
            target_energy=wanted.target_energy,
            profile=hardware_profiles.load(profile),
            calibrate=calibrate,
            levels=_levels(wanted.search_levels),
            codings=codings,
            method=method,
            options=shared,
            seconds=SECONDS if wanted.search_seconds is None else wanted.search_seconds,
            seed=wanted.search_seed or 0,
            observe=terminal.stopwatch("search"),
            progress=terminal.staged(bar),
            tell=_tell,
            preprocessing=preprocessing,
        )
    if wanted.plot_front is not None:
        _draw(wanted.plot_front, found.artifact, found.candidates)
    names = measured_on.names
    artifact = replace(found.artifact, provenance=replace(found.artifact.provenance, labels=names))
    return artifact, {**report(found), "data": reports.data_report(measured_on)}


def report(found: Search) -> Report:
    """What a search found, as --json prints it."""
    return {
        "target": dict(found.artifact.provenance.search),
        "chosen": asdict(found.chosen),
        "front": [asdict(p) for p in found.front],
        "candidates": [asdict(p) for p in found.candidates],
        "sensitivity": {name: dict(errors) for name, errors in found.sensitivity.items()},
        "dropped": dict(found.dropped),
        "complete": found.complete,
        "float_score": found.float_score,
        "seconds": found.seconds,
    }


def draw_stored(path: Path | None, artifact: Artifact) -> None:
    """--plot-front of `lapilli inspect`. Raises InputError for a network that nobody searched."""
    if path is not None:
        _draw(path, artifact, artifact.provenance.front)


def _draw(path: Path, artifact: Artifact, points: tuple[FrontPoint, ...]) -> None:
    from lapilli import front_plot

    made = artifact.provenance
    cli_options.write(path, front_plot.picture(made.front, points, made.profile, path.suffix))


def _images(
    spec: str, samples: int, wanted: Asked, bar: Callable[[str], terminal.Count]
) -> tuple[Dataset, Dataset]:
    """Calibration images, and those that candidates are measured on."""
    from lapilli import data

    count = SAMPLES if wanted.search_samples is None else wanted.search_samples
    first = data.load(spec, split="train", limit=samples, progress=bar("reading images"))
    source = wanted.search_data or spec
    if first.split != "all" or wanted.search_data is not None:
        reading = bar("reading held-out images")
        return first, data.load(source, split="test", limit=count, progress=reading)
    # A source without splits: what is not calibrated on is held out, half of it at least.
    whole = data.load(spec, split="train", limit=samples + count)
    kept = min(samples, max(len(whole) // 2, 1))
    return _part(whole, slice(kept)), _part(whole, slice(kept, kept + count))


def _part(whole: Dataset, chosen: slice) -> Dataset:
    labels = None if whole.labels is None else whole.labels[chosen]
    return replace(whole, images=whole.images[chosen], labels=labels)


def _normalised(
    images: npt.NDArray[np.float32], mean: tuple[float, ...], std: tuple[float, ...]
) -> npt.NDArray[np.float32]:
    from lapilli import data

    return data.normalise(images, mean, std) if mean or std else images


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _levels(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in _listed(text)]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a list like 2,4,8", param_hint="--search-levels"
        ) from None


def _tell(point: FrontPoint) -> None:
    from lapilli.search_options import described, energy

    figures = f"{100 * point.score:.2f} %, {energy(point.energy_mid_j)}"
    terminal.say(f"search: {described(point)}: {figures}")
