"""What each family of operators compiles to, with every method, and on what it then runs.

Found by doing it: a small network with the operator is compiled with each method, lowered to each
backend and written in each format; what is refused tells its reason. The outcome is kept in
lapilli/operator_support.json, which `lapilli operators` and docs/operators.md show.

python tests/operator_support.py    finds out all of it again and rewrites both: minutes
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import capturing
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import Tensor, nn

import lapilli
from lapilli import operators
from lapilli.cli_export import FORMATS, USES_DATA, Wishes
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import LapilliError
from lapilli.compiler.layers.catalogue import FAMILIES, Family
from lapilli.compiler.training.qcfs import QCFS
from lapilli.runtime import lava, quantise_input
from lapilli.runtime.lava.stock.lowering import lower

m = lapilli.methods
VARIANTS: Mapping[str, Any] = {
    "parallel": m.Parallel(levels=4),
    "parallel --coding unary": m.Parallel(levels=4, coding="unary"),
    "sigma-delta": m.SigmaDelta(levels=4),
    "fast-snn": m.FastSNN(levels=4),
    "fast-snn --no-settle": m.FastSNN(levels=4, settle=False),
    "lm-ht --steps 1": m.LMHT(levels=4, steps=1),
    "lm-ht": m.LMHT(levels=4),
    "rate": m.Rate(steps=8),
    "rate --reset zero": m.Rate(steps=8, reset="zero"),
}
"""Options of `lapilli compile` -> the method."""
PROFILES = {"stock": "lava-stock", "netx": "netx"}
"""Backends and formats with a profile of their own; others take loihi2."""
IMAGE = (2, 6, 6)
DOCS = Path(__file__).resolve().parents[1] / "docs" / "operators.md"


CALLS: dict[str, Callable[[Any], Any] | nn.Module] = {
    "convolution, 1-D and 2-D": nn.Conv2d(4, 4, 3, stride=2, padding=1),
    "transposed convolution, 1-D and 2-D": nn.ConvTranspose2d(4, 4, 2, 2),
    "linear, matrix products with constants": nn.Sequential(nn.Flatten(), nn.Linear(144, 8)),
    "batch norm": nn.BatchNorm2d(4),
    "instance norm with stored statistics": nn.InstanceNorm2d(4, track_running_stats=True),
    "ReLU": F.relu,
    "ReLU6": F.relu6,
    "clamp, Hardtanh": F.hardtanh,
    "hard-sigmoid": F.hardsigmoid,
    "LeakyReLU, PReLU, RReLU in evaluation": nn.PReLU(4),
    "softplus": F.softplus,
    "ELU, CELU, SELU": F.elu,
    "sigmoid": torch.sigmoid,
    "log-sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hard-swish": F.hardswish,
    "SiLU (swish)": F.silu,
    "GELU, exact and tanh": F.gelu,
    "Mish": F.mish,
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "soft and hard shrink": lambda x: F.softshrink(x, 0.1),
    "absolute value": abs,
    "square": torch.square,
    "QCFS, a staircase that was trained": QCFS(4),
    "average pooling": nn.AvgPool2d(2),
    "adaptive average pooling": nn.AdaptiveAvgPool2d(2),
    "mean over axes": lambda x: x.mean((2, 3)),
    "max pooling": nn.MaxPool2d(2),
    "adaptive max pooling": nn.AdaptiveMaxPool2d(2),
    "largest over axes": lambda x: x.amax(3),
    "sum over axes": lambda x: x.sum(3),
    "flatten, reshape, view, squeeze": lambda x: x.view(-1, 2, 12, 6),
    "slices and selections": lambda x: x[:, 1:, ::2],
    "padding, also reflected, repeated, circular": lambda x: F.pad(x, (1, 1, 0, 2), "reflect"),
    "flip, roll": lambda x: x.flip(3),
    "repeat, tile, expand": lambda x: x.repeat(1, 2, 1, 1),
    "addition (residual connections)": lambda x: x + F.relu(x - 0.1),
    "subtraction": lambda x: x - F.relu(x - 0.1),
    "concatenate, stack": lambda x: torch.cat([x, F.relu(x - 0.1)], 1),
    "split, chunk, unbind": lambda x: x.chunk(2, 1)[0],
    "permute, transpose": lambda x: x.permute(0, 2, 3, 1),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "pixel shuffle and back": lambda x: F.pixel_shuffle(x, 2),
    "upsampling: nearest, bilinear, bicubic": lambda x: F.interpolate(x, scale_factor=2.0),
    "multiplication and division by a constant": lambda x: x * 2 / 3,
    "multiplication of two activities (gates)": lambda x: x * F.relu(1 - x),
    "negation": lambda x: -x,
    "dropout and stochastic depth in evaluation": nn.Dropout(),
    "identity, clone, detach": nn.Identity(),
    "softmax at the end of an output": lambda x: x.flatten(1).softmax(1),
    "log-softmax at the end of an output": lambda x: F.log_softmax(x.flatten(1), 1),
    "sigmoid at the end of an output": torch.sigmoid,
    "argmax, max, topk(1) at the end of an output": lambda x: x.argmax(1),
}
"""One call of every family, on (N, 4, 6, 6)."""


class _Operator(nn.Module):
    """Convolution, ReLU unless the operator is an activation itself, the operator, a linear end."""

    def __init__(self, family: Family, call: Callable[[Any], Any] | nn.Module):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.middle = call if isinstance(call, nn.Module) else Net(lambda _, x: call(x))
        self.before = nn.Identity() if family.neurons == "activation" else nn.ReLU()
        self.last: nn.Module = nn.Identity()
        if family.ends:
            return
        size = self._middle(torch.zeros(1, *IMAGE)).numel()
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(size, 3))

    def _middle(self, x: Tensor) -> Any:
        return self.middle.eval()(self.before(self.first(x)))

    def forward(self, x: Tensor) -> Any:
        return self.last(self._middle(x))


def network(family: Family) -> nn.Module:
    """A small network with an operator of the family between other layers, or at its end."""
    model = _Operator(family, CALLS[family.title]).eval()
    return capturing.randomised(model, seed=1)


def reason(error: LapilliError) -> str:
    """A refusal without what is particular to this network."""
    return f"{error.rule}. {error.remedy}"


def _outcome(attempt: Callable[[], Any]) -> Any:
    """What it returns, or the reason why it is refused."""
    try:
        return attempt()
    except LapilliError as error:
        return reason(error)


def _refusal(made: Any, use: Callable[[Artifact], Any]) -> str | None:
    """Why it was not compiled, or why it cannot be used so."""
    found = made if isinstance(made, str) else _outcome(lambda: use(made))
    return found if isinstance(found, str) else None


def compiled(family: Family, method: Any, profile: str) -> Artifact:
    x = capturing.images(*IMAGE, count=12, seed=3)
    return lapilli.compile(network(family), calibration=x, method=method, profile=profile)


def _on_stock(artifact: Artifact) -> None:
    images = capturing.images(*IMAGE, count=1, seed=4)
    lower(artifact.netlist, quantise_input(artifact.netlist, images)[0])


def support(family: Family, variant: str) -> dict[str, Any]:
    """Of one family with one method: what it becomes, and why it does not run or go somewhere.

    None where it does.
    """
    artifacts = {
        profile: _outcome(lambda profile=profile: compiled(family, VARIANTS[variant], profile))  # type: ignore[misc]
        for profile in ("loihi2", *PROFILES.values())
    }
    artifact = artifacts["loihi2"]
    if isinstance(artifact, str):
        return {"refused": artifact}
    found = compiled_support(artifact)
    found["stock"] = _refusal(artifacts[PROFILES["stock"]], _on_stock)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npz")
        np.savez(images, images=capturing.images(*IMAGE, count=1, seed=4))
        for name, write in FORMATS.items():
            made = artifacts[PROFILES.get(name, "loihi2")]
            wishes = Wishes(None, f"npz:{images}" if name in USES_DATA else None, 0)
            path = Path(folder, f"a.{name}")
            found[name] = _refusal(made, partial(write, path=path, wishes=wishes))
    return found


def compiled_support(artifact: Artifact) -> dict[str, Any]:
    """What follows from the compiled network alone."""
    netlist = artifact.netlist
    models = {type(p.neuron).__name__ for p in netlist.populations} - {"Source", "Readout"}
    missing = models - {*lava.PROCESSES}
    return {
        "neurons": sorted(models),
        "exact": netlist.settles and netlist.has_quantised_ann,
        "lava": f"there is no process for {', '.join(sorted(missing))}" if missing else None,
    }


def everything(tell: Callable[[str], None] = lambda title: None) -> dict[str, Any]:
    """The support of all families with all methods; families alike in all of it together."""
    groups: list[dict[str, Any]] = []
    for family in FAMILIES:
        tell(family.title)
        found = {variant: support(family, variant) for variant in VARIANTS}
        same = [group for group in groups if group["support"] == found]
        if same:
            same[0]["families"].append(family.title)
        else:
            groups.append({"families": [family.title], "support": found})
    return {"groups": groups}


def write(found: dict[str, Any]) -> None:
    """Rewrite what the package and the docs say."""
    text = json.dumps(found, indent=1)
    operators.SUPPORT.write_text(f"{text}\n", encoding="utf-8")
    DOCS.write_text(operators.markdown(), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(everything(lambda title: print(title, file=sys.stderr)))
