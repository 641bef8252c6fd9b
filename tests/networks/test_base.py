import math
from typing import ClassVar

import pytest
import torch

from ss_lightning import MLP, ConvNet, EventBatch, SingleSpikeLeaky, StandardSingleSpikeLeaky
from ss_lightning.functional.first_spike import first_spike_time
from ss_lightning.losses import classification_loss, spike_penalty
from ss_lightning.metrics import EvaluationMetrics
from ss_lightning.networks import base
from ss_lightning.networks.base import ActivityOnDemand

COMMON = {"input_shape": (7,), "num_classes": 3, "step_ms": 1.0}


def dense_input(steps=30, batch=4, units=7, density=0.3):
    torch.manual_seed(0)
    return (torch.rand(steps, batch, units) < density).to(torch.uint8)


def test_one_word_picks_the_neuron_and_nothing_else():
    nets = {}
    for kind in ("single", "standard_single", "multi"):
        torch.manual_seed(1)
        nets[kind] = MLP(**COMMON, neuron=kind)
    assert type(nets["single"].neurons[0]) is SingleSpikeLeaky
    assert type(nets["standard_single"].neurons[0]) is StandardSingleSpikeLeaky
    for kind in ("standard_single", "multi"):
        for (name, a), (other, b) in zip(nets["single"].named_parameters(), nets[kind].named_parameters(), strict=True):
            assert name == other
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "standard"}, "neuron: standard is now called standard_single."),
        ({"neuron": "triple"}, "choose single, standard_single or multi"),
        ({"estimator": "rmap"}, "choose one of ramp"),
        ({"surrogate": "relu"}, "unknown surrogate"),
        ({"decoder": "mean"}, "choose sum, max, softmax or first_spike"),
        ({"hidden": []}, "at least one layer"),
        ({"hidden": [0]}, "at least one layer"),
        ({"step_ms": 0}, "step_ms must be positive"),
        ({"num_classes": 0}, "at least one class"),
        ({"tau_hidden_ms": [10, 5]}, r"must be \[low, high\]"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"delay_line_ms": []}, "delay_line_ms must list"),
        ({"max_delay_ms": -1.0}, "max_delay_ms must be zero or more"),
        ({"onset_ms": -1.0}, "onset_ms must be zero or more"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MLP(**{**COMMON, **options})


@pytest.mark.parametrize("spikes", [torch.zeros(5, 2, 6), EventBatch.from_dense(torch.zeros(5, 2, 6))])
def test_input_of_another_width_is_refused(spikes):
    with pytest.raises(ValueError, match="takes 7 input units"):
        MLP(**COMMON)(spikes)


class TestBatchNorm:
    convolutional: ClassVar = {
        "input_shape": (2, 14, 13), "num_classes": 3, "step_ms": 1, "channels": [4, 3], "kernel_size": 3, "hidden": [6],
        "tau_hidden_ms": math.inf,
    }  # fmt: skip
    connected: ClassVar = COMMON | {"hidden": [9, 8], "tau_hidden_ms": 20}

    def net(self, kind=ConvNet, **changes):
        torch.manual_seed(0)
        net = kind(**self.arguments(kind), batch_norm=True, **changes).double()
        for _ in range(20):  # running statistics that are not those of the start
            net(self.spikes(kind))
        with torch.no_grad():
            for norm in net.norms:
                norm.bias.uniform_(-0.2, 0.2)
                norm.weight.fill_(2)
        return net

    def arguments(self, kind):
        return self.convolutional if kind is ConvNet else self.connected

    def spikes(self, kind):
        return dense_input(6, 8, math.prod(self.arguments(kind)["input_shape"])).double()

    @pytest.mark.parametrize(
        ("kind", "changes"),
        [
            (ConvNet, {}),
            (ConvNet, {"weight_norm": True}),
            (MLP, {}),
            (MLP, {"weight_norm": True, "onset_ms": 3.0, "skip": True}),
            (MLP, {"max_delay_ms": 4.0}),
        ],
    )
    def test_plain_computes_the_same_as_evaluation(self, kind, changes):
        net = self.net(kind, **changes).eval()
        plain = net.plain_copy()
        spikes = self.spikes(kind)
        assert not plain.norms
        assert not plain.batch_norm
        kept = {name: value for name, value in changes.items() if name != "weight_norm"}
        assert set(plain.state_dict()) == set(kind(**self.arguments(kind), **kept).state_dict())
        torch.testing.assert_close(plain(spikes).readout, net(spikes).readout, rtol=1e-9, atol=1e-9)
        assert all(layer.spike_count.any() for layer in net(spikes).activity)
        with torch.no_grad():  # the control: a statistic that is left out shows
            net.norms[1].running_mean -= 1
        assert not torch.allclose(plain(spikes).readout, net(spikes).readout, atol=1e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize(
        "changes", [{}, {"skip": True, "weight_norm": True, "dropout": 0.3}, {"max_delay_ms": 4.0}]
    )
    def test_events_and_dense_input_agree(self, changes, training):
        """In evaluation events take the fused path, on weights that hold the normalisation, with gradients as well."""
        net = self.net(MLP, **changes).train(training)
        spikes = self.spikes(MLP)
        results = []
        for batch in (spikes, EventBatch.from_dense(spikes)):
            torch.manual_seed(1)
            readout = net(batch).readout
            weight = torch.linspace(-1, 1, readout.numel(), dtype=readout.dtype).view_as(readout)
            parameters = [p for p in net.parameters() if p.requires_grad]
            # In evaluation delays are rounded and have no gradient.
            grads = torch.autograd.grad((readout * weight).sum(), parameters, materialize_grads=True)
            results.append((readout, *grads))
        for dense, sparse in zip(*results, strict=True):
            torch.testing.assert_close(dense, sparse)
        assert sum(bool(grad.any()) for grad in results[0]) > len(results[0]) - 3

    @pytest.mark.parametrize("kind", [ConvNet, MLP])
    def test_currents_are_normalised_in_training(self, kind):
        net = self.net(kind)
        seen = []
        for norm in net.norms:
            norm.register_forward_hook(lambda module, args, out: seen.append((out, module.bias)))
        net(self.spikes(kind)).readout.sum().backward()
        assert len(seen) == (3 if kind is ConvNet else 2)
        for current, bias in seen:
            over = [axis for axis in range(current.dim()) if axis != 1]
            torch.testing.assert_close(current.mean(over), bias, rtol=0, atol=1e-9)
            assert (current.std(over) < 2.1).all()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)

    @pytest.mark.parametrize("kind", [ConvNet, MLP])
    def test_no_neuron_fires_twice(self, kind):
        units = math.prod(self.arguments(kind)["input_shape"])
        out = self.net(kind)(dense_input(12, 3, units, density=0.5).double())
        assert {int(layer.spike_count.max()) for layer in out.activity} == {1}

    def test_a_bias_that_is_not_wanted_is_refused(self):
        with pytest.raises(ValueError, match="batch_norm shifts currents as a bias does"):
            MLP(**COMMON, batch_norm=True, bias=False)


class TestPrecision:
    @pytest.mark.parametrize("kind", [ConvNet, MLP])
    def test_membranes_add_up_in_the_precision_of_the_parameters(self, kind):
        """Under autocast synapses give bfloat16, of which a long sum would lose most."""
        options = TestBatchNorm().arguments(kind)
        net, seen = kind(**options), []
        for neuron in (*getattr(net, "conv_neurons", ()), *net.neurons, net.readout):
            neuron.register_forward_hook(lambda module, args, out: seen.append((args[0].dtype, out.dtype)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            net(dense_input(6, 4, math.prod(options["input_shape"]))).readout.float().sum().backward()
        assert set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("neuron", ["single", "standard_single", "multi"])
@pytest.mark.parametrize("as_events", [False, True])
def test_spike_counts_are_differentiable(neuron, as_events):
    """The counts are those of the spikes, and a loss on them reaches the weights of every layer before."""
    net = MLP(**COMMON, hidden=[9, 8], neuron=neuron, input_gain=6)
    spikes = dense_input()
    activity = net(EventBatch.from_dense(spikes) if as_events else spikes).activity
    assert all(layer.spike_count.shape == layer.first_spike_time.shape for layer in activity)
    assert all(torch.equal(layer.spike_count > 0, layer.first_spike_time < 30) for layer in activity)
    activity[1].spike_count.sum().backward()
    first, second, readout = net.synapses
    assert first.weight.grad.abs().sum() > 0
    assert second.weight.grad.abs().sum() > 0
    assert readout.weight.grad is None or not readout.weight.grad.any()


STEPS, CLASSES = 6, 3
DENSE = {"input_shape": (5,), "hidden": [4, 4]}
IMAGES = {"input_shape": (1, 8, 8), "channels": [2], "kernel_size": 3, "hidden": [4]}


@pytest.mark.parametrize("as_events", [True, False])
@pytest.mark.parametrize(
    ("network", "options"),
    [
        *[(MLP, {**DENSE, "backend": backend}) for backend in ("torch", "numba", "auto")],
        *[(MLP, {**DENSE, "neuron": neuron}) for neuron in ("multi", "standard_single")],
        (MLP, {**DENSE, "skip": True, "backend": "numba"}),
        (MLP, {**DENSE, "batch_norm": True}),
        (MLP, {**DENSE, "max_delay_ms": 2.0}),
        (MLP, {**DENSE, "max_delay_ms": 2.0, "delay_per_synapse": True}),
        (MLP, {**DENSE, "delay_line_ms": [0.0, 1.0]}),
        (MLP, {**DENSE, "decoder": "first_spike"}),
        (ConvNet, IMAGES),
        (ConvNet, {**IMAGES, "pool": "avg", "batch_norm": True}),
        (ConvNet, {**IMAGES, "neuron": "multi"}),
    ],
)
def test_a_batch_without_samples_or_events_changes_nothing(network, options, as_events):
    net = network(num_classes=CLASSES, step_ms=1.0, **options)
    for batch in (0, 2):
        spikes = torch.zeros(STEPS, batch, net.num_inputs)
        spikes = EventBatch.from_dense(spikes) if as_events else spikes
        labels = torch.zeros(batch, dtype=torch.long)
        output = net(spikes)
        scores = net.decoder.scores(output.readout)
        assert output.readout.shape == (STEPS, batch, CLASSES)
        assert scores.shape == (batch, CLASSES)
        assert net.decoder.decision_step(output.readout).shape == (batch,)
        penalty = spike_penalty([layer.spike_count for layer in output.activity], (0.5, 1.0))
        loss = classification_loss(scores, labels) + penalty
        assert batch or float(loss.detach()) == 0
        loss.backward()
        assert all(torch.isfinite(values).all() for values in (*net.parameters(), *net.buffers()))
        gradients = [values.grad for values in net.parameters() if values.grad is not None]
        assert all((gradient == 0).all() if batch == 0 else gradient.isfinite().all() for gradient in gradients)
        metrics = EvaluationMetrics(CLASSES, net.layer_sizes, 1.0, net.weight_uses, net.fires_once)
        metrics.update(spikes, output, net.fan_out(), loss, scores, labels)
        assert int(metrics.input_spikes_per_sample.count) == batch


class TestActivityOnDemand:
    def spikes(self):
        torch.manual_seed(0)
        return [(torch.rand(6, 3, *shape) < 0.2).double().requires_grad_() for shape in ((5,), (2, 3, 4), (1,))]

    def test_each_layer_is_what_its_spikes_say(self):
        spikes = self.spikes()
        activity = ActivityOnDemand(spikes)
        assert len(activity) == 3
        for (count, first), layer in zip(activity, spikes, strict=True):
            assert torch.equal(count, layer.sum(0).flatten(1))
            assert torch.equal(first, first_spike_time(layer).flatten(1))
        assert activity[-1] is activity[2]
        assert activity[1:] == [activity[1], activity[2]]
        with pytest.raises(IndexError):
            activity[3]

    def test_nothing_is_computed_before_it_is_looked_at(self, monkeypatch):
        asked = []
        monkeypatch.setattr(base, "first_spike_time", lambda spikes: asked.append(len(spikes)) or spikes[0])
        net = MLP(input_shape=(7,), num_classes=3, step_ms=1.0, hidden=[4], backend="torch", neuron="multi")
        output = net(dense_input())
        output.readout.sum().backward()
        assert asked == []
        assert output.activity[0].first_spike_time.shape == (4, 4)
        assert asked == [30]

    def test_who_looks_without_gradients_takes_them_from_nobody(self):
        spikes = self.spikes()[:1]
        activity = ActivityOnDemand(spikes)
        with torch.no_grad():
            activity[0]
        activity[0].spike_count.sum().backward()
        assert torch.equal(spikes[0].grad, torch.ones(6, 3, 5).double())
