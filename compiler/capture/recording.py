"""What every kind of input is recorded as: calls in order, and what each returned for samples."""

from __future__ import annotations

from typing import Any, Protocol

from torch import fx

from lapilli.compiler.layers import Kind


class Recording(Protocol):
    """Calls on a batch of samples, as nodes of torch.fx that lead from one input to the outputs."""

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """Placeholders, calls and one output, in order."""

    @property
    def batch(self) -> int:
        """How many samples it was recorded with."""

    def is_input(self, node: fx.Node) -> bool:
        """Is this placeholder the network's input? Others are constants."""

    def result(self, node: fx.Node) -> Any:
        """What the call returned: of tensors that depend on the input the shape and type matter."""

    def is_static(self, node: fx.Node) -> bool:
        """Does the call return what depends on the input's shape alone?"""

    def keys(self, node: fx.Node) -> tuple[Kind, tuple[Any, ...]]:
        """The field of LayerRule, and what its row may be called there, the best first."""

    def named(self, node: fx.Node) -> tuple[str, str]:
        """(population's name, what was called) of a call."""

    def place(self, node: fx.Node) -> str:
        """file:line in function: code, of the user's own code; empty where that is not known."""

    def attributes(self, node: fx.Node, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Attributes of the module that is called; None where it is no module."""

    def overwritten(self, node: fx.Node) -> list[tuple[fx.Node, bool]]:
        """Earlier tensors whose memory the call changed; does it return just that tensor?"""
