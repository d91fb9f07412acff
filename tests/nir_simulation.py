"""NIR's equations, simulated as naively as possible: what a tool that knows NIR alone computes.

One step at a time, Euler's forward rule, plain loops for convolution and pooling. Nodes are
evaluated in the order in which they are given; an edge from a node that comes later, or from the
node itself, brings what that node sent a step before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lapilli.compiler.linear import Array


def simulate(
    nodes: Mapping[str, Any],
    edges: Sequence[tuple[str, str]],
    inputs: Array,
    *,
    reset: str = "zero",
    dt: float = 1.0,
    at: bool = False,
) -> dict[str, Array]:
    """What every node sends in each step, (steps, *shape); inputs (steps, *shape).

    reset, at: as tools do that subtract the threshold, and that fire at it, not above it.
    """
    sent: dict[str, list[Array]] = {name: [] for name in nodes}
    states: dict[str, Any] = {name: {} for name in nodes}
    for x in inputs:
        now: dict[str, Array] = {}
        for name, node in nodes.items():
            kind = type(node).__name__
            if kind == "Input":
                now[name] = x.astype(float)
                continue
            brought = []
            for source, target in edges:
                if target != name:
                    continue
                if source in now:
                    brought.append(now[source])
                elif sent[source]:
                    brought.append(sent[source][-1])
            total = sum(brought[1:], brought[0])
            now[name] = _node(kind, node, total, states[name], (reset, dt, at))
        for name, value in now.items():
            sent[name].append(value)
    return {name: np.stack(values) for name, values in sent.items()}


Rules = tuple[str, float, bool]


def _node(kind: str, node: Any, x: Array, state: dict[str, Any], rules: Rules) -> Array:
    if kind == "I":
        state["v"] = state.get("v", 0.0) + node.r * x
        return np.asarray(state["v"])
    if kind == "Delay":
        return _delay(node, x, state, rules[1])
    if kind in ("IF", "LIF", "CubaLIF"):
        return _fire(kind, node, x, state, rules)
    return LINEAR[kind](node, x)


def _fire(kind: str, node: Any, x: Array, state: dict[str, Any], rules: Rules) -> Array:
    reset, dt, at = rules
    v = state.get("v", np.zeros(x.shape))
    if kind == "IF":
        v = v + node.r * x
    else:
        if kind == "CubaLIF":
            i = state.get("i", np.zeros(x.shape))
            x = state["i"] = i + dt / node.tau_syn * (node.w_in * x - i)
        tau = node.tau if kind == "LIF" else node.tau_mem
        v = v + dt / tau * (node.v_leak - v + node.r * x)
    z = v >= node.v_threshold if at else v > node.v_threshold
    after = v - node.v_threshold if reset == "subtract" else node.v_reset + np.zeros(v.shape)
    state["v"] = np.where(z, after, v)
    return z.astype(float)


def _delay(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    line = state.setdefault("line", [])
    line.append(x)
    result = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        steps = int(np.floor(np.broadcast_to(node.delay, x.shape)[index] / dt + 0.5))
        if steps < len(line):
            result[index] = line[-1 - steps][index]
    return result


def _flatten(node: Any, x: Array) -> Array:
    end = node.end_dim % x.ndim
    return x.reshape((*x.shape[: node.start_dim], -1, *x.shape[end + 1 :]))


def _convolve(node: Any, x: Array) -> Array:
    flat = node.weight.ndim == 3
    weight = node.weight[:, :, None] if flat else node.weight
    x = x[:, None] if flat else x

    def pair(value: Any, other: int) -> tuple[int, int]:
        if flat:
            return other, int(value)
        both = np.broadcast_to(value, 2)
        return int(both[0]), int(both[1])

    (sy, sx), (dy, dx) = pair(node.stride, 1), pair(node.dilation, 1)
    out, per_group, kh, kw = weight.shape
    height, width = x.shape[1:]
    if isinstance(node.padding, str):
        same = node.padding == "same"
        py, px = (((kh - 1) * dy) // 2, ((kw - 1) * dx) // 2) if same else (0, 0)
        oh = height if same else height - (kh - 1) * dy
        ow = width if same else width - (kw - 1) * dx
    else:
        py, px = pair(node.padding, 0)
        oh = (height + 2 * py - (kh - 1) * dy - 1) // sy + 1
        ow = (width + 2 * px - (kw - 1) * dx - 1) // sx + 1
    result = np.zeros((out, oh, ow)) + np.reshape(node.bias, (-1, 1, 1))
    for o, y, z in itertools.product(range(out), range(oh), range(ow)):
        group = o // (out // node.groups)
        for c, i, j in itertools.product(range(per_group), range(kh), range(kw)):
            row, column = y * sy - py + i * dy, z * sx - px + j * dx
            if 0 <= row < height and 0 <= column < width:
                channel = group * per_group + c
                result[o, y, z] += weight[o, c, i, j] * x[channel, row, column]
    return result[:, 0] if flat else result


def _pool(node: Any, x: Array) -> Array:
    (kh, kw), (sy, sx), (py, px) = (
        np.broadcast_to(value, 2).tolist()
        for value in (node.kernel_size, node.stride, node.padding)
    )
    channels, height, width = x.shape
    oh, ow = (height + 2 * py - kh) // sy + 1, (width + 2 * px - kw) // sx + 1
    result = np.zeros((channels, oh, ow))
    for c, y, z, i, j in itertools.product(*map(range, (channels, oh, ow, kh, kw))):
        row, column = y * sy - py + i, z * sx - px + j
        if 0 <= row < height and 0 <= column < width:
            result[c, y, z] += x[c, row, column]
    return result


LINEAR: dict[str, Callable[[Any, Array], Array]] = {
    "Output": lambda node, x: x,
    "Affine": lambda node, x: node.weight @ x.reshape(-1) + node.bias,
    "Linear": lambda node, x: node.weight @ x.reshape(-1),
    "Scale": lambda node, x: x * node.scale,
    "Flatten": _flatten,
    "Conv1d": _convolve,
    "Conv2d": _convolve,
    "SumPool2d": _pool,
    "AvgPool2d": lambda node, x: _pool(node, x) / np.prod(node.kernel_size),
}
