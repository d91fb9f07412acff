"""What an interrupted reconstruction goes on from: one file, whole or not there.

The file names no sizes: it holds as many numbers as the run that reads it needs, or is refused, and
so is one of another run (network, images, options) or one that was damaged.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError
from lapilli.compiler.sealed_file import write_whole

_MARK = b"lapilli reconstruction 1\n"
_NUMBERS = struct.Struct("<QQd")
_DIGEST = 32
_HEAD = len(_MARK) + 2 * _DIGEST + _NUMBERS.size


@final
@dataclass(frozen=True, eq=False)
class State:
    """steps: done, and planned in all; seconds: spent; values: what the run trains, float32."""

    step: int
    steps: int
    seconds: float
    values: npt.NDArray[np.float32]


def write(path: str | os.PathLike[str], run: bytes, state: State) -> None:
    """Put the state of the run (its SHA-256) into `path` in one step."""
    numbers = _NUMBERS.pack(state.step, state.steps, state.seconds)
    body = run + numbers + state.values.astype("<f4").tobytes()
    write_whole(path, _MARK, hashlib.sha256(body).digest(), body)


def read(path: str | os.PathLike[str], run: bytes, size: int) -> State | None:
    """The state of the run with `size` values, or None where there is no file yet.

    Raises InputError for any other file.
    """
    where, expected = Path(path), _HEAD + 4 * size
    if not where.exists():
        return None
    if not where.is_file():  # before opening: a pipe would block
        raise _refused(path, "a folder or a device")
    try:
        with where.open("rb") as file:
            data = file.read(expected + 1)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    body = data[len(_MARK) + _DIGEST :]
    if not data.startswith(_MARK):
        raise _refused(path, "another kind of file")
    if body[:_DIGEST] != run:
        raise _refused(path, "the state of another network, or of other images or options")
    if len(data) != expected or hashlib.sha256(body).digest() != data[len(_MARK) :][:_DIGEST]:
        raise _refused(path, "a damaged file")
    step, steps, seconds = _NUMBERS.unpack_from(body, _DIGEST)
    values = np.frombuffer(body, "<f4", offset=_DIGEST + _NUMBERS.size).astype(np.float32)
    if step > steps or not seconds >= 0 or not np.isfinite(values).all():
        raise _refused(path, "impossible values")
    return State(step, steps, seconds, values)


def _refused(path: str | os.PathLike[str], found: str) -> InputError:
    return InputError(
        str(path),
        "a checkpoint is resumed by the run that wrote it",
        found=found,
        allowed="no file yet, or this run's own",
        remedy="Delete the file, or name another one.",
    )
