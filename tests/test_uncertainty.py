"""Bands: as wide as the constants behind them, the same every time, and told by whose fault."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lapilli.compiler.errors import InputError
from lapilli.hardware_profiles import CONFIDENCES, Quantity, load
from lapilli.runtime import uncertainty as bands
from lapilli.runtime.energy import Estimate, estimate
from lapilli.runtime.metrics import PopulationEvents
from lapilli.runtime.uncertainty import DRAWS, Constants, band, deviations, drawn, shares

EVENTS = {
    "conv": PopulationEvents(600, 4, 2, 100, 0, 2000, 4800, 50),
    "out": PopulationEvents(10, 4, 2, 0, 300_000, 0, 80, 6000),
}


def run(profile: Any = "loihi2", **changes: Any) -> Estimate:
    return estimate(
        EVENTS,
        load(profile) if isinstance(profile, str) else profile,
        **{"latency_steps": 8, "interval_steps": 4, "ann_macs": {}, "graded": False, **changes},
    )


def quantity(value: float, confidence: Any) -> Quantity[float]:
    return Quantity(value, "pJ", "a test", confidence)


def exactly(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=0)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_the_band_of_a_constant_is_its_own(confidence: str) -> None:
    factor = CONFIDENCES[confidence].factor  # type: ignore[index]
    found = band(3 * drawn("x", quantity(7.0, confidence)))
    assert found.mid == 21
    assert (found.low, found.high) == (exactly(21 / factor), exactly(21 * factor))


def test_nineteen_of_twenty_fresh_draws_lie_within_the_band() -> None:
    """Of a sum of products, drawn once more by other random numbers, without strata."""
    names = {"a": "inferred", "b": "published", "c": "assumed"}
    a, b, c = (drawn(name, quantity(2.0, trust)) for name, trust in names.items())
    found = band(a * b + 3 * c)
    rng = np.random.default_rng(1)
    size = 40_000

    def fresh(trust: Any) -> Any:
        sigma = math.log(CONFIDENCES[trust].factor) / 1.959964
        return 2.0 * np.exp(sigma * rng.standard_normal(size))

    a, b, c = (fresh(trust) for trust in names.values())
    results = a * b + 3 * c
    within = np.count_nonzero((results >= found.low) & (results <= found.high)) / size
    assert 0.94 < within < 0.96
    assert abs(np.count_nonzero(results < found.low) / size - 0.025) < 0.006


def test_draws_belong_to_the_name_of_a_constant() -> None:
    first = deviations("loihi2.energy.synop_pj")
    assert first.shape == (DRAWS + 1,) and first[0] == 0
    assert sorted(first[1:]) == sorted(deviations("other")[1:])
    assert (first != deviations("other")).sum() > DRAWS - 100
    correlation = np.corrcoef(first[1:], deviations("other")[1:])[0, 1]
    assert abs(correlation) < 0.05
    bands.deviations.cache_clear()
    np.testing.assert_array_equal(first, deviations("loihi2.energy.synop_pj"))
    # The first draws, so that no other numpy and no other machine ever gives other bands.
    assert first[1:4] == pytest.approx(FIRST, rel=1e-9)


FIRST = [-0.9308112301830351, 1.7217106274006557, -0.8264716644529089]


def test_a_board_has_the_draws_of_its_chip() -> None:
    chip, board = Constants(load("loihi2")), Constants(load("oheo-gulch"))
    np.testing.assert_array_equal(chip("energy.synop_pj"), board("energy.synop_pj"))
    assert run("oheo-gulch").total == run("loihi2").total
    named = [source.key for source in run("oheo-gulch").sources]
    assert {"loihi2.energy.synop_pj", "oheo-gulch.system.board_static_mw"} <= set(named)


def test_shares_of_a_product_are_exact() -> None:
    """The variance of a logarithm of a product is the sum of those of its factors."""
    trusts = {"a": "measured", "b": "inferred", "c": "published"}
    constants = {name: quantity(2.0, trust) for name, trust in trusts.items()}
    a, b, c = (drawn(name, q) for name, q in constants.items())
    variances = {n: math.log(CONFIDENCES[t].factor) ** 2 for n, t in trusts.items()}  # type: ignore[index]
    found = shares({"product": a * b * c, "nothing": 0 * a}, constants)
    assert [s.key for s in found] == ["b", "c", "a"]
    assert {s.figure for s in found} == {"product"}
    for share in found:
        assert share.share == pytest.approx(
            variances[share.key] / sum(variances.values()), abs=0.03
        )
        assert share.confidence == trusts[share.key]


def test_shares_add_up_and_the_dominant_one_is_the_first() -> None:
    found = run().uncertainty
    assert (found.distribution, found.draws, found.within) == ("log-normal", DRAWS, 0.95)
    for figure in ("total.dynamic_pj", "step_time_us", "single.total_pj", "streaming.total_pj"):
        parts = [s.share for s in found.shares if s.figure == figure]
        assert parts == sorted(parts, reverse=True)
        assert 0.97 < sum(parts) <= 1 + 1e-9
        dominant = found.dominant(figure)
        assert dominant is not None and dominant.share == parts[0]
    assert found.dominant("host") is None


@pytest.mark.parametrize("profile", ["loihi1", "loihi2"])
def test_to_know_the_dominant_constant_narrows_the_band_most(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each constant in turn is held at its value, the others drawn as before."""
    figure = "single.total_pj"
    found = run(profile).uncertainty

    def width(e: Estimate) -> float:
        return math.log(e.single.total_pj.high / e.single.total_pj.low)

    usual, whole = bands.deviations, width(run(profile))
    narrowed = {}
    for key in {s.key for s in found.shares if s.figure == figure}:

        def held(name: str, key: str = key) -> Any:
            return usual(name) * (name != key)

        monkeypatch.setattr(bands, "deviations", held)
        narrowed[key] = whole - width(run(profile))
    dominant = found.dominant(figure)
    assert dominant is not None
    assert max(narrowed, key=lambda key: narrowed[key]) == dominant.key
    assert narrowed[dominant.key] > 0.1


