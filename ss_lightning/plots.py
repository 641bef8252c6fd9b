"""Pictures of networks, runs and sweeps: plain data in, a matplotlib ``Figure`` out.

Colours are those of Okabe & Ito, which colour-blind people can tell apart, and cividis for ordered values; what a
colour says is also said by a line style, a marker or a label, so that pictures survive a black and white printer.
Figures are made without pyplot: nothing is shown, and nothing needs to be closed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
GREY, BLACK = "#999999", "#000000"
_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX"
# More curves than this cannot be told apart; the rest is drawn in grey.
_MAX_CURVES = 14
# A curve with more points than this is drawn without markers.
_MAX_MARKERS = 40


def raster(layers: Mapping[str, Tensor], titles: Sequence[str], step_ms: float, ylabel: str = "neuron") -> Figure:
    """Spikes of a few samples: a row for each layer, a column for each sample.

    Args:
        layers: spikes ``[T, B, N]`` of each layer, by name.
        titles: what to write above each of the ``B`` columns.
        step_ms: length of a step in milliseconds.
        ylabel: what one line of the raster is.
    """
    figure, axes = _grid(len(layers), len(titles), cell=(2.3, 2.1), sharex=True, sharey="row")
    for row, (name, spikes) in zip(axes, layers.items(), strict=True):
        num_steps, _, num_units = spikes.shape
        height = 120 / num_units
        for column, axis in enumerate(row):
            step, unit = spikes[:, column].nonzero(as_tuple=True)
            # Upright strokes as tall as a line of the raster; dots where the lines are too thin for strokes, and fine
            # dots where there are so many that they would run together.
            dot = 0.7 if len(step) > 2000 else max(1.5, height / 1.5)
            marker, size = ("|", height) if height > 4 else ("o", dot)
            axis.scatter(step * step_ms, unit, s=size**2, marker=marker, color=BLACK, linewidths=0.8 * (marker == "|"))
            axis.set(xlim=(-step_ms, num_steps * step_ms), ylim=(-0.5, num_units - 0.5))
            _whole_numbers(axis.yaxis)
        row[0].set_ylabel(f"{name}\n{ylabel}" if name else ylabel)
    _titles(axes, titles, "time (ms)")
    return figure


def readout(
    membranes: Tensor,
    labels: Sequence[int],
    predictions: Sequence[int],
    decision_ms: Sequence[float],
    class_names: Sequence[str],
    step_ms: float,
    ylabel: str = "readout membrane",
) -> Figure:
    """Readout of a few samples over time, the true class and the moment of decision marked.

    Args:
        membranes: ``[T, B, C]``.
        labels: the true class of each sample.
        predictions: the predicted class of each sample.
        decision_ms: when each decision was made, in milliseconds.
        class_names: one name per class.
        step_ms: length of a step in milliseconds.
        ylabel: what the lines are.
    """
    figure, axes = _grid(1, len(labels), cell=(2.3, 2.3), sharey=True)
    time = torch.arange(len(membranes)) * step_ms
    lines: dict[str, Any] = {}
    titles = []
    for axis, lanes, true, predicted, decided in zip(
        axes[0], membranes.unbind(1), labels, predictions, decision_ms, strict=True
    ):
        for index in range(lanes.shape[1]):
            if index not in (true, predicted):
                (lines["other classes"],) = axis.plot(time, lanes[:, index], color=GREY, linewidth=0.7, alpha=0.7)
        (lines["true class"],) = axis.plot(time, lanes[:, true], color=BLUE, linewidth=2.2)
        if predicted != true:
            (lines["predicted class, wrong"],) = axis.plot(
                time, lanes[:, predicted], "--", color=VERMILION, linewidth=2.2
            )
        lines["decision"] = axis.axvline(decided, color=BLACK, linestyle=":", linewidth=1.3)
        wrong = "" if predicted == true else f"\ntaken for {class_names[predicted]}"
        titles.append(f"{class_names[true]}{wrong}")
    axes[0][0].set_ylabel(ylabel)
    _titles(axes, titles, "time (ms)")
    names = sorted(lines, key=["true class", "predicted class, wrong", "other classes", "decision"].index)
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def first_spike_histogram(times: Mapping[str, Tensor], num_steps: int, step_ms: float) -> Figure:
    """When the neurons of each layer fire first, over all samples; how many stay silent is written beside.

    Args:
        times: step of the first spike, int64 ``[B, N]``, of each layer; ``num_steps`` for a silent neuron.
        num_steps: ``T``.
        step_ms: length of a step in milliseconds.
    """
    figure, axes = _grid(len(times), 1, cell=(4.6, 1.9), sharex=True)
    edges = np.linspace(0, num_steps, min(num_steps, 50) + 1)
    for (axis,), (name, steps) in zip(axes, times.items(), strict=True):
        fired = steps[steps < num_steps].numpy()
        counts, _ = np.histogram(fired, edges)
        axis.bar(edges[:-1] * step_ms, 100 * counts / steps.numel(), np.diff(edges) * step_ms, align="edge", color=BLUE)
        axis.set(xlim=(0, num_steps * step_ms), ylabel="neurons (%)")
        axis.set_title(f"{name}: {1 - len(fired) / steps.numel():.0%} stay silent in a sample", fontsize=10, loc="left")
    axes[-1][0].set_xlabel("time of first spike (ms)")
    return figure


def time_constants(betas: Mapping[str, Tensor], step_ms: float) -> Figure:
    """Distribution of the decay per step and of the membrane time constant ``-step / ln(beta)`` in each layer.

    Args:
        betas: decay ``[N]`` of each layer, in [0, 1].
        step_ms: length of a step in milliseconds.
    """
    figure, axes = _grid(len(betas), 2, cell=(2.7, 1.9), sharex="col")
    taus = {name: _finite_taus(beta, step_ms) for name, beta in betas.items()}
    lowest, highest = _range(np.concatenate(list(taus.values())))
    # On a logarithmic axis bins of equal width grow with the value.
    tau_edges = np.geomspace(lowest / 1.2, highest * 1.2, 31)
    beta_edges = np.linspace(min(0.9, *(float(beta.min()) for beta in betas.values())), 1.0, 31)
    for (left, right), (name, beta) in zip(axes, betas.items(), strict=True):
        left.hist(beta.numpy(), beta_edges, color=BLUE)
        left.axvline(float(beta.median()), color=BLACK, linestyle="--", linewidth=1)
        left.set(ylabel="neurons")
        left.set_title(f"{name}: median beta {float(beta.median()):.3f}", fontsize=10, loc="left")
        tau = taus[name]
        right.hist(tau, tau_edges, color=BLUE)
        right.set_xscale("log")
        _plain_log_ticks(right.xaxis, wide=highest / lowest > 50)
        if len(tau):
            right.axvline(float(np.median(tau)), color=BLACK, linestyle="--", linewidth=1)
            right.set_title(f"median tau {np.median(tau):.3g} ms", fontsize=10, loc="left")
        else:
            right.set_ylim(0, 1)
            right.set_title("no finite tau: every beta is 0 or 1", fontsize=10, loc="left")
        for axis in (left, right):
            _whole_numbers(axis.yaxis)
    axes[-1][0].set_xlabel("beta (decay per step)")
    axes[-1][1].set_xlabel("tau (ms)")
    return figure


def _finite_taus(beta: Tensor, step_ms: float) -> np.ndarray:
    """Time constants in milliseconds of the neurons that do leak and do remember."""
    inside = beta[(beta > 0) & (beta < 1)].numpy().astype(np.float64)
    return -step_ms / np.log(inside)


def _range(values: np.ndarray) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str, from_zero: bool = False
) -> Figure:
    """One line over the epochs for each series.

    Args:
        series: epochs and values of each line, by name.
        ylabel: what the values are, with their unit.
        from_zero: begin the y-axis at 0.
    """
    figure, ((axis,),) = _grid(1, 1, cell=(4.6, 3.0))
    for index, (name, (x, y)) in enumerate(series.items()):
        style = _line_style(index) if index < _MAX_CURVES else {"color": GREY, "linewidth": 0.8}
        if len(x) > _MAX_MARKERS:
            style.pop("marker", None)
        axis.plot(x, y, label=name, markersize=4, **style)
    axis.set(xlabel="epoch", ylabel=ylabel)
    if from_zero:
        axis.set_ylim(bottom=0)
    _whole_numbers(axis.xaxis)
    axis.grid(axis="y", linewidth=0.4)
    if len(series) > 1:
        _legend_below(figure, *axis.get_legend_handles_labels())
    return figure


def learning_curve(history: Sequence[Mapping[str, float]], best: int | None = None) -> Figure:
    """Accuracy and loss over the epochs, of training and validation.

    Args:
        history: metrics of every epoch, ``epoch`` among them.
        best: number of the epoch with the best validation accuracy, to mark it.
    """
    figure, ((left, right),) = _grid(1, 2, cell=(2.7, 2.5))
    lines: dict[str, Any] = {}
    for axis, metric in ((left, "accuracy"), (right, "loss")):
        for index, (part, name) in enumerate((("train", "training"), ("val", "validation"))):
            points = [(epoch["epoch"], epoch[f"{part}/{metric}"]) for epoch in history if f"{part}/{metric}" in epoch]
            if points:
                style = _line_style(index) | ({"marker": None} if len(points) > _MAX_MARKERS else {"markersize": 4})
                (lines[name],) = axis.plot(*zip(*points, strict=True), **style)
        if best is not None:
            lines["best validation accuracy"] = axis.axvline(best, color=BLACK, linestyle=":", linewidth=1.2)
        axis.set(xlabel="epoch", ylabel=metric)
        _whole_numbers(axis.xaxis)
        axis.grid(axis="y", linewidth=0.4)
    if all(value > 0 for line in right.get_lines()[:2] for value in line.get_ydata()) and _spans_decades(right):
        right.set_yscale("log")
    _legend_below(figure, list(lines.values()), list(lines))
    return figure


def _spans_decades(axis: Any) -> bool:
    """Whether the lines of an axis are too far apart for a linear one."""
    values = [value for line in axis.get_lines()[:2] for value in line.get_ydata()]
    return len(values) > 0 and max(values) > 30 * min(values)


# Beyond this many classes the cells of a confusion matrix have no room for numbers, and the names get small.
_MAX_CELLS = 12


def confusion_matrix(counts: Tensor, class_names: Sequence[str], of: str = "samples") -> Figure:
    """How often each class was taken for each, with the accuracy of each class beside its name.

    Args:
        counts: int64 ``[C, C]``, samples by true class (rows) and predicted class (columns).
        class_names: one name per class.
        of: what the samples are, such as "validation samples".
    """
    table = counts.numpy()
    totals = table.sum(1)
    share = table / np.maximum(totals, 1)[:, None]
    classes = len(table)
    few = classes <= _MAX_CELLS
    side = min(9.0, max(3.2, 0.55 * classes if few else 0.24 * classes))
    figure, ((axis,),) = _grid(1, 1, cell=(side + 1.9, side + 0.4))
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = 9 if classes <= 20 else max(4, 180 / classes)
    names = [_clipped(name) for name in class_names]
    rows = [
        f"{name}  {value:.1%}" if total else f"{name}  none"
        for name, value, total in zip(names, share.diagonal(), totals, strict=True)
    ]
    axis.set_yticks(range(classes), rows, fontsize=size)
    axis.set_xticks(range(classes), names, fontsize=size, rotation=0 if few and max(map(len, names)) < 5 else 90)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if few:
        for true, predicted in np.ndindex(classes, classes):
            if table[true, predicted]:
                colour = "white" if share[true, predicted] > 0.6 else BLACK
                axis.text(
                    predicted, true, f"{table[true, predicted]:,}", ha="center", va="center", color=colour, fontsize=8
                )
    else:
        figure.colorbar(image, label="share of the class", shrink=0.7)
    axis.set(xlabel="predicted class", ylabel="true class, and how much of it is right")
    right = table.trace() / max(1, table.sum())
    axis.set_title(f"{right:.2%} of {table.sum():,} {of}", fontsize=10, loc="left")
    return figure


def _clipped(name: str, longest: int = 14) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _line_style(index: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linewidth": 1.5,
    }


def accuracy_over_training(spikes: Sequence[float], accuracy: Sequence[float], epochs: Sequence[int]) -> Figure:
    """The way of one run through the plane of cost and success: a point per epoch, the later the brighter.

    Args:
        spikes: hidden spikes per sample.
        accuracy: between 0 and 1.
        epochs: number of each epoch.
    """
    figure, ((axis,),) = _grid(1, 1, cell=(4.6, 3.2))
    axis.plot(spikes, accuracy, color=GREY, linewidth=0.8, zorder=1)
    points = axis.scatter(
        spikes, accuracy, c=list(epochs), cmap="cividis", s=30, edgecolors=BLACK, linewidths=0.4, zorder=2
    )
    best = int(np.argmax(accuracy))
    axis.scatter(
        spikes[best], accuracy[best], marker="*", s=180, color=VERMILION, edgecolors=BLACK, linewidths=0.6, zorder=3,
        label=f"best: {accuracy[best]:.3f} at {spikes[best]:.1f} spikes, epoch {epochs[best]}",
    )  # fmt: skip
    bar = figure.colorbar(points, label="epoch")
    _whole_numbers(bar.ax.yaxis)
    axis.set(xlabel="hidden spikes per sample", ylabel="validation accuracy")
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def pareto_front(spikes: Sequence[float], accuracy: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats: none has as few spikes and a higher accuracy. In order of spikes."""
    front: list[int] = []
    for index in sorted(range(len(spikes)), key=lambda i: (spikes[i], -accuracy[i])):
        if not front or accuracy[index] > accuracy[front[-1]]:
            front.append(index)
    return front


