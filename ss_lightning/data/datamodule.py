"""The parent of all data modules: one preparation step, the grid, and the loaders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from ss_lightning.arrays import TimeUnit
from ss_lightning.data.argument_checks import checked_choice, checked_positive_number, checked_whole_number
from ss_lightning.data.augment import EventAugmentation, EventAugmenter
from ss_lightning.data.dataset import Augmenter, EventDataset, SampleDataset, identity
from ss_lightning.data.recording_files import READERS, Reader
from ss_lightning.data.samplers import EvaluationSampler, TrainingSampler, even_batch_size
from ss_lightning.data.splits import Splits, Subset
from ss_lightning.data.store import EventStore
from ss_lightning.errors import UsageError

_WARN_SHARE_AFTER = 0.01


class EventDataModule(lightning.LightningDataModule):
    """Loaders of event batches; a subclass says where the events come from by writing :meth:`load_splits`.

    Nothing is read when the module is built. The first use of :meth:`prepare_data`, :meth:`setup`, a loader
    or one of the properties that depend on the data runs the one preparation step, which is safe to run in
    several processes at once. A batch is a pair ``(input, labels)``: an
    :class:`~ss_lightning.events.EventBatch` or a uint8 tensor ``[T, B, N]``, and int64 ``[B]``.

    Printed, a data module shows its classes, input units, steps and samples; "?" stands for what is known only once
    the data are prepared.

    Args:
        num_steps: steps of the time grid, which begins at 0. Later events are dropped.
        step_ms: length of a step in milliseconds.
        batch_size: samples in a batch.
        binning: "binary" counts a unit once per step, "count" counts every event.
        input: "events" for lists of events, "dense" for time-major uint8 tensors.
        num_workers: processes that build batches; 0 builds them in the training process.
        pin_memory: keep batches in page-locked memory, from which they are copied to an NVIDIA GPU while it computes.
            None does so where training runs on one.

    Attributes:
        augment: how the training samples are changed at random; a subclass that offers it sets it.
        units_per_input: how many neighbouring units of the data are merged into one input; likewise.

    Raises:
        UsageError: an argument is out of range.
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
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        self.num_steps = checked_whole_number("num_steps", num_steps)
        self.step_ms = checked_positive_number("step_ms", step_ms)
        self.batch_size = checked_whole_number("batch_size", batch_size)
        self.binning = checked_choice("binning", binning, ("binary", "count"))
        self.input = checked_choice("input", input, ("events", "dense"))
        self.num_workers = checked_whole_number("num_workers", num_workers, least=0)
        self.pin_memory = pin_memory
        self._splits: Splits | None = None
        self._looked_at: set[str] = set()  # parts of the data that were held against the grid
        self._order_seed: int | None = None

    def __repr__(self) -> str:
        sizes = {**dict.fromkeys(("classes", "units"), "?"), **self._known_sizes()}
        samples: dict[str, Any] = dict.fromkeys(("train", "val", "test"), "?")
        if self._splits is not None:
            sizes = {"classes": self.num_classes, "units": self.num_inputs}
            samples = {name: len(getattr(self._splits, name) or ()) for name in samples}
        shown = {**sizes, "steps": self.num_steps, "step_ms": f"{self.step_ms:g}", **samples}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def __str__(self) -> str:
        return repr(self)  # Lightning's own builds the loaders, which reads the data

    def _known_sizes(self) -> dict[str, Any]:
        """``classes`` and ``units`` as far as they are known before the data are prepared."""
        return {}

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
            self._splits = splits
            self._warn_about_the_grid("training", splits.train)
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

    @property
    def input_in_words(self) -> str:
        """What a network is given in each step, as ``fit`` prints it."""
        return f"{self.input} with binning {self.binning}"

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
        if val is None:
            return []
        self._warn_about_the_grid("validation", val)
        return self._evaluation_loader(self.dataset(val))

    def test_dataloader(self) -> DataLoader:
        """Batches of the test samples.

        Raises:
            UsageError: the data have no test set.
        """
        return self._evaluation_loader(self.dataset(self._test_split()))

    def predict_dataloader(self) -> DataLoader:
        """Batches of the test samples, for predictions."""
        return self._loader(self.dataset(self._test_split()))

    def dataset(self, subset: Subset) -> SampleDataset:
        """``subset`` on this module's grid; samples that are asked for with a key are changed by ``augment``."""
        return EventDataset(
            cast(EventStore, subset.store),
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
            self.augment,
            cast(EventStore, subset.store),
            subset.indices,
            step_ms=self.step_ms,
            units_per_input=self.units_per_input,
        )

    def recording_readers(self, input_shape: Sequence[int] = ()) -> Mapping[str, Reader]:
        """Of each ending of a file name what reads recordings from it, for predictions without labels.

        A subclass whose recordings come in files of its own adds to this, with the settings of the training. Nothing
        of the data may be needed here.

        Args:
            input_shape: shape of one step of the network's input.
        """
        return READERS

    @property
    def recording_time_unit(self) -> TimeUnit:
        """Unit of times in files that do not say it, for :meth:`recording_readers`."""
        return "s"

    def _test_split(self) -> Subset:
        if self.splits.test is None:
            raise UsageError("These data have no test set. Give one to the data module.")
        self._warn_about_the_grid("test", self.splits.test)
        return self.splits.test

    def _loader(
        self,
        dataset: SampleDataset,
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
            pin_memory=self._pins() if self.pin_memory is None else self.pin_memory,
            # Of its own, for a loader draws a number for its workers: the global one is left to the model.
            generator=torch.Generator().manual_seed(self._order_seed or 0),
        )

    def _pins(self) -> bool:
        """Whether batches go to a GPU of NVIDIA."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _processes(self) -> tuple[int, int]:
        """How many processes train together, and which of them this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _evaluation_loader(self, dataset: SampleDataset) -> DataLoader:
        replicas, rank = self._processes()
        if replicas == 1:
            return self._loader(dataset)
        sampler = EvaluationSampler(dataset, replicas, rank)
        return self._loader(dataset, sampler, batch_size=even_batch_size(len(dataset), replicas, self.batch_size))

    def _warn_about_the_grid(self, name: str, subset: Subset) -> None:
        """Warn once about events of a part of the data that the time grid does not hold, or does not tell apart."""
        if name in self._looked_at:
            return
        self._looked_at.add(name)
        places = cast(EventStore, subset.store).places_on_grid(self.num_steps, self.step_ms, subset.samples)
        grid = (
            f"(num_steps={self.num_steps} steps of step_ms={self.step_ms:g} ms = {self.num_steps * self.step_ms:g} ms)"
        )
        if places.share_after > _WARN_SHARE_AFTER or places.samples_after:
            samples = f", all events of {places.samples_after:,} of {len(subset):,} samples among them,"
            rank_zero_warn(
                f"{places.share_after:.1%} of the {name} events{samples if places.samples_after else ''} lie after the "
                f"end of the time grid {grid} and are dropped. Raise num_steps or step_ms to keep them; if the share "
                "is large, check the unit of the times, and whether they begin at 0."
            )
        elif places.all_in_first_step and self.num_steps > 1:
            rank_zero_warn(
                f"All {name} events lie in the first step of the time grid {grid}: their times make no difference. "
                "Check the unit of the times, or use a smaller step_ms."
            )
