"""A file on disk that is whole or not there, and is known to be whole before anyone parses it.

The seal is its first 512 bytes: the format's version, the version of Lapilli that reads it, and the
SHA-256 of the rest. HDF5 calls the place a user block, so any HDF5 tool opens the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from lapilli.compiler.errors import ArtifactError, BackendError, InputError

FORMAT_VERSION = 4
NEEDS = "0.1.0"
"""The first version of Lapilli that reads FORMAT_VERSION; a newer format names its own."""

SEAL_BYTES = 512
MAX_FILE_BYTES = 2**33
_MARK = b"lapilli artifact\n"
_VERSIONS = re.compile(
    _MARK + rb"format (?P<format>[1-9][0-9]{0,5})\nneeds lapilli (?P<needs>[0-9A-Za-z.]{1,20})\n"
)


def write_sealed(path: str | os.PathLike[str], image: bytes) -> None:
    """Put the sealed image into `path`; see `write_whole`."""
    write_whole(path, seal(image), image)


def write_whole(path: str | os.PathLike[str], *parts: bytes) -> None:
    """Put the parts into `path` in one step; on any failure nothing is left behind.

    Raises InputError for a path that is no place for a file, BackendError where the disk fails.
    """
    path = Path(os.path.realpath(path))
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise InputError(
            str(path),
            "a model is written to a file in an existing folder",
            found="a folder or device" if path.exists() else f"no folder {path.parent}",
            allowed="a new or an existing file",
            remedy="Choose another path.",
        )
    temporary = path.with_name(f".lapilli-{secrets.token_hex(8)}.tmp")
    try:
        file = temporary.open("xb")
        try:
            with file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BackendError(
            str(path),
            "the model can be written",
            found=error.strerror or error,
            allowed=f"{sum(map(len, parts))} bytes of space and permission to write",
            remedy="Free space or choose another path; nothing was left behind.",
        ) from error


def read_sealed(path: str | os.PathLike[str]) -> bytes:
    """What follows the seal of the file, undamaged. Raises ArtifactError."""
    where = str(path)
    try:
        # Before opening: a pipe would block.
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise _unreadable(where, "a folder" if stat.S_ISDIR(mode) else "a device or pipe")
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(SEAL_BYTES)
            _check_versions(head, where)
            if size > MAX_FILE_BYTES:
                raise _unreadable(where, f"{size} bytes, more than {MAX_FILE_BYTES}")
            image = file.read(size)
    except (OSError, ValueError) as error:
        raise _unreadable(where, getattr(error, "strerror", None) or error) from error
    if seal(image) != head:
        raise ArtifactError(
            where,
            "the file is as it was written",
            found=f"{len(head) + len(image)} bytes that do not match their seal",
            allowed="an intact file",
            remedy="It was truncated or altered: copy it again, or compile the network again.",
        )
    return image


def seal(image: bytes) -> bytes:
    """The first 512 bytes of the file that holds `image`."""
    versions = b"format %d\nneeds lapilli %s\n" % (FORMAT_VERSION, NEEDS.encode())
    text = _MARK + versions + b"sha256 %s\n" % hashlib.sha256(image).hexdigest().encode()
    return text.ljust(SEAL_BYTES, b"\0")


def _check_versions(head: bytes, where: str) -> None:
    match = _VERSIONS.match(head)
    if match is None:
        raise ArtifactError(
            where,
            "the file is a Lapilli model",
            found=_describe(head),
            allowed="a file written by `lapilli compile`",
            remedy="Give the file that `lapilli compile -o` wrote.",
        )
    if int(match["format"]) != FORMAT_VERSION:
        raise ArtifactError(
            where,
            "this version of Lapilli knows the file's format",
            found=f"format {match['format'].decode()}",
            allowed=f"format {FORMAT_VERSION}",
            remedy=f"Install lapilli {match['needs'].decode()} or later, or compile again.",
        )


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file of another tool"
    if _MARK.startswith(head[: len(_MARK)]):
        return "a truncated or altered model file"
    return f"a file that begins with {head[:8]!r}"


def _unreadable(where: str, found: object) -> ArtifactError:
    return ArtifactError(
        where,
        "a model file can be read",
        found=found,
        allowed="a regular file that exists and is readable",
        remedy="Check the path and its permissions.",
    )
