"""Out of shared memory, really: a /dev/shm of a few pages, in a namespace of its own (Linux)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artifact_samples import PROVENANCE
from lava_worker_faults import small_netlist

from lapilli.compiler import artifact
from lapilli.compiler.artifact import Artifact
from lapilli.runtime import reference
from lapilli.runtime.lava import runner

pytestmark = pytest.mark.lava

ROOM = {"none for its channels": 4096, "some, but not for all": 65536}
"""Case -> bytes of /dev/shm. A channel needs a page, whatever it carries."""

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]
RUN = """
mount -t tmpfs -o size="$1" tmpfs /dev/shm || exit 77
shift
"$@"
code=$?
ls -A /dev/shm
exit $code
"""
"""Exit code 77: this machine does not let us. Prints what is left in /dev/shm."""


@pytest.mark.parametrize("case", ROOM)
def test_out_of_shared_memory_is_one_clear_error(case: str, tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, from util-linux")
    netlist = small_netlist()
    provenance = dataclasses.replace(PROVENANCE, input_mean=(), input_std=())
    artifact.write(tmp_path / "m.h5", Artifact(netlist, provenance))
    images = np.zeros((2, *netlist.input.shape), np.float32)
    np.savez(tmp_path / "images.npz", images=images)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "lapilli.cli", "run", str(tmp_path / "m.h5")]
    command += ["--data", f"npz:{tmp_path / 'images.npz'}", "--backend", "lava"]
    # A process group of its own: nothing that it leaves can hide among others.
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", RUN, "sh", str(ROOM[case]), *command],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"needs namespaces: {done.stderr.strip()}")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: lava: /dev/shm: there is room for the channels")
    assert done.stdout == "", "segments are left"
    assert list(temporary.iterdir()) == []


def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths to sockets are short; where $TMPDIR is not, they are elsewhere, and vanish as well."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    netlist = small_netlist()
    inputs = np.zeros((2, *netlist.input.shape), np.int64)
    trace = runner.run(netlist, inputs)
    expected = reference.run(netlist, inputs)
    assert all(np.array_equal(trace.counts[name], expected.counts[name]) for name in trace.counts)
    assert list(folder.iterdir()) == []
