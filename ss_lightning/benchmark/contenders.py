"""Who is compared: each contender builds the same network, or the same layer of neurons, its own way.

Every network computes hidden layers of spiking neurons, a leaky readout and the sum of its membrane over time, with a
fast-sigmoid surrogate of slope 10. All take the same batch, as events or as a dense time-major tensor prepared before
the clock starts. Loops apply the Linear per step or to the whole sequence, whichever is the library's usual form, and
never index ``x[t]`` in the loop: each such select writes a gradient of the full size.

snnTorch and the peers are imported where they are built: :class:`KernelNetwork` needs torch and Triton alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss_lightning.benchmark.cells import CONV_CHANNELS, CONV_KERNEL, CONV_POOL, Cell
from ss_lightning.benchmark.clock import Job
from ss_lightning.benchmark.peers import (
    BtorchLif,
    eventax_job,
    exact_snn_job,
    jaxpike_job,
    jaxsnn_job,
    spyx_job,
)
from ss_lightning.events import EventBatch
from ss_lightning.functional import leaky_scan, single_spike
from ss_lightning.functional.network import NetworkSpikes, ReadoutLayer, SpikingLayer, event_network
from ss_lightning.surrogate import FastSigmoid

if TYPE_CHECKING:
    from ss_lightning.networks import SpikingNetwork

SURROGATE = FastSigmoid(10)
BETA_HIDDEN, BETA_READOUT = math.exp(-1 / 10), math.exp(-1 / 20)


@dataclass(frozen=True)
class Contender:
    """One way to do the same job.

    Attributes:
        name: the contender in the tables.
        network: ``(sizes, num_steps) -> module`` from input to class scores, sizes input first; None if it has none.
        neuron: ``(num_neurons, num_steps) -> function`` from current ``[T, B, N]`` to spikes; None if it has none.
        conv: ``cell -> module``, the paper's convolutional network from input to class scores; None if it has none.
        step: ``(cell, spikes, labels) -> job``, a whole training step for what is no torch module from input to scores;
            None for all others.
        takes: ``events`` or ``dense``, the form of the batch.
        package: what must be installed, None for what needs torch alone.
        compiles: its first run compiles, and the second may again, so two are made before the clock starts.
        graph: run the job as a CUDA graph, which only a GPU can.
        same_without_gradient: another contender does the same where no gradient is asked for.
    """

    name: str
    network: Callable[[Sequence[int], int], nn.Module] | None = None
    neuron: Callable[[int, int], Callable[[Tensor], Tensor]] | None = None
    conv: Callable[[Cell], nn.Module] | None = None
    step: Callable[[Cell, Tensor, Tensor], Job] | None = None
    takes: str = "dense"
    package: str | None = "snntorch"
    compiles: bool = False
    graph: bool = False
    same_without_gradient: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return self.package is None or find_spec(self.package) is not None


def contenders(device: str = "cpu") -> list[Contender]:
    """All contenders whose packages are installed, the baseline first.

    The baseline is snnTorch's ``Leaky`` in a loop. On a GPU its loop replayed as a CUDA graph comes second.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    baseline = Contender("snnTorch Leaky", SnnTorchLoop, _snntorch_neuron, SnnTorchConvLoop)
    everyone = [
        baseline,
        Contender("snnTorch LeakyParallel", LeakyParallelNetwork),
        Contender("snnTorch StateLeaky", lambda s, t: SequenceNetwork(s, _state_leaky), _state_leaky_neuron),
        Contender("paper's block", lambda s, t: SequenceNetwork(s, PaperBlock, t), PaperBlock, package=None),
        Contender("paper's standard loop", lambda s, t: Ours(s, neuron="standard_single"), _standard_neuron),
        Contender(
            "SpikingJelly LIF",
            lambda s, t: SequenceNetwork(s, _spikingjelly_lif),
            lambda n, t: _spikingjelly_lif(n),
            package="spikingjelly",
        ),
        Contender(
            "SpikingJelly PSN",
            lambda s, t: SequenceNetwork(s, _spikingjelly_psn, t),
            _spikingjelly_psn,
            package="spikingjelly",
        ),
        Contender(
            "Norse LIF", lambda s, t: SequenceNetwork(s, _norse_lif), lambda n, t: _norse_lif(n), package="norse"
        ),
    ]
    if device == "cpu":
        everyone += [
            Contender(
                "btorch LIF, compiled", lambda s, t: SequenceNetwork(s, BtorchLif), package="btorch", compiles=True
            ),
            Contender("jaxpike LIF", step=jaxpike_job, package="jaxpike", compiles=True),
            Contender("spyx LIF", step=spyx_job, package="spyx", compiles=True),
            Contender("jaxsnn LIF, discrete", step=jaxsnn_job, package="jaxsnn", compiles=True),
            Contender("exact-snn-nn, first spikes", step=exact_snn_job, package="exact_snn"),
            Contender("eventax LIF, first spikes", step=eventax_job, package="eventax", compiles=True),
        ]
    for backend in ("triton", "torch") if device == "cuda" else ("numba", "torch"):
        for estimator in ("ramp", "survival", "masked"):
            everyone.append(
                Contender(
                    f"ss_lightning {estimator} ({backend})",
                    _ours(estimator, backend),
                    _ours_neuron(estimator, backend),
                    # The network chooses the kernels of its neurons itself, so it takes part once.
                    None if backend == "torch" else _ours_conv(estimator),
                    takes="events",
                    same_without_gradient=estimator != "survival",
                )
            )
    if device == "cpu":
        everyone.append(Contender("ss_lightning survival, from a dense tensor", _ours("survival", "auto")))
    if device == "cuda":
        everyone.insert(1, replace(baseline, name=f"{baseline.name} (CUDA graph)", graph=True))
        ours = next(contender for contender in everyone if contender.name == "ss_lightning survival (triton)")
        everyone.append(replace(ours, name="ss_lightning survival (triton, CUDA graph)", graph=True))
        everyone.append(
            Contender(
                "ss_lightning kernels alone (triton)",
                lambda sizes, num_steps: KernelNetwork(sizes, "survival", "triton"),
                takes="events",
                package=None,
            )
        )
    return [contender for contender in everyone if contender.installed]


