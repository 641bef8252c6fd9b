"""The command line of the benchmark: tables on the screen, a CSV and the paper's speed-up figure on disk."""

from __future__ import annotations

import csv
import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser

from ss_lightning.benchmark.cells import SUITES, Cell, cells
from ss_lightning.benchmark.clock import make_clock
from ss_lightning.benchmark.contenders import contenders, taking_part
from ss_lightning.benchmark.measure import Timing, peak_memory, time_cell
from ss_lightning.errors import UsageError
from ss_lightning.files import at_place_of_user, display_path, write_whole
from ss_lightning.parsing import parse_arguments
from ss_lightning.runs.machine import machine

COLUMNS = ["suite", "cell", "batch", "steps", "sizes", "density", "contender", "status", "rounds"]
COLUMNS += ["median_ms", "min_ms", "max_ms", "processor_ms", "setup_s", "peak_mib", "device"]


def benchmark(
    suite: Literal["neuron", "layer", "step", "conv", "infer", "scale", "all"] = "step",
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    rounds: int = 5,
    cap_seconds: float = 60.0,
    full: bool = False,
    memory: bool = False,
    only: str = "",
    only_cells: str = "",
    out: Path = Path("runs/benchmark"),
) -> None:
    """Time ss_lightning and its peers side by side in one process, taking turns, on the same pre-binned batches.

    Args:
        suite: neuron (spikes from a dense current, forward and backward), layer (one hidden layer trained), step
            (whole networks trained: SHD, Fashion-MNIST, depth), conv (the paper's convolutional network trained),
            infer (whole networks without a gradient: a batch of 128, and one recording at a time), scale (growth with
            time steps and events), or all.
        device: cpu, or cuda: all contenders on the GPU, timed by CUDA events, with snnTorch's loop also as a CUDA
            graph and the peak memory of each.
        threads: threads that every contender may use.
        rounds: timed rounds of each contender and cell, after warming up; medians are reported.
        cap_seconds: a contender whose single step takes longer is recorded as capped.
        full: the whole grid of the paper (hours) instead of a part of it (minutes).
        memory: on the processor also measure the peak memory of each contender, in a process of its own.
        only: contenders whose names contain one of these words, separated by commas; the baseline always takes part.
        only_cells: cells whose names contain one of these words, separated by commas; all of the suite by default.
        out: folder for the CSV and the figures.
    """
    if threads < 1 or rounds < 1:
        raise UsageError(f"--threads and --rounds must be 1 or more, got {threads} and {rounds}")
    clock = make_clock(device)
    rivals = [c for i, c in enumerate(contenders(device)) if i == 0 or _has_word(c.name, only)]
    torch.set_num_threads(threads)
    with at_place_of_user(out):
        out.mkdir(parents=True, exist_ok=True)
    where = "cuda" if device == "cuda" else f"{threads}_threads"
    table = out / f"{where}.csv"
    card = f"{torch.cuda.get_device_name()}; " if device == "cuda" else ""
    versions = f"{card}{machine()}, torch {torch.__version__}; {threads} thread{'s' * (threads > 1)}"
    print(f"{versions}, median of {rounds} rounds", flush=True)
    suites = SUITES if suite == "all" else (suite,)
    jobs = [
        (cell, taking_part(name, rivals))
        for name in suites
        for cell in cells(name, full)
        if _has_word(cell.name, only_cells)
    ]
    if not jobs:
        raise UsageError(f"--only_cells {only_cells}: no cell of {', '.join(suites)} has such a name")
    rows: list[tuple[Cell, Timing, float]] = []
    timings: list[Timing] = []
    try:
        with show_progress(len(jobs)) as next_cell:
            for cell, taking in jobs:
                note = next_cell(f"{cell.suite}, {cell.name}")
                timings = []
                # A clock collects garbage before every measurement. What is imported need not be searched each time.
                gc.collect()
                gc.freeze()
                time_cell(cell, taking, rounds, cap_seconds, clock=clock, timings=timings, note=note)
                peaks = [timing.peak_mib for timing in timings]
                if memory and device == "cpu":
                    note("memory")
                    by_name = {c.name: c for c in taking}
                    peaks = [
                        peak_memory(by_name[t.contender], cell, threads) if t.status != "memory cap" else math.nan
                        for t in timings
                    ]
                print_cell(cell, timings, peaks)
                rows += [(cell, timing, peak) for timing, peak in zip(timings, peaks, strict=True)]
                timings = []
                write_csv(table, rows, device)
    except KeyboardInterrupt:
        rows += [(cell, timing, timing.peak_mib) for timing in timings]
        if rows:
            write_csv(table, rows, device)
            print(f"\nwhat was measured so far: {display_path(table)}", flush=True)
        raise
    for name in suites:
        figure = out / f"{name}_{where}.png"
        draw_speedups([row for row in rows if row[0].suite == name], figure)
        print(f"figure  {display_path(figure)}")
    print(f"table   {display_path(table)}")


