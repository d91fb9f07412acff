"""Every kind of DATA: what it reads, and what it says of files that are damaged or hostile."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_paths import CIFAR10, MNIST, needs
from PIL import Image

from lapilli import data, idx, image_files
from lapilli.compiler.errors import InputError

CLASSES = tuple("abcdefghij")
DIGITS_TEST_CRC = 0x213E612F


def png(seed: int, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    """A PNG of random pixels."""
    bands = {"L": 1, "RGB": 3}.get(mode, 1)
    kind = np.uint16 if mode.startswith("I") else np.uint8
    shape = (size[1], size[0]) if bands == 1 else (size[1], size[0], bands)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(kind)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """The files under root, folders made as needed."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> Path:
    """The files as a tar archive, in the given order."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def cifar_files() -> dict[str, bytes]:
    """Three images per class and split, classes and names in reverse order."""
    return {
        f"{split}/{kind}/{number:04d}.png": png(1000 * where + 10 * index + number)
        for where, split in enumerate(("train", "test"))
        for index, kind in reversed(tuple(enumerate(CLASSES)))
        for number in (2, 1, 0)
    }


def write_idx(path: Path, values: np.ndarray, *, header: bytes | None = None) -> None:
    """An IDX file, gzipped where the name says so."""
    if header is None:
        header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def mnist_folder(folder: Path, suffix: str = ".gz") -> tuple[Path, np.ndarray, np.ndarray]:
    """A test split of seven images of 5x4 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4))
    labels = np.arange(7)
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", labels)
    return folder, images, labels


def test_digits_are_split_by_class_and_never_overlap() -> None:
    train, test = (data.load("digits", split=split) for split in ("train", "test"))
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 8, 8)
    assert len(train) + len(test) == 1797
    assert test.images.dtype == np.float32
    assert (test.images.min(), test.images.max()) == (0, 1)
    assert train.labels is not None and test.labels is not None
    for digit in range(10):
        share = (test.labels == digit).sum() / 180
        assert 0.22 < share < 0.26
    seen = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in seen for image in test.images) == 0


def test_digits_split_is_the_same_everywhere() -> None:
    test = data.load("digits", split="test")
    assert test.labels is not None
    assert test.labels[:12].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]
    assert zlib.crc32(test.images.tobytes()) == DIGITS_TEST_CRC


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "MNIST/raw"])
def test_idx_files_are_read(tmp_path: Path, suffix: str, place: str) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    _, images, labels = mnist_folder(tmp_path / place, suffix)
    found = data.load(f"mnist:{tmp_path}", split="test")
    np.testing.assert_array_equal(found.images[:, 0], (images / 255).astype(np.float32))
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.split, len(found)) == ("test", 7)
    first = data.load(f"mnist:{tmp_path}", split="test", limit=3)
    np.testing.assert_array_equal(first.images, found.images[:3])


def _truncated(folder: Path) -> None:
    write_idx(
        folder / "t10k-images-idx3-ubyte.gz",
        np.zeros(10),
        header=bytes([0, 0, 8, 3]) + struct.pack(">3I", 7, 5, 4),
    )


def _torn_gzip(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def _no_gzip(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"<html>not found</html>")


def _wrong_magic(folder: Path) -> None:
    write_idx(
        folder / "t10k-images-idx3-ubyte.gz", np.zeros(9), header=b"\0\0\x0b\x03" + b"\0" * 12
    )


def _giant(folder: Path) -> None:
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31)
    write_idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros(9), header=header)


def _bomb(folder: Path) -> None:
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 1, 1)
    write_idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros(50_000_000), header=header)


def _empty(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_truncated, "10 bytes of data"),
        (_torn_gzip, "ended before"),
        (_no_gzip, "Not a gzipped file"),
        (_wrong_magic, "first bytes '00000b03'"),
        (_giant, "sizes (2147483648"),
        (_bomb, "more data than its sizes say"),
        (_empty, "first bytes ''"),
    ],
)
def test_damaged_idx_files_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], found: str
) -> None:
    damage(mnist_folder(tmp_path)[0])
    with pytest.raises(InputError) as error:
        data.load(f"mnist:{tmp_path}", split="test")
    assert found in error.value.found
    assert error.value.where.endswith("t10k-images-idx3-ubyte.gz")
    assert error.value.rule == "the file is in IDX format and whole"


