"""The metrics of every epoch of a training, and which epoch is its best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor


def best_epoch(epochs: Sequence[Mapping[str, float]], monitor: str | None, mode: str) -> dict[str, float]:
    """Metrics of the best epoch: the one whose weights ``best.ckpt`` holds.

    Terminal, report, results and searches all ask here.

    Args:
        epochs: metrics of every epoch, in order.
        monitor: the metric that checkpoints are chosen by; None if nothing chooses.
        mode: ``max`` or ``min``.

    Returns:
        The metrics of the first of the best epochs; of the last epoch where none has the metric; empty without epochs.
    """
    rated = [epoch for epoch in epochs if not math.isnan(epoch.get(str(monitor), math.nan))]
    if not rated:
        return dict(epochs[-1]) if epochs else {}
    choose = max if mode == "max" else min
    return dict(choose(rated, key=lambda epoch: epoch[str(monitor)]))


def plain_numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics as plain numbers."""
    return {name: float(value) for name, value in metrics.items()}


class EpochHistory(Callback):
    """Keeps the metrics of every epoch, also over a resumed training.

    Attributes:
        history: one mapping from name to value per epoch, ``epoch`` (from 1) among them.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this epoch."""
        self.history.append({"epoch": trainer.current_epoch + 1, **plain_numbers(trainer.callback_metrics)})

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of a checkpoint."""
        self.history = list(state_dict["history"])
