"""Processor time of a training step: a recipe's network, by the kind of its neurons.

    python tests/benchmarks/time_training.py [--json] [--batch N] [--steps N] [--precision P]

ResNet-20 as the zoo's recipes train it, with random images and weights, on one core: forwards and
backwards, without the optimiser and without reading or augmenting images.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import torch

from lapilli import training_run
from lapilli.compiler.training.kinds import KINDS
from lapilli.zoo import networks

RECIPES = {
    "float": "cifar_resnet20",
    "quantised, 4 levels": "cifar_resnet20_quantised",
    "lm-ht, 2 levels, 2 steps": "cifar_resnet20_lm_ht",
}
LEFT_OUT = 2
"""Steps before the first one that counts."""


def milliseconds(name: str, given: argparse.Namespace) -> float:
    """Of a step: the median."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(given.batch, 3, 32, 32, generator=draws)
    labels = torch.randint(0, 10, (given.batch,), generator=draws)
    recipe = training_run.find_recipe(name, {})
    recipe = replace(recipe, training=replace(recipe.training, precision=given.precision))
    stage = KINDS[recipe.kind].plan(networks.resnet20(), recipe, images).stages[-1]
    stage.begin()
    objective: Any = stage.objective
    objective.to(memory_format=torch.channels_last).train()
    images = images.to(memory_format=torch.channels_last)
    took = []
    for _ in range(LEFT_OUT + given.steps):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16-mixed"):
            loss = objective(images, labels)
        loss.backward()
        took.append(1e3 * (time.process_time() - started))
    counted = sorted(took[LEFT_OUT:])
    return counted[len(counted) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="bf16-mixed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {kind: milliseconds(name, given) for kind, name in RECIPES.items()}
    if given.json:
        print(json.dumps(found))
        return
    for kind, took in found.items():
        print(f"{kind:<26} {took:8.0f} ms a step of {given.batch} images")


if __name__ == "__main__":
    main()
