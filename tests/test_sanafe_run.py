"""The export for SANA-FE, simulated by the program itself, where the user has it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sanafe_replay
from sanafe_cases import (
    OUTSIDE,
    Exported,
    apart,
    every_case,
    exported,
    groups,
    potentials,
    readers,
    spikes,
    synops,
    updates,
    waits,
)

from lapilli.compiler.interchange import sanafe_export
from lapilli.compiler.mapping.resources import compartments_each
from lapilli.compiler.neurons import OrGate
from lapilli.runtime import packets

VARIABLE = "LAPILLI_SANAFE"
PROGRAM = os.environ.get(VARIABLE)
needs_sanafe = pytest.mark.skipif(
    not PROGRAM, reason=f"{VARIABLE} names no Python that has SANA-FE"
)


@dataclass(frozen=True)
class Simulated:
    """What the program printed."""

    of: Exported
    result: Any

    def own(self) -> list[Any]:
        """Messages of the network, and of the neurons that delay its spikes."""
        group = "src_neuron_group_id"
        return [m for m in self.result["messages"] if m[group] != sanafe_export.CHARGE]


@functools.cache
def simulated(kind: str, folder: Path) -> Simulated:
    """Run the program, in a process of its own."""
    assert PROGRAM is not None
    path = folder / f"{kind}.yaml"
    path.write_text(exported(kind).text)
    user = Path(__file__).with_name("sanafe_user.py")
    done = subprocess.run(
        [PROGRAM, str(user), str(path)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Simulated(exported(kind), json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where files for the program are."""
    return tmp_path_factory.mktemp("sanafe")


@needs_sanafe
@every_case
def test_simulated_spikes_and_outputs_are_ours(kind: str, folder: Path) -> None:
    s = simulated(kind, folder)
    c = s.of.of
    found = [{sanafe_replay.neuron(n) for n in step} for step in s.result["trace"]]
    own = [{n for n in step if n[0] not in OUTSIDE} for step in found]
    assert own == spikes(c)
    wanted = potentials(c)
    # Potentials come by the groups' names, then by number.
    named = groups(c)
    order = sorted((named[p.name], i) for p in c.netlist.populations[1:] for i in range(p.size))
    last = dict(zip(order, s.result["potentials"][-1], strict=True))
    assert {n: last[n] for n in wanted} == wanted


@needs_sanafe
@every_case
def test_simulated_events_are_ours(kind: str, folder: Path) -> None:
    """Synaptic operations, messages by destination core, hops by direction, updates."""
    s = simulated(kind, folder)
    c, told = s.of.of, s.of.document["lapilli"]
    assert s.result["spikes"] == synops(c) + told["charge_synapses"] + waits(c)
    assert sum(s.result["updated"]) == updates(c, told)
    times, reading = Counter(n for step in spikes(c) for n in step), readers(c)
    assert s.result["fired"] == sum(times.values()) + told["charges"] + waits(c)
    cores = {core.index: core for core in c.placement.cores}
    wanted = {i: sum(times[n] for (n, _), to in reading.items() if i in to) for i in cores}
    arrived = Counter(f"{m['dest_tile_id']}.{m['dest_core_offset']}" for m in s.own())
    assert {i: arrived[told["cores"][i]] for i in cores} == wanted
    home = {named: i for i, named in enumerate(told["cores"])}
    tile = {
        n: cores[home[w["core"]]].tile if w["core"] in home else (0, 0)
        for n, w in sanafe_replay.homes(s.of.document).items()
    }
    east_west = north_south = 0
    for (n, _), to in reading.items():
        for i in to:
            here, there = tile[n], cores[i].tile
            assert here is not None and there is not None
            east_west += times[n] * abs(here[0] - there[0])
            north_south += times[n] * abs(here[1] - there[1])
    assert sum(abs(m["src_x"] - m["dest_x"]) for m in s.own()) == east_west
    assert sum(abs(m["src_y"] - m["dest_y"]) for m in s.own()) == north_south
    assert s.result["hops"] == east_west + north_south
    counted = packets.count(c.placement, c.profile, packets.messages(c.netlist, c.trace))
    if not apart(c):
        assert (counted.east_west, counted.north_south) == (east_west, north_south)


@needs_sanafe
@every_case
def test_simulated_energy_is_events_times_constants(kind: str, folder: Path) -> None:
    s = simulated(kind, folder)
    c, told = s.of.of, s.of.document["lapilli"]
    first = {p["name"]: p["first"] for p in told["populations"]}
    soma = 0.0
    for p in c.netlist.populations[1:]:
        each, updated = compartments_each(p, c.profile), p.size * (told["steps"] - first[p.name])
        if isinstance(p.neuron, OrGate):
            updated = c.trace.events[p.name].spikes
        soma += each * (51.2 * p.size * told["steps"] + 21.6 * updated)
        soma += 69.3 * c.trace.events[p.name].spikes
    energy = {name: joules * 1e12 for name, joules in s.result["energy"].items()}
    assert energy["soma"] == pytest.approx(soma, rel=1e-9)
    assert energy["synapse"] == pytest.approx(35.5 * (s.result["spikes"] - waits(c)), rel=1e-9)
    own = s.own()
    east_west = sum(abs(m["src_x"] - m["dest_x"]) for m in own)
    north_south = sum(abs(m["src_y"] - m["dest_y"]) for m in own)
    outside = ("p0", sanafe_export.WAITING)
    sent = sum(m["src_neuron_group_id"] not in outside for m in own)
    network = 111 * sent + 3 * east_west + 4.2 * north_south
    assert energy["network"] == pytest.approx(network, rel=1e-9)
