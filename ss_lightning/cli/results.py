"""``python -m ss_lightning results RUN...``: what trained networks reached on test sets, in a table no one types.

Everything is read from the files that ``fit``, ``test`` and ``folds`` leave. The table has one row for all runs that
differ in their seed only, and one for all folds of ``folds``. What a run did not record is said to be missing.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ss_lightning import plots
from ss_lightning.cli.markdown import as_block, as_code, as_text
from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import display_path, save_bytes, utf8
from ss_lightning.parsing import parse_arguments
from ss_lightning.renamed import with_new_names
from ss_lightning.runs.configs import comparable_config
from ss_lightning.runs.reading import FOLDS_SUMMARY, Run, check_types, read_folds_summary, read_run
from ss_lightning.runs.record import command_line
from ss_lightning.runs.statistics import GroupStatistics, over_groups

_SEED, _LEFT_OUT = "seed_everything", "data.init_args.test_speakers"
_ROOT = "data.init_args.root"
_TONIC = "data.init_args.dataset.class_path"
_NEURON, _ESTIMATOR = "model.init_args.neuron", "model.init_args.estimator"
_METRICS = (
    *("accuracy", "spikes_per_sample", "dead_fraction", "synops_per_sample"),
    *("energy_nj", "energy_dense_nj", "energy_dense_loop_nj"),
)
_MISSING = "not recorded"


@dataclass(frozen=True)
class Result:
    """One training, and one test of its weights.

    Attributes:
        folder: that of the run.
        config: the config, flattened, without the seed and without what changes no result.
        seed: of the training.
        left_out: the speakers that a fold left out; None for a run that is no fold.
        weights: which checkpoint was tested, ``best`` or ``last``; None if none was.
        metrics: of the test; empty if there was none.
        data_set: name of the data and, where that does not say which they are, of their folder.
        command: what was typed for it, of a fold that of all folds; None if it was not recorded.
        parameters: how many are learned; None if it was not recorded.
        seconds: how long the training took; None if it was not recorded.
        machine: what it ran on; None if it was not recorded.
        commit: of the code; None if it was not recorded.
        written: when it ended; empty if it was not recorded.
    """

    folder: str
    config: dict[str, Any]
    seed: int | None
    left_out: list[int] | None
    weights: str | None
    metrics: dict[str, float]
    data_set: str
    command: str | None
    parameters: int | None
    seconds: float | None
    machine: str | None
    commit: str | None
    written: str


def read_results(path: Path) -> list[Result]:
    """The results in a run folder, a folder of folds, a folder with runs below it, or a JSON file of an earlier call.

    Raises:
        UsageError: there is nothing of that kind at ``path``.
        DataError: a file is damaged.
    """
    if path.is_file():
        return _read_json(path)
    if not path.is_dir():
        raise UsageError(f"there is no run folder {path}")
    if (path / "config.yaml").is_file():
        return run_results(read_run(path))
    if (path / FOLDS_SUMMARY).is_file():
        return fold_results(path)
    inner = sorted(below.parent for below in path.rglob(FOLDS_SUMMARY) if below.is_file())
    runs = sorted(config.parent for config in path.rglob("version_*/config.yaml") if config.is_file())
    if not inner and not runs:
        raise UsageError(f"{path} has no run in it. Runs are folders like runs/yinyang/version_0")
    found = [result for folder in inner for result in _unless_damaged(fold_results, folder)]
    for run in runs:
        if not any(run.is_relative_to(folder) for folder in inner):
            found += _unless_damaged(lambda folder: run_results(read_run(folder)), run)
    return found


def _unless_damaged(read: Callable[[Path], list[Result]], folder: Path) -> list[Result]:
    """The results of a folder that nobody named: nothing, and a word about it, where a file in it is damaged."""
    try:
        return read(folder)
    except DataError as error:
        print(f"note  {display_path(folder)} is left out: {error}")
        return []


def _read_json(path: Path) -> list[Result]:
    names = {field.name for field in fields(Result)}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["results"]
        for entry in entries:
            check_types(path, entry, _RESULT, "Write it again from the runs")
            check_types(path, entry["metrics"], dict.fromkeys(entry["metrics"], (int, float)), "Write it again")
        results = [Result(**{name: entry[name] for name in names}) for entry in entries]
        return [
            replace(
                result,
                config=_distinguishing_config(result.config),
                command=command_of_all(result.command) if result.command else None,
            )
            for result in results
        ]
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise DataError(f"{path} is no file that `results --json` wrote ({type(error).__name__}: {error})") from error


_NOTHING = type(None)
_RESULT: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("folder", "data_set", "written"), (str,)),
    **dict.fromkeys(("weights", "command", "machine", "commit"), (str, _NOTHING)),
    "config": (dict,),
    "metrics": (dict,),
    "seed": (int, _NOTHING),
    "left_out": (list, _NOTHING),
    "parameters": (int, _NOTHING),
    "seconds": (int, float, _NOTHING),
}


def _distinguishing_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened config without what changes no result.

    What is off (null, false, 0) is not there at all in a run of an earlier version; and an estimator is that of neurons
    of the kind ``single`` only.
    """
    kept = {
        key: value for key, value in comparable_config(with_new_names(config)).items() if value not in (None, False)
    }
    if isinstance(root := kept.get(_ROOT), str):
        kept[_ROOT] = _folder_name(root)
    if kept.get(_NEURON, "single") != "single":
        kept.pop(_ESTIMATOR, None)
    return kept


