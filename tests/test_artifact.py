"""Model files: what is written is read, the same bytes each time, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from artifact_samples import (
    PROVENANCE,
    forge,
    forge_hdf5,
    packed_netlist,
    packed_sample,
    sample,
    sample_netlist,
)
from hdf5_checksums import lookup3
from netlist_neurons import Coding
from netlists import ALL_CODINGS, CODINGS, random_netlist

from lapilli.compiler.artifact import Artifact, Provenance, read
from lapilli.compiler.errors import ArtifactError, NetlistError
from lapilli.compiler.linear import FORMS, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import MODELS
from lapilli.compiler.sealed_file import read_sealed, write_sealed

TESTS = Path(__file__).resolve().parent
SAMPLE_HASH = "b038eb3bf46c90926fdfb450aa96efc3a137c778b56c6b81cec01af9d4840a6f"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds the sample."""
    result = tmp_path / "model.h5"
    sample().save(result)
    return result


def assert_same(a: Any, b: Any) -> None:
    """Equal in every field, in the types of the arrays too."""
    assert type(a) is type(b)
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
        assert not b.flags.writeable
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def _check_round_trip(written: Artifact, path: Path) -> None:
    written.save(path)
    loaded = read(str(path))
    assert_same(written.netlist, loaded.netlist)
    assert loaded.provenance == written.provenance
    assert loaded.hash == written.hash


def test_what_is_written_is_read(tmp_path: Path) -> None:
    _check_round_trip(sample(), tmp_path / "model.h5")
    _check_round_trip(packed_sample(), tmp_path / "packed.h5")


@pytest.mark.parametrize(
    ("coding", "seed"), [(c, s) for c in ALL_CODINGS for s in range(10 if c in CODINGS else 2)]
)
def test_random_netlists_are_read_as_written(tmp_path: Path, seed: int, coding: Coding) -> None:
    netlist = random_netlist(np.random.default_rng(seed), coding)
    _check_round_trip(Artifact(netlist, PROVENANCE), tmp_path / "model.h5")


def test_provenance_may_leave_out_what_is_optional(tmp_path: Path) -> None:
    bare = Provenance("0.1.0", "2.3.1", "rate", {}, "", "", 0, {})
    Artifact(sample_netlist(), bare).save(tmp_path / "model.h5")
    assert read(tmp_path / "model.h5").provenance == bare


def test_every_model_and_form_is_written_here() -> None:
    samples = (sample_netlist(), packed_netlist())
    assert {type(c.map) for netlist in samples for c in netlist.connections} == set(FORMS)
    netlists = [random_netlist(np.random.default_rng(0), coding) for coding in ALL_CODINGS]
    assert {type(p.neuron) for netlist in netlists for p in netlist.populations} == set(MODELS)


