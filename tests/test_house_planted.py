"""Every law of the house catches the fault it is for: faults are planted in a small house."""

from __future__ import annotations

import re
import subprocess
import types
from collections.abc import Callable
from pathlib import Path

import house_laws as laws
import house_runs as runs
import pytest

PROJECT = """
[project]
dependencies = ["numpy>=1", "scikit-learn>=1"]
[project.optional-dependencies]
dev = ["pytest"]
[tool.setuptools]
packages = ["lapilli", "lapilli.compiler", "lapilli.hardware_profiles", "lapilli.runtime"]
[tool.mypy]
strict = true
explicit_package_bases = true
"""
ERRORS = "class LapilliError(Exception): ...\n\n\nclass InputError(LapilliError): ...\n"
TEST = (
    "from lapilli.compiler.errors import InputError\n\n\ndef test_one():\n    assert InputError\n"
)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small repository that keeps every law."""
    for folder in laws.FOLDERS.values():
        plant(tmp_path, f"{folder}/__init__.py", '"""A room."""\n')
    plant(tmp_path, "pyproject.toml", PROJECT)
    plant(tmp_path, "compiler/errors.py", ERRORS)
    plant(tmp_path, "tests/test_errors.py", TEST)
    plant(
        tmp_path, "constraints/core.txt", "# locked\nnumpy==2.4.6\nscikit_learn==1.9.1\npytest==9\n"
    )
    return tmp_path


def plant(house: Path, name: str, text: str) -> None:
    (house / name).parent.mkdir(parents=True, exist_ok=True)
    (house / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "law",
    [
        laws.package_list_faults,
        laws.import_faults,
        laws.stray_import_faults,
        laws.size_faults,
        laws.name_faults,
        laws.rounding_faults,
        laws.spelling_faults,
        laws.leak_faults,
        laws.untested_error_faults,
        laws.idle_test_faults,
    ],
    ids=lambda law: law.__name__,
)
def test_a_lawful_house_has_no_faults(house: Path, law: Callable[[Path], list[str]]) -> None:
    assert law(house) == []


def test_package_list(house: Path) -> None:
    plant(house, "compiler/passes/__init__.py", "")
    (house / "runtime/__init__.py").unlink()
    assert laws.package_list_faults(house) == [
        "lapilli.compiler.passes is a folder but not in pyproject.toml",
        "lapilli.runtime is in pyproject.toml but has no folder",
    ]


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("compiler/a.py", "from .errors import X", "relative import"),
        ("compiler/a.py", "from . import errors", "relative import"),
        ("compiler/a.py", "import_module('.errors', __package__)", "relative import"),
        ("compiler/a.py", "import compiler.errors", "own code is lapilli.compiler"),
        ("compiler/a.py", "from runtime import trace", "own code is lapilli.runtime"),
        ("compiler/a.py", "import lapilli.runtime.trace", "must not import lapilli.runtime"),
        ("compiler/a.py", "from lapilli import runtime", "must not import lapilli.runtime"),
        ("compiler/a.py", "from lapilli import load", "must not import lapilli.load"),
        ("compiler/a.py", "import lapilli", "must not import lapilli"),
        ("compiler/a.py", "def f():\n    import lapilli.cli", "must not import lapilli.cli"),
        ("compiler/a.py", "importlib.import_module('lapilli.runtime')", "must not import"),
        ("hardware_profiles/a.py", "from lapilli.compiler import netlist", "must not import"),
        ("hardware_profiles/a.py", "import lapilli.runtime", "must not import"),
        ("runtime/a.py", "from lapilli.cli import main", "must not import lapilli.cli"),
        ("runtime/a.py", "from lapilli.compiler import frontend", "must not import"),
        ("runtime/a.py", "from lapilli.compiler.ir import Graph", "must not import"),
        ("runtime/a.py", "import lapilli.compiler.passes.quantise", "must not import"),
        ("runtime/a.py", "from lapilli.compiler.layers import TABLE", "must not import"),
        ("runtime/a.py", "import lapilli.compiler.calibrate", "must not import"),
        ("runtime/a.py", "from lapilli.compiler.populations import x", "must not import"),
        ("runtime/reference.py", "from lapilli.runtime.lava import runner", "must not import"),
        ("runtime/lava/a.py", "from lapilli.runtime import reference", "must not import"),
        ("compiler/netlist.py", "import torch", "netlist imports torch, whose home"),
        ("compiler/netlist.py", "def f():\n    import torch.nn", "netlist imports torch"),
        ("compiler/netlist.py", "import h5py", "imports h5py, whose home"),
        ("lapilli/data.py", "import h5py", "imports h5py, whose home"),
        ("runtime/trace.py", "from lava.proc import lif", "imports lava, whose home"),
        ("lapilli/cli.py", "import lava.magma", "imports lava, whose home"),
        ("compiler/a.py", "from sklearn.datasets import load_digits", "imports sklearn"),
        ("compiler/a.py", "from PIL import Image", "imports PIL, whose home is lapilli"),
        ("runtime/a.py", "import safetensors.torch", "imports safetensors"),
        ("runtime/a.py", "import click", "imports click, whose home is lapilli"),
        ("runtime/a.py", "from rich.progress import track", "imports rich"),
        ("compiler/a.py", "import yaml", "yaml has no home"),
        ("compiler/a.py", "if TYPE_CHECKING:\n    import lapilli.runtime", "must not import"),
        ("compiler/a.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "imports torch"),
    ],
)
def test_imports(house: Path, name: str, line: str, fault: str) -> None:
    plant(house, name, f"{line}\n")
    (found,) = laws.import_faults(house)
    assert re.match(rf"{re.escape(name)}:\d+: ", found)
    assert fault in found


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("compiler/a.py", "from lapilli.hardware_profiles import Profile"),
        ("compiler/a.py", "if TYPE_CHECKING:\n    import torch"),
        ("compiler/__init__.py", "def f():\n    import torch"),
        ("hardware_profiles/a.py", "from lapilli.compiler.errors import InputError"),
        ("runtime/a.py", "from lapilli.compiler.netlist import Netlist"),
        ("runtime/lava/a.py", "from lava.proc.lif.process import LIF"),
        ("compiler/artifact.py", "import h5py"),
        ("compiler/frontend.py", "import torch.fx"),
        ("lapilli/cli.py", "import click, torch, rich, lapilli.runtime.reference"),
    ],
)
def test_allowed_imports(house: Path, name: str, line: str) -> None:
    plant(house, name, f"{line}\n")
    assert laws.import_faults(house) == []


def test_stray_imports(house: Path) -> None:
    plant(house, "tests/test_x.py", "from compiler import errors\n")
    plant(house, "examples/01_x.py", "import runtime.trace\n")
    assert len(laws.stray_import_faults(house)) == 2


def test_size(house: Path) -> None:
    plant(house, "compiler/long.py", "x = 1\n" * 500)
    assert laws.size_faults(house) == []
    plant(house, "tests/long.py", "x = 1\n" * 501)
    assert laws.size_faults(house) == ["tests/long.py: 501 lines, 500 allowed"]


@pytest.mark.parametrize("name", ["utils.py", "image_helpers.py", "common/x.py", "base.py"])
def test_names(house: Path, name: str) -> None:
    plant(house, f"compiler/{name}", "")
    assert laws.name_faults(house) == [f"compiler/{name}: name it after what it holds"]


@pytest.mark.parametrize(
    "line",
    [
        "y = round(x)",
        "y = np.round(x)",
        "y = x.round()",
        "y = torch.round(x)",
        "y = np.rint(x)",
        "y = list(map(round, x))",
        "from numpy import around",
        "y = x.astype(int)",
        "y = x.astype(dtype=int, copy=False)",
    ],
)
def test_rounding(house: Path, line: str) -> None:
    plant(house, "runtime/a.py", f"{line}\n")
    plant(house, "compiler/numerics.py", f"{line}\n")
    (found,) = laws.rounding_faults(house)
    assert found.startswith("runtime/a.py:1: ")


def test_spelling(house: Path) -> None:
    plant(house, "compiler/a.py", "def quantize(color): ...\nclass Normalizer: ...\n")
    assert len(laws.spelling_faults(house)) == 3


@pytest.mark.parametrize(
    "leak",
    [
        "see {}work/main/compiler",
        "home = '{}root/.pyenv'",
        "cd {}tmp/w/v310",
        "open('{}home/ada/model.h5')",
        "https:{}{}pypi{}org/simple",
        "find-links = {}opt/wheels",
    ],
)
@pytest.mark.parametrize("versioned", [True, False])
def test_leaks(house: Path, leak: str, versioned: bool) -> None:
    text = leak.format("/", "/", ".") if leak.count("{}") > 1 else leak.format("/")
    plant(house, "docs/a.md", f"first line\n{text}\n")
    plant(
        house, "docs/innocent.md", "../work/x a/work frame/work https://example.org/root/ /tmp/x\n"
    )
    if versioned:
        subprocess.run(["git", "init", "--quiet"], cwd=house, check=True)
        plant(house, ".gitignore", "ignored.txt\n")
    plant(house, "ignored.txt" if versioned else ".cache/a.txt", text)
    (found,) = laws.leak_faults(house)
    assert found.startswith("docs/a.md:2: ")


def test_untested_error(house: Path) -> None:
    plant(house, "compiler/errors.py", f"{ERRORS}\n\nclass LostError(LapilliError): ...\n")
    plant(house, "tests/test_house_x.py", "LostError\n")
    plant(house, "tests/test_near.py", "LostErrors\n")
    assert laws.untested_error_faults(house) == ["compiler/errors.py: no test raises LostError"]


@pytest.mark.parametrize("body", ["pass", "x = 1", "print(raises)", "run()"])
def test_idle_tests(house: Path, body: str) -> None:
    plant(house, "tests/test_idle.py", f"def test_x():\n    {body}\n")
    assert laws.idle_test_faults(house) == ["tests/test_idle.py:1: test_x asserts nothing"]


@pytest.mark.parametrize(
    "body", ["assert x", "np.testing.assert_array_equal(x, y)", "check_layer(x)", "pytest.fail()"]
)
def test_busy_tests(house: Path, body: str) -> None:
    plant(house, "tests/test_busy.py", f"def test_x():\n    {body}\n")
    assert laws.idle_test_faults(house) == []


def test_locks(house: Path) -> None:
    assert laws.lock_faults(house, "core.txt", "dev") == []
    plant(house, "constraints/core.txt", "numpy==2.4.6\npytest>=9\nx @ file:///x.whl\n")
    assert laws.lock_faults(house, "core.txt", "dev") == [
        "constraints/core.txt: not an exact version: pytest>=9",
        "constraints/core.txt: not an exact version: x @ file:///x.whl",
        "constraints/core.txt: scikit-learn is not locked",
    ]


def test_types(house: Path) -> None:
    """One wrong type in each room, and in an example, found through the package's real name."""
    plant(house, "examples/01_x.py", "from lapilli.compiler.good import half\n\nx: str = half(1)\n")
    plant(house, "compiler/good.py", "def half(x: int) -> int:\n    return x // 2\n")
    for folder in laws.FOLDERS.values():
        plant(house, f"{folder}/bad.py", "from lapilli.compiler.good import half\n\nhalf('a')\n")
    plant(house, "runtime/lava/__init__.py", "def untyped(x):\n    return x\n")
    faults = laws.type_faults(
        house, house / "links", house / "pyproject.toml", house / ".mypy_cache"
    )
    places = sorted(line.partition(":")[0] for line in faults if ": error: " in line)
    assert places == [
        str(house / "examples/01_x.py"),
        "lapilli/bad.py",
        "lapilli/compiler/bad.py",
        "lapilli/hardware_profiles/bad.py",
        "lapilli/runtime/bad.py",
        "lapilli/runtime/lava/__init__.py",
    ]


