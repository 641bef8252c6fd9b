"""What a network consists of, in order, and what the file must say of it for the way back to be exact."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import snntorch as snn
import torch
from torch import Tensor, nn

from ss_lightning._version import __version__
from ss_lightning.errors import UsageError
from ss_lightning.module import SpikingClassifier
from ss_lightning.networks import MLP, ConvNet, SpikingNetwork
from ss_lightning.neurons import (
    LeakyReadout,
    MultiSpikeLeaky,
    SingleSpikeLeaky,
    SingleSpikeSynaptic,
    StandardSingleSpikeLeaky,
)
from ss_lightning.surrogate import Surrogate

# Key of our own description in the metadata of the graph.
KEY = "ss_lightning"
# A decay of 1 would need an infinite tau; with this many steps, 1 - dt / tau rounds to 1 in float32.
LONGEST_TAU = 2.0**25

# Whose equations the numbers of a file are for.
Reader = Literal["nir", "sinabs", "snntorch"]

NEURONS: dict[str, type[snn.SpikingNeuron]] = {
    "SingleSpikeLeaky": SingleSpikeLeaky,
    "StandardSingleSpikeLeaky": StandardSingleSpikeLeaky,
    "MultiSpikeLeaky": MultiSpikeLeaky,
    "Leaky": snn.Leaky,
    "LeakyReadout": LeakyReadout,
    "SingleSpikeSynaptic": SingleSpikeSynaptic,
    "Synaptic": snn.Synaptic,
}
PLAIN: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "Conv2d": (nn.Conv2d, ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")),
    "MaxPool2d": (nn.MaxPool2d, ("kernel_size", "stride")),
    "AvgPool2d": (nn.AvgPool2d, ("kernel_size", "stride")),
    "Flatten": (nn.Flatten, ()),
}


class ExportWarning(UserWarning):
    """Something that a file cannot say to every reader."""


class Layer(NamedTuple):
    """A module of the network, by its name in it, and how many units it listens to of each layer of neurons before."""

    name: str
    module: nn.Module
    listens: Sequence[int] = ()


def import_nir() -> Any:
    """The package ``nir``, which is an extra."""
    try:
        return import_module("nir")
    except ImportError as error:
        raise UsageError('NIR files need the package nir: pip install "ss-lightning[nir]"') from error


def array(value: Tensor) -> np.ndarray:
    """A parameter as NIR stores it."""
    if value.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"NIR holds float32 and float64, the network is {value.dtype}; convert it: network.float()")
    return value.detach().cpu().contiguous().numpy().copy()


class Leak(NamedTuple):
    """A leaky integrator as a file holds it.

    Attributes:
        tau: time constant, in seconds (in steps for sinabs).
        r: resistance.
        gain: the reader computes ``V[t] = beta V[t-1] + gain I[t]``; float64.
    """

    tau: np.ndarray
    r: np.ndarray
    gain: Tensor


def check_reader(reader: str, self_inhibiting: bool) -> None:
    """Refuse a reader that nobody knows, and what it cannot do."""
    if reader not in get_args(Reader):
        raise UsageError(f"unknown reader {reader!r}; choose {', '.join(get_args(Reader))}")
    if reader == "sinabs" and self_inhibiting:
        raise UsageError(
            "self_inhibiting: sinabs runs each layer over all steps at once, so that nothing can come back a step "
            "later. Set spike_fn and reset_fn of its layers instead, see docs/export.md"
        )


def leak_of(beta: Tensor, dt: float, reader: Reader) -> Leak:
    """How a file says a decay per step in ``[0, 1]``, shaped like the neurons.

    ``nir``: ``tau dV/dt = r I - V`` in Euler steps, ``tau = dt / (1 - beta)``, at most ``2^25 dt`` (where ``beta`` is
    1); with ``r = 1`` the input arrives multiplied by ``1 - beta``. ``snntorch``: ``r = tau / dt`` makes up for it.
    ``sinabs``: ``V = exp(-1 / tau) V + I``.
    """
    beta = beta.detach().cpu()
    if reader == "sinabs":
        tau = array((-1 / beta.double().log()).abs().to(beta.dtype))  # infinite where nothing leaks
        return Leak(tau, np.ones_like(tau), torch.ones(beta.shape, dtype=torch.float64))
    tau = array((dt / (1 - beta.double()).clamp(min=1 / LONGEST_TAU)).to(beta.dtype))
    gain = dt / torch.from_numpy(tau).double()
    if reader == "snntorch":
        return Leak(tau, tau / dt, torch.ones_like(gain))
    return Leak(tau, np.ones_like(tau), gain)


def fires_once(module: nn.Module) -> bool:
    """Whether the module is a layer of neurons with the single-spike rule."""
    return isinstance(module, SingleSpikeLeaky | StandardSingleSpikeLeaky | SingleSpikeSynaptic)


def describe(
    network: nn.Module, sample_shape: Sequence[int] | None
) -> tuple[list[Layer], tuple[int, ...], dict[str, Any]]:
    """Layers in order, shape of the input, and what the reader needs to build the same network."""
    about: dict[str, Any] = {"version": __version__, "network": type(network).__name__}
    if type(network) is nn.Sequential:
        if sample_shape is None:
            raise UsageError(
                "sample_shape: nn.Sequential does not know its input; give the shape of one sample, (700,)"
            )
        layers = [Layer(name, module) for name, module in network.named_children()]
        about["layers"] = [_layer_arguments(layer) for layer in layers]
        return layers, tuple(sample_shape), about
    if sample_shape is not None:
        raise UsageError(f"sample_shape is for nn.Sequential only: {type(network).__name__} knows its input")
    if type(network) is MLP:
        if network.max_delay_ms or any(network.delay_line):
            raise UsageError(
                "cannot write the network: its delays (max_delay_ms, delay_line_ms) have no place in NIR. A program of "
                "torch.export or ONNX has them: --format torch, --format onnx"
            )
        about["arguments"] = _common_arguments(network) | {
            "hidden": network.layer_sizes,
            "skip": network.skip,
            "bias": network.synapses[0].bias is not None,
            "delay_line_ms": list(network.delay_line_ms),
            "max_delay_ms": network.max_delay_ms,
            "delay_per_synapse": network.delay_per_synapse,
            "delay_width_ms": network.delay_width_ms,
            "backend": network.backend,
        }
        return list(_mlp_layers(network)), (network.num_inputs,), about
    if type(network) is ConvNet:
        convolutions = cast(list[nn.Conv2d], list(network.convolutions))
        about["arguments"] = _common_arguments(network) | {
            "channels": [c.out_channels for c in convolutions],
            "kernel_size": convolutions[0].kernel_size[0],
            "padding": network.padding,
            "pool_size": network.pool_sizes,
            "pool": network.pool,
            "hidden": [cast(nn.Linear, s).out_features for s in list(network.synapses)[:-1]],
        }
        return list(_conv_layers(network)), network.input_shape, about
    hint = "; give its .network" if isinstance(network, SpikingClassifier) else ""
    raise UsageError(f"cannot write {type(network).__name__}: need an MLP, a ConvNet or an nn.Sequential{hint}")


def _common_arguments(network: SpikingNetwork) -> dict[str, Any]:
    return {
        "input_shape": list(network.input_shape),
        "num_classes": network.num_classes,
        "step_ms": network.step_ms,
        "neuron": network.neuron,
        "estimator": network.estimator,
        "surrogate": network.surrogate.kind,
        "surrogate_slope": network.surrogate.slope,
        "threshold": network.threshold,
        "tau_hidden_ms": network.tau_hidden_ms,
        "tau_readout_ms": network.tau_readout_ms,
        "learn_beta": network.learn_beta,
        "learn_threshold": network.learn_threshold,
        "log_tau": network.log_tau,
        "decoder": network.decoder.name,
        "weight_norm": network.weight_norm,
        "batch_norm": network.batch_norm,
        "dropout": network.dropout,
        "onset_ms": network.onset_ms,
        "onset_width_ms": network.onset_width_ms,
    }


def _mlp_layers(network: MLP) -> Iterator[Layer]:
    sizes = network.layer_sizes
    for depth, synapse in enumerate(network.synapses):
        yield Layer(f"synapses.{depth}", synapse, sizes[:depth] if network.skip else ())
        if depth < len(sizes):
            yield Layer(f"neurons.{depth}", network.neurons[depth])
    yield Layer("readout", network.readout)


def _conv_layers(network: ConvNet) -> Iterator[Layer]:
    stages = zip(network.convolutions, network.conv_neurons, network.pools, strict=True)
    for depth, (convolution, neurons, pool) in enumerate(stages):
        yield Layer(f"convolutions.{depth}", convolution)
        yield Layer(f"conv_neurons.{depth}", neurons)
        if network.pool_sizes[depth] > 1:
            yield Layer(f"pool_{depth}", pool)
    yield Layer("flatten", nn.Flatten())
    for depth, synapse in enumerate(network.synapses):
        yield Layer(f"synapses.{depth}", synapse)
        if depth < len(network.neurons):
            yield Layer(f"neurons.{depth}", network.neurons[depth])
    yield Layer("readout", network.readout)


def _layer_arguments(layer: Layer) -> dict[str, Any]:
    """Class and constructor arguments of a module of an ``nn.Sequential``."""
    module, name = layer.module, type(layer.module).__name__
    if type(module) in NEURONS.values():
        return {"class": name, "arguments": _neuron_arguments(cast(snn.Leaky | snn.Synaptic, module))}
    if name not in PLAIN or type(module) is not PLAIN[name][0]:
        raise UsageError(
            f"layer {layer.name} of the nn.Sequential is a {name}, which cannot be written; known are "
            f"{', '.join([*PLAIN, *NEURONS])}"
        )
    arguments = {key: getattr(module, key) for key in PLAIN[name][1]}
    if isinstance(module, nn.Linear | nn.Conv2d):
        arguments["bias"] = module.bias is not None
    return {"class": name, "arguments": arguments}


def _neuron_arguments(neuron: snn.Leaky | snn.Synaptic) -> dict[str, Any]:
    arguments = {
        "init_hidden": neuron.init_hidden,
        "learn_beta": isinstance(neuron.beta, nn.Parameter),
        "sequence": getattr(neuron, "sequence", None),
    }
    if isinstance(neuron, snn.Synaptic):
        arguments["learn_alpha"] = isinstance(neuron.alpha, nn.Parameter)
    if isinstance(neuron, LeakyReadout):
        return arguments
    surrogate = neuron.spike_grad if isinstance(neuron.spike_grad, Surrogate) else None
    if surrogate is None and type(neuron) not in (snn.Leaky, snn.Synaptic) and not neuron.surrogate_disable:
        warnings.warn(
            "only the surrogates of ss_lightning.surrogate can be written: the spike_grad of the network is left out, "
            "from_nir takes the default",
            ExportWarning,
            stacklevel=6,
        )
    return arguments | {
        "output": neuron.output,
        "learn_threshold": isinstance(neuron.threshold, nn.Parameter),
        "surrogate": None if surrogate is None else [surrogate.kind, surrogate.slope],
        "surrogate_disable": neuron.surrogate_disable,
        "reset_mechanism": neuron.reset_mechanism,
        "reset_delay": neuron.reset_delay,
        "estimator": getattr(neuron, "estimator", None),
    }


def neuron_metadata(name: str, neuron: snn.Leaky | snn.Synaptic) -> dict[str, Any]:
    """What a NIR node cannot say about a neuron; decay and threshold as they are, before clamping and scaling."""
    metadata: dict[str, Any] = {
        "module": name,
        "neuron": type(neuron).__name__,
        "beta": array(neuron.beta)[()],
    }
    if isinstance(neuron, LeakyReadout):
        return metadata
    if isinstance(neuron, snn.Synaptic):
        metadata["alpha"] = array(neuron.alpha)[()]
    metadata |= {"threshold": array(neuron.threshold)[()], "fires_once": fires_once(neuron)}
    if isinstance(neuron, SingleSpikeLeaky | SingleSpikeSynaptic):
        metadata["estimator"] = neuron.estimator
    return metadata


def check_plain(network: nn.Module, layers: list[Layer]) -> None:
    """Refuse what would be lost without a word."""
    for name, module, _ in layers:
        if isinstance(module, snn.Leaky | snn.Synaptic):
            special = [word for word in ("state_quant", "inhibition") if getattr(module, word)]
            if bool((module.graded_spikes_factor != 1).any()):
                special.append("graded_spikes_factor")
            if special:
                raise UsageError(f"{name}: NIR has no {', '.join(special)}; set it to its default before writing")
    written = {id(p) for layer in layers for p in layer.module.parameters()}
    lost = [name for name, parameter in network.named_parameters() if id(parameter) not in written]
    if lost:
        raise UsageError(f"cannot write the network: it has parameters that NIR has no place for, {', '.join(lost)}")
