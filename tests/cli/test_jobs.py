"""Tasks side by side, in processes of their own. Each takes seconds to start: it imports torch and Lightning."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from ss_lightning.cli import jobs as jobs_module
from ss_lightning.cli.jobs import (
    JobQueue,
    check_jobs,
    ends_by_sigterm,
    environments,
    progress,
    run_in_turn,
    run_side_by_side,
    say_stopped,
    threads_each,
)
from ss_lightning.errors import UsageError


class Queue(JobQueue):
    """Tasks that are given; keeps what becomes of them."""

    def __init__(self, *tasks):
        self.left, self.results, self.lost, self.asked = list(tasks), {}, [], []

    def take(self):
        return self.left.pop(0) if self.left else None

    def end(self, task, result):
        self.results[task] = result

    def answer(self, task, question):
        self.asked.append((task, question))
        return question * 2

    def lose(self, task, reason):
        self.lost.append((task, reason))


def work(task, ask):
    """What a task says is done."""
    name, _, content = task.partition(" ")
    print("a line of every task")
    if name == "meet":  # another process, at a folder
        here, other = content.split()
        Path(here).touch()
        deadline = time.monotonic() + 120
        while not Path(other).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        variables = os.environ["OMP_NUM_THREADS"], os.environ["SET_AFTER_THE_SERVER_HAS_STARTED"]
        return torch.get_num_threads(), *variables, np.random.random()  # noqa: NPY002 - the global one
    if name == "ask":
        return ask(int(content))
    if name == "refuse":
        raise UsageError(content)
    if name == "break":
        return {}[content]
    if name == "die" and not Path(content).exists():
        Path(content).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "die_always":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["of this machine", "spawn"])
def test_two_at_a_time_with_their_share_of_the_threads(method, tmp_path, monkeypatch):
    if method == "spawn":
        monkeypatch.setattr(jobs_module, "job_context", lambda: multiprocessing.get_context("spawn"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setenv("SET_AFTER_THE_SERVER_HAS_STARTED", "yes")
    a, b = tmp_path / "a", tmp_path / "b"
    # Each waits for the other, so they end only if they run at the same time.
    queue = Queue(f"meet {a} {b}", f"meet {b} {a}", "ask 4", "ask 5")
    lines = []
    run_side_by_side(queue, work, 2, lines.append)
    (*one, first_draw), (*other, second_draw) = (queue.results[f"meet {pair}"] for pair in (f"{a} {b}", f"{b} {a}"))
    assert one == other == [3, "3", "yes"]
    assert first_draw != second_draw
    assert (queue.results["ask 4"], queue.results["ask 5"]) == (8, 10)
    assert sorted(queue.asked) == [("ask 4", 4), ("ask 5", 5)]
    assert lines == ["a line of every task"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_task_whose_process_was_killed_runs_again_and_is_lost_the_second_time(tmp_path):
    queue = Queue(f"die {tmp_path / 'once'}", "die_always", "pid")
    lines = []
    run_side_by_side(queue, work, 1, lines.append)
    assert list(queue.results) == [f"die {tmp_path / 'once'}", "pid"]
    assert queue.lost == [("die_always", "its process ended (SIGKILL)")]
    assert lines[-1] == "die_always: its process ended (SIGKILL); it runs again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "error", "message"),
    [("refuse a value of yours", UsageError, "^a value of yours$"), ("break it", RuntimeError, "KeyError: 'it'")],
)
def test_an_error_ends_all(task, error, message, tmp_path):
    queue = Queue(f"meet {tmp_path / 'here'} {tmp_path / 'never'}", task)
    with pytest.raises(error, match=message):
        run_side_by_side(queue, work, 2, print)
    assert queue.results == {}


def test_in_turn_it_is_this_process():
    queue = Queue("pid", "ask 4")
    run_in_turn(queue, work)
    assert queue.results == {"pid": os.getpid(), "ask 4": 8}


def test_every_process_gets_a_share(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert environments(2) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert threads_each(3) == 2
    assert threads_each(20) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [found["CUDA_VISIBLE_DEVICES"] for found in environments(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in environments(2)] == ["5", "7"]


def test_a_number_of_jobs_that_is_none():
    for jobs in (0, -1):
        with pytest.raises(UsageError, match=f"--jobs is {jobs}; expected 1 or more"):
            check_jobs(jobs)


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_sigterm_and_ctrl_c_end_with_one_message(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, ends_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert say_stopped(stopped.value) == 143
    assert say_stopped(KeyboardInterrupt()) == 130
    assert capsys.readouterr().out == "\nstopped; the same command goes on from here\n" * 2


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_ctrl_c_that_is_swallowed_ends_it_all_the_same():
    class Deaf(Queue):
        taken = 0

        def take(self):
            self.taken += 1
            assert self.taken < 9
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)

        def is_over(self):
            return False

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), ends_by_sigterm():
        run_side_by_side(Deaf(), work, 1, print)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_command_that_is_to_hear_no_ctrl_c_hears_none():
    """A shell starts a command in the background so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ends_by_sigterm():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_bar_shows_what_it_is_told(monkeypatch, capsys):
    monkeypatch.setattr(jobs_module, "is_interactive", lambda: True)
    with progress("trials", 7) as output:
        output.show(5)
        output.say("a line [1/7]")
    printed = capsys.readouterr().out
    assert "a line [1/7]" in printed
    assert "trials" in printed
    assert "5/7" in printed


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
        (signal.SIGKILL, -9),
    ],
)
def test_no_process_outlives_the_command(number, code, tmp_path):
    """A terminal sends Ctrl-C to all processes, a scheduler SIGTERM to all; a kill meets the first alone."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "method: grid\nmetric: {name: val/accuracy, goal: maximize}\n"
        "parameters: {model.init_args.hidden: {values: [[4], [5]]}}\n"
        "command: [python, -m, ss_lightning, fit, --config, configs/yinyang.yaml, '${args}']\n"
    )
    small = ["--data.num_train=200", "--data.num_val=40", "--data.num_test=40", "--trainer.max_epochs=5000"]
    command = [sys.executable, "-m", "ss_lightning", "sweep", "sweep.yaml", "--out=out", "--jobs=2", *small]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    logs = [tmp_path / "out" / f"trial_00{number}" / "metrics.csv" for number in (0, 1)]
    try:
        deadline = time.monotonic() + 300
        while not all(log.exists() and len(log.read_text().splitlines()) > 2 for log in logs):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        # Its output ends with the last process that has it.
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == code
        assert "Traceback" not in printed
        assert printed.count("stopped") == (number != signal.SIGKILL)
    finally:
        process.kill()