def run_results(run: Run, command: str | None = None) -> list[Result]:
    """One result for each checkpoint of a run that was tested; one without metrics if none was.

    Args:
        run: what the run folder tells.
        command: that of all folds, if the run is one of them.

    Returns:
        Nothing for a run that did not come to its end; that is said on the screen.
    """
    if run.state != "finished":
        print(f"note  {display_path(run.folder)} is left out: {run.state}")
        return []
    facts = run.summary.get("facts", {})
    machine, threads = facts.get("machine"), facts.get("threads")
    if machine is not None and threads is not None:
        machine += f", {threads} thread{'s' * (threads != 1)}"
    if machine is not None and facts.get("device", "cpu") != "cpu":
        machine = f"{facts['device']}, {machine}"
    dropped = (_SEED,) if command is None else (_SEED, _LEFT_OUT)
    left_out = run.config.get(_LEFT_OUT)
    tests: Sequence[tuple[str | None, dict[str, float]]] = [*run.tests.items()] or [(None, {})]
    return [
        Result(
            folder=display_path(run.folder),
            config={k: v for k, v in _distinguishing_config(run.config).items() if k not in dropped},
            seed=seed if type(seed := run.config.get(_SEED)) is int else None,
            left_out=None if command is None else left_out if isinstance(left_out, list) else [],
            weights=weights,
            metrics={name: metrics[f"test/{name}"] for name in _METRICS if f"test/{name}" in metrics},
            data_set=data_name(run.config),
            command=command_of_all(typed) if (typed := command or run.summary.get("command_line")) else None,
            parameters=facts.get("parameters"),
            seconds=run.summary.get("seconds"),
            machine=machine,
            commit=facts.get("git_commit"),
            written=run.summary.get("written", ""),
        )
        for weights, metrics in tests
    ]


def fold_results(folder: Path) -> list[Result]:
    """The results of a folder that ``folds`` has filled."""
    summary = read_folds_summary(folder) or {}
    if summary.get("state") != "finished":
        print(f"note  {display_path(folder)}: not all folds are done; the table has those that are")
    configs = sorted(folder.glob("without_*/version_*/config.yaml"))
    found = [
        result for config in configs for result in run_results(read_run(config.parent), summary.get("command_line", ""))
    ]
    return [result for result in found if result.weights == "last"]


