"""Each picture is drawn and says what it should; how it looks was judged by eye."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ss_lightning import plots


def texts(figure):
    """All that is written in a figure."""
    import matplotlib.text

    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def is_png(figure):
    return plots.png(figure, dpi=30).startswith(b"\x89PNG")


@pytest.mark.parametrize("units", [4, 700])
def test_raster(units):
    spikes = torch.zeros(20, 2, units)
    spikes[3, 0, 1] = spikes[5, 1, 2] = spikes[6, 1, 3] = 1
    figure = plots.raster({"layer 0": spikes, "layer 1": spikes}, ["yin", "yang"], step_ms=2.0)
    assert is_png(figure)
    assert {"yin", "yang", "time (ms)"} <= {
        text for axis in figure.axes for text in (axis.get_title(), axis.get_xlabel())
    }
    left, right = (axis.collections[0].get_offsets().tolist() for axis in figure.axes[:2])
    assert left == [[6.0, 1.0]]
    assert right == [[10.0, 2.0], [12.0, 3.0]]


@pytest.mark.parametrize(
    "name", ["multi", "single (masked), hidden", "single (masked), time_stretch=0.2, onset_ms=300"]
)
def test_the_names_of_panels_stay_in_the_picture(name):
    one = plots.Points([1.0], [2.0])
    figure = plots.panels({"up": {"": {f"{name} {number}": one for number in range(5)}}}, "x")
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_panels_keep_the_look_of_a_series():
    one, two = plots.Points([1, 2], [0.5, float("nan")], [0.1, float("nan")]), plots.Points([1, 3], [4, 5], names="ab")
    figure = plots.panels({"up": {"left": {"A": one, "B": two}, "right": {"B": two}}}, "x", {1.0: "low", 3.0: "high"})
    assert is_png(figure)
    left, right = figure.axes
    assert (left.get_ylabel(), left.get_title(), right.get_title(), right.get_xlabel()) == ("up", "left", "right", "x")
    assert [label.get_text() for label in right.get_xticklabels()] == ["low", "high"]
    colours = [[bar.lines[0].get_color() for bar in axis.containers] for axis in (left, right)]
    assert colours[0][1] == colours[1][0] != colours[0][0]
    assert {"A", "B", "a", "b"} <= set(texts(figure).split())
    assert right.containers[0].lines[0].get_ydata().tolist() == [4, 5]


def test_readout_marks_the_true_class_and_a_wrong_prediction():
    membranes = torch.randn(30, 2, 4)
    figure = plots.readout(membranes, [0, 1], [0, 3], [7.0, 29.0], ["a", "b", "c", "d"], step_ms=1.0)
    assert is_png(figure)
    assert "taken for d" in texts(figure)
    assert {"true class", "predicted class, wrong", "decision"} <= {t.get_text() for t in figure.legends[0].get_texts()}
    true = max(figure.axes[0].lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(true.get_ydata(), membranes[:, 0, 0])
    widths = sorted(line.get_linewidth() for line in figure.axes[1].lines)
    assert widths[-1] == widths[-2] > widths[-3]


def test_first_spike_histogram_tells_the_silent_from_the_late():
    times = torch.tensor([[0, 9, 10, 10]])
    figure = plots.first_spike_histogram({"layer 0": times}, num_steps=10, step_ms=2.0)
    assert is_png(figure)
    assert "50% stay silent" in texts(figure)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[0] == heights[-1] == 25
    assert sum(heights) == 50
    assert figure.axes[0].patches[-1].get_x() == 18.0


def test_time_constants_of_every_decay_there_is():
    betas = {"layer 0": torch.tensor([0.0, 0.9, 1.0]), "readout": torch.ones(3)}
    figure = plots.time_constants(betas, step_ms=1.0)
    assert is_png(figure)
    assert f"median tau {-1 / np.log(0.9):.3g} ms" in texts(figure)


def test_curves_stay_apart_without_colour():
    series = {f"run {n}": ([1, 2, 3], [n, n + 1, n + 2]) for n in range(16)}
    figure = plots.curves(series, "accuracy")
    assert is_png(figure)
    styles = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines]
    assert len(set(styles[:14])) == 14
    assert plots.curves({"one": ([1, 2], [5, 6])}, "x", from_zero=True).axes[0].get_ylim()[0] == 0


def test_accuracy_over_training_names_the_best_epoch():
    figure = plots.accuracy_over_training([10.0, 20.0, 30.0], [0.5, 0.9, 0.8], [1, 2, 3])
    assert is_png(figure)
    assert "best: 0.900 at 20.0 spikes, epoch 2" in texts(figure)


def test_pareto_front():
    spikes, accuracy = [10, 20, 30, 30, 5], [0.5, 0.9, 0.7, 0.95, 0.5]
    assert plots.pareto_front(spikes, accuracy) == [4, 1, 3]
    figure = plots.pareto(spikes, accuracy, list("abcde"))
    assert is_png(figure)
    assert {text.get_text() for text in figure.axes[0].texts} == {"e", "b", "d"}


@pytest.mark.parametrize(("goal", "best"), [("maximize", "0.9"), ("minimize", "0.1")])
def test_parallel_coordinates(goal, best):
    columns = {
        "optimizer.init_args.lr": [1e-4, 1e-2, 1e-1],
        "model.init_args.hidden": ["[8]", "[20]", "[8]"],
        "model.init_args.skip": [True, False, True],
        "seed": [0, 0, 0],
        "val/accuracy": [0.1, 0.9, 0.5],
    }
    figure = plots.parallel_coordinates(columns, goal)
    assert is_png(figure)
    assert f"best trial (thick, dashed): {best}" in texts(figure)
    axis = figure.axes[0]
    heights = [list(line.get_ydata()) for line in axis.lines[:3]]
    assert [h[0] for h in heights] == pytest.approx([0, 2 / 3, 1]), "a wide range is logarithmic"
    assert [h[1] for h in heights] == [0.25, 0.75, 0.25], "8 is less than 20"
    assert [h[4] for h in heights] == [0, 1, 0.5]


@pytest.mark.slow
def test_nothing_is_left_in_pyplot():
    code = (
        "import sys, matplotlib; sys.modules['matplotlib.pyplot'] = None\n"
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('plots', {plots.__file__!r}); m = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(m)\n"
        "print(len(m.png(m.curves({'a': ([1], [2])}, 'y'))) > 1000)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


def test_a_confusion_matrix_says_how_much_of_each_class_is_right():
    figure = plots.confusion_matrix(
        torch.tensor([[3, 1], [0, 0]]), ["left", "a name that is very long"], "test samples"
    )
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["left  75.0%", "a name that i…  none"]
    assert [text.get_text() for text in axis.texts] == ["3", "1"]
    assert axis.get_title(loc="left") == "75.00% of 4 test samples"


def test_a_confusion_matrix_of_many_classes_has_no_numbers():
    figure = plots.confusion_matrix(torch.eye(35, dtype=torch.long), [str(n) for n in range(35)])
    assert not figure.axes[0].texts
    assert len(figure.axes) == 2  # a scale of colours


def test_a_learning_curve_marks_the_best_epoch():
    history = [{"epoch": n, "train/loss": 3 / n, "val/loss": 4 / n, "train/accuracy": n / 4} for n in (1, 2, 3)]
    left, right = plots.learning_curve(history, 3).axes
    assert [len(axis.get_lines()) for axis in (left, right)] == [2, 3]
    assert right.get_lines()[1].get_ydata() == pytest.approx([4, 2, 4 / 3])
    assert plots.learning_curve([{"epoch": 1, "train/loss": 2.0}]).axes
