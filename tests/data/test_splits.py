import numpy as np
import pytest

from ss_lightning.data import MNISTData, NMNISTData
from ss_lightning.data.splits import Splits, Subset, split_off


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
