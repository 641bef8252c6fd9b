"""The user's own sounds, in folders or in a flat folder, as spikes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ss_lightning.arrays import TimeUnit
from ss_lightning.data.argument_checks import (
    checked_choice,
    checked_number,
    checked_positive_number,
    checked_whole_number,
)
from ss_lightning.data.augment import UNCHANGED, EventAugmentation, checked_augmentation
from ss_lightning.data.folder_data import FolderData, event_store
from ss_lightning.data.layouts import SOUND_SUFFIXES
from ss_lightning.data.recording_files import Reader, Recording
from ss_lightning.data.sound import SoundCode, SoundReader, Stereo
from ss_lightning.data.store import EventStore
from ss_lightning.errors import UsageError
from ss_lightning.signatures import passes_on_to


@passes_on_to(FolderData)
class AudioFolderData(FolderData):
    """Sound files as spikes of a bank of mel filters: ``.wav``, ``.flac`` and ``.ogg``.

    Known without further arguments: files ``<class>_<speaker>_<index>.wav`` (Free Spoken Digit Dataset), folders
    ``<class>/`` with or without train, val and test above them, and Speech Commands, whose lists of validation and test
    recordings are used and whose speakers are known. The spikes are kept in the cache.

    Args:
        num_steps: steps of the time grid, which begins where a recording is first heard. Later events are dropped.
        step_ms: length of a step in milliseconds.
        sample_rate: in Hz, to which all recordings are resampled.
        bands: mel filters, the input has twice as many units with the code "crossings".
        low_hz: lower end of the lowest band.
        high_hz: upper end of the highest; null for half of ``sample_rate``.
        window_ms: length of a frame of the spectrum.
        hop_ms: from one frame to the next.
        floor_db: a band is silent where it is so many decibels below the loudest frame and band of its recording.
        trim_db: both ends are cut off where all bands together are so far below the loudest frame; null to keep them.
        code: "crossings": a band that has risen or fallen by ``threshold_db`` since its last event fires one of two
            units; "latency": each band fires once in each frame, the louder the earlier.
        threshold_db: in decibels; of the latency code, the level above the floor from which a band fires.
        stereo: "mix" takes the mean of several channels; "refuse" says which file has them.
        augment: how the training recordings are changed at random; units are bands.

    Raises:
        UsageError: an argument is out of range.
    """

    suffixes = SOUND_SUFFIXES

    def __init__(
        self,
        root: str = "data",
        num_steps: int = 100,
        step_ms: float = 10.0,
        sample_rate: int = 8000,
        bands: int = 64,
        low_hz: float = 50.0,
        high_hz: float | None = None,
        window_ms: float = 25.0,
        hop_ms: float = 5.0,
        floor_db: float = 50.0,
        trim_db: float | None = 40.0,
        code: SoundCode = "crossings",
        threshold_db: float = 6.0,
        stereo: Stereo = "refuse",
        augment: EventAugmentation = UNCHANGED,
        **options: Any,
    ) -> None:
        super().__init__(root=root, num_steps=num_steps, step_ms=step_ms, **options)
        top = checked_whole_number("sample_rate", sample_rate, most=10**7) / 2
        high = top if high_hz is None else checked_positive_number("high_hz", high_hz)
        if not checked_number("low_hz", low_hz) < high <= top:
            raise UsageError(
                f"low_hz is {low_hz:g} and high_hz {high:g}; expected low_hz < high_hz <= {top:g}, half of sample_rate."
            )
        self.front_end = SoundReader(
            sample_rate=sample_rate,
            bands=checked_whole_number("bands", bands, most=2**12),
            low_hz=float(low_hz),
            high_hz=None if high_hz is None else float(high_hz),
            window_ms=checked_positive_number("window_ms", window_ms),
            hop_ms=checked_positive_number("hop_ms", hop_ms),
            floor_db=checked_positive_number("floor_db", floor_db),
            trim_db=None if trim_db is None else checked_positive_number("trim_db", trim_db),
            code=checked_choice("code", code, ("crossings", "latency")),
            threshold_db=checked_positive_number("threshold_db", threshold_db),
            stereo=checked_choice("stereo", stereo, ("refuse", "mix")),
        )
        self.augment = checked_augmentation(augment, EventAugmentation, self.front_end.input_shape)

    def _known_sizes(self) -> dict[str, Any]:
        return {"units": int(np.prod(self.front_end.input_shape))}

    def reader(self) -> SoundReader:
        """See :meth:`FolderData.reader`."""
        return self.front_end

    def make_store(
        self,
        arrays: dict[str, np.ndarray],
        sizes: dict[str, Any],
        labels: np.ndarray,
        groups: np.ndarray | None,
        class_names: tuple[str, ...],
    ) -> EventStore:
        """See :meth:`FolderData.make_store`."""
        return event_store(arrays, labels, groups, class_names, self.front_end.input_shape, "ms")

    def recording_readers(self, input_shape: Sequence[int] = ()) -> Mapping[str, Reader]:
        """See :meth:`ss_lightning.data.EventDataModule.recording_readers`."""
        return {**super().recording_readers(input_shape), **dict.fromkeys(self.suffixes, self._read_recording)}

    def _read_recording(self, path: Path, time_unit: TimeUnit = "s") -> Iterator[Recording]:
        """A sound file by way of the same filters and code as in training; the time unit is not asked for."""
        times, units = self.front_end.read(path)
        yield Recording(path, 0, times, units, "ms")
