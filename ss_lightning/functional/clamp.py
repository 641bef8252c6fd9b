"""A clamp whose gradient never dies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def clamp_inward(value: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``value.clamp(low, high)`` that lets a parameter outside (or on the edge) come back.

    ``torch.clamp`` has no gradient beyond its ends, so a parameter that once steps over stays there for good. Here
    the gradient passes inside, and at or beyond an end whenever a descent step along it would move inwards.
    """
    return _ClampInward.apply(value, low, high)


class _ClampInward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        # Descent moves against the gradient: outwards is up (grad < 0) at the top, down (grad > 0) at the bottom.
        outwards = ((value >= ctx.high) & (grad < 0)) | ((value <= ctx.low) & (grad > 0))
        return grad.masked_fill(outwards, 0), None, None
