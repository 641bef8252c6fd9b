"""The parts of a data set: for training, validation and testing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ss_lightning.data.store import EventStore


@dataclass(frozen=True)
class Subset:
    """Some samples of a store: ``samples`` are indices, int64 ``[S']``, or None for all."""

    store: EventStore
    samples: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.store) if self.samples is None else len(self.samples)

    @property
    def indices(self) -> np.ndarray:
        """The samples, int64 ``[S']``, also where they are all."""
        return np.arange(len(self.store)) if self.samples is None else self.samples


@dataclass(frozen=True)
class Splits:
    """The parts of a data set; ``val`` and ``test`` may be missing."""

    train: Subset
    val: Subset | None
    test: Subset | None

    @classmethod
    def held_out(cls, store: EventStore, test: EventStore | None, fraction: float, seed: int) -> Splits:
        """Hold out random samples of a store for validation.

        Args:
            store: the samples for training and validation.
            test: the test set.
            fraction: share of the samples to hold out, in [0, 1); 0 for no validation set.
            seed: seed of their choice.
        """
        kept, held_out = split_off(len(store), fraction, seed)
        val = Subset(store, held_out) if len(held_out) else None
        return cls(Subset(store, kept), val, None if test is None else Subset(test))


def split_off(num_samples: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random split of ``num_samples`` indices.

    Args:
        num_samples: how many there are.
        fraction: share of the second part, in [0, 1).
        seed: seed of the shuffle.

    Returns:
        The larger part and the held-out part, int64, each in rising order.
    """
    order = np.random.default_rng(seed).permutation(num_samples)
    held_out = round(num_samples * fraction)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
