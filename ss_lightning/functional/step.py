"""One step of neurons that fire at most once, from membrane to membrane.

The equations are those of :mod:`ss_lightning.functional.first_spike`. Forwards a neuron needs one bit of memory,
``fired``. Backwards an estimator sends one or two numbers per neuron through the memory, named as in
:func:`ss_lightning.functional.first_spike.first_spike_step`:

========= ============================== =======================================================================
estimator gradient of the memory         backwards, from ``g = dL/dS[t]`` and the memory's gradient after the step
========= ============================== =======================================================================
ramp      ``(crossed, latency)``         ``latency += g; crossed += latency; dL/dc = crossed``
survival  ``alive``                      ``dL/dc = alive[t] (g - alive); alive = g c + alive (1 - c)``
flat      ``crossed``                    ``crossed += g; dL/dc = alive[t] crossed``
masked    none                           ``dL/dc = alive[t] g``
========= ============================== =======================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ss_lightning.functional.membrane import (
    MEMORY_GRADIENTS,
    Membrane,
    MixedMembrane,
    gradient_of,
    join,
    parts_of,
    split,
)
from ss_lightning.surrogate import Surrogate

_AGAIN = (
    "The backward pass reached a step whose graph has been freed. Most often a new sample began without a reset, so "
    "that it continues the graph of the sample before: call ss_lightning.reset(net) between samples (or start from a "
    "new membrane). To continue the same sample in pieces, cut the graph with mem.detach() or detach_hidden(). To go "
    "back twice through one sample, pass retain_graph=True the first time."
)


def leaky_step(
    current: Tensor,
    mem: Tensor,
    beta: Tensor,
    threshold: Tensor,
    surrogate: Surrogate,
    kind: str,
) -> tuple[Tensor, Membrane]:
    """One step ``V = beta * V + I`` of a leaky neuron that fires at most once.

    Args:
        current: input current of this step ``[B, N]``.
        mem: the membrane of the step before; a plain tensor is one that has not fired.
        beta: decay per step in ``[0, 1]``, broadcasts against ``[B, N]``.
        threshold: broadcasts against ``[B, N]``.
        surrogate: derivative of a crossing.
        kind: the estimator, or ``standard``: the membrane of a neuron that has fired is zero, and so is its gradient.

    Returns:
        The spikes ``[B, N]`` in the dtype of ``current``, and the membrane after the step.

    Raises:
        ValueError: it is unknown which neurons of ``mem`` have fired, or where the gradient of its memory should go.
    """
    check_memory(mem, kind)
    return _LeakyStep.apply(current, mem, beta, threshold, surrogate, kind)


def fire_step(crossing: Tensor, value: Tensor, before: Tensor, kind: str, handles: Sequence[Tensor] = ()) -> Any:
    """The spikes of a step whose membrane and crossings are known, for any surrogate; and the membrane after it.

    Args:
        crossing: 1 where the membrane is above the threshold, else 0; ``[B, N]``, with the gradient of the surrogate.
        value: the membrane of this step, plain.
        before: the membrane of the step before.
        kind: the estimator or ``standard``.
        handles: those of ``before``, see :func:`ss_lightning.functional.membrane.split`.

    Returns:
        The spikes ``[B, N]`` and the membrane after the step.
    """
    fired = before.parts[1] if isinstance(before, Membrane) else None
    return _FireStep.apply(crossing, value, fired, kind, *handles)


def open_membrane(mem: Tensor, kind: str) -> tuple[Tensor, ...]:
    """The value of a membrane and the handles of its memory; a plain tensor has none."""
    check_memory(mem, kind)
    return split(mem) if isinstance(mem, Membrane) else (mem,)


def has_not_fired(mem: Tensor) -> Tensor:
    """1 where a neuron may still fire, else 0, in the dtype of the membrane."""
    return (~mem.parts[1]).to(mem.dtype) if isinstance(mem, Membrane) else torch.ones_like(mem)


def sequence_membrane(value: Tensor, spikes: Tensor) -> Membrane:
    """The membrane ``[T, B, ...]`` of a whole sequence, from its values and spikes."""
    fired = torch.empty(spikes.shape, dtype=torch.bool, device=spikes.device)
    before = torch.zeros_like(fired[0])
    for now, spike in zip(fired.unbind(0), spikes.detach().unbind(0), strict=True):
        before = torch.logical_or(before, spike != 0, out=now)
    return join(value, fired, "sequence")


def check_memory(mem: Tensor, kind: str) -> None:
    """Refuse a membrane of which it is not known which neurons have fired, or where its gradient should go."""
    if isinstance(mem, MixedMembrane):
        raise ValueError(
            "this membrane was computed from membranes with different memories, so it is unknown which of its neurons "
            "have fired: choose elements with torch.where or an index, or pass mem.as_subclass(torch.Tensor) for "
            "neurons that have not fired"
        )
    if isinstance(mem, Membrane) and mem.kind != kind and mem.requires_grad:
        made = "of a whole sequence" if mem.kind == "sequence" else f"of a neuron with the estimator {mem.kind!r}"
        raise ValueError(
            f"this membrane is {made}; a step with the estimator {kind!r} cannot send a gradient through its memory: "
            "pass mem.detach()"
        )


class _LeakyStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, mem: Tensor, beta: Tensor, threshold: Tensor, surrogate: Surrogate, kind: str
    ) -> tuple[Tensor, Membrane]:
        ctx.set_materialize_grads(False)
        before, fired = mem.parts if isinstance(mem, Membrane) else (mem, None)
        value = before * beta
        if value.dtype == torch.result_type(value, current):
            value += current
        else:
            value = value + current
        if kind == "standard" and fired is not None:
            value.masked_fill_(fired, 0)
        distance = value - threshold
        crossing = distance > 0
        if fired is None:
            spike, after = crossing, crossing.clone()
        else:
            spike, after = crossing > fired, crossing | fired
        ctx.save_for_backward(distance, crossing, fired, beta, before if ctx.needs_input_grad[2] else None)
        ctx.surrogate, ctx.kind, ctx.threshold = surrogate, kind, (threshold.shape, threshold.dtype)
        ctx.like, ctx.dtypes = (value.shape, value.dtype, value.device), (current.dtype, before.dtype)
        return spike.to(current.dtype), Membrane(value, after, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_mem: Tensor | None) -> tuple[Tensor | None, ...]:
        distance, crossing, fired, beta, before = _saved(ctx)
        number = MEMORY_GRADIENTS[ctx.kind]
        grad_value, *after = parts_of(grad_mem, number)
        if grad is not None:
            grad = grad.to(distance.dtype)
        at_crossing, memory = _crossing_gradient(ctx.kind, grad, after, crossing, fired)
        wanted = ctx.needs_input_grad
        grad_threshold = None
        if at_crossing is not None:
            through = ctx.surrogate.derivative(distance).mul_(at_crossing)
            if wanted[3]:
                shape, dtype = ctx.threshold
                grad_threshold = through.sum_to_size(shape).neg().to(dtype)
            grad_value = through if grad_value is None else grad_value + through
        if grad_value is None:
            return (None,) * 6
        if ctx.kind == "standard" and fired is not None:
            grad_value = grad_value.masked_fill(fired, 0)
        current_dtype, before_dtype = ctx.dtypes
        grad_beta = (grad_value * before).sum_to_size(beta.shape).to(beta.dtype) if wanted[2] else None
        grad_before = None
        if wanted[1]:
            grad_before = (grad_value * beta).to(before_dtype)
            if memory and fired is not None:
                memory = [part if part is None else part.to(before_dtype) for part in memory]
                grad_before = gradient_of((grad_before, *memory), (ctx.like[0], before_dtype, ctx.like[2]))
        return grad_value.to(current_dtype), grad_before, grad_beta, grad_threshold, None, None


class _FireStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, crossing: Tensor, value: Tensor, fired: Tensor | None, kind: str, *handles: Tensor
    ) -> tuple[Tensor, Membrane]:
        ctx.set_materialize_grads(False)
        crossed = crossing > 0
        after = crossed.clone() if fired is None else crossed | fired
        ctx.save_for_backward(crossed, fired)
        ctx.kind, ctx.number = kind, len(handles)
        return crossing if fired is None else crossing.masked_fill(fired, 0), Membrane(value.detach(), after, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_mem: Tensor | None) -> tuple[Tensor | None, ...]:
        crossing, fired = _saved(ctx)
        grad_value, *after = parts_of(grad_mem, MEMORY_GRADIENTS[ctx.kind])
        at_crossing, memory = _crossing_gradient(ctx.kind, grad, after, crossing, fired)
        return at_crossing, grad_value, None, None, *memory[: ctx.number]


def _saved(ctx: Any) -> tuple[Any, ...]:
    """The tensors of the forward pass; where the graph has been freed, an error that says why it usually is.

    The gradient of a membrane is no part of a graph, so a second derivative would silently lack a part: it is refused.
    """
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "second derivatives (create_graph=True) do not pass through a step of neurons that fire at most once"
        )
    try:
        saved = ctx.saved_tensors
    except RuntimeError as error:
        if getattr(ctx, "went_back", False):
            raise RuntimeError(_AGAIN) from error
        raise
    ctx.went_back = True
    return saved


def _crossing_gradient(
    kind: str, grad: Tensor | None, after: list[Tensor | None], crossing: Tensor, fired: Tensor | None
) -> tuple[Tensor | None, list[Tensor | None]]:
    """``dL/dc`` and the gradient of the memory before the step, from that of the spikes and of the memory after it.

    None stands for zero; ``fired`` is None where no neuron had fired.
    """
    if kind == "ramp":
        crossed, latency = after
        latency = _sum(latency, grad)
        crossed = _sum(crossed, latency)
        return crossed, [crossed, latency]
    if kind == "flat":
        crossed = _sum(after[0], grad)
        return _where_not(crossed, fired), [crossed]
    if kind == "survival":
        (alive,) = after
        at_crossing = grad if alive is None else (-alive if grad is None else grad - alive)
        kept = None if alive is None else alive.masked_fill(crossing, 0)
        spiked = None if grad is None else grad * crossing
        return _where_not(at_crossing, fired), [_sum(kept, spiked)]
    return _where_not(grad, fired), []


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _where_not(grad: Tensor | None, fired: Tensor | None) -> Tensor | None:
    return grad if grad is None or fired is None else grad.masked_fill(fired, 0)
