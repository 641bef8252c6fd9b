"""How it is measured: interleaved rounds in one process for time; on the processor a process of its own for memory."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from ss_lightning.benchmark.cells import Cell, make_batch
from ss_lightning.benchmark.clock import Clock, Job, capture_graph, make_clock
from ss_lightning.benchmark.contenders import Contender, contenders

# Short jobs run several times a round: at least this long, at most so often.
_ROUND_SECONDS, _MOST_REPEATS = 0.02, 50


@dataclass
class Timing:
    """Seconds of one contender in one cell.

    Attributes:
        contender: its name.
        status: ``measured``, or why there is no time.
        seconds: of each round.
        processor_seconds: seconds that the processor worked in each round; NaN on a GPU.
        setup_seconds: what it took before the first run that is measured: to build the network and to compile
            it.
        peak_mib: most memory that its tensors held on a GPU in MiB; NaN on the processor.
    """

    contender: str
    status: str = "measured"
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    setup_seconds: float = float("nan")
    peak_mib: float = float("nan")

    @property
    def median(self) -> float:
        """Median of the rounds in seconds, NaN if none was run."""
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def processor_median(self) -> float:
        """The same of the seconds of the processor."""
        return statistics.median(self.processor_seconds) if self.processor_seconds else float("nan")


class Batch:
    """The batch that all contenders of a cell share, on the device, in the form that each takes.

    Args:
        cell: the job.
        device: where it runs.
    """

    def __init__(self, cell: Cell, device: torch.device) -> None:
        events, labels = make_batch(cell)
        self.events, self.labels = events.to(device), labels.to(device)
        self._dense: torch.Tensor | None = None

    @property
    def dense(self) -> torch.Tensor:
        """Spikes as a tensor ``[T, B, N]``, made once."""
        if self._dense is None:
            self._dense = self.events.to_dense()
        return self._dense


def make_job(contender: Contender, cell: Cell, device: torch.device | str = "cpu", batch: Batch | None = None) -> Job:
    """One run of the job of a cell: forward, and where the suite trains also backward and a step of Adam.

    Everything before the first run is made here: the network, and the batch in the form that the contender takes.

    Args:
        contender: who does it; :func:`has_job` says whether it can.
        cell: the job.
        device: where it runs.
        batch: of the cell, on the device; None makes one.
    """
    device = torch.device(device)
    torch.manual_seed(0)
    if cell.suite == "neuron":
        job = _neuron_job(contender, cell, device)
    else:
        job = _network_job(contender, cell, device, batch or Batch(cell, device))
    return capture_graph(job) if contender.graph else job


def has_job(contender: Contender, cell: Cell) -> bool:
    """Whether a contender has what a cell asks for."""
    if cell.suite == "neuron":
        return contender.neuron is not None
    if contender.step is not None:
        return cell.suite in ("step", "layer")
    return (contender.conv if cell.image else contender.network) is not None


def _neuron_job(contender: Contender, cell: Cell, device: torch.device) -> Job:
    assert contender.neuron is not None
    with device:
        neuron = contender.neuron(cell.sizes[0], cell.steps)
        current = torch.randn(cell.steps, cell.batch, cell.sizes[0]).mul_(0.3).requires_grad_()
        grad = torch.randn(current.shape)
    if isinstance(neuron, torch.nn.Module):
        neuron.to(device)

    def neuron_step() -> None:
        current.grad = None
        neuron(current).backward(grad)

    return neuron_step


def _network_job(contender: Contender, cell: Cell, device: torch.device, batch: Batch) -> Job:
    if contender.step is not None:
        return contender.step(cell, batch.dense, batch.labels)
    if cell.image:
        assert contender.conv is not None
        network = contender.conv(cell).to(device)
    else:
        assert contender.network is not None
        network = contender.network(cell.sizes, cell.steps).to(device)
    spikes = batch.events if contender.takes == "events" else batch.dense
    if cell.suite == "infer":
        network.eval()

        def inference() -> None:
            with torch.no_grad():
                network(spikes)

        return inference
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, capturable=contender.graph)

    def training_step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(spikes), batch.labels).backward()
        optimizer.step()

    return training_step


def expected_bytes(contender: Contender, cell: Cell) -> int:
    """A rough lower bound of the memory a dense contender needs: its input and ten tensors per hidden layer."""
    if (contender.takes == "events" and cell.suite != "neuron") or cell.image:
        return 0
    hidden = cell.sizes if cell.suite == "neuron" else cell.sizes[1:-1]
    tensors = 1 if cell.suite == "infer" else 10
    return 4 * cell.steps * cell.batch * (cell.sizes[0] + tensors * sum(hidden))


def time_cell(
    cell: Cell,
    rivals: Sequence[Contender],
    rounds: int,
    cap_seconds: float,
    *,
    clock: Clock | None = None,
    timings: list[Timing] | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> list[Timing]:
    """Time all rivals on one cell, taking turns so that a change of the machine's speed meets all of them.

    A rival that runs out of memory or cannot do the job is recorded with the reason, and the others go on.

    Args:
        cell: the job.
        rivals: who takes part.
        rounds: timed rounds of each, after one to warm up.
        cap_seconds: a rival whose step takes longer is not timed; one that takes longer than a fifth of it, once.
        clock: of the device to measure on; None for the processor.
        timings: a list to write to, so that a caller who is interrupted keeps what was measured.
        note: called with a few words about what is being measured.

    Returns:
        One timing for each rival that has what the cell asks for.
    """
    clock = make_clock("cpu") if clock is None else clock
    timings = [] if timings is None else timings
    batch: Batch | None = None
    jobs: list[tuple[Timing, Job, int, int]] = []
    for rival in rivals:
        if not has_job(rival, cell):
            continue
        note(f"{rival.name}, warming up")
        timing = Timing(rival.name)
        timings.append(timing)
        if rival.graph and clock.device.type != "cuda":
            timing.status = "needs a GPU"
            continue
        if expected_bytes(rival, cell) > 0.7 * clock.free_bytes():
            timing.status = "memory cap"
            continue
        timing.status = "interrupted"
        try:
            if batch is None and cell.suite != "neuron":
                batch = Batch(cell, clock.device)
            if batch is not None and rival.takes == "dense":
                _ = batch.dense  # shared by all, so in no one's memory
            peak = clock.watch_memory()
            begun = time.perf_counter()
            job = make_job(rival, cell, clock.device, batch)
            if rival.compiles:
                job()
                job()
            timing.setup_seconds = time.perf_counter() - begun
            warm_up = clock.seconds(job)
            warm_up = warm_up if warm_up > cap_seconds / 5 else clock.seconds(job)
            timing.peak_mib = peak()
        except torch.OutOfMemoryError:
            timing.status = "memory cap"
            continue
        except Exception as error:  # a peer of another version may fail in any way, and the others go on
            timing.status = f"failed ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
            continue
        if warm_up > cap_seconds:
            timing.status = f"time cap ({warm_up:.0f} s)"
            continue
        repeats = min(_MOST_REPEATS, max(1, round(_ROUND_SECONDS / warm_up)))
        jobs.append((timing, job, 1 if warm_up > cap_seconds / 5 else rounds, repeats))
    for number in range(rounds):
        for timing, job, limit, repeats in jobs:
            if number < limit:
                note(f"{timing.contender}, round {number + 1} of {limit}")
                timing.seconds.append(clock.seconds(job, repeats))
                timing.processor_seconds.append(clock.processor_seconds)
                timing.status = "measured"
    return timings


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
    cell = Cell(**{**fields, "sizes": tuple(fields["sizes"]), "image": tuple(fields["image"])})
    # Compile and load what the libraries keep for good, on the smallest job of the kind.
    image = (1, 4, 4) if cell.image else ()
    sizes = (16 if image else 3, *(3 for _ in cell.sizes[1:]))
    small = Cell(cell.suite, "small", 2, 4, sizes, density=0.5, image=image)
    make_job(contender, small)()
    before = _peak_kib()
    job = make_job(contender, cell)
    job()
    job()
    print((_peak_kib() - before) / 1024)


def _peak_kib() -> float:
    """Most memory that this process has held. Linux hands ``ru_maxrss`` down to children, but not ``VmHWM``."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # bytes on macOS


def _as_text(cell: Cell) -> str:
    return json.dumps(cell.__dict__)
