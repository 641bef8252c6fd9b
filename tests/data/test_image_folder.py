"""Images in folders: decoding, the two codes, the cache and its preparation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ss_lightning.data import ImageAugmentation, ImageFolderData
from ss_lightning.data import preparation as preparation_module
from ss_lightning.data.layouts import list_recordings
from ss_lightning.data.pixels import ImageReader, pixel_steps
from ss_lightning.data.preparation import prepare
from ss_lightning.errors import DataError, UsageError


def write_image(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Six training and four test images of two classes, grey, 4 x 5 pixels."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            for n in range(number):
                write_image(tmp_path / "images" / part / name / f"{n}.png", rng.integers(0, 256, (4, 5)))
    return tmp_path / "images"


def data(folder, **options):
    return ImageFolderData(root=str(folder), cache_dir=str(folder.parent / "cache"), **options)


def test_parts_classes_and_pixels(folder):
    module = data(folder, num_steps=7, val_fraction=0.34)
    assert module.class_names == ("cat", "dog")
    assert module.input_shape == (1, 4, 5)
    assert [len(part) for part in (module.splits.train, module.splits.val, module.splits.test)] == [4, 2, 4]
    expected = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("test/*/*.png"))])
    steps = torch.from_numpy(pixel_steps(expected, 7).astype(int)).flatten(1)
    events, labels = next(iter(module.test_dataloader()))
    assert labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(events.to_dense().argmax(0), steps)
    assert torch.equal(events.to_dense().sum(0), torch.ones(4, 20))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("code", ["current", "latency"])
def test_a_picture_to_predict_is_read_without_a_word(folder, code):
    module = data(folder, num_steps=7, code=code)
    picture = folder / "test/cat/0.png"
    assert ImageReader(color="grey").read(picture).flags.writeable, "torch warns once only, maybe in another test"
    (recording,) = module.recording_readers((1, 4, 5))[".png"](picture, "s")
    if code == "current":
        expected = np.asarray(Image.open(picture)).ravel() / np.float32(255)
        np.testing.assert_array_equal(recording.currents, expected)
    assert len(recording.times) == (20 if code == "latency" else 0)


def test_a_link_to_no_file_is_named_or_left_out(folder):
    (folder / "train/cat/9.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"9\.png: a symbolic link to nowhere\.png, which leads to no file"):
        data(folder).prepare_data()
    with pytest.warns(UserWarning, match=r"1 of 11 files cannot be read and were left out .*: train/cat/9\.png"):
        data(folder, skip_broken=True).prepare_data()


@pytest.mark.skipif(sys.platform == "win32", reason="no such names")
def test_names_of_files_are_shown_on_one_line(folder):
    (folder / "train/cat/a b\nc.png").write_bytes(b"cut")
    with pytest.raises(DataError) as error:
        data(folder).prepare_data()
    assert r"a b\nc.png: cannot be read as an image" in str(error.value)
    assert "\n" not in str(error.value)


def test_one_class_is_nothing_to_learn(tmp_path):
    for n in range(4):
        write_image(tmp_path / "all/images/cat" / f"{n}.png", np.zeros((2, 2)))
    with pytest.warns(UserWarning, match=r"all: all 4 recordings are of one class, images, .*Set data\.root to"):
        data(tmp_path / "all").prepare_data()


def test_dense_input_and_silent_background(folder):
    write_image(folder / "test/cat/0.png", [[0, 255, 0, 255, 100]] * 4)
    module = data(folder, num_steps=3, background="silent", input="dense")
    dense, _ = next(iter(module.test_dataloader()))
    assert dense.dtype == torch.uint8
    assert dense[:, 0, :5].tolist() == [[0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    events, _ = next(iter(data(folder, num_steps=3, background="silent").test_dataloader()))
    assert torch.equal(events.to_dense(), dense.float())


def test_constant_current(folder):
    write_image(folder / "test/cat/0.png", [[0, 255, 51, 255, 255]] * 4)
    current, _ = next(iter(data(folder, num_steps=3, code="current").test_dataloader()))
    assert current.shape == (3, 4, 20)
    assert current.stride(0) == 0
    torch.testing.assert_close(current[2, 0, :5], torch.tensor([0.0, 1.0, 0.2, 1.0, 1.0]))


def test_colour_and_size(folder):
    write_image(folder / "train/cat/9.png", np.full((8, 4, 3), [255, 0, 0]))
    with pytest.raises(DataError, match=r"9\.png: 4 x 8 pixels, but .*0\.png has 5 x 4; .* Set data.size"):
        data(folder).prepare_data()
    with pytest.raises(DataError, match=r"0\.png is grey, but .*9\.png has colours; .* data\.color"):
        data(folder, size=[4, 4]).prepare_data()
    module = data(folder, size=[4, 4], color="rgb")
    assert module.input_shape == (3, 4, 4)
    red = module.splits.train.store.pixels[module.splits.train.store.labels == 0][3 + 2]
    assert red[0].min() == 255
    assert red[1:].max() == 0


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("RGBA", (9, 8, 7, 255), 9), ("P", 0, None), ("1", 1, 255), ("LA", (6, 255), 6)]
)
def test_modes_of_images(tmp_path, mode, value, expected):
    Image.new(mode, (3, 2), value).save(tmp_path / "a.png")
    pixels = ImageReader().read(tmp_path / "a.png")
    assert pixels.shape == ((3 if mode in ("RGBA", "P") else 1), 2, 3)
    assert expected is None or pixels[0].tolist() == [[expected] * 3] * 2


def test_sixteen_bits(tmp_path):
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert ImageReader().read(tmp_path / "a.png").tolist() == [[[0, 1, 255]]]


def test_augmentation_changes_training_images_only(folder):
    module = data(folder, code="current", augment=ImageAugmentation(shift=2, flip=True), val_fraction=0)
    torch.manual_seed(0)
    plain = data(folder, code="current", val_fraction=0)
    loader = module.train_dataloader()
    (first, _), (second, _) = next(iter(loader)), next(iter(loader))
    assert not torch.equal(first, second)
    assert torch.equal(*(next(iter(m.test_dataloader()))[0] for m in (module, plain)))
    with pytest.raises(UsageError, match=r"augment\.shift is 4; expected less than 4"):
        data(folder, augment=ImageAugmentation(shift=4)).prepare_data()


def test_unreadable_images_are_named_or_counted(folder):
    (folder / "train/dog/1.png").write_bytes(b"no image")
    whole = (folder / "test/cat/1.png").read_bytes()
    (folder / "test/cat/1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"test/cat/1\.png: cannot be read as an image .* data\.skip_broken: true"):
        data(folder).prepare_data()
    assert not list((folder.parent / "cache").glob("images-*"))
    module = data(folder, skip_broken=True, val_fraction=0)
    with pytest.warns(UserWarning, match=r"2 of 10 files cannot be read and were left out .*: test/cat/1.png, tr"):
        module.prepare_data()
    assert (len(module.splits.train), len(module.splits.test)) == (5, 3)
    assert module.splits.train.store.labels.tolist() == [0, 1, 1, 0, 0, 0, 1, 1]


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/1.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of 1 files can be read"):
        data(tmp_path / "a", skip_broken=True).prepare_data()


def test_files_are_read_once_and_again_when_they_change(folder, monkeypatch):
    read, calls = ImageReader.read, []
    monkeypatch.setattr(ImageReader, "read", lambda self, path: calls.append(path.name) or read(self, path))
    monkeypatch.setattr(preparation_module, "_FILES_AT_ONCE", 4)
    data(folder, prepare_processes=1).prepare_data()
    assert len(calls) == 10
    data(folder, prepare_processes=1, val_fraction=0.5).prepare_data()
    assert len(calls) == 10
    write_image(folder / "test/cat/0.png", [[1] * 5] * 4)
    module = data(folder, prepare_processes=1)
    assert module.splits.test.store.pixels[0].max() == 1
    assert len(calls) == 20
    assert len(list((folder.parent / "cache").glob("images-*"))) == 1


def test_a_damaged_cache_is_made_again(folder):
    data(folder).prepare_data()
    (file,) = (folder.parent / "cache").glob("images-*/pixels.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    assert len(data(folder).splits.test) == 4


def test_a_cache_that_cannot_be_written(folder, monkeypatch):
    (folder.parent / "cache").write_text("a file")
    module = data(folder)
    with pytest.warns(UserWarning, match="Cannot keep prepared data in the cache"):
        module.prepare_data()
    assert len(module.splits.test) == 4


def test_several_processes_give_the_same(folder, monkeypatch):
    monkeypatch.setattr(preparation_module, "_FILES_AT_ONCE", 3)
    listing = list_recordings(folder, (".png",), None, "")
    one, two = (prepare(folder.parent / f"c{n}", listing, ImageReader(), processes=n) for n in (1, 2))
    assert (one / "pixels.npy").read_bytes() == (two / "pixels.npy").read_bytes()
    assert np.load(two / "file.npy").tolist() == list(range(10))


KILLED = """
import os, sys, time
from pathlib import Path
from ss_lightning.data import preparation
from ss_lightning.data.layouts import list_recordings
from ss_lightning.data.pixels import ImageReader

