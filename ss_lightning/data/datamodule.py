"""The parent of all data modules: one preparation step, the grid, and the loaders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from ss_lightning.data.argument_checks import checked_choice, checked_positive_number, checked_whole_number
from ss_lightning.data.augment import EventAugmentation, EventAugmenter
from ss_lightning.data.store import Augmenter, EventDataset, EventStore, identity
from ss_lightning.errors import UsageError

_WARN_SHARE_AFTER = 0.01


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


class EventDataModule(lightning.LightningDataModule):
    """Loaders of event batches; a subclass says where the events come from by writing :meth:`load_splits`.

    Nothing is read when the module is built. The first use of :meth:`prepare_data`, :meth:`setup`, a loader
    or one of the properties that depend on the data runs the one preparation step, which is safe to run in
    several processes at once. A batch is a pair ``(input, labels)``: an
    :class:`~ss_lightning.events.EventBatch` or a uint8 tensor ``[T, B, N]``, and int64 ``[B]``.

    Attributes:
        augment: How the training samples are changed at random; a subclass that offers it sets it.
        units_per_input: How many neighbouring units of the data are merged into one input; likewise.
    """

    augment: Any = None
    units_per_input: int = 1

    def __init__(
        self,
        num_steps: int,
        step_ms: float,
        batch_size: int = 128,
        binning: Literal["binary", "count"] = "binary",
        input: Literal["events", "dense"] = "events",
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Check the arguments; no file is touched.

        Args:
            num_steps: Steps of the time grid, which begins at 0. Later events are dropped.
            step_ms: Length of a step in milliseconds.
            batch_size: Samples in a batch.
            binning: "binary" counts a unit once per step, "count" counts every event.
            input: "events" for lists of events, "dense" for time-major uint8 tensors.
            num_workers: Processes that build batches; 0 builds them in the training process.
            pin_memory: Keep batches in page-locked memory, which speeds up the copy to a GPU.

        Raises:
            UsageError: An argument is out of range.
        """
        super().__init__()
        self.num_steps = checked_whole_number("num_steps", num_steps)
        self.step_ms = checked_positive_number("step_ms", step_ms)
        self.batch_size = checked_whole_number("batch_size", batch_size)
        self.binning = checked_choice("binning", binning, ("binary", "count"))
        self.input = checked_choice("input", input, ("events", "dense"))
        self.num_workers = checked_whole_number("num_workers", num_workers, least=0)
        self.pin_memory = pin_memory
        self._splits: Splits | None = None
        self._order_seed: int | None = None

    def load_splits(self) -> Splits:
        """Read or make the data. Subclasses write this; it must bear running in several processes at once."""
        raise NotImplementedError

    @property
    def splits(self) -> Splits:
        """The prepared data; prepares them at the first use."""
        if self._splits is None:
            splits = self.load_splits()
            if len(splits.train) == 0:
                raise UsageError("No training samples are left. Hold out fewer samples for validation.")
            self._warn_about_late_events(splits.train.store)
            self._splits = splits
        return self._splits

    def prepare_data(self) -> None:
        """Download and cache what is missing (Lightning calls this once per machine)."""
        _ = self.splits

    def setup(self, stage: str) -> None:
        """Load the prepared data (Lightning calls this in every process)."""
        _ = self.splits

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.splits.train.store.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one step of input, such as ``(700,)`` or ``(1, 28, 28)``; its product is ``N``."""
        store = self.splits.train.store
        return store.input_shape if self.units_per_input == 1 else (-(-store.num_units // self.units_per_input),)

    @property
    def num_inputs(self) -> int:
        """Number of input units ``N``."""
        return math.prod(self.input_shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self.splits.train.store.class_names

    def train_dataloader(self) -> DataLoader:
        """Batches of the training samples in an order that changes every epoch; the last may be smaller.

        The order follows from the seed that was set (``seed_everything``) and the number of the epoch alone, so a
        training that is resumed meets the samples in the same order, changed by ``augment`` in the same way. Several
        devices share the order of one.
        """
        dataset = self.dataset(self.splits.train)
        if self._order_seed is None:
            seed = torch.initial_seed()
            self._order_seed = seed if self.trainer is None else self.trainer.strategy.broadcast(seed)
        sampler = TrainingSampler(dataset, *self._processes(), self._order_seed)
        if self.trainer is not None:
            # The trainer says it too, but in a resumed training too late for workers, which fetch ahead.
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return self._loader(dataset, sampler)

    def state_dict(self) -> dict[str, int]:
        """What goes into a checkpoint: the seed of the order of the training samples."""
        return {} if self._order_seed is None else {"order_seed": self._order_seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on with the order of a checkpoint."""
        self._order_seed = state_dict.get("order_seed")

    def val_dataloader(self) -> DataLoader | list:
        """Batches of the validation samples; an empty list, which Lightning skips, if there are none."""
        val = self.splits.val
        return [] if val is None else self._evaluation_loader(self.dataset(val))

    def test_dataloader(self) -> DataLoader:
        """Batches of the test samples.

        Raises:
            UsageError: The data have no test set.
        """
        return self._evaluation_loader(self.dataset(self._test_split()))

    def predict_dataloader(self) -> DataLoader:
        """Batches of the test samples, for predictions."""
        return self._loader(self.dataset(self._test_split()))

    def dataset(self, subset: Subset) -> EventDataset:
        """``subset`` on this module's grid; samples that are asked for with a key are changed by ``augment``."""
        return EventDataset(
            subset.store,
            subset.samples,
            num_steps=self.num_steps,
            step_ms=self.step_ms,
            binning=self.binning,
            input=self.input,
            units_per_input=self.units_per_input,
            augment=self._augmenter(subset),
        )

    def _augmenter(self, subset: Subset) -> Augmenter | None:
        if self.augment is None or self.augment == EventAugmentation():
            return None
        return EventAugmenter(
            self.augment, subset.store, subset.indices, step_ms=self.step_ms, units_per_input=self.units_per_input
        )

    def _test_split(self) -> Subset:
        if self.splits.test is None:
            raise UsageError("These data have no test set. Give one to the data module.")
        return self.splits.test

    def _loader(
        self,
        dataset: EventDataset,
        sampler: Sampler | None = None,
        batch_size: int | None = None,
    ) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size or self.batch_size,
            sampler=sampler,
            collate_fn=identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            # Of its own, for a loader draws a number for its workers: the global one is left to the model.
            generator=torch.Generator().manual_seed(self._order_seed or 0),
        )

    def _processes(self) -> tuple[int, int]:
        """How many processes train together, and which of them this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _evaluation_loader(self, dataset: EventDataset) -> DataLoader:
        replicas, rank = self._processes()
        if replicas == 1:
            return self._loader(dataset)
        sampler = EvaluationSampler(dataset, replicas, rank)
        return self._loader(dataset, sampler, batch_size=even_batch_size(len(dataset), replicas, self.batch_size))

    def _warn_about_late_events(self, store: EventStore) -> None:
        share = store.share_after(self.num_steps, self.step_ms)
        if share > _WARN_SHARE_AFTER:
            rank_zero_warn(
                f"{share:.1%} of the training events lie after the end of the time grid "
                f"(num_steps={self.num_steps} steps of step_ms={self.step_ms:g} ms = "
                f"{self.num_steps * self.step_ms:g} ms) and are dropped. Raise num_steps or step_ms to keep "
                "them; if the share is large, check the unit of the times."
            )


class TrainingSampler(DistributedSampler):
    """A random order that follows from a seed and the number of the epoch; each process gets every n-th sample of it.

    So ``n`` devices with a batch size ``b`` train on the same batches as one with ``n * b``. Where the samples cannot
    be shared evenly, the last few of the order (fewer than there are processes) are left out of that epoch: none is
    trained on twice, as it would be with Lightning's own sampler, which leaves one of this type alone.

    Where the data set changes samples at random, an index is a pair of a key and a number: what a sample gets follows
    from the seed, the epoch and its number, in whatever worker process or on whatever device its batch is built.
    """

    def __init__(self, dataset: EventDataset, num_replicas: int, rank: int, seed: int) -> None:
        """Choose the share of process ``rank`` out of ``num_replicas``.

        Raises:
            UsageError: There are fewer samples than processes.
        """
        if len(dataset) < num_replicas:
            raise UsageError(
                f"{len(dataset)} training samples cannot be shared among {num_replicas} devices. Use fewer devices."
            )
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.size = len(dataset)
        self.keyed = dataset.augment is not None

    def __iter__(self) -> Iterator[Any]:
        """The indices of this process; the next epoch begins where nobody calls ``set_epoch``."""
        seed = [self.seed % 2**64, self.epoch]
        order = np.random.default_rng(seed).permutation(self.size)
        share = order[: self.total_size][self.rank :: self.num_replicas].tolist()
        self.epoch += 1
        if not self.keyed:
            return iter(share)
        (word,) = np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(1, np.uint64)
        key = int(word >> np.uint64(1))  # fits int64
        return iter([(key, number) for number in share])


class EvaluationSampler(DistributedSampler):
    """Every ``num_replicas``-th sample, none of them twice.

    Lightning's own sampler fills uneven shares up with repeated samples, which changes the accuracy that is
    reported; it leaves a sampler of this type alone.
    """

    def __init__(self, dataset: EventDataset, num_replicas: int, rank: int) -> None:
        """Choose the share of process ``rank`` out of ``num_replicas``.

        Raises:
            UsageError: There are fewer samples than processes.
        """
        if len(dataset) < num_replicas:
            raise UsageError(
                f"{len(dataset)} samples cannot be shared among {num_replicas} devices without repeating "
                "some. Evaluate on fewer devices."
            )
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self.share = range(rank, len(dataset), num_replicas)

    def __iter__(self) -> Iterator[int]:
        """The indices of this process."""
        return iter(self.share)

    def __len__(self) -> int:
        """Number of indices of this process."""
        return len(self.share)


def even_batch_size(num_samples: int, num_replicas: int, batch_size: int) -> int:
    """A batch size near ``batch_size`` with which all processes have the same number of batches.

    Shares differ by one sample at most, and that sample would be a batch of its own where the smaller share
    is a multiple of the batch size. The process that has it would then wait for the others for ever in a
    forward pass that synchronises buffers.

    Args:
        num_samples: Samples in all, at least ``num_replicas``.
        num_replicas: Number of processes.
        batch_size: The size that is wanted.
    """
    smaller, rest = divmod(num_samples, num_replicas)
    if rest == 0:
        return batch_size
    candidates = [*range(batch_size, 1, -1), *range(batch_size + 1, smaller + 2)]
    return next(size for size in candidates if smaller % size != 0)


def split_off(num_samples: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random split of ``num_samples`` indices.

    Args:
        num_samples: How many there are.
        fraction: Share of the second part, in [0, 1).
        seed: Seed of the shuffle.

    Returns:
        The larger part and the held-out part, int64, each in rising order.
    """
    order = np.random.default_rng(seed).permutation(num_samples)
    held_out = round(num_samples * fraction)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
