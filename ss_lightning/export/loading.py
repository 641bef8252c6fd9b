"""The trained classifier in a checkpoint."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from torch import Tensor

from ss_lightning.errors import UsageError
from ss_lightning.module import ConvClassifier, MLPClassifier, SpikingClassifier
from ss_lightning.renamed import with_new_names
from ss_lightning.runs.checkpoints import read_checkpoint


def load(run: str | os.PathLike[str]) -> SpikingClassifier:
    """The trained classifier of a run, on the CPU and in evaluation mode.

    Args:
        run: the folder of a run, whose best checkpoint is taken, or a checkpoint file.

    Raises:
        UsageError: there is no such run or file, or it holds no classifier of this package.
    """
    path = Path(run)
    if not path.is_dir():
        return load_classifier(path)
    for name in ("best", "last"):
        checkpoint = path / "checkpoints" / f"{name}.ckpt"
        if checkpoint.is_file():
            return load_classifier(checkpoint)
    runs = sorted(folder.parent.name for folder in path.glob("version_*/checkpoints"))
    hint = f" It holds the runs {', '.join(runs)}: give one of them" if runs else ""
    raise UsageError(f"{path} is no folder of a run: there is no checkpoints/best.ckpt in it.{hint}")


def load_classifier(ckpt: str | os.PathLike[str]) -> SpikingClassifier:
    """The trained classifier in a checkpoint of this package, on the CPU.

    Raises:
        UsageError: there is no such file, or it holds no classifier of this package.
    """
    if not Path(ckpt).is_file():
        raise UsageError(f"there is no checkpoint {ckpt}")
    content = read_checkpoint(Path(ckpt))
    weights, saved = content["state_dict"], content.get("hyper_parameters")
    if not isinstance(saved, dict):
        raise UsageError(f"{ckpt} holds no hyper-parameters, so its network cannot be built again")
    arguments = with_new_names({key: value for key, value in saved.items() if not key.startswith("_")})
    model = _classifier(saved.get("_class_path"), weights)(**arguments)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"the weights in {ckpt} do not fit its own hyper-parameters: {error}") from error
    model.on_load_checkpoint(content)
    return model.eval()


def _classifier(class_path: str | None, weights: dict[str, Tensor]) -> type[SpikingClassifier]:
    if class_path is None:  # trained in plain Python
        return ConvClassifier if any(name.startswith("network.convolutions.") for name in weights) else MLPClassifier
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module), name, None) if module.partition(".")[0] == "ss_lightning" else None
    if not (isinstance(found, type) and issubclass(found, SpikingClassifier)):
        raise UsageError(f"the checkpoint was made by {class_path}, which is no classifier of ss_lightning")
    return found
