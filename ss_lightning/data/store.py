"""A whole data set of spikes in memory, as flat arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ss_lightning.arrays import SamplePlace, StoredTimeUnit, TimeUnit, flat_events, length_in, one_per_sample
from ss_lightning.data.argument_checks import checked_whole_number
from ss_lightning.data.storage import read_arrays, write_arrays
from ss_lightning.data.validation import (
    MOST_CLASSES,
    check_class_count,
    check_labels,
    check_sample_counts,
    check_stored,
    whole_numbers,
)
from ss_lightning.errors import DataError, UsageError

_ARRAYS = ("times", "units", "offsets", "labels", "groups")
_SIZES = ("num_units", "num_classes", "input_shape", "class_names", "time_unit")


@dataclass(frozen=True)
class PlacesOnGrid:
    """Where the events of some samples lie on a time grid.

    Attributes:
        share_after: share of the events, 0 to 1, at or after the end of the grid.
        samples_after: samples all of whose events lie there.
        all_in_first_step: all events lie in the first step.
    """

    share_after: float
    samples_after: int
    all_in_first_step: bool


@dataclass(frozen=True, repr=False)
class EventStore:
    """All events of a data set, sample by sample and in order of time inside a sample.

    Build one with :meth:`from_arrays` or :meth:`from_latencies`, which check and sort; the constructor trusts
    its arguments and only makes the arrays read-only.

    Attributes:
        times: ``[E]``, never negative, in ``time_unit``: floats in milliseconds, integers in microseconds or
            steps.
        units: uint16 or int32 ``[E]``, in ``[0, num_units)``.
        offsets: int64 ``[S + 1]``; sample ``s`` owns the events ``offsets[s] : offsets[s + 1]``.
        labels: int64 ``[S]``, in ``[0, num_classes)``.
        groups: int64 ``[S]``, such as speaker ids, or None.
        num_units: ``N``.
        num_classes: number of classes.
        input_shape: shape of one step of input, such as ``(700,)`` or ``(1, 28, 28)``; its product is ``N``.
        class_names: one name per class.
        time_unit: unit of ``times``: ``"ms"``, ``"us"`` or ``"step"`` (already on the grid).
    """

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    num_units: int
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    time_unit: StoredTimeUnit = "ms"

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None:
                # A plain view, not np.memmap: numba then sees one array type wherever the data come from.
                view = np.asarray(array).view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    def __len__(self) -> int:
        """Number of samples ``S``."""
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"EventStore(samples={len(self)}, events={self.num_events}, units={self.num_units}, "
            f"classes={self.num_classes}, time_unit={self.time_unit!r})"
        )

    @property
    def num_events(self) -> int:
        """Number of events ``E`` in all samples."""
        return len(self.times)

    def step_length(self, step_ms: float) -> float:
        """Length of a step of ``step_ms`` milliseconds in the unit of ``times``."""
        return length_in(self.time_unit, step_ms)

    def share_after(self, num_steps: int, step_ms: float) -> float:
        """Share of the events, 0 to 1, that lie at or after the end of a grid of ``num_steps`` steps."""
        return self.places_on_grid(num_steps, step_ms).share_after

    def places_on_grid(self, num_steps: int, step_ms: float, samples: np.ndarray | None = None) -> PlacesOnGrid:
        """Where the events of some samples lie on a grid of ``num_steps`` steps.

        Args:
            num_steps: steps of the grid, which begins at 0.
            step_ms: length of a step in milliseconds.
            samples: int64 ``[S']``; all samples if not given.
        """
        if self.time_unit == "step" or self.num_events == 0:
            return PlacesOnGrid(0.0, 0, False)
        length = self.step_length(step_ms)
        begin, end = self.offsets[:-1], self.offsets[1:]
        if samples is not None:
            begin, end = begin[samples], end[samples]
        begin, end = begin[end > begin], end[end > begin]  # without samples that are empty
        if not len(begin):
            return PlacesOnGrid(0.0, 0, False)
        # The events of a sample lie in order of time, so most samples need a look at two of them only.
        first, last = self.times[begin], self.times[end - 1]
        limit = num_steps * length
        late = np.flatnonzero(last >= limit)
        after = sum(end[n] - begin[n] - np.searchsorted(self.times[begin[n] : end[n]], limit) for n in late)
        share = float(after / (end - begin).sum())
        return PlacesOnGrid(share, int(np.count_nonzero(first >= limit)), bool(last.max() < length))

    @classmethod
    def from_arrays(
        cls,
        times: Iterable[ArrayLike],
        units: Iterable[ArrayLike],
        labels: ArrayLike,
        *,
        num_units: int,
        time_unit: TimeUnit,
        groups: ArrayLike | None = None,
        num_classes: int | None = None,
        input_shape: tuple[int, ...] | None = None,
        class_names: Sequence[str] | None = None,
        allow_empty: bool = False,
        source: str = "events",
        first_sample: int = 0,
    ) -> EventStore:
        """Check, convert and sort the events of one data set.

        Times become milliseconds in float64. Double precision is then rounded to 1e-9 ms, so that 1.001 s is
        1001 ms and not in the step before; sources of half or single precision are kept in float32, which
        holds 1000 times a float16 exactly. Whole microseconds stay as they are.

        Args:
            times: one array of event times per sample, in any order: of NumPy, PyTorch or pandas, or a list.
            units: one array of unit indices per sample, as long as its times.
            labels: ``[S]``, the class of each sample.
            num_units: ``N``, less than 2^31.
            time_unit: what one unit of ``times`` is: ``"s"``, ``"ms"`` or ``"us"``.
            groups: ``[S]``, such as the speaker of each sample.
            num_classes: number of classes; the highest label + 1 (or the number of ``class_names``) if not
                given.
            input_shape: shape of one step of input; ``(num_units,)`` if not given.
            class_names: one name per class; the class numbers if not given.
            allow_empty: accept samples without any event.
            source: what the messages call the data: a file or an argument.
            first_sample: what the messages call the first sample, where these are a part of the source.

        Raises:
            DataError: an event, label or sample is not valid; the message names the sample and the value.
            UsageError: ``num_units``, ``time_unit``, ``input_shape`` or ``class_names`` make no sense.

        Example:
            Two recordings of three channels, with times in milliseconds.

            >>> from ss_lightning.data import EventStore
            >>> times = [[0.5, 3.0], [1.5, 0.5, 2.0]]
            >>> units = [[0, 2], [1, 0, 1]]
            >>> store = EventStore.from_arrays(times, units, [0, 1], num_units=3, time_unit="ms")
            >>> store
            EventStore(samples=2, events=5, units=3, classes=2, time_unit='ms')
            >>> store.times.tolist()
            [0.5, 3.0, 0.5, 1.5, 2.0]
        """
        num_units = checked_whole_number("num_units", num_units)
        input_shape = _checked_shape(input_shape, num_units)
        if class_names is not None:
            class_names = _checked_names(class_names)

        label_array = whole_numbers(labels, f"{source}: labels")
        group_array = None if groups is None else whole_numbers(groups, f"{source}: groups")
        time_list, unit_list = one_per_sample(times, f"{source}: times"), one_per_sample(units, f"{source}: units")
        found = {"times": len(time_list), "units": len(unit_list), "labels": len(label_array)}
        check_sample_counts(source, found if group_array is None else {**found, "groups": len(group_array)})
        place = SamplePlace(source, first_sample)
        events = flat_events(
            time_list, unit_list, place, num_units=num_units, time_unit=time_unit, allow_empty=allow_empty
        )
        check_class_count(source, label_array)
        if num_classes is None:
            num_classes = len(class_names) if class_names is not None else int(label_array.max()) + 1
        num_classes = checked_whole_number("num_classes", num_classes, most=MOST_CLASSES)
        check_labels(place, label_array, num_classes)
        if class_names is not None and len(class_names) != num_classes:
            raise UsageError(f"class_names has {len(class_names)} names for {num_classes} classes.")

        return cls(
            times=events.times,
            units=events.units,
            offsets=events.offsets,
            labels=label_array,
            groups=group_array,
            num_units=num_units,
            num_classes=num_classes,
            input_shape=input_shape,
            class_names=tuple(map(str, range(num_classes))) if class_names is None else class_names,
            time_unit=events.time_unit,
        )

    @classmethod
    def from_latencies(
        cls,
        steps: np.ndarray,
        labels: np.ndarray,
        *,
        num_classes: int,
        input_shape: tuple[int, ...],
        class_names: Sequence[str],
        fires: np.ndarray | None = None,
    ) -> EventStore:
        """A data set in which each unit fires once, at a step that is already known (a latency code).

        Args:
            steps: unsigned integers ``[S, N]``, the step at which each unit fires.
            labels: ``[S]``.
            num_classes: number of classes.
            input_shape: shape of one step of input; its product is ``N``.
            class_names: one name per class.
            fires: bool ``[S, N]``, False where a unit stays silent; all fire if not given.
        """
        num_samples, num_units = steps.shape
        times = np.empty(steps.shape, steps.dtype)
        units = np.empty(steps.shape, np.uint16 if num_units <= 2**16 else np.int32)
        kept = None if fires is None else np.empty(steps.shape, bool)
        chunk = max(1, 2**22 // num_units)  # the sort returns 8 bytes a unit: do not do all samples at once
        for begin in range(0, num_samples, chunk):
            part = slice(begin, begin + chunk)
            order = np.argsort(steps[part], axis=1, kind="stable")  # a radix sort for 8 and 16 bit integers
            units[part] = order
            times[part] = np.take_along_axis(steps[part], order, axis=1)
            if kept is not None and fires is not None:
                kept[part] = np.take_along_axis(fires[part], order, axis=1)
        counts = np.full(num_samples, num_units) if kept is None else kept.sum(axis=1)
        return cls(
            times=times.ravel() if kept is None else times[kept],
            units=units.ravel() if kept is None else units[kept],
            offsets=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
            labels=labels.astype(np.int64),
            groups=None,
            num_units=num_units,
            num_classes=num_classes,
            input_shape=input_shape,
            class_names=tuple(class_names),
            time_unit="step",
        )

    @classmethod
    def joined(cls, parts: Iterable[EventStore]) -> EventStore:
        """The samples of one or more stores of one kind in one store, in their order."""
        stores = list(parts)
        if len(stores) == 1:
            return stores[0]
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(store, name) for store in stores])
            for name in _ARRAYS
            if getattr(stores[0], name) is not None
        }
        ends = np.cumsum([0, *(store.num_events for store in stores)])
        parts_of_offsets = [store.offsets[1:] + end for store, end in zip(stores, ends, strict=False)]
        return replace(stores[0], **{**arrays, "offsets": np.concatenate([[0], *parts_of_offsets])})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the store as a folder, see :meth:`write`."""
        self.write(path, [self])

    @staticmethod
    def write(path: str | os.PathLike[str], parts: Iterable[EventStore]) -> None:
        """Write the samples of one or more stores of one kind as a folder of ``.npy`` files and a ``meta.json``.

        Only one of the parts need be in memory at a time. The folder appears at once and whole.

        Args:
            path: the folder to write; a store that is already there is replaced.
            parts: the stores, whose samples follow one another.

        Raises:
            UsageError: ``path`` exists and is not a store.
            OSError: the folder could not be written.
        """
        write_arrays(path, _parts_to_write(parts))

    @classmethod
    def load(cls, path: str | os.PathLike[str], mmap: bool = True) -> EventStore:
        """Read a store that :meth:`save` wrote, and compare the checksums of its arrays.

        Args:
            path: the folder.
            mmap: leave the times and units on disk and let the operating system page them in; several processes then
                share them. Otherwise they are read into memory.

        Raises:
            DataError: the folder is missing, incomplete, damaged or of another format version, or holds values outside
                of their range.
        """
        arrays, meta = read_arrays(path, mapped=("times", "units") if mmap else ())
        try:
            sizes = {name: meta[name] for name in _SIZES}
            sizes |= {"input_shape": tuple(meta["input_shape"]), "class_names": tuple(meta["class_names"])}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}/meta.json: {error} is missing or wrong. Build it again.") from error
        stored: dict[str, Any] = {name: arrays.get(name) for name in _ARRAYS}
        check_stored(os.fspath(path), stored, sizes)
        return cls(**stored, **sizes)


