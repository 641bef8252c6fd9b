"""The numba kernels for a dense current."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core.errors import TypingError
from torch import Tensor

from ss_lightning.functional.kernels import dense_numba as kernels
from ss_lightning.functional.single_spike import single_spike, single_spike_reference
from ss_lightning.surrogate import ATan, FastSigmoid, Surrogate, Triangle

ESTIMATORS = ["ramp", "survival", "flat", "masked"]


def results(function, tensors: list[Tensor], grad: Tensor, **options) -> list[Tensor]:
    """Spikes and the gradients of current, beta and threshold."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    spikes = function(*leaves, **options)
    return [spikes.detach(), *torch.autograd.grad(spikes, leaves, grad, materialize_grads=True)]


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    steps=st.integers(1, 40),
    batch=st.integers(1, 3),
    neurons=st.sampled_from([1, 3, 16, 17, 300]),
    scale=st.sampled_from([1e-3, 0.4, 3.0]),
    beta=st.sampled_from([None, 0.0, 1.0]),
    scalars=st.booleans(),
    surrogate=st.sampled_from([FastSigmoid(10), ATan(2), Triangle(1)]),
    estimator=st.sampled_from(ESTIMATORS),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_dense_equals_reference(
    steps: int,
    batch: int,
    neurons: int,
    scale: float,
    beta: float | None,
    scalars: bool,
    surrogate: Surrogate,
    estimator: str,
    threads: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    shape = () if scalars else (neurons,)
    tensors = [
        scale * (uniform(steps, batch, neurons) * 2 - 1),
        uniform(*shape) if beta is None else torch.full(shape, beta, dtype=torch.float64),
        uniform(*shape),
    ]
    grad = uniform(steps, batch, neurons) - 0.5
    options = {"surrogate": surrogate, "estimator": estimator}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = results(single_spike, tensors, grad, backend="numba", **options)
    finally:
        torch.set_num_threads(before)
    for value, expected in zip(found, results(single_spike_reference, tensors, grad, **options), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_dense_equals_the_torch_path_in_float32(estimator: str) -> None:
    """Spikes equal bit for bit; gradients within 1e-5 of the largest."""
    torch.manual_seed(0)
    tensors = [torch.randn(90, 5, 250) * 0.4, torch.rand(250), torch.rand(250) + 0.5]
    grad = torch.randn(90, 5, 250)
    found = results(single_spike, tensors, grad, estimator=estimator, backend="numba")
    expected = results(single_spike, tensors, grad, estimator=estimator, backend="torch")
    assert torch.equal(found[0], expected[0])
    for value, reference in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-5 * reference.abs().max().item())


@pytest.mark.parametrize("columns", [32768, 32776, 33001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_gradients_go_past_the_caches_unchanged(columns: int, dtype: torch.dtype) -> None:
    """With whole cache lines they are written in another way than small or crooked ones."""
    steps = 2 + kernels._STREAM_BYTES // (4 * columns)
    torch.manual_seed(0)
    tensors = [torch.randn(steps, 1, columns) * 0.4, torch.tensor(0.9), torch.tensor(1.0)]
    tensors, grad = [tensor.to(dtype) for tensor in tensors], torch.randn(steps, 1, columns, dtype=dtype)
    found = results(single_spike, tensors, grad, estimator="survival", backend="numba")
    expected = results(single_spike, tensors, grad, estimator="survival", backend="torch")
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5 * expected[1].abs().max().item())


def test_vector_code_refuses_what_it_would_read_wrongly() -> None:
    @njit
    def cross(current, offset):
        kernels._cross(current, offset, 1, np.zeros(kernels._STATE_SIZE, np.float32), 0, 0, 0, 1)

    with pytest.raises(TypingError, match="one dtype"):
        cross(np.zeros(64), 0)
    with pytest.raises(TypingError, match="integers"):
        cross(np.zeros(64, np.float32), 0.0)


def test_dense_takes_any_strides_and_more_axes() -> None:
    torch.manual_seed(0)
    current = torch.randn(4, 11, 2, 6).transpose(0, 1).requires_grad_()
    found = single_spike(current, 0.8, backend="numba")
    assert torch.equal(found, single_spike(current, 0.8, backend="torch"))
    found.sum().backward()
    assert current.grad is None or current.grad.shape == current.shape
    empty = torch.zeros(5, 0, 3, requires_grad=True)
    single_spike(empty, 0.8, backend="numba").sum().backward()
    assert empty.grad.shape == empty.shape


def test_dense_without_gradient_gives_the_same_and_keeps_nothing() -> None:
    torch.manual_seed(0)
    current = torch.randn(50, 3, 700)
    with torch.no_grad():
        spikes = single_spike(current, 0.9, backend="numba")
    assert torch.equal(spikes, single_spike(current.requires_grad_(), 0.9, backend="numba"))
    columns = current.detach().view(50, -1)
    vector = torch.full((columns.shape[1],), 0.9)
    _, (_, _, kept) = kernels.dense_forward(columns, vector, vector, keep=False)
    assert kept.numel() == 0


def test_dense_refuses_what_it_cannot_do() -> None:
    current = torch.zeros(3, 1, 2)
    with pytest.raises(ValueError, match="one dtype"):
        single_spike(current.double(), torch.tensor(0.5, dtype=torch.float32), backend="numba")
    with pytest.raises(ValueError, match="float32 or float64"):
        single_spike(current.half(), 0.5, backend="numba")
    with pytest.raises(ValueError, match="surrogates of ss_lightning"):
        single_spike(current, 0.5, surrogate=lambda x: x, backend="numba")
