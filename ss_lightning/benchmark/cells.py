"""What is measured: the cells of each suite, and the batch that all contenders of a cell share.

Attributes:
    SUITES: the words of ``--suite``: ``neuron`` (spikes from a dense current), ``layer`` (one hidden layer trained),
        ``step`` (whole networks trained), ``conv`` (the paper's convolutional network trained), ``infer`` (whole
        networks without a gradient) and ``scale`` (growth with time steps and events).
    CONV_CHANNELS: output channels of the two convolutions of the paper, of ``CONV_KERNEL`` x ``CONV_KERNEL`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ss_lightning.events import EventBatch

SUITES = ("neuron", "layer", "step", "conv", "infer", "scale")
DENSITY = 0.023  # of SHD in 2 ms steps
CONV_CHANNELS, CONV_KERNEL, CONV_POOL = (32, 64), 5, 2


@dataclass(frozen=True)
class Cell:
    """One job at one size.

    Attributes:
        suite: one of ``SUITES``.
        name: the cell in the tables.
        batch: samples ``B``.
        steps: time steps ``T``.
        sizes: units of each layer, input first; of a neuron layer alone, one number.
        density: share of unit-steps with an input spike; ``once`` fires every unit exactly once instead.
        once: see ``density``.
        image: ``(channels, height, width)`` of the input of a convolutional network, empty for others.
    """

    suite: str
    name: str
    batch: int
    steps: int
    sizes: tuple[int, ...]
    density: float = DENSITY
    once: bool = False
    image: tuple[int, ...] = ()


SHD = Cell("step", "SHD 700-300-20", 128, 500, (700, 300, 20))
FASHION = Cell("step", "Fashion-MNIST 784-1000-10", 128, 100, (784, 1000, 10), once=True)
DEEP = Cell("step", "SHD 700-512-512-20", 128, 500, (700, 512, 512, 20))
SMALL = Cell("step", "small, 70-30-5", 16, 50, (70, 30, 5))
CONV = Cell("conv", "Fashion-MNIST 32C5-P2-64C5-P2-1000-10", 128, 8, (784, 1000, 10), once=True, image=(1, 28, 28))


def cells(suite: str, full: bool) -> list[Cell]:
    """The cells of a suite.

    Args:
        suite: one of ``SUITES``.
        full: the grid of the paper (hours) instead of a part of it (minutes).
    """
    if suite == "neuron":
        lengths = [2**k for k in range(3, 12)] if full else [8, 32, 128, 512]
        grid = [Cell(suite, f"T={t}", 128, t, (512,)) for t in lengths]
        # The same number of currents as wide batches of short samples and as long ones.
        return [*grid, Cell(suite, "T=128, B=1000", 1000, 128, (512,)), Cell(suite, "T=1000", 128, 1000, (512,))]
    if suite == "layer":
        lengths = [2**k for k in range(3, 12)] if full else [32, 128, 512]
        batches = [16, 32, 64, 128] if full else [128]
        units = [100, 200, 500, 1000] if full else [200]
        return [Cell(suite, f"B={b} N={n} T={t}", b, t, (n, n, 10)) for b in batches for n in units for t in lengths]
    if suite == "step":
        depths = range(1, 6) if full else [3]
        named = [SHD, FASHION, DEEP, SMALL]
        return named + [Cell(suite, f"{d} x 200, T=128", 128, 128, (700, *[200] * d, 20)) for d in depths]
    if suite == "conv":
        lengths = [4, 8, 16, 32] if full else [4, 8]
        return [replace(CONV, name=f"Fashion-MNIST 32C5-P2-64C5-P2-1000-10, T={t}", steps=t) for t in lengths]
    if suite == "infer":
        single = replace(SHD, suite=suite, name="SHD 700-300-20, one recording", batch=1)
        return [single, *(replace(cell, suite=suite) for cell in (SHD, FASHION, DEEP))]
    lengths = [2**k for k in range(9, 15)]
    by_length = [
        replace(SHD, suite=suite, name=f"T={t}, same events", steps=t, density=DENSITY * 500 / t) for t in lengths
    ]
    by_events = [replace(SHD, suite=suite, name=f"{f:g} x events", density=DENSITY * f) for f in (0.5, 1, 2, 4)]
    return by_length + by_events


def make_batch(cell: Cell, seed: int = 0) -> tuple[EventBatch, Tensor]:
    """Random input events ``[T, B, N]`` of a cell and labels ``[B]``, made without the dense tensor."""
    generator = torch.Generator().manual_seed(seed)
    units, classes = cell.sizes[0], cell.sizes[-1]
    if cell.once:
        unit = torch.arange(units).expand(cell.batch, -1)
        step = torch.randint(cell.steps, unit.shape, generator=generator)
        sample = torch.arange(cell.batch).unsqueeze(1).expand_as(unit)
        key = ((sample * cell.steps + step) * units + unit).flatten().sort().values
    else:
        size = cell.batch * cell.steps * units
        key = torch.randint(size, (round(size * cell.density),), generator=generator).unique()
    counts = torch.bincount(key // units, minlength=cell.batch * cell.steps)
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int32)
    offsets[1:] = counts.cumsum(0)
    events = EventBatch.trusted((key % units).int(), offsets, cell.steps, units)
    return events, torch.randint(classes, (cell.batch,), generator=generator)
