"""The single-spike neuron: leaky scan, threshold, first crossing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ss_lightning.functional.backends import choose_backend
from ss_lightning.functional.columns import Columns
from ss_lightning.functional.first_spike import (
    check_estimator,
    crossing_gradient,
    crossing_times,
    first_spike,
    first_spike_reference,
    spikes_at,
)
from ss_lightning.functional.scan import (
    as_like,
    beta_gradient,
    leaky_scan,
    leaky_scan_reference,
    scan_backward,
    scan_forward,
)
from ss_lightning.surrogate import FastSigmoid, Surrogate

SpikeGrad = Callable[[Tensor], Tensor]


def single_spike_reference(
    current: Tensor,
    beta: Tensor | float,
    threshold: Tensor | float = 1.0,
    *,
    surrogate: SpikeGrad = FastSigmoid(10),
    estimator: str = "ramp",
) -> Tensor:
    """:func:`single_spike` as plain autograd, one step at a time."""
    check_arguments(current, beta, estimator)
    membrane = leaky_scan_reference(current, beta)
    crossings = surrogate(membrane - as_like(threshold, current))
    return first_spike_reference(crossings, estimator).to(current.dtype)


def single_spike(
    current: Tensor,
    beta: Tensor | float,
    threshold: Tensor | float = 1.0,
    *,
    surrogate: SpikeGrad = FastSigmoid(10),
    estimator: str = "ramp",
    backend: str = "auto",
) -> Tensor:
    """Spikes of leaky neurons that fire at most once: the first time the membrane exceeds the threshold.

    ``V[t] = beta * V[t-1] + I[t]`` from ``V[-1] = 0``; a neuron fires at the first ``t`` with ``V[t] > threshold``
    (strictly) and never again, so its membrane needs no reset.

    Args:
        current: input current ``I``, ``[T, B, N]`` (more trailing axes are fine; any strides).
        beta: decay per step in ``[0, 1]``: a number, or a tensor that broadcasts against ``[B, N]`` such as ``[N]``.
        threshold: a number or a tensor that broadcasts against ``[B, N]``.
        surrogate: derivative of a crossing, an object of :mod:`ss_lightning.surrogate` or any elementwise
            ``spike_grad`` of snnTorch.
        estimator: ``ramp`` (the paper), ``survival``, ``flat`` or ``masked``: how the gradient of the one spike reaches
            the crossings, see :mod:`ss_lightning.functional.first_spike`.
        backend: ``torch`` (always works), ``numba`` (CPU), ``triton`` (CUDA), or ``auto``: the kernels of the device
            where they know the surrogate and dtype, else ``torch``.

    Returns:
        Spikes of the shape and dtype of ``current``: 0, or 1 at most once per neuron and sample. Differentiable in
        ``current``, ``beta`` and ``threshold``; O(T) forwards and backwards.

    Raises:
        ValueError: ``current`` has no step or fewer than two axes, ``beta`` lies outside ``[0, 1]``, the
            estimator or backend is unknown, or the backend asked for cannot do the job.

    Source: Taylor, King & Harper, arXiv:2205.15286 (model and ramp).

    Example:
        One neuron, four steps: its membrane is 0.6, 1.2, 1.8 and 2.4, and it fires once.

        >>> import torch
        >>> current = torch.full((4, 1, 1), 0.6)
        >>> single_spike(current, beta=1.0, threshold=1.0).flatten()
        tensor([0., 1., 0., 0.])
    """
    check_arguments(current, beta, estimator)
    beta, threshold = as_like(beta, current), as_like(threshold, current)
    kernels = _choose_kernels(backend, current, beta, threshold, surrogate)
    if kernels is not None:
        return _FusedSingleSpike.apply(current, beta, threshold, surrogate, estimator, kernels)
    if isinstance(surrogate, Surrogate) and not torch.compiler.is_compiling():
        return _SingleSpike.apply(current, beta, threshold, surrogate, estimator)
    membrane = leaky_scan(current, beta, backend="torch" if backend == "torch" else "auto")
    crossings = surrogate(membrane - threshold)
    return first_spike(crossings, estimator).to(current.dtype)


def _choose_kernels(
    backend: str, current: Tensor, beta: Tensor, threshold: Tensor, surrogate: SpikeGrad
) -> ModuleType | None:
    """The kernels for a dense current, which compute in one dtype; None means plain PyTorch."""
    if not current.dtype == beta.dtype == threshold.dtype:
        if backend in ("numba", "triton"):
            raise ValueError(
                f"the {backend} backend needs one dtype, got a current of {current.dtype}, beta of {beta.dtype} and "
                f"threshold of {threshold.dtype}"
            )
        return None
    return choose_backend(backend, current.device, current.dtype, surrogate, work="spikes")


def check_arguments(current: Tensor, beta: Tensor | float, estimator: str) -> None:
    """Refuse what would give a silently wrong answer."""
    check_estimator(estimator)
    if current.dim() < 2 or len(current) < 1:
        raise ValueError(
            f"current must be time-major [T, B, N] with at least one step, got the shape {tuple(current.shape)}"
        )
    check_beta(beta)


def check_beta(beta: Tensor | float, name: str = "beta") -> None:
    """Refuse a decay outside ``[0, 1]``; NaN counts as outside. On a GPU the look would stall, so it is skipped."""
    if isinstance(beta, Tensor):
        if beta.device.type != "cpu" or torch.compiler.is_compiling() or beta.numel() == 0:
            return
        low, high = torch.aminmax(beta.detach())  # both NaN if one value is
        inside = bool(low >= 0) and bool(high <= 1)
    else:
        inside = 0 <= beta <= 1
    if not inside:
        shown = beta.detach().flatten()[:5].tolist() if isinstance(beta, Tensor) else beta
        raise ValueError(f"{name} must lie in [0, 1] (decay per step), got {shown}")


class _SingleSpike(torch.autograd.Function):
    """Scan, crossing and first spike in one node: saves the membrane and two crossing times, nothing else."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, beta: Tensor, threshold: Tensor, surrogate: Surrogate, estimator: str
    ) -> Tensor:
        membrane = scan_forward(current, beta)
        first, second = crossing_times(membrane > threshold)
        ctx.save_for_backward(membrane, beta, threshold, first, second)
        ctx.surrogate, ctx.estimator, ctx.dtype = surrogate, estimator, current.dtype
        return spikes_at(first, len(current), current.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        membrane, beta, threshold, first, second = ctx.saved_tensors
        grad = grad.to(membrane.dtype, copy=True, memory_format=torch.contiguous_format)
        grad = crossing_gradient(grad, first, second, ctx.estimator)
        for step, potential in zip(grad.unbind(0), membrane.unbind(0), strict=True):
            step.mul_(ctx.surrogate.derivative(potential - threshold))
        grad_threshold = None
        if ctx.needs_input_grad[2]:
            grad_threshold = grad.sum(0).neg_().sum_to_size(threshold.shape).to(threshold.dtype)
        grad_current = scan_backward(grad, beta)
        grad_beta = beta_gradient(grad_current, membrane, beta) if ctx.needs_input_grad[1] else None
        return grad_current.to(ctx.dtype), grad_beta, grad_threshold, None, None


class _FusedSingleSpike(torch.autograd.Function):
    """The same in one pass over the current: saves the current, two crossing times and a few membranes."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        beta: Tensor,
        threshold: Tensor,
        surrogate: Surrogate,
        estimator: str,
        kernels: ModuleType,
    ) -> Tensor:
        layout = Columns(current)
        columns, decay, level = layout.columns(current), layout.row(beta), layout.row(threshold)
        spikes, saved = kernels.dense_forward(columns, decay, level, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(columns, beta, threshold, *saved)
        ctx.surrogate, ctx.estimator, ctx.layout, ctx.kernels = surrogate, estimator, layout, kernels
        return layout.sequence(spikes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        columns, beta, threshold, *saved = ctx.saved_tensors
        layout = ctx.layout
        decay, level, grad = layout.row(beta), layout.row(threshold), layout.columns(grad)
        grad_current, *grads = ctx.kernels.dense_backward(
            columns, decay, level, saved, grad, ctx.surrogate, ctx.estimator
        )
        grad_beta, grad_threshold = (
            layout.sequence(total[None])[0].sum_to_size(value.shape) if needed else None
            for total, value, needed in zip(grads, (beta, threshold), ctx.needs_input_grad[1:3], strict=True)
        )
        return layout.sequence(grad_current), grad_beta, grad_threshold, None, None, None
