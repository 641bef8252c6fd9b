"""Networks leave as NIR files and programs, and come back the same."""

import contextlib
import inspect
import json
import math
import os
import warnings

import h5py
import lightning as L
import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

from ss_lightning import (
    MLP,
    ConvClassifier,
    ConvNet,
    DataError,
    EventBatch,
    FastSigmoid,
    LeakyReadout,
    MLPClassifier,
    MultiSpikeLeaky,
    SingleSpikeLeaky,
    SingleSpikeSynaptic,
    StandardSingleSpikeLeaky,
    UsageError,
    reset,
)
from ss_lightning.data import YinYangData
from ss_lightning.export import (
    ExportWarning,
    export_checkpoint,
    export_program,
    from_nir,
    inhibition_horizon,
    load_classifier,
    main,
    to_nir,
)
from ss_lightning.export.nir_layers import describe, leak_of
from ss_lightning.functional import first_spike_time

nir = pytest.importorskip("nir")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ss_lightning.export.ExportWarning")]


def mlp(gain=8.0, seed=0, **changes):
    torch.manual_seed(seed)
    arguments = {"input_shape": [40], "num_classes": 3, "step_ms": 1.0, "hidden": [12, 9], "input_gain": gain}
    net = MLP(**(arguments | changes))
    with torch.no_grad():
        for neurons in net.neurons:
            neurons.beta.uniform_(0.5, 1.0)  # every neuron its own, so that mixing them up shows
        net.readout.beta.uniform_(0.8, 1.0)
        for synapse in list(net.synapses)[1:]:
            synapse.weight *= 4
    return net


def conv(pool="max", seed=0, **changes):
    torch.manual_seed(seed)
    arguments = {"input_shape": [1, 11, 12], "num_classes": 3, "step_ms": 1.0, "channels": [3, 2], "kernel_size": 3}
    net = ConvNet(**(arguments | {"pool": pool, "hidden": [8], "tau_hidden_ms": 8.0} | changes))
    with torch.no_grad():
        for layer in (*net.convolutions, *net.synapses):
            layer.weight *= 3
    return net


def padded(pool="max", **changes):
    """Three convolutions with zeros around what they see, the second without a pool behind it."""
    sizes = {"channels": [3, 2, 4], "kernel_size": 3, "padding": 1, "pool_size": [2, 1, 3]}
    return conv(pool, **(sizes | changes))


def spikes(net, steps=30, batch=5, density=0.1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, batch, *net.input_shape, generator=generator) < density).float()


def assert_same_answer(net, other, x):
    ours, theirs = net(x), other(x)
    assert torch.equal(ours.readout, theirs.readout)
    for before, after in zip(ours.activity, theirs.activity, strict=True):
        assert torch.equal(before.spike_count, after.spike_count)
        assert torch.equal(before.first_spike_time, after.first_spike_time)
    assert sum(layer.spike_count.sum() for layer in ours.activity) > 0


def assert_same_state(net, other):
    assert type(net) is type(other)
    ours, theirs = net.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def simulate(graph, x):
    """A plain simulator of NIR graphs, as other tools are: Euler steps of ``dt``, a connection back takes one step.

    Args:
        graph: from ``nir.read``.
        x: ``[T, *shape]``, one sample.

    Returns:
        The output of every node over time, ``[T, ...]`` each.
    """
    dt = float(graph.metadata["dt"])
    order = sorted(graph.nodes, key=lambda name: depth(graph, name))
    now = dict.fromkeys(graph.nodes)
    voltage, trace = {}, {name: [] for name in graph.nodes}
    for step in x:
        for name in order:
            node = graph.nodes[name]
            arriving = [now[a] for a, b in graph.edges if b == name and now[a] is not None]
            current = step if name == "input" else sum(arriving[1:], arriving[0])
            if isinstance(node, nir.LIF | nir.LI | nir.IF | nir.CubaLIF):
                now[name] = advance(node, name, voltage, current, dt)
            else:
                now[name] = apply(node, current)
            trace[name].append(now[name])
    return {name: np.stack(values) for name, values in trace.items()}


def advance(node, name, voltage, current, dt):
    """One step of a neuron by the equations of NIR; an ``IF`` adds a spike's charge whatever the step."""
    before = voltage.get(name, np.zeros_like(node.r))
    if isinstance(node, nir.IF):
        after = before + node.r * current
    elif isinstance(node, nir.CubaLIF):
        synapse = voltage.get(f"{name} synapse", np.zeros_like(node.r))
        synapse = voltage[f"{name} synapse"] = synapse + dt / node.tau_syn * (node.w_in * current - synapse)
        after = before + dt / node.tau_mem * (node.r * synapse - before)
    else:
        after = (1 - dt / node.tau) * before + dt * node.r / node.tau * current
    if isinstance(node, nir.LI):
        voltage[name] = after
        return after
    spikes = (after > node.v_threshold).astype(np.float32)
    voltage[name] = np.where(spikes > 0, node.v_reset, after)
    return spikes


