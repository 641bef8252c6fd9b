"""The configs for one's own data, each after its one edit, from the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

import ss_lightning
from ss_lightning.cli.commands import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs" / "own").glob("*.yaml"))


def images(folder):
    rng = np.random.default_rng(0)
    for n in range(12):
        path = folder / "train" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def events(folder):
    rng = np.random.default_rng(0)
    for n in range(12):
        path = folder / "ab"[n % 2] / f"{n}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"t": np.sort(rng.random(40)), "x": rng.integers(0, 9, 40)}).to_csv(path, index=False)


def sound(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(12):
        soundfile.write(folder / f"{'ab'[n % 2]}_s{n % 3}_{n}.wav", rng.standard_normal(3000) * 0.1, 8000)


MAKE = {"images": images, "events": events, "sound": sound}


def test_there_is_a_config_for_each():
    assert CONFIGS == ["events", "images", "sound", "tonic"]  # tonic: see test_tonic_data.py


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_train_test_and_predict(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    MAKE[name](tmp_path / "mine")
    config = ["--config", str(ROOT / "configs" / "own" / f"{name}.yaml")]
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--pictures.every_n_epochs=0"]
    assert main(["fit", *config, "--data.root=mine", "--data.batch_size=4", *few]) == 0
    assert main(["test", *config, "--data.root=mine"]) == 0
    recordings = sorted(str(path) for path in (tmp_path / "mine").rglob("*") if path.is_file())[:2]
    code = main(["predict", *config, "--recordings", *recordings])
    output = capsys.readouterr()
    assert code == 0
    assert "2 in 2 files" in output.out
    model = ss_lightning.load(next((tmp_path / "runs").rglob("best.ckpt")))
    if name == "images":  # constant currents
        data = ss_lightning.ImageFolderData(root="mine", code="current", num_steps=4, val_fraction=0, test_fraction=0)
        pixels = data.splits.train.store.pixels
        store = pixels.reshape(len(pixels), -1) / np.float32(255)
        table = pd.read_csv(next((tmp_path / "runs").rglob("predictions.csv")))
        order = sorted(str(path) for path in (tmp_path / "mine").rglob("*.png")).index
        rows = [order(file) for file in table["file"]]
        expected = ss_lightning.prediction.classify_currents(model.network, model.recording_format, store[rows])
        assert table["name"].tolist() == [one.name for one in expected]
        assert table["probability"].tolist() == pytest.approx([one.probability for one in expected])
    assert model.recording_format.class_names == ("a", "b")


@pytest.mark.slow
def test_recordings_have_the_time_unit_of_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events(tmp_path / "mine")
    for path in Path("mine").rglob("*.csv"):
        pd.read_csv(path).assign(t=lambda table: table["t"] * 1000).to_csv(path, index=False)
    config = ["--config", str(ROOT / "configs" / "own" / "events.yaml")]
    few = ["--trainer.max_epochs=1", "--data.batch_size=4", "--pictures.every_n_epochs=0"]
    assert main(["fit", *config, "--data.root=mine", "--data.time_unit=ms", *few]) == 0
    found = {}
    for name, words in {"not said": [], "ms": ["--time_unit=ms"], "s": ["--time_unit=s"]}.items():
        assert main(["predict", *config, "--recordings", "mine", "--output=found.json", *words]) == 0
        found[name] = Path("found.json").read_text(encoding="utf-8")
    assert found["not said"] == found["ms"] != found["s"]


@pytest.mark.slow
def test_folds_leave_speakers_out_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sound(tmp_path / "mine")
    config = ["--config", str(ROOT / "configs" / "own" / "sound.yaml"), "--data.root=mine", "--data.batch_size=4"]
    assert main(["folds", *config, "--trainer.max_epochs=1", "--folds", "s0,s2", "s1", "--model.hidden=[8]"]) == 0
    assert "[2/2] without s1" in capsys.readouterr().out
    assert (tmp_path / "runs/folds/own/sound/without_s0_s2/version_0").is_dir()
    assert main(["folds", *config, "--folds", "dan"]) == 2
    assert "--folds dan: no speaker dan in the data; there are s0,s1,s2" in capsys.readouterr().err
