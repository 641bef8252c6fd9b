"""Where prepared data are kept between runs, and the lock that keeps two processes from preparing at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from ss_lightning.data.storage import FORMAT_VERSION
from ss_lightning.data.store import EventStore
from ss_lightning.data.validation import refuse_broken_link
from ss_lightning.errors import DataError


def cache_folder(cache_dir: str | None = None) -> Path:
    """The cache folder: the argument, else the variable SS_LIGHTNING_CACHE, else the user's cache folder."""
    return Path(
        cache_dir or os.environ.get("SS_LIGHTNING_CACHE") or platformdirs.user_cache_dir("ss_lightning")
    ).expanduser()


def digest(*parts: object) -> str:
    """A short name that stands for these values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


@contextmanager
def preparation_lock(folder: Path, subject: Path) -> Iterator[bool]:
    """Hold the one lock for preparing ``subject``; other processes wait here.

    Args:
        folder: the cache folder, made if it is missing; the lock file lies there because ``subject`` may be
            read-only.
        subject: the folder of source files that is being prepared.

    Yields:
        Whether the lock is held; False if the cache folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{digest(subject.resolve())}.lock")
        lock.acquire()
    except (OSError, NotImplementedError):  # the latter: a file system without locks
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def cached_stores(
    folder: Path,
    sources: Mapping[str, Path],
    build: Callable[[Path], Iterable[EventStore]],
    *,
    writable: bool,
    settings: tuple = (),
) -> dict[str, EventStore]:
    """Load the stores made from files out of the cache, or build and keep them.

    An entry belongs to one resolved path, the size and times of change of the file, or of all files of the folder, the
    format version and ``settings``: anything else, and any entry that is incomplete or damaged, is built again. Call it
    under :func:`preparation_lock`.
    If the cache cannot be written, there is one warning and the stores stay in memory.

    Args:
        folder: the cache folder.
        sources: the source file of each store, or the folder of its files.
        build: makes the parts of a store from its source, which are written to the cache one by one.
        writable: whether the cache may be written.
        settings: what else the stores depend on.

    Returns:
        The stores under the names of their sources.
    """
    stores = {}
    trouble = ""
    for name, source in sources.items():
        entry, outdated = _entry(folder, source, settings)
        store = _loaded(entry)
        if store is None:
            try:
                if not writable:
                    raise PermissionError("no lock could be made there")
                shutil.rmtree(entry, ignore_errors=True)  # it could not be loaded
                EventStore.write(entry, build(source))
                for old in outdated:
                    shutil.rmtree(old, ignore_errors=True)
                store = EventStore.load(entry)
            except OSError as error:
                trouble = str(error)
                store = EventStore.joined(build(source))
        stores[name] = store
    if trouble:
        warnings.warn(
            f"Cannot keep prepared data in the cache {folder} ({trouble}), so the files are read again in "
            "every run. Set cache_dir or the environment variable SS_LIGHTNING_CACHE to a folder that can be "
            "written.",
            stacklevel=2,
        )
    return stores


def _entry(folder: Path, source: Path, settings: tuple) -> tuple[Path, list[Path]]:
    """Where the store made from ``source`` is kept, and what is kept there for the same path."""
    prefix = f"{source.stem}-{digest(source.resolve())}"
    state = digest(file_states(source), FORMAT_VERSION, settings)
    entry = folder / f"{prefix}-{state}"
    # With a dot in front: what is left of a process that was killed as it wrote.
    others = [*folder.glob(f"{prefix}-*"), *folder.glob(f".{prefix}-*")]
    return entry, [other for other in others if other != entry]


def file_states(source: Path | os.DirEntry) -> object:
    """What changes when a file, or anything in a folder, changes."""
    refuse_broken_link(Path(source))
    if source.is_dir():
        return sorted((entry.name, file_states(entry)) for entry in os.scandir(os.fspath(source)))
    status = source.stat()
    # Copying tools set the modification time back, but not the other one.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _loaded(entry: Path) -> EventStore | None:
    try:
        return EventStore.load(entry)
    except DataError:
        return None
