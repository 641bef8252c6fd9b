"""Thresholds that fall: a neuron that fires once should not be spent before what it listens for has begun.

A threshold ``theta[t]`` that is the same for all samples is the same thing as a current. With ``h[t] = theta[t] -
theta_0``, the membrane ``U[t] = V[t] - h[t]`` crosses ``theta_0`` exactly when ``V[t]`` crosses ``theta[t]``, and it
obeys the same equation, ``U[t] = beta * U[t-1] + I[t] - (h[t] - beta * h[t-1])`` with ``h[-1] = 0``. So the neurons and
kernels need nothing new: what falls goes into a bias ``[T, N]``, gradients included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def raised_threshold(onset: Tensor, num_steps: int, rise: float) -> Tensor:
    """How far the threshold lies above its final value: a ramp down that ends at the onset.

    Args:
        onset: when the neuron becomes as sensitive as it will be, in steps, ``[N]``; zero or less has no effect.
        num_steps: ``T``.
        rise: how much the threshold falls per step before the onset.

    Returns:
        ``rise * max(onset - t, 0)``, ``[T, N]``, differentiable in the onset.
    """
    step = torch.arange(num_steps, dtype=onset.dtype, device=onset.device)
    return rise * F.relu(onset - step[:, None])


def threshold_current(raised: Tensor, beta: Tensor) -> Tensor:
    """The current that has the same effect as a raised threshold.

    Args:
        raised: ``h``, how far the threshold is raised, ``[T, N]``.
        beta: decay of the membrane, ``[N]`` or 0-d.

    Returns:
        ``-(h[t] - beta * h[t-1])``, ``[T, N]``.
    """
    return beta * F.pad(raised, (0, 0, 1, 0))[:-1] - raised