def pareto(spikes: Sequence[float], accuracy: Sequence[float], names: Sequence[str]) -> Figure:
    """Accuracy against spikes of several runs; those that no other run beats are joined and named.

    Args:
        spikes: hidden spikes per sample of each run.
        accuracy: between 0 and 1.
        names: a short name of each run.
    """
    figure, ((axis,),) = _grid(1, 1, cell=(4.6, 3.4))
    front = pareto_front(spikes, accuracy)
    rest = [index for index in range(len(names)) if index not in front]
    axis.scatter(
        [spikes[i] for i in rest], [accuracy[i] for i in rest], color=GREY, s=25, label="beaten by another run"
    )
    x, y = [spikes[i] for i in front], [accuracy[i] for i in front]
    axis.plot(x, y, color=BLUE, drawstyle="steps-post", linewidth=1.2)
    axis.scatter(x, y, color=BLUE, marker="D", s=45, edgecolors=BLACK, linewidths=0.6, label="beaten by none")
    for rank, index in enumerate(front):
        # By turns below and above the front, so that neighbours do not write over each other.
        place = {"xytext": (5, -11)} if rank % 2 == 0 else {"xytext": (-5, 6), "ha": "right"}
        axis.annotate(names[index], (spikes[index], accuracy[index]), textcoords="offset points", fontsize=8, **place)
    axis.margins(0.12)
    axis.set(xlabel="hidden spikes per sample", ylabel="validation accuracy")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


