"""The one way in which this package compiles its kernels with numba.

numba stores compiled functions on disk, and reads them back where the file of the function has not changed. That look
misses the other files that the function calls into. So here a stored function is valid as long as no module in its
folder has changed.

This module does not import numba by itself. Importing numba takes half a second, which the first kernel pays.

Attributes:
    NUMBA_MEMBERS: the members of numba used here that its documentation does not promise, as dotted names.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

NUMBA_MEMBERS = (
    "numba.core.dispatcher.Dispatcher.enable_caching",
    "numba.core.dispatcher.Dispatcher._cache",
    "numba.core.caching.FunctionCache._cache_file",
    "numba.core.caching.IndexDataCacheFile._source_stamp",
)


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A function compiled by numba on its first call, stored on disk and free of the interpreter lock.

    Where no folder can be written, the function is compiled in every process, and one warning says so.

    Args:
        function: Python code that numba can compile in nopython mode.
        **options: further options of ``numba.njit``, such as ``error_model`` and ``fastmath``.

    Returns:
        numba's dispatcher, called like ``function``.
    """
    from numba import njit

    dispatcher = njit(nogil=True, **options)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        _warn_not_stored(str(error))
        return dispatcher
    stored = dispatcher._cache._cache_file
    stored._source_stamp = (stored._source_stamp, _source_digest(Path(inspect.getfile(function)).parent))
    return dispatcher


def compiled_when_called(function: Callable[..., Any]) -> Callable[..., Any]:
    """:func:`compiled` as a decorator that leaves the import of numba to the first call.

    Returns:
        A function whose ``dispatcher()`` is that of numba.
    """

    @cache
    def dispatcher() -> Callable[..., Any]:
        return compiled(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return dispatcher()(*arguments)

    call.dispatcher = dispatcher  # type: ignore[attr-defined]
    return call


@cache
def _source_digest(folder: Path) -> str:
    """A digest of every module in a folder, and of this one."""
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("*.py")), Path(__file__)]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


_not_stored: list[str] = []


def _warn_not_stored(reason: str) -> None:
    """One warning in each process, however many kernels it concerns."""
    if not _not_stored:
        _not_stored.append(reason)
        warnings.warn(
            f"numba finds no folder in which it can store compiled kernels ({reason}). They are compiled in every "
            "process, which takes up to a minute. Set the environment variable NUMBA_CACHE_DIR to a folder that can be "
            "written.",
            RuntimeWarning,
            stacklevel=3,
        )
