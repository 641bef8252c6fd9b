"""What one sees of a training as it goes on: the network, then a line for each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar

from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.module import SpikingClassifier
from ss_lightning.networks import SpikingNetwork
from ss_lightning.runs.history import plain_numbers


class EpochLines(ProgressBar):
    """One short line for each epoch, for output that goes to a file or a pipe, where a bar would leave rubble."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self._write = write or print_line
        self._enabled = True

    def disable(self) -> None:
        """Say nothing (the trainer calls this in all processes but the first)."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is about to be trained."""
        if self._enabled:
            self._write(what_is_trained(trainer, pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        if self._enabled:
            self._write(epoch_line(trainer, time.perf_counter() - self._start))


class EpochBar(RichProgressBar):
    """A bar for the epoch that runs, and above it a line for each epoch that is over, which stays."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Nothing beside the bar: the lines have it."""
        return {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is about to be trained."""
        super().on_train_start(trainer, pl_module)
        self._print(what_is_trained(trainer, pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and count epochs from 1 as the lines do."""
        super().on_train_epoch_start(trainer, pl_module)
        self._start = time.perf_counter()
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, description=epoch_name(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        super().on_train_epoch_end(trainer, pl_module)
        self._print(epoch_line(trainer, time.perf_counter() - self._start))

    def _print(self, line: str) -> None:
        if self.progress is not None:
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


class NetworkTable(Callback):
    """Prints, before a training, what is trained: layers, neurons, estimator, time grid and samples."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, once."""
        if trainer.is_global_zero and isinstance(pl_module, SpikingClassifier):
            data = trainer.datamodule  # type: ignore[attr-defined]
            print("\n".join(network_table(pl_module.network, data if isinstance(data, EventDataModule) else None)))


def network_table(network: SpikingNetwork, data: EventDataModule | None) -> list[str]:
    """Lines that say what a network is and what it is trained on.

    Args:
        network: the network.
        data: its data; None if they are unknown.
    """
    kind = f"{network.neuron}, estimator {network.estimator}" if network.neuron == "single" else network.neuron
    read = "spikes" if network.decoder.readout_fires else "membrane"
    rows = [
        ("layer", "neurons", "kind"),
        ("input", f"{network.num_inputs:,}", _shape(network.input_shape)),
        *((f"hidden {depth}", f"{size:,}", kind) for depth, size in enumerate(network.layer_sizes)),
        ("readout", f"{network.num_classes:,}", f"{read}, decoder {network.decoder.name}"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:{widths[0]}}  {size:>{widths[1]}}  {what}".rstrip() for name, size, what in rows]
    if data is not None:
        grid = f"{data.num_steps:,} steps of {data.step_ms:g} ms, {data.input_in_words}"
        lines.append(f"{'grid':{widths[0]}}  {grid}")
        words = {"train": "to train", "val": "to validate", "test": "to test"}
        parts = [(getattr(data.splits, name), text) for name, text in words.items()]
        counts = ", ".join(f"{len(part):,} {text}" for part, text in parts if part is not None)
        lines.append(f"{'samples':{widths[0]}}  {counts}")
    return lines


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if len(shape) > 1 else ""


def what_is_trained(trainer: Trainer, pl_module: LightningModule) -> str:
    """The line before the first epoch."""
    parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
    return f"training {parameters:,} parameters, {trainer.num_training_batches:,} batches an epoch"


def epoch_name(trainer: Trainer) -> str:
    """Number of the current epoch, from 1, and how many there will be."""
    return f"epoch {trainer.current_epoch + 1}" + ("" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}")


def epoch_line(trainer: Trainer, seconds: float) -> str:
    """Loss, accuracy, spikes and seconds of the epoch that is over."""
    metrics = plain_numbers(trainer.callback_metrics)
    shown = {"train/loss": "train loss", "train/accuracy": "train accuracy", "val/accuracy": "val accuracy"}
    parts = [f"{text} {metrics[name]:.4f}" for name, text in shown.items() if name in metrics]
    if "val/spikes_per_sample" in metrics:
        parts.append(f"spikes {metrics['val/spikes_per_sample']:.1f}")
    return f"{epoch_name(trainer)}  " + "  ".join([*parts, f"{seconds:.1f} s"])


def print_line(line: str) -> None:
    """Print a line at once. It has a name so that a process that is spawned can be given it."""
    print(line, flush=True)
