"""Every strategy that Lightning offers on a CPU trains, and alike, or is refused in one line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "--data.num_train=40", "--data.num_val=20", "--data.num_test=20", "--data.num_steps=20", "--data.batch_size=10",
    "--model.hidden=[8]", "--trainer.max_epochs=2", "--pictures.every_n_epochs=0", "--trainer.accelerator=cpu",
    "--trainer.devices=2",
]  # fmt: skip


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ss_lightning", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def fit(folder, strategy, *arguments):
    config = str(ROOT / "configs" / "yinyang.yaml")
    return run(folder, "fit", "--config", config, *SMALL, f"--trainer.strategy={strategy}", *arguments)


def metrics(folder, run="version_0"):
    with (folder / "runs" / "yinyang" / run / "metrics.csv").open(encoding="utf-8") as file:
        # What depends on the machine and not on the seed is left out.
        return [{key: value for key, value in row.items() if "samples_per" not in key and "memory" not in key}
                for row in csv.DictReader(file)]  # fmt: skip


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    done = fit(folder, "ddp")
    assert done.returncode == 0, done.stderr
    return metrics(folder)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_trains_as_ddp_does(strategy, ddp, tmp_path):
    """Optimizer and schedule of the config included: the copy of the model in another process has them."""
    done = fit(tmp_path, strategy)
    assert done.returncode == 0, done.stderr
    assert "best accuracy" in done.stdout
    assert metrics(tmp_path) == ddp
    assert [float(row["train/lr"]) for row in ddp if row["train/lr"]] == pytest.approx([0.003, 0.0029918], abs=1e-7)
    summary = json.loads((tmp_path / "runs/yinyang/version_0/summary.json").read_text(encoding="utf-8"))
    assert (summary["state"], summary["epochs"]) == ("finished", 2)


@pytest.mark.slow
def test_the_rest_of_the_command_line(tmp_path):
    done = fit(tmp_path, "ddp_fork", "--trainer.max_steps=3")
    assert done.returncode == 0, done.stderr
    assert "note  the training stopped inside epoch 2, after 1 of 2 batches" in done.stdout
    checkpoint = "runs/yinyang/version_0/checkpoints/last.ckpt"
    done = run(tmp_path, "predict", "--ckpt_path", checkpoint)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "runs/yinyang/predict_0/predictions.csv").read_text(encoding="utf-8").splitlines()) == 21


@pytest.mark.slow
def test_an_error_of_another_process(tmp_path):
    done = fit(tmp_path, "ddp_fork", "--optimizer=SGD", "--optimizer.lr=1e30")
    assert done.returncode == 2
    assert "error: the training has diverged: " in done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads((tmp_path / "runs/yinyang/version_0/summary.json").read_text(encoding="utf-8"))
    assert summary["state"] == "failed"
    assert (tmp_path / "runs/yinyang/version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("fsdp", "requires a GPU accelerator"),
        ("deepspeed", "you must have DeepSpeed installed"),
        ("deepspeed_stage_3_offload", "you must have DeepSpeed installed"),
        ("single_tpu", ""),
        ("xla", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_is_refused_in_one_line(strategy, said, tmp_path, capsys, monkeypatch):
    from ss_lightning.cli.commands import main

    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs" / "yinyang.yaml")
    assert main(["fit", "--config", config, *SMALL, f"--trainer.strategy={strategy}"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert not (tmp_path / "runs").exists()
