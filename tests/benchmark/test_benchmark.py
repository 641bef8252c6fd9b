"""The benchmark measures what it says: same job for all, nothing lost, caps recorded. Speed itself is not tested."""

import csv
import gc
import io
import math
import time
import weakref
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ss_lightning import single_spike
from ss_lightning.benchmark import measure
from ss_lightning.benchmark.cells import CONV, FASHION, SHD, SUITES, Cell, cells, make_batch
from ss_lightning.benchmark.clock import make_clock
from ss_lightning.benchmark.command import show_progress
from ss_lightning.benchmark.contenders import (
    BETA_HIDDEN,
    SURROGATE,
    Contender,
    KernelNetwork,
    Ours,
    PaperBlock,
    contenders,
    taking_part,
)
from ss_lightning.benchmark.peers import eventax_job, exact_snn_job, spike_times
from ss_lightning.cli.commands import main

pytestmark = pytest.mark.slow


SMALL = Cell("step", "small", 4, 12, (40, 6, 3), density=0.8)


@pytest.fixture(autouse=True)
def imported_modules_stay():
    # As the command does; without it a clock takes 0.4 seconds for every measurement.
    gc.collect()
    gc.freeze()


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
    if contender.step is not None:
        cell = replace(SMALL, once=True)
        events, labels = make_batch(cell)
        contender.step(cell, events.to_dense(), labels)()
    if contender.neuron is not None:
        current = torch.randn(12, 4, 6, requires_grad=True)
        spikes = contender.neuron(6, 12)(current)
        assert spikes.shape == current.shape
        spikes.sum().backward()
        assert current.grad.abs().sum() > 0


def test_a_step_of_its_own_is_built_once_and_timed_apart():
    """As peers without torch have: their job compiles where it is built."""
    seen = []

    def build(cell, spikes, labels):
        time.sleep(0.05)
        seen.append((tuple(spikes.shape), tuple(labels.shape)))

        def job():
            seen.append("run")
            if len(seen) <= 3:
                time.sleep(0.1)  # to compile

        return job

    (timing,) = measure.time_cell(SMALL, [Contender("peer", step=build, compiles=True)], rounds=3, cap_seconds=60)
    assert seen[0] == ((12, 4, 40), (4,))
    assert set(seen[1:]) == {"run"}
    assert (timing.status, len(timing.seconds)) == ("measured", 3)
    assert timing.setup_seconds >= 0.25 > timing.median
    assert 0 <= timing.processor_median < 0.05
    for suite in ("infer", "conv", "neuron"):
        assert not measure.has_job(Contender("peer", step=build), replace(SMALL, suite=suite))


def test_a_peer_that_fails_in_any_way_is_a_row_with_the_reason():
    def build(cell, spikes, labels):
        raise TypeError("unroll() got an unexpected keyword argument\nand more")

    failed, other = measure.time_cell(
        SMALL, [Contender("peer", step=build), Contender("other", step=lambda *batch: int)], rounds=1, cap_seconds=60
    )
    assert failed.status == "failed (unroll() got an unexpected keyword argument)"
    assert other.status == "measured"


def test_peers_that_cannot_do_a_cell_say_why():
    """Neither needs its package for that."""
    events, labels = make_batch(SMALL)
    with pytest.raises(ValueError, match="one spike time for each input"):
        exact_snn_job(SMALL, events.to_dense(), labels)
    events, labels = make_batch(replace(FASHION, batch=64))
    with pytest.raises(ValueError, match="a step would take minutes: 2804 events"):
        eventax_job(replace(FASHION, batch=64), events.to_dense(), labels)


def test_spike_times_of_dense_spikes():
    spikes = torch.zeros(5, 2, 3)
    spikes[[1, 4], 0, 2] = 1
    spikes[3, 1, 0] = 1
    none = [math.inf, math.inf]
    assert spike_times(spikes).tolist() == [[none, none, [1.5, 4.5]], [[3.5, math.inf], none, none]]


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
    for suite in SUITES:
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


def test_a_system_that_does_not_say_its_free_memory_caps_nothing(monkeypatch, tmp_path):
    assert 0 < make_clock("cpu").free_bytes() < 2**50
    monkeypatch.setattr("ss_lightning.benchmark.clock._MEMORY", tmp_path / "none")
    assert make_clock("cpu").free_bytes() == math.inf


