"""Malformed files, arrays, checkpoints and configs: each gives one clear message, and leaves nothing behind.

The number of inputs that a run has tried is printed at its end (``pytest -s``) and must be at least 300.
"""

import gzip
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ss_lightning.cli.commands import main
from ss_lightning.data import EventData, EventStore, MNISTData, SHDData
from ss_lightning.errors import DataError, UsageError
from ss_lightning.runs.checkpoints import read_checkpoint
from ss_lightning.runs.config_check import check_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("SS_LIGHTNING_LONG_TESTS"))
TIMES = 10 if LONG else 1
tried = {}


def count(kind):
    tried[kind] = tried.get(kind, 0) + 1


def many(number):
    return settings(
        max_examples=number * TIMES, deadline=None, database=None, derandomize=not LONG,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


def refused(kind, action, *words, error=(DataError, UsageError)):
    """``action`` raises an error that names what is wrong; anything else is a failure."""
    count(kind)
    with pytest.raises(error) as caught:
        action()
    text = str(caught.value)
    for word in words:
        assert str(word) in text, text
    assert len(text) > 20
    return text


def refusal(kind, action):
    """What ``action`` says if it refuses, or else nothing, and what it returned."""
    count(kind)
    try:
        return "", action()
    except (DataError, UsageError) as error:
        return str(error), None


# HDF5 files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def h5(tmp_path, shd, cache):
    shd.write_pair(tmp_path)
    return SimpleNamespace(
        root=tmp_path,
        train=tmp_path / "SHD" / "shd_train.h5",
        whole=(tmp_path / "SHD" / "shd_train.h5").read_bytes(),
        prepare=lambda: SHDData(root=str(tmp_path), num_steps=20, step_ms=4.0, download=False).prepare_data(),
        cached=lambda: [p.name for p in cache.glob("shd_train-*")],
    )


@many(60)
@given(data=st.data())
def test_hdf5_cut_short(h5, data):
    """At every kind of place: in the header, in the tables, in the arrays."""
    h5.train.write_bytes(h5.whole[: data.draw(st.integers(0, len(h5.whole) - 1))])
    refused("HDF5 files cut short", h5.prepare, h5.train)
    assert h5.cached() == []


@many(40)
@given(data=st.data())
def test_hdf5_with_wrong_bytes(h5, data):
    """Where a wrong byte makes another valid file there is nothing to say; what is said must be said clearly."""
    content = bytearray(h5.whole)
    for place in data.draw(st.lists(st.integers(0, 2000), min_size=1, max_size=20)):
        content[place] ^= data.draw(st.integers(1, 255))
    h5.train.write_bytes(bytes(content))
    said, _ = refusal("HDF5 files with wrong bytes", h5.prepare)
    if said and "val_speakers" not in said:  # a file that can be read, with one speaker only
        assert str(h5.train) in said
        assert h5.cached() == []
    for entry in h5.cached():
        shutil.rmtree(Path(os.environ["SS_LIGHTNING_CACHE"]) / entry)


def vlen(file, name, arrays, dtype):
    del file[name]
    data = file.create_dataset(name, (len(arrays),), h5py.vlen_dtype(dtype))
    for index, array in enumerate(arrays):
        data[index] = np.asarray(array, dtype)


def put(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def first_times(values, dtype=np.float32):
    """Other times in the first sample, as many units as times."""

    def change(file):
        times, units = list(file["spikes/times"][:]), list(file["spikes/units"][:])
        times[0], units[0] = values, np.zeros(len(values))
        vlen(file, "spikes/times", times, dtype)
        vlen(file, "spikes/units", units, np.uint16)

    return change


def units_of(value, dtype):
    def change(file):
        units = [np.full(len(u), value) for u in file["spikes/units"][:]]
        vlen(file, "spikes/units", units, dtype)

    return change


LABELS = np.arange(12) % 3
WRONG_HDF5 = {
    "no times": lambda file: file.__delitem__("spikes/times"),
    "no spikes": lambda file: file.__delitem__("spikes"),
    "no labels": lambda file: file.__delitem__("labels"),
    "no speakers": lambda file: file.__delitem__("extra/speaker"),
    "times are a group": lambda file: (file.__delitem__("spikes/times"), file.create_group("spikes/times")),
    "labels are a group": lambda file: (file.__delitem__("labels"), file.create_group("labels")),
    "times are text": put("spikes/times", np.array(["a"] * 12, "S")),
    "times are one number": put("spikes/times", 3.0),
    "times are one a sample": put("spikes/times", np.arange(12.0)),
    "times are empty": put("spikes/times", np.zeros((0,))),
    "units are text": put("spikes/units", np.array(["a"] * 12, "S")),
    "labels are text": put("labels", np.array(["a"] * 12, "S")),
    "labels are a table": put("labels", np.zeros((12, 2))),
    "labels are one number": put("labels", 3),
    "labels have NaN": put("labels", np.where(LABELS == 1, np.nan, LABELS)),
    "labels are not whole": put("labels", LABELS + 0.5),
    "labels are negative": put("labels", LABELS - 1),
    "labels are infinite": put("labels", np.where(LABELS == 1, np.inf, LABELS)),
    "labels are huge": put("labels", np.full(12, 2**62)),
    "too few labels": put("labels", LABELS[:5]),
    "too many labels": put("labels", np.concatenate([LABELS, LABELS])),
    "no samples": lambda file: [
        put(n, np.zeros(0))(file) for n in ("labels", "extra/speaker", "spikes/times", "spikes/units")
    ],
    "speakers are text": put("extra/speaker", np.array(["a"] * 12, "S")),
    "too few speakers": put("extra/speaker", np.zeros(3)),
    "times are NaN": first_times([0.1, np.nan]),
    "times are infinite": first_times([0.1, np.inf]),
    "times are minus infinity": first_times([-np.inf, 0.1]),
    "times are negative": first_times([-0.1, 0.1]),
    "times overflow float16": first_times([1e6], np.float16),
    "no events in a sample": first_times([]),
    "units are too high": units_of(700, np.uint16),
    "units are far too high": units_of(65_535, np.uint16),
    "units are negative": units_of(-1, np.int32),
    "units are not whole": units_of(0.5, np.float32),
    "units are NaN": units_of(np.nan, np.float32),
}


@pytest.mark.parametrize("case", WRONG_HDF5)
def test_hdf5_of_another_form(h5, case):
    with h5py.File(h5.train, "r+") as file:
        WRONG_HDF5[case](file)
    refused("HDF5 files of another form", h5.prepare)
    assert h5.cached() == []
    h5.train.write_bytes(h5.whole)
    h5.prepare()  # what was wrong has left no trace
    assert len(h5.cached()) == 1


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"<html>404 Not Found</html>", b"\0" * 5000])
def test_what_is_no_hdf5(h5, content):
    h5.train.write_bytes(content)
    refused("HDF5 files of another form", h5.prepare, h5.train, "Delete it and get it again")


