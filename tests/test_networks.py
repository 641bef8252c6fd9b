import math

import pytest
import torch
import torch.nn.functional as F

from ss_lightning import MLP, ConvNet, EventBatch, SingleSpikeLeaky, StandardSingleSpikeLeaky
from ss_lightning.functional import leaky_scan_reference, single_spike_reference
from ss_lightning.networks import decay
from ss_lightning.surrogate import FastSigmoid

COMMON = {"input_shape": (7,), "num_classes": 3, "step_ms": 1.0}


def dense_input(steps=30, batch=4, units=7, density=0.3):
    torch.manual_seed(0)
    return (torch.rand(steps, batch, units) < density).to(torch.uint8)


@pytest.mark.parametrize("neuron", ["single", "standard", "multi"])
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


def test_one_word_picks_the_neuron_and_nothing_else():
    nets = {}
    for kind in ("single", "standard", "multi"):
        torch.manual_seed(1)
        nets[kind] = MLP(**COMMON, neuron=kind)
    assert type(nets["single"].neurons[0]) is SingleSpikeLeaky
    assert type(nets["standard"].neurons[0]) is StandardSingleSpikeLeaky
    for kind in ("standard", "multi"):
        for (name, a), (other, b) in zip(nets["single"].named_parameters(), nets[kind].named_parameters(), strict=True):
            assert name == other
            assert torch.equal(a, b)


def test_time_constants_follow_the_step():
    """Twice the step, the square of the decay."""
    fine = MLP(**COMMON, tau_hidden_ms=20, tau_readout_ms=40)
    coarse = MLP(**{**COMMON, "step_ms": 2.0}, tau_hidden_ms=20, tau_readout_ms=40)
    torch.testing.assert_close(coarse.neurons[0].beta, fine.neurons[0].beta ** 2)
    torch.testing.assert_close(coarse.readout.beta, fine.readout.beta**2)
    assert fine.neurons[0].beta[0].item() == pytest.approx(math.exp(-1 / 20))


def test_ends_of_the_time_constant():
    assert decay(math.inf, 1.0) == 1
    assert decay(0.0, 1.0) == 0
    with pytest.raises(ValueError, match="zero or more milliseconds, got -1"):
        decay(-1, 1.0)
    with pytest.raises(ValueError, match="zero or more milliseconds, got nan"):
        decay(math.nan, 1.0)


def test_initialisation():
    net = MLP(input_shape=(100,), num_classes=3, step_ms=1, hidden=[400], input_gain=4)
    first, readout = net.synapses
    assert 0.39 < first.weight.abs().max() <= 0.4
    assert 0.048 < readout.weight.abs().max() <= 0.05
    assert first.bias.abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "triple"}, "choose single, standard or multi"),
        ({"estimator": "rmap"}, "choose one of ramp"),
        ({"surrogate": "relu"}, "unknown surrogate"),
        ({"decoder": "mean"}, "choose sum, max or first_spike"),
        ({"hidden": []}, "at least one layer"),
        ({"hidden": [0]}, "at least one layer"),
        ({"step_ms": 0}, "step_ms must be positive"),
        ({"num_classes": 0}, "at least one class"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MLP(**{**COMMON, **options})


@pytest.mark.parametrize("spikes", [torch.zeros(5, 2, 6), EventBatch.from_dense(torch.zeros(5, 2, 6))])
def test_input_of_another_width_is_refused(spikes):
    with pytest.raises(ValueError, match="takes 7 input units"):
        MLP(**COMMON)(spikes)


class TestSynapticOperations:
    """The fan-out against a count made with the weights themselves."""

    def test_mlp_with_skips(self):
        net = MLP(**COMMON, hidden=[4, 5, 6], skip=True)
        with torch.no_grad():
            net.synapses[2].weight[:, 1] = 0  # neuron 1 of the first layer does not reach the third
        inputs, *hidden = net.fan_out()
        assert inputs.tolist() == [4] * 7
        assert hidden[0].tolist() == [5 + 6 + 3, 5 + 3, 14, 14]
        assert hidden[1].tolist() == [6 + 3] * 5
        assert hidden[2].tolist() == [3] * 6

    @pytest.mark.parametrize("pool", ["avg", "max"])
    def test_conv(self, pool):
        net = ConvNet(
            input_shape=(2, 15, 13),
            num_classes=3,
            step_ms=1,
            channels=[4, 5],
            kernel_size=3,
            hidden=[6],
            pool=pool,
        )
        with torch.no_grad():
            net.convolutions[1].weight[2, 1, 0, 0] = 0
        inputs, conv1, conv2, dense = net.fan_out()
        image = (torch.rand(1, 2, 15, 13) < 0.3).float()
        first, second = ((layer.weight != 0).float() for layer in net.convolutions)
        assert (image.flatten() * inputs).sum() == F.conv2d(image, first).sum()
        # One spike at a time, so that pooling merges none.
        for position in ((0, 0, 0), (1, 12, 10), (3, 5, 6)):
            spikes = torch.zeros(1, 4, 13, 11)
            spikes[0][position] = 1
            expected = F.conv2d(F.max_pool2d(spikes, 2), second).sum()
            assert conv1[spikes.flatten().bool()] == expected
        assert conv2.view(5, 4, 3)[:, :, :2].unique().tolist() == [6]
        assert conv2.view(5, 4, 3)[:, :, 2].unique().tolist() == [0], "the pool drops the last column"
        assert dense.tolist() == [3] * 6


def test_conv_net_shapes_and_events():
    net = ConvNet(input_shape=(1, 28, 28), num_classes=10, step_ms=1, hidden=[50], tau_hidden_ms=math.inf)
    spikes = dense_input(8, 2, 784)
    out = net(spikes)
    assert out.readout.shape == (8, 2, 10)
    assert [layer.spike_count.shape[1] for layer in out.activity] == net.layer_sizes == [32 * 24 * 24, 64 * 8 * 8, 50]
    assert all(layer.spike_count.max() <= 1 for layer in out.activity)
    torch.testing.assert_close(net(EventBatch.from_dense(spikes)).readout, out.readout)
    torch.testing.assert_close(net(spikes.view(8, 2, 1, 28, 28)).readout, out.readout)


def test_conv_net_needs_images_that_are_large_enough():
    with pytest.raises(ValueError, match="needs images"):
        ConvNet(input_shape=(700,), num_classes=3, step_ms=1)
    with pytest.raises(ValueError, match="too small"):
        ConvNet(input_shape=(1, 8, 8), num_classes=3, step_ms=1)
