"""Files that are missing are downloaded, by every data set in the same way."""

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torchvision.datasets

from ss_lightning.data import CIFAR10Data, MNISTData, NMNISTData, SHDData, SSCData
from ss_lightning.data.download import fetch_missing
from ss_lightning.errors import DataError

SHD_URL = "https://zenkelab.org/datasets"
# What is asked of the library, what is lost where only some are missing, and what the message says then.
CASES = {
    "SHD": (SHDData, [{"train": True}, {"train": False}], "shd_test.h5", [f"{SHD_URL}/shd_test.h5.zip", "SHD/"]),
    "SSC": (
        SSCData,
        [{"split": "train"}, {"split": "valid"}, {"split": "test"}],
        "ssc_valid.h5",
        [f"{SHD_URL}/ssc_valid.h5.zip", "SSC/"],
    ),
    "NMNIST": (NMNISTData, [{"train": True}, {"train": False}], "Test", ["garrickorchard.com"]),
    "MNIST": (MNISTData, [{"download": True}], "raw/train-images-idx3-ubyte", ["train-images-idx3-ubyte missing"]),
    "cifar-10-batches-py": (CIFAR10Data, [{}], "data_batch_2", ["data_batch_2 missing", "cifar-10-python.tar.gz"]),
}


@pytest.fixture(params=list(CASES))
def case(request, tmp_path, monkeypatch):
    """A data set: its whole files below ``source``, and its library, which asks for nothing outside."""
    folder = request.param
    kind, asked, lost, words = CASES[folder]
    write = {"SHD": "write_pair", "SSC": "write_ssc"}.get(folder, "write_all")
    fixture = {"SSC": "shd", "MNIST": "idx", "cifar-10-batches-py": "cifar10"}.get(folder, folder.lower())
    source, root = tmp_path / "source", tmp_path / "root"
    getattr(request.getfixturevalue(fixture), write)(source)

    def install(download):
        """Let the library call ``download(folder, **what it was asked for)``."""
        if kind is CIFAR10Data:
            monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", lambda self: download(self.root))
            return
        library = "torchvision" if kind is MNISTData else "tonic"
        module, datasets = ModuleType(library), ModuleType(f"{library}.datasets")
        module.datasets = datasets

        def build(save_to, **asked):
            return download(save_to, **asked)

        setattr(datasets, folder, build)
        monkeypatch.setitem(sys.modules, library, module)
        monkeypatch.setitem(sys.modules, f"{library}.datasets", datasets)

    return SimpleNamespace(
        folder=folder,
        asked=asked,
        words=words,
        source=source,
        root=root,
        lost=root / folder / lost,
        copy=lambda to: shutil.copytree(source / folder, Path(to) / folder, dirs_exist_ok=True),
        install=install,
        data=lambda **options: kind(root=str(root), **options),
    )


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_missing_files_are_downloaded_once(case):
    asked = []

    def download(to, **options):
        asked.append(options)
        case.copy(to)

    case.install(download)
    sizes = [len(case.data().splits.test) for _ in range(2)]
    assert sizes[0] == sizes[1] > 0
    assert asked == case.asked
    assert [path.name for path in case.root.iterdir()] == [case.folder]
    found, expected = (
        sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (case.root, case.source)
    )
    assert found == expected


def test_files_that_are_there_are_not_downloaded(case):
    """tonic wants the .zip, or 10,000 recordings."""

    def download(to, **options):
        raise AssertionError(f"asked for {options}")

    case.install(download)
    case.copy(case.root)
    assert len(case.data().splits.test) > 0


def fails(to, **options):
    raise OSError("no route to host")


def brings_nothing(to, **options):
    pass


@pytest.mark.parametrize("download", [fails, brings_nothing])
def test_a_download_that_fails_says_what_to_do(case, download):
    if download is fails:
        reason = "the download failed: OSError: no route to host"
    elif case.folder == "cifar-10-batches-py":
        reason = "the download failed: RuntimeError: Dataset not found"  # torchvision looks for itself
    else:
        reason = "the download did not bring it"
    case.install(download)
    case.copy(case.root)
    remove(case.lost)
    with pytest.raises(DataError) as caught:
        case.data().setup("fit")
    for word in [str(case.lost.parent), case.lost.name, *case.words, f"({reason}", "set root"]:
        assert word in str(caught.value)
    assert not case.lost.exists()


def test_the_download_can_be_turned_off(case):
    case.install(fails)
    with pytest.raises(DataError, match=r"\(download is off\)"):
        case.data(download=False).setup("fit")


def test_an_empty_folder_is_filled(tmp_path):
    def get(scratch):
        (scratch / "Test").mkdir()
        (scratch / "Test" / "0.bin").write_bytes(b"0")
        return scratch

    target = tmp_path / "Test"
    target.mkdir()
    fetch_missing(
        [target],
        get,
        target=target,
        download=True,
        message=lambda names, reason: f"{names} {reason}",
        is_there=lambda path: (path / "0.bin").is_file(),
    )
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["Test", "Test/0.bin"]


def test_only_what_is_missing_is_moved(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "one").write_text("mine")

    def get(scratch):
        for name in ("one", "two"):
            (scratch / name).write_text("downloaded")
        return scratch

    paths = [tmp_path / "raw" / name for name in ("one", "two")]
    fetch_missing(paths, get, target=tmp_path / "raw", download=True, message=lambda names, reason: f"{names} {reason}")
    assert [path.read_text() for path in paths] == ["mine", "downloaded"]
