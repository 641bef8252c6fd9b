"""The picture of the README: hidden spikes of a single-spike and of a multi-spike network for the same spoken digit.

Two trainings, then the picture; ``DATA`` is a folder with ``SHD/shd_train.h5`` and ``SHD/shd_test.h5``::

    python -m ss_lightning fit --config configs/shd.yaml --data.root DATA --trainer.default_root_dir runs/single
    python -m ss_lightning fit --config configs/shd.yaml --data.root DATA --trainer.default_root_dir runs/multi \
        --model.neuron multi
    python docs/pictures.py runs/single/shd/version_0 runs/multi/shd/version_0 docs/_static/fewer_spikes.png
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import yaml

from ss_lightning.data import SHDData
from ss_lightning.export import load_classifier

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def test_data(run):
    """The data module of a run."""
    arguments = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    arguments.pop("augment")  # of training samples only
    return SHDData(**{**arguments, "input": "dense"})


def hidden_spikes(model, spikes):
    """Spikes ``[T, N]`` of the hidden neurons for one recording ``[T, 1, units]``, and the predicted class."""
    caught = []
    hook = model.network.neurons[0].register_forward_hook(lambda neuron, args, out: caught.append(out))
    with torch.no_grad():
        scores = model.scores(model(spikes))
    hook.remove()
    out = caught[0]
    return (out[0] if isinstance(out, tuple) else out)[:, 0], scores.argmax(1).item()


def accuracy_and_spikes(model, data):
    """Test accuracy and hidden spikes of a recording, in the mean."""
    right = spikes = total = 0
    for batch, labels in data.test_dataloader():
        with torch.no_grad():
            output = model(batch.float())
        right += (model.scores(output).argmax(1) == labels).sum().item()
        spikes += sum(layer.spike_count.sum().item() for layer in output.activity)
        total += len(labels)
    return right / total, spikes / total


def main():
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("single", type=Path, help="run folder of the single-spike network")
    parser.add_argument("multi", type=Path, help="run folder of the multi-spike network")
    parser.add_argument("out", type=Path, help="picture to write")
    given = parser.parse_args()
    data = test_data(given.single)
    models = [load_classifier(run / "checkpoints" / "best.ckpt").eval() for run in (given.single, given.multi)]
    measured = [accuracy_and_spikes(model, data) for model in models]
    # Of the test recordings that both networks classify correctly, the one whose counts are closest to both means.
    best = None
    for batch, labels in data.test_dataloader():
        for number, label in enumerate(labels.tolist()):
            recording = batch[:, number : number + 1].float()
            found = [hidden_spikes(model, recording) for model in models]
            if any(answer != label for _, answer in found):
                continue
            means = [mean for _, mean in measured]
            distance = max(abs(spikes.sum().item() / mean - 1) for (spikes, _), mean in zip(found, means, strict=True))
            if best is None or distance < best[0]:
                best = distance, label, recording, [spikes for spikes, _ in found]
    _, label, recording, rasters = best
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.7), sharey=True, layout="constrained")
    for axis, kind, colour, spikes, (accuracy, mean) in zip(
        axes, ("single-spike", "multi-spike"), (BLUE, ORANGE), rasters, measured, strict=True
    ):
        step, neuron = spikes.nonzero(as_tuple=True)
        axis.scatter(step * data.step_ms, neuron, s=5, color=colour, linewidths=0)
        axis.set_title(f"{kind}: {int(spikes.sum()):,} spikes", color=colour, weight="bold")
        axis.set_xlabel("time (ms)")
        axis.set_xlim(0, data.num_steps * data.step_ms)
        print(f"{kind}: this recording {int(spikes.sum())} spikes; test set {accuracy:.1%}, {mean:.0f} spikes")
    axes[0].set_ylabel("hidden neuron")
    name = data.class_names[label]
    figure.suptitle(f'The spoken digit "{name}" in two networks of {rasters[0].shape[1]} hidden neurons')
    figure.savefig(given.out, dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
