"""Networks as ``torch.export`` programs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ss_lightning.errors import UsageError
from ss_lightning.networks import SpikingNetwork


class _ReadoutOnly(nn.Module):
    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, spikes: Tensor) -> Tensor:
        return self.network(spikes).readout


def export_program(network: SpikingNetwork, num_steps: int) -> torch.export.ExportedProgram:
    """The network as a program that runs without this package.

    Args:
        network: an MLP or a ConvNet; it is left as it was.
        num_steps: ``T``, fixed in the program, which unrolls it.

    Returns:
        A program that takes dense spikes ``[T, B, *input_shape]`` of any batch size ``B`` and returns the readout
        ``[T, B, C]``, as the network does. ``torch.export.save`` writes it; ``torch.export.load(file).module()`` reads
        it as a function.

    Raises:
        UsageError: ``num_steps`` is below 1.
    """
    if num_steps < 1:
        raise UsageError(f"num_steps must be 1 or more, got {num_steps}")
    weight = next(network.parameters())
    example = torch.zeros(num_steps, 2, *network.input_shape, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        return torch.export.export(
            _ReadoutOnly(network.plain_copy()).eval(),
            (example,),
            dynamic_shapes={"spikes": {1: torch.export.Dim("batch")}},
        )
