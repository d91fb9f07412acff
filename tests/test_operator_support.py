"""docs/operators.md and `lapilli operators` say what the code does.

`pytest tests/test_operator_support.py --update-golden` finds out all of it again: minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import operator_support
import pytest
import torch
from command_line import Run
from operator_support import DOCS, VARIANTS

from lapilli import operators
from lapilli.compiler.errors import InputError, LapilliError
from lapilli.compiler.layers.catalogue import FAMILIES, LISTED, Family, find
from lapilli.compiler.layers.refused import REMEDIES, remedy


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks here are tiny: on a busy machine, threads cost ten times what they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stored(title: str) -> dict[str, Any]:
    (support,) = (g["support"] for g in operators.groups() if title in g["families"])
    return dict(support)


def test_the_docs_are_generated(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("update_golden"):
        operator_support.write(operator_support.everything())
    assert DOCS.read_text(encoding="utf-8") == operators.markdown()


def test_every_family_and_method_is_there_once() -> None:
    titles = [title for group in operators.groups() for title in group["families"]]
    assert sorted(titles) == sorted(f.title for f in FAMILIES) == sorted(operator_support.CALLS)
    assert all(list(group["support"]) == list(VARIANTS) for group in operators.groups())


@pytest.mark.parametrize("title", [group["families"][0] for group in operators.groups()])
def test_a_family_of_each_group_runs_where_it_is_said_to(title: str) -> None:
    (family,) = (f for f in FAMILIES if f.title == title)
    found = {variant: operator_support.support(family, variant) for variant in VARIANTS}
    assert found == stored(title)


@pytest.mark.parametrize(
    "title", [title for group in operators.groups() for title in group["families"][1:]]
)
def test_every_other_family_compiles_to_what_is_said(title: str) -> None:
    (family,) = (f for f in FAMILIES if f.title == title)
    for variant, expected in stored(title).items():
        found = compiled(family, variant)
        assert found == {key: expected[key] for key in found}, variant
        assert ("refused" in found) == ("refused" in expected), variant


def compiled(family: Family, variant: str) -> dict[str, Any]:
    try:
        artifact = operator_support.compiled(family, VARIANTS[variant], "loihi2")
    except LapilliError as error:
        return {"refused": operator_support.reason(error)}
    return operator_support.compiled_support(artifact)


def test_every_method_is_in_the_table() -> None:
    from lapilli.methods import METHODS

    assert {type(method) for method in VARIANTS.values()} == set(METHODS.values())
    assert {variant.split()[0] for variant in VARIANTS} == set(METHODS)


def test_the_docs_name_every_operator_and_every_remedy() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for family in FAMILIES:
        assert f"| {family.title} |" in text
        assert all(f"`{name}`" in text for name in family.names("modules", "onnx"))
    assert all(advice in text for advice in REMEDIES.values())


def test_all_operators_are_listed(run: Run) -> None:
    outcome = run("operators")
    assert outcome.code == 0
    for name in ("ReLU", "leaky_relu", "MaxPool2d", "HardSwish", "layernorm", "NAME says more"):
        assert name in outcome.out
    listed = run("operators", "--json").json
    assert [o["title"] for o in listed["operators"]] == [f.title for f in FAMILIES]
    assert listed["refused"] == REMEDIES


@pytest.mark.parametrize("name", ["torch.nn.SiLU", "silu", "aten.silu", "F.silu"])
def test_one_operator_says_with_what_it_compiles(run: Run, name: str) -> None:
    outcome = run("operators", name)
    assert outcome.code == 0
    assert "SiLU (swish): compiles" in outcome.out
    assert "Ladder" in outcome.out
    assert "(1) " in outcome.out and "a clipped line of the drive" in " ".join(outcome.out.split())
    (family,) = run("operators", name, "--json").json["compiles"]
    assert family["modules"] == ["SiLU"]
    assert family["support"] == stored("SiLU (swish)")


def test_a_call_with_two_meanings_tells_both() -> None:
    report = operators.one("mul")
    assert [f["title"] for f in report["compiles"]] == [f.title for f in find("mul")]
    assert len(report["compiles"]) == 2


def test_a_refused_operator_has_its_remedy(run: Run) -> None:
    outcome = run("operators", "nn.LayerNorm")
    assert outcome.code == 0
    assert "nn.LayerNorm does not compile." in outcome.out
    assert "use BatchNorm" in " ".join(outcome.out.split())
    assert run("operators", "LayerNorm", "--json").json == {
        "name": "LayerNorm",
        "compiles": [],
        "remedy": remedy("layernorm"),
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_poool2d", "Did you mean max_pool2d"),
        ("multihead_atention", "Did you mean multiheadattention?"),
        ("frobnicate", "add a rule for it"),
    ],
)
def test_an_unknown_operator_is_a_question(run: Run, name: str, said: str) -> None:
    outcome = run("operators", name)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert LISTED in outcome.err
    with pytest.raises(InputError):
        operators.one(name)


def test_what_is_stored_is_small_and_sorted() -> None:
    text = operators.SUPPORT.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert json.dumps(json.loads(text), indent=1) + "\n" == text
