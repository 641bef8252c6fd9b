"""The times and units that a person gives, as arrays that are known to be right: checked, converted and sorted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ss_lightning.errors import DataError, UsageError

TimeUnit = Literal["s", "ms", "us"]
StoredTimeUnit = Literal["ms", "us", "step"]

# From here on float64 does not hold every whole number. In microseconds it is 285 years.
END_OF_TIME = np.float64(2**53)


@dataclass(frozen=True)
class SamplePlace:
    """What the messages call a sample.

    Args:
        source: a file or an argument.
        first_sample: number of the first sample, where the arrays are a part of the source.
        about_units: what to do about a unit that is out of range.
    """

    source: str
    first_sample: int = 0
    about_units: str = "Correct the data or set num_units."

    def of(self, sample: int) -> str:
        """The name of a sample."""
        return f"{self.source}, sample {self.first_sample + sample}"

    def of_event(self, event: int, offsets: np.ndarray) -> str:
        """The name of the sample that owns an event."""
        return self.of(int(np.searchsorted(offsets, event, side="right")) - 1)


class FlatEvents(NamedTuple):
    """Events of ``S`` samples that were checked, sample by sample and in order of time inside a sample.

    Attributes:
        times: ``[E]``, in ``time_unit``.
        units: uint16 or int32 ``[E]``.
        offsets: int64 ``[S + 1]``; sample ``s`` owns the events ``offsets[s] : offsets[s + 1]``.
        time_unit: ``"ms"`` or, for whole microseconds, ``"us"``.
    """

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    time_unit: StoredTimeUnit


def flat_events(
    times: Iterable[ArrayLike],
    units: Iterable[ArrayLike],
    place: SamplePlace,
    *,
    num_units: int,
    time_unit: TimeUnit,
    allow_empty: bool,
) -> FlatEvents:
    """Check, convert and sort the events of some samples.

    Args:
        times: one array of event times per sample, in any order: of NumPy, PyTorch or pandas, or a list.
        units: one array of unit indices per sample, as long as its times.
        place: what the messages call the samples.
        num_units: ``N``.
        time_unit: what one unit of ``times`` is.
        allow_empty: accept samples without any event.

    Raises:
        DataError: an event or sample is not valid; the message names the sample and the value.
        UsageError: ``time_unit`` is another word.
    """
    if time_unit not in ("s", "ms", "us"):
        raise UsageError(f'time_unit is {time_unit!r}; expected "s", "ms" or "us".')
    time_list = one_per_sample(times, f"{place.source}: times")
    unit_list = one_per_sample(units, f"{place.source}: units")
    time_arrays = [plain_array(array, f"{place.of(n)}: times") for n, array in enumerate(time_list)]
    unit_arrays = [plain_array(array, f"{place.of(n)}: units") for n, array in enumerate(unit_list)]
    offsets = checked_offsets(place, time_arrays, unit_arrays, allow_empty)
    flat_times, flat_units = _joined(time_arrays), _joined(unit_arrays)
    check_times(place, flat_times, offsets)
    flat_units = checked_units(place, flat_units, offsets, num_units)
    exact, stored_unit = stored_times(flat_times, time_unit)
    return FlatEvents(*_sorted_by_time(exact, flat_units, offsets), offsets, stored_unit)


def length_in(time_unit: StoredTimeUnit, step_ms: float) -> float:
    """Length of a step of ``step_ms`` milliseconds in the unit of stored times."""
    return {"ms": float(step_ms), "us": step_ms * 1000.0, "step": 1.0}[time_unit]


def one_per_sample(values: Iterable[ArrayLike], what: str) -> list[ArrayLike]:
    """What each sample has, as a list; a generator is read.

    Raises:
        DataError: these are no values in an order; the message begins with ``what``.
    """
    if isinstance(values, (str, bytes, Mapping, set, frozenset)) or not isinstance(values, Iterable):
        raise DataError(f"{what} are of type {type(values).__name__}; expected a list of one array per sample.")
    try:
        return list(values)
    except (TypeError, RuntimeError) as error:  # an array without dimensions, a nested tensor
        raise DataError(f"{what} cannot be counted ({error}); expected a list of one array per sample.") from error


def plain_array(values: ArrayLike, what: str) -> np.ndarray:
    """Numbers of any library as a plain array of integers or floats.

    Tensors may require gradients and be on any device. Those of a precision that NumPy does not know, such as
    bfloat16, become float32.

    Raises:
        DataError: they are no array of real numbers, or some are masked; the message begins with ``what``.
    """
    if isinstance(values, Iterator):
        values = list(values)
    try:
        array = _from_tensor(values) if isinstance(values, Tensor) else np.asanyarray(values)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{what} cannot be read as numbers ({reason}); expected one flat array.") from error
    if isinstance(array, np.ma.MaskedArray) and (masked := np.ma.getmaskarray(array)).any():
        raise DataError(f"{what}: number {int(masked.argmax())} is masked; leave out what is masked (compressed()).")
    if array.size and array.dtype.kind not in "iuf":
        raise DataError(
            f"{what} are of type {array.dtype}; expected real numbers. Convert them first, such as with "
            "numpy.asarray(..., float)."
        )
    return np.asarray(array)


def _from_tensor(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    known = (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if tensor.is_floating_point() and tensor.dtype not in known else tensor).numpy()


def checked_offsets(
    place: SamplePlace, times: list[np.ndarray], units: list[np.ndarray], allow_empty: bool
) -> np.ndarray:
    """Where the events of each sample begin in the flat arrays, int64 ``[S + 1]``.

    Raises:
        DataError: the times and units of a sample are no flat arrays of one length, or it has none.
    """
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


def check_times(place: SamplePlace, times: np.ndarray, offsets: np.ndarray) -> None:
    """Refuse times that are negative, not finite or so large that they can only stand for something else.

    Raises:
        DataError: there is one.
    """
    bad = ~((times >= 0) & (times < END_OF_TIME))  # also true for NaN
    if bad.any():
        event = int(bad.argmax())
        raise DataError(
            f"{place.of_event(event, offsets)}: event time {times[event]}; expected finite times, zero or more and "
            "less than 2^53. Correct it, or leave the event out if the value marks a missing time."
        )


def checked_units(place: SamplePlace, units: np.ndarray, offsets: np.ndarray, num_units: int) -> np.ndarray:
    """Units as integers, uint16 if all units fit.

    Raises:
        DataError: one is no whole number from 0 to ``num_units - 1``.
    """
    broken = ~((units >= 0) & (units < num_units))  # also true for NaN
    if units.dtype.kind == "f":
        broken |= units != np.floor(units)
    if broken.any():
        event = int(broken.argmax())
        raise DataError(
            f"{place.of_event(event, offsets)}: unit {units[event]}; expected whole numbers "
            f"from 0 to {num_units - 1} (num_units={num_units}). {place.about_units}"
        )
    return units.astype(np.uint16 if num_units <= 2**16 else np.int32)


def as_recordings(
    times: Iterable[ArrayLike] | ArrayLike, units: Iterable[ArrayLike] | ArrayLike
) -> tuple[list[ArrayLike], list[ArrayLike]]:
    """Times and units of one recording or of several as lists of one array per recording.

    Raises:
        DataError: they are neither.
        UsageError: there are times and units of different numbers of recordings.
    """
    if isinstance(times, Iterator):
        times = list(times)
    if is_one_recording(times):
        return [cast(ArrayLike, times)], [cast(ArrayLike, units)]
    several = one_per_sample(cast(Iterable[ArrayLike], times), "recordings: times")
    their_units = one_per_sample(cast(Iterable[ArrayLike], units), "recordings: units")
    if len(several) != len(their_units):
        raise UsageError(f"there are times of {len(several)} recordings and units of {len(their_units)}")
    return several, their_units


def is_one_recording(times: Any) -> bool:
    """Whether these are the times of one recording and not a list of recordings."""
    if isinstance(times, (np.ndarray, Tensor)):
        return times.ndim == 1 and times.dtype != object
    return not isinstance(times, Iterable) or all(map(_is_single, times))


def _is_single(value: Any) -> bool:
    return value.ndim == 0 if hasattr(value, "ndim") else not isinstance(value, Iterable)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """One array; empty ones are left out, for [] is float64 to numpy, which would make the others so."""
    filled = [array for array in arrays if array.size]
    return np.concatenate(filled) if filled else np.zeros(0)


def stored_times(times: np.ndarray, time_unit: TimeUnit) -> tuple[np.ndarray, StoredTimeUnit]:
    """Times as they are kept: whole microseconds as they are, all others in milliseconds, and what they are in."""
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