def test_terms_can_be_left_out() -> None:
    whole, less = run(), run(without=["energy.chip_static_mw", "energy.busy_core_mw"])
    assert less.single.chip_static_pj.high == less.single.busy_cores_pj.high == 0
    rest = whole.single.total_pj.mid - whole.single.chip_static_pj.mid
    assert less.single.total_pj.mid == exactly(rest - whole.single.busy_cores_pj.mid)
    assert less.not_counted[0] == (
        "left out as asked for: energy.busy_core_mw, energy.chip_static_mw"
    )
    gone = {s.key for s in whole.sources} - {s.key for s in less.sources}
    assert gone == {"loihi2.energy.chip_static_mw", "loihi2.energy.busy_core_mw"}
    assert not any(share.key in gone for share in less.uncertainty.shares)
    # What is left out is no news about the chip.
    assert less.not_counted[-1] == whole.not_counted[-1]


@pytest.mark.parametrize("key", ["energy.spike_pj", "energy.synop", "limits.neurons_per_core"])
def test_only_known_constants_can_be_left_out(key: str) -> None:
    with pytest.raises(InputError, match="can be left out") as caught:
        run(without=[key])
    assert caught.value.found == key
    assert "energy.synop_pj" in caught.value.allowed


def test_on_a_board_its_power_replaces_that_of_its_chips() -> None:
    chip, board = run("loihi2"), run("oheo-gulch")
    assert chip.single.board_total_pj is None
    assert board.single.total_pj == chip.single.total_pj
    found = board.single.board_total_pj
    assert found is not None
    assert found.mid == exactly(
        1780.0 * 1000 * board.single.time_us.mid + board.single.dynamic_pj.mid
    )
    assert any("the board" in line for line in chip.not_counted)
    assert not any("the board" in line for line in board.not_counted)
    assert run("kapoho-point").single.board_total_pj is None  # nobody has published its power


def test_what_a_board_measures_as_dynamic() -> None:
    for profile in ("loihi1", "loihi2"):
        e = run(profile)
        parts = (e.total.dynamic_pj, e.single.busy_cores_pj, e.single.idle_access_pj)
        assert e.single.dynamic_pj.mid == exactly(sum(part.mid for part in parts))
        sums = sum(part.low for part in parts), sum(part.high for part in parts)
        assert sums[0] <= e.single.dynamic_pj.low < e.single.dynamic_pj.high <= sums[1]


def test_a_more_trusted_profile_has_narrower_bands() -> None:
    profile = load("loihi2")
    assert profile.energy is not None
    measured = replace(profile.energy.synop_pj, confidence="measured")
    sure = run(replace(profile, energy=replace(profile.energy, synop_pj=measured)))
    assert run().total.synops_pj.low < sure.total.synops_pj.low
    assert sure.total.synops_pj.high < run().total.synops_pj.high
    assert sure.total.synops_pj.mid == run().total.synops_pj.mid
