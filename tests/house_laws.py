"""The laws of the house as functions: each takes a folder and returns what breaks the law there.

`test_house.py` holds the repository to them; `test_house_planted.py` holds them to planted faults.
A violation is one line "file:line: what is wrong", so that a failing test says where to look.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = {
    "lapilli": "lapilli",
    "lapilli.compiler": "compiler",
    "lapilli.hardware_profiles": "hardware_profiles",
    "lapilli.runtime": "runtime",
}
"""Package name -> folder of the repository."""

MAY_IMPORT = {
    "lapilli.hardware_profiles": {"lapilli.hardware_profiles"},
    "lapilli.compiler": {"lapilli.compiler", "lapilli.hardware_profiles"},
    "lapilli.runtime": {"lapilli.runtime", "lapilli.compiler", "lapilli.hardware_profiles"},
    "lapilli": set(FOLDERS),
}
FOR_ALL = "lapilli.compiler.errors"
"""The one module that everybody may import: errors have one home and arise everywhere."""

NEVER_IMPORTS = [
    *(
        ("lapilli.runtime", f"lapilli.compiler.{module}")
        for module in ("frontend", "capture", "ir", "passes", "layers", "calibrate", "populations")
    ),
    ("lapilli.runtime.reference", "lapilli.runtime.lava"),
    ("lapilli.runtime.lava", "lapilli.runtime.reference"),
]
"""Importer, imported (each with all that is inside it)."""

TORCH_HOMES = [
    "lapilli.compiler.__init__",  # this file alone: the public verb takes a torch network
    "lapilli.compiler.frontend",
    "lapilli.compiler.activations",
    "lapilli.compiler.execute",
    "lapilli.compiler.calibrate",
    "lapilli.compiler.compensate",
    "lapilli.compiler.da_qcfs",
    "lapilli.compiler.dequantise",
    "lapilli.compiler.capture",
    "lapilli.compiler.reconstruction",
    "lapilli.compiler.training",
    "lapilli.runtime.kernels",
    "lapilli.runtime.reference",
    "lapilli.runtime.staircases",
    "lapilli.runtime.tally",
]
FRONT_DOOR = "lapilli"
THIRD_PARTY: dict[str, tuple[str, list[str]]] = {
    "click": ("click", [FRONT_DOOR]),
    "h5py": (
        "h5py",
        [
            "lapilli.compiler.artifact",
            "lapilli.compiler.interchange.netx_export",
            "lapilli.compiler.interchange.netx_file",
            "lapilli.compiler.interchange.nir_file",
        ],
    ),
    "lava": ("lava-nc", ["lapilli.runtime.lava"]),
    "lightning_fabric": ("lightning-fabric", [FRONT_DOOR]),
    "matplotlib": ("matplotlib", [FRONT_DOOR]),
    "nir": ("nir", ["lapilli.compiler.interchange.nir_file"]),
    "google": ("protobuf", ["lapilli.compiler.capture.onnx_file"]),
    "numpy": ("numpy", list(FOLDERS)),
    "onnx": (
        "onnx",
        [
            "lapilli.compiler.capture.onnx_file",
            "lapilli.compiler.capture.onnx_names",
            "lapilli.compiler.capture.onnx_reference",
            "lapilli.compiler.capture.onnx_trace",
        ],
    ),
    "PIL": ("pillow", [FRONT_DOOR]),
    "pydantic": ("pydantic", ["lapilli.compiler.training.recipe_file"]),
    "pymetis": ("pymetis", ["lapilli.compiler.mapping.embedding"]),
    "rich": ("rich", [FRONT_DOOR]),
    "safetensors": (
        "safetensors",
        [
            "lapilli.compiler.training.checkpoint",
            "lapilli.compiler.training.quantised_file",
            FRONT_DOOR,
        ],
    ),
    "scipy": ("scipy", ["lapilli.compiler", "lapilli.runtime"]),
    "sklearn": ("scikit-learn", [FRONT_DOOR]),
    "tomli": ("tomli", ["lapilli.compiler.training.recipe_file"]),
    "torch": ("torch", [*TORCH_HOMES, FRONT_DOOR]),
    "torchvision": ("torchvision", ["lapilli.compiler.training.augmentation"]),
}
"""Imported name -> (distribution that pyproject.toml must declare, modules that may import it)."""

STANDARD = sys.stdlib_module_names | {"tomllib"}  # new in 3.11

VAGUE_NAMES = {"base", "common", "helper", "helpers", "misc", "util", "utils"}
HIDDEN = re.compile(r"(^|/)(\.(?!ci/|gitignore|python-version)|__pycache__|[^/]*\.egg-info)")
MAX_LINES = 500
ROUNDING_NAMES = {"around", "rint", "round", "round_"}
AMERICAN = re.compile(r"(?i)(quantiz|normaliz|legaliz|optimiz|initializ|serializ|color|behavior)")


@dataclass(frozen=True)
class Module:
    """One file of the packages: its import name and its place."""

    name: str
    path: Path


@dataclass(frozen=True)
class Import:
    """One imported name, dotted; `level` counts the dots of a relative import."""

    target: str
    level: int
    line: int
    typing_only: bool = False


def pyproject(root: Path) -> dict[str, Any]:
    """Contents of the project file."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def modules(root: Path) -> list[Module]:
    """Every Python file of the four folders under its import name."""
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            inner = path.relative_to(root / folder).with_suffix("").parts
            name = ".".join((package, *(part for part in inner if part != "__init__")))
            found.append(Module(name, path))
    return found


