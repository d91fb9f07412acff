"""A user of SANA-FE who got a file from `lapilli export` and has nothing else of Lapilli.

    python sanafe_user.py FILE

simulates it and prints one JSON object: sums that the simulator made, and every message, spike and
potential that it traced. Importing this module imports nothing of the simulator.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def simulate(path: str) -> dict[str, object]:
    """What a simulation of as many steps as the file names counts."""
    import sanafe

    steps = json.loads(Path(path).read_text("utf-8"))["lapilli"]["steps"]
    described = sanafe.load_arch(path)
    chip = sanafe.SpikingChip(described)
    chip.load(sanafe.load_net(path, described))
    found = chip.sim(
        steps, spike_trace=True, potential_trace=True, perf_trace=True, message_trace=True
    )
    keys = ("src_neuron_group_id", "src_neuron_offset", "src_x", "src_y", "dest_x", "dest_y")
    keys += ("dest_tile_id", "dest_core_offset", "spikes", "hops", "timestep")
    messages = [
        {key: m[key] for key in keys}
        for step in found["message_trace"]
        for m in step
        if not m["placeholder"]
    ]
    return {
        "energy": found["energy"],
        "sim_time": found["sim_time"],
        "spikes": found["spikes"],
        "packets": found["packets_sent"],
        "fired": found["neurons_fired"],
        "updated": found["perf_trace"]["updated"],
        "hops": sum(found["perf_trace"]["hops"]),
        "trace": [[str(neuron) for neuron in step] for step in found["spike_trace"]],
        "potentials": found["potential_trace"],
        "messages": messages,
    }


if __name__ == "__main__":
    result = simulate(sys.argv[1])
    # The program writes lines of its own to standard output.
    print("\n" + json.dumps(result))