def test_labels_far_beyond_any_number_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 1, 2, 2)), labels=np.array([5, 2**62]))
    with pytest.raises(InputError, match="one class number per image"):
        data.load(f"npz:{tmp_path / 'x.npz'}", split="test")


def test_labels_must_fit_the_images(tmp_path: Path) -> None:
    mnist_folder(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(6))
    with pytest.raises(InputError, match="one label per image; found 6 labels, allowed 7"):
        data.load(f"mnist:{tmp_path}", split="test")


@pytest.mark.parametrize(
    ("folder", "found"), [("", "no file of that name"), ("absent", "no such folder")]
)
def test_absent_mnist_is_named(tmp_path: Path, folder: str, found: str) -> None:
    with pytest.raises(InputError) as error:
        data.load(f"mnist:{tmp_path / folder}", split="train")
    assert error.value.found == found
    assert "train-images-idx3-ubyte.gz" in error.value.rule


@needs(MNIST)
def test_mnist_is_whole() -> None:
    train, test = (data.load(f"mnist:{MNIST}", split=split) for split in ("train", "test"))
    assert train.images.shape == (60000, 1, 28, 28)
    assert test.images.shape == (10000, 1, 28, 28)
    assert test.labels is not None
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_archives_and_folders_give_the_same_images(tmp_path: Path, mode: str) -> None:
    files = cifar_files()
    archive = write_tar(tmp_path / "images.archive", files, mode)
    prefixed = {f"./top/{name}": content for name, content in reversed(files.items())}
    other = write_tar(tmp_path / "prefixed.archive", prefixed, mode)
    folder = write_folder(tmp_path / "folder", files)
    for split in ("train", "test"):
        sets = [data.load(f"cifar10:{p}", split=split) for p in (archive, other, folder)]
        for found in sets:
            assert found.names == CLASSES
            assert found.images.shape == (30, 3, 32, 32)
            assert found.labels is not None
            assert found.labels.tolist() == [*range(10)] * 3
            np.testing.assert_array_equal(found.images, sets[0].images)
        first = Image.open(io.BytesIO(files[f"{split}/a/0000.png"]))
        expected = np.asarray(first).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(sets[0].images[0], expected)
        few = data.load(f"cifar10:{archive}", split=split, limit=12)
        np.testing.assert_array_equal(few.images, sets[0].images[:12])


def test_members_that_climb_or_link_touch_nothing(tmp_path: Path) -> None:
    files = {f"../../test/{kind}/0.png": png(k) for k, kind in enumerate(CLASSES)}
    path = write_tar(tmp_path / "climb.tar", files, "w")
    with tarfile.open(path, "a") as archive:
        for name, kind in (
            ("test/a/link.png", tarfile.SYMTYPE),
            ("test/a/dev.png", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../../etc/passwd"
            archive.addfile(member)
    before = sorted(tmp_path.parent.rglob("*"))
    found = data.load(f"cifar10:{path}", split="test")
    assert len(found) == 10
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_an_archive_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "bomb.tar.xz", {"other/x/y.png": bytes(10_000_000)})
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(image_files, "MAX_ARCHIVE_BYTES", 1_000_000)
    with pytest.raises(InputError, match="more than 1000000 bytes once decompressed"):
        data.load(f"cifar10:{path}", split="test")


def test_a_member_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_FILE_BYTES", 100)
    archive = write_tar(tmp_path / "large.tar", cifar_files(), "w")
    folder = write_folder(tmp_path / "folder", cifar_files())
    for place in (archive, folder):
        with pytest.raises(InputError, match=r"found \d{4,} bytes"):
            data.load(f"cifar10:{place}", split="test")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"no archive at all" * 100, "no readable tar archive"),
        (b"", "no readable tar archive"),
        (b"\xfd7zXZ\0" + b"torn" * 40, "no readable tar archive"),
        (b"\x1f\x8b" + b"torn" * 40, "no readable tar archive"),
        (b"BZh9" + b"torn" * 40, "no readable tar archive"),
        (None, "no such file or folder"),
    ],
)
def test_foreign_archives_are_refused(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "cifar.tar.xz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        data.load(f"cifar10:{path}", split="test")
    assert found in error.value.found


def test_a_torn_archive_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "whole.tar.xz", cifar_files())
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(InputError, match="no readable tar archive"):
        data.load(f"cifar10:{path}", split="test")


