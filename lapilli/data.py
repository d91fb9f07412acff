"""DATA on the command line: a specification such as `mnist:DIR` becomes images and labels.

Files are untrusted: sizes are checked before memory is taken, nothing is unpickled, nothing is
written to disk, and every fault is an InputError that names the file and what to do.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError

Split = Literal["train", "test"]
Progress = Callable[[int, int], None]
"""Called with (images read, images in all)."""

DIGITS_TEST_SHARE = 0.25
MAX_NPZ_BYTES = 2**32
EXACT = 2**24
MAX_CLASSES = 2**20
"""Integers up to this magnitude are exact in float32."""
_ARRAYS = ("images", "spikes", "labels")


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their labels, if they have any.

    images: float32 (N, C, H, W) in [0, 1] (npz: any shape and range); labels: int64 (N,), or
    (N, H, W) of pixels; names: of the classes, by label; split: "train", "test", or "all" where a
    source has no split.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    names: tuple[str, ...]
    source: str
    split: str

    def __len__(self) -> int:
        return len(self.images)


@final
@dataclass(frozen=True, eq=False)
class Raw:
    """What a source reads: uint8 counts as 255ths, float as it is."""

    images: npt.NDArray[Any]
    labels: npt.NDArray[Any] | None
    names: tuple[str, ...]
    split: str


Reader = Callable[[str, Split, "int | None", "Progress | None"], Raw]


def load(
    spec: str, *, split: Split, limit: int | None = None, progress: Progress | None = None
) -> Dataset:
    """The data set that `spec` names (see SOURCES), or its first `limit` images.

    The first images are a fair sample: no source gives them class by class. Raises InputError.
    """
    scheme, _, place = spec.partition(":")
    if scheme not in SOURCES or bool(place) == (scheme == "digits"):
        close = difflib.get_close_matches(scheme, SOURCES, n=1)
        raise InputError(
            f"data {spec!r}",
            "data is given as SOURCE or SOURCE:PLACE",
            found=repr(spec),
            allowed=", ".join(source.usage for source in SOURCES.values()),
            remedy=f"Did you mean {SOURCES[close[0]].usage}?" if close else "Choose one of these.",
        )
    raw = SOURCES[scheme].read(place, split, limit, progress)
    images, labels = raw.images[:limit], raw.labels
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    return Dataset(
        images=np.ascontiguousarray(images, dtype=np.float32),
        labels=None if labels is None else labels[:limit].astype(np.int64),
        names=raw.names,
        source=spec,
        split=raw.split,
    )


def normalise(
    images: npt.NDArray[np.float32], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    """(images - mean) / std per channel of (N, C, ...). Raises InputError unless both fit C.

    >>> normalise(np.ones((1, 2, 1, 1), np.float32), [0.5, 1.0], [0.25, 1.0]).ravel().tolist()
    [2.0, 0.0]
    """
    channels = images.shape[1]
    for name, values in (("--mean", mean), ("--std", std)):
        low = 0.0 if name == "--std" else -np.inf
        if len(values) != channels or not all(low < v < np.inf for v in values):
            raise InputError(
                name,
                "there is one finite number per channel, positive for --std",
                found=", ".join(f"{v:g}" for v in values) or "nothing",
                allowed=f"{channels} numbers",
                remedy="Give the numbers that the network was trained with, or neither option.",
            )
    shape = (1, channels) + (1,) * (images.ndim - 2)
    centre, spread = (np.asarray(v, np.float32).reshape(shape) for v in (mean, std))
    return np.asarray((images - centre) / spread, dtype=np.float32)


def _digits(place: str, split: Split, limit: int | None, progress: Progress | None) -> Raw:
    """scikit-learn's 1,797 handwritten digits, 8x8; a quarter of each class is the test split."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    shuffle = np.random.RandomState(0)
    order = shuffle.permutation(len(labels))
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = order[labels[order] == digit]
        test[members[: int(DIGITS_TEST_SHARE * len(members))]] = True
    chosen = order[test[order] == (split == "test")]
    images = (pixels[chosen] / 16).reshape(-1, 1, 8, 8)
    return Raw(images, labels[chosen], tuple(str(d) for d in range(10)), split)


def _npz(place: str, split: Split, limit: int | None, progress: Progress | None) -> Raw:
    arrays = _read_npz(Path(place))
    if "spikes" in arrays:
        return _spikes(place, arrays)
    images, labels = arrays["images"], arrays.get("labels")
    if (
        images.ndim < 2
        or len(images) == 0
        or images.dtype.kind not in "uf"
        or (images.dtype.kind == "u" and images.dtype != np.uint8)
    ):
        raise InputError(
            f"{place}: images",
            "images is an array (N, ...) of floats or of uint8",
            found=f"{images.dtype} of shape {images.shape}",
            allowed="float as the network takes it, or uint8 read as 255ths; N >= 1",
            remedy="Save it with numpy.savez(FILE, images=..., labels=...).",
        )
    if not np.isfinite(images).all():
        raise InputError(
            f"{place}: images",
            "every value is finite",
            found=f"{int((~np.isfinite(images)).sum())} NaN or infinite values",
            allowed="none",
            remedy="Repair the data.",
        )
    return _labelled(place, images, labels)


