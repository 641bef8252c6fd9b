"""Errors of torch and Lightning that a user can mend, in plain words. Imported once something has gone wrong."""

from __future__ import annotations

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import OutOfMemoryError
from torch.distributed import DistError


def explain(error: Exception) -> tuple[str, int] | None:
    """What to print for an error, and the exit code; None for one that is a bug.

    Args:
        error: what a command raised, other than the errors of this package.
    """
    text = str(error).strip()
    if isinstance(error, MisconfigurationException):
        return text, 2
    if isinstance(error, ValueError | ArithmeticError):
        where = _raised_in(error)
        if where.startswith(("lightning.", "torch.optim.")):
            return f"{where} cannot work with what the config says: {text}", 2
        return None
    if not isinstance(error, RuntimeError | MemoryError):
        return None
    first = text.splitlines()[0] if text else type(error).__name__
    # For a full memory of the processor, and a lost connection of gloo, torch has no type of error, only a text.
    if isinstance(error, MemoryError | OutOfMemoryError) or "can't allocate memory" in text:
        return f"out of memory ({first}). Make model.hidden, data.batch_size or data.num_steps smaller", 2
    if "gloo" in text or isinstance(error, DistError):
        return f"the connection to another process of this run broke; its own error stands above ({first})", 1
    return None


def _raised_in(error: BaseException) -> str:
    """The module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
