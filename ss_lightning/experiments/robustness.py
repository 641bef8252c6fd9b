"""Does a network come back to life whose initial weights are too small to make it fire?

``python -m ss_lightning.experiments.robustness``. Taylor, King & Harper (arXiv:2205.15286) report that single-spike
networks do, for their surrogate gradient reaches silent neurons too. The initial weights of all layers are multiplied
by 1, 0.1 and 0.01, in networks of one and two hidden layers, for every kind of neuron; the negative control is a
surrogate without tails, which gives a silent neuron no gradient.

A network has recovered at the first evaluation at which its validation accuracy has reached the level of the protocol
while every hidden layer fires, one spike per sample or more. It is trained no further then. All models get the same
samples in the same order, the same initial weights and the same number of steps.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ss_lightning import plots
from ss_lightning.data import EventDataModule, EventDataset, MNISTData, Subset, YinYangData
from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import display_path, save_text
from ss_lightning.losses import classification_loss
from ss_lightning.networks import MLP

MODELS: dict[str, dict[str, Any]] = {
    "single, ramp": {"neuron": "single", "estimator": "ramp"},
    "single, survival": {"neuron": "single", "estimator": "survival"},
    "standard single": {"neuron": "standard_single"},
    "multi": {"neuron": "multi"},
    "single, no tails (control)": {
        "neuron": "single",
        "estimator": "survival",
        "surrogate": "triangle",
        "surrogate_slope": 2.0,  # wide enough to learn from weights of the usual size, and nothing for silent neurons
    },
}
SCALES = (1.0, 0.1, 0.01)
DEPTHS = (1, 2)
_CELL = ("data", "depth", "scale", "model", "seed")
_FOUND = ("recovered", "steps_to_recovery", "steps_to_firing", "accuracy", "spikes_per_sample", "seconds")
COLUMNS = (*_CELL, *_FOUND)


@dataclass(frozen=True)
class Protocol:
    """What is the same for all models of a data set.

    Attributes:
        data: ``yinyang`` or ``mnist``.
        num_steps: ``T``; the time constants span the same share of it as in ``configs/``.
        step_ms: length of a step in milliseconds.
        num_train: training samples.
        num_val: validation samples.
        hidden: neurons of each hidden layer.
        input_gain: see :class:`ss_lightning.networks.MLP`.
        tau_hidden_ms: time constant of the hidden neurons.
        tau_readout_ms: time constant of the readout.
        lr: of Adam.
        batch_size: samples in a step.
        max_steps: optimizer steps within which a network may recover.
        every: optimizer steps from one evaluation to the next.
        level: validation accuracy that counts as recovered.
    """

    data: Literal["yinyang", "mnist"]
    num_steps: int
    step_ms: float
    num_train: int
    num_val: int
    hidden: int
    input_gain: float
    tau_hidden_ms: float
    tau_readout_ms: float
    lr: float
    batch_size: int
    max_steps: int
    every: int
    level: float


PROTOCOLS = {
    "yinyang": Protocol(
        data="yinyang",
        num_steps=40,
        step_ms=2.5,
        num_train=4000,
        num_val=1000,
        hidden=120,
        input_gain=4.0,
        tau_hidden_ms=50.0,
        tau_readout_ms=100.0,
        lr=0.003,
        batch_size=128,
        max_steps=1000,
        every=25,
        level=0.85,
    ),
    "mnist": Protocol(
        data="mnist",
        num_steps=30,
        step_ms=100 / 30,
        num_train=10_000,
        num_val=2000,
        hidden=200,
        input_gain=1.0,
        tau_hidden_ms=10.0,
        tau_readout_ms=20.0,
        lr=0.001,
        batch_size=128,
        max_steps=600,
        every=25,
        level=0.85,
    ),
}
_TITLES = {"yinyang": "Yin-Yang", "mnist": "MNIST"}


@dataclass(frozen=True)
class Outcome:
    """How one training went.

    Attributes:
        steps_to_recovery: optimizer steps, or None if the network did not recover.
        steps_to_firing: optimizer steps until every hidden layer fired, one spike per sample or more, or None.
        accuracy: on the validation samples, at the last evaluation.
        spikes_per_sample: of all hidden layers, at the last evaluation.
    """

    steps_to_recovery: int | None
    steps_to_firing: int | None
    accuracy: float
    spikes_per_sample: float


def load(protocol: Protocol, root: str) -> tuple[EventDataset, EventDataset]:
    """Training and validation samples of a protocol.

    Args:
        protocol: the protocol.
        root: folder that has MNIST/raw.

    Raises:
        DataError: the data are missing or damaged.
    """
    grid: dict[str, Any] = {"num_steps": protocol.num_steps, "step_ms": protocol.step_ms}
    data: EventDataModule
    if protocol.data == "yinyang":
        data = YinYangData(num_train=protocol.num_train, num_val=protocol.num_val, **grid)
    else:
        data = MNISTData(root=root, **grid)
    train, val = data.splits.train, data.splits.val
    assert val is not None
    made = (data.dataset(_first(train, protocol.num_train)), data.dataset(_first(val, protocol.num_val)))
    return cast(tuple[EventDataset, EventDataset], made)


def _first(subset: Subset, number: int) -> Subset:
    samples = np.arange(len(subset.store)) if subset.samples is None else subset.samples
    return Subset(subset.store, samples[:number])


def make_network(protocol: Protocol, data: EventDataset, model: str, depth: int, scale: float) -> MLP:
    """A network whose initial weights are ``scale`` times the usual ones, in all layers, the readout included."""
    network = MLP(
        input_shape=data.store.input_shape,
        num_classes=data.store.num_classes,
        step_ms=protocol.step_ms,
        hidden=[protocol.hidden] * depth,
        input_gain=protocol.input_gain,
        hidden_gain=1.0,
        tau_hidden_ms=protocol.tau_hidden_ms,
        tau_readout_ms=protocol.tau_readout_ms,
        **MODELS[model],
    )
    with torch.no_grad():
        for synapse in network.synapses:
            cast(nn.Linear, synapse).weight *= scale
    return network


def batches(data: EventDataset, size: int, seed: int) -> Iterator[Any]:
    """Batches without end, in a new order each time all samples were seen; the incomplete last one is left out."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(data))
        for start in range(0, len(data) - size + 1, size):
            yield data.__getitems__(order[start : start + size])


