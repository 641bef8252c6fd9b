"""The steps of :mod:`ss_lightning.benchmark.gpu`, each run in a process of its own.

``python -m ss_lightning.benchmark.gpu_steps STEP --result FILE`` runs one step. It writes FILE after every measurement,
so what was measured is there when the step is stopped. With ``--dry`` it runs on the processor at the smallest sizes,
the kernels in Triton's interpreter.

Only torch, Triton and numpy are imported here. A step that needs more imports it itself, and is skipped where that is
missing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ss_lightning.benchmark.cells import CONV, DEEP, FASHION, SHD, Cell, make_batch
from ss_lightning.benchmark.clock import Job, make_clock
from ss_lightning.benchmark.contenders import SURROGATE, KernelNetwork, contenders, taking_part
from ss_lightning.benchmark.measure import time_cell
from ss_lightning.benchmark.split import moved_spikes
from ss_lightning.files import write_whole
from ss_lightning.functional import ESTIMATORS, crossover, leaky_scan, single_spike
from ss_lightning.functional.network import ReadoutLayer, SpikingLayer, event_network

# What an equality in float64 may miss by, relative to the largest value of the reference.
TOLERANCE = 1e-10


class Step:
    """What a step knows, and where it puts what it measures.

    Args:
        result: the file to write.
        dry: on the processor, at the smallest sizes.
        data: folder with data sets, or None.

    Attributes:
        values: what was measured; ``save`` writes it.
    """

    def __init__(self, result: Path, dry: bool, data: Path | None) -> None:
        self.result, self.dry, self.data = result, dry, data
        self.device = torch.device("cpu" if dry else "cuda")
        self.clock = make_clock(self.device)
        self.values: dict[str, Any] = {}
        self.status = "running"
        self._start = time.monotonic()

    def save(self, **values: Any) -> None:
        """Add values, and write all of them to the file."""
        self.values.update(values)
        content = {"status": self.status, "seconds": round(time.monotonic() - self._start, 2), **self.values}
        with write_whole(self.result) as scratch:
            scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def median_ms(self, job: Job, rounds: int = 5) -> float:
        """Median milliseconds of a job after two runs to warm up."""
        job()
        warm_up = self.clock.seconds(job)
        repeats = 1 if self.dry else min(50, max(1, round(0.02 / max(warm_up, 1e-6))))
        seconds = [self.clock.seconds(job, repeats) for _ in range(1 if self.dry else rounds)]
        return round(statistics.median(seconds) * 1000, 5)

    def cells(self, *cells: Cell) -> list[Cell]:
        """The cells, or in a dry run the first, made small enough for the interpreter."""
        if not self.dry:
            return list(cells)
        cell = cells[0]
        image = (1, 4, 4) if cell.image else ()
        sizes = (16 if image else 9, *(5 + depth for depth in range(len(cell.sizes) - 2)), 3)
        return [replace(cell, batch=min(cell.batch, 2), steps=6, sizes=sizes, density=0.3, image=image)]


class SkippedError(Exception):
    """A step cannot be run here; the message says why."""


# Machine --------------------------------------------------------------------------------------------------------------


def measure_machine(step: Step) -> None:
    """Facts about the machine, the rate of matrix products, of a copy, and the time that one small operation takes."""
    step.save(facts=_machine_facts(step))
    size = 64 if step.dry else 8192
    shapes = {"square": (size, size, size), "SHD": (8, 7, 3) if step.dry else (64_000, 700, 300)}
    rates: dict[str, float] = {}
    for name, precision, dtype in (
        ("fp32", "highest", torch.float32),
        ("tf32", "high", torch.float32),
        ("bf16", "highest", torch.bfloat16),
    ):
        torch.set_float32_matmul_precision(precision)
        for shape, (rows, inner, columns) in shapes.items():
            a = torch.randn(rows, inner, device=step.device, dtype=dtype)
            b = torch.randn(inner, columns, device=step.device, dtype=dtype)
            out = torch.empty(rows, columns, device=step.device, dtype=dtype)

            def multiply(a: Tensor = a, b: Tensor = b, out: Tensor = out) -> None:
                torch.mm(a, b, out=out)

            rates[f"{name} {shape}"] = _rounded(2 * rows * inner * columns / step.median_ms(multiply) / 1e9)
            step.save(gemm_tflops=rates)
    torch.set_float32_matmul_precision("highest")
    source = torch.zeros(2**16 if step.dry else 2**28, device=step.device)
    target = torch.empty_like(source)
    copy_ms = step.median_ms(lambda: target.copy_(source))
    step.save(copy_gb_per_s=_rounded(2 * source.nbytes / copy_ms / 1e6))
    small = torch.zeros(8, device=step.device)

    def many_small() -> None:
        for _ in range(1000):
            small.add_(1)

    step.save(small_operation_us=_rounded(step.median_ms(many_small)))


def _machine_facts(step: Step) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "compiler": next((path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))), None),
    }
    for name in ("triton", "numpy", "numba", "snntorch", "lightning"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A wheel that only lies on the path may come without its metadata.
            facts[name] = "unknown version" if find_spec(name) else None
    if step.device.type == "cuda":
        card = torch.cuda.get_device_properties(step.device)
        facts["gpu"] = card.name
        facts["capability"] = f"{card.major}.{card.minor}"
        facts["multiprocessors"] = card.multi_processor_count
        facts["memory_gib"] = round(card.total_memory / 2**30, 1)
        facts["l2_mib"] = round(getattr(card, "L2_cache_size", 0) / 2**20, 1)
        if tool := shutil.which("nvidia-smi"):
            query = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,persistence_mode"
            call = [tool, f"--query-gpu={query}", "--format=csv,noheader"]
            answer = subprocess.run(call, capture_output=True, text=True, check=False, timeout=20)
            facts[query] = answer.stdout.strip()
    return facts


# Right ----------------------------------------------------------------------------------------------------------------


def check_float64(step: Step) -> None:
    """Every kernel in float64 against plain PyTorch on the processor: spikes equal, values within ``TOLERANCE``."""
    worst: dict[str, float] = {}
    cases = {**_network_cases(step), **_dense_cases(step)}
    failed: list[str] = []
    for name, case in cases.items():
        ours = case(step.device, "triton")
        theirs = case(torch.device("cpu"), "torch")
        worst[name] = max(_difference(a, b) for a, b in zip(ours, theirs, strict=True))
        if not worst[name] <= TOLERANCE:
            failed.append(name)
        step.save(cases=worst, failed=failed, tolerance=TOLERANCE)
    # A wrong answer must be seen as one: the same network with another estimator.
    name = next(iter(_network_cases(step)))
    ours = cases[name](step.device, "triton")
    other = cases[name.replace("ramp", "survival")](torch.device("cpu"), "torch")
    step.save(negative_control=max(_difference(a, b) for a, b in zip(ours, other, strict=True)))
    if not step.values["negative_control"] > TOLERANCE:
        failed.append("negative control")
    if failed:
        raise AssertionError(f"differs from the reference: {', '.join(failed)}")


Case = Callable[[torch.device, str], list[Tensor]]


def _network_cases(step: Step) -> dict[str, Case]:
    sizes = (9, 5, 4, 3) if step.dry else (45, 130, 67, 11)
    cell = Cell("step", "odd", 2 if step.dry else 5, 7 if step.dry else 71, sizes, density=0.2)
    cases: dict[str, Case] = {}
    for estimator in ESTIMATORS:
        for skip in (False, True):
            for kind in ("plain", "bias over time", "dropout"):
                name = f"network, {estimator}{', skip' if skip else ''}{'' if kind == 'plain' else f', {kind}'}"
                if kind == "plain" or (estimator == "survival" and not skip):  # the others say nothing new
                    cases[name] = _network_case(cell, estimator, skip, kind)
                if not skip and (kind == "plain" or estimator == "survival"):
                    cases[f"{name}, dense input"] = _network_case(cell, estimator, skip, kind, dense=True)
    return cases


def _network_case(cell: Cell, estimator: str, skip: bool, kind: str, dense: bool = False) -> Case:
    def run(device: torch.device, backend: str) -> list[Tensor]:
        backend = "dense" if dense and backend == "triton" else backend
        generator = torch.Generator().manual_seed(0)

        def leaf(*shape: int, low: float, high: float) -> Tensor:
            value = torch.rand(*shape, generator=generator, dtype=torch.float64) * (high - low) + low
            return value.to(device).requires_grad_()

        events = make_batch(cell)[0].to(device)
        hidden, inputs, heard = [], cell.sizes[0], 0
        for size in cell.sizes[1:-1]:
            weight = leaf(size, inputs, low=-0.3, high=0.6)
            bias = leaf(*((cell.steps, size) if kind == "bias over time" else (size,)), low=-0.1, high=0.1)
            keep = torch.rand(cell.batch, size, generator=generator) < 0.7 if kind == "dropout" else None
            beta, threshold = leaf(size, low=0.5, high=1), leaf(size, low=0.5, high=1.5)
            hidden.append(SpikingLayer(weight, bias, beta, threshold, None if keep is None else keep.to(device)))
            heard = heard + size if skip else size
            inputs = heard
        classes = cell.sizes[-1]
        readout = ReadoutLayer(
            leaf(classes, inputs, low=-1, high=1), leaf(classes, low=-1, high=1), leaf(classes, low=0.5, high=1)
        )
        output = event_network(
            events, hidden, readout, surrogate=SURROGATE, estimator=estimator, skip=skip, backend=backend
        )
        loss = (output.membrane * leaf(*output.membrane.shape, low=-1, high=1).detach()).sum()
        for count in output.counts:
            loss = loss + (count * leaf(*count.shape, low=-1, high=1).detach()).sum()
        leaves = [value for layer in hidden for value in layer[:4]] + list(readout)
        gradients = torch.autograd.grad(loss, [value for value in leaves if value is not None])
        return [output.membrane, *output.times, *gradients]

    return run


def _dense_cases(step: Step) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    shapes = [(1, 1, 3), (7, 2, 5)] if step.dry else [(1, 1, 3), (17, 3, 43), (130, 2, 65)]
    for shape in shapes:
        size = "x".join(map(str, shape))
        for estimator in ESTIMATORS:
            cases[f"single_spike, {estimator}, {size}"] = _dense_case(shape, estimator)
        cases[f"leaky_scan, {size}"] = _dense_case(shape, None)
    return cases


def _dense_case(shape: tuple[int, ...], estimator: str | None) -> Case:
    def run(device: torch.device, backend: str) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        current = torch.rand(shape, generator=generator, dtype=torch.float64).mul_(1.2).sub_(0.4)
        weight = torch.rand(shape, generator=generator, dtype=torch.float64).to(device)
        beta = torch.rand(shape[-1], generator=generator, dtype=torch.float64).mul_(0.5).add_(0.5)
        threshold = torch.rand(shape[-1], generator=generator, dtype=torch.float64).add_(0.3)
        current, beta, threshold = (value.to(device).requires_grad_() for value in (current, beta, threshold))
        if estimator is None:
            result = leaky_scan(current, beta, backend=backend)
            leaves = [current, beta]
        else:
            result = single_spike(current, beta, threshold, surrogate=SURROGATE, estimator=estimator, backend=backend)
            leaves = [current, beta, threshold]
        return [result, *torch.autograd.grad((result * weight).sum(), leaves)]

    return run


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value of the second; infinite for spike times that differ."""
    ours, theirs = ours.detach().cpu(), theirs.detach().cpu()
    if not theirs.is_floating_point():
        return 0.0 if torch.equal(ours, theirs) else float("inf")
    if theirs.numel() == 0:
        return 0.0
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()


