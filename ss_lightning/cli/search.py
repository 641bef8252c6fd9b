"""The trials of a sweep in an Optuna storage, which several machines may share.

What a trial tries follows from the seed and its number, for Bayesian search also from the results so far. A storage
gives every number once. So no two machines run the same trial, and a trial that is taken up again is the same one.

A trial that runs carries a claim: the name of the process that runs it, and a count that this process raises. Where the
count stands still for long, the process is dead, and another one takes the trial up. No clocks of two machines are
compared. Optuna's own heartbeat does not serve: it is for databases alone, and leaves a failed trial beside a new one.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ss_lightning.cli.jobs import JobQueue, Output
from ss_lightning.cli.sweep_file import Sweep, as_option, grid_values
from ss_lightning.errors import UsageError

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

# What the table tells of a trial beside the metric that is searched by.
FURTHER_METRICS = ("val/accuracy", "val/spikes_per_sample", "val/dead_fraction")
# Two processes may claim a trial at once. The last claim counts, and after so many seconds both see which that is.
_SETTLING = 1.0
_CLAIM = "claim"
# How often a trial is begun whose process dies, in all commands together.
_MOST_ATTEMPTS = 3
_ATTEMPTS = "attempts"


@dataclass(frozen=True)
class TrialTask:
    """A training of a sweep.

    Attributes:
        number: of the trial.
        settings: the arguments of the command line that this trial tries.
    """

    number: int
    settings: tuple[str, ...]

    def __str__(self) -> str:
        return f"trial {self.number}"


@dataclass(frozen=True)
class TrialResult:
    """How a training of a sweep ended.

    Attributes:
        error: what went wrong; empty if nothing did.
        metrics: of the best epoch; empty if there is none.
        epochs: how many were trained.
        pruned: whether it was stopped early.
        seconds: how long it took.
    """

    error: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    pruned: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """What a training asks after an epoch: whether it is to go on.

    Attributes:
        number: of the epoch, from 1.
        best: value of the metric so far.
        is_last: whether there is nothing left to stop.
    """

    number: int
    best: float
    is_last: bool


def make_sampler(sweep: Sweep, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial.

    It is made anew for every trial: what it draws then depends on the seed, the number of the trial and the results
    before, and not on when the sweep was interrupted. Of a grid it takes the point of that number.
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


def open_storage(place: str) -> optuna.storages.BaseStorage:
    """A storage that several processes and machines may use at once.

    Args:
        place: the URL of a database, or the path of a journal file.

    Raises:
        UsageError: it cannot be opened.
    """
    try:
        return _database(place) if "://" in place else _journal(Path(place))
    except Exception as error:  # of any driver of a database
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"--storage: cannot open {without_password(place)}: {reason}. Expected the URL of a database, such as "
            "postgresql://user@host/name, or a file on a disk that all machines see, such as sweep.journal"
        ) from error


def _database(url: str) -> optuna.storages.BaseStorage:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    # A connection that the server has closed is opened again; processes wait for each other at a file of SQLite.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 60}
    for left in (4, 3, 2, 1, 0):
        try:
            return RDBStorage(url, options)
        except (StorageInternalError, SQLAlchemyError):
            if not left:
                raise
            time.sleep(0.5)  # two that come first make the tables at once, and one of them fails
    raise AssertionError("the last attempt raises")


def _journal(path: Path) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Lock(JournalFileOpenLock):
        """Optuna's lock; whoever gets it drops the part of a line that a full disk or a power cut has left.

        Optuna's default is a link to the journal. One that a killed process leaves behind is taken over only where the
        link leads somewhere, which a relative one does not.
        """

        def acquire(self) -> bool:
            taken = super().acquire()
            try:
                _drop_half_line(path)
            except BaseException:
                self.release()
                raise
            return taken

    if path.exists() and not _begins_as_journal(path):
        raise ValueError("it is there already and no journal of Optuna")
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path), Lock(str(path))))


def _begins_as_journal(path: Path) -> bool:
    """Whether a file may be a journal, be it cut off at its first line; nothing may be dropped from any other."""
    begin = b'{"op_code":'
    with path.open("rb") as file:
        return begin.startswith(file.read(len(begin)))


def _drop_half_line(path: Path) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        if not size or file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def without_password(place: str) -> str:
    """A storage as it may be printed."""
    if "://" not in place:
        return place
    scheme, _, rest = place.partition("://")
    account, at, host = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    return f"{scheme}://{user}{':***' * bool(colon)}{at}{host}"


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to an end, good or bad, in order."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def metrics_of(trial: FrozenTrial) -> dict[str, float]:
    """Metrics of the best epoch of a trial; empty if it failed."""
    return trial.user_attrs.get("metrics", {})


@dataclass
class _Running:
    """A trial that runs here.

    Attributes:
        task: what was made of it.
        trial: in the study.
        reported: the last epoch that an attempt before this one has reported, 0 for none.
    """

    task: TrialTask
    trial: optuna.Trial
    reported: int


class Search(JobQueue[TrialTask, TrialResult]):
    """The trials of a sweep: numbers below ``wanted``, those of earlier calls and other machines among them.

    Args:
        sweep: the sweep file.
        study: where the trials are.
        wanted: how many there are to be.
        seed: of the search.
        dead_after: seconds after which a claim that stands still is that of a dead process; None where no other process
            has the study, so that whatever runs was left behind.
        output: where lines are written, and the bar.
        ended: told of every trial that ended here, and of its seconds.
    """

    def __init__(
        self,
        sweep: Sweep,
        study: optuna.Study,
        wanted: int,
        seed: int,
        dead_after: float | None,
        output: Output,
        ended: Callable[[FrozenTrial, float], None],
    ) -> None:
        self.sweep = sweep
        self.study = study
        self.wanted = wanted
        self.seed = seed
        self.dead_after = dead_after
        self._output = output
        self._ended = ended
        self._name = uuid.uuid4().hex
        self._count = 0
        self._running: dict[int, _Running] = {}
        self._seen: dict[int, tuple[Any, float]] = {}
        self._renewed = time.monotonic()
        self._has_waited = False

    def take(self) -> TrialTask | None:
        """A trial that was left behind, or a new one."""
        trials = self._trials()
        self._output.show(sum(trial.state.is_finished() for trial in trials[: self.wanted]))
        for trial in trials[: self.wanted]:
            free = not trial.state.is_finished() and trial.number not in self._running
            if free and self._is_left_behind(trial) and self._claim(trial):
                if trial.user_attrs.get(_ATTEMPTS, 0) < _MOST_ATTEMPTS:
                    return self._begin(trial)
                self._give_up(trial)
        if len(trials) >= self.wanted:
            return None
        self.study.sampler = make_sampler(self.sweep, self.seed, len(trials))
        asked = self.study.ask()
        if asked.number >= self.wanted:  # another machine was faster: it waits until more trials are wanted
            self._write_claim(asked, None)
            return None
        self._write_claim(asked, self._name)
        return self._begin(self._trials()[asked.number])

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _begin(self, frozen: FrozenTrial) -> TrialTask:
        self.study.sampler = make_sampler(self.sweep, self.seed, frozen.number)
        trial = _again(self.study, frozen)
        if self.sweep.method == "random":
            # Of a trial that was killed as its values were written, the others are drawn behind those there are.
            # A constant takes no draw.
            for name in (name for name in frozen.params if not self.sweep.space[name].single()):
                self.study.sampler.sample_independent(self.study, frozen, name, self.sweep.space[name])
        values = {name: _suggest(trial, name, values) for name, values in self.sweep.space.items()}
        trial.set_user_attr(_ATTEMPTS, frozen.user_attrs.get(_ATTEMPTS, 0) + 1)
        task = TrialTask(frozen.number, tuple(as_option(name, value) for name, value in values.items()))
        self._running[frozen.number] = _Running(task, trial, frozen.last_step or 0)
        return task

    def _give_up(self, frozen: FrozenTrial) -> None:
        """A trial whose process has died each time, perhaps because it needs too much memory, has failed."""
        result = TrialResult(f"its process died, {_MOST_ATTEMPTS} times")
        _record(self.study, _again(self.study, frozen), self.sweep, result)
        self._ended(self._trials()[frozen.number], 0.0)

    def answer(self, task: TrialTask, question: Epoch) -> bool:
        """Report an epoch; returns whether the trial is to stop."""
        running = self._running[task.number]
        if self.dead_after is not None and not self._is_ours(self._trials()[task.number]):
            return True  # this process was asleep, and another one has taken it up
        # Epochs that an attempt before this one has reported were judged then; the last of them may not have been.
        if question.number > running.reported:
            running.trial.report(question.best, question.number)
        return question.number >= running.reported and not question.is_last and running.trial.should_prune()

    def end(self, task: TrialTask, result: TrialResult) -> None:
        """Write the result into the study, unless another process has taken the trial up."""
        running = self._running.pop(task.number)
        if not self._is_ours(self._trials()[task.number]):
            self._output.say(f"{task}: another process has taken it up; the result of this one is left out")
            return
        _record(self.study, running.trial, self.sweep, result)
        self._ended(self._trials()[task.number], result.seconds)

    def lose(self, task: TrialTask, reason: str) -> None:
        """A trial whose process dies every time has failed; the others go on."""
        self.end(task, TrialResult(f"{reason}, twice"))

    def is_over(self) -> bool:
        """Whether all trials have ended: where others still run some, this process waits, for they may die."""
        trials = self._trials()[: self.wanted]
        left = [trial.number for trial in trials if not trial.state.is_finished()]
        if len(trials) == self.wanted and left and not self._running and not self._has_waited:
            self._has_waited = True
            self._output.say(
                f"waiting for trials of other processes: {', '.join(map(str, left))}; that of a dead one is taken up "
                f"after {self.dead_after:g} s"
            )
        return len(trials) == self.wanted and not left

    # Claims ----------------------------------------------------------------------------------------------------------

    def renew(self) -> list[TrialTask]:
        """Show that this process lives; returns the trials that another one has taken up meanwhile."""
        if self.dead_after is None or time.monotonic() - self._renewed < self.dead_after / 6:
            return []
        self._renewed = time.monotonic()
        self._count += 1
        trials = self._trials()
        lost = [running for number, running in self._running.items() if not self._is_ours(trials[number])]
        for running in lost:
            del self._running[running.task.number]
            self._output.say(f"{running.task}: another process has taken it up")
        for running in self._running.values():
            self._write_claim(running.trial, self._name)
        return [running.task for running in lost]

    def release(self) -> None:
        """Let others take up at once what was running here."""
        for number, running in self._running.items():
            with suppress(Exception):  # of a storage that is gone; it is taken up later then
                trial = self._trials()[number]
                if self._is_ours(trial):
                    running.trial.set_user_attr(_ATTEMPTS, trial.user_attrs.get(_ATTEMPTS, 1) - 1)
                    self._write_claim(running.trial, None)

    def _write_claim(self, trial: optuna.Trial, name: str | None) -> None:
        if self.dead_after is not None:
            trial.set_user_attr(_CLAIM, None if name is None else [name, self._count, self.dead_after])

    def _is_ours(self, trial: FrozenTrial) -> bool:
        claim = trial.user_attrs.get(_CLAIM)
        named = claim is not None and claim[0] == self._name
        return not trial.state.is_finished() and (self.dead_after is None or named)

    def _is_left_behind(self, trial: FrozenTrial) -> bool:
        """Whether the process that ran a trial has given it up or is dead."""
        # There is none yet for a moment after a trial was made, and None once its process has given it up.
        claim = trial.user_attrs.get(_CLAIM, ())
        if self.dead_after is None or claim is None:
            return True
        now = time.monotonic()
        if self._seen.get(trial.number, (None, now))[0] != claim:
            self._seen[trial.number] = claim, now
        # A process that shows itself rarely is given the time that it asked for.
        patience = max([self.dead_after, *claim[2:]])
        return now - self._seen[trial.number][1] > patience

    def _claim(self, frozen: FrozenTrial) -> bool:
        """Take up a trial that was left behind; False if another process was at it, too, and its claim is the last."""
        from optuna.exceptions import UpdateFinishedTrialError

        if self.dead_after is None:
            return True
        try:
            self._write_claim(_again(self.study, frozen), self._name)
        except UpdateFinishedTrialError:  # its process was slow, and not dead
            return False
        time.sleep(_SETTLING)
        taken = self._is_ours(self._trials()[frozen.number])
        if taken:
            self._output.say(f"trial {frozen.number}: its process is gone; it runs again here")
        return taken


def _again(study: optuna.Study, frozen: FrozenTrial) -> optuna.Trial:
    """A trial that is there already, to go on with."""
    import optuna

    return optuna.Trial(study, frozen._trial_id)


def _suggest(trial: optuna.Trial, name: str, values: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(name, values.low, values.high, step=values.step)
    assert isinstance(values, FloatDistribution)
    return trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)


def _record(study: optuna.Study, trial: optuna.Trial, sweep: Sweep, result: TrialResult) -> None:
    """Write the result of a trial into the study."""
    from optuna.trial import TrialState

    best = result.metrics.get(sweep.metric, math.nan)
    if math.isnan(best):
        trial.set_user_attr("error", result.error or f"{sweep.metric} is not a number")
        state, value = TrialState.FAIL, None
    else:
        kept = (sweep.metric, *FURTHER_METRICS)
        trial.set_user_attr("metrics", {name: result.metrics[name] for name in kept if name in result.metrics})
        trial.set_user_attr("epochs", result.epochs)
        state, value = (TrialState.PRUNED, None) if result.pruned else (TrialState.COMPLETE, best)
    try:
        study.tell(trial, value, state)
    except RuntimeError:
        # The grid sampler stops the study after its last point, which Optuna forbids when trials are asked for singly.
        # The result is stored by then.
        if not study.trials[trial.number].state.is_finished():
            raise
