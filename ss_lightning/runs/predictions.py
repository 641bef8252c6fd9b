"""The file that ``predict`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from ss_lightning.errors import UsageError
from ss_lightning.files import write_for_user


def check_ending(path: Path, known: Sequence[str] = (".csv", ".json", ".parquet")) -> None:
    """Look whether predictions can be written to a file.

    Args:
        path: the file; its ending says how it is written.
        known: the endings that there are.

    Raises:
        UsageError: the ending is another one, or Parquet is wanted and pyarrow is not installed.
    """
    if path.suffix not in known:
        endings = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UsageError(f"predictions are written as {endings}, not as {path.name}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError("Parquet needs pyarrow: pip install pyarrow, or write --format csv") from error


class PredictionWriter(BasePredictionWriter):
    """Writes what ``predict`` found to a file, one row a sample in the order of the test set.

    Args:
        path: the file to write; its ending says how, ``.csv`` or ``.parquet``.

    Raises:
        UsageError: the ending is another one, or Parquet is wanted and pyarrow is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="epoch")
        self.path = Path(path)
        check_ending(self.path, (".csv", ".parquet"))

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Called by the trainer once all batches are predicted."""
        import pandas as pd

        columns = {name: torch.cat([batch[name] for batch in predictions]).tolist() for name in predictions[0]}
        columns = {"sample": [index for batch in batch_indices[0] for index in batch], **columns}
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, columns)
            columns = {name: [value for part in parts for value in part[name]] for name in columns}
        if trainer.is_global_zero:
            table = pd.DataFrame(columns).sort_values("sample")
            with write_for_user(self.path) as scratch:
                if self.path.suffix == ".csv":
                    table.to_csv(scratch, index=False)
                else:
                    table.to_parquet(scratch, index=False)
