"""Energy of the arithmetic of a network, from counted operations and a published cost for each of them.

An estimate, and one of the arithmetic alone: reading and writing memory, control and everything outside the processor
are left out. docs/explanation/energy.md has the assumptions.

Attributes:
    ADD_PJ: picojoules of one addition of float32 numbers at 45 nm and 0.9 V.
    MULTIPLY_PJ: the same of one multiplication.

Source of the costs: Horowitz, ISSCC 2014, doi 10.1109/ISSCC.2014.6757323.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ADD_PJ = 0.9
MULTIPLY_PJ = 3.7


class Arithmetic(NamedTuple):
    """Operations on float32 numbers, as numbers or as tensors of one shape.

    Attributes:
        accumulates: additions to a sum (AC).
        multiply_accumulates: products that are added to a sum (MAC).
    """

    accumulates: Tensor | float
    multiply_accumulates: Tensor | float

    def energy_nj(self) -> Tensor | float:
        """Their energy in nanojoules.

        Example:
            >>> Arithmetic(accumulates=1000, multiply_accumulates=0).energy_nj()
            0.9
            >>> round(Arithmetic(accumulates=0, multiply_accumulates=1000).energy_nj(), 6)
            4.6
        """
        mac_pj = MULTIPLY_PJ + ADD_PJ
        return self.accumulates * (ADD_PJ / 1000) + self.multiply_accumulates * (mac_pj / 1000)


def neuron_updates(first_spike_time: Tensor, num_steps: int, fires_once: bool) -> Tensor:
    """Steps in which the membrane of each neuron is updated.

    A neuron that fires once needs no membrane after its spike, so it counts up to that step. Any other neuron counts
    all steps.

    Args:
        first_spike_time: step of the first spike, int64 ``[B, N]``; ``num_steps`` for a silent neuron.
        num_steps: ``T``.
        fires_once: whether the neurons fire at most once.

    Returns:
        int64 ``[B, N]``.

    Example:
        >>> import torch
        >>> times = torch.tensor([[0, 3, 10]])  # the last one is silent
        >>> neuron_updates(times, 10, fires_once=True), neuron_updates(times, 10, fires_once=False)
        (tensor([[ 1,  4, 10]]), tensor([[10, 10, 10]]))
    """
    if not fires_once:
        return first_spike_time.new_full(first_spike_time.shape, num_steps)
    return (first_spike_time + 1).clamp(max=num_steps)


def split_input(steps: Tensor) -> tuple[Tensor, Tensor]:
    """What a dense input is made of: events, each of which adds a weight, and values, which multiply it.

    - A whole number in an integer tensor, or in a sample that changes over time, is that many events.
    - Any other number that is not zero is a value.
    - A sample of a floating-point tensor that is the same in all of several steps is a current: its products do not
      change, so its values count once.

    Args:
        steps: time-major ``[T, B, ...]``, zero or more.

    Returns:
        Events and values of each sample and unit, int64 ``[B, N]`` both.

    Example:
        >>> import torch
        >>> split_input(torch.tensor([[[0.0, 1.0, 0.5]], [[1.0, 2.0, 0.0]]]))  # one sample, two steps
        (tensor([[1, 3, 0]]), tensor([[0, 0, 1]]))
        >>> split_input(torch.tensor([[[0.0, 1.0, 0.5]]]).expand(20, 1, 3))
        (tensor([[0, 0, 0]]), tensor([[0, 1, 1]]))
    """
    steps = steps.flatten(2)
    if not steps.is_floating_point():
        events = steps.long().sum(0)
        return events, events.new_zeros(events.shape)
    whole = steps == steps.floor()
    events, values = (steps * whole).long().sum(0), (~whole).sum(0)
    if len(steps) == 1:
        return events, values
    constant = (steps == steps[:1]).all(2).all(0)[:, None]
    return events.where(~constant, 0), (steps[0] != 0).long().where(constant, values)


def spiking_arithmetic(
    events: Tensor, values: Tensor | None, spike_count: Tensor, fan_out: Tensor, updates: Tensor
) -> Arithmetic:
    """Arithmetic of a batch in a spiking network, summed over its samples.

    - A spike is one AC for each non-zero weight that it meets.
    - A value of the input is one MAC for each of them.
    - A neuron and step is one MAC, ``beta * V + b``, and one AC, which compares ``V`` with the threshold, or adds it
      to the score of a class.

    Args:
        events: events of the input, ``[B, N_in]``, see :func:`split_input`.
        values: values of the input, ``[B, N_in]``, or None for none.
        spike_count: spikes of the hidden neurons, ``[B, N]``.
        fan_out: non-zero outgoing weights of the input units and of the hidden neurons, int64 ``[N_in + N]``.
        updates: steps in which each neuron is updated, those of the readout too, ``[B, N + C]``.

    Returns:
        int64, 0-d both.
    """
    each = updates.sum()
    spikes = torch.cat([events, spike_count], 1).long().sum(0)
    products = 0 if values is None else (values.sum(0) * fan_out[: values.shape[1]]).sum()
    return Arithmetic((spikes * fan_out).sum() + each, products + each)


def dense_arithmetic(weight_uses: int, num_samples: int = 1) -> Arithmetic:
    """Arithmetic of an ordinary network of the same layers, which sees a sample once: one MAC for each use of a weight.

    Args:
        weight_uses: see :attr:`ss_lightning.networks.SpikingNetwork.weight_uses`.
        num_samples: how many samples it sees.
    """
    return Arithmetic(0, weight_uses * num_samples)


def dense_loop_arithmetic(weight_uses: int, num_samples: int, num_neurons: int, num_steps: int) -> Arithmetic:
    """Arithmetic of the same network where every step is a dense product, zeros included, and updates all neurons.

    Args:
        weight_uses: see :attr:`ss_lightning.networks.SpikingNetwork.weight_uses`.
        num_samples: how many samples it sees.
        num_neurons: hidden neurons and those of the readout.
        num_steps: ``T``.
    """
    steps = num_samples * num_steps
    return Arithmetic(num_neurons * steps, (weight_uses + num_neurons) * steps)
