import math

import pytest
import torch

from ss_lightning import MLP
from ss_lightning.networks import LogTau, decay, draw_decays

COMMON = {"input_shape": (7,), "num_classes": 3, "step_ms": 1.0}


def test_time_constants_follow_the_step():
    """Twice the step, the square of the decay."""
    fine = MLP(**COMMON, tau_hidden_ms=20, tau_readout_ms=40)
    coarse = MLP(**{**COMMON, "step_ms": 2.0}, tau_hidden_ms=20, tau_readout_ms=40)
    torch.testing.assert_close(coarse.neurons[0].beta, fine.neurons[0].beta ** 2)
    torch.testing.assert_close(coarse.readout.beta, fine.readout.beta**2)
    assert fine.neurons[0].beta[0].item() == pytest.approx(math.exp(-1 / 20))


def test_ends_of_the_time_constant():
    assert decay(math.inf, 1.0) == 1
    assert decay(0.0, 1.0) == 0
    with pytest.raises(ValueError, match="zero or more milliseconds, got -1"):
        decay(-1, 1.0)
    with pytest.raises(ValueError, match="zero or more milliseconds, got nan"):
        decay(math.nan, 1.0)


def test_time_constants_fill_their_range():
    net = MLP(**COMMON, hidden=[2000], tau_hidden_ms=[10, 400], log_tau=True)
    tau = -1.0 / torch.log(net.neurons[0].beta)
    assert tau.min() > 9.9
    assert tau.max() < 404
    logs = tau.log10()
    assert abs((logs < 1.8).float().mean() - (1.8 - 1) / math.log10(40)) < 0.05


def test_the_readout_may_have_a_range_too():
    beta = MLP(**{**COMMON, "num_classes": 2000}, tau_readout_ms=[10, 400]).readout.beta
    assert beta.unique().numel() > 1900
    assert math.exp(-1 / 9.9) < beta.min()
    assert beta.max() < math.exp(-1 / 404)


def test_log_tau_moves_the_time_constant_not_the_decay():
    net = MLP(**COMMON, hidden=[2], tau_hidden_ms=100.0, log_tau=True)
    (parameter,) = net.neurons[0].parametrizations.beta.parameters()
    with torch.no_grad():
        parameter += math.log(2)
    torch.testing.assert_close(net.neurons[0].beta, torch.full((2,), math.exp(-1 / 200)))


def test_an_infinite_time_constant_can_be_learned():
    net = MLP(**COMMON, hidden=[2], tau_hidden_ms=math.inf, log_tau=True)
    assert 0.99999 < net.neurons[0].beta.min() < 1


def test_drawn_decays_are_those_of_the_time_constants():
    assert torch.equal(draw_decays(10.0, 1.0, [2, 3]), torch.full((2, 3), math.exp(-0.1)))
    with pytest.raises(ValueError, match=r"must be \[low, high\] with 0 < low <= high, got \[3.0, 2.0\]"):
        draw_decays([3.0, 2.0], 1.0, [4])


def test_log_tau_and_its_inverse():
    beta = torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64)
    tau = LogTau(2.0)
    torch.testing.assert_close(tau(tau.right_inverse(beta)), beta)
    torch.testing.assert_close(tau.right_inverse(torch.tensor(math.exp(-2 / 30))), torch.tensor(math.log(30)))
