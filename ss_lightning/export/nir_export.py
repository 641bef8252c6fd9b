"""Writing NIR graphs."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from itertools import zip_longest
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
    Leak,
    Reader,
    array,
    check_plain,
    check_reader,
    describe,
    fires_once,
    import_nir,
    leak_of,
    neuron_metadata,
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
    reader: Reader = "nir",
) -> Any:
    """Write a network as a NIR graph.

    Args:
        network: an :class:`~ss_lightning.MLP` (skip connections included), a :class:`~ss_lightning.ConvNet`, or an
            ``nn.Sequential`` of ``Linear``, ``Conv2d``, ``MaxPool2d``, ``AvgPool2d``, ``Flatten``, ``snn.Leaky``,
            ``snn.Synaptic`` and what stands for them in this package.
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
        reader: whose equations the numbers are for. ``nir``: those of NIR, in Euler steps of ``dt``, with ``r = 1`` and
            the scale of the input in the weights (Norse). ``sinabs``: an exponential decay with ``tau`` in steps, and
            inputs that are not scaled. ``snntorch``: ``r = tau / dt``, for snnTorch has one threshold per layer.

    Returns:
        The ``nir.NIRGraph``.

    Raises:
        UsageError: ``nir`` is not installed, the network holds something that NIR cannot say, or an argument does not
            fit it.

    Max pooling, which NIR lacks, is written as a sum pool and ``IF`` neurons with a threshold of 1/2: the same for
    spikes. A mean is written as a sum, and the weights behind it are divided by the size of the window.
    """
    graph = make_graph(
        network, sample_shape=sample_shape, dt=dt, inhibition=inhibition if self_inhibiting else None, reader=reader
    )
    horizon = graph.metadata.get("horizon_steps", math.inf)
    if num_steps is not None and horizon < num_steps - 1:
        warnings.warn(
            f"a plain LIF simulator keeps neurons silent for {horizon:.0f} steps after their spike, fewer than "
            f"the {num_steps} steps of a sample: some may fire again",
            ExportWarning,
            stacklevel=2,
        )
    elif not self_inhibiting and any(fires_once(module) for module in network.modules()):
        warnings.warn(
            "NIR has no neuron that fires once: ss_lightning.export.from_nir restores the rule, other readers lose it. "
            "self_inhibiting=True writes a form for plain LIF simulators",
            ExportWarning,
            stacklevel=2,
        )
    if path is not None:
        with write_for_user(Path(path)) as scratch:
            import_nir().write(scratch, graph)
    return graph


def make_graph(
    network: nn.Module, *, sample_shape: Sequence[int] | None, dt: float, inhibition: float | None, reader: Reader
) -> Any:
    """The graph of a network, without a word about what other readers lose; see :func:`to_nir`.

    Args:
        network: see :func:`to_nir`.
        sample_shape: see :func:`to_nir`.
        dt: see :func:`to_nir`.
        inhibition: strength of the inhibition that a neuron which fires once gives itself; None for none.
        reader: see :func:`to_nir`.
    """
    nir = import_nir()
    check_reader(reader, inhibition is not None)
    if isinstance(network, SpikingNetwork):
        network = network.plain_copy()
    layers, shape, about = describe(network, sample_shape)
    check_plain(network, layers)
    if inhibition is not None and not any(fires_once(layer.module) for layer in layers):
        raise UsageError("self_inhibiting: the network has no neuron that fires once")
    writer = _Writer(nir, dt, inhibition, shape, reader)
    for layer, following in zip_longest(layers, layers[1:]):
        writer.add(layer, None if following is None else following.module)
    # The readable part is for people and other tools.
    readable = {key: about["arguments"][key] for key in ("step_ms", "decoder")} if "arguments" in about else {}
    return writer.graph({KEY: json.dumps(about), "dt": dt, "reader": reader, **readable})


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
    """Grows a graph layer by layer, and knows of its end the shape, the unit and the bounds of the currents."""

    def __init__(self, nir: Any, dt: float, inhibition: float | None, shape: tuple[int, ...], reader: Reader) -> None:
        self.nir = nir
        self.dt = dt
        self.inhibition = inhibition
        self.reader = reader
        self.nodes = {"input": nir.Input({"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.ends = ["input"]  # the nodes that the next layer listens to
        self.neurons: list[str] = []
        self.shape = shape
        # How many times larger a value is in the file than in the network; broadcasts against `shape`.
        self.gain = torch.ones((), dtype=torch.float64)
        self.binary = True  # spikes, as opposed to currents and means
        self.most: float | None = math.inf  # the largest sum over a sample of one unit, at most 1 a step; None: unknown
        self.drive: _Drive | None = None  # bounds of the current, behind synapses
        self.horizon = math.inf

    def graph(self, metadata: dict[str, Any]) -> Any:
        """The finished graph."""
        self._remove_gain("output_scale")
        self._append("output", self.nir.Output({"output": np.array(self.shape)}))
        if self.inhibition is not None:
            metadata = metadata | {"inhibition": self.inhibition, "horizon_steps": self.horizon}
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=metadata)

    def add(self, layer: Layer, following: nn.Module | None) -> None:
        """Append one module; the one that follows it says in which unit it wants its current."""
        module = layer.module
        name = layer.name.replace(".", "_")
        name = f"layer_{name}" if name.isdecimal() else name
        if isinstance(module, nn.Linear):
            self._linear(name, layer, module, following)
        elif isinstance(module, nn.Conv2d):
            self._convolution(name, layer, module, following)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            self._pool(name, module)
        elif isinstance(module, nn.Flatten):
            self._flatten(name, layer, module)
        elif isinstance(module, LeakyReadout):
            self._readout(name, layer, module)
        else:
            self._neuron(name, layer, cast(snn.Leaky | snn.Synaptic, module))

    def _append(self, name: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges += [(end, name) for end in self.ends]
        self.ends = [name]

    # Synapses ---------------------------------------------------------------------------------------------------------

    def _linear(self, name: str, layer: Layer, module: nn.Linear, following: nn.Module | None) -> None:
        if self.shape != (module.in_features,) and len(layer.listens) < 2:
            raise UsageError(
                f"{layer.name}: nn.Linear takes {module.in_features} units, but {self.shape} arrive; check sample_shape"
            )
        self.shape = (module.out_features,)
        gain = self._wanted_gain(following)
        bias = _scaled_bias(module, gain)
        weights = module.weight.split(list(layer.listens) or module.in_features, dim=1)
        sources = self.neurons if layer.listens else self.ends
        ends = []
        for part, (weight, source) in enumerate(zip(weights, sources, strict=True)):
            scaled = _scaled(weight, gain[:, None] / self.gain)
            metadata = self._exact(layer, part, weight, scaled, module.bias if part == 0 else None)
            # sinabs has no synapses without a bias.
            node = self.nir.Affine(scaled, bias if part == 0 else np.zeros_like(bias), metadata=metadata)
            ends.append(name if part == 0 else f"{name}_part{part}")
            self.nodes[ends[-1]] = node
            self.edges.append((source, ends[-1]))
        self.ends = ends
        self.gain = gain
        self._bound(module.weight, module.bias)

    def _convolution(self, name: str, layer: Layer, module: nn.Conv2d, following: nn.Module | None) -> None:
        kernel = module.kernel_size
        if kernel[0] != kernel[1] or module.groups != 1 or module.padding_mode != "zeros":
            raise UsageError(
                f"{layer.name}: nir reads square kernels, groups=1 and padding with zeros only, got {module}"
            )
        before, self.shape = self.shape, tuple(_shape_after(module, self.shape))
        gain = self._wanted_gain(following)
        incoming = self.gain.reshape(-1)  # one for all channels, or one for each
        scaled = _scaled(module.weight, gain.view(-1, 1, 1, 1) / incoming.view(1, -1, 1, 1))
        padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
        node = self.nir.Conv2d(
            input_shape=tuple(before[1:]),
            weight=scaled,
            stride=tuple(module.stride),
            padding=padding,
            dilation=tuple(module.dilation),
            groups=1,
            bias=_scaled_bias(module, gain),
            metadata=self._exact(layer, 0, module.weight, scaled, module.bias),
        )
        self._append(name, node)
        self.gain = gain.view(-1, 1, 1)
        self._bound(module.weight, module.bias)

    def _wanted_gain(self, following: nn.Module | None) -> Tensor:
        """The unit of a current ``[rows]`` in which the neurons that it drives need no other threshold.

        One where neurons of a row differ, as those of a map may, and where something stands in between.
        """
        one = torch.ones(self.shape[0], dtype=torch.float64)
        if not isinstance(following, snn.Leaky):
            return one
        beta = self._spread(following.beta.clamp(0, 1))
        if self._is_without_leak(following, beta):
            return one
        gain = self._leak(beta).gain.flatten(1) if beta.dim() > 1 else self._leak(beta).gain[:, None]
        return 1 / gain[:, 0] if bool((gain == gain[:, :1]).all()) else one

    def _exact(
        self, layer: Layer, part: int, weight: Tensor, scaled: np.ndarray, bias: Tensor | None
    ) -> dict[str, Any]:
        """What a node of synapses cannot say: its place, and its numbers before they were scaled."""
        metadata: dict[str, Any] = {"module": layer.name, "part": part, "bias": bias is not None}
        if not np.array_equal(array(weight), scaled):
            metadata |= {"weight": array(weight)} | ({} if bias is None else {"exact_bias": array(bias)})
        return metadata

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

    # Maps -------------------------------------------------------------------------------------------------------------

    def _pool(self, name: str, module: nn.MaxPool2d | nn.AvgPool2d) -> None:
        size, stride = _pair(module.kernel_size), _pair(module.stride)
        if any(_pair(module.padding)) or module.ceil_mode or _pair(getattr(module, "dilation", 1)) != (1, 1):
            raise UsageError(f"{name}: pooling without padding, dilation and ceil_mode only, got {module}")
        self.shape = tuple(_shape_after(module, self.shape))
        arguments = (np.array(size), np.array(stride), np.zeros(2, int))
        if isinstance(module, nn.AvgPool2d):
            if self.reader == "snntorch":
                self._append(name, self.nir.AvgPool2d(*arguments))
            else:  # which more tools read
                self._append(name, self.nir.SumPool2d(*arguments))
                self.gain = self.gain * math.prod(size)
            self.binary = False
        elif not self.binary or self.most is None:
            raise UsageError(f"{name}: NIR has no max pooling; it can be written behind spikes only")
        elif self.reader == "snntorch":
            raise UsageError(f"{name}: snnTorch reads no max pooling from NIR; write the network for another reader")
        else:
            half = np.full(self.shape, 0.5, np.float32)
            self._append(f"{name}_sum", self.nir.SumPool2d(*arguments))
            self._append(name, self.nir.IF(r=np.ones_like(half), v_threshold=half, v_reset=np.zeros_like(half)))
            self.most *= math.prod(size)  # a window passes a spike of each neuron in it

    def _flatten(self, name: str, layer: Layer, module: nn.Flatten) -> None:
        if (module.start_dim, module.end_dim) != (1, -1):
            raise UsageError(f"{layer.name}: only nn.Flatten() of everything but the batch can be written")
        self._append(name, self.nir.Flatten({"input": np.array(self.shape)}, start_dim=0))
        if self.gain.dim():
            self.gain = self.gain.expand(self.shape).flatten()
        self.shape = (math.prod(self.shape),)

    # Neurons ----------------------------------------------------------------------------------------------------------

    def _readout(self, name: str, layer: Layer, module: LeakyReadout) -> None:
        leak = self._leak(self._spread(module.beta.clamp(0, 1)))
        self.gain = self.gain * leak.gain
        zero = np.zeros_like(leak.tau)
        node = self.nir.LI(tau=leak.tau, r=leak.r, v_leak=zero, metadata=neuron_metadata(layer.name, module))
        self._append(name, node)
        self._remove_gain(f"{name}_scale")
        self.binary, self.most, self.drive = False, None, None

    def _neuron(self, name: str, layer: Layer, module: snn.Leaky | snn.Synaptic) -> None:
        metadata = neuron_metadata(layer.name, module)
        beta, threshold = self._spread(module.beta.clamp(0, 1)), self._spread(module.threshold)
        leak = self._leak(beta)
        synapse = None
        if isinstance(module, snn.Synaptic):
            if self.reader == "sinabs":
                raise UsageError(f"{layer.name}: sinabs reads no neuron with a synaptic current; write it for nir")
            synapse = self._leak(self._spread(module.alpha.clamp(0, 1)))
        inhibits = self.inhibition is not None and fires_once(module)
        if inhibits:
            if synapse is not None:
                raise UsageError(
                    f"self_inhibiting: {layer.name} has a synaptic current, so its inhibition would be late"
                )
            horizon = self._horizon(name, beta, threshold)
            metadata |= {"inhibition": self.inhibition, "horizon_steps": horizon}
            self.horizon = min(self.horizon, horizon)
        before = self.gain
        if synapse is not None:
            node = self._synaptic_node(leak, synapse, self._thresholds(threshold, before), metadata)
        elif self._is_without_leak(module, beta):
            thresholds = self._thresholds(threshold, before)
            node = self.nir.IF(r=np.ones_like(leak.tau), **thresholds, metadata=metadata)
        else:
            thresholds = self._thresholds(threshold, before * leak.gain)
            zero = np.zeros_like(leak.tau)
            node = self.nir.LIF(tau=leak.tau, r=leak.r, v_leak=zero, **thresholds, metadata=metadata)
        self._append(name, node)
        if inhibits:
            self._inhibit(name, before)
        self.neurons.append(name)
        self.gain = torch.ones((), dtype=torch.float64)
        self.binary, self.most, self.drive = True, 1.0 if fires_once(module) else math.inf, None

    def _thresholds(self, threshold: Tensor, gain: Tensor) -> dict[str, np.ndarray]:
        scaled = _scaled(threshold, gain.expand(self.shape))
        return {"v_threshold": scaled, "v_reset": np.zeros_like(scaled)}

    def _is_without_leak(self, module: nn.Module, beta: Tensor) -> bool:
        """Whether these neurons are ``IF`` nodes, whose readers add each input as it is."""
        return self.reader == "nir" and not isinstance(module, LeakyReadout) and bool((beta == 1).all())

    def _synaptic_node(
        self, leak: Leak, synapse: Leak, thresholds: dict[str, np.ndarray], metadata: dict[str, Any]
    ) -> Any:
        """A ``CubaLIF``, whose weight ``w_in`` takes the scale of both of its integrators."""
        w_in = _scaled(torch.from_numpy(np.ones_like(leak.tau)), 1 / (leak.gain * synapse.gain))
        if self.reader == "snntorch":
            w_in = synapse.r
        return self.nir.CubaLIF(
            tau_syn=synapse.tau,
            tau_mem=leak.tau,
            r=leak.r,
            v_leak=np.zeros_like(leak.tau),
            w_in=w_in,
            **thresholds,
            metadata=metadata,
        )

    def _inhibit(self, name: str, gain: Tensor) -> None:
        """A connection from each neuron to itself; of maps as a convolution, for as a matrix it would be huge."""
        pull = -cast(float, self.inhibition) * gain.expand(self.shape).reshape(self.shape[0], -1)[:, 0]
        weight = torch.diag(pull).to(torch.from_numpy(self.nodes[name].v_threshold).dtype)
        back = f"{name}_inhibition"
        if len(self.shape) == 1:
            self.nodes[back] = self.nir.Linear(weight.numpy())
        else:
            self.nodes[back] = self.nir.Conv2d(
                input_shape=tuple(self.shape[1:]),
                weight=weight[:, :, None, None].numpy(),
                stride=(1, 1),
                padding=(0, 0),
                dilation=(1, 1),
                groups=1,
                bias=np.zeros(self.shape[0], weight.numpy().dtype),
            )
        self.edges += [(name, back), (back, name)]

    def _horizon(self, name: str, beta: Tensor, threshold: Tensor) -> float:
        if self.drive is None:
            raise UsageError(
                f"self_inhibiting: the current of {name} has no bound, for no nn.Linear or nn.Conv2d that listens to "
                "spikes stands right before it"
            )
        per_step, once = (x.view(-1, *[1] * (len(self.shape) - 1)) for x in self.drive)
        return inhibition_horizon(beta, threshold, per_step, once, cast(float, self.inhibition)).min().item()

    # Units ------------------------------------------------------------------------------------------------------------

    def _leak(self, beta: Tensor) -> Leak:
        return leak_of(beta, self.dt, self.reader)

    def _remove_gain(self, name: str) -> None:
        """Back to the unit of the network, where no weights could see to it."""
        if not bool(torch.isclose(self.gain, torch.ones_like(self.gain), rtol=1e-12, atol=0).all()):
            self._append(name, self.nir.Scale((1 / self.gain).expand(self.shape).to(torch.float32).numpy().copy()))
        self.gain = torch.ones((), dtype=torch.float64)

    def _spread(self, value: Tensor) -> Tensor:
        """A parameter as one value per neuron: NIR knows no broadcasting."""
        try:
            return value.detach().expand(self.shape)
        except RuntimeError as error:
            raise UsageError(
                f"a neuron parameter of shape {tuple(value.shape)} does not fit neurons of shape {self.shape}; "
                "check sample_shape"
            ) from error


def _scaled(value: Tensor, factor: Tensor) -> np.ndarray:
    """A product in float64, in the dtype of the value; a factor of one changes no bit."""
    array(value)  # refuses what NIR does not hold
    value = value.detach().cpu()
    product = value.double() * factor
    result = array(product.to(value.dtype))
    if not np.isfinite(result).all():
        raise UsageError("the network's numbers leave the range of its dtype when they are scaled for the reader")
    return result


def _scaled_bias(module: nn.Linear | nn.Conv2d, gain: Tensor) -> np.ndarray:
    bias = module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias
    return _scaled(bias, gain)


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
