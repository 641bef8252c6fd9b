"""A setting that does not fit is found by asking the arguments, whatever the parser says in its own words."""

import shutil
from pathlib import Path

import pytest

from ss_lightning.cli import main
from ss_lightning.parsing import typed_settings, written_settings

ROOT = Path(__file__).parents[1]
YINYANG = ROOT / "configs/yinyang.yaml"
SHD = ROOT / "configs/shd.yaml"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answer(capsys, *arguments):
    assert main(["fit", *map(str, arguments)]) == 2
    assert not list(Path().iterdir()), "nothing is left of a command that could not be parsed"
    return capsys.readouterr().err.strip()


def test_settings_of_a_command_line():
    assert typed_settings(["fit", "--a.b", "1", "--c=2", "--d+=3", "--e"]) == [
        ("a.b", "1"), ("c", "2"), ("d", "3"), ("e", ""),
    ]  # fmt: skip


def test_settings_of_a_config():
    assert written_settings({"a": {"b": 1}, "c": None}) == [("a", {"b": 1}), ("a.b", 1), ("c", None)]
    assert written_settings([1]) == []


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        (SHD, ["--data.unit_bin", "10"], "unit_bin is now called units_per_input."),
        (SHD, ["--data.spare_test_file", "true"], "spare_test_file is now called exclude_test_file."),
        (YINYANG, ["--model.neuron", "standard"], "model.neuron: standard is now called standard_single."),
        (YINYANG, ["--model.neuron", "lif"], "expected single or standard_single or multi, got lif"),
        (YINYANG, ["--optimizer", "Adamm"], "optimizer: expected the path of a class, such as torch.optim.Adam"),
        (YINYANG, ["--optimizer.lr", "abc"], "optimizer.lr: Expected a float"),
        (YINYANG, ["--trainer.max_epochs", "many"], "trainer.max_epochs: "),
        (YINYANG, ["--pictures.every_n_epoch", "3"], "unknown key pictures.every_n_epoch."),
    ],
)
def test_on_the_command_line(config, words, said, capsys):
    assert said in answer(capsys, "--config", config, *words)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("step_ms: 4", "unit_bin: 5", "unit_bin is now called units_per_input."),
        ("neuron: single", "neuron: standard", "standard is now called standard_single."),
        ("hidden: [256]", "hidden: wide", "model.hidden: Expected a Sequence"),
    ],
)
def test_in_a_config(old, new, said, tmp_path_factory, capsys):
    theirs = tmp_path_factory.mktemp("configs") / "theirs.yaml"
    theirs.write_text(SHD.read_text().replace(old, new))
    assert said in answer(capsys, "--config", theirs)


def test_a_run_of_an_earlier_version_is_told_the_new_name(tmp_path_factory, capsys):
    run = tmp_path_factory.mktemp("runs") / "version_0"
    shutil.copytree(ROOT / "tests/files/standard_neuron_run", run)
    (checkpoint,) = run.rglob("best.ckpt")
    assert main(["test", "--ckpt_path", str(checkpoint)]) == 2
    assert "standard is now called standard_single" in capsys.readouterr().err