def taking_part(suite: str, rivals: Sequence[Contender]) -> list[Contender]:
    """The contenders that have something of their own to show in a suite."""
    if suite == "scale":
        return [rival for rival in rivals if "ss_lightning" in rival.name]
    if suite == "infer":
        return [rival for rival in rivals if not rival.same_without_gradient]
    return list(rivals)


# ss_lightning ---------------------------------------------------------------------------------------------------------


class Ours(nn.Module):
    """The MLP of this package, down to class scores."""

    def __init__(self, sizes: Sequence[int], **options: Any) -> None:
        from ss_lightning.networks import MLP

        super().__init__()
        self.net: SpikingNetwork = MLP(
            input_shape=sizes[:1],
            num_classes=sizes[-1],
            hidden=sizes[1:-1],
            step_ms=1,
            tau_hidden_ms=10,
            tau_readout_ms=20,
            hidden_gain=1.0,  # the paper's weights, as all contenders have them
            **options,
        )

    def forward(self, batch: Any) -> Tensor:
        """Scores ``[B, C]``."""
        return self.net(batch).readout.sum(0)


class OursConv(nn.Module):
    """The convolutional network of this package, the paper's, down to class scores."""

    def __init__(self, cell: Cell, estimator: str) -> None:
        from ss_lightning.networks import ConvNet

        super().__init__()
        self.net: SpikingNetwork = ConvNet(
            input_shape=cell.image,
            num_classes=cell.sizes[-1],
            channels=CONV_CHANNELS,
            kernel_size=CONV_KERNEL,
            padding=CONV_KERNEL // 2,
            pool_size=CONV_POOL,
            hidden=cell.sizes[1:-1],
            step_ms=1,
            tau_hidden_ms=10,
            tau_readout_ms=20,
            input_gain=1.0,
            hidden_gain=1.0,
            estimator=estimator,
        )

    def forward(self, batch: Any) -> Tensor:
        """Scores ``[B, C]``."""
        return self.net(batch).readout.sum(0)


class KernelNetwork(nn.Module):
    """The same network as :class:`Ours` on ``functional/`` alone, without snnTorch's neurons.

    Args:
        sizes: units of each layer, input first.
        estimator: see :func:`ss_lightning.functional.network.event_network`.
        backend: see there.
    """

    def __init__(self, sizes: Sequence[int], estimator: str, backend: str) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        betas = [BETA_HIDDEN] * (len(sizes) - 2) + [BETA_READOUT]
        self.beta = nn.ParameterList(torch.full((n,), beta) for n, beta in zip(sizes[1:], betas, strict=True))
        self.threshold = nn.ParameterList(torch.ones(n) for n in sizes[1:-1])
        self.estimator, self.backend = estimator, backend

    def spikes(self, events: EventBatch) -> NetworkSpikes:
        """Membrane of the readout ``[T, B, C]``, first spike times and spike counts ``[B, N]`` of the hidden layers."""
        layers = [(layer.weight, layer.bias) for layer in cast(list[nn.Linear], list(self.linear))]
        hidden = [
            SpikingLayer(*layer, beta, threshold)
            for layer, beta, threshold in zip(layers[:-1], self.beta[:-1], self.threshold, strict=True)
        ]
        readout = ReadoutLayer(*layers[-1], self.beta[-1])
        return event_network(
            events, hidden, readout, surrogate=SURROGATE, estimator=self.estimator, backend=self.backend
        )

    def forward(self, events: EventBatch) -> Tensor:
        """Scores ``[B, C]``."""
        return self.spikes(events).membrane.sum(0)


