import copy
import pickle

import pytest
import torch
from snntorch import surrogate as snn_surrogate

from ss_lightning.surrogate import ATan, FastSigmoid, Triangle, make_surrogate

ALL = [FastSigmoid(7.0), ATan(3.0), Triangle(0.7)]


@pytest.mark.parametrize("surrogate", ALL, ids=lambda s: s.kind)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_step_forwards_and_derivative_backwards_in_the_same_dtype(surrogate, dtype):
    x = torch.linspace(-2, 2, 9, dtype=dtype, requires_grad=True)
    spikes = surrogate(x)
    assert spikes.dtype == dtype
    assert spikes.tolist() == [0] * 5 + [1] * 4
    spikes.sum().backward()
    torch.testing.assert_close(x.grad, surrogate.derivative(x.detach()))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(FastSigmoid(7.0), snn_surrogate.fast_sigmoid(7.0)), (ATan(3.0), snn_surrogate.atan(3.0))],
    ids=["fast_sigmoid", "atan"],
)
def test_equal_to_snntorch(ours, theirs):
    x = torch.linspace(-2, 2, 101)
    grads = []
    for surrogate in (ours, theirs):
        leaf = x.clone().requires_grad_()
        surrogate(leaf).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("surrogate", ALL, ids=lambda s: s.kind)
def test_copies_and_pickles(surrogate):
    assert pickle.loads(pickle.dumps(surrogate)) == copy.deepcopy(surrogate) == surrogate


def test_triangle_has_compact_support():
    assert Triangle(2.0).derivative(torch.tensor([-1.0, -0.25, 0.6])).tolist() == [0, 0.5, 0]


def test_by_name():
    assert make_surrogate("atan") == ATan(2.0)
    assert make_surrogate("fast_sigmoid", 25) == FastSigmoid(25)
    with pytest.raises(ValueError, match="choose one of atan, fast_sigmoid, triangle"):
        make_surrogate("relu")
    with pytest.raises(ValueError, match="must be positive"):
        FastSigmoid(0)
