"""Counts by hand on small networks: whoever doubts the estimate can follow every operation here."""

import pytest
import torch

from ss_lightning import MLP, ConvNet, EventBatch
from ss_lightning.energy import Arithmetic, neuron_updates, spiking_arithmetic, split_input
from ss_lightning.metrics import EvaluationMetrics

STEPS = 6
ADD, MAC = 0.9, 4.6  # picojoules


def energies(net, spikes):
    """The four values of a batch, by their names."""
    metrics = EvaluationMetrics(net.num_classes, net.layer_sizes, net.step_ms, net.weight_uses, net.fires_once)
    with torch.no_grad():
        out = net.eval()(spikes)
    scores = out.readout.sum(0)
    metrics.update(spikes, out, net.fan_out(), torch.tensor(1.0), scores, scores.argmax(1))
    names = ("neuron_updates_per_sample", "energy_nj", "energy_dense_nj", "energy_dense_loop_nj")
    return {name: getattr(metrics, name).compute().item() for name in names}


def two_neurons(**options):
    """Two inputs, two hidden neurons, three classes. Input 0 excites neuron 0 alone; neuron 1 never fires."""
    net = MLP(input_shape=[2], num_classes=3, step_ms=1.0, hidden=[2], tau_hidden_ms=float("inf"), **options)
    with torch.no_grad():
        net.synapses[0].weight.copy_(torch.tensor([[0.6, 0.0], [-0.1, 0.2]]))
        net.synapses[1].weight.fill_(0.5)
    return net


def spikes_of_two():
    """Input 0 fires in steps 0, 1, 2, 3; input 1 in step 5. Neuron 0 crosses its threshold of 1 in step 1."""
    spikes = torch.zeros(STEPS, 1, 2, dtype=torch.uint8)
    spikes[:4, 0, 0] = 1
    spikes[5, 0, 1] = 1
    return spikes


@pytest.mark.parametrize("as_events", [True, False])
@pytest.mark.parametrize("neuron", ["single", "standard_single"])
def test_a_network_whose_operations_can_be_counted_by_hand(as_events, neuron):
    spikes = EventBatch.from_dense(spikes_of_two()) if as_events else spikes_of_two()
    found = energies(two_neurons(neuron=neuron), spikes)
    # 4 spikes of input 0 meet 2 weights, the one of input 1 meets 1 (the other is zero), that of neuron 0 meets 3.
    synapses = 4 * 2 + 1 * 1 + 1 * 3
    # Neuron 0 is done after its spike in step 1. Neuron 1 and three readouts go on to the end.
    updates = 2 + 6 + 3 * 6
    assert found["neuron_updates_per_sample"] == updates
    assert found["energy_nj"] == pytest.approx((ADD * (synapses + updates) + MAC * updates) / 1000)
    weights = 2 * 2 + 2 * 3
    assert found["energy_dense_nj"] == pytest.approx(MAC * weights / 1000)
    assert found["energy_dense_loop_nj"] == pytest.approx(6 * (MAC * (weights + 5) + ADD * 5) / 1000)


def test_a_neuron_that_may_fire_again_is_updated_to_the_end():
    net = two_neurons(neuron="multi")
    out = net(spikes_of_two())
    assert out.activity[0].spike_count.tolist() == [[2, 0]]
    found = energies(net, spikes_of_two())
    synapses, updates = 4 * 2 + 1 + 2 * 3, 5 * 6
    assert found["neuron_updates_per_sample"] == updates
    assert found["energy_nj"] == pytest.approx((ADD * (synapses + updates) + MAC * updates) / 1000)


def test_a_weight_that_is_zero_saves_the_spiking_network_alone():
    net = two_neurons()
    before = energies(net, spikes_of_two())
    net.synapses[1].weight.data[0, 0] = 0  # the spike of neuron 0 met it
    after = energies(net, spikes_of_two())
    assert before["energy_nj"] - after["energy_nj"] == pytest.approx(ADD / 1000, rel=1e-3)
    assert before["energy_dense_nj"] == after["energy_dense_nj"]


