import numpy as np
import pandas as pd
import pytest
import torch

from ss_lightning.data.dataset import EventDataset
from ss_lightning.data.store import EventStore, PlacesOnGrid, with_common_classes
from ss_lightning.errors import DataError, UsageError


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


def test_a_store_shows_its_size(store):
    assert repr(store) == f"EventStore(samples=12, events={len(store.times)}, units=7, classes=3, time_unit='ms')"


def test_half_precision_seconds_are_exact_milliseconds_in_float32(build_store):
    seconds = np.arange(0, 2**15, 7, dtype=np.uint16).view(np.float16)
    seconds = np.sort(seconds[np.isfinite(seconds)])
    store = build_store([seconds], [np.zeros(len(seconds))], [0], time_unit="s")
    assert store.times.dtype == np.float32
    np.testing.assert_array_equal(store.times.astype(np.float64), seconds.astype(np.float64) * 1000)


def test_whole_milliseconds_in_seconds_stay_whole(build_store):
    milliseconds = np.arange(5000)
    assert (np.floor(milliseconds / 1000 * 1000) != milliseconds).any()  # what the rounding is for
    store = build_store([milliseconds / 1000], [np.zeros(5000)], [0], time_unit="s")
    assert store.times.dtype == np.float64
    np.testing.assert_array_equal(store.times, milliseconds)


def test_microseconds_stay_integers_and_find_their_step(build_store):
    store = build_store([[0, 299, 300, 301]], [[0, 1, 2, 0]], [0], time_unit="us")
    assert (store.times.dtype, store.time_unit) == (np.int32, "us")
    events, _ = EventDataset(store, num_steps=10, step_ms=0.1)[0]  # 0.3 / 0.1 is 2.999... in floats
    assert events.offsets.diff().tolist() == [1, 0, 1, 2, 0, 0, 0, 0, 0, 0]


