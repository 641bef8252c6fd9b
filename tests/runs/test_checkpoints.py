"""What a run writes survives a full disk, and a training that goes on is held against the one before."""

import csv
import shutil

import lightning as L
import numpy as np
import pytest
import torch

from ss_lightning import MLPClassifier, UsageError, YinYangData
from ss_lightning.files import keep_going, save_text
from ss_lightning.runs.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, MetricsLogger
from ss_lightning.runs.comparison import refuse_other_architecture
from ss_lightning.runs.folders import holds_results
from ss_lightning.runs.history import EpochHistory

CONFIG = {
    "optimizer.init_args.lr": 0.01, "data.init_args.batch_size": 16, "seed_everything": 0, "trainer.max_epochs": 2,
}  # fmt: skip


def rows(path):
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture
def file_size_limit():
    """A way to make every longer file fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestMetrics:
    def logger(self, tmp_path):
        return MetricsLogger(tmp_path, "", version="run", flush_logs_every_n_steps=1)

    def test_rows_that_could_not_be_written_are_written_later(self, tmp_path, file_size_limit, capsys):
        logger, path = self.logger(tmp_path), tmp_path / "run" / "metrics.csv"
        logger.log_metrics({"a": 1.0}, 0)
        before = path.read_bytes()
        file_size_limit(len(before) + 2)  # in the middle of a row
        logger.log_metrics({"a": 2.0}, 1)
        logger.log_metrics({"a": 3.0, "b": 0.5}, 2)  # with a new column
        logger.log_hyperparams({"key": "value " * 100})
        assert path.read_bytes() == before
        assert not (path.parent / "hparams.yaml").exists()
        file_size_limit(2**30)
        logger.log_metrics({"a": 4.0}, 3)
        found = [{"a": "1.0"}, {"a": "2.0"}, {"a": "3.0", "b": "0.5"}, {"a": "4.0"}]
        assert rows(path) == [{**row, "step": str(step)} for step, row in enumerate(found)]
        assert {file.name for file in path.parent.iterdir()} == {"metrics.csv"}
        assert capsys.readouterr().err.count("cannot write") == 1

    def test_a_row_that_could_not_be_completed_is_as_before(self, tmp_path, file_size_limit, capsys):
        logger, path = self.logger(tmp_path), tmp_path / "run" / "metrics.csv"
        for step in (1, 3):
            logger.log_metrics({"epoch": step // 2, "a": 1.0}, step)
            before = path.read_bytes() if step == 3 else b""
            file_size_limit(len(before) + 2 if step == 3 else 2**30)
            logger.log_metrics({"epoch": step // 2, "b": 2.5}, step)
        assert path.read_bytes() == before
        file_size_limit(2**30)
        logger.save()
        whole = {"a": "1.0", "b": "2.5"}
        assert rows(path) == [{"epoch": "0", "step": "1", **whole}, {"epoch": "1", "step": "3", **whole}]

    def test_a_folder_that_is_gone_is_made_again(self, tmp_path):
        logger = self.logger(tmp_path)
        logger.log_metrics({"a": 1.0}, 0)
        shutil.rmtree(tmp_path / "run")
        logger.log_metrics({"a": 2.0}, 1)
        assert rows(tmp_path / "run" / "metrics.csv") == [{"a": "2.0", "step": "1"}]

    def test_numbers_of_numpy_in_hyper_parameters(self, tmp_path):
        self.logger(tmp_path).log_hyperparams({"a": np.float64(1), "b": [np.int64(2)]})
        assert (tmp_path / "run" / "hparams.yaml").read_text() == "a: 1.0\nb:\n- 2\n"


def test_a_failed_write_is_said_once_for_each_run(tmp_path, capsys):
    for run in ("one", "two", "one"):
        with keep_going(tmp_path / run / "summary.json", tmp_path / run):
            save_text(tmp_path / run / "summary.json", "x")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "The training goes on" in said[0]
    with pytest.raises(ZeroDivisionError), keep_going(tmp_path, tmp_path):
        _ = 1 / 0


@pytest.mark.parametrize(
    ("files", "holds"),
    [
        ([], False),
        (["config.yaml", "hparams.yaml", "summary.json"], False),
        (["config.yaml", "metrics.csv"], True),
        (["config.yaml", "checkpoints/last.ckpt"], True),
        (["wandb/run/files/config.yaml"], True),
        (["notes.txt"], True),
        ([".config.part.yaml"], True),
    ],
)
def test_a_folder_with_more_than_its_beginning_holds_results(files, holds, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert holds_results(tmp_path) is holds


class Model(MLPClassifier):
    optimizer, scheduler = torch.optim.Adam, torch.optim.lr_scheduler.CosineAnnealingLR

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters(), lr=0.01)
        return [optimizer], [self.scheduler(optimizer, 2)]


def fit(folder, config=CONFIG, path=None, model=Model, num_train=64, callbacks=(), **options):
    data = YinYangData(num_steps=20, num_train=num_train, num_val=32, num_test=10, batch_size=16)
    L.seed_everything(0, verbose=False)
    net = model(input_shape=(4,), num_classes=3, step_ms=1.0, hidden=[6], input_gain=4.0)
    best = BestCheckpoint(
        folder, "best", monitor="val/accuracy", mode="max", auto_insert_metric_name=False, enable_version_counter=False
    )
    last = LastCheckpoint(folder, config)
    run = L.Trainer(
        callbacks=[*callbacks, best, last], logger=False, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, plugins=[AtomicCheckpointIO()], **{"max_epochs": 2, **options},
    )  # fmt: skip
    run.fit(net, data, ckpt_path=path, weights_only=True)
    return run, last


def weights(path):
    return {name: value.numpy().tobytes() for name, value in torch.load(path, weights_only=True)["state_dict"].items()}


class TestGoingOn:
    @pytest.fixture
    def begun(self, tmp_path):
        fit(tmp_path / "begun", max_epochs=1)
        return tmp_path / "begun" / "last.ckpt"

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("optimizer", torch.optim.AdamW, r"another optimizer than the config describes \(Adam, not AdamW\)"),
            ("optimizer", torch.optim.NAdam, r"another optimizer"),
            (
                "scheduler",
                torch.optim.lr_scheduler.StepLR,
                r"another lr_scheduler .* \(CosineAnnealingLR, not StepLR\)",
            ),
        ],
    )
    def test_another_class_is_refused(self, name, value, said, begun, tmp_path):
        other = type("Other", (Model,), {name: value})
        with pytest.raises(UsageError, match=said):
            fit(tmp_path / "on", path=begun, model=other)

    def test_other_settings_are_said_with_what_holds(self, begun, tmp_path, capsys):
        other = {
            "optimizer.init_args.lr": 1.0, "data.init_args.batch_size": 8, "seed_everything": 4,
            "trainer.max_epochs": 9, "trainer.new_key": 1,
        }  # fmt: skip
        fit(tmp_path / "on", other, begun, num_train=48)
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
        assert said == [
            "note  data.init_args.batch_size was 16 in the training before and is 8 in the config. It is 8 now",
            "note  optimizer.init_args.lr was 0.01 in the training before and is 1.0 in the config. It is 0.01, as in"
            " the checkpoint",
            "note  seed_everything was 0 in the training before and is 4 in the config. It is 0, as in the checkpoint",
            "note  there were 64 training samples in the training before, and there are 48 now",
        ]
        # What holds is what the next one is compared with.
        fit(tmp_path / "again", {**other, "optimizer.init_args.lr": 0.01, "seed_everything": 0},
            tmp_path / "on" / "last.ckpt", num_train=48, max_epochs=3)  # fmt: skip
        assert "note  " not in capsys.readouterr().out

    def test_the_same_settings_are_silent(self, begun, tmp_path, capsys):
        fit(tmp_path / "on", path=begun)
        assert "note  " not in capsys.readouterr().out

    def test_a_checkpoint_of_an_earlier_version_is_taken(self, begun, tmp_path):
        content = torch.load(begun, weights_only=True)
        state = next(state for key, state in content["callbacks"].items() if key.startswith("LastCheckpoint"))
        del state["made_with"]
        torch.save(content, begun)
        fit(tmp_path / "on", path=begun)

    def test_weights_alone_are_refused(self, tmp_path):
        run, _ = fit(tmp_path, max_steps=1)
        with pytest.raises(UsageError, match="holds weights only"):
            refuse_other_architecture(tmp_path / "stopped.ckpt", run.lightning_module, to_train=True)
        refuse_other_architecture(tmp_path / "stopped.ckpt", run.lightning_module)


class Stop(L.Callback):
    """Ends a training after a number of updates, as a limit of time does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    fit(folder, max_epochs=3)
    return folder


