"""From a checkpoint to a file for other tools: ``python -m ss_lightning export CKPT``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Literal, cast

import torch
from jsonargparse import ArgumentParser

from ss_lightning.errors import DataError, UsageError
from ss_lightning.export.loading import load_classifier
from ss_lightning.export.nir_export import to_nir
from ss_lightning.export.nir_layers import ExportWarning, Reader
from ss_lightning.export.torch_export import export_program, export_step, to_onnx
from ss_lightning.files import display_path, write_for_user
from ss_lightning.parsing import parse_arguments
from ss_lightning.runs.folders import config_beside
from ss_lightning.runs.reading import read_config


def export_checkpoint(
    ckpt: Path,
    format: Literal["nir", "torch", "onnx"] = "nir",
    out: Path | None = None,
    num_steps: int | None = None,
    self_inhibiting: bool = False,
    reader: Reader = "nir",
    step: bool = False,
) -> Path:
    """Write the network of a checkpoint for other tools.

    Args:
        ckpt: the checkpoint.
        format: nir (for simulators and neuromorphic chips), torch (a torch.export program, .pt2) or onnx.
        out: the file to write; by default beside the checkpoint, with the ending of the format.
        num_steps: time steps of a sample; by default those of the config.yaml of the run.
        self_inhibiting: nir: neurons that fire once inhibit themselves, for plain LIF simulators.
        reader: nir: whose equations the numbers are for: nir (Norse and others), sinabs or snntorch.
        step: torch, onnx: one time step instead of a whole sample; the membranes go in and come out.

    Returns:
        The file that was written. It appears whole or not at all.
    """
    if step and format == "nir":
        raise UsageError("--step: a NIR file has no number of steps; this is for --format torch and onnx")
    network = load_classifier(ckpt).network
    if num_steps is None:
        num_steps = _num_steps(ckpt)
    if out is None:
        ending = {"nir": ".nir", "torch": ".pt2", "onnx": ".onnx"}[format]
        out = ckpt.with_name(f"{ckpt.stem}_step{ending}" if step else f"{ckpt.stem}{ending}")
    if format == "nir":
        to_nir(network, out, self_inhibiting=self_inhibiting, num_steps=num_steps, reader=reader)
        return out
    if num_steps is None and not step:
        raise UsageError(
            f"--num_steps: a program has a fixed number of steps, and no config.yaml beside {ckpt} gives it"
        )
    program = export_step(network) if step else export_program(network, cast(int, num_steps))
    if format == "onnx":
        to_onnx(program, out)
    else:
        with write_for_user(out) as scratch:
            torch.export.save(program, scratch)
    return out


def _num_steps(ckpt: Path) -> int | None:
    """Time steps in the config of the run that a checkpoint lies in."""
    config = config_beside(ckpt)
    if config is None:
        return None
    steps = read_config(config).get("data.init_args.num_steps")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise DataError(f"{config}: data.init_args.num_steps is {steps!r}; expected a whole number above 0")
    return steps


def main(arguments: list[str]) -> int:
    """``python -m ss_lightning export CKPT``: write a file and say where it is."""
    parser = ArgumentParser(prog="python -m ss_lightning export", exit_on_error=False)
    parser.add_function_arguments(export_checkpoint, as_positional=True)
    options = parse_arguments(parser, arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = export_checkpoint(**options.as_dict())
    for warning in caught:
        if issubclass(warning.category, ExportWarning):
            print(f"note: {warning.message}", file=sys.stderr)
    print(f"wrote {display_path(out)}")
    return 0
