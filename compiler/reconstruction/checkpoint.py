"""What an interrupted reconstruction goes on from: one file, whole or not there.

The file names no sizes: it holds as many numbers as the run that reads it needs, or is refused, and
so is one of another run (network, images, options) or one that was damaged.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.run_state import read_state, refused_state, write_state

_MARK = b"lapilli reconstruction 1\n"
_NUMBERS = struct.Struct("<QQd")


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
    write_state(path, _MARK, run, numbers + state.values.astype("<f4").tobytes())


def read(path: str | os.PathLike[str], run: bytes, size: int) -> State | None:
    """The state of the run with `size` values, or None where there is no file yet.

    Raises InputError for any other file.
    """
    expected = _NUMBERS.size + 4 * size
    content = read_state(path, _MARK, run, expected)
    if content is None:
        return None
    if len(content) != expected:
        raise refused_state(path, "a damaged file")
    step, steps, seconds = _NUMBERS.unpack_from(content)
    values = np.frombuffer(content, "<f4", offset=_NUMBERS.size).astype(np.float32)
    if step > steps or not seconds >= 0 or not np.isfinite(values).all():
        raise refused_state(path, "impossible values")
    return State(step, steps, seconds, values)
