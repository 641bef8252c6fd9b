"""Training: LightningModules around the networks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, ClassVar, Literal, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import ArrayLike
from torch import Tensor

from ss_lightning.arrays import as_recordings, is_one_recording
from ss_lightning.calibration import WAKING_RATE, calibrate_weights, scale_weights, silent_layers, wake_silent_layers
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.recordings import RecordingFormat
from ss_lightning.delayed_linear import DelayedLinear, narrow_delays
from ss_lightning.errors import DivergedError, UsageError
from ss_lightning.files import display_path
from ss_lightning.losses import classification_loss, spike_penalty
from ss_lightning.metrics import EvaluationMetrics, MulticlassAccuracy
from ss_lightning.networks import (
    MLP,
    ConvNet,
    GraphedNetwork,
    NetworkOutput,
    Spikes,
    SpikingNetwork,
)
from ss_lightning.plain import plain_checkpoint, plain_values
from ss_lightning.prediction import class_probabilities, classify_recordings
from ss_lightning.signatures import passes_on_to

Batch = tuple[Spikes, Tensor]

_LOOK_EVERY = 50  # batches
_UPDATES_TO_LEARN = 20
# Of a hidden layer in which so many neurons fire for no sample of the validation set, a training speaks.
_DEAD_SHARE = 0.95


class SpikingClassifier(L.LightningModule):
    """Trains any spiking network as a classifier.

    Logs ``train/loss`` and ``train/accuracy``, and under ``val/`` and ``test/`` what
    :class:`ss_lightning.metrics.EvaluationMetrics` holds.

    Args:
        network: the network to train.
        label_smoothing: share of the target spread over all classes, 0 to 1.
        spike_target: lowest and highest number of spikes of a hidden neuron in a sample, in the mean over a batch, that
            costs nothing, see :func:`ss_lightning.losses.spike_penalty`.
        spike_weight: weight of that penalty in the loss.
        start_rate: how the weights are scaled on the first batch of a training. ``auto`` raises those of hidden
            layers that are silent, see :func:`ss_lightning.calibration.wake_silent_layers`, and says so. A number
            brings every hidden layer to this share of pairs of neuron and sample with a spike, see
            :func:`ss_lightning.calibration.calibrate_weights`. None leaves all as they are.
        cuda_graph: on one NVIDIA GPU, replay the two passes of a training step as a CUDA graph for batches of a shape
            seen before, see :class:`ss_lightning.networks.GraphedNetwork`.

    Attributes:
        recording_format: time grid, units and class names of the data of the training, kept in checkpoints; None for a
            network that was not trained on an :class:`ss_lightning.data.EventDataModule`.
        confusion: int64 ``[C, C]``, samples of the last evaluation by true class (rows) and predicted class (columns);
            None before one, and for more than 256 classes.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> from ss_lightning.networks import MLP
        >>> network = MLP(input_shape=[4], num_classes=3, step_ms=1.0, hidden=[8])
        >>> model = SpikingClassifier(network, label_smoothing=0.1)
        >>> output = model(torch.ones(20, 5, 4))
        >>> model.scores(output).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        network: SpikingNetwork,
        label_smoothing: float = 0.0,
        spike_target: Sequence[float] = (0.0, math.inf),
        spike_weight: float = 0.0,
        start_rate: float | Literal["auto"] | None = "auto",
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
        if len(spike_target) != 2 or not 0 <= spike_target[0] <= spike_target[1]:
            raise ValueError(f"spike_target must be [low, high] with 0 <= low <= high, got {list(spike_target)}")
        if not spike_weight >= 0:
            raise ValueError(f"spike_weight must be zero or more, got {spike_weight}")
        if start_rate is not None and start_rate != "auto" and not (_is_number(start_rate) and 0 < start_rate < 1):
            raise ValueError(f"start_rate must be auto, null or lie between 0 and 1, got {start_rate!r}")
        self.network = network
        self.label_smoothing = label_smoothing
        self.spike_target = (spike_target[0], spike_target[1])
        self.spike_weight = spike_weight
        self.start_rate = start_rate
        self.cuda_graph = cuda_graph
        self._graphed: GraphedNetwork | None = None
        self.recording_format: RecordingFormat | None = None
        self.confusion: Tensor | None = None
        self._told_dead: set[int] = set()
        num_classes, sizes = int(network.num_classes), network.layer_sizes
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        facts = (num_classes, sizes, network.step_ms, network.weight_uses, network.fires_once)
        self.val_metrics, self.test_metrics = EvaluationMetrics(*facts), EvaluationMetrics(*facts)

    def forward(self, spikes: Spikes) -> NetworkOutput:
        """Readout over time and activity of the hidden layers for a batch of input spikes."""
        return self.network(spikes)

    def scores(self, output: NetworkOutput) -> Tensor:
        """Class scores ``[B, C]``; their softmax is the predicted distribution."""
        return self.network.decoder.scores(output.readout)

    def setup(self, stage: str) -> None:
        """Take the precision of the trainer before weights are loaded: double precision would be rounded."""
        self.trainer.precision_plugin.convert_module(self)

    def predict(
        self,
        times: Iterable[ArrayLike] | ArrayLike,
        units: Iterable[ArrayLike] | ArrayLike,
        time_unit: Literal["s", "ms", "us"] = "s",
    ) -> Any:
        """Classify one recording, or several.

        Args:
            times: times of the events of a recording, in any order, or a list of such arrays.
            units: units of the events, numbered as in the data of the training, likewise.
            time_unit: what one unit of ``times`` is: ``"s"``, ``"ms"`` or ``"us"``.

        Returns:
            A :class:`ss_lightning.Prediction`, or a list of them for a list of recordings.

        Raises:
            UsageError: the network does not know how its recordings look, see :attr:`recording_format`.
            DataError: an event is not valid; the message names the recording and the value.

        Example:
            >>> from ss_lightning import MLPClassifier
            >>> from ss_lightning.data import RecordingFormat
            >>> model = MLPClassifier(input_shape=[3], num_classes=2, step_ms=1.0, hidden=[8])
            >>> model.recording_format = RecordingFormat(
            ...     num_steps=20, step_ms=1.0, num_units=3, input_shape=(3,), class_names=("low", "high")
            ... )
            >>> one = model.predict([0.001, 0.004], [0, 2])
            >>> one.name in ("low", "high")
            True
            >>> len(model.predict([[0.001, 0.004], []], [[0, 2], []]))
            2
        """
        form = self.recording_format
        if form is None:
            raise UsageError(
                "this network does not know the time grid and the units of its recordings: it was not trained on a "
                "data module of ss_lightning, or by a version that did not keep them. Set model.recording_format = "
                "ss_lightning.data.RecordingFormat.of(data), or its parts"
            )
        one = is_one_recording(times := list(times) if isinstance(times, Iterator) else times)
        found = classify_recordings(self.network, form, *as_recordings(times, units), time_unit)
        return found[0] if one else found

    def on_fit_start(self) -> None:
        """Remember the format of the recordings, for :meth:`predict`, and scale the weights to a stated rate.

        Raises:
            UsageError: this training cannot run as a CUDA graph, or a layer cannot reach the rate.
        """
        if self.cuda_graph:
            self._graphed = self._make_graphed()
        if isinstance(self.start_rate, float) and not self.trainer.ckpt_path:
            self._scale_to(self.start_rate)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, EventDataModule):
            self.recording_format = RecordingFormat.of(data)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep plain values and finite weights only, and the format of the recordings.

        Other values cannot be read without running code.

        Raises:
            DivergedError: a weight is NaN or infinite.
        """
        self._refuse_weights_that_are_not_finite()
        checkpoint.update(plain_checkpoint(checkpoint))
        if self.recording_format is not None:
            checkpoint["recording_format"] = self.recording_format.values()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the format of the recordings out of a checkpoint."""
        if "recording_format" in checkpoint:
            self.recording_format = RecordingFormat.from_values(checkpoint["recording_format"])

    def _make_graphed(self) -> GraphedNetwork:
        if self.device.type != "cuda" or self.trainer.world_size > 1:
            raise UsageError(
                f"cuda_graph needs one NVIDIA GPU, and this training runs on {self.trainer.world_size} x "
                f"{self.device.type}. Leave it at false"
            )
        try:
            return GraphedNetwork(self.network)
        except ValueError as error:
            raise UsageError(f"cuda_graph: {error}. Leave it at false") from error

    def on_fit_end(self) -> None:
        """Let go of the graphs, which hold memory of the card and cannot be copied."""
        self._graphed = None

    def on_train_start(self) -> None:
        """Refuse a training without an end that learned delays could follow.

        Raises:
            UsageError: neither epochs nor steps are limited.
        """
        endless = self.trainer.estimated_stepping_batches == math.inf
        if endless and any(isinstance(layer, DelayedLinear) for layer in self.network.modules()):
            raise UsageError(
                "the bumps of learned delays narrow in the course of the training, so it needs an end that is known: "
                "set trainer.max_epochs or trainer.max_steps"
            )

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Look for silent layers on the first batch, and narrow the bumps of learned delays.

        The bumps are single steps for the last quarter of the updates.
        """
        begins = self.global_step == batch_index == self.current_epoch == 0 and not self.trainer.ckpt_path
        # Normalised currents are neither silent nor saturated.
        if begins and self.start_rate in ("auto", None) and not self.network.batch_norm:
            self._look_for_silent_layers(batch[0])
        narrow_delays(self.network, self.global_step / (0.75 * self.trainer.estimated_stepping_batches))

    def _scale_to(self, rate: float) -> None:
        """Bring the hidden layers to the rate that they shall start with.

        Before anything is written, for a rate may be out of reach.

        Raises:
            UsageError: a layer cannot reach it.
        """
        self.trainer.fit_loop.setup_data()
        batch = next(iter(cast(Iterable[Batch], self.trainer.train_dataloader)))
        spikes, _ = self.trainer.strategy.batch_to_device(batch, self.device)
        try:
            self._scale_all(calibrate_weights(self.network, spikes, rate))
        except ValueError as error:
            raise UsageError(f"start_rate: {error}") from error

    def _look_for_silent_layers(self, spikes: Spikes) -> None:
        """Bring the silent hidden layers to life, if that is wanted, and name them in any case."""
        if self.start_rate is None:
            for depth, rate in silent_layers(self.network, spikes).items():
                rank_zero_warn(
                    f"{_starts_silent(depth, rate)}. {_WHY_IT_MATTERS} Set model.start_rate to auto or to a rate such "
                    f"as {WAKING_RATE}, or raise model.{_gain(depth)}."
                )
            return
        woken = wake_silent_layers(self.network, spikes)
        depths = range(len(self.network.hidden_synapses))
        self._scale_all([woken[depth].factor if depth in woken else 1.0 for depth in depths])
        for depth, layer in woken.items():
            name = _starts_silent(depth, layer.rate)
            if layer.factor == 1:
                rank_zero_warn(
                    f"{name}, and larger weights do not wake it. Check that its input has spikes within the time grid."
                )
            else:
                rank_zero_info(
                    f"{name}. Its weights were multiplied by {layer.factor:.3g}, so that about {WAKING_RATE:.0%} fire "
                    f"(model.start_rate: auto). A larger model.{_gain(depth)} starts it with such weights."
                )

    def _scale_all(self, factors: list[float]) -> None:
        """Every device has seen another batch and scaled its weights; all take the factors of the first one."""
        chosen = self.trainer.strategy.broadcast(factors)
        scale_weights(self.network, [ours / own for ours, own in zip(chosen, factors, strict=True)])

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Update the weights.

        Raises:
            DivergedError: weights are NaN or infinite, or the learning rate is too large for the optimizer.
        """
        try:
            super().optimizer_step(*args, **options)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            self._refuse_weights_that_are_not_finite()
            if "overflow" in str(error):
                raise self._diverged("the update of the weights is too large for a number") from error
            raise

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Stop where the loss or a weight is no finite number any more.

        On a GPU only every 50th batch is looked at, for a look waits until the GPU is done.

        Raises:
            DivergedError: it is so.
        """
        if self.device.type != "cpu" and (batch_index + 1) % _LOOK_EVERY:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and not torch.isfinite(loss).all():
            raise self._diverged(f"the loss is {loss.item()}")
        self._refuse_weights_that_are_not_finite()

    def on_train_end(self) -> None:
        """Warn if the training ends no better than guessing: it looks like one that has ended well."""
        metrics, classes = self.trainer.callback_metrics, int(self.network.num_classes)
        if self.global_step < _UPDATES_TO_LEARN or not {"train/loss", "train/accuracy"} <= metrics.keys():
            return
        loss, accuracy = float(metrics["train/loss"]), float(metrics["train/accuracy"])
        if loss >= 0.999 * math.log(classes) and accuracy <= 1.25 / classes:
            rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
            rank_zero_warn(
                f"The training ends no better than guessing among {classes} classes: its loss is {loss:.4g} (guessing: "
                f"{math.log(classes):.4g}), its accuracy {accuracy:.3f}. Train for longer, or with another learning "
                f"rate (it ended at {rate:g}), and look at the share of dead neurons (dead_fraction)."
            )

    def _refuse_weights_that_are_not_finite(self) -> None:
        sums = [weight.detach().sum() for weight in self.parameters()]  # the quickest look, which may overflow
        if not sums or torch.isfinite(torch.stack(sums)).all():
            return
        for name, weight in self.named_parameters():
            if not torch.isfinite(weight).all():
                raise self._diverged(f"{name} holds values that are not finite")

    def _diverged(self, what: str) -> DivergedError:
        """The error that says where a training went wrong, and what there is to do."""
        if self._trainer is None or not self._trainer.training:
            return DivergedError(f"these weights cannot be kept: {what}")
        trainer = self._trainer
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        kept = [
            path
            for callback in trainer.checkpoint_callbacks
            for name in ("last_model_path", "best_model_path")
            if (path := getattr(callback, name, ""))
        ]
        return DivergedError(
            f"the training has diverged: {what} in epoch {trainer.current_epoch + 1}, step {trainer.global_step}, at a "
            f"learning rate of {rate:g}. Try a smaller one (--optimizer.lr {rate / 10 if rate <= 1 else 1e-3:g}), or "
            "limit the gradient (--trainer.gradient_clip_val 1)"
            + (f". The last checkpoint, whose weights are finite: {display_path(kept[-1])}" if kept else "")
        )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch."""
        spikes, labels = batch
        output = (self._graphed or self.network)(spikes)
        scores = self.scores(output)
        loss = classification_loss(scores, labels, self.label_smoothing)
        if len(labels):
            self.train_accuracy(scores, labels)
        options: dict[str, Any] = {"prog_bar": True, "on_step": False, "on_epoch": True}
        self.log("train/loss", loss, batch_size=len(labels), sync_dist=True, **options)
        self.log("train/accuracy", self.train_accuracy, **options)
        if self.spike_weight == 0:
            return loss
        penalty = spike_penalty([layer.spike_count for layer in output.activity], self.spike_target)
        self.log("train/spike_penalty", penalty, batch_size=len(labels), sync_dist=True, on_step=False, on_epoch=True)
        return loss + self.spike_weight * penalty

    def on_validation_epoch_start(self) -> None:
        """Count synapses once per evaluation: weights do not change during it.

        Raises:
            DivergedError: a weight is NaN or infinite.
        """
        if self.trainer.training or self.trainer.validating:
            self._refuse_weights_that_are_not_finite()
        self._fan_out = self.network.fan_out()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch to the validation metrics."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch to the test metrics."""
        self._evaluate(batch, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, and say once of each hidden layer if it has fallen silent."""
        self._log_metrics(self.val_metrics, "val")
        if self.trainer.sanity_checking or self.trainer.state.fn != "fit":
            return
        for depth, share in enumerate(self.val_metrics.dead_fractions()):
            if share >= _DEAD_SHARE and depth not in self._told_dead:
                self._told_dead.add(depth)
                rank_zero_warn(
                    f"hidden layer {depth} is silent after epoch {self.current_epoch + 1}: {share:.0%} of its neurons "
                    f"fired for no validation sample. {_WHY_IT_MATTERS} Begin again with model.start_rate "
                    f"{WAKING_RATE}, a larger model.{_gain(depth)} or a lower learning rate."
                )

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_metrics(self.test_metrics, "test")

    def _evaluate(self, batch: Batch, metrics: EvaluationMetrics) -> None:
        spikes, labels = batch
        output = self.network(spikes)
        scores = self.scores(output)
        metrics.update(spikes, output, self._fan_out, classification_loss(scores, labels), scores, labels)

    def _log_metrics(self, metrics: EvaluationMetrics, stage: str) -> None:
        # Once per epoch: logging them in every step costs more than the step of a small network.
        self.confusion = metrics.take_confusion()
        for name, metric in metrics.named_metrics():
            self.log(f"{stage}/{name}", metric, prog_bar=name == "accuracy")

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Predicted class, its probability, the time of the decision and the true label of each sample, ``[B]`` each.

        The decision falls when the predicted class takes the lead for good, see
        :meth:`ss_lightning.networks.Decoder.decision_step`. Its time is in milliseconds, 0 for the first step, and NaN
        without a decision.
        """
        spikes, labels = batch
        probabilities, decision_ms = class_probabilities(self.network, self.network(spikes))
        probability, prediction = probabilities.max(1)
        return {"prediction": prediction, "probability": probability, "decision_ms": decision_ms, "label": labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a learning rate of 1e-3; the command line replaces it by what the config says."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def _starts_silent(depth: int, rate: float) -> str:
    return f"hidden layer {depth} starts silent: {rate:.1%} of its neurons fired on the first batch"


_WHY_IT_MATTERS = "A silent layer passes nothing on and learns next to nothing."


def _gain(depth: int) -> str:
    """The argument that says how large the weights of a hidden layer start."""
    return "input_gain" if depth == 0 else "hidden_gain"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class NetworkClassifier(SpikingClassifier):
    """A classifier that makes its own network, so that its arguments are plain values that a checkpoint holds.

    A subclass names the class of its network and takes the arguments of that class as well as the ones below. It may
    have an ``__init__`` of its own that passes arguments on to this one.

    Args:
        network: arguments of :attr:`network_class`.

    Attributes:
        network_class: the class of the network.

    Example:
        >>> class NarrowMLP(MLP):
        ...     def __init__(self, *, width: int = 8, **network) -> None:
        ...         super().__init__(hidden=[width], **network)
        >>> class NarrowClassifier(NetworkClassifier):
        ...     network_class = NarrowMLP
        >>> model = NarrowClassifier(input_shape=[4], num_classes=3, step_ms=1.0, width=5, spike_weight=0.1)
        >>> model.network.layer_sizes, model.hparams.width
        ([5], 5)
    """

    network_class: ClassVar[type[SpikingNetwork]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "network_class" in cls.__dict__ and "__init__" not in cls.__dict__:
            passes_on_to(cls.network_class)(cls)

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        spike_target: Sequence[float] = (0.0, math.inf),
        spike_weight: float = 0.0,
        start_rate: float | Literal["auto"] | None = "auto",
        cuda_graph: bool = False,
        **network: Any,
    ) -> None:
        made = self.network_class(**plain_values(network))
        super().__init__(made, label_smoothing, spike_target, spike_weight, start_rate, cuda_graph)
        self.save_hyperparameters()
        # Lightning collects the arguments of subclasses from the calls around this one. It stops at the function that
        # shows the signature, so it is told where to go on.
        around = cast(FrameType, cast(FrameType, inspect.currentframe()).f_back).f_back
        if around is not None and around.f_code.co_name == "__init__" and around.f_locals.get("self") is self:
            self.save_hyperparameters(frame=around)
        self.hparams.update({name: plain_values(value) for name, value in self.hparams.items()})


class MLPClassifier(NetworkClassifier):
    """Classifier with a fully connected network, :class:`ss_lightning.networks.MLP`.

    Example:
        >>> import torch
        >>> from ss_lightning import EventBatch
        >>> model = MLPClassifier(input_shape=[700], num_classes=20, step_ms=2.0, hidden=[128], estimator="survival")
        >>> spikes = EventBatch.from_dense((torch.rand(50, 4, 700) < 0.02).float())  # 50 steps, 4 samples
        >>> model.scores(model(spikes)).shape
        torch.Size([4, 20])
    """

    network_class = MLP


class ConvClassifier(NetworkClassifier):
    """Classifier with a convolutional network, :class:`ss_lightning.networks.ConvNet`."""

    network_class = ConvNet
