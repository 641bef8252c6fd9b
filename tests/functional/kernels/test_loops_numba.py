"""Small loops of the CPU kernels, against plain NumPy."""

from __future__ import annotations

import numpy as np

from ss_lightning.functional.kernels.common import LINE
from ss_lightning.functional.kernels.loops_numba import aligned_vector, copy_row, fill_row, latest_time


def test_copy_and_fill_touch_the_target_alone() -> None:
    room = np.arange(6.0)
    copy_row(room[1:4], np.array([7.0, 8.0, 9.0, 10.0]))
    assert room.tolist() == [0, 7, 8, 9, 4, 5]
    fill_row(room[4:], 2)
    assert room.tolist() == [0, 7, 8, 9, 2, 2]


def test_latest_time_looks_at_the_first_few() -> None:
    time = np.array([3, 8, 5, 9], np.int32)
    assert [latest_time(time, count) for count in (1, 2, 3, 4)] == [3, 8, 8, 9]


def test_vectors_begin_with_a_cache_line() -> None:
    for dtype in (np.float32, np.float64, np.int32):
        vector = aligned_vector(5, np.zeros(1, dtype))
        assert (vector.shape, vector.dtype) == ((5,), dtype)
        assert vector.ctypes.data % LINE == 0
