"""Every error that Lapilli raises on purpose: where, which rule, found, allowed, remedy.

The command line turns each into one message and the class's exit code; nothing else formats errors.
"""

from __future__ import annotations

from typing import ClassVar


class LapilliError(Exception):
    """A refusal that names the place, the rule, what was found, what is allowed, what to do."""

    exit_code: ClassVar[int] = 2

    def __init__(self, where: str, rule: str, *, found: object, allowed: object, remedy: str):
        self.where = where
        self.rule = rule
        self.found = str(found)
        self.allowed = str(allowed)
        self.remedy = remedy
        super().__init__(where, rule)

    def __str__(self) -> str:
        facts = f"found {self.found}, allowed {self.allowed}"
        place = self.where.removesuffix(":")  # a line of code such as `if x.mean() > 0:`
        return f"{place}: {self.rule}; {facts}. {self.remedy}"


class UnsupportedOperatorError(LapilliError):
    """An operator of the user's network has no lowering."""


class InputError(LapilliError):
    """Data, weights or options that cannot be used: NaN, wrong shape or range, empty set."""


class CaptureError(LapilliError):
    """The network cannot be traced, or the traced graph does not compute what the network does."""


class StateOverflowError(LapilliError):
    """An integer state can leave its width and no rescaling prevents it."""


class NetlistError(LapilliError):
    """A netlist breaks the integer contract or a limit of the hardware profile."""


class ArtifactError(LapilliError):
    """A model file is truncated, foreign, newer than this version, or tampered with."""


class BackendError(LapilliError):
    """The environment failed: a backend is missing, crashed, or ran out of time."""

    exit_code: ClassVar[int] = 3
