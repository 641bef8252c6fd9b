"""Several processes at the trials of one sweep; here they are objects that take turns, and time is a number."""

import itertools
from pathlib import Path

import pytest
import yaml

from ss_lightning.cli import search as search_module
from ss_lightning.cli.search import (
    Epoch,
    Search,
    TrialResult,
    finished_trials,
    make_pruner,
    open_storage,
    without_password,
)
from ss_lightning.cli.sweep_file import read_sweep
from ss_lightning.errors import UsageError

optuna = pytest.importorskip("optuna")

GRID = {"model.init_args.hidden": {"values": [[4], [5], [6]]}, "optimizer.init_args.lr": {"values": [0.1, 0.2]}}
RANGES = {
    "optimizer.init_args.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
    "model.init_args.hidden": {"values": [[4], [5], [6]]},
}
DONE = TrialResult(metrics={"val/accuracy": 0.5}, epochs=3)


class Said:
    """Output that keeps what it is given."""

    def __init__(self):
        self.lines, self.shown = [], []
        self.say, self.show = self.lines.append, self.shown.append


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0
        monotonic = staticmethod(lambda: Clock.now)
        sleep = staticmethod(lambda seconds: None)

    monkeypatch.setattr(search_module, "time", Clock)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Clock


def read(tmp_path, method="grid", parameters=GRID, **more):
    path = tmp_path / "sweep.yaml"
    command = ["python", "-m", "ss_lightning", "fit", "${args}"]
    metric = {"name": "val/accuracy", "goal": "maximize"}
    content = {"method": method, "metric": metric, "parameters": parameters, "command": command, **more}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return read_sweep(path)


def process(sweep, storage, wanted=6, dead_after=60.0):
    """What one process of a sweep sees, as on a machine of its own."""
    place = open_storage(storage) if isinstance(storage, str) else storage
    study = optuna.create_study(
        storage=place, study_name="s", direction="maximize", load_if_exists=True, pruner=make_pruner(sweep, 9)
    )
    return Search(sweep, study, wanted, 0, dead_after, Said(), lambda trial, seconds: None)


@pytest.fixture(params=["sqlite", "journal"])
def storage(request, tmp_path):
    return f"sqlite:///{tmp_path / 'trials.db'}" if request.param == "sqlite" else str(tmp_path / "disk" / "s.journal")


def taken_from_the_first(sweep, storage, clock):
    """Two processes, of which the second took the first for dead, and the trial."""
    first, second = process(sweep, storage, wanted=1), process(sweep, storage, wanted=1)
    task = first.take()
    assert second.take() is None
    clock.now = 61.0
    assert second.take() == task
    return first, second, task


@pytest.mark.parametrize(("method", "parameters"), [("grid", GRID), ("random", RANGES)])
def test_two_processes_share_the_trials_and_none_is_run_twice(method, parameters, storage, clock, tmp_path):
    sweep = read(tmp_path, method, parameters)
    alone = process(sweep, None, dead_after=None)
    expected = []
    while (task := alone.take()) is not None:
        expected.append(task)
        alone.end(task, DONE)
    both = [process(sweep, storage), process(sweep, storage)]
    found = []
    for one in itertools.cycle(both):
        if (task := one.take()) is None:
            break
        found.append(task)
        one.end(task, DONE)
    assert found == expected
    assert len(set(found)) == 6
    assert all(one.is_over() for one in both)
    assert both[0]._output.shown[-1] == 6


