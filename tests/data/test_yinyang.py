import numpy as np
import pytest

from ss_lightning.data.yinyang import YinYangData, latency_steps, yinyang_class, yinyang_points
from ss_lightning.errors import UsageError


@pytest.mark.parametrize(
    ("x", "y", "label"),
    [
        (0.25, 0.5, 2),
        (0.75, 0.59, 2),
        (0.25, 0.39, 1),  # the left half disc reaches down ...
        (0.75, 0.61, 0),  # ... and the right one up
        (0.5, 0.9, 1),
        (0.5, 0.1, 0),
        (0.9, 0.4, 0),
        (0.1, 0.6, 1),
        (0.01, 0.01, -1),
    ],
)
def test_the_classes_lie_where_the_paper_draws_them(x, y, label):
    assert yinyang_class(np.array([x]), np.array([y])) == label


def test_yin_and_yang_are_each_other_turned_by_half_a_turn():
    x, y = np.random.default_rng(0).random((2, 10_000))
    label, turned = yinyang_class(x, y), yinyang_class(1 - x, 1 - y)
    np.testing.assert_array_equal(np.select([label == 0, label == 1], [1, 0], label), turned)


@pytest.mark.parametrize("num_samples", [1, 10, 3001])
def test_points_are_balanced_and_of_their_class(num_samples):
    points, labels = yinyang_points(num_samples, np.random.default_rng(0))
    np.testing.assert_array_equal(yinyang_class(*points.T), labels)
    counts = np.bincount(labels, minlength=3)
    assert counts.max() - counts.min() <= 1


def test_points_fill_their_class_evenly():
    points, labels = yinyang_points(30_000, np.random.default_rng(0))
    np.testing.assert_allclose(points[labels == 2].mean(0), [0.5, 0.5], atol=0.01)
    left = (points[labels == 2, 0] < 0.5).mean()
    assert abs(left - 0.5) < 0.02  # four sigma of 10,000 tosses


def test_the_code_is_that_of_the_paper():
    values = np.array([0.0, 0.5, 0.999, 1.0])
    assert latency_steps(values, 100).tolist() == [99, 49, 0, 0]
    assert latency_steps(values, 1).tolist() == [0, 0, 0, 0]


def test_batches_hold_the_points():
    data = YinYangData(num_steps=50, num_train=30, num_val=20, num_test=10, batch_size=30)
    assert (data.num_classes, data.input_shape, data.num_inputs) == (3, (4,), 4)
    assert data.class_names == ("yin", "yang", "dot")
    assert [len(part) for part in (data.splits.train, data.splits.val, data.splits.test)] == [30, 20, 10]
    events, labels = next(iter(data.val_dataloader()))
    points, expected = yinyang_points(20, np.random.default_rng([0, 1]))
    steps = events.to_dense().argmax(0).numpy()
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(steps, latency_steps(np.hstack([points, 1 - points]), 50))
    assert events.num_events == 20 * 4


def test_the_seed_decides_and_the_sets_differ():
    def train(**kwargs):
        return YinYangData(num_train=40, num_val=40, num_test=40, **kwargs).splits

    first, again, other = train(), train(), train(seed=1)
    np.testing.assert_array_equal(first.train.store.times, again.train.store.times)
    assert (first.train.store.times != other.train.store.times).any()
    assert (first.train.store.times != first.test.store.times).any()
    assert (first.val.store.times != first.test.store.times).any()


@pytest.mark.parametrize("name", ["num_train", "num_val", "num_test"])
def test_sizes_are_checked(name):
    with pytest.raises(UsageError, match=f"{name} is 0; expected a whole number, 1 or more"):
        YinYangData(**{name: 0})
    with pytest.raises(UsageError, match="seed is -1"):
        YinYangData(seed=-1)
