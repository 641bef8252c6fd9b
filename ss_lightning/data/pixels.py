"""Images as they are decoded, and as the input of a network: a latency code, or a constant current."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ss_lightning.binning import bin_events
from ss_lightning.data.augment import UNCHANGED_IMAGES, ImageAugmentation, augment_images, drawn_changes
from ss_lightning.data.dataset import InputKind, SampleDataset
from ss_lightning.data.preparation import Arrays, Sizes
from ss_lightning.errors import DataError
from ss_lightning.events import EventBatch

Code = Literal["latency", "current"]
Color = Literal["auto", "grey", "rgb"]


def pixel_steps(pixels: np.ndarray, num_steps: int) -> np.ndarray:
    """The step at which each pixel fires: ``(255 - v) * (T - 1) // 255``, in integers.

    Args:
        pixels: uint8, any shape.
        num_steps: ``T``.

    Returns:
        The smallest unsigned integers that hold ``T - 1``, same shape: white (255) fires at step 0, black (0)
        at step ``T - 1``.
    """
    table = (255 - np.arange(256)) * (num_steps - 1) // 255
    return table.astype(np.min_scalar_type(num_steps - 1))[pixels]


@dataclass(frozen=True)
class ImageReader:
    """Decodes image files.

    Args:
        size: height and width that images are scaled to, the middle cut out where the shape differs; None for as they
            are.
        color: "grey", "rgb", or "auto" for what the file has.
    """

    size: tuple[int, int] | None = None
    color: Color = "auto"

    def settings(self) -> tuple:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        return "pixels", self.size, self.color

    def read(self, path: Path) -> np.ndarray:
        """The image, uint8 ``[C, H, W]`` with one channel or three.

        Raises:
            DataError: it cannot be decoded.
        """
        from PIL import Image, ImageOps

        broken = (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError, Image.DecompressionBombError)
        try:
            with Image.open(path) as opened:
                image: Image.Image = ImageOps.exif_transpose(opened)
                # What older versions of Pillow call a PNG of 16 bits is "I" as well.
                if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PNG"):
                    image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
                elif image.mode in ("I", "F"):
                    kind = {"I": "whole numbers of 32 bits", "F": "floating-point numbers"}[image.mode]
                    raise ValueError(f"its pixels are {kind}; expected 8 or 16 bits, so convert it")
                is_grey = self.color == "grey" or (self.color == "auto" and image.mode in ("1", "L", "LA"))
                image = image.convert("L" if is_grey else "RGB")
                if self.size is not None and image.size != self.size[::-1]:
                    image = ImageOps.fit(image, self.size[::-1], Image.Resampling.BILINEAR)
                pixels = np.array(image)  # a copy: torch warns of what cannot be written to
        except broken as error:
            raise DataError(f"{path}: cannot be read as an image ({error}). Get it again, or remove it.") from error
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def pack(self, items: Sequence[np.ndarray], paths: Sequence[Path]) -> tuple[Arrays, Sizes]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        first = {"shape": list(items[0].shape), "path": str(paths[0])}
        for item, path in zip(items, paths, strict=True):
            _refuse_other_shape(first, {"shape": list(item.shape), "path": str(path)})
        return {"pixels": np.concatenate([item.ravel() for item in items])}, first

    def join(self, sizes: Sequence[Sizes]) -> Callable[[Arrays, Sizes], tuple[Arrays, Sizes]]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        for other in sizes:
            _refuse_other_shape(sizes[0], other)
        total = 0

        def finish(arrays: Arrays, _: Sizes) -> tuple[Arrays, Sizes]:
            nonlocal total
            total += len(arrays["pixels"])
            return {"pixels": arrays["pixels"]}, {"num_events": total, "input_shape": sizes[0]["shape"]}

        return finish


def _refuse_other_shape(first: Sizes, other: Sizes) -> None:
    (channels, height, width), (channels2, height2, width2) = first["shape"], other["shape"]
    if (height, width) != (height2, width2):
        raise DataError(
            f"{other['path']}: {width2} x {height2} pixels, but {first['path']} has {width} x {height}; expected one "
            "size. Set data.size (height, width) to scale all images to it, such as "
            f"--data.size '[{min(height, height2)}, {min(width, width2)}]'"
        )
    if channels != channels2:
        grey, colour = (first, other) if channels == 1 else (other, first)
        raise DataError(
            f"{grey['path']} is grey, but {colour['path']} has colours; expected one kind. Set data.color to grey "
            "or rgb."
        )


@dataclass(frozen=True, repr=False)
class PixelStore:
    """Decoded images.

    Attributes:
        pixels: uint8 ``[S, C, H, W]``, may be on disk.
        labels: int64 ``[S]``, in ``[0, num_classes)``.
        groups: int64 ``[S]``, such as who made the image, or None.
        class_names: one name per class.
    """

    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images ``S``."""
        return len(self.labels)

    def __repr__(self) -> str:
        return f"PixelStore(samples={len(self)}, shape={self.input_shape}, classes={self.num_classes})"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(C, H, W)``."""
        return self.pixels.shape[1:]

    @property
    def num_units(self) -> int:
        """Number of input units ``N``."""
        return math.prod(self.input_shape)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class PixelCode:
    """How pixels become the input of a network.

    Args:
        num_steps: ``T``.
        code: "latency": every pixel fires once, see :func:`pixel_steps`; "current": the value of every pixel, from 0
            for black to 1 for white, is its input in every step.
        silent: black pixels never fire (latency only).
        input: of the latency code: "events", or "dense" for uint8.
    """

    num_steps: int
    code: Code = "latency"
    silent: bool = False
    input: InputKind = "events"

    @property
    def in_words(self) -> str:
        """For the line that says what is trained on."""
        return "pixel values as constant currents" if self.code == "current" else f"{self.input} of a latency code"

    def batch(self, pixels: np.ndarray) -> EventBatch | Tensor:
        """Images uint8 ``[B, C, H, W]`` as a batch ``[T, B, N]``."""
        flat = pixels.reshape(len(pixels), -1)
        if self.code == "current":
            # One copy of the image stands for all steps.
            return (torch.from_numpy(flat).float() / 255).expand(self.num_steps, -1, -1)
        steps = pixel_steps(flat, self.num_steps).astype(np.int32)
        if self.silent:
            steps[flat == 0] = self.num_steps  # behind the end of the grid
        batch, num_units = steps.shape
        if self.input == "dense":
            return torch.from_numpy((steps == np.arange(self.num_steps)[:, None, None]).view(np.uint8))
        units, offsets = bin_events(
            steps.ravel(),
            np.tile(np.arange(num_units, dtype=np.int32), batch),
            np.arange(batch + 1) * num_units,
            np.arange(batch),
            num_steps=self.num_steps,
            step_length=1.0,
            num_units=num_units,
            in_order=False,
        )
        return EventBatch.trusted(torch.from_numpy(units), torch.from_numpy(offsets), self.num_steps, num_units)


class PixelDataset(SampleDataset):
    """Images of a store, changed at random, coded and collated as they are fetched.

    It is used as an :class:`~ss_lightning.data.dataset.EventDataset` is.

    Args:
        store: the images.
        samples: int64 ``[S']``, those to use.
        code: what they become.
        augment: how images that are asked for together with a key are changed.
    """

    def __init__(
        self, store: PixelStore, samples: np.ndarray, code: PixelCode, augment: ImageAugmentation = UNCHANGED_IMAGES
    ) -> None:
        self.store = store
        self.samples = samples
        self.code = code
        self.augment = augment

    def __getitems__(
        self, indices: Sequence[int] | Sequence[tuple[int, int]] | np.ndarray
    ) -> tuple[EventBatch | Tensor, Tensor]:
        """The batch of these samples, see :meth:`ss_lightning.data.dataset.EventDataset.__getitems__`."""
        numbers = np.asarray(indices, np.int64)
        keys, numbers = numbers.T if numbers.ndim == 2 else (None, numbers)
        chosen = self.samples[numbers]
        pixels = np.asarray(self.store.pixels[chosen])
        if keys is not None and self.augment != UNCHANGED_IMAGES:
            changes = drawn_changes(self.augment, numbers, keys, *pixels.shape[2:])
            pixels = augment_images(pixels, **changes, background=0)
        return self.code.batch(pixels), torch.from_numpy(self.store.labels[chosen])
