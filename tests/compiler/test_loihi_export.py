"""The configuration for Loihi: it says everything, it says it once, and it is what was compiled."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from chips import chip
from hypothesis import example, given, settings
from hypothesis import strategies as st
from netlists import ALL_CODINGS, Coding, proven, random_netlist
from random_boxes import random_tiling

from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.errors import ArtifactError, BackendError, InputError, NetlistError
from lapilli.compiler.interchange import loihi_export, loihi_import
from lapilli.compiler.linear import FORMS, Dense, frozen
from lapilli.compiler.mapping import place
from lapilli.compiler.mapping.resources import values_of
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import MODELS, Source
from lapilli.compiler.schedule import schedule
from lapilli.compiler.storage import encode
from lapilli.hardware_profiles import Profile, load

SCHEMA = json.loads(
    (files("lapilli.compiler.interchange") / "loihi_schema.json").read_text("utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PROVENANCE = Provenance("0", "0", "parallel", {}, "loihi2", "", 0, {})
SEEDS = st.integers(0, 2**32 - 1)
SEVERAL = chip(neurons_per_core=45, cores_per_chip=4)


def exported(netlist: Netlist, profile: Profile = SEVERAL) -> Any:
    """The document as it comes out of the file."""
    artifact = Artifact(netlist, PROVENANCE)
    placement = place(netlist, profile, effort=0)
    made = loihi_export.configuration(artifact, placement, profile)
    return json.loads(loihi_export.text(made))


def sample(seed: int = 0, coding: Coding = "graded") -> Netlist:
    return random_netlist(np.random.default_rng(seed), coding)


def check_equal(found: Any, wanted: Any, where: str = "") -> None:
    """Records are equal: names, shapes, values, and the types of integers."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for name in wanted:
            check_equal(found[name], wanted[name], f"{where}/{name}")
    elif isinstance(wanted, np.ndarray):
        assert found.shape == wanted.shape, where
        assert found.dtype == wanted.dtype, where
        assert found.tobytes() == wanted.tobytes(), where
    else:
        assert type(found) is type(wanted), where
        assert found == wanted, where


@pytest.mark.parametrize("coding", ALL_CODINGS)
@settings(max_examples=4)
@given(seed=SEEDS, neurons=st.sampled_from([9, 45, 150, None]))
def test_every_integer_comes_back(coding: Coding, seed: int, neurons: int | None) -> None:
    """On many cores and on one."""
    netlist = sample(seed, coding)
    document = exported(netlist, chip(neurons_per_core=neurons))
    rebuilt = loihi_import.rebuild(document)
    check_equal(encode(rebuilt), encode(netlist))
    assert Artifact(rebuilt, PROVENANCE).hash == document["netlist_hash"]


def test_what_a_count_of_zero_stands_for_comes_back() -> None:
    plain = sample(0, "unary")
    populations = tuple(
        replace(p, count_offset=frozen(np.arange(p.shape[-1]) / 3)) for p in plain.populations
    )
    netlist = replace(plain, populations=populations)
    document = exported(netlist, chip())
    rebuilt = loihi_import.rebuild(document)
    check_equal(encode(rebuilt), encode(netlist))
    assert document["netlist_hash"] != exported(plain, chip())["netlist_hash"]


def test_every_neuron_model_and_every_form_is_among_them() -> None:
    netlists = [sample(seed, coding) for coding in ALL_CODINGS for seed in range(3)]
    assert {type(p.neuron) for n in netlists for p in n.populations} == set(MODELS)
    assert {type(c.map) for n in netlists for c in n.connections} == set(FORMS)


