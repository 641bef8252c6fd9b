import copy
import gc
import inspect
import pickle

import pytest
import snntorch as snn
import torch
from snntorch import surrogate as snn_surrogate
from snntorch import utils
from torch import nn

from ss_lightning import (
    FastSigmoid,
    LeakyReadout,
    MultiSpikeLeaky,
    SingleSpikeLeaky,
    SingleSpikeSynaptic,
    StandardSingleSpikeLeaky,
    reset,
)
from ss_lightning.functional import ESTIMATORS, single_spike_reference

STEPS, BATCH, NEURONS = 25, 3, 6


@pytest.fixture
def current():
    torch.manual_seed(0)
    return torch.randn(STEPS, BATCH, NEURONS, dtype=torch.float64) * 0.8


def run_steps(neuron, current):
    """Spikes of a neuron with ``init_hidden``, one call per step."""
    return torch.stack([neuron(step) for step in current.unbind(0)])


def gradients(spikes, leaves):
    weight = torch.randn(spikes.shape, dtype=spikes.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((spikes * weight).sum(), leaves)


class TestStepAndSequence:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("spike_grad", [None, FastSigmoid(10)], ids=["default", "fast_sigmoid"])
    @pytest.mark.parametrize("output", [False, True])
    def test_same_spikes_and_gradients(self, current, estimator, spike_grad, output):
        neuron = SingleSpikeLeaky(
            torch.rand(NEURONS, dtype=torch.float64),
            threshold=torch.ones(NEURONS, dtype=torch.float64),
            spike_grad=spike_grad,
            init_hidden=True,
            learn_beta=True,
            learn_threshold=True,
            estimator=estimator,
        )
        leaves = (current.requires_grad_(), neuron.beta, neuron.threshold)
        stepped = run_steps(neuron, current)
        expected = gradients(stepped, leaves)
        neuron.sequence, neuron.output = True, output
        spikes = neuron(current)[0] if output else neuron(current)
        assert stepped.sum() > 0
        assert torch.equal(spikes, stepped)
        for a, b in zip(gradients(spikes, leaves), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)

    def test_equal_to_the_functional_reference(self, current):
        neuron = SingleSpikeLeaky(0.9, spike_grad=FastSigmoid(10), init_hidden=True)
        assert torch.equal(run_steps(neuron, current), single_spike_reference(current, 0.9))

    @pytest.mark.parametrize("options", [{"inhibition": True}, {"state_quant": lambda mem: (mem * 8).round() / 8}])
    @pytest.mark.filterwarnings("ignore:Inhibition")
    def test_nonlinear_options_step_inside_a_sequence(self, current, options):
        neuron = SingleSpikeLeaky(0.9, init_hidden=True, **options)
        stepped = run_steps(neuron, current)
        neuron.sequence = True
        spikes = neuron(current)
        assert torch.equal(spikes, stepped)
        assert 0 < spikes.sum(0).max() <= 1

    @pytest.mark.parametrize("kind", [StandardSingleSpikeLeaky, MultiSpikeLeaky, LeakyReadout])
    def test_other_neurons(self, current, kind):
        neuron = kind(0.9, init_hidden=True)
        stepped = run_steps(neuron, current)
        neuron.sequence = True
        assert torch.equal(neuron(current), stepped)
        assert torch.equal(neuron(current), stepped), "every sequence starts from rest"

    def test_sequence_is_never_guessed(self, current):
        """Three axes given to a step are one step of a batch, as in snnTorch."""
        neuron = SingleSpikeLeaky(0.9, init_hidden=True)
        spikes = neuron(current)
        assert spikes.shape == current.shape
        assert torch.equal(spikes, (current > 1).double())

    @pytest.mark.parametrize("kind", [SingleSpikeLeaky, StandardSingleSpikeLeaky, MultiSpikeLeaky])
    def test_membrane_passed_with_a_sequence_is_refused(self, current, kind):
        neuron = kind(0.9)
        neuron.sequence = True
        with pytest.raises(TypeError, match="starts from rest"):
            neuron(current, current[0])

    def test_empty_sequence_is_refused(self):
        neuron = SingleSpikeLeaky(0.9)
        neuron.sequence = True
        with pytest.raises(ValueError, match="T >= 1"):
            neuron(torch.zeros(0, 2, 3))


class TestDropIn:
    def test_returns_what_leaky_returns(self):
        x = torch.ones(2, 3)
        for options in ({}, {"init_hidden": True}, {"init_hidden": True, "output": True}):
            ours, theirs = SingleSpikeLeaky(0.9, **options)(x), snn.Leaky(0.9, **options)(x)
            assert isinstance(ours, tuple) == isinstance(theirs, tuple)

    def test_membrane_equals_that_of_leaky_before_the_first_spike_and_not_with_another_beta(self):
        current = torch.full((9, 1, 1), 0.1)
        membranes = {}
        for name, neuron in {
            "ours": SingleSpikeLeaky(0.9), "theirs": snn.Leaky(0.9), "wrong": snn.Leaky(0.8),
        }.items():  # fmt: skip
            mem = neuron.reset_mem()
            trace = []
            for step in current:
                _, mem = neuron(step, mem)
                trace.append(mem)
            membranes[name] = torch.stack(trace)
        assert torch.equal(membranes["ours"], membranes["theirs"])
        assert not torch.allclose(membranes["ours"], membranes["wrong"])

    def test_membrane_is_not_reset_by_the_spike(self, current):
        neuron = SingleSpikeLeaky(1.0, init_hidden=True, output=True)
        neuron.sequence = True
        _, membrane = neuron(current)
        torch.testing.assert_close(membrane, current.cumsum(0))

    def test_explicit_membrane_with_init_hidden_is_refused_as_in_leaky(self):
        with pytest.raises(TypeError, match="init_hidden"):
            SingleSpikeLeaky(0.9, init_hidden=True)(torch.ones(1, 2), torch.ones(1, 2))

    @pytest.mark.parametrize("cut", [lambda mem: mem, lambda mem: mem.detach(), lambda mem: mem.clone()])
    def test_explicit_membrane_keeps_what_has_fired(self, current, cut):
        neuron = SingleSpikeLeaky(0.9)
        mem, total = neuron.reset_mem(), 0
        for step in current:
            spk, mem = neuron(step, mem)
            mem = cut(mem)
            total = total + spk
        assert total.max() == 1

    def test_zero_membrane_of_its_own_is_no_reset(self):
        """With beta 0 and no input the membrane is all zero, yet the neuron has fired."""
        neuron = SingleSpikeLeaky(0.0)
        mem = neuron.reset_mem()
        total = 0
        for drive in (2.0, 0.0, 2.0):
            spk, mem = neuron(torch.full((1, 1), drive), mem)
            total += spk.item()
        assert total == 1

    @pytest.mark.parametrize(
        "rest",
        [
            lambda net: reset(net),
            lambda net: utils.reset(net),
            lambda net: net[0].reset_mem(),
            lambda net: snn.Leaky.reset_hidden(),
            lambda net: setattr(net[0], "mem", torch.zeros_like(net[0].mem)),
        ],
        ids=["reset", "utils.reset", "reset_mem", "reset_hidden", "assignment"],
    )
    def test_every_way_to_reset_clears_what_has_fired(self, current, rest):
        net = nn.Sequential(SingleSpikeLeaky(0.9, init_hidden=True))
        first = run_steps(net, current)
        assert run_steps(net, current).sum() < first.sum()
        rest(net)
        assert torch.equal(run_steps(net, current), first)

    def test_another_batch_size_starts_from_rest(self, current):
        neuron = SingleSpikeLeaky(0.9, init_hidden=True)
        run_steps(neuron, current)
        fewer = run_steps(neuron, current[:, :2])
        assert torch.equal(fewer, run_steps(SingleSpikeLeaky(0.9, init_hidden=True), current[:, :2]))

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_truncated_backpropagation(self, current, estimator):
        """Each window back-propagates on its own, and a neuron that fired in an earlier window stays spent."""
        layer = nn.Linear(NEURONS, NEURONS, dtype=torch.float64)
        neuron = SingleSpikeLeaky(0.9, init_hidden=True, estimator=estimator)
        total = 0
        for window in current.split(5):
            spikes = torch.stack([neuron(layer(step)) for step in window])
            spikes.sum().backward()
            snn.Leaky.detach_hidden()
            total = total + spikes.detach().sum(0)
        assert total.max() == 1

    def test_graded_spikes(self, current):
        neuron = SingleSpikeLeaky(0.9, init_hidden=True, graded_spikes_factor=2.5, learn_graded_spikes_factor=True)
        stepped = run_steps(neuron, current)
        neuron.sequence = True
        spikes = neuron(current)
        assert set(spikes.detach().unique().tolist()) == {0, 2.5}
        assert torch.equal(spikes, stepped)
        spikes.sum().backward()
        assert neuron.graded_spikes_factor.grad > 0

    def test_any_surrogate_of_snntorch(self, current):
        for spike_grad in (snn_surrogate.sigmoid(5), snn_surrogate.spike_rate_escape(), snn_surrogate.atan()):
            neuron = SingleSpikeLeaky(0.9, spike_grad=spike_grad, init_hidden=True)
            neuron.sequence = True
            leaf = current.detach().requires_grad_()
            neuron(leaf).sum().backward()
            assert leaf.grad.abs().sum() > 0

    def test_surrogate_disable(self, current):
        neuron = SingleSpikeLeaky(0.9, surrogate_disable=True, init_hidden=True)
        neuron.sequence = True
        assert torch.equal(neuron(current), single_spike_reference(current, 0.9))

    def test_checkpoints_go_both_ways(self):
        ours, theirs = (kind(torch.rand(4), learn_beta=True) for kind in (SingleSpikeLeaky, snn.Leaky))
        ours.load_state_dict(theirs.state_dict())
        assert torch.equal(ours.beta, theirs.beta)
        theirs.load_state_dict(SingleSpikeLeaky(torch.rand(4), learn_beta=True).state_dict())

    @pytest.mark.parametrize("beta", [-0.1, 1.2, float("nan"), torch.tensor([0.1, 2.0])])
    def test_beta_outside_is_refused(self, beta):
        with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
            SingleSpikeLeaky(beta)

    def test_unknown_estimator_is_refused(self):
        with pytest.raises(ValueError, match="unknown estimator"):
            SingleSpikeLeaky(0.9, estimator="surival")

    def test_beta_that_left_the_interval_still_learns(self, current):
        neuron = SingleSpikeLeaky(torch.full((NEURONS,), 0.9).double(), learn_beta=True, init_hidden=True)
        with torch.no_grad():
            neuron.beta.fill_(1.3)
        neuron.sequence = True
        (neuron(current).sum() * torch.tensor([1.0])).backward()
        down, neuron.beta.grad = neuron.beta.grad.clone(), None
        (neuron(current).sum() * torch.tensor([-1.0])).backward()
        up = neuron.beta.grad
        assert ((down != 0) | (up != 0)).all(), "one of the two directions points inwards"


class TestCopies:
    @pytest.mark.parametrize("kind", [SingleSpikeLeaky, StandardSingleSpikeLeaky, MultiSpikeLeaky, LeakyReadout])
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    @pytest.mark.parametrize("after_forward", [False, True])
    def test_copy_behaves_alike_and_is_independent(self, current, kind, duplicate, after_forward):
        current = current.requires_grad_()
        neuron = kind(0.9, init_hidden=True)
        if after_forward:
            run_steps(neuron, current[:10])
        twin = duplicate(neuron)
        ahead = run_steps(neuron, current[10:])
        assert torch.equal(run_steps(twin, current[10:]), ahead)

    def test_utils_reset_reaches_a_copy(self, current):
        net = copy.deepcopy(nn.Sequential(SingleSpikeLeaky(0.9, init_hidden=True)))
        first = run_steps(net, current)
        utils.reset(net)
        assert torch.equal(run_steps(net, current), first)

    def test_reset_reaches_nested_neurons_and_no_other_network(self, current):
        inner, other = (SingleSpikeLeaky(0.9, init_hidden=True) for _ in range(2))
        net = nn.Sequential(nn.Sequential(nn.Identity(), nn.Sequential(inner)))
        run_steps(net, current)
        run_steps(other, current)
        kept = other.mem.clone()
        reset(net)
        assert inner.mem.abs().sum() == 0
        assert torch.equal(other.mem, kept)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [SingleSpikeLeaky, StandardSingleSpikeLeaky, MultiSpikeLeaky, LeakyReadout])
    def test_dropped_neurons_leave_the_list_of_instances(self, kind):
        gc.collect()
        before = len(snn.SpikingNeuron.instances)
        for _ in range(50):
            copy.deepcopy(kind(0.9))
        gc.collect()
        assert len(snn.SpikingNeuron.instances) == before

    def test_a_neuron_that_is_freed_while_snntorch_resets_hides_no_other(self, current):
        first, doomed, last = (SingleSpikeLeaky(0.9, init_hidden=True) for _ in range(3))
        expected = run_steps(last, current)
        doomed_ones = [doomed]
        del doomed

        class Frees(SingleSpikeLeaky):
            """A neuron that frees another one when it is put to rest."""

            @property
            def mem(self):
                return SingleSpikeLeaky.mem.fget(self)

            @mem.setter
            def mem(self, value):
                SingleSpikeLeaky.mem.fset(self, value)
                if armed:
                    doomed_ones.clear()

        armed = False
        frees = Frees(0.9, init_hidden=True)
        # Its place is before the one that it frees.
        snn.SpikingNeuron.instances.insert(0, snn.SpikingNeuron.instances.pop())
        armed = True
        utils.reset(nn.Sequential(first, frees))
        assert not doomed_ones
        assert torch.equal(run_steps(last, current), expected)


