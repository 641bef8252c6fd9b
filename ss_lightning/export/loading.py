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
    return model.eval()


def _classifier(class_path: str | None, weights: dict[str, Tensor]) -> type[SpikingClassifier]:
    if class_path is None:  # trained in plain Python
        return ConvClassifier if any(name.startswith("network.convolutions.") for name in weights) else MLPClassifier
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module), name, None) if module.partition(".")[0] == "ss_lightning" else None
    if not (isinstance(found, type) and issubclass(found, SpikingClassifier)):
        raise UsageError(f"the checkpoint was made by {class_path}, which is no classifier of ss_lightning")
    return found
