"""A whole single-spike network on events: the differentiable unit that the fused kernels work on.

A layer that returned spike times alone could receive no gradient at the steps where it did not fire, and a layer
that returned spikes would put ``[T, B, N]`` into memory. So the unit is the network: events in, readout membrane out.

For every hidden layer ``V[t] = beta * V[t-1] + W s[t] + b[t]``, one spike at the first ``V[t] > threshold``; the
readout is the same leaky integrator without a threshold. A bias that changes over time says whatever is the same for
all samples, such as a threshold that falls (:func:`ss_lightning.functional.onset.raised_threshold`).

Source of the model and of the ramp estimator: Taylor, King & Harper, arXiv:2205.15286.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ss_lightning.events import EventBatch
from ss_lightning.functional.backends import choose_backend
from ss_lightning.functional.first_spike import check_estimator, first_spike_time
from ss_lightning.functional.input_synapse import choose_synapse
from ss_lightning.functional.kernels.common import LayerTensors
from ss_lightning.functional.scan import as_like, leaky_scan, leaky_scan_reference
from ss_lightning.functional.single_spike import SpikeGrad, check_beta, single_spike, single_spike_reference
from ss_lightning.functional.synapse import event_linear, event_linear_reference
from ss_lightning.surrogate import FastSigmoid, Surrogate


class SpikingLayer(NamedTuple):
    """A fully connected layer of neurons that fire at most once.

    Attributes:
        weight: ``[N_out, N_in]``.
        bias: ``[N_out]``, or ``[T, N_out]`` for one that changes over time, or None.
        beta: decay per step in ``[0, 1]``, ``[N_out]`` or 0-d.
        threshold: ``[N_out]`` or 0-d.
        keep: bool ``[B, N_out]`` or None: where it is false, the neuron is left out of that sample (dropout): it
            neither fires nor learns from it.
    """

    weight: Tensor
    bias: Tensor | None
    beta: Tensor
    threshold: Tensor
    keep: Tensor | None = None


class NetworkSpikes(NamedTuple):
    """What :func:`event_network` returns.

    Attributes:
        membrane: of the readout, ``[T, B, C]``, differentiable in every weight, bias, beta and threshold.
        times: first spike times of every hidden layer, int64 ``[B, N]`` each (``T`` for a silent neuron), not
            differentiable.
        counts: spikes of every neuron, 0 or 1, ``[B, N]`` each, differentiable like the membrane.
    """

    membrane: Tensor
    times: list[Tensor]
    counts: list[Tensor]


class ReadoutLayer(NamedTuple):
    """Leaky integrators that never fire, one for each class.

    Attributes:
        weight: ``[C, N_in]``.
        bias: ``[C]`` or None.
        beta: decay per step in ``[0, 1]``, ``[C]`` or 0-d.
    """

    weight: Tensor
    bias: Tensor | None
    beta: Tensor


def event_network_reference(
    events: EventBatch,
    hidden: Sequence[SpikingLayer],
    readout: ReadoutLayer,
    *,
    surrogate: SpikeGrad = FastSigmoid(10),
    estimator: str = "ramp",
    skip: bool = False,
) -> NetworkSpikes:
    """:func:`event_network` as plain autograd, one step at a time."""
    check_network(events, hidden, readout, skip)
    functions = _Functions(event_linear_reference, single_spike_reference, leaky_scan_reference)
    return _composed_network(events, hidden, readout, surrogate, estimator, skip, functions)


def _with_bias(current: Tensor, bias: Tensor | None) -> Tensor:
    """``[T, B, N]`` plus a bias ``[N]`` or ``[T, N]``."""
    if bias is None:
        return current
    return current + (bias[:, None] if bias.dim() == 2 else bias)


def event_network(
    events: EventBatch,
    hidden: Sequence[SpikingLayer],
    readout: ReadoutLayer,
    *,
    surrogate: SpikeGrad = FastSigmoid(10),
    estimator: str = "ramp",
    skip: bool = False,
    backend: str = "auto",
) -> NetworkSpikes:
    """A network of neurons that fire at most once, from input events to the membrane of its readout.

    Args:
        events: input spikes of ``T`` steps, ``B`` samples and ``N_in`` units.
        hidden: one or more spiking layers, from the input upwards.
        readout: the last layer, which never fires.
        surrogate: derivative of a crossing, an object of :mod:`ss_lightning.surrogate` or (on the ``torch`` backend)
            any elementwise ``spike_grad`` of snnTorch.
        estimator: ``ramp`` (the paper), ``survival``, ``flat`` or ``masked``, see
            :mod:`ss_lightning.functional.first_spike`.
        skip: every layer after the first, the readout included, listens to ALL hidden layers before it, in order
            (weight ``[N_out, N_1 + ... + N_l]``), instead of only the one before.
        backend: ``torch`` (always works), ``numba`` (CPU), ``triton`` (CUDA), or ``auto``: the fused kernels of the
            device where they know the surrogate and dtype, else ``torch``. On CUDA ``dense`` and ``dense_bf16`` take
            matrix products for the input layer, which ``auto`` does for dense input, see
            :mod:`ss_lightning.functional.input_synapse`.

    Returns:
        Membrane of the readout (a view, contiguous per sample), first spike times and spike counts.

    Raises:
        ValueError: the shapes do not fit, a beta lies outside ``[0, 1]``, the estimator or backend is unknown, or
            the backend asked for cannot do the job.

    Example:
        One input unit fires in steps 0 and 2. The hidden neuron crosses its threshold at the second event, and the
        readout integrates that one spike.

        >>> import torch
        >>> from ss_lightning import EventBatch
        >>> events = EventBatch.from_dense(torch.tensor([1, 0, 1, 0]).reshape(4, 1, 1))
        >>> one, weight = torch.tensor(1.0), torch.full((1, 1), 0.8)
        >>> hidden = SpikingLayer(weight, bias=None, beta=one, threshold=one)
        >>> membrane, times, counts = event_network(events, [hidden], ReadoutLayer(weight, bias=None, beta=one))
        >>> times
        [tensor([[2]])]
        >>> membrane.flatten()
        tensor([0.0000, 0.0000, 0.8000, 0.8000])
    """
    check_network(events, hidden, readout, skip)
    check_estimator(estimator)
    kernels = choose_backend(backend, events.device, readout.weight.dtype, surrogate)
    if kernels is None:
        inner = "torch" if backend == "torch" else "auto"
        functions = _Functions(event_linear, partial(single_spike, backend=inner), partial(leaky_scan, backend=inner))
        return _composed_network(events, hidden, readout, surrogate, estimator, skip, functions)
    assert isinstance(surrogate, Surrogate)
    synapse = choose_synapse(backend, events, hidden[0].weight)
    setup = _Setup(kernels, events, surrogate, estimator, skip, [layer.keep for layer in hidden], synapse)
    tensors: list[Tensor | None] = []
    for layer in hidden:
        weight, bias, beta, threshold, _ = layer
        tensors += [weight, bias, _per_neuron(beta, weight), _per_neuron(threshold, weight)]
    weight, bias, beta = readout
    tensors += [weight, bias, _per_neuron(beta, weight), None]
    membrane, *times_and_counts = _EventNetwork.apply(setup, *tensors)
    depth = len(hidden)
    return NetworkSpikes(membrane.transpose(0, 1), times_and_counts[:depth], times_and_counts[depth:])


def check_network(events: EventBatch, hidden: Sequence[SpikingLayer], readout: ReadoutLayer, skip: bool) -> None:
    """Refuse shapes and values that would give a silently wrong answer or read beyond a tensor."""
    if not hidden:
        raise ValueError("a network needs at least one hidden layer, got none")
    if events.num_steps < 1:
        raise ValueError(f"events must span at least one step, got {events.num_steps}")
    inputs, size = events.num_units, 0
    layers: list[SpikingLayer | ReadoutLayer] = [*hidden, readout]
    for i, layer in enumerate(layers):
        name = "readout" if layer is readout else f"hidden layer {i}"
        if layer.weight.dim() != 2 or layer.weight.shape[1] != inputs:
            raise ValueError(
                f"{name}: weight must be [{len(layer.weight)}, {inputs}] to fit what it listens to "
                f"(skip={skip}), got {list(layer.weight.shape)}"
            )
        for field, value in layer._asdict().items():
            if not isinstance(value, Tensor):
                continue
            if field == "keep":
                _check_keep(name, value, events, len(layer.weight))
                continue
            if value.dtype != readout.weight.dtype or value.device != events.device:
                raise ValueError(
                    f"{name}: {field} is {value.dtype} on {value.device}, but the events are on {events.device} "
                    f"and the readout's weight is {readout.weight.dtype}; move or convert it"
                )
            shapes = [[len(layer.weight)]] + ([[]] if field in ("beta", "threshold") else [])
            if field == "bias" and layer is not readout:
                shapes.append([events.num_steps, len(layer.weight)])
            if field != "weight" and list(value.shape) not in shapes:
                raise ValueError(
                    f"{name}: {field} must have the shape {' or '.join(map(str, shapes))}, got {list(value.shape)}"
                )
        check_beta(layer.beta)
        size = size + len(layer.weight) if skip else len(layer.weight)
        inputs = size


def _check_keep(name: str, keep: Tensor, events: EventBatch, size: int) -> None:
    expected = [events.batch_size, size]
    if keep.dtype != torch.bool or list(keep.shape) != expected or keep.device != events.device:
        raise ValueError(
            f"{name}: keep must be bool {expected} on {events.device}, got {keep.dtype} {list(keep.shape)} on "
            f"{keep.device}"
        )


class Stage(NamedTuple):
    """A hidden layer as the functions that its signals pass through.

    Attributes:
        synapse: from what the layer listens to, to its input current ``[T, B, ...]``.
        neuron: from the current to the spikes ``[T, B, ...]``: normalisation, onset, neuron and dropout.
        output: from the spikes to what later layers listen to, such as pooling; None if they listen to the spikes.
    """

    synapse: Callable[[Any], Tensor]
    neuron: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor] | None = None


def run_layers(
    spikes: EventBatch | Tensor, stages: Sequence[Stage], *, skip: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Pass input spikes through hidden layers, one layer at a time.

    Args:
        spikes: input of the first stage.
        stages: hidden layers from the input upwards, at least one.
        skip: every stage after the first, and whatever comes after the last one, listens to ALL stages before it, in
            order, instead of only the one before.

    Returns:
        What a readout listens to, ``[T, B, ...]``, and the spikes of every hidden layer, ``[T, B, ...]`` each.
    """
    heard: EventBatch | Tensor = spikes
    fired: list[Tensor] = []
    sent: list[Tensor] = []
    for stage in stages:
        fired.append(stage.neuron(stage.synapse(heard)))
        sent.append(fired[-1] if stage.output is None else stage.output(fired[-1]))
        heard = torch.cat(sent, -1) if skip else sent[-1]
    assert isinstance(heard, Tensor)
    return heard, fired


