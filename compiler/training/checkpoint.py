"""What an interrupted training run goes on from, in the file of `run_state`.

Tensors lie in a safetensors image, everything else beside them as JSON, so that reading runs no
code. Of the same run are a recipe, its data and the weights that it starts from.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lapilli.compiler.run_state import read_state, refused_state, write_state

_MARK = b"lapilli training 1\n"
_TENSOR = "tensor"
MOST_BYTES = 2**36


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
    write_state(path, _MARK, run, save(tensors, metadata={"state": text}))


def read(path: str | os.PathLike[str], run: bytes) -> Any:
    """The state of the run, or None where there is no file yet. Raises InputError otherwise."""
    image = read_state(path, _MARK, run, MOST_BYTES)
    if image is None:
        return None
    try:
        header = json.loads(image[8 : 8 + int.from_bytes(image[:8], "little")])
        return _with(json.loads(header["__metadata__"]["state"]), load(image))
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise refused_state(path, f"{type(error).__name__}: {error}") from error


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
