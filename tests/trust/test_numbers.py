"""Numbers: lower precision, long sequences, and the same result from the same seed."""

import csv
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import DataLoader, Dataset

import ss_lightning as ssl
from ss_lightning.cli.commands import main
from ss_lightning.data import identity
from ss_lightning.events import EventBatch
from ss_lightning.functional import single_spike
from ss_lightning.losses import classification_loss
from ss_lightning.networks import SpikingNetwork

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("SS_LIGHTNING_LONG_TESTS"))
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob("configs/**/*.yaml")
    # The others say where metrics go, or what to sweep.
    if "model:" in path.read_text() and path.parent.name != "sweeps"
)
# One of each kind of network and data.
SHORT = ["configs/quick/shd.yaml", "configs/paper/mnist_conv.yaml"]
# How far the loss of a batch may be from that of single precision, as a share of it.
DISTANCE = 0.1
CPU = ["--trainer.accelerator=cpu"]
GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, shd, idx, nmnist, cifar10):
    """Small files in every format, where the configs expect them, with enough in them to make neurons fire."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    rng = np.random.default_rng(0)
    for part, size in (("train", 24), ("test", 6)):
        times = [np.sort(rng.random(6000) * 0.5) for _ in range(size)]
        units = [rng.integers(0, 700, 6000) for _ in range(size)]
        speakers = np.arange(size) // 4
        shd.write(tmp_path / "data" / "SHD" / f"shd_{part}.h5", times, units, np.arange(size) % 3, speakers)
    shd.write_ssc(tmp_path / "data")
    nmnist.write_all(tmp_path / "data", events=3000)
    cifar10.write_all(tmp_path / "data")
    for name in ("MNIST", "FashionMNIST"):
        idx.write_all(tmp_path / "data", name)
    return tmp_path


def train(config, *options, batches=3):
    """Metrics by name after a few batches."""
    few = [f"--trainer.limit_train_batches={batches}", "--trainer.limit_val_batches=2", "--trainer.max_epochs=1"]
    quiet = ["--pictures.every_n_epochs=0", "--trainer.enable_progress_bar=false", "--data.batch_size=6"]
    quiet.append("--trainer.enable_model_summary=false")
    before = set(Path("runs").rglob("metrics.csv"))
    assert main(["fit", "--config", str(ROOT / config), *few, *quiet, *options]) == 0
    (path,) = set(Path("runs").rglob("metrics.csv")) - before
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: float(value) for row in rows for name, value in row.items() if value}, path.parent


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@contextmanager
def spikes_in_training():
    """Spikes a sample of each hidden layer in the batches that are trained on."""
    found = []

    def look(module, inputs, output):
        if isinstance(module, SpikingNetwork) and module.training:
            found.extend(float(layer.spike_count.sum(1).float().mean()) for layer in output.activity)

    hook = register_module_forward_hook(look)
    try:
        yield found
    finally:
        hook.remove()


def assert_near_single_precision(config, precision, *options):
    """The loss of the first batch is near; and nothing becomes infinite or NaN in the batches that follow."""
    # So low a threshold that all layers fire without having been trained.
    options = ("--model.threshold=0.1", *options)
    with spikes_in_training() as spikes:
        single, _ = train(config, *options, batches=1)
    assert spikes
    assert all(count > 1 for count in spikes)
    lower, _ = train(config, f"--trainer.precision={precision}", *options, batches=1)
    distance = abs(lower["train/loss"] - single["train/loss"]) / single["train/loss"]
    print(f"{config} {precision}: loss {single['train/loss']:.4f}, {distance:.2%} away")
    assert distance <= DISTANCE
    lower, run = train(config, f"--trainer.precision={precision}", *options, batches=3)
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    assert np.isfinite([lower["train/loss"], lower["val/loss"]]).all()


@pytest.mark.parametrize("config", CONFIGS if LONG else SHORT)
def test_bf16_stays_near_single_precision(config):
    assert_near_single_precision(config, "bf16-mixed", "--trainer.accelerator=cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
@pytest.mark.parametrize("config", SHORT)
def test_weights_of_another_precision_train_on_events_and_on_dense_input(config, precision, dtype):
    for form in ("events", "dense"):
        metrics, run = train(config, f"--trainer.precision={precision}", f"--data.input={form}", *CPU)
        assert np.isfinite([metrics["train/loss"], metrics["val/loss"]]).all()
        assert {value.dtype for name, value in weights(run).items() if name.endswith("weight")} == {dtype}


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("config", CONFIGS)
def test_lower_precision_on_a_gpu_stays_near_single_precision(config, precision):
    assert_near_single_precision(config, precision, "--trainer.accelerator=gpu", "--trainer.devices=1")


@pytest.mark.parametrize(
    "accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.skipif(not GPU, reason="no GPU"))]
)
def test_the_same_seed_gives_the_same_result_with_any_number_of_workers(accelerator):
    options = ["--trainer.deterministic=true", f"--trainer.accelerator={accelerator}", "--trainer.devices=1"]
    options.append("--model.threshold=0.1")
    runs = [
        train("configs/quick/shd.yaml", *options, f"--data.num_workers={n}")
        for n in (0, 0, 2, *([1, 4] if LONG else []))
    ]
    for metrics, run in runs[1:]:
        for name, value in weights(runs[0][1]).items():
            assert torch.equal(weights(run)[name], value), name
        steady = [name for name in metrics if "second" not in name and "memory" not in name]
        assert [metrics[name] for name in steady] == [runs[0][0][name] for name in steady]


def test_another_seed_gives_another_result():
    runs = [
        train("configs/quick/shd.yaml", f"--seed_everything={seed}", "--trainer.accelerator=cpu")[1] for seed in (0, 1)
    ]
    name = "network.synapses.0.weight"
    assert not torch.equal(weights(runs[0])[name], weights(runs[1])[name])


class Computing(Dataset):
    """A data set whose workers run a network of their own."""

    def __init__(self, network, events):
        self.network, self.events = network, events

    def __len__(self):
        return 4

    def __getitems__(self, indices):
        return self.network(self.events).readout.detach()


def test_kernels_run_in_workers_of_a_process_that_runs_them_too():
    """A forked worker must not wait for threads that stayed with its parent."""
    torch.manual_seed(0)
    network = ssl.MLPClassifier(input_shape=(9,), num_classes=3, step_ms=1.0, hidden=[8], input_gain=4.0).network
    events = EventBatch.from_dense((torch.rand(20, 64, 9) < 0.2).float())
    network(events).readout.sum().backward()  # starts the threads
    expected = network(events).readout.detach()
    loader = DataLoader(Computing(network, events), batch_size=2, num_workers=2, collate_fn=identity, timeout=60)
    found = 0
    for readout in loader:
        network(events).readout.sum().backward()
        torch.testing.assert_close(readout, expected, rtol=1e-6, atol=1e-6)
        found += 1
    assert found == 2


LENGTHS = (2**8, 2**10, 2**12, 2**14)


def largest_gradient(estimator, num_steps):
    """max |dL/dI| of one layer for a gradient of size 1 at its spikes."""
    generator = torch.Generator().manual_seed(0)
    current = (torch.randn(num_steps, 2, 50, generator=generator) * 0.25).requires_grad_()
    spikes = single_spike(current, torch.tensor(0.95), torch.tensor(1.0), estimator=estimator)
    (spikes * torch.randn(num_steps, 2, 50, generator=generator)).sum().backward()
    assert torch.isfinite(current.grad).all()
    return float(current.grad.abs().max())


@pytest.mark.parametrize(
    ("estimator", "power"),
    [("ramp", (1.0, 2.5)), ("survival", (-0.5, 0.5)), ("flat", (-0.5, 1.2)), ("masked", (-0.5, 0.5))],
)
def test_gradients_of_long_sequences(estimator, power):
    """Finite up to 2^14 steps. The ramp's grow with a power of T, up to T^2."""
    sizes = [largest_gradient(estimator, steps) for steps in LENGTHS]
    found = torch.log(torch.tensor(sizes[-1] / sizes[0])) / torch.log(torch.tensor(LENGTHS[-1] / LENGTHS[0]))
    print(f"{estimator}: max |dL/dI| {', '.join(f'{size:.1e}' for size in sizes)} at T = {LENGTHS}: ~ T^{found:.1f}")
    assert power[0] <= found <= power[1]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("estimator", ["ramp", "survival", "flat", "masked"])
def test_gradients_of_a_network_on_a_long_sequence(estimator, backend):
    torch.manual_seed(0)
    model = ssl.MLPClassifier(
        input_shape=(20,), num_classes=3, step_ms=1.0, hidden=[16, 8], estimator=estimator, backend=backend,
        tau_hidden_ms=20.0, input_gain=4.0,
    )  # fmt: skip
    events = EventBatch.from_dense((torch.rand(2**14, 3, 20) < 0.1).float())
    output = model(events)
    assert all(0 < layer.spike_count.float().mean() < 1 for layer in output.activity)
    classification_loss(model.scores(output), torch.tensor([0, 1, 2])).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    print(f"{estimator} on {backend}: norm of the gradient {norm:.1e} at T = 16384")
    assert torch.isfinite(norm)
    assert norm > 0
