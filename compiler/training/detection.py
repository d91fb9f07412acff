"""Detection on a grid without anchors: each cell tells classes and a box, as FCOS does.

Source: Tian et al., ICCV 2019, reduced to one scale. Outputs are (N, K + 4, h, w): K class scores
before the sigmoid, then how far the box reaches from the cell's centre to the left, top, right and
bottom, as shares of the image. Labels are integers (N, M, 5): class, left, top, right, bottom in
pixels of a grid of GRID steps a side; rows of class VOID are none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

from lapilli.compiler.outputs import VOID

GRID = 1000
"""Labels divide the image into so many steps a side."""
OVERLAP = 0.5
"""A found box is right where it overlaps one of its class by at least that (PASCAL VOC)."""
LEAST_SCORE = 0.05
MOST_BOXES = 100


def detection_loss(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy of every cell's classes, and the boxes' distance where there is one.

    A box belongs to the cell that holds its centre. The sum is taken per box, so that empty cells
    do not drown the others. smoothing is not used.
    """
    classes, boxes, held = _targets(outputs, labels)
    k = classes.shape[1]
    count = held.sum().clamp(min=1)
    scores = F.binary_cross_entropy_with_logits(outputs[:, :k], classes, reduction="none")
    reach = F.smooth_l1_loss(outputs[:, k:], boxes, beta=0.05, reduction="none")
    return (scores.sum() + 10.0 * (reach * held[:, None]).sum()) / count


def _targets(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per cell: classes (N, K, h, w), reaches (N, 4, h, w), is there a box (N, h, w)."""
    n, channels, h, w = outputs.shape
    kinds = channels - 4
    classes = outputs.new_zeros(n, kinds, h, w)
    boxes = outputs.new_zeros(n, 4, h, w)
    held = torch.zeros(n, h, w, dtype=torch.bool, device=outputs.device)
    image, row = torch.nonzero(labels[..., 0] != VOID, as_tuple=True)
    kind = labels[image, row, 0]
    box = labels[image, row, 1:].to(outputs.dtype) / GRID
    x, y = (box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2
    column = (x * w).long().clamp(0, w - 1)
    line = (y * h).long().clamp(0, h - 1)
    classes[image, kind, line, column] = 1
    boxes[image, :, line, column] = _reach(box, line, column, h, w)
    held[image, line, column] = True
    return classes, boxes, held


def _reach(box: Tensor, line: Tensor, column: Tensor, h: int, w: int) -> Tensor:
    centre = torch.stack([(column + 0.5) / w, (line + 0.5) / h], 1).to(box.dtype)
    return torch.cat([centre - box[:, :2], box[:, 2:] - centre], 1)


def decode(outputs: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per image: boxes (M, 4) as shares of the image, scores (M,), classes (M,), the best first.

    Of cells beside each other that tell the same class the best is kept.
    """
    n, channels, h, w = outputs.shape
    scores = outputs[:, : channels - 4].sigmoid()
    peak = (scores == F.max_pool2d(scores, 3, 1, 1)) & (scores >= LEAST_SCORE)
    found = []
    for image in range(n):
        kind, line, column = torch.nonzero(peak[image], as_tuple=True)
        score = scores[image, kind, line, column]
        order = score.argsort(descending=True, stable=True)[:MOST_BOXES]
        kind, line, column, score = kind[order], line[order], column[order], score[order]
        reach = outputs[image, channels - 4 :, line, column].T
        centre = torch.stack([(column + 0.5) / w, (line + 0.5) / h], 1)
        boxes = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], 1)
        found.append((boxes, score, kind))
    return found


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (A, 4) and (B, 4) -> (A, B)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / union.clamp(min=1e-12)


def average_precision(outputs: Tensor, labels: Tensor) -> float | None:
    """Mean over the classes of the area under precision against recall, at OVERLAP.

    None where no box is labelled.

    Source: PASCAL VOC 2010 (every recall, precision made monotone). A labelled box is found once.
    """
    labels = labels.to(outputs.device)
    found = decode(outputs)
    values = []
    for kind in torch.unique(labels[..., 0][labels[..., 0] != VOID]):
        scores, hits, count = [], [], 0
        for (boxes, score, kinds), rows in zip(found, labels, strict=True):
            meant = rows[rows[:, 0] == kind][:, 1:].to(boxes.dtype) / GRID
            mine = kinds == kind
            count += len(meant)
            scores.append(score[mine])
            hits.append(_hits(overlaps(boxes[mine], meant)))
        values.append(_area(torch.cat(scores), torch.cat(hits), count))
    return sum(values) / len(values) if values else None


def _hits(overlap: Tensor) -> Tensor:
    """Which of the found boxes (the best first) are right: each labelled one counts once."""
    overlap = overlap.clone()
    right = torch.zeros(len(overlap), dtype=torch.bool)
    for k in range(len(overlap) if overlap.shape[1] else 0):
        best, which = overlap[k].max(0)
        if best >= OVERLAP:
            right[k] = True
            overlap[:, which] = 0
    return right


def _area(scores: Tensor, hits: Tensor, count: int) -> float:
    ordered = hits[scores.argsort(descending=True, stable=True)].double()
    right = ordered.cumsum(0)
    precision = right / torch.arange(1, len(right) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
    return float((best_from_here * ordered).sum() / count)
