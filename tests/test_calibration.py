"""Weights that start neither silent nor saturated."""

import warnings
from pathlib import Path

import lightning as L
import pytest
import torch

from ss_lightning import MLP, ConvNet, EventBatch, MLPClassifier
from ss_lightning.calibration import calibrate_weights, scale_weights, silent_layers, wake_silent_layers
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


@pytest.mark.slow
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


def images_that_fire_once(num_steps, batch_size=4, side=16):
    times = torch.randint(0, num_steps, (1, batch_size, side * side))
    return torch.zeros(num_steps, batch_size, side * side).scatter_(0, times, 1.0).unflatten(2, (1, side, side))


@pytest.mark.parametrize(("num_steps", "density"), [(4, 0.5), (30, 0.1), (300, 0.03), (2048, 0.02)])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_network_of_any_depth_starts_alive(num_steps, density, depth):
    torch.manual_seed(0)
    spikes = EventBatch.from_dense((torch.rand(num_steps, 8, 100) < density).float())
    options = {"input_shape": (100,), "num_classes": 3, "step_ms": 1.0, "hidden": [60] * depth, "input_gain": 4.0}
    network = MLP(**options, estimator="survival")
    output = network(spikes)
    output.readout.mean().backward()
    assert min((layer.spike_count > 0).float().mean() for layer in output.activity) > 0.03
    assert all(layer.weight.grad.abs().max() > 0 for layer in network.hidden_synapses)


def test_with_the_weights_of_the_paper_it_does_not():
    torch.manual_seed(0)
    spikes = EventBatch.from_dense((torch.rand(100, 8, 100) < 0.03).float())
    network = MLP(input_shape=(100,), num_classes=3, step_ms=1.0, hidden=[60] * 4, input_gain=4.0, hidden_gain=1.0)
    assert rates(network, spikes)[1:] == [0.0] * 3


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("num_steps", [4, 32])
def test_so_do_convolutions(num_steps, pool):
    torch.manual_seed(0)
    sizes = {"channels": [8] * 4, "kernel_size": 3, "padding": 1, "pool_size": [2, 1, 2, 1], "hidden": [50, 50]}
    network = ConvNet(input_shape=(1, 16, 16), num_classes=3, step_ms=1.0, pool=pool, tau_hidden_ms=50.0, **sizes)
    assert min(rates(network, images_that_fire_once(num_steps))) > 0.05


@pytest.mark.parametrize("options", [{}, {"weight_norm": True}, {"skip": True}, {"neuron": "multi"}])
def test_silent_layers_are_woken_and_others_left_alone(options):
    torch.manual_seed(0)
    spikes = EventBatch.from_dense((torch.rand(40, 30, 20) < 0.2).float())
    network = MLP(**COMMON, hidden=[80, 60, 60], input_gain=3.0, hidden_gain=1e-3, **options)
    if options.get("skip"):
        network.synapses[1].weight.data.fill_(-1.0)  # for the first layer reaches the third as well
    before = [layer.weight.detach().clone() for layer in network.synapses]
    # A layer of its own kind reaches the third past the second, which is inhibited whatever its scale.
    assert set(silent_layers(network, spikes)) == {1, 2}
    woken = wake_silent_layers(network, spikes)
    assert set(woken) == {1, 2}
    assert woken[2].factor > 1
    assert (woken[1].factor == 1) == bool(options.get("skip"))
    assert rates(network, spikes)[2] == pytest.approx(0.2, abs=0.06)
    if not options.get("skip"):
        assert rates(network, spikes)[1] == pytest.approx(0.2, abs=0.06)
    for depth in (0, 3):
        assert torch.equal(network.synapses[depth].weight, before[depth])


def fit(caplog, batches=1, model=MLPClassifier, **options):
    """Warnings and messages of a short training of a network."""
    caplog.clear()
    torch.manual_seed(0)
    data = YinYangData(num_steps=30, num_train=200, num_val=40, num_test=1)
    model = model(input_shape=data.input_shape, num_classes=3, step_ms=1.0, **options)
    trainer = L.Trainer(
        max_epochs=1,
        limit_train_batches=batches, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught, caplog.at_level("INFO", "lightning.pytorch"):
        warnings.simplefilter("always")
        trainer.fit(model, data)
    said = [str(warning.message) for warning in caught] + [record.getMessage() for record in caplog.records]
    return model, [line for line in said if "hidden layer" in line]


def test_a_training_wakes_what_is_silent_and_says_so(caplog):
    _, said = fit(caplog, hidden=[60, 60], input_gain=1e-3, hidden_gain=1e-2)
    assert [line.split(":")[0] for line in said] == ["hidden layer 0 starts silent", "hidden layer 1 starts silent"]
    assert "0.0% of its neurons fired on the first batch. Its weights were multiplied by" in said[0]
    assert "model.input_gain" in said[0]
    assert "model.hidden_gain" in said[1]
    _, said = fit(caplog, hidden=[60, 60], input_gain=4.0)
    assert said == []


@pytest.mark.parametrize("start_rate", ["auto", None])
def test_what_is_not_scaled_keeps_every_bit(caplog, start_rate):
    """The recipes of the paper may start silent, and those with weight normalisation start as they are drawn."""
    gains = {"input_gain": 4.0, "hidden_gain": 4.0 if start_rate else 1e-2}
    kept = {}

    class Kept(MLPClassifier):
        def on_train_batch_start(self, batch, batch_index):
            kept["before"] = {name: value.clone() for name, value in self.network.state_dict().items()}
            super().on_train_batch_start(batch, batch_index)
            kept["after"] = {name: value.clone() for name, value in self.network.state_dict().items()}

    fit(caplog, model=Kept, hidden=[60, 60], weight_norm=True, start_rate=start_rate, **gains)
    assert all(torch.equal(kept["before"][name], value) for name, value in kept["after"].items())


def test_a_training_that_may_not_wake_names_the_silent_layers(caplog):
    _, said = fit(caplog, hidden=[60, 60], input_gain=4.0, hidden_gain=1e-2, start_rate=None)
    assert [line.split(".")[0] for line in said] == [
        "hidden layer 1 starts silent: 0",
        "hidden layer 1 is silent after epoch 1: 100% of its neurons fired for no validation sample",
    ]
    assert all("model.start_rate" in line and "model.hidden_gain" in line for line in said)


def test_scales_are_left_alone_where_currents_are_normalised(caplog):
    _, said = fit(caplog, batches=None, hidden=[60], batch_norm=True)
    assert not any("starts silent" in line for line in said)


@pytest.mark.parametrize("start_rate", [0.0, 1.0, "auro", True])
def test_start_rates_that_mean_nothing_are_refused(start_rate):
    with pytest.raises(ValueError, match="start_rate must be auto, null or lie between 0 and 1"):
        MLPClassifier(**COMMON, start_rate=start_rate)


@pytest.mark.slow
def test_a_user_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = str(Path(__file__).parents[1] / "configs" / "yinyang.yaml")
    small = ["--data.num_train=40", "--data.num_val=10", "--data.num_test=10", "--trainer.max_epochs=1"]
    assert main(["fit", "--config", config, *small, "--model.start_rate=0.9999"]) == 2
    assert "error: start_rate: hidden layer 0 cannot fire at a rate of 0.9999" in capsys.readouterr().err
    assert not Path("runs").exists()