def data_name(config: Mapping[str, Any]) -> str:
    """Name of the data of a flattened config: ``YinYang``, ``SHD (spoken_digits)``, or that of one's own folder."""
    name = str(config.get("data.class_path", _MISSING)).rpartition(".")[2].removesuffix("Data")
    if name == "Tonic":
        return str(config.get(_TONIC, name)).rpartition(".")[2]
    folder = Path(str(config.get(_ROOT) or "")).name  # of "." there is none
    if name.endswith("Folder"):
        return folder or name
    # Any files in the layout of SHD are read by the one class: only their folder tells them apart.
    shown = folder and (_LEFT_OUT in config or name == "SHD")
    return f"{name} ({folder})" if shown else name


def newest_results(results: Iterable[Result]) -> list[Result]:
    """Results without those that a later run of the same config, seed and fold repeats."""
    kept: dict[str, Result] = {}
    for result in sorted(results, key=lambda result: result.written):
        kept[json.dumps([result.config, result.seed, result.left_out, result.weights], sort_keys=True)] = result
    return list(kept.values())


@dataclass(frozen=True)
class Row:
    """Results that belong together: of one config, over seeds or folds, with the same kind of weights.

    Attributes:
        results: the tested ones; if there are none, those that were not tested.
        untested: how many more of the config were not tested.
    """

    results: list[Result]
    untested: int = 0

    @property
    def first(self) -> Result:
        """The one with the lowest seed."""
        return min(self.results, key=lambda result: (result.seed is None, result.seed or 0))

    def over(self, metric: str) -> GroupStatistics:
        """A metric of the tested results over seeds, or over folds, each fold with its mean over the seeds."""
        return over_groups(
            (json.dumps(result.seed if result.left_out is None else result.left_out), result.metrics[metric])
            for result in self.results
            if metric in result.metrics
        )


def make_rows(results: Iterable[Result]) -> list[Row]:
    """Put together what differs in its seed or fold only, sorted by the data."""
    groups: dict[str, list[Result]] = {}
    for result in newest_results(results):
        key = json.dumps([result.config, result.left_out is None], sort_keys=True)
        groups.setdefault(key, []).append(result)
    rows = []
    for group in groups.values():
        untested = [result for result in group if result.weights is None]
        kinds = sorted({result.weights for result in group if result.weights is not None})
        rows += [Row([result for result in group if result.weights == kind], len(untested)) for kind in kinds]
        if not kinds:
            rows.append(Row(untested))
    return sorted(rows, key=lambda row: (row.first.data_set, row.first.left_out is not None))


def network_name(config: Mapping[str, Any]) -> str:
    """Kind and size of a network in a few words: ``single (survival), hidden 256``."""
    hidden = config.get("model.init_args.hidden")
    sizes = "-".join(map(str, hidden)) if isinstance(hidden, list) else _MISSING
    channels = config.get("model.init_args.channels")
    before = f"convolutions {'-'.join(map(str, channels))}, " if isinstance(channels, list) else ""
    return f"{neuron_name(config)}, {before}hidden {sizes}"


def neuron_name(config: Mapping[str, Any]) -> str:
    """The kind of neuron and, if it fires once, its gradient: ``single (survival)``."""
    neuron = str(config.get(_NEURON, _MISSING))
    return f"{neuron} ({config.get(_ESTIMATOR, _MISSING)})" if neuron == "single" else neuron


# Options that change no result, with how many words follow them; they are left out of the command of a row.
_WITHOUT_EFFECT = (
    f"--{_SEED}", "--ckpt_path", "--jobs", "--out", "--trainer.default_root_dir", "--pictures",
    "--trainer.enable_progress_bar", "--trainer.enable_model_summary", "--data.cache_dir", "--data.num_workers",
    "--data.pin_memory",
)  # fmt: skip


