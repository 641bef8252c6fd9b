"""Synapses whose spikes arrive later, with delays that can be learned.

``I[t] = b + sum over units i and steps k of K(k - delay[i]) w[i] s[t-k, i]``: a spike is spread over the whole steps
around its delay, and the heights of that bump carry the gradient to the delay (as in DCLS, arXiv:2306.17670, whose
bump is a Gaussian that narrows during training). Here the bump is a triangle of half-width ``width`` steps, divided by
its sum over the steps ``0 .. max_delay``: at width 1 it is linear interpolation between two steps, and its slope is
nowhere zero around a delay, where a Gaussian or a cosine is flat and would hold delays at whole steps.

The triangle has kinks where a step lies at the delay or at the edge. There its derivative is the one towards later
delays, and at ``max_delay`` the one towards earlier ones: a delay on the border always feels the way back in.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ss_lightning.events import EventBatch
from ss_lightning.functional.backends import BACKENDS

# From this share of non-zero entries on, a matrix product is faster than adding weight rows (measured on one core).
_DENSE_FROM = 0.5


def delay_bump(delay: Tensor, width: float, max_delay: int) -> Tensor:
    """Which part of a spike arrives after how many steps.

    Args:
        delay: in steps, within ``[0, max_delay]``; any shape.
        width: half-width of the triangle in steps, 1 or more; or 0 for the nearest whole step.
        max_delay: the longest delay in steps.

    Returns:
        ``[..., max_delay + 1]``, sums to 1 over the last axis. Differentiable in ``delay`` unless ``width`` is 0.
    """
    steps = torch.arange(max_delay + 1, dtype=delay.dtype, device=delay.device)
    if width == 0:
        return (steps == delay.round().unsqueeze(-1)).to(delay.dtype)
    height = _height(steps, delay.unsqueeze(-1), width, max_delay)
    return height / height.sum(-1, keepdim=True)


def delay_taps(delay: Tensor, width: float, max_delay: int) -> tuple[Tensor, Tensor]:
    """:func:`delay_bump` without its zeros: the first step of each bump, and ``K`` heights from there on.

    Returns:
        First steps int64 ``[...]``, and heights ``[..., K]`` with ``K = min(ceil(2 * width), max_delay + 1)`` (1 at
        width 0). Heights of steps after ``max_delay`` are 0.
    """
    if width == 0:
        first = delay.detach().round()
        return first.long(), torch.ones_like(first).unsqueeze(-1)
    begin = delay.detach() - width
    first = torch.where(delay == max_delay, begin.ceil(), begin.floor() + 1).clamp(min=0)
    taps = min(math.ceil(2 * width), max_delay + 1)
    steps = first.unsqueeze(-1) + torch.arange(taps, dtype=delay.dtype, device=delay.device)
    height = _height(steps, delay.unsqueeze(-1), width, max_delay)
    return first.long(), height / height.sum(-1, keepdim=True)


def _height(step: Tensor, delay: Tensor, width: float, max_delay: int) -> Tensor:
    """The triangle, with the one-sided derivative that the top of this module describes."""
    offset = step - delay
    last = delay == max_delay
    rises = torch.where(last, offset >= 0, offset > 0)
    inside = torch.where(last, (offset >= -width) & (offset < width), (offset > -width) & (offset <= width))
    height = torch.where(rises, width - offset, width + offset)
    return height.masked_fill(~inside | (step > max_delay), 0)


def delayed_linear_reference(
    spikes: EventBatch | Tensor,
    weight: Tensor,
    delay: Tensor,
    bias: Tensor | None = None,
    *,
    width: float,
    max_delay: int,
    backend: str = "auto",
) -> Tensor:
    """:func:`delayed_linear` as plain autograd, one step of delay at a time (``backend`` has no effect)."""
    _check(spikes, weight, delay, width, max_delay)
    dense = _dense(spikes, weight)
    bump = delay_bump(delay.to(weight.dtype), width, max_delay)
    num_steps = len(dense)
    current = weight.new_zeros(*dense.shape[:2], len(weight))
    for k in range(min(max_delay + 1, num_steps)):
        arrived = F.linear(dense[: num_steps - k], weight * bump[..., k])
        current = current + F.pad(arrived, (0, 0, 0, 0, k, 0))
    return current if bias is None else current + bias


def delayed_linear(
    spikes: EventBatch | Tensor,
    weight: Tensor,
    delay: Tensor,
    bias: Tensor | None = None,
    *,
    width: float,
    max_delay: int,
    backend: str = "auto",
) -> Tensor:
    """Input current of a layer whose spikes arrive after a delay.

    ``I[t, b, n] = bias[n] + sum over i, k of K(k - delay[n, i]) * weight[n, i] * s[t-k, b, i]``, ``k`` in
    ``0 .. max_delay``, with the bump ``K`` of :func:`delay_bump`. What would arrive after the last step is lost.

    Args:
        spikes: events, or a time-major tensor ``[T, B, N_in]`` (mostly zeros are fast; any values are right).
        weight: ``[N_out, N_in]``.
        delay: in steps, within ``[0, max_delay]``: ``[N_in]`` for one per presynaptic unit (axonal), or
            ``[N_out, N_in]`` for one per synapse.
        bias: ``[N_out]`` or None.
        width: half-width of the bump in steps, 1 or more; 0 rounds every delay to the nearest step (half to even), and
            then there is no gradient to ``delay``.
        max_delay: the longest delay in whole steps.
        backend: ``torch`` (convolutions; always works), ``numba`` (CPU; cost follows the spikes), or ``auto``.

    Returns:
        Current ``[T, B, N_out]``. Differentiable in ``weight``, ``delay``, ``bias`` and dense ``spikes``.

    Raises:
        ValueError: shapes do not fit, a delay lies outside ``[0, max_delay]``, ``width`` is neither 0 nor at least 1,
            or the backend is unknown or cannot do the job.

    Source: Hammouamri, Khalfaoui-Hassani & Masquelier, arXiv:2306.17670 (learning delays through a bump).
    """
    _check(spikes, weight, delay, width, max_delay)
    delay = delay.to(weight.dtype)
    kernels = _choose_kernels(backend, weight)
    if kernels is None:
        current = _convolve(_dense(spikes, weight), weight, delay_bump(delay, width, max_delay))
        return current if bias is None else current + bias
    if not isinstance(spikes, EventBatch):
        spikes = spikes.to(weight.dtype)
    events = kernels.weighted_events(spikes, weight.dtype)
    first, bump = delay_taps(delay, width, max_delay)
    num_taps = len(events.units) * bump.shape[-1]
    if delay.dim() == 1 and num_taps > _DENSE_FROM * math.prod(spikes.shape):
        return F.linear(_Spread.apply(kernels, events, spikes, first, bump), weight, bias)
    return _DelayedLinear.apply(kernels, events, spikes, weight, first, bump, bias)


def delayed_events(
    events: EventBatch, weight: Tensor, delay: Tensor, *, width: float, max_delay: int
) -> tuple[EventBatch, Tensor]:
    """Axonal delays as events and weights without delays, for whatever takes those.

    Every event becomes ``K`` events, one for each tap of its bump: unit ``i * K + k`` at the step where that tap
    arrives. Its weights are those of unit ``i`` times the height of the tap, so gradients to ``weight`` and ``delay``
    pass through the second result. ``event_linear(*delayed_events(...))`` is :func:`delayed_linear`, and
    :func:`ss_lightning.functional.network.event_network` takes both as its input and first layer.

    Args:
        events: input spikes of ``T`` steps, ``B`` samples and ``N_in`` units.
        weight: ``[N_out, N_in]``.
        delay: in steps, ``[N_in]``, within ``[0, max_delay]``.
        width: as in :func:`delayed_linear`; 0 shifts every event by its rounded delay (``K`` is 1).
        max_delay: the longest delay in whole steps.

    Returns:
        Events of ``N_in * K`` units, and weights ``[N_out, N_in * K]``.

    Raises:
        ValueError: as :func:`delayed_linear`, and if there is a delay for each synapse.
    """
    _check(events, weight, delay, width, max_delay)
    if delay.dim() != 1:
        raise ValueError(
            f"delayed events need one delay per input unit [{events.num_units}], got {tuple(delay.shape)}; "
            "use delayed_linear for delays per synapse"
        )
    first, bump = delay_taps(delay.to(weight.dtype), width, max_delay)
    kernels = _choose_kernels("auto", weight)
    late = (_delayed_events if kernels is None else kernels.delayed_events)(events, first, bump.shape[1])
    return late, (weight.unsqueeze(-1) * bump).flatten(1)


def _delayed_events(events: EventBatch, first: Tensor, taps: int) -> EventBatch:
    """Every event as one event for each tap: unit ``i * K + k`` at the step where tap ``k`` of unit ``i`` arrives."""
    num_steps, batch, num_units = events.shape
    tap = torch.arange(taps, device=events.device)
    row, unit = events.bags(), events.units.long()
    arrival = (row % num_steps + first[unit]).unsqueeze(-1) + tap
    in_time = arrival < num_steps
    row = (torch.div(row, num_steps, rounding_mode="floor") * num_steps).unsqueeze(-1).add(arrival)[in_time]
    unit = (unit * taps).unsqueeze(-1).add(tap)[in_time]
    offsets = torch.zeros(num_steps * batch + 1, dtype=torch.int32, device=events.device)
    offsets[1:] = torch.bincount(row, minlength=num_steps * batch).cumsum(0)
    return EventBatch.trusted(unit[row.argsort(stable=True)].int(), offsets, num_steps, num_units * taps)


def _check(spikes: EventBatch | Tensor, weight: Tensor, delay: Tensor, width: float, max_delay: int) -> None:
    """Refuse what would give a silently wrong answer."""
    if weight.dim() != 2:
        raise ValueError(f"weight must be [N_out, N_in], got the shape {tuple(weight.shape)}")
    num_inputs = weight.shape[1]
    if tuple(delay.shape) not in ((num_inputs,), tuple(weight.shape)):
        raise ValueError(
            f"delay must be one per input [{num_inputs}] or one per synapse {list(weight.shape)}, got "
            f"{list(delay.shape)}"
        )
    if len(spikes.shape) != 3 or spikes.shape[0] < 1:
        raise ValueError(f"spikes must be time-major [T, B, N_in] with T >= 1, got the shape {tuple(spikes.shape)}")
    if spikes.shape[2] != num_inputs:
        raise ValueError(f"the layer takes {num_inputs} input units, but the spikes come from {spikes.shape[2]}")
    if isinstance(max_delay, bool) or not isinstance(max_delay, int) or max_delay < 0:
        raise ValueError(f"max_delay must be a whole number of steps, zero or more, got {max_delay!r}")
    if not (width == 0 or 1 <= width < math.inf):
        raise ValueError(f"width must be 0 (whole steps) or at least 1 step, got {width}")
    # On a GPU the look would stall.
    if delay.device.type == "cpu" and not torch.compiler.is_compiling():
        outside = delay.detach()[~((delay >= 0) & (delay <= max_delay))]
        if len(outside):
            raise ValueError(f"delays must lie in [0, {max_delay}] steps, got {outside[:5].tolist()}")


def _dense(spikes: EventBatch | Tensor, weight: Tensor) -> Tensor:
    return spikes.to_dense(weight.dtype) if isinstance(spikes, EventBatch) else spikes.to(weight.dtype)


def _choose_kernels(backend: str, weight: Tensor) -> ModuleType | None:
    """The kernels, which exist for the CPU; None means plain PyTorch."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "triton":
        raise ValueError("delays have no triton kernels; use backend='torch' or 'auto'")
    if backend == "torch" or (backend == "auto" and torch.compiler.is_compiling()):
        return None
    if weight.device.type != "cpu":
        obstacle = f"it runs on the CPU, and the weights are on {weight.device}"
    elif weight.dtype not in (torch.float32, torch.float64):
        obstacle = f"it computes in float32 or float64, not in {weight.dtype}"
    else:
        from ss_lightning.functional.kernels import delays_numba  # numba is imported only where it is used

        return delays_numba
    if backend == "numba":
        raise ValueError(f"the numba backend cannot be used: {obstacle}; use backend='torch' or 'auto'")
    return None


