import math
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from ss_lightning import MLP, ConvClassifier, EventBatch, MLPClassifier, SpikingClassifier
from ss_lightning.errors import DivergedError, UsageError


def batches(count=4, size=8):
    """Two classes told apart by which unit fires early."""
    torch.manual_seed(0)
    made = []
    for _ in range(count):
        labels = torch.randint(0, 2, (size,))
        spikes = torch.zeros(12, size, 2)
        spikes[2, torch.arange(size), labels] = 1
        spikes[8, torch.arange(size), 1 - labels] = 1
        made.append((EventBatch.from_dense(spikes), labels))
    return DataLoader(made, batch_size=None)


def trainer(tmp_path, **options):
    return L.Trainer(
        default_root_dir=tmp_path, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", **options,
    )  # fmt: skip


ARGS = {"input_shape": (2,), "num_classes": 2, "step_ms": 1.0, "hidden": [16], "input_gain": 3.0}


@pytest.mark.slow
def test_plain_trainer_learns_and_logs_every_metric(tmp_path):
    model = MLPClassifier(**ARGS, estimator="survival")
    run = trainer(tmp_path, max_epochs=25)
    run.fit(model, batches(), batches(1))
    logged = run.callback_metrics
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/spikes_per_sample"} <= set(logged)
    assert {"val/dead_fraction/layer0", "val/first_spike_time", "val/synops_per_sample"} <= set(logged)
    assert logged["val/accuracy"] == 1
    (test,) = run.test(model, batches(1), verbose=False)
    assert test["test/accuracy"] == 1
    assert test["test/input_spikes_per_sample"] == 2
    assert test["test/spikes_per_sample"] <= 16


def test_a_batch_without_samples_is_passed_over(tmp_path):
    empty = (EventBatch.from_dense(torch.zeros(12, 0, 2)), torch.zeros(0, dtype=torch.long))
    (batch,) = batches(1).dataset
    seen = {}
    for name, data in (("with", [empty, batch, empty]), ("without", [batch])):
        torch.manual_seed(0)
        model = MLPClassifier(**ARGS, spike_target=(0.5, 1.0), spike_weight=0.1)
        run = trainer(tmp_path, max_epochs=1)
        run.fit(model, DataLoader(data, batch_size=None), DataLoader(data, batch_size=None))
        assert all(torch.isfinite(weights).all() for weights in model.parameters())
        seen[name] = {key: float(value) for key, value in run.callback_metrics.items() if key.startswith("train")}
    assert seen["with"] == pytest.approx(seen["without"])


class TestLearnedDelays:
    """Their bumps are single steps from three quarters of the training on, however its end is given."""

    class Widths(L.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, module, *args):
            self.seen.append(module.network.synapses[0].width)

    def widths(self, tmp_path, **options):
        callback = self.Widths()
        model = MLPClassifier(**ARGS, max_delay_ms=8.0, delay_width_ms=4.0)
        trainer(tmp_path, callbacks=[callback], **options).fit(model, batches())
        return callback.seen

    @pytest.mark.parametrize(
        "options",
        [
            {"max_epochs": 4},
            {"max_epochs": 2, "limit_train_batches": 3},
            {"max_epochs": 1},
            {"max_epochs": -1, "max_steps": 10},
            {"max_epochs": 50, "max_steps": 10},
            {"max_epochs": 4, "accumulate_grad_batches": 2},
        ],
    )
    def test_the_bumps_narrow_over_three_quarters_of_the_updates(self, tmp_path, options):
        widths = self.widths(tmp_path, **options)
        assert widths[0] == 4
        assert widths == sorted(widths, reverse=True)
        last_quarter = len(widths) - len(widths) // 4
        assert all(width > 1 for width in widths[: last_quarter - 2])
        assert all(width == 1 for width in widths[last_quarter:])

    def test_a_training_without_an_end_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match=r"set trainer.max_epochs or trainer.max_steps"):
            self.widths(tmp_path, max_epochs=-1, max_time="00:00:00:20")

    @pytest.mark.slow
    def test_other_trainings_need_no_end(self, tmp_path):
        run = trainer(tmp_path, max_epochs=-1, max_time="00:00:00:01")
        run.fit(MLPClassifier(**ARGS), batches())
        assert run.global_step > 0


