"""Recipes are read key by key, or refused with the key that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic", reason="pydantic, of the extra train, is missing")

from lapilli import zoo
from lapilli.compiler.errors import InputError
from lapilli.compiler.training.recipe import Training
from lapilli.compiler.training.recipe_file import MAX_BYTES, read_recipe, recipe_of
from lapilli.training_run import find_recipe

LEAST = {"kind": "float", "network": "net:build", "data": "digits"}


@pytest.mark.parametrize("name", zoo.names())
def test_every_recipe_of_the_zoo_is_read(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.network.startswith("lapilli.zoo.networks:")
    assert (zoo.FOLDER / f"{name}.toml").read_text("utf-8").startswith("# ")


def test_what_is_left_out_has_its_default() -> None:
    recipe = recipe_of(LEAST, "here")
    assert recipe.training == Training() and recipe.options.method == "parallel"


def test_values_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('kind = "float"\nnetwork = "net:build"\n[training]\nepochs = 3\n', "utf-8")
    changes = {"training.epochs": "7", "data": "mnist:some/place", "training.drops": "[0.1, 0.2]"}
    recipe = read_recipe(file, changes)
    assert recipe.training.epochs == 7 and recipe.data == "mnist:some/place"
    assert recipe.training.drops == (0.1, 0.2)
    assert read_recipe(file, {"training.rate": ".25"}).training.rate == 0.25  # TOML wants 0.25
    with pytest.raises(InputError, match="a key lies in a table"):
        read_recipe(file, {"network.x": "1"})
    with pytest.raises(InputError, match=r"training\.epochs"):
        read_recipe(file, {"training.epochs": "[" * 20_000})


@pytest.mark.parametrize(
    ("table", "place", "says"),
    [
        ({"kind": "flaot"}, "kind", "Did you mean float"),
        ({"kind": 3}, "kind", "Choose one"),
        ({"trainin": {}}, "trainin", "Did you mean training"),
        ({"training": {"epoch": 3}}, "training.epoch", "Did you mean epochs"),
        ({"training": {"xyzzy": 3}}, "training.xyzzy", "Remove the key"),
        ({"floot": {}}, "floot", "Did you mean float"),
        ({"fast-snm": {}}, "fast-snm", "Remove the key"),  # a table that another kind has
        ({"training": {"floot": 3}}, "training.floot", "Remove the key"),
        ({"training": {"epochs": "3"}}, "training.epochs", "valid integer"),
        ({"training": {"epochs": 2.5}}, "training.epochs", "valid integer"),
        ({"training": {"optimiser": "sdg"}}, "training.optimiser", "sgd"),
        ({"fast-snn": {}}, "fast-snn", "choose the kind fast-snn"),
        ({"training": 5}, "training", "correct"),
        ({"augmentation": {"flip": 1}}, "augmentation.flip", "valid boolean"),
        ({"float": {"methods": "x"}}, "float.methods", "Did you mean method"),
        ({"network": None}, "network", "valid string"),
        ({"mean": [0.5, "x"]}, "mean.1", "valid number"),
    ],
)
def test_faults_are_named(table: dict[str, object], place: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe_of({**LEAST, **table}, "here")
    assert caught.value.where == f"here: {place}"
    assert says.lower() in f"{caught.value.allowed} {caught.value.remedy}".lower()


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"training": {"epochs": 0}}, "range"),
        ({"training": {"rate": float("nan")}}, "range"),
        ({"training": {"warmup": 0.95}}, "range"),
        ({"training": {"drops": [2.0]}}, "range"),
        ({"augmentation": {"crop": -1}}, "range"),
        ({"artifact": {"verify": 0}}, "range"),
        ({"float": {"method": "paralell"}}, "listed"),
    ],
)
def test_values_lie_in_their_ranges(table: dict[str, object], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        recipe_of({**LEAST, **table}, "here")


DEEP = b"mean = " + b"[" * 20_000 + b"]" * 20_000
HUGE = b"mean = " + b"9" * 5_000


@pytest.mark.parametrize(
    "content",
    [b"kind = ", b"\xff\xfe", b"#" * (MAX_BYTES + 1), DEEP, HUGE],
    ids=["half", "no text", "long", "deep", "huge"],
)
def test_files_that_are_no_recipes(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_bytes(content)
    with pytest.raises(InputError, match="TOML"):
        read_recipe(file)
    with pytest.raises(InputError, match="TOML"):
        read_recipe(tmp_path)
    with pytest.raises(InputError, match="Did you mean digits"):
        find_recipe("digts")
