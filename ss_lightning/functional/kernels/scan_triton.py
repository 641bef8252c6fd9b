"""GPU kernels of a dense current ``[T, M]``: the single-spike neuron and the leaky scan, one pass each way.

:func:`dense_forward` and :func:`dense_backward` have the signatures of
:mod:`ss_lightning.functional.kernels.dense_numba`. :func:`leaky_forward` and :func:`leaky_backward` are the two passes
of a membrane that never fires.

One thread does one column, so every sum over time has a fixed order. Time passes in chunks of ``_CHUNK`` steps. All
loads of a chunk are issued before its first step, and those of the next chunk while this one is computed. Forwards
the membrane before every chunk is kept. Backwards the membranes of a chunk are computed from it once more, in
registers. So every number of the current and of the gradients is read once and written once a pass.

With ``TRITON_INTERPRET=1`` the kernels run on the CPU, slowly, which is how they are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss_lightning.functional.kernels.common import estimator_code, surrogate_code
from ss_lightning.functional.kernels.common_triton import (
    device_guard,
    launch_options,
    shape_tensor,
    surrogate_derivative,
)
from ss_lightning.surrogate import Surrogate

_CHUNK = 8  # steps between two membranes that are kept
_BLOCK = 64  # columns of one program
# Chunks whose loads are under way at a time. AMD keeps them in registers, of which more than one chunk asks too many.
_STAGES = 1 if torch.version.hip else 3
_OPTIONS = {"CHUNK": _CHUNK, "STAGES": _STAGES, **launch_options(_BLOCK)}


# Kernels --------------------------------------------------------------------------------------------------------------
# Sizes and alignments are not specialised: with one column a thread nothing could be gained, and a slice of a tensor
# would compile a second variant in the middle of a training.


@triton.jit
def _load_chunk(rows, start, num_steps, stride, column, inside, CHUNK: tl.constexpr):
    """The rows ``start`` to ``start + CHUNK`` of ``[T, M]`` as a tuple; 0 beyond the last step."""
    at = start * stride + column
    values = ()
    for k in tl.static_range(CHUNK):
        values += (tl.load(rows + at + k * stride, mask=inside & (start + k < num_steps), other=0.0),)  # type: ignore[assignment]
    return values


@triton.jit(
    do_not_specialize=["num_steps", "columns"],
    do_not_specialize_on_alignment=["current", "beta", "threshold", "spikes", "first_out", "second_out", "kept"],
)
def _spike_forward(
    current,
    beta,
    threshold,
    spikes,
    first_out,
    second_out,
    kept,
    num_steps,
    columns,
    SPIKES: tl.constexpr,
    KEEP: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """First and second crossing of every column, ``num_steps`` for none.

    With ``SPIKES`` also the spikes, with ``KEEP`` the membrane before each chunk.
    """
    stride = columns.to(tl.int64)
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < stride
    beta_row = tl.load(beta + column, mask=inside, other=0.0)
    threshold_row = tl.load(threshold + column, mask=inside, other=0.0)
    membrane = tl.zeros_like(beta_row)
    first = tl.zeros([BLOCK], tl.int32) + num_steps
    second = first
    for start in tl.range(0, num_steps, CHUNK, num_stages=STAGES):
        if KEEP:
            tl.store(kept + (start // CHUNK) * stride + column, membrane, mask=inside)
        inputs = _load_chunk(current, start, num_steps, stride, column, inside, CHUNK)
        at = start * stride + column
        for k in tl.static_range(CHUNK):
            step = start + k
            membrane = beta_row * membrane + inputs[k]
            crossed = (membrane > threshold_row) & (step < num_steps)
            second = tl.where(crossed & (first < num_steps) & (second == num_steps), step, second)
            fires = crossed & (first == num_steps)
            first = tl.where(fires, step, first)
            if SPIKES:
                tl.store(spikes + at + k * stride, fires.to(membrane.dtype), mask=inside & (step < num_steps))
    tl.store(first_out + column, first, mask=inside)
    tl.store(second_out + column, second, mask=inside)


@triton.jit(
    do_not_specialize=["num_steps", "columns"],
    do_not_specialize_on_alignment=[
        "current", "beta", "threshold", "first_in", "second_in", "kept", "grad", "shape",
        "grad_current", "grad_beta", "grad_threshold",
    ],
)  # fmt: skip
def _spike_backward(
    current,
    beta,
    threshold,
    first_in,
    second_in,
    kept,
    grad,
    shape,
    grad_current,
    grad_beta,
    grad_threshold,
    num_steps,
    columns,
    ESTIMATOR: tl.constexpr,
    SURROGATE: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``dL/dI``, ``dL/dbeta`` and ``dL/dthreshold`` of every column from ``grad = dL/dS``, from the last step back."""
    stride = columns.to(tl.int64)
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < stride
    beta_row = tl.load(beta + column, mask=inside, other=0.0)
    threshold_row = tl.load(threshold + column, mask=inside, other=0.0)
    first = tl.load(first_in + column, mask=inside, other=0)
    second = tl.load(second_in + column, mask=inside, other=0)
    height = tl.load(shape)
    scale = tl.load(shape + 1)
    total = tl.zeros_like(beta_row)  # survival: dL/dS at the first crossing
    ramp = tl.zeros_like(beta_row)  # survival: dL/dS at the second crossing
    carry = tl.zeros_like(beta_row)
    beta_sum = tl.zeros_like(beta_row)
    threshold_sum = tl.zeros_like(beta_row)
    chunks = tl.cdiv(num_steps, CHUNK)
    for done in tl.range(0, chunks, num_stages=STAGES):
        chunk = chunks - 1 - done
        start = chunk * CHUNK
        membrane = tl.load(kept + chunk * stride + column, mask=inside, other=0.0)
        inputs = _load_chunk(current, start, num_steps, stride, column, inside, CHUNK)
        signals = _load_chunk(grad, start, num_steps, stride, column, inside, CHUNK)
        potentials = ()
        for k in tl.static_range(CHUNK):
            membrane = beta_row * membrane + inputs[k]
            potentials += (membrane,)  # type: ignore[assignment]
        at = start * stride + column
        for k in tl.static_range(CHUNK - 1, -1, -1):
            step = start + k
            signal = signals[k]
            if ESTIMATOR == 0:
                total += signal
                ramp += total
                signal = ramp
            elif ESTIMATOR == 1:
                ramp = tl.where(step == second, signal, ramp)
                total = tl.where(step == first, signal, total)
                signal = tl.where(step < first, signal - total, tl.where(step == first, signal - ramp, 0.0))
            elif ESTIMATOR == 2:
                total += signal
                signal = tl.where(step <= first, total, 0.0)
            else:
                signal = tl.where(step <= first, signal, 0.0)
            signal *= surrogate_derivative(potentials[k] - threshold_row, height, scale, SURROGATE)
            threshold_sum -= signal
            beta_sum += carry * potentials[k]  # dL/dI of the step after
            carry = signal + beta_row * carry
            tl.store(grad_current + at + k * stride, carry, mask=inside & (step < num_steps))
    tl.store(grad_beta + column, beta_sum, mask=inside)
    tl.store(grad_threshold + column, threshold_sum, mask=inside)


