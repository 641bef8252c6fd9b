"""Values that the parser takes and that torch or Lightning would refuse later, found before anything is prepared."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry

from ss_lightning.errors import UsageError, suggestion


def check_trainer(config: Namespace) -> None:
    """Refuse numbers that the trainer takes and then fails on, and devices that are not there.

    Args:
        config: the trainer's part of a config.

    Raises:
        UsageError: one of them makes no sense.
    """
    if config.accumulate_grad_batches < 1:
        raise UsageError(f"trainer.accumulate_grad_batches is {config.accumulate_grad_batches}; expected 1 or more")
    if config.enable_checkpointing is False:
        raise UsageError(
            "trainer.enable_checkpointing is false, but fit always keeps the best and the last checkpoint. Leave it out"
        )
    cores = os.cpu_count() or 1
    if config.accelerator in ("cpu", "auto") and isinstance(config.devices, int) and config.devices > 16 * cores:
        raise UsageError(f"trainer.devices is {config.devices}, but this machine has {cores} CPU cores")
    if isinstance(config.accelerator, str):
        _check_accelerator(config.accelerator)


def _check_accelerator(name: str) -> None:
    kinds = {word: AcceleratorRegistry[word]["accelerator"] for word in AcceleratorRegistry.available_accelerators()}
    kinds |= {"gpu": None, "auto": None}
    here = [word for word, kind in kinds.items() if kind is not None and kind.is_available()]
    if name not in kinds:
        raise UsageError(
            f"trainer.accelerator: there is no {name}.{suggestion(name, kinds)} Here are {', '.join(here)}"
        )
    if name in (*here, "auto") or (name == "gpu" and not {"cuda", "mps"}.isdisjoint(here)):
        return
    built = name in ("gpu", "cuda") and torch.version.cuda is None
    why = ", and this torch is built without CUDA" if built else ""
    raise UsageError(
        f"trainer.accelerator is {name}, but torch finds no such device on this machine{why}. "
        f"Use --trainer.accelerator {' or '.join(here)}, or auto for the fastest that is there"
    )


def check_optimizer(config: Namespace) -> None:
    """Refuse values that an optimizer or a schedule of torch does not take, by their keys.

    Both are made once for a weight that nobody needs: torch looks at the values when it makes them, which in a
    training happens after the data are prepared.

    Args:
        config: the whole config of a training.

    Raises:
        UsageError: a value is not taken.
    """
    optimizer = _try("optimizer", config.get("optimizer"), lambda cls, **given: cls([torch.zeros(2, 2)], **given))
    if optimizer is not None:
        _try("lr_scheduler", config.get("lr_scheduler"), lambda cls, **given: _stepped(cls(optimizer, **given)))


def _stepped(schedule: Any) -> Any:
    schedule.step()
    return schedule


def _try(key: str, part: Any, make: Callable[..., Any]) -> Any:
    """What a class of torch makes of its arguments; None if that cannot be told here."""
    if part is None or not str(part.get("class_path", "")).startswith("torch.optim."):
        return None
    cls = resolve_name(part.class_path)
    given = vars(part.get("init_args") or Namespace())
    made, error = _made(cls, given, make)
    if error is None:
        return made
    for name, value in given.items():
        _, alone = _made(cls, {name: value}, make)
        if alone is not None:
            raise UsageError(f"{key}.{name}: {part.class_path} does not take {value} ({alone})") from alone
    raise UsageError(f"{key}: {part.class_path} does not take these values together ({error})") from error


def _made(cls: type, given: Mapping[str, Any], make: Callable[..., Any]) -> tuple[Any, Exception | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return make(cls, **given), None
        except (ValueError, ArithmeticError) as error:
            return None, error
        except Exception:  # it needs more than is known here, such as a metric, and says so in the training
            return None, None
