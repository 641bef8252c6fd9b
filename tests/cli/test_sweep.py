import csv
import errno
import os
import re
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from html import escape
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ss_lightning import UsageError
from ss_lightning.cli import sweep as sweep_module
from ss_lightning.cli.commands import main
from ss_lightning.cli.lightning_cli import CommandLineCheck
from ss_lightning.cli.search import Search, make_pruner
from ss_lightning.cli.sweep import TrialProgress, check_sweep
from ss_lightning.cli.sweep_file import grid_values, read_sweep
from ss_lightning.cli.sweep_results import importances

optuna = pytest.importorskip("optuna")

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/sweeps/*.yaml"))
SMALL = [
    "--data.num_train=48",
    "--data.num_val=40",
    "--data.num_test=40",
    "--data.num_steps=20",
    "--trainer.max_epochs=3",
]
COMMAND = ["${env}", "python", "-m", "ss_lightning", "fit", "--config", "configs/yinyang.yaml", "${args}"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the configs, as in a checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


def write(method="random", parameters=None, path="sweep.yaml", **more):
    parameters = parameters or {
        "optimizer.init_args.lr": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
        "model.init_args.hidden": {"values": [[4], [8], [6, 4]]},
    }
    content = {
        "method": method, "metric": {"name": "val/accuracy", "goal": "maximize"}, "parameters": parameters,
        "command": COMMAND, **more,
    }  # fmt: skip
    Path(path).write_text(yaml.safe_dump(content))
    return path


def sweep(*arguments, small=True):
    return main(["sweep", *map(str, arguments), *(SMALL if small else [])])


def results(path):
    with (Path(path) / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def quick(monkeypatch):
    """Trials that train nothing: their accuracy follows from their arguments."""

    def run_command(arguments, folder, callbacks, typed=()):
        if "--model.init_args.hidden=[0]" in arguments:
            raise UsageError("hidden must not be 0")
        skill = zlib.crc32(repr([word for word in arguments if "init_args" in word]).encode()) / 2**32
        trainer = SimpleNamespace(max_epochs=3, should_stop=False)
        for trainer.current_epoch in range(3):
            found = {"val/accuracy": skill * (trainer.current_epoch + 1) / 3, "val/spikes_per_sample": 10 * skill}
            trainer.callback_metrics = {name: torch.tensor(value) for name, value in found.items()}
            callbacks[0].on_train_epoch_end(trainer, None)
            if trainer.should_stop:
                break

    monkeypatch.setattr(sweep_module, "run_command", run_command)
    monkeypatch.setattr(
        sweep_module, "check_sweep", lambda *_: (SimpleNamespace(trainer=SimpleNamespace(max_epochs=3)), {})
    )


class TestShippedFiles:
    def test_every_method_and_data_set_is_there(self):
        files = {path: read_sweep(Path(path)) for path in SWEEPS}
        assert {file.method for file in files.values()} == {"grid", "random", "bayes"}
        assert any(file.hyperband for file in files.values())
        assert {Path(path).stem for path in files} == {"yinyang", "mnist", "fmnist", "shd"}

    @pytest.mark.slow
    @pytest.mark.parametrize("path", SWEEPS)
    def test_two_trials_on_small_data(self, path, folder, shd, idx):
        shd.write_pair(folder / "data")
        for name in ("MNIST", "FashionMNIST"):
            idx.write_all(folder / "data", name, train=40)
        small = SMALL[:3] if "yinyang" in path else []
        assert sweep(path, "--trials=2", *small, "--data.num_steps=10", "--trainer.max_epochs=1", small=False) == 0
        rows = results(f"runs/sweeps/{Path(path).stem}")
        assert [row["state"] for row in rows] == ["complete", "complete"]
        assert all(0 <= float(row["val/accuracy"]) <= 1 for row in rows)

    @pytest.mark.slow
    @pytest.mark.parametrize("path", SWEEPS)
    def test_the_command_that_wandb_builds_is_one_of_ours(self, path, folder, monkeypatch):
        """W&B's agent expands the command; what it would start is parsed here."""
        from wandb import wandb_agent
        from wandb.sdk.launch.sweeps.utils import load_sweep_config

        content = load_sweep_config(path)
        started = []
        monkeypatch.setattr(wandb_agent, "AgentProcess", lambda command, **_: started.append(command))
        for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
            monkeypatch.setenv(name, "x")
        agent = wandb_agent.Agent.__new__(wandb_agent.Agent)
        agent._sweep_command, agent._in_jupyter, agent._function = content["command"], False, None
        agent._forward_signals, agent._run_processes = False, {}
        for pick in (0, -1):
            values = {
                name: {"value": (given.get("values") or [given.get("min"), given.get("max")])[pick]}
                for name, given in content["parameters"].items()
            }
            # At the end it asks the process that was not started.
            with pytest.raises(AttributeError, match="last_sigterm_time"):
                agent._command_run({"run_id": f"run{pick}", "program": None, "args": values})
            command = started[-1]
            assert command[:5] == ["/usr/bin/env", "python", "-m", "ss_lightning", "fit"]
            config = CommandLineCheck(command[4:]).config["fit"]
            for name, value in values.items():
                assert config[name] == value["value"]
            assert config.trainer.logger.class_path.endswith("WandbLogger")


class TestSearch:
    @pytest.mark.slow
    def test_grid_tries_every_point_once(self, quick, capsys):
        hidden, sizes = [[4], [5], [6, 4]], {"min": 15, "max": 17}
        path = write("grid", {"model.init_args.hidden": {"values": hidden}, "data.init_args.batch_size": sizes})
        assert sweep(path) == 0
        rows = results("runs/sweeps/sweep")
        points = [(row["model.init_args.hidden"], row["data.init_args.batch_size"]) for row in rows]
        assert sorted(points) == [(str(h), str(b)) for h in hidden for b in (15, 16, 17)]
        printed = capsys.readouterr().out
        assert len(re.findall(r"^\[\d/9\] trial \d  val/accuracy", printed, re.MULTILINE)) == 9
        for name in ("results.csv", "results.md", "parallel_coordinates.png", "pareto.png"):
            assert (Path("runs/sweeps/sweep") / name).stat().st_size > 100
            assert f"runs/sweeps/sweep/{name}" in printed
        assert "train with it" in printed

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["grid", "random", "bayes"])
    def test_an_interrupted_sweep_ends_with_the_table_of_one_left_alone(self, method, quick, monkeypatch):
        parameters = {
            "optimizer.init_args.lr": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
            "model.init_args.hidden": {"values": [[4], [8], [6, 4]]},
        }
        if method == "grid":
            parameters["optimizer.init_args.lr"] = {"values": [0.1, 0.2, 0.3, 0.4, 0.5]}
        path = write(method, parameters, early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
        assert sweep(path, "--trials=10", "--out=whole") == 0
        assert {row["state"] for row in results("whole")} == {"complete", "stopped early"}

        class Killed(BaseException):
            pass

        answer = Search.answer

        def dying(self, task, question):
            said = answer(self, task, question)
            if task.number == victim:
                raise Killed
            return said

        for victim in (2, 7):
            monkeypatch.setattr(Search, "answer", dying)
            with pytest.raises(Killed):
                sweep(path, "--trials=10", "--out=killed")
            assert len(results("killed")) == victim
        monkeypatch.setattr(Search, "answer", answer)
        assert sweep(path, "--trials=10", "--out=killed") == 0
        for name in ("results.csv", "results.md"):
            assert (Path("whole") / name).read_text() == (Path("killed") / name).read_text()
        # Asking again for what is there trains nothing.
        monkeypatch.setattr(sweep_module, "run_command", None)
        assert sweep(path, "--trials=10", "--out=killed") == 0

    @pytest.mark.slow
    def test_ctrl_c(self, monkeypatch, capsys):
        def stop(self, trainer, pl_module):
            raise KeyboardInterrupt

        monkeypatch.setattr(TrialProgress, "on_train_epoch_end", stop)
        assert sweep(write(), "--trials=2") == 130
        assert "the same command goes on from here" in capsys.readouterr().out

    @pytest.mark.parametrize(("goal", "best"), [("maximize", max), ("minimize", min)])
    def test_a_trial_reports_its_best_so_far_and_stops_when_told(self, goal, best):
        reported = []

        def ask(epoch):
            reported.append(epoch.best)
            return epoch.number == 4

        progress = TrialProgress(ask, "loss", goal)
        values = [0.3, 0.5, 0.1, 0.4, 0.9]
        trainer = SimpleNamespace(max_epochs=9, should_stop=False, check_val_every_n_epoch=1)
        for trainer.current_epoch, value in enumerate(values):
            trainer.callback_metrics = {"loss": torch.tensor(value)}
            progress.on_train_epoch_end(trainer, None)
            if trainer.should_stop:
                break
        assert reported == pytest.approx([best(values[: n + 1]) for n in range(4)])
        assert progress.pruned

    @pytest.mark.slow
    def test_a_trial_that_fails_does_not_end_the_sweep(self, quick, capsys):
        path = write("grid", {"model.init_args.hidden": {"values": [[4], [0]]}})
        assert sweep(path) == 0
        rows = results("runs/sweeps/sweep")
        assert sorted(row["state"] for row in rows) == ["complete", "failed"]
        assert "failed: hidden must not be 0" in capsys.readouterr().out
        assert "| failed |" in (Path("runs/sweeps/sweep/results.md")).read_text().splitlines()[-1]


class TestSideBySide:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["grid", pytest.param("random", marks=pytest.mark.long)])
    def test_the_table_is_that_of_one_after_the_other(self, method, capsys):
        hidden = {"model.init_args.hidden": {"values": [[4], [8], [6, 4], [0]]}}  # the last cannot be built
        lr = {"optimizer.init_args.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}}
        path = write(method, hidden if method == "grid" else hidden | lr)
        assert sweep(path, "--trials=4", "--out=one") == 0
        capsys.readouterr()
        assert sweep(path, "--trials=4", "--out=two", "--jobs=2") == 0
        for name in ("results.csv", "results.md"):
            assert Path("one", name).read_text() == Path("two", name).read_text()
        assert re.findall(r"^\[(\d)/4\] trial", capsys.readouterr().out, re.MULTILINE) == ["1", "2", "3", "4"]

    @pytest.mark.slow
    @pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
    @pytest.mark.parametrize("storage", ["disk.journal", pytest.param("sqlite:///trials.db", marks=pytest.mark.long)])
    def test_two_processes_of_which_one_is_killed_give_the_table_of_one(self, storage):
        path = write()
        arguments = [path, "--trials=4", *SMALL[:-1], "--trainer.max_epochs=20"]
        command = [sys.executable, "-m", "ss_lightning", "sweep", *arguments]
        # Where an importable package lies that is not installed.
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}

        def start(out):
            shared = [f"--out={out}", "--storage", storage, "--dead_after=5"]
            return subprocess.Popen([*command, *shared], env=environment, stdout=subprocess.PIPE, text=True)

        killed, left = start("first"), start("second")
        deadline = time.monotonic() + 300
        while not any(len(log.read_text().splitlines()) > 2 for log in Path("first").glob("**/metrics.csv")):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed.kill()
        killed.communicate()
        printed, _ = left.communicate(timeout=300)
        assert left.returncode == 0
        assert "its process is gone; it runs again here" in printed
        assert sweep(*arguments, "--out=alone", small=False) == 0
        assert Path("alone/results.csv").read_text() == Path("second/results.csv").read_text()

    @pytest.mark.slow
    def test_the_bar_counts_trials_that_were_there(self, quick, monkeypatch):
        shown = []

        class Output:
            say = staticmethod(lambda line: None)
            show = staticmethod(shown.append)

        @contextmanager
        def progress(name, total):
            shown.append(f"of {total}")
            yield Output

        monkeypatch.setattr(sweep_module, "progress", progress)
        assert sweep(write(), "--trials=2") == 0
        assert shown[:2] == ["of 2", 0]
        shown.clear()
        assert sweep(write(), "--trials=4") == 0
        assert shown[:2] == ["of 4", 2]
        assert shown[-1] == 4


