"""Runs that log to W&B (offline: its run folder is read) and to TensorBoard."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ss_lightning.cli.commands import main
from ss_lightning.cli.weights_and_biases import finish_wandb

ROOT = Path(__file__).parents[2]
CONFIGS = [f"--config={ROOT / 'configs/yinyang.yaml'}"]
SMALL = [
    "--data.num_train=64", "--data.num_val=32", "--data.num_test=8", "--data.num_steps=20", "--model.hidden=[8]",
    "--trainer.max_epochs=2",
]  # fmt: skip
RUN = Path("runs/yinyang/version_0")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A user without a login, in a new folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "SS_LIGHTNING_RUN":
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    end_wandb()  # it keeps the settings of the first run of a process, which may be another test's
    yield tmp_path
    end_wandb()


def end_wandb():
    """End the service that writes the files, and wait for it: the end of a run does not wait for the last write."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def records(path):
    """The records of a ``.wandb`` file: a LevelDB log, in blocks of 32 KiB, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    content, position, message = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position + 7 <= len(content):
        if (left := 2**15 - position % 2**15) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        part = content[position + 7 : position + 7 + length]
        position += 7 + length
        whole, first, _, last = 1, 2, 3, 4
        message = part if kind in (whole, first) else message + part
        if kind in (whole, last):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record


def items(entries):
    return {entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


@pytest.mark.slow
def test_wandb_offline_holds_the_whole_run(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["fit", *CONFIGS, f"--config={ROOT / 'configs/wandb.yaml'}", *SMALL]) == 0
    end_wandb()
    (run,) = (RUN / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    found = list(records(file))
    kinds = [record.WhichOneof("record_type") for record in found]

    configs = [items(record.config.update) for record in found if record.WhichOneof("record_type") == "config"]
    assert len(configs) == 1, "the config is logged once"
    (config,) = configs
    assert config["model.init_args.hidden"] == [8]
    assert config["optimizer.init_args.lr"] == 0.003
    assert config["data.init_args.num_steps"] == 20
    assert (config["seed"], config["data_set"], config["device"]) == (0, "YinYangData", "cpu")
    assert config["versions.torch"] == torch.__version__.partition("+")[0]
    assert "git_commit" in config
    assert config["parameters"] > 0

    history = [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]
    accuracy = [row["val/accuracy"] for row in history if "val/accuracy" in row]
    assert len(accuracy) == 2
    assert sum("train/samples_per_second" in row and "train/peak_memory_mib" in row for row in history) == 2

    summary = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert summary["val/accuracy"] == {"max": max(accuracy)}
    assert set(summary["val/loss"]) == {"min"} == set(summary["val/spikes_per_sample"])

    images = {path.name.rpartition("_")[0].rpartition("_")[0] for path in run.glob("files/media/images/pictures/*.png")}
    assert {"input_raster", "hidden_raster", "readout", "dead_neurons"} <= images
    assert "exit" in kinds
    assert (RUN / "metrics.csv").is_file(), "the CSV file is there as well"
    saved = yaml.safe_load((RUN / "config.yaml").read_text())
    assert saved["trainer"]["logger"]["init_args"]["save_dir"] == "."


@pytest.mark.slow
def test_no_login(capsys):
    assert main(["fit", *CONFIGS, f"--config={ROOT / 'configs/wandb.yaml'}", *SMALL]) == 2
    error = capsys.readouterr().err
    assert "error: Weights & Biases: " in error
    assert "WANDB_MODE=offline" in error
    assert "Traceback" not in error
    assert not RUN.exists()


def test_a_server_that_went_away_is_named_with_what_to_do(capsys, monkeypatch):
    class Run:
        dir = "runs/x/wandb/run-1/files"

        def finish(self, exit_code):
            raise TimeoutError

    monkeypatch.setitem(sys.modules, "wandb", type("wandb", (), {"run": Run(), "teardown": staticmethod(lambda: None)}))
    finish_wandb()
    assert (
        "Nothing is lost; send the run later: wandb sync --include-online runs/x/wandb/run-1" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_tensorboard():
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["fit", *CONFIGS, f"--config={ROOT / 'configs/tensorboard.yaml'}", *SMALL]) == 0
    events = EventAccumulator(str(RUN)).Reload()
    assert {"val/accuracy", "train/samples_per_second"} <= set(events.Tags()["scalars"])
    assert "pictures/hidden_raster" in events.Tags()["images"]
    assert (RUN / "metrics.csv").is_file()


@pytest.mark.slow
def test_no_logger_leaves_the_checkpoints_and_the_account():
    assert main(["fit", *CONFIGS, "--trainer.logger=false", *SMALL, "--pictures.every_n_epochs=0"]) == 0
    assert not (RUN / "metrics.csv").exists()
    assert (RUN / "checkpoints/best.ckpt").is_file()
    assert json.loads((RUN / "summary.json").read_text())["state"] == "finished"
