"""MODEL and --weights: what loads, and what is refused without running a line of it."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lapilli import models
from lapilli.compiler.errors import InputError

SOURCE = """
import torch
from torch import nn

SIZE = 3
READY = nn.Linear(2, 3)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, SIZE)
        self.bn = nn.BatchNorm1d(SIZE)

    def forward(self, x):
        return self.bn(self.fc(x))

class Zoo:
    Inner = Net

def needs_width(width):
    return nn.Linear(width, 3)

def not_a_network():
    return "weights"
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's module in the current folder; import state is restored."""
    name = "user_net_of_a_test"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Other values than the model was built with."""
    return {k: torch.full_like(v, 2) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("path", ["Net", "Zoo.Inner", "READY"])
def test_a_callable_or_a_module_of_the_current_folder_loads(net: str, path: str) -> None:
    model = models.load(f"{net}:{path}")
    assert model(torch.zeros(1, 2)).shape == (1, 3)
    assert not model.training


@pytest.mark.parametrize("kind", ["safetensors", "state_dict", "nested", "parallel"])
def test_weights_load_from_every_kind_of_file(net: str, tmp_path: Path, kind: str) -> None:
    state = weights_of(models.load(f"{net}:Net"))
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif kind == "parallel":
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    model = models.load(f"{net}:Net", path)
    assert all(bool((value == 2).all()) for value in model.state_dict().values())


def test_a_missing_batch_counter_is_no_fault(net: str, tmp_path: Path) -> None:
    state = weights_of(models.load(f"{net}:Net"))
    del state["bn.num_batches_tracked"]
    save_file(state, tmp_path / "old.safetensors")
    model = models.load(f"{net}:Net", tmp_path / "old.safetensors")
    assert bool((model.state_dict()["fc.bias"] == 2).all())


def test_keys_that_do_not_fit_are_named(net: str, tmp_path: Path) -> None:
    state = weights_of(models.load(f"{net}:Net"))
    state["fc.weight"] = torch.zeros(3, 5)
    state["head.weight"] = torch.zeros(1)
    del state["bn.bias"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(InputError) as error:
        models.load(f"{net}:Net", tmp_path / "other.safetensors")
    assert error.value.found == (
        "missing bn.bias; not expected head.weight; "
        "shape: fc.weight is [3, 5], the network has [3, 2]"
    )
    assert "Net" in error.value.allowed


def test_long_lists_of_keys_are_cut(net: str, tmp_path: Path) -> None:
    save_file({f"k{i}": torch.zeros(1) for i in range(9)}, tmp_path / "alien.safetensors")
    with pytest.raises(InputError, match="k0, k1, k2, k3, k4 and 4 more"):
        models.load(f"{net}:READY", tmp_path / "alien.safetensors")


class Trap:
    """Unpickling this makes a file: evidence that code has run."""

    def __init__(self, evidence: Path):
        self.evidence = evidence

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.evidence,)


def test_a_checkpoint_never_runs_code(net: str, tmp_path: Path) -> None:
    evidence = tmp_path / "code-has-run"
    torch.save({"state_dict": Trap(evidence)}, tmp_path / "trap.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(evidence)))
    for name in ("trap.pt", "plain.pt"):
        with pytest.raises(InputError, match="files that can run code are not opened"):
            models.load(f"{net}:Net", tmp_path / name)
    assert not evidence.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())
    assert evidence.exists(), "the trap must be able to close"


def test_checkpoints_that_torch_runs_whatever_it_is_told_are_refused(
    net: str, tmp_path: Path
) -> None:
    evidence = tmp_path / "code-has-run"
    storages = pickle.dumps(Trap(evidence))
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        member = tarfile.TarInfo("storages")
        member.size = len(storages)
        archive.addfile(member, io.BytesIO(storages))
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as script:
        script.writestr("archive/constants.pkl", b"")
    for name, found in (("old.pt", "tar format"), ("script.pt", "TorchScript")):
        with pytest.raises(InputError) as error:
            models.load(f"{net}:Net", tmp_path / name)
        assert found in error.value.found
    assert not evidence.exists()


@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02torn", None])
def test_foreign_weights_are_refused(
    net: str, tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        models.load(f"{net}:Net", tmp_path / name)
    assert error.value.where.endswith(name)
    assert error.value.found


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"a": "text"}])
def test_a_checkpoint_without_tensors_is_refused(net: str, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "list.pt")
    with pytest.raises(InputError, match="without a state_dict of tensors"):
        models.load(f"{net}:Net", tmp_path / "list.pt")


@pytest.mark.parametrize(
    ("spec", "rule", "found"),
    [
        ("{net}:Nothing", "has that name", "no 'Nothing'"),
        ("{net}:not_a_network", "the callable returns a torch.nn.Module", "str"),
        ("{net}:SIZE", "the callable returns a torch.nn.Module", "int"),
        ("{net}:needs_width", "the callable works without arguments", "TypeError"),
        ("{net}", "a network is named by its module and a callable", "'user_net"),
        ("net.py:build()", "a network is named by its module and a callable", "'net.py:build()'"),
        ("no_such_module:Net", "the module can be found", "no module no_such_module"),
        ("{net}.inner:Net", "the module can be found", "no module user_net_of_a_test.inner"),
        ("broken_net:Net", "the module can be imported", "ZeroDivisionError"),
        ("needy_net:Net", "the module can be imported", "No module named 'absent_library'"),
        ("model.onnx", "the file is an ONNX model", "no such file"),
        ("model.pt2", "the file is an exported program", "no such file"),
        ("model.nir", ".nir files hold no network of PyTorch", ".nir"),
        ("model.net", ".net files hold no network of PyTorch", ".net"),
    ],
)
def test_models_that_cannot_be_built_are_refused(
    net: str, tmp_path: Path, spec: str, rule: str, found: str
) -> None:
    (tmp_path / "broken_net.py").write_text("1 / 0\n")
    (tmp_path / "needy_net.py").write_text("import absent_library\n")
    with pytest.raises(InputError) as error:
        models.load(spec.format(net=net))
    assert rule in error.value.rule
    assert found in error.value.found
    assert error.value.remedy


def test_faults_of_the_users_code_say_where(net: str, tmp_path: Path) -> None:
    (tmp_path / "broken_net.py").write_text("\n\n1 / 0\n")
    with pytest.raises(InputError, match=r"broken_net\.py:3"):
        models.load("broken_net:Net")
