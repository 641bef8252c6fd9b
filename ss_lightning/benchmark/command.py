"""The command line of the benchmark: tables on the screen, a CSV and the paper's speed-up figure on disk."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser

from ss_lightning.benchmark.cells import Cell, cells
from ss_lightning.benchmark.contenders import contenders
from ss_lightning.benchmark.measure import Timing, peak_memory, time_cell
from ss_lightning.errors import UsageError
from ss_lightning.files import write_whole
from ss_lightning.parsing import parse_arguments
from ss_lightning.runs.machine import machine

COLUMNS = ["suite", "cell", "batch", "steps", "sizes", "density", "contender", "status", "rounds"]
COLUMNS += ["median_ms", "min_ms", "max_ms", "peak_mib"]


def benchmark(
    suite: Literal["neuron", "layer", "step", "scale", "all"] = "step",
    threads: int = 1,
    rounds: int = 5,
    cap_seconds: float = 60.0,
    full: bool = False,
    memory: bool = False,
    only: str = "",
    out: Path = Path("runs/benchmark"),
) -> None:
    """Time ss_lightning and its peers side by side in one process, taking turns, on the same pre-binned batches.

    Args:
        suite: neuron (spikes from a dense current, forward and backward), layer (one hidden layer trained), step
            (whole networks trained: SHD, Fashion-MNIST, depth), scale (growth with time steps and events), or all.
        threads: threads that every contender may use.
        rounds: timed steps of each contender and cell, after warming up; medians are reported.
        cap_seconds: a contender whose single step takes longer is recorded as capped.
        full: the whole grid of the paper (hours) instead of a part of it (minutes).
        memory: also measure the peak memory of each contender in a process of its own.
        only: contenders whose names contain one of these words, separated by commas; the baseline always takes part.
        out: folder for the CSV and the figures.
    """
    if threads < 1 or rounds < 1:
        raise UsageError(f"--threads and --rounds must be 1 or more, got {threads} and {rounds}")
    rivals = [
        c for i, c in enumerate(contenders()) if i == 0 or any(word.strip() in c.name for word in only.split(","))
    ]
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    where = f"{machine()}, torch {torch.__version__}; {threads} thread{'s' * (threads > 1)}"
    print(f"{where}, median of {rounds} rounds", flush=True)
    suites = ["neuron", "layer", "step", "scale"] if suite == "all" else [suite]
    rows: list[tuple[Cell, Timing, float]] = []
    for name in suites:
        taking_part = [c for c in rivals if name != "scale" or "ss_lightning" in c.name]
        for cell in cells(name, full):
            timings = time_cell(cell, taking_part, rounds, cap_seconds)
            peaks = [
                peak_memory(next(c for c in rivals if c.name == t.contender), cell, threads)
                if memory and t.status != "memory cap"
                else math.nan
                for t in timings
            ]
            print_cell(cell, timings, peaks)
            rows += zip([cell] * len(timings), timings, peaks, strict=True)
            write_csv(out / f"{threads}_threads.csv", rows)  # after every cell: nothing is lost when stopped
    for name in suites:
        figure = out / f"{name}_{threads}_threads.png"
        draw([row for row in rows if row[0].suite == name], figure)
        print(f"figure  {figure}")
    print(f"table   {out / f'{threads}_threads.csv'}")


def print_cell(cell: Cell, timings: Sequence[Timing], peaks: Sequence[float]) -> None:
    """One table: milliseconds with their spread, and the ratio to the first contender."""
    base, base_peak = timings[0].median, peaks[0]
    print(f"\n{cell.suite}: {cell.name} (B={cell.batch}, T={cell.steps}, {'-'.join(map(str, cell.sizes))})")
    for timing, peak in zip(timings, peaks, strict=True):
        if not timing.seconds:
            print(f"  {timing.contender:34s} {timing.status}")
            continue
        low, high = min(timing.seconds) * 1e3, max(timing.seconds) * 1e3
        line = f"  {timing.contender:34s} {timing.median * 1e3:10.2f} ms  [{low:.2f}, {high:.2f}]"
        line += f"  {base / timing.median:8.2f}x"
        if not math.isnan(peak):
            line += f"  {peak:8.1f} MiB  1/{base_peak / max(peak, 0.1):.1f}"
        print(line, flush=True)


def write_csv(path: Path, rows: Sequence[tuple[Cell, Timing, float]]) -> None:
    """All measurements so far, one row for each contender and cell."""
    with write_whole(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for cell, timing, peak in rows:
            spread = (timing.median, min(timing.seconds), max(timing.seconds)) if timing.seconds else [math.nan] * 3
            sizes = "-".join(map(str, cell.sizes))
            density = "once" if cell.once else f"{cell.density:g}"
            job = [cell.suite, cell.name, cell.batch, cell.steps, sizes, density]
            numbers = [f"{x:.4g}" for x in (*(1e3 * s for s in spread), peak)]
            writer.writerow([*job, timing.contender, timing.status, len(timing.seconds), *numbers])


def draw(rows: Sequence[tuple[Cell, Timing, float]], path: Path) -> None:
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
