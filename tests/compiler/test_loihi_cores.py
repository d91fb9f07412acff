"""The configuration for Loihi core by core: what they say fits, and is what placement counted."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest
from artifact_samples import PROVENANCE
from chips import chip, with_graded
from netlists import CODINGS, Coding, random_netlist
from synapse_structure import structure

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.interchange import loihi_export, loihi_import
from lapilli.compiler.linear import Dense
from lapilli.compiler.mapping import place
from lapilli.compiler.netlist import Netlist
from lapilli.hardware_profiles import Profile

SCHEMA = json.loads(
    (files("lapilli.compiler.interchange") / "loihi_schema.json").read_text("utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SEVERAL = chip(neurons_per_core=45, cores_per_chip=4)
LISTED = with_graded(chip("loihi1", neurons_per_core=90))


def exported(netlist: Netlist, profile: Profile = SEVERAL) -> Any:
    """The document as it comes out of the file."""
    artifact = Artifact(netlist, PROVENANCE)
    placement = place(netlist, profile, effort=0)
    made = loihi_export.configuration(artifact, placement, profile)
    return json.loads(loihi_export.text(made))


def sample(seed: int = 0, coding: Coding = "graded") -> Netlist:
    return random_netlist(np.random.default_rng(seed), coding)


@pytest.mark.parametrize("coding", [*CODINGS, "train"])
@pytest.mark.parametrize("profile", [SEVERAL, LISTED], ids=["rows", "lists"])
def test_what_a_core_says_fits_what_the_others_say(coding: Coding, profile: Profile) -> None:
    netlist = sample(1, coding)
    placement = place(netlist, profile, effort=0)
    document = exported(netlist, profile)
    cores = document["cores"]
    assert len(cores) > 3
    arriving = {
        (axon["core"], core["index"], *said(axon))
        for core in cores
        for axon in core["axons_in"]
        if axon["core"] is not None
    }
    leaving = {
        (core["index"], axon["core"], *said(axon)) for core in cores for axon in core["axons_out"]
    }
    assert arriving == leaving
    assert arriving
    for core in cores:
        usage = core["usage"]
        groups = core["synapse_groups"]
        assert usage["output_axons"] == sum(axon["neurons"] for axon in core["axons_out"])
        assert usage["synapse_words"] == sum(g["words"] or 0 for g in groups)
        assert usage["neuron_groups"] == len({g["population"] for g in core["neuron_groups"]})
        assert usage["synapse_formats"] == len({g["connection"] for g in groups})
        for axon in core["axons_in"]:
            assert groups[axon["synapse_group"]]["connection"] == axon["connection"]
        for group in groups:
            connection = document["connections"][group["connection"]]
            assert group["bits"] == (group["words"] and 64 * group["words"])
            for key in ("source", "target", "exponent", "delay", "weights"):
                assert group[key] == connection[key]
            for key in ("kind", "weight_bits", "sign_mode"):
                assert group[key] == connection["synapse"][key]
    sent = placement.traffic
    edges = zip(sent.source.tolist(), sent.target.tolist(), strict=True)
    assert pairs_of_cores(document) == dict(zip(edges, sent.axons.tolist(), strict=True))
    for core, from_host in zip(cores, sent.host_packets.tolist(), strict=True):
        assert from_host == sum(a["neurons"] for a in core["axons_in"] if a["core"] is None)
    for index, _ in enumerate(netlist.connections):
        check_synapses(document, netlist, index)


def said(axon: Any) -> tuple[Any, ...]:
    """What both ends of an axon say of it."""
    return axon["connection"], axon["synapse_group"], str(axon["box"]), axon["neurons"]


def pairs_of_cores(document: Any) -> dict[tuple[int, int], int]:
    """Axons from core to core, added up over the document."""
    found: Counter[tuple[int, int]] = Counter()
    for core in document["cores"]:
        for axon in core["axons_in"]:
            if axon["core"] is not None:
                found[axon["core"], core["index"]] += axon["neurons"]
    return dict(found)


def check_synapses(document: Any, netlist: Netlist, index: int) -> None:
    """Each neuron has its synapses once, and each of its sources an axon per group, none else."""
    c = netlist.connections[index]
    source, target = netlist[c.source].shape, netlist[c.target].shape
    held = np.zeros(target, np.int64)
    rows = structure(c.map)
    analog = document["connections"][index]["computed_by"] == "host"
    for core in document["cores"]:
        for number, group in enumerate(core["synapse_groups"]):
            if group["connection"] != index:
                continue
            here = np.zeros(target, np.int64)
            for box in group["boxes"]:
                here[tuple(slice(*axis) for axis in box)] += 1
            held += here
            synapses = rows[here.reshape(-1) == 1]
            assert group["synapses"] == synapses.sum()
            reached = synapses.any(axis=0).reshape(source)
            axons = [a for a in core["axons_in"] if a["synapse_group"] == number]
            assert sum(a["neurons"] for a in axons) == reached.sum()
            for axon in axons:
                box = tuple(slice(*axis) for axis in axon["box"])
                assert reached[box].sum() >= axon["neurons"]
    assert (held == (not analog)).all()


def test_relays_that_placement_added_are_in_the_file() -> None:
    """Of a layer with more inputs than a core takes."""
    netlist = sample(1)
    inputs = max(c.map.in_size for c in netlist.connections if isinstance(c.map, Dense))
    profile = chip(input_axons_per_core=inputs // 2)
    placed = place(netlist, profile, effort=0).netlist
    assert len(placed.populations) > len(netlist.populations)
    document = exported(netlist, profile)
    VALIDATOR.validate(document)
    rebuilt = loihi_import.rebuild(document)
    assert Artifact(rebuilt, PROVENANCE).hash == document["netlist_hash"]
    assert document["model_hash"] == Artifact(netlist, PROVENANCE).hash
    assert document["netlist_hash"] == Artifact(placed, PROVENANCE).hash
    assert document["netlist_hash"] != document["model_hash"]
    for index, _ in enumerate(placed.connections):
        check_synapses(document, placed, index)


def test_ports_reach_the_right_cores() -> None:
    netlist = sample(1)
    document = exported(netlist)
    (port,) = document["inputs"]
    fed = {
        core["index"] for core in document["cores"] for a in core["axons_in"] if a["core"] is None
    }
    assert port["population"] == netlist.input.name
    assert port["delivery"] == "spikes"
    assert set(port["cores"]) == fed
    assert port["connections"] == [
        i for i, c in enumerate(netlist.connections) if c.source == netlist.input.name
    ]
    assert [o["population"] for o in document["outputs"]] == [p.name for p in netlist.outputs]
    for output in document["outputs"]:
        held = [
            {"core": core["index"], "box": g["box"]}
            for core in document["cores"]
            for g in core["neuron_groups"]
            if g["population"] == output["population"]
        ]
        assert output["slices"] == held


def test_the_host_computes_what_binary_spikes_cannot_carry() -> None:
    netlist = sample(0, "rate")
    profile = chip("loihi1", neurons_per_core=60)
    document = exported(netlist, profile)
    VALIDATOR.validate(document)
    (port,) = document["inputs"]
    assert port["delivery"] == "drives"
    for index, c in enumerate(document["connections"]):
        analog = c["source"] == netlist.input.name
        assert c["computed_by"] == ("host" if analog else "cores")
        held = any(g["connection"] == index for d in document["cores"] for g in d["synapse_groups"])
        assert held != analog
    assert not any(a["core"] is None for core in document["cores"] for a in core["axons_in"])
    rebuilt = loihi_import.rebuild(document)
    assert Artifact(rebuilt, PROVENANCE).hash == document["netlist_hash"]
