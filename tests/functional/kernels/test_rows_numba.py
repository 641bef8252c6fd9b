"""Sums of rows in registers, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError

from ss_lightning.functional.kernels.rows_numba import add_rows


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 100),
    spare=st.sampled_from([0, 1, 16]),
    rows=st.integers(1, 9),
    bounds=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    dtype=st.sampled_from([np.float32, np.float64]),
    offset=st.integers(0, 3),
)
def test_equals_numpy(width: int, spare: int, rows: int, bounds: tuple[int, int], dtype: type, offset: int) -> None:
    """Any width, aligned or not, empty or backward ranges included; nothing beyond the total is touched."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((rows, width + spare)).astype(dtype)
    index = rng.integers(0, rows, 40).astype(np.uint32)
    room = rng.standard_normal(offset + width + 3).astype(dtype)
    expected = room.copy()
    for k in range(*bounds):
        expected[offset : offset + width] += table[index[k], :width]
    add_rows(room[offset : offset + width], table, index, *bounds)
    assert np.array_equal(room, expected)


@pytest.mark.parametrize(
    ("total", "table", "index"),
    [
        (np.zeros(4, np.float32), np.zeros((2, 4)), np.zeros(1, np.uint32)),
        (np.zeros(4), np.zeros((2, 4)), np.zeros(1, np.int64)),
        (np.zeros(4), np.zeros((2, 8))[:, ::2], np.zeros(1, np.uint32)),
        (np.zeros(8)[::2], np.zeros((2, 4)), np.zeros(1, np.uint32)),
    ],
)
def test_refuses_what_it_would_read_wrongly(total: np.ndarray, table: np.ndarray, index: np.ndarray) -> None:
    with pytest.raises(TypingError, match="must be"):
        add_rows(total, table, index, 0, 1)