def depth(graph, name):
    if name.endswith("_inhibition"):  # after its neuron, and so read by it in the next step
        return 100
    before = [a for a, b in graph.edges if b == name and not a.endswith("_inhibition")]
    return 1 + max((depth(graph, a) for a in before), default=0)


def apply(node, x):
    if isinstance(node, nir.Affine):
        return node.weight @ x + node.bias
    if isinstance(node, nir.Linear):
        return node.weight @ x
    if isinstance(node, nir.Scale):
        return node.scale * x
    if isinstance(node, nir.Flatten):
        return x.reshape(-1)
    if isinstance(node, nir.Threshold):
        return (x > node.threshold).astype(np.float32)
    if isinstance(node, nir.Conv2d):
        options = [[int(n) for n in size] for size in (node.stride, node.padding, node.dilation)]
        tensors = [torch.as_tensor(a) for a in (x[None], node.weight, node.bias)]
        return nn.functional.conv2d(*tensors, *options)[0].numpy()
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        size = [int(n) for n in node.kernel_size]
        mean = nn.functional.avg_pool2d(torch.as_tensor(x), size, [int(n) for n in node.stride]).numpy()
        return mean * math.prod(size) if isinstance(node, nir.SumPool2d) else mean
    return x


class TestRoundTrip:
    @pytest.mark.parametrize("skip", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_an_mlp_comes_back_bit_for_bit(self, tmp_path, skip, bias):
        net = mlp(skip=skip, bias=bias, hidden=[12, 9, 7], estimator="survival", surrogate="atan", surrogate_slope=3.0)
        to_nir(net, tmp_path / "net.nir")
        back = from_nir(tmp_path / "net.nir")
        assert_same_state(net, back)
        assert (back.estimator, back.surrogate, back.skip) == (net.estimator, net.surrogate, skip)
        assert_same_answer(net, back, spikes(net))

    @pytest.mark.parametrize("input_kind", ["events", "dense"])
    def test_a_real_batch_over_500_steps(self, tmp_path, input_kind):
        """700 units, 2 % of them active in each step, as in SHD."""
        net = mlp(gain=2.0, input_shape=[700], hidden=[64], num_classes=20, step_ms=2.0)
        to_nir(net, tmp_path / "net.nir")
        back = from_nir(tmp_path / "net.nir")
        x = spikes(net, steps=500, batch=8, density=0.02)
        assert_same_answer(net, back, EventBatch.from_dense(x) if input_kind == "events" else x)
        with torch.no_grad():
            back.neurons[0].beta -= 0.02
        with pytest.raises(AssertionError):  # negative control: the comparison can fail
            assert_same_answer(net, back, x)

    @pytest.mark.parametrize("pool", ["max", "avg"])
    @pytest.mark.parametrize("make", [conv, padded])
    def test_a_conv_net_comes_back_bit_for_bit(self, tmp_path, make, pool):
        net = make(pool)
        to_nir(net, tmp_path / "net.nir")
        back = from_nir(tmp_path / "net.nir")
        assert_same_state(net, back)
        assert (back.padding, back.pool_sizes, back.pool) == (net.padding, net.pool_sizes, pool)
        assert_same_answer(net, back, spikes(net))

    @pytest.mark.parametrize(
        ("pool", "reader", "node"),
        [("max", "nir", "SumPool2d"), ("avg", "nir", "SumPool2d"), ("avg", "snntorch", "AvgPool2d")],
    )
    def test_padding_and_pools_stand_in_the_nodes(self, tmp_path, pool, reader, node):
        to_nir(padded(pool), tmp_path / "net.nir", reader=reader)
        nodes = nir.read(tmp_path / "net.nir").nodes
        assert [tuple(nodes[f"convolutions_{depth}"].padding) for depth in range(3)] == [(1, 1)] * 3
        pools = {name: tuple(n.kernel_size) for name, n in nodes.items() if isinstance(n, getattr(nir, node))}
        ending = "_sum" if pool == "max" else ""
        assert pools == {f"pool_0{ending}": (2, 2), f"pool_2{ending}": (3, 3)}
        assert not [name for name in nodes if name.startswith("pool_1")]

    def test_files_from_before_there_was_a_padding(self, tmp_path):
        net = conv()
        to_nir(net, tmp_path / "net.nir")
        with h5py.File(tmp_path / "net.nir", "r+") as file:
            text = json.loads(file["node/metadata/ss_lightning"][()])
            del text["arguments"]["padding"]
            text["arguments"]["pool_size"] = 2
            file["node/metadata/ss_lightning"][()] = json.dumps(text)
        assert_same_answer(net, from_nir(tmp_path / "net.nir"), spikes(net))

    @pytest.mark.parametrize(
        "changes",
        [
            {"neuron": "multi"},
            {"neuron": "standard_single"},
            {"decoder": "first_spike"},
            {"decoder": "max"},
            {"learn_beta": False},
            {"learn_threshold": True},
        ],
    )
    def test_every_kind_of_network(self, tmp_path, changes):
        net = mlp(**changes)
        to_nir(net, tmp_path / "net.nir")
        back = from_nir(tmp_path / "net.nir")
        assert_same_state(net, back)
        assert [n for n, _ in net.named_parameters()] == [n for n, _ in back.named_parameters()]
        assert back.decoder == net.decoder
        assert_same_answer(net, back, spikes(net))

    @pytest.mark.parametrize("beta", [0.0, 1.0, 1.25, -0.5])
    def test_decays_at_and_beyond_the_ends(self, tmp_path, beta):
        """Training may push the parameter out of [0, 1]; the neuron clamps it, the file keeps both."""
        net = mlp()
        with torch.no_grad():
            net.neurons[0].beta.fill_(beta)
        graph = to_nir(net, tmp_path / "net.nir")
        if beta < 1:
            assert np.isfinite(graph.nodes["neurons_0"].tau).all()
        else:
            assert isinstance(graph.nodes["neurons_0"], nir.IF)
        assert_same_state(net, from_nir(tmp_path / "net.nir"))

    def test_float64(self, tmp_path):
        net = mlp().double()
        to_nir(net, tmp_path / "net.nir")
        back = from_nir(tmp_path / "net.nir")
        assert_same_state(net, back)
        assert back.synapses[0].weight.dtype == torch.float64

    def test_a_sequential(self, tmp_path):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, bias=False),
            SingleSpikeLeaky(0.9, init_hidden=True, estimator="flat", spike_grad=FastSigmoid(25)),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 10),
            StandardSingleSpikeLeaky(torch.full((10,), 0.8), threshold=0.7, init_hidden=True, learn_beta=True),
            nn.Linear(10, 6),
            MultiSpikeLeaky(0.5, init_hidden=True, reset_mechanism="zero"),
            nn.Linear(6, 5),
            snn.Leaky(0.5, init_hidden=True),
            nn.Linear(5, 3),
            LeakyReadout(torch.full((3,), 0.95), init_hidden=True),
        )
        to_nir(net, tmp_path / "net.nir", sample_shape=(1, 8, 8))
        back = from_nir(tmp_path / "net.nir")
        assert_same_state(net, back)
        assert [type(m) for m in net] == [type(m) for m in back]
        assert back[1].estimator == "flat"
        assert back[1].spike_grad == FastSigmoid(25)
        assert isinstance(back[5].beta, nn.Parameter)
        x = torch.rand(20, 4, 1, 8, 8)
        reset(net)
        reset(back)
        ours, theirs = [torch.stack([n(step) for step in x]) for n in (net, back)]
        assert torch.equal(ours, theirs)
        assert ours.any()


