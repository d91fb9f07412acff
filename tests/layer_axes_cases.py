"""Calls on layers that weigh each axis by itself: sums, padding, repetition, flips, broadcasts.

As in tests/layer_cases.py; a name that has cases elsewhere gets these as well.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

Call = Callable[[Any], Any]
PLANE = torch.linspace(-1, 1, 30).reshape(1, 1, 6, 5)
MIXER = torch.linspace(-1, 1, 12).reshape(3, 4)
ROWS = torch.linspace(-1, 1, 18).reshape(6, 3)


def pooled(x: Any) -> Any:
    """One number per channel."""
    return x.mean((2, 3), True)


SUMS: dict[str, list[Call | nn.Module]] = {
    "torch.sum": [
        lambda x: torch.sum(x, (2, 3)),
        lambda x: torch.sum(x, dim=1, keepdim=True),
    ],
    "sum": [
        lambda x: x.sum(1),
        lambda x: x.sum((1, 2, 3)),
        lambda x: x.sum(dim=-1, keepdim=True, dtype=torch.float32),
        lambda x: x.flatten(2).sum(1),
    ],
    "torch.mean": [lambda x: torch.mean(x, 1, True)],
    "mean": [
        lambda x: x.mean(1),
        lambda x: x.mean((1, 2)),
        lambda x: x.flatten(1).mean(1),
        lambda x: x.unsqueeze(2).mean(3),
    ],
}
PLACES: dict[str, list[Call | nn.Module]] = {
    "torch.flip": [lambda x: torch.flip(x, (1,)), lambda x: torch.flip(x, dims=[2, 3])],
    "flip": [lambda x: x.flip(3), lambda x: x.flip(1, -2), lambda x: x.flip((2,))],
    "torch.roll": [lambda x: torch.roll(x, 2, 1), lambda x: torch.roll(x, (1, -2), dims=(2, 3))],
    "roll": [lambda x: x.roll(-1, 3), lambda x: x.roll((1, 1), (2, 2))],
    "torch.tile": [lambda x: torch.tile(x, (2, 1, 1)), lambda x: torch.tile(x, dims=(1, 2, 1, 3))],
    "tile": [lambda x: x.tile(2), lambda x: x.tile((1, 1, 2))],
    "repeat": [lambda x: x.repeat(1, 2, 1, 3), lambda x: pooled(x).repeat((1, 1, 6, 5))],
    "torch.repeat_interleave": [lambda x: torch.repeat_interleave(x, 2, 1)],
    "repeat_interleave": [
        lambda x: x.repeat_interleave(3, dim=-1),
        lambda x: x.repeat_interleave(torch.tensor([1, 0, 2, 1]), dim=1),
    ],
    "torch.broadcast_to": [lambda x: torch.broadcast_to(pooled(x), x.shape)],
    "broadcast_to": [lambda x: pooled(x).broadcast_to(x.shape)],
    "expand": [
        lambda x: pooled(x).expand(-1, -1, 6, 5),
        lambda x: x.mean(1, True).expand(len(x), 3, -1, -1),
        lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1, -1).flatten(1, 2),
        lambda x: x.expand(x.shape),
    ],
    "expand_as": [lambda x: x.mean(2, True).expand_as(F.relu(x))],
    "torch.index_select": [lambda x: torch.index_select(x, 1, torch.tensor([3, 0, 0]))],
    "index_select": [lambda x: x.index_select(dim=-1, index=torch.tensor([4, 1]))],
    "torch.narrow": [lambda x: torch.narrow(x, 2, 1, 3)],
    "narrow": [lambda x: x.narrow(1, 0, 2), lambda x: x.narrow(-1, -2, 2)],
    "torch.select": [lambda x: torch.select(x, 1, 2)],
    "select": [lambda x: x.select(2, -1), lambda x: x.select(dim=-1, index=0)],
    "operator.getitem": [
        lambda x: x[:, [2, 0]],
        lambda x: x[:, :, torch.tensor([5, 5, 0]), 1:],
        lambda x: x[:, torch.tensor([True, False, True, True])],
        lambda x: x[..., [-1]],
        lambda x: x[:, None, [1, 0], ::2],
    ],
    "torch.movedim": [lambda x: torch.movedim(x, 1, -1)],
    "torch.moveaxis": [lambda x: torch.moveaxis(x, (1, 2), (2, 1))],
    "movedim": [lambda x: x.movedim((1, 3), (-1, 1)), lambda x: x.movedim(-1, 1)],
    "moveaxis": [lambda x: x.moveaxis(1, 2)],
    "torch.column_stack": [lambda x: torch.column_stack((x.flatten(1), F.relu(x).flatten(1)))],
}
VIEWS: dict[str, list[Call | nn.Module]] = {
    "torch.unflatten": [lambda x: torch.unflatten(x, 1, (2, 2))],
    "unflatten": [
        lambda x: x.unflatten(1, (2, 2)).flatten(1, 2),
        lambda x: x.unflatten(dim=2, sizes=(3, 2)),
    ],
    "view_as": [lambda x: x.view_as(F.relu(x)) * 2],
    "reshape_as": [lambda x: x.flatten(1).reshape_as(x)],
    "torch.atleast_2d": [torch.atleast_2d],
    "torch.atleast_3d": [torch.atleast_3d],
}
PADDING: dict[str, list[Call | nn.Module]] = {
    "torch.nn.functional.pad": [
        lambda x: F.pad(x, (1, 2, 3, 1), "reflect"),
        lambda x: F.pad(x, (1, 2, 0, 7), mode="replicate"),
        lambda x: F.pad(x, (2, 1, 6, 3), mode="circular"),
        lambda x: F.pad(x.flatten(2), (3, 2), "reflect"),
        lambda x: F.pad(x, (1, -2, 0, 1), value=1.5),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 2), "constant", -1),
        lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), value=0.3), MIXER[:, :, None, None]),
    ],
    "torch.nn.ConstantPad1d": [nn.Sequential(nn.Flatten(2), nn.ConstantPad1d((1, 2), 0.5))],
    "torch.nn.ConstantPad2d": [nn.ConstantPad2d(1, -2.0), nn.ConstantPad2d((1, -1, 2, 0), 0.0)],
    "torch.nn.ZeroPad1d": [nn.Sequential(nn.Flatten(2), nn.ZeroPad1d(2))],
    "torch.nn.ReflectionPad1d": [nn.Sequential(nn.Flatten(2), nn.ReflectionPad1d(2))],
    "torch.nn.ReflectionPad2d": [
        nn.ReflectionPad2d((1, 2, 3, 4)),
        nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 3, 3)),
    ],
    "torch.nn.ReplicationPad1d": [nn.Sequential(nn.Flatten(2), nn.ReplicationPad1d((2, 1)))],
    "torch.nn.ReplicationPad2d": [nn.ReplicationPad2d(2)],
    "torch.nn.CircularPad1d": [nn.Sequential(nn.Flatten(2), nn.CircularPad1d(2))],
    "torch.nn.CircularPad2d": [nn.CircularPad2d((1, 2, 3, 0))],
    "torch.nn.Conv2d": [
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 2, (3, 2), (2, 1), (1, 2), padding_mode="replicate"),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, padding_mode="circular"),
        nn.Conv2d(4, 2, (2, 4), padding="same", padding_mode="circular"),
        nn.Conv2d(4, 2, 2, padding_mode="reflect"),
    ],
}
BROADCASTS: dict[str, list[Call | nn.Module]] = {
    "operator.add": [
        lambda x: x + pooled(x),
        lambda x: x.mean(1, True) + x,
        lambda x: x.mean(2, True) + F.relu(x).mean(3, True),
        lambda x: pooled(x) + PLANE,
        lambda x: x + torch.full((len(x), 1, 1, 1), 0.5),
    ],
    "torch.sub": [lambda x: torch.sub(pooled(x), x, alpha=2)],
    "torch.mul": [lambda x: torch.mul(pooled(x), PLANE)],
    "operator.mul": [lambda x: x.mean(1, True) * MIXER[0, :, None, None]],
    "torch.div": [lambda x: torch.div(x.mean(2, True), ROWS[None, None, :, :1])],
}
PRODUCTS: dict[str, list[Call | nn.Module]] = {
    "torch.nn.Linear": [
        nn.Linear(5, 3),
        nn.Sequential(nn.Flatten(2), nn.Linear(30, 2, bias=False)),
    ],
    "torch.nn.functional.linear": [
        lambda x: F.linear(x.permute(0, 2, 3, 1), MIXER, torch.ones(3)).permute(0, 3, 1, 2)
    ],
    "operator.matmul": [
        lambda x: x @ torch.linspace(-1, 1, 10).reshape(5, 2),
        lambda x: x @ torch.linspace(-1, 1, 5),
    ],
    "torch.matmul": [lambda x: torch.matmul(ROWS.T, x)],
    "matmul": [
        lambda x: x.permute(0, 2, 3, 1).matmul(MIXER.T),
        lambda x: MIXER @ x.flatten(2),
    ],
    "torch.einsum": [
        lambda x: torch.einsum("nchw,oc->nohw", x, MIXER),
        lambda x: torch.einsum("hk,nchw->nckw", ROWS, x),
        lambda x: torch.einsum("nchw, c -> nhw", x, MIXER[0]),
        lambda x: torch.einsum("...w,wk->...k", x, MIXER.reshape(-1)[:10].reshape(5, 2)),
    ],
}
NORMS: dict[str, list[Call | nn.Module]] = {
    "torch.nn.InstanceNorm1d": [
        nn.Sequential(nn.Flatten(2), nn.InstanceNorm1d(4, track_running_stats=True)),
    ],
    "torch.nn.InstanceNorm2d": [nn.InstanceNorm2d(4, affine=True, track_running_stats=True)],
    "torch.nn.functional.instance_norm": [
        lambda x: F.instance_norm(x, torch.ones(4), torch.ones(4) * 2, use_input_stats=False),
        lambda x: F.instance_norm(x, MIXER[0], torch.ones(4), MIXER[1], MIXER[2], False, 0.1, 1e-3),
    ],
}
SIZES: dict[str, list[Call | nn.Module]] = {
    "torch.nn.functional.interpolate": [
        lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
        lambda x: F.interpolate(x, size=(4, 9), mode="area"),
        lambda x: F.interpolate(x, size=(4, 3), mode="bilinear", antialias=True),
        lambda x: F.interpolate(x, size=(3, 9), mode="bicubic", antialias=True),
    ],
}
ON_IMAGES = SUMS | PLACES | VIEWS | PADDING | BROADCASTS | PRODUCTS | NORMS | SIZES
ON_VECTORS: dict[str, list[Call | nn.Module]] = {
    "torch.mm": [lambda x: torch.mm(x, torch.linspace(-1, 1, 16).reshape(8, 2))],
    "torch.addmm": [
        lambda x: torch.addmm(torch.ones(3), x, torch.linspace(-1, 1, 24).reshape(8, 3)),
        lambda x: torch.addmm(
            torch.ones(1, 3), x, torch.linspace(-1, 1, 24).reshape(8, 3), beta=2, alpha=0.5
        ),
    ],
    "operator.matmul": [lambda x: x @ torch.linspace(-1, 1, 8)],
    "roll": [lambda x: x.roll(3, 1)],
    "flip": [lambda x: x.flip(1)],
    "torch.column_stack": [lambda x: torch.column_stack([x[:, 0], x[:, 2]])],
    "operator.getitem": [lambda x: x[:, [1, 1, 7]]],
    "operator.sub": [lambda x: operator.sub(x.reshape(-1, 2, 4), x.reshape(-1, 2, 4)[:, :1])],
}
