"""Recorded calls executed one after the other on real samples, and what each overwrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import fx


@final
class Execution:
    """What every node stands for in one very execution, and what it changed in place."""

    def __init__(self) -> None:
        self.values: dict[fx.Node, Any] = {}
        self._overwritten: dict[fx.Node, list[fx.Node]] = {}

    def run(
        self, node: fx.Node, execute: Callable[[Any, Any], Any], value: Callable[[fx.Node], Any]
    ) -> None:
        """Call execute(args, kwargs) with `value` of each operand, and keep what it returns."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
        versions = {n: _version(v) for n in node.all_input_nodes if is_tensor(v := value(n))}
        # Tensors made in inference mode count no versions.
        with torch.inference_mode(False), torch.no_grad():
            self.values[node] = execute(args, kwargs)
        # All views of one memory count their changes together; which one of the operands that share
        # it was written is not known, so all of them are taken for written.
        written = [v for n, old in versions.items() if _version(v := value(n)) > old]
        if written:
            self._overwritten[node] = [
                n
                for n, found in self.values.items()
                if n is not node and any(_overlap(v, w) for v in _tensors(found) for w in written)
            ]

    def overwritten(self, node: fx.Node) -> list[tuple[fx.Node, bool]]:
        """Earlier tensors whose memory the call changed; does it return just that tensor?"""
        result = self.values.get(node)
        changed = self._overwritten.get(node, [])
        return [(n, _same_view(self.values[n], result)) for n in changed]


def is_tensor(value: object) -> bool:
    """Is it a tensor?"""
    return isinstance(value, torch.Tensor)


def _version(tensor: torch.Tensor) -> int:
    """How often the tensor, or another view of its memory, was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensor, or those of a tuple, such as chunks."""
    return [v for v in (value if isinstance(value, (tuple, list)) else (value,)) if is_tensor(v)]


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Is there a number that both hold?"""
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    if a.dtype != b.dtype or a.numel() == a.untyped_storage().nbytes() // a.element_size():
        return True
    return bool((_places(a) & _places(b)).any())


def _places(tensor: torch.Tensor) -> torch.Tensor:
    """Which numbers of its memory a tensor holds."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    held = torch.zeros(size, dtype=torch.bool)
    held.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
    return held


def _same_view(a: Any, b: Any) -> bool:
    """Are both the same numbers at the same place, under the same shape?"""
    return (
        is_tensor(a)
        and is_tensor(b)
        and (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())
    )
