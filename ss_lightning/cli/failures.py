"""Errors of torch, Lightning and the parts that a config names, in plain words."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import OutOfMemoryError
from torch.distributed import DistError
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ss_lightning.cli.imports import loaded

# Set, it makes the command line print where an error was raised, before the message.
TRACEBACK_VARIABLE = "SS_LIGHTNING_TRACEBACK"

_HINT = f"{TRACEBACK_VARIABLE}=1 shows where"
# Packages whose code is not the user's own.
_LIBRARIES = ("lightning", "snntorch", "ss_lightning", "torch", "torchmetrics")
# Where parts stand that see all of a training.
_SUSPECT = ("trainer.accelerator", "trainer.callbacks", "trainer.plugins", "trainer.profiler", "trainer.strategy")


def explain(error: BaseException, config: Namespace | None = None) -> tuple[str, int] | None:
    """What to print for an error, and the exit code; None for one that is a bug.

    Args:
        error: what a command raised, other than the errors of this package.
        config: the config of a training, if it was one. Its parts may be to blame.
    """
    short = _out_of_memory(error) or _lost_connection(error) or _said_by_process(error)
    if short is not None:
        return short
    parts = [] if config is None else list(_named_parts(config, "", None))
    where = " and ".join(map(str, _blamed(error, parts)))
    if isinstance(error, MisconfigurationException):  # Lightning's word for what its user can mend
        return f"{where}: {error}" if where else str(error).strip(), 2
    if where:
        return f"{where} does not work in this training: {_said(error)}. {_HINT}", 2
    module = _raised_in(error)
    of_torch = module.startswith("torch.optim.") and isinstance(error, ValueError | ArithmeticError)
    if module.startswith("lightning.") or of_torch:
        return f"{module} cannot work with what the config says: {_said(error)}. {_HINT}", 2
    if suspects := " and ".join(str(part) for part in parts if part.may_spoil):
        text = "Perhaps a part that the config names does not fit this training; try it without"
        return f"{_said(error)}. {text} {suspects}. {_HINT}", 2
    if isinstance(error, ProcessRaisedException):
        return f"process {error.error_index} of this run has ended with {_said(error)}. {_HINT}", 1
    return None


@dataclass(frozen=True)
class _Part:
    """A class or function that a config names.

    Attributes:
        key: where.
        name: its import path.
        found: the class or function.
        expected: how the argument is described that a function was given for; empty if that is not known.
        functions: of a class those among its arguments.
    """

    key: str
    name: str
    found: Callable[..., Any]
    expected: str = ""
    functions: tuple[_Part, ...] = ()

    def __str__(self) -> str:
        expected = f" (expected: {self.expected})" if self.expected else ""
        return f"{self.key}: {self.name}{expected}"

    @property
    def package(self) -> str:
        return (getattr(self.found, "__module__", None) or "").partition(".")[0]

    @property
    def may_spoil(self) -> bool:
        """Whether a training can break of it in a place where it does not stand itself."""
        ours = self.package == "ss_lightning" and not self.functions
        return isinstance(self.found, type) and not ours and self.key.startswith(_SUSPECT)


def _named_parts(value: Any, key: str, owner: type | None) -> Iterator[_Part]:
    """The classes and functions below a value of a config.

    Args:
        value: the value.
        key: its key.
        owner: the class whose argument it is.
    """
    if isinstance(value, Namespace | Mapping):
        content = vars(value) if isinstance(value, Namespace) else value
        path = content.get("class_path")
        kind = loaded(path) if isinstance(path, str) else None
        inner: list[_Part] = []
        for name, part in content.items():
            below = key if name == "init_args" else f"{key}.{name}".strip(".")
            inner += _named_parts(part, below, kind if name == "init_args" else owner)
        if isinstance(path, str) and callable(kind):
            functions = tuple(part for part in inner if not isinstance(part.found, type))
            yield _Part(key, path, kind, functions=functions)
        yield from inner
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _named_parts(part, key, owner)
    elif inspect.isroutine(value) and value is not _parameter(owner, key).default:
        name = f"{getattr(value, '__module__', None) or 'torch'}.{getattr(value, '__name__', value)}"
        yield _Part(key, name, value, _expected(_parameter(owner, key)))


def _parameter(owner: type | None, key: str) -> inspect.Parameter:
    """The argument of a class that a key stands for."""
    name = key.rpartition(".")[2]
    unknown = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    try:
        return inspect.signature(owner).parameters.get(name, unknown)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return unknown


def _expected(parameter: inspect.Parameter) -> str:
    """How a class describes an argument; empty if it does not."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _blamed(error: BaseException, parts: list[_Part]) -> tuple[_Part, ...]:
    """The parts in whose code an error was raised: what stands nearest to it on the stack is to blame.

    Code of this package in between takes the blame itself, and so does Lightning's loop: whatever is trained is called
    by it, and it by every optimizer.
    """
    inside = False  # this package, whose code takes the blame unless a function of it was named
    for frame in reversed(list(_frames(error))):
        module = frame.f_globals.get("__name__", "")
        for part in parts:
            if frame.f_code is getattr(part.found, "__code__", None):
                return (part,)
            if part.package not in _LIBRARIES and module.partition(".")[0] == part.package:
                return (part,)
        owner = [part for part in parts if type(frame.f_locals.get("self")) is part.found]
        if module.startswith("ss_lightning.") and owner and owner[0].functions and not inside:
            return owner[0].functions
        inside |= module.startswith("ss_lightning.")
        # A loop over callbacks or loggers holds the one that it calls.
        held = [part for part in parts for value in frame.f_locals.values() if _is(value, part)]
        for part in owner + [part for part in held if part.key.startswith("trainer.")]:
            if not inside and part.key not in ("model", "data"):  # these stand on every stack
                return part.functions or (part,)
        if module.startswith("lightning.pytorch.loops."):
            return ()
    return ()


