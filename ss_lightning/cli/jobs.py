"""Trainings side by side, each in a process of its own, with the threads shared out.

The process that was started decides what is trained and keeps the results; the others only train. So there is one bar
and one message for all of them, and nothing that they write meets in one file.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ss_lightning.cli.failures import explain
from ss_lightning.cli.fork_server import job_context, without_ctrl_c
from ss_lightning.cli.lightning_cli import is_interactive
from ss_lightning.cli.output import format_warning, silence_warnings
from ss_lightning.errors import DataError, UsageError

# How long a process that was told to end may take, in seconds: a training writes that it was interrupted.
_PATIENCE = 10.0
# How often a queue is asked for more, in seconds.
_TICK = 1.0

Task = TypeVar("Task")
Result = TypeVar("Result")
# What a training may ask the process that was started, in the midst of it.
Ask = Callable[[Any], Any]


class Output(Protocol):
    """Where a command writes lines, and its bar if there is one."""

    def say(self, line: str) -> None:
        """Write a line above the bar."""

    def show(self, done: int) -> None:
        """Move the bar to a number of trainings."""


class JobQueue(ABC, Generic[Task, Result]):
    """What is to be done, and what becomes of it. All methods are called in the process that was started."""

    @abstractmethod
    def take(self) -> Task | None:
        """The next task; None if there is none now. Its text names it in messages."""

    @abstractmethod
    def end(self, task: Task, result: Result) -> None:
        """Keep the result of a task."""

    def is_over(self) -> bool:
        """Whether no task will come any more, once none is running here."""
        return True

    def answer(self, task: Task, question: Any) -> Any:
        """Answer what a running task asks."""
        raise NotImplementedError

    def lose(self, task: Task, reason: str) -> None:
        """Decide about a task whose process died twice.

        Raises:
            UsageError: the others are not to go on.
        """
        raise UsageError(f"{task}: {reason}, twice. Fewer --jobs need less memory; the same command goes on")

    def renew(self) -> Sequence[Task]:
        """Do what is to be done now and then; returns tasks that are not to be gone on with."""
        return ()


def check_jobs(jobs: int) -> None:
    """Refuse a number of jobs that is none.

    Raises:
        UsageError: it is below 1.
    """
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}; expected 1 or more")


def run_in_turn(queue: JobQueue[Task, Result], work: Callable[[Task, Ask], Result]) -> None:
    """Do all tasks in this process, one after the other."""
    while (task := queue.take()) is not None:
        queue.end(task, work(task, partial(queue.answer, task)))


def run_side_by_side(
    queue: JobQueue[Task, Result], work: Callable[[Task, Ask], Result], jobs: int, say: Callable[[str], None]
) -> None:
    """Do all tasks, ``jobs`` at a time, in processes of their own, which end with this call however it ends.

    Args:
        queue: the tasks.
        work: does one; it and the tasks are pickled.
        jobs: how many processes.
        say: writes a line. What trainings print is said once, however many of them print it.

    Raises:
        Exception: what a task raised first.
    """
    workers = [_Worker(environment, pickle.dumps(work)) for environment in environments(jobs)]
    died: set[Task] = set()
    said: set[str] = set()
    try:
        while True:
            if _ctrl_c.is_set():
                raise KeyboardInterrupt
            for worker in workers:
                if worker.task is None and (task := queue.take()) is not None:
                    worker.start(task)
            if queue.is_over() and all(worker.task is None for worker in workers):
                break
            for worker, kind, content in _messages(workers):
                task = worker.task
                if kind == "line" and content not in said:
                    said.add(content)
                    say(content)
                elif kind == "question":
                    worker.send(queue.answer(task, content))
                elif kind == "result":
                    worker.task = None
                    queue.end(task, content)
                elif kind == "error":
                    raise content
                elif kind == "death" and task is not None:
                    # Whoever ended it may be about to end this process too, which is no death of a training.
                    time.sleep(0.5)
                    if task not in died:
                        died.add(task)
                        say(f"{task}: {content}; it runs again")
                        worker.start(task)
                    else:
                        worker.task = None
                        queue.lose(task, content)
            for task in queue.renew():
                next(worker for worker in workers if worker.task == task).abandon()
    finally:
        _end(workers)


def environments(jobs: int) -> list[dict[str, str]]:
    """Variables of each process: its share of the threads, and of the GPUs where there are several of them."""
    threads = str(threads_each(jobs))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
    shared = {"OMP_NUM_THREADS": threads}
    if len(devices) < 2:
        return [shared] * jobs
    return [{**shared, "CUDA_VISIBLE_DEVICES": devices[job % len(devices)]} for job in range(jobs)]


def threads_each(jobs: int) -> int:
    """Threads of each of several trainings; one alone would use all of them."""
    return max(1, torch.get_num_threads() // jobs)


class _Worker:
    """A process that does one task after the other, started with the first.

    Args:
        environment: its variables beside those of this process.
        work: what it does, pickled.
    """

    def __init__(self, environment: dict[str, str], work: bytes) -> None:
        self.environment = environment
        self.work = work
        self.task: Any = None
        self.process: Any = None
        self.connection: Connection | None = None

    def start(self, task: Any) -> None:
        """Begin a task."""
        self.task = task
        if self.process is None:
            context: Any = job_context()
            self.connection, theirs = context.Pipe()
            variables = {**os.environ, **self.environment}
            self.process = context.Process(target=_serve, args=(theirs, self.work, variables))
            with without_ctrl_c():
                self.process.start()
            theirs.close()
        self.send(task)

    def send(self, content: Any) -> None:
        """Send something; a process that has died is found where it is listened to."""
        assert self.connection is not None
        with suppress(OSError):
            self.connection.send(content)

    def bury(self) -> str:
        """Say how the process has ended; the next start makes another one."""
        self.process.join(_PATIENCE)
        return self._clear()

    def abandon(self) -> None:
        """End the process in the midst of its task."""
        self.task = None
        self._clear()

    def _clear(self) -> str:
        process, connection = self.process, self.connection
        assert connection is not None
        self.process = self.connection = None
        process.kill()
        process.join()
        connection.close()
        return f"its process ended ({_how(process.exitcode)})"


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _messages(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, str, Any]]:
    """What the processes send within a tick, one message of each; the death of one is a message, too."""
    running = {worker.connection: worker for worker in workers if worker.connection is not None}
    sentinels = [worker.process.sentinel for worker in running.values()]
    if not running:
        time.sleep(_TICK)
    ready = wait([*running, *sentinels], _TICK)
    for connection, worker in running.items():
        if connection not in ready and worker.process.sentinel not in ready:
            continue
        try:
            if not connection.poll():  # what it has started itself may keep the connection open
                raise EOFError
            message = connection.recv()
        except (EOFError, OSError):
            message = "death", worker.bury()
        yield (worker, *message)


def _end(workers: Sequence[_Worker]) -> None:
    """End all processes: those that train are asked to, and after a while made to."""
    processes = [worker.process for worker in workers if worker.process is not None]
    try:
        for worker in workers:
            if worker.process is not None and worker.task is None:
                worker.send(None)
            elif worker.process is not None:
                worker.process.terminate()
        deadline = time.monotonic() + _PATIENCE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:  # also where Ctrl-C is pressed a second time
        for process in processes:
            process.kill()
            process.join()


# In the processes that train ---------------------------------------------------------------------------------------


def _serve(connection: Connection, pickled: bytes, variables: Mapping[str, str]) -> None:
    """Do one task after the other until there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()  # the server may be older than the variables of the process that was started
    os.environ.update(variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))  # OpenMP has read its variable already
    np.random.seed()  # noqa: NPY002 - all processes that are forked from one begin with the same state
    # Whoever was killed cannot end this process.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lines = _Lines(connection)
    sys.stdout = sys.stderr = lines
    silence_warnings()
    warnings.formatwarning = format_warning
    work = pickle.loads(pickled)
    with suppress(SIGTERMException, EOFError, BrokenPipeError), ends_by_sigterm():
        while (task := connection.recv()) is not None:
            try:
                lines.send("result", work(task, lines.ask))
            except Exception as error:
                lines.send("error", _portable(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Lines(io.TextIOBase):
    """The output of a process, which goes to the one that started it, line by line.

    Args:
        connection: to that process.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._rest = ""

    def write(self, text: str) -> int:
        """Send the lines that are whole."""
        if os.getpid() != self._process:  # one that loads data for this one
            return sys.__stderr__.write(text) if sys.__stderr__ else 0
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if line.strip():
                self.send("line", line)
        return len(text)

    def send(self, kind: str, content: Any) -> None:
        """Send a message of a kind."""
        with self._lock:
            self._connection.send((kind, content))

    def ask(self, question: Any) -> Any:
        """Send a question and wait for its answer."""
        self.send("question", question)
        return self._connection.recv()


def _portable(error: Exception) -> Exception:
    """An error that can be sent to another process; its traceback cannot, so that of a bug becomes its text."""
    if isinstance(error, UsageError | DataError):
        kind: type[Exception] = DataError if isinstance(error, DataError) else UsageError
        return kind(str(error))
    if (known := explain(error)) is not None:
        text, code = known
        return UsageError(text) if code == 2 else DataError(text)
    return RuntimeError(f"a training failed in a process of its own:\n{traceback.format_exc()}")


# Around a whole command ---------------------------------------------------------------------------------------------


def _raise_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    raise SIGTERMException


@contextmanager
def ends_by_sigterm() -> Iterator[None]:
    """SIGTERM is raised as Lightning's exception, also where no training of this process is running.

    Lightning calls the handler that it finds beside its own. Ctrl-C is noted as well as raised, for a finalizer or a
    library may swallow what it raises.
    """
    handlers = {signal.SIGTERM: _raise_sigterm}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a command in the background may not hear it
        handlers[signal.SIGINT] = _raise_ctrl_c
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _ctrl_c.clear()


# Set once Ctrl-C has been pressed.
_ctrl_c = threading.Event()


def _raise_ctrl_c(number: int, frame: FrameType | None) -> NoReturn:
    _ctrl_c.set()
    raise KeyboardInterrupt


def say_stopped(error: BaseException) -> int:
    """Say that a command was stopped and goes on later; returns its exit code.

    Args:
        error: what stopped it: Ctrl-C, of which the trainer makes an exit, or SIGTERM.
    """
    print("\nstopped; the same command goes on from here")
    return 128 + (signal.SIGTERM if isinstance(error, SIGTERMException) else signal.SIGINT)


class _Plain:
    """Output without a bar."""

    def say(self, line: str) -> None:
        """Print a line at once."""
        print(line, flush=True)

    def show(self, done: int) -> None:
        """There is no bar."""


class _Bar:
    """A bar, and lines above it."""

    def __init__(self, bar: Progress, name: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(name, total=total)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False)

    def show(self, done: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done)


@contextmanager
def progress(name: str, total: int) -> Iterator[Output]:
    """One bar for many trainings; without a terminal there are lines only.

    Args:
        name: what is counted.
        total: how many there are.
    """
    if not is_interactive():
        yield _Plain()
        return
    with Progress(TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as bar:
        yield _Bar(bar, name, total)
