"""Plain training of a float network, to be converted afterwards without more training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes import METHODS
from lapilli.compiler.passes.options import check_choice
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.recipe import Recipe
from lapilli.compiler.training.teacher import objective_of


@final
@dataclass(frozen=True)
class Float:
    """Options of the kind float.

    method: how the trained network is converted; settings: that method's options.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    method: str = "parallel"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("float.method", self.method, tuple(METHODS))

    def chosen(self) -> object:
        """The method's options. Raises InputError for what it does not know."""
        try:
            return METHODS[self.method].options(**self.settings)
        except TypeError as error:
            raise InputError(
                "float.settings",
                f"settings are options of the method {self.method}",
                found=", ".join(self.settings),
                allowed=", ".join(METHODS[self.method].options.__dataclass_fields__),
                remedy="Correct the names.",
            ) from error


def plan_float(network: nn.Module, recipe: Recipe, images: Tensor, *teachers: nn.Module) -> Plan:
    """One stage: the loss of the network's outputs. teachers: of the recipe."""
    options: Float = recipe.options
    method = options.chosen()
    objective = objective_of(network, recipe, images[:2], teachers)
    return Plan(
        objective,
        (Stage("train", objective, recipe.training.epochs),),
        predict=evaluated(network),
        finished=lambda: (network.eval(), method),
    )
