"""Time and memory on a device: the processor by its clock, a GPU by CUDA events and a synchronised card."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ss_lightning.errors import UsageError

Job = Callable[[], object]

_MEMORY = Path("/proc/meminfo")


class Clock:
    """Measures jobs on the processor.

    Args:
        device: where the jobs run.

    Attributes:
        processor_seconds: seconds that the processor worked for this process in one run of the latest measurement, of
            all threads together; NaN on a GPU. Another job on the machine makes a run longer, but hardly this.
    """

    processor_seconds = float("nan")

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, job: Job, repeats: int = 1) -> float:
        """Seconds that one of ``repeats`` runs of a job takes, one started right after the other."""
        gc.collect()
        start, processor_start = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            job()
        self.processor_seconds = (time.process_time() - processor_start) / repeats
        return (time.perf_counter() - start) / repeats

    def free_bytes(self) -> float:
        """Bytes of memory that can be used now; infinity where the system does not say, as Windows and macOS."""
        try:
            fields = dict(line.split(":") for line in _MEMORY.read_text(encoding="utf-8").splitlines())
        except FileNotFoundError:
            return math.inf
        return int(fields["MemAvailable"].split()[0]) * 1024

    def watch_memory(self) -> Callable[[], float]:
        """Start to watch; the function that comes back says how many MiB were needed at most since then.

        The processor's memory is measured in a process of its own (:func:`ss_lightning.benchmark.measure.peak_memory`),
        so here the answer is NaN.
        """
        return lambda: float("nan")


class CudaClock(Clock):
    """Measures jobs on a GPU: CUDA events around them, the card idle before and after."""

    def seconds(self, job: Job, repeats: int = 1) -> float:
        """Seconds that one of ``repeats`` runs of a job takes, one started right after the other."""
        gc.collect()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        start.record()
        for _ in range(repeats):
            job()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end) / 1000 / repeats

    def free_bytes(self) -> float:
        """Bytes of the card's memory that can be used now."""
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]

    def watch_memory(self) -> Callable[[], float]:
        """Start to watch; the function that comes back says how many MiB of tensors were held at most since then."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return lambda: (torch.cuda.max_memory_allocated(self.device) - before) / 2**20


def make_clock(device: str | torch.device) -> Clock:
    """The clock of a device.

    Raises:
        UsageError: the device is a GPU and torch finds none.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return Clock(device)
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise UsageError(
            f"--device cuda: torch {torch.__version__}, {built}, finds no GPU on this machine. Use --device cpu, or "
            "run the same command on a machine with an NVIDIA GPU"
        )
    return CudaClock(device)


def capture_graph(job: Job, warm_ups: int = 3) -> Job:
    """Record the kernels of a job as a CUDA graph.

    A replay starts all kernels at once, so the time that Python takes for each operation is gone. The job must not wait
    for the card and must use the same tensors each time.

    Returns:
        A function that replays the graph.

    Raises:
        RuntimeError: the job does something that a graph cannot hold.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            job()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        job()

    def replay(kept: Job = job) -> None:  # the graph holds addresses only: the job keeps its tensors
        graph.replay()

    return replay
