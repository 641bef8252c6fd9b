"""What the swap costs in snnTorch's tutorials 5 and 6, and the settings that win it back.

``python -m ss_lightning.experiments.tutorials 5 --root DIR`` trains the network of tutorial 5 (784-1000-10, 25 steps,
beta 0.95, Adam 5e-4) or 6 (12C5-MP2-64C5-MP2-10, 50 steps, beta 0.5, Adam 1e-2) on MNIST in ``DIR/MNIST/raw``: with
snnTorch's neurons, with ``SingleSpikeLeaky`` at its defaults in the hidden layers, and with the settings of
:data:`ROWS`. Batches of 128, one epoch unless told otherwise, the same initial weights and order of samples.

Both tutorials show the image at every step. So the current of the first layer is the same at every step, and is
computed once; the rest is the loop of the tutorials, layer by layer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch import surrogate
from torch import Tensor, nn

from ss_lightning import FastSigmoid, LeakyReadout, SingleSpikeLeaky
from ss_lightning.data.images import read_idx
from ss_lightning.errors import UsageError

BATCH = 128


class Outcome(NamedTuple):
    """Test accuracy by output spikes (None for a readout without spikes) and by output membrane, and hidden spikes."""

    by_spikes: float | None
    by_membrane: float
    hidden_spikes: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One network of a tutorial.

    Attributes:
        name: what the table calls it.
        hidden: makes the neurons of a hidden layer.
        output: makes the neurons of the output layer.
        loss: from output spikes, membranes ``[T, B, C]`` and labels.
        lr: of Adam; None for that of the tutorial.
    """

    name: str
    hidden: Callable[[], snn.Leaky]
    output: Callable[[], snn.Leaky]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    lr: float | None = None


