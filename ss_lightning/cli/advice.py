"""What ``fit`` says before it trains about settings that do something else than one would think."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def _steps_of_one_cycle(arguments: Mapping[str, Any]) -> tuple[str, int]:
    if arguments.get("total_steps") is not None:
        return "total_steps", arguments["total_steps"]
    return "epochs * steps_per_epoch", (arguments.get("epochs") or 0) * (arguments.get("steps_per_epoch") or 0)


def _steps_of_a_cycle(arguments: Mapping[str, Any]) -> tuple[str, int]:
    up = arguments.get("step_size_up", 2000)
    down = arguments.get("step_size_down")
    return "step_size_up + step_size_down", up + (up if down is None else down)


def _total_iters(arguments: Mapping[str, Any]) -> tuple[str, int]:
    return "total_iters", arguments.get("total_iters", 5)


def _last_milestone(arguments: Mapping[str, Any]) -> tuple[str, int]:
    return "milestones", max(arguments.get("milestones") or [0])


# The argument that says how long a schedule is, in steps of its own, and what it says.
_LENGTHS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, int]]] = {
    "ConstantLR": _total_iters,
    "CosineAnnealingLR": lambda arguments: ("T_max", arguments["T_max"]),
    "CosineAnnealingWarmRestarts": lambda arguments: ("T_0", arguments["T_0"]),
    "CyclicLR": _steps_of_a_cycle,
    "LinearLR": _total_iters,
    "MultiStepLR": _last_milestone,
    "OneCycleLR": _steps_of_one_cycle,
    "PolynomialLR": _total_iters,
    "SequentialLR": _last_milestone,
    "StepLR": lambda arguments: ("step_size", arguments["step_size"]),
}


def rising_rate(
    scheduler: Mapping[str, Any] | None, max_epochs: int | None, updates_per_epoch: int | None = None
) -> list[str]:
    """A note if the learning-rate schedule and the training are not of the same length.

    A schedule that is longer than the training is cut off, most often because its length was given in updates and it is
    stepped once an epoch. A cosine that is shorter rises again, and a single cycle that is shorter ends with an error.

    Args:
        scheduler: ``class_path`` and ``init_args`` of the learning-rate scheduler.
        max_epochs: the trainer's; None or -1 if there is no limit.
        updates_per_epoch: updates of the weights in an epoch, if the schedule is stepped after each of them; None if it
            is stepped once an epoch.
    """
    if scheduler is None or max_epochs is None or max_epochs < 1:
        return []
    name = scheduler["class_path"].rpartition(".")[2]
    if name not in _LENGTHS:
        return []
    key, length = _LENGTHS[name](scheduler.get("init_args") or {})
    steps = max_epochs * (updates_per_epoch or 1)
    unit = "epochs" if updates_per_epoch is None else "updates"
    trained = f"trainer.max_epochs is {max_epochs}" + (
        "" if updates_per_epoch is None else f", which is {steps} updates"
    )
    if length > steps:
        remedy = (
            "If it counts updates, add --lr_scheduler_interval step; if it counts epochs, make the two agree"
            if updates_per_epoch is None
            else "Make the two agree"
        )
        return [
            f"the learning-rate schedule is cut off: lr_scheduler.{key} = {length} is counted in {unit}, but "
            f"{trained}. {remedy}"
        ]
    if length == steps or name not in ("CosineAnnealingLR", "OneCycleLR"):
        return []
    then = "rises again" if name == "CosineAnnealingLR" else "has no value, which is an error"
    return [
        f"the learning rate falls for lr_scheduler.{key} = {length} {unit} and then {then}, but {trained}; begin with "
        f"--lr_scheduler.{key} {steps} (a training that goes on keeps its schedule)"
    ]


def idle_parts(trainer: Mapping[str, Any], subcommand: str) -> list[str]:
    """A note for each setting of the trainer with which a part of the command, or all of it, does nothing.

    Args:
        trainer: arguments of the trainer by name.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    if subcommand != "fit":
        key = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}[
            subcommand
        ]
        return [f"trainer.{key} is 0: nothing is evaluated"] if trainer.get(key) == 0 else []
    never = [key for key in ("max_epochs", "max_steps", "limit_train_batches") if trainer.get(key) == 0]
    notes = [f"trainer.{key} is 0: nothing is trained" for key in never]
    if trainer.get("limit_val_batches") == 0:
        notes.append("trainer.limit_val_batches is 0: nothing is validated, and best.ckpt holds the last epoch")
    epochs, every = trainer.get("max_epochs"), trainer.get("check_val_every_n_epoch")
    if epochs and every and 0 < epochs < every:
        notes.append(
            f"trainer.check_val_every_n_epoch is {every} and trainer.max_epochs {epochs}: nothing is validated, and no "
            "best.ckpt is kept. The end of the training is last.ckpt"
        )
    return notes


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


def idle_data_keys(data: Mapping[str, Any]) -> list[str]:
    """A note for each setting of a data module that does nothing because of another one.

    Args:
        data: arguments of the data module by name.
    """
    if data.get("code") != "current":
        return []
    of_spikes = {"background": "last_step", "binning": "binary"}
    return [
        f"data.{name} = {data[name]} does nothing: data.code is current, and nothing fires at the input"
        for name, default in of_spikes.items()
        if data.get(name, default) != default
    ]


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
