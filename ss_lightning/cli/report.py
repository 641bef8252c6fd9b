"""``python -m ss_lightning report RUN...``: runs in one HTML page that needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from jsonargparse import ArgumentParser

from ss_lightning import plots
from ss_lightning.cli.html import details, figure, page, table
from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import display_path, save_text
from ss_lightning.parsing import parse_arguments
from ss_lightning.runs.configs import config_differences, data_source, flatten_config
from ss_lightning.runs.reading import Run, read_run

_CAPTIONS = {
    "learning_curve": "Accuracy and loss over the training",
    "confusion_matrix": "Which class is taken for which in the validation set",
    "input_raster": "Input spikes of some samples, by their class",
    "hidden_raster": "Spikes of the hidden neurons for the same samples",
    "readout": "Readout for the same samples",
    "first_spike_times": "First spikes, over the samples of the probe",
    "time_constants": "Decay and time constant of the neurons",
    "dead_neurons": "Neurons that fire for no sample of the validation set",
    "accuracy_and_spikes": "Accuracy against spikes over the training",
}


def render_report(runs: Sequence[Run]) -> str:
    """The HTML page."""
    names = run_names([run.folder for run in runs])
    sources: dict[str, dict[str, Run]] = {}
    for name, run in zip(names, runs, strict=True):
        sources.setdefault(data_source(run.config), {})[name] = run
    parts: list[str] = []
    if len(sources) > 1:
        parts.append(f"<p>Runs on {len(sources)} data sets, each compared with those on the same one.</p>")
    for source, group in sources.items():
        if len(sources) > 1:
            parts.append(f"<h2>{escape(source)}</h2>")
        parts += _overview(group, "h3" if len(sources) > 1 else "h2")
    for name, run in zip(names, runs, strict=True):
        parts += _section(name, run)
    return page(", ".join(names) if len(names) < 4 else f"{len(names)} runs", parts)


def _overview(runs: Mapping[str, Run], heading: str) -> list[str]:
    """Table and curves of runs on the same data, and what differs between them."""
    parts = [table(["run", *_COLUMNS], [[name, *_row(run)] for name, run in runs.items()])]
    if len(runs) > 1 and (different := config_differences([run.config for run in runs.values()])):
        rows = [[key, *values] for key, values in different.items()]
        parts += [f"<{heading}>What differs</{heading}>", table(["setting", *runs], rows)]
    trained = {name: run for name, run in runs.items() if not run.epochs.empty}
    return [*parts, f"<{heading}>Training</{heading}>", '<div class="figures">', *_comparison(trained), "</div>"]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Short names of runs: their paths without the part that all share, but never less than two folders."""
    paths = [folder.resolve().parts for folder in folders]
    common = 0
    while all(len(p) > common + 2 for p in paths) and len({p[common] for p in paths}) == 1:
        common += 1
    return ["/".join(path[common:]) for path in paths]


def _number(name: str, text: str) -> Callable[[Run], str]:
    return lambda run: format(run.best[name], text) if name in run.best else ""


def _test_accuracy(run: Run) -> str:
    return ", ".join(
        f"{metrics['test/accuracy']:.4f} ({name})" for name, metrics in run.tests.items() if "test/accuracy" in metrics
    )


def _fact(name: str, text: str) -> Callable[[Run], str]:
    return lambda run: format(fact, text) if (fact := run.summary.get("facts", {}).get(name)) else ""


_COLUMNS: dict[str, Callable[[Run], str]] = {
    "state": lambda run: run.state,
    "written": lambda run: _date(run),
    "best val accuracy": _number("val/accuracy", ".4f"),
    "train accuracy": _number("train/accuracy", ".4f"),
    "at epoch": _number("epoch", ".0f"),
    "test accuracy": _test_accuracy,
    "hidden spikes / sample": _number("val/spikes_per_sample", ".1f"),
    "dead neurons": _number("val/dead_fraction", ".1%"),
    "synaptic ops / sample": _number("val/synops_per_sample", ",.0f"),
    "energy, nJ / sample": _number("val/energy_nj", ",.1f"),
    "dense network, nJ / sample": _number("val/energy_dense_nj", ",.1f"),
    "parameters": _fact("parameters", ",d"),
    "samples / s": _number("train/samples_per_second", ",.0f"),
    "seconds": lambda run: f"{run.summary['seconds']:,.0f}" if "seconds" in run.summary else "",
}


def _date(run: Run) -> str:
    """When the run wrote its summary last, to the minute in UTC, with hyphens at which no line is broken."""
    return str(run.summary.get("written", ""))[:16].replace("T", " ").replace("-", "\N{NON-BREAKING HYPHEN}")


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
            figures.append(figure(plots.png(plots.curves(series, label)), f"{label} over the epochs"))
    bests = {name: run.best for name, run in runs.items() if "val/spikes_per_sample" in run.best}
    if len(bests) > 1:
        picture = plots.pareto(
            [best["val/spikes_per_sample"] for best in bests.values()],
            [best["val/accuracy"] for best in bests.values()],
            list(bests),
        )
        figures.append(figure(plots.png(picture), "Best accuracy of each run against its spikes"))
    return figures


def _section(name: str, run: Run) -> list[str]:
    pictures = [
        figure(run.pictures[key].read_bytes(), caption) for key, caption in _CAPTIONS.items() if key in run.pictures
    ]
    pictures += [
        figure(picture.read_bytes(), f"Which class is taken for which in the test set ({checkpoint})")
        for checkpoint, picture in run.confusions.items()
    ]
    command = run.summary.get("command_line")
    facts = flatten_config(run.summary.get("facts", {}))
    tests = [
        [checkpoint, metric, f"{value:.4g}"]
        for checkpoint, found in run.tests.items()
        for metric, value in found.items()
    ]
    return [
        f"<h2>{escape(name)}</h2>",
        f"<p>{escape(run.state)}{f', {_date(run)} UTC' if _date(run) else ''}</p>",
        f"<pre>{escape(command)}</pre>" if command else "",
        '<div class="figures">',
        *pictures,
        "</div>",
        details("Test results", table(["checkpoint", "metric", "value"], tests)) if tests else "",
        details("Made with", table(["fact", "value"], list(facts.items()))) if facts else "",
        details("Config", table(["setting", "value"], list(run.config.items()))),
    ]


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
    options = parse_arguments(parser, arguments)
    runs: list[Run] = []
    damaged: list[DataError] = []
    for folder in map(Path, options.runs):
        try:
            runs.append(read_run(folder))
        except DataError as error:
            damaged.append(error)
    if not runs:
        raise damaged[0]
    for reason in damaged:
        print(f"note  left out: {reason}")
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
        save_text(output, render_report(runs))
    except OSError as error:
        raise UsageError(f"--output: cannot write {output}: {error.strerror}") from error
    print(f"report  {display_path(output)}")
    return 0
