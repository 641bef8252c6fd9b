"""One epoch of the paper's SHD recipe, everything included: this package beside a plain loop over tonic and snnTorch.

``python -m ss_lightning.benchmark.epoch --root DIR`` with ``DIR/SHD/shd_train.h5``. Both train 700-300-C at T=500,
2 ms steps, batch 128, from the file on disk to the last optimizer step, in turns; the first epoch of each is not
counted. ``--loading`` asks instead what a batch takes to come from either loader, without a network.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ss_lightning.benchmark.contenders import Ours, SnnTorchLoop
from ss_lightning.data import SHDData

STEPS, STEP_MS, BATCH, HIDDEN, UNITS = 500, 2.0, 128, 300, 700


def train(network: nn.Module, batches) -> float:
    """One epoch of Adam over ``(input, labels)``; returns the seconds it took, the loader's included."""
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    start = time.perf_counter()
    for spikes, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(spikes), labels).backward()
        optimizer.step()
    return time.perf_counter() - start


def load(batches, count: int) -> list[float]:
    """Seconds that each of the first batches took to come."""
    seconds, batches = [], iter(batches)
    for _ in range(count):
        start = time.perf_counter()
        next(batches)
        seconds.append(time.perf_counter() - start)
    return seconds


def our_batches(root: Path):
    """The loader of this package, reading its cache anew."""
    data = SHDData(str(root), num_steps=STEPS, step_ms=STEP_MS, val_speakers=[], batch_size=BATCH)
    data.setup("fit")
    return data.train_dataloader()


def tonic_batches(root: Path, folder: Path):
    """tonic's SHD with ``ToFrame`` on a grid of 2 ms and ``PadTensors``, cut to T steps."""
    import tonic

    # tonic looks for the archive beside the file, even if only to exist.
    (folder / "SHD").mkdir(exist_ok=True)
    for part in ("train", "test"):
        link = folder / "SHD" / f"shd_{part}.h5"
        if not link.exists():
            link.symlink_to((root / "SHD" / f"shd_{part}.h5").resolve())
        (folder / "SHD" / f"shd_{part}.h5.zip").touch()
    frames = tonic.transforms.ToFrame(sensor_size=tonic.datasets.SHD.sensor_size, time_window=STEP_MS * 1000)
    data = tonic.datasets.SHD(save_to=str(folder), train=True, transform=frames)
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, shuffle=True, collate_fn=tonic.collation.PadTensors(batch_first=False)
    )
    for spikes, labels in loader:
        yield (spikes[:STEPS].flatten(2).clamp(max=1).float(), labels.long())


def main(arguments: list[str]) -> int:
    """Print the seconds of each round, or of each batch, and the ratio of the medians."""
    parser = ArgumentParser(prog="python -m ss_lightning.benchmark.epoch", description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loading", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    classes = SHDData(str(options.root), num_steps=STEPS, step_ms=STEP_MS).num_classes
    sizes = (UNITS, HIDDEN, classes)
    seconds: dict[str, list[float]] = {"ss_lightning": [], "tonic + snnTorch": []}
    with tempfile.TemporaryDirectory() as folder:
        if options.loading:
            seconds["ss_lightning"] = load(our_batches(options.root), options.rounds + 1)
            seconds["tonic + snnTorch"] = load(tonic_batches(options.root, Path(folder)), options.rounds + 1)
        else:
            for _ in range(options.rounds + 1):
                torch.manual_seed(0)
                start = time.perf_counter()
                batches = our_batches(options.root)
                opening = time.perf_counter() - start
                seconds["ss_lightning"].append(opening + train(Ours(sizes, estimator="ramp"), batches))
                seconds["tonic + snnTorch"].append(
                    train(SnnTorchLoop(sizes, STEPS), tonic_batches(options.root, Path(folder)))
                )
    for name, values in seconds.items():
        print(f"{name:18s} {statistics.median(values[1:]):8.4f} s  {[round(v, 4) for v in values[1:]]}")
    ours, theirs = (statistics.median(values[1:]) for values in seconds.values())
    print(f"ratio {theirs / ours:.1f}x, {options.threads} threads")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
