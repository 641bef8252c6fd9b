"""Trained networks for other tools: NIR files for simulators and neuromorphic chips, ``torch.export`` programs.

NIR (Neuromorphic Intermediate Representation, Pedersen et al., doi 10.1038/s41467-024-52259-9) describes neurons in
continuous time. The mapping is snnTorch's: a decay ``beta`` per step of ``dt`` seconds is ``tau = dt / (1 - beta)`` and
``r = tau / dt``, for then one Euler step of ``tau dV/dt = r I - V`` is exactly ``V[t] = beta * V[t-1] + I[t]``.

NIR has no neuron that fires once. Such a neuron is written as a plain ``LIF`` whose metadata say so, together with
everything that makes the way back exact; :func:`from_nir` honours them, other readers see an ordinary ``LIF``. For them
there is a form that inhibits itself, see :func:`to_nir`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import snntorch as snn
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from ss_lightning._version import __version__
from ss_lightning.errors import DataError, UsageError
from ss_lightning.module import ConvClassifier, MLPClassifier, SpikingClassifier
from ss_lightning.networks import MLP, ConvNet, SpikingNetwork
from ss_lightning.neurons import LeakyReadout, MultiSpikeLeaky, SingleSpikeLeaky, StandardSingleSpikeLeaky
from ss_lightning.runs import config_beside, shown
from ss_lightning.surrogate import Surrogate, make_surrogate
from ss_lightning.usage import parse

# The step that snnTorch and most NIR readers assume, in seconds.
NIR_STEP = 1e-4
# A decay of 1 would need an infinite tau; with this many steps, 1 - dt / tau rounds to 1 in float32.
LONGEST_TAU = 2.0**25
# Key of our metadata.
_KEY = "ss_lightning"


class ExportWarning(UserWarning):
    """Something that a file cannot say to every reader."""


# NIR: writing ---------------------------------------------------------------------------------------------------------


def to_nir(
    network: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    sample_shape: Sequence[int] | None = None,
    dt: float = NIR_STEP,
    self_inhibiting: bool = False,
    inhibition: float = 1e30,
    num_steps: int | None = None,
) -> Any:
    """Write a network as a NIR graph.

    Args:
        network: an :class:`~ss_lightning.MLP` (skip connections included), a :class:`~ss_lightning.ConvNet`, or an
            ``nn.Sequential`` of ``Linear``, ``Conv2d``, ``MaxPool2d``, ``AvgPool2d``, ``Flatten``, ``snn.Leaky`` and
            what stands for it in this package.
        path: the ``.nir`` file to write; None writes none.
        sample_shape: shape of one step of one sample without the batch, such as ``(700,)``; for ``nn.Sequential`` only.
        dt: seconds that one step lasts for the reader. The default is what snnTorch assumes; the network's own
            ``step_ms`` stands in the metadata.
        self_inhibiting: every neuron that fires once also gets a recurrent connection to itself, which pulls its
            membrane down by ``inhibition`` in the step after its spike. A plain LIF simulator then keeps it silent
            for a number of steps, the horizon: see :func:`inhibition_horizon`. The smallest of them stands in the
            metadata as ``horizon_steps``. It holds where input units give at most one spike per step, recurrent
            connections take one step, and a spike resets the membrane to ``v_reset`` (zero).
        inhibition: how far the membrane is pulled down. The horizon grows with its logarithm; the default is near
            the end of float32.
        num_steps: length of a sample, to warn of a horizon that is too short for it.

    Returns:
        The ``nir.NIRGraph``.

    Raises:
        UsageError: ``nir`` is not installed, the network holds something that NIR cannot say, or an argument does not
            fit it.

    Max pooling, which NIR lacks, is written as a sum pool and a threshold of 1/2: the same for spikes.
    """
    nir = _import_nir()
    layers, shape, about = _describe(network, sample_shape)
    _check_plain(network, layers)
    writer = _Writer(nir, dt, inhibition if self_inhibiting else None, shape)
    for layer in layers:
        writer.add(layer)
    fires_once = any(_fires_once(layer.module) for layer in layers)
    if self_inhibiting and not fires_once:
        raise UsageError("self_inhibiting: the network has no neuron that fires once")
    if self_inhibiting and num_steps is not None and writer.horizon < num_steps - 1:
        warnings.warn(
            f"a plain LIF simulator keeps neurons silent for {writer.horizon:.0f} steps after their spike, fewer than "
            f"the {num_steps} steps of a sample: some may fire again",
            ExportWarning,
            stacklevel=2,
        )
    elif fires_once and not self_inhibiting:
        warnings.warn(
            "NIR has no neuron that fires once: ss_lightning.export.from_nir restores the rule, other readers lose it. "
            "self_inhibiting=True writes a form for plain LIF simulators",
            ExportWarning,
            stacklevel=2,
        )
    graph = writer.graph({_KEY: json.dumps(about), "dt": dt, **_readable(about)})
    if path is not None:
        _write_whole(Path(path), lambda part: nir.write(part, graph))
    return graph


def inhibition_horizon(beta: Tensor, threshold: Tensor, per_step: Tensor, once: Tensor, inhibition: float) -> Tensor:
    """Steps for which a neuron that inhibited itself is certain to stay silent.

    ``k`` steps after a spike that reset the membrane to zero and started an inhibition ``W``, the membrane is at most
    ``once + per_step * (1 - beta^k) / (1 - beta) - W * beta^(k-1)``, which grows with ``k``. The horizon is the last
    ``k`` at which this does not exceed the threshold.

    Args:
        beta: decay per step in ``[0, 1]``, ``[N]``.
        threshold: firing threshold, ``[N]``.
        per_step: the largest current that can arrive in every step, ``[N]``.
        once: the largest sum of currents that can arrive once per sample in addition, ``[N]``.
        inhibition: ``W``. Half of it is counted on: the other half is a margin for rounding.

    Returns:
        float64 ``[N]``; infinite for neurons that can never reach their threshold again.
    """
    beta, threshold, per_step, once = (x.double() for x in (beta, threshold, per_step.clamp(min=0), once))
    pull = inhibition / 2
    rest = 1 - beta
    # Where beta is 1 the sum over steps is k itself.
    endless = torch.floor((threshold + pull - once) / per_step)
    excess = once + per_step / rest - threshold
    fading = 1 + torch.floor(torch.log(excess / (pull + beta * per_step / rest)) / torch.log(beta.clamp(min=1e-300)))
    steps = torch.where(rest == 0, endless, fading).clamp(min=0)
    never = torch.where(rest == 0, (per_step == 0) & (once - pull <= threshold), excess <= 0)
    return steps.masked_fill(never, math.inf)


class _Layer(NamedTuple):
    """A module of the network, by its name in it, and how many units it listens to of each layer of neurons before."""

    name: str
    module: nn.Module
    listens: Sequence[int] = ()


class _Drive(NamedTuple):
    """Upper bounds of a current: what can arrive in every step, and once per sample in addition; ``[N]`` each."""

    per_step: Tensor
    once: Tensor


class _Writer:
    """Grows a graph layer by layer and knows what runs along its end: shape, spikes or current."""

    def __init__(self, nir: Any, dt: float, inhibition: float | None, shape: tuple[int, ...]) -> None:
        self.nir = nir
        self.dt = dt
        self.inhibition = inhibition
        self.nodes = {"input": nir.Input({"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.ends = ["input"]  # the nodes that the next layer listens to
        self.neurons: list[str] = []
        self.shape = shape
        self.spikes: float | None = math.inf  # how often a unit can spike in a sample; None for a current
        self.drive: _Drive | None = None
        self.horizon = math.inf

    def graph(self, metadata: dict[str, Any]) -> Any:
        """The finished graph."""
        self._append("output", self.nir.Output({"output": np.array(self.shape)}))
        if self.inhibition is not None:
            metadata = metadata | {"inhibition": self.inhibition, "horizon_steps": self.horizon}
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=metadata)

    def add(self, layer: _Layer) -> None:
        """Append one module."""
        module = layer.module
        name = layer.name.replace(".", "_")
        name = f"layer_{name}" if name.isdecimal() else name
        if isinstance(module, nn.Linear):
            self._linear(name, layer, module)
        elif isinstance(module, nn.Conv2d):
            self._convolution(name, layer, module)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            self._pool(name, module)
        elif isinstance(module, nn.Flatten):
            if (module.start_dim, module.end_dim) != (1, -1):
                raise UsageError(f"{layer.name}: only nn.Flatten() of everything but the batch can be written")
            self._append(name, self.nir.Flatten({"input": np.array(self.shape)}, start_dim=0))
            self.shape = (math.prod(self.shape),)
        elif isinstance(module, LeakyReadout):
            beta = self._spread(module.decay())
            tau = time_constant(beta, self.dt)
            node = self.nir.LI(tau, tau / self.dt, np.zeros_like(tau), metadata=_neuron_metadata(layer.name, module))
            self._append(name, node)
            self.spikes = self.drive = None
        else:
            self._neuron(name, layer, cast(snn.Leaky, module))

    def _append(self, name: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges += [(end, name) for end in self.ends]
        self.ends = [name]

    def _linear(self, name: str, layer: _Layer, module: nn.Linear) -> None:
        if self.shape != (module.in_features,) and len(layer.listens) < 2:
            raise UsageError(
                f"{layer.name}: nn.Linear takes {module.in_features} units, but {self.shape} arrive; check sample_shape"
            )
        weights = module.weight.split(list(layer.listens) or module.in_features, dim=1)
        sources = self.neurons if layer.listens else self.ends
        ends = []
        for part, (weight, source) in enumerate(zip(weights, sources, strict=True)):
            metadata = {"module": layer.name, "part": part}
            if part == 0 and module.bias is not None:
                node = self.nir.Affine(_array(weight), _array(module.bias), metadata=metadata)
            else:
                node = self.nir.Linear(_array(weight), metadata=metadata)
            ends.append(name if part == 0 else f"{name}_part{part}")
            self.nodes[ends[-1]] = node
            self.edges.append((source, ends[-1]))
        self.ends = ends
        self.shape = (module.out_features,)
        self._bound(module.weight, module.bias)

    def _convolution(self, name: str, layer: _Layer, module: nn.Conv2d) -> None:
        kernel = module.kernel_size
        if kernel[0] != kernel[1] or module.groups != 1 or module.padding_mode != "zeros":
            raise UsageError(
                f"{layer.name}: nir reads square kernels, groups=1 and padding with zeros only, got {module}"
            )
        shape = tuple(_shape_after(module, self.shape))
        padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
        node = self.nir.Conv2d(
            input_shape=tuple(self.shape[1:]),
            weight=_array(module.weight),
            stride=tuple(module.stride),
            padding=padding,
            dilation=tuple(module.dilation),
            groups=1,
            bias=np.zeros(shape[0], _array(module.weight).dtype) if module.bias is None else _array(module.bias),
            metadata={"module": layer.name, "part": 0, "bias": module.bias is not None},
        )
        self._append(name, node)
        self.shape = shape
        self._bound(module.weight, module.bias)

    def _pool(self, name: str, module: nn.MaxPool2d | nn.AvgPool2d) -> None:
        size, stride = _pair(module.kernel_size), _pair(module.stride)
        if any(_pair(module.padding)) or module.ceil_mode or _pair(getattr(module, "dilation", 1)) != (1, 1):
            raise UsageError(f"{name}: pooling without padding, dilation and ceil_mode only, got {module}")
        shape = tuple(_shape_after(module, self.shape))
        arguments = (np.array(size), np.array(stride), np.zeros(2, int))
        if isinstance(module, nn.AvgPool2d):
            self._append(name, self.nir.AvgPool2d(*arguments))
        elif self.spikes is None:
            raise UsageError(f"{name}: max pooling can be written behind spikes only, NIR has none for currents")
        else:
            self._append(f"{name}_sum", self.nir.SumPool2d(*arguments))
            self._append(name, self.nir.Threshold(np.full(shape, 0.5, np.float32)))
            self.spikes *= math.prod(size)  # a window passes a spike of each neuron in it
        self.shape = shape

    def _neuron(self, name: str, layer: _Layer, module: snn.Leaky) -> None:
        metadata = _neuron_metadata(layer.name, module)
        beta, threshold = self._spread(module.beta.clamp(0, 1)), self._spread(module.threshold)
        tau = time_constant(beta, self.dt)
        inhibits = self.inhibition is not None and _fires_once(module)
        if inhibits:
            horizon = self._horizon(name, beta, threshold)
            metadata |= {"inhibition": self.inhibition, "horizon_steps": horizon}
            self.horizon = min(self.horizon, horizon)
        node = self.nir.LIF(
            tau=tau,
            r=tau / self.dt,
            v_leak=np.zeros_like(tau),
            v_threshold=_array(threshold),
            v_reset=np.zeros_like(_array(threshold)),
            metadata=metadata,
        )
        self._append(name, node)
        if inhibits:
            pull = np.full(self.shape, -cast(float, self.inhibition), tau.dtype)
            # Vectors get the LIF and Linear pair that readers know as recurrence; maps would make it a huge matrix.
            self.nodes[f"{name}_inhibition"] = (
                self.nir.Linear(np.diag(pull)) if pull.ndim == 1 else self.nir.Scale(pull)
            )
            self.edges += [(name, f"{name}_inhibition"), (f"{name}_inhibition", name)]
        self.neurons.append(name)
        self.spikes = 1.0 if _fires_once(module) else math.inf
        self.drive = None

    def _bound(self, weight: Tensor, bias: Tensor | None) -> None:
        """Bounds of the current behind a layer of synapses."""
        most = weight.detach().clamp(min=0).flatten(1).sum(1).double()
        floor = torch.zeros_like(most) if bias is None else bias.detach().double()
        if self.spikes is None:
            self.drive = None  # a current through two layers of synapses: not bounded here
        elif math.isinf(self.spikes):
            self.drive = _Drive(most + floor, torch.zeros_like(most))
        else:
            self.drive = _Drive(floor, most * self.spikes)
        self.spikes = None

    def _horizon(self, name: str, beta: Tensor, threshold: Tensor) -> float:
        if self.drive is None:
            raise UsageError(
                f"self_inhibiting: the current of {name} has no bound, for no nn.Linear or nn.Conv2d that listens to "
                "spikes stands right before it"
            )
        per_step, once = (x.view(-1, *[1] * (len(self.shape) - 1)) for x in self.drive)
        return inhibition_horizon(beta, threshold, per_step, once, cast(float, self.inhibition)).min().item()

    def _spread(self, value: Tensor) -> Tensor:
        """A parameter as one value per neuron: NIR knows no broadcasting."""
        try:
            return value.detach().expand(self.shape)
        except RuntimeError as error:
            raise UsageError(
                f"a neuron parameter of shape {tuple(value.shape)} does not fit neurons of shape {self.shape}; "
                "check sample_shape"
            ) from error


def time_constant(beta: Tensor, dt: float) -> np.ndarray:
    """``tau = dt / (1 - beta)`` in seconds, at most ``2^25 dt`` (where ``beta`` is 1)."""
    beta = beta.detach().cpu()
    tau = dt / (1 - beta.double()).clamp(min=1 / LONGEST_TAU)
    return _array(tau.to(beta.dtype))


def _import_nir() -> Any:
    try:
        return import_module("nir")
    except ImportError as error:
        raise UsageError('NIR files need the package nir: pip install "ss-lightning[nir]"') from error


def _array(value: Tensor) -> np.ndarray:
    if value.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"NIR holds float32 and float64, the network is {value.dtype}; convert it: network.float()")
    return value.detach().cpu().contiguous().numpy().copy()


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _shape_after(module: nn.Module, shape: Sequence[int]) -> Sequence[int]:
    if len(shape) != 3:
        raise UsageError(
            f"{module} takes maps (channels, height, width), but {tuple(shape)} arrives; check sample_shape"
        )
    weight = next(module.parameters(), torch.zeros(()))
    with torch.no_grad():
        return module(torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)).shape[1:]


def _fires_once(module: nn.Module) -> bool:
    return isinstance(module, SingleSpikeLeaky | StandardSingleSpikeLeaky)


# NIR: what a network is made of -------------------------------------------------------------------------------------

_NEURONS: dict[str, type[snn.Leaky]] = {
    "SingleSpikeLeaky": SingleSpikeLeaky,
    "StandardSingleSpikeLeaky": StandardSingleSpikeLeaky,
    "MultiSpikeLeaky": MultiSpikeLeaky,
    "Leaky": snn.Leaky,
    "LeakyReadout": LeakyReadout,
}
_PLAIN: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "Conv2d": (nn.Conv2d, ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")),
    "MaxPool2d": (nn.MaxPool2d, ("kernel_size", "stride")),
    "AvgPool2d": (nn.AvgPool2d, ("kernel_size", "stride")),
    "Flatten": (nn.Flatten, ()),
}


def _describe(
    network: nn.Module, sample_shape: Sequence[int] | None
) -> tuple[list[_Layer], tuple[int, ...], dict[str, Any]]:
    """Layers in order, shape of the input, and what :func:`from_nir` needs to build the same network."""
    about: dict[str, Any] = {"version": __version__, "network": type(network).__name__}
    if type(network) is nn.Sequential:
        if sample_shape is None:
            raise UsageError(
                "sample_shape: nn.Sequential does not know its input; give the shape of one sample, (700,)"
            )
        layers = [_Layer(name, module) for name, module in network.named_children()]
        about["layers"] = [_layer_arguments(layer) for layer in layers]
        return layers, tuple(sample_shape), about
    if sample_shape is not None:
        raise UsageError(f"sample_shape is for nn.Sequential only: {type(network).__name__} knows its input")
    if type(network) is MLP:
        about["arguments"] = _common_arguments(network) | {
            "hidden": network.layer_sizes,
            "skip": network.skip,
            "bias": network.synapses[0].bias is not None,
            "backend": network.backend,
        }
        return list(_mlp_layers(network)), (network.num_inputs,), about
    if type(network) is ConvNet:
        convolutions = cast(list[nn.Conv2d], list(network.convolutions))
        about["arguments"] = _common_arguments(network) | {
            "channels": [c.out_channels for c in convolutions],
            "kernel_size": next((c.kernel_size[0] for c in convolutions), 1),
            "pool_size": network.pool_size,
            "pool": "max" if isinstance(network.pool, nn.MaxPool2d) else "avg",
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
        "tau_hidden_ms": _tau_ms(network.beta_hidden, network.step_ms),
        "tau_readout_ms": _tau_ms(network.beta_readout, network.step_ms),
        "learn_beta": network.learn_beta,
        "learn_threshold": network.learn_threshold,
        "decoder": network.decoder,
    }


def _tau_ms(beta: float, step_ms: float) -> float:
    """The inverse of :func:`ss_lightning.networks.decay`: where training began, the exact decays stand in the nodes."""
    return 0.0 if beta == 0 else math.inf if beta == 1 else -step_ms / math.log(beta)


def _mlp_layers(network: MLP) -> Iterator[_Layer]:
    sizes = network.layer_sizes
    for depth, synapse in enumerate(network.synapses):
        yield _Layer(f"synapses.{depth}", synapse, sizes[:depth] if network.skip else ())
        if depth < len(sizes):
            yield _Layer(f"neurons.{depth}", network.neurons[depth])
    yield _Layer("readout", network.readout)


def _conv_layers(network: ConvNet) -> Iterator[_Layer]:
    for depth, (convolution, neurons) in enumerate(zip(network.convolutions, network.conv_neurons, strict=True)):
        yield _Layer(f"convolutions.{depth}", convolution)
        yield _Layer(f"conv_neurons.{depth}", neurons)
        yield _Layer(f"pool_{depth}", network.pool)
    yield _Layer("flatten", nn.Flatten())
    for depth, synapse in enumerate(network.synapses):
        yield _Layer(f"synapses.{depth}", synapse)
        if depth < len(network.neurons):
            yield _Layer(f"neurons.{depth}", network.neurons[depth])
    yield _Layer("readout", network.readout)


def _layer_arguments(layer: _Layer) -> dict[str, Any]:
    """Class and constructor arguments of a module of an ``nn.Sequential``."""
    module, name = layer.module, type(layer.module).__name__
    if type(module) in _NEURONS.values():
        return {"class": name, "arguments": _neuron_arguments(cast(snn.Leaky, module))}
    if name not in _PLAIN or type(module) is not _PLAIN[name][0]:
        raise UsageError(
            f"layer {layer.name} of the nn.Sequential is a {name}, which cannot be written; known are "
            f"{', '.join([*_PLAIN, *_NEURONS])}"
        )
    arguments = {key: getattr(module, key) for key in _PLAIN[name][1]}
    if isinstance(module, nn.Linear | nn.Conv2d):
        arguments["bias"] = module.bias is not None
    return {"class": name, "arguments": arguments}


def _neuron_arguments(neuron: snn.Leaky) -> dict[str, Any]:
    arguments = {
        "init_hidden": neuron.init_hidden,
        "learn_beta": isinstance(neuron.beta, nn.Parameter),
        "sequence": getattr(neuron, "sequence", None),
    }
    if isinstance(neuron, LeakyReadout):
        return arguments
    surrogate = neuron.spike_grad if isinstance(neuron.spike_grad, Surrogate) else None
    if surrogate is None and type(neuron) is not snn.Leaky and not neuron.surrogate_disable:
        warnings.warn(
            "only the surrogates of ss_lightning.surrogate can be written: the spike_grad of the network is left out, "
            "from_nir takes the default",
            ExportWarning,
            stacklevel=5,
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


def _neuron_metadata(name: str, neuron: snn.Leaky) -> dict[str, Any]:
    """What a NIR node cannot say about a neuron; decay and threshold as they are, before clamping and spreading."""
    metadata: dict[str, Any] = {
        "module": name,
        "neuron": type(neuron).__name__,
        "beta": _array(neuron.beta)[()],
    }
    if isinstance(neuron, LeakyReadout):
        return metadata
    metadata |= {"threshold": _array(neuron.threshold)[()], "fires_once": _fires_once(neuron)}
    if isinstance(neuron, SingleSpikeLeaky):
        metadata["estimator"] = neuron.estimator
    return metadata


def _check_plain(network: nn.Module, layers: list[_Layer]) -> None:
    """Refuse what would be lost without a word."""
    for name, module, _ in layers:
        if isinstance(module, snn.Leaky):
            special = [word for word in ("state_quant", "inhibition") if getattr(module, word)]
            if bool((module.graded_spikes_factor != 1).any()):
                special.append("graded_spikes_factor")
            if special:
                raise UsageError(f"{name}: NIR has no {', '.join(special)}; set it to its default before writing")
    written = {id(p) for layer in layers for p in layer.module.parameters()}
    lost = [name for name, parameter in network.named_parameters() if id(parameter) not in written]
    if lost:
        raise UsageError(f"cannot write the network: it has parameters that NIR has no place for, {', '.join(lost)}")


def _readable(about: dict[str, Any]) -> dict[str, Any]:
    """What a person or another tool may want to read of the network without our JSON."""
    return {key: about.get("arguments", {})[key] for key in ("step_ms", "decoder") if key in about.get("arguments", {})}


# NIR: reading -------------------------------------------------------------------------------------------------------


def from_nir(path: str | os.PathLike[str]) -> nn.Module:
    """Read a network that :func:`to_nir` wrote: the same class with the same parameters, bit for bit.

    A neuron that fires once fires once again; the extra connections of the self-inhibiting form are left out, for it
    does not need them. Files of other tools are refused: a plain ``LIF`` does not say how often it may fire.

    Raises:
        UsageError: ``nir`` is not installed, or another tool wrote the file.
        DataError: the file is missing or broken, or was changed so that it contradicts its metadata.
    """
    nir = _import_nir()
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        graph = nir.read(path)
    except Exception as error:  # h5py and nir raise all sorts
        raise DataError(f"{path} is not a NIR file that can be read ({type(error).__name__}: {error})") from error
    if _KEY not in graph.metadata:
        raise UsageError(
            f"{path} was not written by ss_lightning.export.to_nir: its LIF neurons may fire any number of times. "
            "Read it with snntorch.import_nir.import_from_nir"
        )
    try:
        about = json.loads(graph.metadata[_KEY])
        tensors = _tensors(graph.nodes)
        network = _build(about, tensors)
        network.to(next(value.dtype for name, value in tensors.items() if name.endswith("weight")))
        missing, unknown = network.load_state_dict(tensors, strict=False)
        wanted = dict(network.named_parameters())
        if unknown or any(name in wanted for name in missing):
            raise ValueError(f"parameters do not fit the network: unknown {unknown}, missing {missing}")
        _check_neurons(graph, network)
    except (KeyError, TypeError, ValueError, RuntimeError, StopIteration) as error:
        raise DataError(
            f"{path} was changed after it was written, or written by another version of ss_lightning than "
            f"{__version__}: {error}. Export the checkpoint again"
        ) from error
    return network


def _tensors(nodes: dict[str, Any]) -> dict[str, Tensor]:
    """Parameters by their name in the network; weights that were split over several nodes are joined."""
    parts: dict[str, dict[int, Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    for node in nodes.values():
        name = node.metadata.get("module")
        if name is None:
            continue
        for key in ("beta", "threshold"):
            if key in node.metadata:
                tensors[f"{name}.{key}"] = torch.from_numpy(np.array(node.metadata[key]))
        if hasattr(node, "weight"):
            parts.setdefault(name, {})[int(node.metadata["part"])] = torch.from_numpy(np.array(node.weight))
        if hasattr(node, "bias") and node.metadata.get("bias", True):
            tensors[f"{name}.bias"] = torch.from_numpy(np.array(node.bias))
    for name, found in parts.items():
        tensors[f"{name}.weight"] = torch.cat([found[part] for part in sorted(found)], dim=1)
    return tensors


def _build(about: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The network with parameters of the right shapes."""
    if about["network"] in ("MLP", "ConvNet"):
        return {"MLP": MLP, "ConvNet": ConvNet}[about["network"]](**about["arguments"])
    modules: list[nn.Module] = []
    for index, layer in enumerate(about["layers"]):
        arguments = dict(layer["arguments"])
        if layer["class"] in _PLAIN:
            # JSON knows no tuples, and pooling wants them.
            arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
            modules.append(_PLAIN[layer["class"]][0](**arguments))
            continue
        sequence, surrogate = arguments.pop("sequence"), arguments.pop("surrogate", None)
        arguments = {key: value for key, value in arguments.items() if value is not None}
        if surrogate is not None:
            arguments["spike_grad"] = make_surrogate(*surrogate)
        if layer["class"] != "LeakyReadout":
            arguments["threshold"] = torch.ones_like(tensors[f"{index}.threshold"])
        beta = torch.ones_like(tensors[f"{index}.beta"])
        neuron = _NEURONS[layer["class"]](beta=beta, **arguments)
        if sequence is not None:
            neuron.sequence = sequence
        modules.append(neuron)
    return nn.Sequential(*modules)


