"""Boxes on a grid: what is encoded is decoded, and average precision is what VOC says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lapilli.compiler.outputs import VOID
from lapilli.compiler.training.detection import (
    GRID,
    average_precision,
    decode,
    detection_loss,
    overlaps,
)
from lapilli.compiler.training.objectives import accuracy

KINDS, CELLS = 3, 8
NONE = [VOID] * 5


def perfect(labels: Tensor, sure: float = 20.0) -> Tensor:
    """Outputs that say exactly what the labels say, by a loop over the boxes."""
    outputs = torch.full((len(labels), KINDS + 4, CELLS, CELLS), -20.0)
    for image, rows in enumerate(labels.tolist()):
        for kind, *edges in rows:
            if kind == VOID:
                continue
            left, top, right, bottom = (edge / GRID for edge in edges)
            column, line = int((left + right) / 2 * CELLS), int((top + bottom) / 2 * CELLS)
            x, y = (column + 0.5) / CELLS, (line + 0.5) / CELLS
            outputs[image, kind, line, column] = sure
            outputs[image, KINDS:, line, column] = torch.tensor(
                [x - left, y - top, right - x, bottom - y]
            )
    return outputs


def some_labels() -> Tensor:
    return torch.tensor(
        [
            [[0, 100, 100, 400, 300], [2, 600, 500, 900, 900], NONE],
            [[1, 0, 0, 1000, 1000], NONE, NONE],
            [NONE, NONE, NONE],
        ]
    )


def test_what_is_encoded_is_decoded() -> None:
    labels = some_labels()
    found = decode(perfect(labels))
    assert [len(boxes) for boxes, _, _ in found] == [2, 1, 0]
    for (boxes, scores, kinds), rows in zip(found, labels, strict=True):
        for box, kind in zip(boxes, kinds, strict=True):
            meant = [r for r in rows.tolist() if r[0] == int(kind)]
            assert box.tolist() == pytest.approx([e / GRID for e in meant[0][1:]], abs=1e-6)
        assert (scores > 0.99).all()


def test_the_loss_is_least_where_everything_is_right() -> None:
    labels = some_labels()
    right = perfect(labels)
    assert float(detection_loss(right, labels, 0.0)) < 1e-5
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        wrong = right + torch.randn(right.shape, generator=generator)
        assert float(detection_loss(wrong, labels, 0.0)) > 0.01
    empty = torch.full((1, 3, 5), VOID)
    assert float(detection_loss(perfect(empty), empty, 0.0)) < 1e-5


def test_average_precision_by_hand() -> None:
    labels = some_labels()
    assert average_precision(perfect(labels), labels) == 1.0
    missing = perfect(labels)
    missing[1] = -20.0  # the only one of class 1
    assert average_precision(missing, labels) == pytest.approx(2 / 3)
    elsewhere = perfect(labels, sure=2.0)
    elsewhere[0, 0, 7, 0] = 3.0  # of class 0, better scored, and wrong: precision 1/2 at recall 1
    assert average_precision(elsewhere, labels) == pytest.approx((0.5 + 1 + 1) / 3)
    worse = perfect(labels, sure=2.0)
    worse[0, 0, 7, 0] = 1.0  # scored below the right one: costs nothing
    assert average_precision(worse, labels) == 1.0


def test_a_box_is_found_once() -> None:
    labels = torch.tensor([[[0, 100, 100, 400, 400], [0, 500, 500, 900, 900]]])
    outputs = perfect(labels, sure=2.0)
    outputs[0, 0, 4, 2] = 1.9  # two cells from the first box's own
    outputs[0, KINDS:, 4, 2] = torch.tensor([0.2125, 0.4625, 0.0875, -0.1625])  # the same box
    boxes, _, _ = decode(outputs)[0]
    assert len(boxes) == 3
    # Ordered by score: right, right, again the first: the area ends at recall 1 before it.
    assert average_precision(outputs, labels) == 1.0
    outputs[0, 0, 4, 2] = 2.1  # now the copy comes first and counts, the original is the copy
    assert average_precision(outputs, labels) == pytest.approx((1 + 2 / 3) / 2)


def test_overlaps_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    assert overlaps(a, b)[0].tolist() == pytest.approx([1 / 7, 1.0, 0.0])
    assert overlaps(a, b)[1].tolist() == [0.0, 0.0, 0.0]


def test_without_boxes_there_is_no_score() -> None:
    empty = torch.full((2, 3, 5), VOID)
    assert average_precision(perfect(empty), empty) is None
    pixels = torch.full((2, 4, 4), VOID)
    assert accuracy(torch.zeros(2, 3, 4, 4), pixels) is None