def test_the_trial_of_a_dead_process_is_taken_up_once(storage, clock, tmp_path):
    sweep = read(tmp_path)
    dead, second, third = (process(sweep, storage, wanted=2) for _ in range(3))
    left, own = dead.take(), second.take()
    for clock.now in range(0, 100, 10):
        assert third.take() is None
        # Both live.
        assert dead.renew() == second.renew() == []
    assert not third.is_over()
    assert third._output.lines == [
        "waiting for trials of other processes: 0, 1; that of a dead one is taken up after 60 s"
    ]
    for clock.now in range(100, 160, 10):
        assert third.take() is None
        second.renew()
    clock.now = 161.0
    assert third.take() == left
    assert second.take() is None
    third.end(left, DONE)
    # It was not dead but slow: its result comes too late.
    dead.end(left, TrialResult(metrics={"val/accuracy": 0.9}, epochs=3))
    assert "the result of this one is left out" in dead._output.lines[-1]
    second.end(own, DONE)
    assert [trial.value for trial in finished_trials(third.study)] == [0.5, 0.5]
    assert third.is_over()


def test_a_trial_that_kills_every_process_has_failed(storage, clock, tmp_path):
    sweep = read(tmp_path)
    for clock.now in (0.0, 100.0, 200.0):
        dies = process(sweep, storage, wanted=1)
        dies.take()  # sees the claim
        clock.now += 61.0
        assert dies._running or dies.take().number == 0
    last = process(sweep, storage, wanted=1)
    assert last.take() is None
    clock.now += 61.0
    assert last.take() is None
    assert last.is_over()
    assert finished_trials(last.study)[0].user_attrs["error"] == "its process died, 3 times"


def test_a_clean_stop_is_no_death(clock, tmp_path):
    sweep = read(tmp_path)
    place = optuna.storages.InMemoryStorage()
    for _ in range(5):
        stopped = process(sweep, place, wanted=1, dead_after=None)
        assert stopped.take().number == 0
        stopped.release()


def test_a_process_that_wakes_up_leaves_what_another_has_taken(storage, clock, tmp_path):
    asleep, other, task = taken_from_the_first(read(tmp_path), storage, clock)
    assert asleep.answer(task, Epoch(1, 0.5, False))
    asleep.release()
    assert other.renew() == []
    other.end(task, DONE)
    assert asleep.answer(task, Epoch(2, 0.5, False))
    assert finished_trials(other.study)[0].value == 0.5


def test_a_patient_process_is_not_taken_for_dead_by_one_that_is_not(storage, clock, tmp_path):
    sweep = read(tmp_path)
    patient, hasty = (
        process(sweep, storage, wanted=1, dead_after=60.0),
        process(sweep, storage, wanted=1, dead_after=5.0),
    )
    task = patient.take()
    for clock.now in (0.0, 6.0, 59.0):
        assert hasty.take() is None
    clock.now = 61.0
    assert hasty.take() == task


def test_a_journal_that_a_death_left_behind_is_mended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = read(tmp_path)
    journal = Path("disk") / "s.journal"
    first = process(sweep, str(journal))
    first.end(first.take(), DONE)
    with journal.open("a") as file:
        file.write('{"op_code":5,"worker_id":"abc","trial_')
    second = process(sweep, str(journal))
    second.end(second.take(), DONE)
    assert len(finished_trials(process(sweep, str(journal)).study)) == 2
    assert not Path("disk/s.journal.lock").exists()


def test_a_process_that_was_taken_for_dead_ends_its_trial(storage, clock, tmp_path):
    slow, other, task = taken_from_the_first(read(tmp_path), storage, clock)
    assert slow.renew() == [task]
    assert other.renew() == []


def test_of_two_that_take_up_a_trial_one_gets_it(storage, clock, tmp_path):
    sweep = read(tmp_path)
    dead, first, second = (process(sweep, storage, wanted=1) for _ in range(3))
    task = dead.take()
    assert first.take() is None
    clock.now = 61.0
    second._is_left_behind = lambda trial: True  # it has read the trials before the first claims one
    taken = []

    def claimed_by_the_second_too(seconds):  # while the first waits to see whose claim is the last
        clock.sleep = lambda seconds: None
        taken.append(second.take())

    clock.sleep = claimed_by_the_second_too
    assert first.take() is None
    assert taken == [task]


