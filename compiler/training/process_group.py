"""The end of a run's group of processes, where the run began it."""

from __future__ import annotations

import atexit
import time

from torch import distributed

SETTLING_S = 0.1
"""Time that threads of the group get to free the tensors of the last exchange."""


def joined() -> bool:
    """Is this process in a group already?"""
    return distributed.is_available() and distributed.is_initialized()


def leave_at_exit() -> None:
    """Leave the group when the program ends; nothing where there is none.

    To be called once training went well: after a failure, exchanges may be under way for ever. The
    group stays for further runs of the program: it cannot be joined a second time.
    """
    if joined():
        atexit.register(leave)


def leave() -> None:
    """Leave the group, without waiting for others; nothing where there is none.

    A process that ends while it is in a group is aborted where one of gloo's threads is still about
    to free a tensor, for which it needs the interpreter that is gone. torch 2.3 leaves the group
    with the interpreter's lock held and waits for these threads for ever, so they get time before.
    """
    if joined():
        time.sleep(SETTLING_S)
        distributed.destroy_process_group()
