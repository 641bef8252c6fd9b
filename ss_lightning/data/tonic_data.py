"""Any data set of tonic, named in a config."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ss_lightning.data.argument_checks import checked_whole_number
from ss_lightning.data.augment import UNCHANGED, EventAugmentation, checked_augmentation
from ss_lightning.data.cache import digest, file_states
from ss_lightning.data.event_files import EventReader, Recorded, panics_as_errors
from ss_lightning.data.event_folder import checked_sensor_size, checked_window
from ss_lightning.data.folder_data import FolderData, event_store
from ss_lightning.data.layouts import Found, Listing, ordered
from ss_lightning.data.preparation import Arrays, Sizes
from ss_lightning.data.splits import Splits
from ss_lightning.data.store import EventStore
from ss_lightning.errors import DataError, UsageError
from ss_lightning.signatures import passes_on_to

_HOME = "tonic.datasets."
# How the data sets of tonic are asked for their parts.
_PARTS: Mapping[str, Mapping[str, Any]] = {
    "train": {"train": True, "test": False},
    "split": {"train": "train", "val": "valid", "test": "test"},
}


@dataclass(frozen=True)
class TonicReader:
    """Reads samples of a data set of tonic; a path is ``<part>/<index>``.

    Args:
        class_path: the data set.
        arguments: its arguments as JSON.
        events: what is done with the events.
    """

    class_path: str
    arguments: str
    events: EventReader

    def settings(self) -> tuple:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        return ("tonic", self.class_path, self.arguments, self.events.settings())

    def read(self, path: Path) -> tuple[Recorded, int | str]:
        """Events and label of a sample.

        Raises:
            DataError: it cannot be read, or an event is not valid.
        """
        part, index = path.parent.name, int(path.name)
        dataset = open_dataset(self.class_path, self.arguments, part)
        source = f"{self.class_path} {part}, sample {index}"
        try:
            with panics_as_errors():
                events, label = dataset[index]
            fields = events.dtype.names or ()
        except ImportError as error:
            raise UsageError(
                f"{source}: needs the library {error.name}. Install it: pip install {error.name}"
            ) from error
        except Exception as error:  # whatever its file does to the data set
            raise DataError(
                f"{source}: cannot be read, perhaps its file is cut short ({type(error).__name__}: {error}). Get it "
                "again."
            ) from error
        columns = {name: events[name] for name in ("t", "x", "y", "p") if name in fields}
        size = getattr(dataset, "sensor_size", None)
        reader = replace(self.events, sensor_size=self._sensor_size(size))
        if size is not None and size[1] == 1:
            columns.pop("y", None)
        if size is not None and size[2] == 1:
            columns.pop("p", None)
        if not isinstance(label, (int, str, np.integer)):
            raise DataError(f"{source}: its label is of type {type(label).__name__}; expected the number of a class.")
        return reader.checked(source, columns, "us"), label if isinstance(label, str) else int(label)

    def _sensor_size(self, of_dataset: Sequence[int] | None) -> tuple[int, int] | None:
        if self.events.sensor_size is not None or of_dataset is None:
            return self.events.sensor_size
        return of_dataset[0], of_dataset[1]

    def pack(self, items: Sequence[tuple[Recorded, int | str]], paths: Sequence[Path]) -> tuple[Arrays, Sizes]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        arrays, sizes = self.events.pack([recorded for recorded, _ in items], paths)
        names = ordered({str(label) for _, label in items})
        labels = np.array([names.index(str(label)) for _, label in items], np.int64)
        return {**arrays, "labels": labels}, {**sizes, "names": list(names)}

    def join(self, sizes: Sequence[Sizes]) -> Callable[[Arrays, Sizes], tuple[Arrays, Sizes]]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        size = getattr(open_dataset(self.class_path, self.arguments, "train"), "sensor_size", None)
        finish_events = replace(self.events, sensor_size=self._sensor_size(size)).join(sizes)
        names = ordered({name for one in sizes for name in one["names"]})
        if all(name.isdigit() for name in names):  # numbers of classes: some may have no sample
            names = tuple(str(number) for number in range(int(names[-1]) + 1))

        def finish(arrays: Arrays, size: Sizes) -> tuple[Arrays, Sizes]:
            made, more = finish_events(arrays, size)
            numbers = np.array([names.index(name) for name in size["names"]], np.int64)
            return {**made, "labels": numbers[arrays["labels"]]}, {**more, "names": list(names)}

        return finish


@cache
def open_dataset(class_path: str, arguments: str, part: str) -> Any:
    """A part of a data set of tonic, which downloads it if it is missing.

    Args:
        class_path: the data set.
        arguments: its arguments as JSON.
        part: "train", "val" or "test"; of a data set without parts, which is all "train".

    Raises:
        DataError: it cannot be opened.
        UsageError: there is no such data set, or it does not take the arguments.
    """
    kind = dataset_class(class_path)
    given = json.loads(arguments)
    key = _part_key(kind)
    if key is not None:
        given[key] = _PARTS[key][part]
    try:
        return kind(**given)
    except TypeError as error:
        raise UsageError(f"dataset: {class_path} does not take these arguments: {error}") from error
    except Exception as error:  # downloads and archives fail in many ways
        raise DataError(
            f"{class_path}: cannot be opened in {given.get('save_to')} ({type(error).__name__}: {error}). Set "
            f"data.root to the folder that has {kind.__name__}/, or get the data again."
        ) from error


def dataset_class(class_path: str) -> type:
    """A class of tonic.

    Raises:
        UsageError: ``class_path`` is none.
    """
    from tonic.dataset import Dataset

    name = class_path.removeprefix(_HOME) if isinstance(class_path, str) else ""
    kind = getattr(import_module("tonic.datasets"), name, None)
    if not class_path.startswith(_HOME) or not isinstance(kind, type) or not issubclass(kind, Dataset):
        raise UsageError(
            f"dataset.class_path is {class_path!r}; expected a data set of tonic, such as {_HOME}DVSGesture."
        )
    return kind


def _part_key(kind: type) -> str | None:
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return next((key for key in _PARTS if key in parameters), None)


@passes_on_to(FolderData)
class TonicData(FolderData):
    """A data set of tonic, by its class path and arguments; downloaded by tonic if it is missing.

    A data set without a test part (N-Caltech101, CIFAR10-DVS) is split at random.

    Args:
        root: folder that has, or gets, the folder of the data set (its argument ``save_to``).
        dataset: ``class_path`` and ``init_args``, such as ``{class_path: tonic.datasets.DVSGesture}``; the part and
            ``save_to`` are not given there.
        num_steps: steps of the time grid, which begins at 0. Later events are dropped.
        step_ms: length of a step in milliseconds.
        sensor_size: width and height of the camera; null for what the data set says, else for what the data have.
        merge_polarity: both polarities of a pixel are one input.
        pixels_per_input: so many neighbouring pixels in each direction are one input.
        from_first_event: times count from the first event of each recording, not from 0.
        window_ms: begin and end of what is kept of each recording, which then begins at 0; null for all of it.
        sort_times: put the events of a recording in order; else times that go backwards are an error.
        augment: how the training recordings are changed at random.

    Raises:
        UsageError: an argument is out of range.
    """

    suffixes = ()

    def __init__(
        self,
        root: str = "data",
        dataset: dict[str, Any] = {"class_path": "tonic.datasets.DVSGesture"},  # noqa: B006
        num_steps: int = 100,
        step_ms: float = 10.0,
        sensor_size: Sequence[int] | None = None,
        merge_polarity: bool = False,
        pixels_per_input: int = 1,
        from_first_event: bool = True,
        window_ms: Sequence[float] | None = None,
        sort_times: bool = False,
        augment: EventAugmentation = UNCHANGED,
        **options: Any,
    ) -> None:
        super().__init__(root=root, num_steps=num_steps, step_ms=step_ms, **options)
        unknown = sorted(set(dataset) - {"class_path", "init_args"})
        given = dict(dataset.get("init_args") or {})
        if unknown or "class_path" not in dataset:
            raise UsageError(f"dataset has {', '.join(dataset) or 'nothing'}; expected class_path and init_args.")
        if not_ours := sorted(set(given) & {*_PARTS, "save_to"}):
            raise UsageError(f"dataset.init_args has {', '.join(not_ours)}, which follows from data.root and the part.")
        self.class_path = str(dataset["class_path"])
        self.arguments = json.dumps({**given, "save_to": str(Path(root).expanduser())}, sort_keys=True)
        self.event_reader = EventReader(
            time_unit="us",
            sensor_size=checked_sensor_size(sensor_size),
            merge_polarity=merge_polarity,
            pixels_per_input=checked_whole_number("pixels_per_input", pixels_per_input),
            from_first_event=from_first_event,
            window_ms=checked_window(window_ms),
            sort_times=sort_times,
        )
        self.augment = checked_augmentation(augment, EventAugmentation, (2**15,))

    def reader(self) -> TonicReader:
        """See :meth:`FolderData.reader`."""
        return TonicReader(self.class_path, self.arguments, self.event_reader)

    def listing(self) -> Listing:
        """The samples of all parts; speakers are the users that some data sets know."""
        kind = dataset_class(self.class_path)
        key = _part_key(kind)
        parts = ("train",) if key is None else tuple(_PARTS[key])
        found: list[Found] = []
        for part in parts:
            dataset = open_dataset(self.class_path, self.arguments, part)
            users = getattr(dataset, "users", None)
            for index in range(len(dataset)):
                group = None if users is None else str(users[index])
                found.append(Found(f"{part}/{index:07}", "", group, "" if key is None else part))
        if not found:
            raise DataError(f"{self.class_path}: no samples in {self.root}. Get the data again.")
        folder = Path(getattr(dataset, "location_on_system", self.root))
        number = int(digest(file_states(folder)), 16) if folder.is_dir() else 0
        return Listing(folder, found, [(0, number, 0)] * len(found))

    def load_splits(self) -> Splits:
        """See :meth:`FolderData.load_splits`."""
        splits = super().load_splits()
        checked_augmentation(self.augment, EventAugmentation, splits.train.store.input_shape)
        return splits

    def make_store(
        self,
        arrays: dict[str, np.ndarray],
        sizes: dict[str, Any],
        labels: np.ndarray,
        groups: np.ndarray | None,
        class_names: tuple[str, ...],
    ) -> EventStore:
        """See :meth:`FolderData.make_store`; the labels are those that were read."""
        names = sizes["names"]
        given = getattr(open_dataset(self.class_path, self.arguments, "train"), "classes", None)
        if isinstance(given, Mapping):
            given = sorted(given, key=given.__getitem__)
        if given is not None and len(given) == len(names) and all(name.isdigit() for name in names):
            names = [str(name) for name in given]
        return event_store(arrays, arrays["labels"], groups, names, sizes["input_shape"], sizes["time_unit"])
