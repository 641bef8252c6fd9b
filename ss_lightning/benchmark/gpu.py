"""Everything that only a GPU can say, in one command: ``python -m ss_lightning.benchmark.gpu``.

It takes at most eight minutes. Each step runs in a process of its own with a time limit, the most important first. The
result file is written after every step, and a step that fails or takes too long is recorded while the next one goes on.

torch, Triton and numpy are enough; what needs snnTorch or Lightning is skipped where they are missing. ``--wheels DIR``
takes further packages from a folder of wheels, for a machine without internet. ``--dry-run`` runs every step on the
processor, at the smallest sizes, the kernels in Triton's interpreter: it shows that the script works, and no speed.

Attributes:
    LIMITS: seconds that each step may take, in the order in which they run; the last takes what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ss_lightning.files import display_path, write_whole
from ss_lightning.functional.input_synapse import CROSSOVER_FILE

LIMITS = {
    "machine": 40,
    "float64": 75,
    "float32": 60,
    "synchronisation": 30,
    "step": 80,
    "conv": 40,
    "infer": 35,
    "scan": 15,
    "crossover": 40,
    "split": 15,
    "graph": 20,
    "epochs": 45,
    "sanitizer": 45,
    "train": 480,
}
# With less time than this left, a step is not begun: importing torch alone takes some seconds.
_LEAST_SECONDS = 8
# The interpreter needs longer than a card.
_DRY_LIMIT = 300


def main(arguments: list[str]) -> int:
    """Run the steps, write the results after each and print a table.

    Returns:
        0, or 1 if a step failed, or 130 after Ctrl-C; what was measured is in the file in any case.
    """
    parser = argparse.ArgumentParser(prog="python -m ss_lightning.benchmark.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="file for the results (%(default)s)")
    parser.add_argument("--minutes", type=float, help="time for all steps together (8; of a dry run 30)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to put on the path of the steps")
    parser.add_argument("--data", type=Path, help="folder with FashionMNIST/raw, for the training at the end")
    parser.add_argument("--steps", nargs="+", choices=LIMITS, default=list(LIMITS), help="run these steps only")
    parser.add_argument(
        "--record", action="store_true", help="write the crossover of this card into the file of the rule"
    )
    parser.add_argument("--dry-run", action="store_true", help="on the processor, at the smallest sizes")
    options = parser.parse_args(arguments)
    if options.minutes is None:
        options.minutes = 30.0 if options.dry_run else 8.0
    for folder in (options.wheels, options.data):
        if folder is not None and not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    if options.dry_run and (obstacle := interpreter_obstacle()) is not None:
        parser.error(obstacle)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "command": " ".join(["python -m ss_lightning.benchmark.gpu", *arguments]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "dry_run": options.dry_run,
        "steps": {},
    }
    code = 0
    with tempfile.TemporaryDirectory() as scratch:
        environment = _environment(options.dry_run, options.wheels, Path(scratch))
        try:
            for name, result in run_steps(options, environment, Path(scratch)):
                results["steps"][name] = result
                code = code or int(not str(result["status"]).startswith(("done", "skipped")))
                with write_whole(options.out) as file:
                    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
    print("\nA dry run: its times are those of the interpreter and say nothing." if options.dry_run else "")
    print("\n".join(summary_lines(results["steps"])))
    print(f"\nresults  {display_path(options.out)}")
    if options.record:
        print(record_crossover(results["steps"].get("crossover", {}), f"{options.out.name}, {results['started']}"))
    return code


def interpreter_obstacle() -> str | None:
    """Why Triton's interpreter cannot run kernels here, as a sentence; None if it can, or if Triton is missing."""
    try:
        triton, numpy = (metadata.version(name) for name in ("triton", "numpy"))
    except metadata.PackageNotFoundError:
        return None
    # Loops there count by an array of one number, which NumPy 2.4 no longer takes for a number.
    if _release(triton) < (3, 8) and _release(numpy) >= (2, 4):
        return f"the interpreter of Triton {triton} needs NumPy below 2.4, found {numpy}: pip install 'numpy<2.4'"
    return None


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def record_crossover(result: dict[str, Any], source: str, path: Path = CROSSOVER_FILE) -> str:
    """Write what the step ``crossover`` found on a card into the file of the rule.

    Args:
        result: of the step.
        source: where the numbers stand.
        path: the file of the rule.

    Returns:
        A line that says what was done.
    """
    found = {name: result.get("crossover", {}).get(name) for name in ("fp32", "tf32")}
    if "card" not in result or None in found.values():
        return "rule     unchanged: no crossover was measured on a card"
    constants = json.loads(path.read_text(encoding="utf-8"))
    constants["cards"][result["card"]] = {**found, "source": source}
    entries = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in constants["cards"].items())
    what, other = json.dumps(constants["what"]), json.dumps(constants["other"])
    with write_whole(path) as scratch:
        scratch.write_text(
            f'{{\n "what": {what},\n "cards": {{\n{entries}\n }},\n "other": {other}\n}}\n', encoding="utf-8"
        )
    return f"rule     {result['card']}: {found} written to {display_path(path)}"


