"""A training pass as a CUDA graph: what is recorded and what is not, with a graph that a processor can replay."""

from __future__ import annotations

import lightning
import pytest
import torch

from ss_lightning import MLP, ConvNet, EventBatch, MLPClassifier
from ss_lightning.data import YinYangData
from ss_lightning.errors import UsageError
from ss_lightning.networks import GraphedNetwork

SHAPE = {"input_shape": [4], "num_classes": 3, "step_ms": 1.0, "hidden": [8]}


@pytest.fixture
def graphs(monkeypatch):
    """Stands for torch's function: the same warm-ups, a fixed place for the input, outputs in fixed places."""
    made = []

    def imitate(module, sample, allow_unused_input=False, num_warmup_iters=3):
        (place,) = sample
        for _ in range(num_warmup_iters):
            module(place)
        made.append(replays := [])

        def replay(spikes):
            assert spikes.shape == place.shape
            assert spikes.dtype == place.dtype
            place.copy_(spikes)
            replays.append(1)
            return module(place)

        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", imitate)
    return made


def batch(size=5, seed=0):
    return (torch.rand(12, size, 4, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def same(found, expected):
    assert torch.equal(found.readout, expected.readout)
    for one, other in zip(found.activity, expected.activity, strict=True):
        assert torch.equal(one.spike_count, other.spike_count)
        assert torch.equal(one.first_spike_time, other.first_spike_time)


@pytest.mark.parametrize("as_events", [True, False])
def test_the_second_batch_of_a_shape_is_recorded(graphs, as_events):
    torch.manual_seed(0)
    network = MLP(**{**SHAPE, "hidden": [8, 6]}, input_gain=4)
    graphed = GraphedNetwork(network)
    for number, spikes in enumerate((batch(), batch(seed=1), batch(3), batch(seed=2))):
        given = EventBatch.from_dense(spikes) if as_events else spikes
        found = graphed(given)
        # Lists of events are made dense, so the products are too.
        same(found, network(given if number in (0, 2) else spikes))
    assert [len(replays) for replays in graphs] == [2]


def test_evaluation_autocast_and_rare_shapes_run_as_ever(graphs):
    network = MLP(**SHAPE)
    graphed = GraphedNetwork(network)
    network.eval()
    for _ in range(3):
        graphed(batch())
    network.train()
    with torch.no_grad():
        for _ in range(3):
            graphed(batch())
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            graphed(batch())
    assert graphs == []
    for size in (1, 2, 3, 4):
        for _ in range(3):
            graphed(batch(size))
    assert [len(replays) for replays in graphs] == [2, 2], "each graph holds the memory of a pass"


def test_warming_up_leaves_running_statistics_alone(graphs):
    torch.manual_seed(0)
    networks = [ConvNet(input_shape=[1, 2, 2], num_classes=3, step_ms=1.0, channels=[3], kernel_size=2, pool_size=1,
                        hidden=[6], batch_norm=True) for _ in range(2)]  # fmt: skip
    networks[1].load_state_dict(networks[0].state_dict())
    graphed = GraphedNetwork(networks[0])
    for seed in range(4):
        same(graphed(batch(seed=seed)), networks[1](batch(seed=seed)))
    ours, theirs = (list(network.norms.buffers()) for network in networks)
    assert len(ours) > 0
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_learned_delays_are_refused():
    with pytest.raises(ValueError, match="cannot follow learned delays"):
        GraphedNetwork(MLP(**SHAPE, max_delay_ms=4.0))


def train(model, tmp_path):
    data = YinYangData(num_steps=12, step_ms=1, num_train=70, num_val=16, num_test=16, batch_size=16, input="dense")
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    lightning.seed_everything(0)
    trainer.fit(model, data)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.slow
def test_a_training_is_the_same(graphs, tmp_path, monkeypatch):
    torch.manual_seed(0)
    plain = MLPClassifier(**SHAPE, input_gain=4)
    graphed = MLPClassifier(**SHAPE, input_gain=4, cuda_graph=True)
    graphed.load_state_dict(plain.state_dict())
    expected = train(plain, tmp_path)
    monkeypatch.setattr(MLPClassifier, "_make_graphed", lambda self: GraphedNetwork(self.network))
    assert torch.equal(train(graphed, tmp_path), expected)
    # Four full batches an epoch, of which the first of all is not recorded; the last, smaller one of the second epoch.
    assert [len(replays) for replays in graphs] == [7, 1]
    assert graphed._graphed is None


def test_without_a_card_it_says_so(tmp_path):
    with pytest.raises(UsageError, match="cuda_graph needs one NVIDIA GPU, and this training runs on 1 x cpu"):
        train(MLPClassifier(**SHAPE, cuda_graph=True), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_card_the_gradients_are_those_of_the_network():
    torch.manual_seed(0)
    network = MLP(**SHAPE, input_gain=4).cuda()
    graphed = GraphedNetwork(network)
    for seed in range(4):
        found = [
            torch.autograd.grad(run(batch(seed=seed).cuda()).readout.sum(), list(network.synapses.parameters()))
            for run in (graphed, network)
        ]
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)
