"""From readouts to what is returned: real values, the network's own heads, or another way to read.

The membranes of the readouts are integers, and they are what every equality is about; here is
where they become float64 in the network's own units, in the shapes that the network returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, get_args

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.outputs import Output, Shape, returned, shaped, softmax
from lapilli.runtime.trace import Trace, real_values

Readout = Literal["logits", "softmax", "argmax", "poisson-softmax", "winner-softmax"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
POISSON: Final = "poisson-softmax"
WINNER: Final = "winner-softmax"
DRAWN = (POISSON, WINNER)
"""Ways to read that draw spikes in every step."""
TRIGGER = 0.5
"""Probability of the external spike of "winner-softmax" in a step."""
CLASSES = ("softmax", "argmax", *DRAWN)
"""Ways to read that need an axis of classes."""


def check(netlist: Netlist, outputs: Sequence[Output], readout: str | None, backend: str) -> None:
    """Raise InputError unless these outputs can be read this way, before anything runs."""
    if readout is None:
        return
    if readout not in READOUTS:
        raise _refuse("the readout is known", readout, ", ".join(READOUTS), "Choose one of them.")
    if readout in CLASSES:
        for output in outputs:
            class_axis(output, netlist.outputs[output.readout].shape)
    if readout not in DRAWN:
        return
    reason = _single_step(netlist)
    if reason is not None:
        raise _refuse(
            "Poisson softmax draws spikes in every step while the answer builds up",
            reason,
            "a network whose readouts are driven in every step of a window",
            "Use readout='softmax', or compile with the rate method.",
        )
    if backend not in ("reference", "lava"):
        raise _refuse(
            "Poisson softmax reads the membranes of every step",
            f"backend {backend}, which shows none",
            "backend reference or lava",
            "Choose another backend.",
        )


def _single_step(netlist: Netlist) -> str | None:
    if netlist.steps == 1:
        return "a window of one step"
    return "a network that answers in one pass" if netlist.one_pass else None


def _refuse(rule: str, found: object, allowed: object, remedy: str) -> InputError:
    return InputError("readout", rule, found=found, allowed=allowed, remedy=remedy)


def class_axis(output: Output, shape: Shape) -> int:
    """Which axis of a readout's shape counts the classes: its head's, else the channels.

    Raises InputError for matrices (anchors, classes) without a head: either axis may be meant.
    """
    if output.head.kind not in ("none", "sigmoid"):
        return output.head.axis
    if len(shape) == 2:
        raise _refuse(
            "an output without a head has its classes along the channels",
            f"output {output.name!r} of shape {shape}",
            "vectors (classes,) and maps (classes, height, width)",
            "Put the softmax or argmax into the network: Lapilli takes it off as its head.",
        )
    return 0


def apply(
    netlist: Netlist, outputs: Sequence[Output], trace: Trace, readout: str | None, seed: int = 0
) -> Trace:
    """The trace with `outputs` (one array, or a list of several) and their names.

    readout None: what the network returns, its own heads applied in float64; "logits": without
    heads; "softmax", "argmax": of the logits, over the classes; "poisson-softmax": the class
    that sends most spikes, drawn from `seed` (`poisson_counts`), or "winner-softmax": one class at
    a time (`winner_counts`). What has an axis fewer than the
    readout (argmax) or no head of the network's keeps the readout's other axes in order.
    """
    reals = real_values(netlist, trace.readouts, trace.stopped)
    populations = netlist.outputs
    values = []
    for index, output in enumerate(outputs):
        population, real = populations[output.readout], reals[output.readout]
        if readout is None:
            values.append(returned(output, real))
        elif readout == "logits":
            values.append(_unheaded(output, real))
        else:
            axis = class_axis(output, population.shape)
            if readout == "softmax":
                values.append(_unheaded(output, softmax(real, axis + 1)))
            elif readout == "argmax":
                values.append(_classes(output, population, trace.readouts, real, axis))
            else:
                count = poisson_counts if readout == POISSON else winner_counts
                counts = _drawn(count, population, trace, axis, (seed, index))
                values.append(np.asarray(counts.argmax(axis + 1)))
    names = tuple(output.name for output in outputs)
    return replace(trace, outputs=values[0] if len(values) == 1 else values, names=names)


def _unheaded(output: Output, real: Array) -> Array:
    """In the shape that the network returns, where its head does not take values away."""
    same = math.prod(output.shape) == math.prod(real.shape[1:])
    return shaped(output, real) if same else real


def _classes(
    output: Output, p: Population, readouts: Mapping[str, Array], real: Array, axis: int
) -> Int64Array:
    """The class with the largest value: of the integers where one scale holds for all of them."""
    common = p.state_scale.size == 1 or bool((p.state_scale == p.state_scale.flat[0]).all())
    found = np.asarray((readouts[p.name] if common else real).argmax(axis + 1), np.int64)
    return found if output.head.kind != "argmax" else np.asarray(shaped(output, found))


def _drawn(
    count: Callable[..., Int64Array], p: Population, trace: Trace, axis: int, seed: tuple[int, int]
) -> Int64Array:
    """Spikes of each neuron, (N, *shape), with the membranes in the network's own units."""
    states = trace.states[p.name]
    steps = np.arange(states.shape[1])
    ran = np.full(len(states), states.shape[1]) if trace.stopped is None else trace.stopped
    running = steps < ran.reshape(-1, 1)
    return count(states * p.state_scale, axis, np.random.default_rng(seed), running)


def poisson_counts(
    membranes: Array, axis: int, generator: np.random.Generator, running: Array | None = None
) -> Int64Array:
    """Spikes per neuron, (N, *shape), for membranes of every step, (N, steps, *shape).

    In every step p = softmax(V) along `axis` of shape, and each neuron spikes, independent of the
    others, where a uniform number is at most p. running: (N, steps) steps that count, all of them
    by default. Source: Rueckauer et al. 2016, section 2 (softmax, second variant).
    """
    counts = np.zeros((len(membranes), *membranes.shape[2:]), np.int64)
    for step in range(membranes.shape[1]):
        spikes = generator.random(counts.shape) <= softmax(membranes[:, step], axis + 1)
        if running is not None:
            spikes &= running[:, step].reshape(-1, *(1,) * (counts.ndim - 1)).astype(bool)
        counts += spikes
    return counts


def winner_counts(
    membranes: Array, axis: int, generator: np.random.Generator, running: Array | None = None
) -> Int64Array:
    """Spikes per neuron, (N, *shape), for membranes of every step, (N, steps, *shape).

    The neurons only integrate. An external generator spikes with the probability TRIGGER in each
    step; then one neuron along `axis` of shape, drawn by p = softmax(V), spikes. running: as for
    `poisson_counts`. Source: Rueckauer et al. 2016, section 2 (softmax, first variant, after
    Nessler et al.).
    """
    counts = np.zeros((len(membranes), *membranes.shape[2:]), np.int64)
    along = axis + 1
    for step in range(membranes.shape[1]):
        reached = softmax(membranes[:, step], along).cumsum(along)
        drawn = generator.random(np.take(reached, [0], along).shape)
        winner = np.minimum((reached <= drawn).sum(along, keepdims=True), counts.shape[along] - 1)
        fired = generator.random(len(counts)) < TRIGGER
        if running is not None:
            fired &= running[:, step].astype(bool)
        spikes = np.zeros_like(counts)
        np.put_along_axis(spikes, winner, 1, along)
        counts += spikes * fired.reshape(-1, *(1,) * (counts.ndim - 1))
    return counts