class Tutorial(nn.Module):
    """The layers between image and output current, as pairs of synapses and neurons."""

    num_steps: int
    lr: float

    def __init__(self, row: Row, synapses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.synapses = nn.ModuleList(synapses)
        self.neurons = nn.ModuleList([*(row.hidden() for _ in synapses[1:]), row.output()])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes and membranes of the output ``[T, B, C]``, and the number of hidden spikes."""
        first, *others = self.synapses
        currents = first(images).expand(self.num_steps, *([-1] * (first(images[:1]).dim())))
        hidden = currents.new_zeros(())
        for neuron, synapse in zip(self.neurons, others, strict=False):
            spikes, _ = over_time(neuron, currents)
            hidden = hidden + spikes.detach().sum()
            currents = synapse(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
        return *over_time(self.neurons[-1], currents), hidden


class Tutorial5(Tutorial):
    """Tutorial 5: fully connected."""

    num_steps, lr = 25, 5e-4

    def __init__(self, row: Row) -> None:
        super().__init__(row, [nn.Sequential(nn.Flatten(), nn.Linear(784, 1000)), nn.Linear(1000, 10)])


class Tutorial6(Tutorial):
    """Tutorial 6: convolutional, with a pool before each layer of neurons."""

    num_steps, lr = 50, 1e-2

    def __init__(self, row: Row) -> None:
        super().__init__(
            row,
            [
                nn.Sequential(nn.Conv2d(1, 12, 5), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(12, 64, 5), nn.MaxPool2d(2)),
                nn.Sequential(nn.Flatten(), nn.Linear(64 * 4 * 4, 10)),
            ],
        )


def over_time(neuron: nn.Module, currents: Tensor) -> tuple[Tensor, Tensor]:
    """The tutorials' loop over the steps of a layer: spikes and membranes, ``[T, B, ...]`` each."""
    mem = torch.zeros_like(currents[0])
    spikes, membranes = [], []
    for current in currents.unbind(0):
        spk, mem = neuron(current, mem)
        spikes.append(spk)
        membranes.append(mem)
    return torch.stack(spikes), torch.stack(membranes)


def loss_of_tutorial_5(spikes: Tensor, membranes: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy on the output membrane, summed over steps."""
    return len(membranes) * F.cross_entropy(membranes.flatten(0, 1), labels.repeat(len(membranes)))


def loss_of_tutorial_6(spikes: Tensor, membranes: Tensor, labels: Tensor) -> Tensor:
    """``SF.ce_rate_loss``: cross-entropy on the output spikes, averaged over steps."""
    return F.cross_entropy(spikes.flatten(0, 1), labels.repeat(len(spikes)))


def membrane_loss(spikes: Tensor, membranes: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy on the output membrane, averaged over steps: the class is the one with the highest mean."""
    return F.cross_entropy(membranes.mean(0), labels)


def _single(beta: float, **options: Any) -> Callable[[], snn.Leaky]:
    return lambda: SingleSpikeLeaky(beta=beta, **options)


def _leaky(beta: float, **options: Any) -> Callable[[], snn.Leaky]:
    return lambda: snn.Leaky(beta=beta, **options)


_SLOPE = surrogate.fast_sigmoid(slope=25)  # of tutorial 6

ROWS: dict[int, list[Row]] = {
    5: [
        Row("snn.Leaky, as in the tutorial", _leaky(0.95), _leaky(0.95), loss_of_tutorial_5),
        Row("hidden layer swapped, defaults", _single(0.95), _leaky(0.95), loss_of_tutorial_5),
        Row("both layers swapped, defaults", _single(0.95), _single(0.95), loss_of_tutorial_5),
        Row(
            "hidden layer swapped, survival, membrane of LeakyReadout",
            _single(0.95, estimator="survival"),
            lambda: LeakyReadout(0.95),
            membrane_loss,
        ),
        Row(
            "the same with a learning rate of 2e-3",
            _single(0.95, estimator="survival"),
            lambda: LeakyReadout(0.95),
            membrane_loss,
            lr=2e-3,
        ),
    ],
    6: [
        Row(
            "snn.Leaky, as in the tutorial",
            _leaky(0.5, spike_grad=_SLOPE),
            _leaky(0.5, spike_grad=_SLOPE),
            loss_of_tutorial_6,
        ),
        Row(
            "hidden layers swapped, defaults",
            _single(0.5, spike_grad=_SLOPE),
            _leaky(0.5, spike_grad=_SLOPE),
            loss_of_tutorial_6,
        ),
        Row(
            "hidden layers swapped, survival, threshold 0.5, FastSigmoid(5), membrane of LeakyReadout, 2e-3",
            _single(0.5, estimator="survival", threshold=0.5, spike_grad=FastSigmoid(5)),
            lambda: LeakyReadout(0.95),
            membrane_loss,
            lr=2e-3,
        ),
    ],
}
TUTORIALS: dict[int, type[Any]] = {5: Tutorial5, 6: Tutorial6}


def mnist(root: Path, part: str, number: int) -> tuple[Tensor, Tensor]:
    """The first images ``[S, 1, 28, 28]`` in ``[0, 1]`` and labels of ``train`` or ``t10k``."""
    folder = root / "MNIST" / "raw"
    pixels = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte", 3).copy())
    labels = torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte", 1).copy())
    return pixels[:number].float().div(255).unsqueeze(1), labels[:number].long()


def train_and_test(
    number: int, row: Row, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], epochs: int, seed: int
) -> Outcome:
    """Train one network of a tutorial and test it."""
    torch.manual_seed(seed)
    net = TUTORIALS[number](row)
    optimizer = torch.optim.Adam(net.parameters(), lr=row.lr or net.lr, betas=(0.9, 0.999))
    began = time.perf_counter()
    images, labels = train
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            spikes, membranes, _ = net(images[batch])
            optimizer.zero_grad()
            row.loss(spikes, membranes, labels[batch]).backward()
            optimizer.step()
    seconds = time.perf_counter() - began
    by_spikes, by_membrane, hidden = 0, 0, 0.0
    with torch.no_grad():
        for images, labels in zip(*(part.split(500) for part in test), strict=True):
            spikes, membranes, fired = net(images)
            by_spikes += int((spikes.sum(0).argmax(1) == labels).sum())
            by_membrane += int((membranes.sum(0).argmax(1) == labels).sum())
            hidden += fired.item()
    size = len(test[0])
    has_spikes = not isinstance(net.neurons[-1], LeakyReadout)
    return Outcome(by_spikes / size if has_spikes else None, by_membrane / size, hidden / size, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m ss_lightning.experiments.tutorials 5|6``: a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m ss_lightning.experiments.tutorials", description=__doc__)
    parser.add_argument("tutorial", type=int, choices=sorted(ROWS))
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of MNIST/raw (default: data)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--num_train", type=int, default=60_000, help="training images, the first ones")
    parser.add_argument("--num_test", type=int, default=10_000, help="test images, the first ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if min(options.epochs, options.num_train, options.num_test) < 1:
        raise UsageError("--epochs, --num_train and --num_test must be 1 or more")
    train = mnist(options.root, "train", options.num_train)
    test = mnist(options.root, "t10k", options.num_test)
    print("| network | accuracy by output spikes | by output membrane | hidden spikes a sample | training (s) |")
    print("| --- | --- | --- | --- | --- |")
    for row in ROWS[options.tutorial]:
        found = train_and_test(options.tutorial, row, train, test, options.epochs, options.seed)
        by_spikes = "none" if found.by_spikes is None else f"{found.by_spikes:.2%}"
        print(
            f"| {row.name} | {by_spikes} | {found.by_membrane:.2%} | {found.hidden_spikes:,.0f} | "
            f"{found.seconds:.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
