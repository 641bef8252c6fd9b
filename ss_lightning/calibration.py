"""A start that is neither silent nor saturated: weights scaled until a stated share of the neurons fires.

A neuron that never crosses its threshold learns little, and one that crosses it with the first input says nothing. How
large weights must be for the middle of the two depends on how dense the input is, on the steps and on the time
constants; one batch of the data tells (in the spirit of Mishkin & Matas, "All you need is a good init",
arXiv:1511.06422, with a spike in the place of the variance).
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ss_lightning.networks import Spikes, SpikingNetwork, evaluating

_SMALLEST, _LARGEST = 1e-4, 1e4
_ATTEMPTS = 40
_TOLERANCE = 0.01
# A layer that fires less than this share of its pairs of neuron and sample counts as silent. One that is woken is
# brought to the second share, as near as the third.
SILENT_RATE = 0.01
WAKING_RATE = 0.2
_WAKING_TOLERANCE = 0.05


@torch.no_grad()
def calibrate_weights(network: SpikingNetwork, spikes: Spikes, rate: float) -> list[float]:
    """Scale the weights of each hidden layer, from the input upwards, until it fires at a rate.

    The weights of the readout stay. With biases of zero, as they begin, the share of neurons that fire rises with the
    weights without a step back, so halving the interval finds the factor.

    Args:
        network: changed in place.
        spikes: a batch of input, as for the network.
        rate: share of all pairs of neuron and sample with a spike, between 0 and 1.

    Returns:
        The factor of each hidden layer.

    Raises:
        ValueError: the rate is not between 0 and 1, or a layer, which stays as it was, cannot reach it; or currents
            are normalised, so that weights have no say.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate must lie between 0 and 1, got {rate}")
    if network.batch_norm:
        raise ValueError("with batch_norm the scale of the weights changes no current; use one of the two")
    factors = []
    with evaluating(network):
        for depth, layer in enumerate(network.hidden_synapses):
            factor, most = _calibrate_layer(network, spikes, depth, layer, rate, _SMALLEST, _TOLERANCE)
            if factor is None:
                raise ValueError(
                    f"hidden layer {depth} cannot fire at a rate of {rate:g}: with weights however large it is "
                    f"{most:.3f}. Lower the rate, or give the layer more input"
                )
            factors.append(factor)
    return factors


@torch.no_grad()
def silent_layers(network: SpikingNetwork, spikes: Spikes) -> dict[int, float]:
    """The hidden layers that are silent, and the share of their pairs of neuron and sample with a spike.

    Args:
        network: is not changed.
        spikes: a batch of input, as for the network.
    """
    with evaluating(network):
        activity = network(spikes).activity
    rates = enumerate(_firing_rate(layer.spike_count) for layer in activity)
    return {depth: rate for depth, rate in rates if rate < SILENT_RATE}


class Woken(NamedTuple):
    """What was found and done in one hidden layer that was silent.

    Attributes:
        rate: share of its pairs of neuron and sample with a spike, as it was found.
        factor: what its weights were multiplied by; 1 for a layer that larger weights do not wake.
    """

    rate: float
    factor: float


@torch.no_grad()
def wake_silent_layers(network: SpikingNetwork, spikes: Spikes) -> dict[int, Woken]:
    """Raise the weights of the hidden layers that are silent, from the input upwards, until a fifth of them fires.

    A layer is silent if less than a hundredth of its pairs of neuron and sample has a spike. Others are left alone, and
    so is one that weights cannot wake, because its input is silent itself.

    Args:
        network: changed in place. Without ``batch_norm``: normalised currents do not depend on the weights' scale.
        spikes: a batch of input, as for the network.

    Returns:
        What was done, by the depth of the layer; nothing for a layer that was not silent when its turn came.
    """
    woken: dict[int, Woken] = {}
    with evaluating(network):
        for depth, layer in enumerate(network.hidden_synapses):
            rate = silent_layers(network, spikes).get(depth)
            if rate is not None:
                factor, _ = _calibrate_layer(network, spikes, depth, layer, WAKING_RATE, 1.0, _WAKING_TOLERANCE)
                woken[depth] = Woken(rate, factor or 1.0)
    return woken


def scale_weights(network: SpikingNetwork, factors: list[float]) -> None:
    """Multiply the weights of each hidden layer by its factor, in place.

    Args:
        network: changed in place.
        factors: one for each hidden layer, from the input upwards.
    """
    for layer, factor in zip(network.hidden_synapses, factors, strict=True):
        if factor != 1:  # to take weights apart and put them together again rounds them
            _scale(layer, factor)


@torch.no_grad()
def _scale(layer: nn.Module, factor: float) -> None:
    if is_parametrized(layer, "weight"):
        layer.weight = cast(Tensor, layer.weight) * factor  # its parametrisation takes it apart again
    else:
        cast(nn.Linear, layer).weight.mul_(factor)


def _firing_rate(spike_count: Tensor) -> float:
    """Share of the pairs of neuron and sample ``[B, N]`` that have a spike; 1 without samples."""
    pairs = spike_count.numel()
    return torch.count_nonzero(spike_count).item() / pairs if pairs else 1.0


def _calibrate_layer(
    network: SpikingNetwork,
    spikes: Spikes,
    depth: int,
    layer: nn.Module,
    rate: float,
    smallest: float,
    tolerance: float,
) -> tuple[float | None, float]:
    """The factor, at least ``smallest``, that brings one layer to the rate, applied; None if there is none.

    The second number is the rate with the largest weights.
    """
    scale = 1.0

    def fired(factor: float) -> float:
        nonlocal scale
        _scale(layer, factor / scale)
        scale = factor
        return _firing_rate(network(spikes).activity[depth].spike_count)

    most = fired(_LARGEST)
    if most < rate:
        _scale(layer, 1 / scale)
        return None, most
    low, high = math.log(smallest), math.log(_LARGEST)
    for _ in range(_ATTEMPTS):
        middle = (low + high) / 2
        found = fired(math.exp(middle))
        if abs(found - rate) < tolerance:
            break
        low, high = (middle, high) if found < rate else (low, middle)
    return scale, most