class TestBaselines:
    def test_standard_neuron_spikes_as_the_single_spike_neuron(self, current):
        trains = []
        for kind in (SingleSpikeLeaky, StandardSingleSpikeLeaky):
            neuron = kind(0.9, init_hidden=True)
            neuron.sequence = True
            trains.append(neuron(current))
        assert torch.equal(*trains)

    def test_standard_neuron_has_plain_backpropagation_through_time(self):
        """No signal after the spike, and before it the surrogate at the spike's own step."""
        neuron = StandardSingleSpikeLeaky(0.5, spike_grad=FastSigmoid(10), init_hidden=True)
        neuron.sequence = True
        current = torch.tensor([0.2, 2.0, 3.0, 0.1]).view(-1, 1, 1).requires_grad_()
        neuron(current).sum().backward()
        slope = [float(FastSigmoid(10).derivative(torch.tensor(v - 1.0))) for v in (0.2, 2.1)]
        expected = torch.tensor([slope[0] + 0.5 * slope[1], slope[1], 0.0, 0.0])
        torch.testing.assert_close(current.grad.flatten(), expected)

    def test_multi_spike_neuron_is_snntorchs_leaky(self, current):
        ours, theirs = (kind(0.9, init_hidden=True) for kind in (MultiSpikeLeaky, snn.Leaky))
        spikes = run_steps(ours, current)
        assert torch.equal(spikes.float(), run_steps(theirs, current).float())
        assert spikes.sum(0).max() > 1

    def test_readout_never_fires(self, current):
        spk, mem = LeakyReadout(1.0)(current[0] * 100)
        assert spk.sum() == 0
        assert torch.equal(mem, current[0] * 100)


