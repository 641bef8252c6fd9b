"""How many spikes move when the products of the input layer are cheaper: ``python -m ss_lightning.benchmark.split``.

The current of the first layer of the SHD cell is computed in several ways, and its first spikes are compared with
those of float64. On the processor the bf16 units of a card are emulated: their products are exact in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ss_lightning.benchmark.cells import SHD, Cell, make_batch
from ss_lightning.benchmark.contenders import BETA_HIDDEN
from ss_lightning.functional import first_spike_time, single_spike, split_linear

TERMS = (1, 2, 3)
# Of the weights at the start, so that most neurons fire.
_GAIN = 4


def moved_spikes(cell: Cell, device: torch.device) -> Iterator[tuple[str, float, float]]:
    """Error of the current and share of the neurons whose first spike moves, for each way to compute the current.

    Args:
        cell: its first layer is used.
        device: where to compute.

    Returns:
        Name of the way, largest error relative to the largest current, and the share of all pairs of neuron and
        sample.
    """
    torch.manual_seed(0)
    weight = _GAIN * torch.nn.Linear(cell.sizes[0], cell.sizes[1]).weight.detach()
    spikes = make_batch(cell)[0].to_dense()
    exact = F.linear(spikes.double(), weight.double())
    times = _times(exact)
    spikes, weight = spikes.to(device).flatten(0, 1), weight.to(device)
    ways: dict[str, Tensor] = {"float32": F.linear(spikes, weight)}
    ways |= {f"bf16, {terms} terms": split_linear(spikes, weight, terms) for terms in TERMS}
    for name, found in ways.items():
        current = found.view_as(exact).cpu()
        error = ((current.double() - exact).abs().max() / exact.abs().max()).item()
        yield name, error, (_times(current.double()) != times).double().mean().item()


def _times(current: Tensor) -> Tensor:
    """First spikes in float64, so that nothing but the current differs."""
    return first_spike_time(single_spike(current, BETA_HIDDEN, backend="torch"))


def main() -> int:
    """Print the table, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{SHD.name} on {device}: {'error of the current':>24s} {'first spikes that move':>24s}")
    for name, error, moved in moved_spikes(SHD, device):
        print(f"{name:28s} {error:24.1e} {moved:24.4%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
