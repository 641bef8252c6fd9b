"""The leaky scan: a membrane that is never reset is a linear recurrence over time."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ss_lightning.functional.backends import choose_backend
from ss_lightning.functional.columns import Columns


def leaky_scan_reference(current: Tensor, beta: Tensor | float) -> Tensor:
    """:func:`leaky_scan` as plain autograd, one line per step."""
    return _step_by_step(current, as_like(beta, current))


def _step_by_step(current: Tensor, beta: Tensor) -> Tensor:
    """The recurrence in plain operators, which autograd can differentiate and tracers can follow."""
    membrane: list[Tensor] = []
    # unbind, not current[t]: each select would write a gradient of the full size, O(T^2) in all.
    for step in current.unbind(0):
        membrane.append(beta * membrane[-1] + step if membrane else step)
    return torch.stack(membrane)


def _as_one_operator(current: Tensor, beta: Tensor) -> Tensor:
    """The recurrence as torch's ``scan``: an exported program stays small, however many steps there are."""
    from torch._higher_order_ops.scan import scan

    def step(membrane: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        membrane = beta * membrane + current
        return membrane, membrane.clone()  # the operator refuses two outputs that are one tensor

    rest = torch.zeros_like(current[0], dtype=torch.result_type(current, beta))
    return scan(step, rest, current)[1]


def leaky_scan(current: Tensor, beta: Tensor | float, *, backend: str = "auto") -> Tensor:
    """Membrane of leaky integrators that never reset: ``V[t] = beta * V[t-1] + I[t]``, ``V[-1] = 0``.

    Args:
        current: input current ``I``, ``[T, B, N]`` (more trailing axes are fine).
        beta: decay per step in ``[0, 1]``, a number or a tensor that broadcasts against ``[B, N]``.
        backend: ``torch`` (always works), ``triton`` (CUDA), or ``auto``: the kernels on CUDA where current and beta
            have one dtype, else ``torch``.

    Returns:
        The membrane ``V``, ``[T, B, N]``. O(T) forwards and backwards.

    Raises:
        ValueError: the backend is unknown, or the backend asked for cannot do the job.

    Source: Taylor, King & Harper, arXiv:2205.15286.

    Example:
        >>> import torch
        >>> current = torch.tensor([1.0, 0.0, 2.0]).reshape(3, 1, 1)
        >>> leaky_scan(current, 0.5).flatten()
        tensor([1.0000, 0.5000, 2.2500])
    """
    beta = as_like(beta, current)
    if torch.compiler.is_exporting():
        return _as_one_operator(current, beta)
    if torch.compiler.is_compiling():
        return _step_by_step(current, beta)
    kernels = _choose_kernels(backend, current, beta)
    return _LeakyScan.apply(current, beta) if kernels is None else _FusedLeakyScan.apply(current, beta, kernels)


def _choose_kernels(backend: str, current: Tensor, beta: Tensor) -> ModuleType | None:
    """The kernels of a scan, which compute in one dtype; None means plain PyTorch."""
    if current.dtype != beta.dtype or current.dim() < 2 or not len(current):
        if backend == "triton":
            raise ValueError(
                f"the triton backend needs a current [T, B, N] of at least one step and a beta of its dtype, got "
                f"{list(current.shape)} of {current.dtype} and a beta of {beta.dtype}"
            )
        return None
    return choose_backend(backend, current.device, current.dtype, None, work="scan")


class _LeakyScan(torch.autograd.Function):
    """In-place loops; saves the membrane only when ``beta`` learns."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, beta: Tensor) -> Tensor:
        membrane = scan_forward(current, beta)
        ctx.save_for_backward(beta, membrane if ctx.needs_input_grad[1] else None)
        ctx.dtype = current.dtype
        return membrane

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        beta, membrane = ctx.saved_tensors
        grad_current = scan_backward(grad.clone(memory_format=torch.contiguous_format), beta)
        grad_beta = None if membrane is None else beta_gradient(grad_current, membrane, beta)
        return grad_current.to(ctx.dtype), grad_beta


class _FusedLeakyScan(torch.autograd.Function):
    """The same in one pass each way."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, beta: Tensor, kernels: ModuleType) -> Tensor:
        ctx.layout, ctx.kernels = Columns(current), kernels
        membrane = kernels.leaky_forward(ctx.layout.columns(current), ctx.layout.row(beta))
        ctx.save_for_backward(beta, membrane if ctx.needs_input_grad[1] else None)
        return ctx.layout.sequence(membrane)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        beta, membrane = ctx.saved_tensors
        layout = ctx.layout
        grad_current, total = ctx.kernels.leaky_backward(layout.columns(grad), layout.row(beta), membrane)
        grad_beta = None if total is None else layout.sequence(total[None])[0].sum_to_size(beta.shape)
        return layout.sequence(grad_current), grad_beta, None


def as_like(value: Tensor | float, like: Tensor) -> Tensor:
    """``value`` as a tensor on the device of ``like``; a number takes its dtype, a tensor keeps its own."""
    if isinstance(value, Tensor):
        return value.to(like.device)
    return torch.full((), value, dtype=like.dtype, device=like.device)  # filled there: a copy would stall the host


def scan_forward(current: Tensor, beta: Tensor) -> Tensor:
    """``V[t] = beta * V[t-1] + I[t]`` without autograd, in the dtype that ``beta * current`` has."""
    membrane = torch.empty_like(current, dtype=torch.result_type(current, beta), memory_format=torch.contiguous_format)
    if len(current) == 0:
        return membrane
    steps, inputs = membrane.unbind(0), current.unbind(0)
    steps[0].copy_(inputs[0])
    for t in range(1, len(steps)):
        # Two roundings, as in a step-by-step loop (addcmul may fuse them): both modes then spike alike.
        torch.mul(steps[t - 1], beta, out=steps[t]).add_(inputs[t])
    return membrane


def scan_backward(grad_membrane: Tensor, beta: Tensor) -> Tensor:
    """``dI[t] = dV[t] + beta * dI[t+1]``, overwriting ``grad_membrane``."""
    steps = grad_membrane.unbind(0)
    for t in range(len(steps) - 2, -1, -1):
        steps[t].addcmul_(steps[t + 1], beta)
    return grad_membrane


def beta_gradient(grad_current: Tensor, membrane: Tensor, beta: Tensor) -> Tensor:
    """``dL/dbeta = sum over t, B of dI[t] * V[t-1]``, summed to the shape of ``beta``."""
    total = torch.zeros_like(grad_current[0])
    for grad, before in zip(grad_current[1:].unbind(0), membrane[:-1].unbind(0), strict=True):
        total.addcmul_(grad, before)
    return total.sum_to_size(beta.shape).to(beta.dtype)
