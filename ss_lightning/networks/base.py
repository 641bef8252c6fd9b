"""What all networks share: how neurons are made, what is learned of them, and what is reported of a batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias, cast, overload

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from ss_lightning.events import EventBatch
from ss_lightning.functional.first_spike import Estimator, first_spike_time
from ss_lightning.functional.network import Stage, run_layers
from ss_lightning.functional.onset import raised_threshold, threshold_current
from ss_lightning.networks.decoders import DecoderName, make_decoder
from ss_lightning.networks.time_constants import LogTau, draw_decays
from ss_lightning.neurons import (
    LeakyReadout,
    MultiSpikeLeaky,
    SingleSpikeLeaky,
    StandardSingleSpikeLeaky,
)
from ss_lightning.renamed import renamed_value
from ss_lightning.surrogate import Surrogate, make_surrogate

NeuronKind = Literal["single", "standard_single", "multi"]

Spikes: TypeAlias = EventBatch | Tensor

_NEURONS: dict[str, type[Any]] = {
    "single": SingleSpikeLeaky,
    "standard_single": StandardSingleSpikeLeaky,
    "multi": MultiSpikeLeaky,
}
# Standard deviation of a normalised current, as a share of the threshold, at the start.
_NORM_GAIN = 0.5


class LayerActivity(NamedTuple):
    """What one hidden layer did.

    Attributes:
        spike_count: spikes of each neuron and sample, ``[B, N]``, differentiable.
        first_spike_time: step of its first spike, int64 ``[B, N]``; ``T`` for a silent neuron.
    """

    spike_count: Tensor
    first_spike_time: Tensor


class ActivityOnDemand(Sequence[LayerActivity]):
    """The activity of hidden layers, computed when it is looked at: a training step seldom does, and it takes a while.

    Args:
        spikes: of every layer, ``[T, B, ...]``.
    """

    def __init__(self, spikes: Sequence[Tensor]) -> None:
        self._spikes = spikes
        self._known: dict[int, LayerActivity] = {}

    def __len__(self) -> int:
        return len(self._spikes)

    @overload
    def __getitem__(self, index: int) -> LayerActivity: ...

    @overload
    def __getitem__(self, index: slice) -> list[LayerActivity]: ...

    def __getitem__(self, index: int | slice) -> LayerActivity | list[LayerActivity]:
        if isinstance(index, slice):
            return [self[depth] for depth in range(*index.indices(len(self)))]
        depth = range(len(self))[index]
        if depth not in self._known:
            spikes = self._spikes[depth]
            # Whoever looks first may do so without gradients, and a later one with them.
            with torch.set_grad_enabled(spikes.requires_grad):
                count = spikes.sum(0).flatten(1)
            self._known[depth] = LayerActivity(count, first_spike_time(spikes).flatten(1))
        return self._known[depth]


class NetworkOutput(NamedTuple):
    """What a network returns for a batch.

    Attributes:
        readout: membrane of the readout ``[T, B, C]``, or its spikes if the decoder is ``first_spike``.
        activity: one entry per hidden layer.
    """

    readout: Tensor
    activity: Sequence[LayerActivity]


class SpikingNetwork(nn.Module):
    """Base of all networks: how neurons are made and what is reported of them.

    A subclass makes its synapses and its neurons (:meth:`make_hidden`, :meth:`make_readout`), and gives
    :attr:`layer_sizes`, :attr:`hidden_synapses`, :meth:`fan_out` and :meth:`forward`.

    Args:
        input_shape: shape of one step of one sample, such as ``[700]`` or ``[1, 28, 28]``.
        num_classes: ``C``, number of classes.
        step_ms: length of a time step in milliseconds; time constants follow it.
        neuron: ``single`` (fires at most once, the fast model), ``standard_single`` (the paper's sequential
            single-spike loop) or ``multi`` (snnTorch's ``Leaky``), all with the same parameters.
        estimator: gradient of the single spike: ``ramp`` (the paper), ``survival``, ``flat`` or ``masked``.
        surrogate: ``fast_sigmoid``, ``atan`` or ``triangle``.
        surrogate_slope: steepness of the surrogate at threshold.
        threshold: firing threshold.
        input_gain: the weights of the first layer start uniform within ``input_gain / sqrt(fan_in)``.
        hidden_gain: those of the hidden layers behind it within ``hidden_gain * threshold / sqrt(fan_in)``, so that a
            layer that hears at most one spike of each neuron still fires. 1 with a threshold of 1 is the paper's start,
            where later layers fall silent one after the other. The weights of the readout start within
            ``1 / sqrt(fan_in)``.
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

    Raises:
        ValueError: a word is unknown or a number is out of its range.

    Example:
        A network without a hidden layer, whose readout listens to the input.

        >>> import torch
        >>> class Linear(SpikingNetwork):
        ...     layer_sizes, hidden_synapses = [], []
        ...
        ...     def __init__(self, **options):
        ...         super().__init__(**options)
        ...         self.synapse = torch.nn.Linear(self.num_inputs, self.num_classes)
        ...         self.readout = self.make_readout()
        ...
        ...     def forward(self, spikes):
        ...         return NetworkOutput(self.readout(self.synapse(spikes)), [])
        ...
        ...     def fan_out(self):
        ...         return [torch.count_nonzero(self.synapse.weight, dim=0)]
        >>> network = Linear(input_shape=[4], num_classes=3, step_ms=1.0)
        >>> network(torch.zeros(10, 2, 4)).readout.shape
        torch.Size([10, 2, 3])
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
        input_gain: float = 1.0,
        hidden_gain: float = 4.0,
        tau_hidden_ms: float | list[float] = 10.0,
        tau_readout_ms: float | list[float] = 20.0,
        learn_beta: bool = True,
        log_tau: bool = False,
        learn_threshold: bool = False,
        decoder: DecoderName = "sum",
        weight_norm: bool = False,
        batch_norm: bool = False,
        dropout: float = 0.0,
        onset_ms: float = 0.0,
        onset_width_ms: float = 20.0,
    ) -> None:
        super().__init__()
        if (answer := renamed_value("neuron", neuron)) is not None:
            raise ValueError(answer)
        if neuron not in _NEURONS:
            raise ValueError(f"unknown neuron {neuron!r}; choose single, standard_single or multi")
        if not step_ms > 0:
            raise ValueError(f"step_ms must be positive, got {step_ms}")
        if num_classes < 1 or any(size < 1 for size in input_shape):
            raise ValueError(
                f"need at least one class and one input, got {num_classes} classes and inputs {tuple(input_shape)}"
            )
        for name, gain in (("input_gain", input_gain), ("hidden_gain", hidden_gain)):
            if not 0 < gain < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {gain}")
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
        self.input_gain = input_gain
        self.hidden_gain = hidden_gain
        self.tau_hidden_ms = tau_hidden_ms
        self.tau_readout_ms = tau_readout_ms
        self.learn_beta = learn_beta
        self.log_tau = log_tau
        self.learn_threshold = learn_threshold
        self.decoder = make_decoder(decoder)
        self.weight_norm = weight_norm
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.onset_ms = onset_ms
        self.onset_width_ms = onset_width_ms
        # In units of onset_ms, so that one learning rate suits words and single syllables.
        self.onsets = nn.ParameterList()
        # One for each hidden layer, or none.
        self.norms = nn.ModuleList()

    def plain_copy(self) -> SpikingNetwork:
        """A copy that computes the same with plain weights and decays, however they were learned."""
        copied = copy.deepcopy(self)
        for module in copied.modules():
            if is_parametrized(module):
                _remove_parametrizations(module)
        for layer, norm in zip(copied.hidden_synapses, copied.norms, strict=False):
            weight, bias = weights_with_norm(cast(nn.Linear, layer).weight, cast(nn.BatchNorm1d, norm))
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

        Returns:
            The readout over time and the activity of the hidden layers.

        Raises:
            ValueError: the batch has another number of input units, or no step.
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

    @property
    def fires_once(self) -> bool:
        """Whether every hidden neuron fires at most once in a sample."""
        return self.neuron != "multi"

    @property
    def weight_uses(self) -> int:
        """How often weights are used in one step whose inputs and neurons are all active: the size of a dense network.

        Here every weight counts once. A network that uses a weight in several places has its own count.
        """
        weights = [getattr(module, "weight", None) for module in self.modules()]
        return sum(weight.numel() for weight in weights if isinstance(weight, Tensor) and weight.dim() > 1)

    @property
    def fusion_obstacle(self) -> str | None:
        """Why events cannot pass through this network in one fused kernel, as a sentence; None if they can."""
        return f"{type(self).__name__} has no fused kernel."

    def fan_out(self) -> list[Tensor]:
        """Non-zero outgoing synapses of each input unit, then of each neuron of each hidden layer, ``[N]`` each."""
        raise NotImplementedError

    def make_hidden(self, shape: Sequence[int]) -> snn.Leaky:
        """A layer of hidden neurons with its own decay (and threshold, and onset) for every entry of ``shape``."""
        if self.onset_ms > 0:
            self.onsets.append(nn.Parameter(torch.rand(*shape)))
        return self._neuron(shape, self.tau_hidden_ms, self.neuron)

    def make_readout(self) -> snn.Leaky:
        """The readout: integrators that never fire, or neurons that fire once if the decoder reads spikes."""
        shape = (self.num_classes,)
        if self.decoder.readout_fires:
            return self._neuron(shape, self.tau_readout_ms, "single")
        beta = draw_decays(self.tau_readout_ms, self.step_ms, shape)
        readout = LeakyReadout(beta, learn_beta=self.learn_beta, init_hidden=True, sequence=True)
        return self._parametrised(readout)

    def _neuron(self, shape: Sequence[int], tau_ms: float | list[float], kind: NeuronKind) -> snn.Leaky:
        extra: dict[str, Any] = {"estimator": self.estimator} if kind == "single" else {}
        neuron = _NEURONS[kind](
            draw_decays(tau_ms, self.step_ms, shape),
            threshold=torch.full(tuple(shape), self.threshold),
            spike_grad=self.surrogate,
            init_hidden=True,
            learn_beta=self.learn_beta,
            learn_threshold=self.learn_threshold,
            sequence=True,
            **extra,
        )
        return self._parametrised(neuron)

    def _parametrised(self, neuron: snn.Leaky) -> snn.Leaky:
        """The neuron, its decay given by the logarithm of its time constant if that is wanted."""
        if self.log_tau and self.learn_beta:
            register_parametrization(neuron, "beta", LogTau(self.step_ms))
        return neuron

    def _initialise_all(self, layers: Sequence[nn.Module], weaker: Sequence[float] = ()) -> None:
        """Draw the weights of all layers of synapses, those of the readout last.

        Args:
            layers: from the input to the readout.
            weaker: by how much the spikes that reach each hidden layer are weaker than whole ones; empty for 1.
        """
        later = self.hidden_gain * self.threshold
        for depth, layer in enumerate(layers):
            if depth == len(layers) - 1:
                gain = 1.0
            elif depth == 0:
                gain = self.input_gain
            else:
                gain = later * (weaker[depth] if weaker else 1.0)
            init_uniform(cast(nn.Linear, layer), gain)
            if self.weight_norm:
                parametrizations.weight_norm(layer)

    def _add_norm(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        """Normalise the current of the next hidden layer."""
        nn.init.constant_(norm.weight, _NORM_GAIN * self.threshold)
        self.norms.append(norm)

    def _normalised(self, depth: int, current: Tensor) -> Tensor:
        """The current ``[T, B, ...]`` of a hidden layer, normalised over steps and samples."""
        if not self.norms:
            return current
        return self.norms[depth](current.flatten(0, 1)).unflatten(0, current.shape[:2])

    def _onset_current(self, depth: int, neuron: nn.Module, num_steps: int) -> Tensor | None:
        """The current ``[T, N]`` (``[T, N, 1, 1]`` of channels) that stands for the onsets of a hidden layer."""
        if not self.onset_ms:
            return None
        onset = self.onsets[depth] * (self.onset_ms / self.step_ms)
        rise = self.threshold * self.step_ms / self.onset_width_ms
        beta = cast(SingleSpikeLeaky, neuron).decay()
        current = threshold_current(raised_threshold(onset.flatten(), num_steps, rise), beta.flatten())
        return current.unflatten(1, onset.shape)

    def _hidden_spikes(self, depth: int, neuron: nn.Module, current: Tensor, num_steps: int | None = None) -> Tensor:
        """Spikes of a hidden layer for the current ``[T, B, ...]`` of its synapses.

        Args:
            depth: of the layer.
            neuron: its neurons.
            current: what comes in, ``[1, B, ...]`` if it is the same in all steps.
            num_steps: ``T``; None for the length of ``current``.
        """
        current = self._normalised(depth, current)
        if num_steps is not None and len(current) < num_steps:
            # Channels last, as they lie in memory, so that the gradient, a sum over the steps, lies so too: batch norm
            # takes nine times as long where its input and its gradient differ in that.
            last = current.movedim(2, -1)
            current = last.expand(num_steps, *[-1] * (last.dim() - 1)).movedim(-1, 2)
        onset = self._onset_current(depth, neuron, len(current))
        current = _in_precision_of(neuron, current)
        return self._dropped(neuron(current if onset is None else current + onset[:, None]))

    def _layer_by_layer(
        self, spikes: Spikes, stages: Sequence[Stage], synapse: nn.Module, skip: bool = False
    ) -> NetworkOutput:
        """The output by way of the spikes ``[T, B, ...]`` of every hidden layer.

        Args:
            spikes: input of the first stage.
            stages: hidden layers.
            synapse: in front of the readout.
            skip: see :func:`ss_lightning.functional.network.run_layers`.
        """
        heard, layers = run_layers(spikes, stages, skip=skip)
        readout = self.readout(_in_precision_of(self.readout, synapse(heard)))
        return NetworkOutput(readout, ActivityOnDemand(layers))

    @property
    def _is_dropping(self) -> bool:
        return self.training and self.dropout > 0

    def _keep(self, like: Tensor) -> Tensor | None:
        """Which neurons take part in which sample, bool, shaped and laid out like ``[B, ...]``; None for all."""
        if not self._is_dropping:
            return None
        return torch.rand_like(like, dtype=torch.get_default_dtype()) >= self.dropout

    def _dropped(self, spikes: Tensor) -> Tensor:
        """Spikes ``[T, B, ...]`` without those of the neurons that are left out."""
        keep = self._keep(spikes[0])
        return spikes if keep is None else spikes * keep.to(spikes.dtype)  # products of mixed dtypes are slow

    def _rescaled(self, tensor: Tensor) -> Tensor:
        """Spikes of hidden neurons, or the weights that meet them, stronger while some of the neurons are left out."""
        return tensor / (1 - self.dropout) if self._is_dropping else tensor

    def _check_input(self, spikes: Spikes) -> None:
        units = spikes.num_units if isinstance(spikes, EventBatch) else math.prod(spikes.shape[2:])
        if units != self.num_inputs:
            raise ValueError(
                f"the network takes {self.num_inputs} input units {self.input_shape}, the batch has {units}"
            )
        if not isinstance(spikes, EventBatch) and len(spikes) < 1:
            raise ValueError(f"the input must be time-major [T, B, N] with T >= 1, got {tuple(spikes.shape)}")


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


def synapses_per_input(layer: nn.Module) -> Tensor:
    """How many outputs each input reaches through a non-zero weight, ``[N_in]``."""
    return torch.count_nonzero(cast(Tensor, layer.weight), dim=0)


def _remove_parametrizations(module: nn.Module) -> None:
    """Put values in the place of parametrisations.

    Not with torch's ``remove_parametrizations``: that changes the class, which a copy shares with its original.
    """
    values = {name: getattr(module, name).detach().clone() for name in cast(nn.ModuleDict, module.parametrizations)}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def weights_with_norm(weight: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
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
