"""The export for SANA-FE, against the netlist and the reference engine, without the program."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import chips
import netlists
import numpy as np
import pytest
import sanafe_networks
import sanafe_replay
from command_line import Run
from sanafe_cases import (
    CASES,
    OUTSIDE,
    SEED,
    apart,
    every_case,
    exported,
    groups,
    potentials,
    readers,
    replayed,
    spikes,
    synops,
    updates,
    waits,
)
from sanafe_networks import Case, case
from sanafe_replay import Neuron, replay

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.interchange import sanafe_architecture, sanafe_export
from lapilli.compiler.mapping import place
from lapilli.compiler.mapping.resources import compartments_each
from lapilli.compiler.netlist import Netlist
from lapilli.runtime import packets


@every_case
def test_the_file_alone_gives_every_spike_and_output(kind: str) -> None:
    """Replayed by the rules of the program's documentation."""
    e = exported(kind)
    found, told = replayed(kind), e.document["lapilli"]
    own = [{n for n in step if n[0] not in OUTSIDE} for step in found.spikes]
    assert own == spikes(e.of)
    assert sum(map(len, own)) > 30
    wanted = potentials(e.of)
    assert wanted and {n: found.v[n] for n in wanted} == wanted
    assert found.synops[sanafe_export.CHARGE] == told["charge_synapses"]
    waiting = sum(n[0] == sanafe_export.WAITING for step in found.spikes for n in step)
    assert waiting == waits(e.of)
    assert found.synops.total() - told["charge_synapses"] - waiting == synops(e.of)
    assert sum(found.updated) == updates(e.of, told)


@every_case
def test_messages_of_the_file_are_the_packets_of_the_placement(kind: str) -> None:
    """One by one; and as `runtime.packets` counts them, but where it says that axons differ."""
    e = exported(kind)
    c, address = e.of, e.document["lapilli"]["cores"]
    found, reading = replayed(kind), readers(e.of)
    times = Counter(n for step in spikes(c) for n in step)
    wanted = dict.fromkeys(address, 0)
    for (sender, _), cores in reading.items():
        for core in cores:
            wanted[address[core]] += times[sender]
    arrived = dict.fromkeys(address, 0)
    for (sender, at), many in found.messages.items():
        if at in arrived and sender[0] != sanafe_export.CHARGE:
            arrived[at] += many
    assert arrived == wanted
    counted = packets.count(c.placement, c.profile, packets.messages(c.netlist, c.trace))
    assert counted.sent + counted.from_host == axons(c, times)
    assert (counted.from_host > 0) == kind.startswith("train")
    if not apart(c):
        assert counted.arriving.tolist() == [wanted[at] for at in address]


def axons(c: Case, times: Counter[Neuron]) -> int:
    """Packets: one for each connection and piece of its target, stored zeros included."""
    named, counted = groups(c), 0
    for connection in c.netlist.connections:
        if connection.source == c.netlist.input.name and c.netlist.source.timing != "train":
            continue
        ones = connection.map.with_weight(np.ones_like(connection.map.weight))
        matrix = ones.to_sparse().tocsr()
        shape = c.netlist[connection.target].shape
        for _, piece in c.placement.of(connection.target):
            inside = np.zeros(shape, bool)
            inside[tuple(slice(*edges) for edges in piece.box)] = True
            read = np.unique(matrix[np.flatnonzero(inside.reshape(-1))].indices)
            counted += sum(times[named[connection.source], i] for i in read.tolist())
    return counted


