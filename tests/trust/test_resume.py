"""A training that is killed and resumed ends as one left alone, bit for bit, wherever it was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ss_lightning.errors import UsageError
from ss_lightning.files import write_whole
from ss_lightning.runs.checkpoints import AtomicCheckpointIO, metrics_before
from ss_lightning.runs.folders import find_checkpoint, is_first_process, is_whole

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("SS_LIGHTNING_LONG_TESTS"))
FIT = [
    "fit", "--config", str(ROOT / "configs" / "yinyang.yaml"), "--data.num_train=60", "--data.num_val=20",
    "--data.batch_size=32", "--data.num_steps=20", "--model.hidden=[8]", "--trainer.max_epochs=3",
    "--pictures.every_n_epochs=0", "--trainer.enable_progress_bar=false",
]  # fmt: skip
# What depends on the clock and the machine.
UNSTEADY = {"train/samples_per_second", "train/peak_memory_mib"}


def drive(tmp_path, jobs):
    """Exit codes of the runs of each job; ``jobs`` are lists of runs by the name of their folder."""
    content = [{"folder": str(tmp_path / name), "runs": runs} for name, runs in jobs.items()]
    (tmp_path / "jobs.json").write_text(json.dumps(content))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SS_LIGHTNING_CACHE": str(tmp_path / "cache")}
    environment.pop("SS_LIGHTNING_RUN", None)
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), "jobs.json", "results.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(jobs, json.loads((tmp_path / "results.json").read_text()), strict=True))


def newest(folder):
    runs = (folder / "runs" / "yinyang").glob("version_*")
    return max(runs, key=lambda run: int(run.name.rpartition("_")[2]))


def outcome(run):
    """All that must be the same: checkpoints but for paths and times, and metrics."""
    with (run / "metrics.csv").open(newline="") as file:
        metrics = [{k: v for k, v in row.items() if k not in UNSTEADY} for row in csv.DictReader(file)]
    found = {"metrics": metrics}
    for name in ("last", "best"):
        content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        callbacks = content.pop("callbacks")
        best = next(state for key, state in callbacks.items() if key.startswith("BestCheckpoint"))
        seed = next(state for key, state in callbacks.items() if key.startswith("LastCheckpoint"))
        found[name] = flat({**content, "score": best["best_model_score"], "seed": seed["seed"]})
    return found


def flat(value, name=""):
    """Leaves of nested containers by name, tensors as bytes."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for key, item in enumerate(value) for k, v in flat(item, f"{name}/{key}").items()}
    return {name: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value}


def order(folder):
    """Batches by epoch and number; each time one was trained on it must have been the same."""
    batches = {}
    for line in (folder / "order.txt").read_text().splitlines():
        epoch, index, units = line.split(" ", 2)
        assert batches.setdefault((int(epoch), int(index)), units) == units
    return batches


def check_resumed(folder, codes, alone):
    assert codes[-1] == 0, (folder / "stderr.txt").read_text()
    assert outcome(newest(folder)) == outcome(newest(alone))
    assert order(folder) == order(alone)
    assert not list(newest(folder).rglob(".*.part.*"))


