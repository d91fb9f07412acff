"""What an interrupted training run goes on from: one file, whole or not there.

Tensors lie in a safetensors image, everything else beside them as JSON, so that reading runs no
code. A file of another run (recipe, data, first weights) is refused, and so is a damaged one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lapilli.compiler.errors import InputError
from lapilli.compiler.sealed_file import write_whole

_MARK = b"lapilli training 1\n"
_DIGEST = 32
_HEAD = len(_MARK) + 2 * _DIGEST
_TENSOR = "tensor"
MAX_BYTES = 2**36


def run_digest(*parts: object) -> bytes:
    """SHA-256 of what makes a run the run it is: text, or tensors by their bytes."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            total.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            total.update(str(part).encode())
        total.update(b"\0")
    return total.digest()


def write(path: str | os.PathLike[str], run: bytes, state: Any) -> None:
    """Put `state`, dicts and lists of tensors and plain values, into `path` in one step."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_without(state, tensors))
    body = run + save(tensors, metadata={"state": text})
    write_whole(path, _MARK, hashlib.sha256(body).digest(), body)


def read(path: str | os.PathLike[str], run: bytes) -> Any:
    """The state of the run, or None where there is no file yet. Raises InputError otherwise."""
    where = Path(path)
    if not where.exists():
        if not where.parent.is_dir():  # before hours of training
            raise _refused(path, f"no folder {where.parent}")
        return None
    if not where.is_file():  # before opening: a pipe would block
        raise _refused(path, "a folder or a device")
    try:
        with where.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise _refused(path, f"more than {MAX_BYTES} bytes")
            data = file.read()
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    body = data[len(_MARK) + _DIGEST :]
    if not data.startswith(_MARK):
        raise _refused(path, "another kind of file")
    if body[:_DIGEST] != run:
        raise _refused(path, "the state of another recipe, other data or other weights")
    if len(data) < _HEAD or hashlib.sha256(body).digest() != data[len(_MARK) :][:_DIGEST]:
        raise _refused(path, "a damaged file")
    image = body[_DIGEST:]
    try:
        header = json.loads(image[8 : 8 + int.from_bytes(image[:8], "little")])
        return _with(json.loads(header["__metadata__"]["state"]), load(image))
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _refused(path, f"{type(error).__name__}: {error}") from error


def _without(state: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The state with every tensor replaced by its number; dicts become lists of pairs.

    Keys of an optimiser's state are integers, which JSON's objects do not know.
    """
    if isinstance(state, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = state.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(state, dict):
        return {"dict": [[key, _without(value, tensors)] for key, value in state.items()]}
    if isinstance(state, (list, tuple)):
        return [_without(value, tensors) for value in state]
    return state


def _with(state: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(state, dict):
        if _TENSOR in state:
            return tensors[state[_TENSOR]]
        return {key: _with(value, tensors) for key, value in state["dict"]}
    return [_with(value, tensors) for value in state] if isinstance(state, list) else state


def _refused(path: str | os.PathLike[str], found: str) -> InputError:
    return InputError(
        str(path),
        "a checkpoint is resumed by the run that wrote it",
        found=found,
        allowed="no file yet, or this run's own",
        remedy="Delete the file, or name another one.",
    )