class TestPage:
    @pytest.mark.slow
    def test_it_holds_what_one_wants_to_know(self, quick, capsys):
        path = write("grid", {
            "model.init_args.hidden": {"values": [[4], [0], [6, 4]]},
            "optimizer.init_args.lr": {"values": [0.1, 0.2, 0.3]},
        })  # fmt: skip
        assert sweep(path) == 0
        page = Path("runs/sweeps/sweep/sweep.html").read_text()
        printed = capsys.readouterr().out
        assert "9 trials (" in page
        assert "3 failed" in page
        command = re.search(r"^train with it +(.+)$", printed, re.MULTILINE)[1]
        assert f"<pre>{escape(command)}</pre>" in page
        assert page.count("<img ") == 3
        assert "optuna-dashboard sqlite:///runs/sweeps/sweep/trials.db" in page
        assert "optuna-dashboard sqlite:///runs/sweeps/sweep/trials.db" in printed
        assert page.count("<tr>") == 10
        assert 'src="http' not in page

    @pytest.mark.slow
    def test_without_a_good_trial(self, quick, capsys):
        assert sweep(write("grid", {"model.init_args.hidden": {"values": [[0]]}})) == 1
        assert "No trial gave a value." in Path("runs/sweeps/sweep/sweep.html").read_text()
        assert "no trial gave a value" in capsys.readouterr().out

    def test_what_decides_is_important(self):
        study = optuna.create_study(direction="maximize")
        path = write("grid", {
            "model.init_args.hidden": {"values": [[4], [5], [6]]},
            "optimizer.init_args.lr": {"values": [0.1, 0.2, 0.3]},
            "model.init_args.skip": {"value": True},
        })  # fmt: skip
        read = read_sweep(Path(path))
        assert importances(read, study) == {}
        for hidden, lr in product(range(3), range(3)):
            settings = {"model.init_args.hidden": f"[{hidden + 4}]", "optimizer.init_args.lr": (lr + 1) / 10}
            settings["model.init_args.skip"] = True
            trial = optuna.trial.create_trial(params=settings, distributions=read.space, value=hidden + lr / 10)
            study.add_trial(trial)
        found = importances(read, study)
        assert list(found) == ["model.init_args.hidden", "optimizer.init_args.lr"]
        assert found["model.init_args.hidden"] > 0.9
        assert sum(found.values()) == pytest.approx(1)


