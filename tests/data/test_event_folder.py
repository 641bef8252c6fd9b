"""The user's own events: every format, the geometry of cameras, parts in one file each, and errors."""

import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from ss_lightning.data import EventFolderData, EventStore
from ss_lightning.data.event_files import EventReader, decode_evt3, panics_as_errors, read_columns
from ss_lightning.data.recording_files import read_recordings
from ss_lightning.errors import DataError, UsageError

T = np.array([0.5, 1.0, 20.0, 31.25]) / 1000  # seconds
US = (T * 1e6).astype(np.int64)
X, Y, P = np.array([0, 6, 3, 6]), np.array([1, 0, 2, 2]), np.array([1, 0, 1, 1])
CAMERA = [("x", "<i2"), ("y", "<i2"), ("p", "i1"), ("t", "<f8")]


def structured(t=T, p=P):
    return np.array(list(zip(X, Y, p, t, strict=True)), CAMERA)


def aedat(path, address, version):
    head = f"#!AER-DAT{version}\r\n# Creation time: 12:00:00 5\r\n".encode()
    if version == "2.0":
        body = np.stack([address, US], 1).astype(">u4").tobytes()
    else:
        packet = np.zeros(7, "<u4")
        packet[4] = packet[5] = packet[6] = len(address)
        body = packet.tobytes() + np.stack([address, US], 1).astype("<u4").tobytes()
    path.write_bytes(head + body)


def prophesee(path, encoding):
    wizard = pytest.importorskip("expelliarmus")
    from expelliarmus.wizard.clib import event_t

    events = np.zeros(len(T), event_t)
    for name, values in (("t", US), ("x", X), ("y", Y), ("p", P)):
        events[name] = values
    wizard.Wizard(encoding=encoding).save(path, events)


def evt2(path):
    words = np.stack([8 << 28 | US >> 6, P << 28 | (US & 63) << 22 | X << 11 | Y], 1)
    path.write_bytes(b"% evt 2.0\n" + words.astype("<u4").tobytes())


def evt3(path):
    words = np.stack([8 << 12 | US >> 12, 6 << 12 | US & 4095, Y, 2 << 12 | P << 11 | X], 1)
    path.write_bytes(b"% evt 3.0\n" + words.astype("<u2").tobytes())


def hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values


def atis(path):
    high = (P << 7) | (US >> 16)
    np.stack([X, Y, high, US >> 8 & 255, US & 255], 1).astype(np.uint8).tofile(path)


def text(head, sign, end="\n"):
    return (head + end.join(f"{t}{sign}{x}" for t, x in zip(T, X, strict=True))).encode()


