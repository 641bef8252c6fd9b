"""Peers that are no torch modules, or have a form of input of their own: one training step of each, as a job.

Each is built the way its documentation shows; the first runs of its job compile it. All have the layers of the cell, a
dense input and one step of Adam. Neurons differ where a library has one of its own:

- jaxpike scales the input of its neurons by ``1 - beta``, jaxsnn and eventax have a current with a time constant of its
  own.
- eventax and exact-snn-nn compute spike times on a continuous axis, take times as input and classify by first spikes.

jax is imported where a job is built, after the flags that keep it to one thread.
"""

from __future__ import annotations

import math
import os
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ss_lightning.benchmark.cells import Cell
from ss_lightning.benchmark.clock import Job

# Membrane time constants in steps, as those of all contenders.
_TAU_HIDDEN, _TAU_READOUT = 10.0, 20.0
_SLOPE = 10.0
_LEARNING_RATE = 1e-4
# Neurons that eventax integrates from event to event: about 1.4 million a second on one core of an AMD EPYC.
_EVENTAX_MOST = 5e7


def jaxpike_job(cell: Cell, spikes: Tensor, labels: Tensor) -> Job:
    """``jaxpike.unroll`` and ``make_step``; one step of time an iteration, for its eight are tuned for GPUs."""
    jax, optax = _import_jax()
    import equinox
    import jaxpike

    layers: list[Any] = []
    keys = jax.random.split(jax.random.key(0), len(cell.sizes))
    for key, (fan_in, size) in zip(keys, pairwise(cell.sizes), strict=False):
        layers.append(jaxpike.Dense(fan_in, size, key=key))
        layers.append(jaxpike.LIF(tau=_TAU_HIDDEN, surrogate=jaxpike.FastSigmoid(_SLOPE)))
    layers[-1] = jaxpike.LeakyIntegrator(tau=_TAU_READOUT)
    network = jaxpike.Sequential(*layers)
    optimizer = optax.adam(_LEARNING_RATE)

    def loss(network: Any, x: Any, y: Any) -> tuple[Any, None]:
        membrane, _ = jaxpike.unroll(network, x, scan_unroll=1)
        return jaxpike.cross_entropy(membrane.sum(0), y), None

    step = jaxpike.make_step(loss, optimizer)
    state = [network, optimizer.init(equinox.filter(network, equinox.is_inexact_array))]
    batch = _as_jax(spikes, labels)

    def job() -> None:
        state[:] = step(*state, *batch)[:2]
        jax.block_until_ready(equinox.filter(state, equinox.is_array))

    return job


def spyx_job(cell: Cell, spikes: Tensor, labels: Tensor) -> Job:
    """``spyx.nn.run`` and ``spyx.optimize.make_train_step``."""
    jax, optax = _import_jax()
    import spyx
    import spyx.nn
    import spyx.optimize
    from flax import nnx

    rngs = nnx.Rngs(0)
    layers: list[Any] = []
    for fan_in, size in pairwise(cell.sizes):
        layers.append(nnx.Linear(fan_in, size, rngs=rngs))
        layers.append(spyx.nn.LIF((size,), activation=spyx.axn.superspike(_SLOPE), rngs=rngs))
    layers[-1] = spyx.nn.LI((cell.sizes[-1],), rngs=rngs)
    network = spyx.nn.Sequential(*layers)
    loss = spyx.fn.integral_crossentropy(smoothing=0.0, time_axis=0)
    optimizer = nnx.Optimizer(network, optax.adam(_LEARNING_RATE), wrt=nnx.Param)
    step = spyx.optimize.make_train_step(lambda network, x, y: loss(spyx.nn.run(network, x)[0], y))
    batch = _as_jax(spikes, labels)

    def job() -> None:
        jax.block_until_ready((step(network, optimizer, *batch), nnx.state(network)))

    return job


def jaxsnn_job(cell: Cell, spikes: Tensor, labels: Tensor) -> Job:
    """A discrete ``jaxsnn`` topology, batched by ``vmap`` as in its examples."""
    jax, optax = _import_jax()
    from jaxsnn.discrete.functional import LIFParameters, LIParameters
    from jaxsnn.discrete.modules import LI, LIF, Input, Linear
    from jaxsnn.discrete.topology import Topology

    hidden = LIFParameters(tau_mem=_TAU_HIDDEN / 1000)
    modules: dict[str, Any] = {"input": Input(cell.sizes[0])}
    wires, before = [], "input"
    for depth, (fan_in, size) in enumerate(pairwise(cell.sizes)):
        last = depth == len(cell.sizes) - 2
        modules[f"synapse{depth}"] = Linear(mean=0.0, std=1 / math.sqrt(fan_in))
        modules[f"neuron{depth}"] = LI(size, LIParameters(tau_mem=_TAU_READOUT / 1000)) if last else LIF(size, hidden)
        wires += [(before, f"synapse{depth}"), (f"synapse{depth}", f"neuron{depth}")]
        before = f"neuron{depth}"
    topology = Topology(time_steps=cell.steps, dt=1e-3)
    topology.add(modules)
    topology.connect(wires)
    init, apply = topology.done()
    batched = jax.vmap(apply, in_axes=(1, None))
    optimizer = optax.adam(_LEARNING_RATE)

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        _, outputs = batched({"input": x}, parameters)
        return optax.softmax_cross_entropy_with_integer_labels(outputs[before].sum(1), y).mean()

    @jax.jit
    def step(parameters: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(parameters, x, y), state)
        return optax.apply_updates(parameters, updates), state

    parameters = init(jax.random.PRNGKey(0))
    state = [parameters, optimizer.init(parameters)]
    batch = _as_jax(spikes, labels)

    def job() -> None:
        state[:] = step(*state, *batch)
        jax.block_until_ready(state)

    return job