def command_of_all(command: str) -> str:
    """The command of a run without what belongs to one machine or to one of its runs.

    Left out are the seed, which the table gives, the checkpoint that it went on from, and options that change no
    result. A folder of data is ``DIR``, with its own name where that tells data sets apart.
    """
    kept: list[str] = []
    try:
        words = iter(shlex.split(command))
    except ValueError:  # a quote without its twin: it is shown as it is
        return command
    for word in words:
        name, given, value = word.partition("=")
        if not name.startswith("--"):
            kept.append(word)
            continue
        without_effect = any(name == option or name.startswith(f"{option}.") for option in _WITHOUT_EFFECT)
        if name == "--data.root" or without_effect:
            value = value if given else next(words, "")
        if name == "--data.root":
            kept += [name, _folder_name(value)]
        elif not without_effect:
            kept.append(word)
    return shlex.join(kept)


def _folder_name(path: str) -> str:
    """A folder of data without the place where it lies on one machine, also of one that is written so already."""
    name = Path(path).name
    return "DIR" if name in ("", "data", "DIR") else f"DIR/{name}"


def row_cells(row: Row) -> dict[str, str]:
    """A row of the table: what stands in each column."""
    first, results = row.first, row.results
    seeds = ", ".join(str(seed) for seed in sorted({result.seed for result in results if result.seed is not None}))
    folds = len({json.dumps(result.left_out) for result in results})
    runs = f"seed{'s' * (', ' in seeds)} {seeds or _MISSING}"
    if first.left_out is not None:
        runs = f"{folds} folds, {runs}"
    if row.untested:
        runs += f"; {row.untested} more not tested"
    command = command_of_all(first.command) if first.command else None
    return {
        "data": first.data_set,
        "network": network_name(first.config),
        "command": as_code(command) if command else _MISSING,
        "runs": runs,
        "weights": first.weights or "",
        "test accuracy, %": _accuracy(row),
        "worst, %": f"{100 * row.over('accuracy').lowest:.2f}" if row.over("accuracy").means else "",
        "hidden spikes": _mean(row, "spikes_per_sample", ".1f"),
        "dead": _mean(row, "dead_fraction", ".1%"),
        "synaptic operations": _mean(row, "synops_per_sample", ",.0f"),
        "energy, nJ": _energies(row),
        "parameters": _MISSING if first.parameters is None else f"{first.parameters:,}",
        "seconds": _seconds(results),
        "machine": _joined_values(result.machine for result in results),
        "commit": _joined_values(result.commit and _short(result.commit) for result in results),
    }


def _accuracy(row: Row) -> str:
    if not row.over("accuracy").means:
        return "not tested"
    deviation = row.over("accuracy").deviation
    return f"{100 * row.over('accuracy').mean:.2f}" + ("" if math.isnan(deviation) else f" ± {100 * deviation:.2f}")


def _mean(row: Row, metric: str, text: str) -> str:
    if not row.over("accuracy").means:
        return ""
    return format(row.over(metric).mean, text) if row.over(metric).means else _MISSING


def _energies(row: Row) -> str:
    spiking, dense, loop = (_mean(row, f"energy{kind}_nj", ",.1f") for kind in ("", "_dense", "_dense_loop"))
    return spiking if spiking in ("", _MISSING) else f"{spiking} (dense network {dense}, dense loop {loop})"


def _seconds(results: Sequence[Result]) -> str:
    known = [result.seconds for result in results if result.seconds is not None]
    return f"{statistics.fmean(known):,.0f}" if known else _MISSING


def _joined_values(values: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(value or _MISSING for value in values))


def _short(commit: str) -> str:
    digits, _, dirty = commit.partition("-")
    return digits[:7] + ("-dirty" if dirty else "")


def best_rows(rows: Iterable[Row]) -> list[Row]:
    """Of the rows of one kind of network on one kind of data the one with the highest accuracy.

    A mean over several seeds or folds goes before a single run.
    """
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        first = row.first
        key = (first.data_set, first.left_out is not None, network_name(first.config), first.weights)
        if key not in best or _standing(row) > _standing(best[key]):
            best[key] = row
    return list(best.values())


def _standing(row: Row) -> tuple[int, float]:
    means = row.over("accuracy").means
    return len(means), row.over("accuracy").mean if means else -math.inf


