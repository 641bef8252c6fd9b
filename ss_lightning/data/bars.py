"""What a person sees while data are prepared: a spinner at first, a bar once it is known how much there is to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status

_spinning: list[Status] = []


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show in a terminal that something is going on; a bar takes its place as long as there is one."""
    status = Console().status(text)
    _spinning.append(status)
    try:
        with status:
            yield
    finally:
        _spinning.remove(status)


@contextmanager
def progress_bar(text: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar on the error stream; where that is no terminal, one line at the beginning.

    Args:
        text: what is done, such as "preparing 2,000 files".
        total: how much there is to do.
        done: how much of it is done already.

    Yields:
        A function that is told how much more has been done.
    """
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
        yield lambda more: None
        return
    for status in _spinning:
        status.stop()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(text, total=total, completed=done)
            yield lambda more: bar.advance(task, more)
    finally:
        for status in _spinning:
            status.start()
