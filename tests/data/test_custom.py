import numpy as np
import pytest

from ss_lightning.data.custom import EventData
from ss_lightning.data.store import EventStore
from ss_lightning.errors import DataError, UsageError

GRID = {"num_steps": 25, "step_ms": 2.0}


def test_three_lines_are_enough(recordings):
    train, test = recordings(), recordings(6, seed=1)
    data = EventData.from_arrays(train=train, test=test, num_units=7, **GRID)
    events, labels = next(iter(data.test_dataloader()))
    assert events.shape == (25, 6, 7)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    expected = [len(set(zip((t * 500).astype(int), u, strict=True))) for t, u in zip(*test[:2], strict=True)]
    assert events.events_per_sample().tolist() == expected


def test_a_tenth_is_held_out_unless_a_validation_set_is_given(recordings):
    train, other = recordings(20), recordings(6, seed=1)
    splits = EventData.from_arrays(train=train, num_units=7, **GRID).splits
    assert (len(splits.train), len(splits.val)) == (18, 2)
    assert sorted([*splits.train.samples, *splits.val.samples]) == list(range(20))
    splits = EventData.from_arrays(train=train, val=other, num_units=7, **GRID).splits
    assert (len(splits.train), len(splits.val)) == (20, 6)
    assert EventData.from_arrays(train=train, num_units=7, val_fraction=0, **GRID).splits.val is None


def test_without_a_test_set_testing_says_so(recordings):
    data = EventData.from_arrays(train=recordings(), num_units=7, **GRID)
    for loader in (data.test_dataloader, data.predict_dataloader):
        with pytest.raises(UsageError, match="no test set"):
            loader()


def test_the_class_count_covers_all_parts(recordings):
    data = EventData.from_arrays(train=recordings(num_classes=2), test=recordings(num_classes=5), num_units=7, **GRID)
    assert data.num_classes == 5
    assert data.class_names == ("0", "1", "2", "3", "4")


def test_names_shape_and_unit_are_passed_on(recordings):
    times, units, labels = recordings(num_units=6)
    train = ([(t * 1e6).astype(int) for t in times], units, labels)
    data = EventData.from_arrays(
        train=train,
        num_units=6,
        time_unit="us",
        input_shape=(1, 2, 3),
        class_names=["a", "b", "c"],
        **GRID,
    )
    assert (data.input_shape, data.class_names) == ((1, 2, 3), ("a", "b", "c"))
    assert data.splits.train.store.time_unit == "us"


@pytest.mark.parametrize("train", [None, 5, {"times": 1, "units": 2, "labels": 3}, np.zeros((3, 2)), "abc", ([], [])])
def test_something_else_than_three_items_is_refused(train):
    with pytest.raises(UsageError, match=r"train .*; expected 3 items: \(times, units, labels\)"):
        EventData.from_arrays(train, num_units=3, num_steps=2, step_ms=1)


def test_errors_name_the_part(recordings):
    times, units, labels = recordings(6, seed=1)
    units[4][0] = 9
    with pytest.raises(DataError, match="test, sample 4: unit 9"):
        EventData.from_arrays(train=recordings(), test=(times, units, labels), num_units=7, **GRID)
    with pytest.raises(UsageError, match="train has 2 items"):
        EventData.from_arrays(train=(times, units), num_units=7, **GRID)


@pytest.mark.parametrize("val_fraction", [1, -0.5, "much"])
def test_the_fraction_is_checked(recordings, val_fraction):
    with pytest.raises(UsageError, match="val_fraction is"):
        EventData.from_arrays(train=recordings(), num_units=7, val_fraction=val_fraction, **GRID)


def test_a_fraction_that_leaves_nothing_is_refused(recordings):
    data = EventData.from_arrays(train=recordings(3), num_units=7, val_fraction=0.9, **GRID)
    with pytest.raises(UsageError, match="No training samples are left"):
        data.setup("fit")


def test_stores_must_fit_together(recordings):
    train = EventStore.from_arrays(*recordings(), num_units=7, time_unit="s")
    wide = EventStore.from_arrays(*recordings(), num_units=8, time_unit="s")
    with pytest.raises(UsageError, match="test has num_units=8 but train has 7"):
        EventData(train, wide, **GRID)


# Tonic ------------------------------------------------------------------------------------------------------


class TonicLike:
    """What a tonic data set looks like: structured events, a label, a sensor size."""

    def __init__(self, sensor_size=(5, 3, 2), num_samples=8, fields="txyp", seed=0):
        self.sensor_size = sensor_size
        width, height, polarities = sensor_size
        rng = np.random.default_rng(seed)
        self.samples = []
        for label in range(num_samples):
            size = int(rng.integers(5, 20))
            events = np.zeros(size, dtype=[(field, int) for field in fields])
            events["t"] = np.sort(rng.integers(0, 50_000, size))
            for field, extent in (("x", width), ("y", height), ("p", polarities)):
                if field in fields:
                    events[field] = rng.integers(0, extent, size)
            self.samples.append((events, label % 3))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.mark.parametrize("merge", [False, True])
