import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torchmetrics import Metric

from ss_lightning import MLP, EventBatch
from ss_lightning.metrics import (
    DeadFraction,
    EvaluationMetrics,
    FirstSpikeTime,
    SpikesPerSample,
    SynopsPerSample,
    input_spike_count,
)


def counts(seed=0, batch=7, neurons=5):
    return torch.randint(0, 3, (batch, neurons), generator=torch.Generator().manual_seed(seed))


def filled(metrics: list[Metric], parts):
    """Every metric fed with these spike counts."""
    spikes, synops, dead, first = metrics
    for count in parts:
        spikes.update(count)
        synops.update(count, torch.arange(5))
        dead.update(count)
        first.update(torch.where(count > 0, count * 3, 50), count)
    return torch.stack([metric.compute() for metric in metrics])


def new_metrics():
    return [SpikesPerSample(), SynopsPerSample(), DeadFraction(5), FirstSpikeTime(2.0)]


def test_values_against_plain_arithmetic():
    count = torch.tensor([[1, 0, 2, 0, 0], [0, 0, 1, 0, 1]])
    values = filled(new_metrics(), [count])
    fired = torch.tensor([3.0, 6.0, 3.0, 3.0])  # first spike steps: three times the count, see above
    expected = torch.tensor([5 / 2, (2 * 2 + 2 + 4) / 2, 2 / 5, fired.mean() * 2])
    torch.testing.assert_close(values, expected)


def test_batches_add_up():
    whole = counts(batch=9)
    torch.testing.assert_close(filled(new_metrics(), [whole]), filled(new_metrics(), whole.split([2, 4, 3])))


def _worker(rank: int, path: str, result) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    result[rank] = filled(new_metrics(), [counts(batch=9).split([4, 5])[rank]]).tolist()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_the_whole(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        result = manager.dict()
        processes = [context.Process(target=_worker, args=(rank, str(tmp_path / "store"), result)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        expected = filled(new_metrics(), [counts(batch=9)])
        for rank in range(2):
            torch.testing.assert_close(torch.tensor(result[rank]), expected)


def test_totals_beyond_single_precision_are_exact():
    """2^24 + 1 does not fit float32: neither a long evaluation nor a wide layer may lose a spike."""
    metric, synops = SpikesPerSample(), SynopsPerSample()
    for total in (2**24, 1, 2**24, 1):
        metric.update(torch.tensor([[total]]).float())
        synops.update(torch.tensor([[total]]), torch.tensor([3]))
    assert metric.total.item() == 2**25 + 2
    assert synops.total.item() == 3 * (2**25 + 2)
    assert metric.compute().item() == pytest.approx(2**23 + 0.5, rel=1e-7)
    many = FirstSpikeTime(0.1)
    for step in (2**30, 7, 11):
        many.update(torch.full((3, 1), step), torch.ones(3, 1))
    assert many.compute().item() == pytest.approx((2**30 + 18) / 3 * 0.1, rel=1e-7)


def test_graded_input_counts_as_its_sum():
    metric, synops = SpikesPerSample(), SynopsPerSample()
    graded = torch.tensor([[0.25, 2.5], [1.0, 0.0]])
    metric.update(graded)
    synops.update(graded, torch.tensor([2, 4]))
    assert metric.compute().item() == 3.75 / 2
    assert synops.compute().item() == (1.25 * 2 + 2.5 * 4) / 2


def test_no_state_is_float64():
    metrics = EvaluationMetrics(3, [4, 5], 1.0, weight_uses=9, fires_once=True)
    dtypes = {
        value.dtype for metric in metrics.modules() if isinstance(metric, Metric) for value in metric._defaults.values()
    }
    assert dtypes == {torch.float32, torch.int64}


def test_nothing_fired():
    metric = FirstSpikeTime(1.0)
    metric.update(torch.full((2, 3), 9), torch.zeros(2, 3))
    assert metric.compute().isnan()


@pytest.mark.parametrize("as_events", [True, False])
def test_evaluation_metrics_names_and_values(as_events):
    torch.manual_seed(0)
    spikes = (torch.rand(20, 6, 4) < 0.4).to(torch.uint8)
    batch = EventBatch.from_dense(spikes) if as_events else spikes
    net = MLP(input_shape=(4,), num_classes=3, step_ms=2.0, hidden=[8, 5], input_gain=3)
    metrics = EvaluationMetrics(3, net.layer_sizes, net.step_ms, net.weight_uses, net.fires_once)
    out = net(batch)
    scores = out.readout.sum(0)
    metrics.update(batch, out, net.fan_out(), torch.tensor(2.0), scores, scores.argmax(1))
    values = {name: metric.compute().item() for name, metric in metrics.named_metrics()}
    layers = [
        f"{name}/layer{i}" for i in range(2) for name in ("spikes_per_sample", "dead_fraction", "first_spike_time")
    ]
    assert set(values) == {
        "loss", "accuracy", "spikes_per_sample", "input_spikes_per_sample", "dead_fraction", "first_spike_time",
        "synops_per_sample", "neuron_updates_per_sample", "energy_nj", "energy_dense_nj", "energy_dense_loop_nj",
        *layers,
    }  # fmt: skip
    hidden = [layer.spike_count.sum().item() for layer in out.activity]
    inputs = int(spikes.sum())
    assert values["accuracy"] == 1
    assert values["loss"] == 2
    assert values["spikes_per_sample"] == pytest.approx(sum(hidden) / 6)
    assert values["spikes_per_sample/layer1"] == pytest.approx(hidden[1] / 6)
    assert values["input_spikes_per_sample"] == pytest.approx(inputs / 6)
    assert values["synops_per_sample"] == pytest.approx((inputs * 8 + hidden[0] * 5 + hidden[1] * 3) / 6)
    assert 0 <= values["first_spike_time"] < 40
    synops, updates = values["synops_per_sample"], values["neuron_updates_per_sample"]
    assert updates == pytest.approx(
        sum((times + 1).clamp(max=20).sum().item() for _, times in out.activity) / 6 + 3 * 20
    )
    assert values["energy_nj"] == pytest.approx((0.9 * (synops + updates) + 4.6 * updates) / 1000)
    weights = 4 * 8 + 8 * 5 + 5 * 3
    assert values["energy_dense_nj"] == pytest.approx(4.6 * weights / 1000)
    assert values["energy_dense_loop_nj"] == pytest.approx(20 * (4.6 * (weights + 16) + 0.9 * 16) / 1000)


def test_input_spike_count_of_events_and_dense_input():
    spikes = torch.randint(0, 3, (6, 2, 5), dtype=torch.uint8)
    expected = spikes.sum(0, dtype=torch.int64)
    assert torch.equal(input_spike_count(EventBatch.from_dense(spikes)), expected)
    assert torch.equal(input_spike_count(spikes).long(), expected)
