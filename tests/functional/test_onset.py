"""A threshold that falls, as a current: against the comparison with the threshold itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss_lightning.functional.first_spike import first_spike
from ss_lightning.functional.onset import raised_threshold, threshold_current
from ss_lightning.functional.scan import leaky_scan_reference
from ss_lightning.functional.single_spike import single_spike
from ss_lightning.surrogate import FastSigmoid

SURROGATE = FastSigmoid(10)


def case(num_steps, batch, size, seed):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    current, beta, threshold = rand(num_steps, batch, size) - 0.2, rand(size), 0.5 + rand(size)
    onset = (rand(size) * 1.5 - 0.25) * num_steps
    inputs = [tensor.requires_grad_() for tensor in (current, beta, threshold, onset)]
    return inputs, rand(num_steps, batch, size)


def by_threshold(current, beta, threshold, onset, estimator):
    """The definition: the membrane against a threshold of every step."""
    raised = raised_threshold(onset, len(current), 0.1)
    membrane = leaky_scan_reference(current, beta)
    return first_spike(SURROGATE(membrane - (threshold + raised)[:, None]), estimator)


def by_current(current, beta, threshold, onset, estimator):
    raised = raised_threshold(onset, len(current), 0.1)
    current = current + threshold_current(raised, beta)[:, None]
    return single_spike(current, beta, threshold, surrogate=SURROGATE, estimator=estimator)


@settings(deadline=None, max_examples=60)
@given(
    num_steps=st.integers(1, 17), batch=st.integers(1, 3), size=st.integers(1, 7), seed=st.integers(0, 999),
    estimator=st.sampled_from(["ramp", "survival", "flat", "masked"]),
)  # fmt: skip
def test_a_current_does_what_the_threshold_does(num_steps, batch, size, seed, estimator):
    inputs, grad = case(num_steps, batch, size, seed)
    expected, found = by_threshold(*inputs, estimator), by_current(*inputs, estimator)
    assert torch.equal(found, expected)
    assert found.sum(0).max() <= 1
    for one, other in zip(
        *(torch.autograd.grad(out, inputs, grad, materialize_grads=True) for out in (expected, found)), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10)


def test_a_wrong_onset_does_not_match():
    inputs, _ = case(30, 4, 20, 0)
    expected = by_threshold(*inputs, "ramp")
    assert expected.sum() > 0
    inputs[3] = inputs[3] + 3
    assert not torch.equal(by_current(*inputs, "ramp"), expected)


@pytest.mark.parametrize("onset", [0.0, -3.0])
def test_no_onset_changes_nothing(onset):
    raised = raised_threshold(torch.full((3,), onset), 5, 0.1)
    assert torch.equal(threshold_current(raised, torch.tensor(0.9)), torch.zeros(5, 3))