def test_an_archive_without_the_split_is_refused(tmp_path: Path) -> None:
    files = {name: content for name, content in cifar_files().items() if "train" in name}
    path = write_tar(tmp_path / "train.tar", files, "w")
    with pytest.raises(InputError, match="no member test/CLASS/NAME"):
        data.load(f"cifar10:{path}", split="test")


def test_cifar_has_ten_classes_of_32_by_32(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {f"test/{k}/0.png": png(0) for k in "abc"})
    with pytest.raises(InputError, match=r"found 3 classes of shape \(3, 32, 32\)"):
        data.load(f"cifar10:{folder}", split="test")


def test_image_folders_with_and_without_splits(tmp_path: Path) -> None:
    plain = write_folder(
        tmp_path / "plain", {f"{k}/{n}.png": png(n, "L", (6, 4)) for k in "ba" for n in (1, 0)}
    )
    (plain / "a" / "notes.txt").write_text("no image")
    found = data.load(f"imagefolder:{plain}", split="test")
    assert (found.images.shape, found.names, found.split) == ((4, 1, 4, 6), ("a", "b"), "all")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0, 1]
    split = write_folder(tmp_path / "split", {f"{s}/a/0.png": png(1) for s in ("train", "val")})
    assert data.load(f"imagefolder:{split}", split="test").split == "test"
    mixed = write_folder(tmp_path / "mixed", {"a/0.png": png(0, "L"), "b/0.png": png(0)})
    assert data.load(f"imagefolder:{mixed}", split="test").images.shape == (2, 3, 32, 32)


def giant_png() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(b"")]
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("second", "found"),
    [
        (png(0, "RGB", (8, 8)), "size (8, 8)"),
        (png(0, "RGB")[:-100], "truncated"),
        (b"no image", f"none of {', '.join(image_files.FORMATS)}"),
        (giant_png(), "decompression bomb"),
        (png(0, "I;16"), "mode I;16"),
    ],
)
def test_images_that_do_not_fit_are_named(tmp_path: Path, second: bytes, found: str) -> None:
    folder = write_folder(tmp_path, {"a/good.png": png(0), "b/bad.png": second})
    with pytest.raises(InputError) as error:
        data.load(f"imagefolder:{folder}", split="test")
    assert found in error.value.found
    assert error.value.where == "b/bad.png"


def test_more_images_than_the_memory_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path, {f"a/{n}.png": png(n) for n in range(4)})
    monkeypatch.setattr(image_files, "MAX_PIXEL_BYTES", 3 * 3072)
    with pytest.raises(InputError, match="--limit reads fewer images"):
        data.load(f"imagefolder:{folder}", split="test")
    assert len(data.load(f"imagefolder:{folder}", split="test", limit=3)) == 3


@pytest.mark.parametrize(
    ("folders", "found"),
    [((), "no such folder"), (("train/a",), "no folder test or val"), (("x",), "no CLASS/NAME")],
)
def test_folders_without_images_are_refused(
    tmp_path: Path, folders: tuple[str, ...], found: str
) -> None:
    for name in folders:
        (tmp_path / "root" / name).mkdir(parents=True)
    with pytest.raises(InputError) as error:
        data.load(f"imagefolder:{tmp_path / 'root'}", split="test")
    assert found in error.value.found


@needs(CIFAR10)
def test_the_cifar_archive_is_read() -> None:
    seen: list[tuple[int, int]] = []
    found = data.load(
        f"cifar10:{CIFAR10}", split="test", limit=25, progress=lambda *n: seen.append(n)
    )
    assert found.images.shape == (25, 3, 32, 32)
    assert found.labels is not None
    assert found.labels.tolist() == [*range(10), *range(10), *range(5)]
    assert found.names[:3] == ("airplane", "automobile", "bird")
    assert seen[-1] == (25, 25)


