"""Options that several commands share; files to write, refused before the work that fills them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lapilli import terminal

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Check = Callable[[click.Context, click.Parameter, Any], Any]
FILE: Any = click.Path(path_type=Path, dir_okay=False)
SOURCES = "digits, mnist:DIR, cifar10:DIR_OR_ARCHIVE, imagefolder:DIR or npz:FILE"


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json and --debug, which every command has; failures.exit_code_of looks for --debug."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    return as_json(debug(command))


def model_file() -> Decorator:
    """MODEL.H5."""
    return click.argument("model_file", metavar="MODEL.H5", type=click.Path(path_type=Path))


def weights() -> Decorator:
    """--weights of a float network."""
    return click.option(
        "--weights", type=click.Path(path_type=Path), help="safetensors or checkpoint"
    )


def data(name: str = "--data", text: str = "images", *, required: bool = True) -> Decorator:
    """Where images come from, as `spec`."""
    text = f"{text}: {SOURCES}"
    return click.option(name, "spec", metavar="DATA", required=required, help=text)


def limit(default: int | None = None, text: str = "Use the first N images.") -> Decorator:
    """--limit."""
    return click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(min=1),
        default=default,
        show_default=default is not None,
        help=text,
    )


def profile(text: str = "another chip than the one compiled for") -> Decorator:
    """--profile, None where it is not given."""
    return click.option("--profile", metavar="NAME|FILE", help=text)


def without() -> Decorator:
    """--without, of constants of the profile."""
    return click.option(
        "--without",
        metavar="KEY",
        multiple=True,
        help="Leave a constant out, such as energy.chip_static_mw; may be given more than once.",
    )


def score() -> Decorator:
    """--score."""
    return click.option(
        "--score",
        metavar="NAME",
        help="The output to compare with the labels, where several could be.",
    )


def normalisation(mean: str, std: str) -> Decorator:
    """--mean and --std, with these help texts: numbers, empty where they are not given."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        first = click.option("--mean", callback=_numbers, default="", help=mean)
        return first(click.option("--std", callback=_numbers, default="", help=std)(command))

    return add


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in value.split(",") if value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list like 0.485,0.456,0.406") from None


def in_folder(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file in a folder that is not there, before anything is computed for it."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}")
    return path


def ends_in(kind: str, *endings: str) -> Check:
    """A callback that refuses other endings than these, and what `in_folder` refuses.

    kind: what such a file is, with its article.
    """

    def check(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is not None and path.suffix not in endings:
            *others, last = endings
            known = f"{', '.join(others)} or {last}" if others else last
            raise click.BadParameter(f"{kind} ends in {known}, not in {path.suffix!r}")
        return in_folder(context, parameter, path)

    return check


def output(
    text: str, metavar: str | None = None, *, required: bool = True, check: Check = in_folder
) -> Decorator:
    """-o, --output: the file to write."""
    return click.option(
        *("-o", "--output"),
        metavar=metavar,
        required=required,
        type=FILE,
        callback=check,
        help=text,
    )


def write(path: Path, content: bytes) -> None:
    """The whole file or none, and a message. Raises InputError, BackendError."""
    from lapilli.compiler.sealed_file import write_whole

    write_whole(path, content)
    terminal.say(f"wrote {path}")


def show(report: dict[str, Any], as_json: bool, tables: Callable[[dict[str, Any]], Any]) -> None:
    """The result of a command: one JSON object, or tables and lines."""
    if as_json:
        terminal.show_json(report)
    else:
        terminal.show(*tables(report))
