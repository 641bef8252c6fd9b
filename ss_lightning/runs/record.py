"""What one needs to know of a run to believe and to repeat it: ``summary.json``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ss_lightning.files import keep_going, save_text
from ss_lightning.runs.configs import flatten_config
from ss_lightning.runs.history import EpochHistory, best_epoch, plain_numbers
from ss_lightning.runs.machine import machine
from ss_lightning.runs.reading import read_json

# What a dashboard shows of a metric that went up and down: its best value.
SUMMARIES = {
    "train/accuracy": "max",
    "train/loss": "min",
    "val/accuracy": "max",
    "val/loss": "min",
    "val/spikes_per_sample": "min",
}


_VERSIONS_OF = ("ss-lightning", "torch", "lightning", "snntorch", "numpy", "numba")


class RunRecord(EpochHistory):
    """Writes down what one needs to know of a run to believe and to repeat it.

    ``summary.json`` in the run folder holds the state of the run (``running``, ``finished``, ``interrupted``,
    ``failed``), the command line, the best epoch (of an evaluation its metrics), the time it took, and facts:
    parameters, data set, seed, git commit, versions, machine, threads. It is renewed after every epoch, so that a run
    that was killed says how far it came. All loggers get the same facts beside the flattened config, and for each
    epoch ``train/lr`` (the learning rate of its last update), ``train/samples_per_second`` (validation not counted) and
    ``train/peak_memory_mib`` (of the GPU if one is used, else of the process).

    Args:
        folder: the run folder.
        config: the whole config, nested.
        checkpoint: file of the weights that the run begins with, if it does.
        arguments: the command line, from the subcommand on, if there was one.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        checkpoint: str | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.folder = folder
        self.checkpoint = None if checkpoint is None else Path(checkpoint).as_posix()  # may be read elsewhere
        self.config = flatten_config(config)
        self.arguments = arguments
        self.summary: dict[str, Any] = {}
        self._start = time.perf_counter()
        self._seconds_before = 0.0

    @property
    def _seconds(self) -> float:
        """How long it has taken so far, a training that this one goes on with included."""
        return self._seconds_before + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {**super().state_dict(), "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record of a checkpoint; one of an earlier version knows no time."""
        super().load_state_dict(state_dict)
        self._seconds_before = state_dict.get("seconds", 0.0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the config and the facts to the loggers, once."""
        self._start = time.perf_counter()
        self.facts = run_facts(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_hyperparams({**self.config, **flatten_config(self.facts)})
            if isinstance(logger, WandbLogger):
                for name, summary in SUMMARIES.items():
                    logger.experiment.define_metric(name, step_metric="trainer/global_step", summary=summary)
        self._write(trainer, "running")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._samples = 0
        self._validating = 0.0
        self._epoch_start = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the learning rate."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples."""
        self._samples += len(batch[1])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        if not trainer.sanity_checking and trainer.training:
            self._validating += time.perf_counter() - self._validation_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log learning rate, speed and memory, and renew the summary."""
        seconds = time.perf_counter() - self._epoch_start - self._validating
        pl_module.log("train/lr", self._rate, sync_dist=True)
        pl_module.log("train/samples_per_second", self._samples * trainer.world_size / seconds, sync_dist=True)
        pl_module.log("train/peak_memory_mib", peak_memory_mib(pl_module.device), sync_dist=True, reduce_fx="max")
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            self._write(trainer, "running")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write how the run ended."""
        if not trainer.is_global_zero:
            return
        state = "interrupted" if isinstance(exception, KeyboardInterrupt | SIGTERMException) else "failed"
        error = f"{type(exception).__name__}: {exception}".rstrip(": ")
        if self.summary:
            self._write(trainer, state, error)
        elif (path := self.folder / "summary.json").is_file():  # of a process of ddp_spawn or ddp_fork
            self.summary = {**read_json(path, "The training has begun"), "state": state, "error": error}
            self._save()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write that the run came to its end."""
        if trainer.is_global_zero and self.summary.get("state") == "running":
            self._write(trainer, "finished")

    def best(self, trainer: Trainer) -> dict[str, float]:
        """Metrics of the epoch that the best checkpoint is of; of the last one if nothing chooses. Empty at first."""
        callback = trainer.checkpoint_callback
        if not isinstance(callback, ModelCheckpoint):
            return best_epoch(self.history, None, "max")
        return best_epoch(self.history, callback.monitor, callback.mode)

    def _write(self, trainer: Trainer, state: str, error: str = "") -> None:
        stage = trainer.state.fn.value if trainer.state.fn else ""
        self.summary = {
            "state": state,
            **({"error": error} if error else {}),
            "command": stage,
            **({"command_line": command_line(self.arguments)} if self.arguments else {}),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(self._seconds, 3),
            **({"epochs": len(self.history), "max_epochs": trainer.max_epochs} if stage == "fit" else {}),
            **({"checkpoint": self.checkpoint} if self.checkpoint else {}),
            "metrics": self.best(trainer) if stage == "fit" else plain_numbers(trainer.callback_metrics),
            **({"class_accuracy": class_accuracy(trainer)} if stage in ("test", "validate") else {}),
            "facts": self.facts,
        }
        self._save()

    def _save(self) -> None:
        path = self.folder / "summary.json"
        with keep_going(path, self.folder):
            save_text(path, json.dumps(self.summary, indent=2) + "\n")


def run_facts(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What a run was made with: parameters, data set, seed, commit, versions, machine."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "parameters": sum(p.numel() for p in pl_module.parameters() if p.requires_grad),
        "data_set": type(datamodule).__name__ if datamodule is not None else None,
        "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
        "git_commit": git_commit(),
        "device": torch.cuda.get_device_name() if pl_module.device.type == "cuda" else pl_module.device.type,
        "devices": trainer.world_size,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in _VERSIONS_OF}},
    }


def class_accuracy(trainer: Trainer) -> dict[str, float]:
    """Accuracy of each class that has samples, by its name, in the last evaluation; empty before one."""
    counts = getattr(trainer.lightning_module, "confusion", None)
    if counts is None:
        return {}
    names = getattr(trainer.datamodule, "class_names", None) or range(len(counts))  # type: ignore[attr-defined]
    rows = zip(names, counts.diagonal().tolist(), counts.sum(1).tolist(), strict=True)
    return {str(name): right / total for name, right, total in rows if total}


def command_line(arguments: Sequence[str]) -> str:
    """What to type for ``arguments`` of our command line."""
    return shlex.join(["python", "-m", "ss_lightning", *arguments])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the current folder, with ``-dirty`` behind it if files were changed; None outside of a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_mib(device: torch.device) -> float:
    """Highest memory use so far in MiB: of the GPU since the epoch began, or of this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
