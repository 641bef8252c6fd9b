"""Surrogate gradients: a step function forwards, a smooth derivative backwards.

Each surrogate is a small frozen object that pickles, compares by value and keeps the dtype of its input; calling it
is what snnTorch expects of ``spike_grad``. The fused kernels read :attr:`Surrogate.kind` and :attr:`Surrogate.slope`;
any other callable works too, on the plain PyTorch path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


class _Spike(torch.autograd.Function):
    """Heaviside step whose derivative is the surrogate's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(x), None


@dataclass(frozen=True)
class Surrogate:
    """Base of the surrogates the fused kernels know.

    Args:
        slope: steepness at the threshold; larger means narrower.
    """

    slope: float
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.slope > 0:
            raise ValueError(f"the slope of a surrogate must be positive, got {self.slope}")

    def __call__(self, x: Tensor) -> Tensor:
        """1 where ``x > 0``, else 0, with the surrogate's derivative in the backward pass."""
        return _Spike.apply(x, self)

    def derivative(self, x: Tensor) -> Tensor:
        """The derivative used in the backward pass at ``x = V - threshold``, elementwise."""
        raise NotImplementedError


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """``1 / (slope * |x| + 1)^2``: heavy tails, so a silent neuron still learns (the paper's choice, slope 10)."""

    slope: float = 10.0
    kind: ClassVar[str] = "fast_sigmoid"

    def derivative(self, x: Tensor) -> Tensor:
        """See :meth:`Surrogate.derivative`."""
        return (x.abs() * self.slope + 1).pow(-2)


@dataclass(frozen=True)
class ATan(Surrogate):
    """``slope / 2 / (1 + (pi / 2 * slope * x)^2)``: snnTorch's default, slope 2."""

    slope: float = 2.0
    kind: ClassVar[str] = "atan"

    def derivative(self, x: Tensor) -> Tensor:
        """See :meth:`Surrogate.derivative`."""
        return self.slope / 2 / ((x * (math.pi / 2 * self.slope)).square() + 1)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """``max(0, 1 - slope * |x|)``: compact support, so a neuron far from threshold learns nothing."""

    slope: float = 1.0
    kind: ClassVar[str] = "triangle"

    def derivative(self, x: Tensor) -> Tensor:
        """See :meth:`Surrogate.derivative`."""
        return (1 - x.abs() * self.slope).clamp(min=0)


_KINDS: dict[str, type[Surrogate]] = {c.kind: c for c in (FastSigmoid, ATan, Triangle)}


def make_surrogate(kind: str, slope: float | None = None) -> Surrogate:
    """The surrogate that a configuration names, with its own default slope when ``slope`` is None."""
    if kind not in _KINDS:
        raise ValueError(f"unknown surrogate {kind!r}; choose one of {', '.join(sorted(_KINDS))}")
    surrogate: Callable[..., Surrogate] = _KINDS[kind]
    return surrogate() if slope is None else surrogate(slope)
