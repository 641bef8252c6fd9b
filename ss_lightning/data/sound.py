"""Sound as spikes: a bank of mel filters, and a code for how loud each band is over time.

The level of a band is its energy in decibels below the loudest frame and band of the recording, cut off at a floor, so
that recordings of any volume give the same spikes. ``crossings`` is the send-on-delta code of Stewart et al.,
"Speech2Spikes: efficient audio encoding pipeline for real-time neuromorphic systems", NICE 2023, doi
10.1145/3584954.3584995, with times interpolated between the frames::

    a band that has risen by threshold_db since its last event fires its unit "up", one that has fallen by as much its
    unit "down"
"""

from __future__ import annotations

import math
import wave
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from ss_lightning.data.preparation import Arrays, Sizes
from ss_lightning.errors import DataError
from ss_lightning.jit import compiled_when_called

SoundCode = Literal["crossings", "latency"]
Stereo = Literal["refuse", "mix"]

_TINY = 1e-20  # energy of silence, far below any floor


@dataclass(frozen=True)
class SoundReader:
    """Makes spikes of sound files.

    Args:
        sample_rate: in Hz, to which all recordings are resampled.
        bands: mel filters.
        low_hz: lower end of the lowest band.
        high_hz: upper end of the highest; None for half of ``sample_rate``.
        window_ms: length of a frame.
        hop_ms: from one frame to the next.
        floor_db: how far below the loudest a band is taken for silent.
        trim_db: frames at both ends are cut off that are, over all bands, so far below the loudest; None for none.
        code: "crossings" of levels, or "latency": each band fires once in each frame, the louder the earlier.
        threshold_db: between two levels; of the latency code, the level above the floor from which a band fires.
        stereo: "mix" the channels of a recording, or "refuse" more than one.
    """

    sample_rate: int = 8000
    bands: int = 64
    low_hz: float = 50.0
    high_hz: float | None = None
    window_ms: float = 25.0
    hop_ms: float = 5.0
    floor_db: float = 50.0
    trim_db: float | None = 40.0
    code: SoundCode = "crossings"
    threshold_db: float = 6.0
    stereo: Stereo = "refuse"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one step of input: direction and band, or band."""
        return (2, 1, self.bands) if self.code == "crossings" else (self.bands,)

    def settings(self) -> tuple:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        return ("sound", *astuple(self))

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Times in milliseconds, float32 ``[E]`` in rising order, and units, uint16 ``[E]``, of a file.

        Raises:
            DataError: it cannot be read, or is silent.
        """
        samples = read_sound(path, self.sample_rate, self.stereo)
        levels = self.levels(samples)
        if not len(levels):
            raise DataError(f"{path}: is silent. Remove it, or record it again.")
        times, units = self.encode(levels)
        if not len(times):
            raise DataError(f"{path}: gives no spikes. Set data.threshold_db lower, now {self.threshold_db:g}.")
        return times, units

    def levels(self, samples: np.ndarray) -> np.ndarray:
        """Level of each band in each frame in decibels above the floor, float64 ``[F, bands]``; no frames for silence.

        Args:
            samples: float32 ``[n]``.
        """
        hop, window = (max(1, round(ms * self.sample_rate / 1000)) for ms in (self.hop_ms, self.window_ms))
        high = self.sample_rate / 2 if self.high_hz is None else self.high_hz
        energy = mel_energies(
            samples, hop, window, mel_filters(self.sample_rate, window, self.bands, self.low_hz, high)
        )
        loudest = energy.max(initial=0.0)
        if loudest <= _TINY:
            return np.zeros((0, self.bands))
        if self.trim_db is not None:
            total = energy.sum(1)
            heard = np.flatnonzero(total >= total.max() * 10 ** (-self.trim_db / 10))
            energy = energy[heard[0] : heard[-1] + 1]
        return np.maximum(10 * np.log10(np.maximum(energy, _TINY) / loudest) + self.floor_db, 0.0)

    def encode(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Events of the levels ``[F, bands]``, see :meth:`read`."""
        if self.code == "crossings":
            times, units = level_crossings(np.ascontiguousarray(levels), self.threshold_db)
        else:
            frames, units = np.nonzero(levels >= self.threshold_db)
            times = frames + 1 - levels[frames, units] / self.floor_db
        order = np.argsort(times, kind="stable")
        return (times[order] * self.hop_ms).astype(np.float32), units[order].astype(np.uint16)

    def pack(self, items: Sequence[tuple[np.ndarray, np.ndarray]], paths: Sequence[Path]) -> tuple[Arrays, Sizes]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        counts = np.array([len(times) for times, _ in items], np.int64)
        times, units = (np.concatenate(arrays) for arrays in zip(*items, strict=True))
        return {"times": times, "units": units, "counts": counts}, {}

    def join(self, sizes: Sequence[Sizes]) -> Callable[[Arrays, Sizes], tuple[Arrays, Sizes]]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        total = 0

        def finish(arrays: Arrays, _: Sizes) -> tuple[Arrays, Sizes]:
            nonlocal total
            total += len(arrays["times"])
            return dict(arrays), {"num_events": total}

        return finish


def read_sound(path: Path, sample_rate: int, stereo: Stereo = "refuse") -> np.ndarray:
    """The samples of a sound file at a sample rate, float32 ``[n]``.

    Args:
        path: the file: ``.wav``, ``.flac`` or ``.ogg``.
        sample_rate: in Hz; another one is resampled to it.
        stereo: what to do with more than one channel.

    Raises:
        DataError: it cannot be read, or has more channels than one.
    """
    import librosa
    import soundfile

    how = "Record or get it again, or remove it."
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = "its sample rate is 0 Hz" if _rate_is_zero(path) else " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as sound ({reason}). {how}") from error
    if not len(samples):
        raise DataError(f"{path}: holds no samples. {how}")
    if samples.shape[1] > 1 and stereo == "refuse":
        raise DataError(
            f"{path}: {samples.shape[1]} channels; expected one. Set data.stereo: mix to take their mean, or "
            "write it with one channel."
        )
    mono = samples.mean(1)
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: sample {int((~np.isfinite(mono)).argmax())} is no finite number. {how}")
    if rate == sample_rate:
        return mono
    return librosa.resample(mono, orig_sr=rate, target_sr=sample_rate)


def _rate_is_zero(path: Path) -> bool:
    """Whether this is what ails a file, of which libsndfile says only that something is incomplete."""
    try:
        with wave.open(str(path), "rb") as file:
            return file.getframerate() == 0
    except (OSError, EOFError, wave.Error):
        return False


@cache
def mel_filters(sample_rate: int, window: int, bands: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Weights of the mel filters, float64 ``[bands, n_fft // 2 + 1]``, ``n_fft`` see :func:`mel_energies`."""
    import librosa

    return librosa.filters.mel(
        sr=sample_rate, n_fft=_fft_length(window, bands), n_mels=bands, fmin=low_hz, fmax=high_hz, dtype=np.float64
    )


def mel_energies(samples: np.ndarray, hop: int, window: int, filters: np.ndarray) -> np.ndarray:
    """Energy of each band in each frame, float64 ``[F, bands]``; the first frame is centred on the first sample.

    Args:
        samples: ``[n]``.
        hop: samples from one frame to the next.
        window: samples of a frame, which is weighted with a Hann window.
        filters: ``[bands, n_fft // 2 + 1]``.
    """
    padded = np.pad(samples.astype(np.float64), (window // 2, window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(samples) : hop]
    spectrum = np.fft.rfft(frames * np.hanning(window), n=2 * (filters.shape[1] - 1), axis=1)
    return (spectrum.real**2 + spectrum.imag**2) @ filters.T


def _fft_length(window: int, bands: int) -> int:
    """A power of two, long enough that the narrowest bands are no gaps between two lines of the spectrum."""
    return 2 ** math.ceil(math.log2(max(window, 16 * bands)))


@compiled_when_called
def level_crossings(levels: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Events where bands have risen or fallen by ``threshold`` since their last one; all begin at 0.

    Args:
        levels: float64 ``[F, N]``, zero or more.
        threshold: above 0.

    Returns:
        Times float64 ``[E]`` in frames, linearly interpolated, the first frame at 1, in no order; units int64 ``[E]``:
        ``n`` for a rise of band ``n``, ``N + n`` for a fall.
    """
    frames, bands = levels.shape
    most = 0
    for band in range(bands):
        before = 0.0
        for frame in range(frames):
            most += int(abs(levels[frame, band] - before) / threshold) + 1
            before = levels[frame, band]
    times = np.empty(most, np.float64)
    units = np.empty(most, np.int64)
    count = 0
    for band in range(bands):
        before = last = 0.0
        for frame in range(frames):
            level = levels[frame, band]
            while level >= last + threshold:
                last += threshold
                times[count] = frame + (max(last - before, 0.0)) / (level - before) if level > before else frame + 1.0
                units[count] = band
                count += 1
            while level <= last - threshold:
                last -= threshold
                times[count] = frame + (max(before - last, 0.0)) / (before - level) if level < before else frame + 1.0
                units[count] = bands + band
                count += 1
            before = level
    return times[:count], units[:count]
