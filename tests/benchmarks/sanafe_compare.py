"""One image of a compiled network, counted by SANA-FE and by us.

    LAPILLI_SANAFE=PYTHON python tests/benchmarks/sanafe_compare.py MODEL.h5 [--data digits]
        [--image 0] [--profile loihi1] [--json]

PYTHON is an interpreter with `sanafe` 2.2.9 (GPL-3, a program of its own: nothing here imports it).
"Left out" is what the simulation does for the neurons that charge others and delay spikes, which
are no part of the network (docs/sanafe.md). It is left out where the variable names no program.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lapilli
from lapilli import network_inputs, placed_estimate
from lapilli.compiler.interchange import sanafe_export
from lapilli.compiler.mapping import place
from lapilli.hardware_profiles import load
from lapilli.runtime import packets

USER = Path(__file__).resolve().parents[1] / "sanafe_user.py"
VARIABLE = "LAPILLI_SANAFE"


def simulated(program: str, document: str) -> Any:
    """What `sanafe_user.py` prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.yaml"
        path.write_text(document)
        command = [program, str(USER), str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compared(given: argparse.Namespace, program: str) -> list[dict[str, Any]]:
    """One row per measure: ours, theirs without what is left out, and that."""
    net = lapilli.load(given.model)
    chip = load(given.profile or net.provenance.profile)
    data = network_inputs.images(net, given.data, given.image + 1, lambda _: lambda done, of: None)
    images = data.images[given.image :]
    placement = place(net.netlist, chip)
    inputs = network_inputs.integers(net, images)[0]
    document = sanafe_export.configuration(net, placement, chip, inputs)
    told, theirs = document["lapilli"], simulated(program, sanafe_export.text(document))
    trace = lapilli.run(net, images)
    events = trace.events.values()
    counted = packets.count(placement, chip, packets.messages(net.netlist, trace))
    estimate = placed_estimate.estimate(net, images, profile=chip, placement=placement)
    group, waiting = "src_neuron_group_id", sanafe_export.WAITING
    own = [m for m in theirs["messages"] if m[group] != sanafe_export.CHARGE]
    home = set(told["cores"])
    arrived = sum(f"{m['dest_tile_id']}.{m['dest_core_offset']}" in home for m in own)
    # A neuron that waits sends one message to the next one, or to each core with a target.
    sent = {(m["src_neuron_offset"], m["timestep"]) for m in own if m[group] == waiting}
    waits = len(sent)
    charges_uj = told["charge_synapses"] * chip.energy.synop_pj.value / 1e6 if chip.energy else 0
    spikes = sum(e.spikes for e in events)
    if told["populations"][0]["name"] in trace.counts and sanafe_export.sends_ones(
        net.netlist.source
    ):
        spikes += int(trace.counts[net.netlist.input.name].sum())
    rows = [
        ("spikes", spikes, theirs["fired"], told["charges"] + waits),
        (
            "synaptic operations",
            sum(e.synops for e in events),
            theirs["spikes"],
            told["charge_synapses"] + waits,
        ),
        ("packets arriving at cores", counted.sent + counted.from_host, arrived, 0),
        (
            "hops east, west",
            counted.east_west or 0,
            sum(abs(m["src_x"] - m["dest_x"]) for m in own),
            0,
        ),
        (
            "hops north, south",
            counted.north_south or 0,
            sum(abs(m["src_y"] - m["dest_y"]) for m in own),
            0,
        ),
    ]
    found = [
        {
            "measure": name,
            "value": ours,
            "unit": "events",
            "theirs": total - left,
            "left_out": left,
            "target": "equal",
            "holds": ours == total - left,
        }
        for name, ours, total, left in rows
    ]
    total_uj = theirs["energy"]["total"] * 1e6
    figures = [
        (
            "energy of events",
            estimate.single.dynamic_pj.mid / 1e6,
            total_uj - charges_uj,
            charges_uj,
            "uJ",
        ),
        (
            "packets by mean rates",
            estimate.placement.packets if estimate.placement else 0,
            arrived,
            0,
            "events",
        ),
        ("time", estimate.single.time_us.mid, theirs["sim_time"] * 1e6, 0, "us"),
    ]
    found += [
        {
            "measure": name,
            "value": ours,
            "unit": unit,
            "theirs": other,
            "left_out": left,
            "target": None,
            "holds": True,
        }
        for name, ours, other, left, unit in figures
    ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--image", type=int, default=0)
    parser.add_argument("--profile")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    program = os.environ.get(VARIABLE)
    if not program:
        print(f"left out: {VARIABLE} names no Python that has SANA-FE", file=sys.stderr)
        return 0
    rows = compared(given, program)
    if given.json:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"benchmark": "sanafe_compare", "machine": machine, "rows": rows}))
    else:
        print(f"{'':<28}{'ours':>14}{'SANA-FE':>14}{'left out':>12}")
        for row in rows:
            figures = f"{row['value']:>14,.10g}{row['theirs']:>14,.10g}{row['left_out']:>12,.6g}"
            print(f"{row['measure']:<28}{figures} {row['unit']}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
