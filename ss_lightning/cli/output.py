"""Output that never ends a training: its reader may leave, its disk may be full, it may be closed from the start."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO


class LastingOutput(io.TextIOWrapper):
    """A text stream that goes on into nothing once its descriptor cannot be written any more.

    Attributes:
        error: why it could not; None as long as it can.
    """

    def __init__(self, stream: io.TextIOWrapper, lost: Callable[[OSError], None]) -> None:
        # What the encoding of the terminal has no sign for is written as its number, as Python does it on stderr.
        errors = stream.errors if stream.encoding.lower() in ("utf-8", "utf8") else "backslashreplace"
        super().__init__(
            stream.buffer, stream.encoding, errors, line_buffering=stream.line_buffering, write_through=True
        )
        self.error: OSError | None = None
        self._stream = stream  # closes the buffer when it goes
        self._lost = lost

    def write(self, text: str) -> int:
        """Write, or lose the text."""
        return self._lasting(super().write, text) or 0

    def flush(self) -> None:
        """Flush, or lose what is left."""
        self._lasting(super().flush)

    def _lasting(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            first, self.error = self.error is None, error
            # The descriptor itself, so that what is buffered, worker processes and other libraries go on as well.
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            with suppress(OSError):
                super().flush()
            if first:
                self._lost(error)
            return None


def make_output_last() -> None:
    """Put streams that never raise in the place of the standard ones; streams that others have set stay theirs."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the command was started with it closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process lives
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, LastingOutput(stream, _say_it_on_stderr if name == "stdout" else _say_nothing))


def output_is_incomplete(stream: TextIO) -> bool:
    """Whether something that was meant to be read is lost; a reader that has left has seen what it wanted."""
    error = stream.error if isinstance(stream, LastingOutput) else None
    return error is not None and error.errno != errno.EPIPE


def _say_it_on_stderr(error: OSError) -> None:
    print(f"note  the output cannot be written any more ({error.strerror}); the command goes on", file=sys.stderr)


def _say_nothing(error: OSError) -> None:
    pass


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as it is printed. One of this package is a note: the line of code that it comes from mends nothing."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"note  {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def silence_lightning() -> None:
    """Silence what Lightning tells of one training, where there are many."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


# What Lightning logs of its own products, and of the end that the lines of the epochs show.
_NOT_SAID = ("litlogger", "litmodels", "`Trainer.fit` stopped: `max_epochs=")


def silence_warnings() -> None:
    """Silence notes of Lightning that do not hold here."""
    # Batches are made in one vectorised step: more workers would not make them faster.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The module's own optimizer serves plain Python; the command line replaces it on purpose.
    warnings.filterwarnings("ignore", message=".*configure_optimizers` will be overridden.*")
    # A resumed run keeps its checkpoints in its own folder, and evaluation keeps none.
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
    # Data without a validation set.
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    # A run folder is new; what other loggers have put there is not deleted.
    warnings.filterwarnings("ignore", message=".*exists and is not empty. Previous log files.*")
    # Lightning 2.6 on torch 2.14 warns about its own code.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(text in record.getMessage() for text in _NOT_SAID)
    )
