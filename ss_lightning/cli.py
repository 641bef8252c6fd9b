"""The command line: ``python -m ss_lightning fit --config configs/yinyang.yaml``."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from argparse import ArgumentError
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ss_lightning.callbacks import PredictionWriter
from ss_lightning.data import EventDataModule
from ss_lightning.errors import DataError, UsageError
from ss_lightning.runs import (
    DEFAULT_ROOT,
    config_beside,
    config_name,
    find_checkpoint,
    reserve_run,
    shown,
)
from ss_lightning.usage import explain, innermost

# The process that starts a run tells the ranks it launches where the run lives.
_RUN_VARIABLE = "SS_LIGHTNING_RUN"

# Subcommands that are no training: the module whose ``main(arguments)`` does it, imported when asked for.
_TOOLS: dict[str, str] = {"benchmark": "benchmark"}

_LINKS = ("input_shape", "num_classes", "step_ms")


class SpikingCLI(LightningCLI):
    """LightningCLI whose runs are never written over and whose checkpoints are never reinterpreted."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            trainer_defaults={"log_every_n_steps": 1},
            parser_kwargs={
                "exit_on_error": False,
                **{name: {"exit_on_error": False} for name in self.subcommands()},
            },
            args=args,
        )

    # Parsing ---------------------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data knows into the model, and keep the best weights."""
        for name in _LINKS:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; without a config, the one that lies beside the checkpoint is used."""
        arguments = cast(list[str], args)
        if not arguments:
            raise UsageError(f"say what to do: {', '.join(self.subcommands())}. --help explains")
        try:
            self.config = parser.parse_args(_with_config_beside(arguments))
        except ArgumentError as error:
            subparser = self._subcommand_parsers.get(arguments[0], parser)
            known = [action.dest for action in subparser._actions]
            raise UsageError(explain(error, known)) from error

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint silently override the config; we compare the two, see below."""

    # Before training -------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and reserve the run folder: both can fail, and should before data is prepared."""
        config = self.config[self.subcommand]
        files = config.get("config") or []
        first = Path(os.fspath(files[0].absolute if hasattr(files[0], "absolute") else files[0])) if files else None
        self.root = Path(config.trainer.default_root_dir or DEFAULT_ROOT)
        self.run_name = config_name(first)
        config.ckpt_path = self._checkpoint(config.get("ckpt_path"))
        self.run_folder = None if config.trainer.fast_dev_run else self._reserve()

    def _checkpoint(self, path: str | None) -> str | None:
        if path is None and self.subcommand != "fit":
            path = "best"
        if path in ("best", "last"):
            path = str(find_checkpoint(self.root / self.run_name, path))
            print(f"checkpoint  {shown(path)}")
        if path is not None and not Path(path).is_file():
            raise UsageError(f"--ckpt_path: there is no file {path}")
        return path

    def _reserve(self) -> Path:
        if _RUN_VARIABLE in os.environ and int(os.environ.get("LOCAL_RANK", 0)) != 0:
            return Path(os.environ[_RUN_VARIABLE])
        kind = "version" if self.subcommand == "fit" else str(self.subcommand)
        run = reserve_run(self.root / self.run_name, kind)
        os.environ[_RUN_VARIABLE] = str(run)
        return run

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; a value that one of them refuses is the user's to mend."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause = innermost(error)  # the parser wraps what a constructor says
            raise cause if isinstance(cause, DataError) else UsageError(str(cause)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer: it logs to the run folder as CSV unless the config names loggers, and ``fit`` keeps weights."""
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        if config["logger"] in (None, True):
            folder = self.run_folder
            config["logger"] = CSVLogger(self.root, self.run_name, version=folder.name) if folder else False
        keeps = self.subcommand == "fit" and self.run_folder is not None
        return self._instantiate_trainer(config, self._checkpoints() if keeps else [])

    def _checkpoints(self) -> list[Callback]:
        """Keep the best weights and, on their own, the last (Lightning renews ``save_last`` with the best only)."""
        best: ModelCheckpoint = self._get(self.config_init, "checkpoint")
        if isinstance(self.datamodule, EventDataModule) and self.datamodule.splits.val is None:
            best.monitor = None  # nothing to choose by: the last epoch is the best there is
        return [best, ModelCheckpoint(filename="last", enable_version_counter=False)]

    def after_instantiate_classes(self) -> None:
        """Refuse a checkpoint of another architecture; give ``predict`` a file to write."""
        checkpoint = self.config[self.subcommand].ckpt_path
        if checkpoint is not None:
            refuse_other_architecture(Path(checkpoint), self.model)
        if self.subcommand == "predict" and self.run_folder is not None:
            self.trainer.callbacks.append(PredictionWriter(self.run_folder / "predictions.csv"))  # type: ignore[attr-defined]

    # Afterwards ------------------------------------------------------------------------------------------------------

    def after_fit(self) -> None:
        """Say where the best weights are and how to test them."""
        callback = self.trainer.checkpoint_callback
        if not self.trainer.is_global_zero or not isinstance(callback, ModelCheckpoint):
            return
        if not callback.best_model_path:
            return
        best = shown(callback.best_model_path)
        score = callback.best_model_score
        print(f"\nbest checkpoint  {best}" + ("" if score is None else f"  ({callback.monitor} {score:.4f})"))
        print(f"test it with     python -m ss_lightning test --ckpt_path {shlex.quote(best)}")

    def after_predict(self) -> None:
        """Say where the predictions are."""
        if self.run_folder is not None and self.trainer.is_global_zero:
            print(f"predictions  {shown(self.run_folder / 'predictions.csv')}")


def _with_config_beside(arguments: list[str]) -> list[str]:
    """Arguments with the config of the run that ``--ckpt_path`` lies in, unless they name a config."""
    given = {argument.partition("=")[0] for argument in arguments}
    if not given.isdisjoint({"--config", "-c", "--help", "-h"}):
        return arguments
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--ckpt_path":
            path = value if equals else "".join(arguments[index + 1 : index + 2])
            config = config_beside(Path(path)) if path else None
            if config is not None:
                return [arguments[0], "--config", str(config), *arguments[1:]]
    return arguments


def refuse_other_architecture(checkpoint: Path, model: LightningModule) -> None:
    """Compare the hyper-parameters in a checkpoint with those of the model that is to load it.

    Raises:
        UsageError: the file is no checkpoint, or was made by a model of another shape or kind.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        saved = dict(content.get("hyper_parameters", {}))
        weights = content["state_dict"]
    except Exception as error:
        raise UsageError(
            f"{checkpoint} is not a checkpoint that can be loaded ({type(error).__name__}): it may be cut short, or "
            "made by another program"
        ) from error
    saved.pop("_instantiator", None)
    here = {k: v for k, v in model.hparams.items() if k != "_instantiator"}
    differences = [
        f"  {key}: {saved[key]!r} in the checkpoint, {here[key]!r} in the config"
        for key in sorted(saved.keys() & here.keys())
        if _plain(saved[key]) != _plain(here[key])
    ]
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differences = differences or [
        f"  {name}: {tuple(value.shape)} in the checkpoint, {shapes.get(name, 'nothing')} in the config"
        for name, value in weights.items()
        if shapes.get(name) != tuple(value.shape)
    ]
    if differences:
        raise UsageError(
            f"the checkpoint {checkpoint} was made by another model than the config describes:\n"
            + "\n".join(differences)
            + "\nUse the config.yaml of its own run (drop --config), or another checkpoint"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (data) or 2 (usage)."""
    arguments = list(sys.argv[1:] if args is None else args)
    _quiet()
    try:
        if arguments and arguments[0] in _TOOLS:
            tool = import_module(f"ss_lightning.{_TOOLS[arguments[0]]}")
            return tool.main(arguments[1:])
        SpikingCLI(arguments)
    except (UsageError, MisconfigurationException) as error:
        return _complain(error, 2)
    except DataError as error:
        return _complain(error, 1)
    return 0


def _complain(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _quiet() -> None:
    """Silence notes of Lightning that do not hold here."""
    # Batches are made in one vectorised step: more workers would not make them faster.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The module's own optimizer serves plain Python; the command line replaces it on purpose.
    warnings.filterwarnings("ignore", message=".*configure_optimizers` will be overridden.*")
    # A resumed run keeps its checkpoints in its own folder, and evaluation keeps none.
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
    # Lightning 2.6 on torch 2.14 warns about its own code.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()
    )