class TestMistakes:
    """All of them before the first trial."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"method": "genetic"}, "method is 'genetic'; expected one of grid, random, bayes"),
            ({"metric": {"name": "val/accuracy"}}, "expected a name, such as val/accuracy, and a goal"),
            ({"parameters": {"a": 3}}, "sweep.yaml: a: expected value, values, or min and max"),
            ({"parameters": {"a": {"min": 2, "max": 1}}}, "min <= max"),
            ({"parameters": {"a": {"distribution": "beta"}}}, "distribution is beta; expected one of constant"),
            ({"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "must be above 0"),
            ({"command": ["python", "train.py", "${args}"]}, "command: [${env}, python, -m, ss_lightning, fit"),
            ({"early_terminate": {"type": "median"}}, "early_terminate needs type: hyperband"),
            ({"early_terminate": 3}, "early_terminate needs type: hyperband"),
            (
                {"early_terminate": {"type": "hyperband", "min_iter": "x"}},
                "min_iter is 'x'; expected a whole number from",
            ),
            (
                {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}},
                "eta is 1; expected a whole number from",
            ),
            ({"run_cap": "many"}, "run_cap is 'many'; expected a whole number of trials"),
            ({"parameters": {"a": {"values": []}}}, "values is []; expected a list of one or more"),
            ({"parameters": {"a": {"values": "abc"}}}, "values is 'abc'; expected a list of one or more"),
            ({"parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}}}, "q is 0; expected the"),
            ({"parameters": {"a": {"distribution": "q_uniform", "min": 5, "max": 7, "q": 4}}}, "no multiple of q"),
            ({"parameters": {"a": {"min": 0, "max": float("inf")}}}, "expected value, values, or numbers min and max"),
            ({"paramters": {}}, "unknown key paramters"),
            (
                {"parameters": {"a": {"values": [1, 2], "probabilities": [0, 1]}}},
                "a: probabilities is not supported here",
            ),
            ({"parameters": {"a": {"min": 1, "max": 9, "q": 2}}}, "a: q needs distribution: q_uniform"),
            ({"metric": {"name": "val/loss", "goal": "minimize", "target": 1}}, "metric: target is not supported here"),
            (
                {"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": True}},
                "early_terminate: strict is not supported here",
            ),
            ({"parameters": {"model.init_args.hiddn": {"values": [[3]]}}}, "Did you mean hidden?"),
            ({"parameters": {"optimizer.init_args.lr": {"values": [0.1, "fast"]}}}, "optimizer.init_args.lr = fast"),
            ({"parameters": {"model.init_args.neuron": {"values": ["single", "double"]}}}, "neuron = double"),
            ({"parameters": {"trainer.max_epoch": {"value": 3}}}, "Did you mean trainer.max_epochs?"),
        ],
    )
    def test_in_the_file(self, change, message, capsys):
        assert sweep(write(**change), "--trials=1") == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert not list(Path("runs").glob("**/trial_*"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "say how many trials to run: --trials N"),
            (["--trials=0"], "--trials is 0"),
            (["--trials=two"], "invalid int value"),
            (["--trials=1", "--jobs=0"], "--jobs is 0; expected 1 or more"),
            (["--trials=1", "--dead_after=1"], "--dead_after is 1; expected 5 seconds or more"),
            (["--trials=1", "--data.num_trian=3"], "unknown key data.num_trian"),
            (["--trials=1", "--model.init_args.hidden=[3]"], "varies model.init_args.hidden already"),
            (["--trials=1", "--model.hidden=[3]"], "varies model.hidden already"),
            (["--trials=1", "--seed=-1"], "--seed is -1; expected a whole number from 0 to"),
            (["--trials=1", "--out=a{lr}"], "{ } cannot stand in the name"),
            (["--trials=1", "--out=sweep.yaml"], "cannot write sweep.yaml: File exists"),
            (["--trials=1", "--trainer.accelerator=tpu"], "trainer.accelerator is tpu, but torch finds no such device"),
        ],
    )
    def test_on_the_command_line(self, arguments, message, capsys):
        assert sweep(write(), *arguments) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("content", [None, "- a list\n", "a: [\n"])
    def test_no_sweep_file(self, content, capsys):
        if content is not None:
            Path("bad.yaml").write_text(content)
        assert sweep("bad.yaml", "--trials=1") == 2
        assert "bad.yaml" in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_metric_that_is_not_logged(self, capsys):
        path = write(metric={"name": "val/acc", "goal": "maximize"})
        assert sweep(path, "--trials=3") == 2
        assert "searches by val/acc, which is not logged; logged are" in capsys.readouterr().err

    @pytest.mark.slow
    def test_several_devices(self, capsys):
        devices = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
        assert sweep(write(), "--trials=2", *devices) == 2
        assert "one of many trainings cannot be spread over 2 devices" in capsys.readouterr().err

    @pytest.mark.slow
    def test_another_sweep_in_the_same_folder(self, quick, capsys):
        assert sweep(write(), "--trials=1") == 0
        assert sweep(write("bayes"), "--trials=1") == 2
        assert "holds trials of another sweep (its sweep differed)" in capsys.readouterr().err

    @pytest.mark.slow
    def test_another_config_of_the_same_name(self, capsys):
        config = Path("mine.yaml")
        config.write_text((ROOT / "configs/yinyang.yaml").read_text())
        command = [word.replace("configs/yinyang.yaml", "mine.yaml") for word in COMMAND]
        path = write(command=command, run_cap=1)
        assert sweep(path) == 0
        assert sweep(write(command=command, run_cap=2, description="more of them")) == 0
        config.write_text(config.read_text().replace("tau_hidden_ms: 50", "tau_hidden_ms: 3"))
        assert sweep(path, "--trials=3") == 2
        assert "holds trials of another sweep (its config differed)" in capsys.readouterr().err

    @pytest.mark.slow
    def test_another_sweep_in_the_same_storage(self, quick, capsys):
        shared = "--storage=disk.journal"
        assert sweep(write(run_cap=1), shared) == 0
        assert sweep(write(run_cap=2), shared) == 0
        assert len(results("runs/sweeps/sweep")) == 2
        assert sweep(write("bayes"), "--trials=1", shared, "--out=other") == 2
        error = capsys.readouterr().err
        assert "--storage disk.journal holds trials of another sweep (its sweep differed), which is also" in error
        assert sweep(write("bayes", path="second.yaml"), "--trials=1", shared) == 0

    @pytest.mark.slow
    def test_one_search_writes_over_no_other(self, quick, capsys):
        assert sweep(write(), "--trials=1") == 0
        assert sweep(write("bayes"), "--trials=1", "--storage=disk.journal") == 2
        assert "holds the runs of another search; choose another folder with --out" in capsys.readouterr().err
        assert sweep(write("bayes"), "--trials=1", "--storage=disk.journal", "--out=other") == 0
        assert sweep(write("grid"), "--trials=1", "--storage=second.journal", "--out=other") == 2
        assert sweep(write("bayes"), "--trials=1", "--out=other") == 2

    @pytest.mark.slow
    def test_a_disk_without_room_fails_no_trial(self, monkeypatch, capsys):
        def full(path):
            raise OSError(errno.ENOSPC, "No space left on device")

        path = write()
        with monkeypatch.context() as now:
            now.setattr("ss_lightning.runs.checkpoints.write_whole", full)
            assert sweep(path, "--trials=1") == 2
        error = capsys.readouterr().err
        assert "cannot write the checkpoint" in error
        assert "No space left on device" in error
        assert sweep(path, "--trials=1") == 0
        assert [row["state"] for row in results("runs/sweeps/sweep")] == ["complete"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["results.md", "sweep.html"])
    def test_what_cannot_be_written(self, name, quick, capsys):
        Path("here", name).mkdir(parents=True)
        assert sweep(write(), "--trials=1", "--out=here") == 2
        assert "cannot write here: Is a directory" in capsys.readouterr().err

    def test_an_epoch_without_validation_is_waited_through(self):
        reported = []
        progress = TrialProgress(lambda epoch: bool(reported.append(epoch)), "val/loss", "minimize")
        trainer = SimpleNamespace(max_epochs=4, should_stop=False, check_val_every_n_epoch=2, callback_metrics={})
        trainer.current_epoch = 0
        progress.on_train_epoch_end(trainer, None)
        assert reported == []
        trainer.current_epoch, trainer.callback_metrics = 1, {"val/loss": torch.tensor(0.5)}
        progress.on_train_epoch_end(trainer, None)
        assert [(epoch.number, epoch.is_last) for epoch in reported] == [(2, False)]
        trainer.callback_metrics = {}
        with pytest.raises(UsageError, match="which is not logged"):
            TrialProgress(bool, "val/loss", "minimize").on_train_epoch_end(trainer, None)

    def test_two_at_once(self, capsys):
        from filelock import FileLock

        Path("busy").mkdir()
        with FileLock("busy/.lock"):
            assert sweep(write(), "--trials=1", "--out=busy") == 2
        assert "another process is running the sweep in busy" in capsys.readouterr().err

    def test_a_grid_without_end(self):
        with pytest.raises(UsageError, match="a grid needs values"):
            grid_values(read_sweep(Path(write("grid", {"model.init_args.tau_hidden_ms": {"min": 1.0, "max": 2.0}}))))


@pytest.mark.slow
def test_values_as_wandb_means_them():
    path = write("grid", {
        "data.init_args.num_steps": {"min": 10, "max": 12},
        "data.init_args.batch_size": {"distribution": "q_uniform", "min": 5, "max": 31, "q": 8},
        "model.init_args.tau_hidden_ms": {"distribution": "q_uniform", "min": 0.9, "max": 2, "q": 0.5},
        "model.init_args.hidden": {"values": [[3], [4, 5]]},
        "model.init_args.skip": {"value": True},
    })  # fmt: skip
    space = read_sweep(Path(path))
    assert grid_values(space) == {
        "data.init_args.num_steps": [10, 11, 12],
        "data.init_args.batch_size": [8, 16, 24],
        "model.init_args.tau_hidden_ms": [1.0, 1.5, 2.0],
        "model.init_args.hidden": ["[3]", "[4, 5]"],
        "model.init_args.skip": [True],
    }
    config, plain = check_sweep(space, [])
    assert config.model.init_args.hidden == plain["model.init_args.hidden"] == [120]


def test_hyperband_takes_both_forms():
    for given in ({"min_iter": 3, "eta": 3}, {"max_iter": 27, "s": 2, "eta": 3}):
        pruner = make_pruner(read_sweep(Path(write(early_terminate={"type": "hyperband", **given}))), 27)
        assert (pruner._min_resource, pruner._max_resource, pruner._reduction_factor) == (3, 27, 3)
    with pytest.raises(UsageError, match=r"needs trainer\.max_epochs"):
        make_pruner(read_sweep(Path("sweep.yaml")), -1)


def test_optuna_is_needed_only_here(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert main(["sweep", write(), "--trials=1"]) == 2
    assert 'pip install "ss-lightning[sweep]"' in capsys.readouterr().err
