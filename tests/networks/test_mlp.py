import copy
import re

import pytest
import torch

from ss_lightning import MLP, EventBatch
from ss_lightning.functional import leaky_scan_reference, single_spike_reference
from ss_lightning.functional.network import event_network
from ss_lightning.surrogate import FastSigmoid

COMMON = {"input_shape": (7,), "num_classes": 3, "step_ms": 1.0}


def dense_input(steps=30, batch=4, units=7, density=0.3):
    torch.manual_seed(0)
    return (torch.rand(steps, batch, units) < density).to(torch.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("neuron", ["single", "standard_single", "multi"])
@pytest.mark.parametrize("skip", [False, True])
def test_events_and_dense_input_agree(neuron, skip):
    net = MLP(**COMMON, hidden=[9, 8, 5], neuron=neuron, skip=skip, input_gain=4).double()
    spikes = dense_input()
    dense, sparse = net(spikes), net(EventBatch.from_dense(spikes))
    torch.testing.assert_close(dense.readout, sparse.readout)
    assert dense.readout.shape == (30, 4, 3)
    for a, b, size in zip(dense.activity, sparse.activity, (9, 8, 5), strict=True):
        assert a.spike_count.shape == (4, size)
        assert torch.equal(a.spike_count, b.spike_count)
        assert torch.equal(a.first_spike_time, b.first_spike_time)
    assert dense.activity[0].spike_count.sum() > 0
    if neuron != "multi":
        assert max(layer.spike_count.max() for layer in dense.activity) == 1


@pytest.mark.parametrize("skip", [False, True])
def test_mlp_is_the_composition_of_the_reference_functions(skip):
    net = MLP(**COMMON, hidden=[9, 8], skip=skip, input_gain=4, learn_threshold=True, estimator="survival").double()
    spikes = dense_input().double()
    first, second, readout = net.synapses
    layers = []
    for synapse, neuron in zip((first, second), net.neurons, strict=True):
        inputs = spikes if not layers else torch.cat(layers, -1)
        layers.append(
            single_spike_reference(
                synapse(inputs),
                neuron.beta,
                neuron.threshold,
                surrogate=FastSigmoid(10),
                estimator="survival",
            )
        )
    expected = leaky_scan_reference(readout(torch.cat(layers, -1) if skip else layers[-1]), net.readout.beta)
    out = net(EventBatch.from_dense(spikes)).readout
    torch.testing.assert_close(out, expected)
    parameters = [p for p in net.parameters() if p.requires_grad]
    weight = torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad((out * weight).sum(), parameters),
        torch.autograd.grad((expected * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


BLOCKS = {
    "tau_hidden_ms": [3.0, 30.0], "log_tau": True, "weight_norm": True, "dropout": 0.3, "onset_ms": 15.0,
    "delay_line_ms": [0.0, 4.0], "onset_width_ms": 10.0, "learn_threshold": True, "decoder": "softmax",
    "estimator": "survival",
}  # fmt: skip


class TestBlocks:
    """What lifts accuracy: each by itself, and all of them together."""

    @pytest.mark.parametrize("neuron", ["single", "standard_single", "multi"])
    @pytest.mark.parametrize("skip", [False, True])
    def test_events_and_dense_input_agree_in_training(self, neuron, skip):
        net = MLP(**COMMON, hidden=[9, 8], neuron=neuron, skip=skip, input_gain=6, **BLOCKS).double().train()
        spikes = dense_input()
        results = []
        for batch in (spikes, EventBatch.from_dense(spikes)):
            torch.manual_seed(1)  # the same neurons are dropped
            out = net(batch)
            loss = (out.readout * torch.arange(3)).sum() + out.activity[0].spike_count.square().sum()
            results.append((out, torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad])))
        (dense, dense_grads), (sparse, sparse_grads) = results
        assert dense.activity[0].spike_count.sum() > 0
        torch.testing.assert_close(dense.readout, sparse.readout)
        for a, b in zip(dense.activity, sparse.activity, strict=True):
            assert torch.equal(a.spike_count, b.spike_count)
            assert torch.equal(a.first_spike_time, b.first_spike_time)
        for a, b in zip(dense_grads, sparse_grads, strict=True):
            torch.testing.assert_close(a, b)

    def test_onsets_hold_spikes_back(self):
        spikes = torch.ones(60, 2, 7)
        options = {"hidden": [50], "input_gain": 10.0}
        times = {}
        for onset in (0.0, 40.0):
            torch.manual_seed(0)
            net = MLP(**COMMON, **options, onset_ms=onset, onset_width_ms=0.1)
            net.load_state_dict(times["state"], strict=False) if times else times.update(state=net.state_dict())
            layer = net(spikes).activity[0]
            times[onset] = layer.first_spike_time[layer.spike_count > 0].float()
        onset = net.onsets[0].detach() * 40
        assert times[0.0].mean() < 5
        assert abs(times[40.0].mean() - onset.mean()) < 8
        out = net(spikes)
        out.readout.sum().backward()
        assert net.onsets[0].grad.abs().sum() > 0

    def test_dropout_leaves_the_mean_as_it_is(self):
        torch.manual_seed(0)
        spikes = dense_input(30, 1, 7).repeat(1, 4000, 1)
        net = MLP(**COMMON, hidden=[40], input_gain=6, dropout=0.25)
        trained, tested = net.train()(EventBatch.from_dense(spikes)), net.eval()(EventBatch.from_dense(spikes))
        share = trained.activity[0].spike_count.sum() / tested.activity[0].spike_count.sum()
        assert abs(share - 0.75) < 0.01
        torch.testing.assert_close(trained.readout.mean(1), tested.readout.mean(1), rtol=0.05, atol=0.02)

    @pytest.mark.parametrize("per_synapse", [False, True])
    @pytest.mark.parametrize("hidden", [[9], [9, 8]])
    @pytest.mark.parametrize("training", [False, True])
    def test_delayed_events_and_dense_input_agree(self, per_synapse, hidden, training):
        options = {"max_delay_ms": 6.0, "delay_per_synapse": per_synapse, "input_gain": 6.0, "estimator": "survival"}
        net = MLP(**COMMON, hidden=hidden, **options).double().train(training)
        spikes = dense_input()
        results = []
        for batch in (spikes.double(), EventBatch.from_dense(spikes)):
            out = net(batch)
            grads = torch.autograd.grad(out.readout.square().sum(), list(net.parameters()), allow_unused=True)
            results.append((out, grads))
        (dense, dense_grads), (sparse, sparse_grads) = results
        assert dense.activity[0].spike_count.max() == 1
        torch.testing.assert_close(dense.readout, sparse.readout)
        for (name, _), a, b in zip(net.named_parameters(), dense_grads, sparse_grads, strict=True):
            assert (a is not None) == (training or "delay" not in name), name
            if a is not None:
                torch.testing.assert_close(a, b)

    def test_a_delay_moves_spikes_as_late_input_does(self):
        net = MLP(**COMMON, hidden=[9], input_gain=6.0, max_delay_ms=4.0).eval()
        with torch.no_grad():
            net.synapses[0].delay.fill_(0.75)  # three steps
        spikes = dense_input()
        late = torch.cat([torch.zeros(3, *spikes.shape[1:]), spikes[:-3]])
        delayed = net(EventBatch.from_dense(spikes)).readout
        with torch.no_grad():
            net.synapses[0].delay.zero_()
        torch.testing.assert_close(net(EventBatch.from_dense(late)).readout, delayed)

    def test_copies_and_files_keep_everything(self):
        net = MLP(**COMMON, hidden=[9, 8], input_gain=6, **BLOCKS)
        spikes = EventBatch.from_dense(dense_input())
        net(spikes).readout.sum().backward()
        copied, loaded = copy.deepcopy(net).eval(), MLP(**COMMON, hidden=[9, 8], **BLOCKS).eval()
        loaded.load_state_dict(net.state_dict())
        expected = net.eval()(spikes).readout
        assert torch.equal(copied(spikes).readout, expected)
        assert torch.equal(loaded(spikes).readout, expected)


def test_initialisation():
    net = MLP(input_shape=(100,), num_classes=3, step_ms=1, hidden=[400], input_gain=4)
    first, readout = net.synapses
    assert 0.39 < first.weight.abs().max() <= 0.4
    assert 0.048 < readout.weight.abs().max() <= 0.05
    assert first.bias.abs().sum() == 0


class TestSynapticOperations:
    """The fan-out against a count made with the weights themselves."""

    def test_delay_line_counts_every_wire(self):
        net = MLP(**COMMON, hidden=[4], delay_line_ms=[0.0, 2.0, 5.0])
        with torch.no_grad():
            net.synapses[0].weight[1, 7 + 2] = 0
        assert net.fan_out()[0].tolist() == [12, 12, 11, 12, 12, 12, 12]

    def test_mlp_with_skips(self):
        net = MLP(**COMMON, hidden=[4, 5, 6], skip=True)
        with torch.no_grad():
            net.synapses[2].weight[:, 1] = 0  # neuron 1 of the first layer does not reach the third
        inputs, *hidden = net.fan_out()
        assert inputs.tolist() == [4] * 7
        assert hidden[0].tolist() == [5 + 6 + 3, 5 + 3, 14, 14]
        assert hidden[1].tolist() == [6 + 3] * 5
        assert hidden[2].tolist() == [3] * 6


@pytest.mark.parametrize(("backend", "of_delays"), [("torch", "torch"), ("numba", "numba"), ("triton", "auto")])
def test_the_backend_is_that_of_learned_delays_too(backend, of_delays):
    assert MLP(**COMMON, max_delay_ms=4.0, backend=backend).synapses[0].backend == of_delays


OBSTACLES = [
    ({"neuron": "multi"}, "Neurons of the kind multi have no fused kernel."),
    ({"neuron": "standard_single"}, "Neurons of the kind standard_single have no fused kernel."),
    ({"decoder": "first_spike"}, "The decoder first_spike needs a readout that fires"),
    ({"max_delay_ms": 4.0, "delay_per_synapse": True}, "no delay for each synapse"),
    ({"max_delay_ms": 4.0, "hidden": [5, 4]}, "learned delays of the input only"),
    ({"batch_norm": True}, "In training, batch_norm needs the currents of the whole batch"),
]


class TestFusion:
    """Events pass through one fused kernel, or the network says why they do not."""

    def uses_kernel(self, net, monkeypatch):
        calls = []

        def counted(*args, **named):
            calls.append(named["backend"])
            return event_network(*args, **named)

        monkeypatch.setattr("ss_lightning.networks.mlp.event_network", counted)
        net(EventBatch.from_dense(dense_input()))
        return calls == [net.backend]

    @pytest.mark.parametrize("options", [{}, {"max_delay_ms": 4.0}, {"skip": True, "hidden": [5, 4]}, {"dropout": 0.5}])
    def test_no_obstacle(self, options, monkeypatch):
        net = MLP(**COMMON, **options, backend="numba")
        assert net.fusion_obstacle is None
        assert self.uses_kernel(net, monkeypatch)

    @pytest.mark.slow
    @pytest.mark.parametrize(("options", "why"), OBSTACLES)
    def test_an_obstacle_is_named_and_the_network_runs_layer_by_layer(self, options, why, monkeypatch):
        net = MLP(**COMMON, **options)
        assert why in net.fusion_obstacle
        assert not self.uses_kernel(net, monkeypatch)

    def test_normalisation_is_an_obstacle_in_training_only(self, monkeypatch):
        net = MLP(**COMMON, batch_norm=True).eval()
        assert net.fusion_obstacle is None
        assert self.uses_kernel(net, monkeypatch)

    @pytest.mark.parametrize(("options", "why"), OBSTACLES)
    @pytest.mark.parametrize("backend", ["numba", "triton"])
    def test_a_backend_that_is_asked_for_is_not_ignored(self, options, why, backend):
        with pytest.raises(ValueError, match=rf"backend '{backend}' cannot run this network\. .*{re.escape(why)}"):
            MLP(**COMMON, **options, backend=backend)
        assert MLP(**COMMON, **options, backend="torch").backend == "torch"
