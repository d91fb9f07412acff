"""Exit codes: what the command line makes of everything that can go wrong."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from lapilli.compiler.errors import LapilliError
from lapilli.hardware_profiles import ProfileError
from lapilli.terminal import say

DONE, BAD_INPUT, ENVIRONMENT, INTERRUPTED = 0, 2, 3, 130
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def exit_code_of(command: Callable[[], Any], arguments: Sequence[str]) -> int:
    """Run a click command; each expected failure is one message, anything else is a bug and raised.

    --debug among the arguments shows the traceback of expected failures too.
    """
    try:
        result = command()
    except click.exceptions.Abort:  # what click makes of KeyboardInterrupt
        say("Interrupted.")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except (LapilliError, ProfileError) as error:
        _trace("--debug" in arguments)
        say(message(error))
        return error.exit_code
    except MemoryError:
        _trace("--debug" in arguments)
        say("Error: the memory of this machine is full.\n  Use fewer images (--limit).")
        return ENVIRONMENT
    except OSError as error:
        _trace("--debug" in arguments)
        advice = "\n  Free some space." if error.errno in _DISK else ""
        say(f"Error: the operating system refused: {error}{advice}")
        return ENVIRONMENT
    return result if isinstance(result, int) else DONE


def message(error: LapilliError | ProfileError) -> str:
    """The error over four lines: where and rule, found, allowed, remedy."""
    return (
        f"Error: {error.where.removesuffix(':')}: {error.rule}\n"
        f"  found:   {error.found}\n"
        f"  allowed: {error.allowed}\n"
        f"  {error.remedy}"
    )


def _trace(wanted: bool) -> None:
    if wanted:
        say(traceback.format_exc())
