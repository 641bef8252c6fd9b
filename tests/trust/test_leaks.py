"""Nothing grows with the number of steps or networks, and nothing stays open behind a run."""

import gc
import os
from pathlib import Path

import pytest
import torch

import ss_lightning as ssl
from ss_lightning.cli.commands import main
from ss_lightning.data import YinYangData
from ss_lightning.losses import classification_loss

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("SS_LIGHTNING_LONG_TESTS"))
STEPS = 2000 if LONG else 200
NETWORKS = 200
MIB = 2**20
# The allocator keeps some of what it gave back.
SLACK = 12 * MIB

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")]


def memory():
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files():
    """What the file descriptors of this process point to."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(descriptor))
        except OSError:  # the one that lists them
            continue
    return sorted(found)


def children():
    """Processes of which this one is the parent."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def classifier(**options):
    torch.manual_seed(0)
    return ssl.MLPClassifier(
        input_shape=(4,), num_classes=3, step_ms=1.0, **{"hidden": [40], "input_gain": 4.0, **options}
    )


@pytest.mark.parametrize("options", [{}, {"neuron": "multi", "hidden": [10]}], ids=["fused", "multi"])
def test_training_steps_keep_memory_flat(options):
    data = YinYangData(num_steps=30, num_train=640, num_val=1, num_test=1, batch_size=64)
    model = classifier(**options)
    optimizer = torch.optim.Adam(model.parameters())
    loader = data.train_dataloader()

    def steps(number):
        done = 0
        while done < number:
            for spikes, labels in loader:
                optimizer.zero_grad()
                scores = model.scores(model(spikes))
                classification_loss(scores, labels).backward()
                model.train_accuracy(scores, labels)
                optimizer.step()
                done += 1

    steps(50)
    before, files = memory(), open_files()
    steps(STEPS)
    print(f"{STEPS} steps: {(memory() - before) / MIB:+.1f} MiB")
    assert memory() - before < SLACK
    assert open_files() == files


def test_networks_that_are_dropped_leave_nothing():
    """Their classes keep lists of instances in snnTorch, which would hold every neuron for ever."""
    spikes, labels = next(iter(YinYangData(num_steps=30, num_train=64, num_val=1, num_test=1).train_dataloader()))

    def build():
        model = classifier(hidden=[300, 300])
        classification_loss(model.scores(model(spikes)), labels).backward()

    for _ in range(20):
        build()
    before, objects = memory(), len(gc.get_objects())
    for _ in range(NETWORKS):
        build()
    print(f"{NETWORKS} networks: {(memory() - before) / MIB:+.1f} MiB, {len(gc.get_objects()) - objects:+} objects")
    assert memory() - before < 3 * SLACK  # one network has 1 MiB of weights and gradients: all of them are 200 MiB
    assert len(gc.get_objects()) - objects < 10 * NETWORKS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line in a folder of its own, with worker processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    config = str(ROOT / "configs" / "yinyang.yaml")
    small = [
        "--data.num_train=60", "--data.num_val=20", "--data.num_test=20", "--data.num_steps=10", "--model.hidden=[4]",
        "--data.num_workers=2", "--trainer.max_epochs=1", "--pictures.every_n_epochs=0", "--data.batch_size=10",
    ]  # fmt: skip
    return lambda *options: main(["fit", "--config", config, *options[:1], *small, *options[1:]])


@pytest.mark.parametrize("broken", [False, True], ids=["to its end", "exception"])
def test_a_run_leaves_no_files_open_and_no_workers(run, broken):
    options = ["--data=broken.BrokenData", "--data.rank=0"] if broken else ["--data=ss_lightning.data.YinYangData"]

    def once():
        if broken:
            with pytest.raises(RuntimeError, match="this process is broken"):
                run(*options)
        else:
            assert run(*options) == 0
        gc.collect()

    others = children()  # of the tests before this one
    once()  # what is opened once for the whole process, such as the pipes of numba's threads
    files = [name for name in open_files() if not name.startswith("pipe:")]
    number = len(open_files())
    once()
    assert set(children()) <= set(others)
    assert [name for name in open_files() if not name.startswith("pipe:")] == files
    assert len(open_files()) == number
    assert not [name for name in files if name.endswith((".ckpt", ".csv", ".h5")) or ".part" in name]


def test_runs_keep_memory_flat(run):
    """Several runs in one process, as a sweep does them; objects are counted, for memory is noisy here."""
    counts = []
    for _ in range(6 if LONG else 3):
        assert run("--data=ss_lightning.data.YinYangData", "--data.num_workers=0") == 0
        gc.collect()
        counts.append(len(gc.get_objects()))
    print("objects after each run: " + ", ".join(map(str, counts)))
    assert counts[-1] - counts[1] < 1000 * (len(counts) - 2)