# The last of them is behind the end of the training: nothing is left to do.
MOMENTS = [("validation_step before", 1), ("file half", 3), ("metrics.csv half", 4), ("replace after", 5)]
OTHER_MOMENTS = [("training_step", 0), ("training_step", 3), ("save before", 3), ("file half", 3), ("replace after", 3)]
OPTIONS = {
    "plateau": [
        "--lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--lr_scheduler.monitor=val/loss",
        "--lr_scheduler.patience=0", "--lr_scheduler.threshold=10",
    ],
    "workers": ["--data.num_workers=2"],
}  # fmt: skip
MORE_OPTIONS = {
    "intervals": ["--trainer.val_check_interval=0.5", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=4"],
    "multi": ["--model.neuron=multi", "--trainer.check_val_every_n_epoch=2"],
}
# Of a training without a seed only what follows a checkpoint can be repeated; several best ones must go along.
SEEDLESS = [*FIT, "--seed_everything=false", "--checkpoint.save_top_k=2", "--checkpoint.filename=best_{epoch}"]
BEGUN = "--ckpt_path=../begun/runs/yinyang/version_0/checkpoints/last.ckpt"
# How a training can end inside its second epoch: what is added to its arguments, and what happens at its third batch.
ENDS = {
    "max_time": (["--trainer.max_time=00:01:00:00"], "time"),
    "max_steps": (["--trainer.max_steps=3"], None),
    "SIGTERM": ([], signal.SIGTERM),
    "SIGINT": ([], signal.SIGINT),
    "exception": ([], "error"),
    "kill": ([], signal.SIGKILL),
}
EXIT_CODES = {"max_time": 0, "max_steps": 0, "SIGTERM": 143, "SIGINT": 130, "exception": 99, "kill": -signal.SIGKILL}
SETTINGS = [(precision, workers) for precision in ("32-true", "bf16-mixed", "64-true") for workers in (0, 2)]
# Every end, every precision and both numbers of workers; the long tests take all combinations.
MATRIX = [
    (end, *setting) for n, end in enumerate(ENDS) for setting in (SETTINGS if LONG else [SETTINGS[(1, 2, 5)[n % 3]]])
]
STOPS = {"SIGTERM": (signal.SIGTERM, 143), "Ctrl-C": (signal.SIGINT, 130)}


def killed(fit, *moments, by=signal.SIGKILL):
    """Runs of a job that is ended at one or several moments and then resumed."""
    again = [*fit, "--ckpt_path=last"]
    runs = [{"arguments": again if n else fit, "stop_at": list(moment), "by": by} for n, moment in enumerate(moments)]
    return [*runs, {"arguments": again}]


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """Folder and exit codes of all trainings; they are forked from one process, which is slow to start."""
    folder = tmp_path_factory.mktemp("driven")
    options = {**OPTIONS, **(MORE_OPTIONS if LONG else {})}
    jobs = {"alone": [{"arguments": FIT}], "too early": killed(FIT, ("file half", 0))}
    jobs |= {f"alone {kind}": [{"arguments": [*FIT, *given]}] for kind, given in options.items()}
    for moment in every_moment(tmp_path_factory.mktemp("counted")) if LONG else MOMENTS:
        jobs["killed " + " ".join(map(str, moment))] = killed(FIT, moment)
    if LONG:
        jobs["killed thrice"] = killed(FIT, ("training_step", 1), ("file half", 1), ("replace after", 0))
    for kind, given in options.items():
        for name, n in OTHER_MOMENTS if LONG else [("training_step", 3)]:
            jobs[f"killed with {kind} {name} {n}"] = killed([*FIT, *given], (name, n))
    jobs["begun"] = [{"arguments": [*SEEDLESS, "--trainer.max_epochs=1"]}]
    jobs["seedless"] = [{"arguments": [*SEEDLESS, BEGUN]}]
    jobs["killed seedless"] = [
        {"arguments": [*SEEDLESS, BEGUN], "stop_at": ["training_step", 3]},
        {"arguments": [*SEEDLESS, "--ckpt_path=last"]},
    ]
    for name, (number, _) in STOPS.items():
        for moment in (("training_step", 2), ("file half", 3)) if LONG else [("training_step", 2)]:
            jobs[f"{name} at {moment[0]}"] = killed(FIT, moment, by=number)
    return folder, drive(folder, jobs)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Folder and exit codes of the trainings of the matrix."""
    folder = tmp_path_factory.mktemp("ended")
    jobs = {}
    for end, precision, workers in MATRIX:
        fit = [*FIT, f"--trainer.precision={precision}", f"--data.num_workers={workers}"]
        jobs[f"alone {precision} {workers}"] = [{"arguments": fit}]
        given, by = ENDS[end]
        moment = {} if by is None else {"stop_at": ["training_step", 2], "by": by}
        # One goes on with a limit of another kind, which Lightning treats as a training that has no epochs.
        limit = ["--trainer.max_steps=1000"] if end == "max_steps" else []
        runs = [{"arguments": [*fit, *given], **moment}, {"arguments": [*fit, *limit, "--ckpt_path=last"]}]
        jobs[f"{end} {precision} {workers}"] = runs
    return folder, drive(folder, jobs)


def every_moment(folder):
    drive(folder, {"counted": [{"arguments": FIT}]})
    names = (folder / "counted" / "events.txt").read_text().splitlines()
    numbered = [(name, names[:n].count(name)) for n, name in enumerate(names)]
    return numbered[numbered.index(("training_step", 0)) :]  # before it there is nothing to resume from


def test_killed_at_any_moment(driven):
    folder, codes = driven
    kills = 0
    for name, found in codes.items():
        if name.startswith("killed ") and name != "killed seedless":
            assert found[:-1] == [-signal.SIGKILL] * (len(found) - 1), name
            kills += len(found) - 1
            alone = f"alone {name.split()[2]}" if name.startswith("killed with") else "alone"
            check_resumed(folder / name, found, folder / alone)
    print(f"{kills} kills survived")
    assert kills >= 6


@pytest.mark.parametrize(("end", "precision", "workers"), MATRIX)
def test_ended_in_every_way(ended, end, precision, workers):
    folder, codes = ended
    name = f"{end} {precision} {workers}"
    assert codes[name] == [EXIT_CODES[end], 0]
    check_resumed(folder / name, codes[name], folder / f"alone {precision} {workers}")
    stopped = list((folder / name).rglob("stopped.ckpt"))
    assert len(stopped) == (end in ("max_time", "max_steps"))
    said = "the training stopped inside epoch 2, after 1 of 2 batches" in (folder / name / "stdout.txt").read_text()
    assert said == bool(stopped)
    for checkpoint in stopped:
        assert torch.load(checkpoint, weights_only=True)["global_step"] == 3


def test_killed_before_there_is_anything(driven):
    folder, codes = driven
    assert codes["too early"] == [-signal.SIGKILL, 2]
    assert "--ckpt_path last: there is none" in (folder / "too early" / "stderr.txt").read_text()


def test_a_training_without_seed_goes_on_with_the_one_it_drew(driven):
    folder, codes = driven
    assert codes["killed seedless"] == [-signal.SIGKILL, 0]
    runs = [newest(folder / name) / "checkpoints" for name in ("seedless", "killed seedless")]
    weights = [flat(torch.load(run / "last.ckpt", weights_only=True)["state_dict"]) for run in runs]
    assert weights[0] == weights[1]
    names = [{path.name for path in run.iterdir()} for run in runs]
    assert names[0] == names[1]
    assert len(names[0]) == 3
    assert order(folder / "seedless") == order(folder / "killed seedless")


@pytest.mark.parametrize("by", STOPS)
def test_stopped_by_a_signal(driven, by):
    folder, codes = driven
    for name in codes:
        if name.startswith(f"{by} "):
            error = (folder / name / "stderr.txt").read_text()
            assert codes[name][0] == STOPS[by][1], error
            assert f"stopped by {by}. To go on from the last epoch that was finished: the same command with" in error
            assert "Traceback" not in error
            stopped = json.loads((newest(folder / name).with_name("version_0") / "summary.json").read_text())
            assert stopped["state"] == "interrupted"
            check_resumed(folder / name, codes[name], folder / "alone")


def test_a_scratch_file_never_takes_the_place_of_a_whole_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), write_whole(path) as scratch:
        scratch.write_text(str(1 / 0))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_said(tmp_path):
    io = AtomicCheckpointIO()
    io.save_checkpoint({"a": 1}, tmp_path / "last.ckpt")
    with pytest.raises(UsageError, match="cannot write the checkpoint"):
        io.save_checkpoint({"a": 2}, tmp_path / "last.ckpt" / "below_a_file.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt") == {"a": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"a": 1}, path)
    (tmp_path / ".last.part.ckpt").symlink_to("/dev/full")
    with pytest.raises(UsageError, match="Make room there"):
        io.save_checkpoint({"a": torch.zeros(100_000)}, path)
    assert io.load_checkpoint(path) == {"a": 1}


def test_the_newest_whole_checkpoint_is_found(tmp_path, capsys):
    for number in range(3):
        path = tmp_path / f"version_{number}" / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        torch.save({"number": torch.full((100,), number)}, path)
    assert find_checkpoint(tmp_path, "last") == path
    whole = path.read_bytes()
    name = whole.rindex(b"last/data.pkl")  # in the directory of the archive
    wrong_name = whole[:name] + b"\xe1" + whole[name + 1 :]
    for damage in (b"", whole[:-1], whole[: len(whole) // 2], whole[:200] + b"?" + whole[201:], wrong_name):
        path.write_bytes(damage)
        assert not is_whole(path)
        assert find_checkpoint(tmp_path, "last") == tmp_path / "version_1" / "checkpoints" / "last.ckpt"
    assert "is damaged and is passed over" in capsys.readouterr().err


def test_a_torn_row_of_metrics_is_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,a\n0,1,0.5\n0,2,\n1,30,nan\n1,3")
    assert list(metrics_before(tmp_path, 10)) == [(1, {"epoch": 0, "a": 0.5}), (2, {"epoch": 0})]
    assert list(metrics_before(tmp_path / "none", 10)) == []


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),
        ({"RANK": "3", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "2"}, False),
    ],
)
def test_the_first_process_is_known(variables, first):
    assert is_first_process(variables) is first