@every_case
def test_every_neuron_is_where_it_was_placed(kind: str) -> None:
    e = exported(kind)
    c, named = e.of, groups(e.of)
    home, soma = sanafe_replay.homes(e.document), sanafe_replay.somas(e.document)
    address = e.document["lapilli"]["cores"]
    tiles, high = e.document["architecture"]["tile"], e.document["architecture"]["attributes"]
    width, height = high["width"], high["height"]
    assert len(tiles) == width * height
    for core in c.placement.cores:
        tile, place_in_tile = map(int, address[core.index].split("."))
        assert core.tile == divmod(tile, height)
        units = tiles[tile]["core"][place_in_tile]
        assert units["name"] == f"core{core.index}"
        for s in core.slices:
            p = c.netlist[s.population]
            numbers = np.arange(p.size).reshape(p.shape)[tuple(slice(*b) for b in s.box)]
            for n in numbers.reshape(-1).tolist():
                unit = f"neuron{compartments_each(p, c.profile)}"
                assert home.pop((named[p.name], n)) == {
                    "core": address[core.index],
                    "soma": f"{unit}[0]",
                    "dendrite": "dendrite[0]",
                }
                assert f"{unit}[0..0]" in {u["name"] for u in units["soma"]}
    for n, where in home.items():  # what is left stands outside, each in a unit of its own
        tile, place_in_tile = map(int, where["core"].split("."))
        core_there = tiles[tile]["core"][place_in_tile]
        assert not core_there["name"].startswith("core")
        if n[0] == sanafe_export.WAITING:
            assert where["soma"] == "waiting[0]"
            continue
        assert set(soma[n]) == {"spikes"}
        assert len(soma[n]["spikes"]) == e.document["lapilli"]["steps"]
        (units,) = (u["name"] for u in core_there["soma"] if u["name"].startswith("input"))
        last = sanafe_replay.each(units.removeprefix("input[")[:-1])[-1]
        assert int(where["soma"].removeprefix("input[")[:-1]) <= last
    taken = [(w["core"], w["soma"]) for n, w in home.items() if n[0] != sanafe_export.WAITING]
    assert len(set(taken)) == len(taken)


def test_costs_are_those_of_the_profile() -> None:
    e = exported("unary")
    energy, time = e.of.profile.energy, e.of.profile.time
    assert energy is not None and time is not None
    built = e.document["architecture"]
    assert built["attributes"]["latency_sync"] == pytest.approx(1800e-9)
    (tile,) = {json.dumps(t["attributes"]) for t in built["tile"]}
    hops = json.loads(tile)
    assert {k for k, v in hops.items() if v == pytest.approx(3.0e-12)} == {
        *("energy_east_hop", "energy_west_hop")
    }
    assert {k for k, v in hops.items() if v == pytest.approx(6.5e-9)} == {
        *("latency_north_hop", "latency_south_hop")
    }
    for t in built["tile"]:
        for core in t["core"]:
            chip = core["name"].startswith("core")
            (synapse,), (out,), (into,) = core["synapse"], core["axon_out"], core["axon_in"]
            costs = synapse["attributes"]["energy_process_spike"]
            assert costs == pytest.approx(35.5e-12 if chip else 0.0)
            assert out["attributes"]["energy_message_out"] == pytest.approx(111e-12 * chip)
            assert into["attributes"]["latency_message_in"] == pytest.approx(16e-9 * chip)
            for unit in core["soma"]:
                times = int(unit["name"].removeprefix("neuron")[0]) if chip else 0
                found = unit["attributes"]
                assert found["energy_access_neuron"] == pytest.approx(51.2e-12 * times)
                assert found["latency_update_neuron"] == pytest.approx(3.7e-9 * times)
                assert found["energy_spike_out"] == pytest.approx(69.3e-12 * bool(times))
    assert e.document["lapilli"]["unknown_costs"] == []
    c = case("rate", SEED, like="loihi2")
    told = sanafe_export.configuration(c.artifact, c.placement, c.profile, c.inputs)["lapilli"]
    assert "energy.axon_out_pj" in told["unknown_costs"]
    assert "energy.synop_pj" not in told["unknown_costs"]


def refusal(netlist: Netlist, inputs: Any) -> str:
    """The NetlistError that exporting it raises."""
    profile = replace(chips.with_graded(chips.chip("loihi2")), name="loihi2")
    artifact = Artifact(netlist, sanafe_networks.provenance())
    placement = place(netlist, profile, effort=0)
    with pytest.raises(NetlistError) as raised:
        sanafe_export.configuration(artifact, placement, profile, inputs)
    return str(raised.value)