def python_files(root: Path) -> list[Path]:
    """Every Python file that people read: the packages, the tests, the examples."""
    folders = (*FOLDERS.values(), "tests", "examples")
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def tracked_files(root: Path) -> list[Path]:
    """Files under version control or about to be; without git, all but hidden and built ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        everything = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return [path for path in everything if not HIDDEN.search(str(path.relative_to(root)))]
    names = sorted(set(listed.stdout.split("\0")) - {""})
    return [root / name for name in names if (root / name).is_file()]


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _home(name: str) -> str:
    """The folder that a module belongs to: the longest package name that contains it."""
    return max((package for package in FOLDERS if _inside(name, package)), key=len)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, inside functions too, and `import_module` of a literal."""
    tree = _tree(path)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, 0, node.lineno, node in typing_only)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                target = f"{node.module}.{alias.name}" if node.module else alias.name
                yield Import(target, node.level, node.lineno, node in typing_only)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    name = argument.value
                    yield Import(name.lstrip("."), len(name) - len(name.lstrip(".")), node.lineno)


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _at(root: Path, path: Path, line: int) -> str:
    return f"{path.relative_to(root)}:{line}"


def package_list_faults(root: Path) -> list[str]:
    """The list in pyproject.toml against the folders that have an `__init__.py`."""
    listed = set(pyproject(root)["tool"]["setuptools"]["packages"])
    present = {module.name for module in modules(root) if module.path.name == "__init__.py"}
    return [
        *(f"{name} is a folder but not in pyproject.toml" for name in sorted(present - listed)),
        *(f"{name} is in pyproject.toml but has no folder" for name in sorted(listed - present)),
    ]


def import_faults(root: Path) -> list[str]:
    """Imports in the packages that are relative, undeclared, away from home or the wrong way."""
    return [
        f"{_at(root, module.path, found.line)}: {fault}"
        for module in modules(root)
        for found in imports(module.path)
        if (fault := _import_fault(module, found))
    ]


def _import_fault(importer: Module, found: Import) -> str | None:
    top = found.target.partition(".")[0]
    if found.level:
        return f"relative import of {found.target}"
    if top in STANDARD:
        return None
    if top == "lapilli":
        return _direction_fault(importer.name, found.target)
    if top in FOLDERS.values():
        return f"import {found.target}: own code is lapilli.{found.target}"
    return None if found.typing_only else _home_fault(importer, top)


def _home_fault(importer: Module, top: str) -> str | None:
    if top not in THIRD_PARTY:
        return f"{top} has no home: add a row to THIRD_PARTY in tests/house_laws.py"
    homes = THIRD_PARTY[top][1]
    at_home = any(
        _home(importer.name) == FRONT_DOOR if home == FRONT_DOOR else _inside(importer.name, home)
        for home in homes
    )
    if at_home or f"{importer.name}.{importer.path.stem}" in homes:
        return None
    return f"{importer.name} imports {top}, whose home is {', '.join(homes)}"


def _direction_fault(importer: str, target: str) -> str | None:
    if _inside(target, FOR_ALL):
        return None
    if _home(target) not in MAY_IMPORT[_home(importer)]:
        return f"{_home(importer)} must not import {target}"
    for left, right in NEVER_IMPORTS:
        if _inside(importer, left) and _inside(target, right):
            return f"{left} must not import {target}"
    return None


def stray_import_faults(root: Path) -> list[str]:
    """Tests and examples that import `compiler`, a second copy of `lapilli.compiler`'s classes."""
    strays = set(FOLDERS.values()) - {"lapilli"}
    return [
        f"{_at(root, path, found.line)}: import {found.target}: own code is lapilli.{found.target}"
        for folder in ("tests", "examples")
        for path in sorted((root / folder).rglob("*.py"))
        for found in imports(path)
        if found.target.partition(".")[0] in strays
    ]


def size_faults(root: Path) -> list[str]:
    """Files longer than a reader's patience."""
    sizes = [(path, len(path.read_text("utf-8").splitlines())) for path in python_files(root)]
    return [
        f"{path.relative_to(root)}: {lines} lines, {MAX_LINES} allowed"
        for path, lines in sizes
        if lines > MAX_LINES
    ]


def name_faults(root: Path) -> list[str]:
    """Files whose name says nothing about what is inside."""
    return [
        f"{path.relative_to(root)}: name it after what it holds"
        for path in python_files(root)
        if VAGUE_NAMES & {*path.stem.split("_"), *path.relative_to(root).parent.parts}
    ]


