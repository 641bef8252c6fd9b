"""Weights & Biases runs: started before the training, closed at its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

from ss_lightning.errors import UsageError
from ss_lightning.files import display_path


def start_wandb(loggers: Sequence[Logger]) -> None:
    """Start W&B runs now: without a login they fail, and better before the training than in it.

    Raises:
        UsageError: W&B cannot be used; the message says how to log in, and how to do without.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            # Without a limit a run would wait for ever at its end for a server that went away.
            os.environ.setdefault("WANDB_FINISH_TIMEOUT", "120")
            os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
            try:
                _ = logger.experiment
            except wandb.errors.Error as error:
                raise UsageError(
                    f"Weights & Biases: {' '.join(str(error).split())}\nLog in with `wandb login` (or set "
                    "WANDB_API_KEY), or train without the network: WANDB_MODE=offline, and `wandb sync` later"
                ) from error


def finish_wandb(failed: bool = False) -> None:
    """Close the W&B run, if there is one, so that the next run of this process gets its own."""
    if "wandb" in sys.modules and (run := sys.modules["wandb"].run) is not None:
        folder = display_path(Path(run.dir).parent)
        try:
            run.finish(exit_code=int(failed))
        except TimeoutError:
            print(
                f"W&B could not be reached. Nothing is lost; send the run later: wandb sync --include-online {folder}",
                file=sys.stderr,
            )