def test_unsorted_samples_are_sorted_alone_and_stably(build_store):
    store = build_store([[3.0, 1.0, 1.0], [0.0, 5.0], [2.0, 1.0]], [[0, 2, 1], [0, 1], [2, 0]], [0, 0, 0])
    assert store.times.tolist() == [1, 1, 3, 0, 5, 1, 2]
    assert store.units.tolist() == [2, 1, 0, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"units": [[0, 1], [3]]}, ["sample 1", "unit 3", "0 to 2"]),
        ({"units": [[0, -1], [2]]}, ["sample 0", "unit -1"]),
        ({"units": [[0, 1], [1.5]]}, ["sample 1", "unit 1.5", "whole numbers"]),
        ({"units": [[0, 1], [np.nan]]}, ["sample 1", "unit nan"]),
        ({"units": [[0, 1], ["c"]]}, ["sample 1", "units are of type", "real numbers"]),
        ({"units": [[0, 1], [True]]}, ["sample 1", "units are of type bool"]),
        ({"units": [[0, 1], np.array([2**64 - 1], np.uint64)]}, ["sample 1", "unit 1.8446744073709552e+19", "0 to 2"]),
        ({"times": [[0, 1], np.array([2**64 - 1], np.uint64)]}, ["sample 1", "event time 1.8446744073709552e+19"]),
        ({"times": np.full(2, 2**64 - 1, np.uint64)[:, None], "units": [[0], [1]], "time_unit": "us"}, ["sample 0"]),
        ({"times": [[0, 2**63 - 1], [1]], "time_unit": "us"}, ["sample 0", "9223372036854775807", "2^53"]),
        ({"times": [np.array([0, 3e38], np.float32), [1]], "time_unit": "s"}, ["sample 0", "e+38", "2^53"]),
        ({"times": [[0, 1], np.ma.array([1.0], mask=[True])]}, ["sample 1", "times", "number 0 is masked"]),
        ({"units": [np.ma.array([0, 1], mask=[0, 1]), [1]]}, ["sample 0", "units", "number 1 is masked"]),
        ({"labels": np.ma.array([0, 1], mask=[0, 1])}, ["labels", "number 1 is masked"]),
        ({"times": [[0, 1], np.array([None])]}, ["sample 1", "times are of type object", "Convert"]),
        ({"times": [[0, 1], torch.tensor([1.0]).to_sparse()]}, ["sample 1", "Sparse layout", "to_dense"]),
        ({"times": [[0, 1], torch.ones(1, device="meta")]}, ["sample 1", "no data"]),
        ({"times": [[0, 1], [[1], [2, 3]]]}, ["sample 1", "inhomogeneous", "one flat array"]),
        ({"times": {0: [0, 1], 1: [1]}}, ["times are of type dict", "a list of one array per sample"]),
        ({"times": 5}, ["times are of type int"]),
        ({"units": torch.tensor(5)}, ["units cannot be counted (iteration over a 0-d tensor)"]),
        ({"labels": np.array([2**64 - 1, 0], np.uint64)}, ["labels", "18446744073709551615 at sample 0", "64 bits"]),
        ({"labels": [0, 1e19]}, ["labels", "1e+19 at sample 1"]),
        ({"labels": [False, True]}, ["labels are of type bool"]),
        ({"groups": np.array([0, 2**64 - 1], np.uint64)}, ["groups", "18446744073709551615 at sample 1"]),
        ({"times": [[0.0, 1.0], [-1.0]]}, ["sample 1", "-1.0", "zero or more"]),
        ({"times": [[0.0, np.nan], [1.0]]}, ["sample 0", "nan"]),
        ({"times": [[0.0, 1.0], [np.inf]]}, ["sample 1", "inf"]),
        ({"times": [[0.0, 1.0], [1j]]}, ["complex", "real numbers"]),
        ({"times": [[0.0], [1.0]]}, ["sample 0", "1 times but 2 units"]),
        ({"times": [[[0.0, 1.0]], [1.0]]}, ["sample 0", "shape (1, 2)", "flat"]),
        ({"times": [[0.0, 1.0]]}, ["1 times, 2 units, 2 labels"]),
        ({"labels": [0, -1]}, ["sample 1", "label -1"]),
        ({"labels": [-5, -3]}, ["sample 1: label -3; expected classes numbered from 0"]),
        ({"labels": [0, 5], "num_classes": 3}, ["sample 1", "label 5", "0 to 2"]),
        ({"labels": [0, 0.5]}, ["labels", "0.5", "sample 1"]),
        ({"labels": ["yes", "no"]}, ["labels", "<U3", "real numbers"]),
        ({"labels": [[0], [0, 1]]}, ["labels", "one flat array"]),
        ({"labels": [[0], [1]]}, ["labels", "whole number"]),
        ({"times": [[0.0, 1.0], []], "units": [[0, 1], []]}, ["sample 1", "no events", "allow_empty"]),
        ({"times": [], "units": [], "labels": []}, ["no samples"]),
        ({"groups": [1]}, ["1 groups"]),
    ],
)
def test_bad_data_are_named(build_store, arguments, words):
    with pytest.raises(DataError) as caught:
        build_store(**arguments, source="mine.h5")
    for word in ["mine.h5", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"time_unit": "min"}, ["time_unit", "'min'"]),
        ({"num_units": 0}, ["num_units", "0"]),
        ({"num_units": 3.0}, ["num_units is 3.0", "whole number"]),
        ({"num_units": True}, ["num_units is True"]),
        ({"num_units": 2**31}, ["num_units is 2147483648", "2147483647 or less"]),
        ({"num_classes": 2.5}, ["num_classes is 2.5"]),
        ({"num_classes": 10**9}, ["num_classes is 1000000000", "1048576 or less"]),
        ({"input_shape": 3}, ["input_shape is 3", "(3,)"]),
        ({"input_shape": (-1, -3)}, ["input_shape", "-1"]),
        ({"class_names": "abc"}, ["class_names is 'abc'", "a list"]),
        ({"input_shape": (2, 2)}, ["input_shape", "(2, 2)", "3"]),
        ({"num_classes": 2, "class_names": ["a"]}, ["class_names", "1 names for 2"]),
    ],
)
def test_bad_arguments_are_named(build_store, arguments, words):
    with pytest.raises(UsageError) as caught:
        build_store(**arguments)
    for word in words:
        assert word in str(caught.value)


LISTS = [[0.5, 3.0], [1.5, 0.5]], [[0, 2], [1, 0]], [0, 1]


def tensors(**options):
    return [torch.tensor(values, **options) for values in LISTS[0]]


@pytest.mark.parametrize(
    ("times", "units", "labels"),
    [
        (tensors(requires_grad=True), [torch.tensor(values) for values in LISTS[1]], torch.tensor(LISTS[2])),
        (torch.tensor(LISTS[0], requires_grad=True), torch.tensor(LISTS[1]), torch.tensor([0.0, 1.0])),
        (tensors(dtype=torch.bfloat16), *LISTS[1:]),
        ([values.to(torch.float8_e4m3fn) for values in tensors()], *LISTS[1:]),
        tuple(map(iter, LISTS)),
        ([(t for t in values) for values in LISTS[0]], [(u for u in values) for values in LISTS[1]], LISTS[2]),
        ([np.ma.array(values, mask=False) for values in LISTS[0]], *LISTS[1:]),
        ([pd.Series(values, index=[7, 5]) for values in LISTS[0]], *LISTS[1:]),
        tuple(pd.Series(values, index=[9, 4]) for values in LISTS),
        (LISTS[0], np.array(LISTS[1], float), np.array(LISTS[2], np.longdouble)),
        ([np.array(values, ">f8") for values in LISTS[0]], *LISTS[1:]),
    ],
)
def test_arrays_of_other_libraries_and_generators_are_read(build_store, times, units, labels):
    store = build_store(times, units, labels)
    assert store.times.tolist() == [0.5, 3.0, 0.5, 1.5]
    assert store.units.tolist() == [0, 2, 0, 1]
    assert store.labels.tolist() == [0, 1]


