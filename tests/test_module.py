import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from ss_lightning import MLP, ConvClassifier, EventBatch, MLPClassifier, SpikingClassifier
from ss_lightning.errors import UsageError


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
