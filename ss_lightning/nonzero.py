"""Where a dense tensor of spikes is not zero: one pass over its memory, by all of torch's threads.

Spikes are rare, so most of the time goes into reading zeros. They are read eight bytes at a time, whatever the dtype,
and eight elements that are all zero cost one comparison. :func:`find_events` is the fast form;
:func:`find_events_by_torch` says the same in tensor operations and works on every device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ss_lightning.errors import UsageError
from ss_lightning.jit import compiled_when_called
from ss_lightning.threads import map_slices

# Elements that are looked at together.
_BLOCK = 8
# Elements below which a second thread, or a look at a sample of the rows, costs more than it saves.
_FEW = 2**18
_SAMPLED_ROWS = 64
_MOST_EVENTS = 2**31 - 1
# Numbers of the floating point that numba computes with; narrower ones are read as float32, which holds them all.
_WIDE = (torch.float32, torch.float64)


class Events(NamedTuple):
    """Events of a dense tensor, laid out as in :class:`~ss_lightning.events.EventBatch`.

    Attributes:
        units: int32 ``[E]``.
        offsets: int32 ``[B * T + 1]``.
    """

    units: Tensor
    offsets: Tensor


def find_events_by_torch(spikes: Tensor) -> Events:
    """:func:`find_events` in tensor operations."""
    steps, batch, units = spikes.shape
    rows = spikes.detach().transpose(0, 1).reshape(batch * steps, units)
    row, unit = rows.nonzero(as_tuple=True)
    values = rows[row, unit]
    counts = values.long()
    wrong = (counts != values) | (counts < 0) | (counts > _MOST_EVENTS)
    if bool(wrong.any()):
        at = int(wrong.int().argmax())
        sample, step = divmod(int(row[at]), steps)
        raise _not_a_count(values[at].item(), step, sample, int(unit[at]))
    ends = torch.zeros(len(rows), dtype=torch.int64, device=spikes.device).index_add_(0, row, counts).cumsum(0)
    _check_total(int(ends[-1]) if len(ends) else 0)
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int32, device=spikes.device)
    offsets[1:] = ends
    return Events(unit.repeat_interleave(counts).int(), offsets)


def find_events(spikes: Tensor) -> Events:
    """The events of a time-major tensor of spike counts.

    Args:
        spikes: whole numbers, zero or more, ``[T, B, N]``, of any dtype. Read where it lies if it is contiguous as
            ``[T, B, N]`` or as ``[B, T, N]``.

    Raises:
        UsageError: a value is no count, or there are more than 2^31 - 1 events.
    """
    if spikes.device.type != "cpu" or spikes.numel() == 0:
        return find_events_by_torch(spikes)
    found = _search(spikes, spikes.numel())
    assert found is not None  # there cannot be too many
    return found


def find_sparse_events(spikes: Tensor, density: float) -> Events | None:
    """:func:`find_events`, or None where events are not worth it or not possible.

    Args:
        spikes: any values, ``[T, B, N]``, on the CPU.
        density: None is the answer where more than this share of the values is not zero, or where one is no count.
    """
    if spikes.numel() == 0 or _seems_dense(spikes, density):
        return None
    try:
        return _search(spikes, int(density * spikes.numel()))
    except UsageError:
        return None


def _seems_dense(spikes: Tensor, density: float) -> bool:
    """Whether a few rows of many steps and samples say that a whole pass would be in vain."""
    if spikes.numel() < _FEW:
        return False
    steps, batch, _ = spikes.shape
    row = torch.arange(_SAMPLED_ROWS) * (steps * batch - 1) // (_SAMPLED_ROWS - 1)
    sample = spikes.detach()[row // batch, row % batch]
    return int(torch.count_nonzero(sample)) > 2 * density * sample.numel()


def _search(spikes: Tensor, most: int) -> Events | None:
    """:func:`find_events` on the CPU, or None where more than ``most`` values are not zero."""
    steps, batch, units = spikes.shape
    rows = steps * batch
    values = spikes.detach()
    if values.dtype == torch.bool:
        values = values.view(torch.uint8)
    elif values.is_floating_point() and values.dtype not in _WIDE:
        values = values.float()
    by_sample = values.transpose(0, 1).is_contiguous()
    flat = (values.transpose(0, 1) if by_sample else values.contiguous()).view(-1)
    flat = flat.clone() if flat.data_ptr() % 8 else flat
    array = flat.numpy()
    bits = array.view(f"u{array.itemsize}")
    words = bits[: array.nbytes // 8 * 8 // array.itemsize].view(np.uint64)
    counts = np.zeros(rows, np.int64)

    def search(low: int, high: int) -> tuple[np.ndarray, bool, int]:
        return _find_loop(bits, words, array, low, high, units, most, counts)

    parts = map_slices(search, rows) if array.size >= _FEW else [search(0, rows)]
    for _, _, wrong in parts:
        if wrong >= 0:
            row, unit = divmod(wrong, units)
            sample, step = divmod(row, steps) if by_sample else divmod(row, batch)[::-1]
            raise _not_a_count(array[wrong].item(), step, sample, unit)
    if sum(len(places) for places, _, _ in parts) > most:
        return None
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum((counts if by_sample else counts.reshape(steps, batch).T).reshape(-1), out=offsets[1:])
    _check_total(int(offsets[-1]))
    listed = np.empty(offsets[-1], np.int32)

    def put(low: int, high: int) -> None:
        for places, ones, _ in parts[low:high]:
            _list_loop(places, array, ones, units, steps, 0 if by_sample else batch, offsets, listed)

    map_slices(put, len(parts))
    return Events(torch.from_numpy(listed), torch.from_numpy(offsets.astype(np.int32)))


@compiled_when_called
def _find_loop(
    bits: np.ndarray,
    words: np.ndarray,
    values: np.ndarray,
    low: int,
    high: int,
    units: int,
    most: int,
    counts: np.ndarray,
) -> tuple[np.ndarray, bool, int]:
    """Where the rows ``low <= row < high`` are not zero, whether by ones alone, and the first place of no count, or -1.

    ``bits``, ``words`` and ``values`` are the same memory, by elements and by eight bytes. The search ends early where
    there are more places than ``most``. ``counts`` gets the events of each row. Places are unsigned, because numba
    checks a signed index for wrap-around.
    """
    in_word, block = np.uint64(8 // bits.itemsize), np.uint64(_BLOCK)
    found = np.empty((high - low) * units // 16 + units + _BLOCK, np.uint64)
    place, number, limit = np.uint64(low * units), np.uint64(0), np.uint64(most)
    ones = True
    for row in range(low, high):  # row by row, so that the second look at what was found comes from the cache
        end, before = place + np.uint64(units), number
        if number > limit:
            break
        if np.int64(number) + units + _BLOCK > found.size:
            longer = np.empty(2 * found.size, np.uint64)
            longer[: np.int64(number)] = found[: np.int64(number)]
            found = longer
        while place < end:
            stop = place + np.uint64(1)
            if place % in_word == 0 and place + block <= end:
                stop = place + block
                word = place // in_word
                some = words[word]
                if bits.itemsize >= 2:  # the compiler knows the size, and drops what is not read
                    some |= words[word + np.uint64(1)]
                if bits.itemsize >= 4:
                    some |= words[word + np.uint64(2)] | words[word + np.uint64(3)]
                if bits.itemsize >= 8:
                    some |= words[word + np.uint64(4)] | words[word + np.uint64(5)]
                    some |= words[word + np.uint64(6)] | words[word + np.uint64(7)]
                if some == 0:
                    place = stop
                    continue
            while place < stop:
                found[number] = place
                number += np.uint64(bits[place] != 0)
                place += np.uint64(1)
        count = 0
        for k in range(before, number):
            value = values[found[k]]
            if value == 1:
                count += 1
                continue
            ones = False
            if value >= 0 and value <= _MOST_EVENTS and value == np.int64(value):
                count += np.int64(value)
            else:
                return found[: np.int64(number)], ones, np.int64(found[k])
        counts[row] = count
    return found[: np.int64(number)], ones, -1


@compiled_when_called
def _list_loop(
    places: np.ndarray,
    values: np.ndarray,
    ones: bool,
    units: int,
    steps: int,
    batch: int,
    offsets: np.ndarray,
    listed: np.ndarray,
) -> None:
    """Write the units of the events at some places to where they belong, row by row.

    ``batch`` is 0 where the rows lie sample by sample, as the events do.
    """
    first, behind, free = np.uint64(0), np.uint64(0), np.uint64(0)
    for place in places:
        if place >= behind:
            row = np.int64(place) // units
            first, behind = np.uint64(row * units), np.uint64((row + 1) * units)
            free = np.uint64(offsets[row] if batch == 0 else offsets[row % batch * steps + row // batch])
        for _ in range(1 if ones else np.int64(values[place])):
            listed[free] = np.int32(place - first)
            free += np.uint64(1)


def _check_total(events: int) -> None:
    if events > _MOST_EVENTS:
        raise UsageError(f"EventBatch: {events} events; expected at most {_MOST_EVENTS}. Make the batch smaller")


def _not_a_count(value: float, step: int, sample: int, unit: int) -> UsageError:
    return UsageError(
        f"EventBatch: {value} at step {step}, sample {sample}, unit {unit}; expected a count of spikes, "
        "a whole number from 0 to 2^31 - 1"
    )
