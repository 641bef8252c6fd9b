"""``predict --recordings``: a trained network and files without labels."""

import json
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import ss_lightning
from ss_lightning import MLPClassifier
from ss_lightning.cli.commands import main
from ss_lightning.data import EventData, Recording
from ss_lightning.data.recording_files import READERS

CHECKPOINT = "runs/words/version_0/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of three classes and seven units, on a grid of 50 ms."""
    rng = np.random.default_rng(0)
    events = [np.sort(rng.random(9) * 0.05) for _ in range(30)], [rng.integers(0, 7, 9) for _ in range(30)]
    data = EventData.from_arrays(
        (*events, np.arange(30) % 3), num_units=7, num_steps=25, step_ms=2.0, class_names=("left", "right", "none")
    )
    torch.manual_seed(0)
    model = MLPClassifier(input_shape=[7], num_classes=3, step_ms=2.0, hidden=[9], input_gain=9.0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(model, data)
    root = tmp_path_factory.mktemp("trained")
    trainer.save_checkpoint(root / CHECKPOINT)
    return root


@pytest.fixture(autouse=True)
def folder(trained, tmp_path, monkeypatch):
    (tmp_path / CHECKPOINT).parent.mkdir(parents=True)
    (tmp_path / CHECKPOINT).write_bytes((trained / CHECKPOINT).read_bytes())
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", times=[0.003, 0.001, 0.040], units=[6, 0, 3])
    (tmp_path / "b.csv").write_text("times,units\n0.02,1\n", encoding="utf-8")
    return tmp_path


def predict(*words):
    return main(["predict", "--ckpt_path", CHECKPOINT, "--recordings", *words])


def test_the_table_holds_what_python_says(folder, capsys):
    assert predict("a.npz", "b.csv") == 0
    output = capsys.readouterr().out
    assert "recordings   2 in 2 files" in output
    assert "predictions  runs/default/predict_0/predictions.csv" in output
    table = pd.read_csv("runs/default/predict_0/predictions.csv")
    assert list(table) == [
        *("file", "recording", "prediction", "name", "probability", "decision_ms", "hidden_spikes")
    ]  # fmt: skip
    expected = ss_lightning.load(CHECKPOINT).predict([[0.003, 0.001, 0.040], [0.02]], [[6, 0, 3], [1]])
    assert table["file"].tolist() == ["a.npz", "b.csv"]
    assert table["name"].tolist() == [one.name for one in expected]
    assert table["probability"].tolist() == pytest.approx([one.probability for one in expected])
    assert table["hidden_spikes"].tolist() == [one.hidden_spikes for one in expected]
    summary = json.loads((folder / "runs/default/predict_0/summary.json").read_text(encoding="utf-8"))
    assert summary["command_line"].startswith("python -m ss_lightning predict --ckpt_path")
    assert (summary["recordings"], summary["left_out"]) == (2, [])


def test_times_in_another_unit_and_json(folder, capsys):
    np.savez("ms.npz", times=[3, 1, 40], units=[6, 0, 3])
    assert predict("ms.npz", "--time_unit", "ms", "--output", "out.json") == 0
    assert predict("a.npz", "--format=json") == 0
    found, expected = (
        json.loads((folder / name).read_text()) for name in ("out.json", "runs/default/predict_0/predictions.json")
    )
    assert found[0].pop("file") == "ms.npz"
    assert expected[0].pop("file") == "a.npz"
    assert found == expected
    capsys.readouterr()
    assert predict("ms.npz") == 0
    assert "note  ms.npz, sample 0: all events lie after the end of the time grid (50 ms)" in capsys.readouterr().err


def test_files_of_one_name_are_shown_with_their_folders(folder, capsys):
    for place in ("left", "right"):
        Path(place).mkdir()
        np.savez(f"{place}/0.npz", times=[0.003], units=[6])
    assert predict("left", "right") == 0
    output = capsys.readouterr().out
    assert str(Path("left/0.npz")) in output
    assert str(Path("right/0.npz")) in output


def test_the_layout_of_shd_without_labels_and_many_rows(shd, folder, recordings, capsys):
    shd.write(folder / "speech/shd.h5", *recordings(12), speakers=np.zeros(12), without=("labels", "extra/speaker"))
    assert predict("speech") == 0
    output = capsys.readouterr().out
    assert "recordings   12 in 1 file\n" in output
    assert "... and 2 more" in output
    assert pd.read_csv("runs/default/predict_0/predictions.csv")["recording"].tolist() == list(range(12))


def test_files_that_do_not_fit_are_left_out(folder, capsys):
    np.savez("wrong.npz", times=[0.01], units=[7])
    (folder / "empty.csv").touch()
    assert predict("a.npz", "wrong.npz", "empty.csv") == 1
    output, error = capsys.readouterr()
    assert "recordings   1 in 1 file\n" in output
    assert "left out  wrong.npz, sample 0: unit 7; expected whole numbers from 0 to 6" in error
    assert "trained on recordings of 7 units" in error
    assert "left out  empty.csv: its columns are none" in error
    assert predict("wrong.npz") == 1
    assert not (folder / "runs/default/predict_1").exists()
    assert "error: wrong.npz, sample 0: unit 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.npz", "absent.npz"], "there is no file absent.npz"),
        (["runs"], "runs: no recordings in this folder; expected files that end in .npz, .h5"),
        (["runs/words/version_0/checkpoints/best.ckpt"], "recordings are read from .npz, .h5, .hdf5, .csv, .tsv, .txt"),
        (["a.npz", "--output", "out.xlsx"], "predictions are written as .csv, .json or .parquet, not as out.xlsx"),
        (["a.npz", "--output", "absent/out.csv"], "cannot write absent/out.csv"),
        (["a.npz", "--time_unit", "minutes"], "--time_unit: invalid choice: 'minutes'"),
        (["a.npz", "--tme_unit", "s"], "tme_unit"),
        (["a.npz", "--ckpt_path", "absent.ckpt"], "--ckpt_path: there is no file absent.ckpt"),
        (["a.npz", "--ckpt_path", "best"], "name the trained network: --ckpt_path FILE, or --config FILE"),
    ],
)
def test_mistakes_are_answered(words, said, capsys):
    assert predict(*words) == 2
    assert said in capsys.readouterr().err