def test_loss_is_the_mean_over_samples_not_over_batches(tmp_path):
    model = MLPClassifier(**ARGS)
    parts = list(batches(2))
    sizes = (8, 3)
    small = EventBatch.from_dense(parts[1][0].to_dense()[:, :3])
    loader = DataLoader([parts[0], (small, parts[1][1][:3])], batch_size=None)
    (test,) = trainer(tmp_path).test(model, loader, verbose=False)
    losses = [model.scores(model(spikes)).log_softmax(1).gather(1, y[:, None]).neg().mean() for spikes, y in loader]
    expected = sum(loss * n for loss, n in zip(losses, sizes, strict=True)) / 11
    assert test["test/loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_predictions(tmp_path):
    out = trainer(tmp_path).predict(MLPClassifier(**ARGS), batches(2))
    assert [batch["prediction"].shape for batch in out] == [(8,), (8,)]
    assert ((out[0]["probability"] >= 0.5) & (out[0]["probability"] <= 1)).all()


@pytest.mark.parametrize("kind", [MLPClassifier, ConvClassifier])
def test_hyper_parameters_are_plain_and_rebuild_the_model(tmp_path, kind):
    args = dict(ARGS, input_shape=(1, 14, 14), hidden=[4], label_smoothing=0.1)
    args.pop("input_gain")
    if kind is ConvClassifier:
        args.update(channels=[2], kernel_size=3)
    model = kind(**args)
    assert args.items() <= dict(model.hparams).items()
    path = tmp_path / "model.ckpt"
    run = trainer(tmp_path, max_epochs=0)
    run.strategy.connect(model)
    run.save_checkpoint(path)
    again = kind.load_from_checkpoint(path, weights_only=True)
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_any_network_can_be_trained(tmp_path):
    class Doubled(MLP):
        def forward(self, spikes):
            out = super().forward(spikes)
            return out._replace(readout=out.readout * 2)

    model = SpikingClassifier(Doubled(**ARGS))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(tmp_path, fast_dev_run=True).fit(model, batches(), batches(1))
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert {"network.synapses.0.weight", "network.synapses.1.weight", "network.readout.beta"} <= set(moved)
    # What is trained is the network's own answer, not that of its parent.
    plain = MLP(**ARGS)
    plain.load_state_dict(model.network.state_dict())
    spikes, _ = next(iter(batches(1)))
    assert torch.allclose(model.scores(model(spikes)), 2 * model.scores(plain(spikes)))


def test_label_smoothing_out_of_range():
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\]"):
        MLPClassifier(**ARGS, label_smoothing=1.5)