def _is(value: Any, part: _Part) -> bool:
    return value is part.found if inspect.isroutine(value) else type(value) is part.found


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames between where an error was caught and where it was raised, the outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _raised_in(error: BaseException) -> str:
    """The module that raised an error."""
    frames = list(_frames(error))
    return frames[-1].f_globals.get("__name__", "") if frames else ""


def _said(error: BaseException) -> str:
    """Class and text of an error; of the user's own code also the line."""
    if isinstance(error, ProcessRaisedException):
        return ": ".join(_raised_in_process(error)).strip().rstrip(":.")
    text = f"{type(error).__name__}: {error}".strip().rstrip(":.")
    frames = list(_frames(error))
    if frames and frames[-1].f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
        line = inspect.getframeinfo(frames[-1]).lineno
        return f"{text} ({os.path.basename(frames[-1].f_code.co_filename)}, line {line})"
    return text


def _out_of_memory(error: BaseException) -> tuple[str, int] | None:
    # For a full memory of the processor torch has no type of error, only a text.
    full = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if full or isinstance(error, MemoryError | OutOfMemoryError):
        return f"out of memory ({_first_line(error)}). Make model.hidden, data.batch_size or data.num_steps smaller", 2
    return None


def _lost_connection(error: BaseException) -> tuple[str, int] | None:
    # Nor has it one for a lost connection of gloo.
    if isinstance(error, RuntimeError) and ("gloo" in str(error) or isinstance(error, DistError)):
        text = f"the connection to another process of this run broke; its own error stands above ({_first_line(error)})"
        return text, 1
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _said_by_process(error: BaseException) -> tuple[str, int] | None:
    """What a process that ``ddp_spawn`` or ``ddp_fork`` has started says of its end, if it does so for a user."""
    if isinstance(error, ProcessExitedException):
        return f"a process of this run has ended: {_first_line(error)}", 1
    if not isinstance(error, ProcessRaisedException):
        return None
    kind, text = _raised_in_process(error)
    if not kind.startswith("ss_lightning.errors.") and not kind.endswith("MisconfigurationException"):
        return None
    return text, 1 if kind.endswith("DataError") else 2


def _raised_in_process(error: ProcessRaisedException) -> tuple[str, str]:
    """Class and text of an error of a process that ``ddp_spawn`` or ``ddp_fork`` has started; here it is only text."""
    last = str(error).rpartition("Traceback (most recent call last):\n")[2].strip()
    raised = re.search(r"^(\w[\w.]*)(?:: (.*))?\Z", last, re.MULTILINE | re.DOTALL)
    return ("Exception", last) if raised is None else (raised[1], raised[2] or "")
