"""Every shipped config runs, and every command of the README and of the pages that show how to do something."""

import re
import shlex
from pathlib import Path

import pytest
import snntorch as snn
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
    and not name.startswith("configs/own/")  # tests/data/test_own_configs.py
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOW_TO = [ROOT / "docs" / "start.md", *sorted(ROOT.glob("docs/howto/*.md"))]


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
    # The recordings that the page on one's own data begins with.
    page = (ROOT / "docs/howto/own_data.md").read_text(encoding="utf-8")
    exec(compile(blocks(page, "python")[0], "own_data.md", "exec"), {})
    return tmp_path


def test_there_are_configs():
    assert {"configs/yinyang.yaml", "configs/shd.yaml", "configs/paper/shd.yaml"} <= set(CONFIGS)


@pytest.mark.slow
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


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands():
    """Every command once, in order; not those that need several devices, a GPU or minutes."""
    text = "\n".join([README, *(path.read_text(encoding="utf-8") for path in HOW_TO)])
    found = re.findall(r"^python -m ss_lightning .*$", "\n".join(blocks(text, "bash")), re.MULTILINE)
    elsewhere = ("--trainer.devices", "--trainer.accelerator gpu", "ss_lightning benchmark")
    return [line for line in dict.fromkeys(found) if not any(words in line for words in elsewhere)]


@pytest.mark.slow
def test_commands_of_the_documentation(small_data, monkeypatch):
    """In the order in which they are read, so that each finds the runs that it needs."""
    assert len(commands()) >= 15
    monkeypatch.setenv("WANDB_MODE", "offline")
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    small.append("--pictures.every_n_epochs=0")
    few = ["--trainer.limit_test_batches=1", "--trainer.limit_predict_batches=1", "--data.batch_size=4"]
    further = {"fit": [*small, *few], "folds": [*small, *few]}
    further |= {"sweep": [*small, "--trials=2"], "report": [], "results": []}
    for command in commands():
        arguments = shlex.split(command)[3:]
        arguments += [] if "--recordings" in arguments else further.get(arguments[0], few)
        assert main(arguments) == 0, command
    # Python that needs such a run.
    code = "\n".join(blocks((ROOT / "docs" / "howto" / "trained_network.md").read_text(encoding="utf-8"), "py"))
    names = {}
    exec(compile(code, "trained_network.md", "exec"), names)
    assert not names["model"].training
    assert len(names["many"]) == 2


def test_readme_python_example_trains(small_data, capsys):
    (code,) = [block for block in blocks(README, "python") if "L.Trainer" in block]
    assert "max_epochs=5" in code
    exec(compile(code.replace("max_epochs=5", "fast_dev_run=True"), "README.md", "exec"), {})
    assert re.search(r"accuracy 0\.\d+, \d+ hidden spikes", capsys.readouterr().out)


def test_readme_is_short():
    assert len(README.splitlines()) <= 130


def test_readme_snntorch_example():
    (code,) = [block for block in blocks(README, "python") if "SingleSpikeLeaky" in block]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["neuron"], snn.Leaky)
    assert names["spk"].shape == (8, 300)
