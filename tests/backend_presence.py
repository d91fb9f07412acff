"""Which optional backends are here, and which a run insists on."""

from __future__ import annotations

import importlib.util
import os

KNOWN = ("reference", "lava")
REQUIRED = "LAPILLI_BACKENDS"
"""Environment variable: backends that must be present, separated by commas. `make test` sets it, so
that a missing Lava fails there instead of skipping the tests that need it."""


def lava_is_missing() -> str | None:
    """Why tests marked `lava` cannot run here, or None."""
    try:
        found = importlib.util.find_spec("lava.magma")
    except ImportError:
        found = None
    return None if found else "Lava is not installed (pip install 'lapilli[lava]', Python 3.10)"


def required_backends() -> set[str]:
    """Backends named by LAPILLI_BACKENDS."""
    return {name.strip() for name in os.environ.get(REQUIRED, "").split(",")} - {""}
