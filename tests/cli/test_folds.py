import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ss_lightning.cli import folds as folds_module
from ss_lightning.cli.commands import main
from ss_lightning.cli.folds import make_folds, over_folds, read_folds
from ss_lightning.data import SHDData
from ss_lightning.errors import UsageError
from ss_lightning.module import MLPClassifier

ROOT = Path(__file__).parents[2]
SMALL = ["--data.num_steps=20", "--model.hidden=[8]", "--trainer.max_epochs=1", "--lr_scheduler.T_max=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, shd):
    """A folder with data: speakers 1, 3, 5 and 6 in the training file, three samples each, 7 in the test file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    shd.write_pair(tmp_path / "data", (1, 3, 5, 6))
    return tmp_path


def folds(*arguments):
    return main(["folds", "--config", str(ROOT / "configs/quick/shd.yaml"), *SMALL, *arguments])


def table():
    with Path("runs/folds/quick/shd/folds.csv").open() as file:
        return list(csv.DictReader(file))


def summary(folder="runs/folds/quick/shd"):
    return json.loads((Path(folder) / "folds.json").read_text())


class TestFolds:
    @pytest.mark.parametrize(
        ("speakers", "size", "expected"),
        [
            ([0, 1, 4], 1, [(0,), (1,), (4,)]),
            ([0, 1, 4, 7], 2, [(0, 1), (4, 7)]),
            ([0, 1, 4, 7, 9], 2, [(0, 1), (4, 7), (9,)]),
            ([2, 3], 1, [(2,), (3,)]),
        ],
    )
    def test_neighbours_are_left_out_together(self, speakers, size, expected):
        assert make_folds(speakers, size) == expected

    @pytest.mark.parametrize(("speakers", "size"), [([0, 1], 2), ([0, 1], 0), ([0, 1], -1), ([5], 1)])
    def test_someone_must_be_left_to_train_on(self, speakers, size):
        with pytest.raises(UsageError, match=f"--size is {size}; expected 1 or more, and fewer than"):
            make_folds(speakers, size)

    def test_as_written(self):
        assert read_folds(["4,0", "7", "1,1"], [0, 1, 4, 7]) == [(0, 4), (7,), (1,)]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["0;1"], "'0;1' is no list of speakers; expected folds like 0,1 2,3"),
            (["0,9,8"], "no speaker 8,9 in the data; there are 0,1,4"),
            (["0,1", "4,1"], "--folds 4,1: speaker 1 is in another fold already"),
            (["0,1,4"], "leaves no speaker to train on"),
        ],
    )
    def test_as_written_wrongly(self, words, message):
        with pytest.raises(UsageError, match=re.escape(message)):
            read_folds(words, [0, 1, 4])


def test_over_folds():
    def row(speakers, accuracy, spikes):
        return {
            "speakers": speakers, "accuracy": accuracy, "spikes_per_sample": spikes, "dead_fraction": 0.0,
            "synops_per_sample": 5.0,
        }  # fmt: skip

    # Two seeds of the first fold: what counts of it is their mean, .7, and the folds weigh the same.
    rows = [row("0", 0.6, 10), row("0", 0.8, 30), row("1", 0.5, 40), row("2", 0.9, 60)]
    together = over_folds(rows)
    assert together["accuracy"] == pytest.approx(
        {"mean": 0.7, "deviation": 0.2, "lowest": 0.5, "lowest_speakers": "1"}, abs=1e-12
    )
    assert together["spikes_per_sample"]["mean"] == 40
    assert over_folds(rows[:2])["accuracy"]["deviation"] is None


@pytest.mark.slow
def test_the_test_file_stays_for_the_end():
    assert folds("--size=2", "--data.exclude_test_file=true") == 0
    assert [row["speakers"] for row in table()] == ["1,3", "5,6"]


@pytest.mark.slow
def test_every_speaker_of_both_files_is_left_out_once_and_tested(capsys):
    assert folds("--size=2", "--seed_everything=4") == 0
    printed = capsys.readouterr().out
    rows = table()
    assert [(row["speakers"], row["seed"]) for row in rows] == [("1,3", "4"), ("5,6", "4"), ("7", "4")]
    found = summary()
    assert (found["state"], found["folds"], found["seeds"]) == ("finished", [[1, 3], [5, 6], [7]], [4])
    assert found["command_line"].startswith("python -m ss_lightning folds --config ")
    assert "[3/3] without 7  seed 4  accuracy " in printed
    assert f"accuracy  {found['accuracy']['mean']:.4f} ± {found['accuracy']['deviation']:.4f} over 3 folds" in printed
    for row in rows:
        speakers = [int(speaker) for speaker in row["speakers"].split(",")]
        training = Path("runs/folds/quick/shd") / f"without_{'_'.join(map(str, speakers))}" / f"version_{row['seed']}"
        config = yaml.safe_load((training / "config.yaml").read_text())
        # No one is held out for validation, or would be trained on less than what is there.
        assert config["data"]["init_args"]["val_speakers"] == []
        assert config["data"]["init_args"]["test_speakers"] == speakers
        assert config["seed_everything"] == int(row["seed"])
        # Once more by hand: the last weights on the samples of these speakers.
        model = MLPClassifier.load_from_checkpoint(training / "checkpoints/last.ckpt", weights_only=True)
        module = SHDData("data", num_steps=20, step_ms=4, binning="count", test_speakers=speakers, val_speakers=[])
        test = module.splits.test
        assert set(test.store.groups[test.samples]) == set(speakers)
        spikes, labels = module.dataset(test).__getitems__(range(len(test)))
        with torch.no_grad():
            output = model(spikes)
        right = (model.scores(output).argmax(1) == labels).sum() / len(labels)
        assert float(row["accuracy"]) == pytest.approx(float(right), abs=1e-6)
        assert float(row["spikes_per_sample"]) == pytest.approx(
            float(output.activity[0].spike_count.sum() / len(labels)), abs=1e-4
        )


@pytest.mark.slow
def test_side_by_side_the_rows_are_the_same():
    assert folds("--size=2", "--seeds=2") == 0
    assert folds("--size=2", "--seeds=2", "--jobs=2", "--out=two") == 0
    with Path("two/folds.csv").open() as file:
        found = list(csv.DictReader(file))
    expected = table()
    for row in (*found, *expected):
        del row["seconds"]
    assert found == expected
    assert summary("two")["state"] == "finished"
    assert summary("two")["accuracy"] == summary()["accuracy"]


@pytest.fixture
def quick(monkeypatch):
    """Trainings that train nothing; returns which were asked for. ``fail_at`` is the number of one that is stopped."""
    asked = []

    def run_command(arguments, folder, **options):
        if arguments[0] == "fit":
            asked.append("/".join(folder.parts[-2:]))
            content = {"command": "fit", "facts": {"parameters": 5}, "seconds": 1.5, "state": "finished"}
            (folder / "config.yaml").write_text("trainer: {max_epochs: 1}")
        elif len(asked) == run_command.fail_at:
            raise KeyboardInterrupt
        else:
            skill = 0.5 + 0.01 * len(asked)
            names = ("accuracy", "spikes_per_sample", "dead_fraction", "synops_per_sample")
            metrics = {f"test/{name}": skill for name in names}
            content = {"command": "test", "checkpoint": arguments[2], "state": "finished", "metrics": metrics}
        (folder / "summary.json").write_text(json.dumps(content))

    run_command.fail_at = None
    monkeypatch.setattr(folds_module, "run_command", run_command)
    return asked, run_command


class TestGoingOn:
    @pytest.mark.slow
    def test_what_is_done_is_not_run_again(self, quick, capsys):
        asked, run_command = quick
        run_command.fail_at = 2
        assert folds() == 130
        assert "the same command goes on" in capsys.readouterr().out
        assert asked == ["without_1/version_0", "without_3/version_0"]
        assert summary()["state"] == "running"
        run_command.fail_at = None
        asked.clear()
        assert folds() == 0
        assert asked == [f"without_{speaker}/version_0" for speaker in (3, 5, 6, 7)]
        assert "(done before)" in capsys.readouterr().out
        first = table()
        asked.clear()
        assert folds() == 0
        assert asked == []
        assert table() == first
        # More seeds may be asked for later, and only those are run.
        assert folds("--seeds=2") == 0
        assert asked == [f"without_{speaker}/version_1" for speaker in (1, 3, 5, 6, 7)]

    @pytest.mark.slow
    def test_a_test_that_is_missing_is_done_again(self, quick):
        asked, _ = quick
        assert folds("--folds", "1,3", "7") == 0
        shutil.rmtree("runs/folds/quick/shd/without_7/test_0")
        asked.clear()
        assert folds("--folds", "1,3", "7") == 0
        assert asked == ["without_7/version_0"]

    @pytest.mark.slow
    def test_another_config_is_refused(self, quick, capsys):
        asked, _ = quick
        assert folds("--size=2") == 0
        before = table()
        asked.clear()
        for arguments, message in (
            (["--size=2", "--trainer.max_epochs=2"], "trainer.max_epochs was 1, is 2"),
            (["--size=2", "--data.val_speakers=null"], "data.init_args.val_speakers was [], is None"),
            (["--size=3"], "folds was [[1, 3], [5, 6], [7]], is [[1, 3, 5], [6, 7]]"),
        ):
            assert folds(*arguments) == 2
            error = capsys.readouterr().err
            assert message in error
            assert "another folder with --out" in error
        assert asked == []
        assert table() == before
        # What changes no result is no other config.
        assert folds("--size=2", "--pictures.every_n_epochs=5") == 0
        assert asked == []
        assert folds("--size=3", "--out=elsewhere") == 0
        assert Path("elsewhere/folds.csv").is_file()

    @pytest.mark.slow
    def test_a_damaged_summary_is_named(self, quick, capsys):
        assert folds("--folds", "7") == 0
        Path("runs/folds/quick/shd/folds.json").write_text("{")
        assert folds("--folds", "7") == 1
        assert "runs/folds/quick/shd/folds.json is damaged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size=5"], "--size is 5; expected 1 or more, and fewer than the 5 speakers of the data, 1,3,5,6,7"),
        (["--size=two"], "argument --size: invalid int value: 'two'"),
        (["--size=2", "--folds", "1"], "not allowed with argument"),
        (["--folds", "1,2"], "no speaker 2 in the data; there are 1,3,5,6,7"),
        (["--seeds=0"], "--seeds is 0; expected 1 or more"),
        (["--jobs=0"], "--jobs is 0; expected 1 or more"),
        (["--data.test_speakers=[1]"], "name the speakers to leave out with --folds"),
        (["--data.val_speakers=[5]"], "without 5: val_speakers: [5] not among the training speakers"),
        (["--size=4", "--data.val_speakers=[7]"], "without 1,3,5,6: val_speakers: holding out [7] leaves no speaker"),
        (["--ckpt_path=last"], "every fold begins anew"),
        (["--trainer.fast_dev_run=true"], "leaves no run to test"),
        (["--model.hiddn=[3]"], "unknown key model.hiddn"),
        (["--out=/proc/nowhere"], "cannot write /proc/nowhere"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, message, capsys):
    assert folds(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.slow
def test_speakers_of_the_config_file(capsys, quick):
    for name, value in (("test_speakers", [1]), ("val_speakers", [3])):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"data": {"init_args": {name: value}}}))
    assert folds("--config=test_speakers.yaml") == 2
    assert "data.test_speakers: name the speakers to leave out with --folds" in capsys.readouterr().err
    assert folds("--config=val_speakers.yaml", "--folds", "1", "7", "--out=kept") == 0
    assert summary("kept")["config"]["data.init_args.val_speakers"] == [3]


@pytest.mark.slow
def test_a_training_on_several_devices_is_refused(capsys):
    assert folds("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp") == 2
    assert "one of many trainings cannot be spread over 2 devices" in capsys.readouterr().err


def test_data_without_speakers(capsys):
    assert main(["folds", "--config", str(ROOT / "configs/yinyang.yaml")]) == 2
    assert "ss_lightning.data.YinYangData, which knows no speakers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("one", "other"),
    [(["ann 1"], ["ann-1"]), (["a_b"], ["a", "b"]), (["Ann"], ["ann"]), (["é"], ["è"]), (["a" * 200], ["a" * 201])],
)
def test_other_speakers_have_another_folder(one, other):
    names = [folds_module._fold_name(speakers) for speakers in (one, other)]
    assert names[0].lower() != names[1].lower()
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,110}", name) for name in names)
    assert folds_module._fold_name(["1", "s2"]) == "1_s2"


def test_missing_data(capsys):
    assert folds("--data.root=nowhere", "--data.download=false") == 1
    assert "nowhere/SHD/shd_train.h5: missing" in capsys.readouterr().err