def _convolve(spikes: Tensor, weight: Tensor, bump: Tensor) -> Tensor:
    """The current as a convolution over time: of every unit alone if it has one delay, else of all at once."""
    trains = F.pad(spikes.permute(1, 2, 0), (bump.shape[-1] - 1, 0))
    if bump.dim() == 2:
        late = F.conv1d(trains, bump.flip(-1).unsqueeze(1), groups=len(bump))
        return F.linear(late.permute(2, 0, 1), weight)
    return F.conv1d(trains, (weight.unsqueeze(-1) * bump).flip(-1)).permute(2, 0, 1)


class _DelayedLinear(torch.autograd.Function):
    """The kernels; the gradient to the heights of the bumps goes on to the delays by autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: ModuleType,
        events: Any,
        spikes: EventBatch | Tensor,
        weight: Tensor,
        first: Tensor,
        bump: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.kernels, ctx.events = kernels, events
        ctx.save_for_backward(weight, first, bump)
        return kernels.delayed_forward(events, weight, first, bump, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer = ctx.saved_tensors
        grad = grad.contiguous()
        _, _, needs_spikes, needs_weight, _, needs_bump, needs_bias = ctx.needs_input_grad
        grad_spikes = grad_weight = grad_bump = None
        if needs_spikes:
            grad_spikes = ctx.kernels.spike_gradient(*layer, grad)
        if needs_weight or needs_bump:
            grad_weight, grad_bump = ctx.kernels.parameter_gradients(ctx.events, *layer, grad)
        grad_bias = grad.sum((0, 1)) if needs_bias else None
        return None, None, grad_spikes, grad_weight, None, grad_bump, grad_bias


class _Spread(torch.autograd.Function):
    """What arrives of every unit, ``[T, B, N_in]``, for axonal delays."""

    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, events: Any, spikes: EventBatch | Tensor, first: Tensor, bump: Tensor
    ) -> Tensor:
        ctx.kernels, ctx.events = kernels, events
        ctx.save_for_backward(first, bump)
        return kernels.spread_forward(events, first, bump)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, bump = ctx.saved_tensors
        grad = grad.contiguous()
        _, _, needs_spikes, _, needs_bump = ctx.needs_input_grad
        grad_spikes = ctx.kernels.spread_backward_spikes(first, bump, grad) if needs_spikes else None
        grad_bump = ctx.kernels.spread_backward_bump(ctx.events, first, bump, grad) if needs_bump else None
        return None, None, grad_spikes, None, grad_bump
