import json

import numpy as np
import pytest
import torch

from ss_lightning.data import store as events_module
from ss_lightning.data.store import EventDataset, EventStore, identity, with_common_classes
from ss_lightning.errors import DataError, UsageError
from ss_lightning.events import EventBatch

GRID = {"num_steps": 25, "step_ms": 2.0}


@pytest.fixture
def store(recordings):
    return EventStore.from_arrays(*recordings(), num_units=7, time_unit="s", groups=np.arange(12) // 4)


def build(times=None, units=None, labels=(0, 1), **kwargs):
    times = [[0.0, 1.0], [2.0]] if times is None else times
    units = [[0, 1], [2]] if units is None else units
    return EventStore.from_arrays(times, units, labels, **{"num_units": 3, "time_unit": "ms", **kwargs})


def test_a_store_holds_what_it_was_given(recordings):
    times, units, labels = recordings()
    store = EventStore.from_arrays(times, units, labels, num_units=7, time_unit="s")
    np.testing.assert_allclose(store.times, np.concatenate(times) * 1000, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(store.units, np.concatenate(units))
    np.testing.assert_array_equal(np.diff(store.offsets), [len(t) for t in times])
    np.testing.assert_array_equal(store.labels, labels)
    assert (len(store), store.num_events) == (12, sum(map(len, times)))
    assert (store.num_classes, store.input_shape, store.class_names) == (3, (7,), ("0", "1", "2"))
    assert (store.units.dtype, store.offsets.dtype, store.labels.dtype) == (np.uint16, np.int64, np.int64)
    assert not store.times.flags.writeable


def test_half_precision_seconds_are_exact_milliseconds_in_float32():
    seconds = np.arange(0, 2**15, 7, dtype=np.uint16).view(np.float16)
    seconds = np.sort(seconds[np.isfinite(seconds)])
    store = build([seconds], [np.zeros(len(seconds))], [0], time_unit="s")
    assert store.times.dtype == np.float32
    np.testing.assert_array_equal(store.times.astype(np.float64), seconds.astype(np.float64) * 1000)


def test_whole_milliseconds_in_seconds_stay_whole():
    milliseconds = np.arange(5000)
    assert (np.floor(milliseconds / 1000 * 1000) != milliseconds).any()  # what the rounding is for
    store = build([milliseconds / 1000], [np.zeros(5000)], [0], time_unit="s")
    assert store.times.dtype == np.float64
    np.testing.assert_array_equal(store.times, milliseconds)


def test_microseconds_stay_integers_and_find_their_step():
    store = build([[0, 299, 300, 301]], [[0, 1, 2, 0]], [0], time_unit="us")
    assert (store.times.dtype, store.time_unit) == (np.int32, "us")
    events, _ = EventDataset(store, num_steps=10, step_ms=0.1)[0]  # 0.3 / 0.1 is 2.999... in floats
    assert events.offsets.diff().tolist() == [1, 0, 1, 2, 0, 0, 0, 0, 0, 0]


def test_unsorted_samples_are_sorted_alone_and_stably():
    store = build([[3.0, 1.0, 1.0], [0.0, 5.0], [2.0, 1.0]], [[0, 2, 1], [0, 1], [2, 0]], [0, 0, 0])
    assert store.times.tolist() == [1, 1, 3, 0, 5, 1, 2]
    assert store.units.tolist() == [2, 1, 0, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"units": [[0, 1], [3]]}, ["sample 1", "unit 3", "0 to 2"]),
        ({"units": [[0, -1], [2]]}, ["sample 0", "unit -1"]),
        ({"units": [[0, 1], [1.5]]}, ["sample 1", "unit 1.5", "whole numbers"]),
        ({"units": [[0, 1], [np.nan]]}, ["sample 1", "unit nan"]),
        ({"units": [["a", "b"], ["c"]]}, ["units are of type", "whole numbers"]),
        ({"times": [[0.0, 1.0], [-1.0]]}, ["sample 1", "-1.0", "zero or more"]),
        ({"times": [[0.0, np.nan], [1.0]]}, ["sample 0", "nan"]),
        ({"times": [[0.0, 1.0], [np.inf]]}, ["sample 1", "inf"]),
        ({"times": [[0.0, 1.0], [1j]]}, ["complex", "real numbers"]),
        ({"times": [[0.0], [1.0]]}, ["sample 0", "1 times but 2 units"]),
        ({"times": [[[0.0, 1.0]], [1.0]]}, ["sample 0", "shape (1, 2)", "flat"]),
        ({"times": [[0.0, 1.0]]}, ["1 times, 2 units, 2 labels"]),
        ({"labels": [0, -1]}, ["sample 1", "label -1"]),
        ({"labels": [0, 5], "num_classes": 3}, ["sample 1", "label 5", "0 to 2"]),
        ({"labels": [0, 0.5]}, ["labels", "0.5", "sample 1"]),
        ({"labels": ["yes", "no"]}, ["labels", "whole number"]),
        ({"labels": [[0], [0, 1]]}, ["labels", "whole number"]),
        ({"times": [[0.0, 1.0], []], "units": [[0, 1], []]}, ["sample 1", "no events", "allow_empty"]),
        ({"times": [], "units": [], "labels": []}, ["no samples"]),
        ({"groups": [1]}, ["1 groups"]),
    ],
)
def test_bad_data_are_named(arguments, words):
    with pytest.raises(DataError) as caught:
        build(**arguments, source="mine.h5")
    for word in ["mine.h5", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"time_unit": "min"}, ["time_unit", "'min'"]),
        ({"num_units": 0}, ["num_units", "0"]),
        ({"input_shape": (2, 2)}, ["input_shape", "(2, 2)", "3"]),
        ({"num_classes": 2, "class_names": ["a"]}, ["class_names", "1 names for 2"]),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(UsageError) as caught:
        build(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_silent_samples_are_accepted_on_request_and_keep_their_place():
    store = build([[], [1, 3], []], [[], [0, 1], []], [0, 1, 2], allow_empty=True, time_unit="us")
    assert store.times.dtype == np.int32  # [] is float64 to numpy and must not turn the others
    events, labels = EventDataset(store, num_steps=2, step_ms=0.002).__getitems__([2, 1, 0])
    assert events.events_per_sample().tolist() == [0, 2, 0]
    assert labels.tolist() == [2, 1, 0]


def test_a_latency_code_fires_each_unit_once():
    steps = np.random.default_rng(0).integers(0, 9, (50, 11)).astype(np.uint8)
    fires = np.random.default_rng(1).random((50, 11)) < 0.7
    options = {"num_classes": 2, "input_shape": (11,), "class_names": ("a", "b")}
    for mask in (None, fires):
        store = EventStore.from_latencies(steps, np.arange(50) % 2, fires=mask, **options)
        dense, _ = EventDataset(store, num_steps=9, step_ms=3.0, input="dense").__getitems__(range(50))
        expected = np.arange(9)[:, None, None] == steps
        if mask is not None:
            expected &= mask
        np.testing.assert_array_equal(dense, expected)


def test_share_after_the_grid():
    store = build([[0, 9.9, 10, 11]], [[0, 1, 2, 0]], [0])
    assert store.share_after(10, 1.0) == 0.5
    assert store.share_after(12, 1.0) == 0.0


def test_with_common_classes_takes_the_larger_count():
    small, large = build(class_names=["a", "b"]), build(labels=[0, 2], class_names=["a", "b", "c"])
    stores = with_common_classes({"train": small, "test": large})
    assert {store.class_names for store in stores.values()} == {("a", "b", "c")}
    assert {store.num_classes for store in stores.values()} == {3}


# Saving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [True, False])
def test_save_and_load(store, tmp_path, is_mapped, mmap):
    store.save(tmp_path / "kept")
    loaded = EventStore.load(tmp_path / "kept", mmap=mmap)
    for name in ("times", "units", "offsets", "labels", "groups"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(store, name))
        assert getattr(loaded, name).dtype == getattr(store, name).dtype
    for name in ("num_units", "num_classes", "input_shape", "class_names", "time_unit"):
        assert getattr(loaded, name) == getattr(store, name)
    assert is_mapped(loaded.times) == mmap
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("silent", [[], [0], [1, 2], [5], range(6)])
def test_parts_are_written_and_joined_as_one(tmp_path, silent):
    """Parts of one or several samples, the first of them silent too."""
    rng = np.random.default_rng(0)
    times = [np.sort(rng.random(0 if sample in silent else sample + 1)) for sample in range(6)]
    units = [rng.integers(0, 3, len(t)) for t in times]
    options = {"num_classes": 6, "allow_empty": True}
    whole = build(times, units, range(6), groups=range(6), **options)
    parts = [build(times[p], units[p], range(6)[p], groups=range(6)[p], **options) for p in PARTS]
    EventStore.write(tmp_path / "kept", iter(parts))
    for store in (EventStore.load(tmp_path / "kept"), EventStore.joined(parts)):
        for name in ("times", "units", "offsets", "labels", "groups"):
            np.testing.assert_array_equal(getattr(store, name), getattr(whole, name))
            assert getattr(store, name).dtype == getattr(whole, name).dtype


PARTS = [slice(0, 1), slice(1, 3), slice(3, 6)]


def test_parts_of_other_types_are_refused(tmp_path):
    whole, single = build([[0, 1], [2]], time_unit="us"), build()
    with pytest.raises(ValueError, match="types"):
        EventStore.write(tmp_path / "kept", [whole, single])
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_events_can_be_kept(tmp_path):
    build([[], []], [[], []], allow_empty=True).save(tmp_path / "kept")
    assert EventStore.load(tmp_path / "kept").num_events == 0


def test_save_replaces_a_store_but_no_other_folder(store, tmp_path):
    build().save(tmp_path / "kept")
    store.save(tmp_path / "kept")
    assert len(EventStore.load(tmp_path / "kept")) == len(store)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear")
    with pytest.raises(UsageError, match="thesis exists and is not a stored data set"):
        store.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "dear"


def test_a_failed_save_leaves_the_old_store_and_no_rest(store, tmp_path, monkeypatch):
    build().save(tmp_path / "kept")
    monkeypatch.setattr(events_module._ArrayFile, "append", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.save(tmp_path / "kept")
    assert len(EventStore.load(tmp_path / "kept")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "units.npy").unlink(),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "times.npy").write_bytes((folder / "times.npy").read_bytes()[:-8]),
        lambda folder: (folder / "labels.npy").write_bytes(b""),
        lambda folder: flip_last_byte(folder / "units.npy"),
        lambda folder: flip_last_byte(folder / "offsets.npy"),
    ],
    ids=["no units", "no meta", "half meta", "other meta", "short times", "empty labels", "units", "offsets"],
)
@pytest.mark.parametrize("mmap", [True, False])
def test_a_damaged_store_is_not_loaded(store, tmp_path, damage, mmap):
    store.save(tmp_path / "kept")
    damage(tmp_path / "kept")
    with pytest.raises(DataError, match=r"kept.*Build it again"):
        EventStore.load(tmp_path / "kept", mmap=mmap)


