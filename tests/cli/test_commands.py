import csv
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from ss_lightning import files
from ss_lightning.cli.commands import main
from ss_lightning.cli.lightning_cli import summary_lines
from ss_lightning.export import load_classifier
from ss_lightning.runs import checkpoints, pictures, record
from ss_lightning.runs.checkpoints import AtomicCheckpointIO

ROOT = Path(__file__).parents[2]
YINYANG = str(ROOT / "configs" / "yinyang.yaml")
SMALL = [
    "--data.num_train=96", "--data.num_val=40", "--data.num_test=40", "--data.num_steps=20", "--model.hidden=[16]",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--pictures.every_n_epochs=0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test in a folder of its own, as a user who has just changed into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    return tmp_path


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def write_to_a_full_disk(*args):
    raise OSError(28, "No space left on device")


def run(*args):
    return main(list(args))


def fit(*args, epochs=2):
    return run("fit", "--config", YINYANG, *SMALL, f"--trainer.max_epochs={epochs}", *args)


class TestRun:
    @pytest.mark.slow
    def test_fit_leaves_a_whole_run_and_says_how_to_test_it(self, capsys):
        assert fit() == 0
        run_folder = Path("runs/yinyang/version_0")
        assert {p.name for p in run_folder.iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints"}
        assert {p.name for p in (run_folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
        rows = read_csv(run_folder / "metrics.csv")
        assert {"train/loss", "val/accuracy", "val/spikes_per_sample/layer0"} <= set(rows[0])
        assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(len(rows))]
        assert all(row["train/loss"] and row["val/accuracy"] for row in rows)
        printed = capsys.readouterr().out
        best = os.path.join("runs", "yinyang", "version_0", "checkpoints", "best.ckpt")
        assert f"python -m ss_lightning test --ckpt_path {best}" in printed
        score = max(float(row["val/accuracy"]) for row in rows if row["val/accuracy"])
        assert f"best accuracy    {score:.4f}  (epoch " in printed
        for said in (
            r"hidden spikes    \d+\.\d per sample",
            r"dead neurons     \d+\.\d%",
            r"time             \d+ s, [\d,]+ s",
        ):
            assert re.search(said, printed)
        assert f"python -m ss_lightning report {run_folder}" in printed

        assert run("test", "--ckpt_path", best) == 0
        (row,) = read_csv(Path("runs/yinyang/test_0/metrics.csv"))
        assert 0 < float(row["test/accuracy"]) <= 1
        assert float(row["test/spikes_per_sample"]) <= 16
        assert float(row["test/input_spikes_per_sample"]) == 4

    @pytest.mark.slow
    @pytest.mark.parametrize(("length", "noted"), [(1, True), (2, False), (30, False)])
    def test_a_learning_rate_that_rises_again_is_noted(self, length, noted, capsys):
        assert fit(f"--lr_scheduler.T_max={length}") == 0
        assert ("begin with --lr_scheduler.T_max 2 (a training that goes on keeps" in capsys.readouterr().out) == noted

    @pytest.mark.slow
    def test_a_setting_without_its_switch_is_noted(self, capsys):
        assert fit("--model.spike_target=[0.05,0.5]", "--model.delay_line_ms=[0,500]", epochs=1) == 0
        printed = capsys.readouterr().out
        assert "note  model.spike_target = [0.05, 0.5] does nothing: model.spike_weight is 0" in printed
        assert "note  model.delay_line_ms: nothing arrives after 500 ms, for a sample ends after" in printed

    @pytest.mark.slow
    def test_a_new_run_never_overwrites_an_old_one(self):
        assert fit(epochs=1) == 0
        before = Path("runs/yinyang/version_0/metrics.csv").read_bytes()
        assert fit(epochs=1) == 0
        assert Path("runs/yinyang/version_0/metrics.csv").read_bytes() == before
        assert Path("runs/yinyang/version_1/metrics.csv").is_file()

    @pytest.mark.slow
    def test_default_root_dir_moves_all_of_it(self, folder):
        assert fit("--trainer.default_root_dir=elsewhere", epochs=1) == 0
        assert (folder / "elsewhere/yinyang/version_0/checkpoints/best.ckpt").is_file()
        assert {p.name for p in folder.iterdir()} <= {"elsewhere", "cache"}

    @pytest.mark.slow
    def test_fast_dev_run_leaves_nothing(self, folder):
        assert fit("--trainer.fast_dev_run=true") == 0
        assert {p.name for p in folder.iterdir()} <= {"cache"}

    @pytest.mark.slow
    def test_last_resumes_the_newest_run(self, capsys):
        assert fit(epochs=1) == 0
        assert fit("--ckpt_path=last", epochs=3) == 0
        last = torch.load("runs/yinyang/version_1/checkpoints/last.ckpt", weights_only=True)
        assert last["global_step"] == 3
        assert "version_0/checkpoints/last.ckpt" in capsys.readouterr().out

    @pytest.mark.slow
    @pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
    def test_config_alone_uses_the_newest_best_checkpoint(self, subcommand, capsys):
        assert fit(epochs=1) == 0
        assert run(subcommand, "--config", YINYANG, *SMALL) == 0
        assert "version_0/checkpoints/best.ckpt" in capsys.readouterr().out
        if subcommand == "predict":
            rows = read_csv(Path("runs/yinyang/predict_0/predictions.csv"))
            assert len(rows) == 40
            assert list(rows[0]) == ["sample", "prediction", "probability", "decision_ms", "label"]

    @pytest.mark.slow
    def test_an_evaluation_takes_the_config_of_its_run(self, capsys):
        assert fit(epochs=1) == 0
        Path("over.yaml").write_text("trainer:\n  logger:\n    class_path: lightning.pytorch.loggers.CSVLogger\n"
                                     "    init_args: {save_dir: ., name: more}\n")  # fmt: skip
        capsys.readouterr()
        # Nothing of what was typed for the training is typed again, and over.yaml goes over it.
        assert run("test", "--config", YINYANG, "--config", "over.yaml", "--data.num_test", "20") == 0
        said = capsys.readouterr()
        assert "stands for its run runs/yinyang/version_0, whose own config is used" in said.err
        assert "checkpoint  runs/yinyang/version_0/checkpoints/best.ckpt" in said.out
        saved = yaml.safe_load(Path("runs/yinyang/test_0/config.yaml").read_text())
        assert saved["model"]["init_args"]["hidden"] == [16]
        assert saved["data"]["init_args"]["num_test"] == 20
        assert saved["trainer"]["logger"]["class_path"].endswith("CSVLogger")

    @pytest.mark.slow
    def test_fit_from_the_saved_config_repeats_the_run(self):
        assert fit(epochs=1) == 0
        assert run("fit", "--config", "runs/yinyang/version_0/config.yaml") == 0
        weights = [
            torch.load(f"runs/yinyang/version_{n}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
            for n in (0, 1)
        ]
        for name, value in weights[0].items():
            assert torch.equal(value, weights[1][name])

    def test_print_config_shows_every_parameter(self, capsys):
        with pytest.raises(SystemExit) as stop:
            run("fit", "--config", YINYANG, "--print_config")
        assert stop.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["model"]["init_args"]["tau_readout_ms"] == 100
        assert config["data"]["init_args"]["batch_size"] == 128
        assert config["optimizer"]["init_args"]["lr"] == 0.003

    @pytest.mark.slow
    @pytest.mark.parametrize(("given", "found"), [("[2,1,2]", [2, 1, 2]), ("2", [2, 2, 2])])
    def test_padding_and_pools_of_convolutions(self, given, found, idx, folder, capsys):
        idx.write_all(folder / "data", "MNIST")
        args = ["--config", str(ROOT / "configs/paper/mnist_conv.yaml"), *SMALL[-3:], "--trainer.max_epochs=1"]
        args += ["--model.channels=[2,3,2]", "--model.hidden=[4]", "--model.padding", "1"]
        assert run("fit", *args, "--model.pool_size", given) == 0
        best = "runs/paper/mnist_conv/version_0/checkpoints/best.ckpt"
        network = load_classifier(best).network
        assert (network.padding, network.pool_sizes) == (1, found)
        assert run("test", "--ckpt_path", best) == 0
        assert run("test", *args, "--model.pool_size=[1,2,2]", "--ckpt_path", best) == 2
        assert "pool_size" in capsys.readouterr().err
        assert run("fit", *args, "--model.pool_size=[2,1]") == 2
        assert "one for each of the 3 convolutions, got [2, 1]" in capsys.readouterr().err

    @pytest.mark.slow
    def test_without_validation_set_the_last_epoch_counts_as_best(self, shd, folder, capsys):
        shd.write_pair(folder / "data")
        config = str(ROOT / "configs/shd.yaml")
        assert run("fit", "--config", config, "--data.val_speakers=[]", "--trainer.max_epochs=2") == 0
        best, last = (
            torch.load(f"runs/shd/version_0/checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last")
        )
        assert best["global_step"] == last["global_step"] == 2
        assert "best checkpoint  runs/shd/version_0/checkpoints/best.ckpt\n" in capsys.readouterr().out


class TestWhatIsKept:
    """A command that fails leaves what it has brought, and nothing else."""

    @pytest.mark.slow
    def test_checkpoints_outlive_a_full_disk(self, monkeypatch, capsys):
        write, written = AtomicCheckpointIO.save_checkpoint, []

        def save(self, checkpoint, path, storage_options=None):
            if len(written) == 2:
                monkeypatch.setattr(files.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left")))
            write(self, checkpoint, path, storage_options)
            written.append(Path(path).name)

        monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
        many = ["--trainer.val_check_interval=2", "--checkpoint.save_top_k=-1", "--checkpoint.filename=b{step}"]
        assert fit(*many, "--data.batch_size=20") == 2
        kept = Path("runs/yinyang/version_0/checkpoints")
        assert {path.name for path in kept.iterdir()} == {"last.ckpt", "b2.ckpt"}
        assert "cannot write the checkpoint" in capsys.readouterr().err

    @pytest.mark.slow
    def test_training_goes_on_without_its_other_files(self, monkeypatch, capsys):
        for owner, name in ((checkpoints, "_write_anew"), (record, "save_text"), (pictures, "save_bytes")):
            monkeypatch.setattr(owner, name, write_to_a_full_disk)
        assert fit("--pictures.every_n_epochs=1") == 0
        assert {path.name for path in Path("runs/yinyang/version_0/checkpoints").iterdir()} == {
            "best.ckpt",
            "last.ckpt",
        }
        assert capsys.readouterr().err.count("cannot write") == 1

    def test_a_run_does_not_begin_without_its_config(self, monkeypatch, capsys):
        monkeypatch.setattr(SaveConfigCallback, "setup", write_to_a_full_disk)
        assert fit() == 2
        assert "cannot write config.yaml to the run folder" in capsys.readouterr().err
        assert not Path("runs").exists()

    @pytest.mark.slow
    def test_an_error_in_the_first_epoch_leaves_the_run(self, capsys):
        assert fit("--optimizer.class_path=SGD", "--optimizer.lr=1e30", "--data.batch_size=20") == 2
        error = capsys.readouterr().err
        last = "runs/yinyang/version_0/checkpoints/last.ckpt"
        assert "the training has diverged" in error
        assert f"The last checkpoint, whose weights are finite: {last}" in error
        assert json.loads(Path("runs/yinyang/version_0/summary.json").read_text())["state"] == "failed"
        assert fit("--ckpt_path=last") == 2  # of another optimizer
        assert "(SGD, not Adam)" in capsys.readouterr().err


class TestSchedule:
    @pytest.mark.slow
    def test_by_update(self, capsys):
        by_update = ["--lr_scheduler=LinearLR", "--lr_scheduler.start_factor=0.5", "--lr_scheduler.total_iters=10"]
        rates = []
        for n, interval in enumerate(("epoch", "step")):
            assert fit(*by_update, f"--lr_scheduler_interval={interval}", "--data.batch_size=20") == 0
            rows = read_csv(Path(f"runs/yinyang/version_{n}/metrics.csv"))
            rates.append([float(row["train/lr"]) for row in rows if row["train/lr"]])
            assert ("the learning-rate schedule is cut off" in capsys.readouterr().out) == (interval == "epoch")
        # Of the last update of each epoch of five: the first and second step of ten, or the fifth and tenth.
        assert rates == [pytest.approx([0.0015, 0.00165]), pytest.approx([0.0021, 0.00285])]

    def test_by_update_with_a_metric(self, capsys):
        plateau = ["--lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--lr_scheduler.monitor=val/loss"]
        assert fit(*plateau, "--lr_scheduler_interval=step") == 2
        assert "does not go with ReduceLROnPlateau" in capsys.readouterr().err


class TestNothingToDo:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["--trainer.limit_train_batches=0"], "trainer.limit_train_batches is 0: nothing is trained"),
            (["--trainer.max_epochs=0"], "trainer.max_epochs is 0: nothing is trained"),
            (["--trainer.limit_val_batches=0"], "nothing is validated, and best.ckpt holds the last epoch"),
        ],
    )
    def test_is_said(self, args, said, capsys):
        assert fit(*args) == 0
        assert f"note  {said}" in capsys.readouterr().out.replace("trainer.limit_val_batches is 0: ", "")
        best = Path("runs/yinyang/version_0/checkpoints/best.ckpt")
        assert best.is_file() == ("nothing is validated" in said)


class TestMistakes:
    """Each gives one clear message and the right exit code, no traceback, nothing half-written."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--model.hiddn=[3]"], "unknown key model.hiddn of ss_lightning.MLPClassifier. Did you mean hidden?"),
            (["--model.hidden=[0]"], "at least one neuron"),
            (["--model.tau_hidden_ms=-1"], "zero or more milliseconds, got -1.0"),
            (["--model.tau_hidden_ms=fast"], "model.tau_hidden_ms: expected a number or a list of numbers"),
            (["--data.num_steps=0"], "num_steps is 0; expected a whole number, 1 or more."),
            (["--foo=3"], "unknown key foo"),
            (["--optimizer.lr=fast"], "optimizer.lr"),
            (["--data.class_path=YinYangDat"], "YinYangDat"),
            (["--ckpt_path=last"], "--ckpt_path last: there is none"),
            (["--ckpt_path=no.ckpt"], "there is no file no.ckpt"),
            (["--trainer.default_root_dir=/proc/nowhere"], "cannot write the run folder"),
        ],
    )
    def test_usage(self, args, message, capsys, folder):
        assert run("fit", "--config", YINYANG, *args) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert not (folder / "runs/yinyang/version_0/checkpoints").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("hidden:", "hiddn:"), "unknown key model.hiddn"),
            (("max_epochs", "max_epoch"), "Did you mean trainer.max_epochs?"),
            (("MLPClassifier", "MLPClasifier"), "Did you mean MLPClassifier?"),
            (("trainer:", "trainer: ["), "while parsing"),
        ],
    )
    def test_config_file(self, change, message, capsys):
        Path("bad.yaml").write_text(Path(YINYANG).read_text().replace(*change))
        assert run("fit", "--config", "bad.yaml") == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("args", [[], ["ft"], ["fit"], ["fit", "--config", "nope.yaml"], ["test"]])
    def test_no_config(self, args, capsys):
        assert run(*args) == 2
        assert capsys.readouterr().err.startswith("error: ")

    @pytest.mark.parametrize("config", ["shd", "fmnist"])
    def test_missing_data_is_a_data_error(self, config, capsys, monkeypatch):
        def no_network(*args, **kwargs):
            raise OSError("no network")

        monkeypatch.setattr("urllib.request.urlopen", no_network)
        assert run("fit", "--config", str(ROOT / f"configs/{config}.yaml"), "--data.root=nowhere") == 1
        error = capsys.readouterr().err
        assert "error: nowhere/" in error
        assert "Traceback" not in error

    @pytest.mark.slow
    def test_checkpoint_of_another_architecture_is_refused(self, capsys):
        assert fit(epochs=1) == 0
        best = "runs/yinyang/version_0/checkpoints/best.ckpt"
        for args, message in (
            (["--model.hidden=[24]"], "hidden: [16] in the checkpoint, [24] in the config"),
            (["--data.step_ms=2"], "step_ms: 1.0 in the checkpoint, 2.0 in the config"),
            (["--model.decoder=max"], "decoder: 'sum' in the checkpoint, 'max' in the config"),
        ):
            assert run("test", "--config", YINYANG, *SMALL, *args, "--ckpt_path", best) == 2
            assert message in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
    def test_broken_checkpoint(self, content, capsys):
        Path("bad.ckpt").write_bytes(content)
        assert run("test", "--config", YINYANG, *SMALL, "--ckpt_path=bad.ckpt") == 2
        assert "bad.ckpt is not a checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_module_in_a_process_of_its_own(folder):
    """Piped, it writes a line an epoch: no bars, no tables, no warnings."""
    small = [argument for argument in SMALL if "enable" not in argument]
    result = subprocess.run(
        [sys.executable, "-m", "ss_lightning", "fit", "--config", YINYANG, *small, "--trainer.max_epochs=2"],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "test it with" in result.stdout
    assert "Warning" not in result.stderr
    assert re.findall(r"^epoch (\d)/2  train loss \d", result.stdout, re.MULTILINE) == ["1", "2"]
    assert not re.search("[\r\x1b━╸│┃]", result.stdout + result.stderr)


class TestHelp:
    def test_first_page(self, capsys):
        assert run("--help") == 0
        printed = capsys.readouterr().out
        for name in ("fit", "validate", "test", "predict", "report", "results", "folds", "sweep", "benchmark"):
            assert re.search(rf"^  {name} +\w", printed, re.MULTILINE)
        assert max(map(len, printed.splitlines())) <= 120

    @pytest.mark.slow
    @pytest.mark.parametrize("arguments", [["report"], ["results"], ["folds"], ["sweep"]])
    def test_of_subcommands(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            run(*arguments, "--help")
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: python -m ss_lightning {arguments[0]}")

    @pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
    @pytest.mark.parametrize("words", [["{}", "--help"], ["{}", "-h"], ["--help", "{}"]])
    def test_of_trainings(self, subcommand, words, capsys):
        assert run(*(word.format(subcommand) for word in words)) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"usage: python -m ss_lightning {subcommand} --config FILE")
        assert printed.index("--model.hidden") < printed.index("--trainer.accelerator")
        assert ("--optimizer.lr" in printed) == (subcommand == "fit")
        assert max(map(len, printed.splitlines())) <= 120

    def test_of_a_config(self, capsys):
        with pytest.raises(SystemExit) as stop:
            run("fit", "--config", YINYANG, "--model.hidden", "30", "--help")
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert printed.index("model: ss_lightning.MLPClassifier") < printed.index("data: ss_lightning.YinYangData")
        assert "default: [30]" in printed  # not that of the class
        for not_here in ("--trainer.", "--model.input_shape", ":class:", "``"):
            assert not_here not in printed

    def test_of_lightning(self, capsys):
        with pytest.raises(SystemExit):
            run("fit", "--help", "trainer")
        printed = " ".join(capsys.readouterr().out.split())
        assert "--trainer.max_epochs" in printed
        assert "where run folders go" in printed
        for untrue in ("os.getcwd", "TensorBoardLogger if", "Default: 50", ":paramref:"):
            assert untrue not in printed

    def test_of_what_there_is_not(self, capsys):
        assert run("fit", "--help", "epochs") == 2
        assert "there is model, data, optimizer" in capsys.readouterr().err

    def test_a_subcommand_that_is_none(self, capsys):
        assert run("tets") == 2
        assert "there is no subcommand tets. Did you mean test?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (75, "1 min 15 s"), (3600, "1 h 0 min 0 s"), (7325, "2 h 2 min 5 s")]
)
def test_time_in_words(seconds, text):
    assert summary_lines({}, seconds) == [("time", text)]


@pytest.mark.slow
def test_parquet(folder, capsys, monkeypatch):
    assert fit(epochs=1) == 0
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("predict", "--config", YINYANG, *SMALL, "--format=parquet") == 2
    assert "pip install pyarrow" in capsys.readouterr().err


def test_warnings_of_this_package_are_notes(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert main(["configs"]) == 0
    assert warnings.formatwarning("a word", UserWarning, checkpoints.__file__, 3) == "note  a word\n"
    assert (
        warnings.formatwarning("a word", UserWarning, "/else/where.py", 3) == "/else/where.py:3: UserWarning: a word\n"
    )
