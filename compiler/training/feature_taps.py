"""What single layers of a network compute while it runs, by the names of their places."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from lapilli.compiler.errors import InputError


@contextmanager
def tapped(
    network: nn.Module, names: Sequence[str], before: Sequence[str] = ()
) -> Iterator[dict[str, Tensor]]:
    """Within the context, every run of the network leaves the layers' outputs in the dict.

    names: module paths; of those in `before`, what they are given instead. The network itself is
    as it was afterwards: nothing of the taps is left in what is copied or compiled.
    """
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in names:
            module = network.get_submodule(name)
            if name in before:
                hook = module.register_forward_pre_hook(_given(seen, name))
            else:
                hook = module.register_forward_hook(_made(seen, name))
            hooks.callback(hook.remove)
        yield seen


def check_names(network: nn.Module, names: Sequence[str], whose: str) -> None:
    """Raise InputError for a name that is no module of the network."""
    known = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                "option distilled.features",
                f"features are places of the {whose}",
                found=repr(name),
                allowed=", ".join(known),
                remedy=f"Did you mean {close[0]}?" if close else "Name one of these.",
            )


def _given(seen: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name] = args[0]

    return hook


def _made(seen: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen[name] = output

    return hook
