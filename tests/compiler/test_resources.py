"""What boxes of neurons take of a core, and which limit that exceeds."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from chips import chip, quantity, with_graded
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import (
    ALL_CODINGS,
    Coding,
    connection,
    integers,
    population,
    proven,
    random_netlist,
)
from random_boxes import random_boxes
from synapse_structure import structure

from lapilli.compiler.linear import Conv, ConvTransposed, Diagonal, Shape, frozen
from lapilli.compiler.mapping import place
from lapilli.compiler.mapping.regions import Boxes, flat_boxes, indices, reshaped, whole
from lapilli.compiler.mapping.resources import (
    LIMITS,
    Excess,
    Usage,
    compartments_each,
    drives_of,
    excess,
    neuron_values,
    on_host,
    usage,
    values_of,
)
from lapilli.compiler.mapping.synapse_memory import is_native, words
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import LIF, HardResetIF, Ladder, Readout, Source
from lapilli.hardware_profiles import Profile, load

SEEDS = st.integers(0, 2**32 - 1)
CHIPS = {"rows": chip(), "lists": with_graded(chip("loihi1")), "host": chip("loihi1")}


def axons(c: Connection, p: Population, memory: Boxes) -> int:
    """Sources of some targets, or pixels of them for a kernel."""
    read = np.flatnonzero(structure(c.map)[indices(p.shape, memory)].any(axis=0))
    kernel = isinstance(c.map, Conv | ConvTransposed)
    return len(set((read % math.prod(c.map.in_shape[1:])).tolist())) if kernel else len(read)


@pytest.mark.parametrize("profile", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("coding", ALL_CODINGS)
@settings(max_examples=3)
@given(seed=SEEDS)
def test_the_usage_of_random_boxes(coding: Coding, profile: Profile, seed: int) -> None:
    rng = np.random.default_rng(seed)
    netlist = random_netlist(rng, coding)
    for p in netlist.populations:
        if isinstance(p.neuron, Source):
            continue
        boxes = random_boxes(rng, p.shape)
        found = usage(netlist, p, boxes, profile)
        drives = [c for c in netlist.into(p.name) if not on_host(netlist, c, profile)]
        assert list(drives_of(netlist, p, profile)) == drives
        neurons = indices(p.shape, boxes)
        memories = [boxes] if is_native(profile) else [(box,) for box in boxes]
        stored = [words(c, reshaped(boxes, p.shape, c.map.out_shape), profile) for c in drives]
        arriving = sum(axons(c, p, memory) for c in drives for memory in memories)
        tables = thresholds(p, neurons)
        rungs = max((len(getattr(p.neuron, name)) for name in p.neuron.LEADING), default=0)
        each = profile.limits.neuron_words
        assert found == Usage(
            compartments=len(neurons) * compartments_each(p, profile),
            neuron_groups=1,
            synapse_words=sum(total for total, _ in stored),
            longest_list=max((longest for _, longest in stored), default=0),
            pool_words=sum(total for total, _ in stored)
            + arriving
            + len(neurons) * (each.value if each else 0)
            + tables * rungs,
            synapse_formats=len(drives),
            input_axons=arriving,
            threshold_profiles=tables,
            compartment_profiles=1,
        )


def thresholds(p: Population, neurons: object) -> int:
    """Different thresholds, or ladders with their rises, of some neurons."""
    tables = []
    for name in p.neuron.LEADING or ("threshold",):
        if hasattr(p.neuron, name):
            values = np.asarray(getattr(p.neuron, name))
            rungs = values if p.neuron.LEADING else values[None]
            tables += [np.broadcast_to(rung, p.shape).reshape(-1)[neurons] for rung in rungs]
    return len(set(zip(*(table.tolist() for table in tables), strict=True))) if tables else 0


@pytest.mark.parametrize("coding", ALL_CODINGS)
def test_a_neuron_that_subtracts_its_threshold_takes_two_compartments_of_loihi_1(
    coding: Coding,
) -> None:
    netlist = random_netlist(np.random.default_rng(1), coding)
    for p in netlist.populations:
        leading = p.neuron.LEADING or ("threshold",)
        subtracts = any(hasattr(p.neuron, name) for name in leading)
        subtracts &= not isinstance(p.neuron, HardResetIF | LIF)
        assert compartments_each(p, load("loihi1")) == (2 if subtracts else 1)
        assert compartments_each(p, load("loihi2")) == 1


@pytest.mark.parametrize(
    ("rungs", "rises", "ladders"),
    [
        ((5,), (5,), [1, 1, 1]),
        ((5, 4, 1, 1), (5,), [1, 2, 4]),
        ((5,), (5, 4, 1, 1), [1, 2, 4]),
        ((5, 4, 1, 1), (5, 4, 1, 1), [1, 2, 4]),
        ((5, 4, 3, 3), (5,), [7, 4, 36]),
        ((5,), (5, 1, 3, 3), [7, 4, 9]),
        ((5, 4, 1, 1), (5, 1, 3, 3), [7, 4, 36]),
    ],
)
def test_different_ladders_take_memory_of_a_core(
    rungs: tuple[int, ...], rises: tuple[int, ...], ladders: list[int]
) -> None:
    """A word per rung of every ladder, thresholds and rises together, that neurons do not share."""
    shape, zero = (4, 3, 3), integers(0)
    thresholds = np.arange(math.prod(rungs[1:])).reshape(1, *rungs[1:]) * 5
    thresholds = thresholds + np.arange(5).reshape(5, *(1,) * (len(rungs) - 1))
    codes = np.arange(math.prod(rises[1:])).reshape(1, *rises[1:])
    bits = codes // 3 ** np.arange(5).reshape(5, *(1,) * (len(rises) - 1)) % 3 - 1
    ladder = Ladder(integers(thresholds), integers(bits), zero, zero, zero, -5, 5, "graded")
    one = Diagonal(frozen(np.int8(1)), shape, shape)
    drives = (connection("input", "it", one), connection("it", "out", one))
    source, out = population("input", shape, Source(-9, 9, "first")), Readout(zero, zero)
    populations = (source, population("it", shape, ladder), population("out", shape, out))
    netlist = proven(Netlist(populations, drives, 1))
    netlist.verify()
    shared = replace(ladder, thresholds=integers([0]), rises=integers([1]))
    plain = replace(netlist, populations=(source, population("it", shape, shared), populations[2]))
    for (start, stop), wanted in zip(((1, 8), (7, 11), (0, 36)), ladders, strict=True):
        boxes = tuple(flat_boxes(shape, start, stop))
        of = [usage(n, n["it"], boxes, chip()) for n in (netlist, plain)]
        assert of[0].threshold_profiles == wanted
        assert of[0].pool_words - of[1].pool_words == 5 * wanted - 1
        assert of[0].compartments == stop - start
    assert sum(len(core.slices) for core in place(netlist, chip(neurons_per_core=9)).cores) >= 8


def test_usages_add_up_but_for_the_longest_list() -> None:
    names = [field.name for field in fields(Usage)]
    one, other = (Usage(**{n: i * k for i, n in enumerate(names, 1)}) for k in (1, 10))
    for i, name in enumerate(names, 1):
        wanted = 10 * i if name == "longest_list" else 11 * i
        assert getattr(one + other, name) == getattr(other + one, name) == wanted


@pytest.mark.parametrize("limit", LIMITS)
def test_every_limit_is_looked_at(limit: str) -> None:
    taken = Usage(**{LIMITS[limit]: 7})
    roomy = load("unlimited")
    for allowed, found in ((6, Excess(limit, 7, 6)), (7, None)):
        limits = replace(roomy.limits, **{limit: quantity(allowed)})
        assert excess(taken, replace(roomy, limits=limits)) == found
    assert excess(taken, roomy) is None


@given(data=st.data())
def test_a_parameter_of_each_neuron(data: st.DataObject) -> None:
    shape: Shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    own = data.draw(st.lists(st.integers(1, 3), max_size=1))
    inner = [data.draw(st.sampled_from([1, n])) for n in shape]
    wanted = (*own, *inner[data.draw(st.integers(0, len(shape))) :])
    values = np.random.default_rng(data.draw(SEEDS)).integers(0, 1000, wanted)
    spread = values_of(values, shape, len(own))
    assert spread.shape == (*own, *shape)
    for rung in np.ndindex(*own):
        assert (spread[rung] == np.broadcast_to(values[rung], shape)).all()
    assert neuron_values(values, shape, len(own)).tolist() == spread.reshape(*own, -1).tolist()


def test_no_boxes_take_nothing_that_neurons_take() -> None:
    netlist = random_netlist(np.random.default_rng(0), "graded")
    p = netlist["head"]
    assert usage(netlist, p, (), chip()).compartments == 0
    assert usage(netlist, p, (whole(p.shape),), chip()).compartments == p.size
