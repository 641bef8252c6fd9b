"""A delay line in front of a network: every input spike comes again, later, on wires of its own.

A leaky membrane remembers how much came, but not in which order. With its input at several delays side by side a neuron
weighs "this channel now, that one 50 ms ago", as a time-delay network does (Waibel et al., IEEE Trans. ASSP 37(3),
1989), and its one spike can stand for a whole syllable. The delays are fixed and the weights choose among them, so
there is nothing new to learn, and on events it costs one more event for each delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ss_lightning.events import EventBatch


def delay_line_reference(spikes: EventBatch | Tensor, delays: Sequence[int]) -> Tensor:
    """:func:`delay_line` one step at a time; the result is dense whatever comes in."""
    dense = spikes.to_dense() if isinstance(spikes, EventBatch) else spikes
    num_steps = len(dense)
    rest = torch.zeros_like(dense[0])
    rows = [torch.cat([dense[t - d] if t >= d else rest for d in delays], -1) for t in range(num_steps)]
    return torch.stack(rows)


@overload
def delay_line(spikes: EventBatch, delays: Sequence[int]) -> EventBatch: ...
@overload
def delay_line(spikes: Tensor, delays: Sequence[int]) -> Tensor: ...
def delay_line(spikes: EventBatch | Tensor, delays: Sequence[int]) -> EventBatch | Tensor:
    """Spikes again after each of several delays; what would arrive after the last step is lost.

    Args:
        spikes: events of ``T`` steps, ``B`` samples and ``N`` units, or a time-major tensor ``[T, B, N]``.
        delays: ``K`` delays in whole steps, zero or more each.

    Returns:
        Spikes of ``K * N`` units in the form that came in: unit ``k * N + i`` is unit ``i``, late by ``delays[k]``
        steps. A tensor ``[T, B, K * N]`` is differentiable in a tensor ``spikes``.
    """
    if isinstance(spikes, EventBatch):
        return _delay_events(spikes, delays)
    num_steps = len(spikes)
    late = [F.pad(spikes[: max(num_steps - d, 0)], (0, 0, 0, 0, min(d, num_steps), 0)) for d in delays]
    return torch.cat(late, -1)


def _delay_events(events: EventBatch, delays: Sequence[int]) -> EventBatch:
    steps, batch, units = events.shape
    counts = events.offsets.diff().view(batch, steps)
    late = [F.pad(counts[:, : max(steps - d, 0)], (min(d, steps), 0)) for d in delays]
    offsets = F.pad(torch.stack(late).sum(0).view(-1).cumsum(0), (1, 0)).int()
    result = torch.empty(int(offsets[-1]), dtype=torch.int32, device=events.device)
    # A counting sort: where the events of a row begin, less what lies before them in the old order.
    rows = events.bags()
    index = torch.arange(events.num_events, device=events.device) - events.offsets[rows]
    filled = offsets[:-1].clone()
    for k, (delay, count) in enumerate(zip(delays, late, strict=True)):
        in_time = rows % steps < steps - delay
        place = filled[rows[in_time] + delay] + index[in_time]
        result[place] = events.units[in_time] + k * units
        filled += count.reshape(-1)
    return EventBatch.trusted(result, offsets, steps, len(delays) * units)
