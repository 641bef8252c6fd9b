"""The Yin-Yang data set (Kriener, Göltz & Petrovici, "The Yin-Yang dataset", 2022, arXiv:2102.08211)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ss_lightning.data.argument_checks import checked_whole_number
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.splits import Splits, Subset
from ss_lightning.data.store import EventStore
from ss_lightning.signatures import passes_on_to

CLASS_NAMES = ("yin", "yang", "dot")
BIG_RADIUS = 0.5
DOT_RADIUS = 0.1


def yinyang_class(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Class of points of the disc with centre (0.5, 0.5) and radius 0.5.

    Args:
        x: ``[P]``.
        y: ``[P]``.

    Returns:
        int64 ``[P]``: -1 outside of the disc; 2 in the two dots, of radius 0.1 about (0.25, 0.5) and
        (0.75, 0.5); elsewhere 1 within 0.25 of (0.25, 0.5) and in the upper half of the disc but not within
        0.25 of (0.75, 0.5); 0 in the rest. The numbers are those of the authors' code.
    """
    to_right = np.hypot(x - 1.5 * BIG_RADIUS, y - BIG_RADIUS)
    to_left = np.hypot(x - 0.5 * BIG_RADIUS, y - BIG_RADIUS)
    one = (to_left <= 0.5 * BIG_RADIUS) | ((y > BIG_RADIUS) & (to_right > 0.5 * BIG_RADIUS))
    dot = (to_left < DOT_RADIUS) | (to_right < DOT_RADIUS)
    outside = np.hypot(x - BIG_RADIUS, y - BIG_RADIUS) > BIG_RADIUS
    return np.select([outside, dot, one], [-1, 2, 1], default=0)


def yinyang_points(num_samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points of the disc, uniform inside each class, as many of each class as of the others.

    Args:
        num_samples: ``S``.
        rng: source of randomness.

    Returns:
        Points float64 ``[S, 2]`` and classes int64 ``[S]``, in random order. Class counts differ by one at
        most.
    """
    labels = rng.permutation(np.arange(num_samples) % 3)
    points = np.empty((num_samples, 2))
    for label in range(3):
        slots = np.flatnonzero(labels == label)
        accepted = np.empty((0, 2))
        while len(accepted) < len(slots):
            # The rarest class covers 6 % of the square, so few rounds are needed.
            proposals = rng.random((8 * num_samples + 64, 2))
            fits = yinyang_class(proposals[:, 0], proposals[:, 1]) == label
            accepted = np.concatenate([accepted, proposals[fits]])
        points[slots] = accepted[: len(slots)]
    return points, labels


def latency_steps(values: np.ndarray, num_steps: int) -> np.ndarray:
    """The latency code of arXiv:2205.15286: a value in [0, 1] fires at ``trunc((1 - value) * (T - 1))``."""
    steps = np.trunc((1.0 - values) * (num_steps - 1))
    return steps.astype(np.min_scalar_type(num_steps - 1))


@passes_on_to(EventDataModule)
class YinYangData(EventDataModule):
    """Yin-Yang: 4 inputs (x, y, 1 - x, 1 - y), 3 classes, one event per input.

    Each input fires once, at step ``trunc((1 - value) * (num_steps - 1))``. The sizes of the training and
    test sets are those of Taylor, King & Harper (arXiv:2205.15286). Data are made in memory from ``seed``.

    Args:
        num_steps: steps of the time grid.
        step_ms: length of a step in milliseconds; the code above is in steps, so it does not move events.
        num_train: training points.
        num_val: validation points.
        num_test: test points.
        seed: seed of the points; each of the three sets has its own stream.

    Raises:
        UsageError: an argument is out of range.

    Example:
        >>> from ss_lightning.data import YinYangData
        >>> data = YinYangData(num_train=300, num_val=30, num_test=30, batch_size=64)
        >>> data
        YinYangData(classes=3, units=4, steps=100, step_ms=1, train=?, val=?, test=?)
        >>> data.prepare_data()
        >>> data
        YinYangData(classes=3, units=4, steps=100, step_ms=1, train=300, val=30, test=30)
        >>> events, labels = next(iter(data.val_dataloader()))
        >>> events
        EventBatch(shape=(100, 30, 4), events=120)
    """

    def __init__(
        self,
        num_steps: int = 100,
        step_ms: float = 1.0,
        num_train: int = 20_000,
        num_val: int = 10_000,
        num_test: int = 10_000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(num_steps=num_steps, step_ms=step_ms, **options)
        self.num_train = checked_whole_number("num_train", num_train)
        self.num_val = checked_whole_number("num_val", num_val)
        self.num_test = checked_whole_number("num_test", num_test)
        self.seed = checked_whole_number("seed", seed, least=0)

    def _known_sizes(self) -> dict[str, Any]:
        return {"classes": 3, "units": 4}

    def load_splits(self) -> Splits:
        """Draw the three sets."""
        sizes = (self.num_train, self.num_val, self.num_test)
        return Splits(*(Subset(self._draw(size, stream)) for stream, size in enumerate(sizes)))

    def _draw(self, num_samples: int, stream: int) -> EventStore:
        points, labels = yinyang_points(num_samples, np.random.default_rng([self.seed, stream]))
        return EventStore.from_latencies(
            latency_steps(np.concatenate([points, 1.0 - points], axis=1), self.num_steps),
            labels,
            num_classes=3,
            input_shape=(4,),
            class_names=CLASS_NAMES,
        )
