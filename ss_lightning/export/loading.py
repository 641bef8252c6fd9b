"""From a checkpoint to a file for other tools: ``python -m ss_lightning export CKPT``."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from ss_lightning.errors import UsageError
from ss_lightning.export.nir_export import to_nir, write_whole
from ss_lightning.export.nir_layers import ExportWarning
from ss_lightning.export.torch_export import export_program
from ss_lightning.files import display_path
from ss_lightning.module import ConvClassifier, MLPClassifier, SpikingClassifier
from ss_lightning.parsing import parse
from ss_lightning.renamed import with_new_names
from ss_lightning.runs.folders import config_beside


def load_classifier(ckpt: str | os.PathLike[str]) -> SpikingClassifier:
    """The trained classifier in a checkpoint of this package, on the CPU.

    Raises:
        UsageError: there is no such file, or it holds no classifier of this package.
    """
    if not Path(ckpt).is_file():
        raise UsageError(f"there is no checkpoint {ckpt}")
    try:
        content = torch.load(ckpt, map_location="cpu", weights_only=True)
        weights = content["state_dict"]
        arguments = {key: value for key, value in content["hyper_parameters"].items() if not key.startswith("_")}
    except Exception as error:  # a file of any kind can be given
        raise UsageError(
            f"{ckpt} is not a checkpoint that can be loaded ({type(error).__name__}): it may be cut short, or made by "
            "another program"
        ) from error
    model = _classifier(content["hyper_parameters"].get("_class_path"), weights)(**with_new_names(arguments))
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


def export_checkpoint(
    ckpt: Path,
    format: Literal["nir", "torch"] = "nir",
    out: Path | None = None,
    num_steps: int | None = None,
    self_inhibiting: bool = False,
) -> Path:
    """Write the network of a checkpoint for other tools.

    Args:
        ckpt: the checkpoint.
        format: nir (for simulators and neuromorphic chips) or torch (a torch.export program, .pt2).
        out: the file to write; by default beside the checkpoint, with the ending of the format.
        num_steps: time steps of a sample; by default those of the config.yaml of the run.
        self_inhibiting: nir: neurons that fire once inhibit themselves, for plain LIF simulators.

    Returns:
        The file that was written. It appears whole or not at all.
    """
    network = load_classifier(ckpt).network
    if num_steps is None:
        num_steps = _num_steps(ckpt)
    out = ckpt.with_suffix({"nir": ".nir", "torch": ".pt2"}[format]) if out is None else out
    if format == "nir":
        to_nir(network, out, self_inhibiting=self_inhibiting, num_steps=num_steps)
    elif num_steps is None:
        raise UsageError(
            f"--num_steps: a program has a fixed number of steps, and no config.yaml beside {ckpt} gives it"
        )
    else:
        program = export_program(network, num_steps)
        write_whole(out, lambda part: torch.export.save(program, part))
    return out


def _num_steps(ckpt: Path) -> int | None:
    """Time steps in the config of the run that a checkpoint lies in."""
    config = config_beside(ckpt)
    if config is None:
        return None
    return (yaml.safe_load(config.read_text()) or {}).get("data", {}).get("init_args", {}).get("num_steps")


def main(arguments: list[str]) -> int:
    """``python -m ss_lightning export CKPT``: write a file and say where it is."""
    parser = ArgumentParser(prog="python -m ss_lightning export", exit_on_error=False)
    parser.add_function_arguments(export_checkpoint, as_positional=True)
    options = parse(parser, arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = export_checkpoint(**options.as_dict())
    for warning in caught:
        if issubclass(warning.category, ExportWarning):
            print(f"note: {warning.message}", file=sys.stderr)
    print(f"wrote {display_path(out)}")
    return 0