@given(data=st.data())
def test_a_parameter_of_any_shape_is_kept(data: st.DataObject) -> None:
    """Shared, per channel, per neuron, and with axes of its own before the population's."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    own = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    inner = tuple(data.draw(st.sampled_from([1, n])) for n in shape)
    wanted = (*own, *inner[data.draw(st.integers(0, len(shape))) :])
    rng = np.random.default_rng(data.draw(SEEDS))
    values = rng.integers(0, data.draw(st.sampled_from([1, 2, 1000])), wanted)
    groups = [
        {
            "box": [list(axis) for axis in box],
            "arrays": {"p": loihi_export.compact(values, shape, box, len(own))},
        }
        for box in random_tiling(rng, shape)
    ]
    stated = {"shape": list(wanted), "own_axes": len(own)}
    found = loihi_import._assembled(groups, "p", shape, stated, "here")
    check_equal(found, np.asarray(values, np.int64))
    full = values_of(values, shape, len(own))
    for group in groups:
        within = (..., *(slice(low, high) for low, high in group["box"]))
        here = full[within]
        kept = here.reshape(*own, len(here) if not own else here.shape[len(own)], -1)
        shared = [(kept == kept[..., :1, :1]).all(), (kept == kept[..., :1]).all()]
        wanted = "group" if shared[0] else "channel" if shared[1] else "neuron"
        if kept.shape[-1] == 1 and wanted == "channel":
            wanted = "neuron"
        assert group["arrays"]["p"]["per"] == wanted


@pytest.mark.parametrize("coding", ALL_CODINGS)
def test_times_are_those_of_the_schedule(coding: Coding) -> None:
    netlist = sample(2, coding)
    document = exported(netlist)
    VALIDATOR.validate(document)
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    assert document["timing"] == {
        "window": netlist.steps,
        "interval": plan.interval,
        "latency": plan.latency,
    }
    for p in document["populations"]:
        assert p["resets"] == {"first_step": plan.first[p["name"]], "every": plan.interval}
        assert p["sends_from_step"] == plan.sends[p["name"]]
    for connection, c in zip(document["connections"], netlist.connections, strict=True):
        assert (connection["delay"], connection["exponent"]) == (c.delay, c.exponent)
    first = document["outputs"][0]
    assert first["read_after_step"] == plan.first[first["population"]] + netlist.steps - 1
    assert max(o["read_after_step"] for o in document["outputs"]) == plan.latency - 1


def test_nothing_is_said_to_have_run_on_silicon() -> None:
    document = exported(sample())
    assert document["run_on_silicon"] is False
    assert document["notice"].startswith("Nothing of this was ever run on silicon.")
    claimed = {**document, "run_on_silicon": True}
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(claimed)


def test_programs_are_defined_where_the_models_are() -> None:
    netlist = sample()
    document = exported(netlist)
    programs = {program["name"]: program for program in document["programs"]}
    assert set(programs) == {type(p.neuron).__name__ for p in netlist.populations}
    for p in netlist.populations:
        program = programs[type(p.neuron).__name__]
        paragraph, *_ = str(type(p.neuron).__doc__).split("\n\n")
        assert program["equation"].split() == paragraph.split()
        assert program["state_bits"] == 24
        assert program["variables"][0] == "v"


def test_an_array_is_stored_once() -> None:
    netlist = sample(1)
    first, *others = netlist.connections
    document = exported(netlist)
    kept = {key for c in document["connections"] for key in c["weights"].values()}
    assert kept == {w["id"] for w in document["weights"]}
    # Another connection with the same kernel, from the same source, refers to the same array.
    doubled = replace(netlist, connections=(first, first, *others))
    again = exported(proven(doubled))
    assert len(again["weights"]) == len(document["weights"])
    assert again["connections"][0]["weights"] == again["connections"][1]["weights"]
    check_equal(encode(loihi_import.rebuild(again)), encode(proven(doubled)))


def test_words_are_null_where_the_profile_has_no_formula() -> None:
    document = exported(sample(), chip("unlimited"))
    groups = [g for core in document["cores"] for g in core["synapse_groups"]]
    assert {(g["words"], g["bits"]) for g in groups} == {(None, None)}
    assert len(document["cores"]) == 1


@pytest.mark.parametrize(
    ("low", "high", "sign", "bits", "stock"),
    [
        (-128, 127, "mixed", 8, {"num_weight_bits": 8, "weight_factor": 2, "weight_exp": 0}),
        (-1, 1, "mixed", 2, {"num_weight_bits": 8, "weight_factor": 2, "weight_exp": 0}),
        (0, 127, "excitatory", 8, {"num_weight_bits": 8, "weight_factor": 1, "weight_exp": 1}),
        (0, 0, "excitatory", 1, {"num_weight_bits": 8, "weight_factor": 1, "weight_exp": 1}),
        (-128, 0, "inhibitory", 8, {"num_weight_bits": 8, "weight_factor": 1, "weight_exp": 1}),
        (-129, 0, "inhibitory", 9, None),
        (0, 128, "excitatory", 9, None),
    ],
)
def test_synapse_formats(
    low: int, high: int, sign: str, bits: int, stock: dict[str, int] | None
) -> None:
    document = exported(with_matrix(low, high), load("unlimited"))
    synapse = document["connections"][-1]["synapse"]
    assert (synapse["weight_low"], synapse["weight_high"]) == (low, high)
    assert (synapse["kind"], synapse["sign_mode"], synapse["weight_bits"]) == ("dense", sign, bits)
    assert synapse["stock"] == stock


def with_matrix(low: int, high: int) -> Netlist:
    """A network whose last connection is dense, has exponent 1 and holds low, high and zeros."""
    netlist = sample()
    *others, last = netlist.connections
    matrix = np.zeros((last.map.out_size, last.map.in_size), np.int16)
    matrix[0, :2] = low, high
    dense = Dense(frozen(matrix), last.map.in_shape, last.map.out_shape)
    return proven(replace(netlist, connections=(*others, replace(last, map=dense, exponent=1))))


@pytest.mark.lava
@pytest.mark.parametrize(
    ("low", "high"), [(-128, 127), (-7, 5), (0, 127), (-128, 0), (-4, 0), (0, 0)]
)
def test_lavas_own_synapse_computes_the_same_with_the_stock_arguments(low: int, high: int) -> None:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import Dense as StockDense
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Stimulus
    from lava.utils.weightutils import SignMode

    document = exported(with_matrix(low, high), load("unlimited"))
    c = document["connections"][-1]
    (stored,) = [w for w in document["weights"] if w["id"] == c["weights"]["weight"]]
    weights = np.array(stored["values"]).reshape(stored["shape"])
    stock, spikes = c["synapse"]["stock"], np.array([[3], [-2], *[[1]] * (weights.shape[1] - 2)])
    synapse = StockDense(
        weights=weights * stock["weight_factor"],
        num_weight_bits=stock["num_weight_bits"],
        weight_exp=stock["weight_exp"],
        num_message_bits=24,
        sign_mode=SignMode[c["synapse"]["sign_mode"].upper()],
    )
    source, sink = Stimulus(data=spikes), Sink(shape=(len(weights),), buffer=2)
    source.s_out.connect(synapse.s_in)
    synapse.a_out.connect(sink.a_in)
    sink.run(RunSteps(2), Loihi2SimCfg(select_tag="fixed_pt"))
    found = sink.data.get()[:, 1].tolist()
    sink.stop()
    assert found == ((weights @ spikes[:, 0]) << c["exponent"]).tolist()


def test_the_file_is_whole_reproducible_and_readable(tmp_path: Path) -> None:
    netlist = sample(1)
    artifact, placement = Artifact(netlist, PROVENANCE), place(netlist, SEVERAL)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        loihi_export.write(path, artifact, placement, SEVERAL)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    document, rebuilt = loihi_import.read(paths[0])
    check_equal(encode(rebuilt), encode(netlist))
    lines = paths[0].read_text("ascii").splitlines()
    assert sum(line.startswith('{"index"') for line in lines) == len(placement.cores)
    assert document["profile"] == {"name": "small", "title": SEVERAL.title, "calibrated": False}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netlist = sample()
    artifact, placement = Artifact(netlist, PROVENANCE), place(netlist, SEVERAL)
    with pytest.raises(InputError, match="existing folder"):
        loihi_export.write(tmp_path / "absent" / "a.json", artifact, placement, SEVERAL)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BackendError, match="can be written"):
        loihi_export.write(tmp_path / "a.json", artifact, placement, SEVERAL)
    assert not list(tmp_path.iterdir())


def test_a_placement_of_another_network_is_refused(tmp_path: Path) -> None:
    artifact = Artifact(sample(1), PROVENANCE)
    with pytest.raises(NetlistError, match="one of this network on this chip"):
        loihi_export.write(tmp_path / "a.json", artifact, place(sample(2), SEVERAL), SEVERAL)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from nodes(value[key])


DAMAGE: list[Any] = [None, -1, 0, 1, 2**40, 10**30, 1.5, True, "x", "w0", [], [1], {}, float("nan")]


@settings(max_examples=120)
@given(position=st.floats(0, 1, exclude_max=True), value=st.sampled_from([*DAMAGE, ...]))
@example(position=0.0, value=...)
def test_a_damaged_file_is_refused_or_says_the_same(position: float, value: Any) -> None:
    """Whatever is changed or missing, the network is the compiled one or there is an error."""
    document = copy.deepcopy(DOCUMENT)
    # Of long lists of numbers the first two stand for all.
    places = [(c, k) for c, k in nodes(document) if isinstance(k, str) or k < 2]
    container, key = places[int(position * len(places))]
    if value is ... and isinstance(container, dict):
        del container[key]
    else:
        container[key] = None if value is ... else value
    try:
        rebuilt = loihi_import.rebuild(document, "file")
    except ArtifactError as error:
        assert str(error).startswith("file")
    else:
        check_equal(encode(rebuilt), encode(NETLIST))


NETLIST = min(map(sample, range(9)), key=lambda n: sum(c.map.weight.size for c in n.connections))
DOCUMENT = exported(NETLIST, chip(neurons_per_core=150))


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        ({"format": "other"}, "is of this format"),
        ({"format_version": 2}, "is of this format"),
        ({"netlist_hash": "0" * 64}, "holds the network of its hash"),
        ({"cores": DOCUMENT["cores"][1:]}, "each neuron is on one core"),
        ({"cores": [*DOCUMENT["cores"], DOCUMENT["cores"][0]]}, "each neuron is on one core"),
        ({"weights": DOCUMENT["weights"][1:]}, "follows loihi_schema.json"),
        ({"weights": [{**w, "sha256": "0" * 64} for w in DOCUMENT["weights"]]}, "has its hash"),
        ({"weights": [{**w, "type": "float64"} for w in DOCUMENT["weights"]]}, "is of integers"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(edit: dict[str, Any], rule: str) -> None:
    with pytest.raises(ArtifactError) as error:
        loihi_import.rebuild({**DOCUMENT, **edit})
    assert error.value.rule == rule


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b'"text"'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    for wrong in (path, tmp_path, tmp_path / "absent"):
        with pytest.raises(ArtifactError, match=str(wrong)):
            loihi_import.read(wrong)


def subschemas(schema: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every schema of a property or of an item inside."""
    if isinstance(schema, dict):
        for name, inner in schema.get("properties", {}).items():
            yield f"{where}/{name}", inner
            yield from subschemas(inner, f"{where}/{name}")
        if isinstance(schema.get("items"), dict):
            yield from subschemas(schema["items"], f"{where}[]")


