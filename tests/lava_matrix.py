"""Every process model in one Lava network, driven to the edges: `lava_matrix.py TAG DIRECTORY`.

Run by test_lava_matrix.py in a process of its own; leaves one .npy file per population and kind of
what was recorded, and of the Vars after the last step. Importing it imports no Lava.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edge_neurons
import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons import (
    HardResetIF,
    Ladder,
    MultiThreshold,
    NeuronModel,
    OrGate,
    RateGate,
    RateMax,
    Readout,
    Relay,
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Source,
    Window,
)

SIZE, WINDOWS, WINDOW, GAP = 120, 4, edge_neurons.STEPS, 1
STEPS = WINDOWS * (WINDOW + GAP)
OFFSETS = 3
"""Populations start in step 0, 1 or 2, in turn."""
KINDS = ("states", "spikes")


def neurons(tag: str) -> dict[str, NeuronModel]:
    """Name -> neurons: integers at the edges, or real numbers."""
    rng = np.random.default_rng(5)
    if tag == "fixed_pt":
        builders = edge_neurons.BUILDERS.items()
        return {n: b(rng, SIZE) for n, b in builders if not n.startswith("Source")}
    threshold, bias, initial = rng.uniform((0.1, -1, -2), (3, 1, 2), (SIZE, 3)).T
    rungs = np.sort(rng.uniform(-5, 9, (5, SIZE)), axis=0)
    if_like = (threshold, bias, initial)
    return {
        "SoftResetIF": SoftResetIF(*if_like),
        "HardResetIF": HardResetIF(*if_like),
        "SignedIF": SignedIF(*if_like, 3),
        "MultiThreshold": MultiThreshold(*if_like, 9, 77),
        "Window graded": Window(*if_like, 7, "graded"),
        "Window unary": Window(*if_like, 5, "unary"),
        "Window unary-last": Window(*if_like, 5, "unary-last"),
        "Ladder": Ladder(rungs, np.ones(5), np.zeros(()), bias, initial, 0, 5, "unary"),
        "OrGate": OrGate(),
        "RateMax": RateMax(3),
        "RateGate": RateGate(3),
        "SigmaDelta": SigmaDelta(*if_like, 9),
        "Readout": Readout(bias, initial),
        "Window signed": Window(*if_like, 7, "graded", -3),
        "SigmaDelta signed": SigmaDelta(*if_like, 9, -4),
        "Ladder up and down": Ladder(
            rungs, np.array([-1, 1, 1, -1, 1]), np.ones(SIZE), bias, initial, 0, 3, "changes"
        ),
        "Relay": Relay(*[np.array(bound) for bound in (-1.5, 2.5, -9.0, 9.0)]),
    }


def drives(tag: str) -> Array:
    """What reaches every population, (WINDOWS, WINDOW, SIZE)."""
    rng = np.random.default_rng(6)
    if tag == "fixed_pt":
        return edge_neurons.drives(rng, SIZE, WINDOWS)
    scale = np.array([1.0, 5.0, 1e10, 1e-3, 0.0])[:, np.newaxis]
    return rng.normal(size=(WINDOWS, WINDOW, SIZE)) * scale


def source(tag: str) -> Source:
    """Clips nothing."""
    top: Any = 2**31 - 1 if tag == "fixed_pt" else 1e12
    return Source(-top, top, "train")


def file(directory: Path, name: str, kind: str) -> Path:
    """Where an array of a population lies."""
    return directory / f"{name.replace(' ', '-')}.{kind}.npy"


def main(tag: str, directory: Path) -> None:
    """Run all populations side by side."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from lapilli.runtime.lava.network import PROCESSES
    from lapilli.runtime.lava.neuron_process import Recorder

    def recorder(name: str) -> Recorder:
        mapped: Callable[..., Any] = np.lib.format.open_memmap
        dtype = np.int64 if tag == "fixed_pt" else np.float64
        shape = (WINDOWS, WINDOW, SIZE)
        arrays = {k: mapped(file(directory, name, k), "w+", dtype, shape) for k in KINDS}
        return Recorder(arrays, WINDOW, 0)

    timing: dict[str, Any] = {"window": WINDOW, "gap": GAP}
    sent = source(tag)
    stimulus = PROCESSES[Source](**vars(sent), inputs=drives(tag), **timing)
    populations = {}
    for index, (name, neuron) in enumerate(neurons(tag).items()):
        process = PROCESSES[type(neuron)](
            **vars(neuron),
            **timing,
            shape=(SIZE,),
            offset=index % OFFSETS,
            name=name,
            recorder=recorder(name),
        )
        stimulus.s_out.connect(process.a_in)
        populations[name] = process, neuron
    stimulus.run(RunSteps(STEPS), Loihi2SimCfg(select_tag=tag))
    for name, (process, neuron) in populations.items():
        for variable in neuron.VARIABLES:
            np.save(file(directory, name, variable), getattr(process, variable).get())
    stimulus.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
