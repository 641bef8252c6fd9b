"""Small files in the true formats, and a cache that ends with the test."""

import gc
import gzip
import hashlib
import os
import pickle
import struct
from types import SimpleNamespace

import h5py
import lightning.pytorch  # noqa: F401  it logs to what is stderr at its first import, which must not be that of one test
import numpy as np
import pytest
import torch
import torchvision.datasets

# Tests run in several processes side by side: threads of each beside those of the others only cost time.
# Programs that a test starts inherit it. A test of threads sets their number itself.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_finish():
    # What is imported by now stays. Without it collecting garbage takes 0.4 seconds, and a benchmark does it often.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    if item.get_closest_marker("long") and not os.environ.get("SS_LIGHTNING_LONG_TESTS"):
        pytest.skip("a long test; SS_LIGHTNING_LONG_TESTS=1 runs it")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SS_LIGHTNING_CACHE", str(folder))
    return folder


@pytest.fixture
def canonical():
    """Binned events as (row, unit) pairs in one order, for the order inside a bin is not defined."""

    def pairs(units, offsets):
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        order = np.lexsort((units, rows))
        return np.stack([rows[order], np.asarray(units)[order]])

    return pairs


@pytest.fixture
def is_mapped():
    """Whether an array lies in a file."""

    def mapped(array):
        return array is not None and (isinstance(array, np.memmap) or mapped(getattr(array, "base", None)))

    return mapped


@pytest.fixture
def recordings():
    """Random recordings of different lengths: times in seconds, units, labels of all classes."""

    def make(num_samples=12, num_units=7, num_classes=3, seconds=0.05, seed=0, dtype=np.float64):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 30, num_samples)
        times = [np.sort(rng.random(n) * seconds).astype(dtype) for n in lengths]
        units = [rng.integers(0, num_units, n) for n in lengths]
        return times, units, np.arange(num_samples) % num_classes

    return make


def _write_vlen(file, name, arrays, dtype):
    data = file.create_dataset(name, (len(arrays),), h5py.vlen_dtype(dtype))
    for index, array in enumerate(arrays):
        data[index] = np.asarray(array, dtype)


@pytest.fixture
def shd(recordings):
    """Writers of files in SHD layout."""

    def write(path, times, units, labels, speakers, keys=("one", "two", "three"), without=()):
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            _write_vlen(file, "spikes/times", times, np.float16)
            _write_vlen(file, "spikes/units", units, np.uint16)
            file["labels"] = np.asarray(labels, np.uint16)
            file["extra/speaker"] = np.asarray(speakers, np.uint16)
            file["extra/keys"] = np.asarray(keys, "S")
            for name in without:
                del file[name]

    def write_pair(root, train_speakers=(1, 3, 5, 6)):
        samples = 3 * len(train_speakers)
        train = recordings(samples, num_units=700, dtype=np.float16)
        write(root / "SHD" / "shd_train.h5", *train, speakers=np.repeat(train_speakers, 3))
        test = recordings(6, num_units=700, dtype=np.float16, seed=1)
        write(root / "SHD" / "shd_test.h5", *test, speakers=[7] * 6)
        return root

    def write_ssc(root, without=()):
        for seed, (part, size) in enumerate({"train": 12, "valid": 4, "test": 6}.items()):
            content = recordings(size, num_units=700, dtype=np.float16, seed=seed)
            write(root / "SSC" / f"ssc_{part}.h5", *content, speakers=np.arange(size), without=without)
        return root

    return SimpleNamespace(write=write, write_pair=write_pair, write_ssc=write_ssc)


@pytest.fixture
def idx():
    """Writers of MNIST's idx files."""

    def write(path, array, zipped=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.asarray(array, np.uint8)
        content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        if zipped:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)

    def write_all(root, name="MNIST", train=20, test=10, zipped=False):
        rng = np.random.default_rng(0)
        for part, size in (("train", train), ("t10k", test)):
            images = rng.integers(0, 256, (size, 28, 28)) * (rng.random((size, 28, 28)) < 0.3)
            write(root / name / "raw" / f"{part}-images-idx3-ubyte", images, zipped)
            write(root / name / "raw" / f"{part}-labels-idx1-ubyte", np.arange(size) % 10, zipped)
        return root

    return SimpleNamespace(write=write, write_all=write_all)


@pytest.fixture
def nmnist():
    """Writers of N-MNIST's recordings."""

    def write(path, times, x, y, polarity):
        path.parent.mkdir(parents=True, exist_ok=True)
        times, x, y, polarity = (np.asarray(values, np.uint64) for values in (times, x, y, polarity))
        words = x << np.uint64(32) | y << np.uint64(24) | polarity << np.uint64(23) | times
        path.write_bytes(b"".join(int(word).to_bytes(5, "big") for word in words))
        return path

    def write_all(root, train=2, test=1, events=30):
        rng = np.random.default_rng(0)
        for part, number in (("Train", train), ("Test", test)):
            for digit in range(10):
                for n in range(1, number + 1):
                    times = np.sort(rng.integers(0, 300_000, events))
                    place = rng.integers(0, 34, (2, events))
                    path = root / "NMNIST" / part / str(digit) / f"{n:05}.bin"
                    write(path, times, *place, rng.integers(0, 2, events))
        return root

    return SimpleNamespace(write=write, write_all=write_all)


@pytest.fixture
def cifar10(monkeypatch):
    """A writer of CIFAR-10's files, whose checksums then count as the official ones."""

    def dump(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]

    def write_all(root, size=10):
        rng = np.random.default_rng(0)
        folder, sums, images = root / "cifar-10-batches-py", [], {}
        for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
            pixels, labels = rng.integers(0, 256, (size, 3, 32, 32)).astype(np.uint8), rng.permutation(size) % 10
            sums.append(dump(folder / name, {"data": pixels.reshape(size, -1), "labels": labels.tolist()}))
            images[name] = pixels, labels.tolist()
        name, checksum = dump(folder / "batches.meta", {"label_names": [str(n) for n in range(10)]})
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", sums[:5])
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", sums[5:])
        meta = {"filename": name, "key": "label_names", "md5": checksum}
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", meta)
        return images

    return SimpleNamespace(write_all=write_all)
