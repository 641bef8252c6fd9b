"""A network whose training pass is recorded as a CUDA graph, where shapes repeat.

A pass over few time steps and samples is bound by the host, which starts one kernel after the other. A graph starts
them all at once. It holds addresses and shapes, so the input is always copied to the same place and is always dense:
lists of events have another length in every batch.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ss_lightning.delayed_linear import DelayedLinear
from ss_lightning.events import EventBatch
from ss_lightning.networks.base import LayerActivity, NetworkOutput, Spikes, SpikingNetwork

# Shapes that are recorded at most: each graph keeps the memory of a pass.
_MOST_SHAPES = 2


class _Flat(nn.Module):
    """The network with a tuple of tensors as output, which is what a graph can hold."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, spikes: Tensor) -> tuple[Tensor, ...]:
        """Readout, then count and first time of every hidden layer."""
        readout, activity = self.network(spikes)
        return readout, *(tensor for layer in activity for tensor in layer)


class GraphedNetwork:
    """Calls a network, from the second batch of a shape on by replaying a graph of both its passes.

    The optimizer, the loss and whatever runs in evaluation or under autocast stay as they are.

    Args:
        network: the network; it is not changed, and trains as before.

    Raises:
        ValueError: what the network computes changes while it trains, which a graph could not follow.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        if any(isinstance(layer, DelayedLinear) for layer in network.modules()):
            raise ValueError("a CUDA graph cannot follow learned delays, which narrow while the network trains")
        self.network = network
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._graphs: dict[tuple[Any, ...], Any] = {}

    def __call__(self, spikes: Spikes) -> NetworkOutput:
        """See :meth:`ss_lightning.networks.SpikingNetwork.forward`."""
        if not self.network.training or torch.is_autocast_enabled(spikes.device.type) or not torch.is_grad_enabled():
            return self.network(spikes)
        shape = (*spikes.shape, spikes.device)
        self._seen[shape] += 1
        if self._seen[shape] == 1 or (shape not in self._graphs and len(self._graphs) == _MOST_SHAPES):
            return self.network(spikes)
        dense = spikes.to_dense() if isinstance(spikes, EventBatch) else spikes
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(dense)
        readout, *activity = self._graphs[shape](dense)
        layers = zip(activity[::2], activity[1::2], strict=True)
        return NetworkOutput(readout, [LayerActivity(*layer) for layer in layers])

    def _capture(self, spikes: Tensor) -> Any:
        """The graph of a shape. The passes that warm up leave no trace in running statistics."""
        statistics = list(self.network.norms.buffers())
        before = [buffer.clone() for buffer in statistics]
        graph = torch.cuda.make_graphed_callables(_Flat(self.network), (spikes.clone(),), allow_unused_input=True)
        for buffer, value in zip(statistics, before, strict=True):
            buffer.copy_(value)
        return graph
