import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss_lightning.events import EventBatch
from ss_lightning.functional import event_linear, event_linear_reference


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(1, 12),
    batch=st.integers(1, 4),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 5),
    density=st.sampled_from([0.0, 0.1, 0.9]),
    with_bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_equal_to_dense(steps, batch, inputs, outputs, density, with_bias, seed):
    torch.manual_seed(seed)
    counts = (torch.rand(steps, batch, inputs) < density).long() * torch.randint(1, 4, (steps, batch, inputs))
    events = EventBatch.from_dense(counts)
    weight = torch.randn(outputs, inputs, dtype=torch.float64)
    bias = torch.randn(outputs, dtype=torch.float64) if with_bias else None
    target = torch.randn(steps, batch, outputs, dtype=torch.float64)
    results = []
    for function in (event_linear, event_linear_reference):
        leaves = [x.clone().requires_grad_() for x in (weight, bias) if x is not None]
        current = function(events, *leaves)
        assert current.shape == (steps, batch, outputs)
        results.append((current, *torch.autograd.grad((current * target).sum(), leaves)))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


def test_wrong_number_of_units_is_refused():
    events = EventBatch.from_dense(torch.ones(2, 1, 3))
    with pytest.raises(ValueError, match="takes 4 input units, but the events come from 3"):
        event_linear(events, torch.zeros(2, 4))
