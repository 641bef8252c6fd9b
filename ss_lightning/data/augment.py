"""Training samples changed at random, a whole batch at a time: recordings in time and unit, images in their plane.

What a sample gets follows from a key and the number of the sample alone, whoever asks for it, in whatever batch. The
random words behind it are those of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, doi 10.1145/2660193.2660195), which gives any word of a stream without the ones before it::

    word[i] = mix(key + (i + 1) * 0x9E3779B97F4A7C15)

Recordings are changed event by event, in float64 and in this order. An event at time ``t`` of unit ``u`` is kept with
probability ``keep``; its unit becomes ``moved[u]`` and its time ``(t + lag) * stretch + delay + jitter * z``, ``z`` a
standard normal number of its own; it is dropped if the unit or the time leaves its range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch

from ss_lightning.data.argument_checks import checked_fraction, checked_number, checked_whole_number
from ss_lightning.data.store import EventStore
from ss_lightning.errors import UsageError
from ss_lightning.jit import compiled_when_called

T = TypeVar("T", bound="EventAugmentation | ImageAugmentation")

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
_ONE, _S27, _S30, _S31, _S32, _S52 = (np.uint64(n) for n in (1, 27, 30, 31, 32, 52))
_LOW_HALF = np.uint64(2**32 - 1)
_NORMALS = 2**12


@dataclass(frozen=True)
class EventAugmentation:
    """How training recordings are changed at random; the defaults change nothing.

    Source: unit shift and blending are those of Nowotny, Turner & Knight, "Loss shaping enhances exact gradient
    learning with EventProp in spiking neural networks", arXiv:2212.01232.

    Args:
        unit_shift: all units of a sample are shifted alike, by up to this many channels up or down; events that leave
            the range are dropped. On a camera: by up to this many pixels, along x and along y.
        time_stretch: the times of a sample are multiplied by a factor between 1 / (1 + s) and 1 + s, log-uniform.
        time_shift_ms: all times of a sample are shifted by up to this many milliseconds, earlier or later; what would
            lie before 0 is dropped.
        jitter_ms: each event is shifted on its own: the standard deviation, in milliseconds, of a normal distribution
            (of 4,096 values).
        unit_dropout: probability that a unit is silent in a sample.
        loudness: each event is kept with a probability that is drawn for the sample, from 1 - loudness to 1.
        blend: probability that a sample is blended with another training sample of its class: half of the events of
            each of the two, chosen at random, the mean time of the other moved to that of the sample.

    Raises:
        UsageError: an argument is out of range.
    """

    unit_shift: int = 0
    time_stretch: float = 0.0
    time_shift_ms: float = 0.0
    jitter_ms: float = 0.0
    unit_dropout: float = 0.0
    loudness: float = 0.0
    blend: float = 0.0

    def __post_init__(self) -> None:
        checked_whole_number("augment.unit_shift", self.unit_shift, least=0)
        for name in ("time_stretch", "time_shift_ms", "jitter_ms"):
            checked_number(f"augment.{name}", getattr(self, name))
        checked_fraction("augment.unit_dropout", self.unit_dropout)
        checked_fraction("augment.loudness", self.loudness)
        checked_number("augment.blend", self.blend, most=1)


UNCHANGED = EventAugmentation()


@dataclass(frozen=True)
class ImageAugmentation:
    """How training images are changed at random; the defaults change nothing.

    Args:
        shift: the image is moved by up to this many pixels along x and along y; what comes in is black.
        flip: every second image is mirrored left to right.
        erase: probability that a rectangle is made black: 2 to 33 % of the image, 0.3 to 3.3 times as high as wide
            (Zhong et al., "Random erasing data augmentation", arXiv:1708.04896).

    Raises:
        UsageError: an argument is out of range.
    """

    shift: int = 0
    flip: bool = False
    erase: float = 0.0

    def __post_init__(self) -> None:
        checked_whole_number("augment.shift", self.shift, least=0)
        checked_number("augment.erase", self.erase, most=1)


UNCHANGED_IMAGES = ImageAugmentation()


def checked_augmentation(augment: T, kind: type[T], input_shape: tuple[int, ...]) -> T:
    """``augment`` if it can change samples of this shape.

    Args:
        augment: what is done.
        kind: the class that it must be of.
        input_shape: shape of one step of input.

    Raises:
        UsageError: it is no ``kind``, or may move a sample out of sight.
    """
    if not isinstance(augment, kind):
        raise UsageError(f"augment is {augment!r}; expected an {kind.__name__}.")
    name = "unit_shift" if kind is EventAugmentation else "shift"
    extent = min((length for length in input_shape[-2:] if length > 1), default=1)
    if getattr(augment, name) >= extent:
        raise UsageError(
            f"augment.{name} is {getattr(augment, name)}; expected less than {extent}, for inputs of shape "
            f"{input_shape}."
        )
    return augment


# Random numbers -------------------------------------------------------------------------------------------------------


def random_words(key: np.ndarray, index: np.ndarray | int) -> np.ndarray:
    """Words of the streams of ``key``.

    Args:
        key: uint64, one or more axes.
        index: which word of its stream, zero or more; broadcast against ``key``.

    Returns:
        uint64, each bit of it 1 with probability 1/2.
    """
    word = key + (np.atleast_1d(index).astype(np.uint64) + _ONE) * _GAMMA
    word = (word ^ (word >> _S30)) * _FIRST_FACTOR
    word = (word ^ (word >> _S27)) * _SECOND_FACTOR
    return word ^ (word >> _S31)


def _uniform(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), from the upper 53 bits of each word."""
    return (words >> np.uint64(11)) * 2.0**-53


