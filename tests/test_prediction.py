"""A trained network in Python: loaded from its run, asked about recordings."""

import math
import warnings

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch

import ss_lightning
from ss_lightning import DataError, EventBatch, MLPClassifier, UsageError
from ss_lightning.cli.commands import main
from ss_lightning.data import EventData, RecordingFormat, Subset
from ss_lightning.networks import NetworkOutput, SpikingNetwork
from ss_lightning.prediction import classify_recordings

NAMES = ("left", "right", "none")


def data(recordings, **options):
    times, units, labels = recordings(30)
    return EventData.from_arrays(
        (times, units, labels), num_units=7, class_names=NAMES, num_steps=25, step_ms=2.0, batch_size=10, **options
    )


def train(module, folder, **model):
    torch.manual_seed(0)
    shape = {"input_shape": module.input_shape, "num_classes": module.num_classes, "step_ms": module.step_ms}
    model = MLPClassifier(**shape, hidden=[9, 8], input_gain=4.0, **model)
    trainer = L.Trainer(
        max_epochs=1, default_root_dir=folder, logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, module)
    path = folder / "run" / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(path)
    return model, trainer


@pytest.mark.parametrize("options", [{}, {"input": "dense"}, {"binning": "count"}, {"units_per_input": 2}])
def test_it_answers_as_the_evaluation_does(recordings, tmp_path, options):
    units_per_input = options.pop("units_per_input", 1)
    module = data(recordings, **options)
    module.units_per_input = units_per_input
    trained, _ = train(module, tmp_path)
    model = ss_lightning.load(tmp_path / "run")
    assert not model.training
    samples = Subset(module.splits.train.store)
    expected = trained.eval().predict_step(module.dataset(samples).__getitems__(np.arange(30)), 0)
    times, units, _ = recordings(30)
    found = model.predict(times, units)
    assert [one.label for one in found] == expected["prediction"].tolist()
    assert [one.probability for one in found] == pytest.approx(expected["probability"].tolist())
    np.testing.assert_allclose([one.decision_ms for one in found], expected["decision_ms"])


def test_one_recording_and_many(recordings, tmp_path):
    train(data(recordings), tmp_path)
    model = ss_lightning.load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    times, units, _ = recordings(300)
    many = model.predict(times, units)
    assert len(many) == 300
    one = model.predict(times[7], units[7])
    assert one == many[7] or math.isnan(one.decision_ms)
    assert one.name == NAMES[one.label]
    assert one.probability == max(one.probabilities.values())
    assert sum(one.probabilities.values()) == pytest.approx(1)
    assert 0 <= one.hidden_spikes <= 17
    assert one.probabilities == pytest.approx(model.predict(times[7] * 1e3, units[7], time_unit="ms").probabilities)
    assert one.probabilities == pytest.approx(model.predict(list(times[7]), list(units[7])).probabilities)
    assert model.predict([], []).hidden_spikes == model.predict([[]], [[]])[0].hidden_spikes
    shuffled = np.random.default_rng(0).permutation(len(times[7]))
    assert one.probabilities == pytest.approx(model.predict(times[7][shuffled], units[7][shuffled]).probabilities)


def test_mistakes_are_named(recordings, tmp_path):
    train(data(recordings), tmp_path)
    model = ss_lightning.load(tmp_path / "run")
    with pytest.raises(DataError, match="recordings, sample 1: unit 7"):
        model.predict([[0.01], [0.02]], [[3], [7]])
    with pytest.raises(DataError, match="recordings"):
        model.predict([[0.01, -0.5]], [[3, 2]])
    with pytest.raises(UsageError, match="times of 2 recordings and units of 1"):
        model.predict([[0.01], [0.02]], [[3]])
    with pytest.raises(UsageError, match="time_unit"):
        model.predict([0.01], [3], time_unit="minutes")
    fresh = MLPClassifier(input_shape=[7], num_classes=3, step_ms=2.0)
    with pytest.raises(UsageError, match="recording_format"):
        fresh.predict([0.01], [3])
    fresh.recording_format = RecordingFormat.of(data(recordings))
    assert fresh.predict([0.01], [3]).name in NAMES


@pytest.fixture(scope="module")
def untrained():
    model = MLPClassifier(input_shape=[3], num_classes=2, step_ms=1.0, hidden=[8], input_gain=20.0)
    names = ("low", "high")
    model.recording_format = RecordingFormat(
        num_steps=20, step_ms=1.0, num_units=3, input_shape=(3,), class_names=names
    )
    return model


@pytest.mark.parametrize(
    ("times", "units"),
    [
        (torch.tensor([0.001, 0.004], requires_grad=True), torch.tensor([0, 2])),
        ([torch.tensor(0.001), 0.004], [0, torch.tensor(2)]),
        (iter([0.001, 0.004]), iter([0, 2])),
        (pd.Series([0.001, 0.004], index=[4, 3]), pd.Series([0, 2])),
    ],
)
def test_one_recording_of_other_libraries(untrained, times, units):
    assert untrained.predict(times, units) == untrained.predict([0.001, 0.004], [0, 2])


