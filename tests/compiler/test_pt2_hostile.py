"""Exported programs that nobody should trust: damaged, foreign, with code inside."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captured_network
import numpy as np
import pytest
import torch

from lapilli.compiler import frontend
from lapilli.compiler.capture import pt2_file
from lapilli.compiler.errors import InputError, LapilliError, UnsupportedOperatorError

OLD = captured_network.INPUTS / "every_input_torch_2.3.pt2"
NEW = captured_network.INPUTS / "every_input_torch_2.13.pt2"
X = captured_network.samples()
MARK = "pt2_was_executed"
Members = dict[str, bytes]


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, content: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def program_in(content: Members) -> str:
    return next(n for n in content if n.endswith(("model.json", "program.json")))


def changed(path: Path, change: Callable[[Any], object], source: Path = NEW) -> Path:
    """A copy of an archive whose program `change` has edited."""
    content = members(source)
    document = json.loads(content[program_in(content)])
    change(document)
    content[program_in(content)] = json.dumps(document).encode()
    return written(path, content)


def nodes(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"]


class Bomb:
    """Pickles to a call of os.mkdir(MARK)."""

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (MARK,)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("member", ["serialized_state_dict.pt", "serialized_constants.pt"])
@pytest.mark.parametrize("make", [saved, pickle.dumps])
def test_pickled_code_in_older_files_is_not_executed(
    member: str, make: Callable[[object], bytes], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.pt2", {**members(OLD), member: make({"stem.0.weight": Bomb()})})
    with pytest.raises(InputError) as refused:
        frontend.network_file(path)
    assert refused.value.where == str(path)
    assert "read as data" in refused.value.rule


def test_this_bomb_does_explode(tmp_path: Path) -> None:
    """Were it harmless, the tests above would show nothing."""
    torch.load(io.BytesIO(saved({"a": Bomb()})), weights_only=False)
    assert (tmp_path / MARK).is_dir()
    (tmp_path / MARK).rmdir()


def test_pickled_code_in_newer_files_is_not_executed(tmp_path: Path) -> None:
    content = members(NEW)
    listed = next(n for n in content if n.endswith("weights_config.json"))
    config = json.loads(content[listed])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    content[listed] = json.dumps(config).encode()
    member = next(n for n in content if n.endswith(f"weights/{entry['path_name']}"))
    content[member] = saved(Bomb())
    with pytest.raises(InputError, match="read as data"):
        frontend.network_file(written(tmp_path / "a.pt2", content))
    content[member] = saved(torch.zeros(4, 2, 3, 3))  # a plain tensor may be pickled
    assert frontend.network_file(written(tmp_path / "b.pt2", content)).capture(X).nodes


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.mkdir",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.mine.operator.default",
        "torch.ops.higher_order.cond",
        "_operator.attrgetter",
        "builtins.eval",
        "torch.ops.aten.relu.__class__.__init__",
        "",
    ],
)
@pytest.mark.parametrize("source", [OLD, NEW])
def test_only_known_operators_are_found_by_name(target: str, source: Path, tmp_path: Path) -> None:
    path = changed(tmp_path / "a.pt2", lambda d: nodes(d)[0].update(target=target), source)
    with pytest.raises((InputError, UnsupportedOperatorError)) as refused:
        frontend.network_file(path)
    assert str(path) in refused.value.where
    named = target.removeprefix("torch.ops.") in refused.value.found
    assert named or isinstance(refused.value, InputError)


def test_an_unknown_operator_is_placed_in_the_users_code(tmp_path: Path) -> None:
    path = changed(
        tmp_path / "a.pt2", lambda d: nodes(d)[0].update(target="torch.ops.aten.cosh.default")
    )
    with pytest.raises(UnsupportedOperatorError) as refused:
        frontend.network_file(path)
    assert refused.value.found.endswith("aten.cosh.default")
    assert "captured_network.py:" in refused.value.where


def test_sizes_are_never_evaluated(tmp_path: Path) -> None:
    """torch.export.load hands these to sympy, which executes Python."""

    def attack(document: Any) -> None:
        images = document["graph_module"]["graph"]["tensor_values"]["x"]
        images["sizes"][0] = {"as_expr": {"expr_str": f"__import__('os').mkdir('{MARK}')"}}

    network = frontend.network_file(changed(tmp_path / "a.pt2", attack))
    assert network.capture(X).nodes


def test_compiled_code_is_refused(tmp_path: Path) -> None:
    content = {"a/data/aotinductor/model/code.so": b"\x7fELF", "a/archive_format": b"pt2"}
    with pytest.raises(InputError) as refused:
        frontend.network_file(written(tmp_path / "a.pt2", content))
    assert "compiled code" in refused.value.found


def test_a_huge_result_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    def attack(document: Any) -> None:
        first = nodes(document)[0]
        padding = {"name": "padding", "arg": {"as_ints": [10**6, 10**6]}, "kind": 1}
        first["inputs"] = [*first["inputs"][:4], padding]

    network = frontend.network_file(changed(tmp_path / "a.pt2", attack))
    with pytest.raises(InputError) as refused:
        network.capture(X)
    assert "bearable size" in refused.value.rule
    assert "values" in refused.value.found


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt2_file, "MAX_BYTES", 10**6)
    path = written(tmp_path / "a.pt2", {**members(NEW), "zeros": bytes(2 * 10**6)})
    with pytest.raises(InputError) as refused:
        frontend.network_file(path)
    assert "bytes unpacked" in refused.value.found


@pytest.mark.parametrize("limit", ["MAX_JSON", "MAX_NODES"])
def test_large_programs_are_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt2_file, limit, 5)
    with pytest.raises(InputError):
        frontend.network_file(NEW)


@pytest.mark.parametrize("source", [OLD, NEW])
def test_weights_that_are_not_finite_are_refused(source: Path, tmp_path: Path) -> None:
    def broken(document: Any) -> None:
        return None

    path = changed(tmp_path / "a.pt2", broken, source)
    content = members(path)
    name = next((n for n in content if n.endswith("weights/weight_0")), None)
    if name is None:
        state = torch.load(io.BytesIO(content["serialized_state_dict.pt"]), weights_only=True)
        state["stem.0.weight"] = torch.full_like(state["stem.0.weight"], float("nan"))
        content["serialized_state_dict.pt"] = saved(state)
    else:
        content[name] = np.full(72, np.nan, "<f4").tobytes()
    with pytest.raises(InputError, match="finite numbers"):
        frontend.network_file(written(path, content))


@pytest.mark.parametrize("source", [OLD, NEW])
def test_damaged_files_give_one_clear_error(source: Path, tmp_path: Path) -> None:
    whole = source.read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "a.pt2"
    seen = set()
    for trial in range(60):
        data = bytearray(whole)
        if trial % 2:
            data = data[: int(random.integers(len(data)))]
        else:
            for place in random.integers(len(data), size=8):
                data[place] = int(random.integers(256))
        path.write_bytes(bytes(data))
        seen.add(outcome(path))
    assert seen <= {"InputError", "fine", "UnsupportedOperatorError", "CaptureError"}
    assert "InputError" in seen


@pytest.mark.parametrize("source", [OLD, NEW])
def test_damaged_programs_give_one_clear_error(source: Path, tmp_path: Path) -> None:
    """Valid JSON, with values of the wrong kind at random places."""
    random = np.random.default_rng(1)
    seen = []
    for _ in range(80):
        path = changed(tmp_path / "a.pt2", lambda d: spoil(d["graph_module"], random), source)
        seen.append(outcome(path))
    assert set(seen) <= {"InputError", "fine", "UnsupportedOperatorError", "CaptureError"}
    assert seen.count("InputError") > 10


def spoil(value: Any, random: np.random.Generator) -> None:
    """Replace one leaf, some way down."""
    for _ in range(40):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = keys[int(random.integers(len(keys)))]
        if not isinstance(value[key], (dict, list)) or random.random() < 0.05:
            others: list[Any] = [None, -1, 10**20, "x", [], {}, 1.5, {"as_int": 3}, [None]]
            value[key] = others[int(random.integers(len(others)))]
            return
        value = value[key]


def outcome(path: Path) -> str:
    try:
        network = frontend.network_file(path)
        network.capture(X)
    except LapilliError as error:
        assert str(error)
        return type(error).__name__
    return "fine"


def test_a_missing_file_and_a_foreign_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        frontend.network_file(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(InputError, match="not a zip file"):
        frontend.network_file(tmp_path / "text.pt2")
    script = {"a/data.pkl": b"", "a/constants.pkl": b"", "a/code/__torch__.py": b"import os"}
    with pytest.raises(InputError, match="0 programs"):
        frontend.network_file(written(tmp_path / "script.pt2", script))
    with pytest.raises(InputError, match=r"\.pt2, \.onnx"):
        frontend.network_file(tmp_path / "model.keras")


def test_other_images_than_the_program_was_exported_for_are_refused() -> None:
    with pytest.raises(InputError) as refused:
        frontend.network_file(NEW).capture(np.zeros((3, 2, 13, 12), np.float32))
    assert refused.value.found == "images of shape (2, 13, 12)"
    assert "(2, 12, 12)" in refused.value.allowed