def test_start_up(house: Path) -> None:
    assert runs.start_up_faults(house, attempts=1) == []
    plant(house, "lapilli/__init__.py", "import h5py\n")
    assert runs.start_up_faults(house, attempts=1) == ["import lapilli loads h5py"]
    plant(house, "lapilli/__init__.py", "import time\n\ntime.sleep(0.35)\n")
    (found,) = runs.start_up_faults(house, attempts=2)
    assert "0.3 s allowed" in found
    plant(house, "lapilli/__init__.py", "import nothing_of_this_name\n")
    (found,) = runs.start_up_faults(house, attempts=1)
    assert "nothing_of_this_name" in found


def test_dependence(house: Path) -> None:
    links = laws.link_packages(house, house / "links")
    code = "import lapilli.compiler.netlist"
    plant(house, "compiler/netlist.py", "import numpy\n")
    assert runs.dependence_faults(links, ["torch"], code) == []
    plant(house, "compiler/netlist.py", "import torch\n")
    (found,) = runs.dependence_faults(links, ["torch"], code)
    assert "import of torch halted" in found


def test_doctests() -> None:
    module = types.ModuleType("planted")
    module.__doc__ = ">>> 1 + 1\n2\n"
    assert runs.doctest_faults(module) == []
    module.__doc__ = ">>> 1 + 1\n3\n"
    (found,) = runs.doctest_faults(module)
    assert "Expected:\n    3" in found


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("print('result')", []),
        ("", ["01_x.py: shows nothing"]),
        ("print('x', flush=True); raise SystemExit(3)", ["01_x.py: exit code 3\n"]),
        (
            "import time; print('x')\nwhile time.process_time() < 1.2: pass",
            ["01_x.py: 1 s, 1 s allowed"],
        ),
        ("import time; time.sleep(60)", ["01_x.py: still running after 5 s"]),
    ],
)
def test_examples(house: Path, text: str, faults: list[str]) -> None:
    plant(house, "examples/01_x.py", f"{text}\n")
    assert runs.example_faults(house / "examples/01_x.py", house, seconds_allowed=1.0) == faults
