"""Pictures of what a network does, drawn while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import snntorch as snn
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ss_lightning import plots
from ss_lightning.errors import UsageError
from ss_lightning.events import EventBatch
from ss_lightning.files import keep_going, save_bytes
from ss_lightning.module import SpikingClassifier
from ss_lightning.networks import NetworkOutput, Spikes, evaluating
from ss_lightning.runs.history import EpochHistory, best_epoch


class Pictures(EpochHistory):
    """Draws what a network does with a fixed set of samples, every few epochs.

    Input and hidden rasters, readout membranes, first spike times, time constants, the confusion matrix of the
    validation set, and over training accuracy and loss, dead neurons and accuracy against spikes. They go to every
    logger that takes pictures (W&B, TensorBoard) and to ``pictures/epoch_<n>/`` in the run folder. Nothing is done in
    training steps, no random number is drawn and the network is looked at as in evaluation, so that the training is the
    same with and without pictures.

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
        if trainer.val_dataloaders and pl_module.confusion is not None:
            figures["confusion_matrix"] = draw_confusion(pl_module.confusion, names, "validation samples")
        keep_pictures(trainer, figures, self.folder, Path("pictures") / f"epoch_{epoch:04d}")


class ConfusionPicture(Callback):
    """Draws which class was taken for which in an evaluation: ``pictures/confusion_matrix.png`` in its folder.

    Args:
        folder: the folder of the evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the picture."""
        self._draw(trainer, pl_module, "test samples")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the picture."""
        self._draw(trainer, pl_module, "validation samples")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, of: str) -> None:
        if trainer.is_global_zero and isinstance(pl_module, SpikingClassifier) and pl_module.confusion is not None:
            names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
            figures = {"confusion_matrix": draw_confusion(pl_module.confusion, names, of)}
            keep_pictures(trainer, figures, self.folder, Path("pictures"))


def keep_pictures(trainer: Trainer, figures: Mapping[str, Any], folder: Path | None, place: Path) -> None:
    """Put pictures into a run folder, and send them to the loggers that take pictures.

    Args:
        trainer: its loggers are asked.
        figures: the pictures by name.
        folder: the run folder, if there is one.
        place: where in it.
    """
    for name, figure in figures.items():
        image = plots.png(figure)
        if folder is not None:
            file = folder / place / f"{name}.png"
            with keep_going(file, folder):
                file.parent.mkdir(parents=True, exist_ok=True)
                save_bytes(file, image)
        for logger in trainer.loggers:
            log_picture(logger, f"pictures/{name}", image, trainer.global_step)


def draw_confusion(counts: Tensor, class_names: Sequence[str] | None, of: str) -> Any:
    """Picture of which class was taken for which; ``counts`` ``[C, C]``, and numbers where there are no names."""
    return plots.confusion_matrix(counts, class_names or [str(index) for index in range(len(counts))], of)


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
    """Pictures of a training from the metrics of its epochs; some need a validation."""
    validated = [epoch for epoch in history if "val/accuracy" in epoch]
    best = int(best_epoch(validated, "val/accuracy", "max")["epoch"]) if len(validated) > 1 else None
    curve = {"learning_curve": plots.learning_curve(history, best)}
    epochs = [epoch for epoch in history if "val/dead_fraction" in epoch and "val/accuracy" in epoch]
    if not epochs:
        return curve
    x = [int(epoch["epoch"]) for epoch in epochs]
    dead = sorted(name for name in epochs[0] if name.startswith("val/dead_fraction/"))
    return curve | {
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
        from PIL import Image

        picture = Image.open(BytesIO(image)).convert("RGB")
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step)
        else:
            logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
