"""From a configuration file to Lava processes, as on a machine with Loihi 2.

python examples/04_loihi_hardware.py [CONFIGURATION.json]

`lapilli export model.h5 --format loihi -o CONFIGURATION.json` writes the file; without one, a small
network is compiled here. NOTHING OF THIS WAS EVER RUN ON SILICON. `Loihi2HwCfg` works only with
Intel's closed extension of Lava; where it is missing, as it was wherever this was tested, the same
processes run on the CPU.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lapilli.compiler.interchange import loihi_import
from lapilli.runtime.lava import runner


def main(arguments: list[str]) -> int:
    """Build what the file says and run it; the exit code."""
    if not arguments:
        return from_scratch()
    document, netlist = loihi_import.read(arguments[0])
    describe(document)
    print(f"Rebuilt: {len(netlist.populations)} populations, hash as in the file.")
    if not runner.installed():
        print("Lava is not installed (pip install 'lapilli[lava]'): no processes are built.")
        return 0

    # One image of payloads, or one for each step; any integers in the range of the input do.
    source = netlist.source
    rng = np.random.default_rng(0)
    stepwise = (netlist.steps,) if source.stepwise else ()
    shape = (1, *stepwise, *netlist.input.shape)
    images = rng.integers(max(source.low, 0), source.high + 1, shape)
    processes = build(document, netlist, images)
    found = run(document, processes)
    if importlib.util.find_spec("torch") is None:
        return 0

    from lapilli.runtime import reference

    trace = reference.run(netlist, images)
    equal = {
        name: bool((found[name] == values[0]).all()) for name, values in trace.readouts.items()
    }
    for name, same in equal.items():
        print(
            f"Output {name}: {found[name].size} integers, equal to the reference engine's: {same}"
        )
    return 0 if all(equal.values()) else 1


def from_scratch() -> int:
    """Compile a small network, export it, and go on with the file, as another machine would."""
    import torch
    from torch import nn

    import lapilli
    from lapilli import data
    from lapilli.compiler.interchange import loihi_export

    torch.manual_seed(0)  # untrained: which weights they are does not matter here
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    )
    images = data.load("digits", split="train", limit=64).images
    net = lapilli.compile(
        network.eval(), calibration=images, method=lapilli.methods.Parallel(levels=8)
    )
    chip = lapilli.hardware_profiles.load("loihi2")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "configuration.json"
        loihi_export.write(path, net, lapilli.place(net, profile=chip), chip)
        print(f"Exported {path.stat().st_size / 1000:.0f} kB", flush=True)
        # In a process of its own: Lava forks, and torch with its threads must not be there then.
        return subprocess.run([sys.executable, __file__, str(path)], check=False).returncode


def describe(document: dict[str, Any]) -> None:
    """What the file holds."""
    print(document["notice"])
    print(f"{len(document['cores'])} cores of {document['profile']['title']}")
    for core in document["cores"]:
        for group in core["neuron_groups"]:
            box = " x ".join(f"{low}..{high}" for low, high in group["box"])
            where = f"neurons {box} of {group['population']}"
            print(f"  core {core['index']}: {where} ({group['program']})")
    for program in document["programs"]:
        print(f"  {program['name']}: {program['equation']}")


def build(document: dict[str, Any], netlist: Any, images: Any) -> dict[str, Any]:
    """A Lava process for each population, joined by one for each connection."""
    from lapilli.runtime import lava

    window, interval = document["timing"]["window"], document["timing"]["interval"]
    built: dict[str, Any] = {}
    for stated, p in zip(document["populations"], netlist.populations, strict=True):
        process = getattr(lava, stated["program"])  # processes have the names of the programs
        given = {"inputs": images} if p is netlist.input else {"shape": p.shape}
        built[p.name] = process(
            **given,
            **vars(p.neuron),
            window=window,
            gap=interval - window,
            offset=stated["resets"]["first_step"],
            name=p.name,
        )
    for stated, c in zip(document["connections"], netlist.connections, strict=True):
        before, after = built[c.source], built[c.target]
        synapse = lava.Synapse(
            map=c.map,
            exponent=stated["exponent"],
            delay=stated["delay"],
            in_shape=before.s_out.shape,
            out_shape=after.a_in.shape,
            name=f"{c.source} -> {c.target}",
        )
        before.s_out.connect(synapse.s_in)
        synapse.a_out.connect(after.a_in)
    return built


def configuration() -> Any:
    """How Lava chooses process models: the chip's with the closed extension, else the CPU's."""
    from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg
    from lava.utils import loihi

    if not loihi.is_installed():
        # Without the extension, Loihi2HwCfg of lava-nc 0.10 ends in a NameError.
        print("The Loihi extension of Lava is not installed: running on the CPU (Loihi2SimCfg).")
        return Loihi2SimCfg(select_tag="fixed_pt")
    # Untested, for nobody here has the extension. On cores run processes for which you give a
    # model of yours (an NcProcessModel): write one for each entry of document["programs"], whose
    # definition is the specification, and one for Synapse; name them here. For the others
    # Loihi2HwCfg falls back to the Python model, on the host. `synapse["stock"]` of a connection
    # has the arguments for Lava's own Dense and Sparse, which have models for the chip already.
    on_chip: dict[Any, Any] = {}
    print(f"Loihi2HwCfg with {len(on_chip)} models of yours.")
    return Loihi2HwCfg(select_tag="fixed_pt", exception_proc_model_map=on_chip)


def run(document: dict[str, Any], processes: dict[str, Any]) -> dict[str, Any]:
    """Run one image through; v of each output in the step in which it is to be read."""
    from lava.magma.core.run_conditions import RunSteps

    config = configuration()
    first = processes[document["populations"][0]["name"]]
    done, found = 0, {}
    for output in sorted(document["outputs"], key=lambda port: port["read_after_step"]):
        steps = output["read_after_step"] + 1 - done
        if steps:
            first.run(condition=RunSteps(num_steps=steps), run_cfg=config)
            done += steps
        found[output["population"]] = processes[output["population"]].v.get().astype(np.int64)
    first.stop()
    print(f"Ran {done} steps.")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
