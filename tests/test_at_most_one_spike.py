"""Whatever blocks are put together, no neuron fires twice in a sample."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from ss_lightning import MLP, ConvNet, EventBatch
from ss_lightning.calibration import calibrate_weights

COMMON = {"num_classes": 3, "step_ms": 1.0}
NETWORK = {
    "tau_hidden_ms": [2.0, [3.0, 30.0], math.inf],
    "log_tau": [True],
    "learn_threshold": [True],
    "weight_norm": [True],
    "batch_norm": [True],
    "dropout": [0.3],
    "onset_ms": [15.0],
    "onset_width_ms": [10.0],
    "decoder": ["max", "softmax"],
    "estimator": ["ramp", "survival", "flat", "masked"],
    "surrogate": ["atan", "triangle"],
}
FULLY_CONNECTED = NETWORK | {
    "skip": [True],
    "delay_line_ms": [[0.0, 4.0]],
    "max_delay_ms": [6.0],
    "delay_per_synapse": [True],
    "input_gain": [10.0, 100.0],
}
CONVOLUTIONAL = NETWORK | {"pool": ["avg"], "pool_size": [1, [1, 2]], "padding": [1, 2], "hidden": [[5], [5, 4]]}


def drawn(blocks):
    """Any choice of blocks, each at one of its settings."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in blocks.items()})


def spike_counts(net, spikes, training):
    """Spikes of each hidden neuron in each sample, as the loss sees them, ``[B, N]`` of all layers."""
    return torch.cat([layer.spike_count for layer in net.train(training)(spikes).activity], 1)


def fully_connected(seed, dense=False, hidden=(6, 5), **blocks):
    """A network of two layers and a batch of 20 steps that is full of spikes."""
    torch.manual_seed(seed)
    spikes = (torch.rand(20, 3, 7) < 0.4).float()
    net = MLP(input_shape=(7,), hidden=hidden, **COMMON, **blocks)
    return net, spikes if dense else EventBatch.from_dense(spikes)


anywhere = {
    "neuron": st.sampled_from(["single", "standard_single"]),
    "training": st.booleans(),
    "seed": st.integers(0, 99),
}


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(blocks=drawn(FULLY_CONNECTED), dense=st.booleans(), **anywhere)
def test_fully_connected(blocks, dense, neuron, training, seed):
    net, spikes = fully_connected(seed, dense, neuron=neuron, **blocks)
    assert set(spike_counts(net, spikes, training).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(blocks=drawn(CONVOLUTIONAL), **anywhere)
def test_convolutional(blocks, neuron, training, seed):
    torch.manual_seed(seed)
    net = ConvNet(input_shape=(2, 12, 10), channels=[4, 3], kernel_size=3, neuron=neuron, **COMMON, **blocks)
    spikes = (torch.rand(9, 3, 2, 12, 10) < 0.6).float()
    assert set(spike_counts(net, spikes, training).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.05, 0.15), seed=st.integers(0, 99))
def test_with_weights_scaled_to_a_rate(rate, seed):
    net, spikes = fully_connected(seed, hidden=[60, 50])
    calibrate_weights(net, spikes, rate)
    assert set(spike_counts(net, spikes, training=False).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("training", [False, True])
def test_neurons_that_may_fire_again_do(training):
    """What the tests above would see if a neuron fired twice."""
    net, spikes = fully_connected(0, neuron="multi", input_gain=10.0)
    assert spike_counts(net, spikes, training).max() > 1
