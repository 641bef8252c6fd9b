import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ss_lightning import ConvNet, EventBatch
from ss_lightning.functional import leaky_scan_reference, single_spike_reference
from ss_lightning.networks.conv import channels_last
from ss_lightning.surrogate import FastSigmoid


def dense_input(steps=30, batch=4, units=7, density=0.3):
    torch.manual_seed(0)
    return (torch.rand(steps, batch, units) < density).to(torch.uint8)


def test_no_neuron_of_a_convolution_fires_twice():
    blocks = {
        "tau_hidden_ms": [3.0, 30.0], "log_tau": True, "weight_norm": True, "dropout": 0.3, "onset_ms": 15.0,
        "onset_width_ms": 10.0, "learn_threshold": True, "decoder": "softmax", "estimator": "survival",
    }  # fmt: skip
    net = ConvNet(input_shape=(1, 12, 12), num_classes=3, step_ms=1, channels=[4], hidden=[6], pool="avg", **blocks)
    out = net(dense_input(10, 3, 144))
    assert out.activity[0].spike_count.max() == 1
    assert all(layer.spike_count.max() <= 1 for layer in out.activity)
    out.readout.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_fan_out_against_convolutions_of_the_weights(pool):
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
        options |= {"input_gain": 1.0, "hidden_gain": 1.0}
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
        for changes in ({"neuron": "standard_single"}, {}, {"estimator": "ramp"}):
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

    @pytest.mark.parametrize("sizes", CONV_SHAPES)
    def test_weights_are_used_where_a_window_lies_on_the_image(self, sizes):
        """All inputs of every layer are one, and so are all weights, those that are zero included."""
        net = self.net(sizes)
        net.convolutions[0].weight.data[1] = 0
        image = torch.ones(1, *net.input_shape, dtype=torch.float64)
        used = windows = sum(layer.weight.numel() for layer in net.synapses)
        for convolution, pool in zip(net.convolutions, net.pools, strict=True):
            met = F.conv2d(image, torch.ones_like(convolution.weight), padding=net.padding)
            used, windows = used + met.sum().item(), windows + met[0, 0].numel() * convolution.weight.numel()
            image = pool(torch.ones_like(met))
        assert net.weight_uses == used
        assert (used < windows) == (net.padding > 0), "the control: zeros around the image are no inputs"

    def test_units_at_the_padded_border_have_fewer_synapses(self):
        count = self.net(CONV_SHAPES[0]).fan_out()[0].view(2, 11, 8)[0]
        assert (count[0, 0], count[0, 3], count[5, 4]) == (4 * 3, 6 * 3, 9 * 3)

    def test_plain_computes_the_same_as_evaluation(self):
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
        plain = net.plain_copy()
        assert (plain.padding, plain.pool_sizes) == (1, [2, 1, 3])
        torch.testing.assert_close(plain(self.spikes()).readout, expected.readout, rtol=1e-9, atol=1e-9)

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


def test_layouts_in_memory_give_the_same():
    """Channels next to each other, in the network, or not: the same spikes and gradients."""
    torch.manual_seed(0)
    net = ConvNet(input_shape=(1, 9, 8), num_classes=3, step_ms=1, channels=[4], kernel_size=3, hidden=[6]).double()
    spikes = (torch.rand(5, 3, 1, 9, 8) < 0.5).double()
    images = spikes.flatten(0, 1)
    for several in (images, images.expand(-1, 3, -1, -1) * torch.rand(3, 1, 1)):
        assert torch.equal(channels_last(several), several)
        assert channels_last(several).stride(1) == 1
    current = net.convolutions[0](images).unflatten(0, (5, 3)) * 3
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = current.detach().flatten(0, 1).contiguous(memory_format=layout).unflatten(0, (5, 3)).requires_grad_()
        fired = net.conv_neurons[0](leaf)
        assert fired.stride() == leaf.stride()
        weight = torch.linspace(-1, 1, fired.numel(), dtype=fired.dtype).view(fired.shape)
        results.append((fired, *torch.autograd.grad((fired * weight).sum(), [leaf, net.conv_neurons[0].beta])))
    assert results[0][0].any()
    for plain, side_by_side in zip(*results, strict=True):
        torch.testing.assert_close(plain, side_by_side)


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


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_constant_input_gives_what_its_copies_give(batch_norm):
    torch.manual_seed(0)
    options = {
        "input_shape": [2, 8, 8],
        "num_classes": 3,
        "step_ms": 1.0,
        "channels": [4, 5],
        "padding": 1,
        "kernel_size": 3,
    }
    network = ConvNet(**options, hidden=[6], input_gain=4.0, batch_norm=batch_norm).double()
    image = torch.rand(1, 7, 128, dtype=torch.float64)
    found = []
    for spikes in (image.expand(4, -1, -1), image.repeat(4, 1, 1)):
        network.zero_grad()
        output = network(spikes)
        output.readout.square().sum().backward()
        found.append([output.readout, *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert found[0][0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1])


def test_the_gradient_of_a_constant_input_lies_in_memory_as_the_input_does():
    """Batch norm takes nine times as long where it does not."""
    torch.manual_seed(0)
    net = ConvNet(
        input_shape=(2, 6, 6), num_classes=3, step_ms=1, channels=[4], kernel_size=3, hidden=[5], batch_norm=True
    )
    laid_out = []

    def watch(module, inputs, output):
        for tensor in (inputs[0], output):
            laid_out.append(tensor)
            tensor.register_hook(laid_out.append)

    net.norms[0].register_forward_hook(watch)
    net(torch.rand(1, 3, 72).expand(4, -1, -1)).readout.sum().backward()
    assert len(laid_out) == 4
    assert all(tensor.shape == (3, 4, 4, 4) for tensor in laid_out)
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in laid_out)
