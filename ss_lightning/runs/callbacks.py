"""Callbacks: what a person sees of a run while it goes on, and what it leaves behind."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import snntorch as snn
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ss_lightning import plots
from ss_lightning.errors import UsageError
from ss_lightning.events import EventBatch
from ss_lightning.module import SpikingClassifier
from ss_lightning.networks import NetworkOutput, Spikes, evaluating

# What a dashboard shows of a metric that went up and down: its best value.
SUMMARIES = {
    "train/accuracy": "max",
    "train/loss": "min",
    "val/accuracy": "max",
    "val/loss": "min",
    "val/spikes_per_sample": "min",
}
_VERSIONS_OF = ("ss-lightning", "torch", "lightning", "snntorch", "numpy", "numba")


class PredictionWriter(BasePredictionWriter):
    """Writes what ``predict`` found to a file, one row a sample in the order of the test set.

    Args:
        path: the file to write; its ending says how, ``.csv`` or ``.parquet``.

    Raises:
        UsageError: the ending is another one, or Parquet is wanted and pyarrow is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(write_interval="epoch")
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".parquet"):
            raise UsageError(f"predictions are written as .csv or .parquet, not as {self.path.name}")
        if self.path.suffix == ".parquet":
            try:
                import pyarrow  # noqa: F401
            except ImportError as error:
                raise UsageError("Parquet needs pyarrow: pip install pyarrow, or write --format csv") from error

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Called by the trainer once all batches are predicted."""
        import pandas as pd

        columns = {name: torch.cat([batch[name] for batch in predictions]).tolist() for name in predictions[0]}
        columns = {"sample": [index for batch in batch_indices[0] for index in batch], **columns}
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, columns)
            columns = {name: [value for part in parts for value in part[name]] for name in columns}
        if trainer.is_global_zero:
            table = pd.DataFrame(columns).sort_values("sample")
            if self.path.suffix == ".csv":
                table.to_csv(self.path, index=False)
            else:
                table.to_parquet(self.path, index=False)


class EpochLines(ProgressBar):
    """One short line for each epoch, for output that goes to a file or a pipe, where a bar would leave rubble."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self._write = write or (lambda line: print(line, flush=True))
        self._enabled = True

    def disable(self) -> None:
        """Say nothing (the trainer calls this in all processes but the first)."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is about to be trained."""
        if self._enabled:
            parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            self._write(f"training {parameters:,} parameters, {trainer.num_training_batches:,} batches an epoch")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        if not self._enabled:
            return
        metrics = numbers(trainer.callback_metrics)
        of = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        shown = {"train/loss": "train loss", "train/accuracy": "train accuracy", "val/accuracy": "val accuracy"}
        parts = [f"{text} {metrics[name]:.4f}" for name, text in shown.items() if name in metrics]
        if "val/spikes_per_sample" in metrics:
            parts.append(f"spikes {metrics['val/spikes_per_sample']:.1f}")
        parts.append(f"{time.perf_counter() - self._start:.1f} s")
        self._write(f"epoch {trainer.current_epoch + 1}{of}  " + "  ".join(parts))