@pytest.mark.parametrize("kind", [iter, pd.Series, lambda lists: map(torch.tensor, lists)])
def test_several_recordings_of_other_libraries(untrained, kind):
    plain = untrained.predict([[0.001, 0.004], [0.002]], [[0, 2], [1]])
    assert untrained.predict(kind([[0.001, 0.004], [0.002]]), kind([[0, 2], [1]])) == plain
    form = untrained.recording_format
    assert form.batch(kind([[0.001], [0.002]]), kind([[0], [1]])).units.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("times", "units", "words"),
    [
        (None, None, "sample 0: times are of type object"),
        ([[0.001], 0.002], [[1], 1], "sample 1: times have shape"),
        ({1: 2}, {1: 2}, "sample 0: times are of type object"),
        ({1: [2.0]}, {1: [2]}, "sample 0"),
        ([2**64 - 1], [0], "sample 0: event time 18446744073709551615"),
        (np.ma.array([0.001, 2], mask=[1, 0]), [0, 1], "sample 0: times: number 0 is masked"),
        ([[True]], [[1]], "sample 0: times are of type bool"),
        ("ab", [1, 2], "times"),
    ],
)
def test_other_recordings_are_named(untrained, times, units, words):
    with pytest.raises(DataError, match=words):
        untrained.predict(times, units)


def test_what_the_network_was_trained_on_is_said_where_units_do_not_fit(untrained):
    times, units = [[0.001]] * 200, [[0]] * 150 + [[3]] + [[0]] * 49
    with pytest.raises(DataError, match=r"sample 150: unit 3; .* trained on recordings of 3 units") as caught:
        untrained.predict(times, units)
    assert "set num_units" not in str(caught.value)


def test_times_in_the_wrong_unit_are_noticed(untrained):
    with pytest.warns(UserWarning, match=r"events of 1 of 2 recordings, the first of them number 1, .*20 ms.*\"s\""):
        untrained.predict([[0.001], [3, 30]], [[0], [1, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        untrained.predict([[0.001, 5], []], [[0, 1], []])


def test_a_batch_of_arrays_is_what_predict_sees(untrained):
    times, units = [[0.001, 0.004], [0.002]], [[0, 2], [1]]
    batch = EventBatch.from_arrays(times, units, num_units=3, num_steps=20, step_ms=1.0)
    with torch.no_grad():
        probabilities = untrained.scores(untrained.eval()(batch)).softmax(1)
    found = [list(one.probabilities.values()) for one in untrained.predict(times, units)]
    torch.testing.assert_close(probabilities, torch.tensor(found))


def test_training_mode_and_statistics_are_left_alone(recordings):
    model = MLPClassifier(input_shape=[7], num_classes=3, step_ms=2.0, hidden=[9], input_gain=9.0, dropout=0.5)
    model.recording_format = RecordingFormat.of(data(recordings))
    model.train()
    times, units, _ = recordings(5)
    first, second = ([one.probabilities for one in model.predict(times, units)] for _ in range(2))
    assert first == second
    assert model.training


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"no folder of a run: there is no checkpoints/best.ckpt in it"):
        ss_lightning.load(tmp_path)
    (tmp_path / "version_0" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="It holds the runs version_0: give one of them"):
        ss_lightning.load(tmp_path)
    with pytest.raises(UsageError, match="there is no checkpoint"):
        ss_lightning.load(tmp_path / "absent")


@pytest.mark.slow
def test_a_run_of_the_command_line(tmp_path, monkeypatch, shd, recordings):
    monkeypatch.chdir(tmp_path)
    shd.write_pair(tmp_path / "data")
    config = ss_lightning.__file__.replace("ss_lightning/__init__.py", "configs/shd.yaml")
    small = [
        "--model.hidden",
        "[12]",
        "--trainer.max_epochs=1",
        "--pictures.every_n_epochs=0",
        "--data.val_speakers=[3]",
    ]
    assert main(["fit", "--config", config, *small, "--trainer.default_root_dir", "runs"]) == 0
    model = ss_lightning.load("runs/shd/version_0")
    times, units, _ = recordings(4, num_units=700)
    found = model.predict(times, units)
    assert {one.name for one in found} <= set(model.recording_format.class_names)
    assert model.recording_format.num_units == 700
    assert model.network.num_inputs == 700 // model.recording_format.units_per_input


def test_a_network_without_hidden_layers(recordings):
    class Linear(SpikingNetwork):
        layer_sizes, hidden_synapses = [], []

        def __init__(self):
            super().__init__(input_shape=[7], num_classes=3, step_ms=2.0)
            self.synapse = torch.nn.Linear(7, 3)
            self.readout = self.make_readout()

        def forward(self, spikes):
            return NetworkOutput(self.readout(self.synapse(spikes.to_dense())), [])

    found = classify_recordings(Linear(), RecordingFormat.of(data(recordings)), [[0.01], []], [[3], []])
    assert [one.hidden_spikes for one in found] == [0, 0]