def test_npz_takes_bytes_and_floats(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    np.savez(tmp_path / "bytes.npz", images=pixels, labels=np.array([0, 2]))
    found = data.load(f"npz:{tmp_path / 'bytes.npz'}", split="test")
    np.testing.assert_array_equal(found.images, pixels.astype(np.float32) / np.float32(255))
    assert found.labels is not None
    assert (found.labels.tolist(), found.names, found.split) == ([0, 2], ("0", "1", "2"), "all")
    np.savez_compressed(tmp_path / "floats.npz", images=np.full((3, 5), -2.5))
    found = data.load(f"npz:{tmp_path / 'floats.npz'}", split="train", limit=2)
    np.testing.assert_array_equal(found.images, np.full((2, 5), -2.5, np.float32))
    assert found.labels is None


@pytest.mark.parametrize(
    ("arrays", "where", "found"),
    [
        ({"images": np.array([[np.nan, 1.0]])}, ": images", "1 NaN or infinite"),
        ({"images": np.zeros((2, 2), np.int32)}, ": images", "int32 of shape (2, 2)"),
        ({"images": np.zeros((0, 2))}, ": images", "float64 of shape (0, 2)"),
        ({"images": np.zeros(3)}, ": images", "float64 of shape (3,)"),
        ({"images": np.zeros((2, 2)), "labels": np.zeros(2)}, ": labels", "float64 of shape (2,)"),
        ({"images": np.zeros((2, 2)), "labels": np.array([0])}, ": labels", "of shape (1,)"),
        ({"images": np.zeros((2, 2)), "labels": np.array([0, -1])}, ": labels", "of shape (2,)"),
        ({"pictures": np.zeros((2, 2))}, ".npz", "an archive without them"),
        ({"images": np.array([{}, []], dtype=object)}, ".npz", "Object arrays cannot be loaded"),
    ],
)
def test_npz_that_cannot_be_used_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], where: str, found: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        data.load(f"npz:{tmp_path / 'bad.npz'}", split="test")
    assert error.value.where.endswith(where)
    assert found in error.value.found


@pytest.mark.parametrize(
    ("content", "found"), [(b"no zip", "not a zip file"), (None, "no such file")]
)
def test_foreign_npz_is_refused(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "foreign.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        data.load(f"npz:{path}", split="test")
    assert found in error.value.found


def test_npz_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((1000, 1000)))
    monkeypatch.setattr(data, "MAX_NPZ_BYTES", 1_000_000)
    with pytest.raises(InputError, match="bytes once unpacked"):
        data.load(f"npz:{tmp_path / 'bomb.npz'}", split="test")


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("minst:x", "Did you mean mnist:DIR?"),
        ("mnist", "Did you mean mnist:DIR?"),
        ("digits:x", "Did you mean digits?"),
        ("zzz", "Choose one of these."),
    ],
)
def test_unknown_data_is_refused_with_what_there_is(spec: str, remedy: str) -> None:
    with pytest.raises(InputError) as error:
        data.load(spec, split="test")
    assert error.value.remedy == remedy
    assert "imagefolder:DIR, npz:FILE" in error.value.allowed


def test_normalisation_is_per_channel() -> None:
    images = np.random.default_rng(0).random((4, 3, 2, 2), dtype=np.float32)
    found = data.normalise(images, (0.5, 0.25, 0.125), (0.5, 1.0, 2.0))
    np.testing.assert_allclose(found[:, 2], (images[:, 2] - 0.125) / 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "where"),
    [
        ((0.5,), (1.0, 1.0), "--mean"),
        ((0.5, 0.5), (1.0,), "--std"),
        ((0.5, 0.5), (1.0, 0.0), "--std"),
        ((float("nan"), 0.5), (1.0, 1.0), "--mean"),
        ((), (1.0, 1.0), "--mean"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...], where: str
) -> None:
    with pytest.raises(InputError) as error:
        data.normalise(np.zeros((1, 2, 3, 3), np.float32), mean, std)
    assert error.value.where == where
    assert error.value.allowed == "2 numbers"


def test_long_reads_report_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "_CHUNK", 40)
    seen: list[tuple[int, int]] = []
    data.load(
        f"mnist:{mnist_folder(tmp_path)[0]}", split="test", progress=lambda *n: seen.append(n)
    )
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
