"""The kinds of recipes: what each optimises. To add one, write its file and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, final

from lapilli.compiler.errors import InputError
from lapilli.compiler.training.distillation import Distilled, plan_distilled
from lapilli.compiler.training.fast_snn import FastSnn, plan_fast_snn
from lapilli.compiler.training.float_network import Float, plan_float
from lapilli.compiler.training.lm_ht import LmHt, plan_lm_ht
from lapilli.compiler.training.plan import Plan
from lapilli.compiler.training.quantised import Quantised, plan_quantised
from lapilli.compiler.training.recipe import Recipe


@final
@dataclass(frozen=True)
class Kind:
    """options: dataclass of the recipe's table of that name; plan(network, recipe, calibration
    images as the network takes them, *companions): the stages; companions: further networks that
    the options name, as (package.module:callable, weights or ""); taught: does the plan also take
    the recipe's `teacher`, one or several, as its last companions? trained: the options that name a
    file of a trained network to start from, instead of the recipe's `weights`."""

    options: type[Any]
    plan: Callable[..., Plan]
    companions: Callable[[Any], tuple[tuple[str, str], ...]] = lambda options: ()
    taught: bool = False
    trained: tuple[str, ...] = ()

    def check_start(self, recipe: Recipe) -> None:
        """Raise InputError where several files are named: one would replace the others' weights."""
        files = {
            f"{recipe.kind}.{option}": attrgetter(option)(recipe.options) for option in self.trained
        }
        given = {
            option: file for option, file in (("weights", recipe.weights), *files.items()) if file
        }
        if len(given) > 1:
            raise InputError(
                f"option {list(given)[-1]}",
                "a network's weights come from one file",
                found=", ".join(f"{option} {file}" for option, file in given.items()),
                allowed="one of them",
                remedy="Leave the others out.",
            )

    def named(self, recipe: Recipe) -> tuple[tuple[str, str], ...]:
        """All networks that the plan takes, the recipe's own first, as companions are given."""
        own = ((recipe.network, recipe.weights), *self.companions(recipe.options))
        if recipe.teacher is None:
            return own
        return (*own, *((recipe.teacher.network, file) for file in recipe.teacher.files))


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "float": Kind(Float, plan_float, taught=True),
        "quantised": Kind(Quantised, plan_quantised, taught=True, trained=("trained",)),
        "fast-snn": Kind(FastSnn, plan_fast_snn, trained=("trained", "quantised.trained")),
        "distilled": Kind(
            Distilled, plan_distilled, lambda own: ((own.teacher, own.teacher_weights),)
        ),
        "lm-ht": Kind(LmHt, plan_lm_ht, taught=True, trained=("quantised",)),
    }
)