TABLE = {"x": X, "y": Y, "p": P, "t": T}
FORMATS = {
    "structured.npy": lambda path: np.save(path, structured()),
    "structured.npz": lambda path: np.savez_compressed(path, structured()),
    "arrays.npz": lambda path: np.savez(path, **TABLE, other=[1]),
    "signs.npz": lambda path: np.savez(path, **{**TABLE, "p": 2 * P - 1}),
    "bool.npz": lambda path: np.savez(path, **{**TABLE, "p": P > 0}),
    "named.csv": lambda path: pd.DataFrame(TABLE).to_csv(path, index=False),
    "semicolon.csv": lambda path: pd.DataFrame(TABLE).to_csv(path, index=False, sep=";"),
    "table.parquet": lambda path: pd.DataFrame(TABLE).to_parquet(path),
    "group.h5": lambda path: hdf5(path, events__xs=X, events__ys=Y, events__ps=P, events__ts=T, image=np.zeros((2, 2))),
    "compound.h5": lambda path: hdf5(path, events=structured()),
    "a.dat": lambda path: prophesee(path, "dat"),
    "two.raw": lambda path: evt2(path),
    "two_of_a_library.raw": lambda path: prophesee(path, "evt2"),
    "three.raw": lambda path: evt3(path),
    "dvs128.aedat": lambda path: aedat(path, X << 8 | Y << 1 | P, "2.0"),
    "davis.aedat": lambda path: aedat(path, Y << 22 | X << 12 | P << 11 | (0 * X), "2.0"),
    "polarity.aedat": lambda path: aedat(path, X << 17 | Y << 2 | P << 1 | 1, "3.1"),
    "atis.bin": lambda path: atis(path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_cameras(tmp_path, name):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / "train/a" / name
    path.parent.mkdir(parents=True)
    FORMATS[name](path)
    store = data(tmp_path, val_fraction=0, test_fraction=0).splits.train.store
    assert store.input_shape == (2, 3, 7)
    assert store.units.tolist() == ((P * 3 + Y) * 7 + X).tolist()
    np.testing.assert_allclose(store.times / store.step_length(1.0), T * 1000, rtol=1e-12)


def data(folder, **options):
    return EventFolderData(root=str(folder), cache_dir=str(folder.parent / f"{folder.name}-cache"), **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npz", lambda path: np.savez(path, times=T, units=X)),
        ("a.npy", lambda path: np.save(path, np.stack([T, X], 1))),
        ("a.csv", lambda path: path.write_text("\n".join(f"{t},{x}" for t, x in zip(T, X, strict=True)))),
        ("a.csv", lambda path: pd.DataFrame({"channel": X, "timestamps": T}).to_csv(path, index=False)),
        ("a.csv", lambda path: path.write_bytes(text("\ufefftimes;units\r\n", ";", "\r\n"))),
        ("a.csv", lambda path: path.write_bytes(text("\n# by a camera, 2024\n\ntimes,units\n", ","))),
        ("a.csv", lambda path: path.write_bytes(text("# by a camera\n# times,units\n", ","))),
        ("a.csv", lambda path: path.write_bytes(text("# by a camera\n", ","))),
        ("a.h5", lambda path: hdf5(path, spikes__times=T, spikes__units=X)),
    ],
)
def test_units(tmp_path, name, write):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / name)
    store = data(tmp_path, val_fraction=0, test_fraction=0).splits.train.store
    assert (store.input_shape, store.units.tolist(), store.time_unit) == ((7,), X.tolist(), "ms")
    np.testing.assert_allclose(store.times, T * 1000, rtol=1e-12)
    assert data(tmp_path, num_units=9, val_fraction=0, test_fraction=0).input_shape == (9,)


