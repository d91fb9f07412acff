"""Options of the distribution-aware calibration, see `da_qcfs`; read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, final

from lapilli.compiler.passes.options import check_choice, check_count, check_range, help_text


@final
@dataclass(frozen=True)
class DAQCFS:
    """How DA-QCFS calibrates.

    The published code has reference_levels 8 for ResNets and 4 or 16 for VGG where the network was
    trained with QCFS, and none (the clipped line) for ReLU; rule "average", momentum 0.01, one pass
    through the training set.
    """

    reference_levels: int = field(
        default=0,
        metadata=help_text(
            "levels of the reference; 0: those that the network was trained with, or no staircase"
        ),
    )
    rule: Literal["accumulate", "average"] = field(
        default="accumulate",
        metadata=help_text(
            "how phi follows the error that is left: added up, or as published its running average",
            ("accumulate", "average"),
        ),
    )
    momentum: float = field(default=0.05, metadata=help_text("weight of one batch, 0 to 1"))
    batches: int = field(default=150, metadata=help_text("how many batches are looked at"))
    batch: int = field(default=32, metadata=help_text("images in one of them"))
    seed: int = field(default=0, metadata=help_text("of their order"))

    def __post_init__(self) -> None:
        check_count("reference_levels", self.reference_levels, 0, 65535)
        check_choice("rule", self.rule, ("accumulate", "average"))
        check_range("momentum", self.momentum, 0, 1)
        check_count("batches", self.batches, 1, 10**6)
        check_count("batch", self.batch, 1, 65536)
        check_count("seed", self.seed, 0, 2**31 - 1)
