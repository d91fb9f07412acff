"""What an estimate assumes and what it leaves out, in words."""

from __future__ import annotations

from collections.abc import Collection

from lapilli.hardware_profiles import Profile
from lapilli.runtime.layout import Layout, OnCores
from lapilli.runtime.uncertainty import WITHIN

_NOT_SEPARATE = {
    "neuron access": "energy.neuron_access_pj",
    "spike generation": "energy.spike_pj",
    "sending packets": "energy.axon_out_pj",
    "power of x86 cores and mesh while running": "energy.chip_running_mw",
    "power of cores in use": "energy.busy_core_mw",
}
_NOT_SEPARATE_PLACED = {
    "hops between cores": "energy.hop_east_west_pj",
    "time of sending packets": "time.axon_out_ns",
    "time of receiving packets": "time.axon_in_ns",
    "time of hops": "time.hop_east_west_ns",
}


def assumptions(
    profile: Profile, layout: Layout, neurons_per_core: int, graded: bool
) -> tuple[str, ...]:
    """What the figures rest on beside the constants."""
    if layout.placed is None:
        each = max(layout.compartments.values())
        lines = [
            "Each population is spread evenly over the fewest cores that hold its neurons; "
            f"a core holds {neurons_per_core} compartments and serves one population.",
            f"Each neuron takes {each} compartment(s), each charged as a neuron.",
            "Every step takes as long as the busiest core in a mean step of its window.",
            "Each spike is one packet to one core.",
        ]
    else:
        lines = _placed(layout.placed)
    lines.append(
        f"Constants err independently of each other; a band holds {100 * WITHIN:g} % of the draws."
    )
    if not profile.calibrated:
        lines.insert(0, f"The constants of {profile.title} are not calibrated against silicon.")
    if graded:
        lines.append("A synaptic event with a payload costs the chip as much as a binary one.")
    if not profile.features.graded_spikes.value:
        lines.append("The host computes the analog input, as int8 operations (see host_pj).")
    return tuple(lines)


def _placed(placed: OnCores) -> list[str]:
    lines = [
        f"Cores hold what the placement for {placed.objective} says, see lapilli map.",
        "The neurons of a population spike equally often: packets, hops and the work of single "
        "cores follow from the spikes counted in it.",
        "Every step takes as long as the busiest core or link in a mean step of its window; all "
        "neurons of a core work in the same step.",
    ]
    if placed.from_host_in_all.packets:
        lines.append(
            "The host sends the input as packets; their hops and their arrival are charged."
        )
    if placed.relays:
        lines.append(
            f"{placed.relays} neurons are relays that pass on partial sums; they are counted "
            "wherever the spiking network is."
        )
    return lines


def not_counted(
    profile: Profile, layout: Layout, reference: Profile, without: Collection[str]
) -> tuple[str, ...]:
    """What the figures leave out, what the caller left out first."""
    placed = layout.placed
    known = {key for key, _ in profile.quantities()}
    at_rest = "system.board_static_mw" in known and "system.board_static_mw" not in without
    board = "" if at_rest else ", the board"
    lines = [f"left out as asked for: {', '.join(sorted(without))}"] if without else []
    if placed is None:
        lines += [
            "hops between cores, packets to further cores, receiving packets: "
            "they need a placement",
            "synapse and axon memory, which may need more cores than the neurons do",
            f"host, x86 cores, input and output, links between chips{board}",
        ]
    else:
        lines += [*_not_placed(placed, profile, known, at_rest, layout.chips)]
        lines.append(f"host, x86 cores, input and output{board}")
    lines += [
        "steps with more work than the mean step",
        f"memory access, control and time on {reference.title}",
    ]
    optional = _NOT_SEPARATE if placed is None else {**_NOT_SEPARATE, **_NOT_SEPARATE_PLACED}
    unknown = [term for term, key in optional.items() if key not in known]
    if unknown:
        lines.append(f"not known separately for {profile.title}: {', '.join(unknown)}")
    return tuple(lines)


def _not_placed(
    placed: OnCores, profile: Profile, known: Collection[str], at_rest: bool, chips: int
) -> list[str]:
    """What a placement does not settle."""
    lines = ["energy of receiving packets, and cores that wait for packets on the mesh"]
    if placed.worst_link is None:
        lines.append(f"hops between cores: {profile.title} states no mesh")
    crossings = (placed.sent_in_all + placed.from_host_in_all).chip_crossings
    if crossings:
        terms = {"energy": "system.chip_hop_pj"}
        lacking = [term for term, key in terms.items() if key not in known]
        lines.append(
            f"links between chips, {crossings:,.0f} crossings in an inference: "
            + " and ".join([*lacking, "time"])
        )
    if placed.board_chips is not None and placed.board_chips > chips and not at_rest:
        lines.append(f"{placed.board_chips - chips} chips of the system that are not in use")
    if placed.unchecked:
        lines.append(
            f"limits that were not checked, see lapilli map: {', '.join(placed.unchecked)}"
        )
    return lines