def run_steps(
    options: argparse.Namespace, environment: dict[str, str], scratch: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the steps one after the other.

    Args:
        options: of the command line.
        environment: of the steps.
        scratch: folder for their files.

    Returns:
        Name and result of each step, as soon as it has ended.
    """
    end = time.monotonic() + options.minutes * 60
    for name in (step for step in LIMITS if step in options.steps):
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            yield name, {"status": f"skipped: {max(left, 0):.0f} s were left"}
            continue
        limit = min(_DRY_LIMIT if options.dry_run else LIMITS[name], left)
        print(f"{name}: at most {limit:.0f} s", flush=True)
        result = scratch / f"{name}.json"
        call = [sys.executable, "-m", "ss_lightning.benchmark.gpu_steps", name, "--result", str(result)]
        call += ["--dry"] if options.dry_run else []
        call += ["--data", str(options.data.resolve())] if options.data else []
        started = time.monotonic()
        status = run_with_limit(call, environment, limit)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        if status is None:
            found["status"] = f"stopped after {limit:.0f} s"
        elif found.get("status", "running") == "running":
            found["status"] = f"failed: ended with exit code {status}"
        yield name, {**found, "seconds": round(time.monotonic() - started, 1), "limit_s": round(limit, 1)}


def run_with_limit(call: Sequence[str], environment: dict[str, str], limit: float) -> int | None:
    """Run a command, and end it and the processes that it started when it takes too long.

    Args:
        call: the command.
        environment: its environment variables.
        limit: seconds.

    Returns:
        Its exit code; None if it took too long.
    """
    process = subprocess.Popen(call, env=environment, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(dry_run: bool, wheels: Path | None, scratch: Path) -> dict[str, str]:
    """Environment of the steps: this checkout and the wheels on the path, and in a dry run Triton's interpreter."""
    paths = [str(Path(__file__).resolve().parents[2])]
    if wheels is not None:
        packages = scratch / "packages"
        taken = unpack_wheels(wheels, packages)
        print(f"wheels: {', '.join(taken) or 'none that fits this Python'}", flush=True)
        paths.append(str(packages))
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [environment.get("PYTHONPATH")])])
    if dry_run:
        environment["TRITON_INTERPRET"] = "1"
    return environment


def unpack_wheels(folder: Path, target: Path) -> list[str]:
    """Unpack the wheels of a folder that fit this Python, which needs neither pip nor a network.

    Args:
        folder: where the wheels lie.
        target: a folder to put on the path.

    Returns:
        The wheels that were unpacked.
    """
    taken = []
    for wheel in sorted(folder.glob("*.whl")):
        if fits_this_python(wheel.name):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
            taken.append(wheel.name)
    return taken


def fits_this_python(wheel: str) -> bool:
    """Whether a wheel is pure Python, or built for this version of CPython (or its stable ABI) and this processor.

    Example:
        >>> fits_this_python("snntorch-1.0.0-py2.py3-none-any.whl")
        True
        >>> fits_this_python("h5py-3.11.0-cp27-cp27m-win32.whl")
        False
    """
    pythons, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if "py3" in pythons.split(".") and platforms == "any":
        return True
    version = f"cp3{sys.version_info.minor}"
    minors = [int(tag[3:]) for tag in pythons.split(".") if tag.startswith("cp3") and tag[3:].isdigit()]
    stable = abi == "abi3" and any(minor <= sys.version_info.minor for minor in minors)
    built = version in pythons.split(".") and abi in (version, "none")
    here = any(
        tag.endswith(platform.machine()) and tag.startswith(("linux", "manylinux")) for tag in platforms.split(".")
    )
    return here and (stable or built or ("py3" in pythons.split(".") and abi == "none"))


def summary_lines(steps: dict[str, dict[str, Any]]) -> Iterable[str]:
    """The results as a table: one line for each step, with its main numbers below.

    Args:
        steps: the results by the name of the step.
    """
    for name, result in steps.items():
        yield f"{name:16s} {result.get('seconds', 0):6.1f} s  {result['status']}"
        for line in _DETAILS.get(name, lambda values: [])(result):
            yield f"    {line}"
        if "note" in result:
            yield f"    {result['note']}"