def _check_neurons(graph: Any, network: nn.Module) -> None:
    """The numbers that other readers see must be those in the metadata, and every neuron must be one of ours."""
    seen = set()
    for name, node in graph.nodes.items():
        if not hasattr(node, "tau"):
            continue
        neuron = cast(snn.Leaky, network.get_submodule(node.metadata["module"]))
        seen.add(neuron)
        if type(neuron).__name__ != node.metadata["neuron"]:
            raise ValueError(f"{name} is a {node.metadata['neuron']}, the network has a {type(neuron).__name__}")
        tau = time_constant(neuron.beta.detach().clamp(0, 1).expand(node.tau.shape), float(graph.metadata["dt"]))
        same = np.array_equal(tau, node.tau)
        if hasattr(node, "v_threshold"):
            same = same and np.array_equal(_array(neuron.threshold.expand(node.tau.shape)), node.v_threshold)
            same = same and bool(node.metadata["fires_once"]) == _fires_once(neuron)
        if not same:
            raise ValueError(f"tau, v_threshold or fires_once of {name} contradict its metadata")
    if seen != {module for module in network.modules() if isinstance(module, snn.Leaky)}:
        raise ValueError("a layer of neurons is missing")


# torch.export -------------------------------------------------------------------------------------------------------


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
    was_training = network.training
    try:
        with torch.no_grad():
            return torch.export.export(
                _ReadoutOnly(network).eval(), (example,), dynamic_shapes={"spikes": {1: torch.export.Dim("batch")}}
            )
    finally:
        network.train(was_training)


