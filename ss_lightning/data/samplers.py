"""Which samples a process gets, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler

from ss_lightning.data.dataset import SampleDataset
from ss_lightning.errors import UsageError


class TrainingSampler(DistributedSampler):
    """A random order that follows from a seed and the number of the epoch; each process gets every n-th sample of it.

    So ``n`` devices with a batch size ``b`` train on the same batches as one with ``n * b``. Where the samples cannot
    be shared evenly, the last few of the order (fewer than there are processes) are left out of that epoch: none is
    trained on twice, as it would be with Lightning's own sampler, which leaves one of this type alone.

    Where the data set changes samples at random, an index is a pair of a key and a number: what a sample gets follows
    from the seed, the epoch and its number, in whatever worker process or on whatever device its batch is built.

    Raises:
        UsageError: there are fewer samples than processes.
    """

    def __init__(self, dataset: SampleDataset, num_replicas: int, rank: int, seed: int) -> None:
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

    Raises:
        UsageError: there are fewer samples than processes.
    """

    def __init__(self, dataset: SampleDataset, num_replicas: int, rank: int) -> None:
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
        num_samples: samples in all, at least ``num_replicas``.
        num_replicas: number of processes.
        batch_size: the size that is wanted.
    """
    smaller, rest = divmod(num_samples, num_replicas)
    if rest == 0:
        return batch_size
    candidates = [*range(batch_size, 1, -1), *range(batch_size + 1, smaller + 2)]
    return next(size for size in candidates if smaller % size != 0)
