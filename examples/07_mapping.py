"""One network on two systems: how many cores it needs, where they sit, how long a step takes.

python examples/07_mapping.py [--folder FOLDER]

A network of 64x64 images with random weights is laid out on one Loihi 2 chip and on a board of
eight, Kapoho Point, for few cores and for speed; the pictures go into the folder. No chip was used.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

import lapilli
from lapilli import map_plot, map_report
from lapilli.compiler.errors import BackendError
from lapilli.compiler.mapping import Objective
from lapilli.compiler.sealed_file import write_whole
from lapilli.hardware_profiles import load

SYSTEMS: tuple[tuple[str, Objective], ...] = (
    ("loihi2", "cores"),
    ("kapoho-point", "cores"),
    ("kapoho-point", "latency"),
)


def network() -> nn.Sequential:
    """(N, 3, 64, 64) -> (N, 10)."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, 10),
    ).eval()


def main() -> None:
    """Compile, measure how often neurons spike, place, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="for the pictures; default: nowhere")
    given = parser.parse_args()
    images = torch.rand(8, 3, 64, 64)
    compiled = lapilli.compile(
        network(), calibration=images, method=lapilli.methods.Parallel(levels=8), profile="loihi2"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, objective in SYSTEMS:
            profile = load(name)
            rates = map_report.measured_rates(compiled, images.numpy(), profile)
            placement = lapilli.place(
                compiled, profile=profile, objective=objective, rates=rates, effort=0.5
            )
            assert placement.step is not None and placement.cost is not None
            print(
                f"{name}, for {objective}: {len(placement.cores)} cores "
                f"(at least {placement.bound.cores}) on {placement.chips} of its chips, "
                f"{placement.cost.mean_hops:.2f} hops per packet, "
                f"{placement.step.step_us:.0f} us per step (modelled)"
            )
            picture = folder / f"{name}-{objective}.png"
            try:
                write_whole(picture, map_plot.picture(placement, profile, title="07_mapping"))
            except BackendError as error:
                print(f"No picture: {error.remedy}")
            else:
                print(f"wrote {picture.name}, {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
