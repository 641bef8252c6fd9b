"""Which implementation does the work: plain PyTorch always can, the fused kernels where they know how."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from ss_lightning.errors import UsageError
from ss_lightning.functional.kernels.common import KNOWN_SURROGATES

BACKENDS = ("auto", "torch", "numba", "triton")
# Of a whole network: Triton's kernels too, with matrix products for the input layer, see input_synapse.
NETWORK_BACKENDS = (*BACKENDS, "dense", "dense_bf16")
# The kernels that ``auto`` takes on a device, and the modules in which those of a kind of work are.
OF_DEVICE = {"cpu": "numba", "cuda": "triton"}
MODULES = {
    ("network", "numba"): "network_numba",
    ("network", "triton"): "network_triton",
    ("network", "dense"): "network_triton",
    ("network", "dense_bf16"): "network_triton",
    ("spikes", "numba"): "dense_numba",
    ("spikes", "triton"): "scan_triton",
    ("scan", "triton"): "scan_triton",
}


def choose_backend(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    surrogate: Callable[..., Any] | None,
    *,
    work: str = "network",
) -> ModuleType | None:
    """The kernels asked for if they can do the job, or for ``auto`` those of the device; None means plain PyTorch.

    Args:
        backend: ``auto``, ``torch``, ``numba`` or ``triton``; of a network also ``dense`` or ``dense_bf16``.
        device: where the tensors are.
        dtype: in which the kernels would compute.
        surrogate: derivative of a crossing, or None where there is none.
        work: ``network`` (on events), ``spikes`` (of a dense current) or ``scan`` (a membrane that never fires).

    Raises:
        UsageError: the word is unknown, or the backend asked for cannot do the job (a ValueError).
    """
    known = NETWORK_BACKENDS if work == "network" else BACKENDS
    if backend not in known:
        raise UsageError(f"unknown backend {backend!r}; choose one of {', '.join(known)}")
    name = OF_DEVICE.get(device.type, "torch") if backend == "auto" else backend
    # torch.compile and torch.export cannot look into the kernels.
    if name == "torch" or (backend == "auto" and torch.compiler.is_compiling()):
        return None
    obstacle = _obstacle(name, device, dtype, surrogate, work)
    if obstacle is None:
        return import_kernels(name, work)
    if backend != "auto":
        raise UsageError(f"the {backend} backend cannot be used: {obstacle}; use backend='torch' or 'auto'")
    return None


def _obstacle(
    backend: str, device: torch.device, dtype: torch.dtype, surrogate: Callable[..., Any] | None, work: str
) -> str | None:
    """Why a backend cannot do the job; None if it can."""
    if (work, backend) not in MODULES:
        return f"it has no kernels for this work ({work})"
    if surrogate is not None and type(surrogate) not in KNOWN_SURROGATES:  # a subclass may have another derivative
        return f"it knows the surrogates of ss_lightning.surrogate only, not {surrogate!r}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, not in {dtype}"
    if backend == "dense_bf16" and dtype != torch.float32:
        return f"it splits weights of float32, not of {dtype}"
    if backend == "numba" and device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {device}"
    if backend == "numba":
        return None
    if import_kernels(backend, work) is None:
        return "Triton cannot be imported (see the warning)"
    from ss_lightning.functional.kernels import common_triton  # Triton is imported only where it is used

    if device.type != "cuda" and not common_triton.INTERPRETED:
        return f"it runs on CUDA, and the tensors are on {device} (TRITON_INTERPRET=1 runs it on the CPU, slowly)"
    return None if can_launch(device) else "Triton cannot launch a kernel (see the warning)"


@lru_cache
def can_launch(device: torch.device) -> bool:
    """Whether Triton launches kernels on a device; False, with one warning, for example without a C compiler."""
    from ss_lightning.functional.kernels import common_triton

    try:
        common_triton.launch_probe(device)
    except Exception as error:  # Triton, its compilers and the driver raise what they like
        warnings.warn(
            f"Triton cannot launch a kernel on {device} ({type(error).__name__}: {error}); the slower PyTorch path is "
            "used instead. Triton needs a C compiler and the driver of the card",
            RuntimeWarning,
            stacklevel=5,
        )
        return False
    return True


@lru_cache
def import_kernels(backend: str, work: str = "network") -> ModuleType | None:
    """The kernels of a backend; None, with one warning, where Triton, which is optional, does not import."""
    name = f"ss_lightning.functional.kernels.{MODULES[work, backend]}"
    if backend == "numba":
        return import_module(name)
    try:
        return import_module(name)
    except Exception as error:  # a broken installation can raise anything
        warnings.warn(
            f"Triton cannot be imported ({type(error).__name__}: {error}); the slower PyTorch path is used instead",
            RuntimeWarning,
            stacklevel=5,
        )
        return None