def test_the_schema_describes_every_field_and_allows_no_other() -> None:
    VALIDATOR.validate(DOCUMENT)
    with pytest.raises(jsonschema.ValidationError, match="surplus"):
        VALIDATOR.validate({**DOCUMENT, "surplus": 1})
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    roots = [("", SCHEMA), *((f"${name}", part) for name, part in SCHEMA["$defs"].items())]
    fields = [field for name, part in roots for field in subschemas(part, name)]
    assert len(fields) > 100
    assert [name for name, inner in fields if not inner.get("description")] == []
    objects = [(n, s) for n, s in (*roots, *fields) if "properties" in s]
    assert [n for n, s in objects if s.get("additionalProperties") is not False] == []
    assert [n for n, s in objects if set(s["required"]) != set(s["properties"])] == []


def test_the_input_has_no_arrays() -> None:
    """It is on no core, and only cores hold the values of arrays."""
    source = NETLIST.input.neuron
    assert isinstance(source, Source)
    assert not any(isinstance(value, np.ndarray) for value in vars(source).values())


def test_the_documentation_names_every_part() -> None:
    """docs/loihi.md: the keys of the file, of a core, and the silicon that never ran it."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "loihi.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [word.strip("` ") for row in rows for word in row.split(",")]
    assert named == list(SCHEMA["properties"])
    parts = SCHEMA["properties"]["cores"]["items"]["properties"]
    assert [part for part in parts if f"`{part}`" not in page] == ["index", "chip"]
    assert "Nothing described on this page was ever run on silicon" in page
