"""The Triton kernels of a dense current and of the leaky scan, interpreted on the CPU, against plain autograd."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ss_lightning.functional import leaky_scan, leaky_scan_reference, single_spike, single_spike_reference
from ss_lightning.surrogate import ATan, FastSigmoid, Triangle

pytest.importorskip("triton")

ESTIMATORS = ["ramp", "survival", "flat", "masked"]
SURROGATES = [FastSigmoid(10), ATan(2), Triangle(1)]
# A chunk has 8 steps and a program 64 columns: parts of both, whole ones, and more than one.
SIZES = [*itertools.product((1, 17, 33), (1, 63, 130)), (8, 64), (16, 65)]


def results(function: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor, **options: Any) -> list[Tensor]:
    """What a function returns and the gradients of the tensors that it takes."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = function(*leaves, **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad, materialize_grads=True)]


def random_tensors(num_steps: int, columns: int, device: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Current, beta, threshold and a gradient; most neurons fire, many of them cross more than once."""
    generator = torch.Generator().manual_seed(100 * num_steps + columns)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shape = (num_steps, 1, columns)
    tensors = normal(*shape) / 2, normal(columns).sigmoid(), normal(columns).abs() + 0.1, normal(*shape)
    return [tensor.to(device, dtype) for tensor in tensors]


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """The first ones equal, the others within a tolerance relative to the largest entry."""
    assert torch.equal(found[0], expected[0])
    for value, reference in zip(found[1:], expected[1:], strict=True):
        assert value.dtype == reference.dtype
        torch.testing.assert_close(value, reference, rtol=0, atol=tolerance * max(1.0, reference.abs().max().item()))


def check_neuron(device: str) -> None:
    """Spikes equal and all gradients to 1e-12, at every size; a wrong threshold and a wrong gradient must not pass."""
    pairs = list(itertools.product(ESTIMATORS, SURROGATES))
    for number, (num_steps, columns) in enumerate(SIZES):
        *tensors, grad = random_tensors(num_steps, columns, device)
        full = (num_steps, columns) == (33, 130)
        for estimator, surrogate in pairs if full else pairs[number % 4 :: 4]:
            options: dict[str, Any] = {"surrogate": surrogate, "estimator": estimator}
            found = results(single_spike, tensors, grad, backend="triton", **options)
            expected = results(single_spike_reference, tensors, grad, **options)
            assert_close(found, expected, 1e-12)
    fired = found[0].any(0).double().mean()
    assert fired > 0.2, "a test in which nothing fires proves nothing"
    *tensors, grad = random_tensors(33, 130, device)
    expected = results(single_spike_reference, tensors, grad)
    for fault in (0, 1, 2):
        wrong = [tensor.clone() for tensor in tensors]
        wrong[fault].view(-1)[-1] += 1e-3
        with pytest.raises(AssertionError):
            assert_close(results(single_spike, wrong, grad, backend="triton"), expected, 1e-12)
    grad[-1, 0, -1] += 1e-3
    with pytest.raises(AssertionError):
        assert_close(results(single_spike, tensors, grad, backend="triton"), expected, 1e-12)


def check_leaky_scan(device: str) -> None:
    """The membrane equal and both gradients to 1e-12; a decay that is off by 1e-3 must not pass."""
    for num_steps, columns in SIZES:
        current, beta, _, grad = random_tensors(num_steps, columns, device)
        expected = results(leaky_scan_reference, [current, beta], grad)
        assert_close(results(leaky_scan, [current, beta], grad, backend="triton"), expected, 1e-12)
    with pytest.raises(AssertionError):
        assert_close(results(leaky_scan, [current, beta + 1e-3], grad, backend="triton"), expected, 1e-12)
    # Without a gradient of beta, which needs no membrane; and a beta for all neurons.
    current.requires_grad_()
    for decay in (0.9, torch.tensor(0.9, dtype=current.dtype, device=device, requires_grad=True)):
        leaves = [current, *([decay] if isinstance(decay, Tensor) else [])]
        pairs = [
            torch.autograd.grad(out, leaves, grad)
            for out in (leaky_scan(current, decay, backend="triton"), leaky_scan_reference(current, decay))
        ]
        for value, reference in zip(*pairs, strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)


def check_layouts(device: str) -> None:
    """Any strides, more axes, no samples, float32, and both functions without a gradient."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(4, 11, 2, 6, generator=generator).to(device).transpose(0, 1)
    for function, options in ((single_spike, {"threshold": 0.5}), (leaky_scan, {})):
        expected = function(current, 0.8, backend="torch", **options)
        assert torch.equal(function(current, 0.8, backend="triton", **options), expected)
        leaf = current.detach().requires_grad_()
        out = function(leaf, 0.8, backend="triton", **options)
        assert torch.equal(out, expected)
        out.sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.shape == current.shape
        empty = torch.zeros(5, 0, 3, device=device, requires_grad=True)
        function(empty, 0.8, backend="triton").sum().backward()
        assert empty.grad is not None
        assert empty.grad.shape == empty.shape
    images = torch.randn(9, 2, 3, 4, 4, generator=generator).to(device)
    ordered = images.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # channels last
    threshold = torch.rand(3, 1, 1, generator=generator).to(device)
    assert torch.equal(single_spike(ordered, 0.9, threshold, backend="triton"), single_spike(images, 0.9, threshold))


CHECKS = [check_neuron, check_leaky_scan, check_layouts]


@pytest.mark.slow
def test_interpreted_kernels_equal_the_reference() -> None:
    names = [check.__name__ for check in CHECKS]
    code = (
        f"import tests.functional.kernels.test_scan_triton as module\nfor name in {names}: getattr(module, name)('cpu')"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1200, env=environment)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CHECKS)
def test_kernels_on_the_gpu_equal_the_reference(check: Callable[[str], None]) -> None:
    check("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_repeated_run_on_the_gpu_gives_the_same_bits() -> None:
    *tensors, grad = random_tensors(500, 3000, "cuda", torch.float32)
    first, second = (results(single_spike, tensors, grad, backend="triton") for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_what_the_kernels_cannot_do_is_said() -> None:
    current = torch.zeros(3, 1, 2)
    for function in (single_spike, leaky_scan):
        with pytest.raises(ValueError, match=r"one dtype|of its dtype"):
            function(current, torch.tensor(0.5, dtype=torch.float64), backend="triton")
        if os.environ.get("TRITON_INTERPRET") != "1":
            with pytest.raises(ValueError, match="it runs on CUDA"):
                function(current, 0.5, backend="triton")
    with pytest.raises(ValueError, match="at least one step"):
        leaky_scan(torch.zeros(0, 1, 2), 0.5, backend="triton")
    with pytest.raises(ValueError, match=r"numba backend cannot be used: it has no kernels for this work \(scan\)"):
        leaky_scan(current, 0.5, backend="numba")