def _spikes(place: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Raw:
    """Spike trains or frames, (N, steps, ...): integers as they are."""
    spikes = arrays["spikes"]
    shown = spikes.ndim >= 3 and spikes.dtype.kind in "biu" and spikes.size > 0
    if not shown or not -EXACT <= int(spikes.min()) <= int(spikes.max()) <= EXACT:
        raise InputError(
            f"{place}: spikes",
            "spikes is an array (N, steps, ...) of integers or booleans",
            found=f"{spikes.dtype} of shape {spikes.shape}",
            allowed=f"one train per sample, values within +-{EXACT}",
            remedy="Save it with numpy.savez(FILE, spikes=..., labels=...).",
        )
    return _labelled(place, spikes.astype(np.float32), arrays.get("labels"))


def _labelled(place: str, images: npt.NDArray[Any], labels: npt.NDArray[Any] | None) -> Raw:
    if labels is None:
        return Raw(images, None, (), "all")
    n = len(images)
    known = labels.dtype.kind in "iu" and labels.size and labels.min() >= 0
    fits = labels.shape[:1] == (n,) and labels.ndim in (1, 3)
    if not fits or not known or labels.max() >= MAX_CLASSES:
        raise InputError(
            f"{place}: labels",
            "labels holds one class number per image, or per pixel",
            found=f"{labels.dtype} of shape {labels.shape}",
            allowed=f"integers 0..{MAX_CLASSES - 1} of shape ({n},) or ({n}, height, width)",
            remedy="Save integers, or leave labels out.",
        )
    # Pixels may be of no class (scores.VOID), so that maps do not tell how many there are.
    size = int(labels.max()) + 1 if labels.ndim == 1 else 0
    return Raw(images, labels, tuple(str(k) for k in range(size)), "all")


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The array `images` or `spikes` and, where present, `labels`."""
    found = "an archive without them"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_NPZ_BYTES:
            found = f"{size} bytes once unpacked"
        else:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {k: archive[k] for k in _ARRAYS if k in archive.files}
            if "images" in arrays or "spikes" in arrays:
                return arrays
    except FileNotFoundError:
        found = "no such file"
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, MemoryError) as error:
        found = str(error)
    raise InputError(
        str(path),
        "the file is a numpy archive with the array images or spikes, and labels if there are any",
        found=found,
        allowed=f"plain arrays, no pickled objects, at most {MAX_NPZ_BYTES} bytes",
        remedy="Save it with numpy.savez(FILE, images=..., labels=...).",
    )


def _mnist(place: str, split: Split, limit: int | None, progress: Progress | None) -> Raw:
    from lapilli.idx import read_mnist

    images, labels = read_mnist(Path(place), split, limit, progress)
    return Raw(images, labels, tuple(str(d) for d in range(10)), split)


def _cifar10(place: str, split: Split, limit: int | None, progress: Progress | None) -> Raw:
    from lapilli.image_files import read_archive, read_folder

    path = Path(place)
    read = read_folder if path.is_dir() else read_archive
    found = read(path, split, limit, progress)
    if len(found.names) != 10 or found.images.shape[1:] != (3, 32, 32):
        raise InputError(
            place,
            "CIFAR-10 has 10 classes of 32x32 colour images",
            found=f"{len(found.names)} classes of shape {found.images.shape[1:]}",
            allowed="10 classes of shape (3, 32, 32)",
            remedy="Use imagefolder:DIR for other images.",
        )
    return Raw(found.images, found.labels, found.names, found.split)


def _imagefolder(place: str, split: Split, limit: int | None, progress: Progress | None) -> Raw:
    from lapilli.image_files import read_folder

    found = read_folder(Path(place), split, limit, progress)
    return Raw(found.images, found.labels, found.names, found.split)


@final
@dataclass(frozen=True)
class _Source:
    usage: str
    read: Reader


SOURCES: Mapping[str, _Source] = MappingProxyType(
    {
        "digits": _Source("digits", _digits),
        "mnist": _Source("mnist:DIR", _mnist),
        "cifar10": _Source("cifar10:DIR_OR_ARCHIVE", _cifar10),
        "imagefolder": _Source("imagefolder:DIR", _imagefolder),
        "npz": _Source("npz:FILE", _npz),
    }
)
"""Every kind of DATA; adding one is a reader and a line here."""
