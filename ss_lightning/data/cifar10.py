"""CIFAR-10, as a latency code of every colour of every pixel, or as constant currents.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009; the codes are those of
arXiv:2205.15286.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ss_lightning.data.download import fetch_missing
from ss_lightning.data.images import Images, LatencyImages
from ss_lightning.errors import DataError
from ss_lightning.signatures import passes_on_to


@passes_on_to(LatencyImages)
class CIFAR10Data(LatencyImages):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels in three colours, 10 classes.

    The files are the official ones for Python, in ``<root>/cifar-10-batches-py``.

    Args:
        root: folder that has, or gets, the folder cifar-10-batches-py. It may be read-only if the files are there.
        num_steps: steps of the time grid, ``T``. Value v fires at step ``(255 - v) * (T - 1) // 255``.
    """

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    image_shape = (3, 32, 32)

    def __init__(self, root: str = "data", num_steps: int = 4, **options: Any) -> None:
        super().__init__(root=root, num_steps=num_steps, **options)

    def load_images(self) -> tuple[Images, Images]:
        """See :meth:`~ss_lightning.data.images.LatencyImages.load_images`."""
        from torchvision.datasets import CIFAR10

        folder = self.root_path / CIFAR10.base_folder
        with self.preparation_lock(folder):
            self._fetch(folder)
        # The files are pickled: torchvision opens them only if their checksums are the official ones.
        train, test = (CIFAR10(str(self.root_path), train=part) for part in (True, False))
        return _channels_first(train), _channels_first(test)

    def _fetch(self, folder: Path) -> None:
        """Download missing files, and refuse others than the official ones."""
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity

        def get(scratch: Path) -> Path:
            CIFAR10(str(scratch), download=True)
            return scratch / CIFAR10.base_folder

        checksums = dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])
        fetch_missing(
            [folder / name for name in checksums],
            get,
            target=folder,
            download=self.download,
            message=lambda missing, reason: (
                f"{folder}: {missing} missing ({reason}). Unpack {CIFAR10.url} there, or set root to the "
                f"folder that has {CIFAR10.base_folder}/."
            ),
        )
        for name, checksum in checksums.items():
            if not check_integrity(str(folder / name), checksum):
                raise DataError(
                    f"{folder / name}: its md5 is not {checksum}, that of the official file. Delete it and get it "
                    "again (download: true)."
                )


def _channels_first(part: Any) -> Images:
    """The images of torchvision's data set, which has the channels last."""
    return part.data.transpose(0, 3, 1, 2), np.asarray(part.targets)
