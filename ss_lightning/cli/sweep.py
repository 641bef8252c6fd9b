"""``python -m ss_lightning sweep FILE``: run a Weights & Biases sweep file on this machine, without W&B, on Optuna.

The same file serves ``wandb sweep FILE``. Everything a sweep knows lies in its folder: the trials in an SQLite file, so
that a sweep that was killed goes on where it stopped, and a run folder for each trial.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
import yaml
from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ss_lightning import plots
from ss_lightning.cli.lightning_cli import CommandLineCheck, SeveralDevicesError, is_interactive, run_command
from ss_lightning.cli.markdown import as_text
from ss_lightning.cli.recipes import on_disk_or_packaged
from ss_lightning.errors import UsageError
from ss_lightning.files import display_path, save_bytes, save_text, write_whole
from ss_lightning.parsing import WordsParser
from ss_lightning.runs.config_check import check_config, check_syntax
from ss_lightning.runs.folders import DEFAULT_ROOT
from ss_lightning.runs.history import best_epoch, plain_numbers

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_METHODS = ("grid", "random", "bayes")
_KEYS = (
    *("command", "description", "early_terminate", "entity", "method", "metric"),
    *("name", "parameters", "program", "project", "run_cap"),
)
_DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values")
# Trials are many: no bars, no pictures and no dashboard unless they are asked for.
_QUIET_OPTIONS = [
    "--trainer.logger=null",
    "--pictures.every_n_epochs=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
# What the table tells of a trial beside the metric that is searched by.
_FURTHER_METRICS = ("val/accuracy", "val/spikes_per_sample", "val/dead_fraction")


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        path: the file.
        method: ``grid``, ``random`` or ``bayes``.
        metric: what is searched by, as it is logged.
        goal: ``maximize`` or ``minimize``.
        command: arguments of our command line, the parameters left out.
        space: possible values of each parameter.
        hyperband: ``min_iter`` or ``max_iter`` with ``s``, and ``eta``; empty for no early stopping.
        run_cap: number of trials that the file asks for.
    """

    path: Path
    method: str
    metric: str
    goal: Literal["maximize", "minimize"]
    command: list[str]
    space: dict[str, BaseDistribution]
    hyperband: dict[str, Any]
    run_cap: int | None


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file in the format of W&B.

    Raises:
        UsageError: it cannot be read, or asks for something that cannot be done here.
    """
    try:
        check_config(path)
        check_syntax(path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the sweep file {path}: {error.strerror}") from error
    except UsageError:
        raise
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no sweep file: expected method, metric, parameters and command")
    for key in content:
        if key not in _KEYS:
            raise UsageError(f"{path}: unknown key {key}; known are {', '.join(_KEYS)}")
    method = content.get("method")
    if method not in _METHODS:
        raise UsageError(f"{path}: method is {method!r}; expected one of {', '.join(_METHODS)}")
    metric = content.get("metric") or {}
    if not isinstance(metric, dict) or "name" not in metric or metric.get("goal") not in ("maximize", "minimize"):
        raise UsageError(
            f"{path}: metric is {metric!r}; expected a name, such as val/accuracy, and a goal, maximize or minimize"
        )
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UsageError(
            f"{path}: parameters are missing; expected names as in the config, such as optimizer.init_args.lr"
        )
    cap = content.get("run_cap")
    if cap is not None and not _is_count(cap):
        raise UsageError(f"{path}: run_cap is {cap!r}; expected a whole number of trials, 1 or more")
    return Sweep(
        path,
        method,
        metric["name"],
        metric["goal"],
        _our_arguments(path, content.get("command")),
        {str(name): _distribution(f"{path}: {name}", given) for name, given in parameters.items()},
        _hyperband(path, content.get("early_terminate")),
        cap,
    )


def _hyperband(path: Path, given: Any) -> dict[str, Any]:
    """When a trial is stopped early, as W&B writes it; empty if it never is."""
    if given is None:
        return {}
    if (
        not isinstance(given, dict)
        or given.get("type") != "hyperband"
        or not ("min_iter" in given or "max_iter" in given)
    ):
        raise UsageError(f"{path}: early_terminate needs type: hyperband, and min_iter or max_iter")
    found = {key: value for key, value in given.items() if key != "type"}
    for key, least in {"min_iter": 1, "max_iter": 1, "s": 1, "eta": 2}.items():
        if key in found and not _is_count(found[key], least):
            raise UsageError(f"{path}: early_terminate: {key} is {found[key]!r}; expected a whole number from {least}")
    return found


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _our_arguments(path: Path, command: Any) -> list[str]:
    """What follows ``python -m ss_lightning`` in the command of a sweep file."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "ss_lightning" not in words or words[words.index("ss_lightning") + 1 :][:1] != ["fit"] or "${args}" not in words:
        raise UsageError(
            f"{path}: the command is {command!r}; expected\n"
            "command: [${env}, python, -m, ss_lightning, fit, --config, FILE, ${args}]"
        )
    return [word for word in words[words.index("fit") :] if word != "${args}"]


