import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ss_lightning.experiments import robustness
from ss_lightning.experiments.robustness import (
    COLUMNS,
    MODELS,
    PROTOCOLS,
    evaluate,
    load,
    main,
    make_network,
    quick,
    summary,
    train,
)
from ss_lightning.losses import classification_loss

PROTOCOL = quick(PROTOCOLS["yinyang"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def data():
    return load(PROTOCOL, "nowhere")


def experiment(*arguments):
    return main(["--quick", "--data", "yinyang", "--seeds=1", *arguments])


def rows():
    with Path("runs/robustness/robustness.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_cell_by_cell(capsys):
    assert experiment() == 0
    printed = capsys.readouterr().out
    table = rows()
    assert len(table) == 2 * 3 * len(MODELS) == len({tuple(row[name] for name in COLUMNS[:5]) for row in table})
    assert Path("runs/robustness/robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "yinyang  2 hidden  x 0.01  single, no tails (control)    0% of 1 recovered" in printed
    path = Path("runs/robustness/robustness.csv")
    whole = path.read_text()
    # A second start does nothing; one that was killed while it wrote does that cell once more.
    assert experiment() == 0
    assert path.read_text() == whole
    path.write_text(whole[:-9])
    capsys.readouterr()
    assert experiment() == 0
    assert capsys.readouterr().out.count("steps_to_firing") == 1
    drop = [{name: row[name] for name in COLUMNS if name != "seconds"} for row in table]
    assert [{name: row[name] for name in COLUMNS if name != "seconds"} for row in rows()] == drop
    # Another seed is added to what is there.
    assert main(["--quick", "--data", "yinyang", "--seeds=2"]) == 0
    assert len(rows()) == 2 * len(table)


@pytest.mark.parametrize("depth", [1, 2])
def test_all_layers_of_all_models_begin_with_the_same_weights_times_the_scale(data, depth):
    weights = {}
    for model in MODELS:
        for scale in (1.0, 0.01):
            torch.manual_seed(3)
            network = make_network(PROTOCOL, data[0], model, depth, scale)
            assert len(network.synapses) == depth + 1
            weights[model, scale] = [layer.weight for layer in network.synapses]
    reference = weights["multi", 1.0]
    assert all(weight.abs().max() > 0.1 for weight in reference)
    for (_, scale), found in weights.items():
        for weight, expected in zip(found, reference, strict=True):
            torch.testing.assert_close(weight, scale * expected)


@pytest.mark.parametrize("model", MODELS)
def test_only_the_control_gives_silent_neurons_no_gradient(data, model):
    torch.manual_seed(0)
    network = make_network(PROTOCOL, data[0], model, 2, 0.01)
    batch, labels = data[0].__getitems__(range(40))
    output = network(batch)
    assert all(layer.spike_count.sum() == 0 for layer in output.activity)
    classification_loss(network.decoder.scores(output.readout), labels).backward()
    gradient = network.synapses[0].weight.grad
    assert (gradient is None or not gradient.any()) == ("control" in model)


def test_recovered_is_accurate_and_firing(data, monkeypatch):
    """An accurate network with a silent layer has not recovered, nor has one that fires but knows nothing."""
    course = iter([(0.2, [9.0, 0.0]), (0.9, [9.0, 0.9]), (0.4, [9.0, 1.0]), (0.4, [9.0, 0.0]), (0.9, [9.0, 1.0])])
    monkeypatch.setattr(robustness, "evaluate", lambda *_: next(course))
    protocol = replace(PROTOCOL, max_steps=20, every=2, level=0.9)
    found = train(make_network(protocol, data[0], "multi", 2, 1.0), protocol, *data, seed=0)
    assert (found.steps_to_firing, found.steps_to_recovery) == (4, 8)
    assert (found.accuracy, found.spikes_per_sample) == (0.9, 10.0)
    monkeypatch.setattr(robustness, "evaluate", lambda *_: (0.89, [5.0]))
    found = train(make_network(protocol, data[0], "multi", 1, 1.0), protocol, *data, seed=0)
    assert (found.steps_to_firing, found.steps_to_recovery, found.accuracy) == (0, None, 0.89)


def test_evaluation_counts_every_sample_once(data):
    torch.manual_seed(0)
    network = make_network(PROTOCOL, data[0], "multi", 2, 4.0)
    accuracy, spikes = evaluate(network, data[1], size=10)  # 64 samples
    batch, labels = data[1].__getitems__(range(64))
    output = network(batch)
    assert accuracy == pytest.approx(float((output.readout.sum(0).argmax(1) == labels).float().mean()))
    expected = [float(layer.spike_count.sum()) / 64 for layer in output.activity]
    assert spikes == pytest.approx(expected)
    assert min(expected) > 0


def test_summary():
    def row(seed, steps):
        return {
            "data": "mnist", "depth": "2", "scale": "0.1", "model": "multi", "seed": str(seed),
            "recovered": str(int(steps != "")), "steps_to_recovery": steps,
        }  # fmt: skip

    cell = ("mnist", 2, 0.1, "multi")
    assert summary([row(0, "50"), row(1, "70"), row(2, "")])[cell] == (pytest.approx(2 / 3), 60, 3)
    share, steps, number = summary([row(0, "")])[cell]
    assert (share, number) == (0, 1)
    assert math.isnan(steps)


def test_mnist_is_a_subset(idx, folder):
    idx.write_all(folder / "data", train=40)
    train_data, val_data = load(replace(PROTOCOLS["mnist"], num_train=30, num_val=3), "data")
    assert (len(train_data), len(val_data)) == (30, 3)
    assert set(train_data.samples).isdisjoint(val_data.samples)


class TestMistakes:
    @pytest.mark.slow
    def test_another_protocol(self, capsys):
        assert experiment() == 0
        before = rows()
        assert main(["--data", "yinyang"]) == 2
        assert "another protocol: num_steps of yinyang was 12, is 40" in capsys.readouterr().err
        assert rows() == before

    def test_another_table(self, capsys):
        Path("runs/robustness").mkdir(parents=True)
        Path("runs/robustness/robustness.csv").write_text("a,b\n1,2\n")
        assert experiment() == 1
        assert "is no table of this experiment" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--seeds=0"], "--seeds is 0"),
            (["--data", "cifar"], "invalid choice: 'cifar'"),
            (["--out=/proc/nowhere"], "--out: cannot write /proc/nowhere"),
        ],
    )
    def test_arguments(self, arguments, message, capsys):
        assert main(["--quick", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error

    def test_missing_data(self, capsys, monkeypatch):
        def no_network(*args, **kwargs):
            raise OSError("no network")

        monkeypatch.setattr("urllib.request.urlopen", no_network)
        assert main(["--quick", "--data", "mnist", "--root=nowhere"]) == 1
        assert "nowhere/MNIST/raw" in capsys.readouterr().err


def test_the_table_shows_what_wakes_a_silent_network():
    rows = robustness.read_rows(Path(__file__).parents[2] / "results/robustness.csv")

    def recovered(control, scales):
        found = [row for row in rows if ("control" in row["model"]) == control and float(row["scale"]) in scales]
        return sum(int(row["recovered"]) for row in found), len(found)

    assert recovered(False, (0.1, 0.01)) == (96, 96)
    # A control that never learns would say nothing about silent networks.
    assert recovered(True, (1.0,)) == (9, 12)
    assert recovered(True, (0.1, 0.01)) == (0, 24)
