"""Energy and time on a placement: against every packet one by one; what each form leaves out."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import search_network
from unfolded_synapses import unfold

import lapilli
from lapilli import placed_estimate
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping import Placement
from lapilli.hardware_profiles import Profile, Quantity, load
from lapilli.map_report import measured_rates
from lapilli.runtime.energy import Estimate, estimate
from lapilli.runtime.layout import Journeys, Layout
from lapilli.runtime.placed_layout import layout

IMAGES = 6
FINE = {"limits.neurons_per_core": 50}
"""Small cores: the digits' network takes many."""
PACKETS: dict[str, float] = {
    "energy.axon_out_pj": 100.0,
    "energy.hop_east_west_pj": 3.0,
    "energy.hop_north_south_pj": 5.0,
    "system.chip_hop_pj": 70.0,
    "time.axon_out_ns": 4.0,
    "time.axon_in_ns": 16.0,
    "time.hop_east_west_ns": 4.0,
    "time.hop_north_south_ns": 7.0,
    "time.barrier_ns": 500.0,
    "time.synop_ns": 0.5,
}


def with_values(profile: Profile, **values: float) -> Profile:
    """The profile with other numbers, known ones or not; keys have __ for their dot."""
    for key, value in values.items():
        section, _, name = key.partition(".")
        part = getattr(profile, section)
        quantity: Quantity[Any] = Quantity(value, name[-2:], "this test", "published")
        profile = replace(profile, **{section: replace(part, **{name: quantity})})
    return profile


CHIPS = {
    "loihi1": with_values(load("loihi1"), **FINE),
    "loihi2": with_values(load("loihi2"), **FINE),
    # Eight chips of five cores: packets cross borders, and each constant is known.
    "board": with_values(load("kapoho-point"), **FINE, **{"limits.cores_per_chip": 5}, **PACKETS),
    "narrow": with_values(load("loihi2"), **{"limits.input_axons_per_core": 100}),
}


@functools.cache
def compiled(chip: str) -> Artifact:
    """The digits' network, for a chip with graded spikes or without."""
    profile = CHIPS[chip]
    graded = profile.features.graded_spikes.value
    method = lapilli.methods.Parallel(levels=4, coding="graded" if graded else "unary")
    return lapilli.compile(
        search_network.trained(),
        calibration=search_network.images("train", 64).images,
        method=method,
        profile="loihi2" if graded else "loihi1",
    )


@functools.cache
def placed(chip: str) -> tuple[Placement, Layout, Estimate]:
    """Placed with measured rates; the estimate is that of `lapilli.estimate`."""
    artifact, profile = compiled(chip), CHIPS[chip]
    images = search_network.images("test", IMAGES).images
    rates = measured_rates(artifact, images, profile)
    placement = lapilli.place(artifact, profile=profile, rates=rates)
    runs = placed_estimate.on_chip(artifact, profile)
    events = lapilli.run(runs, images, record="outputs").events
    found = layout(placement, profile, events, rates[artifact.netlist.input.name])
    return placement, found, lapilli.estimate(artifact, images, profile=profile, placed=True)


