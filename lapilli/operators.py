"""Which operators compile, with which methods, on which backends; and what to do about others.

What is said comes from lapilli/operator_support.json, which tests/operator_support.py writes by
compiling a network with every operator and every method; a test holds it to what the code does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lapilli.compiler.errors import InputError
from lapilli.compiler.layers.catalogue import (
    FAMILIES,
    KINDS,
    LISTED,
    Family,
    find,
    key,
    near,
    near_refused,
)
from lapilli.compiler.layers.refused import GENERAL, REMEDIES, remedy

Report = dict[str, Any]
SUPPORT = Path(__file__).with_name("operator_support.json")
PLACES: Mapping[str, str] = {
    "lava": "Lava",
    "stock": "Lava, stock processes",
    "netx": "netx",
    "nir": "NIR",
    "loihi": "Loihi JSON",
    "sanafe": "SANA-FE",
}
"""Key of the support -> backend or format, for people."""


def groups() -> list[Report]:
    """Families of the same support: {"families": titles, "support": {variant: ...}}.

    Of a variant either {"refused": reason}, or the neuron models, whether every count is the
    quantised ANN's, and per place of PLACES None or the reason why not.
    """
    found: list[Report] = json.loads(SUPPORT.read_text(encoding="utf-8"))["groups"]
    return found


def listed() -> Report:
    """All operators that compile, and those that have a remedy instead."""
    return {"operators": [_names(f) for f in FAMILIES], "refused": dict(REMEDIES)}


def one(name: str) -> Report:
    """What there is to say of one operator. Raises InputError where nothing is known of it."""
    support = {title: group["support"] for group in groups() for title in group["families"]}
    families = [{**_names(f), "support": support[f.title]} for f in find(name)]
    advice = remedy(name.rpartition(".")[2])
    refused = not families and advice != GENERAL
    close = () if families or refused else (*near(name), *near_refused(name))
    if not families and not refused:
        raise InputError(
            f"operator {name}",
            "an operator compiles, or there is a remedy for it",
            found=f"{name}, of which nothing is known",
            allowed=LISTED,
            remedy=f"Did you mean {', '.join(close)}?" if close else GENERAL,
        )
    return {"name": name, "compiles": families, "remedy": advice if refused else None}


def _names(family: Family) -> Report:
    return {
        "title": family.title,
        **{kind: list(family.names(kind)) for kind in KINDS},
    }


def markdown() -> str:
    """docs/operators.md."""
    return "\n".join(_lines()) + "\n"


_HEAD = """\
# Operators

Which operators compile, with which method, and on what the compiled network then runs. This page is
generated: `python tests/operator_support.py` compiles a small network with every operator and every
method, lowers it to every backend, writes it in every format, and keeps what is refused and why;
`tests/test_operator_support.py` holds this page to what the code does. `lapilli operators NAME`
says the same of one operator.

## What compiles

One row per kind of operator, with its names in PyTorch and ONNX (in-place forms left out; operators
of exported programs are in `lapilli operators NAME`). Its group is explained below."""

_GROUPS = """\
## With which method, on what

Operators of a group behave the same. *Becomes* are the neuron models in the small network that was
compiled. *Quantised ANN*: "equal" where every count of every population is the quantised ANN's, by
construction; "near" where the count is a rate that comes close to it. The reference engine runs
everything that compiles. A number is the reason for a no, below. Stock processes and netx were
compiled for their own profiles."""


def _lines() -> Iterator[str]:
    found = groups()
    letters = {
        title: chr(ord("A") + index)
        for index, group in enumerate(found)
        for title in group["families"]
    }
    yield from (_HEAD, "", "| operator | PyTorch: modules | functions, methods | ONNX | group |")
    yield "| --- | --- | --- | --- | --- |"
    for f in FAMILIES:
        cells = (
            _code(f.names(*kinds)) for kinds in (("modules",), ("functions", "methods"), ("onnx",))
        )
        yield f"| {f.title} | {' | '.join(cells)} | {letters[f.title]} |"
    yield from ("", _GROUPS)
    reasons: list[str] = []
    for index, group in enumerate(found):
        yield from ("", f"### Group {chr(ord('A') + index)}", "")
        yield from (f"{'; '.join(group['families'])}.", "")
        yield f"| method | becomes | quantised ANN | {' | '.join(PLACES.values())} |"
        yield "| --- " * (3 + len(PLACES)) + "|"
        for variant, support in group["support"].items():
            yield f"| {variant} | {' | '.join(_cells(support, reasons))} |"
    yield from ("", "## Reasons", "", "The rule that does not hold there, and what to do.", "")
    yield from (f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    yield from ("", "## What is refused, and what to do instead", "")
    yield from ("| operator | instead |", "| --- | --- |")
    for advice in dict.fromkeys(REMEDIES.values()):
        alike = {key(n): n for n, text in reversed([*REMEDIES.items()]) if text == advice}
        yield f"| {_code(reversed([*alike.values()]))} | {advice} |"


def _cells(support: Mapping[str, Any], reasons: list[str]) -> Iterator[str]:
    def told(reason: str | None) -> str:
        if reason is None:
            return "yes"
        if reason not in reasons:
            reasons.append(reason)
        return f"no ({reasons.index(reason) + 1})"

    if "refused" in support:
        yield from (told(support["refused"]), *("-",) * (1 + len(PLACES)))
        return
    yield ", ".join(support["neurons"])
    yield "equal" if support["exact"] else "near"
    yield from (told(support[place]) for place in PLACES)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"
