"""A checkpoint held against the model that is to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from ss_lightning.errors import UsageError
from ss_lightning.renamed import with_new_names
from ss_lightning.runs.checkpoints import read_checkpoint


def refuse_other_architecture(checkpoint: Path, model: LightningModule, *, to_train: bool = False) -> None:
    """Compare the hyper-parameters in a checkpoint with those of the model that is to load it.

    Args:
        checkpoint: the file.
        model: the model.
        to_train: a training is to go on from it.

    Raises:
        UsageError: the file is no checkpoint, was made by a model of another shape or kind, or holds weights only where
            a training is to go on.
    """
    content = read_checkpoint(checkpoint)
    if to_train and not {"optimizer_states", "lr_schedulers", "loops", "callbacks"} <= content.keys():
        raise UsageError(f"{checkpoint} holds weights only: no training can go on from it. Use a last.ckpt")
    weights = content["state_dict"]
    saved = with_new_names(dict(content.get("hyper_parameters", {})))
    saved.pop("_instantiator", None)
    here = {k: v for k, v in model.hparams.items() if k != "_instantiator"}
    differences = [
        f"  {key}: {saved[key]!r} in the checkpoint, {here[key]!r} in the config"
        for key in sorted(saved.keys() & here.keys())
        if _plain(saved[key]) != _plain(here[key])
    ]
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) if isinstance(value, Tensor) else value for name, value in weights.items()}
    differences = differences or [
        f"  {name}: {found.get(name, 'nothing')} in the checkpoint, {shapes.get(name, 'nothing')} in the config"
        for name in sorted(found.keys() | shapes.keys())
        if found.get(name) != shapes.get(name)
    ]
    if differences:
        raise UsageError(
            f"the checkpoint {checkpoint} was made by another model than the config describes:\n"
            + "\n".join(differences)
            + "\nUse the config.yaml of its own run (drop --config), or another checkpoint"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
