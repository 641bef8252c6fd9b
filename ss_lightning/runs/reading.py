"""Run folders as they are read: config, metrics, summary, later tests, pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import display_path
from ss_lightning.renamed import with_new_names
from ss_lightning.runs.configs import data_settings, flatten_config
from ss_lightning.runs.history import best_epoch

# Where ``folds`` writes what its folds give together.
FOLDS_SUMMARY = "folds.json"


@dataclass
class Run:
    """What a run folder tells.

    Attributes:
        folder: where it is.
        config: the config, flattened.
        epochs: metrics, a row per epoch with ``epoch`` from 1; no rows before the first epoch has ended.
        summary: content of ``summary.json``; empty for a run that wrote none.
        tests: metrics of later evaluations of its checkpoints, by the name of the checkpoint.
        pictures: files of the newest pictures, by name.
    """

    folder: Path
    config: dict[str, Any]
    epochs: pd.DataFrame
    summary: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, dict[str, float]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, float]:
        """Metrics of the best epoch, as the run itself chose it; empty without one."""
        rows = [row.dropna().to_dict() for _, row in self.epochs.iterrows()]
        return best_epoch(rows, self.config.get("checkpoint.monitor"), self.config.get("checkpoint.mode", "max"))

    @property
    def state(self) -> str:
        """How far the run came, in words."""
        done, planned = len(self.epochs), self.config.get("trainer.max_epochs")
        progress = f"epoch {done}" + (f" of {planned}" if isinstance(planned, int) and planned > 0 else "")
        match self.summary.get("state"):
            case "finished":
                return "finished"
            case "interrupted":
                return f"interrupted after {progress}"
            case "failed":
                return f"failed after {progress}: {self.summary.get('error', '')}"
            case "running":
                return f"not finished, {progress} at {self.summary.get('written')} (still running, or killed)"
        return "finished" if done == planned else f"not finished, {progress}"


def read_run(folder: Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        UsageError: there is no such folder, or it is not that of a training.
        DataError: a file in it is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}")
    if not (folder / "config.yaml").is_file():
        inside = sorted(folder.glob("**/version_*/config.yaml"), key=lambda path: path.stat().st_mtime)
        hint = (
            f"Did you mean {display_path(inside[-1].parent)}?"
            if inside
            else "Runs are folders like runs/yinyang/version_0."
        )
        raise UsageError(f"{folder} is not the folder of a run, it has no config.yaml. {hint}")
    run = Run(folder, _read_config(folder / "config.yaml"), _read_metrics(folder / "metrics.csv"))
    if (folder / "summary.json").is_file():
        run.summary = read_json(folder / "summary.json", "Delete it to go without")
    if run.summary.get("command", "fit") != "fit":
        raise UsageError(f"{folder} is not a training but a {run.summary['command']}; name the run that was trained")
    for test in sorted(folder.parent.glob("test_*/"), key=lambda path: (len(path.name), path.name)):
        if (test / "summary.json").is_file() and (found := _read_test(test, run)) is not None:
            run.tests.update([found])
    drawn = sorted(folder.glob("pictures/epoch_*"))
    if drawn:
        run.pictures = {path.stem: path for path in sorted(drawn[-1].glob("*.png"))}
    return run


def _read_test(folder: Path, run: Run) -> tuple[str, dict[str, float]] | None:
    """Name of the checkpoint and metrics of an evaluation; None if it is not of this run, or not on all of its data."""
    content = read_json(folder / "summary.json", "Delete it to go without")
    checkpoint = Path(content.get("checkpoint", ""))
    place = checkpoint.parts[:-2][-2:]  # of the run that it was kept by
    if content.get("state") != "finished" or not place or run.folder.resolve().parts[-len(place) :] != place:
        return None
    config = _read_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else run.config
    data = data_settings(config)
    for key in sorted(data.keys() & run.config.keys()):
        if config[key] != run.config[key]:
            print(
                f"note  {display_path(folder)} is left out: {key} is {config[key]}, in the training {run.config[key]}"
            )
            return None
    limit = config.get("trainer.limit_test_batches")
    whole = limit is None or (isinstance(limit, float) and limit == 1)  # 1.0 is all, 1 is one batch
    if not whole and limit != run.config.get("trainer.limit_test_batches"):  # asked for then, it is part of the row
        why = f"it saw a part of the data, trainer.limit_test_batches is {limit}"
        print(f"note  {display_path(folder)} is left out: {why}")
        return None
    return checkpoint.stem, content["metrics"]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: it holds no settings")
    return with_new_names(flatten_config(config))


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """What a file of ours holds.

    Raises:
        DataError: the file is damaged; the message ends with the advice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {error}. {advice}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it holds no settings. {advice}")
    return content


def _read_metrics(path: Path) -> pd.DataFrame:
    """One row per epoch from the file of the CSV logger, which writes training and validation apart."""
    if not path.is_file() or path.stat().st_size == 0:
        return pd.DataFrame()
    try:
        table = pd.read_csv(path).astype(float)
        merged = table.groupby("epoch", as_index=False).last()
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        reason = "it has no column epoch" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(f"{path} is damaged: {reason}. Leave this run out, or mend the file") from error
    merged["epoch"] += 1
    return merged


def read_folds_summary(folder: Path) -> dict[str, Any] | None:
    """What the folds in a folder give together; None if ``folds`` has left nothing there.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FOLDS_SUMMARY
    return read_json(path, "Delete it; the runs beside it are kept") if path.is_file() else None