class Points(NamedTuple):
    """One series of :func:`panels`.

    Attributes:
        x: ``[P]``.
        y: ``[P]``; NaN draws nothing.
        error: half length of the error bars ``[P]``, NaN for none.
        names: what to write at each point.
    """

    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    names: Sequence[str] | None = None


def panels(
    rows: Mapping[str, Mapping[str, Mapping[str, Points]]], xlabel: str, xticks: Mapping[float, str] | None = None
) -> Figure:
    """Series of points in a grid of panels; a series keeps its look over all of them.

    Args:
        rows: of each label of a y-axis the panels of a row by their titles, which are the same for all rows; in a panel
            the series by name.
        xlabel: what x is.
        xticks: positions on the x-axis and what to write there.
    """
    titles = list(next(iter(rows.values())))
    figure, axes = _grid(len(rows), len(titles), cell=(3.4 if len(titles) > 1 else 5.0, 2.9), sharey="row")
    names = list(dict.fromkeys(name for row in rows.values() for panel in row.values() for name in panel))
    lines: dict[str, Any] = {}
    for line, (ylabel, row) in zip(axes, rows.items(), strict=True):
        for axis, title in zip(line, titles, strict=True):
            for name, points in row[title].items():
                lines[name] = axis.errorbar(
                    points.x, points.y, points.error, markersize=5, capsize=2, **_line_style(names.index(name))
                )
                for x, y, text in zip(points.x, points.y, points.names or (), strict=bool(points.names)):
                    axis.annotate(text, (x, y), xytext=(5, -11), textcoords="offset points", fontsize=8)
            axis.grid(axis="y", linewidth=0.4)
            axis.margins(0.08)
            if xticks is not None:
                axis.set_xticks(list(xticks), list(xticks.values()))
        line[0].set_ylabel(ylabel)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    axes[-1][len(titles) // 2].set_xlabel(xlabel)  # once: beside one another they would overlap
    handles = [lines[name] for name in names if name in lines]
    _legend_below(figure, handles, names)
    return figure


def parallel_coordinates(columns: Mapping[str, Sequence[Any]], goal: str = "maximize") -> Figure:
    """Trials of a sweep as lines through one axis per parameter and, at the end, the objective.

    The darker a line, the lower its objective; the best trial is drawn thick and dashed.

    Args:
        columns: values of the trials, by parameter. Numbers are placed on a line (a logarithmic one where they span
            more than two decades), other values at even distances. The last column is the objective, in numbers.
        goal: ``maximize`` or ``minimize``.
    """
    from matplotlib import colormaps

    figure, ((axis,),) = _grid(1, 1, cell=(max(5.5, 1.7 * len(columns)), 3.8))
    *_, objective = columns.values()
    places = [_placed(list(values)) for values in columns.values()]
    # The bright end of the map is too pale for a thin line on white paper.
    colours = [colormaps["cividis"](0.85 * height) for height in places[-1][0]]
    best = (max if goal == "maximize" else min)(range(len(objective)), key=lambda trial: objective[trial])
    for trial, colour in enumerate(colours):
        heights = [height[trial] for height, _ in places]
        if trial == best:
            axis.plot(heights, "--", color=VERMILION, linewidth=3, zorder=3)
        else:
            axis.plot(heights, color=colour, linewidth=1.2)
    for x, (_, ticks) in enumerate(places):
        axis.axvline(x, color=BLACK, linewidth=0.8)
        for height, text in ticks:
            axis.annotate(
                text, (x, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}, zorder=4,
            )  # fmt: skip
    axis.set_xticks(range(len(places)), [_short(name) for name in columns], fontsize=9)
    axis.set_yticks([])
    axis.set(xlim=(-0.1, len(places) - 0.6), ylim=(-0.06, 1.06))
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_title(f"best trial (thick, dashed): {objective[best]:.4g}", fontsize=10, loc="left")
    return figure


def shares(values: Mapping[str, float], xlabel: str) -> Figure:
    """Parts of a whole as bars, the largest on top.

    Args:
        values: each part by its name; together 1.
        xlabel: what is shared out.
    """
    figure, ((axis,),) = _grid(1, 1, cell=(4.6, 0.35 * len(values) + 0.4))
    ordered = sorted(values.items(), key=lambda part: part[1])
    bars = axis.barh([_short(name) for name, _ in ordered], [100 * value for _, value in ordered], color=BLUE)
    axis.bar_label(bars, fmt="%.0f", padding=3, fontsize=9)
    axis.set(xlim=(0, 108), xlabel=xlabel)
    return figure


def _placed(values: list[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of values on a vertical axis, and the labels of that axis."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        choices = sorted({str(value) for value in values}, key=_by_numbers)
        place = {choice: (index + 0.5) / len(choices) for index, choice in enumerate(choices)}
        return [place[str(value)] for value in values], [(height, choice) for choice, height in place.items()]
    low, high = min(values), max(values)
    if low == high:
        return [0.5] * len(values), [(0.5, f"{low:.3g}")]
    logarithmic = low > 0 and high / low > 100

    def height(value: float) -> float:
        if logarithmic:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    between = math.sqrt(low * high) if logarithmic else (low + high) / 2
    marks = sorted(set(values)) if len(set(values)) <= 5 else [low, between, high]
    return [height(value) for value in values], [(height(mark), f"{mark:.3g}") for mark in marks]


def _by_numbers(text: str) -> list[str | int]:
    """A key to sort texts by that takes the numbers in them as numbers: [8] comes before [60]."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _short(name: str) -> str:
    """A parameter's name without the parts that only the parser needs."""
    return name.removeprefix("model.").removeprefix("init_args.").replace(".init_args.", ".\n")


def png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as a PNG file."""
    from io import BytesIO

    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _grid(rows: int, columns: int, cell: tuple[float, float], **share: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes ``[rows, columns]``, ``cell`` inches each, without the frame's upper and right side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = cell
    figure = Figure((width * columns + 0.6, height * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **share)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend below the axes, with as many entries beside one another as fit: 13 letters go to the inch."""
    fitting = int(13 * figure.get_figwidth() / (6 + max(map(len, names))))  # 6 for the line in front of a name
    columns = max(1, min(3, fitting, len(names)))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)


def _titles(axes: np.ndarray, titles: Sequence[str], xlabel: str) -> None:
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5, integer=True))


def _plain_log_ticks(axis: Any, wide: bool) -> None:
    """Ticks 1, 2, 5, 10, ..., or only 1, 10, ... over a wide range, written as numbers and not as powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(10, (1,) if wide else (1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