def eventax_job(cell: Cell, spikes: Tensor, labels: Tensor) -> Job:
    """``FFEvNN.ttfs``: from event to event, each interval integrated as a differential equation.

    Raises:
        ValueError: a step would take minutes.
    """
    neurons = sum(cell.sizes[1:])
    # All events of a sample, and two spikes of each neuron.
    events = int(spikes.sum((0, 2)).max()) + 2 * neurons
    if events * neurons * cell.batch > _EVENTAX_MOST:
        raise ValueError(f"a step would take minutes: {events} events one after the other, of {neurons} neurons each")
    jax, optax = _import_jax()
    import equinox
    from eventax.evnn import FFEvNN
    from eventax.neuron_models import LIF

    network = FFEvNN(
        layers=list(cell.sizes[1:]),
        in_size=cell.sizes[0],
        neuron_model=LIF,
        max_solver_time=float(cell.steps),
        key=jax.random.key(0),
        max_event_steps=events,
        solver_stepsize=1.0,
        output_no_spike_value=float(cell.steps),
        thresh=1.0,
        tsyn=_TAU_HIDDEN / 2,
        tmem=_TAU_HIDDEN,
        wlim=1 / math.sqrt(cell.sizes[0]),
        blim=0.0,
    )
    optimizer = optax.adam(_LEARNING_RATE)

    def loss(network: Any, x: Any, y: Any) -> Any:
        times = jax.vmap(network.ttfs)(x)
        return optax.softmax_cross_entropy_with_integer_labels(-times, y).mean()

    @equinox.filter_jit
    def step(network: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(equinox.filter_grad(loss)(network, x, y), state)
        return equinox.apply_updates(network, updates), state

    state = [network, optimizer.init(equinox.filter(network, equinox.is_inexact_array))]
    batch = _as_jax(spike_times(spikes), labels)

    def job() -> None:
        state[:] = step(*state, *batch)
        jax.block_until_ready(equinox.filter(state, equinox.is_array))

    return job


def exact_snn_job(cell: Cell, spikes: Tensor, labels: Tensor) -> Job:
    """``ExactTTFSLinear`` layers and their loss.

    Raises:
        ValueError: a unit fires more than once.
    """
    if not cell.once:
        raise ValueError("takes one spike time for each input, and these inputs fire several times")
    from exact_snn import ExactTTFSLinear, latency_cross_entropy

    times = spike_times(spikes)[:, :, 0].T.contiguous()
    end = float(cell.steps)
    network = nn.Sequential(
        *(
            ExactTTFSLinear(fan_in, size, tm=_TAU_HIDDEN, ts=_TAU_HIDDEN / 2, t_max=end, w_scale=1 / math.sqrt(fan_in))
            for fan_in, size in pairwise(cell.sizes)
        )
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)

    def job() -> None:
        optimizer.zero_grad()
        latency_cross_entropy(network(times), labels, end).backward()
        optimizer.step()

    return job


class BtorchLif(nn.Module):
    """A layer of btorch's neurons over a whole sequence, compiled by ``torch.compile`` eight steps at a time.

    Args:
        num_neurons: ``N``.
    """

    def __init__(self, num_neurons: int) -> None:
        from btorch.models.neurons.lif import LIF
        from btorch.models.rnn import make_rnn
        from btorch.models.surrogate import SuperSpike

        super().__init__()
        # V += -V / tau + I decays by 1 - 1 / tau; the slope of SuperSpike has a factor of its own.
        neuron = LIF(
            num_neurons,
            tau=1 / (1 - math.exp(-1 / _TAU_HIDDEN)),
            detach_reset=True,
            surrogate_function=SuperSpike(_SLOPE / (math.sqrt(2) - 1)),
        )
        self.layer = torch.compile(make_rnn(neuron))

    def forward(self, current: Tensor) -> Tensor:
        """Spikes ``[T, B, N]`` of currents ``[T, B, N]``."""
        from btorch.models import environ
        from btorch.models.functional import init_net_state

        init_net_state(self.layer, batch_size=current.shape[1], dtype=current.dtype)  # float64 by default
        with environ.context(dt=1.0):
            return self.layer(current)[0]


def _import_jax() -> tuple[Any, Any]:
    """jax, with as many threads as torch may use, and optax."""
    if torch.get_num_threads() == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import optax

    return jax, optax


def _as_jax(*tensors: Tensor) -> list[Any]:
    import jax.numpy

    return [jax.numpy.asarray(tensor.numpy()) for tensor in tensors]


def spike_times(spikes: Tensor) -> Tensor:
    """When the units of dense spikes ``[T, B, N]`` fire.

    Returns:
        Times in steps, in the middle of each step, ``[B, N, K]``; infinite where a unit fires fewer than ``K`` times.
    """
    by_unit = spikes.permute(1, 2, 0).numpy()
    sample, unit, step = np.nonzero(by_unit)
    key = sample * by_unit.shape[1] + unit
    counts = np.bincount(key, minlength=by_unit.shape[0] * by_unit.shape[1])
    rank = np.arange(len(key)) - np.repeat(np.cumsum(counts) - counts, counts)
    times = np.full((len(counts), counts.max(initial=1)), np.inf, np.float32)
    times[key, rank] = step + 0.5
    return torch.from_numpy(times.reshape(*by_unit.shape[:2], -1))
