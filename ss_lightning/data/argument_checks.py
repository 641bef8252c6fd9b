"""Checks of constructor arguments; each message names the argument, what was found and what was expected."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from ss_lightning.errors import UsageError

T = TypeVar("T", bound=str)

# Indices of batches are 32 bit, and no machine has the memory for more.
_MOST = 2**31 - 1


def checked_whole_number(name: str, value: int, least: int = 1, most: int = _MOST) -> int:
    """``value`` if it is a whole number from ``least`` to ``most``, which is what 32 bits hold if not given.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is {value!r}; expected a whole number, {least} or more.")
    if value > most:
        raise UsageError(f"{name} is {value}; expected a whole number, {most} or less.")
    return int(value)


def checked_positive_number(name: str, value: float) -> float:
    """``value`` if it is a finite number greater than 0.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UsageError(f"{name} is {value!r}; expected a number greater than 0.")
    return float(value)


def checked_number(name: str, value: float, most: float = math.inf) -> float:
    """``value`` if it is a finite number from 0 to ``most``.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most or value == math.inf:
        expected = "0 or more" if most == math.inf else f"from 0 to {most:g}"
        raise UsageError(f"{name} is {value!r}; expected a number, {expected}.")
    return float(value)


def checked_fraction(name: str, value: float) -> float:
    """``value`` if it is a number in [0, 1).

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UsageError(f"{name} is {value!r}; expected a number from 0 (none) to less than 1.")
    return float(value)


def checked_choice(name: str, value: T, choices: tuple[str, ...]) -> T:
    """``value`` if it is among ``choices``.

    Raises:
        UsageError: it is not.
    """
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}.")
    return value
