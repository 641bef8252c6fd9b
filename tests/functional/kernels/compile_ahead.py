"""Compiles the Triton kernels for a card that need not be there, as the functions that launch them would.

In a process of its own, because Triton then has a driver that is none, and nobody else may see it: :func:`start`.
``python -m tests.functional.kernels.compile_ahead`` prints the registers of every kernel on every card (half an hour).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from ss_lightning.events import EventBatch
from ss_lightning.functional.kernels import network_triton, scan_triton
from ss_lightning.functional.kernels.common import ESTIMATOR_CODES, LayerTensors
from ss_lightning.surrogate import ATan, FastSigmoid, Surrogate, Triangle

SURROGATES: list[Surrogate] = [FastSigmoid(10), ATan(2), Triangle(1)]
# Turing, Ampere, Ada and Hopper, and the MI300 of AMD.
TARGETS = ["cuda:75", "cuda:80", "cuda:89", "cuda:90", "hip:gfx942"]
PAIRS = [(estimator, surrogate) for estimator in ESTIMATOR_CODES for surrogate in SURROGATES]
# Every estimator once and every surrogate at least once.
SOME = [(estimator, SURROGATES[i % 3]) for i, estimator in enumerate(ESTIMATOR_CODES)]


class NoDriver:
    """What Triton asks its driver before it compiles; it cannot launch."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_instead_of_launch() -> list[tuple[Any, str]]:
    """From now on a launch compiles only; the list gets every variant once, with the kernel's name."""
    compiled: list[tuple[Any, str]] = []
    seen: set[int] = set()
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        variant = run(self, *args, grid=grid, warmup=True, **kwargs)
        if id(variant) not in seen:
            seen.add(id(variant))
            compiled.append((variant, self.fn.__name__))
        return variant

    JITFunction.run = compile_only
    # What a kernel that never ran has "written" must be in range for what reads it next.
    torch.empty, torch.empty_like, Tensor.new_empty = torch.zeros, torch.zeros_like, Tensor.new_zeros
    return compiled


def shifted(tensor: Tensor) -> Tensor:
    """The same values one element further on, where no address is a multiple of 16 bytes."""
    room = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
    return room[1:].view(tensor.shape).copy_(tensor)


def launch_scans(pairs: list[tuple[str, Surrogate]], dtype: torch.dtype, place: Any) -> None:
    """Both passes of the neuron on a dense current and of the leaky scan."""
    current, row = place(torch.zeros(3, 5, dtype=dtype)), place(torch.zeros(5, dtype=dtype))
    scan_triton.dense_forward(current, row, row, keep=False)
    scan_triton.crossings(current, row, row)
    _, saved = scan_triton.dense_forward(current, row, row, keep=True)
    saved = [place(tensor) for tensor in saved]
    for estimator, surrogate in pairs:
        scan_triton.dense_backward(current, row, row, saved, current, surrogate, estimator)
    scan_triton.leaky_forward(current, row)
    scan_triton.leaky_backward(current, row, current)
    scan_triton.leaky_backward(current, row, None)


def launch_network(pairs: list[tuple[str, Surrogate]], dtype: torch.dtype, place: Any) -> None:
    """Both passes of a network on events."""
    counts = torch.ones(3, 2, 4)
    events = EventBatch.from_dense(counts)
    events = EventBatch(place(events.units), place(events.offsets), events.num_steps, events.num_units)

    def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [place(torch.zeros(shape, dtype=dtype)) for shape in shapes]

    hidden = [LayerTensors(*tensors((5, 4), (5,), (5,), (5,))), LayerTensors(*tensors((6, 5), (3, 6), (6,), (6,)))]
    readout = LayerTensors(*tensors((7, 6), (7,), (7,)), None)
    keep = [None, torch.ones(2, 6, dtype=torch.bool)]
    membrane, times, prepared = network_triton.network_forward(events, hidden, readout, False, keep)
    membrane, times = place(membrane), [place(time) for time in times]
    needs = [*(LayerTensors(True, True, True, True) for _ in hidden), LayerTensors(True, True, True, False)]
    for estimator, surrogate in pairs:
        network_triton.network_backward(
            prepared, hidden, readout, False, surrogate, estimator, times, membrane, membrane, [None, None], needs
        )