def test_skips_and_delay_lines_count_their_own_weights():
    net = MLP(input_shape=[4], num_classes=3, step_ms=1.0, hidden=[5, 6], skip=True, delay_line_ms=[0.0, 2.0])
    assert net.weight_uses == 2 * 4 * 5 + 5 * 6 + (5 + 6) * 3
    events = torch.zeros(STEPS, 1, 4, dtype=torch.uint8)
    events[0, 0, 0] = 1
    net.synapses[1].weight.data.zero_()
    net.neurons[0].threshold.fill_(100.0)
    updates = (5 + 6 + 3) * STEPS  # nothing fires
    assert energies(net, events)["energy_nj"] == pytest.approx((ADD * (2 * 5 + updates) + MAC * updates) / 1000)


def test_learned_delays_add_no_arithmetic():
    spikes = (torch.rand(STEPS, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    plain = MLP(input_shape=[4], num_classes=3, step_ms=1.0, hidden=[5], threshold=100.0)
    delayed = MLP(input_shape=[4], num_classes=3, step_ms=1.0, hidden=[5], threshold=100.0, max_delay_ms=3.0)
    assert energies(delayed, spikes) == energies(plain, spikes)


@pytest.mark.parametrize("padding", [0, 1])
def test_a_convolution_counts_the_windows_that_meet_the_image(padding):
    """One spike in the corner of the image, and no neuron that fires."""
    net = ConvNet(
        input_shape=[1, 6, 6], num_classes=3, step_ms=1.0, channels=[2], kernel_size=3, padding=padding, hidden=[4],
        threshold=100.0,
    )  # fmt: skip
    spikes = torch.zeros(STEPS, 1, 36, dtype=torch.uint8)
    spikes[0, 0, 0] = 1
    size = 4 + 2 * padding
    windows = 4 if padding else 1  # that contain the corner
    updates = (2 * size * size + 4 + 3) * STEPS
    found = energies(net, spikes)
    assert found["energy_nj"] == pytest.approx((ADD * (2 * windows + updates) + MAC * updates) / 1000)
    places = (3 * size - (2 if padding else 0)) ** 2  # of the image, in all windows
    weights = 2 * places + 2 * (size // 2) ** 2 * 4 + 4 * 3
    assert found["energy_dense_nj"] == pytest.approx(MAC * weights / 1000)


def test_a_constant_current_multiplies_its_weights_once():
    net = MLP(input_shape=[3], num_classes=2, step_ms=1.0, hidden=[5], threshold=100.0)
    current = torch.tensor([[[0.0, 0.25, 1.0]]]).expand(STEPS, 1, 3)
    updates = (5 + 2) * STEPS
    for input_ in (current, current.contiguous()):
        found = energies(net, input_)["energy_nj"]
        assert found == pytest.approx((ADD * updates + MAC * (2 * 5 + updates)) / 1000)
    changing = current.clone()
    changing[0] = 0
    assert energies(net, changing)["energy_nj"] == pytest.approx(
        # The pixel of 1 is an event in five steps, the one of 0.25 a product.
        (ADD * (5 * 5 + updates) + MAC * (5 * 5 + updates)) / 1000
    )


def test_events_and_values_of_a_dense_input():
    steps = torch.tensor([[[0.0, 2.0, 0.5], [0.0, 1.0, 0.5]], [[1.0, 1.0, 0.5], [0.0, 1.0, 0.5]]])
    events, values = split_input(steps)
    assert events.tolist() == [[1, 3, 0], [0, 0, 0]]
    assert values.tolist() == [[0, 0, 2], [0, 1, 1]], "the second sample is a current"
    events, values = split_input((steps[:, 1:] * 2).to(torch.uint8))
    assert events.tolist() == [[0, 4, 2]], "integers are events, also those that are the same in all steps"
    assert not values.any()


def test_updates_end_with_the_spike_of_a_neuron_that_fires_once():
    times = torch.tensor([[0, 4, 5, 6]])
    assert neuron_updates(times, 6, fires_once=True).tolist() == [[1, 5, 6, 6]]
    assert neuron_updates(times, 6, fires_once=False).tolist() == [[6, 6, 6, 6]]


def test_counts_beyond_single_precision_are_exact():
    many = 2**24 + 1
    found = spiking_arithmetic(
        torch.tensor([[many]]), torch.tensor([[many]]), torch.tensor([[1]]), torch.tensor([3, 5]), torch.tensor([[7]])
    )
    assert [part.item() for part in found] == [3 * many + 5 + 7, 3 * many + 7]
    assert Arithmetic(10, 100).energy_nj() == pytest.approx(0.9 * 0.01 + 4.6 * 0.1)