@torch.no_grad()
def evaluate(network: MLP, data: EventDataset, size: int = 500) -> tuple[float, list[float]]:
    """Accuracy, and spikes per sample of each hidden layer."""
    right, spikes = 0, torch.zeros(len(network.layer_sizes))
    for start in range(0, len(data), size):
        batch, labels = data.__getitems__(range(start, min(start + size, len(data))))
        output = network(batch)
        right += int((network.decoder.scores(output.readout).argmax(1) == labels).sum())
        spikes += torch.stack([layer.spike_count.sum() for layer in output.activity])
    return right / len(data), (spikes / len(data)).tolist()


def train(network: MLP, protocol: Protocol, data: EventDataset, val: EventDataset, seed: int) -> Outcome:
    """Train until the network has recovered or the steps of the protocol are over."""
    optimizer = torch.optim.Adam(network.parameters(), lr=protocol.lr)
    source = batches(data, protocol.batch_size, seed)
    firing: int | None = None
    accuracy, spikes = 0.0, [0.0]
    for step in range(protocol.max_steps + 1):
        if step % protocol.every == 0:
            accuracy, spikes = evaluate(network, val)
            fires = min(spikes) >= 1
            firing = step if fires and firing is None else firing
            if fires and accuracy >= protocol.level:
                return Outcome(step, firing, accuracy, sum(spikes))
        if step == protocol.max_steps:
            break
        batch, labels = next(source)
        optimizer.zero_grad()
        loss: Tensor = classification_loss(network.decoder.scores(network(batch).readout), labels)
        loss.backward()
        optimizer.step()
    return Outcome(None, firing, accuracy, sum(spikes))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table as they were written; a last one that was cut short is dropped from the file.

    Raises:
        DataError: the file is no such table.
    """
    if not path.is_file():
        return []
    content = path.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        path.write_text(whole, encoding="utf-8")
    rows = list(csv.DictReader(whole.splitlines()))
    if not whole.startswith(",".join(COLUMNS)) or any(None in row or None in row.values() for row in rows):
        raise DataError(f"{path} is no table of this experiment, or damaged; choose another folder with --out")
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the table, and its header before the first."""
    new = not path.is_file() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def refuse_other_protocol(folder: Path, protocols: dict[str, Protocol]) -> None:
    """Rows of a table belong to one protocol, which is kept beside it.

    Raises:
        UsageError: the folder holds another one.
    """
    path = folder / "protocol.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, protocol in protocols.items():
        here = asdict(protocol)
        for key, value in known.get(name, here).items():
            if value != here.get(key):
                raise UsageError(
                    f"{folder} holds results of another protocol: {key} of {name} was {value}, is {here.get(key)}. "
                    "Choose another folder with --out"
                )
    save_text(path, json.dumps({**known, **{name: asdict(p) for name, p in protocols.items()}}, indent=1) + "\n")


