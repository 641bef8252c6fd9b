"""A whole data set of spikes as flat arrays, and the data set that turns samples of it into batches."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset

from ss_lightning.data.binning import Binning, bin_events, dense_spikes
from ss_lightning.errors import DataError, UsageError
from ss_lightning.events import EventBatch

FORMAT_VERSION = 2
_MOST_CLASSES = 2**20
_ARRAYS = ("times", "units", "offsets", "labels", "groups")

TimeUnit = Literal["s", "ms", "us"]
StoredTimeUnit = Literal["ms", "us", "step"]
InputKind = Literal["events", "dense"]
# Gets the number of each sample of a batch and its key, int64 ``[B]`` each; returns times ``[E]`` in no order, units
# ``[E]`` and offsets ``[B + 1]`` of changed samples.
Augmenter = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
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
        num_classes: Number of classes.
        input_shape: Shape of one step of input, such as ``(700,)`` or ``(1, 28, 28)``; its product is ``N``.
        class_names: One name per class.
        time_unit: Unit of ``times``: ``"ms"``, ``"us"`` or ``"step"`` (already on the grid).
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

    @property
    def num_events(self) -> int:
        """Number of events ``E`` in all samples."""
        return len(self.times)

    def step_length(self, step_ms: float) -> float:
        """Length of a step of ``step_ms`` milliseconds in the unit of ``times``."""
        return {"ms": float(step_ms), "us": step_ms * 1000.0, "step": 1.0}[self.time_unit]

    def share_after(self, num_steps: int, step_ms: float) -> float:
        """Share of the events, 0 to 1, that lie at or after the end of a grid of ``num_steps`` steps."""
        if self.time_unit == "step" or self.num_events == 0:
            return 0.0
        end, chunk = num_steps * self.step_length(step_ms), 2**24  # the times may be larger than the memory
        chunks = (self.times[begin : begin + chunk] for begin in range(0, self.num_events, chunk))
        return sum(np.count_nonzero(times >= end) for times in chunks) / self.num_events

    @classmethod
    def from_arrays(
        cls,
        times: Sequence[ArrayLike],
        units: Sequence[ArrayLike],
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
            times: One array of event times per sample, in any order.
            units: One array of unit indices per sample, as long as its times.
            labels: ``[S]``, the class of each sample.
            num_units: ``N``.
            time_unit: What one unit of ``times`` is: ``"s"``, ``"ms"`` or ``"us"``.
            groups: ``[S]``, such as the speaker of each sample.
            num_classes: Number of classes; the highest label + 1 (or the number of ``class_names``) if not
                given.
            input_shape: Shape of one step of input; ``(num_units,)`` if not given.
            class_names: One name per class; the class numbers if not given.
            allow_empty: Accept samples without any event.
            source: What the messages call the data: a file or an argument.
            first_sample: What the messages call the first sample, where these are a part of the source.

        Raises:
            DataError: An event, label or sample is not valid; the message names the sample and the value.
            UsageError: ``num_units``, ``time_unit``, ``input_shape`` or ``class_names`` make no sense.
        """
        if time_unit not in ("s", "ms", "us"):
            raise UsageError(f'time_unit is {time_unit!r}; expected "s", "ms" or "us".')
        if num_units < 1:
            raise UsageError(f"num_units is {num_units}; expected 1 or more.")
        input_shape = (num_units,) if input_shape is None else tuple(int(n) for n in input_shape)
        if int(np.prod(input_shape)) != num_units:
            raise UsageError(f"input_shape {input_shape} does not hold num_units={num_units} units.")

        label_array = whole_numbers(labels, f"{source}: labels")
        group_array = None if groups is None else whole_numbers(groups, f"{source}: groups")
        found = {"times": len(times), "units": len(units), "labels": len(label_array)}
        check_sample_counts(source, found if group_array is None else {**found, "groups": len(group_array)})
        time_arrays = [np.asarray(array) for array in times]
        unit_arrays = [np.asarray(array) for array in units]
        place = _Place(source, first_sample)
        offsets = _checked_offsets(place, time_arrays, unit_arrays, allow_empty)

        flat_times, flat_units = _concatenated(time_arrays), _concatenated(unit_arrays)
        _check_times(place, flat_times, offsets)
        flat_units = _checked_units(place, flat_units, offsets, num_units)
        check_class_count(source, label_array)
        if num_classes is None:
            num_classes = len(class_names) if class_names is not None else int(label_array.max()) + 1
        _check_labels(place, label_array, num_classes)
        if class_names is not None and len(class_names) != num_classes:
            raise UsageError(f"class_names has {len(class_names)} names for {num_classes} classes.")

        stored_times, stored_unit = _stored_times(flat_times, time_unit)
        stored_times, flat_units = _sorted_by_time(stored_times, flat_units, offsets)
        return cls(
            times=stored_times,
            units=flat_units,
            offsets=offsets,
            labels=label_array,
            groups=group_array,
            num_units=num_units,
            num_classes=num_classes,
            input_shape=input_shape,
            class_names=tuple(class_names) if class_names else tuple(map(str, range(num_classes))),
            time_unit=stored_unit,
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
            steps: Unsigned integers ``[S, N]``, the step at which each unit fires.
            labels: ``[S]``.
            num_classes: Number of classes.
            input_shape: Shape of one step of input; its product is ``N``.
            class_names: One name per class.
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

        Only one of the parts need be in memory at a time. The folder appears at once and whole: it is written under
        another name beside ``path`` and then renamed.

        Args:
            path: The folder to write; a store that is already there is replaced.
            parts: The stores, whose samples follow one another.

        Raises:
            UsageError: ``path`` exists and is not a store.
            OSError: The folder could not be written.
        """
        path = Path(path)
        if path.exists() and not (path / "meta.json").is_file():
            raise UsageError(f"{path} exists and is not a stored data set. Choose another folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            files: dict[str, _ArrayFile] = {}
            num_events = 0
            with ExitStack() as stack:
                for number, part in enumerate(parts):
                    if number == 0:
                        kept = [name for name in _ARRAYS if getattr(part, name) is not None]
                        files = {name: stack.enter_context(_ArrayFile(temporary / f"{name}.npy")) for name in kept}
                    for name, file in files.items():
                        array = getattr(part, name)
                        if name == "offsets":
                            array = array[number > 0 :] + num_events  # a 0 at the very beginning only
                        file.append(array)
                    num_events += part.num_events
            meta = {
                "format": FORMAT_VERSION,
                "num_units": part.num_units,
                "num_classes": part.num_classes,
                "input_shape": part.input_shape,
                "class_names": part.class_names,
                "time_unit": part.time_unit,
                "num_events": num_events,
                "crc32": {name: file.crc for name, file in files.items()},
            }
            meta["checksum"] = _checksum(meta)
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
            temporary.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], mmap: bool = True) -> EventStore:
        """Read a store that :meth:`save` wrote, and compare the checksums of its arrays.

        Args:
            path: The folder.
            mmap: Leave the arrays on disk and let the operating system page them in; several processes then
                share them. Otherwise read them into memory.

        Raises:
            DataError: The folder is missing, incomplete, damaged or of another format version.
        """
        path = Path(path)
        try:
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            if meta["format"] != FORMAT_VERSION:
                raise DataError(
                    f"{path}: stored in format {meta['format']}, expected {FORMAT_VERSION}. Build it again."
                )
            if meta.pop("checksum") != _checksum(meta):
                raise DataError(f"{path}/meta.json: its checksum differs. Build it again.")
            arrays: dict[str, Any] = dict.fromkeys(_ARRAYS)
            for name, crc in meta["crc32"].items():
                # Only the large arrays; and an array without events cannot be mapped.
                mapped = mmap and name in ("times", "units") and meta["num_events"] > 0
                arrays[name] = np.load(path / f"{name}.npy", mmap_mode="r" if mapped else None)
                if zlib.crc32(arrays[name].data) != crc:
                    raise DataError(f"{path / name}.npy: checksum differs from meta.json. Build it again.")
            return cls(
                **arrays,
                num_units=meta["num_units"],
                num_classes=meta["num_classes"],
                input_shape=tuple(meta["input_shape"]),
                class_names=tuple(meta["class_names"]),
                time_unit=meta["time_unit"],
            )
        except DataError:
            raise
        except Exception as error:  # NumPy even says SyntaxError to a damaged header
            raise DataError(f"{path}: not a complete stored data set ({error}). Build it again.") from error


class _ArrayFile:
    """A ``.npy`` file that grows along its one axis."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._type: Any = None  # known with the first array
        self._length = 0
        self.crc = 0

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            if self._type is not None:
                self._file.seek(0)
                self._write_header()

    def append(self, array: np.ndarray) -> None:
        """Write ``array`` behind what is there.

        Raises:
            ValueError: It is of another type.
        """
        if self._type is None:
            self._type = array.dtype
            self._write_header()
        if array.dtype != self._type:
            raise ValueError(f"parts of one array are of types {self._type} and {array.dtype}; expected one type")
        content = np.ascontiguousarray(array).data
        self._file.write(content)
        self.crc = zlib.crc32(content, self.crc)
        self._length += len(array)

    def _write_header(self) -> None:
        # NumPy leaves room in it for any length of the first axis.
        header = {"descr": np.lib.format.dtype_to_descr(self._type), "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def _checksum(meta: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def with_common_classes(stores: Mapping[str, EventStore]) -> dict[str, EventStore]:
    """All parts of a data set with the largest class count among them: a part may lack the last classes."""
    largest = max(stores.values(), key=lambda store: store.num_classes)
    return {
        name: replace(store, num_classes=largest.num_classes, class_names=largest.class_names)
        for name, store in stores.items()
    }


@dataclass(frozen=True)
class _Place:
    """What the messages call a sample."""

    source: str
    first_sample: int

    def of(self, sample: int) -> str:
        return f"{self.source}, sample {self.first_sample + sample}"

    def of_event(self, event: int, offsets: np.ndarray) -> str:
        return self.of(int(np.searchsorted(offsets, event, side="right")) - 1)


def check_sample_counts(source: str, found: Mapping[str, int]) -> None:
    """Refuse arrays that do not have one entry for each sample.

    Raises:
        DataError: Their lengths, ``found`` by name, differ or are 0.
    """
    if len(set(found.values())) > 1:
        text = ", ".join(f"{count} {name}" for name, count in found.items())
        raise DataError(f"{source}: {text}; expected one of each per sample.")
    if not any(found.values()):
        raise DataError(f"{source}: no samples; expected one or more.")


def _checked_offsets(place: _Place, times: list[np.ndarray], units: list[np.ndarray], allow_empty: bool) -> np.ndarray:
    flat = np.fromiter((t.ndim == 1 and u.ndim == 1 for t, u in zip(times, units, strict=True)), bool)
    if not flat.all():
        sample = int(flat.argmin())
        raise DataError(
            f"{place.of(sample)}: times have shape {times[sample].shape} and units "
            f"{units[sample].shape}; expected one flat array each."
        )
    num_times = np.fromiter(map(len, times), np.int64)
    num_units = np.fromiter(map(len, units), np.int64)
    if (num_times != num_units).any():
        sample = int((num_times != num_units).argmax())
        raise DataError(
            f"{place.of(sample)}: {num_times[sample]} times but {num_units[sample]} units; "
            "expected one unit for each time."
        )
    if not allow_empty and (num_times == 0).any():
        sample = int((num_times == 0).argmax())
        raise DataError(
            f"{place.of(sample)}: no events ({(num_times == 0).sum()} such samples in all); expected "
            "one or more. Remove the sample, or build the store with allow_empty=True if silence is meant."
        )
    return np.concatenate([[0], num_times.cumsum()]).astype(np.int64)


def _concatenated(arrays: list[np.ndarray]) -> np.ndarray:
    """One array; empty ones are left out, for [] is float64 to numpy, which would make the others so."""
    filled = [array for array in arrays if array.size]
    return np.concatenate(filled) if filled else np.zeros(0)


def _check_times(place: _Place, times: np.ndarray, offsets: np.ndarray) -> None:
    if times.dtype.kind not in "iuf":
        raise DataError(f"{place.source}: times are of type {times.dtype}; expected real numbers.")
    bad = ~(times >= 0)  # also true for NaN
    if times.dtype.kind == "f":
        bad |= np.isinf(times)
    if bad.any():
        event = int(bad.argmax())
        raise DataError(
            f"{place.of_event(event, offsets)}: event time {times[event]}; expected finite times, zero or more."
        )


def whole_numbers(values: ArrayLike, what: str) -> np.ndarray:
    """One number per sample as int64; floats are accepted where they are whole.

    Raises:
        DataError: They are something else; the message begins with ``what``.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} are no flat array ({error}); expected one whole number per sample.") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise DataError(
            f"{what} have shape {array.shape} and type {array.dtype}; expected one whole number per sample."
        )
    broken = ~np.isfinite(array) | (array != np.floor(array))
    if broken.any():
        sample = int(broken.argmax())
        raise DataError(f"{what}: {array[sample]} at sample {sample}; expected whole numbers.")
    return array.astype(np.int64)


def _checked_units(place: _Place, units: np.ndarray, offsets: np.ndarray, num_units: int) -> np.ndarray:
    if units.dtype.kind not in "iuf":
        raise DataError(f"{place.source}: units are of type {units.dtype}; expected whole numbers.")
    broken = ~((units >= 0) & (units < num_units))  # also true for NaN
    if units.dtype.kind == "f":
        broken |= units != np.floor(units)
    if broken.any():
        event = int(broken.argmax())
        raise DataError(
            f"{place.of_event(event, offsets)}: unit {units[event]}; expected whole numbers "
            f"from 0 to {num_units - 1} (num_units={num_units}). Correct the data or set num_units."
        )
    return units.astype(np.uint16 if num_units <= 2**16 else np.int32)


def check_class_count(source: str, labels: np.ndarray) -> None:
    """Refuse labels that cannot be class numbers: every class up to the highest gets an output and a name.

    Raises:
        DataError: A label is beyond any number of classes.
    """
    if len(labels) and labels.max() >= _MOST_CLASSES:
        sample = int(labels.argmax())
        raise DataError(
            f"{source}, sample {sample}: label {labels[sample]}; expected classes numbered from 0, fewer than "
            f"{_MOST_CLASSES}."
        )


def _check_labels(place: _Place, labels: np.ndarray, num_classes: int) -> None:
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        sample = int(outside.argmax())
        raise DataError(
            f"{place.of(sample)}: label {labels[sample]}; expected 0 to {num_classes - 1} ({num_classes} classes)."
        )


def _stored_times(times: np.ndarray, time_unit: TimeUnit) -> tuple[np.ndarray, StoredTimeUnit]:
    if time_unit == "us" and times.dtype.kind in "iu":
        small = times.size == 0 or times.max() < 2**31
        return times.astype(np.int32 if small else np.int64), "us"
    exact = times.astype(np.float64) * {"s": 1000.0, "ms": 1.0, "us": 1.0}[time_unit]
    if time_unit == "us":
        exact /= 1000.0  # exact where 0.001 as a factor would not be
    if times.dtype in (np.float16, np.float32):
        return exact.astype(np.float32), "ms"
    return np.round(exact, 9), "ms"


def _sorted_by_time(times: np.ndarray, units: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    falls = times[1:] < times[:-1]
    borders = offsets[1:-1]
    falls[borders[(borders > 0) & (borders < times.size)] - 1] = False
    if not falls.any():
        return times, units
    sample = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    order = np.lexsort((times, sample))  # stable
    return times[order], units[order]


class EventDataset(Dataset):
    """Samples of a store, put on a time grid and collated as they are fetched.

    A DataLoader asks for a whole batch at once through :meth:`__getitems__` and must not collate again: give
    it ``collate_fn=identity``.
    """

    def __init__(
        self,
        store: EventStore,
        samples: np.ndarray | None = None,
        *,
        num_steps: int,
        step_ms: float,
        binning: Binning = "binary",
        input: InputKind = "events",
        units_per_input: int = 1,
        augment: Augmenter | None = None,
    ) -> None:
        """Choose samples and a grid.

        Args:
            store: The data.
            samples: int64 ``[S']``, the samples of the store to use; all if not given.
            num_steps: ``T``, steps of the grid; later events are dropped.
            step_ms: Length of a step in milliseconds (without effect if the store is already on the grid).
            binning: ``"binary"``: a unit counts once per step; ``"count"``: every event counts.
            input: ``"events"`` for an :class:`~ss_lightning.events.EventBatch`, ``"dense"`` for a time-major
                uint8 tensor ``[T, B, N]``.
            units_per_input: How many neighbouring units are merged into one; ``N`` follows, rounded up.
            augment: What changes samples that are asked for together with a key; none does if not given.
        """
        self.store = store
        self.samples = np.arange(len(store)) if samples is None else np.asarray(samples, np.int64)
        self.num_steps = num_steps
        self.step_ms = step_ms
        self.binning: Binning = binning
        self.input: InputKind = input
        self.units_per_input = units_per_input
        self.augment = augment

    @property
    def num_units(self) -> int:
        """Number of input units ``N``."""
        return -(-self.store.num_units // self.units_per_input)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[EventBatch | Tensor, Tensor]:
        """A batch of the one sample ``index``."""
        return self.__getitems__([index])

    def __getitems__(
        self, indices: Sequence[int] | Sequence[tuple[int, int]] | np.ndarray
    ) -> tuple[EventBatch | Tensor, Tensor]:
        """The batch of these samples.

        Args:
            indices: Numbers of samples; or pairs of a key and a number, for samples changed at random: as ``augment``
                changes them, which follows from the pair alone.

        Returns:
            The input (an EventBatch, or uint8 ``[T, B, N]``) and the labels, int64 ``[B]``.

        Raises:
            UsageError: Dense counts do not fit uint8.
        """
        store = self.store
        numbers = np.asarray(indices, np.int64)
        keys, numbers = numbers.T if numbers.ndim == 2 else (None, numbers)
        chosen = self.samples[numbers]
        labels = torch.from_numpy(store.labels[chosen])
        grid: dict[str, Any] = {
            "num_steps": self.num_steps,
            "step_length": store.step_length(self.step_ms),
            "binning": self.binning,
        }
        if keys is None or self.augment is None:
            units, offsets = bin_events(
                store.times,
                store.units,
                store.offsets,
                chosen,
                num_units=store.num_units,
                units_per_input=self.units_per_input,
                **grid,
            )
        else:
            changed = self.augment(numbers, keys)
            every = np.arange(len(numbers))
            units, offsets = bin_events(*changed, every, num_units=self.num_units, in_order=False, **grid)
        if self.input == "events":
            events = EventBatch(torch.from_numpy(units), torch.from_numpy(offsets), self.num_steps, self.num_units)
            return events, labels
        dense = dense_spikes(units, offsets, num_steps=self.num_steps, num_units=self.num_units, binning=self.binning)
        if self.binning == "count" and dense.sum(dtype=np.int64) != len(units):
            raise UsageError(
                f"A unit fired more than 255 times in one step of {self.step_ms} ms, which dense input "
                '(uint8) cannot hold. Use shorter steps, binning="binary" or input="events".'
            )
        return torch.from_numpy(dense), labels


def identity(batch: Any) -> Any:
    """The ``collate_fn`` for a data set that returns whole batches: a function that workers can pickle."""
    return batch
