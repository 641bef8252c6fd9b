"""GPU kernels of single-spike networks, with the signatures of :mod:`ss_lightning.functional.kernels.network_numba`.

One program does one sample and one block of neurons. Forward, the membrane lives in registers: decay, add the weight
rows of this step's events, compare, note the first crossing; nothing ``[T, B, N]`` reaches memory. Backward, as many
samples at a time as memory allows: the membrane is recomputed into scratch, ``dL/dS`` is one matrix product
with the layers above, and a walk back in time turns it into ``dL/dI``. Weight gradients gather those rows over the
events of each input unit, in a fixed order and without atomics, so results are deterministic.

The input layer may be dense instead (:mod:`ss_lightning.functional.input_synapse`): matrix products for its current and
for the gradient of its weights, and the scans of :mod:`ss_lightning.functional.kernels.scan_triton` between them.

With ``TRITON_INTERPRET=1`` the kernels run on the CPU, slowly, which is how they are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss_lightning.events import EventBatch
from ss_lightning.functional.input_synapse import dense_current
from ss_lightning.functional.kernels import scan_triton
from ss_lightning.functional.kernels.common import LayerTensors, estimator_code, surrogate_code
from ss_lightning.functional.kernels.common_triton import (
    device_guard,
    launch_options,
    shape_tensor,
    surrogate_derivative,
)
from ss_lightning.surrogate import Surrogate

# Neurons of one program, and the scratch of the samples that the backward pass takes at a time without a card.
_BLOCK = 128
_OPTIONS = launch_options(_BLOCK, registers=64)  # 8 programs at a time on a multiprocessor
_SCRATCH_BYTES = 32_000_000


# Kernels --------------------------------------------------------------------------------------------------------------
# Sizes and alignments are not specialised: with one neuron a thread nothing could be gained, and a slice of a tensor
# would compile a second variant in the middle of a training.


@triton.jit
def _current(units, offsets, table, bias, row, columns, inside, size):
    """Input current of one step: the bias and the weight rows of its events, which begin at ``offsets[row]``."""
    total = bias
    event = tl.load(offsets + row)
    stop = tl.load(offsets + row + 1)
    while event < stop:
        unit = tl.load(units + event).to(tl.int64)
        total += tl.load(table + unit * size + columns, mask=inside, other=0.0)
        event += 1
    return total


@triton.jit(
    do_not_specialize=["stride", "num_steps", "size", "bias_stride"],
    do_not_specialize_on_alignment=["units", "offsets", "table", "bias", "beta", "threshold", "times"],
)
def _first_times(
    units, offsets, stride, table, bias, beta, threshold, bias_stride, times, num_steps, size, BLOCK: tl.constexpr
):
    """First crossing of every neuron, ``num_steps`` for none; a block whose neurons have all fired is done."""
    sample = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    beta_row = tl.load(beta + columns, mask=inside, other=0.0)
    threshold_row = tl.load(threshold + columns, mask=inside, other=0.0)
    membrane = tl.zeros_like(beta_row)
    first = tl.where(inside, num_steps, 0)
    step = 0
    stop = num_steps
    while step < stop:
        row = sample * stride + step
        bias_row = tl.load(bias + step * bias_stride + columns, mask=inside, other=0.0)
        membrane = beta_row * membrane + _current(units, offsets, table, bias_row, row, columns, inside, size)
        first = tl.where((membrane > threshold_row) & (first == num_steps), step, first)
        stop = tl.where(tl.max(first, 0) < num_steps, 0, stop)
        step += 1
    tl.store(times + sample * size + columns, first, mask=inside)


@triton.jit(
    do_not_specialize=["stride", "num_steps", "size"],
    do_not_specialize_on_alignment=["units", "offsets", "table", "bias", "beta", "out"],
)
def _readout_membrane(units, offsets, stride, table, bias, beta, out, num_steps, size, BLOCK: tl.constexpr):
    """Membrane of the readout at every step."""
    sample = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    bias_row = tl.load(bias + columns, mask=inside, other=0.0)
    beta_row = tl.load(beta + columns, mask=inside, other=0.0)
    membrane = tl.zeros_like(bias_row)
    step = 0
    while step < num_steps:
        row = sample * stride + step
        membrane = beta_row * membrane + _current(units, offsets, table, bias_row, row, columns, inside, size)
        tl.store(out + (sample * num_steps + step).to(tl.int64) * size + columns, membrane, mask=inside)
        step += 1


@triton.jit(
    do_not_specialize=["num_steps", "size"],
    do_not_specialize_on_alignment=["grad", "membrane", "beta", "out", "grad_bias", "grad_beta"],
)
def _readout_backward(grad, membrane, beta, out, grad_bias, grad_beta, num_steps, size, BLOCK: tl.constexpr):
    """``dI[t] = dV[t] + beta * dI[t+1]`` of the readout, and each sample's share of the other gradients."""
    sample = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    beta_row = tl.load(beta + columns, mask=inside, other=0.0)
    carry = tl.zeros_like(beta_row)
    bias_sum = tl.zeros_like(beta_row)
    beta_sum = tl.zeros_like(beta_row)
    step = num_steps - 1
    while step >= 0:
        at = (sample * num_steps + step).to(tl.int64) * size + columns
        beta_sum += carry * tl.load(membrane + at, mask=inside, other=0.0)  # dL/dI of the step after
        carry = tl.load(grad + at, mask=inside, other=0.0) + beta_row * carry
        bias_sum += carry
        tl.store(out + at, carry, mask=inside)
        step -= 1
    tl.store(grad_bias + sample * size + columns, bias_sum, mask=inside)
    tl.store(grad_beta + sample * size + columns, beta_sum, mask=inside)


