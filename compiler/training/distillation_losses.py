"""Losses with which a student learns from a teacher: pure functions of what both computed.

Source: Xu et al., CVPR 2023 (KDSNN): its response-based loss is Hinton et al. 2015's, its
feature-based loss that of Heo et al., ICCV 2019 ("A Comprehensive Overhaul of Feature
Distillation").
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

Response = Literal["kl", "cross-entropy"]


def response_loss(
    student: Tensor, teacher: Tensor, temperature: float, kind: Response = "kl"
) -> Tensor:
    """temperature**2 times how far softmax(student / temperature) is from the teacher's.

    student, teacher: scores (N, K, ...) of K classes, per image or per pixel; the mean over them
    all, (). Gradients keep their size as the temperature grows, and tend to those of logit
    matching, (s - t) / K for scores without their means. kind: divergence and cross-entropy differ
    by the teacher's entropy, which has no gradient. Source: Hinton et al. 2015, section 2.1.
    """
    found = F.log_softmax(student.float() / temperature, dim=1)
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    apart = wanted - found if kind == "kl" else -found
    return temperature**2 * (wanted.exp() * apart).sum(1).mean()


def negative_means(x: Tensor) -> Tensor:
    """Mean of the negative responses of each channel, (N, C, ...) -> (C,); 0 where there are none.

    Source: Heo et al. 2019, equation 3 (the margin m_c), measured instead of derived from a
    BatchNorm, so that it holds behind a residual sum, too.
    """
    each = x.transpose(0, 1).flatten(1).float()
    below = each < 0
    return (each * below).sum(1) / below.sum(1).clamp_min(1)


def margin_relu(x: Tensor, margin: Tensor) -> Tensor:
    """max(x, m_c): positive responses as they are, negative ones not below the margin (C,).

    Source: Heo et al. 2019, equation 2.
    """
    return torch.maximum(x, margin.reshape(-1, *(1,) * (x.ndim - 2)))


def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of squared differences over features, mean over the batch: (N, ...) -> ().

    Nothing where the teacher is not positive and the student lower still: a ReLU hides it.
    Source: Heo et al. 2019, equation 4.
    """
    hidden = (student <= teacher) & (teacher <= 0)
    squares = torch.where(hidden, 0.0, (teacher - student) ** 2)
    return squares.flatten(1).sum(1).mean()


def stage_weights(stages: int) -> tuple[float, ...]:
    """1 / 2**(n - i) for the stages i = 1 .. n: the last one counts fully.

    >>> stage_weights(3)
    (0.25, 0.5, 1.0)
    """
    return tuple(0.5 ** (stages - i) for i in range(1, stages + 1))