def _distribution(where: str, given: Any) -> BaseDistribution:
    """Possible values of a parameter, from how W&B writes them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(given, dict) or "parameters" in given:
        raise UsageError(f"{where}: expected value, values, or min and max; nested names are written with dots")
    kind = given.get("distribution")
    if kind is not None and kind not in _DISTRIBUTIONS:
        raise UsageError(f"{where}: distribution is {kind}; expected one of {', '.join(_DISTRIBUTIONS)}")
    if "value" in given:
        return CategoricalDistribution([_plain(given["value"])])
    if "values" in given:
        if not isinstance(given["values"], list) or not given["values"]:
            raise UsageError(f"{where}: values is {given['values']!r}; expected a list of one or more")
        return CategoricalDistribution([_plain(value) for value in given["values"]])
    low, high = given.get("min"), given.get("max")
    if not _is_number(low) or not _is_number(high) or low > high:
        raise UsageError(f"{where}: expected value, values, or numbers min and max with min <= max, got {given}")
    if kind == "int_uniform" or (kind is None and isinstance(low, int) and isinstance(high, int)):
        return IntDistribution(int(low), int(high))
    if kind == "q_uniform":
        step = given.get("q", 1)
        if not _is_number(step) or step <= 0:
            raise UsageError(f"{where}: q is {step!r}; expected the distance of two values, above 0")
        return FloatDistribution(low, high, step=step)
    if kind == "log_uniform_values" and low <= 0:
        raise UsageError(f"{where}: a logarithmic range must be above 0, got min {low}")
    return FloatDistribution(low, high, log=kind == "log_uniform_values")


def _plain(value: Any) -> Any:
    """A value that Optuna can store: lists as the text that the command line reads, dates and the like as written."""
    if isinstance(value, list | dict):
        return json.dumps(value, default=str)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def as_option(name: str, value: Any) -> str:
    """A parameter on the command line, written as W&B writes it; what is nothing is written as YAML does."""
    return f"--{name}={'null' if value is None else value}"


def check_sweep(sweep: Sweep, extra: Sequence[str]) -> Any:
    """Parse the command of a sweep with every value that its parameters name.

    Args:
        sweep: the sweep.
        extra: further arguments of the command line.

    Returns:
        The config without the parameters.

    Raises:
        UsageError: the command, a name or a value is wrong.
    """
    for word in extra:
        name = word.partition("=")[0].removeprefix("--")
        if name in sweep.space:
            raise UsageError(f"{word}: the sweep file {sweep.path} varies {name} already")
    base = [*sweep.command, *_QUIET_OPTIONS, *extra]
    checker = CommandLineCheck(base, typed=extra)  # the file may be of someone else
    config = checker.config["fit"]
    ends = {name: _named_values(distribution) for name, distribution in sweep.space.items()}
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            words = [as_option(other, setting) for other, setting in {**first, name: value}.items()]
            try:
                checker.parse_arguments(checker.parser, [*base, *words])
            except UsageError as error:
                raise UsageError(f"{sweep.path}: {name} = {value}: {error}") from error
    return config


def _named_values(distribution: BaseDistribution) -> list[Any]:
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices else [distribution.low, distribution.high]  # type: ignore[attr-defined]


def grid_values(sweep: Sweep) -> dict[str, list[Any]]:
    """All values of every parameter.

    Raises:
        UsageError: one of them has no end of values.
    """
    from optuna.distributions import CategoricalDistribution

    values: dict[str, list[Any]] = {}
    for name, distribution in sweep.space.items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = list(distribution.choices)
        elif (step := distribution.step) is None:  # type: ignore[attr-defined]
            raise UsageError(f"{sweep.path}: {name}: a grid needs values, whole numbers or q_uniform")
        else:
            low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
            values[name] = [low + index * step for index in range(round((high - low) / step) + 1)]
    return values


def make_sampler(sweep: Sweep, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial.

    It is made anew for every trial: what it draws then depends on the seed, the number of the trial and the results
    before, and not on when the sweep was interrupted.
    """
    from optuna import samplers

    if sweep.method == "grid":
        # The seed fixes how the points are numbered, so it is the same for all trials.
        return samplers.GridSampler(grid_values(sweep), seed=seed)
    make = samplers.RandomSampler if sweep.method == "random" else samplers.TPESampler
    return make(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def make_pruner(sweep: Sweep, max_epochs: int | None) -> optuna.pruners.BasePruner:
    """Hyperband with the epochs as its resource, or nothing that stops a trial.

    Raises:
        UsageError: the number of epochs is not known.
    """
    from optuna import pruners

    if not sweep.hyperband:
        return pruners.NopPruner()
    if not max_epochs or max_epochs < 1:
        raise UsageError(f"{sweep.path}: early_terminate needs trainer.max_epochs in the config")
    eta = int(sweep.hyperband.get("eta", 3))
    least = sweep.hyperband.get("min_iter") or sweep.hyperband["max_iter"] // eta ** sweep.hyperband.get("s", 1)
    return pruners.HyperbandPruner(max(1, int(least)), max_epochs, eta)


class TrialProgress(Callback):
    """Tells Optuna how a trial goes, and stops it when Optuna says so.

    Args:
        trial: the trial.
        metric: what is searched by.
        goal: ``maximize`` or ``minimize``.

    Attributes:
        pruned: whether the trial was stopped early.
    """

    def __init__(self, trial: optuna.Trial, metric: str, goal: str) -> None:
        self.trial = trial
        self.metric = metric
        self.mode = "max" if goal == "maximize" else "min"
        self.history: list[dict[str, float]] = []
        self.pruned = False

    @property
    def best(self) -> dict[str, float]:
        """Metrics of the best epoch so far."""
        return best_epoch(self.history, self.metric, self.mode)

    @property
    def epochs(self) -> int:
        """How many epochs have ended."""
        return len(self.history)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the best value so far."""
        found = plain_numbers(trainer.callback_metrics)
        if self.metric not in found:
            raise UnknownMetricError(
                f"the sweep searches by {self.metric}, which is not logged; logged are {', '.join(sorted(found))}"
            )
        self.history.append(found)
        self.trial.report(self.best[self.metric], self.epochs)
        if self.epochs != trainer.max_epochs and self.trial.should_prune():
            self.pruned = trainer.should_stop = True


class UnknownMetricError(UsageError):
    """The metric of the sweep does not exist: no other trial would do better."""


def run_trial(
    sweep: Sweep, trial: optuna.Trial, folder: Path, extra: Sequence[str]
) -> tuple[str, TrialProgress | None]:
    """Train once.

    Returns:
        What went wrong, empty if nothing did, and the course of the training, if there was one.
    """
    words = [as_option(name, _suggest(trial, name, values)) for name, values in sweep.space.items()]
    progress = TrialProgress(trial, sweep.metric, sweep.goal)
    # What is left of a trial that was killed.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        run_command([*sweep.command, *_QUIET_OPTIONS, *extra, *words], folder, [progress], extra)
    except (UnknownMetricError, SeveralDevicesError):
        raise
    except (UsageError, RuntimeError) as error:  # a network that cannot be built, or does not fit into memory
        return str(error), None
    return "", progress


def _suggest(trial: optuna.Trial, name: str, values: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(name, values.low, values.high)
    assert isinstance(values, FloatDistribution)
    return trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)


def run_sweep(sweep: Sweep, folder: Path, trials: int, seed: int, extra: Sequence[str]) -> optuna.Study:
    """Run trials until there are ``trials`` of them, those of earlier calls counted.

    Raises:
        UsageError: something in the sweep is wrong, its folder holds another one, or another process is at it.
    """
    import optuna

    config = check_sweep(sweep, extra)
    pruner = make_pruner(sweep, config.trainer.max_epochs)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder.resolve() / 'trials.db'}"
    study = optuna.create_study(
        storage=storage, study_name="sweep", direction=sweep.goal, pruner=pruner, load_if_exists=True
    )
    _refuse_another(
        study, folder, {"sweep": sweep.path.read_text(encoding="utf-8"), "arguments": list(extra), "seed": seed}
    )
    with _trial_bar(trials) as (say, advance):
        while len(finished_trials(study)) < trials:
            number = len(finished_trials(study))
            study.sampler = make_sampler(sweep, seed, number)
            # A trial that was killed is still running in the eyes of the storage: it is the one to go on with.
            killed = [trial for trial in study.trials if not trial.state.is_finished()]
            trial = optuna.Trial(study, killed[0]._trial_id) if killed else study.ask()
            start = time.perf_counter()
            error, progress = run_trial(sweep, trial, folder / f"trial_{trial.number:03d}", extra)
            _record_result(study, trial, sweep, error, progress)
            write_tables(sweep, study, folder)
            say(_trial_line(sweep, study.trials[trial.number], trials, time.perf_counter() - start))
            advance()
    return study


def _refuse_another(study: optuna.Study, folder: Path, made_of: dict[str, Any]) -> None:
    known = study.user_attrs.get("made_of", made_of)
    different = [name for name in made_of if known[name] != made_of[name]]
    if different:
        raise UsageError(
            f"{folder} holds trials of another sweep (its {' and '.join(different)} differed); choose another folder "
            "with --out, or delete that one"
        )
    study.set_user_attr("made_of", made_of)


def _record_result(
    study: optuna.Study, trial: optuna.Trial, sweep: Sweep, error: str, progress: TrialProgress | None
) -> None:
    """Write the result of a trial into the study."""
    from optuna.trial import TrialState

    if progress is None or math.isnan(progress.best[sweep.metric]):
        trial.set_user_attr("error", error or f"{sweep.metric} is not a number")
        state, value = TrialState.FAIL, None
    else:
        trial.set_user_attr(
            "metrics", {k: progress.best[k] for k in (sweep.metric, *_FURTHER_METRICS) if k in progress.best}
        )
        trial.set_user_attr("epochs", progress.epochs)
        state, value = (
            (TrialState.PRUNED, None) if progress.pruned else (TrialState.COMPLETE, progress.best[sweep.metric])
        )
    try:
        study.tell(trial, value, state)
    except RuntimeError:
        # The grid sampler stops the study after its last point, which Optuna forbids when trials are asked for singly.
        # The result is stored by then.
        if not study.trials[trial.number].state.is_finished():
            raise


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that came to an end, good or bad, in order."""
    return [trial for trial in study.trials if trial.state.is_finished()]


@contextmanager
def _trial_bar(trials: int) -> Iterator[tuple[Any, Any]]:
    """How to write a line and how to move the bar; without a terminal there is no bar."""
    if not is_interactive():
        yield (lambda line: print(line, flush=True)), (lambda: None)
        return
    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("trials", total=trials)
        yield partial(bar.console.print, markup=False, highlight=False), lambda: bar.advance(task)


def _trial_line(sweep: Sweep, trial: optuna.trial.FrozenTrial, trials: int, seconds: float) -> str:
    metrics = trial.user_attrs.get("metrics", {})
    parts = [f"[{trial.number + 1}/{trials}] trial {trial.number}"]
    parts += [f"{sweep.metric} {metrics[sweep.metric]:.4f}"] if metrics else [f"failed: {trial.user_attrs['error']}"]
    if "val/spikes_per_sample" in metrics:
        parts.append(f"spikes {metrics['val/spikes_per_sample']:.1f}")
    if trial.state.name == "PRUNED":
        parts.append(f"stopped after epoch {trial.user_attrs['epochs']}")
    settings = " ".join(f"{name.rpartition('.')[2]}={_short_text(value)}" for name, value in trial.params.items())
    return "  ".join([*parts, settings, f"{seconds:.0f} s"])


def _short_text(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}


def trial_table(sweep: Sweep, study: optuna.Study) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the results, a row per trial."""
    metrics = list(dict.fromkeys([sweep.metric, *_FURTHER_METRICS]))
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
    header, rows = trial_table(sweep, study)
    with write_whole(folder / "results.csv") as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    column = header.index(sweep.metric)
    sign = -1 if sweep.goal == "maximize" else 1
    ranked = sorted(rows, key=lambda row: math.inf if row[column] == "" else sign * row[column])
    lines = [header, ["---"] * len(header), *([_short_text(cell) for cell in row] for row in ranked)]
    text = "".join("| " + " | ".join(map(as_text, line)) + " |\n" for line in lines)
    save_text(folder / "results.md", text)


def draw_sweep(sweep: Sweep, study: optuna.Study, folder: Path) -> list[Path]:
    """Pictures of the trials that gave a value: parallel coordinates, and accuracy against spikes."""
    trials = [trial for trial in finished_trials(study) if "metrics" in trial.user_attrs]
    metrics = [trial.user_attrs["metrics"] for trial in trials]
    figures = {}
    if len(trials) > 1:
        varied = [name for name, values in sweep.space.items() if len(set(_named_values(values))) > 1]
        columns: dict[str, Sequence[Any]] = {name: [trial.params[name] for trial in trials] for name in varied}
        columns[sweep.metric] = [found[sweep.metric] for found in metrics]
        figures["parallel_coordinates"] = plots.parallel_coordinates(columns, sweep.goal)
    if metrics and all({"val/accuracy", "val/spikes_per_sample"} <= set(found) for found in metrics):
        figures["pareto"] = plots.pareto(
            [found["val/spikes_per_sample"] for found in metrics],
            [found["val/accuracy"] for found in metrics],
            [f"trial {trial.number}" for trial in trials],
        )
    files = [folder / f"{name}.png" for name in figures]
    for file, figure in zip(files, figures.values(), strict=True):
        save_bytes(file, plots.png(figure))
    return files


def main(arguments: list[str]) -> int:
    """Run a sweep file and say where the results are.

    Raises:
        UsageError: an argument, the file, or a value in it is wrong, or Optuna is missing.
    """
    parser = WordsParser(
        "sweep",
        description="Search for good parameters with a Weights & Biases sweep file, on this machine and without W&B. "
        "The same command again goes on with a sweep that was stopped.",
        epilog="All other arguments go to every training: --data.root data --trainer.max_epochs 5",
    )
    parser.add_argument("file", type=Path, help="sweep file, such as configs/sweeps/yinyang.yaml")
    parser.add_argument("--trials", type=int, help="trials in all; by default run_cap of the file, or the whole grid")
    parser.add_argument("--out", type=Path, help="folder of the results; by default runs/sweeps/<name of the file>")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the search (that of the trainings is in the config)"
    )
    options, extra = parser.parse_known_args(arguments)
    try:
        import optuna
    except ImportError as error:
        raise UsageError('a sweep needs Optuna: pip install "ss-lightning[sweep]"') from error
    sweep = read_sweep(Path(on_disk_or_packaged(str(options.file))))
    trials = _number_of_trials(sweep, options.trials)
    folder = options.out or DEFAULT_ROOT / "sweeps" / options.file.stem
    folder.mkdir(parents=True, exist_ok=True)
    _silence_optuna(optuna)
    try:
        with FileLock(folder / ".lock", timeout=0):
            study = run_sweep(sweep, folder, trials, options.seed, extra)
    except Timeout as error:
        raise UsageError(f"another process is running the sweep in {folder}; wait for it, or choose --out") from error
    except (KeyboardInterrupt, SystemExit):
        print("\nstopped; the same command goes on from here")
        return 130
    files = {"table": folder / "results.csv", "table, best first": folder / "results.md"}
    files |= {file.stem.replace("_", " "): file for file in draw_sweep(sweep, study, folder)}
    for name, file in files.items():
        print(f"{name:21} {display_path(file)}")
    return _print_best(sweep, study, extra)


def _number_of_trials(sweep: Sweep, wanted: int | None) -> int:
    trials = wanted if wanted is not None else sweep.run_cap
    if sweep.method == "grid":
        size = math.prod(len(values) for values in grid_values(sweep).values())
        trials = size if trials is None else min(trials, size)
    if trials is None:
        raise UsageError(f"say how many trials to run: --trials N ({sweep.path} has no run_cap)")
    if trials < 1:
        raise UsageError(f"--trials is {trials}; expected 1 or more")
    return trials


def _silence_optuna(optuna: Any) -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import warnings

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    # A trial that was killed reports its first epochs a second time.
    warnings.filterwarnings("ignore", message=".*reported value is ignored because this `step.*")


def _print_best(sweep: Sweep, study: optuna.Study, extra: Sequence[str]) -> int:
    good = [trial for trial in finished_trials(study) if "metrics" in trial.user_attrs]
    if not good:
        print("no trial gave a value")
        return 1
    choose = max if sweep.goal == "maximize" else min
    best = choose(good, key=lambda trial: trial.user_attrs["metrics"][sweep.metric])
    words = [as_option(name, value) for name, value in best.params.items()]
    # The file's own command may log to W&B, which this search did without.
    command = shlex.join(["python", "-m", "ss_lightning", *sweep.command, "--trainer.logger=null", *extra, *words])
    print(f"best                  trial {best.number}, {sweep.metric} {best.user_attrs['metrics'][sweep.metric]:.4f}")
    print(f"train with it         {command}")
    return 0
