"""The process that the processes of several jobs are forked from.

It imports torch and Lightning once for all of them, while the command that was started imports them for itself. Nothing
large is imported here: this runs before the rest.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext

# What every training imports; what is not installed is left out.
_IMPORTED = ["ss_lightning.cli.lightning_cli", "ss_lightning.module", "numba"]


def job_context() -> BaseContext:
    """How processes of jobs begin: forked from the server, or from scratch where forking is not safe."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def start_server(words: Sequence[str]) -> None:
    """Start the server where a command line has jobs; it is ready about when the command is.

    Args:
        words: the command line behind the subcommand.
    """
    # Each option with its value, written as one word or as two.
    given = [(*word.split("=", 1), after)[:2] for word, after in zip(words, [*words[1:], ""], strict=False)]
    has_jobs = any(name == "--storage" or (name == "--jobs" and value != "1") for name, value in given)
    if has_jobs and job_context().get_start_method() == "forkserver":
        from multiprocessing import forkserver  # not on Windows

        with without_ctrl_c():
            forkserver.ensure_running()


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Around the start of a process that is not to hear it: a terminal sends Ctrl-C to all, and one of them decides."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
