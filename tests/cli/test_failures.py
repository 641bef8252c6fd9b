"""Parts of a config that do not fit the training are named; no traceback of another library is shown."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ss_lightning.cli.commands import main
from ss_lightning.cli.failures import explain
from ss_lightning.module import SpikingClassifier

ROOT = Path(__file__).parents[2]
YINYANG = str(ROOT / "configs" / "yinyang.yaml")
SMALL = [
    "--data.num_train=40", "--data.num_val=20", "--data.num_test=20", "--data.num_steps=20", "--data.batch_size=20",
    "--model.hidden=[8]", "--trainer.max_epochs=2", "--pictures.every_n_epochs=0",
]  # fmt: skip
CALLBACKS = "lightning.pytorch.callbacks"
OWN = """\
from lightning.pytorch import Callback
class Mine(Callback):
    def on_train_start(self, trainer, module):
        helper()
def helper():
    raise KeyError("nothing")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    return tmp_path


def fit(*arguments):
    return main(["fit", "--config", YINYANG, *SMALL, *arguments])


def callback(path, **arguments):
    return "--trainer.callbacks=" + json.dumps([{"class_path": path, "init_args": arguments}])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        # The function is not the one that is asked for: of Python, of torch's C++, with other arguments.
        (
            "ss_lightning.runs.progress.EpochLines",
            {"write": "torch.nn.functional.relu"},
            "trainer.callbacks.write: torch.nn.functional.relu (expected: Callable[[str], None] | None) does not work "
            "in this training: TypeError: relu(): argument 'input' (position 1) must be Tensor, not str.",
        ),
        (
            "ss_lightning.runs.progress.EpochLines",
            {"write": "torch.nn.functional.linear"},
            "trainer.callbacks.write: torch._C._nn.linear (expected: Callable[[str], None] | None) does not work",
        ),
        (
            f"{CALLBACKS}.LambdaCallback",
            {"on_fit_start": "ss_lightning.functional.single_spike"},
            "trainer.callbacks.on_fit_start: ss_lightning.functional.single_spike.single_spike (expected: ",
        ),
        (
            f"{CALLBACKS}.LambdaCallback",
            {"setup": "torch.nn.init.zeros_"},
            "zeros_() got an unexpected keyword argument 'stage'",
        ),
        # The callback needs what is not there.
        (
            f"{CALLBACKS}.BackboneFinetuning",
            {},
            f"trainer.callbacks: {CALLBACKS}.BackboneFinetuning does not work in this training: AttributeError: "
            "'MLPClassifier' object has no attribute 'backbone'.",
        ),
        (f"{CALLBACKS}.BaseFinetuning", {}, "BaseFinetuning does not work in this training: NotImplementedError."),
        (f"{CALLBACKS}.LearningRateFinder", {}, f"trainer.callbacks: {CALLBACKS}.LearningRateFinder does not work"),
        (f"{CALLBACKS}.EarlyStopping", {"monitor": "x"}, "Early stopping conditioned on metric `x` which is not"),
        (
            f"{CALLBACKS}.EarlyStopping",
            {"monitor": "val/loss", "mode": "sideways"},
            f"trainer.callbacks: {CALLBACKS}.EarlyStopping: `mode` can be min, max, got sideways\n",
        ),
        # It breaks the training somewhere else.
        (
            f"{CALLBACKS}.ModelPruning",
            {"pruning_fn": "l1_unstructured"},
            f"try it without trainer.callbacks: {CALLBACKS}.ModelPruning. SS_LIGHTNING_TRACEBACK=1 shows where",
        ),
    ],
)
def test_a_part_that_does_not_fit(path, arguments, said, capsys):
    assert fit(callback(path, **arguments)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_nothing_is_left_of_a_training_that_did_not_begin(folder):
    assert fit(callback(f"{CALLBACKS}.BackboneFinetuning")) == 2
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_code_of_the_user_is_named_with_its_line(folder, monkeypatch, capsys):
    (folder / "mymodule.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    assert fit("--trainer.callbacks=mymodule.Mine") == 2
    error = capsys.readouterr().err
    assert "trainer.callbacks: mymodule.Mine does not work in this training: KeyError: 'nothing'" in error
    assert "(mymodule.py, line 6). SS_LIGHTNING_TRACEBACK=1 shows where\n" in error


def test_the_traceback_is_there_for_who_asks(monkeypatch, capsys):
    monkeypatch.setenv("SS_LIGHTNING_TRACEBACK", "1")
    assert fit("--model.hidden=[0]") == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("\nerror: hidden must list at least one layer of at least one neuron, got [0]\n")


def test_a_bug_stays_one(monkeypatch):
    """The negative control: an error of this package is blamed on nobody, whatever optimizer stands on the stack."""

    def broken(module, batch, index):
        raise TypeError("a bug")

    monkeypatch.setattr(SpikingClassifier, "training_step", broken)
    with pytest.raises(TypeError, match="a bug"):
        fit()


RAISED = "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  File x\n{}"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("ss_lightning.errors.DivergedError: the training has\ndiverged\n", 2, "the training has\ndiverged"),
        ("ss_lightning.errors.DataError: a.h5: broken\n", 1, "a.h5: broken"),
        ("lightning.fabric.utilities.exceptions.MisconfigurationException: no: such thing\n", 2, "no: such thing"),
        ("NotImplementedError\n", 1, "process 1 of this run has ended with NotImplementedError. "),
        (
            "KeyError: 'a'\n\nDuring handling\n\nTraceback (most recent call last):\n  File y\nOSError: [E] b\n",
            1,
            "OSError",
        ),
    ],
)
def test_an_error_of_a_process_that_was_spawned(text, code, said):
    shown, exit_code = explain(ProcessRaisedException(RAISED.format(text), 1, 99))
    assert exit_code == code
    assert said in shown
    assert "Traceback" not in shown


def test_a_process_that_was_killed():
    error = ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 99, -9, "SIGKILL")
    assert explain(error) == ("a process of this run has ended: process 1 terminated with signal SIGKILL", 1)


def test_an_environment_without_the_package_is_one_line():
    """As of somebody who has not activated the environment: -S leaves all installed packages out."""
    words = [sys.executable, "-S", "-m", "ss_lightning", "fit", "--config", "configs/yinyang.yaml"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert re.fullmatch(r"error: \w+ is missing in .*Activate the environment.*\n", found.stderr)
