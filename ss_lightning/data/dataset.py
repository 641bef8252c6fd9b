"""Samples of a store, put on a time grid and collated as they are fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ss_lightning.binning import Binning, bin_events, dense_spikes
from ss_lightning.data.store import EventStore
from ss_lightning.errors import UsageError
from ss_lightning.events import EventBatch

InputKind = Literal["events", "dense"]
# Gets the number of each sample of a batch and its key, int64 ``[B]`` each; returns times ``[E]`` in no order, units
# ``[E]`` and offsets ``[B + 1]`` of changed samples.
Augmenter = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


class SampleDataset(Dataset):
    """Samples that are collated as they are fetched.

    Attributes:
        samples: int64 ``[S']``, the samples of the store that are used.
        augment: what changes samples that are asked for together with a key; None if nothing does.
    """

    samples: np.ndarray
    augment: Any

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[EventBatch | Tensor, Tensor]:
        """A batch of the one sample ``index``."""
        return self.__getitems__([index])

    def __getitems__(
        self, indices: Sequence[int] | Sequence[tuple[int, int]] | np.ndarray
    ) -> tuple[EventBatch | Tensor, Tensor]:
        """The batch of these samples.

        Args:
            indices: numbers of samples; or pairs of a key and a number, for samples changed at random: as ``augment``
                changes them, which follows from the pair alone.

        Returns:
            The input (an EventBatch, or a tensor ``[T, B, N]``) and the labels, int64 ``[B]``.
        """
        raise NotImplementedError


class EventDataset(SampleDataset):
    """Samples of a store, put on a time grid and collated as they are fetched.

    A DataLoader asks for a whole batch at once through :meth:`__getitems__` and must not collate again: give
    it ``collate_fn=identity``.

    Args:
        store: the data.
        samples: int64 ``[S']``, the samples of the store to use; all if not given.
        num_steps: ``T``, steps of the grid; later events are dropped.
        step_ms: length of a step in milliseconds (without effect if the store is already on the grid).
        binning: ``"binary"``: a unit counts once per step; ``"count"``: every event counts.
        input: ``"events"`` for an :class:`~ss_lightning.events.EventBatch`, ``"dense"`` for a time-major
            uint8 tensor ``[T, B, N]``.
        units_per_input: how many neighbouring units are merged into one; ``N`` follows, rounded up.
        augment: what changes samples that are asked for together with a key; none does if not given.
    """

    def __init__(
        self,
        store: EventStore,
        samples: np.ndarray | None = None,
        *,
        num_steps: int,
        step_ms: float,
        binning: Binning = "binary",
        input: InputKind = "events",
        units_per_input: int = 1,
        augment: Augmenter | None = None,
    ) -> None:
        self.store = store
        self.samples = np.arange(len(store)) if samples is None else np.asarray(samples, np.int64)
        self.num_steps = num_steps
        self.step_ms = step_ms
        self.binning: Binning = binning
        self.input: InputKind = input
        self.units_per_input = units_per_input
        self.augment = augment

    @property
    def num_units(self) -> int:
        """Number of input units ``N``."""
        return -(-self.store.num_units // self.units_per_input)

    def __repr__(self) -> str:
        return (
            f"EventDataset(samples={len(self)}, units={self.num_units}, steps={self.num_steps}, "
            f"step_ms={self.step_ms:g}, binning={self.binning!r}, input={self.input!r})"
        )

    def __getitems__(
        self, indices: Sequence[int] | Sequence[tuple[int, int]] | np.ndarray
    ) -> tuple[EventBatch | Tensor, Tensor]:
        """The batch of these samples, see :meth:`SampleDataset.__getitems__`.

        Returns:
            The input (an EventBatch, or uint8 ``[T, B, N]``) and the labels, int64 ``[B]``.

        Raises:
            UsageError: dense counts do not fit uint8, or a dense batch does not fit into memory.
        """
        store = self.store
        numbers = np.asarray(indices, np.int64)
        keys, numbers = numbers.T if numbers.ndim == 2 else (None, numbers)
        chosen = self.samples[numbers]
        labels = torch.from_numpy(store.labels[chosen])
        grid: dict[str, Any] = {
            "num_steps": self.num_steps,
            "step_length": store.step_length(self.step_ms),
            "binning": self.binning,
        }
        if keys is None or self.augment is None:
            units, offsets = bin_events(
                store.times,
                store.units,
                store.offsets,
                chosen,
                num_units=store.num_units,
                units_per_input=self.units_per_input,
                **grid,
            )
        else:
            times, units, offsets = self.augment(numbers, keys)
            every = np.arange(len(numbers))
            units, offsets = bin_events(times, units, offsets, every, num_units=self.num_units, in_order=False, **grid)
        if self.input == "events":
            events = EventBatch.trusted(
                torch.from_numpy(units), torch.from_numpy(offsets), self.num_steps, self.num_units
            )
            return events, labels
        dense = dense_batch(units, offsets, self.num_steps, self.num_units, self.binning, self.step_ms)
        return dense, labels


def dense_batch(
    units: np.ndarray, offsets: np.ndarray, num_steps: int, num_units: int, binning: Binning, step_ms: float
) -> Tensor:
    """Binned events as a uint8 tensor ``[T, B, N]``.

    Args:
        units: int32 ``[E]``, from :func:`ss_lightning.data.bin_events`.
        offsets: int32 ``[B * T + 1]``, likewise.
        num_steps: ``T``.
        num_units: ``N``.
        binning: how the events were binned.
        step_ms: length of a step, for the message.

    Raises:
        UsageError: counts do not fit uint8, or the tensor does not fit into memory.
    """
    try:
        dense = dense_spikes(units, offsets, num_steps=num_steps, num_units=num_units, binning=binning)
    except MemoryError as error:
        shape = f"{num_steps} steps x {(len(offsets) - 1) // num_steps} samples x {num_units} units"
        raise UsageError(
            f'A dense batch of {shape} does not fit into memory. Use input="events" or a smaller batch_size.'
        ) from error
    if binning == "count" and dense.sum(dtype=np.int64) != len(units):
        raise UsageError(
            f"A unit fired more than 255 times in one step of {step_ms} ms, which dense input "
            '(uint8) cannot hold. Use shorter steps, binning="binary" or input="events".'
        )
    return torch.from_numpy(dense)


def identity(batch: Any) -> Any:
    """The ``collate_fn`` for a data set that returns whole batches: a function that workers can pickle."""
    return batch
