"""Weights that start neither silent nor saturated."""

from pathlib import Path

import lightning as L
import pytest
import torch

from ss_lightning import MLP, ConvNet, EventBatch, MLPClassifier
from ss_lightning.calibration import calibrate_weights, scale_weights
from ss_lightning.cli.commands import main
from ss_lightning.data import YinYangData

COMMON = {"input_shape": (20,), "num_classes": 3, "step_ms": 1.0}


def rates(network, spikes):
    return [(layer.spike_count > 0).float().mean().item() for layer in network(spikes).activity]


@pytest.mark.slow
@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("options", [{}, {"weight_norm": True}, {"neuron": "multi"}, {"onset_ms": 20.0}])
def test_every_layer_reaches_the_rate_whatever_the_start(gain, options):
    torch.manual_seed(0)
    spikes = EventBatch.from_dense((torch.rand(40, 30, 20) < 0.2).float())
    network = MLP(**COMMON, hidden=[80, 60], input_gain=gain, **options)
    before = [p.clone() for p in network.parameters()]
    factors = calibrate_weights(network, spikes, 0.4)
    assert rates(network, spikes) == pytest.approx([0.4, 0.4], abs=0.02)
    assert network.training
    scale_weights(network, [1 / factor for factor in factors])
    for now, then in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [{"channels": [8]}, {"channels": [8, 6], "padding": 1, "pool_size": [1, 2]}])
def test_convolutions_too(sizes):
    torch.manual_seed(0)
    spikes = (torch.rand(8, 4, 100) < 0.3).float()
    network = ConvNet(input_shape=(1, 10, 10), num_classes=3, step_ms=1.0, kernel_size=3, hidden=[30], **sizes)
    calibrate_weights(network, spikes, 0.3)
    assert rates(network, spikes) == pytest.approx([0.3] * (len(sizes["channels"]) + 1), abs=0.05)


def test_what_cannot_fire_is_said():
    network = MLP(**COMMON, hidden=[5])
    before = network.synapses[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"hidden layer 0 cannot fire at a rate of 0.5: .* it is 0.000"):
        calibrate_weights(network, torch.zeros(10, 2, 20), 0.5)
    torch.testing.assert_close(network.synapses[0].weight, before)
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrate_weights(MLP(**COMMON, hidden=[5]), torch.zeros(10, 2, 20), 1.0)
    with pytest.raises(ValueError, match="batch_norm"):
        calibrate_weights(
            ConvNet(input_shape=(1, 28, 28), num_classes=3, step_ms=1.0, batch_norm=True), torch.zeros(1), 0.3
        )


def test_training_starts_at_the_rate():
    data = YinYangData(num_steps=30, num_train=200, num_val=40, num_test=1)
    model = MLPClassifier(
        input_shape=data.input_shape, num_classes=3, step_ms=1.0, hidden=[100], input_gain=1e-3, start_rate=0.5
    )
    spikes, _ = next(iter(data.val_dataloader()))
    assert rates(model.network, spikes) == [0.0]
    trainer = L.Trainer(
        max_epochs=1, limit_train_batches=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, data)
    assert rates(model.network, spikes) == pytest.approx([0.5], abs=0.1)


@pytest.mark.slow
def test_a_user_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = str(Path(__file__).parents[1] / "configs" / "yinyang.yaml")
    small = ["--data.num_train=40", "--data.num_val=10", "--data.num_test=10", "--trainer.max_epochs=1"]
    assert main(["fit", "--config", config, *small, "--model.start_rate=0.9999"]) == 2
    assert "error: start_rate: hidden layer 0 cannot fire at a rate of 0.9999" in capsys.readouterr().err
    assert not Path("runs").exists()