@pytest.mark.parametrize(
    ("coding", "words"),
    [
        ("graded", ("Window, sending graded", "--coding unary")),
        ("signed", ("SignedIF", "SoftResetIF")),
        ("unary-last", ("sending unary-last",)),
    ],
)
def test_what_the_program_cannot_express_is_refused(coding: Any, words: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    netlist = netlists.random_netlist(rng, coding)
    inputs = netlists.random_inputs(rng, netlist, 1)[0]
    told = refusal(netlist, inputs)
    assert all(word in told for word in words), told


def test_inputs_and_sizes_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    c = case("rate", SEED)
    with pytest.raises(InputError, match="one input"):
        sanafe_export.configuration(c.artifact, c.placement, c.profile, c.inputs[np.newaxis])
    other = case("rate", SEED + 1)
    with pytest.raises(NetlistError, match="of this network"):
        sanafe_export.configuration(other.artifact, c.placement, c.profile, c.inputs)
    monkeypatch.setattr(sanafe_export, "MOST_SYNAPSES", 10)
    with pytest.raises(NetlistError, match="a line of the file"):
        sanafe_export.configuration(c.artifact, c.placement, c.profile, c.inputs)
    monkeypatch.undo()
    monkeypatch.setattr(sanafe_architecture, "MOST_TILES", 31)
    with pytest.raises(InputError, match="32 tiles"):
        sanafe_export.configuration(c.artifact, c.placement, c.profile, c.inputs)
    monkeypatch.undo()
    without = replace(c.profile, energy=None)
    with pytest.raises(InputError, match="no energy or no time"):
        sanafe_export.configuration(c.artifact, c.placement, without, c.inputs)


def test_the_command(run: Run, tmp_path: Path) -> None:
    c, model, target = exported("digits").of, tmp_path / "model.h5", tmp_path / "net.yaml"
    c.artifact.save(model)
    command = ("export", model, "--format", "sanafe", "-o", target)
    missing = run(*command)
    assert missing.code == 2 and "--data DATA --image N" in missing.err
    beyond = run(*command, "--data", "digits", "--image", "100000")
    assert beyond.code == 2 and "--image" in beyond.err
    other = run("export", model, "--format", "loihi", "-o", target, "--image", "0")
    assert other.code == 2 and "images with --format loihi" in other.err
    wrong = run(*command, "--data", "digits", "--profile", "cmos45")
    assert wrong.code == 2
    assert not target.exists()
    done = run(*command, "--data", "digits", "--image", "3", "--json")
    assert done.code == 0, done.err
    document = json.loads(target.read_text("utf-8"))
    told = document["lapilli"]
    assert done.json["steps"] == told["steps"] and done.json["image"] == 3
    assert done.json["charges"]["charges"] == told["charges"]
    assert told["model_hash"] == c.artifact.hash
    images = lapilli.data.load("digits", split="test", limit=4).images
    trace = lapilli.run(c.artifact, images)
    found = Counter(group for step in replay(target.read_text()).spikes for group, _ in step)
    for p in told["populations"]:
        if p["name"] in trace.image_events:
            assert found[p["group"]] == trace.image_events[p["name"]].spikes[3]


def test_cases_of_every_kind_occur() -> None:
    """Neurons with one axon to each core that they reach, and others; several cores and hops."""
    found = {kind: apart(exported(kind).of) for kind in CASES}
    assert set(found.values()) == {True, False}
    assert all(len(exported(kind).of.placement.cores) > 4 for kind in CASES)
    assert len({core.tile for core in exported("digits").of.placement.cores}) > 1


def test_units_hold_so_many_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    c = exported("branches").of
    for module in (sanafe_export, sanafe_architecture):
        monkeypatch.setattr(module, "UNIT_NEURONS", 7)
    document = sanafe_export.configuration(c.artifact, c.placement, c.profile, c.inputs)
    units: dict[tuple[str, str], int] = Counter()
    for where in sanafe_replay.homes(document).values():
        units[where["core"], where["dendrite"]] += 1
        if not where["soma"].startswith("input"):
            units[where["core"], where["soma"]] += 1
            assert where["soma"].partition("[")[2] == where["dendrite"].partition("[")[2]
    assert max(units.values()) == 7
    for (core, unit), _ in units.items():
        tile, number = map(int, core.split("."))
        held = document["architecture"]["tile"][tile]["core"][number]
        name, _, index = unit.partition("[")
        named = [u["name"] for u in (*held["soma"], *held["dendrite"])]
        (last,) = (n.partition("..")[2][:-1] for n in named if n.startswith(f"{name}["))
        assert int(index[:-1]) <= int(last)
    again = sanafe_export.text(document)
    assert replay(again).spikes == replayed("branches").spikes