def test_unsorted_and_repeated_times_are_no_mistake(h5):
    with h5py.File(h5.train, "r+") as file:
        first_times([0.03, 0.01, 0.01, 0.02])(file)
    h5.prepare()


# Arrays --------------------------------------------------------------------------------------------------------------


def mutate_one_sample(kind, times, units, labels):
    """One thing is wrong in sample 1."""
    t, u = times[1], units[1]
    wrong = {
        "NaN": lambda: t.__setitem__(0, np.nan),
        "inf": lambda: t.__setitem__(-1, np.inf),
        "negative": lambda: t.__setitem__(0, -1e-9),
        "unit high": lambda: u.__setitem__(0, 7),
        "unit low": lambda: u.__setitem__(0, -1),
        "unit huge": lambda: u.__setitem__(0, 2**40),
        "lengths": lambda: times.__setitem__(1, t[:-1]) if len(t) > 1 else times.__setitem__(1, np.append(t, t)),
        "empty": lambda: (times.__setitem__(1, t[:0]), units.__setitem__(1, u[:0])),
        "two axes": lambda: times.__setitem__(1, t[None]),
        "text": lambda: times.__setitem__(1, np.full(len(t), "a")),
        "complex": lambda: times.__setitem__(1, t + 1j),
        "unit not whole": lambda: units.__setitem__(1, u + 0.5),
        "units text": lambda: units.__setitem__(1, np.full(len(u), "a")),
        "objects": lambda: times.__setitem__(1, np.array([None] * len(t))),
        "label low": lambda: labels.__setitem__(1, -1),
        "label high": lambda: labels.__setitem__(1, 3),
        "too few labels": lambda: labels.__delitem__(1),
        "label not whole": lambda: labels.__setitem__(1, 0.5),
        "label text": lambda: labels.__setitem__(1, "a"),
        "label NaN": lambda: labels.__setitem__(1, float("nan")),
        "label None": lambda: labels.__setitem__(1, None),
        "label list": lambda: labels.__setitem__(1, [1, 2]),
    }
    wrong[kind]()


