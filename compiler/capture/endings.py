"""The end of a recording: which calls are taken off as heads, and what the network returns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, final

from torch import fx

from lapilli.compiler.capture.recording import Recording
from lapilli.compiler.errors import CaptureError
from lapilli.compiler.layers.heads import Headed, HeadedPair
from lapilli.compiler.layers.rule import Operand
from lapilli.compiler.outputs import NO_HEAD, Head, Output, leaves


@final
class Endings:
    """Knows, before it is reached, whether a call's result is returned as it is and not read else.

    is_view: does a call only rename, copy or reshape its first argument?
    """

    def __init__(self, trace: Recording, is_view: Callable[[fx.Node], bool]):
        self._trace, self._is_view = trace, is_view
        self._order = {n: i for i, n in enumerate(trace.nodes)}

    def ends(self, n: fx.Node) -> bool:
        """Do all who read the result of n, under any name, return it, or a view that ends?"""
        readers = set(n.users)
        for changed, _ in self._trace.overwritten(n):  # x.sigmoid_(): later, x is the result
            readers |= {m for m in changed.users if self._order[m] > self._order[n]}
        return all(m.op == "output" or (self._passes(m, n) and self.ends(m)) for m in readers)

    def _passes(self, m: fx.Node, n: fx.Node) -> bool:
        """Does m hand on what n returned, or one of the two that max(dim) returned?"""
        if isinstance(self._trace.result(n), tuple):
            return m.target in _PICKS and isinstance(m.args[1], (int, str))
        return self._is_view(m) and not self._trace.overwritten(m)

    def after(self, n: fx.Node, source: Headed | HeadedPair) -> Headed | HeadedPair:
        """What a call that `ends` let pass makes of a result that was taken off."""
        if isinstance(source, Headed):
            return source
        part = source.part(n.args[1])
        assert part is not None, "the trace has read this part already"
        return part


_PICKS = (operator.getitem, getattr)


@final
class _Leaf:
    """A tensor in what the network returns: which one, and its shape without the batch."""

    def __init__(self, operand: Operand, head: Head, result: Any):
        self.operand, self.head = operand, head
        self.shape = tuple(int(size) for size in result.shape[1:])


def returned(
    structure: Any, value: Callable[[fx.Node], Any], trace: Recording
) -> Iterator[tuple[str, Output]]:
    """(node that is read out, output) of each tensor in what the network returns, in order.

    Output.readout counts nodes in the order of their first use. structure: the argument of the
    trace's output node; value: what capture made of a call. Raises CaptureError for anything that
    is not a tensor that depends on the input.
    """

    def leaf(n: fx.Node) -> Any:
        found, result = value(n), trace.result(n)
        if isinstance(found, Operand):
            return _Leaf(found, NO_HEAD, result)
        if isinstance(found, Headed):
            return _Leaf(found.operand, found.head, result)
        if isinstance(found, HeadedPair):
            pairs = zip((found.values, found.indices), result, strict=True)
            return tuple(_Leaf(part.operand, part.head, tensor) for part, tensor in pairs)
        return found

    places: dict[str, int] = {}
    for name, found in leaves(fx.node.map_arg(structure, leaf)):
        if not isinstance(found, _Leaf):
            raise CaptureError(
                "outputs",
                "every output depends on the input",
                found=type(found).__name__,
                allowed="tensors that the network computed, alone or in tuples, lists, dicts",
                remedy=f"Output {name!r} is the same for every image: return the others only, and "
                "keep it beside the network.",
            )
        node = found.operand.name
        place = places.setdefault(node, len(places))
        yield node, Output(name, place, found.shape, found.head)
