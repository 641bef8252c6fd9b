"""From the readout over time to class scores, and the loss on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 20.0


def first_spike_scores(spikes: Tensor) -> Tensor:
    """Scores of a readout that fires: the earlier, the higher.

    Args:
        spikes: ``[T, B, C]``, at most one per class and sample.

    Returns:
        ``-20 t* / T``, ``[B, C]``, with ``t* = T`` for a silent class. Linear in the spikes, so the gradient estimator
        of the neuron decides what moving a spike means. The factor lets the softmax become confident: the scores of
        the first and the last step differ by 20.
    """
    return (torch.einsum("t,tbc->bc", _remaining(spikes), spikes) / len(spikes) - 1) * SHARPNESS


def _remaining(spikes: Tensor) -> Tensor:
    """``T, T - 1, ..., 1``."""
    return torch.arange(len(spikes), 0, -1, dtype=spikes.dtype, device=spikes.device)


def decode(readout: Tensor, decoder: str) -> Tensor:
    """Class scores ``[B, C]`` from a readout ``[T, B, C]``.

    Args:
        readout: membrane over time, or spikes for ``first_spike``. ``softmax`` gives the logarithm of the mean over
            time of each step's class probabilities.
        decoder: ``sum`` or ``max`` over time, ``softmax``, or ``first_spike``.
    """
    if decoder == "sum":
        return readout.sum(0)
    if decoder == "max":
        return readout.amax(0)
    if decoder == "softmax":
        return readout.log_softmax(2).logsumexp(0) - math.log(len(readout))
    return first_spike_scores(readout)


def decision_step(readout: Tensor, decoder: str) -> Tensor:
    """When a network has made up its mind.

    Args:
        readout: ``[T, B, C]``, as for :func:`decode`.
        decoder: as for :func:`decode`.

    Returns:
        int64 ``[B]``: the first step from which the class that wins in the end leads all others, without a tie, in the
        scores decoded from the steps so far; ``T`` where classes tie at the end.
    """
    if decoder == "sum":
        running = readout.cumsum(0)
    elif decoder == "max":
        running = readout.cummax(0).values
    elif decoder == "softmax":
        running = readout.softmax(2).cumsum(0)
    else:
        running = (_remaining(readout)[:, None, None] * readout).cumsum(0)
    winner = running[-1].argmax(1).expand(len(readout), -1)[..., None]
    others = running.scatter(2, winner, -torch.inf).amax(2)
    leads = running.gather(2, winner).squeeze(2) > others
    # Steps at the end through which the winner leads without a break.
    return len(readout) - leads.flip(0).long().cumprod(0).sum(0)


def spike_penalty(spike_counts: Sequence[Tensor], target: tuple[float, float]) -> Tensor:
    """How far neurons fire from a band of rates: the mean over neurons of the squared distance, 0 inside it.

    Args:
        spike_counts: spikes of each hidden layer, ``[B, N]`` each.
        target: lowest and highest number of spikes of a neuron in the mean over the samples of the batch.
    """
    rate = torch.cat([count.mean(0) for count in spike_counts])
    low, high = target
    return (F.relu(low - rate) ** 2 + F.relu(rate - high) ** 2).mean()


def classification_loss(scores: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of scores ``[B, C]`` (in float32 at least) and labels ``[B]``."""
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    return F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