def _parts_to_write(parts: Iterable[EventStore]) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """The arrays and sizes of each part; the offsets go on where those of the part before end."""
    num_events = 0
    for number, part in enumerate(parts):
        arrays = {name: array for name in _ARRAYS if (array := getattr(part, name)) is not None}
        arrays["offsets"] = part.offsets[number > 0 :] + num_events  # a 0 at the very beginning only
        num_events += part.num_events
        yield arrays, {**{name: getattr(part, name) for name in _SIZES}, "num_events": num_events}


def with_common_classes(stores: Mapping[str, EventStore]) -> dict[str, EventStore]:
    """All parts of a data set with the largest class count among them: a part may lack the last classes."""
    largest = max(stores.values(), key=lambda store: store.num_classes)
    return {
        name: replace(store, num_classes=largest.num_classes, class_names=largest.class_names)
        for name, store in stores.items()
    }


def _checked_shape(shape: Sequence[int] | None, num_units: int) -> tuple[int, ...]:
    if shape is None:
        return (num_units,)
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise UsageError(f"input_shape is {shape!r}; expected the lengths of its axes, such as ({num_units},).")
    lengths = tuple(checked_whole_number(f"a length in input_shape {shape}", length) for length in shape)
    if math.prod(lengths) != num_units:
        raise UsageError(f"input_shape {lengths} does not hold num_units={num_units} units.")
    return lengths


def _checked_names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UsageError(f"class_names is {names!r}; expected a list of one name per class.")
    return tuple(map(str, names))