def test_geometry(tmp_path):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a/r.npy", structured())
    options = {"val_fraction": 0, "test_fraction": 0}
    store = data(tmp_path, sensor_size=[8, 4], merge_polarity=True, **options).splits.train.store
    assert (store.input_shape, store.units.tolist()) == ((1, 4, 8), (Y * 8 + X).tolist())
    store = data(tmp_path, pixels_per_input=2, **options).splits.train.store
    assert (store.input_shape, store.units.tolist()) == ((2, 2, 4), ((P * 2 + Y // 2) * 4 + X // 2).tolist())
    store = data(tmp_path, from_first_event=True, window_ms=[0.25, 25], **options).splits.train.store
    assert store.times.tolist() == [0.25, 19.25]
    assert store.units.tolist() == ((P * 3 + Y) * 7 + X)[1:3].tolist()
    with pytest.raises(DataError, match=r"event 1: x is 6; expected whole numbers from 0 to 5\..*data\.sensor_size"):
        data(tmp_path, sensor_size=[6, 4], **options).prepare_data()


def test_several_shards_with_times_of_several_kinds(tmp_path, monkeypatch):
    monkeypatch.setattr("ss_lightning.data.preparation._FILES_AT_ONCE", 1)
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a/1.npy", structured())
    atis(tmp_path / "a/2.bin")
    store = data(tmp_path, val_fraction=0, test_fraction=0, prepare_processes=1).splits.train.store
    assert store.time_unit == "ms"
    assert store.times.tolist() == (T * 1000).tolist() * 2
    assert store.units[:4].tolist() == store.units[4:].tolist()


def write(folder, name, **arrays):
    (folder / "a").mkdir(exist_ok=True)
    np.savez(folder / "a" / name, **{"times": T, "units": X, **arrays})


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (
            {"times": T[::-1]},
            {},
            r"b\.npz, event 1: time 0\.02 comes after 0\.03125: times must not go ba",
        ),
        ({"times": T - 0.001}, {}, r"b\.npz, event 0: time -0\.0005; expected finite times, zero or more"),
        ({"times": [0, 1, np.nan, 2]}, {}, r"b\.npz, event 2: time nan"),
        (
            {"units": [0, 1, 2, 9]},
            {"num_units": 7},
            r"b\.npz, event 3: unit is 9; expected .* from 0 to 6\.",
        ),
        ({"units": [0, 1, 2.5, 3]}, {}, r"b\.npz, event 2: unit is 2\.5; expected whole numbers"),
        ({"units": [-1, 1, 2, 3]}, {}, r"b\.npz, event 0: unit is -1; expected whole numbers"),
        ({"units": [0, 1, 2]}, {}, r"b\.npz: 4 t, 3 unit; expected one of each for every event"),
        ({"times": [], "units": []}, {}, r"b\.npz: no events\. .*data\.allow_empty"),
        ({"units": ["x"] * 4}, {}, r"b\.npz: unit is <U1 of shape \(4,\); expected one flat array of numbers"),
        ({"units": X[:, None]}, {}, r"b\.npz: unit is int64 of shape \(4, 1\)"),
        ({"units": np.array([0, 1, 2, 2**64 - 1], np.uint64)}, {}, r"event 3: unit is 18446744073709551615; expected"),
        ({"times": np.array([0, 1, 2, 2**64 - 1], np.uint64)}, {}, r"event 3: time 18446744073709551615; expected"),
        ({"times": np.array([3, 1, 2, 9], np.uint8)}, {}, r"event 1: time 1 comes after 3"),
    ],
)
def test_events_that_are_not_valid(tmp_path, arrays, options, message):
    write(tmp_path, "a.npz")
    write(tmp_path, "b.npz", **arrays)
    with pytest.raises(DataError, match=message):
        data(tmp_path, **options).prepare_data()
    with pytest.warns(UserWarning, match=r"1 of 2 files cannot be read and were left out .*: a/b\.npz"):
        data(tmp_path, skip_broken=True, val_fraction=0, test_fraction=0, **options).prepare_data()


@pytest.mark.parametrize("p", [[-1, 2, 1, 1], [0, 1, 2, 0]])
def test_polarities_that_are_not_two(tmp_path, p):
    with pytest.raises(DataError, match=r"p is -?\d; expected whole numbers from 0 to 1\. Correct the data\.$"):
        EventReader().checked("a", {"t": T, "x": X, "p": np.array(p)}, "s")


def test_what_is_asked_for_is_accepted(tmp_path):
    write(tmp_path, "a.npz")
    write(tmp_path, "b.npz", times=T[::-1])
    write(tmp_path, "c.npz", times=[], units=[])
    module = data(tmp_path, sort_times=True, allow_empty=True, val_fraction=0, test_fraction=0)
    store = module.splits.train.store
    assert np.diff(store.offsets).tolist() == [4, 4, 0]
    assert store.units[4:].tolist() == X[::-1].tolist()
    assert store.times[4:].tolist() == store.times[:4].tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"PK\x03\x04 cut", r"a\.npz: cannot be read as \.npz"),
        ("a.npy", b"", r"a\.npy: cannot be read as \.npy"),
        ("a.csv", b"a,b\n1,2\n", r"a\.csv: holds a, b; expected times and units, or t, x, y and p"),
        ("a.csv", b"1,2,3,4\n", r"a\.csv: 4 columns without names"),
        ("a.csv", b"t,x\n1,2\n3,what\n", r"a\.csv, line 3: x is 'what', not a number"),
        ("a.csv", b"t,x\n1,\n", r"a\.csv, line 2: x is '', not a number"),
        ("a.csv", b"t,x\n1,2,3\n", r"a\.csv: its lines have more than 2 entries; expected one a column"),
        ("a.csv", b"", r"a\.csv: holds nothing"),
        ("a.csv", "t,x,größe\n".encode("latin1"), r"a\.csv: cannot be read as \.csv \('utf-8'"),
        ("a.npz", b"no", r"a\.npz: cannot be read as \.npz \(it is none, or holds arrays of objects"),
        ("a.h5", b"no", r"a\.h5: cannot be read as \.h5"),
        ("a.raw", b"% evt 2.1\n", r"a\.raw: cannot be read .*names EVT 2\.1; expected EVT 2\.0 or EVT 3\.0"),
        ("a.raw", b"% format EVT21;height=720\n", r"names EVT 21"),
        ("a.dat", b"no", r"a\.dat: cannot be read as \.dat \(it is no recording of Prophesee, or cut short"),
        ("a.parquet", b"no", r"a\.parquet: cannot be read as \.parquet"),
        ("a.raw", b"no header", r"a\.raw: cannot be read as \.raw .*its header names no format; expected EVT"),
        ("a.aedat", b"no", r"a\.aedat: cannot be read as \.aedat"),
        ("a.bin", b"1234", r"a\.bin: cannot be read as \.bin .*4 bytes"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_columns(tmp_path / name)


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", times=np.array([T, T[:2]], object), units=X)
    with pytest.raises(DataError, match="arrays of objects, which may hold code and are not read"):
        read_columns(tmp_path / "a.npz")


def test_a_file_of_many_recordings_belongs_elsewhere(tmp_path):
    hdf5(tmp_path / "a.h5", spikes__times=T, spikes__units=X, labels=[1])
    with pytest.raises(DataError, match=r"many recordings, in the layout of SHD. Use --data ss_.*SHDData"):
        read_columns(tmp_path / "a.h5")


def test_recordings_of_one_file_are_not_mixed(tmp_path):
    hdf5(tmp_path / "a.h5", one__times=T, one__units=X, two__times=T)
    with pytest.raises(DataError, match=r"a\.h5: holds one/times and two/times; expected one recording"):
        read_columns(tmp_path / "a.h5")
    hdf5(tmp_path / "b.h5", image=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"b\.h5: holds image; expected times and units"):
        read_columns(tmp_path / "b.h5")


FILE = Path(__file__).parents[1] / "files" / "dvs.aedat4"  # written by dv-processing 2.0.4, in two packets


def test_aedat4_counts_from_its_first_event(tmp_path):
    pytest.importorskip("aedat")
    (tmp_path / "a").mkdir()
    shutil.copy(FILE, tmp_path / "a")
    store = data(tmp_path, val_fraction=0, test_fraction=0).splits.train.store
    assert (store.input_shape, store.time_unit) == ((2, 3, 7), "us")
    assert store.times.tolist() == (US - US[0]).tolist()
    assert store.units.tolist() == ((P * 3 + Y) * 7 + X).tolist()


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (0, 700), (100, 110)])
def test_damaged_aedat4_is_named(tmp_path, begin, end):
    pytest.importorskip("aedat")
    content = FILE.read_bytes()
    damaged = content[:end] if begin == 0 else content[:begin] + b"\xff" * (end - begin) + content[end:]
    (tmp_path / "a.aedat4").write_bytes(damaged)
    with pytest.raises(DataError, match=r"a\.aedat4: cannot be read as \.aedat4"):
        read_columns(tmp_path / "a.aedat4")