def render_results(rows: Sequence[Row], command: str, left_out: int = 0) -> str:
    """The page in Markdown: a small table for each data set, and an entry with the rest for each row.

    Args:
        rows: what stands in the tables.
        command: the command that writes this page.
        left_out: how many more rows there are.
    """
    tables: dict[str, list[list[str]]] = {}
    entries = []
    for number, row in enumerate(rows, start=1):
        cells = {name: cell if name == "command" else as_text(cell) for name, cell in row_cells(row).items()}
        title = cells["data"] + (", by folds" if row.first.left_out is not None else "")
        shown = [cells[name] for name in _IN_TABLE]
        tables.setdefault(title, []).append([*shown, f"[{number}](#entry-{number})"])
        lines = "".join(f"| {name} | {cell} |\n" for name, cell in cells.items())
        entries.append(f"### Entry {number}\n\n| | |\n| --- | --- |\n{lines}")
    header = [*_IN_TABLE, "entry"]
    sections = [
        f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in [header, ["---"] * len(header), *lines])
        for title, lines in tables.items()
    ]
    more = _LEFT_OUT_ROWS.format(number=left_out) if left_out else ""
    return _PAGE.format(
        command=as_block(command, "bash"), more=more, tables="\n".join(sections), entries="\n".join(entries)
    )


_IN_TABLE = ("network", "test accuracy, %", "hidden spikes", "seconds", "runs")

_LEFT_OUT_ROWS = """
Of each network one row is shown, that with the most runs and then the highest accuracy; {number} more rows are in the
file that `--json` writes.
"""

_PAGE = """\
# Results

Written from the files that the runs left, nothing by hand:

{command}

- Accuracy is that on the test set: mean ± standard deviation over the seeds of a row, or over its folds.
- Hidden spikes are per test sample. Seconds are those of one training, its validation included.
- "By folds" means the command `folds`: each speaker, or other group of samples, is tested by a network that was trained
  without it. Where the settings of a config were themselves chosen by such folds, expect a little less of new speakers.
{more}
{tables}
## Entries

How to read and repeat them:

- `command` is typed once for each seed of the row, with `--seed_everything N`, on its commit: a later one may hold
  another config of that name. `DIR` is the folder of your data. A `fit` is followed by the `test` command that it
  prints. `folds` tests by itself, always with the last weights.
- `weights`: `best` on the validation set, or `last`.
- `worst` is the lowest accuracy of a seed or fold.
- `dead` is the share of hidden neurons that fire for no test sample.
- Synaptic operations are spikes that meet a non-zero weight, those of the input included, per test sample.
- Energies are estimates of the arithmetic alone, per test sample, at 45 nm; reading memory is left out. A dense network
  of the same layers sees a sample once. A dense loop multiplies all weights in every step. docs/explanation/energy.md
  has the formula.
- A commit with `-dirty` had changes beside it that were not committed: such a row may not repeat to the digit.

{entries}"""


def draw_curve(rows: Sequence[Row]) -> Any:
    """Accuracy against hidden spikes, a panel for each data set, a line for networks that differ in their widths only.

    Raises:
        UsageError: no row has both.
    """
    lines: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.over("accuracy").means and row.over("spikes_per_sample").means:
            title = row.first.data_set + (", left out in folds" if row.first.left_out is not None else "")
            same = {k: v for k, v in row.first.config.items() if k != "model.init_args.hidden"}
            key = json.dumps([same, row.first.weights], sort_keys=True)
            lines.setdefault(title, {}).setdefault(key, []).append(row)
    if not lines:
        raise UsageError("--curve: none of the runs was tested (python -m ss_lightning test --ckpt_path ...)")
    panels = {
        title: dict(zip(_names(found), map(_points, found.values()), strict=True)) for title, found in lines.items()
    }
    figure = plots.panels({"test accuracy": panels}, "hidden spikes per sample (labels: hidden neurons)")
    for axis in figure.axes:
        fewest, most = axis.dataLim.intervalx
        if most > 10 * fewest > 0:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
    return figure


