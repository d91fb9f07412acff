"""MODEL on the command line: `package.module:callable`, with weights from a file if there are any.

Importing the module runs the user's own code; weight files are data from anybody and never do:
safetensors, or checkpoints that `torch.load(weights_only=True)` accepts.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import tarfile
import traceback
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lapilli.compiler.errors import InputError
from lapilli.importers import importer_of

if TYPE_CHECKING:
    import torch

    from lapilli.compiler.frontend import Network

FORM = "package.module:callable"
STATE_KEYS = ("state_dict", "model_state_dict", "model")
SHOWN = 5
_FAULTS = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)
"""What torch.load raises on files that are no checkpoints; found by tests/test_models.py."""


def load(spec: str, weights: Path | None = None) -> torch.nn.Module | Network:
    """The network that `spec` names, in evaluation mode, with the weights of a file.

    The callable is called without arguments and returns a torch.nn.Module; a module that is
    already there serves as well. The current folder can be imported from. Or a .pt2 or .onnx file,
    which brings its own weights, and of which nothing is executed but its operators. Raises
    InputError.
    """
    import torch

    from lapilli.compiler.frontend import FILES, network_file

    suffix = Path(spec).suffix
    if suffix.lower() in FILES:
        if weights is not None:
            raise InputError(
                f"model {spec}",
                f"{suffix} files hold their own weights",
                found=f"--weights {weights}",
                allowed=f"{FORM} with --weights, or the file alone",
                remedy="Leave --weights out.",
            )
        return network_file(Path(spec))
    if importer_of(spec) is not None:
        raise InputError(
            f"model {spec}",
            f"{suffix} files hold no network of PyTorch",
            found=suffix,
            allowed=f"{FORM}, with --weights for a checkpoint",
            remedy="Import it: lapilli compile FILE -o model.h5.",
        )
    factory = _resolve(spec)
    built = factory if isinstance(factory, torch.nn.Module) else _call(spec, factory)
    if not isinstance(built, torch.nn.Module):
        raise InputError(
            f"model {spec}",
            "the callable returns a torch.nn.Module",
            found=type(built).__name__,
            allowed="torch.nn.Module",
            remedy="Return the network itself.",
        )
    if weights is not None:
        load_weights(built, weights)
    return built.eval()


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load every parameter and buffer of `model` from a file, and nothing else.

    A leading "module." of all keys, left by data-parallel training, is dropped. Raises InputError
    that names the keys that are missing, not expected, or of another shape.
    """
    found = _drop_prefix(_read_weights(path), "module.")
    own = model.state_dict()
    # Older checkpoints lack the counter of batches, which no inference reads.
    missing = [k for k in own if k not in found and not k.endswith("num_batches_tracked")]
    extra = [k for k in found if k not in own]
    shapes = [
        f"{k} is {list(found[k].shape)}, the network has {list(own[k].shape)}"
        for k in own
        if k in found and found[k].shape != own[k].shape
    ]
    faults = [
        f"{label} {_some(keys)}"
        for label, keys in (("missing", missing), ("not expected", extra), ("shape:", shapes))
        if keys
    ]
    if faults:
        raise InputError(
            str(path),
            "the weights fit the network key by key",
            found="; ".join(faults),
            allowed=f"the {len(own)} keys of {type(model).__name__}",
            remedy="Build the network that was trained, or export its state_dict again.",
        )
    model.load_state_dict(found, strict=False)


def _resolve(spec: str) -> Any:
    module, colon, path = spec.partition(":")
    parts = path.split(".")
    if not colon or not all(p.isidentifier() for p in [*module.split("."), *parts]):
        raise InputError(
            f"model {spec!r}",
            "a network is named by its module and a callable",
            found=repr(spec),
            allowed=FORM,
            remedy="For build() in net.py of the current folder: net:build.",
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _user_fault(spec, "the module can be imported", error) from error
        raise InputError(
            f"model {spec}",
            "the module can be found",
            found=f"no module {error.name}",
            allowed="an installed module, or a file of the current folder",
            remedy="Run from the folder that holds it, or install its package.",
        ) from error
    except Exception as error:
        raise _user_fault(spec, "the module can be imported", error) from error
    for part in parts:
        if not hasattr(value, part):
            raise InputError(
                f"model {spec}",
                f"{module} has that name",
                found=f"no {part!r}",
                allowed=_some([n for n, v in vars(value).items() if callable(v)]) or "a callable",
                remedy="Name a function or class of the module.",
            )
        value = getattr(value, part)
    return value


def _call(spec: str, factory: Any) -> Any:
    if not callable(factory):
        return factory
    try:
        return factory()
    except Exception as error:
        raise _user_fault(spec, "the callable works without arguments", error) from error


def _user_fault(spec: str, rule: str, error: Exception) -> InputError:
    """A fault of the user's own code, with its innermost line; --debug shows the rest."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(
        f"model {spec}",
        rule,
        found=f"{type(error).__name__}: {error} at {last.filename}:{last.lineno}",
        allowed="no error",
        remedy="Correct the code; --debug shows the whole traceback.",
    )


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = _dangerous(path)
        if found is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's doubts about a file that it then refuses
                loaded = torch.load(path, map_location="cpu", weights_only=True)
            state = next((loaded[k] for k in STATE_KEYS if _holds(loaded, k)), loaded)
            if _is_state(state):
                return {str(key): value for key, value in state.items()}
            found = f"{type(loaded).__name__} without a state_dict of tensors"
    except FileNotFoundError:
        found = "no such file"
    except (SafetensorError, *_FAULTS) as error:
        found = f"{type(error).__name__}: {_first_line(error)}"
    raise InputError(
        str(path),
        "the weights are plain tensors",
        found=found,
        allowed="a .safetensors file, or a state_dict that torch.load(weights_only=True) accepts",
        remedy="Save model.state_dict(), not the model: files that can run code are not opened.",
    )


def _dangerous(path: Path) -> str | None:
    """What torch.load must not be given, whatever it is told about weights_only."""
    if tarfile.is_tarfile(path):
        # CVE-2025-32434: before torch 2.6 this runs code, weights_only or not.
        return "a checkpoint in the tar format of torch 0.1"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                return "a TorchScript program"
    return None


def _is_state(state: Any) -> bool:
    import torch

    return isinstance(state, Mapping) and all(isinstance(v, torch.Tensor) for v in state.values())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _holds(loaded: Any, key: str) -> bool:
    return isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)


def _drop_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