def test_two_processes_at_different_times_write_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); time.sleep(float(sys.argv[3]));"
        "from artifact_samples import sample; sample().save(sys.argv[2])"
    )
    for name, delay in (("a.h5", "0"), ("b.h5", "1.1")):  # HDF5 keeps times in seconds
        command = [sys.executable, "-c", code, str(TESTS), str(tmp_path / name), delay]
        subprocess.run(command, check=True)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_reading_needs_no_torch(path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None;"
        "from lapilli.compiler.artifact import read; print(read(sys.argv[1]).hash)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sample().hash


def test_any_hdf5_tool_reads_it(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == 4
        assert file.attrs["hash"].decode() == sample().hash
        connection = file["netlist/connections/0000"]
        assert connection.attrs["source"] == b"input"
        assert connection["map"].attrs["class"] == b"Conv"
        np.testing.assert_array_equal(
            connection["map/weight"], sample_netlist().connections[0].map.weight
        )


def test_hash_is_the_same_everywhere() -> None:
    assert sample().hash == SAMPLE_HASH


def _with_map(netlist: Netlist, **changes: Any) -> Netlist:
    first, *rest = netlist.connections
    changed = dataclasses.replace(first, map=dataclasses.replace(first.map, **changes))
    return dataclasses.replace(netlist, connections=(changed, *rest))


def test_hash_does_not_see_integer_types_or_provenance() -> None:
    netlist = sample_netlist()
    wide = frozen(netlist.connections[0].map.weight, np.int64)
    assert Artifact(_with_map(netlist, weight=wide), PROVENANCE).hash == SAMPLE_HASH
    other = dataclasses.replace(PROVENANCE, method="rate")
    assert Artifact(netlist, other).hash == SAMPLE_HASH


def _renamed(netlist: Netlist) -> Netlist:
    first, *rest = netlist.populations
    renamed = dataclasses.replace(first, name="inputs")
    return dataclasses.replace(netlist, populations=(renamed, *rest))


def _rescaled(netlist: Netlist) -> Netlist:
    first, *rest = netlist.populations
    scale = frozen(np.nextafter(first.state_scale, 1))
    return dataclasses.replace(
        netlist, populations=(dataclasses.replace(first, state_scale=scale), *rest)
    )


def _reweighted(netlist: Netlist) -> Netlist:
    weight = netlist.connections[0].map.weight.copy()
    weight[0, 0, 0, 0] += 1
    return _with_map(netlist, weight=frozen(weight))


CHANGES: list[Callable[[Netlist], Netlist]] = [
    _renamed,
    _rescaled,
    _reweighted,
    lambda n: dataclasses.replace(n, steps=n.steps + 1),
    lambda n: dataclasses.replace(n, connections=n.connections[::-1]),
    lambda n: _with_map(n, padding=(1, 1)),
    lambda n: _with_map(n, weight=frozen(n.connections[0].map.weight.reshape(4, 3, 3, 1))),
]


@pytest.mark.parametrize("change", CHANGES)
def test_hash_sees_every_change(change: Callable[[Netlist], Netlist]) -> None:
    changed = Artifact(change(sample_netlist()), PROVENANCE)
    assert changed.hash != SAMPLE_HASH


# ---------------------------------------------------------------- refusals


def refusal(path: Path) -> ArtifactError:
    """The error that reading gives, which names the file."""
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert caught.value.where.startswith(str(path))
    assert caught.value.exit_code == 2
    return caught.value


def test_a_tampered_value_is_noticed_by_its_hash(path: Path) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["netlist"]["populations"]["0001"]["neuron"]["levels"] = 4

    forge(path, edit, rehash=False)
    error = refusal(path)
    assert error.where == f"{path}:/hash"
    assert error.rule == "is the netlist's hash"


def test_what_verify_refuses_names_the_file(path: Path) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["netlist"]["populations"]["0004"]["state_high"] += 1

    forge(path, edit)
    error = refusal(path)
    assert error.where == f"{path}:/netlist: out"
    assert error.rule == "the recorded reach is the proven one"


def test_the_inner_version_counts_too(path: Path) -> None:
    forge(path, lambda record: record.update(format_version=3))
    assert refusal(path).where == f"{path}:/format"


@pytest.mark.parametrize(
    "change",
    [
        {"input_std": (0.0, 1.0)},
        {"input_std": (1.0,)},
        {"calibration_samples": -1},
    ],
)
def test_provenance_is_checked(path: Path, change: dict[str, Any]) -> None:
    forge(path, lambda record: record["provenance"].update(change))
    assert refusal(path).where.startswith(f"{path}:/provenance")


def _replace(file: h5py.File, name: str, **options: Any) -> None:
    del file[name]
    file.create_dataset(name, **options)


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(4,))
    del file[SCALE]
    file.create_virtual_dataset(SCALE, layout)


def _linked(name: str, link: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        target = file[link] if isinstance(link, str) else link
        del file[name]
        file[name] = target

    return edit


def _committed(file: h5py.File) -> None:
    del file[SCALE]
    file[SCALE] = np.dtype("f8")


def _nested(file: h5py.File) -> None:
    file.create_group("provenance/" + "/".join("abcdefghi"))


def _attribute(name: str, value: Any, **options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[GROUP].attrs[name]
        file[GROUP].attrs.create(name, value, **options)

    return edit


GROUP = "netlist/connections/0000"
SCALE = f"{GROUP}/weight_scale"
WEIGHT = f"{GROUP}/map/weight"
ONES = np.ones(4)
LINKS = "everything is in the file"
PLAIN = "is stored plainly"
TYPE = "has a plain type"
HDF5_EDITS: list[tuple[str, Callable[[h5py.File], None], str]] = [
    (SCALE, _linked(SCALE, h5py.SoftLink("/netlist/connections/0001/weight_scale")), LINKS),
    (SCALE, _linked(SCALE, h5py.ExternalLink("other.h5", "/x")), LINKS),
    (f"{GROUP}/map", _linked(f"{GROUP}/map", "/netlist"), "everything has one name"),
    (GROUP, _linked(GROUP, "/"), "everything has one name"),
    (SCALE, lambda f: _replace(f, SCALE, data=ONES, chunks=(2,)), PLAIN),
    (SCALE, lambda f: _replace(f, SCALE, data=ONES, compression="gzip"), PLAIN),
    (WEIGHT, lambda f: _replace(f, WEIGHT, shape=(2**45,), dtype="i1", chunks=(9,)), PLAIN),
    (SCALE, _virtual, PLAIN),
    (
        SCALE,
        lambda f: _replace(f, SCALE, shape=(4,), dtype="f8", external=[("secret", 0, 32)]),
        LINKS,
    ),
    (SCALE, _committed, "is a group or a dataset"),
    (SCALE, lambda f: _replace(f, SCALE, data=ONES.astype("f4")), TYPE),
    (SCALE, lambda f: _replace(f, SCALE, data=ONES.astype(">f8")), TYPE),
    (WEIGHT, lambda f: _replace(f, WEIGHT, data=np.ones(4, "u1")), TYPE),
    (SCALE, lambda f: _replace(f, SCALE, data=np.zeros(2, "i4,f8")), TYPE),
    (SCALE, lambda f: _replace(f, SCALE, data="text of any length"), TYPE),
    (SCALE, lambda f: _replace(f, SCALE, data=f["netlist"].ref, dtype=h5py.ref_dtype), TYPE),
    (SCALE, lambda f: _replace(f, SCALE, data=h5py.Empty("f8")), "has a value"),
    (SCALE, lambda f: _replace(f, SCALE, data=np.array([b"a", b"b"])), "is one text"),
    (SCALE, lambda f: f[SCALE].attrs.create("unit", 1), "datasets have no attributes"),
    (WEIGHT, lambda f: _replace(f, WEIGHT, shape=(2**45,), dtype="i1"), "is stored in the file"),
    (f"{GROUP}/source", lambda f: f[GROUP].create_group("source"), "a name is used once"),
    (f"{GROUP}/delay", _attribute("delay", [[1]]), "attributes are scalars or short lists"),
    (f"{GROUP}/source", _attribute("source", np.array([b"a", b"b"])), "is one string"),
    (f"{GROUP}/source", _attribute("source", "any length"), TYPE),
    ("provenance/a/b/c/d/e/f/g/h", _nested, "groups are not nested deeper"),
]


@pytest.mark.parametrize(("place", "edit", "rule"), HDF5_EDITS)
def test_only_plain_values_inside_the_file_are_read(
    path: Path, place: str, edit: Callable[[h5py.File], None], rule: str
) -> None:
    forge_hdf5(path, edit)
    error = refusal(path)
    assert error.where == f"{path}:/{place}"
    assert error.rule.startswith(rule)


def test_what_the_hdf5_library_refuses_is_one_error(path: Path) -> None:
    image = bytearray(read_sealed(path))
    image[image.index(b"OHDR", 4096) + 20] ^= 1
    write_sealed(path, bytes(image))
    error = refusal(path)
    assert error.rule == "is well-formed HDF5"
    assert "checksum" in error.found


@pytest.mark.parametrize("count", [2**40, 2**63])
def test_a_count_of_links_that_no_memory_holds_is_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "model.h5"
    packed_sample().save(path)
    image = bytearray(read_sealed(path))
    start = image.index(b"BTHD\0\5")  # the header of the tree of a group's links by name
    image[start + 26 : start + 34] = count.to_bytes(8, "little")
    image[start + 34 : start + 38] = lookup3(bytes(image[start : start + 34])).to_bytes(4, "little")
    write_sealed(path, bytes(image))
    assert refusal(path).rule == "has links that are in the file"


def test_a_damaged_text_is_one_error(path: Path) -> None:
    image = read_sealed(path)
    write_sealed(path, image.replace(b'{"conv":1234', b'{"c\xff\xfev":1234'))
    assert refusal(path).rule == "is well-formed HDF5"


@pytest.mark.parametrize("first", range(5))
def test_sealed_damage_is_refused_or_harmless(path: Path, first: int) -> None:
    original, image = read(path), read_sealed(path)
    for position in range(first * 67, len(image), 5 * 67):
        damaged = bytearray(image)
        damaged[position] ^= 0xFF
        write_sealed(path, bytes(damaged))
        try:
            loaded = read(path)
        except ArtifactError:
            continue
        assert (loaded.hash, loaded.provenance) == (original.hash, original.provenance)


# ---------------------------------------------------------------- writing


def test_what_verify_refuses_is_not_written(tmp_path: Path) -> None:
    netlist = dataclasses.replace(sample_netlist(), steps=9)
    with pytest.raises(NetlistError, match="recorded reach"):
        Artifact(netlist, PROVENANCE).save(tmp_path / "model.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"momentum": float("nan")}, "not JSON compliant"),
        ({"loss": np.mean}, "not JSON serializable"),
        ({"seed": 2**70}, "int"),
        ({"nested": {"a": 1}}, "dict"),
        ({"name": "x" * 5000}, "5000"),
    ],
)
def test_options_that_cannot_be_stored_are_not_written(
    tmp_path: Path, options: dict[str, Any], found: str
) -> None:
    provenance = dataclasses.replace(PROVENANCE, options=options)
    with pytest.raises(ArtifactError) as caught:
        Artifact(sample_netlist(), provenance).save(tmp_path / "model.h5")
    assert found in caught.value.found
    assert list(tmp_path.iterdir()) == []


def test_a_scale_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    first, *rest = sample_netlist().populations
    broken = dataclasses.replace(first, state_scale=frozen(np.nan))
    netlist = dataclasses.replace(sample_netlist(), populations=(broken, *rest))
    with pytest.raises(ArtifactError, match="scales are positive and finite; found nan"):
        Artifact(netlist, PROVENANCE).save(tmp_path / "model.h5")
    assert list(tmp_path.iterdir()) == []
