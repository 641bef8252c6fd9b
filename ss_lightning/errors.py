"""Mistakes a person can mend, told apart from bugs so that the command line shows no traceback for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A wrong argument, configuration or checkpoint. The command line prints the message and exits with 2."""


class DivergedError(UsageError):
    """A training whose loss or weights are no finite numbers any more. The command line exits with 2."""


class NoRoomError(UsageError):
    """A file or folder that cannot be written: other settings would do no better. The command line exits with 2."""


class DataError(ValueError):
    """A data file that is missing, cut short or not what it claims. The command line exits with 1."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of the known names, to be put behind a message; capitals do not count."""
    spelled = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    return f" Did you mean {spelled[near[0]]}?" if near else " --help lists what there is."
