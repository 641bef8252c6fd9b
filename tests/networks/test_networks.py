import copy
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ss_lightning import MLP, ConvNet, EventBatch, SingleSpikeLeaky, StandardSingleSpikeLeaky
from ss_lightning.functional import leaky_scan_reference, single_spike_reference
from ss_lightning.networks.base import _channels_last, decay
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


BLOCKS = {
    "tau_hidden_ms": [3.0, 30.0], "log_tau": True, "weight_norm": True, "dropout": 0.3, "onset_ms": 15.0,
    "delay_line_ms": [0.0, 4.0], "onset_width_ms": 10.0, "learn_threshold": True, "decoder": "softmax",
    "estimator": "survival",
}  # fmt: skip


class TestBlocks:
    """What lifts accuracy: each by itself, and all of them together."""

    @pytest.mark.parametrize("neuron", ["single", "standard", "multi"])
    @pytest.mark.parametrize("skip", [False, True])
    def test_events_and_dense_input_agree_in_training(self, neuron, skip):
        net = MLP(**COMMON, hidden=[9, 8], neuron=neuron, skip=skip, input_gain=6, **BLOCKS).double().train()
        spikes = dense_input()
        results = []
        for batch in (spikes, EventBatch.from_dense(spikes)):
            torch.manual_seed(1)  # the same neurons are dropped
            out = net(batch)
            loss = (out.readout * torch.arange(3)).sum() + out.spike_counts[0].square().sum()
            results.append((out, torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad])))
        (dense, dense_grads), (sparse, sparse_grads) = results
        assert dense.activity[0].spike_count.sum() > 0
        torch.testing.assert_close(dense.readout, sparse.readout)
        for a, b in zip(dense.activity, sparse.activity, strict=True):
            assert torch.equal(a.spike_count, b.spike_count)
            assert torch.equal(a.first_spike_time, b.first_spike_time)
        for a, b in zip(dense_grads, sparse_grads, strict=True):
            torch.testing.assert_close(a, b)

    def test_no_neuron_of_a_convolution_fires_twice(self):
        blocks = {name: value for name, value in BLOCKS.items() if name != "delay_line_ms"}
        net = ConvNet(input_shape=(1, 12, 12), num_classes=3, step_ms=1, channels=[4], hidden=[6], pool="avg", **blocks)
        out = net(dense_input(10, 3, 144))
        assert out.activity[0].spike_count.max() == 1
        assert all(layer.spike_count.max() <= 1 for layer in out.activity)
        out.readout.sum().backward()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)

    def test_time_constants_fill_their_range(self):
        net = MLP(**COMMON, hidden=[2000], tau_hidden_ms=[10, 400], log_tau=True)
        tau = -1.0 / torch.log(net.neurons[0].beta)
        assert tau.min() > 9.9
        assert tau.max() < 404
        logs = tau.log10()
        assert abs((logs < 1.8).float().mean() - (1.8 - 1) / math.log10(40)) < 0.05

    def test_the_readout_may_have_a_range_too(self):
        beta = MLP(**{**COMMON, "num_classes": 2000}, tau_readout_ms=[10, 400]).readout.beta
        assert beta.unique().numel() > 1900
        assert math.exp(-1 / 9.9) < beta.min()
        assert beta.max() < math.exp(-1 / 404)

    def test_log_tau_moves_the_time_constant_not_the_decay(self):
        net = MLP(**COMMON, hidden=[2], tau_hidden_ms=100.0, log_tau=True)
        (parameter,) = net.neurons[0].parametrizations.beta.parameters()
        with torch.no_grad():
            parameter += math.log(2)
        torch.testing.assert_close(net.neurons[0].beta, torch.full((2,), math.exp(-1 / 200)))

    def test_an_infinite_time_constant_can_be_learned(self):
        net = MLP(**COMMON, hidden=[2], tau_hidden_ms=math.inf, log_tau=True)
        assert 0.99999 < net.neurons[0].beta.min() < 1

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "triple"}, "choose single, standard or multi"),
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


