"""The end of a run's group of processes, where the run began it."""

from __future__ import annotations

import time

from torch import distributed

SETTLING_S = 0.1
"""Time that threads of the group get to free the tensors of the last exchange."""


def joined() -> bool:
    """Is this process in a group already?"""
    return distributed.is_available() and distributed.is_initialized()


def leave() -> None:
    """Leave the group, together with all other processes; nothing where there is none.

    To be called where training went well: after a failure the others may never come. A process that
    ends while it is in a group is aborted where one of gloo's threads is still about to free a
    tensor, for which it needs the interpreter that is gone. torch 2.3 leaves the group with the
    interpreter's lock held and waits for these threads for ever, so they get time for it before.
    """
    if joined():
        distributed.barrier()
        time.sleep(SETTLING_S)
        distributed.destroy_process_group()
