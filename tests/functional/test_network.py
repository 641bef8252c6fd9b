"""event_network: every backend against plain autograd, and what makes the event path cheap."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ss_lightning.events import EventBatch
from ss_lightning.functional import backends
from ss_lightning.functional.network import (
    ReadoutLayer,
    SpikingLayer,
    event_network,
    event_network_reference,
)
from ss_lightning.surrogate import ATan, FastSigmoid, Surrogate, Triangle


@dataclass
class Case:
    """A small random network, its input and the gradient that arrives at its output."""

    num_steps: int = 12
    batch_size: int = 3
    sizes: tuple[int, ...] = (6, 9)
    num_classes: int = 3
    density: float = 0.3
    scale: float = 1.0
    threshold: float = 0.5
    beta: float | None = None
    scalars: bool = False
    bias: bool = True
    bias_over_time: bool = False
    dropout: float = 0.0
    skip: bool = False
    dtype: torch.dtype = torch.float64
    seed: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def parameter(value: Tensor) -> Tensor:
            return value.to(self.dtype).requires_grad_()

        def beta(size: int) -> Tensor:
            shape = () if self.scalars else (size,)
            value = torch.rand(shape, generator=generator, dtype=torch.float64)
            return parameter(value if self.beta is None else torch.full(shape, self.beta))

        counts = torch.poisson(
            torch.full((self.num_steps, self.batch_size, self.sizes[0]), self.density), generator=generator
        )
        counts[:, 0] = 0  # one sample without a single event
        self.events = EventBatch.from_dense(counts)
        self.hidden, inputs = [], self.sizes[0]
        steps = (self.num_steps,) if self.bias_over_time else ()
        for i, size in enumerate(self.sizes[1:], 1):
            self.hidden.append(
                SpikingLayer(
                    parameter(self.scale * normal(size, inputs)),
                    parameter(0.1 * normal(*steps, size)) if self.bias else None,
                    beta(size),
                    parameter(self.threshold + 0.1 * normal(*(() if self.scalars else (size,)))),
                    torch.rand(self.batch_size, size, generator=generator) >= self.dropout if self.dropout else None,
                )
            )
            inputs = sum(self.sizes[1 : i + 1]) if self.skip else size
        classes = self.num_classes
        self.readout = ReadoutLayer(
            parameter(normal(classes, inputs)),
            parameter(normal(classes)) if self.bias else None,
            beta(classes),
        )
        self.grad = normal(self.num_steps, self.batch_size, classes).to(self.dtype)
        self.grad_counts = [normal(self.batch_size, size).to(self.dtype) for size in self.sizes[1:]]

    @property
    def parameters(self) -> list[Tensor]:
        layers = [*(layer[:4] for layer in self.hidden), self.readout]
        return [value for layer in layers for value in layer if value is not None]

    def run(self, function=event_network, counts=True, **options) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Output, first spike times and the gradient of every parameter (zero where it is unused)."""
        out, times, spikes = function(self.events, self.hidden, self.readout, skip=self.skip, **options)
        for count, time in zip(spikes, times, strict=True):
            assert torch.equal(count, (time < self.num_steps).to(self.dtype))
        outputs, grads = ([out, *spikes], [self.grad, *self.grad_counts]) if counts else ([out], [self.grad])
        found = torch.autograd.grad(outputs, self.parameters, grads, materialize_grads=True)
        return out.detach(), times, list(found)


def assert_same(found, expected, tolerance: float) -> None:
    """Equal spike times; outputs and gradients within a tolerance relative to the largest entry of each tensor."""
    for time, expected_time in zip(found[1], expected[1], strict=True):
        assert time.dtype == torch.int64
        assert torch.equal(time, expected_time)
    for value, reference in zip((found[0], *found[2]), (expected[0], *expected[2]), strict=True):
        assert value.dtype == reference.dtype
        assert value.shape == reference.shape
        scale = max(reference.abs().max().item(), 1.0)
        torch.testing.assert_close(value, reference, rtol=0, atol=tolerance * scale)


