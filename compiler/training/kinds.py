"""The kinds of recipes: what each optimises. To add one, write its file and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

from torch import Tensor, nn

from lapilli.compiler.training.float_network import Float, plan_float
from lapilli.compiler.training.plan import Plan
from lapilli.compiler.training.recipe import Recipe


@final
@dataclass(frozen=True)
class Kind:
    """options: dataclass of the recipe's table of that name; plan(network,
    recipe, calibration images as the network takes them): the stages."""

    options: type[Any]
    plan: Callable[[nn.Module, Recipe, Tensor], Plan]


KINDS: Mapping[str, Kind] = MappingProxyType({"float": Kind(Float, plan_float)})
