"""Speech as spikes of an inner-ear model: Spiking Heidelberg Digits, Spiking Speech Commands, files of the same layout.

Source: Cramer, Stradmann, Schemmel & Zenke, "The Heidelberg spiking data sets for the systematic evaluation of spiking
neural networks", IEEE TNNLS 2020, arXiv:1910.07407.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ss_lightning.data.argument_checks import checked_whole_number
from ss_lightning.data.augment import UNCHANGED, EventAugmentation, checked_augmentation
from ss_lightning.data.download import DownloadedData, fetch_missing
from ss_lightning.data.splits import Splits, Subset
from ss_lightning.data.store import EventStore, with_common_classes
from ss_lightning.data.validation import check_class_count, check_sample_counts, whole_numbers
from ss_lightning.errors import DataError, UsageError
from ss_lightning.signatures import passes_on_to

DOWNLOAD_URL = "https://zenkelab.org/datasets/"
_REQUIRED = ("spikes/times", "spikes/units", "labels")
_SPEAKER = "extra/speaker"
_SAMPLES_AT_ONCE = 1000


def read_shd_file(path: Path, num_units: int, speakers: bool = True) -> Iterator[EventStore]:
    """Read a file in SHD layout; the groups of the stores are the speakers.

    The layout: ``spikes/times`` (seconds) and ``spikes/units``, one array per sample; ``labels`` and
    ``extra/speaker``, one number per sample; optionally ``extra/keys``, the names of the classes.

    Args:
        path: the ``.h5`` file.
        num_units: ``N``; a unit outside ``[0, N)`` is an error.
        speakers: the file must say who speaks.

    Yields:
        A thousand samples at a time.

    Raises:
        DataError: the file is damaged, lacks a data set or holds impossible values; the message has the file
            and, where there is one, the sample.
    """
    try:
        with h5py.File(path, "r") as file:
            required = (*_REQUIRED, _SPEAKER) if speakers else _REQUIRED
            missing = [name for name in required if name not in file]
            if missing:
                raise DataError(
                    f"{path}: no data set {', '.join(map(repr, missing))}; expected the layout of SHD: "
                    f"{', '.join(required)}. Get the file again from {DOWNLOAD_URL}{path.name}.zip"
                )
            labels = whole_numbers(file["labels"][:], f"{path}: labels")
            groups = whole_numbers(file[_SPEAKER][:], f"{path}: groups") if _SPEAKER in file else None
            names = [_text(name) for name in file["extra/keys"][:].ravel()] if "extra/keys" in file else []
            found = {
                "times": file["spikes/times"].shape[0],
                "units": file["spikes/units"].shape[0],
                "labels": len(labels),
            }
            check_sample_counts(str(path), found if groups is None else {**found, "groups": len(groups)})
            check_class_count(str(path), labels)
            num_classes = max(len(names), int(labels.max(initial=0)) + 1)
            for begin in range(0, len(labels), _SAMPLES_AT_ONCE):
                some = slice(begin, begin + _SAMPLES_AT_ONCE)
                yield EventStore.from_arrays(
                    list(file["spikes/times"][some]),
                    list(file["spikes/units"][some]),
                    labels[some],
                    groups=None if groups is None else groups[some],
                    num_units=num_units,
                    num_classes=num_classes,
                    class_names=_padded_names(names, num_classes),
                    time_unit="s",
                    source=str(path),
                    first_sample=begin,
                )
    except (DataError, UsageError):
        raise
    # What the HDF5 library says to a damaged file depends on the place; it may also take it for a huge one.
    except (OSError, RuntimeError, LookupError, TypeError, AttributeError, ValueError, MemoryError) as error:
        raise DataError(
            f"{path}: cannot be read as HDF5 in the layout of SHD, perhaps cut short ({error}). "
            f"Delete it and get it again from {DOWNLOAD_URL}{path.name}.zip"
        ) from error


def held_out_speakers(known: np.ndarray, val_speakers: list[int] | None) -> list[int]:
    """The training speakers that form the validation set.

    Args:
        known: ids of all training speakers.
        val_speakers: the speakers asked for, or None for the ``ceil(n / 6)`` with the highest ids.

    Raises:
        UsageError: a speaker is not known, or no speaker is left to train on.
    """
    ids = [int(speaker) for speaker in np.unique(known)]
    if val_speakers is None:
        chosen = ids[-math.ceil(len(ids) / 6) :]
    else:
        chosen = sorted(set(val_speakers))
        unknown = [speaker for speaker in chosen if speaker not in ids]
        if unknown:
            raise UsageError(f"val_speakers: {unknown} not among the training speakers; expected some of {ids}.")
    if len(chosen) == len(ids):
        raise UsageError(
            f"val_speakers: holding out {chosen} leaves no speaker to train on; the training speakers are "
            f"{ids}. Hold out fewer, or none with val_speakers: []."
        )
    return chosen


def left_out_speakers(known: np.ndarray, test_speakers: list[int]) -> list[int]:
    """The speakers that form the test set.

    Args:
        known: ids of all speakers.
        test_speakers: the speakers asked for.

    Raises:
        UsageError: none is asked for, one is not known, or no speaker is left to train on.
    """
    ids = [int(speaker) for speaker in np.unique(known)]
    chosen = sorted(set(test_speakers))
    unknown = [speaker for speaker in chosen if speaker not in ids]
    if unknown or not chosen:
        raise UsageError(
            f"test_speakers is {test_speakers}; expected some of the speakers {ids}, or null for the official test "
            "file."
        )
    if len(chosen) == len(ids):
        raise UsageError(f"test_speakers: leaving out all of {ids} leaves no speaker to train on. Leave out fewer.")
    return chosen


@passes_on_to(DownloadedData)
class HeidelbergData(DownloadedData):
    """The parent of data sets in SHD layout, ``<root>/SHD/shd_<part>.h5``; a subclass names folder and parts.

    Args:
        root: folder that has, or gets, the folder of the files. It may be read-only if the files are there.
        num_steps: steps of the time grid, which begins at 0. Later events are dropped.
        step_ms: length of a step in milliseconds.
        num_units: number of units in the files.
        units_per_input: how many neighbouring units are merged into one input; the last input may stand for fewer.
        augment: how the training samples are changed at random; units are those of the files.

    Raises:
        UsageError: an argument is out of range.
    """

    folder: str
    parts: tuple[str, ...]
    has_speakers: bool

    def __init__(
        self,
        root: str = "data",
        num_steps: int = 500,
        step_ms: float = 2.0,
        num_units: int = 700,
        units_per_input: int = 1,
        augment: EventAugmentation = UNCHANGED,
        **options: Any,
    ) -> None:
        super().__init__(root=root, num_steps=num_steps, step_ms=step_ms, **options)
        self.num_units = checked_whole_number("num_units", num_units)
        self.units_per_input = checked_whole_number("units_per_input", units_per_input)
        self.augment = checked_augmentation(augment, EventAugmentation, (self.num_units,))

    def _known_sizes(self) -> dict[str, Any]:
        return {"units": -(-self.num_units // self.units_per_input)}

    def _stores(self) -> dict[str, EventStore]:
        raw = self.root_path / self.folder
        stores = self.stores_from_files(
            raw,
            {part: raw / f"{self.folder.lower()}_{part}.h5" for part in self.parts},
            self._fetch,
            lambda path: read_shd_file(path, self.num_units, self.has_speakers),
            settings=(self.num_units,),
        )
        return with_common_classes(stores)

    def _download(self, folder: str, part: str) -> None:
        """Download a part with tonic, which insists on a .zip beside the file."""
        raise NotImplementedError

    def _fetch(self, path: Path) -> None:
        """Download ``path`` if it is missing."""

        def get(scratch: Path) -> Path:
            self._download(str(scratch), path.stem.rpartition("_")[2])
            return scratch / self.folder

        names = " and ".join(f"{self.folder.lower()}_{name}.h5" for name in self.parts)
        fetch_missing(
            [path],
            get,
            target=path.parent,
            download=self.download,
            message=lambda _, reason: (
                f"{path}: missing ({reason}). Expected {names} in {path.parent}. "
                f"Get {DOWNLOAD_URL}{path.name}.zip, unzip it there, or set root to the folder that has {self.folder}/."
            ),
        )


@passes_on_to(HeidelbergData)
class SHDData(HeidelbergData):
    """Spiking Heidelberg Digits, or any pair of files in its layout: ``<root>/SHD/shd_{train,test}.h5``.

    The real files have 8,156 training and 2,264 test samples, 700 units, 20 classes. There is no official
    validation set and no random split here: validation holds out training speakers, as the test set has
    speakers of its own. Files that are missing are downloaded; what is read is cached.

    Args:
        root: folder that has, or gets, the folder SHD. It may be read-only if the files are there.
        val_speakers: training speakers to hold out for validation; null for the sixth of them with the
            highest ids (rounded up), [] for no validation set.
        test_speakers: speakers to leave out of the training and to test on: the samples of both files are
            pooled, and the training speakers are all others. null for the official test file.
        exclude_test_file: with test_speakers: the samples of the test file take no part, so that settings can be
            chosen by leaving training speakers out, and the test file stays for the end.

    Raises:
        UsageError: an argument is out of range.
    """

    folder = "SHD"
    parts = ("train", "test")
    has_speakers = True

    def __init__(
        self,
        root: str = "data",
        val_speakers: list[int] | None = None,
        test_speakers: list[int] | None = None,
        exclude_test_file: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root=root, **options)
        self.val_speakers = val_speakers
        self.test_speakers = test_speakers
        self.exclude_test_file = exclude_test_file

    def load_splits(self) -> Splits:
        """Read both files, from the cache where possible, and hold out the validation speakers."""
        if self.exclude_test_file and self.test_speakers is None:
            raise UsageError(
                "exclude_test_file leaves nothing to test on; name the speakers to leave out with test_speakers, or "
                "let `python -m ss_lightning folds` leave them out in turn."
            )
        stores = self._stores()
        store, test = stores["train"], Subset(stores["test"])
        left_out = np.zeros(len(store), bool)
        if self.test_speakers is not None:
            store = EventStore.joined(self._pool(stores))
            left_out = np.isin(_speakers(store), left_out_speakers(_speakers(store), self.test_speakers))
            test = Subset(store, np.flatnonzero(left_out))
        speakers = _speakers(store)
        held_out = np.isin(speakers, held_out_speakers(speakers[~left_out], self.val_speakers))
        val = Subset(store, np.flatnonzero(held_out)) if held_out.any() else None
        return Splits(Subset(store, np.flatnonzero(~held_out & ~left_out)), val, test)

    def speakers(self) -> list[int]:
        """Ids of the speakers that can be left out, each once and in rising order."""
        ids = np.unique(np.concatenate([_speakers(store) for store in self._pool(self._stores())]))
        return [int(speaker) for speaker in ids]

    def _pool(self, stores: Mapping[str, EventStore]) -> list[EventStore]:
        """What speakers are left out of."""
        return [stores["train"]] if self.exclude_test_file else [stores["train"], stores["test"]]

    def _download(self, folder: str, part: str) -> None:
        from tonic.datasets import SHD

        SHD(save_to=folder, train=part == "train")


@passes_on_to(HeidelbergData)
class SSCData(HeidelbergData):
    """Spiking Speech Commands, or files in its layout: ``<root>/SSC/ssc_{train,valid,test}.h5``.

    The real files have 75,466, 9,981 and 20,382 samples, 700 units, 35 classes. The validation set is the file
    ``ssc_valid.h5``. Files that are missing are downloaded; what is read is cached, and read from the disk as it is
    needed, for it may be larger than the memory.

    Args:
        root: folder that has, or gets, the folder SSC. It may be read-only if the files are there.
    """

    folder = "SSC"
    parts = ("train", "valid", "test")
    has_speakers = False

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(root=root, **options)

    def load_splits(self) -> Splits:
        """Read the three files, from the cache where possible."""
        stores = self._stores()
        return Splits(Subset(stores["train"]), Subset(stores["valid"]), Subset(stores["test"]))

    def _download(self, folder: str, part: str) -> None:
        from tonic.datasets import SSC

        SSC(save_to=folder, split=part)


def _speakers(store: EventStore) -> np.ndarray:
    assert store.groups is not None  # read_shd_file always sets them
    return store.groups


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _padded_names(names: list[str], num_classes: int) -> tuple[str, ...]:
    return (*names, *(str(label) for label in range(len(names), num_classes)))
