from pathlib import Path

import numpy as np
import pytest

from ss_lightning.data import CIFAR10Data
from ss_lightning.errors import DataError


def data(root, **kwargs):
    return CIFAR10Data(**{"root": str(root), "download": False, **kwargs})


def test_every_colour_of_every_pixel_fires_once(cifar10, tmp_path):
    images, labels = cifar10.write_all(tmp_path)["test_batch"]
    module = data(tmp_path, batch_size=10)
    assert (module.num_classes, module.input_shape, module.num_inputs) == (10, (3, 32, 32), 3072)
    assert (module.num_steps, module.class_names[3]) == (4, "cat")
    events, found = next(iter(module.test_dataloader()))
    assert found.tolist() == labels
    dense = events.to_dense().numpy()
    assert (dense.sum(0) == 1).all()
    np.testing.assert_array_equal(dense.argmax(0), (255 - images.reshape(10, -1).astype(int)) * 3 // 255)


def test_the_five_files_are_the_training_set(cifar10, tmp_path):
    cifar10.write_all(tmp_path)
    splits = data(tmp_path, val_fraction=0.2).splits
    assert (len(splits.train), len(splits.val), len(splits.test)) == (40, 10, 10)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_other_files_than_the_official_ones_are_not_opened(cifar10, tmp_path, name):
    """They are pickled: to open them is to run them."""
    cifar10.write_all(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / name
    path.write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(DataError) as caught:
        data(tmp_path).setup("fit")
    for word in [str(path), "md5", "Delete it and get it again"]:
        assert word in str(caught.value)
    assert not Path("opened").exists()
