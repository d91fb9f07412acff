"""T-GIM: a network whose layers mix their time steps, unrolled into a copy of each layer per step.

LM-HT (Hao et al., NeurIPS 2024, equation 7) gives step t the current sum_j omega[t, j] * (what the
layer before sent in step j), for all j: step 1 needs the spikes of step T. No neuron in time can do
that. But a neuron per step can: with lambda what a step leaves of the membrane,
    m(t) = lambda**(t+1) v0 + sum_{i <= t} lambda**(t-i) I(i) - theta sum_{i < t} lambda**(t-i) s(i)
is a sum over spikes that are known by then, those of the layer's own earlier steps among them. So
every step of a layer is a population of window neurons: T times the neurons and T * T times the
synapses, no window at all. Thresholds become powers of two, in which what earlier steps take off is
exact (`quantise`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lapilli.compiler.linear import Array, along_channels, frozen
from lapilli.compiler.linear.diagonal import Diagonal
from lapilli.compiler.neurons.multi_threshold import UNITY
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation


def unroll_time(graph: SpikingGraph) -> SpikingGraph:
    """The graph in one step, with populations `NAME.t0` .. for the steps of NAME.

    A population's mixing (T, T) is its omega, the identity where it has none. Input and readouts
    stay single: the input is the same in every step, and the readout is the mean over the steps.
    """
    steps = graph.steps
    ages = np.subtract.outer(np.arange(steps), np.arange(steps))
    populations: list[SpikingPopulation] = []
    connections: list[SpikingConnection] = []
    for p in graph.populations:
        if p.model == "source":
            populations.append(replace(p, count_scale=frozen(p.amplitude)))
            continue
        omega = np.eye(steps) if p.mixing is None else p.mixing
        keep = 1.0 - p.decay / UNITY
        kept = np.where(ages >= 0, keep ** np.maximum(ages, 0), 0.0)
        arriving = kept @ omega  # what of step j has reached step t's membrane
        share = np.full((1, steps), 1.0 / steps) if p.model == "readout" else arriving
        for t, weights in enumerate(share):
            name = p.name if p.model == "readout" else _named(p.name, t)
            made = replace(p, name=name, bias=frozen(p.bias * weights.sum()))
            if p.model != "readout":
                levels = p.high // steps
                start = p.initial * keep ** (t + 1)
                made = replace(made, model="window", initial=start, high=levels)
                connections += _taken_off(p, t, kept[t])
            populations.append(made)
            for c in graph.into(p.name):
                connections += _mixed(c, graph, name, weights)
    return SpikingGraph(
        tuple(populations),
        tuple(connections),
        steps=1,
        levels=graph.levels // steps,
        sending="graded",
        timing="first",
        unrolled=True,
    )


def _named(name: str, step: int) -> str:
    return f"{name}.t{step}"


def _taken_off(p: SpikingPopulation, step: int, kept: Array) -> list[SpikingConnection]:
    """What the neuron's own spikes of earlier steps leave of the threshold that they took off."""
    made = []
    worth = along_channels(np.asarray(p.threshold / p.amplitude), p.shape)
    for before in range(step):
        if kept[before]:
            minus = Diagonal(frozen(-kept[before] * worth), p.shape, p.shape)
            made.append(SpikingConnection(_named(p.name, before), _named(p.name, step), minus))
    return made


def _mixed(
    c: SpikingConnection, graph: SpikingGraph, target: str, weights: Array
) -> list[SpikingConnection]:
    model = next(p.model for p in graph.populations if p.name == c.source)
    if model == "source":
        scaled = c.map.with_weight(frozen(c.map.weight * weights.sum()))
        return [SpikingConnection(c.source, target, scaled)]
    return [
        SpikingConnection(
            _named(c.source, j), target, c.map.with_weight(frozen(c.map.weight * weight))
        )
        for j, weight in enumerate(weights)
        if weight
    ]
