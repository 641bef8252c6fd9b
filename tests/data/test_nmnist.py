import numpy as np
import pytest
from tonic.io import read_mnist_file

from ss_lightning.data import NMNISTData
from ss_lightning.data import nmnist as nmnist_module
from ss_lightning.data.augment import EventAugmentation
from ss_lightning.data.nmnist import read_recording
from ss_lightning.errors import DataError, UsageError


def data(root, **kwargs):
    return NMNISTData(**{"root": str(root), "download": False, **kwargs})


@pytest.mark.parametrize("polarity", ["merged", "separate"])
def test_a_recording_is_what_was_written(nmnist, tmp_path, polarity):
    rng = np.random.default_rng(0)
    times, x, y = np.sort(rng.integers(0, 2**23, 500)), rng.integers(0, 34, 500), rng.integers(0, 34, 500)
    on = rng.integers(0, 2, 500)
    times[-1], x[-1], y[-1] = 2**23 - 1, 33, 33  # the largest there are
    path = nmnist.write(tmp_path / "a.bin", times, x, y, on)
    found, units = read_recording(path, polarity)
    np.testing.assert_array_equal(found, times)
    np.testing.assert_array_equal(units, y * 34 + x + (on * 1156 if polarity == "separate" else 0))


def test_the_reader_agrees_with_that_of_tonic(nmnist, tmp_path):
    """The clock events, y = 240, included; and not if they are overlooked."""
    rng = np.random.default_rng(1)
    times, x, y = np.sort(rng.integers(0, 300_000, 200)), rng.integers(0, 34, 200), rng.integers(0, 34, 200)
    y[[20, 21, 150]] = 240
    path = nmnist.write(tmp_path / "a.bin", times, x, y, rng.integers(0, 2, 200))
    expected = read_mnist_file(path, np.dtype([("x", int), ("y", int), ("t", int), ("p", int)]))
    found, units = read_recording(path, "separate")
    np.testing.assert_array_equal(found, expected["t"])
    np.testing.assert_array_equal(units, (expected["p"] * 34 + expected["y"]) * 34 + expected["x"])
    assert len(found) == 197
    assert (found != times[y != 240]).any()


@pytest.mark.parametrize(("polarity", "shape"), [("merged", (1, 34, 34)), ("separate", (2, 34, 34))])
def test_the_files_become_batches(nmnist, tmp_path, polarity, shape):
    root = nmnist.write_all(tmp_path)
    module = data(root, polarity=polarity, num_steps=60, step_ms=5.0, batch_size=10, binning="count")
    assert (module.num_classes, module.input_shape, module.num_inputs) == (10, shape, np.prod(shape))
    events, labels = next(iter(module.test_dataloader()))
    assert labels.tolist() == list(range(10))
    dense = events.to_dense().numpy()
    for digit in range(10):
        times, units = read_recording(root / "NMNIST" / "Test" / str(digit) / "00001.bin", polarity)
        expected, *_ = np.histogram2d(times // 5000, units, bins=(range(61), range(np.prod(shape) + 1)))
        np.testing.assert_array_equal(dense[:, digit], expected)


def test_files_are_read_in_pieces_that_change_nothing(nmnist, tmp_path, monkeypatch):
    nmnist.write_all(tmp_path)
    whole = data(tmp_path, cache_dir=str(tmp_path / "one")).splits.train.store
    monkeypatch.setattr(nmnist_module, "_RECORDINGS_AT_ONCE", 7)
    pieces = data(tmp_path, cache_dir=str(tmp_path / "two")).splits.train.store
    for name in ("times", "units", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
    assert len(whole) == 20


def test_the_recordings_are_read_once_until_one_changes(nmnist, tmp_path, monkeypatch):
    read, folders = nmnist_module.read_recordings, []

    def counted(folder, polarity):
        folders.append(folder.name)
        return read(folder, polarity)

    monkeypatch.setattr(nmnist_module, "read_recordings", counted)
    root = nmnist.write_all(tmp_path)
    for _ in range(2):
        data(root).prepare_data()
    assert folders == ["Train", "Test"]
    data(root, polarity="separate").prepare_data()
    assert folders == ["Train", "Test"] * 2
    nmnist.write(root / "NMNIST" / "Test" / "3" / "00002.bin", [5], [1], [2], [0])
    assert len(data(root, polarity="separate").splits.test) == 11
    assert folders == [*["Train", "Test"] * 2, "Test"]


def test_a_shift_is_in_pixels(nmnist, tmp_path):
    """All events of the files lie in one pixel, so each sample shows its shift."""
    for part in ("Train", "Test"):
        for n in range(40):
            nmnist.write(tmp_path / "NMNIST" / part / "4" / f"{n}.bin", [1000, 2000], [10, 10], [20, 20], [1, 1])
    module = data(tmp_path, augment=EventAugmentation(unit_shift=2), val_fraction=0, batch_size=40)
    module._order_seed = 0
    events, _ = next(iter(module.train_dataloader()))
    y, x = np.divmod(events.units.numpy(), 34)
    assert set(x) == {8, 9, 10, 11, 12}
    assert set(y) == {18, 19, 20, 21, 22}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-1], ["149 bytes", "5 bytes for each event", "cut short"]),
        (lambda content: b"", ["0 bytes"]),
        (lambda content: bytes([34]) + content[1:], ["event 0 at x=34", "expected 0 to 33", "no recording of N-MNIST"]),
        (lambda content: content[:11] + bytes([34]) + content[12:], ["event 2", "y=34"]),
        (lambda content: bytes([0, 240, 0, 0, 0]) * 3, ["no events"]),
        (lambda content: b"<!DOCTYPE html>", ["no recording of N-MNIST"]),
    ],
)
def test_damaged_files_are_named(nmnist, tmp_path, damage, words):
    path = nmnist.write_all(tmp_path) / "NMNIST" / "Train" / "3" / "00002.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        data(tmp_path).setup("fit")
    for word in [str(path), *words, "Delete it"]:
        assert word in str(caught.value)


def test_arguments_are_checked():
    with pytest.raises(UsageError, match="polarity is 'both'; expected 'merged' or 'separate'"):
        NMNISTData(polarity="both")
    with pytest.raises(UsageError, match="unit_shift is 34; expected less than 34"):
        NMNISTData(augment=EventAugmentation(unit_shift=34))
