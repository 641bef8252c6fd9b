"""Codes of words, event arrays and aligned memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ss_lightning.events import EventBatch
from ss_lightning.functional import ESTIMATORS
from ss_lightning.functional.kernels import common, dense_numba
from ss_lightning.functional.kernels.common import LINE
from ss_lightning.surrogate import ATan, FastSigmoid, Surrogate, Triangle


@dataclass(frozen=True)
class Unknown(FastSigmoid):
    kind = "box"


def test_every_estimator_and_surrogate_has_its_own_code() -> None:
    assert tuple(common.ESTIMATOR_CODES) == ESTIMATORS
    assert [common.estimator_code(word) for word in ESTIMATORS] == [0, 1, 2, 3]
    assert set(common.KNOWN_SURROGATES) == {
        s for s in Surrogate.__subclasses__() if s.__module__ == Surrogate.__module__
    }
    assert [common.surrogate_code(kind()) for kind in (FastSigmoid, ATan, Triangle)] == [0, 1, 2]
    rules = [
        (estimator, kind)
        for estimator in sorted(common.ESTIMATOR_CODES, key=common.ESTIMATOR_CODES.__getitem__)
        for kind in sorted(common.SURROGATE_CODES, key=common.SURROGATE_CODES.__getitem__)
    ]
    assert rules == dense_numba._RULES


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'rmap'; choose one of ramp, survival, flat, masked"):
        common.estimator_code("rmap")
    with pytest.raises(ValueError, match="unknown surrogate 'box'; choose one of fast_sigmoid, atan, triangle"):
        common.surrogate_code(Unknown())


@pytest.mark.parametrize("surrogate", [FastSigmoid(7), ATan(3), Triangle(0.5)], ids=lambda s: s.kind)
def test_shape_is_that_of_the_derivative(surrogate: Surrogate) -> None:
    """The height is the derivative at the threshold; the scale is put into the formulas of the kernels."""
    height, scale = common.surrogate_shape(surrogate)
    x = torch.tensor([0.0, 0.3, -0.8], dtype=torch.float64)
    y = x * scale
    formulas = [height / (y.abs() + 1) ** 2, height / (y * y + 1), (1 - y.abs()).clamp(min=0)]
    torch.testing.assert_close(formulas[common.surrogate_code(surrogate)], surrogate.derivative(x))
    assert height == surrogate.derivative(x)[0]


def test_units_of_events_are_looked_at() -> None:
    events = EventBatch.from_dense(torch.eye(3)[:, None].expand(3, 2, 3))
    arrays = common.event_arrays(events)
    assert arrays.units.dtype == np.uint32
    assert arrays.units.tolist() == [0, 1, 2, 0, 1, 2]
    assert arrays.samples(1, 2).offsets.tolist() == [3, 4, 5, 6]
    events.units[4] = 3
    with pytest.raises(ValueError, match="name units 0 to 3, but a batch of 3 units has only 0 to 2"):
        common.event_arrays(events)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_begins_with_a_cache_line(dtype: type) -> None:
    for shape in ((1,), (3, 5), (17,)):
        values = common.aligned_zeros(shape, np.dtype(dtype))
        assert (values.shape, values.dtype) == (shape, dtype)
        assert values.ctypes.data % LINE == 0
        assert not values.any()
