"""Trained networks in the NeuroBench harness: its numbers are ours, or docs/neurobench.md says why not."""

import lightning as L
import pytest
import snntorch as snn
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ss_lightning import ConvClassifier, LeakyReadout, MLPClassifier, SingleSpikeLeaky
from ss_lightning.data import YinYangData
from ss_lightning.energy import split_input
from ss_lightning.export import load_classifier
from ss_lightning.metrics import SynopsPerSample, input_spike_count

pytest.importorskip("neurobench")

from neurobench.benchmarks import Benchmark
from neurobench.metrics.workload import ActivationSparsity, ClassificationAccuracy, SynapticOperations
from neurobench.models import SNNTorchModel, TorchModel

METRICS = [[], [ActivationSparsity, SynapticOperations, ClassificationAccuracy]]


class BatchFirst(nn.Module):
    """A classifier as NeuroBench calls it: ``[B, T, N]`` in, class scores ``[B, C]`` out."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, spikes):
        return self.classifier.scores(self.classifier(spikes.transpose(0, 1)))


def harness(classifier, x, labels, neurons=SingleSpikeLeaky):
    """NeuroBench's numbers for spikes ``[T, B, ...]`` in batches of 16."""
    model = TorchModel(BatchFirst(classifier))
    model.add_activation_module(neurons)
    loader = DataLoader(TensorDataset(x.transpose(0, 1), labels), batch_size=16)
    return Benchmark(model, loader, [], [lambda scores: scores.argmax(1)], METRICS).run(quiet=True)


def synops(classifier, x):
    """Our number for spikes ``[T, B, ...]``."""
    output = classifier(x)
    counts = torch.cat([input_spike_count(x), *(layer.spike_count for layer in output.activity)], 1)
    metric = SynopsPerSample()
    metric.update(counts, torch.cat(classifier.network.fan_out()))
    return metric.compute().item()


def dense(data):
    data.setup("test")
    batches = list(data.test_dataloader())
    return torch.cat([spikes for spikes, _ in batches], 1), torch.cat([labels for _, labels in batches])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint, the test set it is tried on and what Lightning's test says of it."""
    data = YinYangData(num_steps=30, num_train=640, num_val=10, num_test=64, input="dense")
    L.seed_everything(0, verbose=False)
    model = MLPClassifier(
        input_shape=[4], num_classes=3, step_ms=1.0, hidden=[40, 20], skip=True, input_gain=4.0, estimator="survival"
    )
    trainer = L.Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model, data)
    with torch.no_grad():
        model.network.synapses[1].weight[:, ::4] = 0  # synapses that are not there do not count
    checkpoint = tmp_path_factory.mktemp("run") / "best.ckpt"
    trainer.save_checkpoint(checkpoint)
    (logged,) = trainer.test(model, data, verbose=False)
    return load_classifier(checkpoint), data, logged


def test_a_trained_checkpoint_gives_the_numbers_of_our_metrics(trained):
    model, data, logged = trained
    x, labels = dense(data)
    results = harness(model, x, labels)
    neurons, steps = 60, 30
    assert results["ActivationSparsity"] == pytest.approx(
        1 - logged["test/spikes_per_sample"] / (neurons * steps), abs=1e-6
    )
    assert results["SynapticOperations"]["Effective_ACs"] == pytest.approx(logged["test/synops_per_sample"], rel=1e-6)
    assert results["SynapticOperations"]["Effective_MACs"] == 0
    updates = logged["test/neuron_updates_per_sample"]
    energy = (0.9 * (results["SynapticOperations"]["Effective_ACs"] + updates) + 4.6 * updates) / 1000
    assert energy == pytest.approx(logged["test/energy_nj"], rel=1e-6)
    assert 0 < updates < steps * (neurons + 3)
    assert results["SynapticOperations"]["Dense"] * 4.6 / 1000 / steps == pytest.approx(logged["test/energy_dense_nj"])
    assert results["ClassificationAccuracy"] == pytest.approx(logged["test/accuracy"], abs=1e-6)
    assert 0.3 < logged["test/accuracy"] < 1


def total(results):
    return sum(results["SynapticOperations"][key] for key in ("Effective_ACs", "Effective_MACs"))


@pytest.mark.parametrize("padding", [0, 1])
def test_a_dense_step_of_a_convolutional_network_uses_as_many_weights(padding):
    torch.manual_seed(0)
    options = {"channels": [4, 3], "kernel_size": 3, "padding": padding, "pool_size": [2, 1], "hidden": [12]}
    model = ConvClassifier(input_shape=[1, 11, 9], num_classes=3, step_ms=1.0, **options).eval()
    x = (torch.rand(5, 8, 1, 11, 9) < 0.3).float()
    results = harness(model, x, torch.zeros(8, dtype=torch.long))
    assert results["SynapticOperations"]["Dense"] == 5 * model.network.weight_uses
    net = ConvClassifier(input_shape=[1, 11, 9], num_classes=3, step_ms=1.0, **{**options, "padding": 2}).network
    assert results["SynapticOperations"]["Dense"] != 5 * net.weight_uses


