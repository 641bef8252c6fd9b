"""How it is measured: interleaved rounds in one process for time, a process of its own for memory."""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from ss_lightning.benchmark.cells import Cell, make_batch
from ss_lightning.benchmark.contenders import Contender, contenders


@dataclass
class Timing:
    """Seconds of one contender in one cell; ``status`` says why there are none."""

    contender: str
    status: str = "measured"
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the rounds in seconds, NaN if none was run."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


def make_job(contender: Contender, cell: Cell) -> Callable[[], None] | None:
    """One step of the job of a cell: forward and backward, and Adam for networks. None if it is not for this contender.

    Everything before the first step (the batch in the form the contender takes, the network) is made here.
    """
    torch.manual_seed(0)
    if cell.suite == "neuron":
        if contender.neuron is None:
            return None
        neuron = contender.neuron(cell.sizes[0], cell.steps)
        current = torch.randn(cell.steps, cell.batch, cell.sizes[0]).mul_(0.3).requires_grad_()
        grad = torch.randn(current.shape)

        def neuron_step() -> None:
            current.grad = None
            neuron(current).backward(grad)

        return neuron_step
    if contender.network is None:
        return None
    network = contender.network(cell.sizes, cell.steps)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    events, labels = make_batch(cell)
    batch = events if contender.takes == "events" else events.to_dense()

    def network_step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(batch), labels).backward()
        optimizer.step()

    return network_step


def expected_bytes(contender: Contender, cell: Cell) -> int:
    """A rough lower bound of the memory a dense contender needs: its input and ten tensors per hidden layer."""
    if contender.takes == "events" and cell.suite != "neuron":
        return 0
    hidden = cell.sizes if cell.suite == "neuron" else cell.sizes[1:-1]
    return 4 * cell.steps * cell.batch * (cell.sizes[0] + 10 * sum(hidden))


def free_bytes() -> int:
    """Memory that can be used now."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024


def time_cell(cell: Cell, rivals: list[Contender], rounds: int, cap_seconds: float) -> list[Timing]:
    """Time all rivals on one cell, taking turns so that a change of the machine's speed meets all of them.

    Args:
        cell: the job.
        rivals: who takes part.
        rounds: timed steps of each, after one to warm up.
        cap_seconds: a rival whose step takes longer is not timed; one that takes longer than a fifth of it, once.
    """
    timings, jobs = [], []
    for rival in rivals:
        timing = Timing(rival.name)
        if expected_bytes(rival, cell) > 0.7 * free_bytes():
            timing.status = "memory cap"
            timings.append(timing)
            continue
        job = make_job(rival, cell)
        if job is None:
            continue
        timings.append(timing)
        warm_up = _seconds(job)
        warm_up = warm_up if warm_up > cap_seconds / 5 else _seconds(job)
        if warm_up > cap_seconds:
            timing.status = f"time cap ({warm_up:.0f} s)"
            continue
        jobs.append((timing, job, 1 if warm_up > cap_seconds / 5 else rounds))
    for number in range(rounds):
        for timing, job, limit in jobs:
            if number < limit:
                timing.seconds.append(_seconds(job))
    return timings


def _seconds(job: Callable[[], None]) -> float:
    gc.collect()
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def peak_memory(contender: Contender, cell: Cell, threads: int) -> float:
    """MiB that two steps need above what the process holds after its imports, from a process of its own."""
    call = [
        sys.executable,
        "-c",
        f"from ss_lightning.benchmark.measure import _print_peak; "
        f"_print_peak({contender.name!r}, {_as_text(cell)!r}, {threads})",
    ]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    return float(result.stdout) if result.returncode == 0 else float("nan")


def _print_peak(name: str, cell_text: str, threads: int) -> None:
    torch.set_num_threads(threads)
    (contender,) = [c for c in contenders() if c.name == name]
    fields = json.loads(cell_text)
    cell = Cell(**{**fields, "sizes": tuple(fields["sizes"])})
    # Compile and load what the libraries keep for good, on the smallest job of the kind.
    small = Cell(cell.suite, "small", 2, 4, tuple(3 for _ in cell.sizes), density=0.5)
    job = make_job(contender, small)
    assert job is not None
    job()
    before = _peak_kib()
    job = make_job(contender, cell)
    assert job is not None
    job()
    job()
    print((_peak_kib() - before) / 1024)


def _peak_kib() -> int:
    """Most memory that this process has held. Linux hands ``ru_maxrss`` down to children, but not ``VmHWM``."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # bytes on macOS


def _as_text(cell: Cell) -> str:
    return json.dumps(cell.__dict__)