def _machine_lines(values: dict[str, Any]) -> Iterable[str]:
    facts = values.get("facts", {})
    if "gpu" in facts:
        yield f"{facts['gpu']}, {facts['memory_gib']} GiB, capability {facts['capability']}"
    if facts:
        yield f"Python {facts['python']}, torch {facts['torch']}, Triton {facts['triton']}; {facts['processor']}"
    for name, rate in values.get("gemm_tflops", {}).items():
        yield f"{name:12s} {rate:10g} TFLOP/s"
    if "copy_gb_per_s" in values:
        yield f"{'copy':12s} {values['copy_gb_per_s']:10g} GB/s"
    if "small_operation_us" in values:
        yield f"{'operation':12s} {values['small_operation_us']:10g} us"


def _float64_lines(values: dict[str, Any]) -> Iterable[str]:
    if cases := values.get("cases"):
        yield f"{len(cases)} cases, largest difference {max(cases.values()):.2g}, {len(values['failed'])} failed"
    if "negative_control" in values:
        yield f"negative control {values['negative_control']:.2g}"


def _float32_lines(values: dict[str, Any]) -> Iterable[str]:
    for cell, entry in values.get("cells", {}).items():
        for name in (name for name, value in entry.items() if isinstance(value, dict)):
            equal, error = entry[name]["equal_first_spike_times"], entry[name]["relative_gradient_error"]
            yield f"{cell:28s} {name:13s} {equal:9.5%} equal times  {error:.2g} relative error of the gradient"


def _synchronisation_lines(values: dict[str, Any]) -> Iterable[str]:
    for name, entry in values.get("steps", {}).items():
        yield f"{name:44s} {sum(entry['places'].values()):3d} waits  {entry['error'] or 'none refused'}"


def _speed_lines(values: dict[str, Any]) -> Iterable[str]:
    cell = None
    for row in values.get("rows", []):
        if row["cell"] != cell:
            cell = row["cell"]
            yield f"{cell:44s} {'ms':>10s} {'x snnTorch':>11s} {'x its graph':>12s} {'peak MiB':>9s}"
        if "ms" not in row:
            yield f"  {row['contender']:42s} {row['status']}"
            continue
        ratios = f"{row.get('x_snntorch', ''):>11} {row.get('x_graph', ''):>12} {row.get('peak_mib', ''):>9}"
        yield f"  {row['contender']:42s} {row['ms'][0]:10.3f} {ratios}"


def _scan_lines(values: dict[str, Any]) -> Iterable[str]:
    for name, entry in values.get("passes", {}).items():
        share = f", {entry['share_of_copy']:.0%} of a copy" if "share_of_copy" in entry else ""
        yield f"{name:24s} {entry['ms']:9.4f} ms {entry['gb_per_s']:9g} GB/s{share}"


def _crossover_lines(values: dict[str, Any]) -> Iterable[str]:
    names = ("density", "events_ms", "dense_fp32_ms", "dense_tf32_ms", "dense_bf16_ms", "to_dense_ms")
    rows = values.get("rows", [])
    if rows:
        yield " ".join(f"{name:>14s}" for name in names)
    for row in rows:
        yield " ".join(f"{row[name]:14g}" for name in names)
    for name, density in values.get("crossover", {}).items():
        yield f"dense is faster in {name} from a density of {density if density is not None else 'more than measured'}"


def _split_lines(values: dict[str, Any]) -> Iterable[str]:
    for name, entry in values.get("ways", {}).items():
        yield f"{name:16s} {entry['share_of_moved_spikes']:9.4%} of the first spikes move"


def _graph_lines(values: dict[str, Any]) -> Iterable[str]:
    for cell, entry in values.get("cells", {}).items():
        graph = f"{entry['graph_ms']:.3f} ms as a graph" if "graph_ms" in entry else "no graph"
        yield f"{cell:44s} {entry['without_ms']:.3f} ms, dense {entry['without_dense_ms']:.3f} ms, {graph}"


def _epoch_lines(values: dict[str, Any]) -> Iterable[str]:
    for cell, entry in values.get("cells", {}).items():
        busy = f"  the card busy for {entry['busy_share']:.0%}" if "busy_share" in entry else ""
        yield f"{cell:28s} {entry['batches']} batches, seconds an epoch {entry['epoch_s']}{busy}"


_DETAILS = {
    "machine": _machine_lines,
    "float64": _float64_lines,
    "float32": _float32_lines,
    "synchronisation": _synchronisation_lines,
    "step": _speed_lines,
    "conv": _speed_lines,
    "infer": _speed_lines,
    "scan": _scan_lines,
    "crossover": _crossover_lines,
    "split": _split_lines,
    "graph": _graph_lines,
    "epochs": _epoch_lines,
    "sanitizer": lambda values: [f"{name}: {lines}" for name, lines in values.get("tools", {}).items()],
    "train": lambda values: values.get("last_lines", [])[-8:],
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