class Slow(ImageReader):
    def read(self, path):
        with open(sys.argv[2], "a") as log:
            log.write(path.name + "\\n")
        time.sleep(float(sys.argv[3]))
        return super().read(path)

Slow.__name__ = "ImageReader"
preparation._FILES_AT_ONCE = 2
root = Path(sys.argv[1])
print(preparation.prepare(root.parent / "cache", list_recordings(root, (".png",), None, ""), Slow(), processes=2))
"""


@pytest.mark.slow
def test_a_preparation_that_was_killed_goes_on(folder, tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(KILLED)
    process = subprocess.Popen([sys.executable, str(script), str(folder), str(log), "1"], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob(".*.shards/[0-9a-f]*/meta.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "cache").glob("images-*"))
    time.sleep(1.5)  # the processes that it started end with it
    before = len(log.read_text().splitlines())
    assert before < 10
    done = 2 * len(list((tmp_path / "cache").glob(".*.shards/[0-9a-f]*/meta.json")))
    command = [sys.executable, str(script), str(folder), str(log), "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{done} done before" in result.stderr
    assert len(log.read_text().splitlines()) == before + 10 - done
    entry = Path(result.stdout.strip())
    assert json.loads((entry / "meta.json").read_text())["num_events"] == 200
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [entry.name]
    assert os.path.isfile(entry / "pixels.npy")