def brute_force_fan_out(net):
    """Every wire of a ConvNet followed by itself, from each output of a convolution back to the units it sees."""
    counts, shape, pooled, size = [], net.input_shape, net.input_shape, 1
    for convolution, pool_size in zip(net.convolutions, net.pool_sizes, strict=True):
        wired = (convolution.weight != 0).numpy()
        _, height, width = pooled
        landed = np.zeros(pooled, int)
        rows, columns = (length + 2 * net.padding - wired.shape[2] + 1 for length in (height, width))
        for out, into, down, right in np.ndindex(wired.shape):
            for row, column in np.ndindex(rows, columns):
                y, x = row + down - net.padding, column + right - net.padding
                if 0 <= y < height and 0 <= x < width:
                    landed[into, y, x] += wired[out, into, down, right]
        counts.append(before_pool(landed, shape, size))
        shape, size = (len(wired), rows, columns), pool_size
        pooled = (len(wired), rows // size, columns // size)
    landed = (net.synapses[0].weight != 0).sum(0).numpy().reshape(pooled)
    return [*counts, before_pool(landed, shape, size)]


def before_pool(landed, shape, size):
    """What stands behind each unit of the shape: the count of the window that it falls into, if any."""
    count = np.zeros(shape, int)
    for channel, y, x in np.ndindex(*shape):
        if y // size < landed.shape[1] and x // size < landed.shape[2]:
            count[channel, y, x] = landed[channel, y // size, x // size]
    return count.flatten()


# Odd sizes, margins that pools cut off, padding up to more than a window holds, pools that differ or are left out.
CONV_SHAPES = [
    {"kernel_size": 3, "padding": 1, "pool_size": [2, 1, 3]},
    {"kernel_size": 2, "padding": 0, "pool_size": [1, 2, 1]},
    {"kernel_size": 5, "padding": 2, "pool_size": 1},
    {"kernel_size": 2, "padding": 3, "pool_size": [3, 2, 2]},
]


class TestConvShapes:
    def net(self, sizes, **changes):
        torch.manual_seed(0)
        options = {"input_shape": (2, 11, 8), "num_classes": 3, "step_ms": 1, "channels": [3, 2, 4], "hidden": [6]}
        net = ConvNet(**(options | {"tau_hidden_ms": [3.0, 30.0], "estimator": "masked"} | sizes | changes)).double()
        with torch.no_grad():
            for layer in (*net.convolutions, *net.synapses):
                layer.weight *= 6
                layer.bias.uniform_(-0.1, 0.5)  # fires also where a window sees nothing but padding
        return net

    def spikes(self):
        return dense_input(7, 3, 2 * 11 * 8).double()

    def gradients(self, net, readout):
        weight = torch.linspace(-1, 1, readout.numel(), dtype=readout.dtype).view_as(readout)
        return torch.autograd.grad((readout * weight).sum(), [p for p in net.parameters() if p.requires_grad])

    def reference(self, net, pool, padding, pool_sizes):
        """The readout, from the reference functions and torch's own convolutions on images with zeros around."""
        x = self.spikes().view(-1, *net.input_shape)
        options = {"surrogate": FastSigmoid(10), "estimator": "masked"}
        for convolution, neuron, size in zip(net.convolutions, net.conv_neurons, pool_sizes, strict=True):
            x = F.conv2d(F.pad(x, [padding] * 4), convolution.weight, convolution.bias).unflatten(0, (7, 3))
            x = single_spike_reference(x, neuron.beta, neuron.threshold, **options).flatten(0, 1)
            x = (F.max_pool2d if pool == "max" else F.avg_pool2d)(x, size)
        x = net.synapses[0](x.flatten(1)).unflatten(0, (7, 3))
        x = single_spike_reference(x, net.neurons[0].beta, net.neurons[0].threshold, **options)
        return leaky_scan_reference(net.synapses[1](x), net.readout.beta)

    @pytest.mark.parametrize("pool", ["max", "avg"])
    @pytest.mark.parametrize("sizes", CONV_SHAPES)
    def test_it_is_the_composition_of_the_reference_functions(self, sizes, pool):
        net = self.net(sizes, pool=pool)
        out = net(self.spikes())
        expected = self.reference(net, pool, net.padding, net.pool_sizes)
        torch.testing.assert_close(out.readout, expected)
        for ours, theirs in zip(self.gradients(net, out.readout), self.gradients(net, expected), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert [layer.spike_count.shape[1] for layer in out.activity] == net.layer_sizes
        assert all(layer.spike_count.max() == 1 for layer in out.activity)

    def test_another_padding_or_pool_shows(self):
        """The control of the test above: where sizes agree by chance, readouts do not."""
        sizes = {"channels": [3], "kernel_size": 3, "pool_size": 4}
        net = self.net(sizes, input_shape=(2, 11, 11), padding=0)
        other = self.net(sizes, input_shape=(2, 11, 11), padding=1)
        other.load_state_dict(net.state_dict())
        spikes = dense_input(7, 3, 2 * 11 * 11).double()
        assert not torch.allclose(net(spikes).readout, other(spikes).readout, atol=1e-3)
        swapped = self.net(CONV_SHAPES[0], pool_size=[1, 2, 3])
        swapped.load_state_dict(self.net(CONV_SHAPES[0]).state_dict())
        assert not torch.allclose(swapped(self.spikes()).readout, self.net(CONV_SHAPES[0])(self.spikes()).readout)

    @pytest.mark.parametrize("sizes", CONV_SHAPES)
    def test_the_standard_loop_agrees(self, sizes):
        """Outputs and, with the estimator that is its gradient, gradients; another estimator has others."""
        found = []
        for changes in ({"neuron": "standard"}, {}, {"estimator": "ramp"}):
            net = self.net(sizes, **changes)
            readout = net(self.spikes()).readout
            found.append((readout, *self.gradients(net, readout)))
        for standard, single in zip(found[0], found[1], strict=True):
            torch.testing.assert_close(standard, single)
        torch.testing.assert_close(found[2][0], found[0][0])
        assert not torch.allclose(found[2][1], found[0][1])

    @pytest.mark.parametrize("sizes", CONV_SHAPES)
    def test_fan_out_is_a_count_of_every_wire(self, sizes):
        net = self.net(sizes)
        with torch.no_grad():
            net.convolutions[0].weight[1, 0, 0, 1] = 0
            net.convolutions[1].weight[0] = 0
            net.synapses[0].weight[2, ::3] = 0
            counts = net.fan_out()
            assert [len(count) for count in counts] == [2 * 11 * 8, *net.layer_sizes]
            expected = [*brute_force_fan_out(net), np.full(6, 3)]
            for depth, (count, brute) in enumerate(zip(counts, expected, strict=True)):
                np.testing.assert_array_equal(count, brute, err_msg=f"layer {depth}")
            net.convolutions[2].weight[1, 1, 0, 0] = 0  # the control: one weight that is taken out shows
            assert [bool((count == brute).all()) for count, brute in zip(net.fan_out(), expected, strict=True)] == [
                True, True, False, True, True,
            ]  # fmt: skip

    def test_units_at_the_padded_border_have_fewer_synapses(self):
        count = self.net(CONV_SHAPES[0]).fan_out()[0].view(2, 11, 8)[0]
        assert (count[0, 0], count[0, 3], count[5, 4]) == (4 * 3, 6 * 3, 9 * 3)

    def test_folded_computes_the_same_as_evaluation(self):
        net = ConvNet(
            input_shape=(2, 11, 8), num_classes=3, step_ms=1, channels=[3, 2, 4], hidden=[6], batch_norm=True,
            weight_norm=True, kernel_size=3, padding=1, pool_size=[2, 1, 3], tau_hidden_ms=math.inf,
        ).double()  # fmt: skip
        for _ in range(20):  # running statistics that are not those of the start
            net(self.spikes())
        with torch.no_grad():
            for norm in net.norms:
                norm.weight.fill_(2)
        expected = net.eval()(self.spikes())
        assert all(layer.spike_count.any() for layer in expected.activity)
        folded = net.folded()
        assert (folded.padding, folded.pool_sizes) == (1, [2, 1, 3])
        torch.testing.assert_close(folded(self.spikes()).readout, expected.readout, rtol=1e-9, atol=1e-9)

    def test_the_networks_of_the_paper(self):
        mnist = ConvNet(input_shape=(1, 28, 28), num_classes=10, step_ms=1, padding=2)
        assert mnist.layer_sizes == [32 * 28 * 28, 64 * 14 * 14, 1000]
        assert mnist.synapses[0].in_features == 64 * 7 * 7
        vgg = ConvNet(
            input_shape=(3, 32, 32), num_classes=10, step_ms=1, channels=[128, 256, 256, 512, 512], kernel_size=3,
            padding=1, pool_size=[2, 1, 2, 1, 2], hidden=[2048, 1000],
        )  # fmt: skip
        maps = [128 * 32 * 32, 256 * 16 * 16, 256 * 16 * 16, 512 * 8 * 8, 512 * 8 * 8]
        assert vgg.layer_sizes == [*maps, 2048, 1000]
        assert vgg.synapses[0].in_features == 512 * 4 * 4

    def test_names_of_parameters_stay(self):
        """Checkpoints from before there was a padding are read."""
        names = {name.rpartition(".")[0] for name, _ in self.net(CONV_SHAPES[0]).named_parameters()}
        layers = {f"{kind}.{depth}" for kind in ("convolutions", "conv_neurons") for depth in range(3)}
        assert names == {*layers, "synapses.0", "synapses.1", "neurons.0", "readout"}


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
    def test_folded_computes_the_same_as_evaluation(self, kind, changes):
        net = self.net(kind, **changes).eval()
        folded = net.folded()
        spikes = self.spikes(kind)
        assert not folded.norms
        assert not folded.batch_norm
        kept = {name: value for name, value in changes.items() if name != "weight_norm"}
        assert set(folded.state_dict()) == set(kind(**self.arguments(kind), **kept).state_dict())
        torch.testing.assert_close(folded(spikes).readout, net(spikes).readout, rtol=1e-9, atol=1e-9)
        assert all(layer.spike_count.any() for layer in net(spikes).activity)
        with torch.no_grad():  # the control: a statistic that is left out shows
            net.norms[1].running_mean -= 1
        assert not torch.allclose(folded(spikes).readout, net(spikes).readout, atol=1e-3)

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


def test_layouts_in_memory_give_the_same():
    """Channels next to each other, in the network, or not: the same spikes and gradients."""
    torch.manual_seed(0)
    net = ConvNet(input_shape=(1, 9, 8), num_classes=3, step_ms=1, channels=[4], kernel_size=3, hidden=[6]).double()
    spikes = (torch.rand(5, 3, 1, 9, 8) < 0.5).double()
    images = spikes.flatten(0, 1)
    for several in (images, images.expand(-1, 3, -1, -1) * torch.rand(3, 1, 1)):
        assert torch.equal(_channels_last(several), several)
        assert _channels_last(several).stride(1) == 1
    current = net.convolutions[0](images).unflatten(0, (5, 3)) * 3
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = current.detach().flatten(0, 1).contiguous(memory_format=layout).unflatten(0, (5, 3)).requires_grad_()
        fired = net.conv_neurons[0](leaf)
        assert fired.stride() == leaf.stride()
        weight = torch.linspace(-1, 1, fired.numel(), dtype=fired.dtype).view(fired.shape)
        results.append((fired, *torch.autograd.grad((fired * weight).sum(), [leaf, net.conv_neurons[0].beta])))
    assert results[0][0].any()
    for plain, channels_last in zip(*results, strict=True):
        torch.testing.assert_close(plain, channels_last)


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
    assert ConvNet(input_shape=(1, 8, 8), num_classes=3, step_ms=1, padding=2).layer_sizes == [2048, 1024, 1000]
    with pytest.raises(ValueError, match=r"kernel_size=5, padding=2 and pool_size=\[2, 5\]"):
        ConvNet(input_shape=(1, 8, 8), num_classes=3, step_ms=1, padding=2, pool_size=[2, 5])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pool_size": [2]}, r"one for each of the 2 convolutions, got \[2\]"),
        ({"pool_size": [2, 2, 2]}, "one for each of the 2 convolutions"),
        ({"pool_size": []}, "one for each of the 2 convolutions"),
        ({"padding": -1}, "padding must be zero or more, got -1"),
    ],
)
def test_paddings_and_pools_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        ConvNet(input_shape=(1, 28, 28), num_classes=3, step_ms=1, **sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": []}, {"channels": [0]}, {"kernel_size": -1}, {"pool_size": 0}, {"pool_size": [2, 0]},
        {"hidden": [0]},
    ],
)  # fmt: skip
def test_conv_net_of_impossible_sizes_is_refused(sizes):
    with pytest.raises(ValueError, match="channels must list at least one convolution"):
        ConvNet(input_shape=(1, 28, 28), num_classes=3, step_ms=1, **sizes)


@pytest.mark.parametrize(("backend", "of_delays"), [("torch", "torch"), ("numba", "numba"), ("triton", "auto")])
def test_the_backend_is_that_of_learned_delays_too(backend, of_delays):
    assert MLP(**COMMON, max_delay_ms=4.0, backend=backend).synapses[0].backend == of_delays