class TestOtherReaders:
    def test_nir_reads_it_and_the_metadata_say_what_it_is(self, tmp_path):
        graph = to_nir(mlp(step_ms=2.0, estimator="survival"), tmp_path / "net.nir", dt=2e-3)
        read = nir.read(tmp_path / "net.nir")
        assert sorted(graph.nodes) == sorted(read.nodes)
        assert (read.metadata["step_ms"], read.metadata["dt"], read.metadata["decoder"]) == (2.0, 2e-3, "sum")
        neuron = read.nodes["neurons_0"]
        assert isinstance(neuron, nir.LIF)
        assert neuron.metadata["fires_once"]
        assert neuron.metadata["estimator"] == "survival"
        np.testing.assert_allclose(1 - 2e-3 / neuron.tau, neuron.metadata["beta"], rtol=1e-6)
        np.testing.assert_array_equal(neuron.r, 1)
        scale = read.nodes["synapses_0"].weight / read.nodes["synapses_0"].metadata["weight"]
        np.testing.assert_allclose(scale * 2e-3 / neuron.tau[:, None], 1, rtol=1e-6)
        assert isinstance(read.nodes["readout"], nir.LI)

    @pytest.mark.parametrize(
        "make", [mlp, lambda: mlp(skip=True, hidden=[12, 9, 7]), conv, lambda: conv("avg"), padded]
    )
    def test_a_plain_simulator_agrees_up_to_the_first_spike(self, tmp_path, make):
        """It then fires on: that is what the plain form loses. Layers behind the first one see its extra spikes."""
        net = make()
        to_nir(net, tmp_path / "net.nir")
        x = spikes(net, batch=1, density=0.2)
        first = "conv_neurons_0" if isinstance(net, ConvNet) else "neurons_0"
        trace = simulate(nir.read(tmp_path / "net.nir"), x[:, 0].numpy())[first]
        fired = trace.reshape(len(x), -1).cumsum(0)
        expected = net(x).activity[0]
        times = np.where(fired.any(0), (fired > 0).argmax(0), len(x))
        np.testing.assert_array_equal(times, expected.first_spike_time[0].numpy())
        assert fired[-1].max() > 1

    @pytest.mark.parametrize("decoder", ["sum", "first_spike"])
    def test_snntorch_reads_it_and_fires_first_when_we_do(self, tmp_path, decoder):
        """snnTorch 1.0 knows one threshold per layer, and no LI: that becomes a LIF that never fires."""
        from snntorch.import_nir import import_from_nir

        net = mlp(decoder=decoder, hidden=[12])
        to_nir(net, tmp_path / "net.nir", reader="snntorch")
        graph = nir.read(tmp_path / "net.nir")
        if decoder == "sum":
            li = graph.nodes["readout"]
            never = np.full_like(li.tau, 1e9)
            graph.nodes["readout"] = nir.LIF(tau=li.tau, r=li.r, v_leak=li.v_leak, v_threshold=never)
        imported = import_from_nir(graph)
        torch.testing.assert_close(torch.as_tensor(imported.neurons_0.beta), net.neurons[0].beta.detach())
        fired = []
        imported.neurons_0.register_forward_hook(lambda module, given, out: fired.append(out))
        x = spikes(net, steps=20)
        for step in x:
            imported(step)
        output = net(x)
        assert torch.equal(first_spike_time(torch.stack(fired)), output.activity[0].first_spike_time)
        assert torch.stack(fired).sum() > output.activity[0].spike_count.sum()  # it loses "fires once"


