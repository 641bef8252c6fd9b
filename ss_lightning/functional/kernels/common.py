"""What the kernels share: the tensors of a layer, codes of words, event arrays, aligned memory, ways to compile.

This module imports neither numba nor Triton, so that :mod:`ss_lightning.functional.network` can use it at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ss_lightning.events import EventBatch
from ss_lightning.jit import compiled
from ss_lightning.surrogate import ATan, FastSigmoid, Surrogate, Triangle

LINE = 64  # bytes of a cache line

# Codes under which the kernels know the words.
KNOWN_SURROGATES: tuple[type[Surrogate], ...] = (FastSigmoid, ATan, Triangle)
SURROGATE_CODES = {surrogate.kind: code for code, surrogate in enumerate(KNOWN_SURROGATES)}
ESTIMATOR_CODES = {"ramp": 0, "survival": 1, "flat": 2, "masked": 3}

jit: Callable[..., Any] = partial(compiled, error_model="numpy")
# Products and sums may be fused into one rounding here: only in gradients, never where a membrane comes from.
jit_fused: Callable[..., Any] = partial(jit, fastmath={"contract"})
jit_inline: Callable[..., Any] = partial(jit_fused, forceinline=True)
# The terms of a sum may be added in any order here: a dot product is no vector code otherwise.
jit_reduce: Callable[..., Any] = partial(jit, fastmath={"contract", "reassoc"})


class LayerTensors(NamedTuple):
    """What the kernels take of one layer: weight ``[N_out, N_in]``, the others ``[N_out]``, of one dtype.

    The bias may be None or ``[T, N_out]``; the readout has no threshold. Gradients come back in the same form, None
    where none is asked for, and so do the flags that ask for them.
    """

    weight: Any
    bias: Any
    beta: Any
    threshold: Any


class EventArrays(NamedTuple):
    """Events of sample ``b`` in step ``t``: ``units[offsets[b * stride + t] : offsets[b * stride + t + 1]]``."""

    units: np.ndarray  # uint32: numba checks a signed index for wrap-around
    offsets: np.ndarray
    stride: int

    def samples(self, low: int, high: int) -> EventArrays:
        """Those of the samples ``low <= b < high``."""
        return self._replace(offsets=self.offsets[low * self.stride : high * self.stride + 1])


def event_arrays(events: EventBatch) -> EventArrays:
    """The arrays of a batch on the CPU.

    Raises:
        ValueError: an event names a unit that the batch does not have; a kernel would read beyond the weights.
    """
    if events.num_events:
        low, high = (int(unit) for unit in events.units.aminmax())
        if low < 0 or high >= events.num_units:
            raise ValueError(
                f"the events name units {low} to {high}, but a batch of {events.num_units} units has only 0 to "
                f"{events.num_units - 1}"
            )
    return EventArrays(events.units.numpy().view(np.uint32), events.offsets.numpy(), events.num_steps)


def estimator_code(estimator: str) -> int:
    """The number under which the kernels know an estimator.

    Raises:
        ValueError: they do not know the word.
    """
    return _code("estimator", estimator, ESTIMATOR_CODES)


def surrogate_code(surrogate: Surrogate) -> int:
    """The number under which the kernels know a surrogate.

    Raises:
        ValueError: they do not know its kind.
    """
    return _code("surrogate", surrogate.kind, SURROGATE_CODES)


def _code(what: str, word: str, codes: dict[str, int]) -> int:
    if word not in codes:
        raise ValueError(f"unknown {what} {word!r}; choose one of {', '.join(codes)}")
    return codes[word]


def surrogate_shape(surrogate: Surrogate) -> tuple[float, float]:
    """Height of the surrogate at the threshold, and the scale of its argument, as the kernels read them."""
    if surrogate.kind == "atan":
        return surrogate.slope / 2, surrogate.slope * math.pi / 2
    return 1.0, surrogate.slope


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """``np.empty`` that begins with a cache line: vectors that straddle two of them cost twice (a tenth of a step)."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + LINE, np.uint8)
    skip = -room.ctypes.data % LINE
    return room[skip : skip + size].view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """``np.zeros`` as :func:`aligned_empty`."""
    values = aligned_empty(shape, dtype)
    values.fill(0)
    return values