def test_wrong_arguments(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["benchmark", f"--out={tmp_path / 'file'}"]) == 2
    assert "file: File exists. Choose another place" in capsys.readouterr().err
    assert main(["benchmark", "--suit=stp"]) == 2
    assert main(["benchmark", "--only_cells=shd"]) == 2
    assert "--only_cells shd: no cell of step has such a name" in capsys.readouterr().err
    assert main(["benchmark", "--rounds=0"]) == 2
    assert "--rounds must be 1 or more" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_contender_that_takes_part_runs_the_job_of_a_suite(suite, monkeypatch):
    monkeypatch.setattr(measure, "_MOST_REPEATS", 1)
    image = (1, 4, 4) if suite == "conv" else ()
    cell = Cell(suite, "small", 2, 5, (6,) if suite == "neuron" else (16 if image else 7, 4, 3), 0.4, image=image)
    rivals = taking_part(suite, contenders())
    timings = measure.time_cell(cell, rivals, rounds=1, cap_seconds=60)
    assert {timing.contender for timing in timings} == {r.name for r in rivals if measure.has_job(r, cell)}
    assert [timing.status for timing in timings if timing.status != "measured"] == []
    assert any(timing.contender.startswith("ss_lightning") for timing in timings)


def test_inference_takes_no_gradient_and_trains_nothing():
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(x.sum(0))

    contender = Contender("watched", lambda sizes, num_steps: Watched(sizes[0], sizes[-1]))
    measure.make_job(contender, replace(SMALL, suite="infer"))()
    measure.make_job(contender, SMALL)()
    assert seen == [(False, False), (True, True)]


def test_convolutional_networks_have_one_architecture():
    cell = replace(CONV, steps=2, batch=2)
    (theirs, ours) = (c for c in contenders() if c.name in ("snnTorch Leaky", "ss_lightning survival (numba)"))
    events, _ = make_batch(cell)
    shapes = []
    for contender in (theirs, ours):
        network = contender.conv(cell)
        assert network(events if contender.takes == "events" else events.to_dense()).shape == (2, 10)
        shapes.append(sorted(tuple(p.shape) for p in network.parameters() if p.dim() > 1 and p.numel() > p.shape[0]))
    assert shapes[0] == shapes[1] == [(10, 1000), (32, 1, 5, 5), (64, 32, 5, 5), (1000, 64 * 7 * 7)]


def test_kernels_alone_compute_what_the_network_of_the_package_computes():
    torch.manual_seed(0)
    ours, alone = Ours(SMALL.sizes, estimator="survival"), KernelNetwork(SMALL.sizes, "survival", "torch")
    with torch.no_grad():
        for linear, synapse in zip(alone.linear, ours.net.synapses, strict=True):
            linear.weight.copy_(synapse.weight)
            linear.bias.copy_(synapse.bias)
    events, _ = make_batch(SMALL)
    assert sum(time.lt(SMALL.steps).sum() for time in alone.spikes(events).times) > 0
    torch.testing.assert_close(alone(events), ours(events))
    with torch.no_grad():
        alone.beta[0].mul_(0.5)
    assert not torch.allclose(alone(events), ours(events))


def test_gpu_contenders_are_snntorchs_loop_its_graph_and_the_triton_kernels():
    names = [contender.name for contender in contenders("cuda")]
    assert names[:2] == ["snnTorch Leaky", "snnTorch Leaky (CUDA graph)"]
    assert "ss_lightning survival (triton)" in names
    assert not any("numba" in name for name in names)


def test_without_snntorch_the_kernels_alone_take_part(monkeypatch):
    monkeypatch.setattr("ss_lightning.benchmark.contenders.find_spec", lambda name: None)
    names = [contender.name for contender in contenders("cuda")]
    assert names == ["paper's block", "ss_lightning kernels alone (triton)"]


def test_a_graph_without_a_gpu_is_recorded():
    graph = Contender("graph", lambda sizes, num_steps: torch.nn.Identity(), package=None, graph=True)
    assert measure.time_cell(SMALL, [graph], 1, 1.0)[0].status == "needs a GPU"


