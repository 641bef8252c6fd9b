"""``python -m ss_lightning sweep FILE``: run a Weights & Biases sweep file without W&B, on Optuna.

The same file serves ``wandb sweep FILE``. Everything a sweep knows lies in its folder: the trials in an SQLite file, so
that a sweep that was killed goes on where it stopped, and a run folder for each trial. ``--storage`` puts the trials
where several machines reach them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from ss_lightning.cli.checks import check_trainer
from ss_lightning.cli.jobs import (
    Ask,
    Output,
    check_jobs,
    ends_by_sigterm,
    progress,
    run_in_turn,
    run_side_by_side,
    say_stopped,
)
from ss_lightning.cli.lightning_cli import CommandLineCheck, SeveralDevicesError, run_command
from ss_lightning.cli.output import silence_lightning
from ss_lightning.cli.recipes import on_disk_or_packaged
from ss_lightning.cli.search import (
    Epoch,
    Search,
    TrialResult,
    TrialTask,
    finished_trials,
    make_pruner,
    open_storage,
    without_password,
)
from ss_lightning.cli.sweep_file import Sweep, as_option, grid_values, named_values, read_sweep
from ss_lightning.cli.sweep_results import Best, short_text, write_page, write_tables
from ss_lightning.errors import DataError, NoRoomError, UsageError
from ss_lightning.files import at_place_of_user, display_path, save_text
from ss_lightning.parsing import WordsParser
from ss_lightning.runs.configs import comparable_config, flatten_config
from ss_lightning.runs.folders import DEFAULT_ROOT
from ss_lightning.runs.history import best_epoch, plain_numbers

if TYPE_CHECKING:
    import optuna

# Trials are many: no bars, no pictures and no dashboard unless they are asked for.
_QUIET_OPTIONS = [
    "--trainer.logger=null",
    "--pictures.every_n_epochs=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


@dataclass(frozen=True)
class Place:
    """Where the trials of a sweep are, and who runs them.

    Attributes:
        folder: of this machine, for runs and tables.
        storage: where several processes share the trials; None for a file in the folder, which is of one alone.
        jobs: trials side by side.
        dead_after: seconds after which the trial of a process that shows no life is taken up by another.
    """

    folder: Path
    storage: str | None
    jobs: int
    dead_after: float


def check_sweep(sweep: Sweep, extra: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Parse the command of a sweep with every value that its parameters name.

    Args:
        sweep: the sweep.
        extra: further arguments of the command line.

    Returns:
        The config without the parameters, and all of it that matters for a result, in plain values.

    Raises:
        UsageError: the command, a name or a value is wrong.
    """
    for word in extra:
        name = word.partition("=")[0].removeprefix("--")
        if name.replace(".init_args", "") in [varied.replace(".init_args", "") for varied in sweep.space]:
            raise UsageError(f"{word}: the sweep file {sweep.path} varies {name} already")
    base = [*sweep.command, *_QUIET_OPTIONS, *extra]
    checker = CommandLineCheck(base, typed=extra)  # the file may be of someone else
    config = checker.config["fit"]
    check_trainer(config.trainer)  # a device that is not here is no fault of a trial
    plain = comparable_config(flatten_config(checker.plain_config()))
    ends = {name: named_values(distribution) for name, distribution in sweep.space.items()}
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            words = [as_option(other, setting) for other, setting in {**first, name: value}.items()]
            try:
                checker.parse_arguments(checker.parser, [*base, *words])
            except UsageError as error:
                raise UsageError(f"{sweep.path}: {name} = {value}: {error}") from error
    return config, plain


class UnknownMetricError(UsageError):
    """The metric of the sweep does not exist: no other trial would do better."""


