"""Three recipes of the zoo on data that is made here: words, boxes around shapes, a U-Net.

python examples/06_recipes.py [--samples N] [--epochs N] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lapilli import training_run

SIZE, GRID, VOID, MOST_SHAPES = 32, 1000, 255, 3
FRAMES, FEATURES, WORDS = 15, 26, 12
TESTS = 500
Integers = npt.NDArray[np.int64]
Array = npt.NDArray[np.float32]


def shape_masks(draws: np.random.Generator, kind: int) -> tuple[npt.NDArray[np.bool_], list[int]]:
    """Pixels of a disc, a square or a triangle, and its box (left, top, right, bottom)."""
    size = int(draws.integers(8, 14))
    left, top = (int(v) for v in draws.integers(0, SIZE - size, 2))
    y, x = np.mgrid[:SIZE, :SIZE]
    u, v = (x - left + 0.5) / size, (y - top + 0.5) / size
    inside = (u > 0) & (u < 1) & (v > 0) & (v < 1)
    forms = [(u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.25, inside, np.abs(u - 0.5) < v / 2]
    return inside & forms[kind], [left, top, left + size, top + size]


def draw_shapes(count: int, seed: int) -> tuple[Array, Integers, Integers]:
    """Images (N, 1, 32, 32), boxes (N, 3, 5) in thousandths, classes of pixels (N, 32, 32)."""
    draws = np.random.default_rng(seed)
    images = draws.uniform(0, 0.3, (count, 1, SIZE, SIZE)).astype(np.float32)
    boxes = np.full((count, MOST_SHAPES, 5), VOID)
    pixels = np.zeros((count, SIZE, SIZE), np.int64)
    for n in range(count):
        for row in range(int(draws.integers(1, MOST_SHAPES + 1))):
            kind = int(draws.integers(3))
            mask, box = shape_masks(draws, kind)
            if (pixels[n][mask] > 0).any():
                continue  # shapes do not overlap
            images[n, 0][mask] = draws.uniform(0.5, 1.0)
            pixels[n][mask] = kind + 1
            boxes[n, row] = [kind, *(GRID * edge // SIZE for edge in box)]
    return images, boxes, pixels


def make_words(count: int, seed: int) -> tuple[Array, Integers]:
    """Features (N, 390) of made-up words: two formants that glide in a way of their own."""
    draws = np.random.default_rng(seed)
    words = np.random.default_rng(0).uniform(0, FEATURES, (WORDS, 2, 2))  # formant, begin and end
    labels = draws.integers(0, WORDS, count)
    time = np.linspace(0, 1, FRAMES)[None, None] * draws.uniform(0.8, 1.2, (count, 1, 1))
    ways = words[labels]
    pitch = ways[..., :1] * (1 - time) + ways[..., 1:] * time + draws.normal(0, 1, (count, 2, 1))
    band = np.arange(FEATURES)[None, None, None]
    energy = np.exp(-0.5 * ((band - pitch[..., None]) / 1.5) ** 2).sum(1)
    noisy = energy * draws.uniform(0.5, 1, (count, 1, 1)) + draws.normal(0, 0.25, energy.shape)
    return np.clip(noisy, 0, 2).reshape(count, -1).astype(np.float32), labels


def main() -> None:
    """Make the data, carry out the recipes, and say what they came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="of every data set")
    parser.add_argument("--epochs", type=int, default=3, help="0 for the recipes' own")
    parser.add_argument("--folder", type=Path, help="where data is kept; default: nowhere")
    given = parser.parse_args()
    if importlib.util.find_spec("lightning_fabric") is None:
        print("Skipped: pip install 'lapilli[train]' first.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        images, boxes, pixels = draw_shapes(given.samples + TESTS, seed=1)
        features, words = make_words(given.samples + TESTS, seed=2)
        for name, inputs, labels in (
            ("keywords", features, words),
            ("shapes_detector", images, boxes),
            ("shapes_unet", images, pixels),
        ):
            file = folder / f"{name}.npz"
            np.savez(file, images=inputs, labels=labels)
            # The file has no test split: its end is held out.
            changes = {"data": f"npz:{file}", "training.held_out": str(TESTS)}
            if given.epochs:
                changes["training.epochs"] = str(given.epochs)
            done = training_run.train(training_run.find_recipe(name, changes), device="cpu")
            assert done is not None and done.network_score is not None and done.score is not None
            print(
                f"{name}: {done.measure} {100 * done.network_score:.2f} % as trained, "
                f"{100 * done.score:.2f} % in integers, {done.seconds:.0f} s; "
                f"verified: {done.verification.ok}"
            )


if __name__ == "__main__":
    main()
