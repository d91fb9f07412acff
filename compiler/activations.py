"""Activations: what one unit makes of its drive, in torch, on batches of any float type.

`Clip` is what a neuron does by itself: it saturates at no spike and at all spikes (ReLU, ReLU6,
the identity). Any other function is a `Curve`, which becomes a ladder of thresholds. To add one,
write a row in CURVES and name its layer in `layers/activation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

from lapilli.compiler.linear import Array, along_channels


@final
@dataclass(frozen=True)
class Clip:
    """min(max(x, low), high); either bound may be infinite. ReLU is Clip(0, inf)."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def name(self) -> str:
        """As people know it."""
        known = {(0.0, math.inf): "relu", (-math.inf, math.inf): "identity", (0.0, 6.0): "relu6"}
        return known.get((self.low, self.high), f"clip[{self.low:g}, {self.high:g}]")

    turns: ClassVar[tuple[float, ...]] = ()
    monotone: ClassVar[bool] = True

    def part(self, channels: slice) -> Clip:
        """The same on some of the channels."""
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Elementwise, (N, *shape)."""
        return x if self == Clip() else x.clamp(self.low, self.high)


@final
@dataclass(frozen=True, eq=False)
class Dynamics:
    """How a layer that was trained with spikes counts in time (training/spiking_layers.py).

    steps: T; levels: thresholds L that a step may pass; initial: fraction of the first threshold
    that the membrane starts with; reset: what a spike takes; keep: what a step leaves of the
    membrane; mixing (T, T): step t is driven by the sum over j of mixing[t, j] times what step j
    brings, None: by its own.
    """

    steps: int
    levels: int = 1
    initial: float = 0.5
    reset: Literal["subtract", "zero"] = "subtract"
    keep: float = 1.0
    mixing: Array | None = None

    @property
    def even(self) -> bool:
        """Is the count that answers a constant drive a staircase of even steps?"""
        whole = self.mixing is None or bool(np.allclose(self.mixing.sum(axis=1), 1.0, atol=1e-6))
        return whole and self.keep == 1 and self.reset == "subtract"

    def __str__(self) -> str:
        parts = (
            "reset to zero" if self.reset == "zero" else "",
            f"leak (keeps {self.keep:g})" if self.keep != 1 else "",
            "steps that mix" if self.mixing is not None else "",
        )
        return ", ".join(filter(None, parts)) or "an even staircase"


@final
@dataclass(frozen=True, eq=False)
class Curve:
    """A function of CURVES with its parameters, each () or (C,) along channels.

    dynamics: of a layer of spikes, whose function is then its answer to a constant drive.
    """

    name: str
    parameters: tuple[Array, ...] = ()
    dynamics: Dynamics | None = None

    @property
    def turns(self) -> tuple[float, ...]:
        """Where it changes between rising and falling, in order; between them it is monotone."""
        return CURVES[self.name].turns(*self.parameters)

    @property
    def monotone(self) -> bool:
        """Does it never fall?"""
        return not self.turns

    def part(self, channels: slice) -> Curve:
        """The same on some of the channels."""
        parameters = tuple(p[channels] if p.ndim else p for p in self.parameters)
        return Curve(self.name, parameters, self.dynamics)

    def __call__(self, x: Tensor) -> Tensor:
        """Elementwise, (N, *shape)."""
        wide = [
            torch.tensor(along_channels(p, tuple(x.shape[1:])), dtype=x.dtype, device=x.device)
            for p in self.parameters
        ]
        if self.dynamics is not None:
            return steady_response(x, wide[0], self.dynamics, torch.floor)
        return CURVES[self.name].function(x, *wide)


Activation = Clip | Curve
QCFS = "qcfs"
"""The curve that is a staircase already, with (threshold, levels); `staircase_top` reads it."""


def staircase_top(activation: Activation | None) -> tuple[Array, int] | None:
    """The largest value, () or (C,), and the levels of an activation that is a staircase."""
    if not isinstance(activation, Curve) or activation.name != QCFS:
        return None
    top, levels = activation.parameters
    return top, int(levels)


def dynamics_of(activation: Activation | None) -> Dynamics | None:
    """How the activation counts in time, where it was trained with spikes."""
    return activation.dynamics if isinstance(activation, Curve) else None


def along_units(activation: Activation | None) -> bool:
    """Does a staircase bring one threshold per channel along, or per unit behind a dense layer?"""
    if not isinstance(activation, Curve) or not is_stepped(activation):
        return False
    return activation.parameters[0].ndim == 1


def is_stepped(activation: Activation) -> bool:
    """Does it jump, so that the last bit of a float decides about a whole step?"""
    return isinstance(activation, Curve) and (activation.name == QCFS or bool(activation.dynamics))


def evaluate(activation: Activation, x: Array) -> Array:
    """activation(x) in float64, (N, *shape), outside of torch."""
    return np.asarray(activation(torch.from_numpy(x.astype(np.float64))).numpy())


@final
@dataclass(frozen=True, eq=False)
class CurveKind:
    """function(x, *parameters); turns(*parameters): where it stops rising, or falling."""

    function: Callable[..., Tensor]
    turns: Callable[..., tuple[float, ...]] = lambda *parameters: ()


def evaluate_qcfs(
    x: Tensor,
    threshold: Tensor,
    levels: Tensor | int,
    floor: Callable[[Tensor], Tensor],
    initial: float = 0.5,
) -> Tensor:
    """threshold / levels * clip(floor(x * levels / threshold + initial), 0, levels).

    Source: Bu et al., ICLR 2022 (QCFS), with a shift of half a step.
    """
    counts = floor(x * levels / threshold + initial)
    if isinstance(levels, int):  # as exported programs have it, see capture/staircases.py
        return counts.clamp(0, levels) * (threshold / levels)
    return torch.minimum(counts.clamp_min(0), levels) * (threshold / levels)


def steady_response(
    x: Tensor, threshold: Tensor, dynamics: Dynamics, floor: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean over the steps of what the layer sends, if x is its drive in every step; elementwise.

    threshold: the activity of the count L * T. Source: Hao et al., NeurIPS 2024, theorem 4.2 (ii)
    where the staircase is even; elsewhere the recursion itself (equations 5 to 7).
    """
    counts = dynamics.levels * dynamics.steps
    if dynamics.even:
        return evaluate_qcfs(x, threshold, counts, floor, dynamics.initial)
    one = threshold / dynamics.levels
    mixing = dynamics.mixing
    shares = [1.0] * dynamics.steps if mixing is None else mixing.sum(axis=1).tolist()
    v = torch.zeros_like(x) + dynamics.initial * one
    total = torch.zeros_like(x)
    for share in shares:
        v = dynamics.keep * v + share * x
        spikes = floor(v / one).clamp(0, dynamics.levels)
        total = total + spikes
        v = v - spikes * one if dynamics.reset == "subtract" else v * (spikes == 0)
    return total * (threshold / counts)


