"""`lapilli operators`: what compiles, and what to do about what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lapilli import cli_options, terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

Report = dict[str, Any]


@click.command("operators")
@click.argument("name", required=False)
@cli_options.common
def operators(name: str | None, as_json: bool) -> None:
    """List the operators that compile; or say of NAME with what it compiles, or the remedy."""
    from lapilli import operators as known

    report = known.listed() if name is None else known.one(name)
    cli_options.show(report, as_json, _all if name is None else _one)


def _all(report: Report) -> Iterator[RenderableType]:
    from lapilli.render import table

    columns = ("operator", "modules of torch.nn", "functions and methods", "ONNX")
    made = table("Operators that compile", columns, text=4)
    for o in report["operators"]:
        both = dict.fromkeys([*o["functions"], *o["methods"]])
        made.add_row(o["title"], *(", ".join(n) or "-" for n in (o["modules"], both, o["onnx"])))
    yield made
    yield f"Refused, with a remedy: {', '.join(report['refused'])}."
    yield "lapilli operators NAME says more of one; docs/operators.md has all of it in tables."


def _one(report: Report) -> Iterator[RenderableType]:
    from lapilli.operators import PLACES
    from lapilli.render import table

    if report["remedy"] is not None:
        yield terminal.plain(f"{report['name']} does not compile. {report['remedy']}")
        return
    for o in report["compiles"]:
        columns = ("method", "becomes", "quantised ANN", *PLACES.values())
        made = table(f"{o['title']}: compiles", columns, text=len(columns))
        reasons: dict[str, int] = {}
        for variant, support in o["support"].items():
            if "refused" in support:
                cells = [_told(support["refused"], reasons), *("-",) * (1 + len(PLACES))]
            else:
                cells = [", ".join(support["neurons"]), "equal" if support["exact"] else "near"]
                cells += [_told(support[place], reasons) for place in PLACES]
            made.add_row(variant, *cells)
        yield made
        if reasons:
            yield "No, because this rule does not hold there:"
        yield from (f"({number}) {reason}" for reason, number in reasons.items())
        for kind, title in (("modules", "torch.nn"), ("functions", "functions")):
            if o[kind]:
                yield f"{title}: {', '.join(o[kind])}"
        for kind in ("methods", "aten", "onnx"):
            if o[kind]:
                yield f"{kind if kind == 'methods' else kind.upper()}: {', '.join(o[kind])}"


def _told(reason: str | None, reasons: dict[str, int]) -> str:
    return "yes" if reason is None else f"no ({reasons.setdefault(reason, len(reasons) + 1)})"
