"""`lapilli train`: a recipe, carried out, compiled and verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lapilli import cli_options, terminal

if TYPE_CHECKING:
    from lapilli.compiler.training.loop import Epoch
    from lapilli.training_run import Trained

Report = dict[str, Any]


def _change(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if bad := [key for key, sign, _ in pairs if not sign or not key]:
        raise click.BadParameter(f"{bad[0]!r} is not KEY=VALUE, as in training.epochs=3")
    return {key: value for key, _, value in pairs}


def _list(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from lapilli import zoo

        for name in zoo.names():
            first = (zoo.FOLDER / f"{name}.toml").read_text("utf-8").splitlines()[0]
            terminal.write(f"{name}: {first.lstrip('# ')}\n")
        context.exit()


@click.command("train")
@click.argument("recipe")
@cli_options.data(text="in place of the recipe's data", required=False)
@click.option("--weights", type=click.Path(), help="a checkpoint to start from")
@click.option(
    "--set",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_change,
    help="replace a value of the recipe, as in training.epochs=3; may be given more than once",
)
@cli_options.limit(text="first N training images")
@click.option(
    "--checkpoint",
    type=cli_options.FILE,
    callback=cli_options.in_folder,
    help="file that the run keeps up to date, and goes on from if it is there",
)
@click.option(
    "--tensorboard", type=click.Path(path_type=Path, file_okay=False), help="folder for logs"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@cli_options.output("the model file; trained weights go beside it, as .safetensors")
@click.option("--list", is_flag=True, callback=_list, expose_value=False, is_eager=True)
@cli_options.common
def train(
    recipe: str,
    spec: str | None,
    weights: str | None,
    changes: dict[str, str],
    limit: int | None,
    checkpoint: Path | None,
    tensorboard: Path | None,
    device: str,
    output: Path,
    as_json: bool,
) -> int:
    """Carry out RECIPE, one of the zoo's (--list) or a TOML file: train, compile, verify."""
    from safetensors.torch import save

    from lapilli import training_run
    from lapilli.compiler.sealed_file import write_whole

    chosen = training_run.find_recipe(recipe, changes)
    chosen = replace(chosen, data=spec or chosen.data, weights=weights or chosen.weights)
    with terminal.bars() as bar:
        trained = training_run.train(
            chosen,
            checkpoint=checkpoint,
            tensorboard=tensorboard,
            limit=limit,
            device=device,
            progress=terminal.staged(bar),
            report=lambda epoch: terminal.say(_line(epoch)),
        )
    if trained is None:  # the first process tells
        return 0
    trained.artifact.save(output)
    # Copies: safetensors refuses parameters that share their memory.
    state = {n: v.contiguous().clone() for n, v in trained.network.state_dict().items()}
    write_whole(output.with_suffix(".safetensors"), save(state))
    report = _report(trained, recipe, output)
    cli_options.show(report, as_json, _tables)
    return 0 if trained.verification.ok else 1


def _line(epoch: Epoch) -> str:
    right = "" if epoch.score is None else f", held-out images {100 * epoch.score:.2f} %"
    counted = f"{epoch.stage}: epoch {epoch.epoch} of {epoch.epochs}"
    return f"{counted}: loss {epoch.loss:.4f}{right}, {epoch.seconds:.0f} s"


def _report(trained: Trained, recipe: str, output: Path) -> Report:
    from lapilli import reports

    return {
        "recipe": recipe,
        "artifact": reports.identity(trained.artifact, output),
        "epochs": [{**epoch.__dict__} for epoch in trained.epochs],
        "seconds": trained.seconds,
        "test_images": trained.images,
        "measure": trained.measure,
        "network_score": trained.network_score,
        "score": trained.score,
        **reports.verification_report(trained.verification),
    }


def _tables(report: Report) -> list[Any]:
    from lapilli.render import table

    title = f"{report['recipe']}, {report['test_images']} test images"
    made = table(title, ("", report["measure"]), text=1)

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    made.add_row("the network as it was trained", percent(report["network_score"]))
    made.add_row("the spiking network, in integers", percent(report["score"]))
    made.add_row("training", f"{report['seconds']:.0f} s")
    made.add_row("every equality checked", "holds" if report["ok"] else "FAILS")
    return [made]