KINDS = [
    "NaN", "inf", "negative", "unit high", "unit low", "unit huge", "lengths", "empty", "two axes", "text", "complex",
    "unit not whole", "units text", "objects", "label low", "label high", "too few labels", "label not whole",
    "label text", "label NaN", "label None", "label list",
]  # fmt: skip


@many(120)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), unit=st.sampled_from(["s", "ms", "us"]))
def test_arrays(recordings, kind, seed, unit):
    times, units, labels = recordings(num_samples=5, seed=seed)
    labels = labels.tolist()
    mutate_one_sample(kind, times, units, labels)
    text = refused(
        "arrays",
        lambda: EventData.from_arrays(
            (times, units, labels), num_units=7, num_classes=3, num_steps=5, step_ms=10.0, time_unit=unit
        ),
        "train",
    )
    assert "expected" in text


class Tonic:
    """A data set as tonic has them, of one sample that may be broken."""

    sensor_size = (4, 4, 2)

    def __init__(self, read):
        self.read = read

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.read(), 0


@many(30)
@given(size=st.integers(11, 99).filter(lambda n: n % 5 > 1))
def test_bin_files_cut_short(tmp_path, size):
    """Of five bytes an event; a file that ends behind one, or one byte later, is read as a shorter recording."""
    from tonic.io import read_mnist_file

    dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    path = tmp_path / "00001.bin"
    path.write_bytes(bytes([1, 2, 0, 0, 9] * 20)[:size])
    text = refused(
        ".bin files cut short",
        lambda: EventData.from_tonic(Tonic(lambda: read_mnist_file(str(path), dtype)), num_steps=3, step_ms=1.0),
        "train, sample 0",
    )
    assert "cut short" in text


# idx files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mnist(tmp_path, idx):
    idx.write_all(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    return SimpleNamespace(
        raw=raw,
        images=raw / "train-images-idx3-ubyte",
        labels=raw / "train-labels-idx1-ubyte",
        whole={path.name: path.read_bytes() for path in raw.iterdir()},
        prepare=lambda: MNISTData(root=str(tmp_path), download=False).prepare_data(),
    )


@many(60)
@given(data=st.data())
def test_idx_files(mnist, data):
    """Cut short, too long, another magic number, other sizes in the header, a broken .gz."""
    path = data.draw(st.sampled_from([mnist.images, mnist.labels]))
    whole = mnist.whole[path.name]
    how = data.draw(st.sampled_from(["cut", "long", "magic", "size", "gz"]))
    zipped = Path(f"{path}.gz")
    if how == "cut":
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif how == "long":
        path.write_bytes(whole + b"\0" * data.draw(st.integers(1, 99)))
    elif how in ("magic", "size"):
        place = data.draw(st.integers(*((0, 3) if how == "magic" else (4, 7))))
        content = bytearray(whole)
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(content))
    else:
        path.unlink()
        squeezed = gzip.compress(whole)
        zipped.write_bytes(squeezed[: data.draw(st.integers(0, len(squeezed) - 1))])
    refused("idx files", mnist.prepare, path, error=DataError)
    zipped.unlink(missing_ok=True)
    path.write_bytes(whole)
    mnist.prepare()


def test_idx_labels_out_of_range(mnist, idx):
    idx.write(mnist.labels, np.full(20, 10))
    refused("idx files", mnist.prepare, "label", error=DataError)


def test_fewer_labels_than_images(mnist, idx):
    idx.write(mnist.labels, np.zeros(19))
    refused("idx files", mnist.prepare, mnist.images, error=DataError)


# The cache -----------------------------------------------------------------------------------------------------------