def _ours_conv(estimator: str) -> Callable[[Cell], nn.Module]:
    return lambda cell: OursConv(cell, estimator)


def _ours(estimator: str, backend: str) -> Callable[[Sequence[int], int], nn.Module]:
    return lambda sizes, num_steps: Ours(sizes, estimator=estimator, backend=backend)


def _ours_neuron(estimator: str, backend: str) -> Callable[[int, int], Callable[[Tensor], Tensor]]:
    def build(num_neurons: int, num_steps: int) -> Callable[[Tensor], Tensor]:
        beta = torch.full((num_neurons,), BETA_HIDDEN)
        return lambda x: single_spike(x, beta, surrogate=SURROGATE, estimator=estimator, backend=backend)

    return build


def _standard_neuron(num_neurons: int, num_steps: int) -> Callable[[Tensor], Tensor]:
    from ss_lightning.neurons import StandardSingleSpikeLeaky

    neuron = StandardSingleSpikeLeaky(torch.full((num_neurons,), BETA_HIDDEN), spike_grad=SURROGATE, init_hidden=True)
    neuron.sequence = True
    return neuron


# The paper's block ----------------------------------------------------------------------------------------------------


class PaperBlock(nn.Module):
    """The convolutional block of arXiv:2205.15286, written from its equations: O(T^2).

    The membrane is a convolution over time with ``beta^k``, the latency code another one with the ramp ``1, 2, ...``,
    and the spike is where the code is one, with a straight-through gradient.
    """

    age: Tensor

    def __init__(self, num_neurons: int, num_steps: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full((num_neurons,), BETA_HIDDEN))
        self.register_buffer("age", torch.arange(num_steps - 1, -1, -1.0))

    def forward(self, current: Tensor) -> Tensor:
        """Spikes ``[T, B, N]`` of currents ``[T, B, N]``."""
        steps = len(self.age)
        kernel = self.beta.unsqueeze(1) ** self.age
        by_neuron = F.pad(current.permute(1, 2, 0), (steps - 1, 0))
        membrane = F.conv1d(by_neuron, kernel.unsqueeze(1), groups=len(self.beta))
        crossings = SURROGATE(membrane - 1)
        single = F.pad(crossings.flatten(0, 1).unsqueeze(1), (steps - 1, 0))
        latency = F.conv1d(single, (self.age + 1).view(1, 1, -1)).view_as(crossings)
        spikes = latency + ((latency == 1).to(latency.dtype) - latency).detach()
        return spikes.permute(2, 0, 1)


# Peers ----------------------------------------------------------------------------------------------------------------


class SequenceNetwork(nn.Module):
    """Linear over the whole sequence, then a layer of neurons that takes whole sequences; a scan as readout."""

    def __init__(self, sizes: Sequence[int], neurons: Callable[..., nn.Module], *args: Any) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.neurons = nn.ModuleList(neurons(size, *args) for size in sizes[1:-1])
        self.beta = nn.Parameter(torch.full((sizes[-1],), BETA_READOUT))

    def forward(self, spikes: Tensor) -> Tensor:
        """Scores ``[B, C]``."""
        for linear, neurons in zip(self.linear, self.neurons, strict=False):
            spikes = neurons(linear(spikes))
        return leaky_scan(self.linear[-1](spikes), self.beta).sum(0)


class SnnTorchLoop(nn.Module):
    """The usual snnTorch loop: Linear and ``Leaky`` step by step, the readout a ``Leaky`` without reset."""

    def __init__(self, sizes: Sequence[int], num_steps: int) -> None:
        import snntorch as snn

        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        betas = [BETA_HIDDEN] * (len(sizes) - 2) + [BETA_READOUT]
        self.neurons = nn.ModuleList(
            snn.Leaky(torch.full((size,), beta), spike_grad=SURROGATE, learn_beta=True, reset_mechanism=reset)
            for size, beta, reset in zip(sizes[1:], betas, ["subtract"] * (len(sizes) - 2) + ["none"], strict=True)
        )

    def forward(self, spikes: Tensor) -> Tensor:
        """Scores ``[B, C]``."""
        membranes = [neuron.reset_mem() for neuron in self.neurons]  # type: ignore[operator]
        total: Tensor | float = 0.0
        for x in spikes.unbind(0):
            for i, (linear, neuron) in enumerate(zip(self.linear, self.neurons, strict=True)):
                x, membranes[i] = neuron(linear(x), membranes[i])
            total = total + membranes[-1]
        assert isinstance(total, Tensor)
        return total