@triton.jit(
    do_not_specialize=["stride", "num_steps", "size", "bias_stride"],
    do_not_specialize_on_alignment=[
        "units", "offsets", "table", "bias", "beta", "threshold", "times", "shape", "grad", "membrane",
        "grad_bias", "grad_beta", "grad_threshold",
    ],
)  # fmt: skip
def _layer_backward(
    units,
    offsets,
    stride,
    table,
    bias,
    beta,
    threshold,
    bias_stride,
    times,
    shape,
    grad,
    membrane,
    grad_bias,
    grad_beta,
    grad_threshold,
    num_steps,
    size,
    ESTIMATOR: tl.constexpr,
    SURROGATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Recompute the membrane, then turn ``grad = dL/dS`` into ``dL/dI`` in place, from the last step to the first."""
    sample = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    beta_row = tl.load(beta + columns, mask=inside, other=0.0)
    threshold_row = tl.load(threshold + columns, mask=inside, other=0.0)
    # Not where the neuron was left out of this sample.
    learns = tl.load(times + sample * size + columns, mask=inside, other=0) >= 0
    height = tl.load(shape)
    scale = tl.load(shape + 1)
    potential = tl.zeros_like(beta_row)
    first = tl.where(inside, num_steps, 0)
    second = tl.where(inside, num_steps, 0)
    step = 0
    stop = num_steps
    while step < stop:
        row = sample * stride + step
        bias_row = tl.load(bias + step * bias_stride + columns, mask=inside, other=0.0)
        potential = beta_row * potential + _current(units, offsets, table, bias_row, row, columns, inside, size)
        crossed = potential > threshold_row
        second = tl.where(crossed & (first < num_steps) & (second == num_steps), step, second)
        first = tl.where(crossed & (first == num_steps), step, first)
        tl.store(membrane + (sample * num_steps + step).to(tl.int64) * size + columns, potential, mask=inside)
        if ESTIMATOR == 1:  # survival asks for nothing after the second crossing
            stop = tl.where(tl.max(second, 0) < num_steps, 0, stop)
        elif ESTIMATOR == 3:  # and masked for nothing after the first one
            stop = tl.where(tl.max(first, 0) < num_steps, 0, stop)
        step += 1
    # The walk back reads what was stored here, and in another layout another thread would read it.
    tl.debug_barrier()

    start = (sample * num_steps).to(tl.int64) * size
    at_first = tl.load(grad + start + first * size + columns, mask=inside & (first < num_steps), other=0.0)
    at_second = tl.load(grad + start + second * size + columns, mask=inside & (second < num_steps), other=0.0)
    total = tl.zeros_like(beta_row)
    ramp = tl.zeros_like(beta_row)
    carry = tl.zeros_like(beta_row)
    bias_sum = tl.zeros_like(beta_row)
    beta_sum = tl.zeros_like(beta_row)
    threshold_sum = tl.zeros_like(beta_row)
    # Later steps may not be integrated: where they are not, their gradient is zero.
    stored = step
    step = num_steps - 1
    while step >= 0:
        at = (sample * num_steps + step).to(tl.int64) * size + columns
        signal = tl.load(grad + at, mask=inside, other=0.0)
        known = inside & (step < stored)
        potential = tl.load(membrane + at, mask=known, other=0.0)
        if ESTIMATOR == 0:
            total += signal
            ramp += total
            signal = ramp
        elif ESTIMATOR == 1:
            signal = tl.where(step < first, signal - at_first, tl.where(step == first, at_first - at_second, 0.0))
        elif ESTIMATOR == 2:
            total += signal
            signal = tl.where(step <= first, total, 0.0)
        else:
            signal = tl.where(step <= first, signal, 0.0)
        signal = tl.where(learns, signal, 0.0) * surrogate_derivative(
            potential - threshold_row, height, scale, SURROGATE
        )
        threshold_sum -= signal
        beta_sum += carry * potential  # dL/dI of the step after
        carry = signal + beta_row * carry
        bias_sum += carry
        tl.store(grad + at, carry, mask=inside)
        step -= 1
    tl.store(grad_bias + sample * size + columns, bias_sum, mask=inside)
    tl.store(grad_beta + sample * size + columns, beta_sum, mask=inside)
    tl.store(grad_threshold + sample * size + columns, threshold_sum, mask=inside)


@triton.jit(
    do_not_specialize=["first_row", "size"],
    do_not_specialize_on_alignment=["starts", "stops", "rows", "grad_current", "out"],
)
def _weight_gradient(starts, stops, rows, first_row, grad_current, out, size, BLOCK: tl.constexpr):
    """Add the rows of ``dL/dI`` of all events of one input unit to its row of the gradient table.

    The rows of the unit are ``rows[starts[unit] : stops[unit]]``, those of ``grad_current`` begin with ``first_row``; a
    negative row is no event.
    """
    unit = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    total = tl.load(out + unit.to(tl.int64) * size + columns, mask=inside, other=0.0)
    event = tl.load(starts + unit)
    stop = tl.load(stops + unit)
    while event < stop:
        row = tl.load(rows + event).to(tl.int64)
        at = (row - first_row) * size + columns
        total += tl.load(grad_current + at, mask=inside & (row >= 0), other=0.0)
        event += 1
    tl.store(out + unit.to(tl.int64) * size + columns, total, mask=inside)


# From tensors to kernels ----------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """As the kernels read it: table ``[N_in, N_out]``, the others ``[N_out]``, the bias perhaps ``[T, N_out]``."""

    table: Tensor
    bias: Tensor
    beta: Tensor
    threshold: Tensor


class StepEvents(NamedTuple):
    """Events as the kernels read them: ``units[offsets[b * stride + t] : offsets[b * stride + t + 1]]``."""

    units: Tensor
    offsets: Tensor
    stride: int

    def of_samples(self, low: int) -> StepEvents:
        """Those from sample ``low`` on."""
        return self._replace(offsets=self.offsets[low * self.stride :])


class DenseInput(NamedTuple):
    """What an input layer by matrix products leaves for the backward pass; a column is a neuron of a sample.

    Attributes:
        spikes: input ``[T * B, N_in]``.
        current: ``[T, B * N]``.
        beta: ``[B * N]``.
        threshold: ``[B * N]``.
        saved: see :func:`ss_lightning.functional.kernels.scan_triton.crossings`.
        kept: bool ``[B, N]``, false where a neuron is left out of a sample; None for none.
    """

    spikes: Tensor
    current: Tensor
    beta: Tensor
    threshold: Tensor
    saved: tuple[Tensor, Tensor, Tensor]
    kept: Tensor | None


class Prepared(NamedTuple):
    """What the backward pass takes over from the forward pass.

    Attributes:
        events: input of the network.
        inputs: the events that each layer listens to.
        hidden: hidden layers.
        readout: the last layer.
        dense: of an input layer by matrix products; None where it gathers events.
    """

    events: EventBatch
    inputs: list[StepEvents]
    hidden: list[_Layer]
    readout: _Layer
    dense: DenseInput | None = None


def _prepare(layer: LayerTensors) -> _Layer:
    beta = layer.beta.detach().contiguous()
    bias = torch.zeros_like(beta) if layer.bias is None else layer.bias.detach().contiguous()
    threshold = beta if layer.threshold is None else layer.threshold.detach().contiguous()  # the readout reads none
    return _Layer(layer.weight.detach().t().contiguous(), bias, beta, threshold)


def _bias_stride(layer: _Layer) -> int:
    """From the bias of a step to that of the next."""
    return layer.bias.shape[1] if layer.bias.dim() == 2 else 0


def _grid(samples: int, size: int) -> tuple[int, int]:
    return samples, triton.cdiv(size, _BLOCK)


# Nothing below asks the device for a number: the host would wait for all that it has been given to do.


def _side_by_side(times: Sequence[Tensor], num_steps: int) -> Tensor:
    """First spike times of some layers, ``[B, N]`` each, as one tensor; ``num_steps`` where there is no spike."""
    joined = torch.cat(list(times), 1)
    return torch.where(joined < 0, num_steps, joined)


def spike_events(times: Sequence[Tensor], num_steps: int) -> StepEvents:
    """Spikes of hidden layers (first spike times ``[B, N]`` each, side by side) as events; none of negative times.

    The units of a sample lie in the order of their spikes. The silent ones come last, where no step reaches.
    """
    ordered, units = _side_by_side(times, num_steps).sort(dim=1, stable=True)
    samples, size = ordered.shape
    steps = torch.arange(num_steps + 1, dtype=ordered.dtype, device=ordered.device).expand(samples, -1).contiguous()
    offsets = torch.searchsorted(ordered, steps, out_int32=True)
    offsets += size * torch.arange(samples, dtype=torch.int32, device=ordered.device)[:, None]
    return StepEvents(units.int().view(-1), offsets.view(-1), num_steps + 1)


class UnitEvents:
    """Input events unit by unit, and for each unit in the order of the samples.

    Args:
        events: of a whole batch; they are sorted once.
    """

    def __init__(self, events: EventBatch) -> None:
        self.num_steps, samples, self.num_units = events.shape
        self._rows = samples * self.num_steps
        self._keys = (events.units.long() * self._rows + events.bags()).sort()[0]
        self._row_of_key = self._keys % self._rows

    def of_samples(self, low: int, high: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Those of the samples ``low <= b < high``, as :func:`_weight_gradient` reads them."""
        begins = self._rows * torch.arange(self.num_units, device=self._keys.device)
        starts, stops = (torch.searchsorted(self._keys, begins + sample * self.num_steps) for sample in (low, high))
        return starts, stops, self._row_of_key, low * self.num_steps


class UnitSpikes:
    """The same for spikes of hidden layers (first spike times ``[B, N]`` each, side by side): one row a sample.

    Args:
        times: of the layers.
        num_steps: ``T``.
    """

    def __init__(self, times: Sequence[Tensor], num_steps: int) -> None:
        joined = _side_by_side(times, num_steps)
        self.num_steps, (self._samples, self.num_units) = num_steps, joined.shape
        begins = num_steps * torch.arange(self._samples, device=joined.device)[:, None]
        self._rows = torch.where(joined < num_steps, begins + joined, -1).t().contiguous()

    def of_samples(self, low: int, high: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Those of the samples ``low <= b < high``, as :func:`_weight_gradient` reads them."""
        begins = self._samples * torch.arange(self.num_units, device=self._rows.device)
        return begins + low, begins + high, self._rows, low * self.num_steps


@lru_cache
def _scratch_bytes(device: torch.device) -> int:
    """How large the scratch of one layer may be: a sixteenth of the card, where a whole batch fits as a rule."""
    if device.type != "cuda":
        return _SCRATCH_BYTES
    return int(torch.cuda.get_device_properties(device).total_memory // 16)


def network_forward(
    events: EventBatch,
    hidden: Sequence[LayerTensors],
    readout: LayerTensors,
    skip: bool,
    keep: Sequence[Tensor | None],
    synapse: str = "events",
) -> tuple[Tensor, list[Tensor], Prepared]:
    """Readout membrane ``[B, T, C]`` and first spike times int32 ``[B, N]`` of every hidden layer.

    Times are ``T`` for silent neurons and -1 where ``keep`` (bool ``[B, N]``, or None) leaves a neuron out. ``synapse``
    says how the input layer is computed, see :mod:`ss_lightning.functional.input_synapse`.
    """
    num_steps, num_samples, _ = events.shape
    inputs = [StepEvents(events.units, events.offsets, num_steps)]
    prepared = Prepared(events, inputs, [_prepare(layer) for layer in hidden], _prepare(readout))
    times: list[Tensor] = []
    with device_guard(events.offsets):
        for i, (layer, kept) in enumerate(zip(prepared.hidden, keep, strict=True)):
            size = len(layer.beta)
            if i == 0 and synapse != "events":
                dense = _dense_forward(events, layer, kept, synapse)
                prepared = prepared._replace(dense=dense)
                time = dense.saved[0].view(num_samples, size)
            else:
                time = torch.empty(num_samples, size, dtype=torch.int32, device=events.device)
                _first_times[_grid(num_samples, size)](
                    *inputs[-1], *layer, _bias_stride(layer), time, num_steps, size, **_OPTIONS
                )
            times.append(time if kept is None else torch.where(kept, time, -1))
            inputs.append(spike_events(times if skip else times[-1:], num_steps))
        size = len(readout.weight)
        membrane = readout.weight.new_empty(num_samples, num_steps, size)
        _readout_membrane[_grid(num_samples, size)](
            *inputs[-1], *prepared.readout[:3], membrane, num_steps, size, **_OPTIONS
        )
    return membrane, times, prepared


def _dense_forward(events: EventBatch, layer: _Layer, kept: Tensor | None, synapse: str) -> DenseInput:
    """The input layer by a matrix product and a scan."""
    num_steps, num_samples, _ = events.shape
    spikes = events.to_dense(layer.table.dtype).flatten(0, 1)
    current = dense_current(spikes, layer.table.t(), synapse).view(num_steps, num_samples, -1)
    current += layer.bias[:, None] if layer.bias.dim() == 2 else layer.bias
    columns = current.flatten(1)
    beta, threshold = (value.repeat(num_samples) for value in (layer.beta, layer.threshold))
    return DenseInput(spikes, columns, beta, threshold, scan_triton.crossings(columns, beta, threshold), kept)


def _dense_backward(
    dense: DenseInput, total: _Layer, grad: Tensor, surrogate: Surrogate, estimator: str, needs: LayerTensors
) -> None:
    """Add the gradients of the input layer to its totals; ``grad = dL/dS`` is ``[T, B, N]``."""
    num_steps, num_samples, size = grad.shape
    if dense.kept is not None:
        grad = grad * dense.kept
    current, beta, threshold = scan_triton.dense_backward(
        dense.current, dense.beta, dense.threshold, dense.saved, grad.flatten(1), surrogate, estimator
    )
    total.beta.add_(beta.view(num_samples, size).sum(0))
    total.threshold.add_(threshold.view(num_samples, size).sum(0))
    current = current.view(num_steps, num_samples, size)
    if needs.bias:
        total.bias.add_(current.sum(1) if total.bias.dim() == 2 else current.sum((0, 1)))
    if needs.weight:
        torch.mm(dense.spikes.t(), current.flatten(0, 1), out=total.table)


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
    """Gradients of every layer, the readout last; the arguments are those of the numba kernels."""
    num_samples, num_steps, _ = grad.shape
    layers = [*prepared.hidden, prepared.readout]
    totals = [_Layer(*(torch.zeros_like(value) for value in layer)) for layer in layers]
    # Below the lowest layer that learns nothing is left to do.
    lowest = next(i for i, need in enumerate(needs) if any(need))
    widest = max(len(layer.beta) for layer in layers)
    chunk = max(1, _scratch_bytes(grad.device) // (num_steps * widest * grad.element_size()))
    if prepared.dense is not None:  # it holds the whole batch already
        chunk = num_samples
    by_unit = [
        None if not need.weight or (i == 0 and prepared.dense is not None)
        else UnitSpikes(times[:i] if skip else times[i - 1 : i], num_steps) if i
        else UnitEvents(prepared.events)
        for i, need in enumerate(needs)
    ]  # fmt: skip
    shape = shape_tensor(surrogate, grad)
    with device_guard(grad):
        for low in range(0, num_samples, chunk):
            high = min(low + chunk, num_samples)
            size = len(readout.weight)
            current = torch.empty_like(grad[low:high])
            shares = [grad.new_empty(high - low, size) for _ in range(2)]
            _readout_backward[_grid(high - low, size)](
                grad[low:high], membrane[low:high], prepared.readout.beta, current, *shares, num_steps, size, **_OPTIONS
            )
            _add(totals[-1], by_unit[-1], low, high, current, [*shares, None])
            above = {len(hidden): current}
            for i in range(len(hidden) - 1, lowest - 1, -1):
                counts = grad_counts[i]
                if i == 0 and prepared.dense is not None:
                    by_time = {k: signal.transpose(0, 1) for k, signal in above.items()}
                    current = _gradient_of_spikes(i, layers, by_time, skip)
                    if counts is not None:
                        current += counts
                    _dense_backward(prepared.dense, totals[i], current, surrogate, estimator, needs[i])
                    break
                size = len(layers[i].beta)
                current = _gradient_of_spikes(i, layers, above, skip)
                if counts is not None:
                    current += counts[low:high, None]
                scratch = torch.empty_like(current)
                shares = [grad.new_empty(high - low, size) for _ in range(3)]
                bias_share: Tensor | None = shares[0]
                _layer_backward[_grid(high - low, size)](
                    *prepared.inputs[i].of_samples(low),
                    *layers[i],
                    _bias_stride(layers[i]),
                    times[i][low:high],
                    shape,
                    current,
                    scratch,
                    *shares,
                    num_steps,
                    size,
                    ESTIMATOR=estimator_code(estimator),
                    SURROGATE=surrogate_code(surrogate),
                    **_OPTIONS,
                )
                if layers[i].bias.dim() == 2:
                    totals[i].bias.add_(current.sum(0))
                    bias_share = None
                _add(totals[i], by_unit[i], low, high, current, [bias_share, *shares[1:]])
                above[i] = current
    return [
        LayerTensors(
            total.table.t() if need.weight else None,
            *(value if wanted else None for value, wanted in zip(total[1:], need[1:], strict=True)),
        )
        for total, need in zip(totals, needs, strict=True)
    ]


def _gradient_of_spikes(i: int, layers: list[_Layer], above: dict[int, Tensor], skip: bool) -> Tensor:
    """``dL/dS`` of hidden layer ``i``, ``[B, T, N]``: ``dL/dI`` of the layers that listen to it times their weights.

    It is ``[T, B, N]`` where ``above`` is.
    """
    begin = sum(len(layer.beta) for layer in layers[:i]) if skip else 0
    rows = slice(begin, begin + len(layers[i].beta))
    listeners = range(i + 1, len(layers)) if skip else [i + 1]
    return reduce(torch.add, (above[k] @ layers[k].table[rows].t() for k in listeners))


def _add(
    total: _Layer,
    by_unit: UnitEvents | UnitSpikes | None,
    low: int,
    high: int,
    current: Tensor,
    shares: list[Tensor | None],
) -> None:
    """Add the gradients of the samples ``low <= b < high`` to those of a layer.

    That is ``current = dL/dI`` and the share of each sample. ``by_unit`` is what the layer listens to, None where its
    weights do not learn.
    """
    for value, share in zip(total[1:], shares, strict=True):
        if share is not None:
            value += share.sum(0)
    if by_unit is None:
        return
    size = current.shape[-1]
    _weight_gradient[_grid(by_unit.num_units, size)](
        *by_unit.of_samples(low, high), current, total.table, size, **_OPTIONS
    )
