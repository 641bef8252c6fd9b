"""Events of dense tensors: the compiled search against tensor operations, whatever the dtype, size and layout."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from ss_lightning import EventBatch, nonzero
from ss_lightning.errors import UsageError
from ss_lightning.functional.input_synapse import as_events
from ss_lightning.networks import MLP
from ss_lightning.nonzero import find_events, find_events_by_torch, find_sparse_events

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# One unit, rows that end inside a word and inside a block, one step, one sample, more than a block of everything.
SHAPES = [(1, 1, 1), (5, 3, 7), (4, 2, 8), (3, 5, 17), (1, 9, 33), (20, 1, 70), (7, 6, 64)]


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(nonzero, "_FEW", 40)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def spikes_of(shape, dtype, density, most=1):
    generator = torch.Generator().manual_seed(sum(shape) + most)
    counts = torch.randint(1, most + 1, shape, generator=generator) * (torch.rand(shape, generator=generator) < density)
    return counts.to(dtype)


def layouts(spikes):
    """The same values lying differently in memory."""
    yield spikes
    yield spikes.transpose(0, 1).contiguous().transpose(0, 1)
    yield spikes.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    shifted = torch.cat([spikes.new_zeros(1), spikes.flatten()])[1:]  # does not begin at a multiple of eight bytes
    yield shifted.view(spikes.shape)
    yield spikes.clone().repeat_interleave(2, 2)[:, :, ::2]


def same(found, expected):
    return torch.equal(found.units, expected.units) and torch.equal(found.offsets, expected.offsets)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_compiled_search_finds_what_tensor_operations_find(shape, dtype):
    for density, most in itertools.product((0, 0.05, 0.4, 1), (1, 3)):
        for spikes in layouts(spikes_of(shape, dtype, density, most)):
            found, expected = find_events(spikes), find_events_by_torch(spikes)
            assert found.units.dtype == found.offsets.dtype == torch.int32
            assert same(found, expected)
            assert torch.equal(EventBatch(*found, shape[0], shape[2]).to_dense(torch.int64), spikes.long())


def test_one_wrong_event_is_seen_by_the_comparison():
    spikes = spikes_of((5, 3, 7), torch.float32, 0.4)
    moved = spikes.clone()
    moved[0, 0, 0] = 1 - moved[0, 0, 0]
    assert not same(find_events(moved), find_events_by_torch(spikes))


def test_minus_zero_is_zero_and_large_counts_are_kept():
    spikes = torch.zeros(4, 3, 50)
    spikes[1, 2, 5], spikes[3, 0, 7] = -0.0, 1000
    found = find_events(spikes)
    assert same(found, find_events_by_torch(spikes))
    assert found.units.tolist() == [7] * 1000


@pytest.mark.parametrize("value", [0.5, -1, float("nan"), float("inf"), 2.0**31, 1.5])
@pytest.mark.parametrize("by_sample", [False, True])
@pytest.mark.parametrize("find", [find_events, find_events_by_torch])
def test_what_is_no_count_is_named_with_its_place(find, value, by_sample):
    spikes = torch.zeros(4, 3, 50, dtype=torch.float64)
    spikes = spikes.transpose(0, 1).contiguous().transpose(0, 1) if by_sample else spikes
    spikes[2, 1, 30] = value
    with pytest.raises(UsageError, match=r"at step 2, sample 1, unit 30; expected a count"):
        find(spikes)


@pytest.mark.parametrize("find", [find_events, find_events_by_torch])
def test_more_events_than_an_index_can_count_are_refused(find):
    spikes = torch.zeros(2, 1, 50, dtype=torch.int64)
    spikes[0, 0, 0] = spikes[1, 0, 3] = 2**31 - 2
    with pytest.raises(UsageError, match="4294967292 events; expected at most 2147483647"):
        find(spikes)


NO_SPIKES = {
    "two dimensions": (torch.zeros(4, 3), r"shape \[4, 3\]; expected a tensor \[T, B, N\]"),
    "a list": ([[[1]]], "list; expected a tensor"),
    "complex": (torch.ones(2, 1, 3, dtype=torch.complex64), "a complex64 tensor"),
    "sparse": (torch.ones(2, 1, 3).to_sparse(), "a sparse_coo tensor"),
    "no steps": (torch.zeros(0, 1, 3), "num_steps is 0"),
    "no units": (torch.zeros(2, 1, 0), "num_units is 0"),
}


@pytest.mark.parametrize("case", NO_SPIKES)
def test_what_is_no_tensor_of_spikes_is_said(case):
    given, message = NO_SPIKES[case]
    with pytest.raises(UsageError, match=message):
        EventBatch.from_dense(given)


def test_a_batch_without_samples_and_the_narrowest_floats_are_read():
    assert EventBatch.from_dense(torch.zeros(3, 0, 4)).shape == (3, 0, 4)
    spikes = spikes_of((4, 3, 50), torch.float32, 0.2)
    assert same(find_events(spikes.to(torch.float8_e4m3fn)), find_events(spikes))
    parameter = spikes.clone().requires_grad_()
    assert same(find_events(parameter), find_events(spikes))


@pytest.mark.parametrize("density", [0, 0.1, 0.3, 0.35, 0.45, 0.6, 1])
def test_sparse_tensors_become_events_and_dense_ones_do_not(density):
    """A third is the limit; what is beyond it may be noticed by the sample of rows or by the whole pass."""
    spikes = spikes_of((40, 11, 35), torch.float32, density)
    share = spikes.count_nonzero() / spikes.numel()
    found = find_sparse_events(spikes, 1 / 3)
    assert (found is None) == (share > 1 / 3)
    assert found is None or same(found, find_events(spikes))


def test_spikes_that_all_lie_in_the_first_steps_are_still_sparse():
    """As in a code of latencies: a limit on what was read so far would give up."""
    spikes = torch.zeros(40, 11, 35)
    spikes[:4] = 1
    assert find_sparse_events(spikes, 0.2) is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_does_not_matter(dtype):
    """As in a training with bf16-true, whose numbers are too coarse for the rows of a batch."""
    spikes = spikes_of((250, 7, 35), torch.uint8, 0.05)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = find_sparse_events(spikes, 0.2)
    finally:
        torch.set_default_dtype(before)
    assert same(found, find_events_by_torch(spikes))


def test_what_holds_no_counts_is_left_as_it_is():
    spikes = torch.zeros(4, 3, 50)
    spikes[2, 1, 30] = 0.5
    assert find_sparse_events(spikes, 0.2) is None
    assert as_events(spikes) is spikes


def network(**options):
    torch.manual_seed(1)
    return MLP(input_shape=(35,), num_classes=4, step_ms=1.0, hidden=[13, 9], input_gain=4, **options).double()


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": True, "bias": True}, {"delay_line_ms": [0, 3]}, {"neuron": "multi"}], ids=str
)
def test_a_sparse_tensor_and_its_events_pass_a_network_alike(options):
    spikes = spikes_of((12, 6, 35), torch.float64, 0.1, most=2)
    results = {}
    for name, given, backend in (
        ("dense", spikes, "auto"),
        ("events", EventBatch.from_dense(spikes), "auto"),
        ("torch", spikes, "torch"),
    ):
        model = network(backend=backend, **options)
        model(given).readout.square().sum().backward()
        results[name] = [value.grad for value in model.parameters()]
    assert any(grad.abs().sum() > 0 for grad in results["torch"])
    for grads in zip(*results.values(), strict=True):
        if options != {"neuron": "multi"}:  # whose layers always take a tensor as it is
            assert torch.equal(grads[0], grads[1])
        torch.testing.assert_close(grads[0], grads[2], rtol=1e-9, atol=1e-12)


def test_a_tensor_that_needs_a_gradient_gets_it():
    spikes = spikes_of((12, 6, 35), torch.float64, 0.1).requires_grad_()
    network()(spikes).readout.square().sum().backward()
    assert spikes.grad is not None
    assert spikes.grad.abs().sum() > 0


def is_taken_as_events(model, spikes, monkeypatch):
    """Whether the layers are passed over."""
    called = []
    monkeypatch.setattr(model, "_layer_by_layer", lambda *call: called.append(call))
    model._fused = lambda events: None
    model(spikes)
    return not called


class Replaced(torch.nn.Linear):
    def forward(self, spikes):
        return super().forward(spikes) * 2


def replace_a_layer(model):
    model.synapses[1] = Replaced(13, 9).double()


def replace_a_forward(model):
    model.synapses[1].forward = torch.relu


WATCHERS = {
    "forward hook": lambda model: model.neurons[1].register_forward_hook(lambda *call: None),
    "forward pre-hook": lambda model: model.synapses[0].register_forward_pre_hook(lambda *call: None),
    "backward hook": lambda model: model.readout.register_full_backward_hook(lambda *call: None),
    "backward pre-hook": lambda model: model.neurons[0].register_full_backward_pre_hook(lambda *call: None),
    "pruning": lambda model: prune.random_unstructured(model.synapses[0], "weight", 0.5),
    "layer": replace_a_layer,
    "forward": replace_a_forward,
}


@pytest.mark.parametrize("watcher", WATCHERS)
def test_a_tensor_passes_layer_by_layer_where_somebody_watches(watcher, monkeypatch):
    spikes = spikes_of((12, 6, 35), torch.float64, 0.1)
    model = network()
    assert is_taken_as_events(model, spikes, monkeypatch)
    WATCHERS[watcher](model)
    assert not is_taken_as_events(model, spikes, monkeypatch)


def test_a_mode_that_counts_operations_sees_them(monkeypatch):
    spikes = spikes_of((12, 6, 35), torch.float64, 0.1)
    with FlopCounterMode(display=False) as counter:
        network()(spikes)
    assert counter.get_total_flops() >= 2 * 12 * 6 * (35 * 13 + 13 * 9 + 9 * 4)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *call: None)
    try:
        assert not is_taken_as_events(network(), spikes, monkeypatch)
    finally:
        handle.remove()


def test_parametrisations_do_not_watch(monkeypatch):
    spikes = spikes_of((12, 6, 35), torch.float64, 0.1)
    assert is_taken_as_events(network(weight_norm=True, log_tau=True, batch_norm=True).eval(), spikes, monkeypatch)
    assert is_taken_as_events(network(max_delay_ms=4), spikes, monkeypatch) is False  # two layers with delays
