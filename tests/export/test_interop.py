"""Norse and sinabs read what we write (extra ``interop``): trained checkpoints, first spike times compared."""

import importlib
import math
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from ss_lightning import (
    ConvClassifier,
    EventData,
    LeakyReadout,
    MLPClassifier,
    SingleSpikeLeaky,
    SingleSpikeSynaptic,
    reset,
)
from ss_lightning.export import ExportWarning, export_checkpoint, load_classifier, to_nir
from ss_lightning.functional import first_spike_time

nir = pytest.importorskip("nir")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ss_lightning.export.ExportWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS, BATCH = 40, 3
MLP_OPTIONS = {"input_shape": [36], "num_classes": 3, "step_ms": 1.0, "hidden": [12, 9], "input_gain": 6.0}
CONV_OPTIONS = {"input_shape": [1, 6, 6], "num_classes": 3, "step_ms": 1.0, "channels": [3, 4], "kernel_size": 3}
CONV_OPTIONS |= {"padding": 1, "pool_size": [2, 1], "hidden": [8]}
# Every architecture that this package ships, as its classifier.
SHIPPED = {
    "MLP": lambda: MLPClassifier(**MLP_OPTIONS, learn_threshold=True),
    "MLP, skip connections": lambda: MLPClassifier(**MLP_OPTIONS, skip=True, bias=False),
    "MLP, no leak": lambda: MLPClassifier(**MLP_OPTIONS, tau_hidden_ms=math.inf, learn_beta=False),
    "MLP, first spike": lambda: MLPClassifier(**MLP_OPTIONS, decoder="first_spike"),
    "ConvNet, max": lambda: ConvClassifier(**CONV_OPTIONS),
    "ConvNet, avg": lambda: ConvClassifier(**CONV_OPTIONS, pool="avg"),
    "ConvNet, batch norm": lambda: ConvClassifier(**CONV_OPTIONS, batch_norm=True, weight_norm=True),
}


@pytest.fixture(scope="module", params=SHIPPED)
def checkpoint(request, tmp_path_factory):
    """A checkpoint after some updates, so that every neuron has its own decay."""
    L.seed_everything(0)
    rng = np.random.default_rng(0)
    samples = [(np.sort(rng.random(200) * STEPS / 1000), rng.integers(0, 36, 200)) for _ in range(60)]
    shape = CONV_OPTIONS["input_shape"] if request.param.startswith("Conv") else [36]
    arrays = ([times for times, _ in samples], [units for _, units in samples], np.arange(60) % 3)
    data = EventData.from_arrays(
        arrays, num_units=36, num_steps=STEPS, step_ms=1.0, input_shape=tuple(shape), batch_size=12
    )
    model = SHIPPED[request.param]()
    with torch.no_grad():
        for neurons in model.network.modules():
            if isinstance(neurons, SingleSpikeLeaky | LeakyReadout) and isinstance(neurons.beta, nn.Parameter):
                neurons.beta.uniform_(0.6, 0.95)
        for synapses in getattr(model.network, "convolutions", []):
            synapses.weight *= 6 if request.param == "ConvNet, avg" else 3
        for synapses in list(model.network.synapses)[:-1]:
            synapses.weight *= 3
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=2, enable_model_summary=False, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, data)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    trainer.save_checkpoint(path)
    return path


def exported(checkpoint, **options):
    return nir.read(export_checkpoint(checkpoint, out=checkpoint.with_suffix(".nir"), num_steps=STEPS, **options))


def answer(checkpoint):
    """Input spikes, what our network makes of them, and the names of the hidden layers in the file."""
    network = load_classifier(checkpoint).network
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(STEPS, BATCH, *network.input_shape, generator=generator) < 0.2).float()
    with torch.no_grad():
        output = network(x)
    assert all(layer.spike_count.sum() > 0 for layer in output.activity)
    convolutions = [f"conv_neurons_{i}" for i in range(len(getattr(network, "conv_neurons", [])))]
    return x, output, convolutions + [f"neurons_{i}" for i in range(len(network.neurons))]


def import_or_skip(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f'needs pip install "ss-lightning[interop]": no {name}')


def never_fires(graph, name):
    """Norse knows no LI: a LIF that never fires stands in its place, and its state is read."""
    li = graph.nodes[name]
    never = np.full_like(li.tau, np.inf)
    graph.nodes[name] = nir.LIF(tau=li.tau, r=li.r, v_leak=li.v_leak, v_threshold=never)


