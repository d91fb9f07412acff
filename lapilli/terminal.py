"""The terminal: results to standard output, progress and messages to standard error."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # half of what `lapilli --help` took
    from rich.console import Console, RenderableType

WIDTH = 120
"""Columns where standard output is no terminal: no number is cut off in a log."""
Count = Callable[[int, int], None]
"""Called with (done, total)."""


def console() -> Console:
    """A console that prints text as it is: names come from users, so nothing in them is markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def show(*parts: RenderableType) -> None:
    """Print tables and lines to standard output."""
    screen = console()
    with screen.capture() as text:
        for part in parts:
            screen.print(part)
    write(text.get())


def show_json(report: dict[str, Any]) -> None:
    """Print one JSON object to standard output."""
    write(json.dumps(report, indent=2, allow_nan=False) + "\n")


def write(text: str) -> None:
    """Write to standard output; a reader that has gone (`| head`) ends nothing but the output."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python would try to write the rest at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def plain(text: object) -> str:
    """Text without control characters, which could steer the terminal; lines stay.

    >>> plain("a\\x1b[2Jb") == "a\\N{REPLACEMENT CHARACTER}[2Jb"
    True
    """
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in str(text))


def say(text: str) -> None:
    """A message to standard error."""
    print(plain(text), file=sys.stderr, flush=True)


@contextmanager
def bars() -> Iterator[Callable[[str], Count]]:
    """Progress bars on standard error, if it is a terminal: a title gives a counter."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = Console(stderr=True, markup=False, highlight=False, emoji=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)

    def bar(title: str) -> Count:
        task = progress.add_task(title, total=None)

        def count(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=done < total)

        return count

    with progress:
        yield bar


def staged(bar: Callable[[str], Count]) -> Callable[[str, int, int], None]:
    """For work that calls with (stage, done, total): a bar for each stage, made when it begins."""
    counters: dict[str, Count] = {}

    def count(stage: str, done: int, total: int) -> None:
        if stage not in counters:
            counters[stage] = bar(stage)
        counters[stage](done, total)

    return count


def stopwatch(what: str) -> Callable[[str, Any, Any], None]:
    """An `observe` for the compiler: one line per pass with its time, to standard error."""
    last = time.perf_counter()

    def observe(pass_name: str, before: object, after: object) -> None:
        nonlocal last
        now = time.perf_counter()
        say(f"{what}: {pass_name:<18} {now - last:6.2f} s")
        last = now

    return observe
