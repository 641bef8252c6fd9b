"""Data sets of tonic by class path, on small files of their formats."""

from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest

from ss_lightning.data import TonicData
from ss_lightning.errors import DataError, UsageError

FILES = Path(__file__).parents[1] / "files"


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


@pytest.fixture
def few_files(monkeypatch):
    """Tonic takes a folder with few files for a whole data set."""
    enough = "tonic.dataset.Dataset._folder_contains_at_least_n_files_of_type"
    monkeypatch.setattr(enough, lambda *_: True)


def test_objects_of_several_sizes(tmp_path, few_files):
    """N-Caltech101: five bytes an event, each recording as large as its picture, moved to the corner by tonic."""
    base = tmp_path / "data" / "NCALTECH101"
    for name, width, height in (("Faces_easy", 200, 120), ("BACKGROUND_Google", 90, 160)):
        folder = base / "Caltech101" / name
        folder.mkdir(parents=True)
        for number in range(10):
            x, y = np.array([7, 7 + width - 1, 20]), np.array([3, 3 + height - 1, 20])
            time, polarity = np.array([0, 70_000, 299_000]), np.array([1, 0, 1])
            rows = [x, y, polarity << 7 | time >> 16, time >> 8 & 255, time & 255]
            (folder / f"image_{number:04}.bin").write_bytes(np.stack(rows, 1).astype(np.uint8).tobytes())
    (base / "N-Caltech101-archive.zip").touch()
    dataset = {"class_path": "tonic.datasets.NCALTECH101"}
    module = data(tmp_path / "data", dataset=dataset, pixels_per_input=8, window_ms=[0, 100], test_fraction=0.1)
    assert module.input_shape == (2, 20, 25)
    assert module.class_names == ("BACKGROUND_Google", "Faces_easy")
    store = module.splits.train.store
    face = int(np.flatnonzero(store.labels == 1)[0])
    assert np.diff(store.offsets).tolist() == [2] * 20  # the third event is behind the window
    events = slice(store.offsets[face], store.offsets[face + 1])
    assert store.times[events].tolist() == [0, 70_000]
    assert store.units[events].tolist() == [(1 * 20 + 0) * 25 + 0, (0 * 20 + 119 // 8) * 25 + 199 // 8]
    assert [len(part) for part in (module.splits.train, module.splits.val, module.splits.test)] == [16, 2, 2]


def test_pictures_before_a_camera(tmp_path, few_files):
    """CIFAR10-DVS: AEDAT4, a folder for each class, microseconds since 1970."""
    pytest.importorskip("aedat")
    base = tmp_path / "data" / "CIFAR10DVS"
    for name in ("truck", "airplane"):
        for number in range(5):
            (base / name).mkdir(parents=True, exist_ok=True)
            copyfile(FILES / "dvs.aedat4", base / name / f"cifar10_{name}_{number}.aedat4")
    (base / "CIFAR10DVS.zip").touch()
    dataset = {"class_path": "tonic.datasets.CIFAR10DVS"}
    module = data(tmp_path / "data", dataset=dataset, pixels_per_input=4, test_fraction=0.2)
    assert module.input_shape == (2, 32, 32)
    store = module.splits.train.store
    assert store.times[0] == 0
    # Numbers of classes are tonic's: a truck is the tenth, though eight have no sample here.
    assert module.num_classes == 10
    assert np.bincount(store.labels, minlength=10).tolist() == [5, *[0] * 8, 5]