# Checkpoints --------------------------------------------------------------------------------------------------------


def load_classifier(ckpt: str | os.PathLike[str]) -> SpikingClassifier:
    """The trained classifier in a checkpoint of this package, on the CPU.

    Raises:
        UsageError: there is no such file, or it holds no classifier of this package.
    """
    if not Path(ckpt).is_file():
        raise UsageError(f"there is no checkpoint {ckpt}")
    try:
        content = torch.load(ckpt, map_location="cpu", weights_only=True)
        weights = content["state_dict"]
        arguments = {key: value for key, value in content["hyper_parameters"].items() if not key.startswith("_")}
    except Exception as error:  # a file of any kind can be given
        raise UsageError(
            f"{ckpt} is not a checkpoint that can be loaded ({type(error).__name__}): it may be cut short, or made by "
            "another program"
        ) from error
    model = _classifier(content["hyper_parameters"].get("_class_path"), weights)(**arguments)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"the weights in {ckpt} do not fit its own hyper-parameters: {error}") from error
    return model.eval()


def _classifier(class_path: str | None, weights: dict[str, Tensor]) -> type[SpikingClassifier]:
    if class_path is None:  # trained in plain Python
        return ConvClassifier if any(name.startswith("network.convolutions.") for name in weights) else MLPClassifier
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module), name, None) if module.partition(".")[0] == "ss_lightning" else None
    if not (isinstance(found, type) and issubclass(found, SpikingClassifier)):
        raise UsageError(f"the checkpoint was made by {class_path}, which is no classifier of ss_lightning")
    return found


