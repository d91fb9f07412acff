"""Image files in ImageFolder layout, SPLIT/CLASS/NAME.jpg, in a folder or a tar archive.

Classes are numbered in sorted order. Images are taken round robin over the classes, each in sorted
order, so that the first N are a balanced sample and the same N whatever the order of the files.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError

Split = Literal["train", "test"]
Progress = Callable[[int, int], None]

FOLDERS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
GREY, COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")
MAX_FILE_BYTES = 2**26
MAX_ARCHIVE_BYTES = 2**31
"""Of an archive once decompressed; it is held in memory."""
MAX_PIXEL_BYTES = 2**31
"""Of all decoded images of one split."""


@final
@dataclass(frozen=True, eq=False)
class Images:
    """images: uint8 (N, C, H, W); labels: int64 (N,); names of the classes; the split found."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    split: str


def read_folder(folder: Path, split: Split, limit: int | None, progress: Progress | None) -> Images:
    """Images under folder/SPLIT/CLASS, or folder/CLASS where there are no splits at all."""
    found = [folder / name for name in FOLDERS[split] if (folder / name).is_dir()]
    splits = any((folder / name).is_dir() for names in FOLDERS.values() for name in names)
    if splits and not found:
        raise _nothing(folder, f"no folder {' or '.join(FOLDERS[split])} beside the other split")
    root = found[0] if found else folder
    files = {
        (kind.name, file.name): file
        for kind in (sorted(root.iterdir()) if root.is_dir() else ())
        if kind.is_dir()
        for file in kind.iterdir()
        if file.suffix.lower() in SUFFIXES
    }
    if not files:
        what = "no such folder" if not folder.is_dir() else f"no CLASS/NAME{SUFFIXES[0]} in {root}"
        raise _nothing(folder, what)
    return _decode(files, _read_file, limit, progress, split if found else "all")


def read_archive(path: Path, split: Split, limit: int | None, progress: Progress | None) -> Images:
    """Images of the members that end in SPLIT/CLASS/NAME, read in memory, in one pass."""
    try:
        files = dict(_members(path, split))
    except FileNotFoundError:
        raise _nothing(path, "no such file or folder") from None
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, zlib.error) as error:
        raise _nothing(path, f"no readable tar archive ({error})") from error
    if not files:
        raise _nothing(path, f"no member {FOLDERS[split][0]}/CLASS/NAME{SUFFIXES[0]}")
    return _decode(files, lambda data: data, limit, progress, split)


class _Bounded(io.RawIOBase):
    """A stream that ends in an error before it fills the memory, whatever its headers promise."""

    def __init__(self, file: IO[bytes], path: Path):
        self._file, self._path, self._left = file, path, MAX_ARCHIVE_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(
                str(self._path),
                "an archive is small enough to be read in memory",
                found=f"more than {MAX_ARCHIVE_BYTES} bytes once decompressed",
                allowed=f"{MAX_ARCHIVE_BYTES}",
                remedy="Unpack it and name the folder instead.",
            )
        return data


def _members(path: Path, split: Split) -> Iterator[tuple[tuple[str, str], bytes]]:
    """((class, name), bytes) of every image of the split; links and special files are ignored."""
    with (
        _decompressed(path) as plain,
        tarfile.open(fileobj=_Bounded(plain, path), mode="r|") as archive,
    ):
        for member in archive:
            parts = member.name.split("/")
            if len(parts) < 3 or parts[-3] not in FOLDERS[split]:
                continue
            if not member.isreg() or not parts[-1].lower().endswith(SUFFIXES):
                continue
            if member.size > MAX_FILE_BYTES:
                raise _image_error(member.name, f"{member.size} bytes")
            content = archive.extractfile(member)
            assert content is not None  # a regular member always has content
            yield (parts[-2], parts[-1]), content.read()


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\xfd7zXZ\0":
        return lzma.open(path)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(path)  # type: ignore[return-value]
    return bz2.open(path) if magic.startswith(b"BZh") else path.open("rb")


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise _image_error(str(path), f"{path.stat().st_size} bytes")
    return path.read_bytes()


def _decode(
    files: Mapping[tuple[str, str], Any],
    read: Callable[[Any], bytes],
    limit: int | None,
    progress: Progress | None,
    split: str,
) -> Images:
    from PIL import Image

    names = tuple(sorted({kind for kind, _ in files}))
    chosen = _round_robin(files, names)[:limit]
    arrays, labels = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, key in enumerate(chosen):
            arrays.append(_pixels("/".join(key), read(files[key])))
            labels.append(names.index(key[0]))
            size = arrays[-1].shape[:2]
            if size != arrays[0].shape[:2]:
                raise _image_error("/".join(key), f"size {size}", f"{arrays[0].shape[:2]} as all")
            if arrays[0].nbytes * len(chosen) > MAX_PIXEL_BYTES:
                raise _image_error("all images", f"{arrays[0].nbytes} bytes x {len(chosen)}")
            if progress is not None:
                progress(index + 1, len(chosen))
    return Images(_stack(arrays), np.asarray(labels, np.int64), names, split)


def _round_robin(
    files: Mapping[tuple[str, str], Any], names: tuple[str, ...]
) -> list[tuple[str, str]]:
    seen = dict.fromkeys(names, 0)
    ranked = []
    for kind, name in sorted(files):
        ranked.append((seen[kind], kind, name))
        seen[kind] += 1
    return [(kind, name) for _, kind, name in sorted(ranked)]


def _pixels(name: str, data: bytes) -> npt.NDArray[np.uint8]:
    """(H, W) where the image is grey, else (H, W, 3)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.mode not in GREY + COLOUR:
                raise _image_error(name, f"pixels of mode {image.mode}", "8 bits per channel")
            return np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
    except UnidentifiedImageError as error:
        raise _image_error(name, f"none of {', '.join(FORMATS)}") from error
    except (OSError, ValueError, SyntaxError, zlib.error) as error:
        raise _image_error(name, str(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _image_error(name, str(error)) from error


def _stack(arrays: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    if all(a.ndim == 2 for a in arrays):
        return np.stack(arrays)[:, np.newaxis]
    coloured = [a if a.ndim == 3 else np.repeat(a[:, :, np.newaxis], 3, axis=2) for a in arrays]
    return np.ascontiguousarray(np.stack(coloured).transpose(0, 3, 1, 2))


def _nothing(path: Path, found: str) -> InputError:
    return InputError(
        str(path),
        "images lie in SPLIT/CLASS/NAME, with splits train and test",
        found=found,
        allowed=", ".join(SUFFIXES),
        remedy="Arrange the files as train/CLASS/NAME.jpg and test/CLASS/NAME.jpg.",
    )


def _image_error(
    name: str, found: str, allowed: str = "whole images of a few megapixels"
) -> InputError:
    return InputError(
        name,
        "every image can be decoded and all have one size",
        found=found,
        allowed=allowed,
        remedy="Repair, resize or remove the file; --limit reads fewer images.",
    )
