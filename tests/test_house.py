"""The repository keeps the laws of the house, which are in `house_laws.py`, `house_runs.py`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import house_laws as laws
import house_runs as runs
import pytest
import torch
from backend_presence import lava_is_missing
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MODULES = laws.modules(ROOT)
NO_TORCH = ("torch", "lava")


def assert_none(faults: list[str]) -> None:
    """Fail with every fault on a line of its own, where comparing lists would shorten them."""
    assert not faults, "\n" + "\n".join(faults)


def test_package_list_equals_folders() -> None:
    assert_none(laws.package_list_faults(ROOT))


def test_imports_are_absolute_at_home_and_point_one_way() -> None:
    assert_none(laws.import_faults(ROOT))


def test_own_code_is_imported_as_lapilli() -> None:
    assert_none(laws.stray_import_faults(ROOT))
    assert {"compiler", "runtime", "hardware_profiles"}.isdisjoint(sys.modules)


def test_every_home_is_for_a_declared_dependency() -> None:
    housed = {distribution for distribution, _ in laws.THIRD_PARTY.values()}
    assert laws.declared(ROOT) <= housed
    assert housed <= laws.declared(ROOT, "lava", "nir", "onnx", "plots", "train")


def test_files_fit_a_reader() -> None:
    assert_none(laws.size_faults(ROOT))


def test_files_are_named_after_what_they_hold() -> None:
    assert_none(laws.name_faults(ROOT))


def test_only_numerics_rounds() -> None:
    assert_none(laws.rounding_faults(ROOT))


def test_names_are_spelt_the_british_way() -> None:
    assert_none(laws.spelling_faults(ROOT))


def test_no_machine_is_named() -> None:
    assert_none(laws.leak_faults(ROOT))


def test_every_error_has_a_test() -> None:
    assert_none(laws.untested_error_faults(ROOT))


def test_every_test_asserts() -> None:
    assert_none(laws.idle_test_faults(ROOT))


def test_both_stacks_are_locked() -> None:
    assert_none(laws.lock_faults(ROOT, "lava.txt", "lava", "dev"))
    # These two are for Python 3.10 only, and this lock is for later ones.
    assert laws.lock_faults(ROOT, "core.txt", "dev") == [
        "constraints/core.txt: tomli is not locked",
        "constraints/core.txt: torchvision is not locked",
    ]
    assert "torch==2.13.0" in (ROOT / "constraints/core.txt").read_text("utf-8").splitlines()


def test_types_are_strict(tmp_path: Path) -> None:
    faults = laws.type_faults(
        ROOT, tmp_path / "links", ROOT / "pyproject.toml", ROOT / ".mypy_cache"
    )
    assert_none(faults)


@pytest.mark.parametrize("module", MODULES, ids=[module.name for module in MODULES])
def test_module_imports_by_its_name_and_its_examples_are_true(module: laws.Module) -> None:
    try:
        imported = importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing = lava_is_missing()
        if missing is None or str(error.name).partition(".")[0] != "lava":
            raise
        pytest.skip(missing)
    assert Path(str(imported.__file__)).samefile(module.path)
    assert_none(runs.doctest_faults(imported))


def test_import_lapilli_is_fast_and_light(tmp_path: Path) -> None:
    assert_none(runs.start_up_faults(tmp_path))


def test_netlist_and_artifact_modules_need_no_torch(tmp_path: Path) -> None:
    code = "import lapilli.compiler.netlist, lapilli.compiler.artifact"
    assert_none(runs.dependence_faults(tmp_path, NO_TORCH, code))


def test_artifact_is_read_without_torch(tmp_path: Path) -> None:
    import lapilli

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    net = lapilli.compile(
        model,
        calibration=torch.rand(8, 1, 2, 2),
        method=lapilli.methods.Parallel(levels=4),
        profile="loihi2",
    )
    net.save(tmp_path / "model.h5")
    code = "import lapilli; lapilli.load(sys.argv[1])"
    assert_none(runs.dependence_faults(tmp_path, NO_TORCH, code, "model.h5"))


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_runs_in_under_a_minute(example: Path, tmp_path: Path) -> None:
    """A line "# needs: PATH" (from the repository) or "# needs: lava" says when to skip it."""
    for need in re.findall(r"^# needs: (.+)$", example.read_text("utf-8"), flags=re.MULTILINE):
        reason = lava_is_missing() if need == "lava" else None
        if need != "lava" and not (ROOT / need).exists():
            reason = f"no data at {need}"
        if reason:
            pytest.skip(reason)
    assert_none(runs.example_faults(example, tmp_path))
