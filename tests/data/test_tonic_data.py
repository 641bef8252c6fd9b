"""Data sets of tonic by class path, on small files of their formats."""

import numpy as np
import pytest

from ss_lightning.data import TonicData
from ss_lightning.errors import DataError, UsageError


@pytest.fixture
def gestures(tmp_path):
    """DVS Gesture as tonic unpacks it: eleven gestures of ten users in each part, four events each; times in ms."""
    rng = np.random.default_rng(0)
    base = tmp_path / "data" / "DVSGesture"
    for part in ("ibmGestureTrain", "ibmGestureTest"):
        base.mkdir(parents=True, exist_ok=True)
        (base / f"{part}.tar.gz").write_bytes(b"what it was unpacked from")
        for user in range(10):
            folder = base / part / f"user{user:02}_led"
            folder.mkdir(parents=True)
            for gesture in range(11):
                x, y, p = rng.integers(0, 128, 4), rng.integers(0, 128, 4), rng.integers(0, 2, 4)
                np.save(folder / f"{gesture}.npy", np.stack([x, y, p, [100, 101, 150, 800]], 1).astype(float))
    return tmp_path / "data"


def data(root, **options):
    return TonicData(root=str(root), cache_dir=str(root.parent / "cache"), prepare_processes=1, **options)


def test_gestures(gestures):
    module = data(gestures, pixels_per_input=4, window_ms=[0, 500], val_fraction=0.2)
    assert module.input_shape == (2, 32, 32)
    assert module.num_classes == 11
    assert module.class_names[0] == "Hand clapping"
    assert module.speakers() == [str(user) for user in range(10)]
    splits = module.splits
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [88, 22, 110]
    store = splits.train.store
    assert store.time_unit == "us"
    assert store.times[:3].tolist() == [0, 1000, 50000]
    assert np.diff(store.offsets).tolist() == [3] * 220
    raw = np.load(gestures / "DVSGesture/ibmGestureTrain/user00_led/0.npy")[:3].astype(int)
    first = int(np.flatnonzero(store.labels == 0)[store.groups[store.labels == 0] == 0][0])
    expected = (raw[:, 2] * 32 + raw[:, 1] // 4) * 32 + raw[:, 0] // 4
    assert store.units[store.offsets[first] : store.offsets[first + 1]].tolist() == expected.tolist()
    assert data(gestures, merge_polarity=True, test_speakers=["3"]).input_shape == (1, 128, 128)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"class_path": "os.system"}, r"'os\.system'; expected a data set of tonic"),
        ({"class_path": "tonic.datasets.nothing"}, "expected a data set of tonic"),
        ({"class_path": "tonic.datasets.os"}, "expected a data set of tonic"),
        ({"init_args": {}}, "dataset has init_args; expected class_path"),
        ({"class_path": "tonic.datasets.NMNIST", "init_args": {"train": False}}, r"init_args has train, which follows"),
        ({"class_path": "tonic.datasets.DVSGesture", "init_args": {"speed": 1}}, "does not take these arguments"),
    ],
)
def test_what_is_no_data_set(tmp_path, dataset, message):
    with pytest.raises(UsageError, match=message):
        data(tmp_path, dataset=dataset).prepare_data()


def test_what_cannot_be_downloaded(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("tonic.dataset.Dataset.download", refuse)
    with pytest.raises(DataError, match=r"DVSGesture: cannot be opened in .* no network.*Set data\.root"):
        data(tmp_path).prepare_data()


def test_a_broken_sample_is_named(gestures):
    (gestures / "DVSGesture/ibmGestureTrain/user00_led/0.npy").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"tonic\.datasets\.DVSGesture train, sample \d+: cannot be read"):
        data(gestures).prepare_data()
