"""LightningCLI whose runs are never written over and whose checkpoints are never reinterpreted."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, cast

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
    instantiate_class,
)
from lightning.pytorch.plugins import CheckpointIO
from torch.optim import Optimizer

from ss_lightning.cli.advice import idle_data_keys, idle_keys, idle_parts, rising_rate
from ss_lightning.cli.arguments import (
    check_checkpoint_file,
    check_config_files,
    check_words,
    configs_first,
    with_class_for_help,
    with_config_of_run,
)
from ss_lightning.cli.checks import check_optimizer, check_trainer
from ss_lightning.cli.failures import explain
from ss_lightning.cli.help_pages import SUMMARIES, keys_page, split_help
from ss_lightning.cli.imports import Trust, denied_import
from ss_lightning.cli.recipes import with_packaged_recipes
from ss_lightning.cli.weights_and_biases import finish_wandb, start_wandb
from ss_lightning.data import EventDataModule
from ss_lightning.data.bars import spinner
from ss_lightning.errors import DataError, NoRoomError, UsageError
from ss_lightning.files import display_path
from ss_lightning.parsing import (
    explain_parser_error,
    innermost_error,
    parser_keys,
    read_yaml,
    typed_settings,
    with_lists,
    written_settings,
)
from ss_lightning.runs.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, MetricsLogger
from ss_lightning.runs.comparison import refuse_other_architecture
from ss_lightning.runs.config_check import check_config, check_kind
from ss_lightning.runs.configs import flatten_config
from ss_lightning.runs.folders import (
    DEFAULT_ROOT,
    config_name,
    find_checkpoint,
    holds_results,
    is_first_process,
    reserve_run,
)
from ss_lightning.runs.history import plain_numbers
from ss_lightning.runs.pictures import ConfusionPicture, Pictures
from ss_lightning.runs.predictions import PredictionWriter
from ss_lightning.runs.progress import EpochBar, EpochLines, NetworkTable
from ss_lightning.runs.reading import read_json
from ss_lightning.runs.record import RunRecord

# The process that starts a run tells the ranks it launches where the run lives and what it goes on from.
_RUN_VARIABLE = "SS_LIGHTNING_RUN"


_CHECKPOINT_VARIABLE = "SS_LIGHTNING_CHECKPOINT"


# Classes whose arguments follow these keys.
_OWNERS = {"trainer": Trainer, "checkpoint": BestCheckpoint, "pictures": Pictures}

# What the classes must be that a config names for these keys.
_KINDS = {"model": LightningModule, "data": LightningDataModule, "optimizer": Optimizer}

_LINKS = ("input_shape", "num_classes", "step_ms")


class SeveralDevicesError(UsageError):
    """One of many trainings was to use several devices; so would the others."""


class _SaveConfig(SaveConfigCallback):
    """Saves the config, without which a run could not be repeated: a command does not begin where that fails."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``.

        Raises:
            NoRoomError: it cannot be written.
        """
        try:
            super().setup(trainer, pl_module, stage)
        except OSError as error:
            raise NoRoomError(
                f"cannot write {self.config_filename} to the run folder {trainer.log_dir}: {error.strerror or error}. "
                "Make room there, or choose another place with --trainer.default_root_dir DIR"
            ) from error


class SpikingCLI(LightningCLI):
    """LightningCLI whose runs are never written over and whose checkpoints are never reinterpreted.

    Args:
        args: the command line, from the subcommand on.
        run_folder: an empty folder for the run; if not given, the next free one of the config is made. Who gives one
            also says how the training went, so no summary is printed.
        callbacks: callbacks to add to those of the config.
        typed: those of ``args`` that the user typed and so trusts; all of them if not given.
    """

    def __init__(
        self,
        args: list[str],
        run_folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
        typed: Sequence[str] | None = None,
    ) -> None:
        self.arguments = args
        self.trust = Trust(args if typed is None else typed)
        self.asked_for = next((word for word in args if word in self.subcommands()), "")
        self.given_run_folder = run_folder
        self.run_folder: Path | None = None
        self.extra_callbacks = callbacks
        try:
            with self.trust.guard():
                self._run(args)
        except Exception as error:
            self._leave_no_empty_run()
            if (said := self._explain(error)) is None:
                raise
            raise UsageError(said) from error

    def _run(self, args: list[str]) -> None:
        common: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=_SaveConfig,
            seed_everything_default=0,
            # The complete config is logged instead of the parts that modules keep of theirs.
            trainer_defaults={"log_every_n_steps": 1, "enable_autolog_hparams": False},
            parser_kwargs={
                **common,
                **{
                    name: {
                        "usage": f"python -m ss_lightning {name} --config FILE [--KEY VALUE ...]",
                        "description": summary,
                        **common,
                    }
                    for name, summary in SUMMARIES.items()
                },
            },
            args=args,
        )

    # Parsing ---------------------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data knows into the model, and keep the best weights."""
        for name in _LINKS:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_argument(
            "--lr_scheduler_interval",
            type=Literal["epoch", "step"],
            default="epoch",
            help="step the learning-rate schedule once an epoch, or after every update of the weights",
        )
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
            }
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if subcommand != self.asked_for:
            return self.init_parser(**kwargs)  # hundreds of arguments that no one asks for take their time
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--format", type=Literal["csv", "parquet"], default="csv", help="file to write")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; a checkpoint brings the config of its run."""
        topic, typed = split_help(cast(list[str], args))
        check_words(typed)
        arguments = configs_first(typed)
        check_config_files(arguments)
        arguments = with_packaged_recipes(arguments)
        for path in _configs(arguments):
            check_config(path)
            check_kind(path)
        arguments = with_class_for_help(arguments)
        if topic is None:
            arguments = self._with_config_of_run(arguments)
        for path in _configs(arguments):
            check_config(path)
            self.trust.check_names(path)
        if topic is not None and not _configs(arguments):
            print(keys_page(topic, {key: (cls, {}) for key, cls in _OWNERS.items()}), end="")
            raise SystemExit(0)
        with self.trust.guard():
            self._parse(parser, arguments)
        self.trust.check(self.config)
        if topic is not None:
            print(keys_page(topic, self._classes()), end="")
            raise SystemExit(0)

    def _classes(self) -> dict[str, tuple[type, dict[str, Any]]]:
        """The class whose arguments follow each key, and the values that the config has for them."""
        config = self.config[self.config.subcommand]
        classes: dict[str, tuple[type, dict[str, Any]]] = {}
        for key in ("model", "data", "optimizer", "lr_scheduler"):
            part = config.get(key)
            if part is not None and part.get("class_path"):
                classes[key] = (resolve_name(part.class_path), vars(part.get("init_args") or Namespace()))
        return classes | {key: (cls, vars(config.get(key) or Namespace())) for key, cls in _OWNERS.items()}

    def _with_config_of_run(self, arguments: list[str]) -> list[str]:
        """The command line with the config of the run that it evaluates, or trains on; says which that is."""
        # Another run may have written a newer checkpoint since the first process looked.
        known = None if is_first_process() else os.environ.get(_CHECKPOINT_VARIABLE)
        found = with_config_of_run(arguments, known)
        own, given = _configs(found), _configs(arguments)
        if (left_out := [path for path in given if path not in own]) and is_first_process():
            run = display_path(own[0].parent)
            print(f"{display_path(left_out[0])} stands for its run {run}, whose own config is used", file=sys.stderr)
        return found

    def _parse(self, parser: LightningArgumentParser, arguments: list[str]) -> None:
        try:
            self.config = parser.parse_args(arguments)
        except ArgumentError as error:
            cause = innermost_error(error)
            denied = str(cause) if type(cause) is UsageError else denied_import(error)
            if denied is not None:
                raise UsageError(denied) from error
            keys = parser_keys(self._subcommand_parsers.get(arguments[0], parser))
            settings = [setting for path in _configs(arguments) for setting in written_settings(read_yaml(str(path)))]
            settings += typed_settings(arguments)
            if (mended := with_lists(arguments, keys, settings, _OWNERS)) != arguments:
                self._parse(parser, mended)
                return
            raise UsageError(explain_parser_error(error, keys, settings, _OWNERS, _KINDS)) from error

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UsageError(f"seed_everything: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint silently override the config; we compare the two, see below."""

    # Before training -------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and reserve the run folder: both can fail, and should before data is prepared."""
        config = self.config[self.subcommand]
        check_trainer(config.trainer)
        if self.subcommand == "fit":
            check_optimizer(config)
        if config.get("weights_only") is False:
            raise UsageError("weights_only is false, which would run any code in a checkpoint. Leave it out")
        self.root = Path(config.trainer.default_root_dir or DEFAULT_ROOT)
        self.run_name = config_name(first_config(config), self.root)
        config.ckpt_path = self._checkpoint(config.get("ckpt_path"))
        self.run_folder = None if config.trainer.fast_dev_run else self._reserve()

    def _checkpoint(self, path: str | None) -> str | None:
        if path is None and self.subcommand != "fit":
            path = "best"
        if path in ("best", "last"):
            # Another run may have written a newer one since the first process looked.
            name, path = path, None if is_first_process() else os.environ.get(_CHECKPOINT_VARIABLE)
            path = path or str(find_checkpoint(self.root / self.run_name, name))
        elif path is not None:
            check_checkpoint_file(path)
        else:
            return None
        os.environ[_CHECKPOINT_VARIABLE] = path
        if is_first_process() and self.given_run_folder is None:
            print(f"checkpoint  {display_path(path)}")
        return path

    def _reserve(self) -> Path:
        if self.given_run_folder is not None:
            return self.given_run_folder
        kind = "version" if self.subcommand == "fit" else str(self.subcommand)
        if not is_first_process():
            # Of a process that torchrun or SLURM has started this is a name only: it writes nothing.
            return Path(os.environ.get(_RUN_VARIABLE, self.root / self.run_name / kind))
        run = reserve_run(self.root / self.run_name, kind)
        os.environ[_RUN_VARIABLE] = str(run)
        return run

    def _leave_no_empty_run(self) -> None:
        """Remove the run folder of a command that failed before it brought anything."""
        run = self.run_folder
        if run is None or run == self.given_run_folder or not is_first_process() or holds_results(run):
            return
        shutil.rmtree(run, ignore_errors=True)
        with suppress(OSError):  # those that hold other runs stay
            for folder in (run.parents[n] for n in range(len(Path(self.run_name).parts) + 1)):
                folder.rmdir()

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; a value that one of them refuses is the user's to mend."""
        config = self.config[self.subcommand]
        written = config.trainer.logger
        config.trainer.logger = self._placed(written)
        try:
            with ExitStack() as self.preparing:
                if self.given_run_folder is None:
                    self.preparing.enter_context(_spinner("preparing data"))
                super().instantiate_classes()
        except ValueError as error:
            cause = innermost_error(error)  # the parser wraps what a constructor says
            if "can't allocate memory" in str(cause):
                raise MemoryError(str(cause)) from error
            if isinstance(cause, DataError):
                raise cause from error
            raise UsageError(self._explain(cause) or str(cause)) from error
        finally:
            # The saved config must not lead another run to this one's folder.
            config.trainer.logger = written

    def _explain(self, error: BaseException) -> str | None:
        """What to say of an error that the config can mend, if it is one that nobody has explained yet."""
        if isinstance(error, UsageError | DataError):
            return None
        config = getattr(self, "config", None)
        explained = explain(error, None if config is None else config.get(self.asked_for))
        return explained[0] if explained is not None and explained[1] == 2 else None

    def _placed(self, loggers: Any) -> Any:
        """Loggers of a config, those that would write to the current folder sent to the run folder."""
        if isinstance(loggers, list):
            return [self._placed(logger) for logger in loggers]
        arguments = loggers.get("init_args") if isinstance(loggers, Namespace) else None
        if arguments is None or self.run_folder is None or arguments.get("save_dir", "") not in (None, "."):
            return loggers
        placed = loggers.clone()
        # In full: W&B's own process may have been started in another folder.
        placed.init_args.save_dir = str(self.run_folder.resolve())
        if placed.class_path.endswith("WandbLogger") and placed.init_args.name is None:
            placed.init_args.name = f"{self.run_name}/{self.run_folder.name}"
        return placed

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer: it logs to the run folder as CSV beside the loggers of the config, and ``fit`` keeps weights."""
        self.preparing.close()  # the trainer prints lines of its own
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        callbacks = config["callbacks"] or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if self.run_folder is not None:
            config["logger"] = self._loggers(config["logger"])
            callbacks += self._record(), *self.extra_callbacks
            callbacks += self._fit_callbacks() if self.subcommand == "fit" else []
            if self.subcommand in ("test", "validate") and self._get(self.config_init, "pictures").every_n_epochs:
                callbacks.append(ConfusionPicture(self.run_folder))
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            # Bars that redraw themselves make no sense in a file.
            callbacks.append(EpochBar() if is_interactive() else EpochLines())
        if config["enable_model_summary"] is None:
            # Lightning's table knows modules and their parameters, and nothing of neurons.
            config["enable_model_summary"] = False
            callbacks += [NetworkTable()] if self.subcommand == "fit" and self.given_run_folder is None else []
        plugins = config["plugins"] or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        return self._instantiate_trainer({**config, "callbacks": callbacks, "plugins": plugins}, [])

    def _loggers(self, chosen: Any) -> Any:
        """The loggers of the config behind our own, which decides where the trainer keeps its files."""
        folder = cast(Path, self.run_folder)
        # Written through at once: what a killed run has logged is not lost.
        ours = MetricsLogger(folder.parent, "", version=folder.name, flush_logs_every_n_steps=1)
        if chosen is False:
            return False
        others = [] if chosen in (None, True) else chosen
        return [ours, *(others if isinstance(others, list) else [others])]

    def _record(self) -> Callback:
        """Keeps the account of this run."""
        checkpoint = self.config[self.subcommand].ckpt_path
        self.record = RunRecord(cast(Path, self.run_folder), self.plain_config(), checkpoint, self.arguments)
        return self.record

    def plain_config(self) -> dict[str, Any]:
        """The whole config in plain values."""
        return yaml.safe_load(self._parser(self.subcommand).dump(self.config[self.subcommand]))

    def _fit_callbacks(self) -> list[Callback]:
        """What draws pictures and keeps weights."""
        pictures: Pictures = self._get(self.config_init, "pictures")
        pictures.folder = self.run_folder
        return [pictures, *self._checkpoints()]

    def _checkpoints(self) -> list[Callback]:
        """Keep the best weights and, on their own, the last (Lightning renews ``save_last`` with the best only)."""
        folder = cast(Path, self.run_folder) / "checkpoints"
        best: BestCheckpoint = self._get(self.config_init, "checkpoint")
        best.dirpath = best.dirpath or str(folder.resolve())
        no_set = isinstance(self.datamodule, EventDataModule) and self.datamodule.splits.val is None
        if no_set or self.config[self.subcommand].trainer.limit_val_batches == 0:
            best.monitor = None  # nothing to choose by: the last epoch is the best there is
        last = LastCheckpoint(folder, flatten_config(self.plain_config()), say_stopped=self.given_run_folder is None)
        return [best, last]

    def after_instantiate_classes(self) -> None:
        """Refuse devices and checkpoints that cannot serve; give ``predict`` a file to write; start W&B."""
        devices = self.trainer.num_devices * self.trainer.num_nodes
        if self.given_run_folder is not None and devices > 1:
            # For each further device Lightning would start the command that was typed: all trainings, not this one.
            raise SeveralDevicesError(
                f"one of many trainings cannot be spread over {devices} devices; give each of them one: "
                "--trainer.devices 1 --trainer.num_nodes 1"
            )
        checkpoint = self.config[self.subcommand].ckpt_path
        if checkpoint is not None:
            refuse_other_architecture(Path(checkpoint), self.model, to_train=self.subcommand == "fit")
        if self.subcommand == "predict" and self.run_folder is not None:
            self.predictions = self.run_folder / f"predictions.{self.config[self.subcommand].format}"
            self.trainer.callbacks.append(PredictionWriter(self.predictions))  # type: ignore[attr-defined]
        if self.run_folder is not None:
            start_wandb(self.trainer.loggers)

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Let the model make what the config says where it is trained.

        Lightning makes it here and hangs a method onto the model, which a copy in a process of ``ddp_spawn`` has not:
        that one would be trained with the optimizer of its class.
        """
        if optimizer := self._get(self.config_init, "optimizer"):
            scheduler = self._get(self.config_init, "lr_scheduler")
            interval = self._get(self.config_init, "lr_scheduler_interval")
            made = partial(make_optimizers, self.model, optimizer, scheduler, interval)
            self.model.configure_optimizers = made

    def _updates_per_epoch(self) -> int:
        """Updates of the weights in an epoch; the data know their size."""
        trainer, data = self.trainer, cast(EventDataModule, self.datamodule)
        batches = math.ceil(len(data.splits.train) // trainer.world_size / data.batch_size)
        limit = trainer.limit_train_batches
        limited = min(limit, batches) if isinstance(limit, int) else int(batches * (1 if limit is None else limit))
        return math.ceil(limited / trainer.accumulate_grad_batches)

    def _say_idle_parts(self) -> None:
        if self.trainer.is_global_zero:
            for note in idle_parts(self.plain_config()["trainer"], str(self.subcommand)):
                print(f"note  {note}")

    before_validate = before_test = before_predict = _say_idle_parts

    def before_fit(self) -> None:
        """Say which settings do something else than one would think."""
        self._say_idle_parts()
        if not self.trainer.is_global_zero:
            return
        config = self.plain_config()
        data = self.datamodule
        duration_ms = data.num_steps * data.step_ms if isinstance(data, EventDataModule) else None
        by_update = config["lr_scheduler_interval"] == "step"
        if by_update and config.get("lr_scheduler") is None:
            print("note  lr_scheduler_interval = step does nothing: there is no lr_scheduler")
        if by_update and not isinstance(data, EventDataModule):
            notes = []  # who knows how many batches there are
        else:
            updates = self._updates_per_epoch() if by_update else None
            notes = rising_rate(config.get("lr_scheduler"), self.trainer.max_epochs, updates)
        notes += idle_keys(config["model"].get("init_args", {}), duration_ms)
        for note in notes + idle_data_keys(config["data"].get("init_args", {})):
            print(f"note  {note}")

    # Afterwards ------------------------------------------------------------------------------------------------------

    def after_fit(self) -> None:
        """Say how good the best epoch was, where its weights are and what to do next."""
        callback = self.trainer.checkpoint_callback
        if not self.trainer.is_global_zero or self.run_folder is None or self.given_run_folder is not None:
            return
        finish_wandb()  # it has something to say too, and ours should be the last word
        if not isinstance(callback, ModelCheckpoint) or not callback.best_model_path:
            return
        print()
        summary = self.record.summary
        if "seconds" not in summary:  # with ddp_spawn and ddp_fork another process has kept the record
            summary = read_json(self.run_folder / "summary.json", "The training itself has ended")
        for name, text in summary_lines(summary["metrics"], summary["seconds"]):
            print(f"{name:16} {text}")
        best = display_path(callback.best_model_path)
        print(f"best checkpoint  {best}")
        print(f"test it with     python -m ss_lightning test --ckpt_path {shlex.quote(best)}")
        print(f"look at it with  python -m ss_lightning report {shlex.quote(display_path(self.run_folder))}")

    def validate(self, **options: Any) -> Any:
        """Evaluate on the validation set; the values are printed by :meth:`after_validate`."""
        return self._evaluate("validate", options)

    def test(self, **options: Any) -> Any:
        """Evaluate on the test set; the values are printed by :meth:`after_test`."""
        return self._evaluate("test", options)

    def _evaluate(self, name: str, options: dict[str, Any]) -> Any:
        self.says_values = options.pop("verbose", True)
        return getattr(self.trainer, name)(**options, verbose=False)

    def after_test(self) -> None:
        """Say the values, rounded, and where they lie."""
        if not self.trainer.is_global_zero or not self.says_values:
            return
        if self.run_folder is not None:
            finish_wandb()
        for line in metric_lines(plain_numbers(self.trainer.callback_metrics)):
            print(line)
        if self.run_folder is not None:
            print(f"\nmetrics   {display_path(self.run_folder / 'summary.json')}")
            pictures = self.run_folder / "pictures"
            if pictures.is_dir():
                print(f"pictures  {display_path(pictures)}")

    after_validate = after_test

    def after_predict(self) -> None:
        """Say where the predictions are."""
        if self.run_folder is not None and self.trainer.is_global_zero and self.predictions.is_file():
            print(f"predictions  {display_path(self.predictions)}")


def metric_lines(metrics: Mapping[str, float]) -> list[str]:
    """A line for each metric, rounded to what its name can bear."""
    shares = ("accuracy", "dead_fraction")
    width = max(map(len, metrics), default=0)
    lines = []
    for name, value in sorted(metrics.items()):
        is_share = any(word in name for word in shares)
        text = f"{value:.4f}" if is_share or "loss" in name else f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
        lines.append(f"{name:{width}}  {text}")
    return lines


def summary_lines(best: Mapping[str, float], seconds: float) -> list[tuple[str, str]]:
    """Name and text of each line that sums up a training.

    Args:
        best: metrics of the best epoch.
        seconds: how long the training took.
    """
    lines = []
    epoch = f"  (epoch {best['epoch']:.0f})" if "epoch" in best else ""
    for split in ("val", "train"):
        if f"{split}/accuracy" in best:
            lines.append(
                (f"{'best' if split == 'val' else 'last'} accuracy", f"{best[f'{split}/accuracy']:.4f}{epoch}")
            )
            break
    if "val/spikes_per_sample" in best:
        lines.append(("hidden spikes", f"{best['val/spikes_per_sample']:.1f} per sample"))
        lines.append(("dead neurons", f"{best['val/dead_fraction']:.1%}"))
    speed = f", {best['train/samples_per_second']:,.0f} samples/s" if "train/samples_per_second" in best else ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (hours + minutes > 0) + [f"{rest} s"]
    return [*lines, ("time", " ".join(clock) + speed)]


def is_interactive() -> bool:
    """Whether a person sees the output as it is written: in a terminal, and not on a CI server."""
    return sys.stdout.isatty() and "CI" not in os.environ


def _spinner(text: str) -> AbstractContextManager[Any]:
    return spinner(text) if is_interactive() else nullcontext()


def make_optimizers(
    model: LightningModule,
    optimizer: dict[str, Any],
    lr_scheduler: dict[str, Any] | None,
    interval: Literal["epoch", "step"],
) -> Any:
    """What ``configure_optimizers`` of a model returns.

    Args:
        model: what is trained.
        optimizer: class and arguments, as a config has them.
        lr_scheduler: the same of a schedule, if there is one.
        interval: how often the schedule is stepped.

    Raises:
        UsageError: the schedule follows a metric, which is not known after an update.
    """
    made: Optimizer = instantiate_class(model.parameters(), optimizer)
    if lr_scheduler is None:
        return made
    schedule = instantiate_class(made, lr_scheduler)
    if interval == "epoch":
        return LightningCLI.configure_optimizers(model, made, schedule)
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise UsageError(
            "lr_scheduler_interval: step does not go with ReduceLROnPlateau, which follows a metric that is known "
            "once an epoch. Use --lr_scheduler_interval epoch"
        )
    return [made], [{"scheduler": schedule, "interval": "step"}]


class CommandLineCheck(SpikingCLI):
    """Parses a command line and does nothing with it; the result is in ``config``."""

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        """Reserve no run folder."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Load nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def first_config(config: Namespace) -> Path | None:
    """The file that the first ``--config`` of a subcommand names; None if none does (it may hold a config itself)."""
    files = config.get("config") or []
    if not files or files[0] is None:
        return None
    return Path(os.fspath(files[0].absolute if hasattr(files[0], "absolute") else files[0]))


def _configs(arguments: Sequence[str]) -> list[Path]:
    """The files that ``--config`` names."""
    paths = [value for option, value in pairwise(arguments) if option in ("--config", "-c")]
    paths += [argument.partition("=")[2] for argument in arguments if argument.startswith(("--config=", "-c="))]
    return [Path(path) for path in paths if os.path.isfile(path)]  # it may be a whole config, too long for a name


def run_command(
    arguments: list[str],
    run_folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
    typed: Sequence[str] | None = None,
) -> SpikingCLI:
    """Do what a command line says, see :class:`SpikingCLI`, and close the W&B run that it may have opened."""
    try:
        return SpikingCLI(arguments, run_folder, callbacks, typed)
    finally:
        finish_wandb(failed=sys.exc_info()[0] is not None)


def main(arguments: list[str]) -> int:
    """Train, evaluate or predict.

    Args:
        arguments: the command line, from the subcommand on.
    """
    run_command(arguments)
    return 0
