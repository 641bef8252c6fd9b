import tracemalloc

import numpy as np
import pytest
import torch

from ss_lightning.data import dataset
from ss_lightning.data.dataset import EventDataset, identity
from ss_lightning.errors import UsageError
from ss_lightning.events import EventBatch

GRID = {"num_steps": 25, "step_ms": 2.0}


def test_batches_follow_the_indices(store):
    dataset = EventDataset(store, np.array([2, 4, 6, 8]), **GRID)
    events, labels = dataset.__getitems__([3, 0])
    assert isinstance(events, EventBatch)
    assert events.shape == (25, 2, 7)
    assert labels.dtype == torch.int64
    assert labels.tolist() == store.labels[[8, 2]].tolist()
    for b, index in enumerate([3, 0]):
        alone, label = dataset[index]
        torch.testing.assert_close(events.to_dense()[:, [b]], alone.to_dense())
        assert label.tolist() == [labels[b]]
    assert len(dataset) == 4


@pytest.mark.parametrize("binning", ["binary", "count"])
def test_dense_batches_equal_the_events(store, binning):
    chosen = [5, 1, 7]
    events, _ = EventDataset(store, **GRID, binning=binning).__getitems__(chosen)
    dense, _ = EventDataset(store, **GRID, binning=binning, input="dense").__getitems__(chosen)
    assert dense.dtype == torch.uint8
    assert dense.is_contiguous()
    torch.testing.assert_close(dense.float(), events.to_dense())
    expected = np.zeros((25, 3, 7))
    for b, sample in enumerate(chosen):
        part = slice(*store.offsets[sample : sample + 2])
        steps = np.floor(store.times[part] / 2.0).astype(int)
        np.add.at(expected, (steps, b, store.units[part]), 1)
    assert expected.max() > 1
    np.testing.assert_array_equal(dense, np.minimum(expected, 1) if binning == "binary" else expected)


def test_dense_counts_beyond_uint8_are_refused(build_store):
    store = build_store([[0.0] * 256], [[1] * 256], [0])
    with pytest.raises(UsageError, match=r"more than 255 times in one step of 1\.0 ms"):
        EventDataset(store, num_steps=2, step_ms=1.0, binning="count", input="dense")[0]
    counted, _ = EventDataset(store, num_steps=2, step_ms=1.0, binning="count")[0]
    assert counted.num_events == 256
    binary, _ = EventDataset(store, num_steps=2, step_ms=1.0, input="dense")[0]
    assert int(binary.sum()) == 1


@pytest.mark.parametrize("binning", ["binary", "count"])
def test_a_batch_of_very_many_units_costs_no_more_than_its_events(build_store, binning):
    most = 2**31 - 1
    store = build_store([[0, 0, 0, 1], [1]], [[most - 1, 5, 5, 0], [7]], num_units=most)
    tracemalloc.start()
    events, _ = EventDataset(store, num_steps=2, step_ms=1, binning=binning).__getitems__([1, 0])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    steps = [sorted(part.tolist()) for part in events.units.tensor_split(events.offsets[1:-1].long())]
    assert steps == [[], [7], [5, most - 1] if binning == "binary" else [5, 5, most - 1], [0]]


def test_a_dense_batch_beyond_the_memory_is_refused(build_store, monkeypatch):
    def without_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(dataset, "dense_spikes", without_memory)
    with pytest.raises(UsageError, match=r"2 steps x 1 samples x 3 units does not fit into memory.*events"):
        EventDataset(build_store(), num_steps=2, step_ms=1, input="dense")[0]


def test_a_loader_gives_batches_as_they_are(store):
    loader = torch.utils.data.DataLoader(EventDataset(store, **GRID), batch_size=5, collate_fn=identity)
    sizes = [(events.batch_size, len(labels)) for events, labels in loader]
    assert sizes == [(5, 5), (5, 5), (2, 2)]


def test_a_data_set_shows_its_grid(store):
    expected = "EventDataset(samples=2, units=4, steps=25, step_ms=2, binning='count', input='events')"
    assert repr(EventDataset(store, np.array([1, 2]), **GRID, binning="count", units_per_input=2)) == expected