def test_what_is_given_up_is_taken_up_at_once(storage, clock, tmp_path):
    sweep = read(tmp_path)
    one, other = process(sweep, storage, wanted=1), process(sweep, storage, wanted=1)
    task = one.take()
    one.release()
    assert other.take() == task


def test_a_trial_that_is_one_too_many_waits_until_more_are_wanted(storage, clock, tmp_path):
    sweep = read(tmp_path)
    one = process(sweep, storage, wanted=1)
    task = one.take()
    one.end(task, DONE)
    late = process(sweep, storage, wanted=1)
    trials = late._trials
    late._trials = lambda: trials()[:0]  # what it read before the other was there
    assert late.take() is None
    assert one.is_over()
    assert len(one.study.trials) == 2
    more = process(sweep, storage, wanted=2)
    assert more.take().number == 1
    assert more.take() is None


def test_epochs_that_a_killed_attempt_has_reported_are_not_judged_again(clock, tmp_path):
    sweep = read(tmp_path, early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
    place = optuna.storages.InMemoryStorage()
    before = process(sweep, place, dead_after=None)
    task = before.take()
    for number in (1, 2, 3):
        before.answer(task, Epoch(number, 0.1 * number, False))
    after = process(sweep, place, dead_after=None)
    assert after.take() == task
    asked = []
    after._running[0].trial.should_prune = lambda: asked.append(True)
    for number in (1, 2, 3, 4):
        after.answer(task, Epoch(number, 0.1 * number, False))
    assert len(asked) == 2  # the third, of which the verdict is not known, and the fourth
    after.answer(task, Epoch(5, 0.5, True))
    assert len(asked) == 2
    assert after.study.trials[0].intermediate_values == pytest.approx({n: 0.1 * n for n in range(1, 6)})


def test_a_trial_that_was_killed_while_it_was_drawn_is_the_same(clock, tmp_path, monkeypatch):
    sweep = read(tmp_path, "random", RANGES)
    whole = process(sweep, None, dead_after=None).take()
    place = optuna.storages.InMemoryStorage()
    half = process(sweep, place, dead_after=None)
    monkeypatch.setattr(optuna.Trial, "suggest_categorical", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        half.take()
    monkeypatch.undo()
    assert list(half.study.trials[0].params) == ["optimizer.init_args.lr"]
    assert process(sweep, place, dead_after=None).take() == whole


def test_a_value_that_is_listed_twice_is_tried_once(clock, tmp_path):
    sweep = read(tmp_path, parameters={"model.init_args.hidden": {"values": [[4], [5], [4]]}})
    assert sweep.space["model.init_args.hidden"].choices == ("[4]", "[5]")


def test_a_process_that_dies_every_time_is_a_trial_that_failed(clock, tmp_path):
    one = process(read(tmp_path), None, dead_after=None)
    one.lose(one.take(), "its process ended (SIGKILL)")
    (trial,) = finished_trials(one.study)
    assert (trial.state.name, trial.user_attrs["error"]) == ("FAIL", "its process ended (SIGKILL), twice")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nonsense://host/name", "cannot open nonsense://host/name"),
        ("sqlite:////nowhere/at/all.db", "cannot open sqlite:////nowhere/at/all.db"),
        (".", "cannot open .: "),
        ("text.txt", "cannot open text.txt"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(place, message, clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("no journal\nof Optuna")
    with pytest.raises(UsageError, match="Expected the URL of a database") as error:
        open_storage(place)
    assert Path("text.txt").read_text() == "no journal\nof Optuna"
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_password_is_printed():
    assert without_password("postgresql://me:secret@host:5432/sweeps") == "postgresql://me:***@host:5432/sweeps"
    assert without_password("mysql://me@host/sweeps") == "mysql://me@host/sweeps"
    assert without_password("sqlite:///runs/trials.db") == "sqlite:///runs/trials.db"
    assert without_password("disk/sweep.journal") == "disk/sweep.journal"
