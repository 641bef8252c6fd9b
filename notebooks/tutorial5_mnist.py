"""The training loop of snnTorch's tutorial 5 on MNIST, with its hidden class as it is and swapped.

784-1000-10, the raw image for 25 steps, beta 0.95, Adam 5e-4, batches of 128, cross-entropy on the output membrane at
every step, one epoch: ``python notebooks/tutorial5_mnist.py DIR`` with ``DIR/MNIST/raw``. Prints the test accuracy by
output spikes (the tutorial's way) and by the summed output membrane, and the hidden spikes.
"""

import sys

import snntorch as snn
import torch
from torch import nn
from torchvision import datasets

from ss_lightning import SingleSpikeLeaky


class Net(nn.Module):
    def __init__(self, hidden, output):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(784, 1000), hidden
        self.fc2, self.lif2 = nn.Linear(1000, 10), output

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes, hidden = [], [], 0
        for _ in range(25):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            hidden = hidden + spk1.detach()
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes), hidden


def images(root, train):
    data = datasets.MNIST(root, train=train)
    return data.data.float().div(255).flatten(1), data.targets


def run(name, hidden, output, root):
    (x, y), (test_x, test_y) = images(root, True), images(root, False)
    torch.manual_seed(0)
    net = Net(hidden, output)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4)
    for batch in torch.randperm(len(x)).split(128):
        _, membranes, _ = net(x[batch])
        optimizer.zero_grad()
        sum(nn.functional.cross_entropy(mem, y[batch]) for mem in membranes).backward()
        optimizer.step()
    by_spikes = by_membrane = total = most = 0
    with torch.no_grad():
        for part, labels in zip(test_x.split(1000), test_y.split(1000), strict=True):
            spikes, membranes, fired = net(part)
            by_spikes += (spikes.sum(0).argmax(1) == labels).sum().item()
            by_membrane += (membranes.sum(0).argmax(1) == labels).sum().item()
            total, most = total + fired.sum().item(), max(most, fired.max().item())
    size = len(test_x)
    print(
        f"{name:28s} by output spikes {by_spikes / size:.2%}, by membrane {by_membrane / size:.2%}, "
        f"hidden spikes {total / size:.0f} a sample, at most {most:.0f} per neuron",
        flush=True,
    )


if __name__ == "__main__":
    data_root = sys.argv[1]
    run("Leaky", snn.Leaky(beta=0.95), snn.Leaky(beta=0.95), data_root)
    for estimator in ("ramp", "survival"):
        single = SingleSpikeLeaky(beta=0.95, estimator=estimator)
        run(f"SingleSpikeLeaky {estimator}", single, snn.Leaky(beta=0.95, reset_mechanism="none"), data_root)
