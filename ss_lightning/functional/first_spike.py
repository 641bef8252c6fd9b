"""From threshold crossings to at most one spike, and the estimators of its gradient.

All estimators share the forward pass: the first crossing is the spike. They differ in what a crossing at step ``k``
is told about the gradient ``g = dL/dS`` of the spikes. With ``t*`` the first and ``t2`` the second crossing, ``T``
where there is none, and ``g[T] = 0``:

========= =========================================================================================
ramp      ``dL/dc[k] = sum over t >= k of (t - k + 1) g[t]`` (the paper; grows like ``T^2``)
survival  ``g[k] - g[t*]`` for ``k < t*``; ``g[t*] - g[t2]`` at ``t*``; 0 after. A silent neuron: ``g[k]``
flat      ``sum over t >= k of g[t]`` for ``k <= t*``; 0 after. A silent neuron: for all ``k``
masked    ``g[k]`` for ``k <= t*``; 0 after. A silent neuron: ``g[k]``
========= =========================================================================================

Sources: ramp is the straight-through gradient of Taylor, King & Harper, arXiv:2205.15286. Survival is the derivative
of the first-passage law ``p[t] = c[t] * prod over j < t of (1 - c[j])`` at the hard crossings: what would change if
the spike moved to ``k``. Masked is backpropagation through the time loop of that paper's "standard" model, in which a
mask, held constant, silences neurons that have fired (:class:`ss_lightning.neurons.StandardSingleSpikeLeaky`).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

Estimator = Literal["ramp", "survival", "flat", "masked"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)


def check_estimator(estimator: str) -> None:
    """Refuse a word that names no gradient estimator.

    Raises:
        ValueError: it is none of :data:`ESTIMATORS`.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}; choose one of {', '.join(ESTIMATORS)}")


# One step at a time -----------------------------------------------------------------------------------------------

State = tuple[Tensor, ...]


def first_spike_state(crossing: Tensor, estimator: str) -> State:
    """What a neuron at rest remembers of its crossings: two tensors shaped like one step ``[B, N]``.

    ramp: (crossings so far, latency code); survival, masked: (alive,); flat: (alive, crossings while alive).

    Raises:
        ValueError: the estimator is unknown.
    """
    check_estimator(estimator)
    zero, one = torch.zeros_like(crossing), torch.ones_like(crossing)
    return {"ramp": (zero, zero), "survival": (one,), "flat": (one, zero), "masked": (one,)}[estimator]


def first_spike_step(crossing: Tensor, state: State, estimator: str) -> tuple[Tensor, State]:
    """One step of the first-spike rule in plain autograd: exact in its gradients, so loops may use it.

    Args:
        crossing: 1 where the membrane is above threshold in this step, else 0; ``[B, N]``.
        state: from :func:`first_spike_state` or the step before.
        estimator: ``ramp``, ``survival``, ``flat`` or ``masked``.

    Returns:
        The spikes of this step ``[B, N]`` and the next state.

    Raises:
        ValueError: the estimator is unknown.
    """
    check_estimator(estimator)
    if estimator == "ramp":
        crossed, latency = state
        crossed = crossed + crossing
        latency = latency + crossed
        spike = (latency == 1).to(latency.dtype)
        return spike + latency - latency.detach(), (crossed, latency)
    if estimator == "survival":
        (alive,) = state
        return crossing * alive, (alive * (1 - crossing),)
    if estimator == "masked":
        (alive,) = state
        return crossing * alive, (alive * (1 - crossing.detach()),)
    alive, crossed = state
    spike = (crossing * alive).detach()
    crossed = crossed + crossing * alive
    return spike + crossed - crossed.detach(), (alive - spike, crossed)


# Whole sequences --------------------------------------------------------------------------------------------------


def first_spike_reference(crossings: Tensor, estimator: str = "ramp") -> Tensor:
    """:func:`first_spike` as plain autograd, one step at a time."""
    return _step_by_step(crossings, estimator)


def _step_by_step(crossings: Tensor, estimator: str) -> Tensor:
    """The rule in plain operators, which autograd can differentiate and tracers can follow."""
    state = first_spike_state(crossings[0], estimator)
    spikes = []
    for crossing in crossings.unbind(0):
        spike, state = first_spike_step(crossing, state, estimator)
        spikes.append(spike)
    return torch.stack(spikes)


