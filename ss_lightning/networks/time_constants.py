"""Time constants of neurons: in milliseconds for people, as a decay per step for neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def decay(tau_ms: float, step_ms: float) -> float:
    """Decay per step of a time constant, ``exp(-step_ms / tau_ms)``.

    Args:
        tau_ms: time constant in milliseconds; infinity never leaks, 0 forgets at once.
        step_ms: length of a step in milliseconds.

    Returns:
        A number in ``[0, 1]``.

    Raises:
        ValueError: the time constant is negative.

    Example:
        >>> round(decay(tau_ms=10.0, step_ms=1.0), 4)
        0.9048
    """
    if not tau_ms >= 0:
        raise ValueError(f"a time constant must be zero or more milliseconds, got {tau_ms}")
    return math.exp(-step_ms / tau_ms) if tau_ms > 0 else 0.0


def draw_decays(tau_ms: float | Sequence[float], step_ms: float, shape: Sequence[int]) -> Tensor:
    """Decays per step of neurons of the given shape.

    Args:
        tau_ms: the time constant of all in milliseconds, or the two ends of a range from which every neuron draws its
            own, uniform in the logarithm.
        step_ms: length of a step in milliseconds.
        shape: shape of the neurons.

    Returns:
        A tensor of that shape, with values in ``[0, 1]``.

    Raises:
        ValueError: a time constant is negative, or a range is not ``[low, high]`` with ``0 < low <= high``.
    """
    if not isinstance(tau_ms, Sequence):
        return torch.full(tuple(shape), decay(tau_ms, step_ms))
    if len(tau_ms) != 2 or not 0 < tau_ms[0] <= tau_ms[1] < math.inf:
        raise ValueError(f"a range of time constants must be [low, high] with 0 < low <= high, got {list(tau_ms)}")
    low, high = map(math.log, tau_ms)
    return torch.exp(-step_ms / torch.exp(low + (high - low) * torch.rand(*shape)))


class LogTau(nn.Module):
    """Parametrisation of a decay by the logarithm of its time constant in milliseconds.

    One learning rate then suits short and long memories, and the decay cannot leave ``(0, 1)``. A decay of 0 or 1 has
    no such logarithm: it starts from the nearest decay that has one.

    Args:
        step_ms: length of a step in milliseconds.
    """

    def __init__(self, step_ms: float) -> None:
        super().__init__()
        self.step_ms = step_ms

    def forward(self, log_tau: Tensor) -> Tensor:
        """Decay per step."""
        return torch.exp(-self.step_ms * torch.exp(-log_tau))

    def right_inverse(self, beta: Tensor) -> Tensor:
        """The logarithm of the time constant."""
        return torch.log(-self.step_ms / torch.log(beta.clamp(1e-6, 1 - 1e-6)))
