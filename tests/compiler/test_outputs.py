"""Names, shapes and heads of outputs, without any network."""

from __future__ import annotations

import dataclasses
import math
import re
import runpy
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any, get_args

import dense_networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from artifact_samples import forge, sample

import lapilli
from lapilli.compiler import artifact as model_file
from lapilli.compiler import outputs
from lapilli.compiler.errors import ArtifactError, CaptureError, InputError
from lapilli.compiler.interchange import nir_export
from lapilli.compiler.ir import Graph, Input
from lapilli.compiler.outputs import Head, Output, disagreement, flaw, leaves, plain, returned

RNG = np.random.default_rng(0)
Pair = namedtuple("Pair", ["scores", "boxes"])


@dataclasses.dataclass
class Result:
    """As libraries return it."""

    logits: Any
    hidden: Any = None


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (1, ["output"]),
        ((1,), ["0"]),
        ([1, (2, [3])], ["0", "1.0", "1.1.0"]),
        (OrderedDict(out=1, aux=2), ["out", "aux"]),
        (Pair(1, [2, 3]), ["scores", "boxes.0", "boxes.1"]),
        (Result(1), ["logits"]),
        ({"a": None, "b": (None, 1)}, ["b.1"]),
        ({0: 1, "0": 2}, ["0", "0_1"]),
        ({"a\x1b[2J": 1, "b" * 2000: 2}, ["a?[2J", "b" * 1000]),
        (None, []),
        ((), []),
    ],
)
def test_outputs_are_named_after_what_the_network_returns(value: Any, names: list[str]) -> None:
    assert [name for name, _ in leaves(value)] == names
    assert [leaf for _, leaf in leaves(value)] == list(range(1, len(names) + 1))


VALUES = RNG.normal(size=(4, 3, 5, 2)) * 30.0
THEIRS: dict[str, Any] = {
    "none": lambda x, axis, keep: x,
    "softmax": lambda x, axis, keep: F.softmax(x, axis),
    "log_softmax": lambda x, axis, keep: F.log_softmax(x, axis),
    "sigmoid": lambda x, axis, keep: x.sigmoid(),
    "argmax": lambda x, axis, keep: x.argmax(axis, keepdim=keep),
    "max": lambda x, axis, keep: x.amax(axis, keepdim=keep),
}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", get_args(outputs.Kind))
def test_heads_compute_what_torch_computes(kind: Any, axis: int, keep: bool) -> None:
    wanted = THEIRS[kind](torch.tensor(VALUES), axis + 1, keep).numpy()
    found = outputs.apply(Head(kind, axis, keep), VALUES)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-300)


def test_heads_do_not_overflow() -> None:
    huge = np.array([[1e4, -1e4, 0.0]])
    assert outputs.apply(Head("softmax"), huge).tolist() == [[1.0, 0.0, 0.0]]
    assert outputs.apply(Head("log_softmax"), huge).tolist() == [[0.0, -2e4, -1e4]]
    assert outputs.apply(Head("sigmoid"), huge).tolist() == [[1.0, 0.0, 0.5]]


def test_of_equal_values_argmax_takes_the_first() -> None:
    assert outputs.apply(Head("argmax"), np.array([[1.0, 3.0, 3.0]])).tolist() == [1]


def test_an_output_has_the_shape_that_the_network_returns() -> None:
    values = RNG.normal(size=(4, 1))
    assert returned(Output("output", 0, ()), values).shape == (4,)
    assert returned(Output("output", 0, (1, 1)), values).shape == (4, 1, 1)
    assert returned(Output("0", 0, (10,), Head("argmax", 0)), VALUES).shape == (4, 10)


def test_readouts_of_networks_that_were_not_captured_are_outputs_as_they_are() -> None:
    assert plain([(3,)]) == (Output("output", 0, (3,)),)
    assert plain([(3,), (2, 4, 4)]) == (Output("0", 0, (3,)), Output("1", 1, (2, 4, 4)))
    assert flaw(plain([(3,), (2, 4, 4)]), [(3,), (2, 4, 4)]) is None


