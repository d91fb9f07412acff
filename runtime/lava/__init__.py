"""The Lava backend: a netlist as Lava processes, run in a supervised subprocess.

`run` executes a netlist. The processes are for users of Lava, too:
`from lapilli.runtime.lava import SoftResetIF`. Nothing here imports Lava until it is asked for.

Reading order: processes (what runs), neuron_process (what these share), clock (their time),
exact_map (their sums), network (netlist to processes), journal (how they report), worker (runs
them), runner (supervises the worker), process_group.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lapilli.runtime.lava.processes import LIF as LIF
    from lapilli.runtime.lava.processes import GradedMax as GradedMax
    from lapilli.runtime.lava.processes import HardResetIF as HardResetIF
    from lapilli.runtime.lava.processes import Ladder as Ladder
    from lapilli.runtime.lava.processes import LavaDelta as LavaDelta
    from lapilli.runtime.lava.processes import LavaSigmaDelta as LavaSigmaDelta
    from lapilli.runtime.lava.processes import MultiThreshold as MultiThreshold
    from lapilli.runtime.lava.processes import OrGate as OrGate
    from lapilli.runtime.lava.processes import Product as Product
    from lapilli.runtime.lava.processes import RateGate as RateGate
    from lapilli.runtime.lava.processes import RateMax as RateMax
    from lapilli.runtime.lava.processes import Readout as Readout
    from lapilli.runtime.lava.processes import Relay as Relay
    from lapilli.runtime.lava.processes import SigmaDelta as SigmaDelta
    from lapilli.runtime.lava.processes import SignedIF as SignedIF
    from lapilli.runtime.lava.processes import SoftResetIF as SoftResetIF
    from lapilli.runtime.lava.processes import Source as Source
    from lapilli.runtime.lava.processes import Synapse as Synapse
    from lapilli.runtime.lava.processes import Window as Window
    from lapilli.runtime.lava.runner import run as run

PROCESSES = (
    "GradedMax",
    "HardResetIF",
    "LIF",
    "Ladder",
    "LavaDelta",
    "LavaSigmaDelta",
    "MultiThreshold",
    "OrGate",
    "Product",
    "RateGate",
    "RateMax",
    "Readout",
    "Relay",
    "SigmaDelta",
    "SignedIF",
    "SoftResetIF",
    "Source",
    "Synapse",
    "Window",
)
"""One per neuron model, and the synapse."""
_HOMES = {**dict.fromkeys(PROCESSES, "processes"), "run": "runner"}
__all__ = [*_HOMES]  # noqa: PLE0604 - names, none of them made up


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
