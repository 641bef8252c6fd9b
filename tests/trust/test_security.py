"""A config or a checkpoint of someone else cannot run code, and a W&B key stays where it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ss_lightning.cli.commands import main
from ss_lightning.cli.imports import MODULES_VARIABLE, Trust
from ss_lightning.errors import UsageError
from ss_lightning.runs.checkpoints import AtomicCheckpointIO

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
YINYANG = ROOT / "configs" / "yinyang.yaml"
SMALL = [
    "--data.num_train=20", "--data.num_val=10", "--data.num_test=10", "--data.num_steps=10", "--trainer.max_epochs=1",
    "--model.hidden=[4]",
]  # fmt: skip
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a module that leaves a trace when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    (tmp_path / "foreign.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\nfrom ss_lightning.data import YinYangData\n"
        "class Data(YinYangData): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("foreign", None)


def config(old="ss_lightning.data.YinYangData", new="foreign.Data"):
    Path("theirs.yaml").write_text(YINYANG.read_text().replace(old, new))
    return ["fit", "--config", "theirs.yaml", *SMALL]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class_path: ss_lightning.data.YinYangData", "class_path: foreign.Data"),
        ("max_epochs: 30", "max_epochs: 30\n  callbacks: foreign.Data"),
        ("max_epochs: 30", "max_epochs: 30\n  callbacks: [{class_path: foreign.Data}]"),
        ("max_epochs: 30", "max_epochs: 30\n  strategy: foreign.Data"),
        ("T_max: 30", "T_max: foreign.Data"),
    ],
)
def test_a_config_imports_no_module_that_is_not_allowed(old, new, capsys):
    assert main(config(old, new)) == 2
    error = capsys.readouterr().err
    assert "foreign.Data is not of a module that a config may name" in error
    assert f"{MODULES_VARIABLE}=foreign" in error
    assert not Path("imported").exists()
    assert not Path("runs").exists()


def test_who_trusts_a_module_says_so(monkeypatch):
    monkeypatch.setenv(MODULES_VARIABLE, "other, foreign")
    assert main(config()) == 0
    assert Path("imported").exists()


def test_what_is_typed_is_trusted():
    assert main(["fit", "--config", str(YINYANG), "--data=foreign.Data", *SMALL]) == 0


def test_names_of_files_are_no_modules(tmp_path):
    (tmp_path / "data.v2").mkdir()
    (tmp_path / "own.yaml").write_text("data: {init_args: {root: data.v2}}\nmonitor: val/accuracy\nlr: 1.5\n")
    Trust([]).check_names(tmp_path / "own.yaml")
    (tmp_path / "own.yaml").write_text("a: 1\nb: os.path\n")
    with pytest.raises(UsageError, match=r"line 2: os\.path is not of a module"):
        Trust([]).check_names(tmp_path / "own.yaml")


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_no_environment_makes_a_checkpoint_run_code(monkeypatch):
    """torch has a variable that turns its protection off where a caller does not insist on it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": {}, "trap": Trap()}, "theirs.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint("theirs.ckpt")
    assert main(["test", "--config", str(YINYANG), *SMALL, "--ckpt_path=theirs.ckpt"]) == 2
    assert not Path("executed").exists()


@pytest.mark.long
def test_a_wandb_key_reaches_no_file_and_no_line(tmp_path):
    environment = {**os.environ, "WANDB_API_KEY": KEY, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable, "-m", "ss_lightning", "fit", "--config", str(YINYANG), "--config",
        str(ROOT / "configs" / "wandb.yaml"), *SMALL,
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
