"""The delay line on events against shifting dense tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss_lightning.events import EventBatch
from ss_lightning.functional.delay_line import delay_line, delay_line_reference


def spikes(num_steps, batch, units, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((num_steps, batch, units), density), generator=generator)


@settings(deadline=None, max_examples=80)
@given(
    num_steps=st.integers(1, 13), batch=st.integers(1, 4), units=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.2, 1.5]), seed=st.integers(0, 99),
    delays=st.lists(st.integers(0, 15), min_size=1, max_size=4),
)  # fmt: skip
def test_events_come_again_as_dense_spikes_do(num_steps, batch, units, density, seed, delays):
    dense = spikes(num_steps, batch, units, density, seed)
    expected = delay_line_reference(dense, delays)
    found = delay_line(EventBatch.from_dense(dense), delays)
    assert found.shape == expected.shape
    assert found.offsets.dtype == found.units.dtype == torch.int32
    assert torch.equal(found.to_dense(), expected)
    assert torch.equal(delay_line_reference(EventBatch.from_dense(dense), delays), expected)
    assert torch.equal(delay_line(dense, delays), expected)


def test_the_reference_is_a_shift():
    dense = spikes(9, 2, 3, 1.0, 0)
    late = delay_line_reference(dense, [0, 4])
    assert torch.equal(late[..., :3], dense)
    assert torch.equal(late[4:, :, 3:], dense[:-4])
    assert late[:4, :, 3:].sum() == 0


def test_gradient_of_dense_spikes_is_that_of_the_reference():
    delays, results = [0, 2, 11], []
    for function in (delay_line, delay_line_reference):
        dense = spikes(9, 2, 3, 1.0, 0).double().requires_grad_()
        weight = torch.randn(9, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        results.append(torch.autograd.grad((function(dense, delays) * weight).sum(), dense)[0])
    assert torch.equal(*results)
    assert results[0].abs().min() > 0


@pytest.mark.parametrize("wrong", [[0, 3], [2, 0]])
def test_other_delays_do_not_match(wrong):
    dense = spikes(9, 2, 3, 1.0, 0)
    assert not torch.equal(delay_line(dense, wrong), delay_line_reference(dense, [0, 2]))
    found = delay_line(EventBatch.from_dense(dense), wrong).to_dense()
    assert not torch.equal(found, delay_line_reference(dense, [0, 2]))