class TestSynaptic:
    def neuron(self, **options):
        alpha, beta = torch.rand(2, NEURONS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        return SingleSpikeSynaptic(alpha, beta, learn_alpha=True, learn_beta=True, learn_threshold=True, **options)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_step_and_sequence_agree(self, current, estimator):
        neuron = self.neuron(init_hidden=True, estimator=estimator, threshold=torch.ones((), dtype=torch.float64))
        leaves = (current.requires_grad_(), neuron.alpha, neuron.beta, neuron.threshold)
        stepped = run_steps(neuron, current)
        expected = gradients(stepped, leaves)
        neuron.sequence = True
        for output in (False, True):
            neuron.output = output
            spikes = neuron(current)[0] if output else neuron(current)
            assert torch.equal(spikes, stepped)
            for a, b in zip(gradients(spikes, leaves), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert 0 < spikes.sum(0).max() <= 1

    def test_states_equal_those_of_snntorch_before_the_first_spike_and_not_with_another_alpha(self):
        current = torch.full((6, 1, 1), 0.05)
        traces = {}
        for name, neuron in {
            "ours": SingleSpikeSynaptic(0.8, 0.9),
            "theirs": snn.Synaptic(0.8, 0.9),
            "wrong": snn.Synaptic(0.7, 0.9),
        }.items():
            syn, mem = neuron.reset_mem()
            trace = []
            for step in current:
                spk, syn, mem = neuron(step, syn, mem)
                trace.append(torch.stack([spk, syn, mem]))
            traces[name] = torch.stack(trace)
        torch.testing.assert_close(traces["ours"], traces["theirs"], rtol=0, atol=0)
        assert not torch.allclose(traces["ours"], traces["wrong"])

    def test_every_way_to_reset(self, current):
        net = nn.Sequential(self.neuron(init_hidden=True))
        first = run_steps(net, current)
        for rest in (reset, utils.reset, lambda net: net[0].reset_mem()):
            rest(net)
            assert torch.equal(run_steps(net, current), first)

    def test_copies(self, current):
        neuron = self.neuron(init_hidden=True)
        run_steps(neuron, current[:10])
        for twin in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
            assert torch.equal(run_steps(twin, current[10:]), run_steps(copy.deepcopy(neuron), current[10:]))

    def test_truncated_backpropagation(self, current):
        neuron = self.neuron(init_hidden=True)
        for window in current.requires_grad_().split(5):
            run_steps(neuron, window).sum().backward()
            snn.Synaptic.detach_hidden()

    def test_alpha_outside_is_refused(self):
        with pytest.raises(ValueError, match="alpha must lie"):
            SingleSpikeSynaptic(1.5, 0.9)


class TestWhatSnnTorchAssertsOfLeaky:
    """The behaviour that snnTorch's own tests of ``Leaky`` hold it to.

    None of them asserts a second spike or a reset's effect on the membrane, so there is no exception to list.
    """

    @pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
    @pytest.mark.parametrize("init_hidden", [False, True])
    def test_membrane_decays_and_nothing_fires_below_threshold(self, mechanism, init_hidden):
        neuron = SingleSpikeLeaky(beta=0.5, reset_mechanism=mechanism, init_hidden=init_hidden)
        mem = neuron.init_leaky()
        membranes, spikes = [], []
        for value in (0.25, 0.0):
            out = neuron(torch.tensor([value])) if init_hidden else neuron(torch.tensor([value]), mem)
            spk, mem = (out, neuron.mem) if init_hidden else out
            membranes.append(mem.item())
            spikes.append(spk.item())
        assert membranes == [0.25, 0.125]
        assert spikes == [0, 0]

    def test_reset_mechanism_can_be_read_and_changed(self):
        for value, (mechanism, other) in enumerate([("subtract", "zero"), ("zero", "none"), ("none", "subtract")]):
            neuron = SingleSpikeLeaky(beta=0.5, reset_mechanism=mechanism)
            assert neuron.reset_mechanism_val == value
            neuron.reset_mechanism = other
            assert neuron.reset_mechanism_val == (value + 1) % 3

    def test_graded_factor_can_learn(self):
        assert SingleSpikeLeaky(0.5, learn_graded_spikes_factor=True).graded_spikes_factor.requires_grad


class TestTorchFeatures:
    def network(self, **options):
        net = nn.Sequential(nn.Linear(NEURONS, 5), SingleSpikeLeaky(0.9, init_hidden=True, **options))
        net[1].sequence = True
        return net

    def test_whole_model_is_saved_and_loaded(self, current, tmp_path):
        net = self.network()
        net(current.float())
        torch.save(net, tmp_path / "net.pt")
        again = torch.load(tmp_path / "net.pt", weights_only=False)
        assert torch.equal(again(current.float()), net(current.float()))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_other_precisions_stay_what_they_are(self, current, dtype):
        net = self.network().to(dtype)
        spikes = net(current.to(dtype))
        assert spikes.dtype == dtype
        net[1].sequence = False
        assert torch.equal(torch.stack([net(step) for step in current.to(dtype)]), spikes)

    def test_autocast(self, current):
        net = self.network(learn_beta=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            spikes = net(current.float())
        spikes.float().sum().backward()
        assert net[0].weight.grad.isfinite().all()
        assert net[1].beta.grad.isfinite()

    @pytest.mark.slow
    def test_compiled_sequence(self, current):
        net = self.network(learn_beta=True)
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        x = current[:6].float()
        expected = net(x)
        spikes = compiled(x)
        assert torch.equal(spikes, expected)
        grads = [torch.autograd.grad(out.sum(), list(net.parameters())) for out in (spikes, expected)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.slow
    def test_exported_sequence(self, current):
        net = self.network()
        x = current[:6].float()
        program = torch.export.export(net, (x,))
        assert torch.equal(program.module()(x), net(x))

    @pytest.mark.slow
    def test_a_thousand_dropped_networks_leave_nothing(self):
        gc.collect()
        before = len(snn.SpikingNeuron.instances)
        for _ in range(1000):
            self.network()
        gc.collect()
        assert len(snn.SpikingNeuron.instances) == before


class TestSignatures:
    NEURONS = (SingleSpikeLeaky, SingleSpikeSynaptic, StandardSingleSpikeLeaky, MultiSpikeLeaky, LeakyReadout)

    @pytest.mark.parametrize("kind", NEURONS)
    def test_every_argument_is_shown_and_explained(self, kind):
        parameters = inspect.signature(kind).parameters
        assert "sequence" in parameters
        for name, parameter in parameters.items():
            assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
            assert f"    {name}: " in inspect.getdoc(kind)

    @pytest.mark.parametrize("kind", NEURONS)
    def test_sequence_is_an_argument_and_an_attribute(self, current, kind):
        first = [0.8] if kind is SingleSpikeSynaptic else []
        asked, set_later = (kind(*first, 0.9, init_hidden=True, sequence=flag) for flag in (True, False))
        assert not set_later.sequence
        set_later.sequence = True
        assert torch.equal(asked(current), set_later(current))
        with pytest.raises(TypeError):
            kind(*first, 0.9, sequenze=True)

    def test_baselines_have_no_estimator(self):
        for kind in (StandardSingleSpikeLeaky, MultiSpikeLeaky):
            with pytest.raises(TypeError, match=f"{kind.__name__}.*estimator"):
                kind(0.9, estimator="ramp")

    def test_print_shows_what_a_neuron_is(self):
        beta = torch.linspace(0.8, 0.95, 100)
        neuron = SingleSpikeLeaky(beta, 1.5, FastSigmoid(10), learn_beta=True, estimator="flat", sequence=True)
        assert repr(neuron) == (
            "SingleSpikeLeaky(beta=[100] 0.8 to 0.95 (learned), threshold=1.5, estimator=flat, "
            "surrogate=FastSigmoid(slope=10), sequence=True)"
        )
        assert repr(SingleSpikeSynaptic(0.5, 0.9, spike_grad=snn_surrogate.atan(), init_hidden=True)) == (
            "SingleSpikeSynaptic(alpha=0.5, beta=0.9, threshold=1, estimator=ramp, surrogate=atan, init_hidden=True, "
            "sequence=False)"
        )
        assert "threshold" not in repr(LeakyReadout(0.9))
