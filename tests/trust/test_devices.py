"""Several devices train and evaluate as one does, and end when one of them ends."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ss_lightning import ConvClassifier, MLPClassifier
from ss_lightning.cli.commands import main
from ss_lightning.data import TrainingSampler, YinYangData
from ss_lightning.errors import UsageError
from ss_lightning.losses import classification_loss

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMON = [
    "--config", str(ROOT / "configs" / "yinyang.yaml"), "--data.num_train=97", "--data.num_val=41",
    "--data.num_test=43",
    "--data.num_steps=20", "--model.hidden=[16]", "--pictures.every_n_epochs=0", "--trainer.enable_progress_bar=false",
]  # fmt: skip
# 97 samples: with two devices one of them is left out of each epoch, so here one device leaves it out too.
ONE = ["--data.batch_size=32", "--trainer.limit_train_batches=3"]
TWO = ["--data.batch_size=16", "--trainer.devices=2", "--trainer.strategy=ddp"]
CPU = ["--trainer.accelerator=cpu"]
GPUS = torch.cuda.device_count()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
    for name in ("SS_LIGHTNING_RUN", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def start(*arguments, launcher=("-m", "ss_lightning"), **variables):
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **variables}, start_new_session=True,
    )  # fmt: skip


def finish(process, limit=300):
    """Exit code, output and seconds; every process of the session must be gone soon after."""
    begin = time.monotonic()
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    while time.monotonic() - begin < limit:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, output, time.monotonic() - begin
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"processes were left over: {output}")


def metrics(number, kind="version"):
    with Path(f"runs/yinyang/{kind}_{number}/metrics.csv").open(newline="") as file:
        return [
            {k: float(v) for k, v in row.items() if v and "second" not in k and "memory" not in k}
            for row in csv.DictReader(file)
        ]


def weights(number):
    return torch.load(f"runs/yinyang/version_{number}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_close(one, two):
    assert [row.keys() for row in one] == [row.keys() for row in two]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def compare_with_one_device(number=0):
    """A run of two devices against one of one device, trained and evaluated."""
    assert main(["fit", *COMMON, *ONE, *CPU, "--trainer.max_epochs=2"]) == 0
    for name, value in weights(number + 1).items():
        torch.testing.assert_close(weights(number)[name], value, rtol=1e-4, atol=1e-6)
    assert_close(metrics(number), metrics(number + 1))


def test_two_devices_train_and_evaluate_as_one():
    """41 validation samples on two devices: none is evaluated twice."""
    code, output, _ = finish(start("fit", *COMMON, *TWO, *CPU, "--trainer.max_epochs=2"))
    assert code == 0, output
    assert "sync_dist" not in output
    assert "find_unused_parameters" not in output
    assert [p.name for p in Path("runs/yinyang").iterdir()] == ["version_0"]
    compare_with_one_device()


@pytest.mark.long
@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_two_devices_evaluate_a_checkpoint_as_one(subcommand):
    assert main(["fit", *COMMON, *ONE, *CPU, "--trainer.max_epochs=1"]) == 0
    code, output, _ = finish(start(subcommand, *COMMON, *TWO, *CPU))
    assert code == 0, output
    assert main([subcommand, *COMMON, *CPU]) == 0
    if subcommand == "predict":
        texts = [Path(f"runs/yinyang/predict_{n}/predictions.csv").read_text() for n in (0, 1)]
        assert len(texts[0].splitlines()) == 44
        rows = [list(csv.DictReader(text.splitlines())) for text in texts]
        for a, b in zip(*rows, strict=True):
            assert (a["sample"], a["prediction"], a["label"]) == (b["sample"], b["prediction"], b["label"])
            assert float(a["probability"]) == pytest.approx(float(b["probability"]), rel=1e-5)
    else:
        assert_close(metrics(0, subcommand), metrics(1, subcommand))


@pytest.mark.long
def test_torchrun():
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ss_lightning")
    code, output, _ = finish(start("fit", *COMMON, *TWO, *CPU, "--trainer.max_epochs=2", launcher=launcher))
    assert code == 0, output
    assert [p.name for p in Path("runs/yinyang").iterdir()] == ["version_0"]
    compare_with_one_device()


def nodes(process):
    """What a person sets on each machine."""
    return {"NODE_RANK": process}


def slurm(process):
    """What srun sets for each task."""
    return {
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2",
        "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": process, "SLURM_LOCALID": "0",
        "SLURM_NODEID": process,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("variables", [nodes, slurm])
def test_two_nodes(variables):
    """Two processes that know of each other only by an address, as on two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    arguments = ["fit", *COMMON, "--data.batch_size=16", *CPU, "--trainer.max_epochs=2"]
    arguments += ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp"]
    started = [start(*arguments, **address, **variables(process)) for process in ("0", "1")]
    for process in started:
        code, output, _ = finish(process)
        assert code == 0, output
    assert [p.name for p in Path("runs/yinyang").iterdir()] == ["version_0"]
    compare_with_one_device()