def test_a_library_that_panics_says_so_in_an_error():
    kind = type("PanicException", (BaseException,), {})
    with pytest.raises(ValueError, match="out of range"), panics_as_errors():
        raise kind("out of range")
    with pytest.raises(KeyboardInterrupt), panics_as_errors():
        raise KeyboardInterrupt


def test_aedat4_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(UsageError, match=r"AEDAT 4 files need the library aedat. Install it: pip install 'ss-light"):
        read_columns(FILE)


def test_cameras_and_units_do_not_mix(tmp_path):
    write(tmp_path, "a.npz")
    np.save(tmp_path / "a/b.npy", structured())
    with pytest.raises(DataError, match=r"b\.npy: holds x, y, p, but .*a\.npz unit; expected the same in all files"):
        data(tmp_path).prepare_data()


def parts(folder, **more):
    for part, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        number = len(labels)
        arrays = {"times": np.tile(T, number), "units": np.tile(X, number), "lengths": [4] * number, "labels": labels}
        np.savez(folder / f"{part}.npz", **{**arrays, **{name: make(part, number) for name, make in more.items()}})


def test_one_file_for_each_part(tmp_path):
    parts(tmp_path, class_names=lambda *_: ["no", "yes"], groups=lambda part, n: [f"{part}{i % 2}" for i in range(n)])
    module = data(tmp_path, val_fraction=0)
    assert (len(module.splits.train), module.splits.val, len(module.splits.test)) == (3, None, 2)
    assert module.class_names == ("no", "yes")
    assert module.num_inputs == 7
    assert isinstance(module.splits.train.store, EventStore)
    assert module.splits.test.store.labels[module.splits.test.indices].tolist() == [1, 0]
    assert module.speakers() == ["test0", "test1", "train0", "train1"]
    readers = module.recording_readers(module.input_shape)
    assert [one.units.tolist() for one in read_recordings(tmp_path / "test.npz", readers=readers)] == [X.tolist()] * 2
    module = data(tmp_path, test_speakers=["train0"], val_speakers=[])
    assert (len(module.splits.train), len(module.splits.test)) == (3, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"lengths": [4, 4, 5]}, r"train\.npz: 3 lengths, 3 labels, 12 times, 12 units, and the lengths add up to 13"),
        ({"labels": [0, 1]}, r"train\.npz: 3 lengths, 2 labels"),
        ({"lengths": [3, 4, 5]}, r"train\.npz, sample 1: time 0\.0005 comes after 0\.03125; .*Correct the lengths"),
        ({"labels": [1, -1, 0]}, r"train\.npz: label -1; expected classes numbered from 0"),
        ({"class_names": ["no"]}, r"train\.npz: label 1; expected the 1 class_names numbered from 0"),
        ({"labels": [1, 1, 1]}, r"test\.npz: class 0 \(label 0\) is not in train\.npz\. Add recordings of it"),
        ({"times": np.array([T, T], object)}, r"train\.npz: cannot be read .* Arrays of objects may hold code"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, arrays, message):
    parts(tmp_path)
    test = (tmp_path / "test.npz").read_bytes()
    parts(tmp_path, **{name: (lambda *_, values=values: values) for name, values in arrays.items()})
    (tmp_path / "test.npz").write_bytes(test)
    with pytest.raises(DataError, match=message):
        data(tmp_path).prepare_data()