class TestDivergence:
    """A training whose loss or weights are no numbers any more stops, and keeps what it had before."""

    def model(self, optimizer, **options):
        torch.manual_seed(0)
        model = MLPClassifier(**ARGS, **options)
        model.configure_optimizers = lambda: optimizer(model.parameters())
        return model

    @pytest.mark.parametrize(
        ("optimizer", "said"),
        [
            (lambda weights: torch.optim.SGD(weights, lr=1e38), "holds values that are not finite"),
            (lambda weights: torch.optim.SGD(weights, lr=float("inf")), "holds values that are not finite"),
            (lambda weights: torch.optim.Adam(weights, lr=1e38), "too large for a number"),
            (lambda weights: torch.optim.RMSprop(weights, lr=1e38), "has diverged"),
        ],
    )
    def test_weights(self, optimizer, said, tmp_path):
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
        run = trainer(tmp_path, max_epochs=3)
        run.callbacks.append(keep)
        with pytest.raises(DivergedError, match=said) as error:
            run.fit(self.model(optimizer), batches())
        assert "in epoch 1, step " in str(error.value)
        assert "Try a smaller one (--optimizer.lr 0.001)" in str(error.value)
        for path in tmp_path.glob("*.ckpt"):
            weights = torch.load(path, weights_only=True)["state_dict"].values()
            assert all(torch.isfinite(weight).all() for weight in weights)
            assert str(tmp_path) in str(error.value)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_loss(self, value, tmp_path):
        class Broken(MLPClassifier):
            def training_step(self, batch, batch_index):
                loss = super().training_step(batch, batch_index)
                return loss * value if self.global_step == 6 else loss

        run = trainer(tmp_path, max_epochs=3)
        with pytest.raises(
            DivergedError, match=rf"the loss is {value} in epoch 2, step 7, at a learning rate of 0.001"
        ):
            run.fit(Broken(**ARGS), batches())

    def test_no_checkpoint_holds_weights_that_are_not_finite(self, tmp_path):
        model = MLPClassifier(**ARGS)
        run = trainer(tmp_path, max_epochs=1)
        run.fit(model, batches())
        model.network.synapses[0].weight.data[0, 0] = math.nan
        with pytest.raises(DivergedError, match=r"synapses.0.weight holds values that are not finite"):
            run.save_checkpoint(tmp_path / "no.ckpt")
        assert not (tmp_path / "no.ckpt").exists()

    def test_other_errors_stay_what_they_are(self, tmp_path):
        class Broken(MLPClassifier):
            def training_step(self, batch, batch_index):
                raise ValueError("something else")

        with pytest.raises(ValueError, match="something else"):
            trainer(tmp_path, max_epochs=1).fit(Broken(**ARGS), batches())

    @pytest.mark.parametrize(("rate", "warned"), [(1e6, True), (0.01, False)])
    @pytest.mark.slow
    def test_an_end_no_better_than_guessing_is_said(self, rate, warned, tmp_path):
        model = self.model(lambda weights: torch.optim.Adam(weights, lr=rate), estimator="survival")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer(tmp_path, max_epochs=20).fit(model, batches())
        said = [str(w.message) for w in seen if "no better than guessing among 2 classes" in str(w.message)]
        assert len(said) == warned
        assert not warned or "it ended at 1e+06" in said[0]


NUMPY = {
    "num_classes": np.int64(2), "step_ms": np.float64(1), "hidden": np.array([16]), "tau_hidden_ms": np.float32(20),
    "input_shape": [np.int64(2)], "input_gain": np.float64(3), "label_smoothing": np.float64(0.1),
    "learn_beta": np.bool_(True),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.slow
def test_numbers_of_numpy_are_stored_as_plain_ones(name, tmp_path):
    model = MLPClassifier(**{**ARGS, name: NUMPY[name]})
    assert not isinstance(model.hparams[name], np.generic | np.ndarray)
    trainer(tmp_path, max_epochs=1).fit(model, batches(1))
    model.trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"][name] == model.hparams[name]
    again = MLPClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    trainer(tmp_path, max_epochs=2).fit(again, batches(1), ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_numbers_of_numpy_in_optimizers_and_schedules(tmp_path):
    class Model(MLPClassifier):
        def configure_optimizers(self):
            rate, milestone = np.float64(0.01), np.int64(1)
            optimizer = torch.optim.Adam(self.parameters(), lr=rate, betas=(np.float64(0.9), np.float64(0.99)))
            return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [milestone], gamma=np.float64(0.5))]

    weights = []
    for epochs in ([2], [1, 2]):
        torch.manual_seed(0)
        path = None
        for end in epochs:
            run = trainer(tmp_path, max_epochs=end)
            run.fit(Model(**ARGS), batches(), ckpt_path=path, weights_only=True)
            path = tmp_path / "a.ckpt"
            run.save_checkpoint(path)
        weights.append(torch.load(path, weights_only=True)["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_double_precision_is_loaded_without_rounding(tmp_path):
    model = MLPClassifier(**ARGS)
    run = trainer(tmp_path, max_epochs=1, precision="64-true")
    run.fit(model, batches(1))
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = MLPClassifier(**ARGS)
    trainer(tmp_path, precision="64-true").validate(again, batches(1), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert again.network.synapses[0].weight.dtype == torch.float64
