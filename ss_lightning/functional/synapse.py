"""The synapse on events: its cost follows the number of spikes, not the number of steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ss_lightning.events import EventBatch


def event_linear_reference(events: EventBatch, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`event_linear` on the dense tensor of the events."""
    return F.linear(events.to_dense(weight.dtype), weight, bias)


def event_linear(events: EventBatch, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Input current ``I[t] = W s[t] + b`` of a layer from its input events.

    Args:
        events: input spikes of ``T`` steps, ``B`` samples and ``N_in`` units.
        weight: ``[N_out, N_in]``.
        bias: ``[N_out]`` or None.

    Returns:
        Current ``[T, B, N_out]``, a view that is contiguous per sample. Differentiable in ``weight`` and ``bias``.

    Raises:
        ValueError: the events have another number of units than the layer has inputs.

    Example:
        Two input units. The first fires in step 0, the second in step 2.

        >>> import torch
        >>> from ss_lightning import EventBatch
        >>> spikes = torch.tensor([[[1, 0]], [[0, 0]], [[0, 1]]])
        >>> weight = torch.tensor([[0.5, 2.0]])
        >>> event_linear(EventBatch.from_dense(spikes), weight).flatten()
        tensor([0.5000, 0.0000, 2.0000])
    """
    if events.num_units != weight.shape[1]:
        raise ValueError(f"the layer takes {weight.shape[1]} input units, but the events come from {events.num_units}")
    rows = _EventRows.apply(weight.t(), events)
    if bias is not None:
        rows = rows + bias
    return rows.view(events.batch_size, events.num_steps, len(weight)).transpose(0, 1)


class _EventRows(torch.autograd.Function):
    """Sum of the weight rows of each bag of events: ``[B * T, N_out]`` from ``[N_in, N_out]``."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, events: EventBatch) -> Tensor:
        ctx.events = events
        ctx.dtype = table.dtype
        return F.embedding_bag(events.units, table.contiguous(), events.offsets, mode="sum", include_last_offset=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # embedding_bag's own weight gradient scatters event by event; gathering over the transposed lists (for each
        # unit, the rows it took part in) reads whole rows instead.
        events: EventBatch = ctx.events
        order = torch.argsort(events.units)
        offsets = torch.zeros(events.num_units + 1, dtype=torch.long, device=grad.device)
        offsets[1:] = torch.bincount(events.units, minlength=events.num_units).cumsum(0)
        rows = events.bags()[order]
        grad_table = F.embedding_bag(rows, grad.contiguous(), offsets, mode="sum", include_last_offset=True)
        return grad_table.to(ctx.dtype), None