@many(40)
@given(data=st.data())
def test_stored_data_with_wrong_bytes(tmp_path, recordings, data):
    """Any wrong byte, in the arrays or in what is written about them, is found; a load never gives other data."""
    path = tmp_path / "store"
    store = EventStore.from_arrays(*recordings(4), num_units=7, time_unit="s", groups=[0, 1, 2, 3])
    store.save(path)
    name = data.draw(st.sampled_from(sorted(p.name for p in path.iterdir())))
    content = bytearray((path / name).read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    (path / name).write_bytes(bytes(content))
    said, loaded = refusal("stored data", lambda: EventStore.load(path))
    if said:
        assert str(path) in said
        assert "Build it again" in said
    else:  # a blank in the JSON, a byte of padding in an array's header
        assert np.array_equal(loaded.times, store.times)
        assert np.array_equal(loaded.units, store.units)
        assert (loaded.num_units, loaded.class_names, loaded.time_unit) == (7, store.class_names, store.time_unit)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "3", '{"format": 2}', '{"format": 1}', "{" * 3000, "\x00"])
def test_stored_data_of_another_form(tmp_path, recordings, content):
    store = EventStore.from_arrays(*recordings(4), num_units=7, time_unit="s")
    store.save(tmp_path / "store")
    (tmp_path / "store" / "meta.json").write_text(content)
    refused("stored data", lambda: EventStore.load(tmp_path / "store"), "Build it again", error=DataError)


def test_stored_data_with_pickled_objects_are_not_unpickled(tmp_path, recordings):
    store = EventStore.from_arrays(*recordings(4), num_units=7, time_unit="s")
    store.save(tmp_path / "store")
    np.save(tmp_path / "store" / "labels.npy", np.array([Trap(tmp_path / "executed")]), allow_pickle=True)
    refused("stored data", lambda: EventStore.load(tmp_path / "store"), "Build it again", error=DataError)
    assert not (tmp_path / "executed").exists()


# Checkpoints ---------------------------------------------------------------------------------------------------------


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


