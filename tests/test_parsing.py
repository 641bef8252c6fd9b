"""A setting that does not fit is found by asking the arguments, whatever the parser says in its own words."""

import shutil
from pathlib import Path

import pytest

from ss_lightning.cli import main
from ss_lightning.parsing import typed_settings, written_settings

ROOT = Path(__file__).parents[1]
YINYANG = ROOT / "configs/yinyang.yaml"
SHD = ROOT / "configs/quick/shd.yaml"


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
        (YINYANG, ["--optimizer", "Adamm"], "optimizer: there is no class Adamm. Did you mean torch.optim.Adam?"),
        (YINYANG, ["--optimizer.lr", "abc"], "optimizer.lr: expected a number, got abc"),
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
        ("hidden: [256]", "hidden: wide", "model.hidden: expected a list of whole numbers, such as [200]"),
    ],
)
def test_in_a_config(old, new, said, tmp_path_factory, capsys):
    theirs = tmp_path_factory.mktemp("configs") / "theirs.yaml"
    theirs.write_text(SHD.read_text().replace(old, new))
    assert said in answer(capsys, "--config", theirs)


def test_explaining_a_mistake_imports_nothing(tmp_path, monkeypatch, capsys):
    """A value with a dot may be a file, and a Python file of that name may lie beside it."""
    (tmp_path / "foreign.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["fit", "--config", str(YINYANG), "--trainer.default_root_dir", "foreign.csv", "--model.hiden", "3"]
    assert main(arguments) == 2
    assert "unknown key model.hiden" in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.hidden=[0.5]"], "model.hidden: expected a"),
        (["--data.num_steps=many"], "data.num_steps: expected a"),
        (["--lr_scheduler.T_mx=3"], "unknown key lr_scheduler.T_mx of torch.optim.lr_scheduler.CosineAnnealingLR."),
        (["--checkpoint.mode=up", "--checkpoint.save_top_k=x"], "checkpoint.save_top_k: "),
        (["--optimizer.class_path=torch.nn.Linear"], "not correspond to a subclass of Optimizer"),
        (["--modle.hidden", "3"], "unknown key modle.hidden. Did you mean model.hidden?"),
        (["--config", "none.yaml"], "--config: there is no file none.yaml"),
        (["--model.surrogate=step"], "expected fast_sigmoid or atan or triangle, got step"),
    ],
)
def test_relatives(words, said, capsys):
    assert said in answer(capsys, "--config", YINYANG, *words)


def test_a_checkpoint_that_is_not_there(capsys):
    assert main(["test", "--ckpt_path", "nothing.ckpt"]) == 2
    assert capsys.readouterr().err.strip() == "error: --ckpt_path: there is no file nothing.ckpt"


def test_a_backend_that_cannot_run_here(capsys):
    small = ["--data.num_train=40", "--data.num_val=10", "--data.num_steps=10", "--trainer.max_epochs=1"]
    said = answer(capsys, "--config", YINYANG, *small, "--trainer.accelerator=cpu", "--model.backend=triton")
    assert "error: the triton backend cannot be used: " in said
    assert "Traceback" not in said


def test_a_run_of_an_earlier_version_is_told_the_new_name(tmp_path_factory, capsys):
    run = tmp_path_factory.mktemp("runs") / "version_0"
    shutil.copytree(ROOT / "tests/files/standard_neuron_run", run)
    (checkpoint,) = run.rglob("best.ckpt")
    assert main(["test", "--ckpt_path", str(checkpoint)]) == 2
    assert "standard is now called standard_single" in capsys.readouterr().err
