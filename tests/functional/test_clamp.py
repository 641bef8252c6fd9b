"""A clamp whose gradient lets a parameter come back."""

import pytest
import torch

from ss_lightning.functional import clamp_inward


def test_value_is_clamped():
    assert clamp_inward(torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5])).tolist() == [
        0,
        0,
        pytest.approx(0.3),
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("value", "grad", "expected"),
    [
        (1.2, 1.0, 1.0),  # descent moves down, back inside
        (1.2, -1.0, 0.0),  # descent would move further out
        (-0.1, -1.0, -1.0),
        (-0.1, 1.0, 0.0),
        (1.0, 1.0, 1.0),  # on the edge the way in is open, too
        (1.0, -1.0, 0.0),
        (0.0, -1.0, -1.0),
        (0.4, 1.0, 1.0),
        (0.4, -1.0, -1.0),
    ],
)
def test_gradient_points_inwards_only(value, grad, expected):
    x = torch.tensor(value, requires_grad=True)
    clamp_inward(x).backward(torch.tensor(grad))
    assert x.grad.item() == expected


def test_a_parameter_outside_comes_back():
    x = torch.tensor(1.5, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (clamp_inward(x) - 0.5).square().backward()
        optimizer.step()
    assert x.item() < 1