def _names(lines: Mapping[str, list[Row]]) -> list[str]:
    """A name for each line; where the kind of neuron does not tell them apart, with as few settings as do."""
    configs = [{**found[0].first.config, "weights": found[0].first.weights} for found in lines.values()]
    names = [neuron_name(config) for config in configs]
    full = []
    for config, name in zip(configs, names, strict=True):
        keys = _distinguishing_keys([other for other, same in zip(configs, names, strict=True) if same == name])
        full.append(", ".join([name, *(f"{key.rpartition('.')[2]}={config.get(key, 'off')}" for key in keys)]))
    return full


def _distinguishing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values tell the configs apart: one after the other, each the one that leaves the fewest alike."""
    candidates = sorted(set().union(*configs) - {"model.init_args.hidden"})
    chosen: list[str] = []

    def groups(keys: Sequence[str]) -> int:
        return len({json.dumps([config.get(key) for key in keys]) for config in configs})

    while groups(chosen) < len(configs):
        chosen.append(max(candidates, key=lambda key: groups([*chosen, key])))
    return chosen


def _points(rows: Sequence[Row]) -> plots.Points:
    ordered = sorted(rows, key=lambda row: row.over("spikes_per_sample").mean)
    return plots.Points(
        [row.over("spikes_per_sample").mean for row in ordered],
        [row.over("accuracy").mean for row in ordered],
        [row.over("accuracy").deviation for row in ordered],
        ["-".join(map(str, row.first.config.get("model.init_args.hidden", []))) for row in ordered],
    )


def _compact_json(single: Mapping[str, Any]) -> str:
    """The single results, one a line, so that a change of one is a change of one line."""
    lines = ",\n".join(json.dumps(result, separators=(",", ":")) for result in single["results"])
    return f'{{"command_line": {json.dumps(single["command_line"])},\n"results": [\n{lines}\n]}}\n'


def main(arguments: list[str]) -> int:
    """Write the table, and what else is asked for, and say where it is.

    Raises:
        UsageError: a path holds no results, or a file cannot be written.
        DataError: a file of a run is damaged, or no run came to its end.
    """
    parser = ArgumentParser(
        prog="python -m ss_lightning results",
        description="Put what runs reached on their test sets into one table, with the commands that repeat them.",
        exit_on_error=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=str,
        help="run folders, folders of folds, folders with such below them, or files that --json wrote",
    )
    parser.add_argument("--out", type=str, default="RESULTS.md", help="the table, in Markdown")
    parser.add_argument(
        "--best", type=bool, default=False, help="of each network the row with the highest accuracy only"
    )
    parser.add_argument("--json", type=str, help="also write the single results to this file")
    parser.add_argument("--curve", type=str, help="also draw accuracy against hidden spikes into this PNG file")
    options = parse_arguments(parser, arguments)
    found: list[Result] = []
    damaged: list[DataError] = []
    for path in map(Path, options.runs):
        try:
            found += read_results(path)
        except DataError as error:
            damaged.append(error)
            print(f"note  {display_path(path)} is left out: {error}")
    results = newest_results(found)
    if damaged and not results:
        raise damaged[0]
    if not results:
        raise DataError("no run has come to its end yet, so there are no results")
    every = make_rows(results)
    rows = best_rows(every) if options.best else every
    command = command_line(["results", *arguments])
    written = {"out": utf8(render_results(rows, command, len(every) - len(rows)))}
    if options.json:
        single = {"command_line": command, "results": [asdict(result) for result in results]}
        written["json"] = utf8(_compact_json(single))
    if options.curve:
        written["curve"] = plots.png(draw_curve(every))
    for option, content in written.items():
        path = Path(options[option])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_bytes(path, content)
        except OSError as error:
            raise UsageError(f"--{option}: cannot write {path}: {error.strerror}") from error
        print(f"{option:6} {display_path(path)}")
    return 0
