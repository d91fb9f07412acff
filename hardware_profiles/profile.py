"""What a profile holds: features, limits and costs of a chip, and a system of chips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, final

from lapilli.hardware_profiles.quantity import Count, Quantity, Real

Sharing = Literal["population", "channel", "neuron"]
Division = Literal["any", "power-of-two"]
SoftReset = Literal["subtracted", "kept apart"]


@final
@dataclass(frozen=True)
class Features:
    """What a network may use on the device.

    programmable_neurons: are neurons programs that compare, shift and multiply as they like?
    threshold_sharing is the finest granularity at which thresholds may differ;
    threshold_division what a neuron that counts thresholds in its membrane can divide by;
    soft_reset how a neuron subtracts its threshold: from its membrane, or "kept apart" in a second
    variable, so that the membrane goes on adding up, in units of 2**-threshold_exponent, and its
    starting charge is half an even threshold (Lava's ATRLIF);
    soft_reset_compartments how many compartments a neuron takes that subtracts its threshold;
    relay_populations: may neurons pass on sums of parts of a neuron's inputs, so that it has more?
    """

    graded_spikes: Quantity[bool]
    programmable_neurons: Quantity[bool]
    threshold_sharing: Quantity[Sharing]
    threshold_division: Quantity[Division]
    soft_reset: Quantity[SoftReset]
    soft_reset_compartments: Count
    relay_populations: Quantity[bool]


@final
@dataclass(frozen=True)
class Limits:
    """What a network must fit; None where no limit is known. Widths include the sign."""

    weight_bits: Count | None
    weight_exponent_min: Count | None
    weight_exponent_max: Count | None
    synapse_accumulator_bits: Count | None
    state_bits: Count
    decay_bits: Count | None
    bias_mantissa_bits: Count | None
    bias_exponent_bits: Count | None
    threshold_mantissa_bits: Count | None
    threshold_exponent: Count | None
    payload_bits: Count | None
    max_delay_steps: Count | None
    max_refractory_steps: Count | None
    neurons_per_core: Count | None
    cores_per_chip: Count | None
    cores_per_tile: Count | None
    mesh_width_tiles: Count | None
    mesh_height_tiles: Count | None
    x86_cores_per_chip: Count | None
    memory_word_bits: Count | None
    synapse_words_per_core: Count | None
    synapse_words_per_axon: Count | None
    dense_synapse_bits: Count | None
    conv_synapse_bits: Count | None
    conv_row_overhead_bits: Count | None
    pool_words_per_core: Count | None
    neuron_words: Count | None
    input_axons_per_core: Count | None
    output_axons_per_core: Count | None
    input_axon_words_per_core: Count | None
    axon_map_words_per_core: Count | None
    axon_memory_words_per_core: Count | None
    synapse_formats_per_core: Count | None
    compartment_profiles_per_core: Count | None
    threshold_profiles_per_core: Count | None
    neuron_groups_per_core: Count | None
    destination_groups_per_core: Count | None


@final
@dataclass(frozen=True)
class Energy:
    """Energy per event in pJ, and power in mW, of a neuromorphic chip.

    neuron_access is paid by every neuron in every step, neuron_update on top of it by one that is
    updated; axon_out is one packet to one core; chip_running is drawn on top of chip_static once
    x86 cores and mesh run; busy_core is drawn by each core in use. None: not known separately.
    """

    synop_pj: Real
    neuron_access_pj: Real | None
    neuron_update_pj: Real
    spike_pj: Real | None
    axon_out_pj: Real | None
    hop_east_west_pj: Real | None
    hop_north_south_pj: Real | None
    chip_static_mw: Real
    chip_running_mw: Real | None
    busy_core_mw: Real | None


@final
@dataclass(frozen=True)
class Time:
    """Time per event on one core in ns; barrier between steps; shortest step observed in us."""

    synop_ns: Real
    neuron_access_ns: Real | None
    neuron_update_ns: Real | None
    spike_ns: Real | None
    axon_out_ns: Real | None
    axon_in_ns: Real | None
    hop_east_west_ns: Real | None
    hop_north_south_ns: Real | None
    barrier_ns: Real | None
    step_floor_us: Real


@final
@dataclass(frozen=True)
class Arithmetic:
    """Energy per operation of a processor in pJ; mac multiplies and accumulates, ac only adds."""

    fp32_mac_pj: Real
    fp32_ac_pj: Real
    fp16_mac_pj: Real | None
    fp16_ac_pj: Real | None
    int8_mac_pj: Real
    int8_ac_pj: Real
    int32_mac_pj: Real | None
    int32_ac_pj: Real | None


@final
@dataclass(frozen=True)
class System:
    """A board or a machine of several chips; None where nothing is known.

    chip: the name of the chip's profile; changes: the keys that the system states in the chip's
    place, as "limits.cores_per_chip". chips_wide, chips_high: their arrangement, both or neither.
    cores, neurons, synapses: of the whole system, as published. chip_hop: one packet from a chip to
    the next one, beside the hops on both. board_static: the whole system at rest, chips and x86
    cores included; x86: its x86 cores alone, while they run; max_power: the most the whole draws.
    """

    chip: str
    changes: tuple[str, ...]
    chips: Count
    chips_wide: Count | None
    chips_high: Count | None
    cores: Count | None
    neurons: Count | None
    synapses: Count | None
    chip_hop_pj: Real | None
    chip_hop_ns: Real | None
    board_static_mw: Real | None
    x86_mw: Real | None
    max_power_mw: Real | None


@final
@dataclass(frozen=True)
class Profile:
    """One device. `calibrated`: its constants per event were fitted to silicon by their source.

    A system of chips has what its chip has, with the system's changes, and `system` beside it; its
    kind is "neuromorphic" like its chip's, for it runs what the chip runs. A chip's `system` is
    None: it stands for any number of chips.
    """

    name: str
    kind: Literal["neuromorphic", "processor"]
    title: str
    calibrated: bool
    features: Features
    limits: Limits
    energy: Energy | None
    time: Time | None
    arithmetic: Arithmetic | None
    system: System | None = None

    def quantities(self) -> Iterator[tuple[str, Quantity[Any]]]:
        """Every known value as ("energy.synop_pj", quantity), in the order of the file."""
        for key, quantity in self._entries():
            if quantity is not None:
                yield key, quantity

    def unknown(self) -> tuple[str, ...]:
        """The keys of which no value is known; a section that is missing as a whole is left out."""
        return tuple(key for key, quantity in self._entries() if quantity is None)

    def from_chip(self, key: str) -> bool:
        """Does a system have the value of "energy.synop_pj" from its chip? False for a chip."""
        system = self.system
        return system is not None and not (key.startswith("system.") or key in system.changes)

    def _entries(self) -> Iterator[tuple[str, Quantity[Any] | None]]:
        for name in ("system", "features", "limits", "energy", "time", "arithmetic"):
            section = getattr(self, name)
            for field in fields(section) if section is not None else ():
                value = getattr(section, field.name)
                if value is None or isinstance(value, Quantity):
                    yield f"{name}.{field.name}", value
