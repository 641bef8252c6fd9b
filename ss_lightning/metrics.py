"""Spike statistics as torchmetrics: sums that add up over batches and over processes.

Definitions follow NeuroBench where it has them: a synaptic operation is a spike that meets a non-zero weight. Energies
are those of :mod:`ss_lightning.energy`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from ss_lightning.energy import (
    Arithmetic,
    dense_arithmetic,
    dense_loop_arithmetic,
    neuron_updates,
    spiking_arithmetic,
    split_input,
)
from ss_lightning.events import EventBatch
from ss_lightning.networks import NetworkOutput, Spikes

# A matrix of more classes cannot be read.
_MOST_CLASSES_SHOWN = 256


class _PerSample(Metric):
    """A total divided by a number of things; all states sum over processes.

    Spikes and steps are whole numbers, so their totals are exact integers on every device, whether or not it has
    float64 (Apple's MPS has none), and the same however the samples are shared among batches and processes. What a
    graded input has beyond whole numbers is added up apart.
    """

    full_state_update = False
    total: Tensor
    rest: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("rest", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def _add_spikes(self, spike_count: Tensor, weight: Tensor | int = 1) -> None:
        """Add spike counts ``[B, N]``, each times the weight (a whole number) of its unit."""
        if spike_count.is_floating_point():
            whole = spike_count.detach().floor()
            self.rest += ((spike_count.detach() - whole).sum(0, dtype=torch.float32) * weight).sum()
            spike_count = whole
        self.total += (spike_count.long().sum(0) * weight).sum()
        self.count += len(spike_count)

    def compute(self) -> Tensor:
        """The mean, NaN if nothing was counted."""
        return mean_of_total(self.total, self.rest, self.count)


def mean_of_total(total: Tensor, rest: Tensor, count: Tensor) -> Tensor:
    """``(total + rest) / count`` to the last digits of float32, without float64.

    Args:
        total: int64, 0-d, zero or more.
        rest: float32, 0-d.
        count: int64, 0-d, zero or more.

    Returns:
        float32, 0-d; NaN if ``count`` is 0.
    """
    whole = torch.div(total, count.clamp(min=1), rounding_mode="floor")
    left = (total - whole * count).float() + rest
    return whole.float() + left / count.float()


class SpikesPerSample(_PerSample):
    """Mean number of spikes per sample."""

    def update(self, spike_count: Tensor) -> None:
        """Add spike counts ``[B, N]``."""
        self._add_spikes(spike_count)


class SynopsPerSample(_PerSample):
    """Mean number of effective synaptic operations per sample: spikes times their non-zero outgoing weights."""

    def update(self, spike_count: Tensor, fan_out: Tensor) -> None:
        """Add spike counts ``[B, N]`` of units with ``fan_out`` ``[N]`` non-zero outgoing weights."""
        self._add_spikes(spike_count, fan_out)


class NeuronUpdatesPerSample(_PerSample):
    """Mean number of updates of a membrane per sample, see :func:`ss_lightning.energy.neuron_updates`."""

    def update(self, updates: Tensor) -> None:
        """Add the updates ``[B, N]`` of each neuron."""
        self._add_spikes(updates)


class EnergyPerSample(Metric):
    """Mean energy of the arithmetic per sample in nanojoules; operations add up as whole numbers."""

    full_state_update = False
    accumulates: Tensor
    multiply_accumulates: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("accumulates", "multiply_accumulates", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, arithmetic: Arithmetic, num_samples: int) -> None:
        """Add the arithmetic of ``num_samples`` samples together, whole numbers."""
        self.accumulates += arithmetic.accumulates
        self.multiply_accumulates += arithmetic.multiply_accumulates
        self.count += num_samples

    def compute(self) -> Tensor:
        """The mean, NaN if nothing was counted."""
        rest = torch.zeros((), device=self.count.device)
        totals = (self.accumulates, self.multiply_accumulates)
        return torch.as_tensor(Arithmetic(*(mean_of_total(total, rest, self.count) for total in totals)).energy_nj())


class FirstSpikeTime(_PerSample):
    """Mean time of the first spike in milliseconds, over the neurons that fire.

    Args:
        step_ms: length of a step; a spike in the first step counts as 0 ms.
    """

    def __init__(self, step_ms: float) -> None:
        super().__init__()
        self.step_ms = step_ms

    def update(self, first_spike_time: Tensor, spike_count: Tensor) -> None:
        """Add steps of the first spikes ``[B, N]``, used where ``spike_count`` ``[B, N]`` is not zero."""
        fired = spike_count > 0
        self.total += (first_spike_time * fired).sum()
        self.count += fired.sum()

    def compute(self) -> Tensor:
        """The mean, NaN if nothing was counted."""
        return super().compute() * self.step_ms


class DeadFraction(Metric):
    """Share of neurons that fire for no sample at all.

    Args:
        num_neurons: ``N``.
    """

    full_state_update = False
    fired: Tensor

    def __init__(self, num_neurons: int) -> None:
        super().__init__()
        self.add_state("fired", torch.zeros(num_neurons, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, spike_count: Tensor) -> None:
        """Add spike counts ``[B, N]``."""
        self.fired += (spike_count > 0).sum(0)

    def compute(self) -> Tensor:
        """The share, between 0 and 1."""
        return (self.fired == 0).float().mean()


class ConfusionMatrix(Metric):
    """How often each class was taken for each.

    Args:
        num_classes: ``C``.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add scores ``[B, C]`` of samples whose true classes are ``labels`` ``[B]``."""
        classes = len(self.counts)
        cell = labels * classes + scores.argmax(1)
        self.counts += torch.bincount(cell, minlength=classes**2).view(classes, classes)

    def compute(self) -> Tensor:
        """int64 ``[C, C]``: samples by true class (rows) and predicted class (columns)."""
        return self.counts


def input_spike_count(spikes: Spikes) -> Tensor:
    """Input spikes of each sample and unit.

    Args:
        spikes: events, or a time-major tensor ``[T, B, ...]``.

    Returns:
        ``[B, N]``.
    """
    if not isinstance(spikes, EventBatch):
        return spikes.flatten(2).sum(0, dtype=torch.float32)
    sample = torch.repeat_interleave(torch.arange(spikes.batch_size, device=spikes.device), spikes.events_per_sample())
    index = sample * spikes.num_units + spikes.units
    return torch.bincount(index, minlength=spikes.batch_size * spikes.num_units).view(
        spikes.batch_size, spikes.num_units
    )


class EvaluationMetrics(nn.Module):
    """Everything that is logged of an evaluation: loss, accuracy, what the spikes did and what they cost.

    Args:
        num_classes: ``C``.
        layer_sizes: neurons of each hidden layer.
        step_ms: length of a step in milliseconds.
        weight_uses: see :attr:`ss_lightning.networks.SpikingNetwork.weight_uses`.
        fires_once: whether every hidden neuron fires at most once.
    """

    def __init__(
        self, num_classes: int, layer_sizes: list[int], step_ms: float, weight_uses: int, fires_once: bool
    ) -> None:
        super().__init__()
        self._weight_uses = weight_uses
        self._fires_once = fires_once
        self.loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        # Not logged, for it is no number, and not counted where nobody could look at it.
        self.confusion = ConfusionMatrix(num_classes) if num_classes <= _MOST_CLASSES_SHOWN else None
        self.input_spikes_per_sample = SpikesPerSample()
        self.synops_per_sample = SynopsPerSample()
        self.neuron_updates_per_sample = NeuronUpdatesPerSample()
        self.energy_nj = EnergyPerSample()
        self.energy_dense_nj = EnergyPerSample()
        self.energy_dense_loop_nj = EnergyPerSample()
        self.spikes_per_sample = SpikesPerSample()
        self.dead_fraction = DeadFraction(sum(layer_sizes))
        self.first_spike_time = FirstSpikeTime(step_ms)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "spikes_per_sample": SpikesPerSample(),
                    "dead_fraction": DeadFraction(size),
                    "first_spike_time": FirstSpikeTime(step_ms),
                }
            )
            for size in layer_sizes
        )

    def update(
        self,
        spikes: Spikes,
        output: NetworkOutput,
        fan_out: list[Tensor],
        loss: Tensor,
        scores: Tensor,
        labels: Tensor,
    ) -> None:
        """Add one batch; one without samples changes nothing.

        Args:
            spikes: input of the network.
            output: what the network returned.
            fan_out: see :meth:`ss_lightning.networks.SpikingNetwork.fan_out`.
            loss: mean over the samples, 0-d.
            scores: ``[B, C]``.
            labels: true classes, ``[B]``.
        """
        if not len(labels):
            return
        self.loss.update(loss.detach(), weight=len(labels))
        self.accuracy.update(scores, labels)
        if self.confusion is not None:
            self.confusion.update(scores, labels)
        input_count = input_spike_count(spikes)
        self.input_spikes_per_sample.update(input_count)
        layers = [layer.spike_count.detach() for layer in output.activity]
        counts = torch.cat(layers, 1)
        times = torch.cat([layer.first_spike_time for layer in output.activity], 1)
        self.synops_per_sample.update(torch.cat([input_count, counts], 1), torch.cat(fan_out))
        num_steps, num_samples, num_classes = output.readout.shape
        hidden = neuron_updates(times, num_steps, self._fires_once)
        # The readout goes on to the last step.
        updates = torch.cat([hidden, hidden.new_full((num_samples, num_classes), num_steps)], 1)
        self.neuron_updates_per_sample.update(updates)
        events, values = (input_count, None) if isinstance(spikes, EventBatch) else split_input(spikes)
        spiking = spiking_arithmetic(events, values, counts, torch.cat(fan_out), updates)
        self.energy_nj.update(spiking, num_samples)
        size = (self._weight_uses, num_samples)
        self.energy_dense_nj.update(dense_arithmetic(*size), num_samples)
        self.energy_dense_loop_nj.update(dense_loop_arithmetic(*size, updates.shape[1], num_steps), num_samples)
        _update_activity(self._modules, counts, times)
        for metrics, count, layer in zip(self.layers, layers, output.activity, strict=True):
            _update_activity(metrics, count, layer.first_spike_time)

    def take_confusion(self) -> Tensor | None:
        """The confusion matrix ``[C, C]`` of what was evaluated since the last call, on the CPU; None for many classes.

        All processes of a training must call this.
        """
        if self.confusion is None:
            return None
        counts = self.confusion.compute().cpu()
        self.confusion.reset()
        return counts

    def dead_fractions(self) -> list[float]:
        """Share of the neurons of each hidden layer that fired for no sample."""
        return [float(layer["dead_fraction"].compute()) for layer in self.layers]  # type: ignore[index]

    def named_metrics(self) -> Iterator[tuple[str, Metric]]:
        """Names as they are logged, without the ``val/`` or ``test/`` in front."""
        for name, module in self.named_children():
            if isinstance(module, Metric) and module is not self.confusion:
                yield name, module
        for index, layer in enumerate(self.layers):
            for name, module in layer.items():  # type: ignore[operator]
                yield f"{name}/layer{index}", module


def _update_activity(metrics, counts: Tensor, times: Tensor) -> None:
    metrics["spikes_per_sample"].update(counts)
    metrics["dead_fraction"].update(counts)
    metrics["first_spike_time"].update(times, counts)
