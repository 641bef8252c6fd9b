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


def is_cut_short(trainer: Trainer) -> bool:
    """Whether a training stops inside an epoch, where one that goes on would not have validated.

    The metrics of such an epoch are not compared with those of others: the epoch is trained again when the training
    goes on.
    """
    loop, every = trainer.fit_loop, trainer.val_check_batch
    if trainer.is_last_batch or not (trainer.should_stop or trainer.global_step == trainer.max_steps):
        return False
    batch = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return every is not None and (batch + 1) % every != 0


class EpochHistory(Callback):
    """Keeps the metrics of every epoch, also over a resumed training.

    An epoch that was cut short is left out, unless it is the only one.

    Attributes:
        history: one mapping from name to value per epoch, ``epoch`` (from 1) among them.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this epoch."""
        if self.history and is_cut_short(trainer):
            return
        self.history.append({"epoch": trainer.current_epoch + 1, **plain_numbers(trainer.callback_metrics)})

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of a checkpoint."""
        self.history = list(state_dict["history"])