def used(variant: Any, target: GPUTarget) -> dict[str, int]:
    """Registers of a thread, bytes of its stack and local memory, and so on, from the machine code."""
    if target.backend == "hip":
        code = variant.asm["amdgcn"]
        names = ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
        registers, *spilled, stack = (int(re.search(rf"\.{name}:\s+(\d+)", code)[1]) for name in names)
        fused = len(re.findall(r"\bv_(?:pk_)?(?:fma|mac)", code))
        return {"registers": registers, "stack": stack, "local": 0, "spilled": sum(spilled), "fused": fused}
    tool = Path(triton.__path__[0], "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(variant.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    code = variant.asm["ptx"]
    return {
        "registers": found["REG"],
        "stack": found["STACK"],
        "local": found["LOCAL"],
        "spilled": 0,  # a register that spills lies on the stack
        "fused": len(re.findall(r"\bfma\.rn", code)),
        "copies": code.count("cp.async.ca"),
    }


def order_in_ttgir(variant: Any) -> str:
    """Loads, stores, barriers and ends of loops in the order of the code: ``l``, ``s``, ``b`` and ``;``."""
    words = {"tt.load": "l", "tt.store": "s", "gpu.barrier": "b", "ttg.barrier": "b", "ttg.local_barrier": "b"}
    words |= {"scf.yield": ";"}
    pattern = "|".join(re.escape(word) + r"\b" for word in words)
    return "".join(words[word] for word in re.findall(pattern, variant.asm["ttgir"]))


def start(target: str, dtype: str, pairs: str) -> subprocess.Popen[str]:
    """A process that compiles all kernels and prints a JSON list, with an entry for each variant of a kernel.

    Args:
        target: ``cuda:90`` and the like, or ``hip:gfx942``.
        dtype: ``float32`` or ``float64``.
        pairs: ``all`` pairs of estimator and surrogate, or ``some``.
    """
    code = "import torch\n"
    if target.startswith("hip"):  # launch options depend on the card that torch was built for
        code += "torch.version.hip = 'none'\n"
    code += f"from tests.functional.kernels.compile_ahead import main\nmain({target!r}, {dtype!r}, {pairs!r})"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def entries(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What such a process found, once it has ended."""
    told, _ = process.communicate(timeout=1800)  # a laden machine takes its time
    assert process.returncode == 0
    return json.loads(told)


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The most registers of a thread by kernel and target as a table in Markdown, spills behind a plus.

    Args:
        found: what :func:`entries` returned, by target.
    """
    kernels = list(dict.fromkeys(entry["kernel"] for some in found.values() for entry in some))
    lines = [f"| kernel | {' | '.join(found)} |", "| --- " * (1 + len(found)) + "|"]
    for kernel in kernels:
        cells = []
        for some in found.values():
            mine = [entry for entry in some if entry["kernel"] == kernel]
            lost = sum(entry["spilled"] + entry["stack"] + entry["local"] for entry in mine)
            cells.append(f"{max(entry['registers'] for entry in mine)}{f' + {lost}' if lost else ''}")
        lines.append(f"| `{kernel}` | {' | '.join(cells)} |")
    return lines


def main(target: str, dtype: str, pairs: str) -> None:
    """Compile and print."""
    kind, arch = target.split(":")
    goal = GPUTarget("cuda", int(arch), 32) if kind == "cuda" else GPUTarget("hip", arch, 64)
    driver.set_active(NoDriver(goal))
    compiled = compile_instead_of_launch()
    chosen = {"some": SOME, "all": PAIRS}[pairs]
    for launch in (launch_scans, launch_network):
        launch(chosen, getattr(torch, dtype), lambda tensor: tensor)
    aligned = len(compiled)
    for launch in (launch_scans, launch_network):
        launch(chosen, getattr(torch, dtype), shifted)
    found = []
    for number, (variant, kernel) in enumerate(compiled):
        entry = {"kernel": kernel, "unaligned": number >= aligned, "order": order_in_ttgir(variant)}
        entry |= {"shared": variant.metadata.shared, "num_warps": variant.metadata.num_warps}
        found.append(entry | used(variant, goal))
    print(json.dumps(found))


if __name__ == "__main__":
    for dtype in ("float32", "float64"):
        print(dtype, *table({target: entries(start(target, dtype, "all")) for target in TARGETS}), sep="\n")