@pytest.fixture
def threads():
    """Set torch's thread count and restore it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


cases = st.builds(
    Case,
    num_steps=st.integers(1, 13),
    batch_size=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 19), min_size=2, max_size=4).map(tuple),
    num_classes=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.05, 0.5]),
    scale=st.sampled_from([1e-3, 0.3, 1.0]),
    threshold=st.sampled_from([-0.5, 0.5, 2.0]),
    beta=st.sampled_from([None, 0.0, 1.0]),
    scalars=st.booleans(),
    bias=st.booleans(),
    bias_over_time=st.booleans(),
    dropout=st.sampled_from([0.0, 0.0, 0.4]),
    skip=st.booleans(),
    seed=st.integers(0, 2**16),
)
surrogates = st.sampled_from([FastSigmoid(10), ATan(2), Triangle(1)])
estimators = st.sampled_from(["ramp", "survival", "flat", "masked"])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "numba"])
@settings(deadline=None, max_examples=150)
@given(case=cases, surrogate=surrogates, estimator=estimators, counts=st.booleans(), num_threads=st.integers(1, 3))
def test_equals_reference(
    backend: str, case: Case, surrogate: Surrogate, estimator: str, counts: bool, num_threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = case.run(surrogate=surrogate, estimator=estimator, counts=counts, backend=backend)
    finally:
        torch.set_num_threads(before)
    expected = case.run(event_network_reference, surrogate=surrogate, estimator=estimator, counts=counts)
    assert_same(found, expected, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["ramp", "survival", "flat", "masked"])
@pytest.mark.parametrize("skip", [False, True])
def test_many_blocks_and_groups(estimator: str, skip: bool) -> None:
    """Layers wider than one block of neurons, several samples to a group and several chunks of samples."""
    case = Case(
        num_steps=70, batch_size=9, sizes=(300, 700, 530), density=0.02, scale=0.3, skip=skip,
        bias_over_time=skip, dropout=0.3,
    )  # fmt: skip
    found = case.run(estimator=estimator, backend="numba")
    assert_same(found, case.run(event_network_reference, estimator=estimator), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("estimator", ["ramp", "survival", "flat", "masked"])
def test_float32(backend: str, estimator: str) -> None:
    """float32 within 1e-4 of the float64 reference, relative to the largest entry of each tensor."""
    case = Case(num_steps=100, batch_size=8, sizes=(50, 120, 70), density=0.05, scale=0.2, seed=1)
    single = Case(**{**vars_of(case), "dtype": torch.float32})
    out, times, grads = single.run(estimator=estimator, backend=backend)
    expected = case.run(event_network_reference, estimator=estimator)
    found = (out.double(), times, [grad.double() for grad in grads])
    assert_same(found, expected, 1e-4)


def vars_of(case: Case) -> dict:
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_wrong_beta_does_not_match(backend: str) -> None:
    """A negative control: the comparison above must notice one decay that is off by a thousandth."""
    case = Case(beta=0.9)
    expected = case.run(event_network_reference)
    with torch.no_grad():
        case.hidden[0].beta[0] += 1e-3
    with pytest.raises(AssertionError):
        assert_same(case.run(backend=backend), expected, 1e-10)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_no_grad_gives_the_same(backend: str) -> None:
    case = Case(num_steps=40, sizes=(20, 30, 30), batch_size=5)
    out, times, _ = case.run(backend=backend)
    with torch.no_grad():
        again, again_times, _ = event_network(case.events, case.hidden, case.readout, backend=backend)
    assert not again.requires_grad
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(times, again_times, strict=True))


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(
    "learns",
    [
        lambda c: [c.readout.weight],
        lambda c: [c.readout.beta, c.hidden[2].beta],
        lambda c: [c.hidden[1].threshold],
        lambda c: [c.hidden[0].weight, c.hidden[1].bias],
    ],
)
def test_only_what_learns_gets_a_gradient(backend: str, learns) -> None:
    case = Case(sizes=(6, 9, 8, 7))
    wanted = dict(zip(map(id, case.parameters), case.run(event_network_reference, counts=False)[2], strict=True))
    for value in case.parameters:
        value.requires_grad_(any(value is member for member in learns(case)))
    out, _, _ = event_network(case.events, case.hidden, case.readout, backend=backend)
    out.backward(case.grad)
    for value in case.parameters:
        assert (value.grad is None) == (not value.requires_grad)
        if value.grad is not None:
            torch.testing.assert_close(value.grad, wanted[id(value)], rtol=1e-10, atol=1e-10)


def test_same_thread_count_gives_the_same_bits(threads) -> None:
    case = Case(num_steps=50, batch_size=7, sizes=(40, 60), dtype=torch.float32)
    for count in (1, 2, 5):
        threads(count)
        first, second = case.run(backend="numba"), case.run(backend="numba")
        assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))


def test_forward_keeps_nothing_of_the_size_of_the_membrane() -> None:
    case = Case(num_steps=400, batch_size=6, sizes=(30, 50, 50), num_classes=2)
    full = case.num_steps * case.batch_size * 50
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        event_network(case.events, case.hidden, case.readout, backend="numba")
    parameters = sum(value.numel() for value in case.parameters)
    times = case.batch_size * 100
    output = case.num_steps * case.batch_size * case.num_classes
    assert sum(saved) <= parameters + times + output + 2 * 50
    assert max(saved) < full


def test_auto_falls_back_for_other_surrogates() -> None:
    case = Case()
    surrogate = FastSigmoid(10)
    expected = case.run(surrogate=surrogate, backend="numba")
    assert_same(case.run(surrogate=lambda x: surrogate(x)), expected, 1e-10)
    with pytest.raises(ValueError, match="surrogates of ss_lightning"):
        case.run(surrogate=lambda x: surrogate(x), backend="numba")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.hidden.clear(), "at least one hidden layer"),
        (lambda c: replace(c, weight=torch.zeros(9, 5, dtype=torch.float64)), r"hidden layer 0: weight .* 6"),
        (lambda c: replace(c, bias=torch.zeros(8, dtype=torch.float64)), r"bias must have the shape \[9\]"),
        (lambda c: replace(c, beta=torch.full((9,), 1.5, dtype=torch.float64)), "beta must lie in"),
        (lambda c: replace(c, threshold=torch.zeros(9)), "threshold is torch.float32"),
    ],
)
def test_refuses_what_does_not_fit(change, message: str) -> None:
    case = Case()
    change(case)
    with pytest.raises(ValueError, match=message):
        event_network(case.events, case.hidden, case.readout)


def test_refuses_a_keep_that_does_not_fit() -> None:
    case = Case()
    for keep in (torch.ones(3, 8, dtype=torch.bool), torch.ones(3, 9)):
        replace(case, keep=keep)
        with pytest.raises(ValueError, match=r"hidden layer 0: keep must be bool \[3, 9\]"):
            event_network(case.events, case.hidden, case.readout)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("what", ["bias", "keep", "counts"])
def test_wrong_step_sample_or_count_does_not_match(backend: str, what: str) -> None:
    """A negative control of what changes over time, is left out, or counts."""
    case = Case(bias_over_time=True, dropout=0.5, threshold=0.2)
    expected = case.run(event_network_reference)
    if what == "bias":
        with torch.no_grad():
            case.hidden[0].bias[5] += 1e-3
    elif what == "keep":
        case.hidden[0].keep.logical_not_()
    else:
        case.grad_counts[0] += 1e-3
    with pytest.raises(AssertionError):
        assert_same(case.run(backend=backend), expected, 1e-10)


def replace(case: Case, **fields: Tensor) -> None:
    case.hidden[0] = case.hidden[0]._replace(**fields)


def test_refuses_unknown_words() -> None:
    case = Case()
    with pytest.raises(ValueError, match="unknown backend"):
        case.run(backend="jax")
    with pytest.raises(ValueError, match="unknown estimator"):
        case.run(estimator="none")


@pytest.mark.parametrize("unit", [-1, 6])
def test_refuses_units_beyond_the_weights(unit: int) -> None:
    case = Case()
    case.events.units[3] = unit
    with pytest.raises(ValueError, match="name units"):
        event_network(case.events, case.hidden, case.readout, backend="numba")


FORKED = """
import os, torch
from tests.functional.test_network import Case
torch.set_num_threads(2)
case = Case()
case.run(backend="numba")
child = os.fork()
if child == 0:
    case.run(backend="numba")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_works_after_a_fork() -> None:
    """The thread pool belongs to one process: a child must not wait for threads it does not have."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=600)


def test_plain_torch_takes_no_kernel(monkeypatch):
    """Not even for the neurons of a layer: a machine without numba and Triton must be able to compute with it."""

    def none(*args, **options):
        raise AssertionError("kernels were asked for")

    monkeypatch.setattr(backends, "import_kernels", none)
    case = Case(sizes=(6, 9, 7))
    assert_same(case.run(backend="torch"), case.run(event_network_reference), 1e-12)
    with pytest.raises(AssertionError, match="kernels were asked for"):
        case.run(backend="auto")