@cache
def normal_quantiles() -> np.ndarray:
    """float64 ``[4096]``: the middles, by probability, of as many equally likely parts of the standard normal."""
    middles = (torch.arange(_NORMALS, dtype=torch.float64) + 0.5) / _NORMALS
    return torch.special.ndtri(middles).numpy()


# Recordings -----------------------------------------------------------------------------------------------------------


def augment_events_reference(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    *,
    partners: np.ndarray,
    keep: np.ndarray,
    stretch: np.ndarray,
    delay: np.ndarray,
    moved: np.ndarray,
    jitter: float,
    keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The changed events of a batch, with plain NumPy.

    Args:
        times: ``[E]``, time of each event of the data set.
        units: ``[E]``, integers in ``[0, N)``.
        offsets: int64 ``[S + 1]``, where each sample of the data set begins.
        samples: int64 ``[B]``, the samples of the batch.
        partners: int64 ``[B]``, the sample whose events come behind those of each, its mean time moved to that of the
            sample; -1 for none.
        keep: float64 ``[B]``, probability with which each event stays.
        stretch: float64 ``[B]``, the factor of the times.
        delay: float64 ``[B]``, added to the times, in their unit.
        moved: int32 ``[B, N]``, what each unit becomes; below 0 its events are dropped.
        jitter: standard deviation of what is added to the time of each event, in the unit of ``times``.
        keys: uint64 ``[B]``, the streams of the events: word ``i`` is that of event ``i`` of sample and partner, its
            lower half decides whether the event stays, its upper 12 bits choose ``z``.

    Returns:
        Times float64 ``[E']``, in no order, units int32 ``[E']`` and offsets int64 ``[B + 1]``.
    """
    size = len(samples)
    source = np.stack([samples, partners], axis=1).ravel()  # each sample, then its partner
    begin = offsets[source]
    counts = np.where(source < 0, 0, offsets[source + 1] - begin)
    part = np.repeat(np.arange(2 * size), counts)
    event = np.arange(part.size) + np.repeat(begin - np.cumsum(counts) + counts, counts)
    b = part // 2
    first = np.concatenate([[0], np.bincount(b, minlength=size).cumsum()])
    word = random_words(keys[b], np.arange(part.size) - first[b])

    time = times[event].astype(np.float64)
    mean = np.bincount(part, time, minlength=2 * size) / np.maximum(counts, 1)
    lag = np.where(counts > 0, mean[np.arange(2 * size) // 2 * 2] - mean, 0.0)
    time = (time + lag[part]) * stretch[b] + delay[b] + jitter * normal_quantiles()[word >> _S52]
    unit = moved[b, units[event]]
    kept = ((word & _LOW_HALF) * 2.0**-32 < keep[b]) & (unit >= 0) & (time >= 0)
    ends = np.bincount(b[kept], minlength=size).cumsum()
    return time[kept], unit[kept], np.concatenate([[0], ends])


@compiled_when_called
def _augment_events_loop(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    partners: np.ndarray,
    keep: np.ndarray,
    stretch: np.ndarray,
    delay: np.ndarray,
    moved: np.ndarray,
    jitter: float,
    keys: np.ndarray,
    quantiles: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The body of :func:`augment_events`."""
    most = 0
    for b in range(samples.size):
        most += offsets[samples[b] + 1] - offsets[samples[b]]
        if partners[b] >= 0:
            most += offsets[partners[b] + 1] - offsets[partners[b]]
    new_times = np.empty(most + 1, np.float64)
    new_units = np.empty(most + 1, np.int32)
    ends = np.zeros(samples.size + 1, np.int64)
    written = 0
    for b in range(samples.size):
        limit = np.uint64(math.ceil(keep[b] * 4294967296.0))
        position = keys[b]
        mean = 0.0
        for part in range(2):
            source = samples[b] if part == 0 else partners[b]
            if source < 0:
                continue
            begin, end = offsets[source], offsets[source + 1]
            lag = 0.0
            if partners[b] >= 0 and end > begin:
                total = 0.0
                for event in range(begin, end):
                    total += times[event]
                if part == 0:
                    mean = total / (end - begin)
                else:
                    lag = mean - total / (end - begin)
            for event in range(begin, end):
                position += _GAMMA
                word = (position ^ (position >> _S30)) * _FIRST_FACTOR
                word = (word ^ (word >> _S27)) * _SECOND_FACTOR
                word = word ^ (word >> _S31)
                unit = moved[b, units[event]]
                time = (times[event] + lag) * stretch[b] + delay[b] + jitter * quantiles[word >> _S52]
                # Without a branch, which no processor could predict: what is not kept is written over by the next.
                new_times[written] = time
                new_units[written] = unit
                written += ((word & _LOW_HALF) < limit) & (unit >= 0) & (time >= 0)
        ends[b + 1] = written
    return new_times[:written], new_units[:written], ends


def augment_events(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    *,
    partners: np.ndarray,
    keep: np.ndarray,
    stretch: np.ndarray,
    delay: np.ndarray,
    moved: np.ndarray,
    jitter: float,
    keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`augment_events_reference` in one compiled pass; the same arguments and results, bit for bit."""
    drawn = partners, keep, stretch, delay, moved, float(jitter), keys
    return _augment_events_loop(times, units, offsets, samples, *drawn, normal_quantiles())


def moved_units(input_shape: tuple[int, ...], right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """What the units of a sensor become when all of it moves.

    Args:
        input_shape: its axes; ``x`` is the last of them and ``y``, if there is one, the last but one.
        right: int64 ``[B]``, added to ``x``.
        down: int64 ``[B]``, added to ``y``; without effect if there is one axis only, or one ``y``.

    Returns:
        int64 ``[B, N]``, -1 where a unit leaves the sensor.
    """
    unit = np.arange(math.prod(input_shape))
    width = input_shape[-1]
    x = unit % width + right[:, None]
    inside = (x >= 0) & (x < width)
    moved = unit + right[:, None]
    if len(input_shape) > 1 and (height := input_shape[-2]) > 1:
        y = unit // width % height + down[:, None]
        inside &= (y >= 0) & (y < height)
        moved = moved + down[:, None] * width
    return np.where(inside, moved, -1)


class EventAugmenter:
    """Draws what each sample of a batch gets, and changes its events.

    Args:
        augment: what is done.
        store: the data.
        samples: int64 ``[S']``, the training samples.
        step_ms: length of a step in milliseconds.
        units_per_input: how many neighbouring units are merged into one, after the shift.
    """

    def __init__(
        self,
        augment: EventAugmentation,
        store: EventStore,
        samples: np.ndarray,
        *,
        step_ms: float,
        units_per_input: int = 1,
    ) -> None:
        self.augment = augment
        self.store = store
        self.samples = samples
        self.units_per_input = units_per_input
        self.per_ms = store.step_length(step_ms) / step_ms
        self._labels = store.labels[samples]
        self._by_class = np.argsort(self._labels, kind="stable")
        self._size = np.bincount(self._labels, minlength=store.num_classes)
        self._begin = self._size.cumsum() - self._size
        self._rank = np.empty_like(self._by_class)  # the place of each sample among those of its class
        self._rank[self._by_class] = np.arange(len(samples)) - self._begin[self._labels[self._by_class]]

    def __call__(self, numbers: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :data:`~ss_lightning.data.dataset.Augmenter`."""
        augment = self.augment
        streams = random_words(keys.astype(np.uint64), numbers)
        drawn = _uniform(random_words(streams[:, None], np.arange(7)))
        up_to = 2 * augment.unit_shift + 1
        right, down = (np.floor(drawn[:, axis] * up_to).astype(np.int64) - augment.unit_shift for axis in (0, 1))
        moved = moved_units(self.store.input_shape, right, down) // self.units_per_input
        if augment.unit_dropout:
            unit_streams = random_words(streams, 8)
            silent = _uniform(random_words(unit_streams[:, None], np.arange(moved.shape[1]))) < augment.unit_dropout
            moved[silent] = -1
        partners = np.where(drawn[:, 2] < augment.blend, self._partners(numbers, drawn[:, 3]), -1)
        return augment_events(
            self.store.times,
            self.store.units,
            self.store.offsets,
            self.samples[numbers],
            partners=partners,
            keep=(1 - augment.loudness * drawn[:, 4]) * np.where(partners < 0, 1.0, 0.5),
            stretch=np.exp((2 * drawn[:, 5] - 1) * math.log1p(augment.time_stretch)),
            delay=(2 * drawn[:, 6] - 1) * augment.time_shift_ms * self.per_ms,
            moved=moved.astype(np.int32),
            jitter=augment.jitter_ms * self.per_ms,
            keys=random_words(streams, 7),
        )

    def _partners(self, numbers: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """For each sample another one of its class, as an index of the store; -1 where there is none."""
        label = self._labels[numbers]
        others = self._size[label] - 1
        place = np.floor(drawn * others).astype(np.int64)
        place += place >= self._rank[numbers]  # itself is passed over
        place = np.where(others > 0, place, 0)
        return np.where(others > 0, self.samples[self._by_class[self._begin[label] + place]], -1)


# Images ---------------------------------------------------------------------------------------------------------------


def augment_images(
    images: np.ndarray,
    *,
    mirrored: np.ndarray,
    right: np.ndarray,
    down: np.ndarray,
    boxes: np.ndarray,
    background: int,
) -> np.ndarray:
    """Images mirrored, then moved, then with a rectangle erased.

    Args:
        images: ``[B, C, H, W]``.
        mirrored: bool ``[B]``, mirror left to right.
        right: int64 ``[B]``, pixels to the right.
        down: int64 ``[B]``, pixels down.
        boxes: int64 ``[B, 4]``, the rectangle: top, left, height and width, in pixels.
        background: the value of pixels that come in or are erased.

    Returns:
        ``[B, C, H, W]``, of the type of ``images``.
    """
    batch, channels, height, width = images.shape
    y, x = np.arange(height), np.arange(width)
    from_y, from_x = y - down[:, None], x - right[:, None]
    inside_y, inside_x = (from_y >= 0) & (from_y < height), (from_x >= 0) & (from_x < width)
    from_x = np.where(mirrored[:, None], width - 1 - from_x, from_x)
    top, left, box_height, box_width = boxes[:, :, None].swapaxes(0, 1)
    erased_y, erased_x = (y >= top) & (y < top + box_height), (x >= left) & (x < left + box_width)
    shown = inside_y[:, :, None] & inside_x[:, None, :] & ~(erased_y[:, :, None] & erased_x[:, None, :])
    source = images[
        np.arange(batch)[:, None, None, None],
        np.arange(channels)[:, None, None],
        from_y.clip(0, height - 1)[:, None, :, None],
        from_x.clip(0, width - 1)[:, None, None, :],
    ]
    return np.where(shown[:, None], source, images.dtype.type(background))


def drawn_changes(
    augment: ImageAugmentation, numbers: np.ndarray, keys: np.ndarray, height: int, width: int
) -> dict[str, np.ndarray]:
    """What each image of a batch gets: the arguments of :func:`augment_images` of these names.

    Args:
        augment: what is done.
        numbers: int64 ``[B]``, number of each sample.
        keys: int64 ``[B]``, key of each sample.
        height: of the images.
        width: of the images.
    """
    streams = random_words(keys.astype(np.uint64), numbers)
    drawn = _uniform(random_words(streams[:, None], np.arange(8)))
    up_to = 2 * augment.shift + 1
    right, down = (np.floor(drawn[:, axis] * up_to).astype(np.int64) - augment.shift for axis in (0, 1))
    return {
        "mirrored": (drawn[:, 2] < 0.5) & augment.flip,
        "right": right,
        "down": down,
        "boxes": np.where(drawn[:, 3:4] < augment.erase, _boxes(drawn[:, 4:], height, width), 0),
    }


class ImageAugmenter:
    """Draws what each image of a batch gets, and changes it.

    Args:
        augment: what is done.
        store: images ``(C, H, W)`` as a latency code, in steps.
        samples: int64 ``[S']``, the training samples.
        num_steps: ``T``, steps of the grid.
        silent: a black pixel never fires; otherwise it fires at step ``T - 1``.
    """

    def __init__(
        self, augment: ImageAugmentation, store: EventStore, samples: np.ndarray, *, num_steps: int, silent: bool
    ) -> None:
        self.augment = augment
        self.store = store
        self.samples = samples
        # What fires behind the end of the grid is dropped.
        self.silent_step = num_steps
        self.background = num_steps if silent else num_steps - 1

    def __call__(self, numbers: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :data:`~ss_lightning.data.dataset.Augmenter`."""
        _, height, width = self.store.input_shape
        images = augment_images(
            self._steps(self.samples[numbers]),
            **drawn_changes(self.augment, numbers, keys, height, width),
            background=self.background,
        )
        size = len(numbers)
        units = np.tile(np.arange(self.store.num_units, dtype=np.int32), size)
        return images.ravel(), units, np.arange(size + 1) * self.store.num_units

    def _steps(self, samples: np.ndarray) -> np.ndarray:
        """int32 ``[B, C, H, W]``, the step at which each pixel fires."""
        store = self.store
        begin = store.offsets[samples]
        counts = store.offsets[samples + 1] - begin
        event = np.arange(counts.sum()) + np.repeat(begin - counts.cumsum() + counts, counts)
        steps = np.full((len(samples), store.num_units), self.silent_step, np.int32)
        steps[np.repeat(np.arange(len(samples)), counts), store.units[event]] = store.times[event]
        return steps.reshape(len(samples), *store.input_shape)


def _boxes(drawn: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rectangles to erase, int64 ``[B, 4]``, see :func:`augment_images`, from four uniform numbers each, ``[B, 4]``."""
    area = (0.02 + 0.31 * drawn[:, 0]) * height * width
    aspect = np.exp((2 * drawn[:, 1] - 1) * math.log(3.3))
    box_height = np.rint(np.sqrt(area * aspect)).clip(1, height)
    box_width = np.rint(np.sqrt(area / aspect)).clip(1, width)
    top = np.floor(drawn[:, 2] * (height - box_height + 1))
    left = np.floor(drawn[:, 3] * (width - box_width + 1))
    return np.stack([top, left, box_height, box_width], axis=1).astype(np.int64)
