"""CPU kernels of delayed synapses: their cost follows events x neurons x taps.

Axonal delays move whole events, so a tap of an event adds one weight row to the step where it arrives: taps are sorted
by that step first, and every row of the current is written once. Delays per synapse send an event to another step for
every neuron; there the loops run along time, for one neuron and input after the other, with a row of time in the L1
cache. Samples go through in groups, whose events are sorted by unit.

Rows of time are padded behind the last step: what arrives there is lost, and gradients there are 0.

See :mod:`ss_lightning.functional.kernels_numba` for how loops must look to become vector code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from ss_lightning.events import EventBatch
from ss_lightning.functional.kernels_numba import _batch_events, _copy, _fill, _jit, _jit_fused, _map_slices

# Sums of products may be taken in any order here: no loop below would be vector code otherwise.
_jit_reduce: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
# Neurons whose rows of time are transposed together: a cache line of float32.
_LANES = 16
# Scratch of a group of samples: rows of currents stay in L2, one row of time in L1.
_ROWS_BYTES = 500_000
_TIME_BYTES = 12_000


# Kernels: events --------------------------------------------------------------------------------------------


@_jit
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


@_jit
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


@_jit
def _sort_by_unit(units, offsets, values, num_steps, begin, end, slot, place, starts, rows, scales):
    """Events of the samples ``begin .. end - 1`` unit by unit: for each the row of scratch it is in, and its value."""
    _fill(starts, 0)
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


# Kernels: one delay per input unit ----------------------------------------------------------------------------


@_jit_fused
def _add_scaled_one(total, table, a, x):
    row_a = table[a]
    for j in range(total.shape[0]):
        total[j] += x * row_a[j]


@_jit_fused
def _add_scaled_four(total, table, a, b, c, d, x, y, z, w):
    row_a, row_b, row_c, row_d = table[a], table[b], table[c], table[d]
    for j in range(total.shape[0]):
        total[j] += (x * row_a[j] + y * row_b[j]) + (z * row_c[j] + w * row_d[j])


@_jit_fused
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


@_jit
def axonal_forward(units, offsets, values, low, high, first, bump, table, bias, out):
    """Current ``[T, B, N_out]`` of the samples ``low .. high - 1``; ``table`` is ``[N_in, N_out]``."""
    num_steps, taps = out.shape[0], bump.shape[1]
    most = 0
    for b in range(low, high):
        most = max(most, offsets[(b + 1) * num_steps] - offsets[b * num_steps])
    index = np.empty(most * taps, np.uint32)
    scale = np.empty(most * taps, table.dtype)
    place = np.empty(num_steps + 1, np.int64)
    for b in range(low, high):
        _fill(place, 0)
        for t in range(num_steps):
            for e in range(offsets[b * num_steps + t], offsets[b * num_steps + t + 1]):
                begin = t + first[units[e]]
                for arrival in range(begin, min(begin + taps, num_steps)):
                    place[arrival + 1] += 1
        for t in range(num_steps):
            place[t + 1] += place[t]
        for t in range(num_steps):
            for e in range(offsets[b * num_steps + t], offsets[b * num_steps + t + 1]):
                i = units[e]
                begin = t + first[i]
                for arrival in range(begin, min(begin + taps, num_steps)):
                    index[place[arrival]] = i
                    scale[place[arrival]] = bump[i, arrival - begin] * values[e]
                    place[arrival] += 1
        start = 0
        for t in range(num_steps):
            row = out[t, b]
            _copy(row, bias)
            _add_scaled_rows(row, table, index, scale, start, place[t])
            start = place[t]


@_jit_fused
def _add_scaled(total, row, x):
    for j in range(total.shape[0]):
        total[j] += x * row[j]


@_jit_reduce
def _dot(a, b):
    total = a.dtype.type(0)
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@_jit
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
                _copy(scratch[(b - begin) * slot + t], grad[t, b])
        _sort_by_unit(units, offsets, values, num_steps, begin, end, slot, place, starts, rows, scales)
        for i in range(num_inputs):
            if starts[i] == starts[i + 1]:
                continue
            for k in range(taps):
                _fill(total, 0)
                _add_scaled_rows(total, scratch[first[i] + k :], rows, scales, starts[i], starts[i + 1])
                _add_scaled(grad_table[i], total, bump[i, k])
                grad_bump[i, k] += _dot(table[i], total)


@_jit
def axonal_spike_gradient(low, high, slot, first, bump, grad, out):
    """``out[t] = sum over k of bump[k] * grad[t + first + k]`` for every unit of ``grad`` ``[T, B, N_in]``."""
    num_inputs, taps = bump.shape
    late = np.zeros((_LANES, slot), grad.dtype)
    total = np.empty((_LANES, len(grad)), grad.dtype)
    for b in range(low, high):
        for left in range(0, num_inputs, _LANES):
            count = min(_LANES, num_inputs - left)
            _read_columns(grad, b, left, count, late, 0)
            for j in range(count):
                i = left + j
                _fill(total[j], 0)
                for k in range(taps):
                    _add_scaled(total[j], late[j, first[i] + k :], bump[i, k])
            _write_columns(out, b, left, count, total, 0)


# Kernels: one delay per synapse -------------------------------------------------------------------------------


@_jit
def _read_columns(dense, b, left, count, rows, at):
    """Neurons ``left ..`` of sample ``b`` of ``dense`` ``[T, B, N]`` as rows of time."""
    for t in range(dense.shape[0]):
        for j in range(count):
            rows[j, at + t] = dense[t, b, left + j]


@_jit
def _write_columns(dense, b, left, count, rows, at):
    """The inverse of :func:`_read_columns`."""
    for t in range(dense.shape[0]):
        for j in range(count):
            dense[t, b, left + j] = rows[j, at + t]


@_jit_fused
def _scatter(row, rows, scales, start, stop, shift, x, y):
    """Two taps of the events ``start .. stop - 1`` to a row of time."""
    for e in range(start, stop):
        at = rows[e] + shift
        row[at] += x * scales[e]
        row[at + np.uint64(1)] += y * scales[e]


@_jit_reduce
def _gather(row, rows, scales, start, stop, shift):
    """The inverse of :func:`_scatter`: what two taps of these events find in a row of time."""
    x = row.dtype.type(0)
    y = row.dtype.type(0)
    for e in range(start, stop):
        at = rows[e] + shift
        x += row[at] * scales[e]
        y += row[at + np.uint64(1)] * scales[e]
    return x, y


@_jit
def synapse_forward(units, offsets, values, low, high, group, slot, first, bump, weight, bias, out):
    """Current ``[T, B, N_out]`` of the samples ``low .. high - 1``; ``bump`` is ``[N_out, N_in, K]``, ``K`` even."""
    num_steps = len(out)
    num_outputs, num_inputs, taps = bump.shape
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
                _fill(row, bias[n])
                for i in range(num_inputs):
                    for k in range(0, taps, 2):
                        shift = np.uint64(first[n, i] + k)
                        x, y = weight[n, i] * bump[n, i, k], weight[n, i] * bump[n, i, k + 1]
                        _scatter(row, rows, scales, starts[i], starts[i + 1], shift, x, y)
            for b in range(begin, end):
                _write_columns(out, b, left, count, current, (b - begin) * slot)


@_jit
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
    for begin in range(low, high, group):
        end = min(begin + group, high)
        _sort_by_unit(units, offsets, values, num_steps, begin, end, slot, place, starts, rows, scales)
        for left in range(0, num_outputs, _LANES):
            count = min(_LANES, num_outputs - left)
            for b in range(begin, end):
                _read_columns(grad, b, left, count, late, (b - begin) * slot)
            for j in range(count):
                n = left + j
                for i in range(num_inputs):
                    if starts[i] == starts[i + 1]:
                        continue
                    for k in range(0, taps, 2):
                        shift = np.uint64(first[n, i] + k)
                        x, y = _gather(late[j], rows, scales, starts[i], starts[i + 1], shift)
                        grad_weight[n, i] += bump[n, i, k] * x + bump[n, i, k + 1] * y
                        grad_bump[n, i, k] += weight[n, i] * x
                        grad_bump[n, i, k + 1] += weight[n, i] * y


@_jit_fused
def _add_two_scaled(total, early, late, x, y):
    for t in range(total.shape[0]):
        total[t] += x * early[t] + y * late[t]


@_jit
def synapse_spike_gradient(low, high, slot, first, bump, weight, grad, out):
    """``dL/dS`` ``[T, B, N_in]`` of the samples ``low .. high - 1``, at every step."""
    num_steps = len(grad)
    num_outputs, num_inputs, taps = bump.shape
    late = np.zeros((num_outputs, slot), grad.dtype)
    total = np.empty((_LANES, num_steps), grad.dtype)
    for b in range(low, high):
        for left in range(0, num_outputs, _LANES):
            _read_columns(grad, b, left, min(_LANES, num_outputs - left), late[left:], 0)
        for left in range(0, num_inputs, _LANES):
            count = min(_LANES, num_inputs - left)
            for j in range(count):
                i = left + j
                _fill(total[j], 0)
                for n in range(num_outputs):
                    for k in range(0, taps, 2):
                        row = late[n, first[n, i] + k :]
                        x, y = weight[n, i] * bump[n, i, k], weight[n, i] * bump[n, i, k + 1]
                        _add_two_scaled(total[j], row, row[1:], x, y)
            _write_columns(out, b, left, count, total, 0)


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
        units, offsets, *_ = _batch_events(spikes)
        return WeightedEvents(units, offsets, torch.ones(len(units), dtype=dtype).numpy(), num_steps, num_samples)
    dense = spikes.detach().contiguous().numpy()
    counts = np.empty((num_samples, num_steps), np.int32)
    _map_slices(lambda low, high: count_values(dense, low, high, counts), num_samples)
    offsets = np.zeros(counts.size + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    units, values = np.empty(offsets[-1], np.uint32), np.empty(offsets[-1], dense.dtype)
    _map_slices(lambda low, high: list_values(dense, low, high, offsets, units, values), num_samples)
    return WeightedEvents(units, offsets, values, num_steps, num_samples)


def _arrays(first: Tensor, bump: Tensor, num_steps: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The taps as arrays, and how long a row of time must be for all of them.

    Taps of a synapse come in twos. A bump that begins after the last step may as well begin right behind it.
    """
    bump = bump.detach()
    if first.dim() == 2 and bump.shape[-1] % 2:
        bump = F.pad(bump, (0, 1))
    first = first.clamp(max=num_steps)
    slot = num_steps + bump.shape[-1] + (int(first.max()) if first.numel() else 0)
    return first.contiguous().numpy(), bump.contiguous().numpy(), slot


