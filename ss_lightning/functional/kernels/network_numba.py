"""CPU kernels of single-spike networks: their cost follows the events, and the membrane stays in the cache.

:func:`network_forward` and :func:`network_backward` are the two passes that
:func:`ss_lightning.functional.network.event_network` wraps for autograd. Both cut the batch into one slice of
samples for each thread; the kernels release the GIL, so that
:func:`~ss_lightning.threads.map_slices` can run them side by side.

Forward, for one sample and one block of neurons: add the weight rows of this step's events, decay, compare, note
the first crossing. Only first spike times are kept. Backward: recompute the membrane of one sample and block into
scratch, then walk back in time, eight steps at once. ``dL/dS`` is ``dL/dI`` of the layers above times their weights;
estimator, surrogate and reverse leaky scan turn it into this layer's ``dL/dI``, which overwrites the membrane in the
scratch; at last its rows are summed into the weight row of every input unit.

Layout: weights are cut into blocks of neurons ``[blocks, N_in, width]``, so that what a block needs lies together.
Blocks are padded with neurons of weight 0 and threshold infinity.

The loops over neurons are written so that LLVM turns them into vector code: whole rows, no slices of arrays inside
the time loop (numba's slice assignment costs more than the arithmetic), no array that is read and written under two
names (the loop would fall back to scalar code at run time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ss_lightning.events import EventBatch
from ss_lightning.functional.kernels.common import (
    ESTIMATOR_CODES,
    EventArrays,
    LayerTensors,
    aligned_empty,
    aligned_zeros,
    estimator_code,
    event_arrays,
    jit,
    jit_fused,
    jit_inline,
    surrogate_code,
    surrogate_shape,
)
from ss_lightning.functional.kernels.loops_numba import aligned_vector, copy_row, fill_row, latest_time
from ss_lightning.functional.kernels.rows_numba import add_rows
from ss_lightning.surrogate import Surrogate
from ss_lightning.threads import map_slices, num_slices

_RAMP, _SURVIVAL, _MASKED = (ESTIMATOR_CODES[name] for name in ("ramp", "survival", "masked"))

_LANES = 16
_MAX_WIDTH = 512
# Distance between the rows of scratch memory, for blocks of every width: a constant tells the compiler that rows
# never overlap. No power of two, so that rows do not fall into the same cache sets.
_ROW = _MAX_WIDTH + _LANES
# Rows of the state that the backward pass keeps of every neuron of a block.
_CARRY = 0  # dL/dI of the step after
_SUM = _ROW  # ramp, flat: sum of dL/dS so far; survival: dL/dS at the first crossing
_SUM_OF_SUMS = 2 * _ROW  # ramp: sum of those sums; survival: dL/dS at the second crossing
_BETA = 3 * _ROW
_THRESHOLD = 4 * _ROW
_GRAD_BIAS = 5 * _ROW
_GRAD_BETA = 6 * _ROW
_GRAD_THRESHOLD = 7 * _ROW
_STATE_SIZE = 8 * _ROW

# Kernels: synapse and membrane ------------------------------------------------------------------------------


@jit
def _add_one(total, table, a):
    row_a = table[a]
    for j in range(total.shape[0]):
        total[j] += row_a[j]


@jit
def _integrate(current, before, beta):
    """The current of a step becomes its membrane: ``V[t] = beta * V[t-1] + I[t]``.

    Two roundings, like every other path: all of them spike alike.
    """
    for j in range(current.shape[0]):
        current[j] = beta[j] * before[j] + current[j]


@jit
def _fire(time, membrane, current, beta, threshold, t, num_steps):
    """:func:`_integrate`, in place on the membrane, and note the step of the first crossing."""
    for j in range(time.shape[0]):
        potential = beta[j] * membrane[j] + current[j]
        membrane[j] = potential
        known = time[j]
        time[j] = t if (potential > threshold[j]) & (known == num_steps) else known


@jit
def _note_second(second, first, membrane, threshold, t, num_steps):
    for j in range(second.shape[0]):
        known = second[j]
        crosses = (membrane[j] > threshold[j]) & (known == num_steps) & (first[j] < t)
        second[j] = t if crosses else known


@jit
def first_times(units, offsets, stride, num_steps, table, bias, beta, threshold, times):
    """First spike times of one layer, written to ``times`` ``[B, N]``; ``T`` for a silent neuron.

    ``bias`` is ``[blocks, T, width]``, or ``[blocks, 1, width]`` for one that stays.
    """
    blocks, _, width = bias.shape
    last_bias = bias.shape[1] - 1
    samples, num_neurons = times.shape
    membrane = aligned_vector(width, table)
    current = aligned_vector(width, table)
    time = aligned_vector(width, times)
    silent = np.int32(num_steps)
    for block in range(blocks):
        begin = block * width
        count = min(width, num_neurons - begin)
        for b in range(samples):
            fill_row(membrane, 0)
            fill_row(time, silent)
            for t in range(num_steps):
                copy_row(current, bias[block, min(t, last_bias)])
                add_rows(current, table[block], units, offsets[b * stride + t], offsets[b * stride + t + 1])
                _fire(time, membrane, current, beta[block], threshold[block], np.int32(t), silent)
                # Once all have fired nothing that follows can matter; looking costs a pass, so not every step.
                if t % 8 == 7 and latest_time(time, count) < num_steps:
                    break
            copy_row(times[b, begin : begin + count], time)


@jit
def readout_membrane(units, offsets, stride, table, bias, beta, out):
    """Membrane of the readout, written to ``out`` ``[B, T, C]``."""
    samples, num_steps, num_classes = out.shape
    rest = np.zeros(num_classes, table.dtype)
    for b in range(samples):
        before = rest
        for t in range(num_steps):
            row = out[b, t]
            copy_row(row, bias)
            add_rows(row, table, units, offsets[b * stride + t], offsets[b * stride + t + 1])
            _integrate(row, before, beta)
            before = row


@jit
def times_to_events(times, num_steps, units, offsets):
    """Events of neurons that fire once: of sample ``b`` in ``units[b * N :]``, offsets ``[B * (T + 1)]``.

    A counting sort: inside a step the neurons keep their order. Times outside ``[0, T)`` are no events.
    """
    samples, num_neurons = times.shape
    place = np.empty(num_steps + 1, np.int32)
    for b in range(samples):
        fill_row(place, 0)
        for j in range(num_neurons):
            if times[b, j] >= 0:
                place[times[b, j]] += 1
        position = b * num_neurons
        for t in range(num_steps + 1):
            offsets[b * (num_steps + 1) + t] = position
            count = place[t]
            place[t] = position
            position += count
        for j in range(num_neurons):
            t = times[b, j]
            if 0 <= t < num_steps:
                units[place[t]] = j
                place[t] += 1


@jit
def events_by_unit(units, offsets, stride, num_steps, samples, slot, group, starts, rows):
    """Transposed event lists of every ``group`` samples: for each unit the rows of scratch it fired in.

    Scratch has ``slot`` rows for each sample, step ``t`` in row ``t + 1``. ``rows`` ``[E]`` is filled from 0 in the
    order of the groups; ``starts`` is ``[groups, N_in + 1]``.
    """
    num_units = starts.shape[1] - 1
    place = np.empty(num_units, np.int32)
    position = 0
    for g in range(starts.shape[0]):
        begin = g * group
        end = min(begin + group, samples)
        fill_row(place, 0)
        for b in range(begin, end):
            for k in range(offsets[b * stride], offsets[b * stride + num_steps]):
                place[units[k]] += 1
        for i in range(num_units):
            starts[g, i] = position
            count = place[i]
            place[i] = position
            position += count
        starts[g, num_units] = position
        for b in range(begin, end):
            for t in range(num_steps):
                row = (b - begin) * slot + t + 1
                for k in range(offsets[b * stride + t], offsets[b * stride + t + 1]):
                    i = units[k]
                    rows[place[i]] = row
                    place[i] += 1


# Kernels: backward -------------------------------------------------------------------------------------------


@jit
def readout_backward(grad, membrane, beta, up, grad_bias, grad_beta):
    """Reverse leaky scan of the readout: ``dL/dI`` into ``up[:, :, :C]``, from ``dL/dV`` ``[B, T, C]``."""
    samples, num_steps, num_classes = grad.shape
    carry = np.empty(num_classes, grad.dtype)
    for b in range(samples):
        fill_row(carry, 0)
        for t in range(num_steps - 1, -1, -1):
            for c in range(num_classes):
                carry[c] = grad[b, t, c] + beta[c] * carry[c]
            copy_row(up[b, t, :num_classes], carry)
            for c in range(num_classes):
                grad_bias[c] += carry[c]
            if t > 0:
                for c in range(num_classes):
                    grad_beta[c] += carry[c] * membrane[b, t - 1, c]


@jit
def readout_weight_gradient(units, offsets, stride, num_steps, up, grad_table):
    """Add ``dL/dI`` of the readout at the step of every input spike to the weight row of its unit."""
    num_classes = grad_table.shape[1]
    for b in range(up.shape[0]):
        for t in range(num_steps):
            for k in range(offsets[b * stride + t], offsets[b * stride + t + 1]):
                for c in range(num_classes):
                    grad_table[units[k], c] += up[b, t, c]


@jit_fused
def _eight_by_four(grad, up, t, weight, a, b, c, d):
    """Add what four upper neurons contribute to ``dL/dS`` of eight steps: as fast as a BLAS at this size."""
    a0, b0, c0, d0 = up[t, a], up[t, b], up[t, c], up[t, d]
    a1, b1, c1, d1 = up[t + 1, a], up[t + 1, b], up[t + 1, c], up[t + 1, d]
    a2, b2, c2, d2 = up[t + 2, a], up[t + 2, b], up[t + 2, c], up[t + 2, d]
    a3, b3, c3, d3 = up[t + 3, a], up[t + 3, b], up[t + 3, c], up[t + 3, d]
    a4, b4, c4, d4 = up[t + 4, a], up[t + 4, b], up[t + 4, c], up[t + 4, d]
    a5, b5, c5, d5 = up[t + 5, a], up[t + 5, b], up[t + 5, c], up[t + 5, d]
    a6, b6, c6, d6 = up[t + 6, a], up[t + 6, b], up[t + 6, c], up[t + 6, d]
    a7, b7, c7, d7 = up[t + 7, a], up[t + 7, b], up[t + 7, c], up[t + 7, d]
    row_a, row_b, row_c, row_d = weight[a], weight[b], weight[c], weight[d]
    for j in range(weight.shape[1]):
        w, x, y, z = row_a[j], row_b[j], row_c[j], row_d[j]
        grad[j] += a0 * w + b0 * x + c0 * y + d0 * z
        grad[_ROW + j] += a1 * w + b1 * x + c1 * y + d1 * z
        grad[2 * _ROW + j] += a2 * w + b2 * x + c2 * y + d2 * z
        grad[3 * _ROW + j] += a3 * w + b3 * x + c3 * y + d3 * z
        grad[4 * _ROW + j] += a4 * w + b4 * x + c4 * y + d4 * z
        grad[5 * _ROW + j] += a5 * w + b5 * x + c5 * y + d5 * z
        grad[6 * _ROW + j] += a6 * w + b6 * x + c6 * y + d6 * z
        grad[7 * _ROW + j] += a7 * w + b7 * x + c7 * y + d7 * z


@jit
def _spike_gradient(grad, up, t, weight, active, count):
    """Add to ``dL/dS`` of the steps ``t .. t + 7`` what ``dL/dI`` of the upper neurons ``active[:count]`` makes of it.

    The three entries of ``active`` after those name a neuron of weight 0.
    """
    for k in range(0, count, 4):
        _eight_by_four(grad, up, t, weight, active[k], active[k + 1], active[k + 2], active[k + 3])


@jit
def _ramp(grad, state, first, width):
    """``dL/dc = sum over k >= t of (k - t + 1) dL/dS[k]``, four steps in place."""
    zero = state.dtype.type(0)
    for j in range(width):
        total, ramp, learns = state[_SUM + j], state[_SUM_OF_SUMS + j], first[j] >= 0
        total += grad[3 * _ROW + j]
        ramp += total
        grad[3 * _ROW + j] = ramp if learns else zero
        total += grad[2 * _ROW + j]
        ramp += total
        grad[2 * _ROW + j] = ramp if learns else zero
        total += grad[_ROW + j]
        ramp += total
        grad[_ROW + j] = ramp if learns else zero
        total += grad[j]
        ramp += total
        grad[j] = ramp if learns else zero
        state[_SUM + j], state[_SUM_OF_SUMS + j] = total, ramp


@jit
def _flat(grad, state, first, t, width):
    """``dL/dc = sum over k >= t of dL/dS[k]`` up to the first crossing, four steps in place."""
    zero = state.dtype.type(0)
    for j in range(width):
        total, spike = state[_SUM + j], first[j] - t
        total += grad[3 * _ROW + j]
        grad[3 * _ROW + j] = total if spike >= 3 else zero
        total += grad[2 * _ROW + j]
        grad[2 * _ROW + j] = total if spike >= 2 else zero
        total += grad[_ROW + j]
        grad[_ROW + j] = total if spike >= 1 else zero
        total += grad[j]
        grad[j] = total if spike >= 0 else zero
        state[_SUM + j] = total


@jit
def _masked(grad, first, t, width):
    """``dL/dc = dL/dS[t]`` up to the first crossing, four steps in place."""
    zero = grad.dtype.type(0)
    for j in range(width):
        spike = first[j] - t
        grad[3 * _ROW + j] = grad[3 * _ROW + j] if spike >= 3 else zero
        grad[2 * _ROW + j] = grad[2 * _ROW + j] if spike >= 2 else zero
        grad[_ROW + j] = grad[_ROW + j] if spike >= 1 else zero
        grad[j] = grad[j] if spike >= 0 else zero


@jit_inline
def _survive(grad, at_first, at_second, spike, again, t, zero):
    """One step of survival: ``dL/dc``, and ``dL/dS`` at the first and second crossing as far as they are known."""
    at_second = grad if again == t else at_second
    at_first = grad if spike == t else at_first
    told = grad - (at_second if spike == t else at_first)
    return (told if spike >= t else zero), at_first, at_second


@jit
def _survival(grad, state, first, second, t, width):
    """``dL/dc = dL/dS[t] - dL/dS[t*]`` before the spike, ``dL/dS[t*] - dL/dS[t2]`` at it; four steps in place."""
    zero = state.dtype.type(0)
    for j in range(width):
        one, two = state[_SUM + j], state[_SUM_OF_SUMS + j]
        spike, again = first[j] - t, second[j] - t
        grad[3 * _ROW + j], one, two = _survive(grad[3 * _ROW + j], one, two, spike, again, 3, zero)
        grad[2 * _ROW + j], one, two = _survive(grad[2 * _ROW + j], one, two, spike, again, 2, zero)
        grad[_ROW + j], one, two = _survive(grad[_ROW + j], one, two, spike, again, 1, zero)
        grad[j], one, two = _survive(grad[j], one, two, spike, again, 0, zero)
        state[_SUM + j], state[_SUM_OF_SUMS + j] = one, two


@jit_inline
def _derivative(x, surrogate, height, scale, zero, one):
    """Derivative of the surrogate at ``x = V - threshold``; plain numbers would turn float32 into float64 here."""
    if surrogate == 0:
        y = abs(x) * scale + one
        return height / (y * y)
    if surrogate == 1:
        y = x * scale
        return height / (y * y + one)
    return max(one - abs(x) * scale, zero)


@jit_inline
def _walk(grad, state, scratch, row, surrogate, height, scale, width):
    """From ``dL/dc`` to ``dL/dI`` of four steps, which replaces the membrane in scratch rows ``row .. row + 3``."""
    zero, one = scratch.dtype.type(0), scratch.dtype.type(1)
    # A view from the row before: its indices are plainly not negative, or numba's wrap-around spoils the loop.
    rows = scratch[(row - 1) * _ROW : (row + 4) * _ROW]
    for j in range(width):
        beta, threshold, carry = state[_BETA + j], state[_THRESHOLD + j], state[_CARRY + j]
        before, v0, v1 = rows[j], rows[_ROW + j], rows[2 * _ROW + j]
        v2, v3 = rows[3 * _ROW + j], rows[4 * _ROW + j]
        g3 = grad[3 * _ROW + j] * _derivative(v3 - threshold, surrogate, height, scale, zero, one)
        g2 = grad[2 * _ROW + j] * _derivative(v2 - threshold, surrogate, height, scale, zero, one)
        g1 = grad[_ROW + j] * _derivative(v1 - threshold, surrogate, height, scale, zero, one)
        g0 = grad[j] * _derivative(v0 - threshold, surrogate, height, scale, zero, one)
        i3 = g3 + beta * carry
        i2 = g2 + beta * i3
        i1 = g1 + beta * i2
        i0 = g0 + beta * i1
        rows[_ROW + j], rows[2 * _ROW + j], rows[3 * _ROW + j], rows[4 * _ROW + j] = i0, i1, i2, i3
        state[_CARRY + j] = i0
        state[_GRAD_BIAS + j] += (i0 + i1) + (i2 + i3)
        state[_GRAD_BETA + j] += (i0 * before + i1 * v0) + (i2 * v1 + i3 * v2)
        state[_GRAD_THRESHOLD + j] -= (g0 + g1) + (g2 + g3)


@jit
def _walk_back(grad, state, scratch, row, surrogate, height, scale, width):
    """:func:`_walk`, compiled once for each surrogate so that its loop has no branches."""
    if surrogate == 0:
        _walk(grad, state, scratch, row, 0, height, scale, width)
    elif surrogate == 1:
        _walk(grad, state, scratch, row, 1, height, scale, width)
    else:
        _walk(grad, state, scratch, row, 2, height, scale, width)


@jit
def layer_backward(
    units,
    offsets,
    stride,
    num_steps,
    table,
    bias,
    beta,
    threshold,
    times,
    grad_counts,
    estimator,
    surrogate,
    height,
    scale,
    up,
    up_last,
    up_weight,
    up_first,
    out_first,
    group,
    scratch,
    starts,
    rows,
    grad_table,
    grad_bias,
    grad_beta,
    grad_threshold,
):
    """Backward pass of one spiking layer.

    ``up`` ``[B, T', K]`` holds ``dL/dI`` of all layers above, ``T'`` being ``T`` in whole eights and zero after
    ``T``. This layer reads the columns from ``up_first`` on that meet the rows of ``up_weight``
    ``[blocks, K' + 1, width]`` (the last row is zero), and writes its own to the columns from ``out_first`` on (none
    if negative). ``up_last`` ``[B, K]`` is the last step at which each column is not zero. ``scratch`` is
    ``[group * (T' + 1), _ROW]``. ``starts`` and ``rows`` are the input events by unit, for groups of ``group``
    samples; without groups the weights need no gradient.
    ``times`` is -1 where a neuron was left out of a sample. ``grad_counts`` ``[B, N]`` is added to ``dL/dS`` of every
    step; without samples there is none. The last four arguments are added to.
    """
    blocks, _, width = bias.shape
    last_bias = bias.shape[1] - 1
    samples, num_neurons = times.shape
    num_upper = up_weight.shape[1] - 1
    num_units = table.shape[1]
    silent = np.int32(num_steps)
    state = aligned_vector(_STATE_SIZE, table)
    grad = aligned_vector(8 * _ROW, table)
    first = aligned_vector(width, times)
    second = aligned_vector(width, times)
    active = np.empty(num_upper + 3, np.uint32)
    is_active = np.empty(num_upper, np.bool_)
    # One row of rest before the first step, and whole eights of steps.
    slot = up.shape[1] + 1
    flat_scratch = scratch.reshape(-1)
    for local in range(group):
        fill_row(scratch[local * slot], 0)
    for block in range(blocks):
        begin = block * width
        count = min(width, num_neurons - begin)
        fill_row(state, 0)
        copy_row(state[_BETA : _BETA + width], beta[block])
        copy_row(state[_THRESHOLD : _THRESHOLD + width], threshold[block])
        for b in range(samples):
            top = b % group * slot + 1
            fill_row(first, silent)
            copy_row(first[:count], times[b, begin : begin + count])
            fill_row(second, silent)

            # The membrane once more; survival asks for nothing after the last second crossing of the block, masked for
            # nothing after the last first one.
            stop = num_steps
            if estimator == _MASKED:
                stop = min(num_steps, max(latest_time(first, count), 0) + 1)
            for t in range(stop):
                membrane = scratch[top + t, :width]
                copy_row(membrane, bias[block, min(t, last_bias)])
                add_rows(membrane, table[block], units, offsets[b * stride + t], offsets[b * stride + t + 1])
                _integrate(membrane, scratch[top + t - 1], beta[block])
                if estimator == _SURVIVAL:
                    _note_second(second, first, membrane, threshold[block], np.int32(t), silent)
                    if t % 8 == 7 and latest_time(second, count) < num_steps:
                        stop = t + 1
                        break
            known = stop
            stop = (stop + 7) // 8 * 8
            for t in range(known, stop):
                fill_row(scratch[top + t, :width], 0)

            # Back in time, eight steps at once. The upper neurons that have a gradient only grow in number.
            fill_row(state[:_BETA], 0)
            fill_row(active, num_upper)
            is_active[:] = False
            num_active = 0
            for t in range(stop - 8, -1, -8):
                if num_active < num_upper:
                    for k in range(num_upper):
                        if not is_active[k] and up_last[b, up_first + k] >= t:
                            is_active[k] = True
                            active[num_active] = k
                            num_active += 1
                fill_row(grad, 0)
                if grad_counts.shape[0]:
                    for k in range(min(8, num_steps - t)):
                        copy_row(grad[k * _ROW : k * _ROW + count], grad_counts[b, begin : begin + count])
                _spike_gradient(grad, up[b, :, up_first:], t, up_weight[block], active, num_active)
                for half in range(4, -1, -4):
                    four = grad[half * _ROW :]
                    if estimator == _RAMP:
                        _ramp(four, state, first, width)
                    elif estimator == _SURVIVAL:
                        _survival(four, state, first, second, np.int32(t + half), width)
                    elif estimator == _MASKED:
                        _masked(four, first, np.int32(t + half), width)
                    else:
                        _flat(four, state, first, np.int32(t + half), width)
                    _walk_back(four, state, flat_scratch, top + t + half, surrogate, height, scale, width)

            if last_bias > 0:
                for t in range(min(stop, num_steps)):
                    _add_one(grad_bias[block, t], scratch, top + t)
            if out_first >= 0:
                for t in range(slot - 1):
                    target = up[b, t, out_first + begin : out_first + begin + count]
                    if t < stop:
                        copy_row(target, scratch[top + t])
                    else:
                        fill_row(target, 0)
            for t in range(stop, slot - 1):
                fill_row(scratch[top + t, :width], 0)
            if starts.shape[0] and (b % group + 1 == group or b + 1 == samples):
                g = b // group
                for i in range(num_units):
                    end = starts[g, i + 1]
                    while end > starts[g, i] and rows[end - 1] >= top + stop:
                        end -= 1
                    add_rows(grad_table[block, i], scratch, rows, starts[g, i], end)
        state_rows = state.reshape(-1, _ROW)
        if last_bias == 0:
            _add_one(grad_bias[block, 0], state_rows, _GRAD_BIAS // _ROW)
        _add_one(grad_beta[block], state_rows, _GRAD_BETA // _ROW)
        _add_one(grad_threshold[block], state_rows, _GRAD_THRESHOLD // _ROW)


# From tensors to kernels --------------------------------------------------------------------------------------


class _Blocks(NamedTuple):
    """A layer cut into blocks of neurons.

    Table ``[blocks, N_in, width]``, bias ``[blocks, T or 1, width]``, the others ``[blocks, width]``.
    """

    table: np.ndarray
    bias: np.ndarray
    beta: np.ndarray
    threshold: np.ndarray


@jit
def cut_weight(weight, low, high, table):
    """The inputs ``low <= i < high`` of weights ``[N_out, N_in]`` into a table ``[blocks, N_in, width]``.

    Padding becomes 0.
    """
    blocks, _, width = table.shape
    num_neurons = weight.shape[0]
    for block in range(blocks):
        # Sixteen neurons at a time: every cache line that is read or written is used whole.
        for first in range(0, width, _LANES):
            for i in range(low, high):
                for j in range(first, first + _LANES):
                    neuron = block * width + j
                    table[block, i, j] = weight[neuron, i] if neuron < num_neurons else 0


@jit
def join_weight(table, low, high, weight):
    """The inverse of :func:`cut_weight`."""
    blocks, _, width = table.shape
    num_neurons = weight.shape[0]
    for block in range(blocks):
        for first in range(0, width, _LANES):
            for i in range(low, high):
                for j in range(first, first + _LANES):
                    if block * width + j < num_neurons:
                        weight[block * width + j, i] = table[block, i, j]


def _cut_rows(rows: Tensor, width: int, fill: float = 0.0) -> np.ndarray:
    """``[K, N]`` as ``[blocks, K, width]``, padded with ``fill``. By numpy, whose calls cost less than torch's."""
    num_rows, num_neurons = rows.shape
    blocks = -(-num_neurons // width)
    values = rows.detach().numpy()
    padded = np.full((num_rows, blocks * width), fill, values.dtype)
    padded[:, :num_neurons] = values
    return np.ascontiguousarray(padded.reshape(num_rows, blocks, width).swapaxes(0, 1))


def _cut_layer(layer: LayerTensors) -> _Blocks:
    """Blocks of equal width, in whole vectors. The readout, which has no threshold, is one block."""
    num_neurons, num_inputs = layer.weight.shape
    blocks = 1 if layer.threshold is None else -(-num_neurons // _MAX_WIDTH)
    width = -(-num_neurons // (blocks * _LANES)) * _LANES

    def cut(values: Tensor | None, fill: float = 0.0) -> np.ndarray:
        values = torch.zeros_like(layer.beta) if values is None else values
        return _cut_rows(values.reshape(-1, num_neurons), width, fill)

    bias, beta = cut(layer.bias), cut(layer.beta)[:, 0]
    table = aligned_empty((len(bias), num_inputs, width), bias.dtype)
    weight = layer.weight.detach().contiguous().numpy()
    map_slices(lambda low, high: cut_weight(weight, low, high, table), num_inputs)
    return _Blocks(table, bias, beta, cut(layer.threshold, float("inf"))[:, 0])


def _join_layer(parts: Sequence[_Blocks], layer: LayerTensors, need: LayerTensors) -> LayerTensors:
    """Gradients of a layer, the sum of ``parts``, as tensors of its shapes; None where none is needed."""
    num_neurons, num_inputs = layer.weight.shape
    total, *others = parts
    for part in others:
        for values, more in zip(total[1:], part[1:], strict=True):
            values += more
    vectors = [torch.from_numpy(values).reshape(-1)[:num_neurons] for values in total[1:]]
    if layer.bias is not None and layer.bias.dim() == 2:
        vectors[0] = torch.from_numpy(total.bias).transpose(0, 1).flatten(1)[:, :num_neurons]
    joined = [vector if needed else None for vector, needed in zip(vectors, need[1:], strict=True)]
    if not need.weight:
        return LayerTensors(None, *joined)
    weight = torch.empty_like(layer.weight, memory_format=torch.contiguous_format)
    out = weight.numpy()

    def work(low: int, high: int) -> None:
        for part in others:
            total.table[:, low:high] += part.table[:, low:high]
        join_weight(total.table, low, high, out)

    map_slices(work, num_inputs)
    return LayerTensors(weight, *joined)


def _hidden_events(times: list[np.ndarray], num_steps: int) -> EventArrays:
    """Spikes of hidden layers (first spike times ``[B, N]`` each, side by side) as events."""
    joined = np.concatenate(times, axis=1) if len(times) > 1 else times[0]
    samples, num_neurons = joined.shape
    units = np.empty(samples * num_neurons, np.uint32)
    offsets = np.empty(samples * (num_steps + 1), np.int32)
    times_to_events(joined, num_steps, units, offsets)
    return EventArrays(units, offsets, num_steps + 1)


def _sources(times: list[np.ndarray], skip: bool) -> list[np.ndarray]:
    """Which of the hidden layers so far the next layer listens to."""
    return times if skip else times[-1:]


class Prepared(NamedTuple):
    """What the backward pass takes over from the forward pass: the input events, and the layers cut into blocks."""

    events: EventArrays
    hidden: list[_Blocks]
    readout: _Blocks


def network_forward(
    events: EventBatch,
    hidden: Sequence[LayerTensors],
    readout: LayerTensors,
    skip: bool,
    keep: Sequence[Tensor | None],
) -> tuple[Tensor, list[Tensor], Prepared]:
    """Readout membrane ``[B, T, C]`` and first spike times int32 ``[B, N]`` of every hidden layer.

    Times are ``T`` for silent neurons and -1 where ``keep`` (bool ``[B, N]``, or None) leaves a neuron out.
    """
    num_steps, num_samples, _ = events.shape
    prepared = Prepared(event_arrays(events), [_cut_layer(layer) for layer in hidden], _cut_layer(readout))
    last = prepared.readout
    times = [torch.empty(num_samples, len(layer.weight), dtype=torch.int32) for layer in hidden]
    membrane = readout.weight.new_empty(num_samples, num_steps, len(readout.weight))

    def work(low: int, high: int) -> None:
        spikes = prepared.events.samples(low, high)
        done: list[np.ndarray] = []
        for layer, time, kept in zip(prepared.hidden, times, keep, strict=True):
            done.append(time[low:high].numpy())
            first_times(*spikes, num_steps, *layer, done[-1])
            if kept is not None:
                done[-1][~kept[low:high].numpy()] = -1
            spikes = _hidden_events(_sources(done, skip), num_steps)
        out = membrane[low:high].numpy()
        readout_membrane(*spikes, last.table[0], last.bias[0, 0], last.beta[0], out)

    map_slices(work, num_samples)
    return membrane, times, prepared


# Gradients of the layers above that one thread holds at a time, and the scratch of a group of samples.
_UP_BYTES = 1_000_000
_SCRATCH_BYTES = 2_000_000


def network_backward(
    prepared: Prepared,
    hidden: Sequence[LayerTensors],
    readout: LayerTensors,
    skip: bool,
    surrogate: Surrogate,
    estimator: str,
    times: Sequence[Tensor],
    membrane: Tensor,
    grad: Tensor,
    grad_counts: Sequence[Tensor | None],
    needs: Sequence[LayerTensors],
) -> list[LayerTensors]:
    """Gradients of every layer, the readout last.

    Args:
        prepared, times, membrane: what the forward pass returned.
        hidden, readout, skip: as in :func:`network_forward`.
        surrogate: one of :data:`~ss_lightning.functional.kernels.common.KNOWN_SURROGATES`.
        estimator: a word of :data:`~ss_lightning.functional.kernels.common.ESTIMATOR_CODES`.
        grad: ``dL/dV`` of the readout, ``[B, T, C]``.
        grad_counts: for every hidden layer what each of its spikes adds to the loss, whatever its time, ``[B, N]``; or
            None.
        needs: for every layer, the readout last, which of its tensors need a gradient.
    """
    source, layers, last = prepared
    num_samples, num_steps, _ = grad.shape
    slices = num_slices(num_samples)
    depth = len(hidden)
    itemsize = readout.weight.element_size()
    # Below the lowest layer that learns nothing is left to do.
    lowest = next(i for i, need in enumerate(needs) if any(need))

    no_counts = np.empty((0, 0), last.table.dtype)
    # Columns of ``up``: the readout, then the hidden layers from the top down to all but the lowest.
    column = {depth: 0}
    num_columns = len(readout.weight)
    for i in range(depth - 1, lowest, -1):
        column[i] = num_columns
        num_columns += len(hidden[i].weight)
    weights = [*(layer.weight for layer in hidden), readout.weight]
    up_weights = {}
    for i in range(lowest, depth):
        above = range(depth, i, -1) if skip else [i + 1]
        begin = sum(len(weight) for weight in weights[:i]) if skip else 0
        stacked = torch.cat([weights[k][:, begin : begin + len(weights[i])] for k in above])
        up_weights[i] = _cut_rows(F.pad(stacked, (0, 0, 0, 1)), layers[i].bias.shape[2])

    padded_steps = -(-num_steps // 8) * 8
    chunk = max(1, min(-(-num_samples // slices), _UP_BYTES // (padded_steps * num_columns * itemsize)))
    narrowest = min((layer.bias.shape[2] for layer in layers[lowest:]), default=_MAX_WIDTH)

    def group_size(samples: int, width: int) -> int:
        return max(1, min(samples, _SCRATCH_BYTES // (num_steps * width * itemsize)))

    def memory() -> tuple[list[_Blocks], np.ndarray, np.ndarray]:
        grads = [_Blocks(*(aligned_zeros(array.shape, array.dtype) for array in layer)) for layer in (*layers, last)]
        up = np.zeros((chunk, padded_steps, num_columns + 1), last.table.dtype)
        scratch = aligned_empty((group_size(chunk, narrowest) * (padded_steps + 1), _ROW), last.table.dtype)
        return grads, up, scratch

    # From this thread, which finds the memory of the step before; the others' may be fresh pages each time.
    memories = [memory() for _ in range(slices)]

    def work(low: int, high: int) -> list[_Blocks]:
        grads, up, scratch = memories.pop()
        for begin in range(low, high, chunk):
            end = min(begin + chunk, high)
            backward_chunk(begin, end, up[: end - begin], scratch, grads)
        return grads

    def backward_chunk(low: int, high: int, up: np.ndarray, scratch: np.ndarray, grads: list[_Blocks]) -> None:
        samples = high - low
        done = [time[low:high].numpy() for time in times]
        readout_backward(
            grad[low:high].numpy(),
            membrane[low:high].numpy(),
            last.beta[0],
            up,
            grads[-1].bias[0, 0],
            grads[-1].beta[0],
        )
        if needs[-1].weight:
            spikes = _hidden_events(_sources(done, skip), num_steps)
            readout_weight_gradient(*spikes, num_steps, up[:, :, : len(readout.weight)], grads[-1].table[0])
        up_last = np.full((samples, num_columns), num_steps - 1, np.int32)
        for i in range(depth - 1, lowest - 1, -1):
            layer, need, counts = layers[i], needs[i], grad_counts[i]
            spikes = source.samples(low, high) if i == 0 else _hidden_events(_sources(done[:i], skip), num_steps)
            num_inputs, width = layer.table.shape[1:]
            group = group_size(samples, width)
            starts = np.empty((-(-samples // group) if need.weight else 0, num_inputs + 1), np.int32)
            rows = np.empty(spikes.offsets[-1] - spikes.offsets[0] if need.weight else 0, np.uint32)
            events_by_unit(*spikes, num_steps, samples, up.shape[1] + 1, group, starts, rows)
            layer_backward(
                *spikes,
                num_steps,
                *layer,
                done[i],
                no_counts if counts is None else counts[low:high].numpy(),
                estimator_code(estimator),
                surrogate_code(surrogate),
                *map(layer.bias.dtype.type, surrogate_shape(surrogate)),
                up,
                up_last,
                up_weights[i],
                0 if skip else column[i + 1],
                column.get(i, -1),
                group,
                scratch[: group * (up.shape[1] + 1)],
                starts,
                rows,
                *grads[i],
            )
            if i in column and estimator != "ramp":
                up_last[:, column[i] : column[i] + done[i].shape[1]] = np.minimum(done[i], num_steps - 1)

    parts = map_slices(work, num_samples)
    joined = zip(zip(*parts, strict=True), (*hidden, readout), needs, strict=True)
    return [_join_layer(*args) for args in joined]
