"""Losses: on class scores and on spike counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def spike_penalty(spike_counts: Sequence[Tensor], target: tuple[float, float]) -> Tensor:
    """How far neurons fire from a band of rates: the mean over neurons of the squared distance, 0 inside it.

    Args:
        spike_counts: spikes of each hidden layer, ``[B, N]`` each.
        target: lowest and highest number of spikes of a neuron in the mean over the samples of the batch.

    Returns:
        A 0-d tensor; 0 without samples.
    """
    if not len(spike_counts[0]):
        return torch.cat([count.flatten() for count in spike_counts]).sum()
    rate = torch.cat([count.mean(0) for count in spike_counts])
    low, high = target
    return (F.relu(low - rate) ** 2 + F.relu(rate - high) ** 2).mean()


def classification_loss(scores: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy, computed in float32 at least.

    Args:
        scores: ``[B, C]``.
        labels: true classes, int64 ``[B]``.
        label_smoothing: share of the target spread over all classes, 0 to 1.

    Returns:
        A 0-d tensor; 0 without samples.
    """
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if not len(scores):
        return scores.sum()  # the mean would be NaN, and so would the weights after the next update
    return F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
