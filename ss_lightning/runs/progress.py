"""What one sees of a training as it goes on, where there is no terminal for a bar."""

from __future__ import annotations

import time
from collections.abc import Callable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

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
            parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            self._write(f"training {parameters:,} parameters, {trainer.num_training_batches:,} batches an epoch")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        if not self._enabled:
            return
        metrics = plain_numbers(trainer.callback_metrics)
        of = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        shown = {"train/loss": "train loss", "train/accuracy": "train accuracy", "val/accuracy": "val accuracy"}
        parts = [f"{text} {metrics[name]:.4f}" for name, text in shown.items() if name in metrics]
        if "val/spikes_per_sample" in metrics:
            parts.append(f"spikes {metrics['val/spikes_per_sample']:.1f}")
        parts.append(f"{time.perf_counter() - self._start:.1f} s")
        self._write(f"epoch {trainer.current_epoch + 1}{of}  " + "  ".join(parts))


def print_line(line: str) -> None:
    """Print a line at once. It has a name so that a process that is spawned can be given it."""
    print(line, flush=True)
