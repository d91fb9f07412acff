"""Accesses to the memories of a core, derived from events that were counted.

A synaptic operation reads one weight. An update reads and writes every variable of its neuron once.
A message reads one entry of its sender's axon table for each place it goes to: each population that
it reaches, or with a placement each core as placed. The sums that synaptic operations are added to,
parameters that neurons share, and input axons are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import STATE_BITS
from lapilli.hardware_profiles import Profile
from lapilli.runtime.layout import Layout
from lapilli.runtime.metrics import PopulationEvents, check_events


@final
@dataclass(frozen=True)
class MemoryAccesses:
    """Of one population, summed over the images.

    weights_read: by spikes that arrive; input_weights_read: by the analog input, where the chip
    computes it; weight_bits: of each; state_words_read, state_words_written: variables of its
    neurons, state_bits each; axon_entries_read: of its neurons' axon tables, by mean rates with a
    placement.
    """

    images: int
    weights_read: int
    input_weights_read: int
    weight_bits: int
    state_words_read: int
    state_words_written: int
    state_bits: int
    axon_entries_read: float

    @property
    def weight_bits_read(self) -> int:
        """Bits of weights, those of the input included."""
        return (self.weights_read + self.input_weights_read) * self.weight_bits

    @property
    def state_bits_moved(self) -> int:
        """Bits of state, read and written."""
        return (self.state_words_read + self.state_words_written) * self.state_bits


def memory_accesses(
    netlist: Netlist,
    events: Mapping[str, PopulationEvents],
    profile: Profile | None = None,
    layout: Layout | None = None,
) -> dict[str, MemoryAccesses]:
    """Accesses of every population that was counted.

    profile: of a chip that stores its weights in so many bits, and whose host may compute what the
    analog input drives; without it a weight has as many bits as the population's widest one.
    layout: of a placement, for axon entries. Raises InputError as `check_events`.
    """
    images = check_events(events)
    on_chip = profile is None or profile.features.graded_spikes.value
    stored = None if profile is None else profile.limits.weight_bits
    found = {}
    for name, e in events.items():
        weights = [c.map.weight for c in netlist.into(name)]
        low = min((int(w.min(initial=0)) for w in weights), default=0)
        high = max((int(w.max(initial=0)) for w in weights), default=0)
        words = e.neuron_updates * len(netlist[name].neuron.VARIABLES)
        found[name] = MemoryAccesses(
            images=images,
            weights_read=e.synops,
            input_weights_read=e.input_macs if on_chip else 0,
            weight_bits=_bits(low, high) if stored is None else int(stored.value),
            state_words_read=words,
            state_words_written=words,
            state_bits=STATE_BITS if profile is None else int(profile.limits.state_bits.value),
            axon_entries_read=_axon_entries(netlist, name, e, images, layout),
        )
    return found


def _axon_entries(
    netlist: Netlist, name: str, e: PopulationEvents, images: int, layout: Layout | None
) -> float:
    if layout is not None and layout.placed is not None:
        return layout.placed.sent[name].packets * images
    reached = {c.target for c in netlist.connections if c.source == name}
    return float(e.spikes * len(reached))


def _bits(low: int, high: int) -> int:
    """Of the narrowest two's complement that holds low .. high."""
    return 1 + max(max(high, 0).bit_length(), (-low - 1).bit_length() if low < 0 else 0)