class _History(Callback):
    """Keeps the metrics of every epoch, also over a resumed training.

    Attributes:
        history: one mapping from name to value per epoch, ``epoch`` (from 1) among them.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this epoch."""
        self.history.append({"epoch": trainer.current_epoch + 1, **numbers(trainer.callback_metrics)})

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of a checkpoint."""
        self.history = list(state_dict["history"])


class RunRecord(_History):
    """Writes down what one needs to know of a run to believe and to repeat it.

    ``summary.json`` in the run folder holds the state of the run (``running``, ``finished``, ``interrupted``,
    ``failed``), the command line, the best epoch (of an evaluation its metrics), the time it took, and facts:
    parameters, data set, seed, git commit, versions, machine, threads. It is renewed after every epoch, so that a run
    that was killed says how far it came. All loggers get the same facts beside the flattened config, and for each epoch
    ``train/samples_per_second`` (validation not counted) and ``train/peak_memory_mib`` (of the GPU if one is used, else
    of the process).

    Args:
        folder: the run folder.
        config: the whole config, nested.
        checkpoint: file of the weights that the run begins with, if it does.
        arguments: the command line, from the subcommand on, if there was one.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        checkpoint: str | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.folder = folder
        self.checkpoint = checkpoint
        self.config = flattened(config)
        self.arguments = arguments
        self.summary: dict[str, Any] = {}
        self._start = time.perf_counter()
        self._seconds_before = 0.0

    @property
    def _seconds(self) -> float:
        """How long it has taken so far, a training that this one goes on with included."""
        return self._seconds_before + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {**super().state_dict(), "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record of a checkpoint; one of an earlier version knows no time."""
        super().load_state_dict(state_dict)
        self._seconds_before = state_dict.get("seconds", 0.0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the config and the facts to the loggers, once."""
        self._start = time.perf_counter()
        self.facts = facts(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_hyperparams({**self.config, **flattened(self.facts)})
            if isinstance(logger, WandbLogger):
                for name, summary in SUMMARIES.items():
                    logger.experiment.define_metric(name, step_metric="trainer/global_step", summary=summary)
        self._write(trainer, "running")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._samples = 0
        self._validating = 0.0
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples."""
        self._samples += len(batch[1])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        if not trainer.sanity_checking and trainer.training:
            self._validating += time.perf_counter() - self._validation_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log speed and memory, and renew the summary."""
        seconds = time.perf_counter() - self._epoch_start - self._validating
        pl_module.log("train/samples_per_second", self._samples * trainer.world_size / seconds, sync_dist=True)
        pl_module.log("train/peak_memory_mib", peak_memory_mib(pl_module.device), sync_dist=True, reduce_fx="max")
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            self._write(trainer, "running")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write how the run ended."""
        if trainer.is_global_zero and self.summary:
            state = "interrupted" if isinstance(exception, KeyboardInterrupt) else "failed"
            self._write(trainer, state, f"{type(exception).__name__}: {exception}".rstrip(": "))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write that the run came to its end."""
        if trainer.is_global_zero and self.summary.get("state") == "running":
            self._write(trainer, "finished")

    def best(self, trainer: Trainer) -> dict[str, float]:
        """Metrics of the epoch that the best checkpoint is of; of the last one if nothing chooses. Empty at first."""
        callback = trainer.checkpoint_callback
        monitor = callback.monitor if isinstance(callback, ModelCheckpoint) else None
        rated = [epoch for epoch in self.history if monitor in epoch]
        if not rated:
            return self.history[-1] if self.history else {}
        choose = max if callback.mode == "max" else min  # type: ignore[union-attr]
        return choose(rated, key=lambda epoch: epoch[str(monitor)])

    def _write(self, trainer: Trainer, state: str, error: str = "") -> None:
        stage = trainer.state.fn.value if trainer.state.fn else ""
        self.summary = {
            "state": state,
            **({"error": error} if error else {}),
            "command": stage,
            **({"command_line": command_line(self.arguments)} if self.arguments else {}),
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(self._seconds, 3),
            **({"epochs": len(self.history), "max_epochs": trainer.max_epochs} if stage == "fit" else {}),
            **({"checkpoint": self.checkpoint} if self.checkpoint else {}),
            "metrics": self.best(trainer) if stage == "fit" else numbers(trainer.callback_metrics),
            "facts": self.facts,
        }
        # Renamed into place, so that no one ever reads half a file.
        scratch = self.folder / "summary.json.part"
        scratch.write_text(json.dumps(self.summary, indent=2) + "\n")
        scratch.replace(self.folder / "summary.json")


class Pictures(_History):
    """Draws what a network does with a fixed set of samples, every few epochs.

    Input and hidden rasters, readout membranes, first spike times, time constants, and over training dead neurons and
    accuracy against spikes. They go to every logger that takes pictures (W&B, TensorBoard) and to
    ``pictures/epoch_<n>/`` in the run folder. Nothing is done in training steps, no random number is drawn and the
    network is looked at as in evaluation, so that the training is the same with and without pictures.

    Args:
        every_n_epochs: how often to draw; the end of the training always is drawn. 0 never draws.
        num_samples: samples in rasters and readouts, of different classes as far as there are.
        probe_size: samples that first spike times are counted over: the first of the validation set, or of the training
            set where there is none.

    Attributes:
        folder: the run folder; that of the first logger if it is not set.
    """

    def __init__(self, every_n_epochs: int = 10, num_samples: int = 4, probe_size: int = 64) -> None:
        super().__init__()
        if every_n_epochs < 0 or num_samples < 1 or probe_size < 1:
            raise UsageError(
                "pictures need every_n_epochs of 0 or more, and num_samples and probe_size of 1 or more, got "
                f"{every_n_epochs}, {num_samples} and {probe_size}"
            )
        self.every_n_epochs = every_n_epochs
        self.num_samples = num_samples
        self.probe_size = probe_size
        self.folder: Path | None = None
        self._probe: tuple[Spikes, Tensor] | None = None
        self._drawn = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder, where none was named (all processes take part in this)."""
        if self.folder is None and trainer.log_dir is not None:
            self.folder = Path(trainer.log_dir)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the samples."""
        if self.every_n_epochs and trainer.is_global_zero and isinstance(pl_module, SpikingClassifier):
            loaders: Any = trainer.val_dataloaders or trainer.train_dataloader
            loader: DataLoader = loaders[0] if isinstance(loaders, list | tuple) else loaders
            self._probe = first_batch(loader, self.probe_size)
        self._drawn = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the end of the training."""
        if self.history and self.history[-1]["epoch"] > self._drawn:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = int(self.history[-1]["epoch"])
        self._drawn = epoch
        if self._probe is None or not isinstance(pl_module, SpikingClassifier):
            return
        names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        figures = draw_network(pl_module, *self._probe, self.num_samples, names)
        figures.update(draw_history(self.history))
        for name, figure in figures.items():
            image = plots.png(figure)
            if self.folder is not None:
                file = self.folder / "pictures" / f"epoch_{epoch:04d}" / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(image)
            for logger in trainer.loggers:
                log_picture(logger, f"pictures/{name}", image, trainer.global_step)


def draw_network(
    model: SpikingClassifier,
    spikes: Spikes,
    labels: Tensor,
    num_samples: int = 4,
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Pictures of what a network does with a batch.

    Args:
        model: the network and how its scores are decoded.
        spikes: input of ``B`` samples: events, or a tensor ``[T, B, N]``.
        labels: int64 ``[B]``.
        num_samples: samples in rasters and readouts.
        class_names: one name per class; numbers if not given.

    Returns:
        Figures by name.
    """
    network = model.network
    class_names = class_names or [str(index) for index in range(network.num_classes)]
    chosen = one_of_each_class(labels, num_samples)
    dense = (spikes.to_dense() if isinstance(spikes, EventBatch) else spikes).to(model.device)[:, chosen]
    with torch.no_grad(), evaluating(model):
        output, hidden = hidden_spikes(network, dense)
        whole: NetworkOutput = network(spikes.to(model.device))
        scores = model.scores(output)
    true = [int(label) for label in labels[chosen]]
    titles = [class_names[label] for label in true]
    num_steps = len(dense)
    layers = [f"layer {index}" for index in range(len(hidden))]
    betas = {name: module.beta for name, module in zip(layers, spiking_modules(network), strict=True)}
    if isinstance(readout := getattr(network, "readout", None), snn.Leaky):
        betas["readout"] = readout.beta
    return {
        "input_raster": plots.raster({"": dense.flatten(2).cpu()}, titles, network.step_ms, "input unit"),
        "hidden_raster": plots.raster(dict(zip(layers, hidden, strict=True)), titles, network.step_ms),
        "readout": plots.readout(
            output.readout.float().cpu(),
            true,
            scores.argmax(1).tolist(),
            (network.decoder.decision_step(output.readout) * network.step_ms).tolist(),
            class_names,
            network.step_ms,
            "readout spikes" if network.decoder.readout_fires else "readout membrane",
        ),
        "first_spike_times": plots.first_spike_histogram(
            {name: layer.first_spike_time.cpu() for name, layer in zip(layers, whole.activity, strict=True)},
            num_steps,
            network.step_ms,
        ),
        "time_constants": plots.time_constants(
            {name: torch.as_tensor(beta).detach().float().clamp(0, 1).flatten().cpu() for name, beta in betas.items()},
            network.step_ms,
        ),
    }


def draw_history(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Pictures of a training from the metrics of its epochs, as far as it was validated."""
    epochs = [epoch for epoch in history if "val/dead_fraction" in epoch and "val/accuracy" in epoch]
    if not epochs:
        return {}
    x = [int(epoch["epoch"]) for epoch in epochs]
    dead = sorted(name for name in epochs[0] if name.startswith("val/dead_fraction/"))
    return {
        "dead_neurons": plots.curves(
            {
                name.rpartition("/")[2].replace("layer", "layer "): (x, [100 * epoch[name] for epoch in epochs])
                for name in dead
            },
            "neurons that never fire (%)",
            from_zero=True,
        ),
        "accuracy_and_spikes": plots.accuracy_over_training(
            [epoch["val/spikes_per_sample"] for epoch in epochs],
            [epoch["val/accuracy"] for epoch in epochs],
            x,
        ),
    }


def spiking_modules(network: nn.Module) -> list[snn.Leaky]:
    """The layers of hidden neurons, in order."""
    readout = getattr(network, "readout", None)
    return [module for module in network.modules() if isinstance(module, snn.Leaky) and module is not readout]


def hidden_spikes(network: nn.Module, dense: Tensor) -> tuple[NetworkOutput, list[Tensor]]:
    """Run a network layer by layer and listen to its neurons.

    Args:
        network: the network; on a dense input it never takes the fused path, which makes no spike tensors.
        dense: ``[T, B, N]``.

    Returns:
        Its output, and the spikes ``[T, B, N]`` of each hidden layer.
    """
    heard: list[Tensor] = []

    def listen(module: nn.Module, args: Any, output: Any) -> None:
        spikes = output[0] if isinstance(output, tuple) else output
        heard.append(spikes.detach().flatten(2).cpu())

    handles = [module.register_forward_hook(listen) for module in spiking_modules(network)]
    try:
        return network(dense), heard
    finally:
        for handle in handles:
            handle.remove()


def one_of_each_class(labels: Tensor, number: int) -> list[int]:
    """Indices of ``number`` samples: the first of each class, then the second of each, and so on."""
    seen: dict[int, int] = {}
    ranks = []
    for label in labels.tolist():
        seen[label] = seen.get(label, -1) + 1
        ranks.append((seen[label], label))
    return sorted(range(len(ranks)), key=ranks.__getitem__)[:number]


def first_batch(loader: DataLoader, size: int) -> tuple[Spikes, Tensor]:
    """The first ``size`` samples of a loader's data set, in their order there."""
    if loader.batch_size is None:  # the data set holds whole batches
        return loader.dataset[0]
    # A loader of its own, with a generator of its own: asking the trainer's would draw from the global one.
    return next(iter(DataLoader(loader.dataset, size, collate_fn=loader.collate_fn, generator=torch.Generator())))


def log_picture(logger: Logger, name: str, image: bytes, step: int) -> None:
    """Send a PNG to a logger, if it takes pictures."""
    if isinstance(logger, WandbLogger | TensorBoardLogger):
        from io import BytesIO

        from PIL import Image

        picture = Image.open(BytesIO(image)).convert("RGB")
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step)
        else:
            logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


def facts(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What a run was made with: parameters, data set, seed, commit, versions, machine."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "parameters": sum(p.numel() for p in pl_module.parameters() if p.requires_grad),
        "data_set": type(datamodule).__name__ if datamodule is not None else None,
        "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
        "git_commit": git_commit(),
        "device": torch.cuda.get_device_name() if pl_module.device.type == "cuda" else pl_module.device.type,
        "devices": trainer.world_size,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in _VERSIONS_OF}},
    }


def command_line(arguments: Sequence[str]) -> str:
    """What to type for ``arguments`` of our command line."""
    return shlex.join(["python", "-m", "ss_lightning", *arguments])


def machine() -> str:
    """The processor and how many cores of it this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor that does not say its name there
        name = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} core{'s' * (cores != 1)}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the current folder, with ``-dirty`` behind it if files were changed; None outside of a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_mib(device: torch.device) -> float:
    """Highest memory use so far in MiB: of the GPU since the epoch began, or of this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one with dots in its keys, as they are written on the command line."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics as plain numbers."""
    return {name: float(value) for name, value in metrics.items()}
