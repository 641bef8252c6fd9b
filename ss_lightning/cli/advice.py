"""What ``fit`` says before it trains about settings that do something else than one would think."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def rising_rate(scheduler: Mapping[str, Any] | None, max_epochs: int | None) -> list[str]:
    """A note if the epochs were raised and the length of a cosine was not: the learning rate would rise again.

    Args:
        scheduler: ``class_path`` and ``init_args`` of the learning-rate scheduler.
        max_epochs: the trainer's.
    """
    if scheduler is None or not scheduler["class_path"].endswith(".CosineAnnealingLR"):
        return []
    length = scheduler["init_args"]["T_max"]
    if max_epochs is None or max_epochs <= length:
        return []
    return [
        f"the learning rate falls for lr_scheduler.T_max = {length} epochs and then rises again, but "
        f"trainer.max_epochs is {max_epochs}; begin with --lr_scheduler.T_max {max_epochs} (a training that goes on "
        "keeps its schedule)"
    ]


def idle_keys(model: Mapping[str, Any], duration_ms: float | None) -> list[str]:
    """A note for each setting of a model that does nothing because of another one.

    Args:
        model: arguments of the classifier by name, as ``MLPClassifier`` and ``ConvClassifier`` know them.
        duration_ms: length of a sample, ``T * step_ms``; None if it is not known.
    """
    notes = []

    def idle(name: str, reason: str) -> None:
        notes.append(f"model.{name} = {model[name]} does nothing: {reason}")

    band, weight = model.get("spike_target"), model.get("spike_weight", 0)
    if band is not None and list(band) != [0, math.inf] and not weight:
        idle("spike_target", "model.spike_weight is 0")
    if weight and band is not None and list(band) == [0, math.inf]:
        idle("spike_weight", "every number of spikes lies in model.spike_target = [0, inf]")
    if model.get("log_tau") and not model.get("learn_beta", True):
        idle("log_tau", "model.learn_beta is false")
    if not model.get("max_delay_ms"):
        if model.get("delay_per_synapse"):
            idle("delay_per_synapse", "model.max_delay_ms is 0")
        if model.get("delay_width_ms") is not None:
            idle("delay_width_ms", "model.max_delay_ms is 0")
    return notes + (_too_late(model, duration_ms) if duration_ms is not None else [])


def _too_late(model: Mapping[str, Any], duration_ms: float) -> list[str]:
    """Notes on delays after which nothing is left of a sample."""
    end = f"a sample ends after data.num_steps * data.step_ms = {duration_ms:g} ms"
    line: Sequence[float] = model.get("delay_line_ms") or []  # null in a model of one's own
    late = [delay for delay in line if delay >= duration_ms]
    notes = [f"model.delay_line_ms: nothing arrives after {delay:g} ms, for {end}" for delay in late]
    longest = model.get("max_delay_ms") or 0
    if longest >= duration_ms:
        notes.append(f"model.max_delay_ms = {longest:g}: most spikes would arrive too late, for {end}")
    return notes
