"""What a sweep found: tables, pictures, and one HTML page with all of it."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ss_lightning import plots
from ss_lightning.cli.html import figure, page, table
from ss_lightning.cli.markdown import as_text
from ss_lightning.cli.search import FURTHER_METRICS, finished_trials
from ss_lightning.cli.sweep_file import Sweep, named_values
from ss_lightning.files import at_place_of_user, save_bytes, save_text, write_whole

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# On a disk that several machines share they write the same files.
_LOCK = ".results.lock"
_CAPTIONS = {
    "importance": "Share of each parameter in how the trials differ (fANOVA); with few trials a hint only",
    "parallel_coordinates": "Trials as lines through their parameters",
    "pareto": "Accuracy against spikes",
}
_STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}


def trial_table(sweep: Sweep, study: optuna.Study) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the results, a row per trial."""
    metrics = list(dict.fromkeys([sweep.metric, *FURTHER_METRICS]))
    header = ["trial", "state", *sweep.space, *metrics, "epochs"]
    rows = []
    for trial in finished_trials(study):
        found = trial.user_attrs.get("metrics", {})
        rows.append(
            [trial.number, _STATES[trial.state.name]]
            + [trial.params.get(name, "") for name in sweep.space]
            + [found.get(name, "") for name in metrics]
            + [trial.user_attrs.get("epochs", "")]
        )
    return header, rows


def write_tables(sweep: Sweep, study: optuna.Study, folder: Path) -> None:
    """``results.csv`` in the order of the trials, ``results.md`` with the best trial first."""
    with at_place_of_user(folder), FileLock(folder / _LOCK):
        header, rows = trial_table(sweep, study)
        with write_whole(folder / "results.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        lines = [header, ["---"] * len(header), *_ranked(sweep, header, rows)]
        text = "".join("| " + " | ".join(map(as_text, line)) + " |\n" for line in lines)
        save_text(folder / "results.md", text)


def _ranked(sweep: Sweep, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Rows of the table as texts, the best trial first."""
    column = header.index(sweep.metric)
    sign = -1 if sweep.goal == "maximize" else 1
    ranked = sorted(rows, key=lambda row: math.inf if row[column] == "" else sign * row[column])
    return [[short_text(cell) for cell in row] for row in ranked]


def short_text(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Best:
    """The best trial of a sweep.

    Attributes:
        trial: in the study.
        value: of the metric.
        command: what to type to train with its settings.
    """

    trial: FrozenTrial
    value: float
    command: str


def importances(sweep: Sweep, study: optuna.Study) -> dict[str, float]:
    """Share of each parameter in the variance of the metric over the trials that ran to their end; together 1.

    It is fANOVA's, a forest fitted to all trials. Optuna's own choice, PED-ANOVA, asks what tells the best tenth of the
    trials from the others. A sweep has too few for that: on a full grid of 18 where one parameter gives 99 % of the
    variance, it gives that one and another one half each.

    Returns:
        Nothing where fewer than four trials gave a value, all gave the same, or one parameter alone was varied.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    varied = _varied(sweep)
    values = [trial.value for trial in finished_trials(study) if trial.state.name == "COMPLETE"]
    if len(values) < 4 or len(set(values)) < 2 or len(varied) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied)


def _varied(sweep: Sweep) -> list[str]:
    """The parameters with more than one value."""
    return [name for name, values in sweep.space.items() if len(set(named_values(values))) > 1]


def draw_sweep(sweep: Sweep, study: optuna.Study) -> dict[str, bytes]:
    """PNG pictures by name: importance of the parameters, parallel coordinates, accuracy against spikes."""
    trials = [trial for trial in finished_trials(study) if "metrics" in trial.user_attrs]
    metrics = [trial.user_attrs["metrics"] for trial in trials]
    figures = {}
    if shares := importances(sweep, study):
        figures["importance"] = plots.shares(shares, f"share in the variance of {sweep.metric} (%)")
    if len(trials) > 1:
        columns: dict[str, Sequence[Any]] = {n: [trial.params[n] for trial in trials] for n in _varied(sweep)}
        columns[sweep.metric] = [found[sweep.metric] for found in metrics]
        figures["parallel_coordinates"] = plots.parallel_coordinates(columns, sweep.goal)
    if metrics and all({"val/accuracy", "val/spikes_per_sample"} <= set(found) for found in metrics):
        figures["pareto"] = plots.pareto(
            [found["val/spikes_per_sample"] for found in metrics],
            [found["val/accuracy"] for found in metrics],
            [f"trial {trial.number}" for trial in trials],
        )
    return {name: plots.png(picture) for name, picture in figures.items()}


def write_page(sweep: Sweep, study: optuna.Study, folder: Path, best: Best | None, dashboard: str) -> dict[str, Path]:
    """Write the pictures and ``sweep.html``.

    Args:
        sweep: the sweep file.
        study: its trials.
        folder: where the files go.
        best: the best trial, if there is one.
        dashboard: the command that opens Optuna's dashboard.

    Returns:
        What the files of the sweep are, its tables included, with their paths.
    """
    pictures = draw_sweep(sweep, study)
    header, rows = trial_table(sweep, study)
    states = ", ".join(f"{number} {state}" for state, number in Counter(row[1] for row in rows).items())
    parts = [
        f"<p>{escape(f'{len(rows)} trials ({states}), method {sweep.method}, to {sweep.goal} {sweep.metric}')}</p>",
        "<h2>Best trial</h2>",
    ]
    if best is None:
        parts.append("<p>No trial gave a value.</p>")
    else:
        parts.append(f"<p>{escape(f'Trial {best.trial.number}, {sweep.metric} {best.value:.4f}. Train with it:')}</p>")
        parts.append(f"<pre>{escape(best.command)}</pre>")
    parts += [
        "<h2>What the parameters do</h2>",
        '<div class="figures">',
        *(figure(content, _CAPTIONS[name]) for name, content in pictures.items()),
        "</div>",
        "<h2>Trials, best first</h2>",
        table(header, _ranked(sweep, header, rows)),
        "<h2>In Optuna's dashboard</h2>",
        f"<pre>pip install optuna-dashboard\n{escape(dashboard)}</pre>",
    ]
    files = {name: folder / f"{name}.png" for name in pictures}
    with at_place_of_user(folder), FileLock(folder / _LOCK):
        for name, file in files.items():
            save_bytes(file, pictures[name])
        save_text(folder / "sweep.html", page(f"Sweep {sweep.path.stem}", parts))
    named = {name.replace("_", " "): file for name, file in files.items()}
    tables = {"table": folder / "results.csv", "table, best first": folder / "results.md"}
    return {"page": folder / "sweep.html", **tables, **named}
