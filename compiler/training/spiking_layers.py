"""Spiking layers that networks are trained with; each is a neuron model of the chip, in torch.

Time is folded into the batch: x is (steps * N, C, ...), step t in rows t * N .. (t + 1) * N; so
convolutions, BatchNorm and the like run all steps at once and only these layers unfold them. A
layer sends `threshold`-sized activity at its full rate, in the network's own units, so that biases
need no factor. In `analog` mode a layer is the staircase that answers a constant drive, on
(N, C, ...): what is captured and compiled. Membranes are float32, or wider, in mixed precision,
too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from lapilli.compiler.activations import Dynamics, steady_response
from lapilli.compiler.errors import InputError
from lapilli.compiler.training import straight_through
from lapilli.compiler.training.surrogates import spike, surrogate

Start = Literal["half", "zero"]
Reset = Literal["subtract", "zero"]
Mixing = Literal["none", "causal", "full"]
_STARTS = {"half": 0.5, "zero": 0.0}
KEPT_IN = 4096
"""The chip keeps so many parts of a membrane, or fewer (`neurons/multi_threshold.py`)."""


class SpikingLayer(nn.Module, ABC):
    """What the layers share; see the module.

    steps: T; threshold: positive, one for all or one per channel (C,) of what comes; learn: is it a
    parameter? analog: see the module. Raises InputError for steps or thresholds not positive.
    """

    def __init__(self, steps: int, threshold: float | Tensor, learn: bool) -> None:
        super().__init__()
        self._steps = checked_count(type(self).__name__, "steps", steps)
        start = torch.as_tensor(threshold, dtype=torch.float32).detach().clone()
        good = torch.isfinite(start).all() and (start > 0).all()
        if start.ndim > 1 or not bool(good):
            raise InputError(
                type(self).__name__,
                "a threshold is positive",
                found=f"threshold {start.tolist()}",
                allowed="one positive number, or one per channel",
                remedy="Take the layer's largest activity on some images.",
            )
        if learn:
            self.threshold: Tensor = nn.Parameter(start)
        else:
            self.register_buffer("threshold", start)
        self.analog = False

    @property
    def steps(self) -> int:
        """Time steps T that x holds."""
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self._steps = checked_count(type(self).__name__, "steps", steps)

    @property
    @abstractmethod
    def dynamics(self) -> Dynamics:
        """How it counts, for the conversion."""

    @abstractmethod
    def run(self, x: Tensor, threshold: Tensor) -> Tensor:
        """What is sent in each step, (T, N, C, ...), driven by x of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """(T * N, C, ...), or (N, C, ...) in analog mode, to the same shape.

        Raises InputError for a batch that the steps do not divide.
        """
        channels = (-1, *(1,) * (x.ndim - 2)) if self.threshold.ndim else ()
        wide = self.threshold.reshape(channels)
        if self.analog:
            return steady_response(x, wide, self.dynamics, straight_through.floor)
        if len(x) % self.steps:
            raise InputError(
                type(self).__name__,
                "a batch holds every image in every step",
                found=f"{len(x)} rows",
                allowed=f"multiples of {self.steps} steps",
                remedy="Run the network through SpikingNetwork, which repeats the images.",
            )
        x = straight_through.single_precision(x)
        with torch.autocast(x.device.type, enabled=False):  # which would multiply in 16 bits
            return self.run(x.reshape(self.steps, -1, *x.shape[1:]), wide).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


