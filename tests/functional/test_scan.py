import pytest
import torch

from ss_lightning.functional import leaky_scan, leaky_scan_reference

SHAPES = [(1, 1, 1), (1, 3, 2), (2, 1, 5), (17, 4, 3), (33, 2, 7), (6, 2, 3, 4)]


def gradients(function, current, beta, weight):
    current, beta = current.clone().requires_grad_(), beta.clone().requires_grad_()
    out = function(current, beta)
    grads = torch.autograd.grad((out * weight).sum(), (current, beta), allow_unused=True)
    return out, *(g if g is not None else torch.zeros_like(x) for g, x in zip(grads, (current, beta), strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_neuron", [True, False])
def test_scan_and_gradients_equal_the_reference(shape, per_neuron):
    torch.manual_seed(len(shape) + shape[0])
    current, weight = torch.randn(2, *shape, dtype=torch.float64)
    beta = torch.rand(shape[-1] if per_neuron else (), dtype=torch.float64)
    fast = gradients(leaky_scan, current, beta, weight)
    slow = gradients(leaky_scan_reference, current, beta, weight)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_a_wrong_decay_does_not_match():
    current = torch.ones(5, 1, 1, dtype=torch.float64)
    wrong = leaky_scan(current, 0.8)
    assert not torch.allclose(wrong, leaky_scan_reference(current, 0.9))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_ends_of_the_decay(beta):
    current = torch.arange(1.0, 5.0).reshape(4, 1, 1)
    expected = current if beta == 0 else current.cumsum(0)
    torch.testing.assert_close(leaky_scan(current, beta), expected)


def test_input_of_any_strides_stays_unchanged():
    current = torch.randn(4, 3, 9, dtype=torch.float64).permute(2, 1, 0)
    before = current.clone()
    out = leaky_scan(current, 0.5)
    torch.testing.assert_close(out, leaky_scan_reference(current.contiguous(), 0.5))
    assert torch.equal(current, before)


def test_gradient_of_the_caller_stays_unchanged():
    current = torch.randn(5, 2, 3, requires_grad=True)
    grad = torch.ones(5, 2, 3)
    leaky_scan(current, 0.9).backward(grad)
    assert torch.equal(grad, torch.ones(5, 2, 3))


def test_a_compiler_sees_plain_operators(monkeypatch):
    """The path of torch.compile and torch.export, without compiling."""
    current = torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True)
    expected = leaky_scan(current, 0.7)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = leaky_scan(current, 0.7)
    assert "LeakyScan" in type(expected.grad_fn).__name__
    assert "LeakyScan" not in type(found.grad_fn).__name__
    torch.testing.assert_close(found, expected)
