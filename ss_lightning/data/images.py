"""Images as a latency code, every pixel fires once, bright ones first, or as constant currents (arXiv:2205.15286)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from ss_lightning.data.argument_checks import checked_choice, checked_fraction, checked_whole_number
from ss_lightning.data.augment import UNCHANGED_IMAGES, ImageAugmentation, ImageAugmenter, checked_augmentation
from ss_lightning.data.dataset import Augmenter, SampleDataset
from ss_lightning.data.download import DownloadedData, fetch_missing
from ss_lightning.data.pixels import Code, PixelCode, PixelDataset, PixelStore, pixel_steps
from ss_lightning.data.splits import Splits, Subset
from ss_lightning.data.store import EventStore
from ss_lightning.errors import DataError
from ss_lightning.signatures import passes_on_to

# Images uint8 ``[S, C, H, W]`` and labels ``[S]``.
Images = tuple[np.ndarray, np.ndarray]


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Read an idx file of unsigned bytes (http://yann.lecun.com/exdb/mnist/), or its ``.gz`` if only that is there.

    Args:
        path: the unzipped file.
        num_axes: axes of the array: 3 for images, 1 for labels.

    Raises:
        DataError: the file is missing, of another kind or of another length than its header says.
    """
    how = "Delete it and get it again (download: true), or copy the official file there."
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(Path(f"{path}.gz").read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing, zipped or not. Get it (download: true), or set root.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). {how}") from error
    header = 4 * (1 + num_axes)
    magic = bytes([0, 0, 8, num_axes])
    if content[:4] != magic or len(content) < header:
        raise DataError(f"{path}: begins with {content[:4].hex()}; expected the idx magic number {magic.hex()}. {how}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", num_axes, offset=4))
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{path}: {len(content)} bytes; expected {expected} for an array of shape {shape}. {how}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


@passes_on_to(DownloadedData)
class LatencyImages(DownloadedData):
    """The parent of data sets of images; a subclass says what they are and writes :meth:`load_images`.

    Args:
        root: folder that has, or gets, the files of the data set.
        num_steps: steps of the time grid, ``T``. Value v fires at step ``(255 - v) * (T - 1) // 255``.
        step_ms: length of a step in milliseconds; the code above is in steps, so it does not move events.
        code: "latency" for the code above; "current": the value of every pixel, 0 for black and 1 for white, is its
            input in every step, as in the paper's experiment on CIFAR-10.
        val_fraction: share of the training images to hold out for validation; 0 for none.
        background: of the latency code: "last_step": black pixels fire at step ``T - 1``, as in the paper; "silent":
            they never fire.
        augment: how the training images are changed at random.
        seed: seed of the choice of validation images.

    Raises:
        UsageError: an argument is out of range.
    """

    names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        root: str = "data",
        num_steps: int = 100,
        step_ms: float = 1.0,
        val_fraction: float = 0.1,
        code: Code = "latency",
        background: Literal["last_step", "silent"] = "last_step",
        augment: ImageAugmentation = UNCHANGED_IMAGES,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(root=root, num_steps=num_steps, step_ms=step_ms, **options)
        self.val_fraction = checked_fraction("val_fraction", val_fraction)
        self.code = checked_choice("code", code, ("latency", "current"))
        self.background = checked_choice("background", background, ("last_step", "silent"))
        self.augment = checked_augmentation(augment, ImageAugmentation, self.image_shape)
        self.seed = checked_whole_number("seed", seed, least=0)

    def _known_sizes(self) -> dict[str, Any]:
        return {"classes": len(self.names), "units": math.prod(self.image_shape)}

    def load_splits(self) -> Splits:
        """Read the files and hold out the validation images."""
        train, test = (self._store(*images) for images in self.load_images())
        return Splits.held_out(train, test, self.val_fraction, self.seed)

    @property
    def input_in_words(self) -> str:
        """See :attr:`ss_lightning.data.EventDataModule.input_in_words`."""
        return super().input_in_words if self.code == "latency" else self._currents.in_words

    @property
    def _currents(self) -> PixelCode:
        return PixelCode(self.num_steps, "current")

    def dataset(self, subset: Subset) -> SampleDataset:
        """See :meth:`ss_lightning.data.EventDataModule.dataset`."""
        if isinstance(subset.store, PixelStore):
            return PixelDataset(subset.store, subset.indices, self._currents, self.augment)
        return super().dataset(subset)

    def _warn_about_the_grid(self, name: str, subset: Subset) -> None:
        if self.code == "latency":
            super()._warn_about_the_grid(name, subset)

    def _augmenter(self, subset: Subset) -> Augmenter | None:
        if self.augment == ImageAugmentation():
            return None
        silent = self.background == "silent"
        store = cast(EventStore, subset.store)
        return ImageAugmenter(self.augment, store, subset.indices, num_steps=self.num_steps, silent=silent)

    def load_images(self) -> tuple[Images, Images]:
        """Read the training and the test images; download them first if they are missing."""
        raise NotImplementedError

    def _store(self, images: np.ndarray, labels: np.ndarray) -> EventStore | PixelStore:
        if self.code == "current":
            return PixelStore(images, labels.astype(np.int64), None, self.names)
        pixels = images.reshape(len(labels), -1)
        return EventStore.from_latencies(
            pixel_steps(pixels, self.num_steps),
            labels,
            num_classes=len(self.names),
            input_shape=self.image_shape,
            class_names=self.names,
            fires=pixels > 0 if self.background == "silent" else None,
        )


