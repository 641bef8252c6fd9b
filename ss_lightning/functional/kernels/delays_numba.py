"""CPU kernels of delayed synapses: their cost follows events x neurons x taps.

Axonal delays move whole events, so a tap of an event adds one weight row to the step where it arrives: taps are sorted
by that step first, and every row of the current is written once. Delays per synapse send an event to another step for
every neuron; there the loops run along time, for one neuron and input after the other, with a row of time in the L1
cache. Samples go through in groups, whose events are sorted by unit.

Axonal delays also exist in two steps, for input that is not sparse once its events are spread over their taps: spread
them to a dense tensor, and leave the weights to a matrix product.

Rows of time are padded behind the last step: what arrives there is lost, and gradients there are 0.

See :mod:`ss_lightning.functional.kernels.network_numba` for how loops must look to become vector code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ss_lightning.events import EventBatch
from ss_lightning.functional.kernels.common import event_arrays, jit, jit_fused, jit_reduce
from ss_lightning.functional.kernels.loops_numba import copy_row, fill_row
from ss_lightning.threads import map_slices

# Neurons whose rows of time are transposed together: a cache line of float32.
_LANES = 16
# Steps that vector code takes at once: rows of time end on such a border, for the remainder would run step by step.
_STRIDE = 32
# numba checks a signed index for wrap-around, and a sum of unsigned and signed is signed.
_1, _2, _3, _4, _5, _6, _7 = (np.uint64(k) for k in range(1, 8))
# Scratch of a group of samples: rows of currents stay in L2, one row of time in L1.
_ROWS_BYTES = 500_000
_TIME_BYTES = 12_000


# Kernels: events --------------------------------------------------------------------------------------------


@jit
def count_values(spikes, low, high, counts):
    """Non-zero entries of ``spikes`` ``[T, B, N]`` in every step, to ``counts`` ``[B, T]``."""
    num_steps, _, num_units = spikes.shape
    for t in range(num_steps):
        for b in range(low, high):
            row = spikes[t, b]
            count = 0
            for i in range(num_units):
                count += row[i] != 0
            counts[b, t] = count


@jit
def list_values(spikes, low, high, offsets, units, values):
    """The units and values of the non-zero entries of ``spikes``, to where ``offsets`` says."""
    num_steps = len(spikes)
    for b in range(low, high):
        for t in range(num_steps):
            place, stop = offsets[b * num_steps + t], offsets[b * num_steps + t + 1]
            i = 0
            while place < stop:
                value = spikes[t, b, i]
                if value != 0:
                    units[place] = i
                    values[place] = value
                    place += 1
                i += 1


@jit
def _sort_by_unit(units, offsets, values, num_steps, begin, end, slot, place, starts, rows, scales):
    """Events of the samples ``begin .. end - 1`` unit by unit: for each the row of scratch it is in, and its value."""
    fill_row(starts, 0)
    for e in range(offsets[begin * num_steps], offsets[end * num_steps]):
        starts[units[e] + 1] += 1
    for i in range(place.shape[0]):
        starts[i + 1] += starts[i]
        place[i] = starts[i]
    for b in range(begin, end):
        for t in range(num_steps):
            for e in range(offsets[b * num_steps + t], offsets[b * num_steps + t + 1]):
                i = units[e]
                rows[place[i]] = (b - begin) * slot + t
                scales[place[i]] = values[e]
                place[i] += 1


@jit
def count_taps(units, offsets, low, high, first, taps, counts):
    """How many taps arrive in every step, to ``counts`` ``[B, T]``."""
    num_steps = counts.shape[1]
    for b in range(low, high):
        fill_row(counts[b], 0)
        for t in range(num_steps):
            for e in range(offsets[b * num_steps + t], offsets[b * num_steps + t + 1]):
                begin = t + first[units[e]]
                for arrival in range(begin, min(begin + taps, num_steps)):
                    counts[b, arrival] += 1


@jit
def list_taps(units, offsets, low, high, first, taps, num_steps, late_offsets, sources, steps):
    """The event behind every tap, and which of its taps it is, to where ``late_offsets`` says."""
    place = np.empty(num_steps, np.int64)
    for b in range(low, high):
        for t in range(num_steps):
            place[t] = late_offsets[b * num_steps + t]
        for t in range(num_steps):
            for e in range(offsets[b * num_steps + t], offsets[b * num_steps + t + 1]):
                begin = t + first[units[e]]
                for arrival in range(begin, min(begin + taps, num_steps)):
                    sources[place[arrival]] = e
                    steps[place[arrival]] = arrival - begin
                    place[arrival] += 1


# Kernels: rows of time ----------------------------------------------------------------------------------------


@jit
def _read_columns(dense, b, left, count, rows, at):
    """Neurons ``left ..`` of sample ``b`` of ``dense`` ``[T, B, N]`` as rows of time."""
    for t in range(dense.shape[0]):
        for j in range(count):
            rows[j, at + t] = dense[t, b, left + j]


@jit
def _write_columns(dense, b, left, count, rows, at):
    """The inverse of :func:`_read_columns`."""
    for t in range(dense.shape[0]):
        for j in range(count):
            dense[t, b, left + j] = rows[j, at + t]


@jit
def _scaled_two(bump, n, i, k, scale):
    """The heights of the taps ``k`` and ``k + 1`` of a synapse, times ``scale``."""
    return scale * bump[n, i, k], scale * bump[n, i, k + 1]


@jit
def _scaled_eight(bump, n, i, k, scale):
    """The heights of the taps ``k .. k + 7`` of a synapse, times ``scale``."""
    early = _scaled_two(bump, n, i, k, scale) + _scaled_two(bump, n, i, k + 2, scale)
    return early + _scaled_two(bump, n, i, k + 4, scale) + _scaled_two(bump, n, i, k + 6, scale)


@jit_fused
def _add_two_taps(total, row, x0, x1):
    for t in range(total.shape[0]):
        total[t] += x0 * row[t] + x1 * row[t + 1]


@jit_fused
def _add_eight_taps(total, row, x0, x1, x2, x3, x4, x5, x6, x7):
    for t in range(total.shape[0]):
        early = (x0 * row[t] + x1 * row[t + 1]) + (x2 * row[t + 2] + x3 * row[t + 3])
        late = (x4 * row[t + 4] + x5 * row[t + 5]) + (x6 * row[t + 6] + x7 * row[t + 7])
        total[t] += early + late


@jit
def _correlate(total, late, j, first, bump, n, i, scale):
    """``total[t] += scale * sum over k of bump[n, i, k] * late[j, t + first + k]``; taps come in twos."""
    taps = bump.shape[2]
    k = 0
    while k + 8 <= taps:
        _add_eight_taps(total, late[j, first + k :], *_scaled_eight(bump, n, i, k, scale))
        k += 8
    while k < taps:
        _add_two_taps(total, late[j, first + k :], *_scaled_two(bump, n, i, k, scale))
        k += 2


# Kernels: one delay per input unit ----------------------------------------------------------------------------


@jit_fused
def _add_scaled_one(total, table, a, x):
    row_a = table[a]
    for j in range(total.shape[0]):
        total[j] += x * row_a[j]


@jit_fused
def _add_scaled_four(total, table, a, b, c, d, x, y, z, w):
    row_a, row_b, row_c, row_d = table[a], table[b], table[c], table[d]
    for j in range(total.shape[0]):
        total[j] += (x * row_a[j] + y * row_b[j]) + (z * row_c[j] + w * row_d[j])


@jit_fused
def _add_scaled_rows(total, table, index, scale, start, stop):
    """``total += sum of scale[k] * table[index[k]]`` for ``start <= k < stop``."""
    k = start
    while k + 4 <= stop:
        a, b, c, d = index[k], index[k + 1], index[k + 2], index[k + 3]
        _add_scaled_four(total, table, a, b, c, d, scale[k], scale[k + 1], scale[k + 2], scale[k + 3])
        k += 4
    while k < stop:
        _add_scaled_one(total, table, index[k], scale[k])
        k += 1


@jit
def axonal_forward(units, offsets, scales, low, high, table, bias, out):
    """Current ``[T, B, N_out]`` of the samples ``low .. high - 1`` from their taps; ``table`` is ``[N_in, N_out]``."""
    num_steps = len(out)
    for b in range(low, high):
        for t in range(num_steps):
            row = out[t, b]
            copy_row(row, bias)
            _add_scaled_rows(row, table, units, scales, offsets[b * num_steps + t], offsets[b * num_steps + t + 1])


@jit_fused
def _add_scaled(total, row, x):
    for j in range(total.shape[0]):
        total[j] += x * row[j]


@jit_reduce
def _dot(a, b):
    total = a.dtype.type(0)
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@jit
def axonal_gradients(units, offsets, values, low, high, group, slot, first, bump, table, grad, grad_table, grad_bump):
    """Add the gradients of the samples ``low .. high - 1`` to those of ``table`` and ``bump``."""
    num_steps, _, num_outputs = grad.shape
    num_inputs, taps = bump.shape
    num_events = offsets[high * num_steps] - offsets[low * num_steps]
    place, starts = np.empty(num_inputs, np.int64), np.empty(num_inputs + 1, np.int64)
    rows, scales = np.empty(num_events, np.uint32), np.empty(num_events, grad.dtype)
    scratch = np.zeros((group * slot, num_outputs), grad.dtype)
    total = np.empty(num_outputs, grad.dtype)
    for begin in range(low, high, group):
        end = min(begin + group, high)
        for b in range(begin, end):
            for t in range(num_steps):
                copy_row(scratch[(b - begin) * slot + t], grad[t, b])
        _sort_by_unit(units, offsets, values, num_steps, begin, end, slot, place, starts, rows, scales)
        for i in range(num_inputs):
            if starts[i] == starts[i + 1]:
                continue
            for k in range(taps):
                fill_row(total, 0)
                _add_scaled_rows(total, scratch[first[i] + k :], rows, scales, starts[i], starts[i + 1])
                _add_scaled(grad_table[i], total, bump[i, k])
                grad_bump[i, k] += _dot(table[i], total)


@jit
def spread_events(units, offsets, values, low, high, first, bump, out):
    """Add every event of the samples ``low .. high - 1``, spread over its taps, to ``out`` ``[T, B, N_in]``."""
    num_steps, taps = len(out), bump.shape[1]
    for b in range(low, high):
        for t in range(num_steps):
            for e in range(offsets[b * num_steps + t], offsets[b * num_steps + t + 1]):
                i = units[e]
                begin = t + first[i]
                for arrival in range(begin, min(begin + taps, num_steps)):
                    out[arrival, b, i] += bump[i, arrival - begin] * values[e]


@jit
def spread_gradient(units, offsets, values, low, high, first, grad, grad_bump):
    """Add what every event finds at its taps in ``grad`` ``[T, B, N_in]`` to the gradient of ``bump``."""
    num_steps, taps = len(grad), grad_bump.shape[1]
    for b in range(low, high):
        for t in range(num_steps):
            for e in range(offsets[b * num_steps + t], offsets[b * num_steps + t + 1]):
                i = units[e]
                begin = t + first[i]
                for arrival in range(begin, min(begin + taps, num_steps)):
                    grad_bump[i, arrival - begin] += grad[arrival, b, i] * values[e]


@jit
def spread_spike_gradient(low, high, slot, first, bump, grad, out):
    """``out[t] = sum over k of bump[k] * grad[t + first + k]`` for every unit of ``grad`` ``[T, B, N_in]``.

    ``bump`` is ``[1, N_in, K]`` here.
    """
    num_inputs = grad.shape[2]
    late = np.zeros((_LANES, slot), grad.dtype)
    total = np.empty((_LANES, -(-len(grad) // _STRIDE) * _STRIDE), grad.dtype)
    one = grad.dtype.type(1)
    for b in range(low, high):
        for left in range(0, num_inputs, _LANES):
            count = min(_LANES, num_inputs - left)
            _read_columns(grad, b, left, count, late, 0)
            for j in range(count):
                row = total[j]
                fill_row(row, 0)
                _correlate(row, late, j, first[left + j], bump, 0, left + j, one)
            _write_columns(out, b, left, count, total, 0)


# Kernels: one delay per synapse -------------------------------------------------------------------------------


@jit_fused
def _scatter_two(row, rows, scales, start, stop, shift, x0, x1):
    for e in range(start, stop):
        at, scale = rows[e] + shift, scales[e]
        row[at] += x0 * scale
        row[at + _1] += x1 * scale


@jit_fused
def _scatter_eight(row, rows, scales, start, stop, shift, x0, x1, x2, x3, x4, x5, x6, x7):
    for e in range(start, stop):
        at, scale = rows[e] + shift, scales[e]
        row[at] += x0 * scale
        row[at + _1] += x1 * scale
        row[at + _2] += x2 * scale
        row[at + _3] += x3 * scale
        row[at + _4] += x4 * scale
        row[at + _5] += x5 * scale
        row[at + _6] += x6 * scale
        row[at + _7] += x7 * scale


@jit
def _scatter(row, rows, scales, start, stop, first, bump, n, i, weight):
    """Add ``weight`` times every tap of the events ``start .. stop - 1`` to a row of time; taps come in twos."""
    taps = bump.shape[2]
    k = 0
    while k + 8 <= taps:
        heights = _scaled_eight(bump, n, i, k, weight)
        _scatter_eight(row, rows, scales, start, stop, np.uint64(first + k), *heights)
        k += 8
    while k < taps:
        pair = _scaled_two(bump, n, i, k, weight)
        _scatter_two(row, rows, scales, start, stop, np.uint64(first + k), *pair)
        k += 2


@jit_fused
def _gather_two(row, rows, scales, start, stop, shift, found, k):
    x0 = x1 = row.dtype.type(0)
    for e in range(start, stop):
        at, scale = rows[e] + shift, scales[e]
        x0 += row[at] * scale
        x1 += row[at + _1] * scale
    found[k], found[k + 1] = x0, x1


@jit_fused
def _gather_eight(row, rows, scales, start, stop, shift, found, k):
    x0 = x1 = x2 = x3 = x4 = x5 = x6 = x7 = row.dtype.type(0)
    for e in range(start, stop):
        at, scale = rows[e] + shift, scales[e]
        x0 += row[at] * scale
        x1 += row[at + _1] * scale
        x2 += row[at + _2] * scale
        x3 += row[at + _3] * scale
        x4 += row[at + _4] * scale
        x5 += row[at + _5] * scale
        x6 += row[at + _6] * scale
        x7 += row[at + _7] * scale
    found[k], found[k + 1], found[k + 2], found[k + 3] = x0, x1, x2, x3
    found[k + 4], found[k + 5], found[k + 6], found[k + 7] = x4, x5, x6, x7


@jit
def _gather(found, row, rows, scales, start, stop, first):
    """The inverse of :func:`_scatter`: what every tap of these events finds in a row of time."""
    taps = found.shape[0]
    k = 0
    while k + 8 <= taps:
        _gather_eight(row, rows, scales, start, stop, np.uint64(first + k), found, k)
        k += 8
    while k < taps:
        _gather_two(row, rows, scales, start, stop, np.uint64(first + k), found, k)
        k += 2


@jit
def synapse_forward(units, offsets, values, low, high, group, slot, first, bump, weight, bias, out):
    """Current ``[T, B, N_out]`` of the samples ``low .. high - 1``; ``bump`` is ``[N_out, N_in, K]``, ``K`` even."""
    num_steps = len(out)
    num_outputs, num_inputs = weight.shape
    num_events = offsets[high * num_steps] - offsets[low * num_steps]
    place, starts = np.empty(num_inputs, np.int64), np.empty(num_inputs + 1, np.int64)
    rows, scales = np.empty(num_events, np.uint64), np.empty(num_events, out.dtype)
    current = np.empty((_LANES, group * slot), out.dtype)
    for begin in range(low, high, group):
        end = min(begin + group, high)
        _sort_by_unit(units, offsets, values, num_steps, begin, end, slot, place, starts, rows, scales)
        for left in range(0, num_outputs, _LANES):
            count = min(_LANES, num_outputs - left)
            for j in range(count):
                n = left + j
                row = current[j]
                fill_row(row, bias[n])
                for i in range(num_inputs):
                    _scatter(row, rows, scales, starts[i], starts[i + 1], first[n, i], bump, n, i, weight[n, i])
            for b in range(begin, end):
                _write_columns(out, b, left, count, current, (b - begin) * slot)


@jit
def synapse_gradients(
    units, offsets, values, low, high, group, slot, first, bump, weight, grad, grad_weight, grad_bump
):
    """Add the gradients of the samples ``low .. high - 1`` to those of ``weight`` and ``bump``."""
    num_steps = len(grad)
    num_outputs, num_inputs, taps = bump.shape
    num_events = offsets[high * num_steps] - offsets[low * num_steps]
    place, starts = np.empty(num_inputs, np.int64), np.empty(num_inputs + 1, np.int64)
    rows, scales = np.empty(num_events, np.uint64), np.empty(num_events, grad.dtype)
    late = np.zeros((_LANES, group * slot), grad.dtype)
    found = np.empty(taps, grad.dtype)
    for begin in range(low, high, group):
        end = min(begin + group, high)
        _sort_by_unit(units, offsets, values, num_steps, begin, end, slot, place, starts, rows, scales)
        for left in range(0, num_outputs, _LANES):
            count = min(_LANES, num_outputs - left)
            for b in range(begin, end):
                _read_columns(grad, b, left, count, late, (b - begin) * slot)
            for j in range(count):
                n = left + j
                row = late[j]
                for i in range(num_inputs):
                    if starts[i] == starts[i + 1]:
                        continue
                    _gather(found, row, rows, scales, starts[i], starts[i + 1], first[n, i])
                    for k in range(taps):
                        grad_weight[n, i] += bump[n, i, k] * found[k]
                        grad_bump[n, i, k] += weight[n, i] * found[k]


@jit
def synapse_spike_gradient(low, high, slot, first, bump, weight, grad, out):
    """``dL/dS`` ``[T, B, N_in]`` of the samples ``low .. high - 1``, at every step."""
    num_outputs, num_inputs = weight.shape
    late = np.zeros((_LANES, slot), grad.dtype)
    total = np.empty((num_inputs, -(-len(grad) // _STRIDE) * _STRIDE), grad.dtype)
    for b in range(low, high):
        for i in range(num_inputs):
            fill_row(total[i], 0)
        for left in range(0, num_outputs, _LANES):
            count = min(_LANES, num_outputs - left)
            _read_columns(grad, b, left, count, late, 0)
            for i in range(num_inputs):
                row = total[i]
                for j in range(count):
                    n = left + j
                    _correlate(row, late, j, first[n, i], bump, n, i, weight[n, i])
        for left in range(0, num_inputs, _LANES):
            _write_columns(out, b, left, min(_LANES, num_inputs - left), total[left:], 0)


# What delays.py calls -----------------------------------------------------------------------------------------


class WeightedEvents(NamedTuple):
    """Events sample by sample, in order of time, each with a value: ``units`` and ``values`` ``[E]``."""

    units: np.ndarray  # uint32: numba checks a signed index for wrap-around
    offsets: np.ndarray
    values: np.ndarray
    num_steps: int
    num_samples: int


def weighted_events(spikes: EventBatch | Tensor, dtype: torch.dtype) -> WeightedEvents:
    """Events as they are, or the entries of ``[T, B, N]`` that are not zero."""
    num_steps, num_samples, _ = spikes.shape
    if isinstance(spikes, EventBatch):
        units, offsets, *_ = event_arrays(spikes)
        return WeightedEvents(units, offsets, torch.ones(len(units), dtype=dtype).numpy(), num_steps, num_samples)
    dense = spikes.detach().contiguous().numpy()
    counts = np.empty((num_samples, num_steps), np.int32)
    map_slices(lambda low, high: count_values(dense, low, high, counts), num_samples)
    offsets = _offsets(counts)
    units, values = np.empty(offsets[-1], np.uint32), np.empty(offsets[-1], dense.dtype)
    map_slices(lambda low, high: list_values(dense, low, high, offsets, units, values), num_samples)
    return WeightedEvents(units, offsets, values, num_steps, num_samples)


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Where the events of every step begin, int32 ``[B * T + 1]``, from how many there are, ``[B, T]``."""
    offsets = np.zeros(counts.size + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _arrays(first: Tensor, bump: Tensor, num_steps: int, *, padded: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """The taps as arrays, and how long a row of time must be for all of them.

    Loops along time (``padded``) take taps in eights and twos, and whole strides of steps. A bump that begins after the
    last step may as well begin right behind it.
    """
    bump = bump.detach()
    first = first.clamp(max=num_steps)
    if padded:
        bump = F.pad(bump, (0, bump.shape[-1] % 2))
        num_steps = -(-num_steps // _STRIDE) * _STRIDE
    slot = num_steps + bump.shape[-1] + (int(first.max()) if first.numel() else 0)
    return first.contiguous().numpy(), bump.contiguous().numpy(), slot


def _late_events(
    units: np.ndarray, offsets: np.ndarray, shape: tuple[int, int], first: np.ndarray, taps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Taps in order of arrival, for axonal delays: the event of each, which of its taps it is, and offsets."""
    num_steps, num_samples = shape
    counts = np.empty((num_samples, num_steps), np.int32)
    map_slices(lambda low, high: count_taps(units, offsets, low, high, first, taps, counts), num_samples)
    late = _offsets(counts)
    sources, steps = np.empty(late[-1], np.uint32), np.empty(late[-1], np.uint32)
    map_slices(
        lambda low, high: list_taps(units, offsets, low, high, first, taps, num_steps, late, sources, steps),
        num_samples,
    )
    return sources, steps, late


def delayed_events(events: EventBatch, first: Tensor, taps: int) -> EventBatch:
    """Every event as one event for each tap: unit ``i * K + k`` at the step where tap ``k`` of unit ``i`` arrives."""
    units, offsets, *_ = event_arrays(events)
    sources, steps, late = _late_events(units, offsets, events.shape[:2], first.numpy(), taps)
    late_units = (units[sources] * np.uint32(taps) + steps).view(np.int32)
    return EventBatch.trusted(
        torch.from_numpy(late_units), torch.from_numpy(late), events.num_steps, events.num_units * taps
    )


def delayed_forward(events: WeightedEvents, weight: Tensor, first: Tensor, bump: Tensor, bias: Tensor | None) -> Tensor:
    """Current ``[T, B, N_out]``; ``first`` and ``bump`` as from :func:`ss_lightning.functional.delays.delay_taps`."""
    units, offsets, values, num_steps, num_samples = events
    starts, heights, slot = _arrays(first, bump, num_steps, padded=first.dim() == 2)
    out = np.empty((num_steps, num_samples, len(weight)), heights.dtype)
    rest = (weight.new_zeros(len(weight)) if bias is None else bias.detach().to(weight.dtype)).contiguous().numpy()

    if first.dim() == 1:
        table = weight.detach().t().contiguous().numpy()
        sources, steps, late = _late_events(units, offsets, (num_steps, num_samples), starts, heights.shape[1])
        late_units = units[sources]
        scales = heights[late_units, steps] * values[sources]

        def work(low: int, high: int) -> None:
            axonal_forward(late_units, late, scales, low, high, table, rest, out)
    else:
        synapses = weight.detach().contiguous().numpy()
        group = _group(_TIME_BYTES, slot * out.itemsize)

        def work(low: int, high: int) -> None:
            synapse_forward(units, offsets, values, low, high, group, slot, starts, heights, synapses, rest, out)

    map_slices(work, num_samples)
    return torch.from_numpy(out)


def parameter_gradients(
    events: WeightedEvents, weight: Tensor, first: Tensor, bump: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """``dL/dweight`` and ``dL/dbump`` from ``grad = dL/dI`` ``[T, B, N_out]``."""
    *lists, num_steps, num_samples = events
    starts, heights, slot = _arrays(first, bump, num_steps, padded=first.dim() == 2)
    upper = grad.numpy()
    axonal = first.dim() == 1
    kernel = axonal_gradients if axonal else synapse_gradients
    synapses = (weight.detach().t() if axonal else weight.detach()).contiguous().numpy()
    row_bytes = slot * upper.itemsize
    group = _group(_ROWS_BYTES, row_bytes * len(weight)) if axonal else _group(_TIME_BYTES, row_bytes)

    def work(low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        sums = np.zeros_like(synapses), np.zeros_like(heights)
        kernel(*lists, low, high, group, slot, starts, heights, synapses, upper, *sums)
        return sums

    parts = map_slices(work, num_samples)
    grad_weight, grad_bump = (torch.from_numpy(sum(sums)) for sums in zip(*parts, strict=True))
    return (grad_weight.t() if axonal else grad_weight), grad_bump[..., : bump.shape[-1]]


def spike_gradient(weight: Tensor, first: Tensor, bump: Tensor, grad: Tensor) -> Tensor:
    """``dL/dS`` ``[T, B, N_in]`` at every step from ``grad = dL/dI`` ``[T, B, N_out]``."""
    if first.dim() == 1:
        return spread_backward_spikes(first, bump, torch.matmul(grad, weight.detach()))
    starts, heights, slot = _arrays(first, bump, len(grad), padded=True)
    out = np.empty((*grad.shape[:2], weight.shape[1]), heights.dtype)
    synapses, upper = weight.detach().contiguous().numpy(), grad.numpy()
    map_slices(
        lambda low, high: synapse_spike_gradient(low, high, slot, starts, heights, synapses, upper, out), grad.shape[1]
    )
    return torch.from_numpy(out)


def spread_forward(events: WeightedEvents, first: Tensor, bump: Tensor) -> Tensor:
    """What arrives of every unit, ``[T, B, N_in]``, for axonal delays."""
    *lists, num_steps, num_samples = events
    starts, heights, _ = _arrays(first, bump, num_steps, padded=False)
    out = np.zeros((num_steps, num_samples, len(heights)), heights.dtype)
    map_slices(lambda low, high: spread_events(*lists, low, high, starts, heights, out), num_samples)
    return torch.from_numpy(out)


def spread_backward_bump(events: WeightedEvents, first: Tensor, bump: Tensor, grad: Tensor) -> Tensor:
    """``dL/dbump`` from the gradient of :func:`spread_forward`."""
    *lists, num_steps, num_samples = events
    starts, heights, _ = _arrays(first, bump, num_steps, padded=False)
    late = grad.numpy()

    def work(low: int, high: int) -> np.ndarray:
        total = np.zeros_like(heights)
        spread_gradient(*lists, low, high, starts, late, total)
        return total

    return torch.from_numpy(sum(map_slices(work, num_samples)))


def spread_backward_spikes(first: Tensor, bump: Tensor, grad: Tensor) -> Tensor:
    """``dL/dS`` ``[T, B, N_in]`` from the gradient of :func:`spread_forward`."""
    starts, heights, slot = _arrays(first, bump, len(grad), padded=True)
    out, late = np.empty(grad.shape, heights.dtype), grad.numpy()
    map_slices(
        lambda low, high: spread_spike_gradient(low, high, slot, starts, heights[None], late, out), grad.shape[1]
    )
    return torch.from_numpy(out)


def _group(budget: int, sample_bytes: int) -> int:
    """How many samples fit."""
    return max(1, budget // max(sample_bytes, 1))
