"""The conversion methods by name; `lapilli.compiler.compile_model` has the order of the passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.convert_fast_snn import FastSNN, convert_fast_snn
from lapilli.compiler.passes.convert_lm_ht import LMHT, convert_lm_ht
from lapilli.compiler.passes.convert_parallel import Parallel, convert_parallel
from lapilli.compiler.passes.convert_rate import Rate, convert_rate
from lapilli.compiler.passes.convert_sigma_delta import SigmaDelta, convert_sigma_delta
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import Ranges


@final
@dataclass(frozen=True)
class Method:
    """A conversion method: its options (a frozen dataclass), its pass, its usual compensation."""

    options: type[Any]
    convert: Callable[[PopulationGraph, Ranges, Any], SpikingGraph]
    calibrate: Literal["none", "bias", "least-squares"]


METHODS: dict[str, Method] = {
    "parallel": Method(Parallel, convert_parallel, "least-squares"),
    "fast-snn": Method(FastSNN, convert_fast_snn, "least-squares"),
    "lm-ht": Method(LMHT, convert_lm_ht, "least-squares"),
    "rate": Method(Rate, convert_rate, "none"),
    "sigma-delta": Method(SigmaDelta, convert_sigma_delta, "least-squares"),
}


def method_of(options: object) -> str:
    """The name of the method that these options belong to; InputError for anything else."""
    for name, method in METHODS.items():
        if isinstance(options, method.options):
            return name
    raise InputError(
        "method",
        "a method is chosen by its options object",
        found=type(options).__name__,
        allowed=", ".join(f"lapilli.methods.{m.options.__name__}" for m in METHODS.values()),
        remedy="Pass for example method=lapilli.methods.Parallel(levels=8).",
    )
