"""Random networks with their spikes, which tests count one by one."""

from __future__ import annotations

from typing import NamedTuple

import netlists
import numpy as np
import oracles
import pytest
from netlists import Coding

from lapilli.compiler.netlist import Connection, Netlist
from lapilli.compiler.neurons import Source
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime import reference


class Case(NamedTuple):
    """A network, inputs of some images, and what the oracle makes of them."""

    netlist: Netlist
    inputs: Int64Array
    result: oracles.Result


def case(coding: Coding, images: int, seed: int = 3) -> Case:
    """The same one every time."""
    rng = np.random.default_rng(seed)
    netlist = netlists.random_netlist(rng, coding)
    inputs = netlists.random_inputs(rng, netlist, images)
    return Case(netlist, inputs, oracles.simulate(netlist, inputs))


def brings_spikes(netlist: Netlist, c: Connection) -> bool:
    """And no analog input."""
    sender = netlist[c.source].neuron
    return not isinstance(sender, Source) or sender.timing == "train"


def two_at_a_time(monkeypatch: pytest.MonkeyPatch, netlist: Netlist) -> None:
    """The engine takes two images per batch."""
    monkeypatch.setattr(reference, "IMAGES_PER_BATCH", 2)
    monkeypatch.setattr(reference, "STEPS_PER_BATCH", 2 * netlist.steps)
