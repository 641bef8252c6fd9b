import numpy as np
import pytest

from ss_lightning.data import MNISTData, NMNISTData
from ss_lightning.data.splits import PartChoice, Splits, Subset, split_off


def test_split_off_parts_are_disjoint_and_complete():
    kept, held_out = split_off(101, 0.25, seed=3)
    assert len(held_out) == 25
    assert sorted([*kept, *held_out]) == list(range(101))
    assert (split_off(101, 0.25, seed=3)[1] == held_out).all()
    assert (split_off(101, 0.25, seed=4)[1] != held_out).any()


def test_the_share_that_is_held_out_is_the_validation_set(store):
    splits = Splits.held_out(store, None, 0.25, seed=3)
    kept, held_out = split_off(len(store), 0.25, seed=3)
    np.testing.assert_array_equal(splits.train.samples, kept)
    np.testing.assert_array_equal(splits.val.samples, held_out)
    assert (len(splits.train), len(splits.val), splits.test) == (9, 3, None)


def test_no_share_means_no_validation_set(store):
    splits = Splits.held_out(store, store, 0, seed=3)
    assert splits.val is None
    assert len(splits.train) == len(splits.test) == len(store)


def test_a_subset_of_all_samples_knows_their_numbers(store):
    assert Subset(store).indices.tolist() == list(range(12))
    assert Subset(store, np.array([4, 2])).indices.tolist() == [4, 2]


@pytest.mark.parametrize(("kind", "fixture"), [(MNISTData, "idx"), (NMNISTData, "nmnist")])
def test_the_validation_samples_are_held_out_by_seed(request, tmp_path, kind, fixture):
    request.getfixturevalue(fixture).write_all(tmp_path)

    def split(**kwargs):
        splits = kind(root=str(tmp_path), val_fraction=0.25, **kwargs).splits
        return splits.train.samples.tolist(), splits.val.samples.tolist()

    train, val = split()
    assert sorted(train + val) == list(range(20))
    assert len(val) == 5
    assert split() == (train, val)
    assert split(seed=1) != (train, val)
    data = kind(root=str(tmp_path), val_fraction=0)
    assert data.val_dataloader() == []
    assert len(data.splits.train) == 20


PARTS = np.array(["train"] * 6 + ["val"] * 2 + ["test"] * 2)
GROUPS = np.array([0, 0, 1, 1, 2, 2, 0, 3, 3, 1])
NAMES = ("a", "b", "c", "d")


def choose(parts=PARTS, groups=GROUPS, **changes):
    options = {"val_fraction": 0.1, "test_fraction": 0.1, "val_groups": None, "test_groups": None}
    choice = PartChoice(**{**options, "exclude_test": False, "seed": 0, **changes})
    return [part.tolist() for part in choice.choose(parts, groups, NAMES)]


def test_parts_that_are_there_are_kept():
    assert choose() == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]


def test_groups_are_left_out_of_all_parts():
    assert choose(test_groups=("b",), val_groups=()) == [[0, 1, 4, 5, 6, 7, 8], [], [2, 3, 9]]
    assert choose(test_groups=("b",), val_groups=("a",)) == [[4, 5, 7, 8], [0, 1, 6], [2, 3, 9]]
    assert choose(test_groups=("b",), val_groups=(), exclude_test=True) == [[0, 1, 4, 5, 6, 7], [], [2, 3]]


def test_a_group_for_validation_and_the_part_for_testing():
    assert choose(val_groups=("c",)) == [[0, 1, 2, 3], [4, 5], [8, 9]]


def test_whole_groups_are_held_out_where_parts_are_missing():
    train, val, test = choose(parts=np.array([""] * 10))
    groups = [set(GROUPS[part]) for part in (train, val, test)]
    assert [len(some) for some in groups] == [2, 1, 1]
    assert set.union(*groups) == {0, 1, 2, 3}
    assert sorted(train + val + test) == list(range(10))
    other = [choose(parts=np.array([""] * 10), seed=seed)[2] for seed in range(9)]
    assert len({tuple(part) for part in other}) > 1


def test_samples_are_held_out_where_there_are_no_groups():
    train, val, test = choose(parts=np.array([""] * 10), groups=None, val_fraction=0.25, test_fraction=0.2)
    assert (len(train), len(val), len(test)) == (6, 2, 2)
    assert choose(parts=np.array([""] * 10), groups=None, val_fraction=0, test_fraction=0)[1:] == [[], []]


def test_without_a_part_test_the_share_is_taken_from_what_is_trained_on():
    """A folder val is as the user made it."""
    parts = np.array(["train"] * 20 + ["val"] * 20)
    train, val, test = choose(parts, None, test_fraction=0.5)
    assert val == list(range(20, 40))
    assert len(test) == 10
    assert sorted([*train, *test]) == list(range(20))
