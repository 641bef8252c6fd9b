import numpy as np
import pytest
import torch

from ss_lightning.data.augment import ImageAugmentation
from ss_lightning.data.images import FashionMNISTData, MNISTData, pixel_steps
from ss_lightning.errors import DataError, UsageError

IMAGES = "train-images-idx3-ubyte"


def images(root, part="train", name="MNIST"):
    return np.fromfile(root / name / "raw" / f"{part}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 784)


@pytest.mark.parametrize("num_steps", [1, 2, 8, 100, 256, 257, 1000])
def test_the_code_is_exact(num_steps):
    values = np.arange(256, dtype=np.uint8)
    expected = [(255 - v) * (num_steps - 1) // 255 for v in range(256)]
    assert pixel_steps(values, num_steps).tolist() == expected


def test_white_is_first_and_black_last():
    assert pixel_steps(np.array([255, 254, 1, 0], np.uint8), 100).tolist() == [0, 0, 98, 99]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", [MNISTData, FashionMNISTData])
def test_every_pixel_fires_once(idx, tmp_path, kind, zipped):
    idx.write_all(tmp_path, kind.dataset_name, zipped=zipped)
    data = kind(root=str(tmp_path), num_steps=12, batch_size=10)
    assert (data.num_classes, data.input_shape, data.num_inputs) == (10, (1, 28, 28), 784)
    assert len(set(data.class_names)) == 10
    events, labels = next(iter(data.test_dataloader()))
    assert labels.tolist() == list(range(10))
    dense = events.to_dense().numpy()
    assert (dense.sum(0) == 1).all()
    if not zipped:
        pixels = images(tmp_path, "t10k", kind.dataset_name).astype(int)
        np.testing.assert_array_equal(dense.argmax(0), (255 - pixels) * 11 // 255)


def test_a_silent_background_never_fires(idx, tmp_path):
    idx.write_all(tmp_path)
    pixels = images(tmp_path, "t10k").astype(int)
    data = MNISTData(root=str(tmp_path), num_steps=12, background="silent", batch_size=10)
    events, _ = next(iter(data.test_dataloader()))
    dense = events.to_dense().numpy()
    np.testing.assert_array_equal(dense.sum(0), pixels > 0)
    np.testing.assert_array_equal(dense.argmax(0)[pixels > 0], ((255 - pixels) * 11 // 255)[pixels > 0])


def test_a_constant_current_is_the_value_of_the_pixel(idx, tmp_path):
    idx.write_all(tmp_path)
    pixels = images(tmp_path, "t10k").reshape(10, -1)
    data = MNISTData(root=str(tmp_path), num_steps=3, code="current", batch_size=10, augment=ImageAugmentation(shift=5))
    assert (data.num_classes, data.input_shape, data.num_inputs) == (10, (1, 28, 28), 784)
    assert data.input_in_words == "pixel values as constant currents"
    currents, labels = next(iter(data.test_dataloader()))
    assert labels.tolist() == list(range(10))
    assert currents.shape == (3, 10, 784)
    torch.testing.assert_close(currents, (torch.from_numpy(pixels) / 255).expand(3, -1, -1), rtol=0, atol=0)
    moved = next(iter(data.train_dataloader()))[0]
    data.augment = ImageAugmentation()
    unmoved = next(iter(data.train_dataloader()))[0]
    assert moved.shape == unmoved.shape == (3, 10, 784)
    assert not torch.equal(moved, unmoved)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_magic(path):
    path.write_bytes(b"\x00\x00\x0d\x03" + path.read_bytes()[4:])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, ["15695 bytes", "expected 15696", "(20, 28, 28)"]),
        (other_magic, ["00000d03", "00000803"]),
        (lambda path: path.write_bytes(b""), ["begins with", "00000803"]),
        (lambda path: path.write_bytes(path.read_bytes()[:9]), ["begins with"]),
    ],
)
def test_damaged_files_are_named(idx, tmp_path, damage, words):
    path = idx.write_all(tmp_path) / "MNIST" / "raw" / IMAGES
    damage(path)
    with pytest.raises(DataError) as caught:
        MNISTData(root=str(tmp_path)).setup("fit")
    for word in [str(path), *words, "download: true"]:
        assert word in str(caught.value)


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: content[:10] + b"\xff" * 50])
def test_a_damaged_zip_is_named(idx, tmp_path, damage):
    path = idx.write_all(tmp_path, zipped=True) / "MNIST" / "raw" / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{IMAGES}: cannot be read"):
        MNISTData(root=str(tmp_path)).setup("fit")


def test_images_and_labels_that_do_not_fit_are_named(idx, tmp_path):
    raw = idx.write_all(tmp_path) / "MNIST" / "raw"
    idx.write(raw / "train-labels-idx1-ubyte", np.zeros(19))
    with pytest.raises(DataError, match=r"\(20, 28, 28\) for 19 labels"):
        MNISTData(root=str(tmp_path)).setup("fit")
    idx.write(raw / "train-labels-idx1-ubyte", [0] * 19 + [10])
    with pytest.raises(DataError, match="label 10 of image 19; expected 0 to 9"):
        MNISTData(root=str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"val_fraction": 1.0}, "val_fraction is 1.0; expected"),
        ({"val_fraction": -0.1}, "val_fraction is -0.1; expected"),
        ({"background": "white"}, "background is 'white'; expected 'last_step' or 'silent'"),
        ({"code": "rate"}, "code is 'rate'; expected 'latency' or 'current'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_arguments_are_checked(arguments, words):
    with pytest.raises(UsageError, match=words):
        MNISTData(**arguments)