def test_sizes_and_names_are_stored_as_plain_values(build_store):
    store = build_store(num_units=np.int64(3), class_names=(name for name in (np.str_("a"), 2)))
    assert (type(store.num_units), store.input_shape, store.class_names) == (int, (3,), ("a", "2"))
    assert type(store.class_names[0]) is str


def test_silent_samples_are_accepted_on_request_and_keep_their_place(build_store):
    store = build_store([[], [1, 3], []], [[], [0, 1], []], [0, 1, 2], allow_empty=True, time_unit="us")
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


def test_share_after_the_grid(build_store):
    store = build_store([[0, 9.9, 10, 11]], [[0, 1, 2, 0]], [0])
    assert store.share_after(10, 1.0) == 0.5
    assert store.share_after(12, 1.0) == 0.0


def test_places_on_a_grid(build_store):
    store = build_store(
        [[0.5, 0.7], [10, 11], [], [0, 9, 10]], [[0, 1], [1, 2], [], [0, 1, 2]], [0, 1, 0, 1], allow_empty=True
    )
    assert store.places_on_grid(10, 1.0) == PlacesOnGrid(3 / 7, 1, False)
    assert store.places_on_grid(12, 1.0) == PlacesOnGrid(0.0, 0, False)
    assert store.places_on_grid(10, 1.0, np.array([0])) == PlacesOnGrid(0.0, 0, True)
    assert store.places_on_grid(10, 1.0, np.array([1])) == PlacesOnGrid(1.0, 1, False)
    assert store.places_on_grid(10, 1.0, np.array([2])) == PlacesOnGrid(0.0, 0, False)
    assert store.places_on_grid(10, 0.7, np.array([0])) == PlacesOnGrid(0.0, 0, False)


def test_with_common_classes_takes_the_larger_count(build_store):
    small, large = build_store(class_names=["a", "b"]), build_store(labels=[0, 2], class_names=["a", "b", "c"])
    stores = with_common_classes({"train": small, "test": large})
    assert {store.class_names for store in stores.values()} == {("a", "b", "c")}
    assert {store.num_classes for store in stores.values()} == {3}


WRONG = {
    "a unit beyond the last": {"units": [0, 9]},
    "a unit below zero": {"units": np.array([0, -1], np.int32)},
    "units of a type that the loops do not know": {"units": np.array([0, 1], np.int64)},
    "a time below zero": {"times": [-1.0, 2.0]},
    "a time that is no number": {"times": [np.nan, 2.0]},
    "an endless time": {"times": [1.0, np.inf]},
    "times that fall": {"times": [2.0, 1.0]},
    "times of another length": {"times": [1.0, 2.0, 3.0]},
    "offsets beyond the events": {"offsets": [0, 2_000_000_000]},
    "offsets below zero": {"offsets": [-5, 2]},
    "offsets of another type": {"offsets": np.array([0, 2], np.int32)},
    "no offsets": {"offsets": []},
    "a label beyond the classes": {"labels": [7]},
    "a label below zero": {"labels": [-1]},
    "groups of another length": {"groups": [1, 2]},
    "no units": {"num_units": 0},
    "a shape that does not hold the units": {"input_shape": (4,)},
    "names of other classes": {"class_names": ("a",)},
    "microseconds that are no whole numbers": {"time_unit": "us"},
    "an unknown unit of time": {"time_unit": "h"},
    "a number of units that is a text": {"num_units": "3"},
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("mmap", [True, False])
def test_values_outside_of_their_range_are_refused_though_the_checksums_are_right(case, mmap, tmp_path):
    arrays = {
        "times": [1.0, 2.0],
        "units": np.array([0, 2], np.uint16),
        "offsets": [0, 2],
        "labels": [1],
        "groups": [4],
    }
    sizes = {"num_units": 3, "num_classes": 2, "input_shape": (3,), "class_names": ("a", "b"), "time_unit": "ms"}

    def load(changes):
        kinds = {"offsets": np.int64, "labels": np.int64, "groups": np.int64, "units": np.uint16}
        content = {
            name: value if isinstance(value, np.ndarray) else np.array(value, kinds.get(name, np.float64))
            for name, value in {**arrays, **{k: v for k, v in changes.items() if k in arrays}}.items()
        }
        store = EventStore(**content, **{**sizes, **{k: v for k, v in changes.items() if k in sizes}})
        store.save(tmp_path / "store")
        return EventStore.load(tmp_path / "store", mmap=mmap)

    assert len(load({})) == 1
    with pytest.raises(DataError):
        load(WRONG[case])