class Waits(TorchDispatchMode):
    """Refuses what would make the host wait for a card: a number, a shape or a copy that depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "bincount")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.FORBIDDEN):
            raise RuntimeError(f"{func} waits for the card")
        return func(*args, **(kwargs or {}))


def test_a_graph_keeps_the_tensors_it_works_on(monkeypatch):
    """The card's side is replaced, so only what the host does is seen: three runs to warm up, one to record."""
    for name in ("Stream", "current_stream", "stream", "synchronize", "CUDAGraph", "graph"):
        monkeypatch.setattr(f"torch.cuda.{name}", MagicMock())
    runs, networks = [], []

    class Watched(torch.nn.Linear):
        def forward(self, x):
            runs.append(1)
            return super().forward(x.sum(0))

    def build(sizes, num_steps):
        network = Watched(sizes[0], sizes[-1])
        networks.append(weakref.ref(network))
        return network

    replay = measure.make_job(Contender("graph", build, graph=True), replace(SMALL, suite="infer"))
    gc.collect()
    assert len(runs) == 4
    replay()
    assert len(runs) == 4, "a replay runs no Python"
    assert networks[0]() is not None
    del replay
    gc.collect()
    assert networks[0]() is None


@pytest.mark.parametrize("cell", [SMALL, Cell("conv", "small", 2, 3, (16, 5, 3), 0.4, image=(1, 4, 4))])
def test_snntorchs_loop_can_be_a_graph(cell):
    """A CUDA graph holds no step that waits for the card; capture itself needs one."""
    (loop,) = [c for c in contenders() if c.name == "snnTorch Leaky"]
    network = (loop.conv(cell) if cell.image else loop.network(cell.sizes, cell.steps)).train()
    events, labels = make_batch(cell)
    dense = events.to_dense()
    with Waits():
        torch.nn.functional.cross_entropy(network(dense), labels).backward()
    with Waits(), pytest.raises(RuntimeError, match="waits"):
        network(dense).sum().item()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_one_line(capsys):
    assert main(["benchmark", "--device=cuda"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "finds no GPU on this machine. Use --device cpu" in line


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_times_and_memory():
    clock = make_clock("cuda")
    rivals = [c for c in contenders("cuda") if "snnTorch Leaky" in c.name or "survival (triton)" in c.name]
    timings = measure.time_cell(SMALL, rivals, rounds=2, cap_seconds=60, clock=clock)
    assert [t.status for t in timings] == ["measured"] * len(timings)
    assert all(t.peak_mib > 0 for t in timings)


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    rounds = []

    def stop(seconds):
        def counted(self, job, repeats=1):
            rounds.append(repeats)
            if len(rounds) > seconds:
                raise KeyboardInterrupt
            return 0.5

        return counted

    monkeypatch.setattr("ss_lightning.benchmark.command.cells", lambda suite, full: [SMALL, replace(SMALL, name="b")])
    monkeypatch.setattr("ss_lightning.benchmark.clock.Clock.seconds", stop(10))
    monkeypatch.chdir(tmp_path)
    # Two contenders, two runs each to warm up: the first cell takes 2 * (2 + 2) = 8, the second is cut in its warm-up.
    command = ["benchmark", "--only=survival (torch)", "--rounds=2", "--out=out"]
    assert main(command) == 130
    captured = capsys.readouterr()
    assert "what was measured so far: out/1_threads.csv" in captured.out
    assert "stopped by Ctrl-C" in captured.err
    with (tmp_path / "out" / "1_threads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["status"]) for row in rows] == [
        ("small", "measured"),
        ("small", "measured"),
        ("b", "interrupted"),
        ("b", "interrupted"),
    ]
    assert [float(row["median_ms"]) for row in rows[:2]] == [500, 500]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1_threads.csv"]


def test_progress_is_plain_lines_without_a_terminal(capsys):
    with show_progress(2) as next_cell:
        for name in ("one", "two"):
            next_cell(name)("not shown")
    assert capsys.readouterr().out.split("\n") == ["", "cell 1 of 2: one", "cell 2 of 2: two"]


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with show_progress(3) as next_cell:
        next_cell("one")
        next_cell("two")("round 1 of 5")
        print("a table")
    assert "1 of 3 cells" in screen.getvalue()
    assert "a table" in screen.getvalue()