def _bend(slope: Array) -> tuple[float, ...]:
    return (0.0,) if (slope < 0).any() else ()


def _drop(beta: Array, threshold: Array) -> tuple[float, ...]:
    """Softplus falls where it turns into a line early: by log(1 + exp(-threshold)) / beta."""
    if np.logaddexp(0.0, -float(threshold)) < NEGLIGIBLE:
        return ()
    at = float(threshold) / float(beta)
    width = NEGLIGIBLE**2 * max(abs(at), 1.0)
    return at - width, at + width


NEGLIGIBLE = 1e-6
"""A fall that no count is fine enough to show."""

CURVES: dict[str, CurveKind] = {
    "qcfs": CurveKind(lambda x, top, levels: evaluate_qcfs(x, top, levels, torch.floor)),
    "sigmoid": CurveKind(torch.sigmoid),
    "tanh": CurveKind(torch.tanh),
    "softplus": CurveKind(
        # Beyond `threshold` torch is linear, to avoid an overflow that float64 does not have.
        lambda x, beta, threshold: torch.where(
            x * beta > threshold, x, F.softplus(x * beta) / beta
        ),
        _drop,
    ),
    "leaky_relu": CurveKind(lambda x, slope: torch.where(x >= 0, x, slope * x), _bend),
    "elu": CurveKind(
        # min: what `where` does not take must not overflow.
        lambda x, alpha, scale, rate: (
            scale * torch.where(x > 0, x, alpha * torch.expm1(x.clamp_max(0) * rate))
        ),
        lambda alpha, scale, rate: _bend(alpha * scale),
    ),
    "log_sigmoid": CurveKind(F.logsigmoid),
    "softsign": CurveKind(F.softsign),
    "tanhshrink": CurveKind(F.tanhshrink),
    "softshrink": CurveKind(lambda x, width: x - x.clamp(-width, width)),
    "hardshrink": CurveKind(lambda x, width: torch.where(x.abs() > width, x, 0.0)),
    "threshold": CurveKind(lambda x, threshold, value: torch.where(x > threshold, x, value)),
    "clip": CurveKind(lambda x, low, high: torch.minimum(torch.maximum(x, low), high)),
    "hard_swish": CurveKind(F.hardswish, lambda: (-3.0, -1.5)),
    "silu": CurveKind(F.silu, lambda: (-1.2784645427610737,)),
    "gelu": CurveKind(F.gelu, lambda: (-0.7517915246935644,)),
    "gelu_tanh": CurveKind(lambda x: F.gelu(x, approximate="tanh"), lambda: (-0.7524614220710162,)),
    "quick_gelu": CurveKind(
        lambda x: x * torch.sigmoid(1.702 * x), lambda: (-1.2784645427610737 / 1.702,)
    ),
    "mish": CurveKind(F.mish, lambda: (-1.1924312145154952,)),
    "abs": CurveKind(torch.abs, lambda: (0.0,)),
    "square": CurveKind(torch.square, lambda: (0.0,)),
}
"""Functions of one drive. Where they turn: the roots of the derivative, found to 16 digits."""
