"""Who is compared: each contender builds the same network, or the same layer of neurons, its own way.

Every network computes hidden layers of spiking neurons, a leaky readout and the sum of its membrane over time, with a
fast-sigmoid surrogate of slope 10. All take the same batch, as events or as a dense time-major tensor prepared before
the clock starts. Loops apply the Linear per step or to the whole sequence, whichever is the library's usual form, and
never index ``x[t]`` in the loop: each such select writes a gradient of the full size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss_lightning.functional import leaky_scan, single_spike
from ss_lightning.networks import MLP, SpikingNetwork
from ss_lightning.neurons import StandardSingleSpikeLeaky
from ss_lightning.surrogate import FastSigmoid

SURROGATE = FastSigmoid(10)
BETA_HIDDEN, BETA_READOUT = math.exp(-1 / 10), math.exp(-1 / 20)


@dataclass(frozen=True)
class Contender:
    """One way to do the same job.

    Attributes:
        name: as it stands in the tables.
        network: ``(sizes, num_steps) -> module`` from input to class scores, sizes input first; None if it has none.
        neuron: ``(num_neurons, num_steps) -> function`` from current ``[T, B, N]`` to spikes; None if it has none.
        takes: ``events`` or ``dense``, the form of the batch.
        package: what must be installed, None for what comes with ss_lightning.
    """

    name: str
    network: Callable[[Sequence[int], int], nn.Module] | None = None
    neuron: Callable[[int, int], Callable[[Tensor], Tensor]] | None = None
    takes: str = "dense"
    package: str | None = None

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return self.package is None or find_spec(self.package) is not None


def contenders() -> list[Contender]:
    """All contenders whose packages are installed; the baseline, snnTorch's ``Leaky``, comes first."""
    everyone = [
        Contender("snnTorch Leaky", SnnTorchLoop, _snntorch_neuron),
        Contender("snnTorch LeakyParallel", LeakyParallelNetwork),
        Contender("snnTorch StateLeaky", lambda s, t: SequenceNetwork(s, _state_leaky), _state_leaky_neuron),
        Contender("paper's block", lambda s, t: SequenceNetwork(s, PaperBlock, t), PaperBlock),
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
    for backend in ("numba", "torch"):
        for estimator in ("ramp", "survival", "masked"):
            everyone.append(
                Contender(
                    f"ss_lightning {estimator} ({backend})",
                    _ours(estimator, backend),
                    _ours_neuron(estimator, backend),
                    takes="events",
                )
            )
    return [contender for contender in everyone if contender.installed]


# ss_lightning ---------------------------------------------------------------------------------------------------------


class Ours(nn.Module):
    """The MLP of this package, down to class scores."""

    def __init__(self, sizes: Sequence[int], **options: Any) -> None:
        super().__init__()
        self.net: SpikingNetwork = MLP(
            input_shape=sizes[:1],
            num_classes=sizes[-1],
            hidden=sizes[1:-1],
            step_ms=1,
            tau_hidden_ms=10,
            tau_readout_ms=20,
            **options,
        )

    def forward(self, batch: Any) -> Tensor:
        """Scores ``[B, C]``."""
        return self.net(batch).readout.sum(0)


def _ours(estimator: str, backend: str) -> Callable[[Sequence[int], int], nn.Module]:
    return lambda sizes, num_steps: Ours(sizes, estimator=estimator, backend=backend)


def _ours_neuron(estimator: str, backend: str) -> Callable[[int, int], Callable[[Tensor], Tensor]]:
    def build(num_neurons: int, num_steps: int) -> Callable[[Tensor], Tensor]:
        beta = torch.full((num_neurons,), BETA_HIDDEN)
        return lambda x: single_spike(x, beta, surrogate=SURROGATE, estimator=estimator, backend=backend)

    return build


def _standard_neuron(num_neurons: int, num_steps: int) -> Callable[[Tensor], Tensor]:
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


def _snntorch_neuron(num_neurons: int, num_steps: int) -> Callable[[Tensor], Tensor]:
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