def rounding_faults(root: Path) -> list[str]:
    """Rounding, or truncation to Python's int, outside `compiler/numerics.py`."""
    return [
        f"{_at(root, module.path, node.lineno)}: {what} belongs in compiler/numerics.py"
        for module in modules(root)
        if module.name != "lapilli.compiler.numerics"
        for node in ast.walk(_tree(module.path))
        if isinstance(node, ast.expr | ast.ImportFrom) and (what := _rounds(node))
    ]


def _rounds(node: ast.expr | ast.ImportFrom) -> str | None:
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        return name if name in ROUNDING_NAMES else None
    if isinstance(node, ast.ImportFrom):
        named = ROUNDING_NAMES & {alias.name for alias in node.names}
        return f"import of {named.pop()}" if named else None
    if isinstance(node, ast.Call) and _called(node) == "astype":
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(isinstance(value, ast.Name) and value.id == "int" for value in given):
            return "astype(int)"
    return None


def spelling_faults(root: Path) -> list[str]:
    """American spelling in names that the packages define."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.arg)
    return [
        f"{_at(root, module.path, node.lineno)}: {name} is not British"
        for module in modules(root)
        for node in ast.walk(_tree(module.path))
        if isinstance(node, kinds)
        for name in [node.arg if isinstance(node, ast.arg) else node.name]
        if AMERICAN.search(name)
    ]


# Written in pieces, or this file would break its own law.
_MACHINE = "|".join(("work", "root", "tmp/w", "opt/wheels", "opt/pypi"))
_HOSTS = "|".join(
    host.replace("!", r"\.")
    for host in ("pypi!org", "pythonhosted!org", "registry!npmjs", "download!pytorch", "debian!org")
)
LEAKS = re.compile(
    rf"(?<![\w.~*)}}\]-])/(?:{_MACHINE})(?![\w-])|(?:{_HOSTS})|(?<![\w./])/(?:home|Users)/\w"
)


def leak_faults(root: Path) -> list[str]:
    """Paths of one machine and hosts of package registries in files under version control."""
    faults = []
    for path in tracked_files(root):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # not a text file
        faults += [
            f"{_at(root, path, number)}: {found.group()}"
            for number, line in enumerate(lines, start=1)
            if (found := LEAKS.search(line))
        ]
    return faults


def untested_error_faults(root: Path) -> list[str]:
    """Error classes that no test but the laws' own ever names."""
    tree = _tree(root / "compiler" / "errors.py")
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted((root / "tests").rglob("test_*.py"))
        if not path.name.startswith("test_house")
    ]
    return [
        f"compiler/errors.py: no test raises {name}"
        for name in classes
        if name != "LapilliError" and not any(re.search(rf"\b{name}\b", text) for text in texts)
    ]


def idle_test_faults(root: Path) -> list[str]:
    """Tests that assert nothing, neither themselves nor through an `assert_...` or `check_...`."""
    return [
        f"{_at(root, path, node.lineno)}: {node.name} asserts nothing"
        for path in sorted((root / "tests").rglob("test_*.py"))
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not any(_asserts(inner) for inner in ast.walk(node))
    ]


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return bool(re.match(r"_?(assert|check|expect)|raises$|warns$|fail$", _called(node)))
    return isinstance(node, ast.Assert)


def _distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def declared(root: Path, *extras: str) -> set[str]:
    """Distributions that the project asks for, with those of the named extras."""
    project = pyproject(root)["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return {_distribution(requirement) for requirement in wanted}


def lock_faults(root: Path, constraints: str, *extras: str) -> list[str]:
    """Declared dependencies without an exact version, and lines that are not exact versions."""
    lines = (root / "constraints" / constraints).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    loose = [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+(?: *;.*)?", line)]
    locked = {_distribution(line) for line in pins}
    return [
        *(f"constraints/{constraints}: not an exact version: {line}" for line in loose),
        *(
            f"constraints/{constraints}: {name} is not locked"
            for name in sorted(declared(root, *extras) - locked)
        ),
    ]


def link_packages(root: Path, links: Path) -> Path:
    """Make `links/lapilli` look as the installed package does, for tools that read files.

    An editable install maps packages to folders by an import hook, which mypy cannot follow.
    """
    package = links / "lapilli"
    package.mkdir(parents=True)
    for path in sorted((root / "lapilli").iterdir()):
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    for name, folder in FOLDERS.items():
        if name != "lapilli":
            (package / name.partition(".")[2]).symlink_to(root / folder, target_is_directory=True)
    return links


def type_faults(root: Path, links: Path, config: Path, cache: Path) -> list[str]:
    """What strict mypy says of the packages, then of the examples."""
    link_packages(root, links)
    command = [sys.executable, "-m", "mypy", f"--config-file={config}", f"--cache-dir={cache}"]
    examples = [str(path) for path in sorted((root / "examples").glob("*.py"))]
    faults = []
    for targets in (["-p", "lapilli"], examples):
        if not targets:
            continue
        done = subprocess.run(
            [*command, "--no-error-summary", *targets],
            cwd=links,  # mypy looks for packages in its working folder first
            capture_output=True,
            text=True,
            check=False,
        )
        faults += done.stdout.splitlines()
        if done.returncode not in (0, 1):
            faults.append(f"mypy failed: {done.stderr}")
    return faults