class _Functions(NamedTuple):
    """The functions that a network is composed of: the fast ones of this package, or their references."""

    event_linear: Callable[[EventBatch, Tensor], Tensor]
    single_spike: Callable[..., Tensor]
    leaky_scan: Callable[[Tensor, Tensor], Tensor]


def _composed_network(
    events: EventBatch,
    hidden: Sequence[SpikingLayer],
    readout: ReadoutLayer,
    surrogate: SpikeGrad,
    estimator: str,
    skip: bool,
    functions: _Functions,
) -> NetworkSpikes:
    """:func:`event_network` composed of functions for its parts, on dense spikes between the layers."""

    def stage(depth: int, layer: SpikingLayer) -> Stage:
        def synapse(spikes: Any) -> Tensor:
            linear = F.linear if depth else functions.event_linear
            return _with_bias(linear(spikes, layer.weight), layer.bias)

        def neuron(current: Tensor) -> Tensor:
            fired = functions.single_spike(
                current, layer.beta, layer.threshold, surrogate=surrogate, estimator=estimator
            )
            return fired if layer.keep is None else fired * layer.keep

        return Stage(synapse, neuron)

    last, spikes = run_layers(events, [stage(depth, layer) for depth, layer in enumerate(hidden)], skip=skip)
    membrane = functions.leaky_scan(F.linear(last, readout.weight, readout.bias), readout.beta)
    return NetworkSpikes(membrane, [first_spike_time(s) for s in spikes], [s.sum(0) for s in spikes])


