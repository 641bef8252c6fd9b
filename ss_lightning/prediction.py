"""What a trained network says of recordings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ss_lightning.arrays import TimeUnit, as_recordings
from ss_lightning.data.recordings import RecordingFormat
from ss_lightning.networks import NetworkOutput, SpikingNetwork, evaluating

# Recordings that are classified together, so that many of them need no more memory than a batch of a training.
_AT_ONCE = 128


class Prediction(NamedTuple):
    """What a network says of one recording.

    Attributes:
        name: name of the class with the highest score.
        label: its number.
        probability: its probability.
        probabilities: of all classes by name.
        decision_ms: time at which this class takes the lead for good, in milliseconds; NaN without a decision.
        hidden_spikes: spikes of all hidden neurons.
    """

    name: str
    label: int
    probability: float
    probabilities: dict[str, float]
    decision_ms: float
    hidden_spikes: int


def class_probabilities(network: SpikingNetwork, output: NetworkOutput) -> tuple[Tensor, Tensor]:
    """Class probabilities ``[B, C]``, and the time of the decision in milliseconds, ``[B]``, NaN without one."""
    step = network.decoder.decision_step(output.readout)
    decision_ms = torch.where(step < len(output.readout), step * network.step_ms, torch.nan)
    return network.decoder.scores(output.readout).float().softmax(1), decision_ms


def classify_recordings(
    network: SpikingNetwork,
    form: RecordingFormat,
    times: Iterable[ArrayLike],
    units: Iterable[ArrayLike],
    time_unit: TimeUnit = "s",
) -> list[Prediction]:
    """Classify recordings with a network in evaluation, in its own precision and on its own device.

    Args:
        network: the trained network.
        form: time grid, units and classes of the recordings.
        times: times of the events of each recording, in any order.
        units: units of the events, numbered as in the data of the training, likewise.
        time_unit: what one unit of ``times`` is.

    Raises:
        DataError: an event is not valid; the message names the recording and the value.
        UsageError: there are times and units of different numbers of recordings, or the time unit is unknown.
    """
    times, units = as_recordings(times, units)
    device = next(network.parameters()).device
    predictions: list[Prediction] = []
    too_late: list[int] = []
    with torch.no_grad(), evaluating(network):
        for begin in range(0, len(times), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            events = form.events(times[part], units[part], time_unit, first=begin)
            too_late += (begin + np.flatnonzero(form.begins_too_late(events))).tolist()
            output = network(form.input_of(events).to(device))
            predictions += _predictions(network, output, form.class_names)
    if too_late:
        warnings.warn(
            f"all events of {len(too_late)} of {len(times)} recordings, the first of them number {too_late[0]}, lie "
            f"after the end of the time grid ({form.num_steps * form.step_ms:g} ms), so the network saw none of them. "
            f'Check time_unit, which is "{time_unit}", and whether the times begin at 0.',
            stacklevel=3,
        )
    return predictions


def classify_currents(
    network: SpikingNetwork, form: RecordingFormat, currents: Sequence[np.ndarray]
) -> list[Prediction]:
    """Classify samples whose input is the same in every step, such as images; else as :func:`classify_recordings`.

    Args:
        network: the trained network.
        form: time grid and classes.
        currents: of each sample the input of each unit, float32 ``[N]``.
    """
    device = next(network.parameters()).device
    predictions: list[Prediction] = []
    with torch.no_grad(), evaluating(network):
        for begin in range(0, len(currents), _AT_ONCE):
            batch = torch.from_numpy(np.stack(currents[begin : begin + _AT_ONCE])).to(device)
            output = network(batch.expand(form.num_steps, -1, -1))
            predictions += _predictions(network, output, form.class_names)
    return predictions


def _predictions(network: SpikingNetwork, output: NetworkOutput, names: Sequence[str]) -> list[Prediction]:
    probabilities, decision_ms = class_probabilities(network, output)
    hidden = sum((layer.spike_count.sum(1) for layer in output.activity), torch.zeros_like(decision_ms))
    found = []
    for row, decided, count in zip(probabilities.tolist(), decision_ms.tolist(), hidden.tolist(), strict=True):
        label = int(np.argmax(row))
        by_name = dict(zip(names, row, strict=True))
        found.append(Prediction(names[label], label, row[label], by_name, decided, round(count)))
    return found
