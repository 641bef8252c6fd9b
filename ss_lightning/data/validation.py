"""Checks of the arrays that a data set is built from; each message names the source, the sample and the value."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ss_lightning.arrays import SamplePlace, check_times, checked_units, plain_array
from ss_lightning.errors import DataError

MOST_CLASSES = 2**20


def refuse_broken_link(path: Path) -> None:
    """Refuse a symbolic link that leads nowhere, to itself or to a folder that it lies in.

    Raises:
        DataError: ``path`` is one.
    """
    if not path.is_symlink():
        return
    found = f"{path}: a symbolic link to {os.readlink(path)}, which"
    if not path.exists():
        raise DataError(
            f"{found} leads to no file. Get the file that it stands for (git annex get, where git-annex made the "
            "link), or remove the link."
        )
    if Path(os.path.realpath(path)) in Path(os.path.realpath(path.parent), path.name).parents:
        raise DataError(f"{found} is a folder that the link lies in. Remove the link.")


def check_sample_counts(source: str, found: Mapping[str, int]) -> None:
    """Refuse arrays that do not have one entry for each sample.

    Raises:
        DataError: their lengths, ``found`` by name, differ or are 0.
    """
    if len(set(found.values())) > 1:
        text = ", ".join(f"{count} {name}" for name, count in found.items())
        raise DataError(f"{source}: {text}; expected one of each per sample.")
    if not any(found.values()):
        raise DataError(f"{source}: no samples; expected one or more.")


def whole_numbers(values: ArrayLike, what: str) -> np.ndarray:
    """One number per sample as int64; floats are accepted where they are whole.

    Raises:
        DataError: they are something else; the message begins with ``what``.
    """
    array = plain_array(values, what)
    if array.ndim != 1:
        raise DataError(f"{what} have shape {array.shape}; expected one whole number per sample.")
    broken = ~np.isfinite(array) | (array != np.floor(array))
    if array.dtype.kind in "uf":
        broken |= np.abs(array) >= np.float64(2**63)
    if broken.any():
        sample = int(broken.argmax())
        raise DataError(f"{what}: {array[sample]} at sample {sample}; expected whole numbers of at most 64 bits.")
    return array.astype(np.int64)


def check_class_count(source: str, labels: np.ndarray) -> None:
    """Refuse labels that cannot be class numbers: every class up to the highest gets an output and a name.

    Raises:
        DataError: a label is beyond any number of classes, or none is a class at all.
    """
    if len(labels) and not 0 <= labels.max() < MOST_CLASSES:
        sample = int(labels.argmax())
        raise DataError(
            f"{source}, sample {sample}: label {labels[sample]}; expected classes numbered from 0, fewer than "
            f"{MOST_CLASSES}."
        )


def check_labels(place: SamplePlace, labels: np.ndarray, num_classes: int) -> None:
    """Refuse labels outside of ``[0, num_classes)``.

    Raises:
        DataError: there is one.
    """
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        sample = int(outside.argmax())
        raise DataError(
            f"{place.of(sample)}: label {labels[sample]}; expected 0 to {num_classes - 1} ({num_classes} classes)."
        )


def check_stored(where: str, arrays: Mapping[str, np.ndarray | None], sizes: Mapping[str, Any]) -> None:
    """Refuse a stored data set whose parts do not fit each other: what reads memory by them trusts them from here on.

    Checksums say that a file is as it was written, not that it was written by a friend.

    Args:
        where: the folder.
        arrays: ``times``, ``units``, ``offsets``, ``labels`` and ``groups``, the last of which may be None.
        sizes: ``num_units``, ``num_classes``, ``input_shape``, ``class_names`` and ``time_unit``.

    Raises:
        DataError: they do not.
    """
    kinds = {"times": "iuf", "units": "iu", "offsets": "i", "labels": "i", "groups": "i"}
    for name, kind in kinds.items():
        array = arrays.get(name)
        if array is None and name == "groups":
            continue
        if array is None or array.ndim != 1 or array.dtype.kind not in kind or not array.dtype.isnative:
            found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{where}: {name} is {found}; expected one flat array of numbers. Build it again.")
    times, units, offsets, labels, groups = (arrays.get(name) for name in kinds)
    assert times is not None
    assert units is not None
    assert offsets is not None
    assert labels is not None
    _check_sizes(where, sizes, times)
    fits = (
        offsets.dtype == np.int64
        and labels.dtype == np.int64
        and units.dtype in (np.uint16, np.int32)
        and len(offsets) == len(labels) + 1 > 1
        and len(times) == len(units)
        and (groups is None or len(groups) == len(labels))
        and offsets[0] == 0
        and offsets[-1] == len(times)
        and bool((offsets[1:] >= offsets[:-1]).all())
    )
    if not fits:
        raise DataError(f"{where}: its arrays do not fit each other. Build it again.")
    place = SamplePlace(where, 0)
    check_labels(place, labels, sizes["num_classes"])
    for begin in range(0, len(times), _CHUNK):
        _check_events(place, times, units, offsets, begin, sizes["num_units"])


_CHUNK = 2**22  # the events may be larger than the memory


def _check_sizes(where: str, sizes: Mapping[str, Any], times: np.ndarray) -> None:
    whole = {name: sizes[name] for name in ("num_units", "num_classes")}
    if any(type(size) is not int or not 1 <= size < 2**31 for size in whole.values()):
        raise DataError(f"{where}: its meta.json says {whole}; expected whole numbers above 0. Build it again.")
    shape, names, unit = sizes["input_shape"], sizes["class_names"], sizes["time_unit"]
    fits = (
        all(type(length) is int and length > 0 for length in shape)
        and math.prod(shape) == sizes["num_units"]
        and len(names) == sizes["num_classes"] < MOST_CLASSES
        and all(isinstance(name, str) for name in names)
        and (times.dtype.kind in "f" if unit == "ms" else unit in ("us", "step") and times.dtype.kind in "iu")
    )
    if not fits:
        raise DataError(f"{where}: the sizes in its meta.json do not fit each other. Build it again.")


def _check_events(
    place: SamplePlace, times: np.ndarray, units: np.ndarray, offsets: np.ndarray, begin: int, num_units: int
) -> None:
    """Times that rise inside of each sample, units in their range, among the events from ``begin`` on."""
    part, some = times[begin : begin + _CHUNK], units[begin : begin + _CHUNK]
    if some.max() >= num_units or some.min() < 0:
        checked_units(place, np.asarray(units), offsets, num_units)
    lowest, highest = part.min(), part.max()  # NaN if one of them is
    if not (lowest >= 0 and highest < np.inf):
        check_times(place, np.asarray(times), offsets)
    ends = times[begin : begin + _CHUNK + 1]
    falls = np.flatnonzero(ends[1:] < ends[:-1]) + begin + 1
    if len(falls) and len(borders := falls[~np.isin(falls, offsets)]):
        raise DataError(f"{place.of_event(int(borders[0]), offsets)}: its events are not in order. Build it again.")
