"""NeuroBench's metrics of a compiled network, by the names and definitions of its package 2.3.0.

Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing algorithms and
systems", Nature Communications 2025, section "Algorithm track". A connection of the netlist is a
connection layer, called once in every step of the window; a population that spikes is an activation
layer; a readout is the output of the last layer, as the last layer of an ANN is. Checked against
the package itself in tests/test_neurobench.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import Readout, Source
from lapilli.compiler.numerics import FloatArray, Int64Array
from lapilli.runtime import poisson, quantise_input, reference
from lapilli.runtime.trace import Progress

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact

VALUES_AT_A_TIME = 2**24
"""Spikes, and as many membranes, kept of one part of the images: about 100 MiB."""


@final
@dataclass(frozen=True)
class NeuroBench:
    """The metrics; operations and updates are means per image, sparsities shares of 1.

    footprint: bytes of weights, indices and parameters of neurons in the netlist's integer types;
    connection_sparsity: weights that are zero, among those stored; activation_sparsity: neurons
    and steps without a spike; effective_macs, effective_acs: operations of a weight that is not
    zero with a spike, accumulates where all spikes of a layer's step are -1, 0 or 1 over all
    images; dense: operations were no weight and no spike zero (borders excluded, the synapses that
    a sparse matrix leaves out, too); membrane_updates: membranes that a step changed, all of them
    in the first step.
    """

    images: int
    footprint: int
    connection_sparsity: float
    activation_sparsity: float
    effective_macs: float
    effective_acs: float
    dense: float
    membrane_updates: float

    def as_dict(self) -> dict[str, Any]:
        """Under the names that the package gives its results."""
        return {
            "Footprint": self.footprint,
            "ConnectionSparsity": self.connection_sparsity,
            "ActivationSparsity": self.activation_sparsity,
            "SynapticOperations": {
                "Effective_MACs": self.effective_macs,
                "Effective_ACs": self.effective_acs,
                "Dense": self.dense,
            },
            "MembraneUpdates": self.membrane_updates,
        }


def measure(
    netlist: Netlist, inputs: Int64Array, *, progress: Progress | None = None
) -> NeuroBench:
    """Run integer inputs, as `runtime.quantise_input` makes them, step by step and count.

    It keeps every membrane of every step for a while, so it takes longer than counting events.
    """
    counted = _Counted(netlist)
    size = sum(p.size for p in netlist.populations) * netlist.steps
    part = max(1, VALUES_AT_A_TIME // size)
    for start in range(0, len(inputs), part):
        counted.add(inputs[start : start + part])
        if progress is not None:
            progress(min(start + part, len(inputs)), len(inputs))
    return counted.metrics(len(inputs))


def of_artifact(
    artifact: Artifact, images: FloatArray, *, seed: int = 0, progress: Progress | None = None
) -> NeuroBench:
    """The metrics on images (N, ...) as the float network takes them.

    seed: of inputs that are drawn as spikes. Raises InputError as `runtime.quantise_input`.
    """
    if poisson.encodes(artifact, images):
        images = poisson.spikes(artifact.netlist, images, seed)
    inputs, _ = quantise_input(artifact.netlist, images)
    return measure(artifact.netlist, inputs, progress=progress)


def footprint(netlist: Netlist) -> int:
    """Bytes of all weights, indices of sparse matrices, and parameters of neurons."""
    parts = (*(c.map for c in netlist.connections), *(p.neuron for p in netlist.populations))
    arrays = (value for part in parts for value in vars(part).values())
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def connection_sparsity(netlist: Netlist) -> float:
    """Weights that are zero, as a share of those stored; a shared one counts once."""
    weights = [c.map.weight for c in netlist.connections]
    stored = sum(w.size for w in weights)
    return (stored - sum(int(np.count_nonzero(w)) for w in weights)) / stored


@final
class _Counted:
    """Exact sums over the images so far; keys are populations."""

    def __init__(self, netlist: Netlist):
        self.netlist = netlist
        self.sending = [p for p in netlist.populations if not isinstance(p.neuron, Readout)]
        shapes = {p.name: (netlist.steps, p.size) for p in self.sending}
        self.spikes = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
        self.graded = {name: np.zeros(netlist.steps, bool) for name in shapes}
        self.membrane_updates = 0

    def add(self, inputs: Int64Array) -> None:
        trace = reference.run(self.netlist, inputs, record="states")
        for p in self.sending:
            sent = trace.spikes[p.name].reshape(len(inputs), self.netlist.steps, p.size)
            self.spikes[p.name] += np.count_nonzero(sent, axis=0)
            self.graded[p.name] |= (np.abs(sent) > 1).any(axis=(0, 2))
            if _is_activation(p):
                v = trace.states[p.name]
                self.membrane_updates += v[:, 0].size + int(np.count_nonzero(np.diff(v, axis=1)))

    def metrics(self, images: int) -> NeuroBench:
        activations = [p for p in self.sending if _is_activation(p)]
        active = sum(int(self.spikes[p.name].sum()) for p in activations)
        every = sum(p.size for p in activations) * self.netlist.steps * images
        macs = acs = 0
        for c in self.netlist.connections:
            graded = self.graded[c.source]
            operations = self.spikes[c.source] @ c.map.fan_out().reshape(-1)
            macs += int(operations[graded].sum())
            acs += int(operations[~graded].sum())
        return NeuroBench(
            images=images,
            footprint=footprint(self.netlist),
            connection_sparsity=connection_sparsity(self.netlist),
            activation_sparsity=(every - active) / every if every else 0.0,
            effective_macs=macs / images,
            effective_acs=acs / images,
            dense=float(
                sum(c.map.dense_macs for c in self.netlist.connections) * self.netlist.steps
            ),
            membrane_updates=self.membrane_updates / images,
        )


def _is_activation(p: Population) -> bool:
    return not isinstance(p.neuron, (Source, Readout))
