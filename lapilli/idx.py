"""MNIST in its standard IDX files, gzipped or not, read as untrusted input."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError

PREFIX = {"train": "train", "test": "t10k"}
MAX_BYTES = 2**30
"""More than any file of this family holds (MNIST: 47 MB, EMNIST: 548 MB)."""
_CHUNK = 2**20


def read_mnist(
    folder: Path,
    split: Literal["train", "test"],
    limit: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """images uint8 (N, 1, rows, columns) and labels uint8 (N,), in the order of the files."""
    images = _read(_find(folder, f"{PREFIX[split]}-images", 3), 3, limit, progress)
    path = _find(folder, f"{PREFIX[split]}-labels", 1)
    labels = _read(path, 1, limit, None)
    if len(labels) != len(images):
        raise InputError(
            str(path),
            "there is one label per image",
            found=f"{len(labels)} labels",
            allowed=f"{len(images)}",
            remedy="Take both files from the same data set.",
        )
    return images[:, np.newaxis], labels


def _find(folder: Path, stem: str, rank: int) -> Path:
    """The file of that stem, as published or as torchvision lays it out."""
    names = [f"{stem}{sep}idx{rank}-ubyte{end}" for sep in "-." for end in ("", ".gz")]
    for place in (folder, folder / "MNIST" / "raw", folder / "raw"):
        for name in names:
            if (place / name).is_file():
                return place / name
    raise InputError(
        str(folder),
        f"the folder holds {names[1]}, unpacked or not",
        found="no such folder" if not folder.is_dir() else "no file of that name",
        allowed="the four files of MNIST in IDX format",
        remedy="Download the four files into one folder and name it: mnist:DIR.",
    )


def _read(
    path: Path, rank: int, limit: int | None, progress: Callable[[int, int], None] | None
) -> npt.NDArray[np.uint8]:
    try:
        if path.suffix != ".gz":
            with path.open("rb") as plain:
                return _parse(plain, path, rank, limit, progress)
        with gzip.open(path) as packed:
            return _parse(packed, path, rank, limit, progress)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, str(error), "a whole gzip file") from error


def _parse(
    file: IO[bytes] | gzip.GzipFile,
    path: Path,
    rank: int,
    limit: int | None,
    progress: Callable[[int, int], None] | None,
) -> npt.NDArray[np.uint8]:
    head = _take(file, 4 + 4 * rank)
    magic = b"\0\0\x08" + bytes([rank])  # 0x08: unsigned bytes
    if head[:4] != magic or len(head) < 4 + 4 * rank:
        raise _damaged(path, f"first bytes {head[:4].hex()!r}", f"{magic.hex()!r} and {rank} sizes")
    shape = struct.unpack(f">{rank}I", head[4:])
    if min(shape) < 1 or math.prod(shape) > MAX_BYTES:
        raise _damaged(path, f"sizes {shape}", f"1 .. {MAX_BYTES} bytes in all")
    count = shape[0] if limit is None else min(limit, shape[0])
    wanted = count * math.prod(shape[1:])
    data = bytearray()
    while len(data) < wanted and (part := file.read(min(_CHUNK, wanted - len(data)))):
        data += part
        if progress is not None:
            progress(len(data) * count // wanted, count)
    if len(data) < wanted:
        raise _damaged(path, f"{len(data)} bytes of data", f"{wanted}")
    if count == shape[0] and file.read(1):  # one byte is enough, however far the rest unpacks
        raise _damaged(path, "more data than its sizes say", f"{wanted} bytes")
    return np.frombuffer(bytes(data), np.uint8).reshape(count, *shape[1:])


def _take(file: IO[bytes] | gzip.GzipFile, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := file.read(size - len(data))):
        data += part
    return data


def _damaged(path: Path, found: str, allowed: str) -> InputError:
    return InputError(
        str(path),
        "the file is in IDX format and whole",
        found=found,
        allowed=allowed,
        remedy="Download it again.",
    )