YINYANG = str(ROOT / "configs" / "yinyang.yaml")
SMALL = [
    "--data.num_train=30", "--data.num_val=10", "--data.num_test=10", "--data.num_steps=10", "--trainer.max_epochs=1",
    "--pictures.every_n_epochs=0", "--trainer.enable_progress_bar=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint."""
    folder, here = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    try:
        assert main(["fit", "--config", YINYANG, *SMALL, "--model.hidden=[4]"]) == 0
    finally:
        os.chdir(here)
    return folder / "runs" / "yinyang" / "version_0" / "checkpoints" / "last.ckpt"


@many(60)
@given(data=st.data())
def test_checkpoints_with_wrong_bytes(tmp_path, trained, data):
    """Cut short or with a wrong byte anywhere: never loaded as something else."""
    whole, path = trained.read_bytes(), tmp_path / "bad.ckpt"
    content = bytearray(whole)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        content[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    said, loaded = refusal("checkpoints", lambda: read_checkpoint(path))
    if said:
        assert str(path) in said
    else:  # a byte of padding, or of a date
        expected = read_checkpoint(trained)["state_dict"]
        assert all(torch.equal(loaded["state_dict"][name], value) for name, value in expected.items())


def saved(change):
    def write(path, content):
        change(content)
        torch.save(content, path)

    return write


WRONG_CHECKPOINTS = {
    "nothing": (lambda path, content: torch.save({}, path), "it has no state_dict"),
    "a tensor": (lambda path, content: torch.save(torch.zeros(3), path), "it has no state_dict"),
    "a list": (lambda path, content: torch.save([1], path), "it has no state_dict"),
    "weights alone": (lambda path, content: torch.save(content["state_dict"], path), "it has no state_dict"),
    "state is a list": (saved(lambda c: c.update(state_dict=[1])), "it has no state_dict"),
    "state of numbers": (saved(lambda c: c["state_dict"].update({"network.synapses.0.bias": 3})), "another model"),
    "a weight is missing": (saved(lambda c: c["state_dict"].pop("network.synapses.0.bias")), "another model"),
    "a weight too many": (saved(lambda c: c["state_dict"].update(other=torch.zeros(1))), "another model"),
    "no step": (saved(lambda c: c.pop("global_step")), "it has no global_step"),
    "another optimizer": (
        saved(lambda c: c["optimizer_states"][0]["param_groups"][0].pop("betas")),
        "another optimizer",
    ),
    "another scheduler": (saved(lambda c: c["lr_schedulers"][0].pop("T_max")), "another lr_scheduler"),
    "no scheduler": (saved(lambda c: c["lr_schedulers"].pop()), "another lr_scheduler"),
    "no optimizer": (saved(lambda c: c.pop("optimizer_states")), "holds weights only"),
    "a pickle": (lambda path, content: path.write_bytes(pickle.dumps({"state_dict": 3})), "bad.ckpt is not"),
    "code": (saved(lambda c: c.update(more=Trap("executed"))), "could run any code"),
    "code in the weights": (saved(lambda c: c["state_dict"].update(w=Trap("executed"))), "could run any code"),
    "code alone": (lambda path, content: path.write_bytes(pickle.dumps(Trap("executed"))), "could run any code"),
    "a folder": (lambda path, content: path.mkdir(), "bad.ckpt is a folder, not a checkpoint"),
    "a web page": (lambda path, content: path.write_text("<html>"), "bad.ckpt is not a checkpoint"),
    "a zip of something": (lambda path, content: zipfile.ZipFile(path, "w").writestr("a", "b"), "is not a checkpoint"),
}


@pytest.mark.parametrize("case", WRONG_CHECKPOINTS)
def test_checkpoints_of_another_form(tmp_path, monkeypatch, trained, case, capsys):
    monkeypatch.chdir(tmp_path)
    write, words = WRONG_CHECKPOINTS[case]
    write(Path("bad.ckpt"), torch.load(trained, weights_only=True))
    count("checkpoints")
    code = main(
        ["fit", "--config", YINYANG, *SMALL, "--model.hidden=[4]", "--trainer.max_epochs=2", "--ckpt_path=bad.ckpt"]
    )
    error = capsys.readouterr().err
    assert code == 2, error
    assert words in error
    assert "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.ckpt", "cache"}


# Configs -------------------------------------------------------------------------------------------------------------


def replaced(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new)

    return change


def added(more):
    return replaced("max_epochs: 30", f"max_epochs: 30\n  {more}")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n" for before, after in zip("abcdefg", "bcdefgh", strict=True)
)
WRONG_CONFIGS = {
    "a cycle": (replaced("hidden: [120]", "hidden: &a [*a]"), "refers to itself"),
    "a cycle of a mapping": (replaced("trainer:\n", "trainer: &t\n  callbacks: [*t]\n"), "refers to itself"),
    "a billion laughs": (lambda text: text + LAUGHS, "too large to be a config"),
    "three thousand brackets": (lambda text: "trainer: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "a key twice": (lambda text: text + "trainer:\n  max_epochs: 3\n", "the key trainer is there already"),
    "code": (replaced("[120]", "!!python/object/apply:os.system ['touch executed']"), "not determine a constructor"),
    "a function for a class": (replaced("ss_lightning.MLPClassifier", "os.system"), "os.system is not of a module"),
    "a class of another kind": (replaced("torch.optim.Adam", "torch.nn.Linear"), "not correspond to a subclass"),
    "a function to call": (
        added("callbacks: {class_path: lightning.pytorch.callbacks.LambdaCallback, init_args: {setup: os.system}}"),
        "os.system is not of a module that",
    ),
    "a huge grid": (replaced("num_steps: 100", "num_steps: 1000000000000000"), "num_steps is 1000000000000000"),
    "a huge layer": (replaced("[120]", "[1000000000000]"), "out of memory"),
    "a huge batch": (replaced("batch_size: 128", "batch_size: 1000000000000000000000"), "batch_size is"),
    "a huge seed": (replaced("everything: 0", "everything: 99999999999999"), "seed_everything: 99999999999999"),
    "many devices": (added("devices: 99999"), "trainer.devices is 99999"),
    "steps of no batches": (added("accumulate_grad_batches: 0"), "accumulate_grad_batches is 0"),
    "no checkpoints": (added("enable_checkpointing: false"), "fit always keeps the best and the last checkpoint"),
}  # fmt: skip
MORE_WRONG_CONFIGS = {
    "empty": (lambda text: "", "is empty"),
    "a list": (lambda text: "- 1\n- 2\n", "holds a list"),
    "a number": (lambda text: "42", "holds a text"),
    "no text": (lambda text: "\x00\x01", "is no text"),
    "tabs": (replaced("  max_epochs", "\tmax_epochs"), "cannot start any token"),
    "no network": (replaced("[120]", "null"), "hidden must list"),
    "layers in layers": (replaced("[120]", "[[1]]"), "model.hidden: expected a list of whole numbers"),
    "half a neuron": (replaced("[120]", "[1.5]"), "model.hidden: expected a list of whole numbers"),
    "a negative seed": (replaced("seed_everything: 0", "seed_everything: -1"), "seed_everything: -1"),
    "lr is NaN": (replaced("lr: 0.003", "lr: .nan"), "learning rate: nan"),
    "tau is NaN": (replaced("tau_hidden_ms: 50", "tau_hidden_ms: .nan"), "zero or more milliseconds, got nan"),
    "step is NaN": (replaced("step_ms: 1", "step_ms: .nan"), "step_ms is nan"),
    "no schedule": (replaced("T_max: 30", "T_max: 0"), "lr_scheduler.T_max: "),
    "a late validation": (added("val_check_interval: 7000"), "`val_check_interval` (7000) must be less"),
    "another precision": (added("precision: 7"), "trainer.precision"),
    "another accelerator": (added("accelerator: quantum"), "trainer.accelerator: there is no quantum"),
    "another strategy": (added("strategy: magic"), "invalid strategy name"),
    "a class of no name": (replaced("class_path: ss_lightning.MLPClassifier", "class_path: 3"), "model"),
    "another metric": (lambda text: text + "checkpoint:\n  monitor: val/nothing\n", "val/nothing"),
    "no folder": (lambda text: text + "checkpoint:\n  dirpath: /proc/x\n", "cannot write the checkpoint /proc/x"),
}


@pytest.mark.parametrize("case", [*WRONG_CONFIGS, *(MORE_WRONG_CONFIGS if LONG else ())])
def test_configs(tmp_path, monkeypatch, case, capsys):
    monkeypatch.chdir(tmp_path)
    change, words = {**WRONG_CONFIGS, **MORE_WRONG_CONFIGS}[case]
    Path("bad.yaml").write_text(change(Path(YINYANG).read_text()))
    count("configs")
    small = [option for option in SMALL if "num_steps" not in option]
    code = main(["fit", "--config", "bad.yaml", *small])
    error = capsys.readouterr().err
    assert code == 2, error
    assert words in error
    assert "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.yaml", "cache"}


