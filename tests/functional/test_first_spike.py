"""The first-spike rule one step at a time, and what it refuses; whole neurons are tested in test_single_spike.py."""

from __future__ import annotations

import pytest
import torch

from ss_lightning.functional import (
    ESTIMATORS,
    crossing_gradient,
    crossing_times,
    first_spike,
    first_spike_reference,
    first_spike_state,
    first_spike_step,
)

UNKNOWN = "unknown estimator 'rmap'; choose one of ramp, survival, flat, masked"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_steps_give_the_spikes_of_the_sequence(estimator: str) -> None:
    crossings = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])[:, None]
    state, spikes = first_spike_state(crossings[0], estimator), []
    for crossing in crossings:
        spike, state = first_spike_step(crossing, state, estimator)
        spikes.append(spike)
    assert torch.stack(spikes)[:, 0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert torch.equal(torch.stack(spikes), first_spike(crossings, estimator))


def test_unknown_estimators_are_refused_everywhere() -> None:
    step, sequence = torch.zeros(1, 2), torch.zeros(3, 1, 2)
    times = crossing_times(sequence > 0)
    calls = [
        lambda word: first_spike_state(step, word),
        lambda word: first_spike_step(step, first_spike_state(step, "flat"), word),
        lambda word: crossing_gradient(sequence, *times, word),
        lambda word: first_spike(sequence, word),
        lambda word: first_spike_reference(sequence, word),
    ]
    for call in calls:
        call("flat")
        with pytest.raises(ValueError, match=UNKNOWN):
            call("rmap")


def test_a_compiler_sees_plain_operators() -> None:
    """The path of torch.compile and torch.export, without compiling."""
    crossings = (torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.3).double().requires_grad_()
    weight = torch.randn(9, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((first_spike(crossings, "survival") * weight).sum(), crossings)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        spikes = first_spike(crossings, "survival")
    assert "FirstSpike" not in type(spikes.grad_fn).__name__
    torch.testing.assert_close(torch.autograd.grad((spikes * weight).sum(), crossings)[0], expected)
