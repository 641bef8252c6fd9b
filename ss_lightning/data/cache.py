"""Where prepared data are kept between runs, and the lock that keeps two processes from preparing at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from ss_lightning.data.events import FORMAT_VERSION, EventStore
from ss_lightning.errors import DataError


def cache_folder(cache_dir: str | None = None) -> Path:
    """The cache folder: the argument, else the variable SS_LIGHTNING_CACHE, else the user's cache folder."""
    return Path(
        cache_dir or os.environ.get("SS_LIGHTNING_CACHE") or platformdirs.user_cache_dir("ss_lightning")
    ).expanduser()


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


@contextmanager
def preparation_lock(folder: Path, subject: Path) -> Iterator[bool]:
    """Hold the one lock for preparing ``subject``; other processes wait here.

    Args:
        folder: The cache folder, made if it is missing; the lock file lies there because ``subject`` may be
            read-only.
        subject: The folder of source files that is being prepared.

    Yields:
        Whether the lock is held; False if the cache folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{_digest(subject.resolve())}.lock")
        lock.acquire()
    except (OSError, NotImplementedError):  # the latter: a file system without locks
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def cached_store(
    folder: Path, source: Path, build: Callable[[], EventStore], *, writable: bool, settings: tuple = ()
) -> EventStore:
    """Load the store made from ``source`` out of the cache, or build and keep it.

    An entry belongs to one resolved path, size, modification time, format version and ``settings``: anything else,
    and any entry that is incomplete or damaged, is built again. Call it under :func:`preparation_lock`.

    Args:
        folder: The cache folder.
        source: The file that ``build`` reads.
        build: Makes the store.
        writable: Whether the cache may be written; if not, the store stays in memory.
        settings: What else the result depends on.
    """
    status = source.stat()
    prefix = f"{source.stem}-{_digest(source.resolve())}"
    entry = folder / f"{prefix}-{_digest(status.st_size, status.st_mtime_ns, FORMAT_VERSION, settings)}"
    try:
        return EventStore.load(entry)
    except DataError:
        store = build()
    reason = "the folder cannot be written"
    if writable:
        try:
            for outdated in folder.glob(f"{prefix}-*"):
                shutil.rmtree(outdated, ignore_errors=True)
            store.save(entry)
            return EventStore.load(entry)
        except OSError as error:
            reason = str(error)
    warnings.warn(
        f"Cannot keep prepared data in the cache {folder} ({reason}), so {source.name} is read again in every run. "
        "Set cache_dir or the environment variable SS_LIGHTNING_CACHE to a folder that can be written.",
        stacklevel=2,
    )
    return store
