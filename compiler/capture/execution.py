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
        changed = {_storage(v) for n, old in versions.items() if _version(v := value(n)) > old}
        if changed:
            self._overwritten[node] = [
                n
                for n, found in self.values.items()
                if n is not node and is_tensor(found) and _storage(found) in changed
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


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same_view(a: Any, b: Any) -> bool:
    """Are both the same numbers at the same place, under the same shape?"""
    return (
        is_tensor(a)
        and is_tensor(b)
        and (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())
    )
