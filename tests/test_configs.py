"""Every shipped config and every command of the README runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from ss_lightning.cli.commands import main

ROOT = Path(__file__).parents[1]
SWEEPS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/sweeps/*.yaml"))
# Configs that go over another one.
OVERLAYS = ["configs/tensorboard.yaml", "configs/wandb.yaml"]
CONFIGS = sorted(
    name
    for path in ROOT.glob("configs/**/*.yaml")
    if (name := path.relative_to(ROOT).as_posix()) not in {*SWEEPS, *OVERLAYS}
)
README = (ROOT / "README.md").read_text()


@pytest.fixture
def small_data(tmp_path, monkeypatch, shd, idx, nmnist, cifar10):
    """A folder ``data`` with small files in every format, as the configs expect below where they are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shd.write_pair(tmp_path / "data")
    shd.write_ssc(tmp_path / "data")
    nmnist.write_all(tmp_path / "data")
    cifar10.write_all(tmp_path / "data")
    for name in ("MNIST", "FashionMNIST"):
        idx.write_all(tmp_path / "data", name)
    return tmp_path


def test_there_are_configs():
    assert {"configs/yinyang.yaml", "configs/shd.yaml", "configs/paper/shd.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("config", CONFIGS)
def test_config_survives_a_fast_development_run(config, small_data):
    options = ["--trainer.fast_dev_run=1", "--data.batch_size=4"]
    if "start_rate" in (ROOT / config).read_text():
        # Seventy passes through a deep network, to find the start; tests/test_calibration.py looks at that.
        options.append("--model.start_rate=null")
    assert main(["fit", "--config", config, *options]) == 0


@pytest.mark.parametrize("config", CONFIGS)
def test_config_says_what_it_is(config):
    text = (ROOT / config).read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["seed_everything"] == 0


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = sorted(set(re.findall(r"^python -m ss_lightning .*$", "\n".join(readme_blocks("bash")), re.MULTILINE)))


def test_readme_commands(small_data, monkeypatch):
    """In the order of the README, one fit first so that the others find a checkpoint."""
    assert len(COMMANDS) >= 8
    monkeypatch.setenv("WANDB_MODE", "offline")
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    small.append("--pictures.every_n_epochs=0")
    few = ["--trainer.limit_test_batches=1", "--trainer.limit_predict_batches=1", "--data.batch_size=4"]
    further = {"fit": [*small, *few], "folds": [*small, *few]}
    further |= {"sweep": [*small, "--trials=2"], "report": [], "results": []}
    for command in sorted(COMMANDS, key=lambda line: (" fit " not in line, "--ckpt_path" in line)):
        arguments = shlex.split(command)[3:]
        arguments += further.get(arguments[0], few)
        assert main(arguments) == 0, command


def test_readme_python_example_trains(small_data, monkeypatch):
    (code,) = [block for block in readme_blocks("python") if "L.Trainer" in block]
    code = code.replace("max_epochs=10", "fast_dev_run=True")
    exec(compile(code, "README.md", "exec"), {})


def test_readme_own_data_example(small_data):
    rng = np.random.default_rng(0)
    names = {
        "times": [np.sort(rng.random(20)) * 0.2 for _ in range(10)],
        "units": [rng.integers(0, 64, 20) for _ in range(10)],
        "labels": np.arange(10) % 2,
    }
    (code,) = [block for block in readme_blocks("python") if "EventData" in block]
    exec(compile(code, "README.md", "exec"), names)
    events, labels = next(iter(names["data"].train_dataloader()))
    assert events.shape == (100, 8, 64)
    assert labels.shape == (8,)


def test_readme_snntorch_examples():
    names = {}
    for code in readme_blocks("python"):
        if "SingleSpikeLeaky" in code:
            exec(compile(code, "README.md", "exec"), names)
    assert names["spikes"].shape == (50, 8, 300)
    assert names["spikes"].sum(0).max() <= 1
