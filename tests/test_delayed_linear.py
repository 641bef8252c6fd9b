import copy

import pytest
import torch

from ss_lightning.delayed_linear import DelayedLinear, narrow_delays
from ss_lightning.events import EventBatch
from ss_lightning.functional import single_spike

BOTH = pytest.mark.parametrize("per_synapse", [False, True], ids=["axonal", "per synapse"])


def layer(per_synapse=False, **options):
    torch.manual_seed(0)
    return DelayedLinear(4, 3, **{"max_delay_ms": 40.0, "step_ms": 4.0, "per_synapse": per_synapse, **options})


def some_spikes(steps=30, batch=2):
    return (torch.rand(steps, batch, 4, generator=torch.Generator().manual_seed(0)) < 0.2).float()


@BOTH
def test_starts_with_delays_over_the_whole_range(per_synapse):
    torch.manual_seed(0)
    synapse = DelayedLinear(50, 40, max_delay_ms=40.0, step_ms=4.0, per_synapse=per_synapse)
    assert synapse.delay.shape == ((40, 50) if per_synapse else (50,))
    assert synapse.per_synapse == per_synapse
    assert synapse.max_delay == 10
    delays = synapse.delay_ms()
    assert delays.min() >= 0
    assert delays.max() <= 40
    assert delays.mean() == pytest.approx(20, abs=6)
    assert delays.std() == pytest.approx(40 / 12**0.5, rel=0.2)
    assert synapse.weight.abs().max() <= 1 / 50**0.5
    assert not synapse.bias.any()


@BOTH
def test_evaluation_rounds_and_training_does_not(per_synapse):
    synapse, spikes = layer(per_synapse), some_spikes()
    training = synapse(spikes)
    synapse.eval()
    evaluation = synapse(spikes)
    with torch.no_grad():
        synapse.delay.copy_(synapse.delay_steps().round() / synapse.max_delay)
    torch.testing.assert_close(synapse(spikes), evaluation)
    assert not torch.allclose(training, evaluation)
    narrow_delays(synapse.train(), 1.0)
    torch.testing.assert_close(synapse(spikes), evaluation)


@BOTH
def test_events_and_dense_spikes_agree(per_synapse):
    synapse, spikes = layer(per_synapse), some_spikes()
    torch.testing.assert_close(synapse(EventBatch.from_dense(spikes)), synapse(spikes))


def test_late_events():
    from ss_lightning.functional import event_linear

    synapse, events = layer(), EventBatch.from_dense(some_spikes())
    for mode in (True, False):
        synapse.train(mode)
        torch.testing.assert_close(event_linear(*synapse.late_events(events), synapse.bias), synapse(events))


def test_every_layer_narrows_exponentially_to_one_step():
    network = torch.nn.Sequential(layer(), torch.nn.Sequential(layer(start_width_ms=36.0)), torch.nn.Linear(3, 3))
    widths = []
    for progress in (0.0, 0.5, 1.0, 1.7):
        narrow_delays(network, progress)
        widths.append([network[0].width, network[1][0].width])
    assert widths == [pytest.approx([5, 9]), pytest.approx([5**0.5, 3]), [1, 1], [1, 1]]


def test_width_is_at_least_one_step():
    assert layer(start_width_ms=0.1).width == 1


@BOTH
def test_state_dict_copy_and_print(per_synapse):
    synapse, other = layer(per_synapse), layer(per_synapse)
    other.reset_parameters()
    other.load_state_dict(synapse.state_dict())
    spikes = some_spikes()
    assert torch.equal(other(spikes), synapse(spikes))
    assert torch.equal(copy.deepcopy(synapse)(spikes), synapse(spikes))
    assert "max_delay=10" in repr(synapse)


@pytest.mark.slow
@pytest.mark.parametrize(("start", "target"), [(0.0, 0.5), (1.0, 0.5), (-0.2, 0.5), (1.2, 0.5)])
def test_a_delay_on_or_beyond_the_border_comes_back(start, target):
    synapse = DelayedLinear(1, 1, max_delay_ms=10.0, step_ms=1.0, bias=False)
    with torch.no_grad():
        synapse.weight.fill_(1)
        synapse.delay.fill_(start)
    spikes = torch.zeros(20, 1, 1)
    spikes[3] = 1
    time = torch.arange(20.0)
    optimizer = torch.optim.SGD([synapse.delay], lr=0.002)
    for _ in range(200):
        arrival = (synapse(spikes).flatten() * time).sum()
        loss = (arrival - 3 - 10 * target) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(synapse.delay_ms()) == pytest.approx(10 * target, abs=0.5)


def test_a_gradient_that_points_outwards_is_stopped():
    synapse = DelayedLinear(1, 1, max_delay_ms=10.0, step_ms=1.0, bias=False)
    spikes = torch.zeros(20, 1, 1)
    spikes[3] = 1
    for start, sign in ((0.0, 1.0), (1.0, -1.0)):
        with torch.no_grad():
            synapse.weight.fill_(1)
            synapse.delay.fill_(start)
        synapse.delay.grad = None
        (sign * synapse(spikes).flatten() * torch.arange(20.0)).sum().backward()
        assert synapse.delay.grad == 0


@BOTH
@pytest.mark.parametrize("annealed", [True, False], ids=["annealed", "narrow from the start"])
def test_a_wide_bump_finds_delays_that_a_narrow_one_cannot_see(per_synapse, annealed):
    """Sample 0 tells about input 0, sample 1 about input 1: their spikes should arrive after 9 and 2 steps."""
    synapse = DelayedLinear(2, 1, max_delay_ms=12.0, step_ms=1.0, per_synapse=per_synapse, bias=False)
    with torch.no_grad():
        synapse.weight.fill_(1)
        synapse.delay.fill_(0.5)
    spikes, target = torch.zeros(30, 2, 2), torch.zeros(30, 2, 1)
    spikes[4, 0, 0] = spikes[12, 1, 1] = 1
    target[4 + 9, 0] = target[12 + 2, 1] = 1
    optimizer = torch.optim.Adam([synapse.delay], lr=0.02)
    epochs = 60
    for epoch in range(epochs):
        narrow_delays(synapse, epoch / (epochs - 1) if annealed else 1.0)
        optimizer.zero_grad()
        loss = -(synapse(spikes) * target).sum()
        loss.backward()
        optimizer.step()
    found = torch.equal(synapse.eval()(spikes), target)
    assert found == annealed
    assert torch.equal(single_spike(synapse(spikes), 0.5, 0.9), target) == annealed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_ms": 0.0}, "step_ms must be a positive number of milliseconds, got 0"),
        ({"max_delay_ms": -1.0}, "max_delay_ms must be a positive"),
        ({"max_delay_ms": float("inf")}, "max_delay_ms must be a positive"),
        ({"start_width_ms": float("nan")}, "start_width_ms must be a positive"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        layer(**options)
    with pytest.raises(ValueError, match="at least one input and one output"):
        DelayedLinear(0, 3, max_delay_ms=4.0, step_ms=1.0)
