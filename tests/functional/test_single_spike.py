import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss_lightning.functional import (
    ESTIMATORS,
    first_spike,
    first_spike_reference,
    first_spike_time,
    single_spike,
    single_spike_reference,
)
from ss_lightning.neurons import StandardSingleSpikeLeaky
from ss_lightning.surrogate import ATan, FastSigmoid, Triangle

SURROGATES = {
    "fast_sigmoid": FastSigmoid(10),
    "atan": ATan(2),
    "triangle": Triangle(0.5),
    "callable": lambda x: FastSigmoid(5)(x),
}


def results(function, current, beta, threshold, weight, **options):
    """Spikes and the gradients of a random linear loss with respect to current, beta and threshold."""
    leaves = [x.clone().requires_grad_() for x in (current, beta, threshold)]
    spikes = function(*leaves, **options)
    grads = torch.autograd.grad((spikes * weight).sum(), leaves, allow_unused=True)
    return spikes, *(g if g is not None else torch.zeros_like(x) for g, x in zip(grads, leaves, strict=True))


def assert_equal_to_reference(current, beta, threshold, estimator, surrogate=SURROGATES["fast_sigmoid"]):
    weight = torch.randn(current.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"estimator": estimator, "surrogate": surrogate}
    fast = results(single_spike, current, beta, threshold, weight, **options)
    slow = results(single_spike_reference, current, beta, threshold, weight, **options)
    assert torch.equal(fast[0], slow[0])
    for a, b in zip(fast[1:], slow[1:], strict=True):
        # The ramp's gradients grow like T^2, so the tolerance is relative to their size.
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-10)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(1, 40),
    batch=st.integers(1, 4),
    neurons=st.integers(1, 6),
    gain=st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    estimator=st.sampled_from(ESTIMATORS),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    per_neuron=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equal_to_reference(steps, batch, neurons, gain, estimator, surrogate, per_neuron, seed):
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(steps, batch, neurons, dtype=torch.float64, generator=generator) * gain
    shape = (neurons,) if per_neuron else ()
    beta = torch.rand(shape, dtype=torch.float64, generator=generator)
    threshold = 0.5 + torch.rand(shape, dtype=torch.float64, generator=generator)
    assert_equal_to_reference(current, beta, threshold, estimator, SURROGATES[surrogate])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("drive", [-1.0, 5.0], ids=["silent", "all firing"])
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_extremes(estimator, beta, drive, steps):
    current = torch.full((steps, 2, 3), drive, dtype=torch.float64)
    beta = torch.full((3,), beta, dtype=torch.float64)
    assert_equal_to_reference(current, beta, torch.tensor(1.0, dtype=torch.float64), estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_non_contiguous_input_and_more_axes(estimator):
    torch.manual_seed(0)
    current = torch.randn(3, 4, 2, 5, 11, dtype=torch.float64).permute(4, 0, 1, 3, 2)
    beta = torch.rand(5, 1, dtype=torch.float64)
    assert_equal_to_reference(current, beta, torch.ones(4, 1, 1, dtype=torch.float64), estimator)


def test_a_wrong_estimator_does_not_match():
    torch.manual_seed(0)
    current, weight = torch.randn(2, 20, 3, 4, dtype=torch.float64)
    beta, threshold = torch.tensor([0.9, 1.0], dtype=torch.float64)
    gradients = [
        results(single_spike, current, beta, threshold, weight, estimator=estimator)[1] for estimator in ESTIMATORS
    ]
    for i, a in enumerate(gradients):
        for b in gradients[i + 1 :]:
            assert not torch.allclose(a, b)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_first_spike_alone(estimator):
    torch.manual_seed(2)
    crossings = (torch.rand(15, 3, 4) < 0.2).double()
    weight = torch.randn(15, 3, 4, dtype=torch.float64)
    grads = []
    for function in (first_spike, first_spike_reference):
        leaf = crossings.clone().requires_grad_()
        spikes = function(leaf, estimator)
        grads.append((spikes, *torch.autograd.grad((spikes * weight).sum(), leaf)))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


class TestEquations:
    """The equations of the paper, each computed another way."""

    def test_spike_is_where_the_latency_code_is_one(self):
        torch.manual_seed(3)
        crossings = (torch.rand(30, 4, 5) < 0.3).double()
        latency = crossings.cumsum(0).cumsum(0)
        assert torch.equal(first_spike(crossings), (latency == 1).double())

    def test_ramp_gradient(self):
        steps, grad = 6, torch.tensor([0.3, -1.0, 2.0, 0.5, -0.2, 1.0], dtype=torch.float64)
        leaf = torch.zeros(steps, 1, 1, dtype=torch.float64, requires_grad=True)
        first_spike(leaf, "ramp").backward(grad.view(-1, 1, 1))
        expected = [sum((t - k + 1) * grad[t] for t in range(k, steps)) for k in range(steps)]
        torch.testing.assert_close(leaf.grad.flatten(), torch.stack(expected))

    def test_survival_gradient_is_that_of_the_first_passage_law(self):
        crossings = torch.tensor([0.0, 0, 1, 0, 1, 1], dtype=torch.float64, requires_grad=True)
        grad = torch.tensor([0.3, -1.0, 2.0, 0.5, -0.2, 1.0], dtype=torch.float64)
        law = torch.stack([crossings[t] * torch.prod(1 - crossings[:t]) for t in range(6)])
        (expected,) = torch.autograd.grad((law * grad).sum(), crossings)
        leaf = crossings.detach().view(-1, 1, 1).requires_grad_()
        first_spike(leaf, "survival").backward(grad.view(-1, 1, 1))
        torch.testing.assert_close(leaf.grad.flatten(), expected)

    def test_masked_gradient_is_that_of_the_standard_loop_and_no_other_is(self):
        torch.manual_seed(5)
        current = torch.randn(40, 3, 4, dtype=torch.float64) * 0.4
        beta = torch.rand(4, dtype=torch.float64)
        weight = torch.randn(40, 3, 4, dtype=torch.float64)

        def gradients(estimator):
            neuron = StandardSingleSpikeLeaky(beta, learn_beta=True, init_hidden=True, spike_grad=FastSigmoid(10))
            leaves = [current.clone().requires_grad_(), neuron.beta]
            if estimator == "standard":
                spikes = torch.stack([neuron(step) for step in leaves[0]])
            else:
                spikes = single_spike(*leaves, estimator=estimator)
            return spikes.detach(), *torch.autograd.grad((spikes * weight).sum(), leaves)

        expected = gradients("standard")
        assert expected[0].sum(0).unique().tolist() == [0, 1]
        for estimator in ESTIMATORS:
            found = gradients(estimator)
            assert torch.equal(found[0], expected[0])
            alike = [torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(found, expected, strict=True)]
            assert all(alike) == (estimator == "masked"), estimator

    def test_gain_of_the_ramp_grows_quadratically_and_survival_stays_bounded(self):
        gains = {}
        for estimator in ("ramp", "survival"):
            for steps in (64, 256):
                current = torch.full((steps, 1, 1), 0.2, dtype=torch.float64, requires_grad=True)
                single_spike(current, 0.0, estimator=estimator).sum().backward()
                gains[estimator, steps] = float(current.grad.abs().max())
        assert gains["ramp", 256] / gains["ramp", 64] == pytest.approx(16, rel=0.1)
        assert gains["survival", 256] == pytest.approx(gains["survival", 64])


class TestRules:
    def test_at_most_one_spike(self):
        torch.manual_seed(4)
        spikes = single_spike(torch.randn(200, 5, 6) * 2, 0.9)
        assert spikes.sum(0).max() == 1
        assert spikes.unique().tolist() == [0, 1]

    def test_threshold_is_strict(self):
        at = single_spike(torch.ones(3, 1, 1), 0.0)
        above = single_spike(torch.full((3, 1, 1), math.nextafter(1.0, 2.0), dtype=torch.float64), 0.0)
        assert at.sum() == 0
        assert above.flatten().tolist() == [1, 0, 0]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_shape_and_dtype_are_those_of_the_current(self, dtype):
        current = torch.full((7, 2, 3), 0.5, dtype=dtype, requires_grad=True)
        beta = torch.full((3,), 0.9)
        spikes = single_spike(current, beta)
        assert (spikes.dtype, spikes.shape) == (dtype, current.shape)
        spikes.float().sum().backward()
        assert current.grad.dtype == dtype

    def test_first_spike_time_is_the_length_for_silent_neurons(self):
        spikes = torch.zeros(6, 1, 3)
        spikes[4, 0, 1] = 1
        spikes[0, 0, 2] = 1
        assert first_spike_time(spikes).tolist() == [[6, 4, 0]]

    @pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan"), torch.tensor([0.5, 1.5])])
    def test_beta_outside_is_refused(self, beta):
        with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
            single_spike(torch.zeros(3, 1, 2), beta)

    @pytest.mark.parametrize("shape", [(0, 2, 3), (5,)])
    def test_no_time_axis_is_refused(self, shape):
        with pytest.raises(ValueError, match="time-major"):
            single_spike(torch.zeros(shape), 0.5)

    def test_unknown_estimator_is_refused(self):
        with pytest.raises(ValueError, match="choose one of ramp, survival, flat, masked"):
            single_spike(torch.zeros(3, 1, 2), 0.5, estimator="rmap")

    @pytest.mark.slow
    def test_work_is_linear_in_the_length(self):
        """Counted, not timed: the number of operators grows by the same amount for each further step."""

        def operators(steps):
            current = torch.zeros(steps, 2, 3, requires_grad=True)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                single_spike(current, 0.5, backend="torch").sum().backward()
            return sum(event.count for event in profile.key_averages())

        a, b, c = operators(20), operators(40), operators(60)
        assert c - b == pytest.approx(b - a, rel=0.2)