@final
class IF(SpikingLayer):
    """Integrate and fire: v += x; a spike where v >= threshold takes the threshold, or all, off v.

    initial: v at the start, half a threshold or zero; reset: "subtract", or "zero", with which v
    always starts at zero, as the method rate has it; surrogate: of SURROGATES; detach_reset: keep
    gradients from passing through what spikes take off.
    Source: Rueckauer et al. 2016; trained with surrogate gradients in KDSNN (Xu et al., CVPR 2023).
    """

    def __init__(
        self,
        steps: int,
        threshold: float | Tensor = 1.0,
        initial: Start = "half",
        reset: Reset = "subtract",
        surrogate: str = "arctan",
        learn_threshold: bool = False,
        detach_reset: bool = True,
    ) -> None:
        super().__init__(steps, threshold, learn_threshold)
        _check_one_of("IF", "initial", initial, tuple(_STARTS))
        _check_one_of("IF", "reset", reset, ("subtract", "zero"))
        self.initial: Start = initial
        self.reset: Reset = reset
        self.surrogate = surrogate
        self.detach_reset = detach_reset
        self._start = _STARTS[initial] if reset == "subtract" else 0.0
        _ = self._surrogate

    @property
    def _surrogate(self) -> Any:
        return surrogate(self.surrogate)

    @property
    def dynamics(self) -> Dynamics:
        return Dynamics(self.steps, 1, self._start, self.reset)

    def run(self, x: Tensor, threshold: Tensor) -> Tensor:
        shape = self._surrogate
        v = torch.zeros_like(x[0]) + self._start * threshold
        sent = []
        for drive in x:
            v = v + drive
            fired = spike((v - threshold) / threshold, shape)
            sent.append(fired * threshold)
            taken = fired.detach() if self.detach_reset else fired
            v = v - taken * threshold if self.reset == "subtract" else v * (1 - taken)
        return torch.stack(sent)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, initial={self.initial}, reset={self.reset}, "
            f"surrogate={self.surrogate}"
        )


@final
class SignedIF(SpikingLayer):
    """Integrate and fire with spikes of -1, which take one of +1 back that came too early.

    v += x; +1 where v >= threshold; -1 where v < 0 and more was sent than taken back. v starts at
    half a threshold, which is not learned. Gradients are those of the quantised activation of the
    mean drive, straight through its steps.
    Source: Hu et al., TPAMI 2023 (Fast-SNN), with the lower threshold at zero instead of -0.001.
    """

    def __init__(self, steps: int, threshold: float | Tensor = 1.0) -> None:
        super().__init__(steps, threshold, learn=False)

    @property
    def dynamics(self) -> Dynamics:
        return Dynamics(self.steps)

    def run(self, x: Tensor, threshold: Tensor) -> Tensor:
        with torch.no_grad():
            v = torch.zeros_like(x[0]) + 0.5 * threshold
            n = torch.zeros_like(v)
            sent = []
            for drive in x:
                v = v + drive
                up, down = v >= threshold, (v < 0) & (n > 0)
                spikes = up.to(v.dtype) - down.to(v.dtype)
                v, n = v - spikes * threshold, n + spikes
                sent.append(spikes * threshold)
            count = torch.floor(x.sum(0) / threshold + 0.5)
            inside = (count >= 0) & (count <= self.steps)
        return straight_through.replaced(x, torch.stack(sent), inside)


