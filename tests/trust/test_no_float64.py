"""float64 is used only where a device has it: Apple's MPS has none, and a whole run must do without."""

from pathlib import Path

import lightning
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ss_lightning as ssl
from ss_lightning.calibration import calibrate_weights
from ss_lightning.cli.commands import main
from ss_lightning.data import YinYangData
from ss_lightning.functional import backends

YINYANG = str(Path(__file__).parents[2] / "configs" / "yinyang.yaml")
SMALL = ["--data.num_train=96", "--data.num_val=40", "--data.num_test=40", "--data.num_steps=12", "--model.hidden=[8]"]


class WithoutFloat64(TorchDispatchMode):
    """Every tensor is as if on a device without float64: an operation that takes, makes or asks for one fails."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for leaf in tree_leaves((args, kwargs, result)):
            dtype = leaf.dtype if isinstance(leaf, torch.Tensor) else leaf
            if isinstance(dtype, torch.dtype) and dtype in (torch.float64, torch.complex128):
                raise TypeError(f"{func}: this device has no float64")
        return result


@pytest.fixture
def device_without_float64(monkeypatch, tmp_path):
    """What an unknown device gets: plain PyTorch, and nothing in float64."""
    monkeypatch.setitem(backends.OF_DEVICE, "cpu", "torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    with WithoutFloat64():
        yield


def test_what_is_looked_for_would_be_found(device_without_float64):
    for use in (
        lambda: torch.zeros((), dtype=torch.float64),
        lambda: torch.ones(2).double(),
        lambda: torch.ones(2).sum(dtype=torch.float64),
        lambda: torch.tensor(1.0).to(torch.float64),
    ):
        with pytest.raises(TypeError, match="no float64"):
            use()


@pytest.mark.slow
def test_the_first_command_of_the_readme_and_what_follows(device_without_float64, capsys):
    """Fit with pictures and a start rate, then test and predict, as typed."""
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=true"]
    fit = ["fit", "--config", YINYANG, *SMALL, *quiet, "--trainer.max_epochs=2", "--pictures.every_n_epochs=1"]
    assert main([*fit, "--model.start_rate=0.5"]) == 0
    best = next(Path("runs").rglob("best.ckpt"))
    assert main(["test", "--ckpt_path", str(best), "--trainer.enable_progress_bar=false"]) == 0
    assert main(["predict", "--ckpt_path", str(best), "--trainer.enable_progress_bar=false"]) == 0
    assert "accuracy" in capsys.readouterr().out


def networks():
    """One option of each kind, by what it changes."""
    mlp = {"input_shape": [4], "num_classes": 3, "step_ms": 1.0, "hidden": [8, 6]}
    mlp |= {"input_gain": 4.0, "backend": "torch"}
    conv = {"input_shape": [1, 2, 2], "num_classes": 3, "step_ms": 1.0, "channels": [3], "hidden": [6]}
    conv |= {"kernel_size": 2, "pool_size": 1}
    yield "plain", lambda: ssl.MLPClassifier(**mlp, spike_target=[0.1, 0.5], spike_weight=1.0, label_smoothing=0.1)
    yield "skip", lambda: ssl.MLPClassifier(**mlp, skip=True, dropout=0.2, weight_norm=True)
    yield "normalised", lambda: ssl.MLPClassifier(**mlp, batch_norm=True, log_tau=True, learn_threshold=True)
    yield "onsets", lambda: ssl.MLPClassifier(**mlp, onset_ms=5.0, tau_hidden_ms=[5.0, 50.0], estimator="survival")
    yield "first spike", lambda: ssl.MLPClassifier(**mlp, decoder="first_spike", surrogate="atan")
    yield "delays", lambda: ssl.MLPClassifier(**mlp, max_delay_ms=4.0, delay_line_ms=[0.0, 2.0])
    yield "delay a synapse", lambda: ssl.MLPClassifier(**mlp, max_delay_ms=4.0, delay_per_synapse=True)
    yield "multi", lambda: ssl.MLPClassifier(**mlp, neuron="multi", decoder="max")
    yield "standard", lambda: ssl.MLPClassifier(**mlp, neuron="standard_single", decoder="softmax")
    yield "convolutions", lambda: ssl.ConvClassifier(**conv, batch_norm=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in networks()])
@pytest.mark.parametrize("form", ["events", "dense"])
def test_every_option_trains_tests_and_predicts(device_without_float64, make, form):
    model = make()
    data = YinYangData(num_steps=12, step_ms=1, num_train=32, num_val=16, num_test=16, batch_size=16, input=form)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert len(trainer.predict(model, data)) == 1
    assert "neurons" in repr(model)


def test_weights_are_scaled(device_without_float64):
    torch.manual_seed(0)  # of eight neurons with weights of any sign too few may be able to fire
    network = ssl.MLP(input_shape=[4], num_classes=3, step_ms=1.0, hidden=[8])
    calibrate_weights(network, torch.ones(12, 5, 4), 0.3)
