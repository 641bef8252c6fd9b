import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss_lightning.events import EventBatch
from ss_lightning.functional import delays, event_linear, single_spike
from ss_lightning.functional.delays import (
    delay_bump,
    delay_taps,
    delayed_events,
    delayed_linear,
    delayed_linear_reference,
)
from ss_lightning.functional.network import ReadoutLayer, SpikingLayer, event_network

WIDTHS = (0, 1, 1.5, 2, 3.7, 5.3)


def some_delays(shape, max_delay, seed=0):
    """Everywhere in the range, a third of them on whole steps and a third on the borders."""
    generator = torch.Generator().manual_seed(seed)
    delay = torch.rand(shape, dtype=torch.float64, generator=generator) * max_delay
    kind = torch.randint(0, 3, shape, generator=generator)
    border = torch.randint(0, 2, shape, generator=generator) * max_delay
    return torch.where(kind == 0, delay, torch.where(kind == 1, delay.round(), border.double()))


def problem(steps, batch, inputs, outputs, *, per_synapse, max_delay, density=0.3, graded=False, seed=0):
    """Spikes, weight, delay and bias."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    spikes = (torch.rand(steps, batch, inputs, generator=generator) < density).double()
    if graded:
        spikes = spikes * normal(steps, batch, inputs)
    delay = some_delays((outputs, inputs) if per_synapse else (inputs,), max_delay, seed)
    return spikes, normal(outputs, inputs), delay, normal(outputs)


def results(function, spikes, *parameters, **options):
    """Current, and its gradients to all that is differentiable; None where there is no gradient."""
    tensors = [x for x in (spikes, *parameters) if isinstance(x, torch.Tensor)]
    leaves = [x.clone().requires_grad_() for x in tensors]
    arguments = leaves if isinstance(spikes, torch.Tensor) else [spikes, *leaves]
    current = function(*arguments, **options)
    target = torch.randn(current.shape, dtype=current.dtype, generator=torch.Generator().manual_seed(1))
    return (current, *torch.autograd.grad((current * target).sum(), leaves, allow_unused=True))


def assert_equal(fast, slow):
    for a, b in zip(fast, slow, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    steps=st.integers(1, 12),
    batch=st.integers(1, 3),
    inputs=st.sampled_from([1, 2, 5, 17]),
    outputs=st.sampled_from([1, 3, 16, 19]),
    max_delay=st.integers(0, 13),
    width=st.sampled_from(WIDTHS),
    per_synapse=st.booleans(),
    kind=st.sampled_from(["events", "spikes", "graded"]),
    density=st.sampled_from([0.0, 0.2, 1.0]),
    backend=st.sampled_from(["numba", "torch"]),
    with_bias=st.booleans(),
    sparse=st.booleans(),
    seed=st.integers(0, 100),
)
def test_equal_to_reference(
    steps, batch, inputs, outputs, max_delay, width, per_synapse, kind, density, backend, with_bias, sparse, seed
):
    spikes, weight, delay, bias = problem(
        steps,
        batch,
        inputs,
        outputs,
        per_synapse=per_synapse,
        max_delay=max_delay,
        density=density,
        graded=kind == "graded",
        seed=seed,
    )
    given_spikes = EventBatch.from_dense(spikes) if kind == "events" else spikes
    parameters = (weight, delay, bias) if with_bias else (weight, delay)
    options = {"width": width, "max_delay": max_delay}
    with pytest.MonkeyPatch.context() as patch:
        # Axonal delays have one way for sparse and one for dense input: both must be right for any.
        patch.setattr(delays, "_DENSE_FROM", math.inf if sparse else 0.0)
        fast = results(delayed_linear, given_spikes, *parameters, backend=backend, **options)
    assert fast[0].shape == (steps, batch, outputs)
    assert_equal(fast, results(delayed_linear_reference, given_spikes, *parameters, **options))


@pytest.mark.parametrize("per_synapse", [False, True], ids=["axonal", "per synapse"])
@pytest.mark.parametrize("budget", [1, 10_000], ids=["one sample a group", "some samples a group"])
@pytest.mark.parametrize("dense_from", [0, math.inf], ids=["dense way", "sparse way"])
def test_groups_and_threads(per_synapse, budget, dense_from, monkeypatch):
    from ss_lightning.functional.kernels import delays_numba

    monkeypatch.setattr(delays_numba, "_ROWS_BYTES", budget)
    monkeypatch.setattr(delays_numba, "_TIME_BYTES", budget // 16)
    monkeypatch.setattr(delays, "_DENSE_FROM", dense_from)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    arguments = problem(21, 11, 6, 18, per_synapse=per_synapse, max_delay=5, graded=True)
    options = {"width": 2.5, "max_delay": 5}
    assert_equal(
        results(delayed_linear, *arguments, backend="numba", **options),
        results(delayed_linear_reference, *arguments, **options),
    )


def test_units_that_fire_twice_in_a_step_count_twice():
    spikes, *parameters = problem(9, 2, 4, 3, per_synapse=True, max_delay=3)
    counts = spikes * torch.randint(1, 4, spikes.shape, generator=torch.Generator().manual_seed(0))
    options = {"width": 1, "max_delay": 3}
    fast = results(delayed_linear, EventBatch.from_dense(counts), *parameters, **options)
    current, _, *gradients = results(delayed_linear_reference, counts, *parameters, **options)
    assert_equal(fast, [current, *gradients])


@pytest.mark.parametrize("per_synapse", [False, True], ids=["axonal", "per synapse"])
def test_wrong_delays_do_not_match(per_synapse):
    """The comparison above would notice a delay that is off by a little, another width, and one delay for another."""
    spikes, weight, delay, bias = problem(12, 2, 5, 3, per_synapse=per_synapse, max_delay=6)
    delay = delay * 0.9
    slow = results(delayed_linear_reference, spikes, weight, delay, bias, width=2, max_delay=6)
    for wrong_delay, width in ((delay + 1e-6, 2), (delay, 1), (delay.flip(-1), 2)):
        fast = results(delayed_linear, spikes, weight, wrong_delay, bias, width=width, max_delay=6)
        for index in (0, 1, 2, 3):
            assert not torch.allclose(fast[index], slow[index], rtol=0, atol=1e-10)


class TestBump:
    """The heights and their slopes, each computed another way."""

    @settings(deadline=None, max_examples=50)
    @given(delay=st.floats(0, 8), width=st.sampled_from(WIDTHS))
    def test_sums_to_one_and_reaches_no_further_than_its_width(self, delay, width):
        bump = delay_bump(torch.tensor(delay, dtype=torch.float64), width, 8)
        assert bump.shape == (9,)
        assert float(bump.sum()) == pytest.approx(1)
        assert bump.min() >= 0
        for step in bump.nonzero().flatten().tolist():
            assert abs(step - delay) <= (width or 0.5)

    def test_is_linear_interpolation_at_width_one(self):
        bump = delay_bump(torch.tensor([2.3, 0.0, 4.0], dtype=torch.float64), 1, 4)
        expected = torch.tensor([[0, 0, 0.7, 0.3, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=torch.float64)
        torch.testing.assert_close(bump, expected)

    def test_triangle_of_width_two_by_hand(self):
        """Heights 0.75, 0.75, 0.25, 0.25 over their sum; the part before step 0 is cut off and made up for."""
        bump = delay_bump(torch.tensor([2.5, 0.5], dtype=torch.float64), 2, 4)
        expected = torch.tensor([[0, 0.125, 0.375, 0.375, 0.125], [0.75 / 1.75, 0.75 / 1.75, 0.25 / 1.75, 0, 0]])
        torch.testing.assert_close(bump, expected.double())

    @settings(deadline=None, max_examples=50)
    @given(delay=st.floats(0, 5) | st.integers(0, 5), width=st.sampled_from(WIDTHS), max_delay=st.integers(5, 7))
    def test_taps_are_the_bump_without_its_zeros(self, delay, width, max_delay):
        dense, few = torch.tensor([delay, delay], dtype=torch.float64), torch.zeros(max_delay + 10, dtype=torch.float64)
        dense = dense[0].requires_grad_()
        first, taps = delay_taps(dense, width, max_delay)
        few = few.scatter(0, int(first) + torch.arange(len(taps)), taps)[: max_delay + 1]
        bump = delay_bump(dense, width, max_delay)
        torch.testing.assert_close(few, bump, rtol=0, atol=1e-12)
        if width:
            ramp = torch.linspace(1, 2, max_delay + 1, dtype=torch.float64) ** 2
            (a,), (b,) = (torch.autograd.grad((x * ramp).sum(), dense) for x in (few, bump))
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("width", [w for w in WIDTHS if w])
    @pytest.mark.parametrize("delay", [0.0, 0.31, 1.0, 2.0, 3.62, 4.0, 5.77, 6.0])
    def test_slope_is_the_difference_quotient(self, delay, width):
        """Towards later delays, and at the end (6) towards earlier ones: also where the triangle has a kink."""
        step = -1e-7 if delay == 6 else 1e-7
        here, there = (torch.tensor(x, dtype=torch.float64) for x in (delay, delay + step))
        expected = (delay_bump(there, width, 6) - delay_bump(here, width, 6)) / step
        slope = torch.autograd.functional.jacobian(lambda x: delay_bump(x, width, 6), here)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-5)
        # Without the sum of the triangle, which changes with the delay, the slope would be another one.
        if (delay, width) == (0.31, 1.5):
            triangle = torch.tensor([-1.0, 1, 0, 0, 0, 0, 0], dtype=torch.float64) / width
            assert not torch.allclose(slope, triangle, atol=1e-2)

    @pytest.mark.parametrize("width", [1, 4])
    @pytest.mark.parametrize("delay", [0.0, 6.0])
    def test_a_delay_on_the_border_feels_the_way_back(self, delay, width):
        """The mean time of arrival grows with the delay, on the borders too."""
        delay = torch.tensor(delay, dtype=torch.float64, requires_grad=True)
        (delay_bump(delay, width, 6) * torch.arange(7)).sum().backward()
        assert delay.grad > 0.1


class TestRules:
    @settings(deadline=None, max_examples=20)
    @given(
        steps=st.integers(1, 30),
        width=st.sampled_from(WIDTHS),
        per_synapse=st.booleans(),
        gain=st.sampled_from([1.0, 5.0]),
        seed=st.integers(0, 100),
    )
    def test_neurons_behind_delays_fire_at_most_once(self, steps, width, per_synapse, gain, seed):
        arguments = problem(steps, 3, 6, 5, per_synapse=per_synapse, max_delay=7, seed=seed)
        spikes = single_spike(gain * delayed_linear(*arguments, width=width, max_delay=7), 0.9)
        assert spikes.sum(0).max() <= 1
        assert set(spikes.unique().tolist()) <= {0.0, 1.0}

    @pytest.mark.parametrize("width", [0, 1])
    def test_whole_delays_shift_the_events(self, width):
        """Each unit's spikes move by its delay and those past the end are lost."""
        spikes, weight, _, bias = problem(10, 3, 4, 5, per_synapse=False, max_delay=9)
        delay = torch.tensor([0.0, 3.0, 9.0, 1.0], dtype=torch.float64)
        shifted = torch.zeros_like(spikes)
        for unit, late in enumerate(delay.int().tolist()):
            shifted[late:, :, unit] = spikes[: len(spikes) - late, :, unit]
        current = delayed_linear(EventBatch.from_dense(spikes), weight, delay, bias, width=width, max_delay=9)
        torch.testing.assert_close(current, event_linear(EventBatch.from_dense(shifted), weight, bias))

    @pytest.mark.parametrize("per_synapse", [False, True], ids=["axonal", "per synapse"])
    def test_width_zero_rounds(self, per_synapse):
        spikes, weight, delay, bias = problem(10, 3, 4, 5, per_synapse=per_synapse, max_delay=6, seed=3)
        rounded = delayed_linear(spikes, weight, delay.round(), bias, width=1, max_delay=6)
        torch.testing.assert_close(delayed_linear(spikes, weight, delay, bias, width=0, max_delay=6), rounded)
        assert not torch.allclose(delayed_linear(spikes, weight, delay, bias, width=1, max_delay=6), rounded)

    def test_equal_delays_are_axonal_delays(self):
        spikes, weight, delay, bias = problem(10, 3, 4, 5, per_synapse=False, max_delay=6)
        axonal = delayed_linear(spikes, weight, delay, bias, width=2, max_delay=6)
        torch.testing.assert_close(
            delayed_linear(spikes, weight, delay.expand(5, 4), bias, width=2, max_delay=6), axonal
        )

    @pytest.mark.parametrize("steps", [1, 3])
    def test_delays_longer_than_the_sample(self, steps):
        spikes, weight, _, bias = problem(steps, 2, 3, 4, per_synapse=True, max_delay=50, density=1)
        fast = results(delayed_linear, spikes, weight, torch.full((4, 3), 50.0), bias, width=2, max_delay=50)
        torch.testing.assert_close(fast[0], bias.expand_as(fast[0]))
        assert not any(gradient.any() for gradient in fast[1:4])

    @pytest.mark.slow
    def test_float32(self):
        spikes, *parameters = (x.float() for x in problem(20, 3, 6, 5, per_synapse=True, max_delay=6))
        fast = results(delayed_linear, spikes, *parameters, width=2, max_delay=6)
        slow = results(delayed_linear_reference, spikes, *parameters, width=2, max_delay=6)
        for a, b in zip(fast, slow, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class TestDelayedEvents:
    @settings(deadline=None, max_examples=30)
    @given(
        steps=st.integers(1, 12), width=st.sampled_from(WIDTHS), max_delay=st.integers(0, 6), seed=st.integers(0, 99)
    )
    def test_events_without_delays_give_the_same_current(self, steps, width, max_delay, seed):
        spikes, *parameters = problem(steps, 3, 4, 5, per_synapse=False, max_delay=max_delay, seed=seed)
        events = EventBatch.from_dense(spikes)

        def through_events(weight, delay, bias):
            return event_linear(*delayed_events(events, weight, delay, width=width, max_delay=max_delay), bias)

        slow = results(delayed_linear_reference, events, *parameters, width=width, max_delay=max_delay)
        assert_equal(results(through_events, *parameters), slow)

    @pytest.mark.parametrize("steps", [1, 11])
    def test_kernels_and_pytorch_list_the_same_events(self, steps):
        spikes, weight, delay, _ = problem(steps, 3, 4, 5, per_synapse=False, max_delay=6)
        events = EventBatch.from_dense(spikes)
        fast, wide = delayed_events(events, weight, delay, width=2, max_delay=6)
        first, bump = delay_taps(delay, 2, 6)
        slow = delays._delayed_events(events, first, bump.shape[1])
        assert fast.shape == slow.shape == (steps, 3, wide.shape[1])
        assert torch.equal(fast.to_dense(), slow.to_dense())
        assert fast.num_events == slow.num_events

    @pytest.mark.slow
    @pytest.mark.parametrize("width", [0, 1, 2.5])
    def test_a_fused_network_takes_them(self, width):
        spikes, weight, delay, bias = problem(25, 4, 6, 7, per_synapse=False, max_delay=6)
        readout, beta = torch.randn(3, 7, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
        events = EventBatch.from_dense(spikes)

        def fused(weight, delay, bias):
            late, wide = delayed_events(events, weight, delay, width=width, max_delay=6)
            layer = SpikingLayer(wide, bias, beta.expand(7), torch.ones(7, dtype=torch.float64))
            return event_network(late, [layer], ReadoutLayer(readout, None, beta.expand(3)))[0]

        def layer_by_layer(weight, delay, bias):
            current = delayed_linear_reference(events, weight, delay, bias, width=width, max_delay=6)
            membrane, trace = 0, []
            for arriving in (single_spike(current, beta) @ readout.t()).unbind(0):
                membrane = beta * membrane + arriving
                trace.append(membrane)
            return torch.stack(trace)

        for a, b in zip(results(fused, weight, delay, bias), results(layer_by_layer, weight, delay, bias), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    def test_delays_per_synapse_are_refused(self):
        events = EventBatch.from_dense(torch.ones(2, 1, 3))
        with pytest.raises(ValueError, match="use delayed_linear"):
            delayed_events(events, torch.zeros(2, 3), torch.zeros(2, 3), width=1, max_delay=2)


class TestMistakes:
    def call(self, spikes=(5, 2, 3), weight=(4, 3), delay=(3,), width=1.0, max_delay=2, backend="auto", fill=0.0):
        return delayed_linear(
            torch.zeros(spikes),
            torch.zeros(weight),
            torch.full(delay, fill),
            width=width,
            max_delay=max_delay,
            backend=backend,
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weight": (3,)}, r"weight must be \[N_out, N_in\]"),
            ({"delay": (4,)}, r"one per input \[3\] or one per synapse \[4, 3\], got \[4\]"),
            ({"spikes": (5, 3)}, "time-major"),
            ({"spikes": (0, 2, 3)}, "time-major"),
            ({"spikes": (5, 2, 7)}, "takes 3 input units, but the spikes come from 7"),
            ({"width": 0.5}, "width must be 0 .* or at least 1 step, got 0.5"),
            ({"width": float("nan")}, "width must be 0"),
            ({"max_delay": -1}, "whole number of steps, zero or more, got -1"),
            ({"max_delay": 2.5}, "whole number of steps"),
            ({"fill": -0.1}, r"delays must lie in \[0, 2\] steps"),
            ({"fill": 2.1}, r"delays must lie in \[0, 2\] steps"),
            ({"fill": float("nan")}, r"delays must lie in \[0, 2\] steps"),
            ({"backend": "cuda"}, "choose one of auto, torch, numba, triton"),
            ({"backend": "triton"}, "no triton kernels"),
        ],
    )
    def test_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            self.call(**options)

    def test_numba_says_why_it_cannot(self):
        spikes, weight, delay = torch.zeros(5, 2, 3), torch.zeros(4, 3, dtype=torch.bfloat16), torch.zeros(3)
        with pytest.raises(ValueError, match=r"float32 or float64, not in torch\.bfloat16"):
            delayed_linear(spikes, weight, delay, width=1, max_delay=2, backend="numba")

    def test_units_beyond_the_layer_are_refused(self):
        events = EventBatch.trusted(torch.tensor([3], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32), 1, 3)
        with pytest.raises(ValueError, match="units 3 to 3"):
            delayed_linear(events, torch.zeros(4, 3), torch.zeros(3), width=1, max_delay=2)