class _Setup(NamedTuple):
    """What the network is made of besides tensors that learn."""

    kernels: ModuleType
    events: EventBatch
    surrogate: Surrogate
    estimator: str
    skip: bool
    keep: list[Tensor | None]
    synapse: str


class _EventNetwork(torch.autograd.Function):
    """Both passes in the kernels. Saves the parameters, the spike times and the output: nothing ``[T, B, N]``."""

    @staticmethod
    def forward(ctx: Any, setup: _Setup, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        *hidden, readout = _layers(tensors)
        # The processor's kernels know events only.
        way = {} if setup.synapse == "events" else {"synapse": setup.synapse}
        membrane, times, ctx.prepared = setup.kernels.network_forward(
            setup.events, hidden, readout, setup.skip, setup.keep, **way
        )
        ctx.setup = setup
        ctx.num_tensors = len(tensors)
        ctx.save_for_backward(*tensors, membrane, *times)
        num_steps = setup.events.num_steps
        long_times = [torch.where(time < 0, num_steps, time).long() for time in times]
        ctx.mark_non_differentiable(*long_times)
        ctx.set_materialize_grads(False)
        return membrane, *long_times, *((time < num_steps).to(membrane.dtype) for time in long_times)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, (membrane, *times) = (
            ctx.saved_tensors[: ctx.num_tensors],
            ctx.saved_tensors[ctx.num_tensors :],
        )
        *hidden, readout = _layers(tensors)
        setup: _Setup = ctx.setup
        grads = setup.kernels.network_backward(
            ctx.prepared,
            hidden,
            readout,
            setup.skip,
            setup.surrogate,
            setup.estimator,
            times,
            membrane.detach(),
            torch.zeros_like(membrane) if grad is None else grad.contiguous(),
            [None if count is None else count.contiguous() for count in others[len(hidden) :]],
            _layers(ctx.needs_input_grad[1:]),
        )
        return None, *(value for layer in grads for value in layer)


def _layers(tensors: Sequence[Any]) -> list[LayerTensors]:
    """The flat list of an autograd function, four for each layer, as layers."""
    return [LayerTensors(*tensors[i : i + 4]) for i in range(0, len(tensors), 4)]


def _per_neuron(value: Tensor | float, weight: Tensor) -> Tensor:
    """``[N_out]`` from a number, a 0-d tensor or one that has that shape already."""
    return as_like(value, weight).expand(len(weight))
