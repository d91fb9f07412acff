"""The checksums that HDF5 puts behind its own structures, for tests that forge those."""

from __future__ import annotations

import functools

import numpy as np


def lookup3(data: bytes) -> int:
    """Bob Jenkins' lookup3 (hashlittle with seed 0), the checksum of HDF5's metadata."""
    mask = 0xFFFFFFFF

    def rotated(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    if not data:
        return c
    whole = (len(data) - 1) // 12 * 12
    words = np.frombuffer(data[:whole].ljust(whole), "<u4").tolist()
    tail = np.frombuffer(data[whole:].ljust(12, b"\0"), "<u4").tolist()
    for i in range(0, len(words), 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        for k in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & mask) ^ rotated(c, k)
            c = (c + b) & mask
            a, b, c = b, c, a
    a, b, c = (a + tail[0]) & mask, (b + tail[1]) & mask, (c + tail[2]) & mask
    for k in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - rotated(b, k)) & mask
        a, b, c = b, c, a
    return b


@functools.cache
def checksummed(image: bytes) -> tuple[tuple[int, int], ...]:
    """Start and end of each structure that is followed by its checksum, found by trying."""
    found = []
    for signature, longest in ((b"OHDR", 4096), (b"OCHK", 4096), (b"FRHP", 256), (b"BTHD", 64)):
        start = image.find(signature)
        while start >= 0:
            for end in range(start + 8, min(start + longest, len(image) - 4)):
                if lookup3(image[start:end]) == int.from_bytes(image[end : end + 4], "little"):
                    found.append((start, end))
                    break
            start = image.find(signature, start + 4)
    return tuple(found)
