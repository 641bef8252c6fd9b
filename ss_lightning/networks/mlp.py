"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

from torch import Tensor, nn

from ss_lightning.delayed_linear import DelayedLinear
from ss_lightning.events import EventBatch
from ss_lightning.functional.backends import NETWORK_BACKENDS
from ss_lightning.functional.delay_line import delay_line
from ss_lightning.functional.input_synapse import as_events
from ss_lightning.functional.network import ReadoutLayer, SpikingLayer, Stage, event_network
from ss_lightning.functional.synapse import event_linear
from ss_lightning.networks.base import (
    LayerActivity,
    NetworkOutput,
    Spikes,
    SpikingNetwork,
    synapses_per_input,
    weights_with_norm,
)
from ss_lightning.networks.watching import is_watched
from ss_lightning.neurons import LeakyReadout, SingleSpikeLeaky
from ss_lightning.signatures import passes_on_to


@passes_on_to(SpikingNetwork)
class MLP(SpikingNetwork):
    """Fully connected network: hidden layers of spiking neurons and a leaky readout.

    Args:
        hidden: number of neurons of each hidden layer.
        skip: every layer after the first, the readout included, sees the spikes of all earlier hidden layers
            instead of the last one only.
        bias: give every layer a bias, zero at the start. With ``batch_norm``, which shifts currents as well, only the
            readout has one.
        delay_line_ms: the input reaches the first layer once for each of these fixed delays, rounded to whole steps,
            with weights of its own each time, see :func:`ss_lightning.functional.delay_line.delay_line`.
        max_delay_ms: spikes reach every hidden layer after delays that are learned, up to this one; 0 for none. See
            :class:`ss_lightning.delayed_linear.DelayedLinear`.
        delay_per_synapse: a delay for every synapse instead of one for every unit that spikes.
        delay_width_ms: half-width over which a delayed spike is spread when training begins; None for half of
            ``max_delay_ms``. The classifier narrows it to one step.
        backend: how single-spike networks run on events: ``numba`` (CPU), ``triton`` (CUDA), ``torch`` (anywhere), or
            ``auto``, the fastest of them that can do the job. All give the same spikes and gradients. ``dense`` is
            ``triton`` with matrix products for the input layer, which ``auto`` takes on CUDA where the input is dense;
            ``dense_bf16`` runs these products on the bf16 units of the card, with weights split into three terms.
            Learned delays have no ``triton`` kernels: there it means ``auto``. All but ``torch`` and ``auto`` are
            refused for a network that cannot run in one fused kernel; :attr:`fusion_obstacle` says why.

    Neurons of the kind ``single`` take a tensor of spikes on the processor as its events where that is faster: where
    few of its values are not zero, all are counts, and it needs no gradient. With hooks on a layer, with a layer that
    was replaced, or with ``backend="torch"`` the tensor passes one layer after the other.

    Raises:
        ValueError: a word is unknown, a number is out of its range, or the backend cannot run this network.

    Example:
        >>> import torch
        >>> from ss_lightning import EventBatch
        >>> network = MLP(input_shape=[700], num_classes=20, step_ms=2.0, hidden=[128])
        >>> spikes = (torch.rand(50, 4, 700) < 0.02).float()  # 50 steps, 4 samples
        >>> output = network(EventBatch.from_dense(spikes))
        >>> output.readout.shape, output.activity[0].spike_count.shape
        (torch.Size([50, 4, 20]), torch.Size([4, 128]))
        >>> print(network.fusion_obstacle)
        None
        >>> MLP(input_shape=[700], num_classes=20, step_ms=2.0, neuron="multi").fusion_obstacle
        'Neurons of the kind multi have no fused kernel.'
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (300,),
        skip: bool = False,
        bias: bool = True,
        delay_line_ms: Sequence[float] = (0.0,),
        max_delay_ms: float = 0.0,
        delay_per_synapse: bool = False,
        delay_width_ms: float | None = None,
        backend: Literal["auto", "torch", "numba", "triton", "dense", "dense_bf16"] = "auto",
        **network: Any,
    ) -> None:
        super().__init__(**network)
        if backend not in NETWORK_BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; choose {', '.join(NETWORK_BACKENDS)}")
        if not hidden or any(size < 1 for size in hidden):
            raise ValueError(f"hidden must list at least one layer of at least one neuron, got {hidden}")
        if self.batch_norm and not bias:
            raise ValueError("batch_norm shifts currents as a bias does: leave bias at true, or batch_norm at false")
        if not max_delay_ms >= 0:
            raise ValueError(f"max_delay_ms must be zero or more, got {max_delay_ms}")
        if not delay_line_ms or any(not 0 <= delay < math.inf for delay in delay_line_ms):
            raise ValueError(f"delay_line_ms must list delays of zero or more milliseconds, got {list(delay_line_ms)}")
        self.skip = skip
        self.delay_line_ms = tuple(delay_line_ms)
        self.delay_line = [round(delay / self.step_ms) for delay in delay_line_ms]
        self.max_delay_ms = max_delay_ms
        self.delay_per_synapse = delay_per_synapse
        self.delay_width_ms = delay_width_ms
        self.backend = backend
        before = [list(hidden[:depth]) if skip else [hidden[depth - 1]] for depth in range(1, len(hidden) + 1)]
        fan_in = [len(delay_line_ms) * self.num_inputs, *map(sum, before)]
        hidden_bias = bias and not self.batch_norm  # it would vanish in the normalisation
        make = self._delayed_linear if max_delay_ms else nn.Linear
        self.synapses = nn.ModuleList(make(a, b, bias=hidden_bias) for a, b in zip(fan_in, hidden, strict=False))
        self.synapses.append(nn.Linear(fan_in[-1], self.num_classes, bias=bias))
        self.neurons = nn.ModuleList(self.make_hidden((size,)) for size in hidden)
        if self.batch_norm:
            for size in hidden:
                self._add_norm(nn.BatchNorm1d(size))
        self.readout = self.make_readout()
        self._initialise_all(list(self.synapses))
        if backend not in ("auto", "torch") and self.fusion_obstacle is not None:
            raise ValueError(
                f"backend {backend!r} cannot run this network. {self.fusion_obstacle} Choose torch or auto"
            )

    def _delayed_linear(self, fan_in: int, size: int, bias: bool) -> DelayedLinear:
        return DelayedLinear(
            fan_in,
            size,
            max_delay_ms=self.max_delay_ms,
            step_ms=self.step_ms,
            per_synapse=self.delay_per_synapse,
            bias=bias,
            start_width_ms=self.delay_width_ms,
            backend=self.backend if self.backend in ("torch", "numba") else "auto",
        )

    def forward(self, spikes: Spikes) -> NetworkOutput:
        """See :meth:`SpikingNetwork.forward`."""
        self._check_input(spikes)
        if not isinstance(spikes, EventBatch):
            spikes = spikes.flatten(2)
            if self.neuron == "single" and self.backend != "torch" and not self._is_watched:
                spikes = as_events(spikes)
        if self.delay_line != [0]:
            spikes = delay_line(spikes, self.delay_line)
        if isinstance(spikes, EventBatch) and self.fusion_obstacle is None:
            return self._fused(spikes)
        stages = [
            Stage(
                synapse if depth else self._input_current,
                partial(self._hidden_spikes, depth, neuron),
                self._rescaled,
            )
            for depth, (synapse, neuron) in enumerate(zip(self.synapses, self.neurons, strict=False))
        ]
        return self._layer_by_layer(spikes, stages, self.synapses[-1], self.skip)

    def _input_current(self, spikes: Spikes) -> Tensor:
        """Current ``[T, B, N]`` of the first hidden layer."""
        first = self._linear[0]
        if not isinstance(spikes, EventBatch):
            return first(spikes.to(first.weight.dtype))
        return first(spikes) if isinstance(first, DelayedLinear) else event_linear(spikes, first.weight, first.bias)

    @property
    def _is_watched(self) -> bool:
        """Whether somebody wants the layers to be called, which events of a dense tensor would pass by."""
        layers = [*self.synapses, *self.neurons, *self.norms, self.readout]
        return is_watched(layers, (nn.Linear, DelayedLinear, nn.BatchNorm1d, LeakyReadout, SingleSpikeLeaky))

    @property
    def fusion_obstacle(self) -> str | None:
        """See :attr:`SpikingNetwork.fusion_obstacle`. Normalisation is an obstacle in training only."""
        if self.neuron != "single":
            return f"Neurons of the kind {self.neuron} have no fused kernel."
        if self.decoder.readout_fires:
            return f"The decoder {self.decoder.name} needs a readout that fires, and the fused kernels have none."
        # Delays of input units are other events. Those behind hidden neurons are not known to the kernels.
        if self.max_delay_ms and self.delay_per_synapse:
            return "The fused kernels know no delay for each synapse."
        if self.max_delay_ms and len(self.neurons) > 1:
            return "The fused kernels know learned delays of the input only, not those between hidden layers."
        # In evaluation the normalisation is part of the weights.
        if self.norms and self.training:
            return "In training, batch_norm needs the currents of the whole batch, which the fused kernels never hold."
        return None

    def _fused(self, events: EventBatch) -> NetworkOutput:
        """From input events to the readout in one differentiable function."""
        *hidden, last = self._linear
        neurons = cast(list[SingleSpikeLeaky], list(self.neurons))
        num_steps, batch_size, _ = events.shape
        layers = []
        for depth, (synapse, neuron) in enumerate(zip(hidden, neurons, strict=True)):
            weight: Tensor = synapse.weight
            if isinstance(synapse, DelayedLinear):
                events, weight = synapse.late_events(events)
            bias: Tensor | None = synapse.bias
            if self.norms:
                weight, bias = weights_with_norm(weight, cast(nn.BatchNorm1d, self.norms[depth]))
            onset = self._onset_current(depth, neuron, num_steps)
            if onset is not None:
                bias = onset if bias is None else bias + onset
            keep = self._keep(weight.new_empty(batch_size, len(weight)))
            layers.append(
                SpikingLayer(self._rescaled(weight) if depth else weight, bias, neuron.decay(), neuron.threshold, keep)
            )
        membrane, times, counts = event_network(
            events,
            layers,
            ReadoutLayer(self._rescaled(last.weight), last.bias, cast(LeakyReadout, self.readout).decay()),
            surrogate=self.surrogate,
            estimator=self.estimator,
            skip=self.skip,
            backend=self.backend,
        )
        return NetworkOutput(membrane, [LayerActivity(*layer) for layer in zip(counts, times, strict=True)])

    @property
    def layer_sizes(self) -> list[int]:
        """See :attr:`SpikingNetwork.layer_sizes`."""
        return [layer.out_features for layer in self._linear[:-1]]

    @property
    def hidden_synapses(self) -> list[nn.Module]:
        """See :attr:`SpikingNetwork.hidden_synapses`."""
        return list(self.synapses[:-1])

    @property
    def _linear(self) -> list[nn.Linear | DelayedLinear]:
        return cast(list[nn.Linear | DelayedLinear], list(self.synapses))

    def fan_out(self) -> list[Tensor]:
        """See :meth:`SpikingNetwork.fan_out`."""
        first, *others = [synapses_per_input(layer) for layer in self._linear]
        counts = [first.view(len(self.delay_line), -1).sum(0), *others]
        if not self.skip:
            return counts
        sizes = self.layer_sizes
        hidden = [counts[0].new_zeros(size) for size in sizes]
        for depth, count in enumerate(counts[1:], start=1):
            for layer, part in enumerate(count.split(sizes[:depth])):
                hidden[layer] = hidden[layer] + part
        return [counts[0], *hidden]