@triton.jit(
    do_not_specialize=["num_steps", "columns"],
    do_not_specialize_on_alignment=["current", "beta", "membrane"],
)
def _leaky_forward(
    current, beta, membrane, num_steps, columns, CHUNK: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr
):
    """``V[t] = beta * V[t-1] + I[t]`` of every column."""
    stride = columns.to(tl.int64)
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < stride
    beta_row = tl.load(beta + column, mask=inside, other=0.0)
    potential = tl.zeros_like(beta_row)
    for start in tl.range(0, num_steps, CHUNK, num_stages=STAGES):
        inputs = _load_chunk(current, start, num_steps, stride, column, inside, CHUNK)
        at = start * stride + column
        for k in tl.static_range(CHUNK):
            potential = beta_row * potential + inputs[k]
            tl.store(membrane + at + k * stride, potential, mask=inside & (start + k < num_steps))


@triton.jit(
    do_not_specialize=["num_steps", "columns"],
    do_not_specialize_on_alignment=["grad", "beta", "membrane", "grad_current", "grad_beta"],
)
def _leaky_backward(
    grad,
    beta,
    membrane,
    grad_current,
    grad_beta,
    num_steps,
    columns,
    LEARNS: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``dI[t] = dV[t] + beta * dI[t+1]`` of every column.

    With ``LEARNS`` also ``dL/dbeta``, which is the sum of ``dI[t+1] * V[t]``.
    """
    stride = columns.to(tl.int64)
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < stride
    beta_row = tl.load(beta + column, mask=inside, other=0.0)
    carry = tl.zeros_like(beta_row)
    beta_sum = tl.zeros_like(beta_row)
    chunks = tl.cdiv(num_steps, CHUNK)
    for done in tl.range(0, chunks, num_stages=STAGES):
        start = (chunks - 1 - done) * CHUNK
        signals = _load_chunk(grad, start, num_steps, stride, column, inside, CHUNK)
        if LEARNS:
            potentials = _load_chunk(membrane, start, num_steps, stride, column, inside, CHUNK)
        at = start * stride + column
        for k in tl.static_range(CHUNK - 1, -1, -1):
            if LEARNS:
                beta_sum += carry * potentials[k]
            carry = signals[k] + beta_row * carry
            tl.store(grad_current + at + k * stride, carry, mask=inside & (start + k < num_steps))
    if LEARNS:
        tl.store(grad_beta + column, beta_sum, mask=inside)


# From tensors to kernels ----------------------------------------------------------------------------------------------


def _grid(columns: int) -> tuple[int]:
    return (triton.cdiv(columns, _BLOCK),)


def dense_forward(
    current: Tensor, beta: Tensor, threshold: Tensor, *, keep: bool
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Spikes ``[T, M]`` of a current ``[T, M]``, with beta and threshold ``[M]``; and what the backward pass needs.

    That is the first and second crossing int32 ``[M]``, and the membrane every few steps (nothing without ``keep``).
    """
    spikes = torch.empty_like(current)
    return spikes, _crossings(current, beta, threshold, spikes, keep)


def crossings(current: Tensor, beta: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`dense_forward` keeps, without the spikes ``[T, M]``: they are known by the first crossings."""
    return _crossings(current, beta, threshold, None, True)


def _crossings(
    current: Tensor, beta: Tensor, threshold: Tensor, spikes: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """First and second crossing and kept membranes; the spikes are written into ``spikes``."""
    num_steps, columns = current.shape
    first, second = (torch.empty(columns, dtype=torch.int32, device=current.device) for _ in range(2))
    kept = current.new_empty(triton.cdiv(num_steps, _CHUNK) if keep else 0, columns)
    with device_guard(current):
        _spike_forward[_grid(columns)](
            current,
            beta,
            threshold,
            current if spikes is None else spikes,
            first,
            second,
            kept,
            num_steps,
            columns,
            SPIKES=spikes is not None,
            KEEP=keep,
            **_OPTIONS,
        )
    return first, second, kept


def dense_backward(
    current: Tensor,
    beta: Tensor,
    threshold: Tensor,
    saved: Sequence[Tensor],
    grad: Tensor,
    surrogate: Surrogate,
    estimator: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """``dL/dI`` ``[T, M]``, ``dL/dbeta`` and ``dL/dthreshold`` ``[M]`` from ``grad = dL/dS`` ``[T, M]``."""
    num_steps, columns = current.shape
    results = torch.empty_like(current), torch.empty_like(beta), torch.empty_like(threshold)
    with device_guard(current):
        _spike_backward[_grid(columns)](
            current,
            beta,
            threshold,
            *saved,
            grad,
            shape_tensor(surrogate, grad),
            *results,
            num_steps,
            columns,
            ESTIMATOR=estimator_code(estimator),
            SURROGATE=surrogate_code(surrogate),
            **_OPTIONS,
        )
    return results


def leaky_forward(current: Tensor, beta: Tensor) -> Tensor:
    """Membrane ``[T, M]`` of a current ``[T, M]``, with beta ``[M]``."""
    num_steps, columns = current.shape
    membrane = torch.empty_like(current)
    with device_guard(current):
        _leaky_forward[_grid(columns)](current, beta, membrane, num_steps, columns, **_OPTIONS)
    return membrane


def leaky_backward(grad: Tensor, beta: Tensor, membrane: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """``dL/dI`` ``[T, M]`` and, where the membrane is given, ``dL/dbeta`` ``[M]`` from ``grad = dL/dV`` ``[T, M]``."""
    num_steps, columns = grad.shape
    grad_current, grad_beta = torch.empty_like(grad), torch.empty_like(beta)
    with device_guard(grad):
        _leaky_backward[_grid(columns)](
            grad,
            beta,
            grad if membrane is None else membrane,
            grad_current,
            grad_beta,
            num_steps,
            columns,
            LEARNS=membrane is not None,
            **_OPTIONS,
        )
    return grad_current, None if membrane is None else grad_beta
