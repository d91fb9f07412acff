"""Energy: exact on a hand-computed example, monotone, honest about what it used and left out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapilli.compiler.errors import InputError
from lapilli.hardware_profiles import CONFIDENCES, Profile, ProfileError, Quantity, load, names
from lapilli.runtime.energy import Band, Estimate, estimate
from lapilli.runtime.metrics import PopulationEvents, Totals, check_events, totals

CONV = PopulationEvents(
    neurons=600,
    steps=4,
    images=2,
    spikes=100,
    synops=0,
    input_macs=2000,
    neuron_updates=4800,
    synapses=50,
)
OUT = PopulationEvents(
    neurons=10,
    steps=4,
    images=2,
    spikes=0,
    synops=3000,
    input_macs=0,
    neuron_updates=80,
    synapses=6000,
)
SMALL = {"conv": CONV, "out": OUT}
ABLE = [n for n in names() if load(n).energy is not None]
ANN = {"conv": 10_000, "fc": 6_000}


def run(
    profile: str | Profile = "loihi1",
    events: Mapping[str, PopulationEvents] | None = None,
    *,
    latency_steps: int = 8,
    interval_steps: int = 4,
    graded: bool = False,
) -> Estimate:
    return estimate(
        SMALL if events is None else events,
        load(profile) if isinstance(profile, str) else profile,
        latency_steps=latency_steps,
        interval_steps=interval_steps,
        ann_macs=ANN,
        graded=graded,
    )


def exactly(value: float) -> Any:
    """Equal but for the rounding of the last bits of a float64 sum."""
    return pytest.approx(value, rel=1e-12, abs=0)


def bands(value: Any, where: str = "") -> Iterator[tuple[str, Band]]:
    """Every band inside an estimate, with its place."""
    if isinstance(value, Band):
        yield where, value
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from bands(item, f"{where}[{i}]")
    elif hasattr(value, "__dataclass_fields__"):
        for f in fields(value):
            yield from bands(getattr(value, f.name), f"{where}.{f.name}".lstrip("."))


def test_loihi1_by_hand() -> None:
    e = run("loihi1")
    assert (e.cores, e.chips, e.images) == (3, 1, 2)  # 1200 and 20 compartments of 1024
    conv, out = e.layers
    # 2 compartments; per image 600 * 4 accesses and 2400 updates, 50 spikes, 1000 input MACs.
    assert conv.neuron_updates_pj.mid == exactly(4800 * 51.2 + 4800 * 21.6)
    assert conv.spikes_pj.mid == exactly(50 * (69.3 + 111.0))
    assert conv.synops_pj.mid == 0 and conv.input_pj.mid == 0
    assert conv.host_pj.mid == exactly(1000 * 0.23)
    assert conv.dynamic_pj.mid == exactly(358_455)
    assert out.synops_pj.mid == exactly(1500 * 35.5)
    assert out.dynamic_pj.mid == exactly(53_250 + 5_824)
    assert e.total.name == "total"
    assert e.total.dynamic_pj.mid == exactly(417_529)
    assert e.total.host_pj.mid == exactly(230)
    # Step: (1200 * 6.0 + 1200 * 3.7 + 12.5 * 35.1) / 2 cores + 1800 barrier, in ns.
    assert e.bottleneck == "conv"
    assert e.step_time_us.mid == exactly(7.839_375)
    assert (e.single.steps, e.streaming.steps) == (8, 4)
    assert e.single.time_us.mid == exactly(62.715)
    assert e.single.chip_static_pj.mid == exactly(29.69 * 62_715)
    assert e.single.chip_running_pj.mid == exactly(70 * 62_715)
    assert e.single.busy_cores_pj.mid == 0
    assert e.single.idle_access_pj.mid == exactly(610 * 2 * 4 * 51.2)
    assert e.single.total_pj.mid == exactly(99.69 * 62_715 + 249_856 + 417_529)
    product = e.single.energy_delay_pj_us
    assert product.mid == exactly(62.715 * e.single.total_pj.mid)
    # The two err together: its band is wider than that of either alone.
    assert product.high / product.mid > e.single.total_pj.high / e.single.total_pj.mid
    assert e.streaming.idle_access_pj.mid == 0
    assert e.streaming.total_pj.mid == exactly(99.69 * 31_357.5 + 417_529)


def test_loihi2_by_hand() -> None:
    e = run("loihi2", graded=True)
    assert (e.cores, e.chips, e.bottleneck) == (2, 1, "conv")
    conv, out = e.layers
    assert conv.input_pj.mid == exactly(1000 * 15.7) and conv.host_pj.mid == 0
    assert conv.neuron_updates_pj.mid == exactly(2400 * 61.9)
    assert conv.spikes_pj.mid == 0
    assert out.synops_pj.mid == exactly(1500 * 15.7)
    # Step: 250 input MACs * 1.0 ns + 600 updates * 4.2 ns on one core, above 1.77 us.
    assert e.step_time_us.mid == exactly(2.77)
    assert e.single.time_us.mid == exactly(22.16)
    assert e.single.chip_static_pj.mid == exactly(232.078 * 22_160)
    assert e.single.busy_cores_pj.mid == exactly(2 * 2.0 * 22_160)
    assert e.single.idle_access_pj.mid == 0


def test_the_step_floor_and_several_chips() -> None:
    tiny = run("loihi2", {"out": replace(OUT, synops=8)})
    assert (tiny.bottleneck, tiny.step_time_us.mid) == (None, 1.77)
    wide = run("loihi2", {"out": replace(OUT, neurons=120 * 4096 + 1)})
    assert (wide.cores, wide.chips) == (121, 2)
    assert wide.single.chip_static_pj.mid == exactly(2 * 232.078 * 1000 * wide.single.time_us.mid)


def test_the_ann_and_the_snn_on_45_nm() -> None:
    binary, graded = run("loihi2"), run("loihi2", graded=True)
    assert [(c.name, c.macs, c.accumulates) for c in binary.ann] == [
        ("conv", 10_000, 0),
        ("fc", 6_000, 0),
    ]
    assert binary.ann_total.fp32_pj.mid == exactly(16_000 * 4.6)
    assert binary.ann_total.int8_pj.mid == exactly(16_000 * 0.23)
    total = binary.reference_snn_total
    assert (total.macs, total.accumulates) == (1000, 1500)
    assert total.fp32_pj.mid == exactly(1000 * 4.6 + 1500 * 0.9)
    assert total.int8_pj.mid == exactly(1000 * 0.23 + 1500 * 0.03)
    assert (graded.reference_snn_total.macs, graded.reference_snn_total.accumulates) == (2500, 0)
    assert graded.ann == binary.ann


def test_the_devices_of_keras_spiking() -> None:
    """By hand: 1500 synops, 1000 input values and 2440 updates an image; the ANN once."""
    table = {d.name: d for d in run("loihi2").devices}
    assert list(table) == ["cpu", "gpu", "arm", "loihi", "spinnaker", "spinnaker2"]
    assert table["cpu"].energy_pj.mid == exactly((16_000 + 610) * 8600)
    assert table["gpu"].energy_pj.mid == exactly((16_000 + 610) * 300)
    assert table["arm"].energy_pj.mid == exactly((16_000 + 610) * 900)
    assert table["loihi"].energy_pj.mid == exactly(2500 * 27.1 + 2440 * 81)
    assert table["spinnaker"].energy_pj.mid == exactly(2500 * 13_300 + 2440 * 26_000)
    assert table["spinnaker2"].energy_pj.mid == exactly(2500 * 450 + 2440 * 2190)
    for device in table.values():
        assert device.energy_pj.low < device.energy_pj.mid < device.energy_pj.high
        for used in (device.synop_pj, device.neuron_pj):
            assert used.unit == "pJ" and used.confidence == "quoted"
            assert "keras-spiking" in used.source and "cites" in used.source


@pytest.mark.parametrize("name", ["loihi1", "loihi2"])
def test_bands_contain_their_middle(name: str) -> None:
    found = dict(bands(run(name)))
    assert len(found) > 40
    for where, band in found.items():
        assert 0 <= band.low <= band.mid <= band.high, where
    assert found["total.synops_pj"].low < found["total.synops_pj"].high


def test_bands_follow_the_confidence() -> None:
    for name, confidence in (("loihi1", "published"), ("loihi2", "inferred")):
        factor = next(t.factor for c, t in CONFIDENCES.items() if c == confidence)
        synops = run(name).total.synops_pj
        assert (synops.low, synops.high) == (
            exactly(synops.mid / factor),
            exactly(synops.mid * factor),
        )
    assert CONFIDENCES["inferred"].factor == 3


COUNTS = st.integers(0, 10**7)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["loihi1", "loihi2"]),
    st.sampled_from(["spikes", "synops", "input_macs", "neuron_updates"]),
    COUNTS,
    COUNTS,
)
def test_more_events_never_cost_less(name: str, count: str, start: int, more: int) -> None:
    def cost(value: int) -> dict[str, Band]:
        return dict(bands(run(name, {"conv": replace(CONV, **{count: value}), "out": OUT})))

    fewer, greater = cost(start), cost(start + more)
    assert fewer.keys() == greater.keys()
    for where, band in fewer.items():
        other = greater[where]
        assert band.low <= other.low and band.mid <= other.mid and band.high <= other.high, where
    # The profile of Loihi 2 knows no energy per spike.
    free = more == 0 or (name, count) == ("loihi2", "spikes")
    assert (fewer == greater) == free


def changed(profile: Profile, key: str) -> Profile:
    """The profile with one value doubled, negated or replaced."""
    section, name = key.split(".")
    part = getattr(profile, section)
    quantity: Quantity[Any] = getattr(part, name)
    value = quantity.value
    other = (
        not value if isinstance(value, bool) else "core" if isinstance(value, str) else 2 * value
    )
    return replace(profile, **{section: replace(part, **{name: replace(quantity, value=other)})})


@pytest.mark.parametrize("name", ["loihi1", "loihi2"])
def test_sources_are_exactly_the_constants_that_matter(name: str) -> None:
    """Each constant in turn is changed: the figures move if and only if it is listed."""
    profile = load(name)
    huge = {"conv": replace(CONV, neurons=600_000, synops=10**9), "out": OUT}
    cases = (SMALL, huge, {"out": replace(OUT, synops=8)})

    def figures(p: Profile) -> list[dict[str, Band]]:
        return [dict(bands(run(p, events))) for events in cases]

    before = figures(profile)
    keys = [key for key, _ in profile.quantities()]
    moving = {key for key in keys if figures(changed(profile, key)) != before}
    sources = run(name).sources
    listed = [s.key.removeprefix(f"{name}.") for s in sources if s.key.startswith(f"{name}.")]
    assert set(listed) == moving
    assert len(sources) == len(listed) + 4
    given_values = dict(profile.quantities())
    for source in sources[: len(listed)]:
        q = given_values[source.key.removeprefix(f"{name}.")]
        assert (source.value, source.unit, source.confidence, source.source) == (
            q.value,
            q.unit,
            q.confidence,
            q.source,
        )


def test_the_four_constants_of_the_reference_matter() -> None:
    cmos = load("cmos45")

    def figures(reference: Profile) -> dict[str, Band]:
        e = estimate(
            SMALL,
            load("loihi1"),
            latency_steps=8,
            interval_steps=4,
            ann_macs=ANN,
            graded=False,
            reference_profile=reference,
        )
        return dict(bands(e))

    keys = [key for key, _ in cmos.quantities()]
    moving = {key for key in keys if figures(changed(cmos, key)) != figures(cmos)}
    listed = {s.key.removeprefix("cmos45.") for s in run().sources if s.key.startswith("cmos45.")}
    assert moving == listed
    assert len(listed) == 4


def test_what_is_assumed_and_not_counted_is_said() -> None:
    one, two = run("loihi1"), run("loihi2", graded=True)
    for e in (one, two):
        assert any("hops between cores" in line for line in e.not_counted)
        assert any("fewest cores" in line for line in e.assumptions)
    assert one.calibrated and not any("not calibrated" in line for line in one.assumptions)
    assert not two.calibrated and "not calibrated" in two.assumptions[0]
    assert any("host computes the analog input" in line for line in one.assumptions)
    assert not any("host computes" in line for line in two.assumptions)
    assert any("payload" in line for line in two.assumptions)
    assert two.not_counted[-1] == (
        "not known separately for Intel Loihi 2 (Intel 4, 2021): neuron access, "
        "spike generation, sending packets, power of x86 cores and mesh while running"
    )


def test_the_dictionary_has_stable_keys() -> None:
    e = run("loihi2")
    d = json.loads(json.dumps(e.as_dict(), allow_nan=False))
    band = {"low", "mid", "high"}
    layer = {"name", "synops_pj", "neuron_updates_pj", "spikes_pj", "input_pj", "dynamic_pj"}
    layer |= {"host_pj", "hops_pj"}
    duration = {"steps", "time_us", "chip_static_pj", "chip_running_pj", "busy_cores_pj"}
    duration |= {"idle_access_pj", "dynamic_pj", "total_pj", "board_total_pj"}
    duration |= {"energy_delay_pj_us"}
    cost = {"name", "macs", "accumulates", "fp32_pj", "int8_pj"}
    top = {"profile", "title", "calibrated", "reference", "images", "cores", "chips", "layers"}
    top |= {"total", "step_time_us", "bottleneck", "single", "streaming", "ann", "ann_total"}
    top |= {"reference_snn", "reference_snn_total", "sources", "assumptions", "not_counted"}
    top |= {"uncertainty", "devices", "placement"}
    assert d.keys() == top
    assert d["total"].keys() == d["layers"][0].keys() == layer
    assert d["single"].keys() == d["streaming"].keys() == duration
    assert d["ann"][0].keys() == d["reference_snn_total"].keys() == cost
    device = {"name", "title", "spiking", "synops", "neuron_updates", "energy_pj"}
    assert d["devices"][0].keys() == device | {"synop_pj", "neuron_pj"}
    assert d["uncertainty"].keys() == {"distribution", "draws", "seed", "within", "shares"}
    assert d["uncertainty"]["shares"][0].keys() == {"figure", "key", "confidence", "share"}
    assert d["sources"][0].keys() == {"key", "value", "unit", "confidence", "source"}
    assert d["step_time_us"].keys() == d["ann_total"]["fp32_pj"].keys() == band
    assert [entry["name"] for entry in d["layers"]] == ["conv", "out"]
    assert d["single"]["total_pj"]["high"] == e.single.total_pj.high


def profile_refusal(**changes: Any) -> ProfileError:
    arguments: dict[str, Any] = {
        "profile": load("loihi1"),
        "latency_steps": 8,
        "interval_steps": 4,
        "ann_macs": ANN,
        "graded": False,
    }
    with pytest.raises(ProfileError) as caught:
        estimate(SMALL, **{**arguments, **changes})
    return caught.value


@pytest.mark.parametrize("name", ["unlimited", "cmos45"])
def test_a_profile_without_energy_is_refused(name: str) -> None:
    error = profile_refusal(profile=load(name))
    assert error.where == f"profile {name}"
    assert error.found == "no energy, time, limits.neurons_per_core, limits.cores_per_chip"
    assert error.allowed == " or ".join(ABLE)
    assert "profile file" in error.remedy


def test_a_reference_without_arithmetic_is_refused() -> None:
    error = profile_refusal(reference_profile=load("loihi2"))
    assert error.where == "reference profile loihi2"
    assert (error.found, error.allowed) == ("no arithmetic", "cmos45")


def input_refusal(
    events: Mapping[str, PopulationEvents] = SMALL, profile: str = "loihi1", **changes: Any
) -> InputError:
    arguments = {"latency_steps": 8, "interval_steps": 4, "ann_macs": ANN, "graded": False}
    with pytest.raises(InputError) as caught:
        estimate(events, load(profile), **{**arguments, **changes})
    error = caught.value
    assert error.exit_code == 2
    assert all((error.where, error.rule, error.found, error.allowed, error.remedy))
    return error


def test_steps_shorter_than_the_work_are_refused() -> None:
    for name in ("latency_steps", "interval_steps"):
        changes: dict[str, Any] = {name: 3}
        error = input_refusal(**changes)
        assert (error.where, error.found, error.allowed) == (name, "3", ">= 4")


def test_impossible_runs_are_refused() -> None:
    graded = input_refusal(graded=True)
    assert (graded.where, graded.allowed) == ("loihi1", "binary spikes")
    negative = input_refusal(ann_macs={"fc": -1})
    assert (negative.where, negative.found) == ("ann_macs['fc']", "-1")


UNCOUNTED = ("synops_excitatory", "synops_inhibitory", "synops_graded", "updates_with_input")


@pytest.mark.parametrize("field", [f.name for f in fields(PopulationEvents)])
def test_impossible_counts_are_refused(field: str) -> None:
    wrong: tuple[Any, ...] = (-1, 1.0, True, None)
    if field in UNCOUNTED:
        assert check_events({"out": replace(OUT, **{field: None})}) == 2
        wrong = wrong[:-1]
    for value in wrong:
        error = input_refusal({"conv": CONV, "out": replace(OUT, **{field: value})})
        assert (error.where, error.found) == (f"out.{field}", repr(value))


def test_empty_and_mixed_runs_are_refused() -> None:
    assert input_refusal({}).where == "events"
    mixed = input_refusal({"conv": CONV, "out": replace(OUT, images=3)})
    assert (mixed.where, mixed.found, mixed.allowed) == ("out.images", "3", "2")


def test_totals_are_means_per_image() -> None:
    assert check_events(SMALL) == 2
    assert totals(SMALL) == Totals(
        neurons=610,
        synapses=6050,
        images=2,
        spikes_per_image=50.0,
        synops_per_image=1500.0,
        input_macs_per_image=1000.0,
        neuron_updates_per_image=2440.0,
    )


def test_energy_needs_no_torch() -> None:
    code = "import sys, lapilli.runtime.energy; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_every_profile_with_energy_can_be_estimated() -> None:
    assert {"loihi1", "loihi2", "oheo-gulch"} <= set(ABLE)
    assert [run(n).profile for n in ABLE] == ABLE
