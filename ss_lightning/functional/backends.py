"""Which implementation does the work: plain PyTorch always can, the fused kernels where they know how."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from ss_lightning.functional.kernels.common import KNOWN_SURROGATES

BACKENDS = ("auto", "torch", "numba", "triton")


def choose_backend(
    backend: str, device: torch.device, dtype: torch.dtype, surrogate: Callable[..., Any]
) -> ModuleType | None:
    """The kernels asked for if they can do the job, or for ``auto`` those of the device; None means plain PyTorch.

    Raises:
        ValueError: the word is unknown, or the backend asked for cannot do the job.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    name = {"cpu": "numba", "cuda": "triton"}.get(device.type, "torch") if backend == "auto" else backend
    # torch.compile and torch.export cannot look into the kernels.
    if name == "torch" or (backend == "auto" and torch.compiler.is_compiling()):
        return None
    obstacle = _obstacle(name, device, dtype, surrogate)
    if obstacle is None:
        return import_kernels(name)
    if backend != "auto":
        raise ValueError(f"the {backend} backend cannot be used: {obstacle}; use backend='torch' or 'auto'")
    return None


def _obstacle(backend: str, device: torch.device, dtype: torch.dtype, surrogate: Callable[..., Any]) -> str | None:
    """Why a backend cannot do the job; None if it can."""
    if type(surrogate) not in KNOWN_SURROGATES:  # a subclass may have another derivative
        return f"it knows the surrogates of ss_lightning.surrogate only, not {surrogate!r}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, not in {dtype}"
    if backend == "numba" and device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {device}"
    kernels = import_kernels(backend)
    if kernels is None:
        return "Triton cannot be imported (see the warning)"
    if backend == "triton" and device.type != "cuda" and not kernels.INTERPRETED:
        return f"it runs on CUDA, and the tensors are on {device} (TRITON_INTERPRET=1 runs it on the CPU, slowly)"
    return None


@lru_cache
def import_kernels(backend: str) -> ModuleType | None:
    """The network kernels of a backend; None, with one warning, where Triton, which is optional, does not import."""
    if backend == "numba":
        return import_module("ss_lightning.functional.kernels.network_numba")
    try:
        return import_module("ss_lightning.functional.kernels.network_triton")
    except Exception as error:  # a broken installation can raise anything
        warnings.warn(
            f"Triton cannot be imported ({type(error).__name__}: {error}); the slower PyTorch path is used instead",
            RuntimeWarning,
            stacklevel=5,
        )
        return None
