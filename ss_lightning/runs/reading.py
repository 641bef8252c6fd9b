"""Run folders as they are read: config, metrics, summary, later tests, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import display_path
from ss_lightning.renamed import with_new_names
from ss_lightning.runs.config_check import check_config
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
        confusions: pictures of the confusion matrix of later evaluations, by the name of the checkpoint.
    """

    folder: Path
    config: dict[str, Any]
    epochs: pd.DataFrame
    summary: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, dict[str, float]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    confusions: dict[str, Path] = field(default_factory=dict)

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
    if own_file(folder, "config.yaml") is None:
        found = [path for path in folder.glob("**/version_*/config.yaml") if path.is_file()]
        inside = sorted(found, key=lambda path: path.stat().st_mtime)
        hint = (
            f"Did you mean {display_path(inside[-1].parent)}?"
            if inside
            else "Runs are folders like runs/yinyang/version_0."
        )
        raise UsageError(f"{folder} is not the folder of a run, it has no config.yaml. {hint}")
    run = Run(folder, read_config(folder / "config.yaml"), _read_metrics(own_file(folder, "metrics.csv")))
    run.summary = _read_summary(folder)
    if run.summary.get("command", "fit") != "fit":
        raise UsageError(f"{folder} is not a training but a {run.summary['command']}; name the run that was trained")
    for test in sorted(folder.parent.glob("test_*/"), key=lambda path: (len(path.name), path.name)):
        try:
            tested = _read_test(test, run)
        except DataError as error:
            print(f"note  {display_path(test)} is left out: {error}")
            continue
        if tested is not None:
            run.tests.update([tested])
            picture = test / "pictures" / "confusion_matrix.png"
            if picture.is_file() and _is_own_picture(test, picture):
                run.confusions[tested[0]] = picture
    drawn = sorted(folder.glob("pictures/epoch_*"))
    if drawn:
        run.pictures = {path.stem: path for path in sorted(drawn[-1].glob("*.png")) if _is_own_picture(folder, path)}
    return run


def own_file(folder: Path, name: str) -> Path | None:
    """A file of a run; None if there is none.

    Raises:
        DataError: it is a link to a file outside of the run. A page that is passed on would hold what lies there.
    """
    path = folder / name
    if not path.is_file():
        return None
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} is a link to a file outside of the run. Put a copy in its place, or delete it")
    return path


def _is_own_picture(folder: Path, path: Path) -> bool:
    try:
        if own_file(folder, str(path.relative_to(folder))) is None:
            return False
        with path.open("rb") as file:
            if file.read(8) == b"\x89PNG\r\n\x1a\n":
                return True
        reason = "it is no PNG picture"
    except (DataError, OSError) as error:
        reason = str(error)
    print(f"note  {display_path(path)} is left out: {reason}")
    return False


# What a summary may hold, and of which type; what is not here is not read.
_NUMBER, _TEXT, _TABLE = (int, float), (str,), (dict,)
_SUMMARY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("state", "error", "command", "command_line", "written", "checkpoint"), _TEXT),
    "seconds": _NUMBER,
    "metrics": _TABLE,
    "facts": _TABLE,
}
_FACTS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("machine", "device", "git_commit", "data_set"), (str, type(None))),
    **dict.fromkeys(("parameters", "threads", "devices"), (int, type(None))),
}
_FOLDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("state", "command_line"), _TEXT),
    "folds": (list,),
    "seeds": (list,),
    "config": _TABLE,
}
_DELETE = "Delete it to go without"


def _read_summary(folder: Path) -> dict[str, Any]:
    """What ``summary.json`` says; nothing for a run that wrote none."""
    path = own_file(folder, "summary.json")
    if path is None:
        return {}
    summary = read_json(path, _DELETE)
    check_types(path, summary, _SUMMARY, _DELETE)
    check_types(path, summary.get("facts", {}), _FACTS, _DELETE)
    metrics = summary.get("metrics", {})
    check_types(path, metrics, dict.fromkeys(metrics, _NUMBER), _DELETE)
    return summary


def check_types(path: Path, content: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], advice: str) -> None:
    """Refuse what is there and of a wrong type.

    Raises:
        DataError: something is; the message ends with the advice.
    """
    for name, allowed in types.items():
        if name in content and type(content[name]) not in allowed:
            expected = " or ".join(_KINDS[kind] for kind in allowed)
            raise DataError(f"{path} is damaged: {name} is {str(content[name])[:100]!r}, not {expected}. {advice}")


_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dict: "a table",
    list: "a list",
    type(None): "nothing",
}


def _read_test(folder: Path, run: Run) -> tuple[str, dict[str, float]] | None:
    """Name of the checkpoint and metrics of an evaluation; None if it is not of this run, or not on all of its data."""
    content = _read_summary(folder)
    checkpoint = Path(content.get("checkpoint", ""))
    place = checkpoint.parts[:-2][-2:]  # of the run that it was kept by
    if content.get("state") != "finished" or not place or run.folder.resolve().parts[-len(place) :] != place:
        return None
    config = run.config if own_file(folder, "config.yaml") is None else read_config(folder / "config.yaml")
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
    if "metrics" not in content:
        raise DataError(f"{folder / 'summary.json'} is damaged: it has no metrics. {_DELETE}")
    return checkpoint.stem, content["metrics"]


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a config, flattened.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        check_config(path)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UsageError as error:
        raise DataError(str(error)) from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # a date or a number that is none is a ValueError
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())[:_LONGEST]}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: it holds no settings")
    # Dates and the like, which YAML knows and no config of ours has, become text.
    flat = json.loads(json.dumps(flatten_config(config), default=str, skipkeys=True))
    return with_new_names(flat)


_LONGEST = 300


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """What a file of ours holds.

    Raises:
        DataError: the file is damaged; the message ends with the advice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}. {advice}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it holds no settings. {advice}")
    return content


def _read_metrics(path: Path | None) -> pd.DataFrame:
    """One row per epoch from the file of the CSV logger, which writes training and validation apart."""
    if path is None or path.stat().st_size == 0:
        return pd.DataFrame()
    try:
        table = pd.read_csv(path).astype(float)
        merged = table.groupby("epoch", as_index=False).last()
    except (OSError, ValueError, KeyError) as error:
        reason = "it has no column epoch" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(f"{path} is damaged: {reason}. Leave this run out, or mend the file") from error
    merged["epoch"] += 1
    return merged


def read_folds_summary(folder: Path) -> dict[str, Any] | None:
    """What the folds in a folder give together; None if ``folds`` has left nothing there.

    Raises:
        DataError: the file is damaged.
    """
    path = own_file(folder, FOLDS_SUMMARY)
    if path is None:
        return None
    advice = "Delete it; the runs beside it are kept"
    content = read_json(path, advice)
    check_types(path, content, _FOLDS, advice)
    return content
