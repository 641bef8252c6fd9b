"""The script for the first GPU: what a step leaves when it fails or hangs, the wheels, and all of it in a dry run."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from ss_lightning.benchmark import gpu, gpu_steps
from ss_lightning.functional import CROSSOVER_FILE, crossover, read_crossovers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def only_steps(monkeypatch):
    """Put programs in the place of steps."""

    def put(**programs):
        monkeypatch.setattr(gpu, "LIMITS", dict.fromkeys(programs, 20))

        def run(call, environment, limit):
            name, result = call[3], call[5]
            program = f"result = {result!r}\n{programs[name]}"
            return original([sys.executable, "-c", program], environment, limit)

        original = gpu.run_with_limit
        monkeypatch.setattr(gpu, "run_with_limit", run)

    return put


WRITE = 'open(result, \'w\').write(\'{{"status": "{status}", "seen": 1}}\')'


@pytest.mark.slow
def test_a_step_that_fails_or_hangs_is_recorded_and_the_next_goes_on(tmp_path, only_steps, capsys):
    only_steps(
        crash="raise SystemExit(3)",
        hang=WRITE.format(status="running") + "; import time; time.sleep(60)",
        fine=WRITE.format(status="done"),
    )
    gpu.LIMITS["hang"] = 2
    out = tmp_path / "deep" / "gpu.json"
    assert gpu.main(["--out", str(out)]) == 1
    steps = json.loads(out.read_text())["steps"]
    assert [step["status"] for step in steps.values()] == [
        "failed: ended with exit code 3",
        "stopped after 2 s",
        "done",
    ]
    assert steps["hang"]["seen"] == 1, "what it had written is kept"
    table = capsys.readouterr().out
    assert "stopped after 2 s" in table
    assert "gpu.json" in table


def test_ctrl_c_keeps_the_steps_that_are_done(tmp_path, monkeypatch):
    def run(call, environment, limit):
        if call[3] == "float64":
            raise KeyboardInterrupt
        Path(call[5]).write_text('{"status": "done"}')
        return 0

    monkeypatch.setattr(gpu, "run_with_limit", run)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--out", str(out)]) == 130
    assert list(json.loads(out.read_text())["steps"]) == ["machine"]


@pytest.mark.slow
def test_processes_of_a_step_end_with_it(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(4); open({str(mark)!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    assert gpu.run_with_limit([sys.executable, "-c", parent], {}, 1.5) is None
    assert time.monotonic() - start < 4
    time.sleep(4)
    assert not mark.exists()


def test_no_step_begins_without_time(tmp_path, only_steps):
    only_steps(one="raise SystemExit(3)")
    assert gpu.main(["--out", str(tmp_path / "gpu.json"), "--minutes", "0.1"]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["steps"]["one"]["status"] == "skipped: 6 s were left"


def test_limits_leave_the_training_time():
    """The steps before the training are meant to need less than their limits, which come to at most nine minutes."""
    *before, last = gpu.LIMITS.items()
    assert last[0] == "train"
    assert sum(limit for _, limit in before) <= 540
    assert list(gpu.LIMITS) == list(gpu_steps.STEPS)


def test_wheels_that_fit_are_unpacked(tmp_path):
    here = f"cp3{sys.version_info.minor}"
    fits = ["pure-1-py3-none-any.whl", f"built-1-{here}-{here}-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"]
    fits.append("stable-1-cp38-abi3-manylinux_2_28_x86_64.whl")
    others = ["old-1-cp27-cp27m-linux_x86_64.whl", f"windows-1-{here}-{here}-win_amd64.whl"]
    others += ["future-1-cp399-abi3-linux_x86_64.whl", f"arm-1-{here}-{here}-manylinux2014_aarch64.whl"]
    for name in fits + others:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(f"{name.split('-')[0]}/__init__.py", "")
    if gpu.platform.machine() != "x86_64":
        pytest.skip("the names above are of another processor")
    assert gpu.unpack_wheels(tmp_path, tmp_path / "target") == sorted(fits)
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["built", "pure", "stable"]


def test_a_wheel_is_on_the_path_of_the_steps_behind_the_checkout(tmp_path):
    with zipfile.ZipFile(tmp_path / "ss_lightning-0-py3-none-any.whl", "w") as archive:
        archive.writestr("ss_lightning/__init__.py", "raise ImportError('not this one')")
        archive.writestr("only_in_the_wheel.py", "name = 'found'")
    environment = gpu._environment(True, tmp_path, tmp_path)
    assert environment["TRITON_INTERPRET"] == "1"
    code = "import sys, ss_lightning, only_in_the_wheel as w; sys.exit(w.name != 'found')"
    assert gpu.run_with_limit([sys.executable, "-c", code], environment, 60) == 0


def test_the_crossing_lies_on_a_line_between_two_densities():
    rows = [{"density": d, "events_ms": e, "dense": 5.0} for d, e in ((0.01, 1.0), (0.02, 3.0), (0.04, 7.0))]
    assert gpu_steps._crossing(rows, "dense") == pytest.approx(0.03)
    assert gpu_steps._crossing(rows[:2], "dense") is None
    assert gpu_steps._crossing(rows[2:], "dense") == 0.04


def test_differences():
    one = torch.tensor([1.0, 4.0])
    assert gpu_steps._difference(one, one) == 0
    assert gpu_steps._difference(one + torch.tensor([0, 0.4]), one) == pytest.approx(0.1)
    assert gpu_steps._difference(torch.tensor([3]), torch.tensor([4])) == float("inf")


def test_a_wrong_kernel_fails_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_steps, "_network_cases", lambda step: {"network, ramp": wrong, "network, survival": wrong})
    monkeypatch.setattr(gpu_steps, "_dense_cases", lambda step: {})

    def wrong(device, backend):
        return [torch.ones(2, dtype=torch.float64) * (1.001 if backend == "triton" else 1)]

    result = tmp_path / "float64.json"
    assert gpu_steps.main(["float64", "--dry", "--result", str(result)]) == 1
    content = json.loads(result.read_text())
    assert content["status"].startswith("failed: AssertionError: differs from the reference: network, ramp")
    assert content["cases"]["network, ramp"] == pytest.approx(0.001)


# Steps whose networks take minutes in the interpreter. What they run is tested elsewhere on the processor.
WITH_NETWORKS = ("step", "conv", "infer", "graph", "epochs")


def dry_run(names, out):
    """The results of some steps, and what was skipped."""
    assert gpu.main(["--dry-run", "--out", str(out), "--steps", *names]) == 0
    steps = json.loads(out.read_text())["steps"]
    assert list(steps) == list(names)
    return steps, {name: step["status"] for name, step in steps.items() if step["status"] != "done"}


@pytest.mark.slow
def test_dry_run(tmp_path):
    """The command, for a step that runs on the processor and one that needs a card and says so."""
    steps, skipped = dry_run(["machine", "train"], tmp_path / "gpu.json")
    assert skipped == {"train": "skipped: a training needs a GPU"}
    assert steps["machine"]["facts"]["torch"] == torch.__version__


@pytest.mark.slow
@pytest.mark.long  # minutes in the interpreter
def test_dry_run_of_networks(tmp_path):
    steps, skipped = dry_run(WITH_NETWORKS, tmp_path / "gpu.json")
    assert skipped == {}
    for name in ("step", "conv", "infer"):
        contenders = {row["contender"]: row["status"] for row in steps[name]["rows"]}
        assert contenders["snnTorch Leaky"] == contenders["ss_lightning survival (triton)"] == "measured"
        assert contenders["snnTorch Leaky (CUDA graph)"] == "needs a GPU"
    assert len(steps["graph"]["cells"]) == 2
    assert "needs a GPU" in steps["graph"]["note"]
    (epochs,) = steps["epochs"]["cells"].values()
    assert len(epochs["epoch_s"]) == 3
    assert epochs["busy_ms"] > 0


ABSENT = ("numba", "snntorch", "lightning", "torchmetrics", "jsonargparse", "tonic", "h5py", "matplotlib", "pandas")
SKIPPED_WITHOUT = ("conv", "graph", "epochs", "sanitizer", "train")


@pytest.mark.slow
def test_a_plain_checkout_needs_torch_triton_and_numpy_alone(tmp_path):
    """Every step in a process where nothing else can be imported, and what it finds; those that need more say so."""
    blocks = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    code = blocks + "from ss_lightning.benchmark import gpu_steps\n"
    for name in gpu.LIMITS:
        code += f"gpu_steps.main([{name!r}, '--dry', '--result', {str(tmp_path / name)!r}])\n"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL, timeout=600)
    steps = {name: json.loads((tmp_path / name).read_text()) for name in gpu.LIMITS}
    status = {name: step["status"] for name, step in steps.items()}
    assert {name: said.split(":")[0] for name, said in status.items()} == {
        name: "skipped" if name in SKIPPED_WITHOUT else "done" for name in gpu.LIMITS
    }, status
    assert "numba" in status["epochs"] or "lightning" in status["epochs"]
    assert len(steps["machine"]["gemm_tflops"]) == 6
    assert steps["float64"]["failed"] == []
    assert max(steps["float64"]["cases"].values()) < 1e-13
    assert steps["float64"]["negative_control"] > 1e-3
    (cell,) = steps["float32"]["cells"].values()
    assert cell["kernels"]["equal_first_spike_times"] == 1
    assert cell["kernels"]["relative_gradient_error"] < 1e-5
    assert cell["products"]["equal_first_spike_times"] == cell["bf16 products"]["equal_first_spike_times"] == 1
    assert cell["bf16 products"]["relative_gradient_error"] < 1e-5
    assert 0 < cell["share_that_fires"] < 1
    assert len(steps["scan"]["passes"]) == 9
    assert len(steps["crossover"]["rows"]) == 2
    assert {"events_ms", "dense_fp32_ms", "dense_tf32_ms", "dense_bf16_ms"} < set(steps["crossover"]["rows"][0])
    assert list(steps["split"]["ways"]) == ["float32", "bf16, 1 terms", "bf16, 2 terms", "bf16, 3 terms"]
    assert steps["split"]["ways"]["bf16, 3 terms"]["share_of_moved_spikes"] == 0


def test_the_crossover_of_a_card_is_written_into_the_file_of_the_rule(tmp_path):
    path = tmp_path / "crossover.json"
    path.write_text(CROSSOVER_FILE.read_text())
    before = crossover("NVIDIA H100 PCIe", path)
    found = {"card": "NVIDIA H100 PCIe", "crossover": {"fp32": 0.0123, "tf32": 0.0042, "bf16": None}}
    assert "written to" in gpu.record_crossover(found, "gpu.json, today", path)
    read_crossovers.cache_clear()
    assert crossover("NVIDIA H100 PCIe", path) == 0.0123 != before
    assert crossover("NVIDIA H100 80GB HBM3", path) == before
    assert crossover("NVIDIA H100 PCIe", path) != crossover("unknown", path)
    written = path.read_text()
    for nothing in ({}, {"crossover": found["crossover"]}, {**found, "crossover": {"fp32": None, "tf32": 0.1}}):
        assert gpu.record_crossover(nothing, "", path).startswith("rule     unchanged")
    assert path.read_text() == written
    # Written for a second time, the file differs in nothing.
    gpu.record_crossover(found, "gpu.json, today", path)
    assert path.read_text() == written


@pytest.mark.parametrize(
    ("versions", "refused"),
    [
        ({"triton": "3.6.0", "numpy": "2.4.6"}, True),
        ({"triton": "3.6.0", "numpy": "2.3.5"}, False),
        ({"triton": "3.8.0", "numpy": "2.4.6"}, False),
        ({"numpy": "2.4.6"}, False),
    ],
    ids=str,
)
def test_a_dry_run_says_which_numpy_the_interpreter_needs(versions, refused, tmp_path, monkeypatch, capsys):
    def version(name):
        if name not in versions:
            raise gpu.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(gpu.metadata, "version", version)
    monkeypatch.setattr(gpu, "run_steps", lambda *arguments: iter(()))
    if not refused:
        assert gpu.main(["--dry-run", "--out", str(tmp_path / "gpu.json")]) == 0
        return
    with pytest.raises(SystemExit):
        gpu.main(["--dry-run", "--out", str(tmp_path / "gpu.json")])
    assert "needs NumPy below 2.4, found 2.4.6: pip install 'numpy<2.4'" in capsys.readouterr().err