def check_float32(step: Step) -> None:
    """The cells of the benchmark in float32: share of equal first spike times, error of the gradients.

    The reference is plain PyTorch in float64 on the processor. The same in float32 says what is left to expect.
    """
    found: dict[str, Any] = {}
    for cell in step.cells(SHD, FASHION, DEEP):
        events, labels = make_batch(cell)
        torch.manual_seed(0)
        network = KernelNetwork(cell.sizes, "survival", "torch")
        results = {}
        for name, device, dtype, backend in (
            ("exact", torch.device("cpu"), torch.float64, "torch"),
            ("processor", torch.device("cpu"), torch.float32, "torch"),
            ("kernels", step.device, torch.float32, "triton"),
            ("products", step.device, torch.float32, "dense"),
            ("bf16 products", step.device, torch.float32, "dense_bf16"),
        ):
            copied = copy.deepcopy(network).to(device, dtype)
            copied.backend = backend
            output = copied.spikes(events.to(device))
            F.cross_entropy(output.membrane.sum(0), labels.to(device)).backward()
            gradients = torch.cat([p.grad.flatten().cpu().double() for p in copied.parameters() if p.grad is not None])
            results[name] = torch.cat([times.flatten().cpu() for times in output.times]), gradients
        times, gradients = results["exact"]
        found[cell.name] = {
            name: {
                "equal_first_spike_times": (results[name][0] == times).double().mean().item(),
                "relative_gradient_error": ((results[name][1] - gradients).norm() / gradients.norm()).item(),
            }
            for name in results
            if name != "exact"
        }
        found[cell.name]["share_that_fires"] = (times < cell.steps).double().mean().item()
        step.save(cells=found)


