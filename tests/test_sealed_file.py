"""Files are whole or not there, and damage is told before anything is parsed."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from lapilli.compiler import sealed_file
from lapilli.compiler.errors import ArtifactError, BackendError, InputError
from lapilli.compiler.sealed_file import SEAL_BYTES, read_sealed, write_sealed

IMAGE = bytes(range(256)) * 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sealed file, alone in its folder."""
    result = tmp_path / "model.h5"
    write_sealed(result, IMAGE)
    return result


def refusal(path: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read_sealed(path)
    assert caught.value.where == str(path)
    return caught.value


def test_seal_holds_versions_and_hash(path: Path) -> None:
    assert read_sealed(path) == IMAGE
    head = path.read_bytes()[:SEAL_BYTES]
    sha = hashlib.sha256(IMAGE).hexdigest()
    text = f"lapilli artifact\nformat 4\nneeds lapilli 0.1.0\nsha256 {sha}\n"
    assert head == text.encode() + bytes(SEAL_BYTES - len(text))


def test_every_truncation_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert refusal(path).exit_code == 2
    path.write_bytes(data + b"\0")
    assert refusal(path).found == f"{len(data) + 1} bytes that do not match their seal"


def test_every_changed_byte_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for position in range(len(data)):
        data[position] ^= 0x20
        path.write_bytes(data)
        assert refusal(path).exit_code == 2
        data[position] ^= 0x20


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b"PK\3\4" * 300, r"a file that begins with b'PK\x03\x04PK\x03\x04'"),
        (b"lapilli", "a truncated or altered model file"),
        (b"lapilli artifact\nformat one\n", "a truncated or altered model file"),
    ],
)
def test_other_files_are_told(path: Path, data: bytes, found: str) -> None:
    path.write_bytes(data)
    error = refusal(path)
    assert error.rule == "the file is a Lapilli model"
    assert error.found == found


def test_an_hdf5_file_of_another_tool_is_told(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = [1, 2, 3]
    assert refusal(path).found == "an HDF5 file of another tool"


def test_a_newer_format_says_what_to_install(path: Path) -> None:
    path.write_bytes(b"lapilli artifact\nformat 5\nneeds lapilli 0.7.2\nsomething new\n")
    error = refusal(path)
    assert (error.found, error.allowed) == ("format 5", "format 4")
    assert error.remedy == "Install lapilli 0.7.2 or later, or compile again."


def test_what_is_no_readable_file_is_told(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "absent.h5").found == "No such file or directory"
    assert refusal(tmp_path).found == "a folder"
    assert refusal(tmp_path / "pipe").found == "a device or pipe"
    assert "null" in refusal(Path("model\0.h5")).found
    monkeypatch.setattr(sealed_file, "MAX_FILE_BYTES", 100)
    assert refusal(path).found == f"{SEAL_BYTES + len(IMAGE)} bytes, more than 100"

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert refusal(path).found == "Permission denied"


# ---------------------------------------------------------------- writing


def assert_untouched(path: Path) -> None:
    """The old file is whole and alone in its folder."""
    assert read_sealed(path) == IMAGE
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_through_its_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    write_sealed(link, b"other")
    assert link.is_symlink()
    assert read_sealed(path) == b"other"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BackendError) as caught:
        write_sealed(path, b"other")
    assert caught.value.exit_code == 3
    assert caught.value.found == os.strerror(code)
    assert_untouched(path)


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    code = (
        "import resource, sys; from lapilli.compiler.errors import BackendError\n"
        "from lapilli.compiler.sealed_file import write_sealed\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: write_sealed(sys.argv[1], bytes(50_000))\n"
        "except BackendError as error: sys.exit(f'{error.exit_code} {error}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith(f"3 {path}: the model can be written; found File too large")
    assert_untouched(path)


def test_an_interrupt_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_sealed(path, b"other")
    assert_untouched(path)


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_killed_writer_leaves_the_old_file(path: Path, moment: str) -> None:
    # Nobody can tidy up after SIGKILL: the temporary file may stay, but under a name of its own.
    code = (
        "import os, pathlib, signal, sys; from lapilli.compiler.sealed_file import write_sealed\n"
        f"{moment} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_sealed(sys.argv[1], bytes(50_000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_sealed(path) == IMAGE
    assert all(p.name.startswith(".lapilli-") for p in path.parent.iterdir() if p != path)


def test_what_is_no_place_for_a_file_is_refused(path: Path, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "absent" / "model.h5", Path("/dev/null")):
        with pytest.raises(InputError) as caught:
            write_sealed(target, IMAGE)
        assert caught.value.where == str(target)
    assert not Path("/dev/null").is_file()
    assert_untouched(path)


def test_a_folder_that_cannot_be_written_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        with pytest.raises(BackendError, match="found Permission denied"):
            write_sealed(path, b"other")
    assert_untouched(path)