class TrialProgress(Callback):
    """Tells the search how a trial goes, and stops it when the search says so.

    Args:
        ask: takes an :class:`Epoch` and returns whether to stop.
        metric: what is searched by.
        goal: ``maximize`` or ``minimize``.

    Attributes:
        epochs: how many were trained.
        pruned: whether the trial was stopped early.
    """

    def __init__(self, ask: Callable[[Epoch], bool], metric: str, goal: str) -> None:
        self.ask = ask
        self.metric = metric
        self.mode = "max" if goal == "maximize" else "min"
        self.history: list[dict[str, float]] = []
        self.epochs = 0
        self.pruned = False

    @property
    def best(self) -> dict[str, float]:
        """Metrics of the best epoch so far."""
        return best_epoch(self.history, self.metric, self.mode)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the best value so far."""
        found = plain_numbers(trainer.callback_metrics)
        self.epochs = trainer.current_epoch + 1
        is_last = self.epochs == trainer.max_epochs
        if self.metric not in found:
            every = trainer.check_val_every_n_epoch
            if not is_last and (every is None or self.epochs % every):
                return  # nothing has been validated yet
            raise UnknownMetricError(
                f"the sweep searches by {self.metric}, which is not logged; logged are {', '.join(sorted(found))}"
            )
        self.history.append(found)
        if self.ask(Epoch(self.epochs, self.best[self.metric], is_last)):
            self.pruned = trainer.should_stop = True


@dataclass(frozen=True)
class Training:
    """What trains once for a trial. It is a class of its own to be sent to another process.

    Attributes:
        command: arguments of our command line but for the trial's own.
        typed: those of them that the user typed and so trusts.
        folder: below which each trial has its own.
        metric: what is searched by.
        goal: ``maximize`` or ``minimize``.
    """

    command: tuple[str, ...]
    typed: tuple[str, ...]
    folder: Path
    metric: str
    goal: str

    def __call__(self, task: TrialTask, ask: Ask) -> TrialResult:
        """Train.

        Raises:
            UsageError: no other trial would do better.
        """
        silence_lightning()
        start = time.perf_counter()
        progress = TrialProgress(ask, self.metric, self.goal)
        folder = self.folder / f"trial_{task.number:03d}"
        # What is left of a trial that was killed.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            run_command([*self.command, *task.settings], folder, [progress], self.typed)
        except (UnknownMetricError, SeveralDevicesError, NoRoomError):
            raise
        except (UsageError, RuntimeError) as error:  # a network that cannot be built, or does not fit into memory
            return TrialResult(str(error), seconds=time.perf_counter() - start)
        return TrialResult(
            metrics=progress.best,
            epochs=progress.epochs,
            pruned=progress.pruned,
            seconds=time.perf_counter() - start,
        )


def run_sweep(sweep: Sweep, place: Place, trials: int, seed: int, extra: Sequence[str]) -> optuna.Study:
    """Run trials until there are ``trials`` of them, those of earlier calls and other machines counted.

    Raises:
        UsageError: something in the sweep is wrong, or its place holds another one.
    """
    import optuna

    config, plain = check_sweep(sweep, extra)
    pruner = make_pruner(sweep, config.trainer.max_epochs)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{place.folder.resolve() / 'trials.db'}"
        if place.storage is None
        else open_storage(place.storage),
        study_name="sweep" if place.storage is None else sweep.path.stem,
        direction=sweep.goal,
        pruner=pruner,
        load_if_exists=True,
    )
    made_of = _made_of(sweep, extra, seed, plain)
    _refuse_another(study, place, made_of)
    _refuse_folder(place, made_of)
    study.set_user_attr("made_of", made_of)
    command = (*sweep.command, *_QUIET_OPTIONS, *extra)
    training = Training(command, tuple(extra), place.folder, sweep.metric, sweep.goal)
    shared = place.storage is not None
    with progress("trials", trials) as output:
        ended = partial(_say_end, sweep, study, place.folder, trials, output)
        search = Search(sweep, study, trials, seed, place.dead_after if shared else None, output, ended)
        try:
            # Whoever shares trials shows that it lives, also while it trains; so it does not train itself.
            if place.jobs == 1 and not shared:
                run_in_turn(search, training)
            else:
                run_side_by_side(search, training, place.jobs, output.say)
        finally:
            search.release()
        write_tables(sweep, study, place.folder)
    return study


def _say_end(
    sweep: Sweep,
    study: optuna.Study,
    folder: Path,
    trials: int,
    output: Output,
    trial: optuna.trial.FrozenTrial,
    seconds: float,
) -> None:
    """Write the tables and say how a trial ended."""
    write_tables(sweep, study, folder)
    done = len(finished_trials(study))
    output.show(done)
    output.say(_trial_line(sweep, trial, f"[{done}/{trials}]", seconds))


def _made_of(sweep: Sweep, extra: Sequence[str], seed: int, config: dict[str, Any]) -> dict[str, str]:
    """What all trials of a search have in common, as text; a trial of anything else may not stand in its table."""
    content = yaml.safe_load(sweep.path.read_text(encoding="utf-8"))
    for name in ("run_cap", "name", "description", "project", "entity"):  # these change no trial
        content.pop(name, None)
    parts = {"sweep": content, "arguments": list(extra), "seed": seed, "config": config}
    return {name: json.dumps(part, sort_keys=True, default=str) for name, part in parts.items()}


def _refuse_folder(place: Place, made_of: dict[str, str]) -> None:
    """Refuse a folder with runs of another search: both number their trials, so theirs would be written over.

    Searches without a storage need no digest: :func:`_refuse_another` has compared what they are made of.
    """
    mark, trials = place.folder / ".search", place.folder / "trials.db"
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    now = "alone\n" if place.storage is None else f"shared {digest}\n"
    before = mark.read_text(encoding="utf-8") if mark.exists() else "alone\n" if trials.exists() else now
    if before != now and any(place.folder.glob("trial_*")):
        raise UsageError(
            f"{place.folder} holds the runs of another search; choose another folder with --out, or delete that one"
        )
    with at_place_of_user(mark):
        save_text(mark, now)


def _refuse_another(study: optuna.Study, place: Place, made_of: dict[str, str]) -> None:
    if not study.get_trials(deepcopy=False):
        return
    known = study.user_attrs.get("made_of", {})
    different = [name for name in made_of if known.get(name) != made_of[name]]
    if different:
        holds = f"holds trials of another sweep (its {' and '.join(different)} differed)"
        if place.storage is None:
            raise UsageError(f"{place.folder} {holds}; choose another folder with --out, or delete that one")
        raise UsageError(
            f"--storage {without_password(place.storage)} {holds}, which is also called {study.study_name}. A search "
            "has the name of its sweep file: choose another storage, or copy the file to another name"
        )


def _trial_line(sweep: Sweep, trial: optuna.trial.FrozenTrial, count: str, seconds: float) -> str:
    metrics = trial.user_attrs.get("metrics", {})
    parts = [f"{count} trial {trial.number}"]
    parts += [f"{sweep.metric} {metrics[sweep.metric]:.4f}"] if metrics else [f"failed: {trial.user_attrs['error']}"]
    if "val/spikes_per_sample" in metrics:
        parts.append(f"spikes {metrics['val/spikes_per_sample']:.1f}")
    if trial.state.name == "PRUNED":
        parts.append(f"stopped after epoch {trial.user_attrs['epochs']}")
    settings = " ".join(f"{name.rpartition('.')[2]}={short_text(value)}" for name, value in trial.params.items())
    return "  ".join([*parts, settings, f"{seconds:.0f} s"])


def main(arguments: list[str]) -> int:
    """Run a sweep file and say where the results are.

    Raises:
        UsageError: an argument, the file, or a value in it is wrong, or Optuna is missing.
        DataError: the storage cannot be reached any more.
    """
    parser = WordsParser(
        "sweep",
        description="Search for good parameters with a Weights & Biases sweep file, without W&B. The same command goes "
        "on with a sweep that was stopped. With --storage the same command on another machine joins in.",
        epilog="All other arguments go to every training: --data.root data --trainer.max_epochs 5",
    )
    parser.add_argument("file", type=Path, help="sweep file, such as configs/sweeps/yinyang.yaml")
    parser.add_argument("--trials", type=int, help="trials in all; by default run_cap of the file, or the whole grid")
    parser.add_argument("--out", type=Path, help="folder of the results; by default runs/sweeps/<name of the file>")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the search (that of the trainings is in the config)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trials side by side, which share the cores (default: 1)")
    parser.add_argument(
        "--storage",
        help="where machines share the trials: the URL of a database, or a journal file on a disk that all of them see",
    )
    parser.add_argument(
        "--dead_after",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="with --storage: when the trial of a machine that shows no life is taken up by another (default: 60)",
    )
    options, extra = parser.parse_known_args(arguments)
    try:
        import optuna
    except ImportError as error:
        raise UsageError('a sweep needs Optuna: pip install "ss-lightning[sweep]"') from error
    check_jobs(options.jobs)
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed is {options.seed}; expected a whole number from 0 to {2**32 - 1}")
    if not options.dead_after >= 5:  # a busy process shows that it lives every second or two
        raise UsageError(f"--dead_after is {options.dead_after:g}; expected 5 seconds or more")
    sweep = read_sweep(Path(on_disk_or_packaged(str(options.file))))
    trials = _number_of_trials(sweep, options.trials)
    folder = options.out or DEFAULT_ROOT / "sweeps" / options.file.stem
    if odd := set("{}?") & set(str(folder.resolve())):
        raise UsageError(f"--out {folder}: {' '.join(sorted(odd))} cannot stand in the name of the file of the trials")
    _silence_optuna(optuna)
    storage = os.path.expanduser(options.storage) if options.storage is not None else None
    place = Place(folder, storage, options.jobs, options.dead_after)
    with at_place_of_user(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with ends_by_sigterm(), _reached(place), ExitStack() as alone:
            if place.storage is None:
                alone.enter_context(FileLock(folder / ".lock", timeout=0))
            study = run_sweep(sweep, place, trials, options.seed, extra)
    except Timeout as error:
        raise UsageError(
            f"another process is running the sweep in {folder}; wait for it, choose --out, or let both share it with "
            "--storage"
        ) from error
    except (KeyboardInterrupt, SystemExit) as error:
        return say_stopped(error)
    return _finish(sweep, study, place, extra)


@contextmanager
def _reached(place: Place) -> Iterator[None]:
    """Around what needs the storage.

    Raises:
        DataError: it is gone.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        where = place.folder / "trials.db" if place.storage is None else without_password(place.storage)
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DataError(
            f"the trials in {where} cannot be read or written: {reason}. The same command goes on"
        ) from error


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
    silence_lightning()
    import warnings

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    # A trial that was killed reports its first epochs a second time.
    warnings.filterwarnings("ignore", message=".*reported value is ignored because this `step.*")


