"""The Triton kernels: interpreted on the CPU against plain autograd, compiled for a GPU that need not be there."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ss_lightning.events import EventBatch
from ss_lightning.functional import network
from ss_lightning.functional.network import event_network, event_network_reference
from ss_lightning.surrogate import ATan, FastSigmoid, Triangle
from tests.functional.test_network import Case, assert_same

pytest.importorskip("triton")

SURROGATES = [FastSigmoid(10), ATan(2), Triangle(1)]
ESTIMATORS = ["ramp", "survival", "flat", "masked"]
CASES = [
    Case(),
    Case(num_steps=1, batch_size=1, sizes=(3, 5)),
    Case(sizes=(6, 9, 7, 5), skip=True, seed=1),
    Case(sizes=(6, 9, 7), beta=1.0, scalars=True, bias=False, threshold=-0.5),
    Case(sizes=(4, 140), beta=0.0, density=0.05),  # more than one block of neurons
    Case(density=0.0, scale=1e-3, threshold=2.0),  # silent
    Case(sizes=(6, 9, 7), bias_over_time=True, dropout=0.4, skip=True, seed=2),
]


def check_all(device: str, every: int = 1, backend: str = "triton") -> None:
    """Every case with every so many of the estimators on a device: spike times, output and gradients."""
    for number, case in enumerate(CASES):
        for estimator in ESTIMATORS[number % every :: every]:
            surrogate = SURROGATES[(number + ESTIMATORS.index(estimator)) % 3]
            options = {"surrogate": surrogate, "estimator": estimator}
            expected = case.run(event_network_reference, **options)
            found = on(case, device).run(backend=backend, **options)
            out, times, grads = (move(part) for part in found)
            assert_same((out, times, grads), expected, 1e-12)
    wrong = on(CASES[0], device)
    with torch.no_grad():
        wrong.hidden[0].beta[0] += 1e-3
    with pytest.raises(AssertionError):
        assert_same([move(part) for part in wrong.run(backend=backend)], CASES[0].run(event_network_reference), 1e-10)


def on(case: Case, device: str) -> Case:
    """The same case on a device."""
    moved = replace(case)
    layers = [
        type(layer)(
            *(None if v is None else v.detach().clone().to(device).requires_grad_(v.requires_grad) for v in layer)
        )
        for layer in (*case.hidden, case.readout)
    ]
    moved.hidden, moved.readout = layers[:-1], layers[-1]
    moved.events, moved.grad = case.events.to(device), case.grad.to(device)
    moved.grad_counts = [grad.to(device) for grad in case.grad_counts]
    return moved


def move(part):
    """Tensors back on the CPU."""
    return part.cpu() if isinstance(part, torch.Tensor) else [tensor.cpu() for tensor in part]


def check_chunks() -> None:
    """The samples of a batch one after the other, as on a card with little memory."""
    from ss_lightning.functional.kernels import network_triton

    case = Case(sizes=(6, 9, 7), bias_over_time=True, dropout=0.4, skip=True, batch_size=4, seed=2)
    expected = case.run(event_network_reference)
    network_triton._scratch_bytes.cache_clear()
    network_triton._SCRATCH_BYTES = 1
    assert_same(case.run(backend="triton"), expected, 1e-12)


@pytest.mark.slow
def test_interpreted_kernels_equal_the_reference() -> None:
    run_interpreted("check_all('cpu')")


@pytest.mark.slow
def test_an_input_layer_by_matrix_products_equals_the_reference() -> None:
    run_interpreted("check_all('cpu', 2, 'dense')")


@pytest.mark.slow
def test_samples_in_chunks_equal_the_reference() -> None:
    run_interpreted("check_chunks()")


def run_interpreted(check: str) -> None:
    """A call of a function of this module, in a process whose Triton interprets."""
    code = f"from tests.functional.kernels.test_network_triton import *; {check}"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1200, env=environment)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["triton", "dense"])
def test_kernels_on_the_gpu_equal_the_reference(backend):
    check_all("cuda", backend=backend)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float32_on_the_gpu_at_the_size_of_shd():
    torch.manual_seed(0)
    case = Case(num_steps=500, batch_size=16, sizes=(700, 300), num_classes=20, density=0.02, scale=0.05)
    expected = case.run(event_network_reference)
    out, times, grads = (move(part) for part in on(replace(case, dtype=torch.float32), "cuda").run(backend="triton"))
    assert_same((out.double(), times, [grad.double() for grad in grads]), expected, 1e-4)


def test_without_a_gpu_and_without_the_interpreter_it_says_so():
    case = Case()
    if os.environ.get("TRITON_INTERPRET") != "1":
        for backend in ("triton", "dense"):
            with pytest.raises(ValueError, match=f"the {backend} backend cannot be used: it runs on CUDA"):
                event_network(case.events, case.hidden, case.readout, backend=backend)


def test_spikes_of_hidden_layers_become_events() -> None:
    from ss_lightning.functional.kernels.network_triton import UnitSpikes, spike_events

    times = [torch.tensor([[2, 5, 0], [5, 5, 5]], dtype=torch.int32), torch.tensor([[2], [4]], dtype=torch.int32)]
    events = spike_events(times, 5)
    expected = torch.zeros(2, 5, 4)
    expected[0, 2, 0] = expected[0, 0, 2] = expected[0, 2, 3] = expected[1, 4, 3] = 1
    for low in (0, 1):
        units, offsets, stride = events.of_samples(low)
        found = torch.zeros(2 - low, 5, 4)
        for sample, step in itertools.product(range(2 - low), range(5)):
            row = sample * stride + step
            found[sample, step, units[offsets[row] : offsets[row + 1]].long()] += 1
        assert torch.equal(found, expected[low:])
        assert_rows(UnitSpikes(times, 5), expected, low)


def test_input_events_are_sorted_by_unit() -> None:
    from ss_lightning.functional.kernels.network_triton import UnitEvents

    counts = torch.poisson(torch.full((6, 3, 4), 0.4), generator=torch.Generator().manual_seed(0))
    counts[:, :, 2] = 0  # a unit without an event
    by_unit = UnitEvents(EventBatch.from_dense(counts))
    for low in range(3):
        assert_rows(by_unit, counts.transpose(0, 1), low)
    with pytest.raises(AssertionError):
        assert_rows(by_unit, counts.transpose(0, 1).flip(1), 0)


def assert_rows(by_unit, expected: torch.Tensor, low: int) -> None:
    """The events from sample ``low`` on, unit by unit, are those of ``[B, T, N]``."""
    samples, steps, units = expected.shape
    starts, stops, rows, first_row = by_unit.of_samples(low, samples)
    found = torch.zeros((samples - low) * steps, units)
    for unit in range(units):
        mine = rows.flatten()[starts[unit] : stops[unit]]
        mine = mine[mine >= 0] - first_row
        assert torch.equal(mine, mine.sort()[0])
        found[:, unit].index_add_(0, mine, torch.ones(len(mine)))
    assert torch.equal(found, expected[low:].reshape(-1, units))


class HostStalls(TorchDispatchMode):
    """Counts operations after which, on a card, the host must wait for a number or copies one of its own there."""

    STALLS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "bincount",
        "unique",
        "lift_fresh",
        "equal",
        "is_nonzero",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple)
        by_mask = masks and any(index is not None and index.dtype == torch.bool for index in args[1])
        sized = (kwargs or {}).get("output_size") is not None
        if (
            any(name.startswith(stall) for stall in self.STALLS)
            or by_mask
            or (name == "repeat_interleave" and not sized)
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_host_stalls_are_found() -> None:
    values = torch.arange(4)
    with HostStalls() as stalls:
        values[values > 1].sum().item()
        torch.tensor([1.0, 2.0])
        torch.repeat_interleave(values, values)
        torch.bincount(values)
    assert {"index", "_local_scalar_dense", "lift_fresh", "repeat_interleave", "bincount"} <= set(stalls.found)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter copies what it is given")
@pytest.mark.parametrize(("skip", "backend"), [(False, "triton"), (True, "triton"), (False, "dense")])
def test_a_step_never_waits_for_the_card(monkeypatch: pytest.MonkeyPatch, skip: bool, backend: str) -> None:
    """On tensors of the CPU and with launches left out: what is counted is the host's own code, forwards and back."""
    from triton.runtime.jit import JITFunction

    from ss_lightning.functional import backends
    from ss_lightning.functional.kernels import common_triton

    launches = []
    monkeypatch.setattr(JITFunction, "run", lambda self, *args, **options: launches.append(self.__name__))
    monkeypatch.setattr(common_triton, "INTERPRETED", True)
    monkeypatch.setattr(backends, "can_launch", lambda device: True)
    for name, zeros in (("empty", torch.zeros), ("empty_like", torch.zeros_like)):
        monkeypatch.setattr(torch, name, zeros)
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    case = Case(sizes=(6, 9, 7), bias_over_time=True, dropout=0.4, skip=skip)
    # A decay on the CPU is looked at, which on a card is left out.
    monkeypatch.setattr(network, "check_beta", lambda beta: None)

    def step() -> None:
        found = event_network(case.events, case.hidden, case.readout, skip=skip, backend=backend)
        torch.autograd.grad([found.membrane, *found.counts], case.parameters, [case.grad, *case.grad_counts])

    step()  # the first one copies the shape of the surrogate
    launches.clear()
    with HostStalls() as stalls:
        step()
    events = backend == "triton"
    assert launches.count("_layer_backward") == 1 + events
    assert launches.count("_weight_gradient") == 2 + events
    assert launches.count("_spike_forward") == launches.count("_spike_backward") == 1 - events
    assert stalls.found == []