def delayed_forward(events: WeightedEvents, weight: Tensor, first: Tensor, bump: Tensor, bias: Tensor | None) -> Tensor:
    """Current ``[T, B, N_out]``; ``first`` and ``bump`` as from :func:`ss_lightning.functional.delays.delay_taps`."""
    *lists, num_steps, num_samples = events
    starts, heights, slot = _arrays(first, bump, num_steps)
    out = np.empty((num_steps, num_samples, len(weight)), heights.dtype)
    rest = (weight.new_zeros(len(weight)) if bias is None else bias.detach().to(weight.dtype)).contiguous().numpy()

    if first.dim() == 1:
        table = weight.detach().t().contiguous().numpy()

        def work(low: int, high: int) -> None:
            axonal_forward(*lists, low, high, starts, heights, table, rest, out)
    else:
        synapses = weight.detach().contiguous().numpy()
        group = _group(_TIME_BYTES, slot * out.itemsize)

        def work(low: int, high: int) -> None:
            synapse_forward(*lists, low, high, group, slot, starts, heights, synapses, rest, out)

    _map_slices(work, num_samples)
    return torch.from_numpy(out)


def parameter_gradients(
    events: WeightedEvents, weight: Tensor, first: Tensor, bump: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """``dL/dweight`` and ``dL/dbump`` from ``grad = dL/dI`` ``[T, B, N_out]``."""
    *lists, num_steps, num_samples = events
    starts, heights, slot = _arrays(first, bump, num_steps)
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

    parts = _map_slices(work, num_samples)
    grad_weight, grad_bump = (torch.from_numpy(sum(sums)) for sums in zip(*parts, strict=True))
    return (grad_weight.t() if axonal else grad_weight), grad_bump[..., : bump.shape[-1]]


def spike_gradient(weight: Tensor, first: Tensor, bump: Tensor, grad: Tensor) -> Tensor:
    """``dL/dS`` ``[T, B, N_in]`` at every step from ``grad = dL/dI`` ``[T, B, N_out]``."""
    num_steps, num_samples, _ = grad.shape
    starts, heights, slot = _arrays(first, bump, num_steps)
    out = torch.empty(num_steps, num_samples, weight.shape[1], dtype=grad.dtype)
    if first.dim() == 1:
        upper = torch.matmul(grad, weight.detach()).numpy()

        def work(low: int, high: int) -> None:
            axonal_spike_gradient(low, high, slot, starts, heights, upper, out.numpy())
    else:
        synapses, upper = weight.detach().contiguous().numpy(), grad.numpy()

        def work(low: int, high: int) -> None:
            synapse_spike_gradient(low, high, slot, starts, heights, synapses, upper, out.numpy())

    _map_slices(work, num_samples)
    return out


def _group(budget: int, sample_bytes: int) -> int:
    """How many samples fit."""
    return max(1, budget // max(sample_bytes, 1))
