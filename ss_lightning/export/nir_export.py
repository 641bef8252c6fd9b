"""Writing NIR graphs."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import snntorch as snn
import torch
from torch import Tensor, nn

from ss_lightning.errors import UsageError
from ss_lightning.export.nir_layers import (
    KEY,
    ExportWarning,
    Layer,
    array,
    check_plain,
    describe,
    fires_once,
    import_nir,
    neuron_metadata,
    time_constant,
)
from ss_lightning.files import write_for_user
from ss_lightning.networks import SpikingNetwork
from ss_lightning.neurons import LeakyReadout

# The step that snnTorch and most NIR readers assume, in seconds.
NIR_STEP = 1e-4


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
    nir = import_nir()
    if isinstance(network, SpikingNetwork):
        network = network.plain_copy()
    layers, shape, about = describe(network, sample_shape)
    check_plain(network, layers)
    writer = _Writer(nir, dt, inhibition if self_inhibiting else None, shape)
    for layer in layers:
        writer.add(layer)
    any_once = any(fires_once(layer.module) for layer in layers)
    if self_inhibiting and not any_once:
        raise UsageError("self_inhibiting: the network has no neuron that fires once")
    if self_inhibiting and num_steps is not None and writer.horizon < num_steps - 1:
        warnings.warn(
            f"a plain LIF simulator keeps neurons silent for {writer.horizon:.0f} steps after their spike, fewer than "
            f"the {num_steps} steps of a sample: some may fire again",
            ExportWarning,
            stacklevel=2,
        )
    elif any_once and not self_inhibiting:
        warnings.warn(
            "NIR has no neuron that fires once: ss_lightning.export.from_nir restores the rule, other readers lose it. "
            "self_inhibiting=True writes a form for plain LIF simulators",
            ExportWarning,
            stacklevel=2,
        )
    # The readable part is for people and other tools.
    readable = {key: about["arguments"][key] for key in ("step_ms", "decoder")} if "arguments" in about else {}
    graph = writer.graph({KEY: json.dumps(about), "dt": dt, **readable})
    if path is not None:
        with write_for_user(Path(path)) as scratch:
            nir.write(scratch, graph)
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
    beta, threshold, per_step, once = (x.cpu().double() for x in (beta, threshold, per_step.clamp(min=0), once))
    pull = inhibition / 2
    rest = 1 - beta
    # Where beta is 1 the sum over steps is k itself.
    endless = torch.floor((threshold + pull - once) / per_step)
    excess = once + per_step / rest - threshold
    fading = 1 + torch.floor(torch.log(excess / (pull + beta * per_step / rest)) / torch.log(beta.clamp(min=1e-300)))
    steps = torch.where(rest == 0, endless, fading).clamp(min=0)
    never = torch.where(rest == 0, (per_step == 0) & (once - pull <= threshold), excess <= 0)
    return steps.masked_fill(never, math.inf)


class _Drive(NamedTuple):
    """Upper bounds of a current: what can arrive in every step, and once per sample in addition; ``[N]`` each."""

    per_step: Tensor
    once: Tensor


class _Writer:
    """Grows a graph layer by layer, and knows of its end the shape and what bounds the currents behind it."""

    def __init__(self, nir: Any, dt: float, inhibition: float | None, shape: tuple[int, ...]) -> None:
        self.nir = nir
        self.dt = dt
        self.inhibition = inhibition
        self.nodes = {"input": nir.Input({"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.ends = ["input"]  # the nodes that the next layer listens to
        self.neurons: list[str] = []
        self.shape = shape
        self.binary = True  # spikes, as opposed to currents and means
        self.most: float | None = math.inf  # the largest sum over a sample of one unit, at most 1 a step; None: unknown
        self.drive: _Drive | None = None  # bounds of the current, behind synapses
        self.horizon = math.inf

    def graph(self, metadata: dict[str, Any]) -> Any:
        """The finished graph."""
        self._append("output", self.nir.Output({"output": np.array(self.shape)}))
        if self.inhibition is not None:
            metadata = metadata | {"inhibition": self.inhibition, "horizon_steps": self.horizon}
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=metadata)

    def add(self, layer: Layer) -> None:
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
            node = self.nir.LI(tau, tau / self.dt, np.zeros_like(tau), metadata=neuron_metadata(layer.name, module))
            self._append(name, node)
            self.binary, self.most, self.drive = False, None, None
        else:
            self._neuron(name, layer, cast(snn.Leaky, module))

    def _append(self, name: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges += [(end, name) for end in self.ends]
        self.ends = [name]

    def _linear(self, name: str, layer: Layer, module: nn.Linear) -> None:
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
                node = self.nir.Affine(array(weight), array(module.bias), metadata=metadata)
            else:
                node = self.nir.Linear(array(weight), metadata=metadata)
            ends.append(name if part == 0 else f"{name}_part{part}")
            self.nodes[ends[-1]] = node
            self.edges.append((source, ends[-1]))
        self.ends = ends
        self.shape = (module.out_features,)
        self._bound(module.weight, module.bias)

    def _convolution(self, name: str, layer: Layer, module: nn.Conv2d) -> None:
        kernel = module.kernel_size
        if kernel[0] != kernel[1] or module.groups != 1 or module.padding_mode != "zeros":
            raise UsageError(
                f"{layer.name}: nir reads square kernels, groups=1 and padding with zeros only, got {module}"
            )
        shape = tuple(_shape_after(module, self.shape))
        padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
        node = self.nir.Conv2d(
            input_shape=tuple(self.shape[1:]),
            weight=array(module.weight),
            stride=tuple(module.stride),
            padding=padding,
            dilation=tuple(module.dilation),
            groups=1,
            bias=np.zeros(shape[0], array(module.weight).dtype) if module.bias is None else array(module.bias),
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
            self.binary = False
        elif not self.binary or self.most is None:
            raise UsageError(f"{name}: NIR has no max pooling; it can be written behind spikes only")
        else:
            self._append(f"{name}_sum", self.nir.SumPool2d(*arguments))
            self._append(name, self.nir.Threshold(np.full(shape, 0.5, np.float32)))
            self.most *= math.prod(size)  # a window passes a spike of each neuron in it
        self.shape = shape

    def _neuron(self, name: str, layer: Layer, module: snn.Leaky) -> None:
        metadata = neuron_metadata(layer.name, module)
        beta, threshold = self._spread(module.beta.clamp(0, 1)), self._spread(module.threshold)
        tau = time_constant(beta, self.dt)
        inhibits = self.inhibition is not None and fires_once(module)
        if inhibits:
            horizon = self._horizon(name, beta, threshold)
            metadata |= {"inhibition": self.inhibition, "horizon_steps": horizon}
            self.horizon = min(self.horizon, horizon)
        node = self.nir.LIF(
            tau=tau,
            r=tau / self.dt,
            v_leak=np.zeros_like(tau),
            v_threshold=array(threshold),
            v_reset=np.zeros_like(array(threshold)),
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
        self.binary, self.most, self.drive = True, 1.0 if fires_once(module) else math.inf, None

    def _bound(self, weight: Tensor, bias: Tensor | None) -> None:
        """Bounds of the current behind a layer of synapses."""
        excited = weight.detach().cpu().clamp(min=0).flatten(1).sum(1).double()
        nothing = torch.zeros_like(excited)
        base = nothing if bias is None else bias.detach().cpu().double()
        if self.most is None:
            self.drive = None
        elif math.isinf(self.most):
            self.drive = _Drive(base + excited, nothing)
        else:
            self.drive = _Drive(base, excited * self.most)
        self.binary, self.most = False, None

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
