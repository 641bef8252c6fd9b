"""Small loops and scratch memory that several CPU kernels call from inside their own loops."""

from __future__ import annotations

import numpy as np

from ss_lightning.functional.kernels.common import LINE, jit


@jit
def copy_row(target, source):
    """``target[:] = source[:len(target)]``; numba's own slice assignment costs more than most arithmetic."""
    for j in range(target.shape[0]):
        target[j] = source[j]


@jit
def fill_row(target, value):
    """``target[:] = value``."""
    for j in range(target.shape[0]):
        target[j] = value


@jit
def latest_time(time, count):
    """The largest of ``time[:count]``, ``count`` being one or more."""
    latest = time[0]
    for j in range(1, count):
        latest = max(latest, time[j])
    return latest


@jit
def aligned_vector(size, like):
    """An uninitialised vector of the dtype of ``like`` that begins with a cache line."""
    room = np.empty(size + LINE // like.itemsize, like.dtype)
    skip = -room.ctypes.data % LINE // like.itemsize
    return room[skip : skip + size]
