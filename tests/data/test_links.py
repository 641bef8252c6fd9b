"""Symbolic links inside of a data folder that lead nowhere, as git-annex makes them."""

import pytest

from ss_lightning.data import MNISTData, NMNISTData, SHDData
from ss_lightning.errors import DataError

GRID = {"num_steps": 5, "step_ms": 1.0}


@pytest.mark.parametrize("leads", ["nowhere", "to itself", "up"])
@pytest.mark.parametrize(
    ("data", "file"),
    [
        (SHDData, "SHD/shd_train.h5"),
        (MNISTData, "MNIST/raw/train-images-idx3-ubyte"),
        (MNISTData, "MNIST/raw/train-labels-idx1-ubyte.gz"),
        (NMNISTData, "NMNIST/Train"),
        (NMNISTData, "NMNIST/Train/0/00001.bin"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(data, file, leads, tmp_path):
    link = tmp_path / file
    link.parent.mkdir(parents=True)
    link.symlink_to({"nowhere": "../.git/annex/objects/a.bin", "to itself": link.name, "up": ".."}[leads])
    if file.endswith("1.bin"):
        (tmp_path / "NMNIST/Test/0").mkdir(parents=True)
        (tmp_path / "NMNIST/Test/0/00001.bin").write_bytes(bytes(5))
    with pytest.raises(DataError, match=f"{link.name}: a symbolic link to") as caught:
        data(root=str(tmp_path), cache_dir=str(tmp_path / "cache"), **GRID).prepare_data()
    assert ("git annex get" in str(caught.value)) == (leads != "up")