class TestWhereDefinitionsDiffer:
    """Each difference of docs/neurobench.md, and that it is the whole difference."""

    @pytest.fixture
    def labels(self):
        return torch.zeros(32, dtype=torch.long)

    def test_a_readout_taken_for_spikes_lowers_the_sparsity(self, labels):
        torch.manual_seed(0)
        model = MLPClassifier(input_shape=[20], num_classes=3, step_ms=1.0, hidden=[30], input_gain=4.0)
        x = (torch.rand(25, 32, 20) < 0.1).float()
        hidden = harness(model, x, labels)["ActivationSparsity"]
        everything = harness(model, x, labels, snn.SpikingNeuron)["ActivationSparsity"]
        readout = (model(x).readout == 0).float().mean().item()
        assert everything == pytest.approx((30 * hidden + 3 * readout) / 33)
        assert everything < hidden

    def test_a_unit_that_fires_twice_in_a_step_counts_once_there_and_twice_here(self, labels):
        torch.manual_seed(0)
        model = MLPClassifier(input_shape=[20], num_classes=3, step_ms=1.0, hidden=[30], input_gain=4.0)
        once = (torch.rand(25, 32, 20) < 0.1).float()
        twice = once * 2
        theirs, ours = total(harness(model, twice, labels)), synops(model, twice)
        extra = once.sum().item() * 30 / 32  # each of the second spikes meets 30 synapses
        assert theirs == pytest.approx(ours - extra)

    def test_a_constant_current_counts_in_every_step_there_and_once_here(self, labels):
        torch.manual_seed(0)
        model = MLPClassifier(input_shape=[20], num_classes=3, step_ms=1.0, hidden=[30], threshold=100.0)
        x = (torch.rand(1, 32, 20) * (torch.rand(1, 32, 20) < 0.5)).expand(25, -1, -1)
        found = harness(model, x, labels)["SynapticOperations"]
        events, values = split_input(x)
        assert not events.any()
        assert found["Effective_MACs"] == pytest.approx(25 * values.sum().item() * 30 / 32)
        assert found["Effective_ACs"] == 0

    @pytest.mark.parametrize("pool", ["max", "avg"])
    @pytest.mark.parametrize("padding", [0, 1])
    def test_spikes_that_meet_in_a_pool_count_once_there(self, labels, pool, padding):
        torch.manual_seed(0)
        options = {"channels": [4], "kernel_size": 3, "padding": padding, "pool": pool, "hidden": [12]}
        model = ConvClassifier(input_shape=[1, 10, 10], num_classes=3, step_ms=1.0, **options).eval()
        model.network.convolutions[0].weight.data *= 4
        x = (torch.rand(12, 32, 1, 10, 10) < 0.1).float()
        results = harness(model, x, labels)
        spikes = model.network.conv_neurons[0](model.network.convolutions[0](x.flatten(0, 1)).unflatten(0, (12, 32)))
        windows = nn.functional.avg_pool2d(spikes.flatten(0, 1), 2) * 4
        met = (windows - 1).clamp(min=0).sum().item()
        assert met > 0
        assert total(results) == pytest.approx(synops(model, x) - met * 12 / 32)
        assert (results["SynapticOperations"]["Effective_MACs"] > 0) == (pool == "avg")


def test_a_step_loop_runs_in_their_snntorch_wrapper():
    """No adapter is needed for ``nn.Sequential``; what it returns are the spikes of the last layer."""
    torch.manual_seed(0)
    layers = [nn.Linear(20, 30), SingleSpikeLeaky(0.9, init_hidden=True), nn.Linear(30, 3), LeakyReadout(0.9)]
    layers[0].weight.data *= 4
    net = nn.Sequential(*layers)
    x = (torch.rand(25, 32, 20) < 0.1).float()
    loader = DataLoader(TensorDataset(x.transpose(0, 1), torch.zeros(32)), batch_size=16)
    results = Benchmark(SNNTorchModel(net), loader, [], [], [[], [ActivationSparsity, SynapticOperations]]).run(
        quiet=True
    )
    layers[1].sequence = True
    spikes = layers[1](layers[0](x))
    assert (spikes.sum(0) <= 1).all()
    assert results["ActivationSparsity"] == pytest.approx(1 - spikes.sum().item() / (25 * 32 * 33))
    expected = (x.sum() * 30 + spikes.sum() * 3).item() / 32
    assert results["SynapticOperations"]["Effective_ACs"] == pytest.approx(expected)
