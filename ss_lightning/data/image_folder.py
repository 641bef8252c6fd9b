"""The user's own images, in the layout of torchvision's ImageFolder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from ss_lightning.arrays import TimeUnit
from ss_lightning.data.argument_checks import checked_choice, checked_whole_number
from ss_lightning.data.augment import UNCHANGED_IMAGES, ImageAugmentation, checked_augmentation
from ss_lightning.data.folder_data import FolderData
from ss_lightning.data.layouts import IMAGE_SUFFIXES
from ss_lightning.data.pixels import Code, Color, ImageReader, PixelCode, PixelDataset, PixelStore, pixel_steps
from ss_lightning.data.recording_files import Reader, Recording
from ss_lightning.data.splits import Splits, Subset
from ss_lightning.errors import UsageError
from ss_lightning.signatures import passes_on_to


@passes_on_to(FolderData)
class ImageFolderData(FolderData):
    """Images in folders, ``<root>/{train,val,test}/<class>/*.png`` (``.jpg``, ...); val and test may be missing.

    The images are decoded once, by several processes, and kept in the cache as pixels.

    Args:
        num_steps: steps of the time grid, ``T``. Value v fires at step ``(255 - v) * (T - 1) // 255``.
        step_ms: length of a step in milliseconds.
        size: height and width that all images are scaled to, the middle cut out where the shape differs; null if they
            are of one size.
        color: "grey" for one channel, "rgb" for three, "auto" for what the files have.
        code: "latency": every pixel fires once, bright ones first; "current": the value of every pixel, 0 for black and
            1 for white, is its input in every step, as in the paper's experiment on CIFAR-10.
        background: of the latency code: "last_step": black pixels fire at step ``T - 1``; "silent": they never fire.
        augment: how the training images are changed at random.

    Raises:
        UsageError: an argument is out of range.
    """

    suffixes = IMAGE_SUFFIXES

    def __init__(
        self,
        root: str = "data",
        num_steps: int = 8,
        step_ms: float = 1.0,
        size: Sequence[int] | None = None,
        color: Color = "auto",
        code: Code = "latency",
        background: Literal["last_step", "silent"] = "last_step",
        augment: ImageAugmentation = UNCHANGED_IMAGES,
        **options: Any,
    ) -> None:
        super().__init__(root=root, num_steps=num_steps, step_ms=step_ms, **options)
        self.size = _checked_size(size)
        self.color = checked_choice("color", color, ("auto", "grey", "rgb"))
        self.code = checked_choice("code", code, ("latency", "current"))
        self.background = checked_choice("background", background, ("last_step", "silent"))
        self.augment = checked_augmentation(augment, ImageAugmentation, self.size or (2**15,))

    def reader(self) -> ImageReader:
        """See :meth:`FolderData.reader`."""
        return ImageReader(self.size, self.color)

    def make_store(
        self,
        arrays: dict[str, np.ndarray],
        sizes: dict[str, Any],
        labels: np.ndarray,
        groups: np.ndarray | None,
        class_names: tuple[str, ...],
    ) -> PixelStore:
        """See :meth:`FolderData.make_store`."""
        return PixelStore(arrays["pixels"].reshape(len(labels), *sizes["input_shape"]), labels, groups, class_names)

    def load_splits(self) -> Splits:
        """See :meth:`FolderData.load_splits`."""
        splits = super().load_splits()
        checked_augmentation(self.augment, ImageAugmentation, splits.train.store.input_shape)
        return splits

    @property
    def input_in_words(self) -> str:
        """See :attr:`ss_lightning.data.EventDataModule.input_in_words`; pixels are not binned."""
        return self.pixel_code().in_words

    def pixel_code(self) -> PixelCode:
        """How pixels become the input of a network."""
        silent = self.background == "silent"
        return PixelCode(self.num_steps, self.code, silent, cast(Any, self.input))

    def recording_readers(self, input_shape: Sequence[int] = ()) -> Mapping[str, Reader]:
        """See :meth:`ss_lightning.data.EventDataModule.recording_readers`."""
        channels, *size = input_shape or (1, *(self.size or (1, 1)))
        # What the training data were like, where the settings leave it to them.
        reader = ImageReader(self.size or (size[0], size[1]), "grey" if channels == 1 else "rgb")

        def read(path: Path, time_unit: TimeUnit = "s") -> Iterator[Recording]:
            image = reader.read(path)
            if self.code == "current":
                currents = cast(Tensor, self.pixel_code().batch(image[None]))[0, 0]
                yield Recording(path, 0, np.zeros(0), np.zeros(0, np.int64), "ms", currents.numpy())
                return
            pixels = image.ravel()
            times = pixel_steps(pixels, self.num_steps) * self.step_ms
            units = np.flatnonzero((pixels > 0) | (self.background == "last_step"))
            yield Recording(path, 0, times[units], units, "ms")

        return {**super().recording_readers(input_shape), **dict.fromkeys(self.suffixes, read)}

    def dataset(self, subset: Subset) -> PixelDataset:
        """See :meth:`ss_lightning.data.EventDataModule.dataset`."""
        return PixelDataset(cast(PixelStore, subset.store), subset.indices, self.pixel_code(), self.augment)

    def _warn_about_the_grid(self, name: str, subset: Subset) -> None:
        """There is nothing to warn of: the codes are made for the grid."""


def _checked_size(size: Sequence[int] | int | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
        raise UsageError(f"size is {size!r}; expected height and width, such as [32, 32].")
    height, width = (checked_whole_number("a length in size", length) for length in size)
    return height, width
