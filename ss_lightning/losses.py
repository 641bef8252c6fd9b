"""From the readout over time to class scores, and the loss on them."""

from __future__ import annotations

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
    num_steps = len(spikes)
    lead = torch.arange(num_steps, 0, -1, dtype=spikes.dtype, device=spikes.device)
    return (torch.einsum("t,tbc->bc", lead, spikes) / num_steps - 1) * SHARPNESS


def decode(readout: Tensor, decoder: str) -> Tensor:
    """Class scores ``[B, C]`` from a readout ``[T, B, C]``.

    Args:
        readout: membrane over time, or spikes for ``first_spike``.
        decoder: ``sum`` or ``max`` over time, or ``first_spike``.
    """
    if decoder == "sum":
        return readout.sum(0)
    if decoder == "max":
        return readout.amax(0)
    return first_spike_scores(readout)


def classification_loss(scores: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of scores ``[B, C]`` (in float32 at least) and labels ``[B]``."""
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    return F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