def test_tonic_events_are_numbered_by_polarity_row_and_column(merge):
    train, test = TonicLike(), TonicLike(seed=1)
    data = EventData.from_tonic(train, test, merge_polarity=merge, binning="count", **GRID)
    assert data.input_shape == ((1, 3, 5) if merge else (2, 3, 5))
    events, labels = next(iter(data.test_dataloader()))
    assert labels.tolist() == [label for _, label in test.samples]
    dense = events.to_dense().numpy().reshape(25, 8, *data.input_shape)
    expected = np.zeros_like(dense)
    for b, (sample, _) in enumerate(test.samples):
        polarity = 0 if merge else sample["p"]
        np.add.at(expected, (sample["t"] // 2000, b, polarity, sample["y"], sample["x"]), 1)
    np.testing.assert_array_equal(dense, expected)


def test_one_line_without_polarity_is_flat():
    data = EventData.from_tonic(TonicLike((9, 1, 1), fields="txp"), **GRID)
    assert data.input_shape == (9,)
    constant = TonicLike((9, 1, 1), fields="txp")
    for events, _ in constant.samples:
        events["p"] = 1  # tonic's SHD says so with one polarity
    assert EventData.from_tonic(constant, **GRID).input_shape == (9,)


def test_a_sensor_size_is_needed():
    train = TonicLike()
    train.sensor_size = None
    with pytest.raises(UsageError, match="sensor_size is None"):
        EventData.from_tonic(train, **GRID)
    assert EventData.from_tonic(train, sensor_size=(5, 3, 2), **GRID).num_inputs == 30


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("x", 5, "x is 5; expected 0 to 4"), ("y", -1, "y is -1; expected 0 to 2"), ("p", -1, "p is -1")],
)
def test_events_beyond_the_sensor_are_named(field, value, words):
    train = TonicLike()
    train[2][0][field][-1] = value
    with pytest.raises(DataError, match=f"train, sample 2: {words}"):
        EventData.from_tonic(train, **GRID)


def test_other_events_and_labels_are_named():
    transformed = TonicLike()
    transformed.samples[1] = (np.zeros((25, 1, 5)), 0)
    with pytest.raises(DataError, match=r"train, sample 1: events of type ndarray.*without a transform"):
        EventData.from_tonic(transformed, **GRID)
    with pytest.raises(DataError, match=r"train, sample 0.*expected a structured array with t, x, y, p"):
        EventData.from_tonic(TonicLike(fields="tx"), **GRID)
    labelled = TonicLike()
    labelled.samples = [(events, {"class": 1}) for events, _ in labelled.samples]
    with pytest.raises(DataError, match="train: labels"):
        EventData.from_tonic(labelled, **GRID)


def few_events(p, y=(0, 0, 0, 0)):
    events = np.zeros(4, [("t", "i8"), ("x", "i8"), ("y", "i8"), ("p", np.asarray(p).dtype)])
    events["t"], events["x"], events["p"], events["y"] = np.arange(4) * 1000, 1, p, y
    return events


def from_samples(size, *samples, **options):
    recordings = [(events, label) for label, events in enumerate(samples)]
    return EventData.from_tonic(recordings, sensor_size=size, **(GRID | {"val_fraction": 0.0} | options))


@pytest.mark.parametrize(
    ("size", "samples", "match"),
    [
        ((8, 8, 1), [few_events([0, 1, 0, 1])] * 2, "one polarity, but the events carry 0 and 1.*merge_polarity=True"),
        ((8, 8, 1), [few_events([-1, 1, -1, 1])] * 2, "carry -1 and 1"),
        ((8, 8, 1), [few_events([False, True, False, True])] * 2, "carry 0 and 1"),
        ((8, 8, 1), [few_events([0] * 4), few_events([1] * 4)], "sample 1: .*carry 0 and 1"),
        ((8, 1, 2), [few_events([0, 1, 0, 1], [0, 1, 2, 3])] * 2, "y is 0 and 1, but sensor_size says one value"),
        ((8, 1, 2), [few_events([0] * 4), few_events([0] * 4, [2] * 4)], "sample 1: y is 0 and 2"),
        ((8, 8, 2), [few_events([-1, 0, 1, 1])] * 2, "p is -1; expected 0 to 1"),
    ],
)
def test_what_a_sensor_has_one_of_is_not_merged_silently(size, samples, match):
    with pytest.raises(DataError, match=match):
        from_samples(size, *samples)


def test_two_parts_with_a_polarity_each_are_not_merged_silently():
    train, test = [(few_events([0] * 4), 0), (few_events([0] * 4), 1)], [(few_events([1] * 4), 0)]
    with pytest.raises(DataError, match=r"test, sample 0: .*carry 0 and 1"):
        EventData.from_tonic(train, test, sensor_size=(8, 8, 1), **GRID)
    assert EventData.from_tonic(train, test, sensor_size=(8, 8, 1), merge_polarity=True, **GRID).num_inputs == 64


@pytest.mark.parametrize("p", [[-1, 1, -1, 1], [0, 1, 0, 1], [False, True, False, True]])
def test_polarities_by_other_names(p):
    data = from_samples((8, 8, 2), few_events(p), few_events([1] * 4))
    first, second = (data.train.units[data.train.offsets[i] : data.train.offsets[i + 1]].tolist() for i in range(2))
    assert first == [1, 65, 1, 65]
    assert second == [65] * 4


@pytest.mark.parametrize("size", [(8, 8, 1), (8, 8, 2)])
def test_polarities_are_merged_when_told(size):
    assert from_samples(size, *[few_events([-1, 1, -1, 1])] * 2, merge_polarity=True).num_inputs == 64
