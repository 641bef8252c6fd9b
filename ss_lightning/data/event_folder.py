"""The user's own events, one file for each recording, or one ``.npz`` for each part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from ss_lightning.arrays import TimeUnit
from ss_lightning.data.argument_checks import checked_choice, checked_whole_number
from ss_lightning.data.augment import UNCHANGED, EventAugmentation, checked_augmentation
from ss_lightning.data.event_files import EventReader
from ss_lightning.data.folder_data import FolderData, event_store
from ss_lightning.data.layouts import EVENT_SUFFIXES
from ss_lightning.data.recording_files import Reader, Recording, holds_several, read_npz
from ss_lightning.data.split_files import Parts, kept_events, read_split_files, split_files
from ss_lightning.data.splits import Splits
from ss_lightning.data.store import EventStore
from ss_lightning.errors import UsageError
from ss_lightning.signatures import passes_on_to


@passes_on_to(FolderData)
class EventFolderData(FolderData):
    """Events in files: ``.npz``, ``.npy``, ``.csv``, ``.parquet``, ``.h5``, and those of event cameras.

    Each file is a recording: ``<root>/{train,val,test}/<class>/<recording>`` or ``<root>/<class>/<recording>``. Arrays
    and columns are known by their names: times (``t``) with units (``channel``), or ``t``, ``x``, ``y`` and ``p``.
    Cameras: ``.dat`` and ``.raw`` (Prophesee), ``.aedat``, ``.aedat4`` (with the library aedat) and ``.bin`` (N-MNIST,
    N-Caltech101). Or each part is one file, ``<root>/train.npz`` and ``test.npz``, of flat arrays: times, units,
    lengths, labels, and perhaps groups and class_names.

    Args:
        num_steps: steps of the time grid, which begins at 0. Later events are dropped.
        step_ms: length of a step in milliseconds.
        time_unit: of arrays and tables: "s", "ms" or "us". Files of cameras have microseconds.
        num_units: units of a recording, numbered from 0; null for what the data have.
        sensor_size: width and height of a camera; null for what the data have.
        merge_polarity: both polarities of a pixel are one input.
        pixels_per_input: so many neighbouring pixels in each direction are one input.
        units_per_input: so many neighbouring units are one input (of recordings without x and y).
        from_first_event: times count from the first event of each recording, not from 0.
        window_ms: begin and end of what is kept of each recording, which then begins at 0; null for all of it.
        sort_times: put the events of a recording in order; else times that go backwards are an error.
        allow_empty: accept recordings without events.
        augment: how the training recordings are changed at random.

    Raises:
        UsageError: an argument is out of range.
    """

    suffixes = EVENT_SUFFIXES

    def __init__(
        self,
        root: str = "data",
        num_steps: int = 100,
        step_ms: float = 10.0,
        time_unit: TimeUnit = "s",
        num_units: int | None = None,
        sensor_size: Sequence[int] | None = None,
        merge_polarity: bool = False,
        pixels_per_input: int = 1,
        units_per_input: int = 1,
        from_first_event: bool = False,
        window_ms: Sequence[float] | None = None,
        sort_times: bool = False,
        allow_empty: bool = False,
        augment: EventAugmentation = UNCHANGED,
        **options: Any,
    ) -> None:
        super().__init__(root=root, num_steps=num_steps, step_ms=step_ms, **options)
        self.units_per_input = checked_whole_number("units_per_input", units_per_input)
        self.event_reader = EventReader(
            time_unit=checked_choice("time_unit", time_unit, ("s", "ms", "us")),
            num_units=None if num_units is None else checked_whole_number("num_units", num_units),
            sensor_size=checked_sensor_size(sensor_size),
            merge_polarity=merge_polarity,
            pixels_per_input=checked_whole_number("pixels_per_input", pixels_per_input),
            from_first_event=from_first_event,
            window_ms=checked_window(window_ms),
            sort_times=sort_times,
            allow_empty=allow_empty,
        )
        self.augment = checked_augmentation(augment, EventAugmentation, (2**15,))

    def reader(self) -> EventReader:
        """See :meth:`FolderData.reader`."""
        return self.event_reader

    def load_splits(self) -> Splits:
        """See :meth:`FolderData.load_splits`."""
        found = self._split_files()
        splits = super().load_splits() if found is None else self.splits_of(*found)
        if found is not None:
            self._warn_about_other_files()
        checked_augmentation(self.augment, EventAugmentation, splits.train.store.input_shape)
        if self.units_per_input > 1 and len(splits.train.store.input_shape) > 1:
            raise UsageError("units_per_input is for recordings without x and y; use data.pixels_per_input.")
        return splits

    def speakers(self) -> list[str]:
        """See :meth:`FolderData.speakers`."""
        found = self._split_files()
        if found is None:
            return super().speakers()
        kept = found.parts != "test" if self.exclude_test_part else np.ones(len(found.parts), bool)
        if found.store.groups is None:
            raise UsageError(f"{self.root}: the files have no array groups, so there are no speakers to leave out.")
        return [found.group_names[group] for group in np.unique(found.store.groups[kept])]

    def _split_files(self) -> Parts | None:
        """The recordings, where each part is one file."""
        # A pattern says what the names of recordings mean.
        files = split_files(Path(self.root).expanduser()) if self.pattern is None else {}
        return read_split_files(files, self.event_reader) if files else None

    def _warn_about_other_files(self) -> None:
        inside = Path(self.root).expanduser().glob("*/**/*")
        if other := next((path for path in inside if path.suffix.lower() in EVENT_SUFFIXES), None):
            rank_zero_warn(
                f"{self.root}: train.npz is trained on, and the files in folders beside it are not, such as {other}. "
                "Move one or the other away."
            )

    def make_store(
        self,
        arrays: dict[str, np.ndarray],
        sizes: dict[str, Any],
        labels: np.ndarray,
        groups: np.ndarray | None,
        class_names: tuple[str, ...],
    ) -> EventStore:
        """See :meth:`FolderData.make_store`."""
        return event_store(arrays, labels, groups, class_names, sizes["input_shape"], sizes["time_unit"])

    @property
    def recording_time_unit(self) -> TimeUnit:
        """See :attr:`ss_lightning.data.EventDataModule.recording_time_unit`: that of the training."""
        return self.event_reader.time_unit

    def recording_readers(self, input_shape: Sequence[int] = ()) -> Mapping[str, Reader]:
        """See :meth:`ss_lightning.data.EventDataModule.recording_readers`."""

        def read(path: Path, time_unit: TimeUnit = "s") -> Iterator[Recording]:
            if path.suffix.lower() == ".npz" and holds_several(path):
                for one in read_npz(path, time_unit):
                    times, units = kept_events(self.event_reader, one.times, one.units, time_unit)
                    yield one._replace(times=times, units=units)
                return
            reader = replace(self.event_reader, time_unit=time_unit)
            recorded = reader.read(path)
            shape = reader.input_shape(dict(zip(recorded.axes, recorded.extent, strict=True)))
            if "unit" not in recorded.axes and self.event_reader.sensor_size is None:
                shape = tuple(input_shape)  # of the training, where this recording may have less
            units = reader.units(recorded.places, recorded.axes, shape)
            yield Recording(path, 0, recorded.times, units, cast(TimeUnit, recorded.time_unit))

        return {**super().recording_readers(input_shape), **dict.fromkeys(self.suffixes, read)}


def checked_sensor_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """Width and height of a sensor.

    Raises:
        UsageError: they are not.
    """
    if size is None:
        return None
    if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
        raise UsageError(f"sensor_size is {size!r}; expected width and height, such as [128, 128].")
    width, height = (checked_whole_number("a length in sensor_size", length, most=2**14) for length in size)
    return width, height


def checked_window(window: Sequence[float] | None) -> tuple[float, float] | None:
    """Begin and end of a window in milliseconds.

    Raises:
        UsageError: they are not.
    """
    if window is None:
        return None
    numbers = not isinstance(window, str) and isinstance(window, Sequence) and len(window) == 2
    if not numbers or not all(isinstance(edge, (int, float)) for edge in window) or not 0 <= window[0] < window[1]:
        raise UsageError(f"window_ms is {window!r}; expected begin and end, such as [0, 500].")
    return float(window[0]), float(window[1])