def run(protocols: dict[str, Protocol], seeds: int, root: str, folder: Path) -> list[dict[str, str]]:
    """Fill the table, cell by cell; what is in it already is not run again.

    Returns:
        All rows of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_other_protocol(folder, protocols)
    path = folder / "robustness.csv"
    done = {tuple(row[name] for name in _CELL) for row in read_rows(path)}
    for name, protocol in protocols.items():
        train_data, val_data = load(protocol, root)
        for seed, depth, scale, model in product(range(seeds), DEPTHS, SCALES, MODELS):
            cell = (name, str(depth), str(scale), model, str(seed))
            if cell in done:
                continue
            torch.manual_seed(seed)
            start = time.perf_counter()
            network = make_network(protocol, train_data, model, depth, scale)
            found = train(network, protocol, train_data, val_data, seed)
            row = {
                **dict(zip(_CELL, cell, strict=True)),
                "recovered": int(found.steps_to_recovery is not None),
                "steps_to_recovery": found.steps_to_recovery,
                "steps_to_firing": found.steps_to_firing,
                "accuracy": f"{found.accuracy:.4f}",
                "spikes_per_sample": f"{found.spikes_per_sample:.2f}",
                "seconds": f"{time.perf_counter() - start:.1f}",
            }
            append_row(path, row)
            print("  ".join(f"{key} {'-' if value is None else value}" for key, value in row.items()), flush=True)
    return read_rows(path)


def summary(rows: Sequence[dict[str, str]]) -> dict[tuple[str, int, float, str], tuple[float, float, int]]:
    """Over the seeds: how many networks recovered, and how fast.

    Args:
        rows: of the table.

    Returns:
        Of each data set, depth, scale and model the share of networks that recovered, the median of the steps that
        those took (NaN if there were none), and the number of networks.
    """
    cells: dict[tuple[str, int, float, str], list[dict[str, str]]] = {}
    for row in rows:
        cells.setdefault((row["data"], int(row["depth"]), float(row["scale"]), row["model"]), []).append(row)
    return {
        cell: (
            statistics.fmean(int(row["recovered"]) for row in found),
            statistics.median(
                [int(row["steps_to_recovery"]) for row in found if row["steps_to_recovery"]] or [float("nan")]
            ),
            len(found),
        )
        for cell, found in cells.items()
    }


def draw(rows: Sequence[dict[str, str]]) -> Any:
    """Share of networks that recovered and the steps they took, against the scale of their initial weights."""
    found = summary(rows)
    scales = sorted({scale for _, _, scale, _ in found}, reverse=True)
    quantities = {"networks that recovered": 0, "steps to recovery (median)": 1}
    panels: dict[str, dict[str, dict[str, plots.Points]]] = {}
    for label, place in quantities.items():
        panels[label] = {}
        for data, depth in dict.fromkeys((data, depth) for data, depth, _, _ in found):
            title = f"{_TITLES[data]}, {depth} hidden layer{'s' * (depth > 1)}"
            panels[label][title] = {
                # Side by side, for many points lie on each other.
                model: plots.Points(
                    [index + 0.09 * (number - (len(MODELS) - 1) / 2) for index in range(len(scales))],
                    [found.get((data, depth, scale, model), (float("nan"),) * 3)[place] for scale in scales],
                )
                for number, model in enumerate(MODELS)
            }
    ticks = {float(index): f"{scale:g}" for index, scale in enumerate(scales)}
    return plots.panels(panels, "factor of the initial weights", ticks)


def quick(protocol: Protocol) -> Protocol:
    """A protocol of seconds, to see that all works; its numbers mean nothing."""
    return replace(
        protocol, num_steps=12, num_train=96, num_val=64, hidden=10, batch_size=32, max_steps=2, every=1, level=0.5
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """Leave the message to :func:`main`."""
        raise UsageError(message)


def experiment(arguments: Sequence[str]) -> None:
    """Parse the arguments, fill the table, draw the figure and say what came out.

    Raises:
        UsageError: an argument is wrong, or the folder holds results of another protocol.
        DataError: the data are missing or damaged.
    """
    parser = _Parser(
        prog="python -m ss_lightning.experiments.robustness",
        description="Train networks from initial weights that are too small. The same command again goes on with a "
        "table that was stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS), help="data sets")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each cell (default: 3)")
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw (default: data)")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"), help="folder of the table and the figure")
    parser.add_argument("--quick", action="store_true", help="a few tiny steps each, to see that all works")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        raise UsageError(f"--seeds is {options.seeds}; expected 1 or more")
    # The networks are small: threads would wait for each other.
    torch.set_num_threads(1)
    protocols = {name: quick(PROTOCOLS[name]) if options.quick else PROTOCOLS[name] for name in options.data}
    try:
        rows = run(protocols, options.seeds, options.root, options.out)
        (options.out / "robustness.png").write_bytes(plots.png(draw(rows)))
    except OSError as error:
        raise UsageError(f"--out: cannot write {options.out}: {error.strerror}") from error
    for (data, depth, scale, model), (share, steps, number) in sorted(summary(rows).items()):
        took = f", {steps:g} steps" if share else ""
        print(f"{data:8} {depth} hidden  x {scale:<5g} {model:27} {share:4.0%} of {number} recovered{took}")
    print(f"table   {display_path(options.out / 'robustness.csv')}")
    print(f"figure  {display_path(options.out / 'robustness.png')}")


def main(arguments: Sequence[str]) -> int:
    """Do the experiment and return an exit code: 0, 1 (data), 2 (usage) or 130 (Ctrl-C)."""
    try:
        experiment(arguments)
    except (UsageError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