FLAWS: dict[str, tuple[list[Output], str]] = {
    "a name twice": ([Output("a", 0, (3, 4)), Output("a", 1, (5,))], "names are unique"),
    "no name": ([Output("", 0, (3, 4))], "names are unique"),
    "a readout that is not there": ([Output("a", 2, (5,))], "reads a readout"),
    "a negative readout": ([Output("a", -1, (5,))], "reads a readout"),
    "an axis that is not there": ([Output("a", 1, (5,), Head("softmax", 1))], "along an axis"),
    "too many values": ([Output("a", 0, (13,))], "holds what its head makes"),
    "as many values as before argmax": (
        [Output("a", 0, (3, 4), Head("argmax", 0))],
        "holds what its head makes",
    ),
    "negative sizes": ([Output("a", 0, (-3, -4))], "holds what its head makes"),
    "a readout that nothing reads": ([Output("a", 0, (12,))], "belongs to an output"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_flaws_of_outputs_are_found(name: str) -> None:
    found, rule = FLAWS[name]
    wrong = flaw(found, [(3, 4), (5,)])
    assert wrong is not None
    assert rule in wrong[0]


def test_a_graph_whose_outputs_are_flawed_is_refused() -> None:
    node = Input(name="input", inputs=(), shape=(3,))
    Graph((node,), ("input",), (Output("out", 0, (3,)),)).verify()
    with pytest.raises(CaptureError, match="holds what its head makes") as refused:
        Graph((node,), ("input",), (Output("out", 0, (4,)),)).verify()
    assert (refused.value.where, refused.value.found) == ("outputs", "(4,)")


def test_outputs_are_kept_in_the_file_but_not_in_the_hash(tmp_path: Path) -> None:
    made = sample()
    bare = dataclasses.replace(made, provenance=dataclasses.replace(made.provenance, outputs=()))
    assert made.hash == bare.hash
    for artifact in (made, bare):
        artifact.save(tmp_path / "model.h5")
        assert model_file.read(tmp_path / "model.h5").outputs == artifact.outputs
    assert [output.name for output in made.outputs] == ["scores", "Köpfe.1"]
    assert bare.outputs == (Output("output", 0, (3,)),)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"readout": 1}, "/provenance/outputs"),
        ({"readout": -1}, "/provenance/outputs"),
        ({"shape": (4,)}, "/provenance/outputs"),
        ({"name": ""}, "/provenance/outputs"),
        ({"head": {"kind": "argmax", "axis": 7, "keep": False}}, "/provenance/outputs"),
        ({"head": {"kind": "run", "axis": 0, "keep": False}}, "/provenance/outputs/0000/head/kind"),
        ({"name": "a\x1b[2J"}, "/provenance/outputs/0000/name"),
    ],
)
def test_forged_outputs_are_refused(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    path = tmp_path / "model.h5"
    sample().save(path)
    forge(path, lambda record: record["provenance"]["outputs"]["0000"].update(change))
    with pytest.raises(ArtifactError) as refused:
        model_file.read(path)
    assert refused.value.where == f"{path}:{where}"


def test_disagreement_is_relative_to_the_largest_value() -> None:
    values = np.array([[1.0, -4.0], [0.5, 2.0]])
    assert disagreement(Output("a", 0, (2,)), values, values) == 0.0
    changed = values + np.array([[0.0, 0.0], [0.0, 0.4]])
    assert math.isclose(disagreement(Output("a", 0, (2,)), values, changed), 0.1)
    assert math.isnan(disagreement(Output("a", 0, (2,)), values * math.nan, values))


def test_an_argmax_may_differ_where_two_values_are_equal_and_nowhere_else() -> None:
    head = Output("a", 0, (), Head("argmax"))
    values = np.array([[1.0, 1.0 - 1e-7, 0.5]])
    assert disagreement(head, values, np.array([0])) == 0.0
    assert disagreement(head, values, np.array([1])) < 1e-6
    assert disagreement(head, values, np.array([2])) == 0.5
    assert disagreement(head, values, np.array([3])) == math.inf
    assert disagreement(head, values, np.array([-1])) == math.inf


def test_outputs_come_back_from_nir(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    made = lapilli.compile(
        dense_networks.network("segmentation"),
        calibration=dense_networks.images(16),
        method=lapilli.methods.Rate(steps=6),
    )
    nir_export.write(tmp_path / "net.nir", made)
    found = lapilli.compile(tmp_path / "net.nir")
    assert (found.hash, found.outputs) == (made.hash, made.outputs)
    assert [output.name for output in found.outputs] == ["out", "aux"]
    forged = dataclasses.replace(made.provenance, outputs=made.outputs[:1])
    nir_export.write(tmp_path / "net.nir", dataclasses.replace(made, provenance=forged))
    with pytest.raises(InputError, match="every readout belongs to an output"):
        lapilli.compile(tmp_path / "net.nir")


def test_the_network_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text("utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(code, names)
    images = dense_networks.images(16)
    method = lapilli.methods.Parallel(levels=8)
    artifact = lapilli.compile(names["build"](), calibration=images, method=method)
    found = lapilli.run(artifact, images[:3]).named_outputs
    shapes = {name: (values.dtype.name, values.shape) for name, values in found.items()}
    assert shapes == {"digit": ("float64", (3, 10)), "ink": ("int64", (3, 8, 8))}
    for name, (dtype, shape) in shapes.items():
        assert f'"{name}": {dtype} {shape}' in text
    script = Path(__file__).parents[1] / "benchmarks" / "two_heads.py"  # which trains it
    twin, x = runpy.run_path(str(script))["build"](), torch.tensor(images)
    expected = names["build"]()(x)
    assert all(torch.equal(value, expected[name]) for name, value in twin(x).items())