def test_parts_without_one_to_train_on(tmp_path):
    parts(tmp_path)
    (tmp_path / "train.npz").unlink()
    with pytest.raises(DataError, match=r"test\.npz but no train\.npz"):
        data(tmp_path).prepare_data()


def test_a_part_whose_events_are_in_no_order(tmp_path):
    parts(tmp_path, times=lambda _, n: np.tile(T[::-1], n))
    store = data(tmp_path, sort_times=True).splits.train.store
    assert store.times[:4].tolist() == (T * 1000).tolist()


def test_a_part_of_each_recording_of_a_part(tmp_path):
    parts(tmp_path)
    module = data(tmp_path, from_first_event=True, window_ms=[0.2, 25], val_fraction=0)
    store = module.splits.train.store
    expected = T[1:3] - T[0] - 0.0002
    assert np.diff(store.offsets).tolist() == [2] * 5
    np.testing.assert_allclose(store.times[:2] / store.step_length(1.0), expected * 1000, rtol=1e-9)
    assert store.units[:2].tolist() == X[1:3].tolist()
    readers = module.recording_readers(module.input_shape)
    first, _ = read_recordings(tmp_path / "test.npz", readers=readers)
    np.testing.assert_allclose(first.times, expected, rtol=1e-9)
    # The same recordings in files of their own.
    alone = tmp_path / "alone"
    for n in range(2):
        (alone / "train" / f"{n}").mkdir(parents=True)
        np.savez(alone / "train" / f"{n}" / "a.npz", times=T, units=X)
    other = data(alone, from_first_event=True, window_ms=[0.2, 25], val_fraction=0, test_fraction=0).splits.train.store
    np.testing.assert_allclose(other.times[:2] / other.step_length(1.0), expected * 1000, rtol=1e-9)
    for broken in (np.nan, -1.0, np.inf):  # a window does not drop in silence what is wrong
        parts(tmp_path, times=lambda _, n, broken=broken: np.tile([*T[:3], broken], n))
        with pytest.raises(DataError, match="time"):
            data(tmp_path, window_ms=[0.2, 25], sort_times=True).splits  # noqa: B018
    parts(tmp_path)
    with pytest.raises(UsageError, match=r"pixels_per_input is for recordings with x and y, but .*train\.npz"):
        data(tmp_path, pixels_per_input=2).splits  # noqa: B018
    with pytest.warns(UserWarning, match=r"train\.npz is trained on, .* such as .*alone"):
        data(tmp_path, val_fraction=0).splits  # noqa: B018


