"""Which epoch is the best is asked in one place: terminal, report, results and searches agree."""

import json
import math
from pathlib import Path

import pytest

from ss_lightning.cli import main
from ss_lightning.runs import best_epoch, read_run

ROOT = Path(__file__).parents[2]
EPOCHS = [
    {"epoch": 1, "val/accuracy": 0.5, "val/loss": 0.9},
    {"epoch": 2, "val/accuracy": 0.8, "val/loss": 0.7},
    {"epoch": 3, "val/accuracy": 0.8, "val/loss": 0.2},
    {"epoch": 4, "val/accuracy": 0.6},
]


@pytest.mark.parametrize(
    ("monitor", "mode", "epoch"),
    [("val/accuracy", "max", 2), ("val/accuracy", "min", 1), ("val/loss", "min", 3), (None, "max", 4), ("x", "min", 4)],
)
def test_best_epoch(monitor, mode, epoch):
    assert best_epoch(EPOCHS, monitor, mode)["epoch"] == epoch


def test_not_a_number_is_never_best():
    assert (
        best_epoch([{"epoch": 1, "val/loss": 2.0}, {"epoch": 2, "val/loss": math.nan}], "val/loss", "min")["epoch"] == 1
    )
    assert best_epoch([{"epoch": 1, "val/loss": math.nan}], "val/loss", "min")["epoch"] == 1
    assert best_epoch([], "val/loss", "min") == {}


@pytest.mark.slow
@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/spikes_per_sample", "min")])
def test_terminal_summary_and_report_name_the_same_epoch(monitor, mode, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    small = ["--data.num_train=200", "--data.num_val=50", "--data.num_steps=20", "--model.hidden=[8]"]
    choice = [f"--checkpoint.monitor={monitor}", f"--checkpoint.mode={mode}"]
    fit = [
        "fit",
        "--config",
        str(ROOT / "configs/yinyang.yaml"),
        "--trainer.max_epochs=4",
        "--pictures.every_n_epochs=0",
    ]
    assert main([*fit, *small, *choice]) == 0
    said = capsys.readouterr().out
    run = read_run(Path("runs/yinyang/version_0"))
    values = run.epochs[monitor]
    epoch = int(run.epochs["epoch"][values.idxmin()])
    assert int(run.best["epoch"]) == epoch
    assert json.loads((run.folder / "summary.json").read_text())["metrics"]["epoch"] == epoch
    assert f"(epoch {epoch})" in said
