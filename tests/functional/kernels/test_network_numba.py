"""The helpers of the numba kernels; the networks that they run are tested in test_network.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ss_lightning.events import EventBatch
from ss_lightning.functional.kernels import network_numba as kernels


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (16, 3), (37, 5), (64, 2)])
def test_join_is_the_inverse_of_cut(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).standard_normal(shape)
    table = np.full((2, shape[1], 32), np.nan)
    middle = shape[1] // 2
    kernels.cut_weight(weight, 0, middle, table)
    assert np.isnan(table[:, middle:]).all()
    kernels.cut_weight(weight, middle, shape[1], table)
    assert np.isfinite(table).all()
    assert table.transpose(0, 2, 1).reshape(64, -1)[shape[0] :].sum() == 0
    joined = np.empty_like(weight)
    for low, high in ((0, middle), (middle, shape[1])):
        kernels.join_weight(table, low, high, joined)
    assert np.array_equal(joined, weight)


def test_hidden_spikes_become_events() -> None:
    times = np.array([[3, 0, 5, 3], [5, 5, 5, 5], [4, 4, 0, 1]], np.int32)
    dense = torch.zeros(5, 3, 4)
    for b, j in np.argwhere(times < 5):
        dense[times[b, j], b, j] = 1
    units, offsets = np.empty(12, np.uint32), np.empty(18, np.int32)
    kernels.times_to_events(times, 5, units, offsets)
    expected = EventBatch.from_dense(dense)
    for b in range(3):
        for t in range(5):
            found = units[offsets[b * 6 + t] : offsets[b * 6 + t + 1]]
            row = b * 5 + t
            assert found.tolist() == expected.units[expected.offsets[row] : expected.offsets[row + 1]].tolist()
