"""``python -m ss_lightning report RUN...``: runs in one HTML page that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jsonargparse import ArgumentParser

from ss_lightning import plots
from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import display_path
from ss_lightning.parsing import parse
from ss_lightning.runs.callbacks import flattened

# Parts of a config that say how a run was done, not what was trained.
_HOW = (
    "checkpoint.verbose", "ckpt_path", "pictures.", "trainer.default_root_dir", "trainer.enable_",
    "trainer.log_every_n_steps", "trainer.logger",
)  # fmt: skip
# Parts of a config's data that say how they are fetched, and with those of an evaluation how they are presented.
_FETCHED = (".cache_dir", ".download", ".num_workers", ".pin_memory")
_PRESENTED = (*_FETCHED, ".batch_size", ".input")

_CAPTIONS = {
    "input_raster": "Input spikes of some samples, by their class",
    "hidden_raster": "Spikes of the hidden neurons for the same samples",
    "readout": "Readout for the same samples",
    "first_spike_times": "First spikes, over the samples of the probe",
    "time_constants": "Decay and time constant of the neurons",
    "dead_neurons": "Neurons that fire for no sample of the validation set",
    "accuracy_and_spikes": "Accuracy against spikes over the training",
}
# A panel per sample.
_WIDE = ("input_raster", "hidden_raster", "readout")


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
        """Metrics of the best epoch: of the highest validation accuracy, else of the last; empty without one."""
        if self.epochs.empty:
            return {}
        rated = "val/accuracy" in self.epochs and self.epochs["val/accuracy"].notna().any()
        row = self.epochs.loc[self.epochs["val/accuracy"].idxmax()] if rated else self.epochs.iloc[-1]
        return row.dropna().to_dict()

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
    for key in sorted(config.keys() & run.config.keys()):
        if key.startswith("data.") and not key.endswith(_PRESENTED) and config[key] != run.config[key]:
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
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: it holds no settings")
    return flattened(config)


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """What a file of ours holds.

    Raises:
        DataError: the file is damaged; the message ends with the advice.
    """
    try:
        content = json.loads(path.read_text())
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


def render(runs: Sequence[Run]) -> str:
    """The HTML page."""
    names = run_names([run.folder for run in runs])
    trained = {name: run for name, run in zip(names, runs, strict=True) if not run.epochs.empty}
    parts = [_table(["run", *_COLUMNS], [[name, *_row(run)] for name, run in zip(names, runs, strict=True)])]
    if len(runs) > 1 and (different := differences(runs)):
        rows = [[key, *values] for key, values in different.items()]
        parts += ["<h2>What differs</h2>", _table(["setting", *names], rows)]
    parts += ["<h2>Training</h2>", '<div class="figures">', *_comparison(trained), "</div>"]
    for name, run in zip(names, runs, strict=True):
        parts += _section(name, run)
    return _PAGE.format(
        title=escape(", ".join(names) if len(names) < 4 else f"{len(names)} runs"), body="\n".join(parts)
    )


def run_names(folders: Sequence[Path]) -> list[str]:
    """Short names of runs: their paths without the part that all share, but never less than two folders."""
    paths = [folder.resolve().parts for folder in folders]
    common = 0
    while all(len(p) > common + 2 for p in paths) and len({p[common] for p in paths}) == 1:
        common += 1
    return ["/".join(path[common:]) for path in paths]


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened config without the parts that change no result."""
    return {
        key: value
        for key, value in config.items()
        if not key.startswith(_HOW) and not (key.startswith("data.") and key.endswith(_FETCHED))
    }


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs, with the value in each run."""
    keys = sorted(set().union(*(compared(run.config) for run in runs)))
    values = {key: [run.config.get(key, "") for run in runs] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _number(name: str, text: str) -> Callable[[Run], str]:
    return lambda run: format(run.best[name], text) if name in run.best else ""


def _test_accuracy(run: Run) -> str:
    return ", ".join(
        f"{metrics['test/accuracy']:.4f} ({name})" for name, metrics in run.tests.items() if "test/accuracy" in metrics
    )


def _fact(name: str, text: str) -> Callable[[Run], str]:
    return lambda run: format(run.summary["facts"][name], text) if run.summary.get("facts", {}).get(name) else ""


_COLUMNS: dict[str, Callable[[Run], str]] = {
    "state": lambda run: run.state,
    "best val accuracy": _number("val/accuracy", ".4f"),
    "at epoch": _number("epoch", ".0f"),
    "test accuracy": _test_accuracy,
    "hidden spikes / sample": _number("val/spikes_per_sample", ".1f"),
    "dead neurons": _number("val/dead_fraction", ".1%"),
    "synaptic ops / sample": _number("val/synops_per_sample", ",.0f"),
    "parameters": _fact("parameters", ",d"),
    "samples / s": _number("train/samples_per_second", ",.0f"),
    "seconds": lambda run: f"{run.summary['seconds']:,.0f}" if "seconds" in run.summary else "",
}


def _row(run: Run) -> list[str]:
    return [value(run) for value in _COLUMNS.values()]


def _comparison(runs: Mapping[str, Run]) -> list[str]:
    """Curves of all runs, and their place in the plane of spikes and accuracy."""
    figures = []
    for metric, label in (
        ("val/accuracy", "validation accuracy"),
        ("val/loss", "validation loss"),
        ("train/loss", "training loss"),
        ("val/spikes_per_sample", "hidden spikes per sample"),
    ):
        series = {
            name: (list(part["epoch"]), list(part[metric]))
            for name, run in runs.items()
            if metric in run.epochs and len(part := run.epochs[["epoch", metric]].dropna())
        }
        if series:
            figures.append(_figure(plots.png(plots.curves(series, label)), f"{label} over the epochs"))
    bests = {name: run.best for name, run in runs.items() if "val/spikes_per_sample" in run.best}
    if len(bests) > 1:
        picture = plots.pareto(
            [best["val/spikes_per_sample"] for best in bests.values()],
            [best["val/accuracy"] for best in bests.values()],
            list(bests),
        )
        figures.append(_figure(plots.png(picture), "Best accuracy of each run against its spikes"))
    return figures


def _section(name: str, run: Run) -> list[str]:
    pictures = [
        _figure(run.pictures[key].read_bytes(), caption, wide=key in _WIDE)
        for key, caption in _CAPTIONS.items()
        if key in run.pictures
    ]
    facts = flattened(run.summary.get("facts", {}))
    tests = [
        [checkpoint, metric, f"{value:.4g}"]
        for checkpoint, found in run.tests.items()
        for metric, value in found.items()
    ]
    return [
        f"<h2>{escape(name)}</h2>",
        f"<p>{escape(run.state)}</p>",
        '<div class="figures">',
        *pictures,
        "</div>",
        _folded("Test results", _table(["checkpoint", "metric", "value"], tests)) if tests else "",
        _folded("Made with", _table(["fact", "value"], list(facts.items()))) if facts else "",
        _folded("Config", _table(["setting", "value"], list(run.config.items()))),
    ]


def _figure(png: bytes, caption: str, wide: bool = False) -> str:
    """A picture; a wide one gets a whole row, and on a narrow screen is moved sideways instead of shrunk."""
    data = base64.b64encode(png).decode()
    text = escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure{' class=wide' * wide}>{image}<figcaption>{text}</figcaption></figure>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose rows become cards on a narrow screen: every cell knows the name of its column."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(name)}">{escape(str(cell))}</td>' for name, cell in zip(header, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; color: #111; background: #fff; max-width: 75rem;
       margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #999; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #ddd; }}
th {{ font-weight: 600; }}
td:first-child {{ white-space: nowrap; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }}
figure {{ margin: 0; break-inside: avoid; }}
img {{ max-width: 100%; height: auto; }}
.wide {{ grid-column: 1 / -1; overflow-x: auto; }}
.wide img {{ min-width: 44rem; }}
figcaption {{ position: sticky; left: 0; color: #444; font-size: .9rem; }}
details {{ margin-top: .6rem; }}
summary {{ cursor: pointer; padding: .3rem 0; }}
@media (max-width: 44rem) {{
  thead {{ display: none; }}
  tr {{ display: block; border-bottom: 2px solid #999; padding: .4rem 0; }}
  td {{ display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .15rem 0;
        overflow-wrap: anywhere; }}
  td:first-child {{ white-space: normal; font-weight: 600; }}
  td:empty {{ display: none; }}
  td::before {{ content: attr(data-label); color: #444; flex: 0 0 45%; }}
}}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def main(arguments: list[str]) -> int:
    """Write the report and say where it is.

    Raises:
        UsageError: a folder is not that of a run, or the page cannot be written.
        DataError: a file of a run is damaged, or no run has come through an epoch.
    """
    parser = ArgumentParser(
        prog="python -m ss_lightning report",
        description="Put runs into one HTML page with tables and pictures, which opens without a network.",
        exit_on_error=False,
    )
    parser.add_argument("runs", nargs="+", type=str, help="run folders, such as runs/yinyang/version_0")
    parser.add_argument(
        "--output", type=str, help="the page; by default report.html in the run folder, or above if there are several"
    )
    options = parse(parser, arguments)
    runs = [read_run(Path(folder)) for folder in options.runs]
    if all(run.epochs.empty for run in runs):
        states = "; ".join(f"{run.folder}: {run.state}" for run in runs)
        raise DataError(f"nothing to report, no epoch has come to its end yet ({states})")
    for run in runs:
        if run.state != "finished":
            print(f"note  {run.folder}: {run.state}")
    folders = [run.folder.resolve() for run in runs]
    above = next(path for path in (folders[0], *folders[0].parents) if all(f.is_relative_to(path) for f in folders))
    output = Path(options.output) if options.output else above / "report.html"
    try:
        output.write_text(render(runs))
    except OSError as error:
        raise UsageError(f"--output: cannot write {output}: {error.strerror}") from error
    print(f"report  {display_path(output)}")
    return 0