def first_spike(crossings: Tensor, estimator: str = "ramp") -> Tensor:
    """Keep the first crossing of each neuron and sample, drop the others.

    Args:
        crossings: 1 where the membrane is above threshold, else 0; ``[T, B, N]`` (more trailing axes are fine).
        estimator: how the gradient of the spikes reaches the crossings, see the top of this module.

    Returns:
        Spikes ``[T, B, N]``, at most one per neuron and sample. O(T) forwards and backwards.

    Raises:
        ValueError: the estimator is unknown.
    """
    check_estimator(estimator)
    if torch.compiler.is_exporting():  # a program for inference, whatever the estimator
        crossed = crossings > 0
        return crossings * (crossed.cumsum(0) == 1)
    if torch.compiler.is_compiling():
        return _step_by_step(crossings, estimator)
    return _FirstSpike.apply(crossings, estimator)


class _FirstSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, crossings: Tensor, estimator: str) -> Tensor:
        first, second = crossing_times(crossings > 0)
        ctx.save_for_backward(first, second)
        ctx.estimator = estimator
        return spikes_at(first, len(crossings), crossings.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        first, second = ctx.saved_tensors
        grad = grad.clone(memory_format=torch.contiguous_format)
        return crossing_gradient(grad, first, second, ctx.estimator), None


def first_spike_time(spikes: Tensor) -> Tensor:
    """Step of the first spike, int64 ``[B, N]``; ``T`` for a neuron that stays silent.

    Args:
        spikes: ``[T, B, N]``, anything above zero is a spike. Not differentiable.
    """
    if torch.compiler.is_exporting():  # a loop would be unrolled
        return ((spikes > 0).cumsum(0) == 0).sum(0)
    silent = torch.ones(spikes.shape[1:], dtype=torch.bool, device=spikes.device)
    steps_before = torch.zeros_like(silent, dtype=torch.int32)
    for step in spikes.unbind(0):
        silent &= step <= 0
        steps_before += silent
    return steps_before.long()


def crossing_times(crossed: Tensor) -> tuple[Tensor, Tensor]:
    """Steps of the first and the second crossing, int64 ``[B, N]`` each; ``T`` where there is none.

    Args:
        crossed: bool ``[T, B, N]``.
    """
    num_steps = len(crossed)
    first = torch.full(crossed.shape[1:], num_steps, dtype=torch.long, device=crossed.device)
    second = first.clone()
    # Backwards: the crossing met last is the first one, and what it displaces is the second.
    for t in range(num_steps - 1, -1, -1):
        now = crossed[t]
        torch.where(now, first, second, out=second)
        first.masked_fill_(now, t)
    return first, second


def spikes_at(time: Tensor, num_steps: int, dtype: torch.dtype) -> Tensor:
    """Spikes ``[T, B, N]`` that are 1 at step ``time`` (``[B, N]``, ``T`` for none) and 0 elsewhere."""
    spikes = torch.zeros(num_steps, *time.shape, dtype=dtype, device=time.device)
    if num_steps:
        fired = (time < num_steps).to(dtype)
        spikes.scatter_(0, time.clamp(max=num_steps - 1).unsqueeze(0), fired.unsqueeze(0))
    return spikes


def crossing_gradient(grad: Tensor, first: Tensor, second: Tensor, estimator: str) -> Tensor:
    """``dL/dc`` from ``grad = dL/dS`` (``[T, B, N]``, overwritten) and the crossing times (``[B, N]``).

    Raises:
        ValueError: the estimator is unknown.
    """
    check_estimator(estimator)
    steps = grad.unbind(0)
    if estimator == "survival":
        at_first, at_second = _gradient_at(grad, first), _gradient_at(grad, second)
        for t, step in enumerate(steps):
            at_spike = torch.where(first == t, at_second, at_first)
            step.sub_(at_spike).masked_fill_(first < t, 0)
        return grad
    if estimator == "masked":
        for t, step in enumerate(steps):
            step.masked_fill_(first < t, 0)
        return grad
    total = torch.zeros_like(steps[0])
    if estimator == "flat":
        for t in range(len(steps) - 1, -1, -1):
            total += steps[t]
            torch.mul(total, first >= t, out=steps[t])
        return grad
    ramp = torch.zeros_like(total)
    for t in range(len(steps) - 1, -1, -1):
        total += steps[t]
        ramp += total
        steps[t].copy_(ramp)
    return grad


def _gradient_at(grad: Tensor, time: Tensor) -> Tensor:
    """``grad[time]`` per neuron and sample, 0 where ``time`` is ``T``."""
    silent = time == len(grad)
    index = time.masked_fill(silent, 0).unsqueeze(0)
    return grad.gather(0, index).squeeze(0).masked_fill(silent, 0)
