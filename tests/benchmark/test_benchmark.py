"""The benchmark measures what it says: same job for all, nothing lost, caps recorded. Speed itself is not tested."""

import csv

import pytest
import torch

from ss_lightning import single_spike
from ss_lightning.benchmark import measure
from ss_lightning.benchmark.cells import FASHION, SHD, Cell, cells, make_batch
from ss_lightning.benchmark.contenders import BETA_HIDDEN, SURROGATE, Contender, PaperBlock, contenders
from ss_lightning.cli.commands import main

SMALL = Cell("step", "small", 4, 12, (40, 6, 3), density=0.8)


@pytest.mark.parametrize("contender", contenders(), ids=lambda c: c.name)
def test_every_contender_does_the_whole_job(contender):
    if contender.network is not None:
        torch.manual_seed(0)
        network = contender.network(SMALL.sizes, SMALL.steps)
        events, _ = make_batch(SMALL)
        scores = network(events if contender.takes == "events" else events.to_dense())
        assert scores.shape == (4, 3)
        scores.square().sum().backward()
        shapes = {tuple(p.shape) for p in network.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert (6, 40) in shapes, "the gradient reaches the first layer"
    if contender.neuron is not None:
        current = torch.randn(12, 4, 6, requires_grad=True)
        spikes = contender.neuron(6, 12)(current)
        assert spikes.shape == current.shape
        spikes.sum().backward()
        assert current.grad.abs().sum() > 0


def test_the_papers_block_has_the_spikes_and_gradients_of_our_ramp():
    """In float64: the same equations as convolutions and as a scan."""
    torch.manual_seed(0)
    current, weight = torch.randn(2, 15, 3, 4, dtype=torch.float64) * 0.7
    block = PaperBlock(4, 15).double()
    leaves = [current.clone().requires_grad_() for _ in range(2)]
    ours = single_spike(leaves[0], block.beta.detach(), surrogate=SURROGATE, estimator="ramp")
    theirs = block(leaves[1])
    assert ours.sum() > 0
    torch.testing.assert_close(theirs, ours)
    grads = [torch.autograd.grad((s * weight).sum(), leaf)[0] for s, leaf in zip((ours, theirs), leaves, strict=True)]
    torch.testing.assert_close(*grads)
    assert pytest.approx(0.9048, abs=1e-4) == BETA_HIDDEN


def test_batches_have_the_density_they_say():
    events, labels = make_batch(SHD)
    assert events.num_events / (128 * 500 * 700) == pytest.approx(0.023, rel=0.03)
    assert events.to_dense(torch.uint8).max() == 1
    events, _ = make_batch(FASHION)
    assert (events.to_dense(torch.uint8).sum(0) == 1).all(), "every pixel fires once"
    assert labels.shape == (128,)


def test_grids():
    assert len(cells("layer", full=True)) == 4 * 4 * 9
    for suite in ("neuron", "layer", "step", "scale"):
        assert all(cell.suite == suite for cell in cells(suite, full=False))


def test_caps_are_recorded():
    def slow(sizes, num_steps):
        class Slow(torch.nn.Linear):
            def forward(self, x):
                import time

                time.sleep(0.3)
                return super().forward(x.sum(0))

        return Slow(sizes[0], sizes[-1])

    capped, timed_once = (
        measure.time_cell(SMALL, [Contender("slow", slow)], rounds=3, cap_seconds=cap)[0] for cap in (0.1, 1.0)
    )
    assert capped.status.startswith("time cap")
    assert capped.seconds == []
    assert (timed_once.status, len(timed_once.seconds)) == ("measured", 1)
    huge = Cell("step", "huge", 10**5, 10**5, (700, 300, 20))
    assert measure.time_cell(huge, [Contender("dense", slow)], 1, 1.0)[0].status == "memory cap"


def test_peak_memory_is_that_of_the_job():
    (ours,) = [c for c in contenders() if c.name == "ss_lightning survival (torch)"]
    cell = Cell("step", "medium", 32, 200, (50, 300, 3), density=0.02)
    assert 5 < measure.peak_memory(ours, cell, threads=1) < 500


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ss_lightning.benchmark.command.cells", lambda suite, full: [SMALL])
    assert main(["benchmark", "--suite=step", "--only=ss_lightning", "--rounds=2", f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "snnTorch Leaky" in printed
    assert "1.00x" in printed
    with (tmp_path / "1_threads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["contender"] for row in rows} >= {"snnTorch Leaky", "ss_lightning ramp (torch)"}
    assert all(float(row["min_ms"]) <= float(row["median_ms"]) <= float(row["max_ms"]) for row in rows)
    assert (tmp_path / "step_1_threads.png").stat().st_size > 1000


def test_wrong_arguments(capsys):
    assert main(["benchmark", "--suit=stp"]) == 2
    assert main(["benchmark", "--rounds=0"]) == 2
    assert "--rounds must be 1 or more" in capsys.readouterr().err