def _has_word(name: str, words: str) -> bool:
    return any(word.strip() in name for word in words.split(","))


@contextmanager
def show_progress(total: int) -> Iterator[Callable[[str], Callable[[str], object]]]:
    """A bar with the cells that remain on a terminal, and one line for each cell elsewhere.

    Args:
        total: number of cells.

    Returns:
        A function to call with the name of a cell when it begins; it gives a function for notes about that cell.
    """
    if not sys.stdout.isatty():
        started = iter(range(1, total + 1))

        def print_line(cell: str) -> Callable[[str], object]:
            print(f"\ncell {next(started)} of {total}: {cell}", end="", flush=True)
            return lambda text: None

        yield print_line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} of {task.total} cells"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), transient=True) as progress:
        task = progress.add_task("", total=total)
        begun = 0

        def move_on(cell: str) -> Callable[[str], object]:
            nonlocal begun
            progress.update(task, completed=begun, description=cell)
            begun += 1
            return lambda text: progress.update(task, description=f"{cell}: {text}")

        yield move_on


def print_cell(cell: Cell, timings: Sequence[Timing], peaks: Sequence[float]) -> None:
    """One table: milliseconds with their spread, and the ratios to the first contender and to its CUDA graph."""
    base, base_peak = timings[0].median, peaks[0]
    graph = [timing.median for timing in timings[1:2] if timing.contender == f"{timings[0].contender} (CUDA graph)"]
    print(f"\n{cell.suite}: {cell.name} (B={cell.batch}, T={cell.steps}, {'-'.join(map(str, cell.sizes))})")
    for timing, peak in zip(timings, peaks, strict=True):
        if not timing.seconds:
            print(f"  {timing.contender:40s} {timing.status}")
            continue
        low, high = min(timing.seconds) * 1e3, max(timing.seconds) * 1e3
        line = f"  {timing.contender:40s} {timing.median * 1e3:10.3f} ms  [{low:.3f}, {high:.3f}]"
        line += f"  {base / timing.median:8.2f}x"
        for seconds in graph:
            line += f"  {seconds / timing.median:8.2f}x its graph"
        if not math.isnan(timing.processor_median):
            processor = timings[0].processor_median / timing.processor_median
            line += f"  processor {timing.processor_median * 1e3:10.3f} ms  {processor:8.2f}x"
        if timing.setup_seconds > 1:
            line += f"  set up in {timing.setup_seconds:.0f} s"
        if not math.isnan(peak):
            line += f"  {peak:8.1f} MiB  1/{base_peak / max(peak, 0.1):.1f}"
        print(line, flush=True)


def write_csv(path: Path, rows: Sequence[tuple[Cell, Timing, float]], device: str = "cpu") -> None:
    """All measurements so far, one row for each contender and cell."""
    with write_whole(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for cell, timing, peak in rows:
            spread = (timing.median, min(timing.seconds), max(timing.seconds)) if timing.seconds else [math.nan] * 3
            sizes = "-".join(map(str, cell.sizes))
            density = "once" if cell.once else f"{cell.density:g}"
            job = [cell.suite, cell.name, cell.batch, cell.steps, sizes, density]
            times = (*(1e3 * s for s in spread), 1e3 * timing.processor_median, timing.setup_seconds)
            numbers = [f"{x:.4g}" for x in (*times, peak)]
            writer.writerow([*job, timing.contender, timing.status, len(timing.seconds), *numbers, device])


def draw_speedups(rows: Sequence[tuple[Cell, Timing, float]], path: Path) -> None:
    """Speed-up over the baseline in each cell; for ``scale``, milliseconds."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(cell.name for cell, _, _ in rows))
    base = {cell.name: timing.median for cell, timing, _ in reversed(rows)}
    scale = bool(rows) and rows[0][0].suite == "scale"
    figure = Figure(figsize=(max(6.4, 1.1 * len(names)), 4.8), layout="constrained")
    axes = figure.subplots()
    for number, contender in enumerate(dict.fromkeys(timing.contender for _, timing, _ in rows)):
        points = {c.name: t.median for c, t, _ in rows if t.contender == contender and t.seconds}
        values = [points[n] * 1e3 if scale else base[n] / points[n] for n in points]
        ours = contender.startswith("ss_lightning")
        axes.plot(
            [names.index(n) for n in points],
            values,
            marker="osD^v<>Ph*X"[number % 11],
            linestyle="-" if ours else "--",
            linewidth=2 if ours else 1,
            label=contender,
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylabel("ms per training step" if scale else "speed-up over snnTorch Leaky (log)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def main(arguments: list[str]) -> int:
    """Parse the arguments and run the benchmark."""
    parser = ArgumentParser(prog="python -m ss_lightning benchmark", exit_on_error=False)
    parser.add_function_arguments(benchmark)
    options = parse_arguments(parser, arguments)
    benchmark(**options.as_dict())
    return 0