def exactly(value: float) -> Any:
    """Equal but for the rounding of float64 sums in another order."""
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def one_by_one(chip: str) -> tuple[dict[str, Journeys], Journeys]:
    """Every neuron and every core that reads it, per inference: of populations, of the host."""
    placement, _, _ = placed(chip)
    artifact, profile, netlist = compiled(chip), CHIPS[chip], placement.netlist
    images = search_network.images("test", IMAGES).images
    rates = measured_rates(artifact, images, profile)
    chips = profile.system is not None and profile.system.chips_wide is not None
    wide = profile.system.chips_wide.value if chips else 1  # type: ignore[union-attr]
    home = {}
    for core in placement.cores:
        for s in core.slices:
            for neuron in _neurons(netlist[s.population].shape, s.box):
                home[s.population, neuron] = core
    sent = {p.name: Journeys() for p in netlist.populations}
    for c in netlist.connections:
        if c.source == netlist.input.name and not profile.features.graded_spikes.value:
            continue  # the host computes these
        synapses = unfold(c.map)
        readers: Counter[tuple[int, int, int]] = Counter()
        for core in placement.cores:
            held = [
                _neurons(netlist[c.target].shape, s.box)
                for s in core.slices
                if s.population == c.target
            ]
            if profile.limits.dense_synapse_bits is not None and held:  # rows serve all
                held = [sorted(n for piece in held for n in piece)]
            for piece in held:
                readers.update((s, core.index, 0) for s in set(synapses.into(piece).sources))
        for (neuron, index, _), packets in readers.items():
            count = packets * rates[c.source] * netlist.steps
            end = placement.cores[index]
            start = home.get((c.source, int(neuron)))
            (x, y), origin = (start.tile, start.chip) if start else ((0, 0), 0)
            rows = abs(origin // wide - end.chip // wide)
            borders = rows + abs(origin % wide - end.chip % wide)
            x, y = abs(x - end.tile[0]), abs(y - end.tile[1])
            sent[c.source] += Journeys(count, count * x, count * y, count * borders)
    return sent, sent.pop(netlist.input.name)


def _neurons(shape: tuple[int, ...], box: Any) -> list[int]:
    """Flat indices of a box."""
    inside = np.arange(int(np.prod(shape))).reshape(shape)[tuple(slice(*edges) for edges in box)]
    return [int(n) for n in inside.ravel()]


@pytest.mark.parametrize("chip", list(CHIPS))
def test_packets_and_hops_one_by_one(chip: str) -> None:
    _, found, e = placed(chip)
    assert found.placed is not None and e.placement is not None
    sent, host = one_by_one(chip)
    for name, ours in found.placed.sent.items():
        for f in fields(Journeys):
            assert getattr(ours, f.name) == exactly(getattr(sent[name], f.name)), (name, f.name)
    every = sum(sent.values(), host)
    assert found.placed.from_host_in_all.packets == exactly(host.packets)
    assert (host.packets > 0) == (chip != "loihi1")
    if chip == "narrow":
        return
    assert len(placed(chip)[0].cores) > 9
    assert every.east_west > 0
    assert e.placement.packets == exactly(every.packets)
    assert e.placement.east_west == exactly(every.east_west)
    assert e.placement.north_south == exactly(every.north_south)
    assert e.placement.chip_crossings == exactly(every.chip_crossings)
    assert (every.chip_crossings > 0) == (chip == "board")


@pytest.mark.parametrize("chip", list(CHIPS))
def test_step_and_traffic_are_those_of_the_placement(chip: str) -> None:
    placement, found, e = placed(chip)
    assert e.placement is not None and placement.step is not None and placement.cost is not None
    steps = placement.netlist.steps
    assert e.placement.packets == exactly(placement.cost.packets * steps)
    assert e.placement.chip_crossings == exactly(placement.cost.chip_crossings * steps)
    assert found.placed is not None
    assert found.placed.worst_link == exactly(placement.cost.worst_link)
    assert e.step_time_us.mid == exactly(placement.step.step_us)
    assert e.placement.core_us.mid == exactly(placement.step.core_us)
    assert e.placement.decided_by == placement.step.decided_by
    assert e.step_time_us.low < e.step_time_us.mid < e.step_time_us.high
    if placement.step.mesh_us is None:
        assert e.placement.mesh_us is None
    else:
        assert e.placement.mesh_us is not None
        assert e.placement.mesh_us.mid == exactly(placement.step.mesh_us)
    assert (e.cores, e.chips) == (len(placement.cores), placement.chips)
    if e.placement.decided_by == "cores":
        held = {s.population for s in placement.cores[e.placement.busiest_core].slices}
        assert e.bottleneck in held


def test_every_term_by_hand() -> None:
    """On the board, where each constant of packets is known."""
    _, found, e = placed("board")
    assert found.placed is not None
    for layer in e.layers:
        sent, host = found.placed.sent[layer.name], found.placed.from_host[layer.name]
        assert layer.spikes_pj.mid == exactly(100 * sent.packets)
        far = sent + host
        assert layer.hops_pj.mid == exactly(
            3 * far.east_west + 5 * far.north_south + 70 * far.chip_crossings
        )
        parts = (layer.synops_pj, layer.neuron_updates_pj, layer.spikes_pj, layer.input_pj)
        assert layer.dynamic_pj.mid == exactly(sum(p.mid for p in (*parts, layer.hops_pj)))
    assert e.total.hops_pj.mid == exactly(sum(layer.hops_pj.mid for layer in e.layers))
    assert e.chips > 1
    static = e.chips * 232.078 * 1000 * e.single.time_us.mid
    assert e.single.chip_static_pj.mid == exactly(static)


def test_on_whole_populations_with_free_hops_nothing_changes() -> None:
    """One core each, each neuron read by one core: a packet per spike, as without a placement."""
    values = {k: v for k, v in PACKETS.items() if "hop" not in k}
    profile = with_values(
        load("loihi2"),
        **{**values, "energy.hop_east_west_pj": 0.0, "energy.hop_north_south_pj": 0.0},
    )
    # Unary: pooling of graded spikes reads a population in two ways, with a packet for each.
    artifact, images = compiled("loihi1"), search_network.images("test", IMAGES).images
    populations = [p.name for p in artifact.netlist.populations[1:]]
    placement = lapilli.place(artifact, profile=profile, whole=populations)
    ours = lapilli.estimate(artifact, images, profile=profile, placement=placement)
    plain = lapilli.estimate(artifact, images, profile=profile)
    assert [layer.name for layer in ours.layers] == [layer.name for layer in plain.layers]
    for one, other in zip((*ours.layers, ours.total), (*plain.layers, plain.total), strict=True):
        for term in [f.name for f in fields(one)[1:]]:
            placed_band, plain_band = getattr(one, term), getattr(other, term)
            for end in ("low", "mid", "high"):
                figure = getattr(placed_band, end)
                assert figure == exactly(getattr(plain_band, end)), (one.name, term)
    assert plain.total.spikes_pj.mid > 0
    assert ours.ann == plain.ann and ours.reference_snn == plain.reference_snn


def test_relays_are_counted_and_said() -> None:
    placement, _, e = placed("narrow")
    assert e.placement is not None and e.placement.relays > 0
    names = [layer.name for layer in e.layers]
    assert set(names) > {p.name for p in compiled("narrow").netlist.populations[1:]}
    assert len(names) == len(placement.netlist.populations) - 1
    assert any("relays" in line for line in e.assumptions)
    assert not any("relays" in line for line in placed("loihi2")[2].assumptions)
    plain = lapilli.estimate(compiled("narrow"), search_network.images("test", IMAGES).images)
    assert e.single.steps > plain.single.steps


def test_each_form_runs_and_says_what_it_leaves_out() -> None:
    artifact, images = compiled("loihi2"), search_network.images("test", IMAGES).images
    plain = lapilli.estimate(artifact, images)
    chip = lapilli.estimate(artifact, images, placed=True)
    boards = {
        name: lapilli.estimate(artifact, images, profile=name, placed=True)
        for name in ("kapoho-point", "oheo-gulch")
    }
    assert plain.placement is None and chip.placement is not None
    assert any("they need a placement" in line for line in plain.not_counted)
    for e in (chip, *boards.values()):
        assert not any("need a placement" in line for line in e.not_counted)
        assert any("receiving packets" in line for line in e.not_counted)
        assert "hops between cores" in e.not_counted[-1]
        assert any("not checked" in line for line in e.not_counted)
        assert any("spike equally often" in line for line in e.assumptions)
        assert not any("fewest cores" in line for line in e.assumptions)
        assert e.cores < plain.cores
    assert any("7 chips of the system" in line for line in boards["kapoho-point"].not_counted)
    assert any(line.endswith(", the board") for line in boards["kapoho-point"].not_counted)
    assert not any("the board" in line for line in boards["oheo-gulch"].not_counted)
    assert boards["kapoho-point"].single.board_total_pj is None
    whole = boards["oheo-gulch"].single.board_total_pj
    assert whole is not None and whole.mid > boards["oheo-gulch"].single.total_pj.mid
    board = placed("board")[2]
    assert any("crossings in an inference: time" in line for line in board.not_counted)
    far = replace(CHIPS["board"], system=load("kapoho-point").system)
    less = lapilli.estimate(artifact, images, profile=far, placed=True)
    assert any("crossings in an inference: energy and time" in x for x in less.not_counted)
    meshless = replace(load("loihi2"), limits=replace(load("loihi2").limits, mesh_width_tiles=None))
    flat = lapilli.estimate(artifact, images, profile=meshless, placed=True)
    assert any("states no mesh" in line for line in flat.not_counted)
    assert flat.placement is not None and flat.placement.east_west is None


def test_sources_are_the_constants_that_matter() -> None:
    """Each constant in turn is doubled: the figures move if and only if it is listed."""
    profile = CHIPS["board"]
    _, found, e = placed("board")
    images = search_network.images("test", IMAGES).images
    runs = placed_estimate.on_chip(compiled("board"), profile)
    events = lapilli.run(runs, images, record="outputs").events

    def figures(p: Profile) -> dict[str, Any]:
        made = estimate(
            events,
            p,
            latency_steps=e.single.steps,
            interval_steps=e.streaming.steps,
            ann_macs={},
            graded=True,
            layout=found,
        )
        return {"layers": made.layers, "single": made.single, "placement": made.placement}

    before = figures(profile)
    moving = set()
    for key, quantity in profile.quantities():
        if key.startswith(("energy.", "time.", "system.chip_hop_pj")):
            other = with_values(profile, **{key: 2 * quantity.value})
            if figures(other) != before:
                moving.add(key)
    listed = {s.key.partition(".")[2] for s in e.sources if not s.key.startswith("cmos45")}
    assert {key for key in listed if not key.startswith("features.")} == moving
    assert {"energy.hop_east_west_pj", "time.axon_in_ns", "system.chip_hop_pj"} <= moving
    assert not any(key.startswith("limits.") for key in listed)


def test_a_term_can_be_left_out() -> None:
    images = search_network.images("test", IMAGES).images
    less = lapilli.estimate(
        compiled("board"),
        images,
        profile=CHIPS["board"],
        placed=True,
        without=("system.chip_hop_pj", "energy.hop_east_west_pj"),
    )
    whole = placed("board")[2]
    assert less.total.hops_pj.high < whole.total.hops_pj.low
    assert "system.chip_hop_pj" in less.not_counted[0]


def test_the_dictionary_has_stable_keys() -> None:
    found = json.loads(json.dumps(placed("board")[2].as_dict(), allow_nan=False))["placement"]
    traffic = {"packets", "host_packets", "east_west", "north_south", "chip_crossings"}
    step = {"decided_by", "busiest_core", "core_us", "mesh_us", "barrier_us", "floor_us"}
    assert found.keys() == {"objective", "relays"} | traffic | step
    assert found["core_us"].keys() == {"low", "mid", "high"}


def test_what_does_not_belong_together_is_refused() -> None:
    artifact, images = compiled("loihi2"), search_network.images("test", IMAGES).images
    other = placed("loihi1")[0]
    with pytest.raises(InputError) as caught:
        lapilli.estimate(artifact, images, profile="loihi2", placement=other)
    assert (caught.value.found, caught.value.allowed) == ("loihi2", "loihi1")
    with pytest.raises(InputError) as caught:
        lapilli.estimate(artifact, images, placement=placed("narrow")[0])
    assert "partial" in str(caught.value.found)
    placement, found, _ = placed("loihi2")
    events = lapilli.run(artifact, images, record="outputs").events
    fewer = {name: events[name] for name in list(events)[1:]}
    with pytest.raises(InputError) as caught:
        layout(placement, CHIPS["loihi2"], fewer, 1.0)
    assert next(iter(events)) in str(caught.value.found)
    with pytest.raises(InputError) as caught:
        estimate(
            fewer,
            CHIPS["loihi2"],
            latency_steps=9,
            interval_steps=9,
            ann_macs={},
            graded=True,
            layout=found,
        )
    assert caught.value.where == "layout"
