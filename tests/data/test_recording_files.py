"""Recordings without labels from files of each kind."""

import h5py
import numpy as np
import pytest

from ss_lightning import DataError, UsageError
from ss_lightning.data.recording_files import READERS, Recording, read_recordings, recording_files

TIMES, UNITS = [0.004, 0.001], [2, 0]


def write_h5(path, times=(TIMES, [0.5]), units=(UNITS, [1]), **names):
    with h5py.File(path, "w") as file:
        for name, lists, kind in (("times", times, np.float16), ("units", units, np.uint16)):
            data = file.create_dataset(f"spikes/{name}", (len(lists),), dtype=h5py.vlen_dtype(kind))
            for number, values in enumerate(lists):
                data[number] = values


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "times,units\n0.004,2\n0.001,0\n"),
        ("a.csv", "unit;loudness;time\r\n2;9;0.004\r\n0;8;0.001\r\n"),
        ("a.CSV", '\ufeff"times","units"\n0.004,2\n0.001,0'),
        ("a.txt", "0.004 2\n0.001 0\n"),
        ("a.tsv", "0.004\t2\n0.001\t0\n"),
    ],
)
def test_tables(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    (one,) = read_recordings(tmp_path / name, "ms")
    assert one.times.tolist() == TIMES
    assert one.units.tolist() == UNITS
    assert (one.number, one.time_unit) == (0, "ms")


def test_a_table_without_events(tmp_path):
    (tmp_path / "a.csv").write_text("times,units\n", encoding="utf-8")
    assert read_recordings(tmp_path / "a.csv")[0].times.tolist() == []


def test_arrays_and_the_layout_of_shd(tmp_path):
    np.savez(tmp_path / "a.npz", times=TIMES, units=UNITS)
    write_h5(tmp_path / "a.h5")
    (one,) = read_recordings(tmp_path / "a.npz")
    assert (one.times.tolist(), one.units.tolist()) == (TIMES, UNITS)
    first, second = read_recordings(tmp_path / "a.h5")
    np.testing.assert_allclose(first.times, TIMES, rtol=1e-3)
    assert (first.units.tolist(), second.number, second.units.tolist()) == (UNITS, 1, [1])


def test_several_recordings_in_one_file_of_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", times=[0.1, 0.2, 0.05], units=[3, 1, 0], lengths=[2, 0, 1], labels=[0, 1, 1])
    found = read_recordings(tmp_path / "a.npz")
    assert [(one.number, one.times.tolist(), one.units.tolist()) for one in found] == [
        (0, [0.1, 0.2], [3, 1]),
        (1, [], []),
        (2, [0.05], [0]),
    ]


def test_a_folder_is_all_its_files(tmp_path):
    for name in ("b.npz", "sub/a.csv", "notes.md", ".hidden/c.npz", ".hidden/nothing/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert recording_files([tmp_path]) == [tmp_path / "b.npz", tmp_path / "sub" / "a.csv"]
    with pytest.raises(UsageError, match=r"no recordings in this folder; expected files that end in .npz"):
        recording_files([tmp_path / ".hidden" / "nothing"])
    with pytest.raises(UsageError, match=r"there is no file .*absent\.npz"):
        recording_files([tmp_path / "absent.npz"])


BROKEN = {
    "text.npz": (lambda path: path.write_text("no archive", encoding="utf-8"), "cannot be read as .npz"),
    "other.npz": (lambda path: np.savez(path, x=[1], t=[2]), r"no array times and no array units \(it has x, t\)"),
    "pickle.npz": (lambda path: np.savez(path, times=np.array([[1], [2, 3]], object), units=[1]), "cannot be read"),
    "short.npz": (lambda path: np.savez(path, times=[1], units=[1], lengths=[2]), "the lengths add up to 2; expected"),
    "below.npz": (lambda path: np.savez(path, times=[1], units=[1], lengths=[2, -1]), "the lengths add up to 1; exp"),
    "halves.npz": (lambda path: np.savez(path, times=[1], units=[1], lengths=[0.5, 0.5]), "lengths: 0.5 at sample 0"),
    "text.h5": (lambda path: path.write_text("no HDF5", encoding="utf-8"), "cannot be read as .h5"),
    "other.h5": (lambda path: h5py.File(path, "w").close(), r"no data set spikes/times .*\(it has none\)"),
    "uneven.h5": (lambda path: write_h5(path, units=(UNITS,)), r"shape \(2,\) and spikes/units \(1,\)"),
    "empty.csv": (lambda path: path.touch(), "its columns are none; expected times and units"),
    "names.csv": (lambda path: path.write_text("a,b\n1,2\n", encoding="utf-8"), "its columns are a, b"),
    "three.csv": (lambda path: path.write_text("1,2,3\n", encoding="utf-8"), "3 columns without names"),
    "words.csv": (
        lambda path: path.write_bytes(b"times,units\n1,2\n1,two\n"),
        "line 3: units is 'two'",
    ),
    "hole.csv": (lambda path: path.write_text("1,2\n,3\n", encoding="utf-8"), "line 2: times is ''"),
    "latin.csv": (
        lambda path: path.write_bytes(b"times,units,gr\xf6\xdfe\n"),
        "cannot be read as .csv",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_do_not_fit_are_named(tmp_path, name):
    make, words = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(DataError, match=words) as caught:
        read_recordings(tmp_path / name)
    assert name in str(caught.value)


def test_other_endings_and_readers(tmp_path):
    (tmp_path / "a.wav").touch()
    with pytest.raises(UsageError, match=r"recordings are read from .npz, .h5, .*, not from .wav files"):
        read_recordings(tmp_path / "a.wav")

    def read_wav(path, time_unit):
        yield Recording(path, 0, np.array([1.0]), np.array([0]), "ms")

    readers = {**READERS, ".wav": read_wav}
    assert recording_files([tmp_path], readers) == [tmp_path / "a.wav"]
    assert read_recordings(tmp_path / "a.wav", readers=readers)[0].time_unit == "ms"
