"""``snn.Leaky`` and ``SingleSpikeLeaky`` in the same step loops: what programs get, and what a loop costs.

``python -m ss_lightning.experiments.step_loops programs`` runs programs that people write with each neuron and compares
spikes and gradients with those of the same neuron in a plain loop over one sample at a time.

``python -m ss_lightning.experiments.step_loops speed`` times the loops. It uses only names that every version of this
package has, so the file can be run with an older one: ``PYTHONPATH=OLDER python FILE speed``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ss_lightning import SingleSpikeLeaky, StandardSingleSpikeLeaky

STEPS, BATCH, NEURONS, HALF = 14, 3, 5, 6
ORDER = [2, 0, 1]

# From a function that makes a neuron and the current to spikes [T, B, N]: those of the program, and the right ones.
Program = Callable[[Callable[..., Any], Tensor], tuple[Tensor, Tensor]]


def loop(
    neuron: Any, current: Tensor, mem: Tensor | None = None, between: Callable[[int, Tensor], Tensor] | None = None
) -> Tensor:
    """The spikes ``[T, B, N]`` of a loop that hands the membrane from step to step."""
    mem = torch.zeros_like(current[0]) if mem is None else mem
    spikes = []
    for t, step in enumerate(current.unbind(0)):
        if t and between is not None:
            mem = between(t, mem)
        spk, mem = neuron(step, mem)
        spikes.append(spk)
    return torch.stack(spikes)


def each_alone(make: Callable[..., Any], current: Tensor, mem: Tensor | None = None) -> Tensor:
    """The spikes of a neuron of its own for each sample."""
    return torch.cat([loop(make(), row, mem if mem is None else mem[:1]) for row in current.split(1, dim=1)], dim=1)


def _whole(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    return loop(make(), current), each_alone(make, current)


def _partial_reset(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    def between(t: int, mem: Tensor) -> Tensor:
        if t == HALF:
            mem = mem.clone()
            mem[1] = 0
        return mem

    wanted = each_alone(make, current)
    anew = torch.cat([wanted[:HALF, 1:2], each_alone(make, current[HALF:, 1:2])])
    return loop(make(), current, between=between), torch.cat([wanted[:, :1], anew, wanted[:, 2:]], dim=1)


def _permuted(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    back = [ORDER.index(row) for row in range(BATCH)]
    wanted = each_alone(make, torch.cat([current[:HALF], current[HALF:, back]]))
    found = loop(make(), current, between=lambda t, mem: mem[ORDER] if t == HALF else mem)
    return found, torch.cat([wanted[:HALF], wanted[HALF:, ORDER]])


def _start(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    """The second of two batches that begin at 0.5."""
    neuron, mem = make(), torch.full((BATCH, NEURONS), 0.5, dtype=current.dtype)
    loop(neuron, current, mem)
    return loop(neuron, current, mem), each_alone(make, current, mem)


def _detached(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    """The spikes before the cut, whose gradient does not depend on it, and all later ones as numbers."""
    found = loop(make(), current, between=lambda t, mem: mem.detach() if t == HALF else mem)
    wanted = each_alone(make, current)
    return torch.cat([found[:HALF], found[HALF:].detach()]), torch.cat([wanted[:HALF], wanted[HALF:].detach()])


def _checkpointed(reentrant: bool) -> Program:
    def program(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
        neuron = make()
        found = loop(lambda x, mem: checkpoint(neuron, x, mem, use_reentrant=reentrant), current)
        return found, each_alone(make, current)

    return program


def _checkpointed_hidden(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    neuron = make(init_hidden=True)
    found = torch.stack([checkpoint(neuron, step, use_reentrant=False) for step in current.unbind(0)])
    return found, each_alone(make, current)


def _copied(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    """A deep copy of a neuron that keeps its membrane goes on in its place."""
    neuron = make(init_hidden=True)
    first = [neuron(step) for step in current[:HALF].unbind(0)]
    neuron = copy.deepcopy(neuron)
    found = torch.stack(first + [neuron(step).detach() for step in current[HALF:].unbind(0)])
    wanted = each_alone(make, current)
    return found, torch.cat([wanted[:HALF], wanted[HALF:].detach()])


def _forgotten_in_training(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    neuron = make(init_hidden=True)
    torch.stack([neuron(step) for step in current.unbind(0)]).sum().backward()
    return torch.stack([neuron(step) for step in current.unbind(0)]), each_alone(make, current)


def _forgotten_without_gradient(make: Callable[..., Any], current: Tensor) -> tuple[Tensor, Tensor]:
    neuron = make(init_hidden=True)
    with torch.no_grad():
        for _ in range(3):
            found = torch.stack([neuron(step) for step in current.unbind(0)])
    return found, each_alone(make, current).detach()


PROGRAMS: dict[str, Program] = {
    "whole batch": _whole,
    "`mem[1] = 0` in the middle": _partial_reset,
    "`mem = mem[[2, 0, 1]]` in the middle": _permuted,
    "second batch of two that begin at 0.5": _start,
    "`mem = mem.detach()` in the middle": _detached,
    "each step checkpointed, `use_reentrant=False`": _checkpointed(False),
    "each step checkpointed, `use_reentrant=True`": _checkpointed(True),
    "each step checkpointed, `init_hidden=True`": _checkpointed_hidden,
    "`copy.deepcopy` in the middle, `init_hidden=True`": _copied,
    "reset forgotten, in training": _forgotten_in_training,
    "reset forgotten, without gradients": _forgotten_without_gradient,
}
NEURON_CLASSES: dict[str, Callable[..., Any]] = {"snn.Leaky": snn.Leaky, "SingleSpikeLeaky": SingleSpikeLeaky}


def _gradient(spikes: Tensor, weight: Tensor, current: Tensor) -> Tensor | None:
    """Of a weighted sum of the spikes; by ``backward``, which ``use_reentrant=True`` needs."""
    current.grad = None
    if spikes.requires_grad:
        (spikes.double() * weight).sum().backward()
    return current.grad


def verdict(program: Program, neuron_class: Callable[..., Any]) -> str:
    """What a neuron makes of a program: equal, what differs, or the error that names the cause."""
    torch.manual_seed(0)
    current = (torch.randn(STEPS, BATCH, NEURONS, dtype=torch.float64) * 0.9).requires_grad_()
    weight = torch.randn(STEPS, BATCH, NEURONS, dtype=torch.float64)

    def make(**options: Any) -> Any:
        beta = torch.linspace(0.5, 0.9, NEURONS, dtype=torch.float64)
        return neuron_class(beta, threshold=torch.ones(NEURONS).double(), **options).double()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found, wanted = program(make, current)
            grads = [_gradient(spikes, weight, current) for spikes in (found, wanted)]
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
    said = "; a warning names the reset" if any("reset" in str(entry.message) for entry in caught) else ""
    if not torch.equal(found.double(), wanted.double()):
        return f"{found.sum():.0f} spikes instead of {wanted.sum():.0f}{said}"
    if grads[0] is None or grads[1] is None or torch.allclose(grads[0], grads[1], rtol=0, atol=1e-10):
        return f"equal{said}"
    return f"gradients off by {(grads[0] - grads[1]).norm() / grads[1].norm():.0%}{said}"


def print_programs() -> None:
    """A table in Markdown: programs and neurons."""
    print(f"| program | {' | '.join(f'`{name}`' for name in NEURON_CLASSES)} |")
    print("| --- " * (1 + len(NEURON_CLASSES)) + "|")
    for name, program in PROGRAMS.items():
        cells = [verdict(program, neuron) for neuron in NEURON_CLASSES.values()]
        print(f"| {name} | {' | '.join(cell if len(cell) < 120 else f'{cell[:117]}...' for cell in cells)} |")


def print_speed(steps: int, batch: int, neurons: int, rounds: int) -> None:
    """A table in Markdown: milliseconds of a loop, the neurons in turns, medians."""
    beta = torch.full((neurons,), 0.9)
    makers = {
        "`snn.Leaky`": lambda: snn.Leaky(beta, learn_beta=True),
        "`SingleSpikeLeaky`": lambda: SingleSpikeLeaky(beta, learn_beta=True),
        "`SingleSpikeLeaky` with `snntorch.surrogate.atan()`": lambda: SingleSpikeLeaky(
            beta, learn_beta=True, spike_grad=surrogate.atan()
        ),
        "`StandardSingleSpikeLeaky`": lambda: StandardSingleSpikeLeaky(beta, learn_beta=True),
    }
    torch.manual_seed(0)
    current = torch.rand(steps, batch, neurons) * 0.2
    weight = torch.randn(steps, batch, neurons)
    seconds: dict[tuple[str, bool], list[float]] = {
        (name, backward): [] for name in makers for backward in (False, True)
    }
    for attempt in range(rounds + 1):
        for name, backward in seconds:
            neuron, x = makers[name](), current.clone().requires_grad_(backward)
            began = time.perf_counter()
            with torch.set_grad_enabled(backward):
                total = (loop(neuron, x) * weight).sum()
                if backward:
                    total.backward()
            if attempt:  # the first round warms up
                seconds[name, backward].append(time.perf_counter() - began)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {steps} steps, {batch} samples, "
          f"{neurons} neurons; medians of {rounds} rounds in turns, milliseconds\n")  # fmt: skip
    print("| neuron | forward, no gradient | forward and backward |")
    print("| --- | --- | --- |")
    for name in makers:
        cells = [f"{1000 * statistics.median(seconds[name, backward]):.0f}" for backward in (False, True)]
        print(f"| {name} | {' | '.join(cells)} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m ss_lightning.experiments.step_loops programs|speed``."""
    parser = argparse.ArgumentParser(prog="python -m ss_lightning.experiments.step_loops", description=__doc__)
    parser.add_argument("what", choices=["programs", "speed"])
    parser.add_argument("--steps", type=int, default=100, help="speed: time steps")
    parser.add_argument("--batch", type=int, default=128, help="speed: samples")
    parser.add_argument("--neurons", type=int, default=300, help="speed: neurons")
    parser.add_argument("--rounds", type=int, default=9, help="speed: rounds")
    options = parser.parse_args(arguments)
    if min(options.steps, options.batch, options.neurons, options.rounds) < 1:
        parser.error("--steps, --batch, --neurons and --rounds must be 1 or more")
    if options.what == "programs":
        print_programs()
    else:
        torch.set_num_threads(1)
        print_speed(options.steps, options.batch, options.neurons, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