@many(60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
)
def test_arguments_of_any_type(value):
    """Whatever a data module is given: it takes it, or says what it expects."""
    for name in ("num_steps", "step_ms", "batch_size", "val_fraction", "num_workers", "seed"):
        said, module = refusal("arguments of any type", lambda name=name: MNISTData(**{name: value}))
        if said:
            assert name in said
            assert "expected" in said
        else:
            assert getattr(module, name) == value


@pytest.mark.parametrize("kind", ["cut", "form"])
def test_data_errors_exit_with_1_and_leave_nothing(tmp_path, monkeypatch, shd, kind, capsys):
    monkeypatch.chdir(tmp_path)
    shd.write_pair(tmp_path / "data")
    path = tmp_path / "data" / "SHD" / "shd_train.h5"
    path.write_bytes(path.read_bytes()[:3000] if kind == "cut" else b"")
    count("HDF5 files of another form")
    assert main(["fit", "--config", str(ROOT / "configs" / "shd.yaml"), "--data.download=false"]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: data/SHD/shd_train.h5")
    assert "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} <= {"data", "cache"}


def test_configs_of_the_repository_pass_the_check():
    for path in (ROOT / "configs").rglob("*.yaml"):
        check_config(path)


def test_at_least_300_were_tried(request):
    """Runs last; only the whole file can say how many."""
    names = [item.name.partition("[")[0] for item in request.session.items if item.path == request.path]
    if len(set(names)) < 20 or names[-1] != request.node.name:
        pytest.skip("part of the file only")
    print("\nmalformed inputs tried: " + ", ".join(f"{number} {kind}" for kind, number in tried.items()))
    print(f"in all: {sum(tried.values())}")
    assert sum(tried.values()) >= 300
