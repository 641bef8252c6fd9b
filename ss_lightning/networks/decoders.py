"""Decoders: from a readout over time to class scores, and to the step at which the decision falls."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

DecoderName = Literal["sum", "max", "softmax", "first_spike"]

# The scores of a class that fires in the first step and of a silent one differ by this: the softmax can be confident.
_FIRST_SPIKE_RANGE = 20.0


@dataclass(frozen=True)
class Decoder(ABC):
    """How class scores are read from a readout. Two decoders of one class are equal.

    Attributes:
        name: the word that a config uses.
        readout_fires: whether the readout is a layer of spiking neurons; otherwise its membrane is read.
    """

    name: ClassVar[str]
    readout_fires: ClassVar[bool] = False

    @abstractmethod
    def scores(self, readout: Tensor) -> Tensor:
        """Class scores.

        Args:
            readout: membrane or spikes of the readout, ``[T, B, C]``.

        Returns:
            Scores ``[B, C]``. Their softmax is the predicted distribution.
        """

    @abstractmethod
    def running_scores(self, readout: Tensor) -> Tensor:
        """Scores from the steps so far, in any unit in which classes compare as they do in :meth:`scores`.

        Args:
            readout: ``[T, B, C]``.

        Returns:
            ``[T, B, C]``.
        """

    def decision_step(self, readout: Tensor) -> Tensor:
        """The step at which the decision falls.

        Args:
            readout: ``[T, B, C]``.

        Returns:
            int64 ``[B]``: the first step from which the class that wins in the end leads all others, without a tie,
            in the scores from the steps so far; ``T`` where classes tie at the end.
        """
        running = self.running_scores(readout)
        winner = running[-1].argmax(1).expand(len(readout), -1)[..., None]
        others = running.scatter(2, winner, -torch.inf).amax(2)
        leads = running.gather(2, winner).squeeze(2) > others
        # Steps at the end through which the winner leads without a break.
        return len(readout) - leads.flip(0).long().cumprod(0).sum(0)


class SumDecoder(Decoder):
    """The sum of the membrane over time."""

    name = "sum"

    def scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.scores`."""
        return readout.sum(0)

    def running_scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.running_scores`."""
        return readout.cumsum(0)


class MaxDecoder(Decoder):
    """The maximum of the membrane over time."""

    name = "max"

    def scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.scores`."""
        return readout.amax(0)

    def running_scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.running_scores`."""
        return readout.cummax(0).values


class SoftmaxDecoder(Decoder):
    """The logarithm of the class probabilities of every step, averaged over the steps."""

    name = "softmax"

    def scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.scores`."""
        return readout.log_softmax(2).logsumexp(0) - math.log(len(readout))

    def running_scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.running_scores`."""
        return readout.softmax(2).cumsum(0)


class FirstSpikeDecoder(Decoder):
    """The time of the first spike of a readout that fires: the earlier, the higher the score.

    The score is ``-20 t* / T``, with ``t* = T`` for a silent class. It is linear in the spikes, so the gradient
    estimator of the neuron decides what moving a spike means.
    """

    name = "first_spike"
    readout_fires = True

    def scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.scores`; the readout has at most one spike per class and sample."""
        remaining = _remaining_steps(readout)
        return (torch.einsum("t,tbc->bc", remaining, readout) / len(readout) - 1) * _FIRST_SPIKE_RANGE

    def running_scores(self, readout: Tensor) -> Tensor:
        """See :meth:`Decoder.running_scores`."""
        return (_remaining_steps(readout)[:, None, None] * readout).cumsum(0)


def _remaining_steps(spikes: Tensor) -> Tensor:
    """``T, T - 1, ..., 1``."""
    return torch.arange(len(spikes), 0, -1, dtype=spikes.dtype, device=spikes.device)


_DECODERS = {cls.name: cls for cls in (SumDecoder, MaxDecoder, SoftmaxDecoder, FirstSpikeDecoder)}


def make_decoder(name: str) -> Decoder:
    """The decoder of that name.

    Args:
        name: ``sum`` or ``max`` (of the membrane over time), ``softmax`` (class probabilities of every step, averaged),
            or ``first_spike`` (the readout fires, and an earlier spike is a higher score).

    Raises:
        ValueError: there is no such decoder.

    Example:
        >>> import torch
        >>> decoder = make_decoder("sum")
        >>> readout = torch.tensor([[[0.0, 1.0]], [[3.0, 1.0]], [[3.0, 1.0]]])  # three steps, one sample, two classes
        >>> decoder.scores(readout)
        tensor([[6., 3.]])
        >>> decoder.decision_step(readout)
        tensor([1])
    """
    if name not in _DECODERS:
        *others, last = _DECODERS
        raise ValueError(f"unknown decoder {name!r}; choose {', '.join(others)} or {last}")
    return _DECODERS[name]()