def export_checkpoint(
    ckpt: Path,
    format: Literal["nir", "torch"] = "nir",
    out: Path | None = None,
    num_steps: int | None = None,
    self_inhibiting: bool = False,
) -> Path:
    """Write the network of a checkpoint for other tools.

    Args:
        ckpt: the checkpoint.
        format: nir (for simulators and neuromorphic chips) or torch (a torch.export program, .pt2).
        out: the file to write; by default beside the checkpoint, with the ending of the format.
        num_steps: time steps of a sample; by default those of the config.yaml of the run.
        self_inhibiting: nir: neurons that fire once inhibit themselves, for plain LIF simulators.

    Returns:
        The file that was written. It appears whole or not at all.
    """
    network = load_classifier(ckpt).network
    if num_steps is None:
        num_steps = _num_steps(ckpt)
    out = ckpt.with_suffix({"nir": ".nir", "torch": ".pt2"}[format]) if out is None else out
    if format == "nir":
        to_nir(network, out, self_inhibiting=self_inhibiting, num_steps=num_steps)
    elif num_steps is None:
        raise UsageError(
            f"--num_steps: a program has a fixed number of steps, and no config.yaml beside {ckpt} gives it"
        )
    else:
        program = export_program(network, num_steps)
        _write_whole(out, lambda part: torch.export.save(program, part))
    return out


def _num_steps(ckpt: Path) -> int | None:
    """Time steps in the config of the run that a checkpoint lies in."""
    config = config_beside(ckpt)
    if config is None:
        return None
    return (yaml.safe_load(config.read_text()) or {}).get("data", {}).get("init_args", {}).get("num_steps")


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it appears whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            part = Path(folder) / path.name
            write(part)
            os.replace(part, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}. Choose another place with --out") from error


def main(arguments: list[str]) -> int:
    """``python -m ss_lightning export CKPT``: write a file and say where it is."""
    parser = ArgumentParser(prog="python -m ss_lightning export", exit_on_error=False)
    parser.add_function_arguments(export_checkpoint, as_positional=True)
    options = parse(parser, arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = export_checkpoint(**options.as_dict())
    for warning in caught:
        if issubclass(warning.category, ExportWarning):
            print(f"note: {warning.message}", file=sys.stderr)
    print(f"wrote {shown(out)}")
    return 0