def in_order(network, graph):
    """nirtorch runs a node when its first input has arrived; of skip connections the others are then a step late."""

    def depth(name):
        return 1 + max((depth(a) for a, b in graph.edges if b == name and not a.endswith("_inhibition")), default=0)

    network.execution_order.sort(key=lambda node: depth(node.name))


def in_norse(graph, x, ordered=True):
    """What every node gives over time ``[T, B, ...]``, and the membrane of the readout; one sample at a time."""
    norse = import_or_skip("norse.torch")
    if isinstance(graph.nodes["readout"], nir.LI):
        never_fires(graph, "readout")
    network = norse.from_nir(graph, dt=float(graph.metadata["dt"]))
    if ordered:
        in_order(network, graph)
    traces, membranes = [], []
    with torch.no_grad():
        for sample in x.unbind(1):
            state, steps, membrane = None, [], []
            for step in sample:
                _, state = network(step, state)
                steps.append(state.cache)
                membrane.append(state.state["readout"][0].v)
            traces.append({name: torch.stack([step[name] for step in steps]) for name in steps[0]})
            membranes.append(torch.stack(membrane))
    return {name: torch.stack([t[name] for t in traces], 1) for name in traces[0]}, torch.stack(membranes, 1)


def in_sinabs(graph, x, fires_once=True):
    """What every node gives over time ``[T, B, ...]``; as in docs/export.md."""
    activation, layers = import_or_skip("sinabs.activation"), import_or_skip("sinabs.layers")
    for node in graph.nodes.values():
        if isinstance(node, nir.LIF):
            node.v_leak = node.v_leak.ravel()  # sinabs asks whether any of it is not zero, which fails for maps
    network = import_or_skip("sinabs.nir").from_nir(graph, batch_size=x.shape[1])
    in_order(network, graph)
    if fires_once:
        for layer in network.modules():
            if isinstance(layer, layers.LIF) and layer.spike_fn is not None:
                pool = isinstance(layer, layers.IAF)
                layer.spike_fn = activation.SingleSpike
                layer.reset_fn = activation.MembraneReset() if pool else activation.MembraneSubtract(1e30)
    with torch.no_grad():
        _, state = network(x.transpose(0, 1).flatten(0, 1))
    return {name: out.unflatten(0, x.shape[1::-1]).transpose(0, 1) for name, out in state.cache.items()}


def assert_same_first_spikes(trace, output, names, at_most=1):
    for name, layer in zip(names, output.activity, strict=True):
        fired = trace[name].flatten(2)
        assert torch.equal(first_spike_time(fired), layer.first_spike_time), name
        if at_most is not None:
            assert fired.sum(0).max() <= at_most, name


