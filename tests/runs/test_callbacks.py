import csv
import io
import json
import re
import sys

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from ss_lightning import ConvClassifier, ImageFolderData, MLPClassifier, UsageError, YinYangData, plots
from ss_lightning.runs.configs import flatten_config
from ss_lightning.runs.pictures import (
    ConfusionPicture,
    Pictures,
    first_batch,
    hidden_spikes,
    one_of_each_class,
    spiking_modules,
)
from ss_lightning.runs.predictions import PredictionWriter
from ss_lightning.runs.progress import EpochBar, EpochLines, NetworkTable, network_table
from ss_lightning.runs.record import RunRecord, git_commit

PICTURES = {
    "input_raster", "hidden_raster", "readout", "first_spike_times", "time_constants", "dead_neurons",
    "accuracy_and_spikes", "learning_curve", "confusion_matrix",
}  # fmt: skip


def data(**options):
    return YinYangData(num_steps=20, num_train=64, num_val=32, num_test=10, batch_size=16, **options)


def model(**options):
    torch.manual_seed(0)
    arguments = {"input_shape": (4,), "num_classes": 3, "step_ms": 1.0, "hidden": [12], "input_gain": 4.0}
    return MLPClassifier(**{**arguments, **options})


def trainer(folder, callbacks=(), epochs=2, **options):
    return L.Trainer(
        max_epochs=epochs, logger=CSVLogger(folder, "", version="run"), callbacks=list(callbacks), accelerator="cpu",
        enable_checkpointing=False, enable_model_summary=False, log_every_n_steps=1,
        **{"enable_progress_bar": False, **options},
    )  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Figures are made but not rendered."""
    monkeypatch.setattr(plots, "png", lambda figure: b"png")


class TestPictures:
    @pytest.mark.slow
    def test_are_drawn_every_n_epochs_and_at_the_end(self, tmp_path, quick):
        trainer(tmp_path, [Pictures(every_n_epochs=2)], epochs=3).fit(model(), data())
        drawn = {path.name: {file.stem for file in path.iterdir()} for path in (tmp_path / "run/pictures").iterdir()}
        assert drawn == {"epoch_0002": PICTURES, "epoch_0003": PICTURES}

    @pytest.mark.slow
    @pytest.mark.parametrize("block", [{"batch_norm": True}, {"dropout": 0.5}])
    def test_change_nothing(self, tmp_path, quick, block):
        def trained(every_n_epochs):
            classifier = model(**block)
            trainer(tmp_path / str(every_n_epochs), [Pictures(every_n_epochs)]).fit(classifier, data())
            assert classifier.training
            return {**classifier.state_dict(), "random numbers": torch.get_rng_state()}

        without, drawn = trained(0), trained(1)
        assert all(torch.equal(value, drawn[name]) for name, value in without.items())

    def test_zero_draws_nothing(self, tmp_path):
        trainer(tmp_path, [Pictures(every_n_epochs=0)]).fit(model(), data())
        assert not (tmp_path / "run/pictures").exists()

    @pytest.mark.slow
    def test_change_nothing_about_the_training(self, tmp_path, quick):
        weights = []
        for callbacks in ([], [Pictures(every_n_epochs=1)]):
            net = model()
            L.seed_everything(0, verbose=False)
            trainer(tmp_path / str(len(weights)), callbacks).fit(net, data())
            weights.append(net.state_dict())
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    @pytest.mark.slow
    def test_without_validation_the_training_set_is_drawn(self, tmp_path, quick):
        dataset = data().dataset(data().splits.train)
        loader = DataLoader(dataset, 16, collate_fn=lambda batch: batch)
        trainer(tmp_path, [Pictures()], epochs=1).fit(model(), loader)
        drawn = {file.stem for file in (tmp_path / "run/pictures/epoch_0001").iterdir()}
        assert drawn == PICTURES - {"dead_neurons", "accuracy_and_spikes", "confusion_matrix"}

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [{"neuron": "multi", "hidden": [8, 6]}, {"decoder": "first_spike"}, {"skip": True, "hidden": [8, 6]}],
    )
    def test_other_networks(self, options, tmp_path, quick):
        trainer(tmp_path, [Pictures()], epochs=1).fit(model(**options), data())
        assert len(list((tmp_path / "run/pictures/epoch_0001").iterdir())) == len(PICTURES)

    @pytest.mark.slow
    def test_go_to_tensorboard(self, tmp_path):
        from lightning.pytorch.loggers import TensorBoardLogger
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        run = trainer(tmp_path, [Pictures()], epochs=1)
        run.loggers = [TensorBoardLogger(tmp_path, "", "board")]
        run.fit(model(), data())
        events = EventAccumulator(str(tmp_path / "board")).Reload()
        assert set(events.Tags()["images"]) == {f"pictures/{name}" for name in PICTURES}

    def test_refuse_senseless_numbers(self):
        with pytest.raises(UsageError, match="every_n_epochs of 0 or more"):
            Pictures(every_n_epochs=-1)


class TestHiddenSpikes:
    """What is heard layer by layer is what the network reports of itself."""

    @pytest.mark.parametrize("density", [0.01, 0.3])
    @pytest.mark.parametrize("neuron", ["single", "standard_single", "multi"])
    def test_mlp(self, neuron, density):
        network = model(hidden=[12, 7], neuron=neuron).network
        dense = (torch.rand(20, 5, 4) < density).float()
        with torch.no_grad():
            output, heard = hidden_spikes(network, dense)
        assert [layer.shape for layer in heard] == [(20, 5, 12), (20, 5, 7)]
        for layer, activity in zip(heard, output.activity, strict=True):
            assert torch.equal(layer.sum(0).long(), activity.spike_count.long())
        assert not any(module._forward_hooks for module in network.modules())

    def test_conv(self):
        net = ConvClassifier(
            input_shape=(1, 8, 8), num_classes=3, step_ms=1.0, channels=[2], kernel_size=3, hidden=[5]
        ).network
        with torch.no_grad():
            _, heard = hidden_spikes(net, (torch.rand(6, 2, 64) < 0.5).float())
        assert [layer.shape for layer in heard] == [(6, 2, 72), (6, 2, 5)]
        assert len(spiking_modules(net)) == 2


def test_first_batch_leaves_the_global_generator_alone():
    loader = data().train_dataloader()
    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    spikes, labels = first_batch(loader, 10)
    assert torch.rand(()) == expected
    assert spikes.batch_size == len(labels) == 10


def test_one_of_each_class_first():
    assert one_of_each_class(torch.tensor([1, 1, 0, 1, 2, 0]), 4) == [2, 0, 4, 5]
    assert one_of_each_class(torch.tensor([1, 1]), 4) == [0, 1]


class TestRunRecord:
    def fit(self, tmp_path, **options):
        (tmp_path / "run").mkdir()
        record = RunRecord(tmp_path / "run", {"model": {"hidden": [12], "skip": False}, "none": {}})
        run = trainer(tmp_path, [record], **options)
        return record, run

    def summary(self, tmp_path):
        return json.loads((tmp_path / "run/summary.json").read_text())

    def test_tells_the_whole_story(self, tmp_path):
        record, run = self.fit(tmp_path)
        run.fit(model(), data())
        summary = self.summary(tmp_path)
        assert summary["state"] == "finished"
        assert (summary["epochs"], summary["max_epochs"], summary["command"]) == (2, 2, "fit")
        parameters = sum(p.numel() for p in run.lightning_module.parameters())
        assert summary["facts"]["parameters"] == parameters
        assert summary["facts"]["data_set"] == "YinYangData"
        assert summary["facts"]["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert [epoch["epoch"] for epoch in record.history] == [1, 2]
        with (tmp_path / "run/metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["train/samples_per_second"]]
        assert len(rows) == 2
        assert all(float(row["train/samples_per_second"]) > 0 for row in rows)
        assert all(float(row["train/peak_memory_mib"]) > 50 for row in rows)
        hparams = (tmp_path / "run/hparams.yaml").read_text()
        assert "model.skip: false" in hparams
        assert "versions.snntorch" in hparams

    def test_seconds_include_those_of_the_training_that_it_goes_on_with(self, tmp_path):
        record, run = self.fit(tmp_path)
        record.load_state_dict({"history": [], "seconds": 1000.0})
        run.fit(model(), data())
        assert 1000 < self.summary(tmp_path)["seconds"] < 2000
        assert record.state_dict()["seconds"] > 1000
        record.load_state_dict({"history": []})  # of an earlier version

    @pytest.mark.parametrize(
        ("error", "state", "said"),
        [
            (ZeroDivisionError("no"), "failed", "ZeroDivisionError: no"),
            (KeyboardInterrupt(), "interrupted", "Keyboard"),
        ],
    )
    def test_says_how_it_ended(self, error, state, said, tmp_path):
        class Stop(L.Callback):
            def on_train_epoch_start(self, trainer, pl_module):
                if trainer.current_epoch == 1:
                    raise error

        _, run = self.fit(tmp_path)
        run.callbacks.append(Stop())
        with pytest.raises((ZeroDivisionError, SystemExit)):
            run.fit(model(), data())
        summary = self.summary(tmp_path)
        assert summary["state"] == state
        assert summary["epochs"] == 1
        assert said in summary["error"]

    def test_history_goes_on_after_resuming(self, tmp_path):
        record, run = self.fit(tmp_path, epochs=1)
        net = model()
        run.fit(net, data())
        run.save_checkpoint(tmp_path / "last.ckpt")
        record = RunRecord(tmp_path / "run", {})
        trainer(tmp_path, [record]).fit(net, data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        assert [epoch["epoch"] for epoch in record.history] == [1, 2]


class TestEpochLines:
    def test_one_short_line_an_epoch(self, tmp_path):
        lines = []
        bar = EpochLines(lines.append)
        trainer(tmp_path, [bar], enable_progress_bar=True).fit(model(), data())
        assert len(lines) == 3
        assert lines[0].startswith("training ")
        assert lines[1].startswith("epoch 1/2  train loss ")
        assert "val accuracy" in lines[2]
        assert all(len(line) < 120 and "\r" not in line and "\x1b" not in line for line in lines)

    def test_other_processes_are_silent(self, tmp_path):
        lines = []
        bar = EpochLines(lines.append)
        bar.disable()
        trainer(tmp_path, [bar], enable_progress_bar=True).fit(model(), data())
        assert lines == []


class TestEpochBar:
    def test_a_line_an_epoch_stays_above_the_bar(self, tmp_path):
        written = io.StringIO()
        bar = EpochBar(console_kwargs={"file": written, "force_terminal": True, "width": 60})
        trainer(tmp_path, [bar], enable_progress_bar=True).fit(model(), data())
        shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.getvalue()).replace("\r", "\n").splitlines()
        lines = [line for line in shown if "val accuracy" in line]
        assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
        assert all("spikes" in line and line.endswith(" s") for line in lines)
        assert not any("v_num" in line for line in shown)
        assert any(line.startswith("epoch 2/2 ━") for line in shown)


class TestNetworkTable:
    def test_layers_neurons_estimator_grid_and_samples(self):
        lines = network_table(model(hidden=[12, 1100], estimator="survival").network, data())
        assert lines == [
            "layer     neurons  kind",
            "input           4",
            "hidden 0       12  single, estimator survival",
            "hidden 1    1,100  single, estimator survival",
            "readout         3  membrane, decoder sum",
            "grid      20 steps of 1 ms, events with binning binary",
            "samples   64 to train, 32 to validate, 10 to test",
        ]

    @pytest.mark.parametrize(
        ("code", "words"),
        [("current", "pixel values as constant currents"), ("latency", "events of a latency code")],
    )
    def test_images_are_not_binned(self, tmp_path, code, words):
        for n in range(4):
            (tmp_path / "images" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), n, np.uint8)).save(tmp_path / "images" / "ab"[n % 2] / f"{n}.png")
        images = ImageFolderData(
            root=str(tmp_path / "images"), cache_dir=str(tmp_path), code=code, num_steps=4, val_fraction=0
        )
        assert f"grid      4 steps of 1 ms, {words}" in network_table(model().network, images)

    def test_other_networks_and_unknown_data(self):
        network = model(neuron="multi", decoder="first_spike").network
        assert network_table(network, None)[2:] == [
            "hidden 0       12  multi",
            "readout         3  spikes, decoder first_spike",
        ]

    def test_is_printed_before_a_training(self, tmp_path, capsys):
        trainer(tmp_path, [NetworkTable()], epochs=1).fit(model(), data())
        assert capsys.readouterr().out.startswith("layer     neurons  kind\n")


class TestConfusion:
    def test_of_an_evaluation(self, tmp_path, quick):
        net, module = model(), data()
        (metrics,) = trainer(tmp_path, [ConfusionPicture(tmp_path)]).test(net, module, verbose=False)
        assert net.confusion.sum() == 10
        assert net.confusion.trace() / 10 == pytest.approx(metrics["test/accuracy"])
        labels = torch.tensor(module.splits.test.store.labels[module.splits.test.indices])
        assert net.confusion.sum(1).tolist() == torch.bincount(labels, minlength=3).tolist()
        assert (tmp_path / "pictures/confusion_matrix.png").read_bytes() == b"png"
        trainer(tmp_path).test(net, module, verbose=False)
        assert net.confusion.sum() == 10, "each evaluation begins at nothing"

    def test_accuracy_of_each_class_is_kept(self, tmp_path):
        net, module = model(), data()
        record = RunRecord(tmp_path, {})
        trainer(tmp_path, [record]).test(net, module, verbose=False)
        shares = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["class_accuracy"]
        counts = net.confusion
        assert shares == {
            name: pytest.approx(float(counts[n, n] / counts[n].sum()))
            for n, name in enumerate(module.class_names)
            if counts[n].sum()
        }


class TestPredictionWriter:
    def test_csv(self, tmp_path):
        writer = PredictionWriter(tmp_path / "p.csv")
        trainer(tmp_path, [writer]).predict(model(), data(), return_predictions=False)
        with (tmp_path / "p.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["sample", "prediction", "probability", "decision_ms", "label"]
        assert [int(row["sample"]) for row in rows] == list(range(10))
        assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)
        assert all(0 <= float(row["decision_ms"]) < 20 for row in rows if row["decision_ms"])

    def test_parquet_without_pyarrow(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UsageError, match="pip install pyarrow"):
            PredictionWriter(tmp_path / "p.parquet")

    @pytest.mark.slow
    def test_parquet(self, tmp_path):
        pytest.importorskip("pyarrow")
        import pandas as pd

        writer = PredictionWriter(tmp_path / "p.parquet")
        trainer(tmp_path, [writer]).predict(model(), data(), return_predictions=False)
        table = pd.read_parquet(tmp_path / "p.parquet")
        assert list(table.columns) == ["sample", "prediction", "probability", "decision_ms", "label"]
        assert len(table) == 10

    def test_another_ending(self, tmp_path):
        with pytest.raises(UsageError, match=r"not as p\.xlsx"):
            PredictionWriter(tmp_path / "p.xlsx")


def test_flattened():
    assert flatten_config({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": {}, "f": None}) == {
        "a.b.c": 1, "a.d": [1, 2], "e": {}, "f": None,
    }  # fmt: skip


def test_git_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git_commit() is None