@final
class MultiThreshold(SpikingLayer):
    """LM-HT: m = keep * v + x; s = clip(floor(m / q), 0, L) with q = threshold / L; v = m - s * q.

    threshold: the activity of L spikes in every step. mixing: step t is driven by the sum over
    steps j of omega[t, j] * x[j], omega learned, over steps up to t ("causal") or all ("full"),
    starting at their mean; "none": by x[t]. keep: the leak lambda, 0 .. 1, learned on request, in
    4096ths as on the chip. Gradients do not pass from step to step through v; within a step they
    pass from half a threshold below the first to half above the last (equation 8).
    Source: Hao et al., NeurIPS 2024, equations 5 to 9; omega = 2 sigmoid(a) / (number of steps).
    """

    def __init__(
        self,
        levels: int,
        steps: int,
        threshold: float | Tensor = 1.0,
        mixing: Mixing = "none",
        keep: float = 1.0,
        learn_keep: bool = False,
        initial: Start = "half",
        learn_threshold: bool = False,
    ) -> None:
        super().__init__(steps, threshold, learn_threshold)
        self.levels = checked_count("MultiThreshold", "levels", levels)
        _check_one_of("MultiThreshold", "mixing", mixing, ("none", "causal", "full"))
        _check_one_of("MultiThreshold", "initial", initial, tuple(_STARTS))
        self.mixing: Mixing = mixing
        self.initial: Start = initial
        if not 0 <= keep <= 1:
            raise _refuse("MultiThreshold", "keep", keep, "0..1")
        start = torch.tensor(float(keep))
        if learn_keep:
            self.keep: Tensor = nn.Parameter(start)
        else:
            self.register_buffer("keep", start)
        mixed = mixing != "none" and steps > 1  # one step has nothing to mix
        self.logits = nn.Parameter(torch.zeros(steps, steps)) if mixed else None

    @property
    def steps(self) -> int:
        return super().steps

    @steps.setter
    def steps(self, steps: int) -> None:
        if self.mixing != "none" and steps != self._steps:
            rule = "the steps of layers that mix them are fixed"
            raise _refuse("MultiThreshold", "steps", steps, str(self._steps), rule)
        self._steps = checked_count("MultiThreshold", "steps", steps)

    def omega(self) -> Tensor | None:
        """What steps get of each other, (T, T); None: nothing."""
        if self.logits is None:
            return None
        seen = torch.ones_like(self.logits)
        seen = seen.tril() if self.mixing == "causal" else seen
        # In float32 whatever the network is run in: the same numbers for capture and comparison.
        raw = 2 * torch.sigmoid(self.logits.float()) * seen.float()
        return raw / seen.float().sum(1, keepdim=True)

    def kept(self) -> Tensor:
        """keep, in the chip's 4096ths; gradients pass, but not further out of 0 .. 1."""
        return straight_through.in_parts(self.keep, KEPT_IN)

    @property
    def dynamics(self) -> Dynamics:
        omega = self.omega()
        mixing = None if omega is None else omega.detach().cpu().double().numpy()
        start = _STARTS[self.initial]
        return Dynamics(
            self.steps, self.levels, start, keep=float(self.kept().detach()), mixing=mixing
        )

    def run(self, x: Tensor, threshold: Tensor) -> Tensor:
        omega, kept, one = self.omega(), self.kept(), threshold / self.levels
        if omega is not None:
            x = _mixed(x, omega.to(x.dtype))
        v = torch.zeros_like(x[0]) + (_STARTS[self.initial] * one).detach()
        sent = []
        for drive in x:
            m = kept * v + drive
            sent.append(straight_through.thresholds_passed(m, one, self.levels))
            v = (m - sent[-1]).detach()
        return torch.cat(sent).reshape(x.shape)  # keeps channels last, stack does not

    def extra_repr(self) -> str:
        return (
            f"levels={self.levels}, {super().extra_repr()}, mixing={self.mixing}, "
            f"keep={float(self.kept().detach()):g}, initial={self.initial}"
        )


def _mixed(x: Tensor, omega: Tensor) -> Tensor:
    """omega, (T, T), times x, (T, N, C, ...), whose layout in memory stays."""
    if x.ndim == 5 and x[0].is_contiguous(memory_format=torch.channels_last):
        last = x.movedim(2, -1)
        return (omega @ last.flatten(1)).view_as(last).movedim(-1, 2)
    return (omega @ x.flatten(1)).view_as(x)


def checked_count(where: str, name: str, value: object) -> int:
    """value, if it is a whole number from 1 on; else InputError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refuse(where, name, value, "whole numbers from 1 on")
    return value


def _check_one_of(where: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _refuse(where, name, value, ", ".join(choices))


def _refuse(
    where: str, name: str, value: object, allowed: str, rule: str = "parameters lie in their range"
) -> InputError:
    found = f"{name}={value!r}"
    return InputError(where, rule, found=found, allowed=allowed, remedy=f"Choose another {name}.")
