"""A recipe: everything that a training run is told. `recipe_file` reads it from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.options import check_choice, check_count, check_flag, check_range

_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}
"""What pydantic is told: no unknown keys, and no text where a number is meant."""
MOST = 1_000_000


@final
@dataclass(frozen=True)
class Training:
    """The loop. batch: images of all devices together; rate: the highest learning rate;
    momentum: of sgd and muon.

    schedule: from `rate` down to zero along a cosine; or times `drop` at each of `drops`, which are
    shares of the run; or constant. warmup: share of the run in which the rate rises from zero. The
    run is each stage, or with schedule_over = "run" all stages of the recipe together. smoothing:
    of labels. clip_norm: of the gradient, 0 for none. held_out: so many images at the end of the
    training set are not trained on but measured after every epoch. statistics: images on which
    those of BatchNorm are measured anew at the end of every stage; 0: they stay as the last steps
    left them. checkpoint_s: seconds between two checkpoints.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    epochs: int = 10
    batch: int = 128
    optimiser: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    schedule_over: Literal["stage", "run"] = "stage"
    warmup: float = 0.0
    drops: tuple[float, ...] = (0.5, 0.75)
    drop: float = 0.1
    smoothing: float = 0.0
    clip_norm: float = 0.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    seed: int = 0
    held_out: int = 0
    statistics: int = 0
    checkpoint_s: float = 60.0

    def __post_init__(self) -> None:
        check_count("training.epochs", self.epochs, 1, MOST)
        check_count("training.batch", self.batch, 1, MOST)
        check_range("training.rate", self.rate, 0, 1e3)
        check_range("training.momentum", self.momentum, 0, 1)
        check_range("training.weight_decay", self.weight_decay, 0, 1)
        check_choice("training.optimiser", self.optimiser, ("sgd", "adam", "adamw", "muon"))
        check_choice("training.schedule", self.schedule, ("cosine", "step", "constant"))
        check_choice("training.schedule_over", self.schedule_over, ("stage", "run"))
        check_range("training.warmup", self.warmup, 0, 0.9)
        for share in self.drops:
            check_range("training.drops", share, 0, 1)
        check_range("training.drop", self.drop, 0, 1)
        check_range("training.smoothing", self.smoothing, 0, 0.9)
        check_range("training.clip_norm", self.clip_norm, 0, 1e6)
        check_choice("training.precision", self.precision, ("32-true", "bf16-mixed", "16-mixed"))
        check_count("training.seed", self.seed, 0, 2**31 - 1)
        check_count("training.held_out", self.held_out, 0, 10 * MOST)
        check_count("training.statistics", self.statistics, 0, 10 * MOST)
        check_range("training.checkpoint_s", self.checkpoint_s, 0, 1e6)


@final
@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image at random; images are in 0..1.

    In this order: crop: shifted by up to so many pixels, zeros beyond the border; policy:
    AutoAugment's for that data set (Cubuk et al. 2019), "" for none; rotate: by up to so many
    degrees; flip: mirrored or not; cutout: a square of so many pixels is zero (DeVries and Taylor
    2017).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    policy: Literal["", "cifar10", "imagenet", "svhn"] = ""
    crop: int = 0
    flip: bool = False
    rotate: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        check_choice("augmentation.policy", self.policy, ("", "cifar10", "imagenet", "svhn"))
        check_count("augmentation.crop", self.crop, 0, 4096)
        check_flag("augmentation.flip", self.flip)
        check_range("augmentation.rotate", self.rotate, 0, 180)
        check_count("augmentation.cutout", self.cutout, 0, 4096)


@final
@dataclass(frozen=True)
class Deployment:
    """How the trained network is compiled and checked.

    calibrate: how rounding is compensated, "" for the method's own way, none for what was trained
    with spikes; calibration: training images that choose what the network itself does not say;
    verify: test images on which every equality is checked; test: test images for accuracies, 0 for
    all.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    profile: str = "loihi2"
    calibrate: str = ""
    calibration: int = 512
    verify: int = 4
    test: int = 0

    def __post_init__(self) -> None:
        check_count("artifact.calibration", self.calibration, 1, MOST)
        check_count("artifact.verify", self.verify, 1, MOST)
        check_count("artifact.test", self.test, 0, MOST)


@final
@dataclass(frozen=True)
class Lessons:
    """A teacher, whose answers a network learns besides the labels; it does not change.

    network: package.module:callable; weights: its checkpoint, "" where the callable loads its own;
    several checkpoints are teachers whose scores are averaged. alpha: share of the loss that is
    about the answers, at `temperature` (Hinton et al. 2015).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    network: str
    weights: str | tuple[str, ...] = ""
    alpha: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        check_range("teacher.alpha", self.alpha, 0, 1)
        check_range("teacher.temperature", self.temperature, 1e-3, 1e6)
        if not self.files:
            raise InputError(
                "teacher.weights",
                "a teacher has a checkpoint, or several",
                found="an empty list",
                allowed="one file or more",
                remedy='Name the files; "" where the callable loads its own weights.',
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The checkpoint of each teacher."""
        return (self.weights,) if isinstance(self.weights, str) else self.weights


@final
@dataclass(frozen=True)
class Recipe:
    """A training run that ends in a model file.

    kind: one of `kinds.KINDS`; network: package.module:callable; data: as on the command line,
    where --data replaces it; test_data: for the final scores, where data has no test split;
    weights: a checkpoint to start from, "" for random weights; mean, std: normalisation per
    channel; loss: one of `objectives.OBJECTIVES`. teacher: to learn from; kinds that have none of
    their own take it. options: of the kind, in the file's table of that name.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    kind: str
    network: str
    data: str = ""
    test_data: str = ""
    weights: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    loss: Literal["classes", "boxes"] = "classes"
    training: Training = field(default_factory=Training)
    augmentation: Augmentation = field(default_factory=Augmentation)
    artifact: Deployment = field(default_factory=Deployment)
    teacher: Lessons | None = None
    options: Any = None