def _finish(sweep: Sweep, study: optuna.Study, place: Place, extra: Sequence[str]) -> int:
    """Draw what was found, and say where it is and what is best."""
    best = _best(sweep, study, extra)
    dashboard = shlex.join(["optuna-dashboard", _storage_url(place)])
    files = write_page(sweep, study, place.folder, best, dashboard)
    for name, file in files.items():
        print(f"{name:21} {display_path(file)}")
    print(f"{'in a dashboard':21} {dashboard}   (pip install optuna-dashboard)")
    if best is None:
        print("no trial gave a value")
        return 1
    print(f"{'best':21} trial {best.trial.number}, {sweep.metric} {best.value:.4f}")
    print(f"{'train with it':21} {best.command}")
    return 0


def _storage_url(place: Place) -> str:
    """The storage as ``optuna-dashboard`` is given it."""
    if place.storage is None:
        return f"sqlite:///{display_path(place.folder / 'trials.db')}"
    return without_password(place.storage)


def _best(sweep: Sweep, study: optuna.Study, extra: Sequence[str]) -> Best | None:
    """The best trial; None if none gave a value."""
    good = [trial for trial in finished_trials(study) if "metrics" in trial.user_attrs]
    if not good:
        return None
    choose = max if sweep.goal == "maximize" else min
    best = choose(good, key=lambda trial: trial.user_attrs["metrics"][sweep.metric])
    words = [as_option(name, value) for name, value in best.params.items()]
    # The file's own command may log to W&B, which this search did without.
    command = shlex.join(["python", "-m", "ss_lightning", *sweep.command, "--trainer.logger=null", *extra, *words])
    return Best(best, best.user_attrs["metrics"][sweep.metric], command)