def check_synchronisation(step: Step) -> None:
    """Places where a training step waits for the card; then a step under ``set_sync_debug_mode("error")``."""
    found: dict[str, Any] = {}
    for cell in step.cells(SHD, FASHION, DEEP):
        for name, job in _training_jobs(step, cell):
            job()
            job()
            places: list[str] = []
            error = None
            if step.device.type == "cuda":
                torch.cuda.synchronize()
                with warnings.catch_warnings(record=True) as caught, _synchronisation_mode("warn"):
                    warnings.simplefilter("always")
                    job()
                places = [f"{_short(w.filename)}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
                try:
                    with _synchronisation_mode("error"):
                        job()
                except RuntimeError as problem:
                    frames = traceback.extract_tb(problem.__traceback__)
                    error = f"{problem} at {_short(frames[-1].filename)}:{frames[-1].lineno}"
            found[f"{cell.name}, {name}"] = {"places": dict(Counter(places)), "error": error}
            note = {} if step.device.type == "cuda" else {"note": "waiting for the card needs a GPU; only the step ran"}
            step.save(steps=found, **note)


@contextmanager
def _synchronisation_mode(mode: str) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _training_jobs(step: Step, cell: Cell) -> Iterator[tuple[str, Job]]:
    """Training steps of a cell: of the kernels alone, and of the package's network where it can be imported."""
    events, labels = make_batch(cell)
    events, labels = events.to(step.device), labels.to(step.device)
    torch.manual_seed(0)
    networks: dict[str, torch.nn.Module] = {
        "kernels alone": KernelNetwork(cell.sizes, "survival", "triton"),
        "products alone": KernelNetwork(cell.sizes, "survival", "dense"),
    }
    for contender in contenders("cuda"):
        if contender.name == "ss_lightning survival (triton)" and contender.network is not None:
            networks["MLP"] = contender.network(cell.sizes, cell.steps)
    for name, network in networks.items():
        network.to(step.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

        def training_step(network: torch.nn.Module = network, optimizer: torch.optim.Adam = optimizer) -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(events), labels).backward()
            optimizer.step()

        yield name, training_step


# Fast -----------------------------------------------------------------------------------------------------------------


def measure_training(step: Step) -> None:
    """The suite ``step`` at three cells."""
    _measure_cells(step, step.cells(SHD, FASHION, DEEP))


def measure_convolutions(step: Step) -> None:
    """The suite ``conv`` at T = 8 and T = 4."""
    _measure_cells(step, step.cells(CONV, replace(CONV, name=f"{CONV.name}, T=4", steps=4)))


def measure_inference(step: Step) -> None:
    """The suite ``infer``: one recording, and batches of 128."""
    single = replace(SHD, suite="infer", name="SHD 700-300-20, one recording", batch=1)
    _measure_cells(step, step.cells(single, *(replace(cell, suite="infer") for cell in (SHD, FASHION))))


def _measure_cells(step: Step, cells: list[Cell]) -> None:
    names = ("snnTorch Leaky", "snnTorch Leaky (CUDA graph)")
    ours = "ss_lightning survival (triton" if step.dry else "ss_lightning"
    rivals = [
        contender
        for contender in contenders("cuda")
        if contender.name in names or contender.name.startswith((ours, "ss_lightning kernels alone"))
    ]
    rows: list[dict[str, Any]] = []
    for cell in cells:
        taking = taking_part(cell.suite, rivals)
        timings = time_cell(cell, taking, 1 if step.dry else 5, 60.0, clock=step.clock)
        medians = {timing.contender: timing.median for timing in timings}
        for timing in timings:
            row: dict[str, Any] = {"cell": cell.name, "contender": timing.contender, "status": timing.status}
            if timing.seconds:
                row["ms"] = [round(1000 * s, 4) for s in (timing.median, min(timing.seconds), max(timing.seconds))]
                for key, rival in (("x_snntorch", "snnTorch Leaky"), ("x_graph", "snnTorch Leaky (CUDA graph)")):
                    if medians.get(rival, float("nan")) > 0:
                        row[key] = _rounded(medians[rival] / timing.median)
                if timing.peak_mib == timing.peak_mib:
                    row["peak_mib"] = round(timing.peak_mib, 1)
            rows.append(row)
        step.save(rows=rows)
    if not rows:
        raise SkippedError("snnTorch is not installed (--wheels)")
    if rows[0]["contender"] != names[0]:
        step.save(note="snnTorch is not installed, so there is no ratio to it (--wheels)")


def measure_scans(step: Step) -> None:
    """Bytes a second of the scan kernels at the size of the SHD step, compared with a copy of the same size."""
    from ss_lightning.functional.kernels import scan_triton

    steps, columns = (6, 10) if step.dry else (500, 128 * 300)
    current = torch.rand(steps, columns, device=step.device) - 0.4
    beta = torch.full((columns,), 0.9, device=step.device)
    other = torch.empty_like(current)
    copy_ms = step.median_ms(lambda: other.copy_(current))
    _, saved = scan_triton.dense_forward(current, beta, beta, keep=True)
    membrane = scan_triton.leaky_forward(current, beta)
    # Arrays [T, M] that a pass must read or write at least; the kept membranes are an eighth of one.
    jobs: dict[str, tuple[float, Job]] = {
        "spikes": (2, lambda: scan_triton.dense_forward(current, beta, beta, keep=False)),
        "spikes, kept": (2.125, lambda: scan_triton.dense_forward(current, beta, beta, keep=True)),
        "crossings": (1.125, lambda: scan_triton.crossings(current, beta, beta)),
        "readout": (2, lambda: scan_triton.leaky_forward(current, beta)),
        "readout, backward": (3, lambda: scan_triton.leaky_backward(current, beta, membrane)),
    }
    for estimator in ESTIMATORS:
        jobs[f"{estimator}, backward"] = (
            3.125,
            partial(scan_triton.dense_backward, current, beta, beta, saved, current, SURROGATE, estimator),
        )
    passes: dict[str, dict[str, float]] = {}
    copy_rate = 2 * current.nbytes / copy_ms / 1e6
    for name, (arrays, job) in jobs.items():
        milliseconds = step.median_ms(job)
        rate = arrays * current.nbytes / milliseconds / 1e6
        passes[name] = {"ms": milliseconds, "gb_per_s": _rounded(rate), "share_of_copy": _rounded(rate / copy_rate)}
        step.save(passes=passes, copy_gb_per_s=_rounded(copy_rate))


def measure_crossover(step: Step) -> None:
    """Milliseconds of a training step over the density of its input: events gathered, and products for the input layer.

    Where the two cross is the constant of the rule, :mod:`ss_lightning.functional.input_synapse`.
    """
    densities = [0.1, 0.3] if step.dry else [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
    rows: list[dict[str, float]] = []
    for density in densities:
        cell = replace(step.cells(SHD)[0], density=density)
        events, labels = make_batch(cell)
        events, labels = events.to(step.device), labels.to(step.device)
        row = {"density": density, "to_dense_ms": step.median_ms(events.to_dense)}
        for name, backend, precision in (
            ("events_ms", "triton", "highest"),
            ("dense_fp32_ms", "dense", "highest"),
            ("dense_tf32_ms", "dense", "high"),
            ("dense_bf16_ms", "dense_bf16", "highest"),
        ):
            torch.manual_seed(0)
            network = KernelNetwork(cell.sizes, "survival", backend).to(step.device)

            def one_step(network: KernelNetwork = network, events: Any = events, labels: Tensor = labels) -> None:
                network.zero_grad()
                F.cross_entropy(network(events), labels).backward()

            torch.set_float32_matmul_precision(precision)
            row[name] = step.median_ms(one_step)
            torch.set_float32_matmul_precision("highest")
        rows.append(row)
        step.save(rows=rows, crossover={p: _crossing(rows, f"dense_{p}_ms") for p in ("fp32", "tf32", "bf16")})
    if step.device.type == "cuda":
        card = torch.cuda.get_device_name(step.device)
        step.save(card=card, rule_before={"highest": crossover(card)})


def measure_split_weights(step: Step) -> None:
    """First spikes that move when the input layer multiplies in float32, and in one, two and three terms of bf16."""
    cell = step.cells(SHD)[0]
    ways: dict[str, Any] = {}
    for name, error, moved in moved_spikes(cell, step.device):
        ways[name] = {"relative_error_of_current": error, "share_of_moved_spikes": moved}
        step.save(ways=ways)


def measure_graphs(step: Step) -> None:
    """A training step whose two passes are a CUDA graph (``cuda_graph: true``), and the same without.

    The gradients of both must be equal. Without a card the graph is left out, and only the dense step runs.
    """
    try:
        from ss_lightning.networks import MLP, ConvNet, GraphedNetwork
    except ImportError as error:
        raise SkippedError(f"{error} (--wheels)") from error
    found: dict[str, Any] = {}
    conv_cell = step.cells(CONV)[0]
    conv = {"kernel_size": 3, "padding": 1, "pool_size": 2, "channels": (4,)} if step.dry else {
        "kernel_size": 5, "padding": 2, "pool_size": 2, "channels": (32, 64)
    }  # fmt: skip
    for cell in (*step.cells(SHD, FASHION), conv_cell):
        events, labels = make_batch(cell)
        events, labels = events.to(step.device), labels.to(step.device)
        shape = cell.image or cell.sizes[:1]
        options: dict[str, Any] = {"num_classes": cell.sizes[-1], "hidden": cell.sizes[1:-1], "step_ms": 1}
        options |= {"input_shape": shape, **(conv if cell.image else {})}
        torch.manual_seed(0)
        network = (ConvNet if cell.image else MLP)(**options).to(step.device)
        dense = events.to_dense()

        def one_step(
            forward: Any, given: Any, network: Any = network, labels: Tensor = labels
        ) -> tuple[Tensor | None, ...]:
            network.zero_grad()
            F.cross_entropy(forward(given).readout.sum(0), labels).backward()
            return tuple(parameter.grad for parameter in network.parameters())

        entry: dict[str, Any] = {"without_ms": step.median_ms(partial(one_step, network, events))}
        entry["without_dense_ms"] = step.median_ms(partial(one_step, network, dense))
        if step.device.type == "cuda":
            graphed = GraphedNetwork(network)
            expected = [None if grad is None else grad.clone() for grad in one_step(network, dense)]
            one_step(graphed, events)
            replayed = one_step(graphed, events)
            entry["largest_difference"] = max(
                _difference(one, other)
                for one, other in zip(replayed, expected, strict=True)
                if one is not None and other is not None
            )
            entry["graph_ms"] = step.median_ms(partial(one_step, graphed, events))
        found[cell.name] = entry
        step.save(cells=found)
    wrong = [name for name, entry in found.items() if not entry.get("largest_difference", 0) < 1e-4]
    if wrong:
        raise AssertionError(f"a graph gives other gradients: {', '.join(wrong)}")
    if step.device.type != "cuda":
        step.save(note="a CUDA graph needs a GPU; only the steps without ran")


def _crossing(rows: list[dict[str, float]], dense: str) -> float | None:
    """The density from which the dense way takes less time, on a straight line between the densities measured."""
    before = None
    for row in rows:
        ahead = row["events_ms"] - row[dense]
        if ahead >= 0:
            if before is None:
                return row["density"]
            share = -before[1] / (ahead - before[1])
            return _rounded(before[0] + share * (row["density"] - before[0]))
        before = row["density"], ahead
    return None


# Whole ----------------------------------------------------------------------------------------------------------------


def measure_epochs(step: Step) -> None:
    """Epochs of Lightning from events in memory to the last step, and the share of the time that the card is busy."""
    import numpy as np

    if find_spec("numba") is None:  # batches are built by it
        raise SkippedError("numba is not installed (--wheels)")
    try:
        import lightning

        from ss_lightning.data import EventData
        from ss_lightning.module import MLPClassifier
    except ImportError as error:
        raise SkippedError(f"{error} (--wheels)") from error

    class EpochSeconds(lightning.Callback):
        """The seconds that each training epoch takes."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self._start = _now(step)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            self.seconds.append(round(_now(step) - self._start, 4))

    found: dict[str, Any] = {}
    for cell in step.cells(SHD, FASHION):
        rng = np.random.default_rng(0)
        samples = cell.batch * (2 if step.dry else 40 if cell.once else 20)
        count = cell.sizes[0] if cell.once else round(cell.steps * cell.sizes[0] * cell.density)
        times = [np.sort(rng.random(count)) * cell.steps * 1e-3 for _ in range(samples)]
        units = [
            rng.permutation(cell.sizes[0]) if cell.once else rng.integers(0, cell.sizes[0], count)
            for _ in range(samples)
        ]
        data = EventData.from_arrays(
            (times, units, np.arange(samples) % cell.sizes[-1]),
            num_units=cell.sizes[0],
            num_steps=cell.steps,
            step_ms=1,
            batch_size=cell.batch,
            val_fraction=0,
        )
        classifier = MLPClassifier(
            input_shape=cell.sizes[:1], num_classes=cell.sizes[-1], hidden=list(cell.sizes[1:-1]), step_ms=1
        )
        clock = EpochSeconds()

        def fit(epochs: int, *callbacks: Any, classifier: Any = classifier, data: Any = data) -> None:
            lightning.Trainer(
                accelerator="gpu" if step.device.type == "cuda" else "cpu",
                devices=1,
                max_epochs=epochs,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=list(callbacks),
            ).fit(classifier, data)

        fit(3, clock)
        entry: dict[str, Any] = {"batches": samples // cell.batch, "epoch_s": clock.seconds}
        found[cell.name] = entry
        step.save(cells=found)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if step.device.type == "cuda":
            activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            fit(1)
        attribute = "self_device_time_total" if step.device.type == "cuda" else "self_cpu_time_total"
        kernels = sorted(
            ((getattr(row, attribute) / 1e3, row.count, row.key) for row in profile.key_averages()), reverse=True
        )
        entry["busy_ms"] = _rounded(sum(ms for ms, _, _ in kernels))
        # Kernels of the profiled epoch over the time of one without the profiler, which slows the host.
        entry["busy_share"] = _rounded(entry["busy_ms"] / 1000 / statistics.median(clock.seconds[1:]))
        entry["longest"] = [f"{ms:.3f} ms, {count} x {name[:70]}" for ms, count, name in kernels[:8]]
        step.save(cells=found)


def _now(step: Step) -> float:
    if step.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def check_memory_accesses(step: Step) -> None:
    """The float64 equality at the smallest sizes under compute-sanitizer: no access out of bounds, no race."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if step.dry or not os.path.exists(tool):
        raise SkippedError("compute-sanitizer needs a GPU" if step.dry else "compute-sanitizer is not installed")
    found: dict[str, Any] = {}
    for check in ("memcheck", "racecheck"):
        inner = step.result.with_name(f"{step.result.stem}_{check}.json")
        call = [tool, "--tool", check, sys.executable, "-m", "ss_lightning.benchmark.gpu_steps"]
        call += ["float64", "--tiny", "--result", str(inner)]
        answer = subprocess.run(call, capture_output=True, text=True, check=False)
        found[check] = [line for line in answer.stdout.splitlines() if "SUMMARY" in line] or answer.stderr[-500:]
        step.save(tools=found)
    if any("ERROR SUMMARY: 0 errors" not in str(f) and "0 hazards" not in str(f) for f in found.values()):
        raise AssertionError("compute-sanitizer found errors")


def train_convolutions(step: Step) -> None:
    """``configs/best/fmnist_conv.yaml`` in bf16-mixed until the step is stopped: the lines that it prints."""
    config = Path(__file__).parents[2] / "configs" / "best" / "fmnist_conv.yaml"
    if step.dry or step.data is None:
        raise SkippedError(
            "a training needs a GPU" if step.dry else "no data: --data DIR with DIR/FashionMNIST/raw says where it is"
        )
    for name in ("lightning", "snntorch", "jsonargparse"):
        if find_spec(name) is None:
            raise SkippedError(f"{name} is not installed (--wheels)")
    folder = step.result.with_suffix("")
    call = [sys.executable, "-m", "ss_lightning", "fit", "--config", str(config), f"--data.root={step.data}"]
    call += ["--trainer.precision=bf16-mixed", f"--trainer.default_root_dir={folder}"]
    step.save(command=" ".join(call[1:]))
    lines: list[str] = []
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            step.save(last_lines=lines[-30:])
    if process.returncode != 0:
        raise RuntimeError(f"fit ended with {process.returncode}: {lines[-1] if lines else ''}")


# The rest -------------------------------------------------------------------------------------------------------------


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


STEPS: dict[str, Callable[[Step], None]] = {
    "machine": measure_machine,
    "float64": check_float64,
    "float32": check_float32,
    "synchronisation": check_synchronisation,
    "step": measure_training,
    "conv": measure_convolutions,
    "infer": measure_inference,
    "scan": measure_scans,
    "crossover": measure_crossover,
    "split": measure_split_weights,
    "graph": measure_graphs,
    "epochs": measure_epochs,
    "sanitizer": check_memory_accesses,
    "train": train_convolutions,
}


def main(arguments: list[str]) -> int:
    """Run one step and leave its result, the reason included where it failed."""
    parser = argparse.ArgumentParser(prog="python -m ss_lightning.benchmark.gpu_steps", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--result", type=Path, required=True, help="file for what is measured (JSON)")
    parser.add_argument("--dry", action="store_true", help="on the processor, at the smallest sizes")
    parser.add_argument("--tiny", action="store_true", help="on the GPU, at the smallest sizes")
    parser.add_argument("--data", type=Path, help="folder with data sets")
    options = parser.parse_args(arguments)
    if options.dry:
        torch.set_num_threads(1)
    step = Step(options.result, options.dry, options.data)
    step.dry = step.dry or options.tiny
    try:
        STEPS[options.step](step)
        step.status = "done"
    except SkippedError as reason:
        step.status = f"skipped: {reason}"
    except Exception as error:  # whatever it is, the steps after this one shall run
        traceback.print_exc()
        step.status = f"failed: {type(error).__name__}: {error}"
        step.values["traceback"] = traceback.format_exc().splitlines()[-12:]
    step.save()
    print(f"{options.step}: {step.status}")
    return 0 if step.status == "done" or step.status.startswith("skipped") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
