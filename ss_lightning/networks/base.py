"""Networks of spiking neurons that read a whole sequence and hand back what a loss and a person need."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from ss_lightning.delayed_linear import DelayedLinear
from ss_lightning.events import EventBatch
from ss_lightning.functional.backends import BACKENDS
from ss_lightning.functional.delay_line import delay_line, delay_line_reference
from ss_lightning.functional.first_spike import Estimator, first_spike_time
from ss_lightning.functional.network import ReadoutLayer, SpikingLayer, event_network
from ss_lightning.functional.onset import raised_threshold, threshold_current
from ss_lightning.functional.synapse import event_linear
from ss_lightning.neurons import (
    LeakyReadout,
    MultiSpikeLeaky,
    SingleSpikeLeaky,
    StandardSingleSpikeLeaky,
)
from ss_lightning.surrogate import Surrogate, make_surrogate

NeuronKind = Literal["single", "standard", "multi"]
Decoder = Literal["sum", "max", "softmax", "first_spike"]

Spikes: TypeAlias = EventBatch | Tensor

# Standard deviation of a normalised current, as a share of the threshold, at the start.
_NORM_GAIN = 0.5


class LayerActivity(NamedTuple):
    """What one hidden layer did.

    Attributes:
        spike_count: spikes of each neuron and sample, ``[B, N]``, without gradient.
        first_spike_time: step of its first spike, int64 ``[B, N]``; ``T`` for a silent neuron.
    """

    spike_count: Tensor
    first_spike_time: Tensor


class NetworkOutput(NamedTuple):
    """What a network returns for a batch.

    Attributes:
        readout: membrane of the readout ``[T, B, C]``, or its spikes if the decoder is ``first_spike``.
        activity: one entry per hidden layer, without gradient.
        spike_counts: of each hidden layer once more, ``[B, N]``, differentiable: for a loss.
    """

    readout: Tensor
    activity: list[LayerActivity]
    spike_counts: list[Tensor]


def decay(tau_ms: float, step_ms: float) -> float:
    """Decay per step of a time constant: ``exp(-step / tau)``; 1 for an infinite one, 0 for none."""
    if not tau_ms >= 0:
        raise ValueError(f"a time constant must be zero or more milliseconds, got {tau_ms}")
    return math.exp(-step_ms / tau_ms) if tau_ms > 0 else 0.0


def draw_decays(tau_ms: float | Sequence[float], step_ms: float, shape: Sequence[int]) -> Tensor:
    """Decays per step of neurons of the given shape.

    Args:
        tau_ms: the time constant of all in milliseconds, or the two ends of a range from which every neuron draws its
            own, uniform in the logarithm.
        step_ms: length of a step in milliseconds.
        shape: shape of the neurons.
    """
    if not isinstance(tau_ms, Sequence):
        return torch.full(tuple(shape), decay(tau_ms, step_ms))
    if len(tau_ms) != 2 or not 0 < tau_ms[0] <= tau_ms[1] < math.inf:
        raise ValueError(f"a range of time constants must be [low, high] with 0 < low <= high, got {list(tau_ms)}")
    low, high = map(math.log, tau_ms)
    return torch.exp(-step_ms / torch.exp(low + (high - low) * torch.rand(*shape)))


class LogTau(nn.Module):
    """Parametrisation of a decay by the logarithm of its time constant, in milliseconds.

    One learning rate then suits short and long memories alike, and the decay cannot leave ``(0, 1)``. A decay of 0 or
    1 has no such logarithm: it begins with the nearest one that has.

    Args:
        step_ms: length of a step in milliseconds.
    """

    def __init__(self, step_ms: float) -> None:
        super().__init__()
        self.step_ms = step_ms

    def forward(self, log_tau: Tensor) -> Tensor:
        """Decay per step."""
        return torch.exp(-self.step_ms * torch.exp(-log_tau))

    def right_inverse(self, beta: Tensor) -> Tensor:
        """The logarithm of the time constant."""
        return torch.log(-self.step_ms / torch.log(beta.clamp(1e-6, 1 - 1e-6)))


class SpikingNetwork(nn.Module):
    """Base of all networks: how neurons are made and what is reported of them.

    Args:
        input_shape: shape of one step of one sample, such as ``[700]`` or ``[1, 28, 28]``.
        num_classes: ``C``, number of classes.
        step_ms: length of a time step in milliseconds; time constants follow it.
        neuron: ``single`` (fires at most once, the fast model), ``standard`` (the paper's sequential single-spike
            loop) or ``multi`` (snnTorch's ``Leaky``), all with the same parameters.
        estimator: gradient of the single spike: ``ramp`` (the paper), ``survival``, ``flat`` or ``masked``.
        surrogate: ``fast_sigmoid``, ``atan`` or ``triangle``.
        surrogate_slope: steepness of the surrogate at threshold.
        threshold: firing threshold.
        tau_hidden_ms: membrane time constant of hidden neurons in milliseconds (``.inf`` never leaks), or a range
            ``[low, high]`` from which each of them draws its own.
        tau_readout_ms: the same of the readout, a number or a range.
        learn_beta: learn the decay of every neuron.
        log_tau: learn the logarithm of the time constant instead of the decay itself.
        learn_threshold: learn the threshold of every hidden neuron.
        decoder: class scores from the readout: ``sum`` or ``max`` of its membrane over time, ``softmax`` for the class
            probabilities of every step, averaged, or ``first_spike``, where the readout fires and an earlier spike is
            a higher score.
        weight_norm: learn length and direction of the weights of every neuron apart (Salimans & Kingma,
            arXiv:1602.07868).
        batch_norm: the current of every hidden layer is normalised over batch and steps (and places, behind a
            convolution), per neuron or channel, in training; in evaluation this is part of the weights (Ioffe &
            Szegedy, arXiv:1502.03167). Several devices normalise each over its own share of the batch, unless
            Lightning's ``sync_batchnorm`` joins them (GPUs).
        dropout: share of hidden neurons that are left out of a sample in training.
        onset_ms: every hidden neuron has an onset, learned, at the start uniform in ``[0, onset_ms]``: before it the
            threshold is higher, the more the longer it is to go. 0 for none.
        onset_width_ms: in this time before the onset the threshold falls by ``threshold``.
    """

    readout: snn.Leaky

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        step_ms: float,
        neuron: NeuronKind = "single",
        estimator: Estimator = "ramp",
        surrogate: Literal["fast_sigmoid", "atan", "triangle"] = "fast_sigmoid",
        surrogate_slope: float = 10.0,
        threshold: float = 1.0,
        tau_hidden_ms: float | list[float] = 10.0,
        tau_readout_ms: float | list[float] = 20.0,
        learn_beta: bool = True,
        log_tau: bool = False,
        learn_threshold: bool = False,
        decoder: Decoder = "sum",
        weight_norm: bool = False,
        batch_norm: bool = False,
        dropout: float = 0.0,
        onset_ms: float = 0.0,
        onset_width_ms: float = 20.0,
    ) -> None:
        super().__init__()
        if neuron not in ("single", "standard", "multi"):
            raise ValueError(f"unknown neuron {neuron!r}; choose single, standard or multi")
        if decoder not in ("sum", "max", "softmax", "first_spike"):
            raise ValueError(f"unknown decoder {decoder!r}; choose sum, max, softmax or first_spike")
        if not step_ms > 0:
            raise ValueError(f"step_ms must be positive, got {step_ms}")
        if num_classes < 1 or any(size < 1 for size in input_shape):
            raise ValueError(
                f"need at least one class and one input, got {num_classes} classes and inputs {tuple(input_shape)}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if not 0 <= onset_ms < math.inf or not onset_width_ms > 0:
            raise ValueError(
                f"onset_ms must be zero or more and onset_width_ms positive, got {onset_ms} and {onset_width_ms}"
            )
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.step_ms = step_ms
        self.neuron = neuron
        self.estimator = estimator
        self.surrogate: Surrogate = make_surrogate(surrogate, surrogate_slope)
        self.threshold = threshold
        self.tau_hidden_ms = tau_hidden_ms
        self.tau_readout_ms = tau_readout_ms
        self.learn_beta = learn_beta
        self.log_tau = log_tau
        self.learn_threshold = learn_threshold
        self.decoder = decoder
        self.weight_norm = weight_norm
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.onset_ms = onset_ms
        self.onset_width_ms = onset_width_ms
        # In units of onset_ms, so that one learning rate suits words and single syllables.
        self.onsets = nn.ParameterList()
        # One for each hidden layer, or none.
        self.norms = nn.ModuleList()

    def folded(self) -> SpikingNetwork:
        """A copy that computes the same with plain weights and decays, however they were learned."""
        copied = copy.deepcopy(self)
        for module in copied.modules():
            if is_parametrized(module):
                _fold(module)
        for layer, norm in zip(copied.hidden_synapses, copied.norms, strict=False):
            weight, bias = _behind_norm(cast(nn.Linear, layer).weight, cast(nn.BatchNorm1d, norm))
            layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        copied.norms = nn.ModuleList()
        copied.log_tau = copied.weight_norm = copied.batch_norm = False
        return copied

    @property
    def num_inputs(self) -> int:
        """Input units, flattened."""
        return math.prod(self.input_shape)

    def forward(self, spikes: Spikes) -> NetworkOutput:
        """Run a batch from rest.

        Args:
            spikes: events, or a time-major tensor ``[T, B, N]`` / ``[T, B, *input_shape]``.
        """
        raise NotImplementedError

    @property
    def layer_sizes(self) -> list[int]:
        """Neurons of each hidden layer, in the order of :attr:`NetworkOutput.activity`."""
        raise NotImplementedError

    @property
    def hidden_synapses(self) -> list[nn.Module]:
        """The layer of synapses in front of each hidden layer, in the same order."""
        raise NotImplementedError

    def fan_out(self) -> list[Tensor]:
        """Non-zero outgoing synapses of each input unit, then of each neuron of each hidden layer, ``[N]`` each."""
        raise NotImplementedError

    def _hidden(self, shape: Sequence[int]) -> snn.Leaky:
        """A layer of hidden neurons with its own decay (and threshold, and onset) for every entry of ``shape``."""
        if self.onset_ms > 0:
            self.onsets.append(nn.Parameter(torch.rand(*shape)))
        return self._neuron(shape, self.tau_hidden_ms, self.neuron)

    def _readout(self) -> snn.Leaky:
        shape = (self.num_classes,)
        if self.decoder == "first_spike":
            return self._neuron(shape, self.tau_readout_ms, "single")
        beta = draw_decays(self.tau_readout_ms, self.step_ms, shape)
        readout = LeakyReadout(beta, learn_beta=self.learn_beta, init_hidden=True, sequence=True)
        return self._by_log_tau(readout)

    def _neuron(self, shape: Sequence[int], tau_ms: float | list[float], kind: NeuronKind) -> snn.Leaky:
        classes: dict[str, type[Any]] = {
            "single": SingleSpikeLeaky,
            "standard": StandardSingleSpikeLeaky,
            "multi": MultiSpikeLeaky,
        }
        extra: dict[str, Any] = {"estimator": self.estimator} if kind == "single" else {}
        neuron = classes[kind](
            draw_decays(tau_ms, self.step_ms, shape),
            threshold=torch.full(tuple(shape), self.threshold),
            spike_grad=self.surrogate,
            init_hidden=True,
            learn_beta=self.learn_beta,
            learn_threshold=self.learn_threshold,
            sequence=True,
            **extra,
        )
        return self._by_log_tau(neuron)

    def _by_log_tau(self, neuron: snn.Leaky) -> snn.Leaky:
        if self.log_tau and self.learn_beta:
            register_parametrization(neuron, "beta", LogTau(self.step_ms))
        return neuron

    def _start(self, layer: nn.Module, gain: float = 1.0) -> None:
        """Bring the weights of a layer to their start."""
        init_uniform(cast(nn.Linear, layer), gain)
        if self.weight_norm:
            parametrizations.weight_norm(layer)

    def _add_norm(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        """Normalise the current of the next hidden layer."""
        nn.init.constant_(norm.weight, _NORM_GAIN * self.threshold)
        self.norms.append(norm)

    def _normalised(self, depth: int, current: Tensor) -> Tensor:
        """The current ``[S, N]`` (``[S, C, H, W]``) of a hidden layer in ``S`` steps of samples."""
        return self.norms[depth](current) if self.norms else current

    def _onset_current(self, depth: int, neuron: nn.Module, num_steps: int) -> Tensor | None:
        """The current ``[T, N]`` (``[T, N, 1, 1]`` of channels) that stands for the onsets of a hidden layer."""
        if not self.onset_ms:
            return None
        onset = self.onsets[depth] * (self.onset_ms / self.step_ms)
        rise = self.threshold * self.step_ms / self.onset_width_ms
        beta = cast(SingleSpikeLeaky, neuron).decay()
        current = threshold_current(raised_threshold(onset.flatten(), num_steps, rise), beta.flatten())
        return current.unflatten(1, onset.shape)

    def _spikes(self, depth: int, neuron: nn.Module, current: Tensor) -> Tensor:
        """Spikes of a hidden layer for an input current ``[T, B, ...]``, before dropout."""
        onset = self._onset_current(depth, neuron, len(current))
        current = _in_precision_of(neuron, current)
        return neuron(current if onset is None else current + onset[:, None])

    def _output(self, current: Tensor, layers: Sequence[Tensor]) -> NetworkOutput:
        """The output, from the current ``[T, B, C]`` of the readout and the spikes ``[T, B, ...]`` of hidden layers."""
        readout = self.readout(_in_precision_of(self.readout, current))
        counts = [spikes.sum(0).flatten(1) for spikes in layers]
        return _output(readout, counts, [first_spike_time(spikes).flatten(1) for spikes in layers])

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _keep(self, like: Tensor) -> Tensor | None:
        """Which neurons take part in which sample, bool, shaped and laid out like ``[B, ...]``; None for all."""
        if not self._drops:
            return None
        return torch.rand_like(like, dtype=torch.get_default_dtype()) >= self.dropout

    def _dropped(self, spikes: Tensor) -> Tensor:
        """Spikes ``[T, B, ...]`` without those of the neurons that are left out."""
        keep = self._keep(spikes[0])
        return spikes if keep is None else spikes * keep.to(spikes.dtype)  # products of mixed dtypes are slow

    def _rescaled(self, tensor: Tensor) -> Tensor:
        """Spikes of hidden neurons, or the weights that meet them, stronger while some of the neurons are left out."""
        return tensor / (1 - self.dropout) if self._drops else tensor

    def _check_input(self, spikes: Spikes) -> None:
        units = spikes.num_units if isinstance(spikes, EventBatch) else math.prod(spikes.shape[2:])
        if units != self.num_inputs:
            raise ValueError(
                f"the network takes {self.num_inputs} input units {self.input_shape}, the batch has {units}"
            )
        if not isinstance(spikes, EventBatch) and len(spikes) < 1:
            raise ValueError(f"the input must be time-major [T, B, N] with T >= 1, got {tuple(spikes.shape)}")


class MLP(SpikingNetwork):
    """Fully connected network: hidden layers of spiking neurons and a leaky readout.

    Args:
        hidden: number of neurons of each hidden layer.
        skip: every layer after the first, the readout included, sees the spikes of all earlier hidden layers
            instead of the last one only.
        bias: give every layer a bias, zero at the start. With ``batch_norm``, which shifts currents as well, only the
            readout has one.
        input_gain: the weights of the first layer start within ``input_gain / sqrt(fan_in)``, all others within
            ``1 / sqrt(fan_in)``.
        delay_line_ms: the input reaches the first layer once for each of these fixed delays, rounded to whole steps,
            with weights of its own each time, see :func:`ss_lightning.functional.delay_line.delay_line`.
        max_delay_ms: spikes reach every hidden layer after delays that are learned, up to this one; 0 for none. See
            :class:`ss_lightning.delayed_linear.DelayedLinear`.
        delay_per_synapse: a delay for every synapse instead of one for every unit that spikes.
        delay_width_ms: half-width over which a delayed spike is spread when training begins; None for half of
            ``max_delay_ms``. The classifier narrows it to one step.
        backend: how single-spike networks run on events: ``numba`` (CPU), ``triton`` (CUDA), ``torch`` (anywhere), or
            ``auto``, the fastest of them that can do the job. All give the same spikes and gradients. Learned delays
            have no ``triton`` kernels: there it means ``auto``.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (300,),
        skip: bool = False,
        bias: bool = True,
        input_gain: float = 1.0,
        delay_line_ms: Sequence[float] = (0.0,),
        max_delay_ms: float = 0.0,
        delay_per_synapse: bool = False,
        delay_width_ms: float | None = None,
        backend: Literal["auto", "torch", "numba", "triton"] = "auto",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; choose {', '.join(BACKENDS)}")
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
        make = self._delayed if max_delay_ms else nn.Linear
        self.synapses = nn.ModuleList(make(a, b, bias=hidden_bias) for a, b in zip(fan_in, hidden, strict=False))
        self.synapses.append(nn.Linear(fan_in[-1], self.num_classes, bias=bias))
        self.neurons = nn.ModuleList(self._hidden((size,)) for size in hidden)
        if self.batch_norm:
            for size in hidden:
                self._add_norm(nn.BatchNorm1d(size))
        self.readout = self._readout()
        for depth, layer in enumerate(self.synapses):
            self._start(layer, input_gain if depth == 0 else 1.0)

    def _delayed(self, fan_in: int, size: int, bias: bool) -> DelayedLinear:
        return DelayedLinear(
            fan_in,
            size,
            max_delay_ms=self.max_delay_ms,
            step_ms=self.step_ms,
            per_synapse=self.delay_per_synapse,
            bias=bias,
            start_width_ms=self.delay_width_ms,
            backend="auto" if self.backend == "triton" else self.backend,
        )

    def forward(self, spikes: Spikes) -> NetworkOutput:
        """See :meth:`SpikingNetwork.forward`."""
        self._check_input(spikes)
        if self.delay_line != [0]:
            if isinstance(spikes, EventBatch):
                spikes = delay_line(spikes, self.delay_line)
            else:
                spikes = delay_line_reference(spikes.flatten(2), self.delay_line)
        # Delays of input units are other events; those behind hidden neurons are not known to the kernels.
        fusible = not self.max_delay_ms or (len(self.neurons) == 1 and not self.delay_per_synapse)
        # In training the normalisation has to see all currents; in evaluation it is part of the weights.
        fusible = fusible and not (self.norms and self.training)
        if isinstance(spikes, EventBatch) and fusible and self.neuron == "single" and self.decoder != "first_spike":
            return self._fused(spikes)
        return self._layer_by_layer(spikes)

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
                weight, bias = _behind_norm(weight, cast(nn.BatchNorm1d, self.norms[depth]))
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
        return _output(membrane, counts, times)

    def _layer_by_layer(self, spikes: Spikes) -> NetworkOutput:
        first, *later = self._linear
        if isinstance(spikes, EventBatch) and not isinstance(first, DelayedLinear):
            current = event_linear(spikes, first.weight, first.bias)
        elif isinstance(spikes, EventBatch):
            current = first(spikes)
        else:
            current = first(spikes.flatten(2).to(first.weight.dtype))
        layers: list[Tensor] = []
        for depth, (neurons, synapse) in enumerate(zip(self.neurons, later, strict=True)):
            current = self._normalised(depth, current.flatten(0, 1)).view_as(current)
            layers.append(self._dropped(self._spikes(depth, neurons, current)))
            current = synapse(self._rescaled(torch.cat(layers, -1) if self.skip else layers[-1]))
        return self._output(current, layers)

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
        first, *others = [_synapses_per_input(layer) for layer in self._linear]
        counts = [first.view(len(self.delay_line), -1).sum(0), *others]
        if not self.skip:
            return counts
        sizes = self.layer_sizes
        hidden = [counts[0].new_zeros(size) for size in sizes]
        for depth, count in enumerate(counts[1:], start=1):
            for layer, part in enumerate(count.split(sizes[:depth])):
                hidden[layer] = hidden[layer] + part
        return [counts[0], *hidden]


class ConvNet(SpikingNetwork):
    """Convolutional network: convolution, spiking neurons and pooling per stage, then fully connected layers.

    Args:
        channels: output channels of each convolution.
        kernel_size: side of the convolution windows.
        padding: zeros on each side of what a convolution sees. Half of an odd ``kernel_size``, rounded down, keeps the
            size of the images.
        pool_size: side of the pooling windows after each convolution: one number for all of them, or one for each; 1
            for no pooling.
        pool: ``max`` or ``avg``. A max pool over spikes in time passes a spike of each neuron in its window.
        hidden: number of neurons of each fully connected hidden layer.

    Defaults are the paper's ``32C5-P2-64C5-P2-1000`` (arXiv:2205.15286), but for its padding of 2.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
        padding: int = 0,
        pool_size: int | Sequence[int] = 2,
        pool: Literal["max", "avg"] = "max",
        hidden: Sequence[int] = (1000,),
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if len(self.input_shape) != 3:
            raise ValueError(
                f"a convolutional network needs images (channels, height, width), got inputs {self.input_shape}"
            )
        if pool not in ("max", "avg"):
            raise ValueError(f"unknown pool {pool!r}; choose max or avg")
        pool_sizes = [pool_size] * len(channels) if isinstance(pool_size, int) else list(pool_size)
        if not channels or min(*channels, kernel_size, *pool_sizes, *hidden) < 1:
            raise ValueError(
                "channels must list at least one convolution, and its sizes, kernel_size, pool_size and the layers of "
                f"hidden be 1 or more, got {list(channels)}, {kernel_size}, {pool_size} and {list(hidden)}"
            )
        if len(pool_sizes) != len(channels):
            raise ValueError(
                f"pool_size must be one number or one for each of the {len(channels)} convolutions, got {pool_sizes}"
            )
        if padding < 0:
            raise ValueError(f"padding must be zero or more, got {padding}")
        self.padding = padding
        self.pool = pool
        self.pool_sizes = pool_sizes
        depth, height, width = self.input_shape
        self.convolutions, self.conv_neurons = nn.ModuleList(), nn.ModuleList()
        self._conv_shapes: list[tuple[int, int, int]] = []
        for size, side in zip(channels, pool_sizes, strict=True):
            height, width = (length + 2 * padding - kernel_size + 1 for length in (height, width))
            if min(height, width) < side:
                raise ValueError(
                    f"images of {self.input_shape} are too small for {len(channels)} convolutions with kernel_size="
                    f"{kernel_size}, padding={padding} and pool_size={pool_size}"
                )
            # A bias would vanish in the normalisation.
            self.convolutions.append(nn.Conv2d(depth, size, kernel_size, padding=padding, bias=not self.batch_norm))
            self.conv_neurons.append(self._hidden((size, 1, 1)))
            self._conv_shapes.append((size, height, width))
            depth, height, width = size, height // side, width // side
        make = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
        self.pools = nn.ModuleList(make(side) if side > 1 else nn.Identity() for side in pool_sizes)
        sizes = [depth * height * width, *hidden, self.num_classes]
        self.synapses = nn.ModuleList(
            nn.Linear(a, b, bias=index == len(hidden) or not self.batch_norm)
            for index, (a, b) in enumerate(pairwise(sizes))
        )
        self.neurons = nn.ModuleList(self._hidden((size,)) for size in hidden)
        self.readout = self._readout()
        for layer in (*self.convolutions, *self.synapses):
            self._start(layer)
        if self.batch_norm:
            for size in channels:
                self._add_norm(nn.BatchNorm2d(size))
            for size in hidden:
                self._add_norm(nn.BatchNorm1d(size))

    def forward(self, spikes: Spikes) -> NetworkOutput:
        """See :meth:`SpikingNetwork.forward`."""
        self._check_input(spikes)
        dense = spikes.to_dense() if isinstance(spikes, EventBatch) else spikes
        steps, batch = dense.shape[:2]
        x = dense.reshape(steps * batch, *self.input_shape).to(self._linear[0].weight.dtype)
        x = _channels_last(x)
        layers: list[Tensor] = []
        stages = zip(self.convolutions, self.conv_neurons, self.pools, strict=True)
        for depth, (convolution, neurons, pool) in enumerate(stages):
            current = self._normalised(depth, convolution(x)).unflatten(0, (steps, batch))
            layers.append(self._dropped(self._spikes(depth, neurons, current)))
            x = self._rescaled(pool(layers[-1].flatten(0, 1)))
        x = x.reshape(steps * batch, -1)
        for depth, (synapse, neurons) in enumerate(zip(self.synapses[:-1], self.neurons, strict=True), len(layers)):
            current = self._normalised(depth, synapse(x)).unflatten(0, (steps, batch))
            layers.append(self._dropped(self._spikes(depth, neurons, current)))
            x = self._rescaled(layers[-1]).flatten(0, 1)
        return self._output(self.synapses[-1](x).unflatten(0, (steps, batch)), layers)

    @property
    def layer_sizes(self) -> list[int]:
        """See :attr:`SpikingNetwork.layer_sizes`."""
        dense = [layer.out_features for layer in self._linear[:-1]]
        return [math.prod(shape) for shape in self._conv_shapes] + dense

    @property
    def hidden_synapses(self) -> list[nn.Module]:
        """See :attr:`SpikingNetwork.hidden_synapses`."""
        return [*self.convolutions, *self.synapses[:-1]]

    @property
    def _linear(self) -> list[nn.Linear]:
        return cast(list[nn.Linear], list(self.synapses))

    def fan_out(self) -> list[Tensor]:
        """See :meth:`SpikingNetwork.fan_out`. A pooled spike counts the synapses of the unit it lands on."""
        fan_out = []
        shapes = [self.input_shape, *self._conv_shapes]
        for depth, convolution in enumerate(cast(list[nn.Conv2d], list(self.convolutions))):
            connected = convolution.weight.ne(0).to(convolution.weight.dtype)
            ones = connected.new_ones(1, *shapes[depth + 1])
            # The way back from every output: a unit at the padded border is met by fewer windows.
            count = F.conv_transpose2d(ones, connected, padding=self.padding)[0]
            fan_out.append(count if depth == 0 else self._unpooled(count, depth - 1))
        first, *later = [_synapses_per_input(layer) for layer in self._linear]
        channels, height, width = shapes[-1]
        pooled = first.view(channels, height // self.pool_sizes[-1], width // self.pool_sizes[-1])
        fan_out.append(self._unpooled(pooled.to(torch.float32), len(self.convolutions) - 1))
        # Fast algorithms for convolutions are not exact, not even for ones.
        return [count.flatten().round().long() for count in (*fan_out, *later)]

    def _unpooled(self, count: Tensor, depth: int) -> Tensor:
        """Synapses behind each neuron of a convolution, before pooling; a cut-off margin feeds nothing."""
        size, shape = self.pool_sizes[depth], self._conv_shapes[depth]
        count = count.repeat_interleave(size, 1).repeat_interleave(size, 2)
        return F.pad(count, (0, shape[2] - count.shape[2], 0, shape[1] - count.shape[1]))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation for a while: no dropout, no statistics of the batch, delays rounded."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _channels_last(images: Tensor) -> Tensor:
    """Images ``[S, C, H, W]`` whose channels lie next to each other, also where there is only one."""
    channels, _, width = images.shape[1:]
    # Flat in between: of an axis of length one torch would keep whatever stride it has.
    return images.permute(0, 2, 3, 1).flatten(2).unflatten(2, (width, channels)).permute(0, 3, 1, 2)


def _synapses_per_input(layer: nn.Linear | DelayedLinear) -> Tensor:
    """How many outputs each input reaches through a non-zero weight, ``[N_in]``."""
    return torch.count_nonzero(layer.weight, dim=0)


def _fold(module: nn.Module) -> None:
    """Put values in the place of parametrisations.

    Not with torch's ``remove_parametrizations``: that changes the class, which a copy shares with its original.
    """
    values = {name: getattr(module, name).detach().clone() for name in cast(nn.ModuleDict, module.parametrizations)}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _behind_norm(weight: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weights and bias that do what the weights of a layer without bias do with the normalisation in evaluation.

    As ``torch.nn.utils.fusion`` does it, but differentiable.
    """
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), norm.bias - mean * scale


def init_uniform(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Weights uniform within ``gain / sqrt(fan_in)``, bias zero (the paper's initialisation)."""
    bound = gain / math.sqrt(layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _in_precision_of(neuron: nn.Module, current: Tensor) -> Tensor:
    """The current as wide as the parameters: under autocast synapses give half precision, but membranes are sums."""
    return current.to(torch.promote_types(current.dtype, cast(snn.Leaky, neuron).threshold.dtype))


def _output(readout: Tensor, counts: Sequence[Tensor], times: Sequence[Tensor]) -> NetworkOutput:
    """The output of a network from spike counts and first spike times ``[B, N]`` of its hidden layers."""
    activity = [LayerActivity(count.detach().long(), time) for count, time in zip(counts, times, strict=True)]
    return NetworkOutput(readout, activity, list(counts))