class TestNorse:
    def test_the_inhibiting_form_is_our_network(self, checkpoint):
        x, output, names = answer(checkpoint)
        trace, membrane = in_norse(exported(checkpoint, self_inhibiting=True), x)
        assert_same_first_spikes(trace, output, names)
        if output.readout.unique().tolist() in ([0.0, 1.0], [0.0], [1.0]):  # it fires
            assert torch.equal(trace["readout"], output.readout)
        else:
            torch.testing.assert_close(membrane, output.readout, rtol=1e-3, atol=1e-3)

    def test_the_plain_form_agrees_in_the_first_layer_and_fires_on(self, checkpoint):
        x, output, names = answer(checkpoint)
        trace, _ = in_norse(exported(checkpoint), x)
        assert_same_first_spikes(trace, output._replace(activity=output.activity[:1]), names[:1], at_most=None)
        assert trace[names[0]].sum(0).max() > 1

    def test_in_its_own_order_a_skip_connection_is_a_step_late(self, checkpoint):
        network = load_classifier(checkpoint).network
        if not getattr(network, "skip", False):
            pytest.skip("no skip connections")
        x, output, names = answer(checkpoint)
        trace, membrane = in_norse(exported(checkpoint, self_inhibiting=True), x, ordered=False)
        assert_same_first_spikes(trace, output, names)
        current = trace["synapses_2_part1"]
        current[1:] += trace["synapses_2"][:-1]
        expected = network.readout(current * (1 - network.readout.decay().detach())).detach()
        torch.testing.assert_close(membrane, expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(membrane, output.readout, rtol=1e-3, atol=1e-3)

    def test_a_wrong_step_gives_other_spikes(self, checkpoint):
        """Negative control: the comparison can fail."""
        x, output, names = answer(checkpoint)
        graph = exported(checkpoint, self_inhibiting=True)
        if isinstance(graph.nodes[names[0]], nir.IF):
            pytest.skip("an IF has no time constant")
        graph.metadata["dt"] *= 2
        with pytest.raises(AssertionError):
            assert_same_first_spikes(in_norse(graph, x)[0], output, names)


class TestSinabs:
    def test_neurons_told_to_fire_once_are_our_network(self, checkpoint):
        x, output, names = answer(checkpoint)
        trace = in_sinabs(exported(checkpoint, reader="sinabs"), x)
        assert_same_first_spikes(trace, output, names)
        torch.testing.assert_close(trace["readout"], output.readout, rtol=1e-3, atol=1e-3)

    def test_as_it_is_it_agrees_in_the_first_layer(self, checkpoint):
        x, output, names = answer(checkpoint)
        trace = in_sinabs(exported(checkpoint, reader="sinabs"), x, fires_once=False)
        assert_same_first_spikes(trace, output._replace(activity=output.activity[:1]), names[:1], at_most=None)
        assert trace[names[0]].sum(0).max() > 1

    def test_a_file_for_others_gives_other_spikes(self, checkpoint):
        """Negative control: sinabs takes tau in steps and scales no input."""
        x, output, names = answer(checkpoint)
        graph = exported(checkpoint)
        if isinstance(graph.nodes[names[0]], nir.IF):
            pytest.skip("an IF is the same for all")
        with pytest.raises(AssertionError):
            assert_same_first_spikes(in_sinabs(graph, x), output, names)


@pytest.mark.parametrize("decays", [(0.8, 0.9), (0.0, 1.0), (1.0, 1.0), "each"])
def test_norse_reads_synaptic_currents(decays):
    torch.manual_seed(0)
    alpha, beta = (torch.rand(2, 30) if decays == "each" else torch.tensor(decays)).unbind()
    net = nn.Sequential(
        nn.Linear(20, 30),
        SingleSpikeSynaptic(alpha, beta, init_hidden=True),
        nn.Linear(30, 4),
        LeakyReadout(0.9, init_hidden=True),
    )
    graph = to_nir(net, sample_shape=(20,))
    assert isinstance(graph.nodes["layer_1"], nir.CubaLIF)
    graph.nodes["readout"] = graph.nodes.pop("layer_3")
    graph.edges = [tuple("readout" if name == "layer_3" else name for name in edge) for edge in graph.edges]
    x = (torch.rand(STEPS, BATCH, 20) < 0.2).float()
    trace, _ = in_norse(graph, x)
    spikes = []
    net[1].register_forward_hook(lambda module, given, out: spikes.append(out))
    reset(net)
    with torch.no_grad():
        for step in x:
            net(step)
    ours = torch.stack(spikes)
    assert ours.sum() > 0
    assert torch.equal(first_spike_time(trace["layer_1"]), first_spike_time(ours))


@pytest.mark.parametrize("reader", ["norse", "sinabs"])
def test_neurons_without_a_leak_are_read_from_the_file_for_all(reader):
    net = nn.Sequential(nn.Linear(20, 30), SingleSpikeLeaky(1.0, init_hidden=True), nn.Linear(30, 4), LeakyReadout(0.9))
    with torch.no_grad():
        net[0].weight.abs_()  # sinabs cuts membranes off at minus the threshold
        net[0].bias.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportWarning)
        graph = to_nir(net, sample_shape=(20,))
    assert isinstance(graph.nodes["layer_1"], nir.IF)
    graph.nodes["readout"] = graph.nodes.pop("layer_3")
    graph.edges = [tuple("readout" if name == "layer_3" else name for name in edge) for edge in graph.edges]
    x = (torch.rand(STEPS, BATCH, 20) < 0.2).float()
    trace = in_norse(graph, x)[0] if reader == "norse" else in_sinabs(graph, x, fires_once=False)
    net[1].sequence = True
    with torch.no_grad():
        ours = net[1](net[0](x))
    assert torch.equal(first_spike_time(trace["layer_1"]), first_spike_time(ours))
