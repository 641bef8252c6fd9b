"""Stores of events, and the libraries that download data."""

import numpy as np
import pytest

from ss_lightning.data import EventStore


@pytest.fixture
def store(recordings):
    """Twelve random recordings of seven units, in three groups."""
    return EventStore.from_arrays(*recordings(), num_units=7, time_unit="s", groups=np.arange(12) // 4)


@pytest.fixture
def build_store():
    """A store of two recordings with three units, unless told otherwise."""

    def build(times=None, units=None, labels=(0, 1), **kwargs):
        times = [[0.0, 1.0], [2.0]] if times is None else times
        units = [[0, 1], [2]] if units is None else units
        return EventStore.from_arrays(times, units, labels, **{"num_units": 3, "time_unit": "ms", **kwargs})

    return build
