"""Checkpoints that survive a kill at any moment, and trainings that go on from them as if nothing had happened."""

from __future__ import annotations

import csv
import io
import os
import random
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ss_lightning.errors import NoRoomError, UsageError
from ss_lightning.files import display_path, keep_going, write_for_user, write_whole
from ss_lightning.plain import plain_checkpoint, plain_values
from ss_lightning.runs.configs import comparable_config
from ss_lightning.runs.folders import is_whole
from ss_lightning.runs.history import is_cut_short


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads plain values and tensors only, never pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside ``path``, then rename.

        Raises:
            NoRoomError: the file cannot be written, for example because the disk is full; an older one is still whole.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()  # torch's own writer cannot say that a disk is full
            torch.save(plain_checkpoint(checkpoint), content)
            with write_whole(path) as scratch:
                scratch.write_bytes(content.getbuffer())
        except OSError as error:
            raise NoRoomError(
                f"cannot write the checkpoint {path}: {error}. Make room there, or choose another place with "
                "--trainer.default_root_dir DIR; the last checkpoint that could be written is whole"
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read with ``weights_only=True``, whatever the caller or the environment says."""
        return torch.load(path, map_location=map_location, weights_only=True)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoints of a training, also of the part that another run began.

    A resumed training has a folder of its own. What the run before has kept so far is copied there, so that the best is
    the best of the whole training. An epoch that was cut short is compared with none, see
    :func:`ss_lightning.runs.history.is_cut_short`.
    """

    # From where to where. Of the class: jsonargparse shows the arguments of the parent's constructor.
    _copies: Sequence[tuple[Path, Path]] = ()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch if it is a good one."""
        if not (self.best_model_path and is_cut_short(trainer)):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what was validated if it is good."""
        if not (self.best_model_path and is_cut_short(trainer)):
            super().on_validation_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the state in ``checkpoint`` speak of copies of what was kept; they are made when the training starts."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is None or trainer.ckpt_path is None or self.dirpath is None:
            return
        source, target = Path(trainer.ckpt_path).parent, Path(self.dirpath)
        kept = {}
        copies = []
        for path, score in (state["best_k_models"] or {state["best_model_path"]: None}).items():
            name = Path(path).name
            # One that is younger than the checkpoint is of an epoch that is about to be trained again.
            if name and _global_step(source / name) <= checkpoint["global_step"]:
                kept[str(target / name)] = score
                copies.append((source / name, target / name))
        self._copies = copies
        checkpoint["callbacks"][self.state_key] = {**state, **self._kept_state(kept), "dirpath": self.dirpath}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy what was kept, now that nothing has refused the checkpoint."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            for source, target in self._copies:
                _copy(source, target)
        self._copies = ()

    def _kept_state(self, kept: dict[str, Any]) -> dict[str, Any]:
        """The part of :meth:`state_dict` that follows from which checkpoints there are."""
        scored = {path: float(score) for path, score in kept.items() if score is not None}
        first, last = (max, min) if self.mode == "max" else (min, max)  # of equals the oldest, as the parent does it
        best = first(scored, key=scored.__getitem__) if scored else next(iter(kept), "")
        worst = last(scored, key=scored.__getitem__) if scored else ""
        return {
            "best_k_models": {path: kept[path] for path in scored},
            "best_model_path": best,
            "best_model_score": kept.get(best),
            "kth_best_model_path": worst,
            "kth_value": kept.get(worst, torch.tensor(-torch.inf if self.mode == "max" else torch.inf)),
            "last_model_path": "",
        }


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which a training goes on bit for bit.

    It is written before the first epoch and after every epoch, once the epoch is over in every respect: metrics are
    logged, schedulers have stepped. Whatever is random in an epoch follows from the seed and the number of the epoch
    alone, so no state of a generator needs to be kept. A resumed training is given the metrics of the run before.

    A training that stops inside an epoch leaves ``last.ckpt`` as it was, for the epoch is trained again from its
    beginning, and writes the weights that it has come to into ``stopped.ckpt``.

    Args:
        folder: where the checkpoints are kept.
        config: the flattened config. It is kept, and a training that goes on says where its own differs.
        say_stopped: print a note if the training stops inside an epoch.

    Attributes:
        last_model_path: ``last.ckpt``, once it is there.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None, say_stopped: bool = True) -> None:
        self.path = folder / "last.ckpt"
        self.config = comparable_config(config or {})
        self.last_model_path = ""
        self.say_stopped = say_stopped
        self.seed: int | None = None
        self._made_with: dict[str, Any] = {}
        self._begun = 0
        self._saved: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The seed, and what the training is made with."""
        return {"seed": self.seed, "made_with": self._made_with}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the seed of the run before."""
        self.seed = state_dict["seed"]
        self._made_with = state_dict.get("made_with", {})  # unknown to earlier versions

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over from the run before: where it was, and its metrics up to there, logged once more."""
        self._saved = {
            "optimizer": [group.keys() for state in checkpoint["optimizer_states"] for group in state["param_groups"]],
            "lr_scheduler": [state.keys() for state in checkpoint["lr_schedulers"]],
        }
        if _begin_with_an_epoch(checkpoint["loops"]["fit_loop"]) and trainer.is_global_zero:
            print(
                f"note  {display_path(str(trainer.ckpt_path))} was written inside epoch {checkpoint['epoch'] + 1}. "
                "That epoch is trained again from its beginning, with the weights of the checkpoint. Only from a "
                "last.ckpt does a training go on as if it had not been stopped"
            )
        rows = list(metrics_before(Path(str(trainer.ckpt_path)).parent.parent, checkpoint["global_step"]))
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                for step, metrics in rows:
                    logger.log_metrics(metrics, step)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to load the state of another kind of optimizer or scheduler; say what else is different.

        Raises:
            UsageError: it is one; torch would take it and fail later, or not at all.
        """
        here = {
            "optimizer": [group.keys() for optimizer in trainer.optimizers for group in optimizer.param_groups],
            "lr_scheduler": [config.scheduler.state_dict().keys() for config in trainer.lr_scheduler_configs],
        }
        made_with: dict[str, Any] = {
            "optimizer": [type(optimizer).__name__ for optimizer in trainer.optimizers],
            "lr_scheduler": [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs],
            "training samples": _training_samples(trainer),
            "config": self.config,
        }
        before = self._made_with
        kept = {key: value for key, value in before.get("config", {}).items() if key.startswith(_OF_THE_CHECKPOINT)}
        self._made_with = {**made_with, "config": {**self.config, **kept}}
        for kind, saved in self._saved.items():
            # A scheduler adds "initial_lr" to the groups; whether there is one is compared by itself.
            other_keys = [keys - {"initial_lr"} for keys in saved] != [keys - {"initial_lr"} for keys in here[kind]]
            other_class = before.get(kind, made_with[kind]) != made_with[kind]
            if other_keys or other_class:
                names = [" and ".join(content.get(kind, ())) or "none" for content in (before, made_with)]
                raise UsageError(
                    f"the checkpoint {trainer.ckpt_path} was trained with another {kind} than the config describes"
                    f"{f' ({names[0]}, not {names[1]})' if other_class else ''}. Use the config.yaml of its own run "
                    "(drop --config), or begin a new training (drop --ckpt_path)"
                )
        if self._saved and trainer.is_global_zero:
            _copy(Path(str(trainer.ckpt_path)), self.path)  # for the case that there is nothing left to train
            for line in _differences(before, made_with):
                print(f"note  {line}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the seed, the same in all processes, and begin with an epoch."""
        if self.seed is None:
            self.seed = trainer.strategy.broadcast(torch.initial_seed())
        # With max_steps Lightning takes every checkpoint for one from the middle of an epoch.
        trainer.fit_loop._restarting = trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the epoch, and keep what there is before it."""
        assert self.seed is not None
        seed_everything_of(self.seed, trainer.current_epoch, trainer.global_rank)
        self._save(trainer, begun=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the end."""
        if trainer.is_last_batch:
            self._save(trainer, begun=0)
            return
        stopped = self.path.with_name("stopped.ckpt")
        trainer.save_checkpoint(stopped, weights_only=True)
        if self.say_stopped and trainer.is_global_zero:
            # Here and not by the command: with ddp_spawn and ddp_fork only this process knows it.
            print(
                f"note  the training stopped inside epoch {trainer.current_epoch}, after "
                f"{trainer.fit_loop.batch_idx + 1} of {trainer.num_training_batches} batches. The weights it came to "
                f"are {display_path(stopped)}. With --ckpt_path last that epoch is trained again from its beginning",
                flush=True,
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The trainer has counted the coming epoch as ready; a checkpoint between epochs knows only what is over."""
        for count in ("current", "total"):
            checkpoint["loops"]["fit_loop"]["epoch_progress"][count]["ready"] -= self._begun

    def _save(self, trainer: Trainer, begun: int) -> None:
        for logger in trainer.loggers:
            logger.save()
        self._begun = begun
        trainer.save_checkpoint(self.path, weights_only=False)
        self.last_model_path = str(self.path)
        self._begun = 0


def _begin_with_an_epoch(loop: dict[str, Any]) -> bool:
    """Change the state of a fit loop so that it begins with an epoch; whether one that had begun is begun again."""
    progress, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    begun = progress["current"]["ready"] - progress["current"]["processed"]
    over = begun if batches["is_last_batch"] else 0
    for count in progress.values():
        count.update(dict.fromkeys(count, count["processed"] + over))
    return begun > over


def _training_samples(trainer: Trainer) -> int | None:
    """Number of training samples, where the data say it."""
    splits = getattr(trainer.datamodule, "splits", None)  # type: ignore[attr-defined]
    return None if splits is None else len(splits.train)


# Settings that a checkpoint holds the state of.
_OF_THE_CHECKPOINT = ("lr_scheduler.", "optimizer.", "seed_everything")
# Settings that say how long to train, which whoever goes on may change.
_HOW_LONG = ("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps")


def _differences(before: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """What a training that goes on does in another way than the one before, and which of the two holds."""
    old, new = before.get("config", {}), here["config"]
    for key in sorted(old.keys() & new.keys()):
        if old[key] != new[key] and not key.endswith(_HOW_LONG):
            wins = f"{old[key]}, as in the checkpoint" if key.startswith(_OF_THE_CHECKPOINT) else f"{new[key]} now"
            yield f"{key} was {old[key]} in the training before and is {new[key]} in the config. It is {wins}"
    samples = before.get("training samples"), here["training samples"]
    if None not in samples and samples[0] != samples[1]:
        yield f"there were {samples[0]} training samples in the training before, and there are {samples[1]} now"


def seed_everything_of(seed: int, epoch: int, process: int) -> None:
    """Seed all global generators for one epoch in one process."""
    state = np.random.SeedSequence([seed % 2**64, epoch, process]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])  # noqa: NPY002 - the global generator that others may use
    torch.manual_seed(int(state[2]))


class MetricsLogger(CSVLogger):
    """CSVLogger with one row an epoch, that loses nothing.

    Lightning's writes training and validation apart, empties its file when a new metric comes, and fails on a full
    disk.
    Here metrics of one step are one row, and a file with other columns is replaced by a whole one. Rows that cannot be
    written are kept and written later.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of ``metrics.csv`` and ``hparams.yaml``."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = MetricsWriter(self.log_dir)
        return self._experiment


class MetricsWriter(ExperimentWriter):
    """Writes for :class:`MetricsLogger`.

    A row goes to the file at once. Where more comes of its step, the last row of the file is written again.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._written: dict[str, Any] = {}  # the last row of the file
        self._begin = 0  # where it begins, in bytes
        self._again = False  # whether the first of the rows to write takes its place

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        """Take metrics, into the row before if they are of the same step and epoch."""
        super().log_metrics(metrics_dict, step)
        row = self.metrics.pop()
        if self.metrics and _of_one_row(self.metrics[-1], row):
            self.metrics[-1] |= row
        elif not self.metrics and _of_one_row(self._written, row):
            self.metrics, self._again = [{**self._written, **row}], True
        else:
            self.metrics.append(row)

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write ``hparams.yaml``."""
        self.hparams.update(params)
        path = Path(self.log_dir) / self.NAME_HPARAMS_FILE
        with keep_going(path, path.parent), write_whole(path) as scratch:
            save_hparams_to_yaml(scratch, plain_values(self.hparams))

    def save(self) -> None:
        """Write the rows that have come since the last time."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        with keep_going(path, path.parent):
            keys = sorted({*self.metrics_keys, *(key for row in self.metrics for key in row)})
            if keys == self.metrics_keys and path.is_file():
                _append(path, keys, self.metrics, self._begin if self._again else None)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_anew(path, keys, self.metrics, self._again)
            self._written, self._again = self.metrics[-1], False
            self._begin = path.stat().st_size - len(_lines(keys, self.metrics[-1:]))
            self.metrics_keys, self.metrics = keys, []


def _of_one_row(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows are of the same step and epoch, and none has a metric that the other has too."""
    shared = one.keys() & other.keys()
    return {"step", "epoch"} == shared and all(one[key] == other[key] for key in shared)


def _lines(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, keys).writerows(rows)
    return text.getvalue().encode("utf-8")


def _append(path: Path, keys: Sequence[str], rows: Sequence[Mapping[str, Any]], begin: int | None) -> None:
    """Add rows at the end, or from ``begin`` on; where only a part of them can be written, the file is as before."""
    with path.open("rb+", buffering=0) as file:  # a buffer would try once more what could not be written
        begin = file.seek(0, os.SEEK_END) if begin is None else file.seek(begin)
        old = file.read()
        file.seek(begin)
        try:
            left = memoryview(_lines(keys, rows))
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.seek(begin)
            file.write(old)
            file.truncate()
            raise


def _write_anew(path: Path, keys: Sequence[str], rows: Sequence[Mapping[str, Any]], again: bool) -> None:
    """Replace a file by one with more columns, its own rows first, the last of them only if it does not come again."""
    old: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            old = list(csv.DictReader(file))
        old = old[:-1] if again else old
    with write_whole(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows([*old, *rows])


def metrics_before(run: Path, global_step: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step and metrics of the rows of a run's ``metrics.csv`` from before ``global_step``; none if there is no file."""
    try:
        file = (run / "metrics.csv").open(newline="", encoding="utf-8")
    except OSError:
        return
    with file:
        for row in csv.DictReader(file):
            # The last row of a run that was killed may be cut short; it is of a step that is trained again.
            whole = None not in row.values() and row.get("step", "").isdecimal()
            if whole and int(row["step"]) < global_step:
                step = int(row.pop("step"))
                yield step, {name: int(v) if v.isdecimal() else float(v) for name, v in row.items() if v}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything that may be in it.

    Raises:
        UsageError: the file is no checkpoint, is cut short, or holds more than tensors and plain values.
    """
    if zipfile.is_zipfile(path) and not is_whole(path):
        raise UsageError(f"{path} is not a checkpoint that can be loaded: it is damaged, its checksums do not fit")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (
            "it holds more than tensors and plain values, and loading that could run any code"
            if "Unsupported" in str(error) or "GLOBAL" in str(error)
            else "it may be cut short, or made by another program"
        )
        raise UsageError(f"{path} is not a checkpoint that can be loaded ({type(error).__name__}): {reason}") from error
    needed = {"state_dict": dict, "global_step": int, "pytorch-lightning_version": str}
    wrong = [name for name, kind in needed.items() if not isinstance(_get(content, name), kind)]
    if wrong:
        raise UsageError(f"{path} is not a checkpoint: it has no {wrong[0]}. Expected a .ckpt that fit wrote")
    return content


def _get(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, dict) else None


def _global_step(path: Path) -> float:
    """How far a checkpoint was trained; infinitely far if it is missing or broken."""
    try:
        return read_checkpoint(path)["global_step"]
    except UsageError:
        return float("inf")


def _copy(source: Path, target: Path) -> None:
    if source.resolve() != target.resolve():
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_for_user(target) as scratch:
            shutil.copyfile(source, scratch)
