"""What compiles, told to people: families of operators, names close to a slip."""

from __future__ import annotations

import pytest

from lapilli.compiler.layers import TABLE, catalogue
from lapilli.compiler.layers.arithmetic import DIVIDE, MULTIPLY
from lapilli.compiler.layers.catalogue import FAMILIES, LISTED, allowed, find, near, near_refused
from lapilli.compiler.layers.heads import HEADS


@pytest.mark.parametrize(("table", "ends"), [(TABLE, False), (HEADS, True)])
def test_every_row_of_the_tables_is_in_one_family(table: tuple[object, ...], ends: bool) -> None:
    families = [f.rules() for f in FAMILIES if f.ends == ends]
    assert all(families)
    for rule in table:
        expected = 2 if rule is MULTIPLY else 1  # by a constant, of two activities
        assert sum(rule in rules for rules in families) == expected, catalogue.names(rule)  # type: ignore[arg-type]


def test_every_key_of_a_family_is_a_name() -> None:
    for family in FAMILIES:
        known = {catalogue.key(name) for rule in family.rules() for name in catalogue.names(rule)}
        assert set(family.keys) <= known, family.title


def test_titles_are_unique() -> None:
    assert len({f.title for f in FAMILIES}) == len(FAMILIES)


def test_only_families_with_neurons_start_populations() -> None:
    for family in FAMILIES:
        roles = {getattr(rule, "role", None) for rule in family.rules()} - {None}
        assert roles <= {family.neurons} or family.rules() == (MULTIPLY, DIVIDE), family.title


def test_names_leave_in_place_forms_out() -> None:
    (relu,) = find("torch.nn.ReLU")
    assert relu.names("modules") == ("ReLU",)
    assert relu.names("methods") == relu.names("aten") == ("relu",)
    assert relu.names("onnx") == ("Relu",)
    assert "relu" in relu.names() and "relu_" not in relu.names()


@pytest.mark.parametrize(
    "name",
    ["LeakyReLU", "leaky_relu", "torch.nn.functional.leaky_relu_", "aten.leaky_relu", "LeakyRelu"],
)
def test_an_operator_is_found_however_it_is_written(name: str) -> None:
    assert [f.title for f in find(name)] == ["LeakyReLU, PReLU, RReLU in evaluation"]


def test_a_call_can_be_a_layer_and_a_head() -> None:
    assert [f.ends for f in find("sigmoid")] == [False, True]
    assert [f.ends for f in find("softmax")] == [True]
    assert find("LayerNorm") == ()


def test_a_slip_is_near_what_was_meant() -> None:
    assert near("max_pool3d", "functions") == ("max_pool2d", "max_pool1d")
    assert near("MaxPool3d", "modules") == ("MaxPool2d", "MaxPool1d")
    assert near("hard_swich") == ("HardSwish",)
    assert near("LayerNorm") == () == near("")
    assert near_refused("multihead_atention") == ("multiheadattention",)


def test_a_refusal_says_where_all_are_listed_and_what_is_close() -> None:
    close = f"{LISTED}, such as ReflectionPad2d, ReflectionPad1d"
    assert allowed("ReflectionPad4d", "modules") == close
    assert allowed("LayerNorm", "modules") == LISTED
    assert near("glu", "functions") == ("gelu",)
    assert allowed("glu", "functions") == LISTED  # which has a remedy of its own
