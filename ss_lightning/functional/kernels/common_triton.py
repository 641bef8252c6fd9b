"""What the Triton kernels share: launch options, the derivative of a surrogate, the device of a launch, and a probe."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss_lightning.functional.kernels.common import surrogate_shape
from ss_lightning.surrogate import Surrogate

INTERPRETED: bool = triton.knobs.runtime.interpret

_WARP = 64 if torch.version.hip else 32


def launch_options(block: int, registers: int | None = None) -> dict[str, Any]:
    """Options of a kernel whose program handles ``block`` columns, one to a thread.

    Product and sum are rounded one after the other, as in every other backend. So all backends spike alike.

    Args:
        block: columns of a program.
        registers: how many a thread may have on NVIDIA's cards. Left alone, their compiler may spill one rather than
            take a few more.
    """
    options = {"BLOCK": block, "num_warps": max(1, block // _WARP), "enable_fp_fusion": False}
    return options if registers is None or torch.version.hip else {**options, "maxnreg": registers}


def device_guard(tensor: Tensor) -> Any:
    """A context in which the device of ``tensor`` is the current one: Triton launches there, not where the data is."""
    return torch.cuda.device_of(tensor)


@lru_cache
def _shape(height: float, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([height, scale], dtype=dtype, device=device)


def shape_tensor(surrogate: Surrogate, like: Tensor) -> Tensor:
    """Height and scale of a surrogate, as :func:`surrogate_derivative` takes them; copied to a device only once."""
    return _shape(*surrogate_shape(surrogate), like.dtype, like.device)


@triton.jit
def surrogate_derivative(x, height, scale, SURROGATE: tl.constexpr):
    """Derivative of the surrogate at ``x = V - threshold``; :func:`shape_tensor` gives height and scale."""
    if SURROGATE == 0:
        base = tl.abs(x) * scale + 1
        result = height / (base * base)
    elif SURROGATE == 1:
        scaled = x * scale
        result = height / (scaled * scaled + 1)
    else:
        result = tl.maximum(height - tl.abs(x) * scale, 0.0)
    return result


@triton.jit
def _write_one(out):
    tl.store(out, 1.0)


def launch_probe(device: torch.device) -> None:
    """Launch the smallest kernel on a device.

    Raises:
        Exception: whatever Triton raises where it cannot launch, for example without a C compiler.
    """
    out = torch.zeros(1, device=device)
    with device_guard(out):
        _write_one[(1,)](out, num_warps=1)