def test_another_format_version_is_not_loaded(store, tmp_path):
    store.save(tmp_path / "kept")
    meta = json.loads((tmp_path / "kept" / "meta.json").read_text())
    (tmp_path / "kept" / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(DataError, match="format 99, expected 2"):
        EventStore.load(tmp_path / "kept")


# Batches ----------------------------------------------------------------------------------------------------


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


def test_dense_counts_beyond_uint8_are_refused():
    store = build([[0.0] * 256], [[1] * 256], [0])
    with pytest.raises(UsageError, match=r"more than 255 times in one step of 1\.0 ms"):
        EventDataset(store, num_steps=2, step_ms=1.0, binning="count", input="dense")[0]
    counted, _ = EventDataset(store, num_steps=2, step_ms=1.0, binning="count")[0]
    assert counted.num_events == 256
    binary, _ = EventDataset(store, num_steps=2, step_ms=1.0, input="dense")[0]
    assert int(binary.sum()) == 1


def test_a_loader_gives_batches_as_they_are(store):
    loader = torch.utils.data.DataLoader(EventDataset(store, **GRID), batch_size=5, collate_fn=identity)
    sizes = [(events.batch_size, len(labels)) for events, labels in loader]
    assert sizes == [(5, 5), (5, 5), (2, 2)]