@pytest.mark.long
def test_two_devices_resume_as_if_left_alone():
    for epochs, more in ((1, []), (2, ["--ckpt_path=last"])):
        code, output, _ = finish(start("fit", *COMMON, *TWO, *CPU, f"--trainer.max_epochs={epochs}", *more))
        assert code == 0, output
    compare_with_one_device(number=1)


@pytest.mark.parametrize(
    ("how", "rank", "words"),
    [
        ("data", 1, "error: data/file.h5: this file is broken. Mend it"),
        pytest.param("raises", 1, "RuntimeError: this process is broken", marks=pytest.mark.long),
        pytest.param("exits", 1, "error: the connection to another process of this run broke", marks=pytest.mark.long),
        pytest.param(
            "is killed", 1, "error: the connection to another process of this run broke", marks=pytest.mark.long
        ),
        pytest.param("data", 0, "error: data/file.h5: this file is broken. Mend it", marks=pytest.mark.long),
        pytest.param("raises", 0, "RuntimeError: this process is broken", marks=pytest.mark.long),
    ],
)
def test_a_process_that_dies_ends_the_run(how, rank, words):
    broken = ["--data=broken.BrokenData", f"--data.how={how}", f"--data.rank={rank}"]
    code, output, seconds = finish(start("fit", COMMON[0], COMMON[1], *broken, *COMMON[2:], *TWO, *CPU))
    assert code not in (0, None)
    assert words in output
    print(f"process {rank} {how}: all ended within {seconds:.0f} s")


@pytest.mark.parametrize(
    "network",
    [
        *[{"neuron": neuron, "hidden": [6, 5]} for neuron in ("single", "standard_single", "multi")],
        *[{"estimator": estimator, "learn_threshold": True} for estimator in ("ramp", "survival", "flat", "masked")],
        *[{"decoder": decoder} for decoder in ("sum", "max", "softmax", "first_spike")],
        {"onset_ms": 10.0, "weight_norm": True, "log_tau": True, "dropout": 0.2, "delay_line_ms": [0.0, 3.0]},
        *[{"max_delay_ms": 5.0, "delay_per_synapse": each, "hidden": [6, 5]} for each in (False, True)],
        {"hidden": [6, 5], "skip": True, "bias": False},
    ],
    ids=str,
)
def test_no_parameter_is_unused(network):
    """DDP waits for the gradient of every parameter, also of one that got none."""
    data = YinYangData(num_steps=15, num_train=20, num_val=1, num_test=1)
    model = MLPClassifier(
        input_shape=data.input_shape, num_classes=3, step_ms=1.0, **{"hidden": [6], "input_gain": 4.0, **network}
    )
    spikes, labels = next(iter(data.train_dataloader()))
    classification_loss(model.scores(model(spikes)), labels).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_no_parameter_of_a_convolutional_network_is_unused():
    model = ConvClassifier(
        input_shape=(1, 12, 12), num_classes=3, step_ms=1.0, channels=[2], kernel_size=3, hidden=[5], tau_hidden_ms=10
    )
    spikes, labels = (torch.rand(6, 4, 1, 12, 12) < 0.3).float(), torch.tensor([0, 1, 2, 0])
    classification_loss(model.scores(model(spikes)), labels).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("size", "replicas"), [(24, 2), (25, 2), (23, 4), (7, 7)])
def test_devices_share_the_batches_of_one(size, replicas):
    data = YinYangData(num_train=size, num_val=1, num_test=1)
    dataset = data.dataset(data.splits.train)
    for epoch in range(3):
        samplers = [TrainingSampler(dataset, replicas, rank, seed=3) for rank in range(replicas)]
        alone = TrainingSampler(dataset, 1, 0, seed=3)
        for sampler in (*samplers, alone):
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in samplers]
        whole = list(alone)
        assert sorted(whole) == list(range(size))
        assert len({len(share) for share in shares}) == 1
        per_device = 2
        for begin in range(0, len(shares[0]), per_device):
            together = [index for share in shares for index in share[begin : begin + per_device]]
            assert sorted(together) == sorted(whole[begin * replicas :][: len(together)])


def test_fewer_training_samples_than_devices_are_refused():
    data = YinYangData(num_train=2, num_val=1, num_test=1)
    with pytest.raises(UsageError, match="2 training samples cannot be shared among 3 devices"):
        TrainingSampler(data.dataset(data.splits.train), 3, 0, seed=0)


@pytest.mark.skipif(GPUS < 1, reason="needs a GPU")
def test_a_gpu_trains_as_the_cpu():
    assert (
        main(["fit", *COMMON, *ONE, "--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.max_epochs=2"]) == 0
    )
    compare_with_one_device()


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_two_gpus_train_as_the_cpu():
    code, output, _ = finish(start("fit", *COMMON, *TWO, "--trainer.accelerator=gpu", "--trainer.max_epochs=2"))
    assert code == 0, output
    compare_with_one_device()