class TestStoppedInsideAnEpoch:
    @pytest.mark.parametrize("step", [1, 4, 6, 8, 11])
    @pytest.mark.slow
    def test_the_epoch_is_trained_again(self, step, alone, tmp_path, capsys):
        history = EpochHistory()
        fit(tmp_path / "a", max_epochs=3, callbacks=[history, Stop(step)])
        inside = step % 4 != 0
        assert (tmp_path / "a" / "stopped.ckpt").exists() == inside
        said = f"note  the training stopped inside epoch {step // 4 + 1}, after {step % 4} of 4 batches"
        assert (said in capsys.readouterr().out) == inside
        assert len(history.history) == max(step // 4, 1)
        fit(tmp_path / "b", path=tmp_path / "a" / "last.ckpt", max_epochs=3)
        for name in ("last.ckpt", "best.ckpt"):
            assert weights(tmp_path / "b" / name) == weights(alone / name)

    def test_the_best_of_whole_epochs_is_kept(self, tmp_path):
        fit(tmp_path / "whole", max_epochs=1)
        fit(tmp_path / "cut", callbacks=[Stop(5)])
        assert weights(tmp_path / "cut" / "best.ckpt") == weights(tmp_path / "whole" / "best.ckpt")

    def test_a_checkpoint_from_inside_an_epoch_begins_it_again(self, tmp_path, capsys):
        fit(tmp_path / "a", max_epochs=1, val_check_interval=2)
        inside = tmp_path / "inside.ckpt"

        class Keep(L.Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, index):
                if trainer.global_step == 6:
                    trainer.save_checkpoint(inside, weights_only=False)

        fit(tmp_path / "b", callbacks=[Keep()])
        run, _ = fit(tmp_path / "c", path=inside)
        assert run.global_step == 6 + 4
        assert "was written inside epoch 2. That epoch is trained again" in capsys.readouterr().out
