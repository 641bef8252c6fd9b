"""The parts of a data set: for training, validation and testing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ss_lightning.errors import UsageError


class SampleStore(Protocol):
    """What every store says of its samples, whatever these are.

    Attributes:
        labels: int64 ``[S]``, in ``[0, num_classes)``.
        groups: int64 ``[S]``, or None.
        num_units: ``N``.
        num_classes: number of classes.
        input_shape: shape of one step of input; its product is ``N``.
        class_names: one name per class.
    """

    @property
    def labels(self) -> np.ndarray: ...  # noqa: D102
    @property
    def groups(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def num_units(self) -> int: ...  # noqa: D102
    @property
    def num_classes(self) -> int: ...  # noqa: D102
    @property
    def input_shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Subset:
    """Some samples of a store: ``samples`` are indices, int64 ``[S']``, or None for all."""

    store: SampleStore
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
    def held_out(cls, store: SampleStore, test: SampleStore | None, fraction: float, seed: int) -> Splits:
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


@dataclass(frozen=True)
class PartChoice:
    """Which samples are for training, validation and testing, where the files of a data set do not say it all.

    Args:
        val_fraction: share of the training samples, or of their groups, to hold out for validation where there is no
            such part; 0 for none.
        test_fraction: the same for testing.
        val_groups: names of the groups that form the validation set; None for the part, or the share; none of them for
            no validation set.
        test_groups: names of the groups that form the test set: the samples of all parts are pooled, and the training
            samples are all others. None for the part, or the share.
        exclude_test: with ``test_groups``: the samples of the test part take no part.
        seed: seed of what is chosen at random.
    """

    val_fraction: float
    test_fraction: float
    val_groups: tuple[str, ...] | None
    test_groups: tuple[str, ...] | None
    exclude_test: bool
    seed: int

    def choose(
        self, parts: np.ndarray, groups: np.ndarray | None, group_names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The training, validation and test samples, int64 in rising order; the last two may be empty.

        Args:
            parts: text ``[S]``: "train", "val", "test" or "" for each sample.
            groups: int64 ``[S]``, indices of ``group_names``; None if there are no groups.
            group_names: names of all groups.

        Raises:
            UsageError: a group is not known, or none is left to train on.
        """
        for name, chosen in (("val_speakers", self.val_groups), ("test_speakers", self.test_groups)):
            unknown = sorted(set(chosen or ()) - set(group_names))
            if unknown:
                known = f"expected some of {', '.join(group_names)}" if group_names else "the paths name no speakers"
                raise UsageError(f"{name}: {', '.join(unknown)} not among the data; {known}.")
        every = np.arange(len(parts))
        if self.test_groups is not None:
            pool = every[parts != "test"] if self.exclude_test else every
            test, rest = _of_groups(pool, groups, group_names, self.test_groups)
            if not len(rest):
                raise UsageError("test_speakers: leaving out all speakers leaves none to train on. Leave out fewer.")
        else:
            test, rest = every[parts == "test"], every[parts != "test"]
            if not len(test):  # a part val stays whole
                _, test = _share(rest[parts[rest] != "val"], groups, self.test_fraction, self.seed)
                rest = np.setdiff1d(rest, test)
        if self.val_groups is not None:
            val, train = _of_groups(rest, groups, group_names, self.val_groups)
            if self.test_groups is None:
                train = train[parts[train] != "val"]
            if not len(train):
                raise UsageError("val_speakers: holding out all speakers leaves none to train on. Hold out fewer.")
            return train, val, test
        val, train = rest[parts[rest] == "val"], rest[parts[rest] != "val"]
        if self.test_groups is not None or not len(val):
            train, val = _share(rest, groups, self.val_fraction, self.seed + 1)
        return train, val, test


def _of_groups(
    samples: np.ndarray, groups: np.ndarray | None, names: Sequence[str], chosen: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Those of some samples that are of the chosen groups, and the others."""
    if groups is None:
        return samples[:0], samples
    inside = np.isin(groups[samples], [names.index(name) for name in chosen])
    return samples[inside], samples[~inside]


def _share(samples: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some samples without a share of them, and that share: whole groups, if more than one is left."""
    present = np.unique(groups[samples]) if groups is not None else np.zeros(0, np.int64)
    if fraction > 0 and len(present) > 1:
        number = min(max(1, round(len(present) * fraction)), len(present) - 1)
        chosen = np.random.default_rng(seed).permutation(present)[:number]
        assert groups is not None
        inside = np.isin(groups[samples], chosen)
        return samples[~inside], samples[inside]
    kept, held_out = split_off(len(samples), fraction, seed)
    return samples[kept], samples[held_out]