EACH, ONES = torch.full((3,), 0.9), torch.ones(3)


class TestSnnTorchsOwnExport:
    """Its hook takes our neurons for the classes that they replace."""

    def export(self, *layers):
        from snntorch.export_nir import export_to_nir

        with warnings.catch_warnings(record=True) as said, contextlib.suppress(ValueError, AssertionError):
            warnings.simplefilter("always")
            export_to_nir(nn.Sequential(nn.Linear(4, 3), *layers), torch.rand(1, 4), ignore_dims=[0])
        return [str(warning.message) for warning in said if "ss_lightning.export.to_nir" in str(warning.message)]

    @pytest.mark.parametrize(
        ("neuron", "does"),
        [
            (SingleSpikeLeaky(EACH, threshold=ONES, init_hidden=True), "fires at most once"),
            (StandardSingleSpikeLeaky(EACH, threshold=ONES, init_hidden=True), "fires at most once"),
            (SingleSpikeSynaptic(EACH, EACH, threshold=ONES, init_hidden=True), "fires at most once"),
            (LeakyReadout(EACH, init_hidden=True), "never fires"),
        ],
    )
    def test_it_warns(self, neuron, does):
        (said,) = self.export(neuron)
        assert f"{type(neuron).__name__}, which {does}" in said

    def test_it_is_right_of_neurons_that_fire_on_and_of_a_plain_call(self):
        assert self.export(MultiSpikeLeaky(EACH, threshold=ONES, init_hidden=True)) == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SingleSpikeLeaky(0.9, init_hidden=True)(torch.rand(1, 4))