class IdxImages(LatencyImages):
    """The parent of data sets in MNIST's format, ``<root>/<data set>/raw/*-ubyte``; a subclass names the data set."""

    dataset_name: str
    image_shape = (1, 28, 28)

    def load_images(self) -> tuple[Images, Images]:
        """See :meth:`LatencyImages.load_images`."""
        raw = self.root_path / self.dataset_name / "raw"
        with self.preparation_lock(raw):
            self._fetch(raw)
        return self._read(raw, "train"), self._read(raw, "t10k")

    def _read(self, raw: Path, part: str) -> Images:
        images_path, labels_path = raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if images.shape != (len(labels), *self.image_shape[1:]) or not len(labels):
            raise DataError(
                f"{images_path}: images of shape {images.shape} for {len(labels)} labels in "
                f"{labels_path.name}; expected (labels, 28, 28)."
            )
        if labels.max() >= len(self.names):
            sample = int(labels.argmax())
            raise DataError(f"{labels_path}: label {labels[sample]} of image {sample}; expected 0 to 9.")
        return images[:, None], labels

    def _fetch(self, raw: Path) -> None:
        def get(scratch: Path) -> Path:
            import torchvision.datasets

            getattr(torchvision.datasets, self.dataset_name)(str(scratch), download=True)
            return scratch / self.dataset_name / "raw"

        names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        fetch_missing(
            [raw / name for name in names],
            get,
            target=raw.parent,
            download=self.download,
            is_there=lambda path: path.is_file() or path.with_name(f"{path.name}.gz").is_file(),
            message=lambda missing, reason: (
                f"{raw}: {missing} missing ({reason}). Copy the official idx files there, zipped or "
                f"not, or set root to the folder that has {self.dataset_name}/raw/."
            ),
        )


@passes_on_to(LatencyImages)
class MNISTData(IdxImages):
    """MNIST: 60,000 training and 10,000 test images of 28 x 28 pixels, 10 digits.

    Args:
        root: folder that has, or gets, the folder MNIST. It may be read-only if the files are there.
    """

    dataset_name = "MNIST"
    names = tuple("0123456789")

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(root=root, **options)


@passes_on_to(LatencyImages)
class FashionMNISTData(IdxImages):
    """Fashion-MNIST: MNIST's format, 10 kinds of clothes.

    Args:
        root: folder that has, or gets, the folder FashionMNIST. It may be read-only if the files are there.

    Source: Xiao, Rasul & Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
    arXiv:1708.07747.
    """

    dataset_name = "FashionMNIST"
    names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )

    def __init__(self, root: str = "data", **options: Any) -> None:
        super().__init__(root=root, **options)
