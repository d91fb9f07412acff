"""What an interrupted run goes on from: one file, whole or not there, and of no other run.

A file is a mark, the SHA-256 of all that follows, the run's own digest, and the run's content.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lapilli.compiler.errors import InputError
from lapilli.compiler.sealed_file import write_whole

_DIGEST = 32


def write_state(path: str | os.PathLike[str], mark: bytes, run: bytes, content: bytes) -> None:
    """Put the content into `path` in one step. mark: of the kind of run; run: its SHA-256."""
    seal = hashlib.sha256(run)
    seal.update(content)
    write_whole(path, mark, seal.digest(), run, content)


def read_state(path: str | os.PathLike[str], mark: bytes, run: bytes, most: int) -> bytes | None:
    """The content, at most so many bytes, or None where there is no file yet.

    Raises InputError for any other file, and for a folder that is not there: before the run, which
    would fail when it has something to keep.
    """
    where = Path(path)
    if not where.exists():
        if not where.parent.is_dir():
            raise refused_state(path, f"no folder {where.parent}")
        return None
    if not where.is_file():  # before opening: a pipe would block
        raise refused_state(path, "a folder or a device")
    head = len(mark) + 2 * _DIGEST
    try:
        with where.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, head + most + 1))
    except OSError as error:
        raise refused_state(path, error.strerror or str(error)) from error
    body = data[len(mark) + _DIGEST :]
    if not data.startswith(mark):
        raise refused_state(path, "another kind of file")
    if body[:_DIGEST] != run:
        raise refused_state(path, "the state of another run: other network, data or options")
    whole = head <= len(data) <= head + most
    if not whole or hashlib.sha256(body).digest() != data[len(mark) :][:_DIGEST]:
        raise refused_state(path, "a damaged file")
    return body[_DIGEST:]


def refused_state(path: str | os.PathLike[str], found: str) -> InputError:
    """The refusal of a file that does not hold the run's state."""
    return InputError(
        str(path),
        "a checkpoint is resumed by the run that wrote it",
        found=found,
        allowed="no file yet, or this run's own",
        remedy="Delete the file, or name another one.",
    )
