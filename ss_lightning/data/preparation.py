"""Many files made into one stored data set: by several processes, with bounded memory, resumed where it was stopped.

The files are read in shards of some hundred. A shard is a folder that appears whole, named after the files that it was
made of, so a process that goes on finds those that are done. At the end the shards are joined, one after the other, and
removed.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from typing import Any, Protocol, TypeVar

import numpy as np

from ss_lightning.data.bars import progress_bar
from ss_lightning.data.cache import digest
from ss_lightning.data.layouts import Listing
from ss_lightning.data.storage import FORMAT_VERSION, read_arrays, write_arrays
from ss_lightning.data.validation import refuse_broken_link
from ss_lightning.errors import DataError

Arrays = Mapping[str, np.ndarray]
Sizes = Mapping[str, Any]
T = TypeVar("T")

# A shard is in memory at once: so many files, or so many bytes of them.
_FILES_AT_ONCE, _BYTES_AT_ONCE = 256, 2**24
_FEW = 2  # shards; fewer are read in this process, which costs less than starting others


class Reader(Protocol[T]):
    """Reads the files of a data set. It is sent to other processes."""

    def settings(self) -> tuple:
        """What else than the files the result depends on."""

    def read(self, path: Path) -> T:
        """What a file holds.

        Raises:
            DataError: it cannot be read; the message names the file.
        """

    def pack(self, items: Sequence[T], paths: Sequence[Path]) -> tuple[Arrays, Sizes]:
        """Flat arrays of what some files hold, and what there is to know of them as plain values.

        Raises:
            DataError: the files do not go together.
        """

    def join(self, sizes: Sequence[Sizes]) -> Callable[[Arrays, Sizes], tuple[Arrays, Sizes]]:
        """What makes the final arrays of each shard, of which all sizes are known by now.

        Raises:
            DataError: the shards do not go together.
        """


def prepare(
    folder: Path,
    listing: Listing,
    reader: Reader,
    *,
    skip_broken: bool = False,
    processes: int | None = None,
) -> Path:
    """The stored data set made of some files; made now if the cache does not have it.

    Besides what the reader makes it has the array ``file``, int64 ``[S]``: the number of the file of each sample. Its
    sizes have ``skipped``, what is wrong with each file that was left out.

    Args:
        folder: the cache folder, for which the caller holds the lock.
        listing: the files.
        reader: reads them.
        skip_broken: leave files out that cannot be read.
        processes: how many read; as many as there are processors if not given.

    Returns:
        The folder of the data set.

    Raises:
        DataError: a file cannot be read, or the files do not go together.
        OSError: the cache cannot be written.
    """
    prefix = f"{listing.root.name}-{digest(listing.root.resolve(), type(reader).__name__)}"
    shards = _shards(listing)
    names = [
        digest([(listing.found[n].path, listing.states[n]) for n in shard], FORMAT_VERSION, reader.settings())
        for shard in shards
    ]
    entry = folder / f"{prefix}-{digest(names, skip_broken)}"
    if _is_whole(entry):
        return entry
    work = folder / f".{prefix}.shards"
    work.mkdir(parents=True, exist_ok=True)
    for left in set(os.listdir(work)) - set(names):
        shutil.rmtree(work / left, ignore_errors=True)  # of files that have changed since, or half-written
    paths = listing.paths()
    todo = [
        (work / name, [paths[n] for n in shard], reader, skip_broken)
        for name, shard in zip(names, shards, strict=True)
        if not (work / name / "meta.json").is_file()
    ]
    try:
        _read_all(todo, len(paths), listing.root, processes)
    except BaseException:
        with suppress(OSError):
            work.rmdir()  # nothing is done that one could go on with
        raise
    write_arrays(entry, _joined([work / name for name in names], shards, listing, reader))
    shutil.rmtree(work, ignore_errors=True)
    for old in folder.glob(f"{prefix}-*"):
        if old != entry:
            shutil.rmtree(old, ignore_errors=True)
    return entry


def _is_whole(entry: Path) -> bool:
    """Whether an entry is there; it appears whole, and who loads it compares the checksums."""
    return (entry / "meta.json").is_file()


def _shards(listing: Listing) -> list[list[int]]:
    """Numbers of the files of each shard."""
    shards: list[list[int]] = []
    size = 0
    for number, (length, *_) in enumerate(listing.states):
        if not shards or len(shards[-1]) >= _FILES_AT_ONCE or size + length > _BYTES_AT_ONCE:
            shards.append([])
            size = 0
        shards[-1].append(number)
        size += length
    return shards


_Task = tuple[Path, list[Path], Reader, bool]


def _read_all(todo: Sequence[_Task], total: int, root: Path, processes: int | None) -> None:
    """Read the files of all shards that are not there yet."""
    if not todo:
        return
    number = min(processes or _processors(), len(todo))
    left = sum(len(paths) for _, paths, *_ in todo)
    before = f", {total - left:,} done before" if left < total else ""
    files = "file" if total == 1 else "files"
    with progress_bar(f"preparing {total:,} {files} of {root}{before}", total, total - left) as advance:
        if number == 1 or len(todo) < _FEW:
            for task in todo:
                _make_shard(task)
                advance(len(task[1]))
            return
        with _pool(number) as pool:
            waiting: dict[Future, int] = {pool.submit(_make_shard, task): len(task[1]) for task in todo}
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    advance(waiting.pop(future))


@contextmanager
def _pool(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, and whose tasks end with the first error."""
    pool = ProcessPoolExecutor(number, initializer=_begin)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise DataError(
            "a process that prepared files was ended from outside, perhaps because the memory is full. The same "
            "command goes on with what is left; use fewer processes (data.prepare_processes: 1)."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a new process: leave Ctrl-C to the first one, and end when that has ended."""
    signal(SIGINT, SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_shard(task: _Task) -> None:
    """Read the files of a shard and write it."""
    target, paths, reader, skip_broken = task
    kept: list[Any] = []
    numbers: list[int] = []
    skipped: dict[int, str] = {}
    for number, path in enumerate(paths):
        try:
            refuse_broken_link(path)
            kept.append(reader.read(path))
            numbers.append(number)
        except DataError as error:
            said = on_one_line(str(error))
            if not skip_broken:
                raise DataError(f"{said} To leave out files that cannot be read: data.skip_broken: true.") from error
            skipped[number] = said
    arrays, sizes = ({}, None) if not kept else reader.pack(kept, [paths[n] for n in numbers])
    shard = {**arrays, "file": np.array(numbers, np.int64)}
    write_arrays(target, [(shard, {"num_events": 0, "sizes": sizes, "skipped": list(skipped.items())})])


def on_one_line(text: str) -> str:
    """A message with the names of files, in which a line may end."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _joined(
    shards: Sequence[Path], numbers: Sequence[Sequence[int]], listing: Listing, reader: Reader
) -> Iterator[tuple[Arrays, Sizes]]:
    """The arrays of all shards, one after the other."""
    metas = [read_arrays(shard, only=("file",))[1] for shard in shards]
    skipped = {
        listing.found[numbers[n][place]].path: reason
        for n, meta in enumerate(metas)
        for place, reason in meta["skipped"]
    }
    filled = [meta["sizes"] for meta in metas if meta["sizes"] is not None]
    if not filled:
        raise DataError(f"{listing.root}: none of {len(skipped):,} files can be read. {next(iter(skipped.values()))}")
    finish = reader.join(filled)
    for n, shard in enumerate(shards):
        if metas[n]["sizes"] is None:
            continue
        arrays, meta = read_arrays(shard)
        places = arrays.pop("file")
        made, sizes = finish(arrays, meta["sizes"])
        yield {**made, "file": np.asarray(numbers[n], np.int64)[places]}, {**sizes, "skipped": skipped}
