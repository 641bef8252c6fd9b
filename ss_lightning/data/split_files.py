"""Parts of a data set that are one ``.npz`` each: flat arrays, and how long each recording is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ss_lightning.arrays import TimeUnit
from ss_lightning.data.event_files import EventReader
from ss_lightning.data.layouts import PARTS
from ss_lightning.data.store import EventStore
from ss_lightning.data.validation import MOST_CLASSES, whole_numbers
from ss_lightning.errors import DataError, UsageError

_NEEDED = ("times", "units", "lengths", "labels")
_HOW = (
    "Write it with numpy.savez(path, times=numpy.concatenate(times), units=numpy.concatenate(units), "
    "lengths=[len(t) for t in times], labels=labels)"
)


class Parts(NamedTuple):
    """All recordings of some files.

    Attributes:
        store: the recordings; their groups are indices of ``group_names``.
        parts: "train", "val" or "test" for each of them.
        group_names: names of the groups, none if the files have none.
    """

    store: EventStore
    parts: np.ndarray
    group_names: tuple[str, ...]


def split_files(root: Path) -> dict[str, Path]:
    """The files ``train.npz``, ``val.npz`` and ``test.npz`` of a folder.

    Raises:
        DataError: there are some, but none to train on.
    """
    found = {part: root / f"{part}.npz" for part in PARTS if (root / f"{part}.npz").is_file()}
    if found and "train" not in found:
        names = ", ".join(path.name for path in found.values())
        raise DataError(f"{root}: {names} but no train.npz. Put the recordings to train on there.")
    return found


def read_split_files(files: Mapping[str, Path], reader: EventReader) -> Parts:
    """Read the parts of a data set.

    Args:
        files: the file of each part.
        reader: what is expected of the recordings, and what is kept of them.

    Raises:
        DataError: a file cannot be read or does not hold what is expected.
        UsageError: the reader has settings for x and y.
    """
    of_cameras = {"sensor_size": None, "merge_polarity": False, "pixels_per_input": 1}
    if given := [name for name, default in of_cameras.items() if getattr(reader, name) != default]:
        raise UsageError(
            f"{given[0]} is for recordings with x and y, but {files['train']} has units. Leave it out, or write a file "
            "for each recording."
        )
    num_units = reader.num_units
    arrays = {part: _read(path) for part, path in files.items()}
    flat = [array["units"] for array in arrays.values() if len(array["units"])]
    if num_units is None:
        num_units = int(max((units.max() for units in flat), default=0)) + 1
    class_names = _class_names(files, arrays)
    for part, path in files.items():
        if not reader.sort_times:
            _refuse_falling_times(path, arrays[part])
        strange = np.setdiff1d(arrays[part]["labels"], arrays["train"]["labels"])
        if len(strange):
            raise DataError(
                f"{path}: class {class_names[strange[0]]} (label {strange[0]}) is not in {files['train'].name}. Add "
                "recordings of it there, or take the class out here."
            )
    groups = [array["groups"].astype(str) for array in arrays.values() if "groups" in array]
    if 0 < len(groups) < len(arrays):
        without = next(path for part, path in files.items() if "groups" not in arrays[part])
        raise DataError(f"{without}: has no groups, but other parts have; expected them in all parts or in none.")
    group_names = tuple(sorted({str(name) for some in groups for name in some}))
    stores = []
    for part, path in files.items():
        array = arrays[part]
        ends = array["lengths"].cumsum()[:-1]
        pairs = zip(np.split(array["times"], ends), np.split(array["units"], ends), strict=True)
        kept = [kept_events(reader, *pair, reader.time_unit) for pair in pairs]
        stores.append(
            EventStore.from_arrays(
                [times for times, _ in kept],
                [units for _, units in kept],
                array["labels"],
                groups=np.searchsorted(group_names, array["groups"].astype(str)) if groups else None,
                num_units=num_units,
                time_unit=reader.time_unit,
                class_names=class_names,
                # A window may leave nothing of a recording.
                allow_empty=reader.allow_empty or (reader.window_ms is not None and 0 not in array["lengths"]),
                source=str(path),
            )
        )
    parts = np.repeat(np.array(list(files)), [len(store) for store in stores])
    return Parts(EventStore.joined(stores), parts, group_names)


def kept_events(
    reader: EventReader, times: np.ndarray, units: np.ndarray, time_unit: TimeUnit
) -> tuple[np.ndarray, np.ndarray]:
    """What a reader keeps of a recording of a file of several: its window, from its first event if that is asked for.

    Args:
        reader: the settings.
        times: ``[E]``, in no order.
        units: ``[E]``.
        time_unit: of the times.
    """
    if times.dtype.kind not in "iuf" or not (np.isfinite(times) & (times >= 0)).all():
        return times, units  # for the one who takes them to refuse
    if reader.from_first_event and len(times):
        times = times - times.min()
    if reader.window_ms is not None:
        begin, end = (edge * {"s": 1e-3, "ms": 1, "us": 1e3}[time_unit] for edge in reader.window_ms)
        inside = (times >= begin) & (times < end)
        times, units = times[inside] - begin, units[inside]
    return times, units


def _class_names(files: Mapping[str, Path], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """A name for each label; the labels themselves where no part has class_names."""
    names = [str(name) for name in max((array.get("class_names", ()) for array in arrays.values()), key=len)]
    for part, path in files.items():
        labels = arrays[part]["labels"]
        lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
        if lowest < 0 or highest >= (len(names) or MOST_CLASSES):
            most = f"the {len(names)} class_names" if names else "classes"
            raise DataError(f"{path}: label {lowest if lowest < 0 else highest}; expected {most} numbered from 0.")
    if names:
        return names
    return [str(label) for label in range(max(int(array["labels"].max(initial=0)) for array in arrays.values()) + 1)]


def _refuse_falling_times(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    times = arrays["times"]
    falls = times[1:] < times[:-1]
    begins = arrays["lengths"].cumsum()[:-1]
    falls[begins[(begins > 0) & (begins < len(times))] - 1] = False  # a recording begins anew
    if falls.any():
        event = int(falls.argmax()) + 1
        sample = int(np.searchsorted(begins, event, side="right"))
        raise DataError(
            f"{path}, sample {sample}: time {times[event]} comes after {times[event - 1]}; expected them to rise. "
            "Correct the lengths, or set data.sort_times: true if the order in the file means nothing."
        )


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, whose lengths fit each other."""
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in _NEEDED if name not in file.files]
            if missing:
                raise DataError(f"{path}: no {', '.join(missing)} among {', '.join(file.files)}. {_HOW}.")
            arrays = {name: file[name] for name in (*_NEEDED, "groups", "class_names") if name in file.files}
    except DataError:
        raise
    except Exception as error:  # what NumPy says to a damaged file depends on the place
        about = " Arrays of objects may hold code and are not read." if "pickle" in str(error) else ""
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]}).{about} {_HOW}.") from error
    for name in ("lengths", "labels"):
        arrays[name] = whole_numbers(arrays[name], f"{path}: {name}")
    samples: dict[str, int] = {name: len(arrays[name]) for name in ("lengths", "labels", "groups") if name in arrays}
    total = int(arrays["lengths"].sum())
    events: dict[str, int] = {name: arrays[name].size for name in ("times", "units")}
    if len(set(samples.values())) > 1 or (arrays["lengths"] < 0).any() or set(events.values()) != {total}:
        found = ", ".join(f"{count} {name}" for name, count in {**samples, **events}.items())
        raise DataError(f"{path}: {found}, and the lengths add up to {total}; expected them to fit. {_HOW}.")
    return arrays