class SnnTorchConvLoop(nn.Module):
    """The paper's convolutional network as the usual snnTorch loop: convolution, ``Leaky`` and pooling step by step."""

    def __init__(self, cell: Cell) -> None:
        import snntorch as snn

        super().__init__()
        channels, height, width = cell.image
        stages: list[nn.Module] = []
        shapes: list[tuple[int, ...]] = []
        for size in CONV_CHANNELS:
            stages.append(nn.Conv2d(channels, size, CONV_KERNEL, padding=CONV_KERNEL // 2))
            shapes.append((size, 1, 1))
            channels, height, width = size, height // CONV_POOL, width // CONV_POOL
        sizes = (channels * height * width, *cell.sizes[1:])
        stages += [nn.Linear(a, b) for a, b in pairwise(sizes)]
        shapes += [(size,) for size in sizes[1:]]
        self.image = cell.image
        self.synapses = nn.ModuleList(stages)
        self.pool = nn.MaxPool2d(CONV_POOL)
        self.neurons = nn.ModuleList(
            snn.Leaky(
                torch.full(shape, BETA_READOUT if last else BETA_HIDDEN),
                spike_grad=SURROGATE,
                learn_beta=True,
                reset_mechanism="none" if last else "subtract",
            )
            for index, shape in enumerate(shapes)
            for last in [index == len(shapes) - 1]
        )

    def forward(self, spikes: Tensor) -> Tensor:
        """Scores ``[B, C]``."""
        membranes = [neuron.reset_mem() for neuron in self.neurons]  # type: ignore[operator]
        total: Tensor | float = 0.0
        for x in spikes.unflatten(2, self.image).unbind(0):
            for i, (synapse, neuron) in enumerate(zip(self.synapses, self.neurons, strict=True)):
                x = x.flatten(1) if isinstance(synapse, nn.Linear) else x
                x, membranes[i] = neuron(synapse(x), membranes[i])
                x = self.pool(x) if isinstance(synapse, nn.Conv2d) else x
            total = total + membranes[-1]
        assert isinstance(total, Tensor)
        return total


def _snntorch_neuron(num_neurons: int, num_steps: int) -> Callable[[Tensor], Tensor]:
    import snntorch as snn

    neuron = snn.Leaky(torch.full((num_neurons,), BETA_HIDDEN), spike_grad=SURROGATE)

    def run(current: Tensor) -> Tensor:
        mem, spikes = neuron.reset_mem(), []
        for step in current.unbind(0):
            spk, mem = neuron(step, mem)
            spikes.append(spk)
        return torch.stack(spikes)

    return run


class LeakyParallelNetwork(nn.Module):
    """``snn.LeakyParallel`` holds its own Linear; the readout is a Linear and a scan."""

    def __init__(self, sizes: Sequence[int], num_steps: int) -> None:
        import snntorch as snn

        super().__init__()
        self.layers = nn.ModuleList(
            snn.LeakyParallel(a, b, beta=BETA_HIDDEN, learn_beta=True, spike_grad=SURROGATE)
            for a, b in pairwise(sizes[:-1])
        )
        self.linear = nn.Linear(sizes[-2], sizes[-1])
        self.beta = nn.Parameter(torch.full((sizes[-1],), BETA_READOUT))

    def forward(self, spikes: Tensor) -> Tensor:
        """Scores ``[B, C]``."""
        for layer in self.layers:
            spikes = layer(spikes)
        return leaky_scan(self.linear(spikes), self.beta).sum(0)


class _FirstOutput(nn.Module):
    """The spikes alone of a layer that returns them with its state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, current: Tensor) -> Tensor:
        return self.layer(current)[0]


def _state_leaky(num_neurons: int) -> nn.Module:
    import snntorch as snn

    return _FirstOutput(snn.StateLeaky(beta=BETA_HIDDEN, channels=num_neurons, spike_grad=SURROGATE))


def _state_leaky_neuron(num_neurons: int, num_steps: int) -> Callable[[Tensor], Tensor]:
    return _state_leaky(num_neurons)


class _Reset(nn.Module):
    """A SpikingJelly layer that is put to rest before each sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, current: Tensor) -> Tensor:
        from spikingjelly.activation_based.functional import reset_net

        reset_net(self.layer)
        return self.layer(current)


def _spikingjelly_lif(num_neurons: int) -> nn.Module:
    from spikingjelly.activation_based import neuron

    # tau of SpikingJelly: V += (I - V) / tau, without decay_input V = (1 - 1/tau) V + I.
    return _Reset(
        neuron.LIFNode(tau=1 / (1 - BETA_HIDDEN), decay_input=False, v_reset=None, detach_reset=True, step_mode="m")
    )


def _spikingjelly_psn(num_neurons: int, num_steps: int) -> nn.Module:
    from spikingjelly.activation_based import neuron

    return neuron.PSN(num_steps)


def _norse_lif(num_neurons: int) -> nn.Module:
    import norse.torch as norse

    return _FirstOutput(norse.LIF())
