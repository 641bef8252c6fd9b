"""Convolutional networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss_lightning.events import EventBatch
from ss_lightning.functional.network import Stage
from ss_lightning.networks.base import NetworkOutput, Spikes, SpikingNetwork, synapses_per_input
from ss_lightning.signatures import passes_on_to


@passes_on_to(SpikingNetwork)
class ConvNet(SpikingNetwork):
    """Convolutional network: convolution, spiking neurons and pooling per stage, then fully connected layers.

    Args:
        channels: output channels of each convolution.
        kernel_size: side of the convolution windows.
        padding: zeros on each side of what a convolution sees. Half of an odd ``kernel_size``, rounded down, keeps the
            size of the images.
        pool_size: side of the pooling windows after each convolution: one number for all of them, or one for each; 1
            for no pooling.
        pool: ``max`` or ``avg``. A max pool over spikes in time passes a spike of each neuron in its window.
        hidden: number of neurons of each fully connected hidden layer.
        input_gain: the weights of the first convolution start uniform within ``input_gain / sqrt(fan_in)``. At 1, the
            paper's start, the few inputs of a window seldom reach the threshold if each fires once.

    Raises:
        ValueError: a word is unknown, a number is out of its range, or the images are too small for the layers.

    Source: Taylor, King & Harper, arXiv:2205.15286. The defaults are their ``32C5-P2-64C5-P2-1000``, except for their
    padding of 2.

    Example:
        >>> import torch
        >>> network = ConvNet(input_shape=[1, 28, 28], num_classes=10, step_ms=1.0, channels=[8], hidden=[50])
        >>> output = network(torch.zeros(5, 2, 1, 28, 28))  # 5 steps, 2 samples
        >>> output.readout.shape, network.layer_sizes
        (torch.Size([5, 2, 10]), [4608, 50])
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
        padding: int = 0,
        pool_size: int | Sequence[int] = 2,
        pool: Literal["max", "avg"] = "max",
        hidden: Sequence[int] = (1000,),
        input_gain: float = 3.0,
        **network: Any,
    ) -> None:
        super().__init__(input_gain=input_gain, **network)
        if len(self.input_shape) != 3:
            raise ValueError(
                f"a convolutional network needs images (channels, height, width), got inputs {self.input_shape}"
            )
        if pool not in ("max", "avg"):
            raise ValueError(f"unknown pool {pool!r}; choose max or avg")
        pool_sizes = [pool_size] * len(channels) if isinstance(pool_size, int) else list(pool_size)
        if not channels or min(*channels, kernel_size, *pool_sizes, *hidden) < 1:
            raise ValueError(
                "channels must list at least one convolution, and its sizes, kernel_size, pool_size and the layers of "
                f"hidden be 1 or more, got {list(channels)}, {kernel_size}, {pool_size} and {list(hidden)}"
            )
        if len(pool_sizes) != len(channels):
            raise ValueError(
                f"pool_size must be one number or one for each of the {len(channels)} convolutions, got {pool_sizes}"
            )
        if padding < 0:
            raise ValueError(f"padding must be zero or more, got {padding}")
        self.padding = padding
        self.pool = pool
        self.pool_sizes = pool_sizes
        depth, height, width = self.input_shape
        self.convolutions, self.conv_neurons = nn.ModuleList(), nn.ModuleList()
        self._conv_shapes: list[tuple[int, int, int]] = []
        for size, side in zip(channels, pool_sizes, strict=True):
            height, width = (length + 2 * padding - kernel_size + 1 for length in (height, width))
            if min(height, width) < side:
                raise ValueError(
                    f"images of {self.input_shape} are too small for {len(channels)} convolutions with kernel_size="
                    f"{kernel_size}, padding={padding} and pool_size={pool_size}"
                )
            # A bias would vanish in the normalisation.
            self.convolutions.append(nn.Conv2d(depth, size, kernel_size, padding=padding, bias=not self.batch_norm))
            self.conv_neurons.append(self.make_hidden((size, 1, 1)))
            self._conv_shapes.append((size, height, width))
            depth, height, width = size, height // side, width // side
        make = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
        self.pools = nn.ModuleList(make(side) if side > 1 else nn.Identity() for side in pool_sizes)
        sizes = [depth * height * width, *hidden, self.num_classes]
        self.synapses = nn.ModuleList(
            nn.Linear(a, b, bias=index == len(hidden) or not self.batch_norm)
            for index, (a, b) in enumerate(pairwise(sizes))
        )
        self.neurons = nn.ModuleList(self.make_hidden((size,)) for size in hidden)
        self.readout = self.make_readout()
        # The mean of a window of independent spikes varies by the side of the window less than one spike.
        weaker = [1.0, *(side if pool == "avg" else 1.0 for side in pool_sizes), *[1.0] * len(hidden)]
        self._initialise_all([*self.convolutions, *self.synapses], weaker)
        if self.batch_norm:
            for size in channels:
                self._add_norm(nn.BatchNorm2d(size))
            for size in hidden:
                self._add_norm(nn.BatchNorm1d(size))

    def forward(self, spikes: Spikes) -> NetworkOutput:
        """See :meth:`SpikingNetwork.forward`."""
        self._check_input(spikes)
        dense = spikes.to_dense() if isinstance(spikes, EventBatch) else spikes
        images = _images(dense, self.input_shape, self._linear[0].weight.dtype)
        last = len(self.convolutions) - 1

        def pooled(depth: int, fired: Tensor) -> Tensor:
            out = self._rescaled(_step_by_step(self.pools[depth], fired))
            return out.flatten(2) if depth == last else out

        stages = [
            Stage(
                partial(_step_by_step, convolution),
                partial(self._hidden_spikes, depth, neuron, num_steps=len(dense)),
                partial(pooled, depth),
            )
            for depth, (convolution, neuron) in enumerate(zip(self.convolutions, self.conv_neurons, strict=True))
        ]
        stages += [
            Stage(synapse, partial(self._hidden_spikes, depth, neuron), self._rescaled)
            for depth, (synapse, neuron) in enumerate(zip(self.synapses[:-1], self.neurons, strict=True), last + 1)
        ]
        return self._layer_by_layer(images, stages, self.synapses[-1])

    @property
    def layer_sizes(self) -> list[int]:
        """See :attr:`SpikingNetwork.layer_sizes`."""
        dense = [layer.out_features for layer in self._linear[:-1]]
        return [math.prod(shape) for shape in self._conv_shapes] + dense

    @property
    def hidden_synapses(self) -> list[nn.Module]:
        """See :attr:`SpikingNetwork.hidden_synapses`."""
        return [*self.convolutions, *self.synapses[:-1]]

    @property
    def weight_uses(self) -> int:
        """See :attr:`SpikingNetwork.weight_uses`. The zeros around what a convolution sees are no inputs."""
        total = sum(layer.weight.numel() for layer in self._linear)
        shape = self.input_shape
        for depth, convolution in enumerate(cast(list[nn.Conv2d], list(self.convolutions))):
            met = [_places_met(length, convolution.kernel_size[0], self.padding) for length in shape[1:]]
            total += convolution.in_channels * convolution.out_channels * math.prod(met)
            shape = tuple(length // self.pool_sizes[depth] for length in self._conv_shapes[depth])
        return total

    @property
    def _linear(self) -> list[nn.Linear]:
        return cast(list[nn.Linear], list(self.synapses))

    def fan_out(self) -> list[Tensor]:
        """See :meth:`SpikingNetwork.fan_out`. A pooled spike counts the synapses of the unit it lands on."""
        fan_out = []
        shapes = [self.input_shape, *self._conv_shapes]
        for depth, convolution in enumerate(cast(list[nn.Conv2d], list(self.convolutions))):
            connected = convolution.weight.ne(0).to(convolution.weight.dtype)
            ones = connected.new_ones(1, *shapes[depth + 1])
            # The way back from every output: a unit at the padded border is met by fewer windows.
            count = F.conv_transpose2d(ones, connected, padding=self.padding)[0]
            fan_out.append(count if depth == 0 else self._unpooled(count, depth - 1))
        first, *later = [synapses_per_input(layer) for layer in self._linear]
        channels, height, width = shapes[-1]
        pooled = first.view(channels, height // self.pool_sizes[-1], width // self.pool_sizes[-1])
        fan_out.append(self._unpooled(pooled.to(torch.float32), len(self.convolutions) - 1))
        # Fast algorithms for convolutions are not exact, not even for ones.
        return [count.flatten().round().long() for count in (*fan_out, *later)]

    def _unpooled(self, count: Tensor, depth: int) -> Tensor:
        """Synapses behind each neuron of a convolution, before pooling; a cut-off margin feeds nothing."""
        size, shape = self.pool_sizes[depth], self._conv_shapes[depth]
        count = count.repeat_interleave(size, 1).repeat_interleave(size, 2)
        return F.pad(count, (0, shape[2] - count.shape[2], 0, shape[1] - count.shape[1]))


def _places_met(length: int, kernel: int, padding: int) -> int:
    """Pairs of a window and a place in it, along one axis, that lie on the image and not on the zeros around it."""
    windows = range(-padding, length + padding - kernel + 1)
    return sum(max(0, min(start + kernel, length) - max(start, 0)) for start in windows)


def channels_last(images: Tensor) -> Tensor:
    """Images ``[S, C, H, W]`` whose channels lie next to each other, also where there is only one."""
    channels, _, width = images.shape[1:]
    # Flat in between: of an axis of length one torch would keep whatever stride it has.
    return images.permute(0, 2, 3, 1).flatten(2).unflatten(2, (width, channels)).permute(0, 3, 1, 2)


def _images(dense: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Input ``[T, B, N]`` as images ``[T, B, C, H, W]``, channels last; ``T`` is 1 if all steps are the same."""
    if dense.stride(0) == 0:  # as Tensor.expand makes it
        dense = dense[:1]
    steps, batch = dense.shape[:2]
    return channels_last(dense.reshape(steps * batch, *shape).to(dtype)).unflatten(0, (steps, batch))


def _step_by_step(layer: nn.Module, images: Tensor) -> Tensor:
    """A layer of images ``[S, C, H, W]`` on ``[T, B, C, H, W]``."""
    return layer(images.flatten(0, 1)).unflatten(0, images.shape[:2])