class TestReaders:
    @pytest.mark.parametrize("reader", ["nir", "sinabs", "snntorch"])
    @pytest.mark.parametrize("make", [mlp, lambda: mlp(skip=True, bias=False), lambda: conv("avg")])
    def test_every_form_comes_back_bit_for_bit(self, tmp_path, reader, make):
        net = make()
        to_nir(net, tmp_path / "net.nir", reader=reader)
        assert_same_state(net, from_nir(tmp_path / "net.nir"))

    @pytest.mark.parametrize("reader", ["nir", "snntorch"])
    @pytest.mark.parametrize("kind", [SingleSpikeSynaptic, snn.Synaptic])
    def test_synaptic_currents(self, tmp_path, kind, reader):
        torch.manual_seed(0)
        neurons = kind(torch.rand(12), torch.rand(12), threshold=0.8, init_hidden=True, learn_alpha=True)
        net = nn.Sequential(nn.Linear(9, 12), neurons)
        with torch.no_grad():
            net[0].weight *= 4
        to_nir(net, tmp_path / "net.nir", sample_shape=(9,), reader=reader)
        back = from_nir(tmp_path / "net.nir")
        assert_same_state(net, back)
        assert isinstance(back[1].alpha, nn.Parameter)
        assert not isinstance(back[1].beta, nn.Parameter)
        graph = nir.read(tmp_path / "net.nir")
        node = graph.nodes["layer_1"]
        assert isinstance(node, nir.CubaLIF)
        assert bool(node.metadata["fires_once"]) == (kind is SingleSpikeSynaptic)
        x = (torch.rand(30, 9) < 0.3).float()
        first = first_spike_time(torch.from_numpy(simulate(graph, x.numpy())["layer_1"])[:, None])
        reset(net)
        ours = first_spike_time(torch.stack([net(step[None]) for step in x]))
        assert torch.equal(first, ours)
        assert ours.min() < 30

    def test_decays_that_differ_within_a_channel_scale_the_threshold(self, tmp_path):
        torch.manual_seed(0)
        decays = torch.rand(2, 6, 6)
        net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), SingleSpikeLeaky(decays, init_hidden=True, sequence=True))
        with torch.no_grad():
            net[0].weight *= 3
        to_nir(net, tmp_path / "net.nir", sample_shape=(1, 6, 6))
        graph = nir.read(tmp_path / "net.nir")
        assert np.array_equal(graph.nodes["layer_0"].weight, net[0].weight.detach().numpy())
        x = (torch.rand(30, 1, 6, 6) < 0.3).float()
        first = first_spike_time(torch.from_numpy(simulate(graph, x.numpy())["layer_1"])[:, None].flatten(2))
        ours = first_spike_time(net[1](net[0](x)[:, None]).flatten(2))
        assert torch.equal(first, ours)
        assert_same_state(net, from_nir(tmp_path / "net.nir"))

    def test_a_mean_in_front_of_neurons(self, tmp_path):
        """No weights take its scale: the threshold does, and a Scale in front of the output."""
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), SingleSpikeLeaky(0.7, init_hidden=True), nn.AvgPool2d(2)
        )
        with torch.no_grad():
            net[0].weight *= 6
        to_nir(net, tmp_path / "net.nir", sample_shape=(1, 10, 10))
        graph = nir.read(tmp_path / "net.nir")
        x = (torch.rand(30, 1, 10, 10) < 0.3).float()
        theirs = torch.from_numpy(simulate(graph, x.numpy())["output"])
        reset(net)
        ours = torch.stack([net(step[None])[0] for step in x])
        assert torch.equal(theirs.cumsum(0)[:5] > 0, ours.cumsum(0)[:5] > 0)
        assert set(theirs.unique().tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
        assert_same_state(net, from_nir(tmp_path / "net.nir"))

    def test_what_a_reader_cannot_do_is_refused(self):
        for options, word in (
            ({"reader": "brian"}, "unknown reader 'brian'"),
            ({"reader": "sinabs", "self_inhibiting": True}, "sinabs runs each layer over all steps"),
        ):
            with pytest.raises(UsageError, match=word):
                to_nir(mlp(), **options)
        with pytest.raises(UsageError, match="snnTorch reads no max pooling"):
            to_nir(conv(), reader="snntorch")
        net = nn.Sequential(nn.Linear(4, 3), SingleSpikeSynaptic(0.9, 0.8, init_hidden=True))
        with pytest.raises(UsageError, match="sinabs reads no neuron with a synaptic current"):
            to_nir(net, sample_shape=(4,), reader="sinabs")

    def test_files_whose_weights_were_not_scaled(self, tmp_path):
        """As versions before wrote them: r = tau / dt, and the check of that time."""
        net = mlp()
        to_nir(net, tmp_path / "net.nir", reader="snntorch")
        with h5py.File(tmp_path / "net.nir", "r+") as file:
            del file["node/metadata/reader"]
        assert_same_state(net, from_nir(tmp_path / "net.nir"))
        with h5py.File(tmp_path / "net.nir", "r+") as file:
            file["node/nodes/neurons_0/tau"][0] = 3.0
        with pytest.raises(DataError, match="changed after"):
            from_nir(tmp_path / "net.nir")

    def test_weights_that_contradict_the_metadata(self, tmp_path):
        to_nir(mlp(), tmp_path / "net.nir")
        with h5py.File(tmp_path / "net.nir", "r+") as file:
            file["node/nodes/synapses_0/weight"][0, 0] += 1
        with pytest.raises(DataError, match="weight of synapses_0 contradicts"):
            from_nir(tmp_path / "net.nir")


def test_the_file_keeps_every_argument_of_the_networks():
    """A new argument of a network must be written too, or this fails."""
    for net in (mlp(), conv()):
        known = {name for c in type(net).__mro__[:2] for name in inspect.signature(c.__init__).parameters}
        _, _, about = describe(net, None)
        assert known - {"self", "common", "input_gain", "hidden_gain"} == about["arguments"].keys()


@pytest.mark.slow
def test_weights_and_decays_are_written_as_they_act(tmp_path):
    """However they were learned: normalised weights and logarithmic time constants are no business of a reader."""
    net = mlp(tau_hidden_ms=[3.0, 30.0], log_tau=True, weight_norm=True, dropout=0.2)
    spikes = torch.rand(20, 3, net.num_inputs).round()
    to_nir(net, tmp_path / "net.nir")
    back = from_nir(tmp_path / "net.nir")
    assert not back.training
    assert torch.equal(back(spikes).readout, net.eval()(spikes).readout)
    program = export_program(net, 20).module()
    torch.testing.assert_close(program(spikes), net(spikes).readout)


@pytest.mark.slow
def test_normalised_currents_are_written_as_weights(tmp_path):
    net = conv(pool="avg", batch_norm=True, weight_norm=True, log_tau=True)
    spikes = torch.rand(20, 3, *net.input_shape).round()
    net(spikes)  # statistics
    to_nir(net, tmp_path / "net.nir")
    back = from_nir(tmp_path / "net.nir")
    assert torch.equal(back(spikes).readout, net.plain_copy().eval()(spikes).readout)
    torch.testing.assert_close(back(spikes).readout, net.eval()(spikes).readout)
    torch.testing.assert_close(export_program(net, 20).module()(spikes), net(spikes).readout)


@pytest.mark.parametrize("delays", [{"max_delay_ms": 5.0}, {"delay_line_ms": [0.0, 3.0]}])
def test_delays_have_no_place_in_nir(tmp_path, delays):
    with pytest.raises(UsageError, match=r"its delays .* have no place in NIR"):
        to_nir(mlp(**delays), tmp_path / "net.nir")


def test_onsets_have_no_place_in_nir(tmp_path):
    with pytest.raises(UsageError, match=r"parameters that NIR has no place for, onsets\.0"):
        to_nir(mlp(onset_ms=10.0), tmp_path / "net.nir")


class TestSelfInhibition:
    def plain_counts(self, graph, x, name="neurons_0"):
        return simulate(graph, x)[name].reshape(len(x), -1).sum(0)

    @pytest.mark.parametrize("make", [lambda: mlp(skip=True), conv, lambda: conv("avg"), padded, lambda: padded("avg"),
                                      lambda: mlp(decoder="first_spike")])  # fmt: skip
    def test_a_plain_simulator_gives_our_spikes_within_the_horizon(self, tmp_path, make):
        net = make()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            to_nir(net, tmp_path / "net.nir", self_inhibiting=True, num_steps=40)
        graph = nir.read(tmp_path / "net.nir")
        assert graph.metadata["horizon_steps"] >= 40
        x = spikes(net, steps=40, batch=1, density=0.2)
        trace = simulate(graph, x[:, 0].numpy())
        output = net(x)
        names = [n for n in graph.nodes if "neurons" in n and not n.endswith("inhibition")]
        order = sorted(names, key=lambda n: ("conv" not in n, n))
        for name, layer in zip(order, output.activity, strict=True):
            counts = trace[name].reshape(40, -1).sum(0)
            np.testing.assert_array_equal(counts, layer.spike_count[0].detach().numpy(), err_msg=name)
        np.testing.assert_allclose(trace["readout"], output.readout[:, 0].detach().numpy(), atol=1e-4)
        assert_same_state(net, from_nir(tmp_path / "net.nir"))

    def strained(self, tmp_path, inhibition, **changes):
        """Every input unit active in every step: the drive is the largest that can be."""
        net = MLP(input_shape=[4], num_classes=2, step_ms=1.0, hidden=[6], bias=False, **changes)
        with torch.no_grad():
            net.synapses[0].weight.fill_(1.0)
            net.neurons[0].beta.copy_(torch.linspace(0.3, 0.9, 6))
        to_nir(net, tmp_path / "net.nir", self_inhibiting=True, inhibition=inhibition)
        return nir.read(tmp_path / "net.nir")

    @pytest.mark.parametrize("inhibition", [10.0, 1e3, 1e6])
    def test_the_horizon_holds_and_ends(self, tmp_path, inhibition):
        graph = self.strained(tmp_path, inhibition)
        horizon = int(graph.metadata["horizon_steps"])
        drive = np.ones((horizon + 1, 4), np.float32)
        assert (self.plain_counts(graph, drive) == 1).all()
        # Half of the inhibition is kept as a margin, which the weakest neuron outlives by some steps at most.
        longer = np.ones((horizon + 8, 4), np.float32)
        assert (self.plain_counts(graph, longer) > 1).any()

    def test_without_it_neurons_fire_again(self, tmp_path):
        net = mlp()
        to_nir(net, tmp_path / "net.nir")
        x = spikes(net, steps=40, batch=1, density=0.2)[:, 0].numpy()
        assert (self.plain_counts(nir.read(tmp_path / "net.nir"), x) > 1).any()

    def test_a_horizon_that_is_too_short_warns(self):
        net = mlp()
        with pytest.warns(ExportWarning, match="may fire again"):
            to_nir(net, self_inhibiting=True, inhibition=1e3, num_steps=500)

    @pytest.mark.parametrize("beta", [0.0, 0.2, 0.9, 0.999, 1.0])
    @pytest.mark.parametrize("per_step", [0.0, 0.04, 0.5, 3.0])
    @pytest.mark.parametrize("once", [0.0, 0.7, 5.0])
    def test_the_closed_form_is_the_step_by_step_bound(self, beta, per_step, once):
        inhibition = 50.0
        horizon = inhibition_horizon(*(torch.tensor([x]) for x in (beta, 1.0, per_step, once)), inhibition).item()
        steps, drive, pull = 0, 0.0, inhibition / 2
        while steps < 2000:
            drive = beta * drive + per_step
            if once + drive - pull * beta**steps > 1.0:
                break
            steps += 1
        assert horizon == steps or (horizon >= 2000 and steps == 2000)

    def test_refused_where_nothing_fires_once(self):
        with pytest.raises(UsageError, match="no neuron that fires once"):
            to_nir(mlp(neuron="multi"), self_inhibiting=True)

    def test_refused_where_the_drive_has_no_bound(self):
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), SingleSpikeLeaky(0.9, init_hidden=True))
        with pytest.raises(UsageError, match="no bound"):
            to_nir(net, sample_shape=(4,), self_inhibiting=True)


