"""Callbacks: what a run leaves behind for a person."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter


class PredictionWriter(BasePredictionWriter):
    """Writes what ``predict`` found to a CSV file, one row a sample in the order of the test set.

    Args:
        path: the file to write.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="epoch")
        self.path = Path(path)

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Called by the trainer once all batches are predicted."""
        columns = list(predictions[0])
        values = [torch.cat([batch[name] for batch in predictions]).tolist() for name in columns]
        with self.path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sample", *columns])
            writer.writerows((index, *row) for index, row in enumerate(zip(*values, strict=True)))
