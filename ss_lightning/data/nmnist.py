"""N-MNIST: the digits of MNIST as an event camera sees them in three quick movements of 100 ms each.

Source: Orchard, Jayawant, Cohen & Thakor, "Converting static image datasets to spiking neuromorphic datasets using
saccades", Frontiers in Neuroscience 2015, arXiv:1507.07629.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ss_lightning.data.argument_checks import checked_choice, checked_fraction, checked_whole_number
from ss_lightning.data.augment import UNCHANGED, EventAugmentation, checked_augmentation
from ss_lightning.data.download import DownloadedData, fetch_missing
from ss_lightning.data.splits import Splits
from ss_lightning.data.store import EventStore
from ss_lightning.errors import DataError
from ss_lightning.signatures import passes_on_to

SIDE = 34
CLASS_NAMES = tuple("0123456789")
_BYTES_PER_EVENT = 5
# An event at this y is none: it says that the clock goes on by so many microseconds.
_CLOCK_Y, _CLOCK_US = 240, 2**13
_RECORDINGS_AT_ONCE = 2000

Polarity = Literal["merged", "separate"]


def read_recording(path: Path, polarity: Polarity = "merged") -> tuple[np.ndarray, np.ndarray]:
    """Read a recording: 40 bits an event, the highest first: 8 of x, 8 of y, 1 of polarity, 23 of time.

    Args:
        path: the ``.bin`` file.
        polarity: "merged": unit ``y * 34 + x``; "separate": events of polarity 1 are 1,156 units further.

    Returns:
        Times in microseconds, int64 ``[E]``, and units int64 ``[E]``.

    Raises:
        DataError: the file is cut short, has no events or is of another camera.
    """
    how = "Delete it and get the recordings again, or take it out of the folder."
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}). {how}") from error
    if content.size == 0 or content.size % _BYTES_PER_EVENT:
        raise DataError(
            f"{path}: {content.size} bytes; expected a recording of N-MNIST, {_BYTES_PER_EVENT} bytes for each event, "
            f"perhaps it is cut short. {how}"
        )
    x, y, polarity_bit, times = decode_recording(content)
    outside = (x >= SIDE) | (y >= SIDE)
    if outside.any():
        event = int(outside.argmax())
        raise DataError(
            f"{path}: event {event} at x={x[event]}, y={y[event]}; expected 0 to {SIDE - 1}. This is no recording of "
            f"N-MNIST. {how}"
        )
    if not len(times):
        raise DataError(f"{path}: no events. {how}")
    units = y * SIDE + x
    if polarity == "separate":
        units += polarity_bit * SIDE**2
    return times, units


def decode_recording(content: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``x``, ``y``, polarity and time in microseconds of each event, int64 ``[E]``, of bytes ``[5 * E']``."""
    x, y, high, middle, low = content.reshape(-1, _BYTES_PER_EVENT).T.astype(np.int64)
    times = ((high & 127) << 16) + (middle << 8) + low
    event = y != _CLOCK_Y
    times += (~event).cumsum() * _CLOCK_US
    return x[event], y[event], (high >> 7)[event], times[event]


def read_recordings(folder: Path, polarity: Polarity = "merged") -> Iterator[EventStore]:
    """Read all recordings ``<folder>/<digit>/*.bin``, in the order of digits and names.

    Args:
        folder: the folder that has the folders 0 to 9.
        polarity: see :func:`read_recording`.

    Yields:
        Some thousand recordings at a time.

    Raises:
        DataError: a file is no recording of N-MNIST.
    """
    files = [(path, digit) for digit in range(10) for path in sorted((folder / str(digit)).glob("*.bin"))]
    polarities = 2 if polarity == "separate" else 1
    for begin in range(0, len(files), _RECORDINGS_AT_ONCE):
        some = files[begin : begin + _RECORDINGS_AT_ONCE]
        times, units = zip(*(read_recording(path, polarity) for path, _ in some), strict=True)
        yield EventStore.from_arrays(
            times,
            units,
            [digit for _, digit in some],
            num_units=polarities * SIDE**2,
            input_shape=(polarities, SIDE, SIDE),
            class_names=CLASS_NAMES,
            time_unit="us",
            source=str(folder),
        )


@passes_on_to(DownloadedData)
class NMNISTData(DownloadedData):
    """N-MNIST in its native files: ``<root>/NMNIST/{Train,Test}/<digit>/*.bin``, any number of them.

    All of it is 60,000 training and 10,000 test recordings of some 4,000 events in 0.3 s. Folders that are missing are
    downloaded; what is read is cached.

    Args:
        root: folder that has, or gets, the folder NMNIST. It may be read-only if the recordings are there.
        num_steps: steps of the time grid, which begins at 0. Later events are dropped.
        step_ms: length of a step in milliseconds.
        polarity: "merged": a pixel is one input whether it gets brighter or darker, 1,156 in all, as in
            arXiv:2205.15286; "separate": two inputs, 2,312 in all.
        val_fraction: share of the training recordings to hold out for validation; 0 for none.
        augment: how the training samples are changed at random.
        seed: seed of the choice of validation recordings.

    Raises:
        UsageError: an argument is out of range.
    """

    def __init__(
        self,
        root: str = "data",
        num_steps: int = 300,
        step_ms: float = 1.0,
        polarity: Polarity = "merged",
        val_fraction: float = 0.1,
        augment: EventAugmentation = UNCHANGED,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(root=root, num_steps=num_steps, step_ms=step_ms, **options)
        self.polarity = checked_choice("polarity", polarity, ("merged", "separate"))
        self.val_fraction = checked_fraction("val_fraction", val_fraction)
        self.augment = checked_augmentation(augment, EventAugmentation, (SIDE, SIDE))
        self.seed = checked_whole_number("seed", seed, least=0)

    def _known_sizes(self) -> dict[str, Any]:
        return {"classes": len(CLASS_NAMES), "units": (2 if self.polarity == "separate" else 1) * SIDE**2}

    def load_splits(self) -> Splits:
        """Read the recordings, from the cache where possible, and hold out those for validation."""
        raw = self.root_path / "NMNIST"
        stores = self.stores_from_files(
            raw,
            {"train": raw / "Train", "test": raw / "Test"},
            self._fetch,
            lambda path: read_recordings(path, self.polarity),
            settings=("NMNIST", self.polarity),
        )
        return Splits.held_out(stores["train"], stores["test"], self.val_fraction, self.seed)

    def _fetch(self, target: Path) -> None:
        """Download the recordings of the folder ``target``; tonic is not asked if there are some, for it wants all."""

        def get(scratch: Path) -> Path:
            from tonic.datasets import NMNIST

            NMNIST(save_to=str(scratch), train=target.name == "Train")
            return scratch / "NMNIST"

        fetch_missing(
            [target],
            get,
            target=target,
            download=self.download,
            is_there=_has_recordings,
            message=lambda _, reason: (
                f"{target}: no recordings ({reason}). Expected files {target}/<digit>/*.bin, digit 0 to 9. Get "
                "train.zip and test.zip of N-MNIST (https://www.garrickorchard.com/datasets/n-mnist) and unzip them in "
                f"{target.parent}, or set root to the folder that has NMNIST/."
            ),
        )


def _has_recordings(folder: Path) -> bool:
    return any(next((folder / name).glob("*.bin"), None) for name in CLASS_NAMES)