class TestRefusals:
    def test_without_nir(self, monkeypatch, tmp_path):
        monkeypatch.setitem(__import__("sys").modules, "nir", None)
        for call in (lambda: to_nir(mlp()), lambda: from_nir(tmp_path / "net.nir")):
            with pytest.raises(UsageError, match=r"ss-lightning\[nir\]"):
                call()

    @pytest.mark.parametrize(
        ("layers", "shape", "word"),
        [
            ([nn.Linear(4, 3), snn.Alpha(0.9, 0.8, init_hidden=True)], (4,), "Alpha"),
            ([nn.Linear(4, 3), nn.Dropout()], (4,), "Dropout"),
            ([nn.Linear(4, 3)], (5,), "sample_shape"),
            ([nn.Linear(4, 3), SingleSpikeLeaky(torch.ones(5), init_hidden=True)], (4,), "sample_shape"),
            ([nn.Conv2d(1, 2, (3, 2))], (1, 8, 8), "square"),
            ([nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)], (1, 8, 8), "spikes only"),
            ([nn.AvgPool2d(3, padding=1)], (1, 8, 8), "padding"),
            ([nn.AvgPool2d(2), nn.MaxPool2d(2)], (1, 8, 8), "spikes only"),
            ([nn.Flatten(0)], (1, 8, 8), "Flatten"),
            ([nn.Conv2d(1, 2, 3)], (8,), "maps"),
            ([SingleSpikeLeaky(0.9, state_quant=torch.round)], (4,), "state_quant"),
            ([SingleSpikeLeaky(0.9, graded_spikes_factor=2.0)], (4,), "graded"),
            ([nn.Linear(4, 3).bfloat16()], (4,), "bfloat16"),
        ],
    )
    def test_what_nir_cannot_say(self, layers, shape, word):
        with pytest.raises(UsageError, match=word):
            to_nir(nn.Sequential(*layers), sample_shape=shape)

    def test_networks_it_does_not_know(self):
        with pytest.raises(UsageError, match=r"give its \.network"):
            to_nir(MLPClassifier(input_shape=[4], num_classes=2, step_ms=1.0))
        with pytest.raises(UsageError, match="sample_shape"):
            to_nir(nn.Sequential(nn.Linear(4, 3)))
        with pytest.raises(UsageError, match="knows its input"):
            to_nir(mlp(), sample_shape=(40,))

    def test_a_parameter_with_no_place(self):
        net = mlp()
        net.delay = nn.Parameter(torch.zeros(3))
        with pytest.raises(UsageError, match="delay"):
            to_nir(net)

    def test_plain_form_and_foreign_surrogates_warn(self):
        with pytest.warns(ExportWarning, match="fires once"):
            to_nir(mlp())
        net = nn.Sequential(SingleSpikeLeaky(0.9, init_hidden=True, spike_grad=snn.surrogate.fast_sigmoid()))
        with pytest.warns(ExportWarning, match="spike_grad"):
            to_nir(net, sample_shape=(4,))

    def test_files_that_are_not_ours(self, tmp_path):
        with pytest.raises(DataError, match="no file"):
            from_nir(tmp_path / "net.nir")
        (tmp_path / "net.nir").write_text("not a NIR file")
        with pytest.raises(DataError, match="not a NIR file"):
            from_nir(tmp_path / "net.nir")
        graph = to_nir(mlp())
        graph.metadata = {}
        nir.write(tmp_path / "foreign.nir", graph)
        with pytest.raises(UsageError, match="import_from_nir"):
            from_nir(tmp_path / "foreign.nir")

    @pytest.mark.parametrize("change", ["tau", "v_threshold", "fires_once", "module", "weight", "json"])
    def test_files_that_were_changed(self, tmp_path, change):
        to_nir(mlp(), tmp_path / "net.nir")
        with h5py.File(tmp_path / "net.nir", "r+") as file:
            node = file["node/nodes/neurons_0"]
            if change in ("tau", "v_threshold"):
                node[change][0] = 3.0
            elif change == "fires_once":
                node["metadata/fires_once"][()] = False
            elif change == "module":
                del node["metadata"]
            elif change == "weight":
                del file["node/nodes/synapses_1"]["metadata"]
            else:
                text = json.loads(file["node/metadata/ss_lightning"][()])
                text["arguments"]["hidden"] = [3]
                file["node/metadata/ss_lightning"][()] = json.dumps(text)
        with pytest.raises(DataError, match="changed after"):
            from_nir(tmp_path / "net.nir")

    def test_nothing_is_left_of_a_failed_write(self, tmp_path, monkeypatch):
        def fail(file, graph):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(nir, "write", fail)
        with pytest.raises(UsageError, match="No space left"):
            to_nir(mlp(), tmp_path / "net.nir")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(UsageError, match="cannot write"):
            to_nir(mlp(), tmp_path / "absent" / "net.nir")


