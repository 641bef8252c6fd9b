"""CIFAR-10 as a latency code: every colour of every pixel fires once, bright ones first.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009; the code is that of arXiv:2205.15286.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ss_lightning.data.cache import cache_folder, download_folder, preparation_lock
from ss_lightning.data.images import Images, LatencyImages
from ss_lightning.errors import DataError


class CIFAR10Data(LatencyImages):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels in three colours, 10 classes.

    The files are the official ones for Python, in ``<root>/cifar-10-batches-py``.
    """

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    image_shape = (3, 32, 32)

    def __init__(self, root: str = "data", num_steps: int = 4, **kwargs: Any) -> None:
        """Check the arguments; no file is touched.

        Args:
            root: Folder that has, or gets, the folder cifar-10-batches-py.
            num_steps: Steps of the time grid, ``T``. Value v fires at step ``(255 - v) * (T - 1) // 255``.
            kwargs: The other arguments of LatencyImages and EventDataModule.

        Raises:
            UsageError: An argument is out of range.
        """
        super().__init__(root=root, num_steps=num_steps, **kwargs)

    def load_images(self) -> tuple[Images, Images]:
        """See :meth:`~ss_lightning.data.images.LatencyImages.load_images`."""
        from torchvision.datasets import CIFAR10

        root = Path(self.root).expanduser()
        with preparation_lock(cache_folder(self.cache_dir), root / CIFAR10.base_folder):
            self._fetch(root / CIFAR10.base_folder)
        # The files are pickled: torchvision opens them only if their checksums are the official ones.
        train, test = (CIFAR10(str(root), train=part) for part in (True, False))
        return _channels_first(train), _channels_first(test)

    def _fetch(self, folder: Path) -> None:
        """Download missing files, and refuse others than the official ones."""
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity

        checksums = dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])
        missing = [name for name in checksums if not (folder / name).is_file()]
        reason = "download is off"
        if missing and self.download:
            try:
                with download_folder(folder) as scratch:
                    CIFAR10(str(scratch), download=True)
                    folder.mkdir(parents=True, exist_ok=True)
                    for name in missing:
                        os.replace(scratch / CIFAR10.base_folder / name, folder / name)
                missing = []
            except Exception as error:  # whatever stopped it, the way out is the same
                reason = f"the download failed: {type(error).__name__}: {error}"
        if missing:
            raise DataError(
                f"{folder}: {', '.join(missing)} missing ({reason}). Unpack {CIFAR10.url} there, or set root to the "
                f"folder that has {CIFAR10.base_folder}/."
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