def test_a_part_without_lengths(tmp_path):
    np.savez(tmp_path / "train.npz", times=T, units=X, labels=[0])
    with pytest.raises(DataError, match=r"no lengths among times, units, labels\. Write it with numpy\.savez"):
        data(tmp_path).prepare_data()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensor_size": [8]}, r"sensor_size is \[8\]; expected width and height"),
        ({"window_ms": [5, 1]}, r"window_ms is \[5, 1\]; expected begin and end"),
        ({"time_unit": "ns"}, "time_unit is 'ns'"),
        ({"prepare_processes": 0}, "prepare_processes is 0"),
        ({"exclude_test_part": True}, "exclude_test_part leaves nothing to test on"),
        ({"test_speakers": []}, "test_speakers is empty"),
    ],
)
def test_arguments(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        data(tmp_path, **options)


def test_recordings_are_read_as_in_training(tmp_path):
    np.save(tmp_path / "r.npy", structured())
    module = data(tmp_path, pixels_per_input=2)
    (recording,) = module.recording_readers((2, 4, 5))[".npy"](tmp_path / "r.npy", "s")
    assert recording.units.tolist() == ((P * 4 + Y // 2) * 5 + X // 2).tolist()
    assert recording.time_unit == "ms"


def test_evt3_in_vectors_and_over_a_turn_of_the_clock():
    """A base with polarity 1 at x 100, twelve pixels, then eight; the clock comes round between two events."""
    words = [
        7 << 12,
        8 << 12 | 4095,
        6 << 12 | 10,
        5,
        3 << 12 | 1 << 11 | 100,
        4 << 12 | 0b100000000001,
        5 << 12 | 0b10,
    ]
    words += [8 << 12 | 0, 6 << 12 | 3, 2 << 12 | 7]
    t, x, y, p = decode_evt3(np.array(words, "<u2"))
    assert t.tolist() == [(4095 << 12) + 10] * 3 + [(1 << 24) + 3]
    assert (x.tolist(), y.tolist(), p.tolist()) == ([100, 111, 113, 7], [5] * 4, [1, 1, 1, 0])