class TestProgram:
    @pytest.mark.slow
    @pytest.mark.parametrize("make", [lambda: mlp(estimator="survival"), lambda: mlp(skip=True), conv,
                                      lambda: mlp(decoder="first_spike")])  # fmt: skip
    def test_it_answers_like_the_network(self, tmp_path, make):
        net = make().train()
        program = export_program(net, 6)
        assert net.training
        torch.export.save(program, tmp_path / "net.pt2")
        read = torch.export.load(tmp_path / "net.pt2").module()
        for batch in (1, 2, 5):
            x = spikes(net, steps=6, batch=batch, density=0.3)
            assert torch.equal(read(x), net(x).readout)

    @pytest.mark.slow
    def test_padding_and_pools(self):
        net = padded()
        x = spikes(net, steps=2, density=0.5)
        assert torch.equal(export_program(net, 2).module()(x), net(x).readout)

    def test_steps(self):
        with pytest.raises(UsageError, match="num_steps"):
            export_program(mlp(), 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a short run in plain Python."""
    folder = tmp_path_factory.mktemp("run")
    data = YinYangData(num_steps=20, num_train=64, num_val=16, num_test=16)
    model = MLPClassifier(input_shape=data.input_shape, num_classes=3, step_ms=1.0, hidden=[10], input_gain=4.0)
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model, data)
    (folder / "checkpoints").mkdir()
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    (folder / "config.yaml").write_text("data:\n  init_args:\n    num_steps: 20\n")
    return folder / "checkpoints" / "best.ckpt", model


class TestCheckpoints:
    @pytest.mark.slow
    def test_both_formats_land_beside_the_checkpoint(self, trained, capsys, tmp_path):
        ckpt, model = trained
        x = spikes(model.network, steps=20)
        assert main([str(ckpt)]) == 0
        printed = capsys.readouterr()
        assert printed.out.strip().endswith("best.nir")
        assert "note: NIR has no neuron that fires once" in printed.err
        assert_same_answer(model.network, from_nir(ckpt.with_suffix(".nir")), x)
        assert main([str(ckpt), "--format=torch"]) == 0
        program = torch.export.load(ckpt.with_suffix(".pt2"))
        torch.testing.assert_close(program.module()(x), model.network(x).readout)
        assert {p.name for p in ckpt.parent.iterdir()} == {"best.ckpt", "best.nir", "best.pt2"}
        assert main([str(ckpt), f"--out={tmp_path / 'x.nir'}", "--self_inhibiting=true"]) == 0
        assert nir.read(tmp_path / "x.nir").metadata["horizon_steps"] > 20

    def test_classes_that_the_command_line_names(self, trained, tmp_path):
        ckpt, model = trained
        content = torch.load(ckpt, weights_only=True)
        for path, message in (("os.system", "no classifier"), ("ss_lightning.networks.MLP", "no classifier"),
                              ("ss_lightning.Nothing", "no classifier")):  # fmt: skip
            content["hyper_parameters"]["_class_path"] = path
            torch.save(content, tmp_path / "x.ckpt")
            with pytest.raises(UsageError, match=message):
                load_classifier(tmp_path / "x.ckpt")
        content["hyper_parameters"] |= {"_class_path": "ss_lightning.MLPClassifier", "_instantiator": "x.y"}
        torch.save(content, tmp_path / "x.ckpt")
        assert_same_state(load_classifier(tmp_path / "x.ckpt"), model)

    def test_a_conv_classifier(self, tmp_path):
        model = ConvClassifier(input_shape=[1, 8, 8], num_classes=2, step_ms=1.0, channels=[2], hidden=[4])
        trainer = L.Trainer(logger=False, enable_checkpointing=False)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        # As in a checkpoint from before there was a padding.
        assert "padding" not in torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]
        assert_same_state(from_nir(export_checkpoint(tmp_path / "x.ckpt")), model.network)
        with pytest.raises(UsageError, match="num_steps"):
            export_checkpoint(tmp_path / "x.ckpt", "torch")

    def test_files_that_are_no_checkpoints(self, trained, tmp_path):
        with pytest.raises(UsageError, match="no checkpoint"):
            load_classifier(tmp_path / "absent.ckpt")
        cut = tmp_path / "cut.ckpt"
        cut.write_bytes(trained[0].read_bytes()[: os.path.getsize(trained[0]) // 2])
        with pytest.raises(UsageError, match="cut short"):
            load_classifier(cut)
        content = torch.load(trained[0], weights_only=True)
        content["hyper_parameters"]["hidden"] = [11]
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(UsageError, match="do not fit"):
            load_classifier(tmp_path / "other.ckpt")

    def test_wrong_arguments(self):
        with pytest.raises(UsageError, match="format"):
            main(["x.ckpt", "--formt=nir"])


def test_the_longest_time_constant_is_no_leak_in_float32():
    tau = leak_of(torch.tensor([1.0, 0.0, 0.5]), 1e-4, "nir").tau
    assert (np.float32(1) - np.float32(1e-4) / tau).tolist() == [1.0, 0.0, 0.5]