def test_the_newest_run_of_a_config(folder, capsys):
    config = {"model": {"class_path": "ss_lightning.MLPClassifier"}, "data": {"class_path": "ss_lightning.YinYangData"}}
    for place in ("words.yaml", "runs/words/version_0/config.yaml"):
        (folder / place).write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["predict", "--config", "words.yaml", "--recordings", "a.npz"]) == 0
    assert "predictions  runs/words/predict_0/predictions.csv" in capsys.readouterr().out
    # The first of several names the run, as in fit.
    (folder / "more.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    assert main(["predict", "--config", "words.yaml", "--config", "more.yaml", "--recordings", "a.npz"]) == 0
    assert "predictions  runs/words/predict_1/predictions.csv" in capsys.readouterr().out


def test_a_data_module_can_read_more(folder, monkeypatch, capsys):
    config = {"model": {"class_path": "ss_lightning.MLPClassifier"}, "data": {"class_path": "ss_lightning.YinYangData"}}
    (folder / "runs/words/version_0/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "a.wav").touch()
    assert predict("a.wav") == 2

    def readers(data, input_shape=()):
        def read(path, time_unit):
            yield Recording(path, 0, np.array([3.0, 1, 40]) / data.step_ms, np.array([6, 0, 3]), "ms")

        return {**READERS, ".wav": read}

    monkeypatch.setattr(ss_lightning.YinYangData, "recording_readers", readers)
    assert predict("a.wav", "a.npz") == 0
    table = pd.read_csv("runs/words/predict_0/predictions.csv")
    assert table["probability"].tolist() == pytest.approx([table["probability"][0]] * 2)


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--recordings", "--help"])
    assert stopped.value.code == 0
    assert "files, or folders of such files" in capsys.readouterr().out
