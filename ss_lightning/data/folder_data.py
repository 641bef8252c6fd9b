"""The parent of data modules that read a folder of recordings, one file each."""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from ss_lightning.arrays import StoredTimeUnit
from ss_lightning.data.argument_checks import checked_fraction, checked_whole_number
from ss_lightning.data.cache import cache_folder, preparation_lock
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.layouts import Listing, checked_pattern, list_recordings
from ss_lightning.data.preparation import Reader, on_one_line, prepare
from ss_lightning.data.splits import PartChoice, SampleStore, Splits, Subset
from ss_lightning.data.storage import read_arrays
from ss_lightning.data.store import EventStore
from ss_lightning.errors import DataError, UsageError
from ss_lightning.signatures import passes_on_to

_MOST_NAMED = 5


@passes_on_to(EventDataModule)
class FolderData(EventDataModule):
    """The parent of data sets that are folders of files; a subclass says what is read and what becomes of it.

    Args:
        root: the folder: ``<part>/<class>/<recording>`` with a part train, val or test, or ``<class>/<recording>``, or
            files ``<class>_<speaker>_<index>``; see :mod:`ss_lightning.data.layouts`.
        pattern: a regular expression that says what the path of a file, from ``root`` on, means, by groups of the names
            class, speaker (or group) and split: ``(?P<class>[^/]+)/(?P<speaker>[^_]+)_``. What it does not name follows
            from the folders.
        val_fraction: share of the training samples to hold out for validation where there is no folder val; whole
            speakers (or other groups) where the paths name them; 0 for none.
        test_fraction: the same for testing, where there is no folder test.
        val_speakers: the speakers (or other groups) that form the validation set; null for the folder or the share,
            [] for no validation set.
        test_speakers: the speakers (or other groups) to leave out of the training and to test on: all recordings are
            pooled, and the training speakers are all others. null for the folder or the share.
        exclude_test_part: with test_speakers: the recordings of the folder test take no part, so that settings can be
            chosen by leaving training speakers out.
        skip_broken: leave files out that cannot be read, and say how many; else the first of them is an error.
        prepare_processes: processes that read the files at first; null for one for each processor.
        cache_dir: folder for what is made of the files; null for $SS_LIGHTNING_CACHE or the user's cache folder.
        seed: seed of the choice of samples or speakers to hold out.

    Raises:
        UsageError: an argument is out of range.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        root: str = "data",
        pattern: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        val_speakers: list[str | int] | None = None,
        test_speakers: list[str | int] | None = None,
        exclude_test_part: bool = False,
        skip_broken: bool = False,
        prepare_processes: int | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = root
        self.pattern = checked_pattern(pattern)
        self.val_fraction = checked_fraction("val_fraction", val_fraction)
        self.test_fraction = checked_fraction("test_fraction", test_fraction)
        self.val_speakers = _names(val_speakers)
        self.test_speakers = _names(test_speakers)
        self.exclude_test_part = exclude_test_part
        self.skip_broken = skip_broken
        if prepare_processes is not None:
            checked_whole_number("prepare_processes", prepare_processes)
        self.prepare_processes = prepare_processes
        self.cache_dir = cache_dir
        self.seed = checked_whole_number("seed", seed, least=0)
        if self.test_speakers == ():
            raise UsageError("test_speakers is empty; name speakers to test on, or leave it at null.")
        if exclude_test_part and test_speakers is None:
            raise UsageError(
                "exclude_test_part leaves nothing to test on; name the speakers to leave out with test_speakers, or "
                "let `python -m ss_lightning folds` leave them out in turn."
            )

    def reader(self) -> Reader[Any]:
        """What reads the files."""
        raise NotImplementedError

    def make_store(
        self,
        arrays: dict[str, np.ndarray],
        sizes: dict[str, Any],
        labels: np.ndarray,
        groups: np.ndarray | None,
        class_names: tuple[str, ...],
    ) -> SampleStore:
        """The store of what the reader made."""
        raise NotImplementedError

    def listing(self) -> Listing:
        """The files of the folder."""
        root = Path(self.root).expanduser()
        return list_recordings(root, self.suffixes, self.pattern, type(self).__name__, self.skip_broken)

    def load_splits(self) -> Splits:
        """Read the files, from the cache where possible, and hold out samples where a part is missing."""
        listing = self.listing()
        arrays, sizes = self._prepared(listing)
        self._say_skipped(sizes["skipped"], len(listing.found))
        found = [listing.found[number] for number in arrays.pop("file")]
        class_names, group_names = listing.class_names(), listing.group_names()
        class_numbers = {name: number for number, name in enumerate(class_names)}
        group_numbers: dict[str | None, int] = {name: number for number, name in enumerate(group_names)}
        labels = np.array([class_numbers[one.label] for one in found], np.int64)
        groups = np.array([group_numbers[one.group] for one in found], np.int64) if group_names else None
        store = self.make_store(arrays, sizes, labels, groups, class_names)
        if store.num_classes == 1:
            rank_zero_warn(
                f"{listing.root}: all {len(found):,} recordings are of one class, {store.class_names[0]}, so there is "
                "nothing to tell apart. Set data.root to the folder that has the folders of the classes."
            )
        return self.splits_of(store, np.array([one.part for one in found]), group_names)

    def splits_of(self, store: SampleStore, parts: np.ndarray, group_names: Sequence[str]) -> Splits:
        """The parts of a store, see :class:`~ss_lightning.data.splits.PartChoice`."""
        choice = PartChoice(
            self.val_fraction,
            self.test_fraction,
            self.val_speakers,
            self.test_speakers,
            self.exclude_test_part,
            self.seed,
        )
        train, val, test = choice.choose(parts, store.groups, group_names)
        return Splits(*(Subset(store, part) if len(part) else None for part in (train, val, test)))  # type: ignore[arg-type]

    def speakers(self) -> list[str]:
        """Names of the speakers (or other groups) that can be left out, each once."""
        listing = self.listing()
        names = {found.group for found in listing.found if found.part != "test" or not self.exclude_test_part}
        if names <= {None}:
            raise UsageError(
                f"{listing.root}: the paths name no speakers to leave out. Say where they stand with "
                "data.pattern, such as '(?P<speaker>[^/_]+)_[^/]*$'"
            )
        return [name for name in listing.group_names() if name in names]

    def _prepared(self, listing: Listing) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What the reader makes of the files, out of the cache where possible."""
        folder = cache_folder(self.cache_dir)
        with preparation_lock(folder, listing.root) as writable:
            try:
                if not writable:
                    raise PermissionError("no lock could be made there")
                return self._read_or_prepare(folder, listing)
            except OSError as error:
                warnings.warn(
                    f"Cannot keep prepared data in the cache {folder} ({error}), so the files are read again in "
                    "every run. Set cache_dir or the environment variable SS_LIGHTNING_CACHE to a folder that can be "
                    "written.",
                    stacklevel=2,
                )
        scratch = Path(tempfile.mkdtemp(prefix="ss_lightning-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return self._read_or_prepare(scratch, listing)

    def _read_or_prepare(self, folder: Path, listing: Listing) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        options: dict[str, Any] = {"skip_broken": self.skip_broken, "processes": self.prepare_processes}
        entry = prepare(folder, listing, self.reader(), **options)
        mapped = ("times", "units", "pixels")
        try:
            return read_arrays(entry, mapped)
        except DataError:
            shutil.rmtree(entry, ignore_errors=True)  # damaged
        return read_arrays(prepare(folder, listing, self.reader(), **options), mapped)

    def _say_skipped(self, skipped: dict[str, str], total: int) -> None:
        if not skipped:
            return
        names = on_one_line(", ".join(list(skipped)[:_MOST_NAMED]) + (", ..." if len(skipped) > _MOST_NAMED else ""))
        rank_zero_warn(
            f"{len(skipped):,} of {total:,} files cannot be read and were left out (data.skip_broken): {names}. The "
            f"first: {next(iter(skipped.values()))}"
        )


def event_store(
    arrays: dict[str, np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray | None,
    class_names: Sequence[str],
    input_shape: Sequence[int],
    time_unit: StoredTimeUnit,
) -> EventStore:
    """The store of events that a reader made: the arrays times, units and counts.

    Args:
        arrays: times ``[E]``, units ``[E]``, and counts ``[S]``, the events of each sample.
        labels: int64 ``[S]``.
        groups: int64 ``[S]``, or None.
        class_names: one name per class.
        input_shape: shape of one step of input.
        time_unit: of the times.
    """
    return EventStore(
        times=arrays["times"],
        units=arrays["units"],
        offsets=np.concatenate([[0], arrays["counts"].cumsum()]).astype(np.int64),
        labels=labels,
        groups=groups,
        num_units=math.prod(input_shape),
        num_classes=len(class_names),
        input_shape=tuple(input_shape),
        class_names=tuple(class_names),
        time_unit=time_unit,
    )


def _names(names: list[str | int] | None) -> tuple[str, ...] | None:
    """Names as text: a config may have numbers."""
    return None if names is None else tuple(map(str, names))
