"""What the paths of a folder say, and what is said of a folder that does not fit."""

import os
import sys

import pytest

from ss_lightning.data.layouts import checked_pattern, list_recordings
from ss_lightning.errors import DataError, UsageError


@pytest.fixture
def found(tmp_path):
    """What is found in a folder with these files."""

    def make(*paths, suffixes=(".wav",), pattern=None, user="AudioFolderData"):
        for path in paths:
            file = tmp_path / path
            if path.endswith("/"):
                file.mkdir(parents=True)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x" if not path.endswith(".txt") else LISTS.get(path, ""))
        return [tuple(one) for one in list_recordings(tmp_path, suffixes, checked_pattern(pattern), user).found]

    return make


LISTS = {"validation_list.txt": "no/0a7c_nohash_0.wav\n", "testing_list.txt": "yes/00f0_nohash_1.wav\n"}


def test_parts_and_classes(found):
    assert found("Training/a/1.wav", "valid/b/s/2.WAV", "Training/b/3.wav", ".DS_Store", "Training/a/._1.wav") == [
        ("Training/a/1.wav", "a", None, "train"),
        ("Training/b/3.wav", "b", None, "train"),
        ("valid/b/s/2.WAV", "b", None, "val"),
    ]


def test_classes_alone_and_a_class_called_train(found):
    assert found("train/1.wav", "bus/1.wav") == [("bus/1.wav", "bus", None, ""), ("train/1.wav", "train", None, "")]


def test_a_flat_folder(found):
    assert found("3_theo_0.wav", "10_jackson_12.wav") == [
        ("10_jackson_12.wav", "10", "jackson", ""),
        ("3_theo_0.wav", "3", "theo", ""),
    ]


def test_flat_parts(found):
    assert found("train/3_theo_0.wav", "test/3_lucas_0.wav")[0] == ("test/3_lucas_0.wav", "3", "lucas", "test")


def test_speech_commands(found):
    paths = ["yes/00f0_nohash_0.wav", "yes/00f0_nohash_1.wav", "no/0a7c_nohash_0.wav", "no/00f0_nohash_0.wav"]
    assert found(*paths, "_background_noise_/tap.wav", "README.md", *LISTS) == [
        ("no/00f0_nohash_0.wav", "no", "00f0", "train"),
        ("no/0a7c_nohash_0.wav", "no", "0a7c", "val"),
        ("yes/00f0_nohash_0.wav", "yes", "00f0", "train"),
        ("yes/00f0_nohash_1.wav", "yes", "00f0", "test"),
    ]


def test_lists_as_windows_writes_them(found, tmp_path):
    (tmp_path / "testing_list.txt").write_bytes(b".\\yes\\1.wav\r\n")
    assert [one[3] for one in found("yes/0.wav", "yes/1.wav", "no/0.wav")] == ["train", "train", "test"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_a_pipe_is_no_recording(found, tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a/2.wav")
    assert found("a/1.wav", "b/1.wav") == [("a/1.wav", "a", None, ""), ("b/1.wav", "b", None, "")]


def test_a_folder_that_cannot_be_read(found, tmp_path, monkeypatch):
    def refuse(path, scandir=os.scandir):
        if path == tmp_path / "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=r"b: this folder cannot be read \(Permission denied\)\. Allow it"):
        found("a/1.wav", "b/1.wav")


def test_a_pattern(found):
    pattern = r"(?P<split>\w+)-(?P<speaker>\w+)/(?P<class>\w+)\.\d+"
    assert found("train-ann/dog.1.wav", "test-bob/dog.2.wav", pattern=pattern) == [
        ("test-bob/dog.2.wav", "dog", "bob", "test"),
        ("train-ann/dog.1.wav", "dog", "ann", "train"),
    ]


def test_a_pattern_for_the_group_alone(found):
    assert found("a/s1_x.wav", "b/s2_y.wav", pattern=r"/(?P<group>s\d)") == [
        ("a/s1_x.wav", "a", "s1", ""),
        ("b/s2_y.wav", "b", "s2", ""),
    ]


def test_numbers_are_in_their_order(tmp_path):
    for name in ("10", "9", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_text("")
    assert list_recordings(tmp_path, (".wav",), None, "").class_names() == ("1", "9", "10")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a/1.wav", "b/"], r"b: no recordings of the class b .* Put some there, or remove the folder"),
        (["train/a/1.wav", "train/b/", "test/a/1.wav"], r"train/b: no recordings of the class b"),
        (
            ["train/a/1.wav", "test/b/2.wav"],
            r"test/b/2.wav: class b is in test but not in train, whose classes are a\.",
        ),
        (["a/1.wav", "a/1.flac"], r"a/1\.wav: two recordings of one name, 1\.flac and 1\.wav"),
        (["test/a/1.wav", "val/a/1.wav"], r"test, val but no train"),
        (["train/a/1.wav", "test/a/2.wav", "other/a/1.wav"], r"other beside test"),
        (["train/a/1.wav", "training/a/2.wav"], r"two folders for train"),
        (["hello.wav", "a/1.wav"], r"hello\.wav: lies in no folder of a class; expected .* data\.pattern"),
        (["a/1.png", "b/2.jpg"], r"2 files such as a/1.png: this looks like an ImageFolder; use --data ss_l.*ImageF"),
        (["a/1.npz"], r"this looks like an EventFolder"),
        (["SHD/shd_train.h5"], r"but shd_train.h5. Use ss_lightning.data.SHDData"),
        (["a/1.mp3", "a/2.mp3"], r"found 2 of \.mp3"),
        ([], r"it is empty. Set data\.root"),
        (
            ["data/Train/a/1.wav", "data/test/a/1.wav"],
            r"only folder is data, which has Train, test\. Set data\.root to .*data\.",
        ),
        (
            ["yes/00f0_nohash_0.wav", "testing_list.txt"],
            r"testing_list\.txt: none of its 1 paths is a file here, such as yes/00f0_noh",
        ),
    ],
)
def test_errors(found, tmp_path, paths, message):
    with pytest.raises(DataError, match=message) as error:
        found(*paths, suffixes=(".wav", ".flac"))
    assert str(tmp_path) in str(error.value)


def test_a_path_that_the_pattern_does_not_fit(found):
    with pytest.raises(
        DataError, match=r"a/x\.wav: data\.pattern .* does not find speaker in a/x\.wav \(2 such files\)"
    ):
        found("a/x.wav", "b/x.wav", "a/s1.wav", pattern=r"(?P<speaker>s\d)")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "cannot be read"),
        ("(?P<klass>x)", "names klass"),
        ("x", "names no part"),
        ("(?P<speaker>x)(?P<group>y)", "one"),
    ],
)
def test_patterns_that_are_none(pattern, message):
    with pytest.raises(UsageError, match=message):
        checked_pattern(pattern)


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="is missing; expected a folder of recordings"):
        list_recordings(tmp_path / "none", (".wav",), None, "")
