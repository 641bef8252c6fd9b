"""Which neurons have fired goes where their membrane goes: every loop that people write, against the formulas.

The reference at the top knows nothing of the package: it goes sample by sample through the equations in
``docs/snntorch.md`` and the table of ``ss_lightning/functional/first_spike.py``.
"""

import copy
import functools
import itertools
import pickle

import numpy as np
import pytest
import torch
from snntorch import utils
from torch import nn
from torch.utils.checkpoint import checkpoint

from ss_lightning import FastSigmoid, SingleSpikeLeaky, SingleSpikeSynaptic, StandardSingleSpikeLeaky, reset
from ss_lightning.functional.membrane import join

STEPS, BATCH, NEURONS, HALF, SLOPE = 14, 3, 5, 6, 4.0
KINDS = ["ramp", "survival", "flat", "masked", "standard"]
ORDER = [2, 0, 1]  # row i goes on with the state of row ORDER[i]
START = torch.linspace(-0.6, 0.9, NEURONS, dtype=torch.float64)


# The reference ----------------------------------------------------------------------------------------------------


def crossing_gradients(kind, crossed, fired_before, g):
    """``dL/dc[k]`` of one neuron in one piece of graph, from ``g[t] = dL/dS[t]``."""
    steps = range(len(g))
    if kind == "ramp":
        return [sum((t - k + 1) * g[t] for t in steps if t >= k) for k in steps]
    if fired_before:
        return [0.0 for _ in steps]
    times = [t for t in steps if crossed[t]]
    first = times[0] if times else len(g)
    later = [g[t] for t in times[1:2]]
    if kind == "flat":
        return [sum(g[k:]) if k <= first else 0.0 for k in steps]
    if kind == "survival":
        at_first, at_second = (g[first] if times else 0.0), (later[0] if later else 0.0)
        return [g[k] - at_first if k < first else g[k] - at_second if k == first else 0.0 for k in steps]
    return [g[k] if k <= first else 0.0 for k in steps]


class Reference:
    """Spikes and gradients of one run, from the formulas."""

    def __init__(self, kind, leaves, weight, weight_mem):
        self.kind, self.leaves, self.weight, self.weight_mem = kind, leaves, weight, weight_mem
        self.spikes = torch.zeros_like(weight)
        self.loss = torch.zeros((), dtype=weight.dtype)

    def sample(self, places, start, cuts=(), forget=False):
        """One sample: the (step, row) of its inputs, its first membrane, the steps before which the graph is cut.

        ``forget`` is what a wrong program does: at a cut it forgets who has fired.
        """
        beta, threshold, alpha = self.leaves["beta"], self.leaves["threshold"], self.leaves.get("alpha")
        membrane, synapse = start, torch.zeros_like(START)
        fired = torch.zeros(NEURONS, dtype=torch.bool)
        piece, before = [], fired
        for number, (t, row) in enumerate(places):
            if t in cuts and number:
                self._close(piece, before)
                piece, before = [], torch.zeros_like(fired) if forget else fired
                fired = before
                membrane, synapse = membrane.detach(), synapse.detach()
            drive = self.leaves["current"][t, row]
            if alpha is not None:
                synapse = drive = alpha * synapse + drive
            membrane = beta * membrane + drive
            if self.kind == "standard":
                membrane = membrane * ~fired
            over = membrane - threshold
            self.spikes[t, row] = ((over > 0) & ~fired).to(self.spikes.dtype)
            fired = fired | (over > 0)
            # The derivative of over / (1 + slope |over|) is that of the surrogate.
            piece.append((t, row, (over > 0).tolist(), over / (1 + SLOPE * over.abs())))
            self.loss = self.loss + (self.weight_mem[t, row] * membrane).sum()
        self._close(piece, before)

    def _close(self, piece, before):
        for n in range(NEURONS):
            g = [self.weight[t, row, n].item() for t, row, _, _ in piece]
            crossed = [over[n] for _, _, over, _ in piece]
            for factor, (_, _, _, crossing) in zip(
                crossing_gradients(self.kind, crossed, bool(before[n]), g), piece, strict=True
            ):
                self.loss = self.loss + factor * crossing[n]

    def results(self):
        return self.spikes, torch.autograd.grad(self.loss, list(self.leaves.values()))


# The programs -----------------------------------------------------------------------------------------------------


def general_surrogate(x):
    """As any function that a user writes: the package takes another way than with its own surrogates."""
    return FastSigmoid(SLOPE)(x)


def make(family, kind, spike_grad, dtype=torch.float64, **options):
    torch.manual_seed(4)
    beta, alpha = torch.rand(NEURONS, dtype=dtype) * 0.4 + 0.5, torch.rand(NEURONS, dtype=dtype) * 0.5
    options |= {"threshold": torch.linspace(0.8, 1.2, NEURONS, dtype=dtype), "spike_grad": spike_grad}
    options |= {"learn_beta": True, "learn_threshold": True}
    if family == "synaptic":
        return SingleSpikeSynaptic(alpha, beta, learn_alpha=True, estimator=kind, **options)
    if kind == "standard":
        return StandardSingleSpikeLeaky(beta, **options)
    return SingleSpikeLeaky(beta, estimator=kind, **options)


def inputs(family):
    torch.manual_seed(7)
    scale = 0.6 if family == "synaptic" else 0.9
    current = torch.randn(STEPS, BATCH, NEURONS, dtype=torch.float64) * scale
    weight, weight_mem = torch.randn(2, STEPS, BATCH, NEURONS, dtype=torch.float64)
    return current, weight, weight_mem


class Program:
    """A whole batch; the others change one thing."""

    cuts = ()
    start = None

    def first(self, neuron, start):
        """What the loop begins with; None for the neuron's own rest."""
        return

    def between(self, t, states):
        """What a program does with its states before step ``t``."""
        return states

    def reference(self, run, start):
        for row in range(BATCH):
            run.sample([(t, row) for t in range(STEPS)], start, self.cuts)


class PartialReset(Program):
    """Row 1 is a new sample from the middle on."""

    def __init__(self, how):
        self.how = how

    def between(self, t, states):
        return tuple(self.how(state) for state in states) if t == HALF else states

    def reference(self, run, start):
        for row in range(BATCH):
            if row == 1:
                run.sample([(t, row) for t in range(HALF)], start)
                run.sample([(t, row) for t in range(HALF, STEPS)], start)
            else:
                run.sample([(t, row) for t in range(STEPS)], start)


class Permuted(Program):
    def between(self, t, states):
        return tuple(state[ORDER] for state in states) if t == HALF else states

    def reference(self, run, start):
        for row in range(BATCH):
            run.sample([(t, row if t < HALF else ORDER.index(row)) for t in range(STEPS)], start)


class Start(Program):
    """A learned membrane at the start of every sample."""

    start = START

    def first(self, neuron, start):
        return start


class Detached(Program):
    """Truncated backpropagation, in three pieces."""

    cuts = (HALF, HALF + 4)

    def between(self, t, states):
        return tuple(state.detach() for state in states) if t in self.cuts else states


def written_zero(state):
    state = state.clone()
    state[1] = 0
    return state


def zero_in_place(state):
    state[1].zero_()
    return state


def masked_out(state):
    return state * torch.tensor([1.0, 0.0, 1.0], dtype=state.dtype).unsqueeze(1)


def filled(state):
    return state.masked_fill(torch.tensor([False, True, False]).unsqueeze(1), 0.0)


def chosen(state):
    return torch.where(torch.tensor([True, False, True]).unsqueeze(1), state, torch.zeros_like(state))


def joined(state):
    return torch.cat([state[:1], torch.zeros_like(state[1:2]), state[2:]])


def index_written(state):
    state = state * 1.0
    state[torch.tensor([False, True, False])] = torch.zeros(NEURONS, dtype=state.dtype)
    return state


RESETS = [written_zero, zero_in_place, masked_out, filled, chosen, joined, index_written]
WHOLE = Program()
PROGRAMS = {
    "whole": WHOLE,
    **{f"partial-{how.__name__}": PartialReset(how) for how in RESETS},
    "permuted": Permuted(),
    "start": Start(),
    "detached": Detached(),
}


def names_of(neuron):
    return ("syn", "mem") if isinstance(neuron, SingleSpikeSynaptic) else ("mem",)


def explicit(neuron, current, program, start, step=None):
    """States go from hand to hand."""
    step = neuron if step is None else step
    rest = torch.zeros_like(current[0])
    states = [rest for _ in names_of(neuron)]
    first = program.first(neuron, start)
    if first is not None:
        states[-1] = first
    spikes, membranes = [], []
    for t, x in enumerate(current.unbind(0)):
        states = program.between(t, states) if t else states
        spk, *states = step(x, *states)
        spikes.append(spk)
        membranes.append(states[-1].clone())  # some programs write into it
    return torch.stack(spikes), torch.stack(membranes)


def hidden(neuron, current, program, start, step=None):
    """The neuron keeps its states; the program reaches into them."""
    step = neuron if step is None else step
    reset(neuron)
    first = program.first(neuron, start)
    if first is not None:
        neuron.mem = first
    spikes, membranes = [], []
    for t, x in enumerate(current.unbind(0)):
        if t:
            states = tuple(getattr(neuron, name) for name in names_of(neuron))
            for name, state in zip(names_of(neuron), program.between(t, states), strict=True):
                setattr(neuron, name, state)
        spikes.append(step(x))
        membranes.append(neuron.mem.clone())
    return torch.stack(spikes), torch.stack(membranes)


def handwritten(neuron, current, program, start, step=None):
    """A cell of its own: rows of the batch are streams that one neuron object serves one after the other."""
    step = neuron if step is None else step
    names = names_of(neuron)
    first = program.first(neuron, start)
    rest = torch.zeros(NEURONS, dtype=current.dtype)
    streams = [dict.fromkeys(names, rest) for _ in range(BATCH)]
    for stream in streams:
        stream["mem"] = rest if first is None else first
    spikes, membranes = [], []
    for t in range(STEPS):
        states = tuple(torch.stack([stream[name] for stream in streams]) for name in names)
        states = program.between(t, states) if t else states
        row_spikes = []
        for row, stream in enumerate(streams):
            spk, *after = step(current[t, row : row + 1], *(state[row : row + 1] for state in states))
            for name, state in zip(names, after, strict=True):
                stream[name] = state.squeeze(0)
            row_spikes.append(spk)
        spikes.append(torch.cat(row_spikes))
        membranes.append(torch.stack([stream["mem"] for stream in streams]))
    return torch.stack(spikes), torch.stack(membranes)


MANY_WAYS = {f"partial-{how.__name__}" for how in RESETS if how not in (written_zero, masked_out)}
LOOPS = {"explicit": explicit, "init_hidden": hidden, "hand-written": handwritten}
FAMILIES = [("leaky", kind) for kind in KINDS] + [("synaptic", kind) for kind in KINDS[:-1]]
FAMILY = pytest.mark.parametrize(("family", "kind"), FAMILIES, ids=["-".join(pair) for pair in FAMILIES])
WAYS = pytest.mark.parametrize(
    "spike_grad",
    [FastSigmoid(SLOPE), pytest.param(general_surrogate, marks=pytest.mark.slow)],
    ids=["ours", "general"],
)
LOOP = pytest.mark.parametrize("loop", list(LOOPS))


def leaves_of(neuron, current, start):
    leaves = {"current": current, "beta": neuron.beta, "threshold": neuron.threshold}
    if isinstance(neuron, SingleSpikeSynaptic):
        leaves["alpha"] = neuron.alpha
    if start is not None:
        leaves["start"] = start
    return leaves


@functools.cache
def expected(family, kind, program, cuts=None, forget=False):
    neuron = make(family, kind, FastSigmoid(SLOPE))
    current, weight, weight_mem = inputs(family)
    start = None if program.start is None else program.start.clone().requires_grad_()
    leaves = leaves_of(neuron, current.requires_grad_(), start)
    run = Reference(kind, leaves, weight, weight_mem)
    begin = torch.zeros_like(START) if start is None else start
    if cuts is None:
        program.reference(run, begin)
    else:
        for row in range(BATCH):
            run.sample([(t, row) for t in range(STEPS)], begin, cuts, forget)
    return run.results()


def actual(family, kind, spike_grad, program, loop, run=None):
    """Spikes and gradients of a loop; ``run(neuron, loop, current, start)`` where it is not simply called."""
    neuron = make(family, kind, spike_grad, init_hidden=loop == "init_hidden")
    current, weight, weight_mem = inputs(family)
    current.requires_grad_()
    start = None if program.start is None else program.start.clone().requires_grad_()
    begin = start if loop == "hand-written" or start is None else start.expand(BATCH, NEURONS)
    leaves = leaves_of(neuron, current, start)
    if run is None:
        spikes, membranes = LOOPS[loop](neuron, current, program, begin)
    else:
        spikes, membranes = run(neuron, LOOPS[loop], current, begin)
    loss = (spikes * weight).sum() + (membranes * weight_mem).sum()
    loss.backward()
    return spikes.detach(), [leaf.grad for leaf in leaves.values()]


def same(a, b):
    (spikes, grads), (other_spikes, other_grads) = a, b
    return torch.equal(spikes, other_spikes) and all(
        torch.allclose(x, y, rtol=0, atol=1e-10) for x, y in zip(grads, other_grads, strict=True)
    )


@FAMILY
@WAYS
@LOOP
@pytest.mark.parametrize(
    "program", [pytest.param(name, marks=pytest.mark.slow if name in MANY_WAYS else ()) for name in PROGRAMS]
)
@pytest.mark.slow
def test_loops(family, kind, spike_grad, loop, program):
    found = actual(family, kind, spike_grad, PROGRAMS[program], loop)
    wanted = expected(family, kind, PROGRAMS[program])
    assert 0 < wanted[0].sum() < STEPS * BATCH * NEURONS
    assert torch.equal(found[0], wanted[0])
    for a, b in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


# One thing more around the loop -----------------------------------------------------------------------------------


def checkpointed_steps(reentrant):
    """Activation checkpointing of each step; the states pass through it."""

    def run(neuron, loop, current, start):
        return loop(neuron, current, Program(), start, lambda *args: checkpoint(neuron, *args, use_reentrant=reentrant))

    return run


def checkpointed_loop(reentrant):
    """Activation checkpointing of the whole loop, which begins with a reset or a new membrane."""

    def run(neuron, loop, current, start):
        return checkpoint(lambda x: loop(neuron, x, Program(), start), current, use_reentrant=reentrant)

    return run


def copied_midway(neuron, loop, current, start):
    """Every third step is made by a deep copy; it shares its parameters, so that there is one gradient to compare."""
    twin = copy.deepcopy(neuron)
    for name, parameter in neuron.named_parameters():
        setattr(twin, name, parameter)
    calls = itertools.count()
    return loop(neuron, current, Program(), start, lambda *args: (neuron, neuron, twin)[next(calls) % 3](*args))


def compiled_steps(neuron, loop, current, start):
    torch._dynamo.reset()
    return loop(neuron, current, Program(), start, torch.compile(neuron, backend="aot_eager"))


def in_autocast(neuron, loop, current, start):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return loop(neuron, current, Program(), start)


AROUND = {
    "checkpoint-each-step": checkpointed_steps(False),
    "checkpoint-each-step-reentrant": checkpointed_steps(True),
    "checkpoint-loop": checkpointed_loop(False),
    "checkpoint-loop-reentrant": checkpointed_loop(True),
    "copied": copied_midway,
    "autocast": in_autocast,
}


@pytest.mark.slow
@FAMILY
@WAYS
@pytest.mark.parametrize("loop", ["explicit", "hand-written"])
@pytest.mark.parametrize("around", list(AROUND))
def test_around_a_loop(family, kind, spike_grad, loop, around):
    found = actual(family, kind, spike_grad, Program(), loop, AROUND[around])
    assert same(found, expected(family, kind, WHOLE))


@pytest.mark.slow
@FAMILY
@WAYS
@pytest.mark.parametrize("loop", ["explicit", "init_hidden"])
def test_compiled(family, kind, spike_grad, loop):
    assert same(actual(family, kind, spike_grad, Program(), loop, compiled_steps), expected(family, kind, WHOLE))


@pytest.mark.slow
@pytest.mark.parametrize("program", ["permuted", "detached", "partial-masked_out", "partial-joined"])
def test_compiled_loop(program):
    """The program around the neuron is compiled as well."""
    torch._dynamo.reset()

    def run(neuron, loop, current, start):
        return torch.compile(lambda x: loop(neuron, x, PROGRAMS[program], start), backend="aot_eager")(current)

    found = actual("leaky", "survival", FastSigmoid(SLOPE), PROGRAMS[program], "explicit", run)
    assert same(found, expected("leaky", "survival", PROGRAMS[program]))


@FAMILY
@WAYS
@pytest.mark.parametrize("around", ["checkpoint-loop", "checkpoint-loop-reentrant", "autocast"])
def test_around_a_loop_that_keeps_its_states(family, kind, spike_grad, around):
    found = actual(family, kind, spike_grad, Program(), "init_hidden", AROUND[around])
    assert same(found, expected(family, kind, WHOLE))


@FAMILY
@WAYS
@pytest.mark.parametrize("around", [None, "checkpoint-loop", "checkpoint-loop-reentrant", "autocast"])
@pytest.mark.parametrize("init_hidden", [False, True])
def test_sequence(family, kind, spike_grad, around, init_hidden):
    """Whole sequences begin at rest, so the programs that reach into a loop have no counterpart."""
    neuron = make(family, kind, spike_grad, init_hidden=init_hidden, output=True, sequence=True)
    current, weight, weight_mem = inputs(family)
    current.requires_grad_()
    leaves = leaves_of(neuron, current, None)

    def loop(neuron, x, program, start):
        spikes, *_, membrane = neuron(x)
        return spikes, membrane * 1.0

    spikes, membranes = (
        loop(neuron, current, None, None) if around is None else AROUND[around](neuron, loop, current, None)
    )
    ((spikes * weight).sum() + (membranes * weight_mem).sum()).backward()
    assert same((spikes.detach(), [leaf.grad for leaf in leaves.values()]), expected(family, kind, WHOLE))


@FAMILY
@WAYS
def test_deep_copy_of_a_neuron_that_keeps_its_states(family, kind, spike_grad):
    """A copy is no part of the graph: what it goes on with is cut there, and it remembers who has fired."""
    neuron = make(family, kind, spike_grad, init_hidden=True)
    current, weight, weight_mem = inputs(family)
    current.requires_grad_()
    leaves = leaves_of(neuron, current, None)
    spikes, membranes = [], []
    for t, x in enumerate(current.unbind(0)):
        if t == HALF:
            twin = copy.deepcopy(neuron)
            for name, parameter in neuron.named_parameters():
                setattr(twin, name, parameter)
            neuron = twin
        spikes.append(neuron(x))
        membranes.append(neuron.mem)
    spikes, membranes = torch.stack(spikes), torch.stack(membranes)
    ((spikes * weight).sum() + (membranes * weight_mem).sum()).backward()
    found = spikes.detach(), [leaf.grad for leaf in leaves.values()]
    assert same(found, expected(family, kind, WHOLE, cuts=(HALF,)))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_of_a_network(kind):
    """The current comes in a lower precision than the membrane keeps."""
    torch.manual_seed(0)
    layer, x = nn.Linear(NEURONS, NEURONS), torch.randn(STEPS, BATCH, NEURONS) * 2
    neuron = make("leaky", kind, FastSigmoid(SLOPE), dtype=torch.float32)
    mem, currents, spikes = None, [], []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for step in x:
            current = layer(step)
            current.retain_grad()
            spk, mem = neuron(current, mem if mem is not None else torch.zeros(BATCH, NEURONS))
            currents.append(current)
            spikes.append(spk)
    spikes = torch.stack(spikes)
    weight = torch.randn(STEPS, BATCH, NEURONS).bfloat16().double()
    (spikes.double() * weight).sum().backward()
    leaves = leaves_of(make("leaky", kind, FastSigmoid(SLOPE), dtype=torch.float32), None, None)
    leaves = {name: leaf if leaf is None else leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    leaves["current"] = torch.stack(currents).detach().double().requires_grad_()
    run = Reference(kind, leaves, weight, torch.zeros_like(weight))
    for row in range(BATCH):
        run.sample([(t, row) for t in range(STEPS)], torch.zeros_like(START))
    wanted, grads = run.results()
    assert spikes.dtype == torch.bfloat16
    assert spikes.sum() > 0
    assert torch.equal(spikes.double(), wanted)
    found = torch.stack([current.grad for current in currents])
    torch.testing.assert_close(found.double(), grads[0], rtol=2**-8, atol=1e-5)


# Negative controls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_program_would_be_seen(kind):
    """The comparison above fails for a loop that forgets who has fired, or whose memory has no gradient."""
    wanted = expected("leaky", kind, WHOLE)

    class Forgets(Program):
        def between(self, t, states):
            return tuple(state.plain() for state in states)

    forgets = actual("leaky", kind, FastSigmoid(SLOPE), Forgets(), "explicit")
    assert forgets[0].sum(0).max() > 1
    assert not same(forgets, wanted)

    class LosesGradient(Program):
        """Keeps the marks and the membrane's own gradient, not that of the memory."""

        def between(self, t, states):
            return tuple(join(state.plain(), state.fired, state.kind) if t > 1 else state for state in states)

    loses = actual("leaky", kind, FastSigmoid(SLOPE), LosesGradient(), "explicit")
    assert torch.equal(loses[0], wanted[0])
    assert same(loses, wanted) == (kind in ("masked", "standard"))  # these two send nothing through it
    other = expected("leaky", kind, WHOLE, cuts=(HALF,), forget=True)
    assert other[0].sum(0).max() > 1


# What a program cannot say, and what goes wrong aloud -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("reset_before_backward", [False, True])
def test_checkpointed_steps_of_a_neuron_that_keeps_its_states_are_refused(kind, reentrant, reset_before_backward):
    """A step computed again would start from the state of another step."""
    neuron = make("leaky", kind, FastSigmoid(SLOPE), init_hidden=True)
    current, weight, _ = inputs("leaky")
    current.requires_grad_()
    spikes = torch.stack([checkpoint(neuron, x, use_reentrant=reentrant) for x in current.unbind(0)])
    if reset_before_backward:
        reset(neuron)
    with pytest.raises(RuntimeError, match="init_hidden=False"):
        (spikes * weight).sum().backward()


def test_membranes_with_different_memories_do_not_add_up():
    neuron = make("leaky", "ramp", FastSigmoid(SLOPE))
    rest, strong = torch.zeros(BATCH, NEURONS).double(), torch.full((BATCH, NEURONS), 9.0).double()
    _, fired = neuron(strong, rest)
    _, quiet = neuron(rest, rest)
    mean = (fired + quiet) / 2
    assert type(mean.sum()) is torch.Tensor
    torch.testing.assert_close(mean.as_subclass(torch.Tensor), fired.plain() / 2)
    with pytest.raises(ValueError, match="unknown which of its neurons"):
        neuron(rest, mean)
    _, other = neuron(strong * 2, rest)
    spk, _ = neuron(strong, (fired + other) / 2)
    assert spk.sum() == 0, "both have fired, so the mean has"


def test_membrane_of_another_estimator_is_refused_unless_cut_from_the_graph():
    current = inputs("leaky")[0].requires_grad_()
    _, mem = make("leaky", "ramp", FastSigmoid(SLOPE))(current[0] * 9, torch.zeros_like(current[0]))
    neuron = make("leaky", "survival", FastSigmoid(SLOPE))
    with pytest.raises(ValueError, match=r"estimator 'ramp'.*detach"):
        neuron(current[1], mem)
    spk, _ = neuron(current[1] + 9, mem.detach())
    assert torch.equal(spk == 0, mem.fired)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_after_a_whole_sequence(kind):
    neuron = make("leaky", kind, FastSigmoid(SLOPE), sequence=True)
    current = inputs("leaky")[0].requires_grad_()
    spikes, membrane = neuron(current)
    neuron.sequence = False
    with pytest.raises(ValueError, match=r"whole sequence.*detach"):
        neuron(current[0], membrane[-1])
    spk, _ = neuron(current[0] + 9, membrane[-1].detach())
    assert torch.equal(spk, 1 - spikes.sum(0))


def test_one_object_for_streams_of_different_sizes():
    neuron = SingleSpikeLeaky(0.9)
    states = {8: torch.zeros(1, 8), 3: torch.zeros(1, 3)}
    totals = {size: torch.zeros(1, size) for size in states}
    for _ in range(30):
        for size in states:
            spk, states[size] = neuron(torch.ones(1, size), states[size])
            totals[size] += spk
    assert all(torch.equal(total, torch.ones_like(total)) for total in totals.values())


def test_every_sample_begins_at_a_start_that_is_not_zero():
    neuron = SingleSpikeLeaky(0.9)
    start = torch.full((6,), 0.5)
    for first in (start.expand(4, 6), torch.full((4, 6), 0.5), start):
        mem, total = first, 0
        for _ in range(10):
            spk, mem = neuron(torch.full((4, 6), 0.3), mem)
            total += spk.sum().item()
        assert total == 24
    with pytest.raises(ValueError, match=r"`mem` has the shape \(5,\)"):
        neuron(torch.ones(4, 6), torch.ones(5))


def test_rollout_replayed_in_another_order():
    neuron = SingleSpikeLeaky(0.9)
    x = torch.randn(20, 4, 6, generator=torch.Generator().manual_seed(0))
    mem, stored, spikes = torch.zeros(4, 6), [], []
    with torch.no_grad():
        for step in x:
            stored.append(mem)
            spk, mem = neuron(step, mem)
            spikes.append(spk)
    for t in torch.randperm(20, generator=torch.Generator().manual_seed(1)).tolist():
        assert torch.equal(neuron(x[t], stored[t])[0], spikes[t])
    at_rest, later = stored[0], torch.stack(stored[1:])
    assert type(at_rest) is torch.Tensor
    order = torch.randperm(19, generator=torch.Generator().manual_seed(2))
    replayed, _ = neuron(x[1:][order].flatten(0, 1), later[order].flatten(0, 1))
    assert torch.equal(replayed, torch.stack(spikes)[1:][order].flatten(0, 1))


@WAYS
def test_second_derivatives_are_refused(spike_grad):
    neuron = make("leaky", "ramp", spike_grad)
    x = inputs("leaky")[0].requires_grad_()
    _, mem = neuron(x[0], torch.zeros_like(x[0]))
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(neuron(x[1], mem)[0].sum(), x, create_graph=True)


def test_a_plain_copy_of_a_membrane_is_announced():
    _, mem = SingleSpikeLeaky(0.9)(torch.ones(2, 3), torch.zeros(2, 3))
    record = torch.zeros(1, 2, 3)
    with pytest.warns(UserWarning, match="does not remember which neurons have fired"):
        record[0] = mem
    assert torch.equal(record[0], mem.plain())


class TestForgottenReset:
    def network(self, **options):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 5), SingleSpikeLeaky(0.9, init_hidden=True, **options))

    x = torch.rand(10, 4, 5, generator=torch.Generator().manual_seed(0)) * 3

    @pytest.mark.parametrize("options", [{}, {"spike_grad": general_surrogate}, {"estimator": "masked"}])
    def test_in_training_the_error_names_the_reset(self, options):
        net = self.network(**options)
        sum(net(step) for step in self.x).sum().backward()
        with pytest.raises(RuntimeError, match=r"without a reset.*ss_lightning\.reset\(net\)"):
            sum(net(step) for step in self.x).sum().backward()
        reset(net)
        sum(net(step) for step in self.x).sum().backward()

    def test_explicit_states(self):
        neuron = SingleSpikeSynaptic(0.8, 0.9)
        x = self.x.clone().requires_grad_()
        syn, mem = torch.zeros(4, 5), torch.zeros(4, 5)
        for attempt in range(2):
            total = 0
            for step in x.unbind(0):
                spk, syn, mem = neuron(step, syn, mem)
                total = total + spk.sum()
            if attempt:
                with pytest.raises(RuntimeError, match=r"ss_lightning\.reset\(net\)"):
                    total.backward()
            else:
                total.backward()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_without_gradients_it_is_said_once(self, dtype):
        net, x = self.network().to(dtype), self.x.to(dtype)  # a network that is moved has not been reset
        with torch.no_grad():
            first = sum(net(step).sum() for step in x)
            with pytest.warns(UserWarning, match=r"ss_lightning\.reset\(net\)") as said:
                second = sum(net(step).sum() for _ in range(3) for step in x)
        assert first > 0
        assert second == 0
        assert len(said) == 1

    def test_another_batch_size(self):
        net = self.network()
        with torch.no_grad():
            net(self.x[0])
            with pytest.warns(UserWarning, match=r"shape \(4, 5\).*shape \(3, 5\).*reset"):
                net(self.x[0, :3])

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("rest", [reset, utils.reset], ids=["reset", "utils.reset"])
    def test_nothing_is_said_of_a_program_that_resets(self, rest):
        net = self.network()
        with torch.no_grad():
            for size in (4, 4, 3, 4):
                rest(net)
                for step in torch.cat([self.x] * 4):
                    net(step[:size])

    def test_another_error_of_the_graph_stays_what_it_is(self):
        neuron = make("leaky", "ramp", FastSigmoid(SLOPE))
        x = inputs("leaky")[0].requires_grad_()
        _, mem = neuron(x[0], torch.zeros_like(x[0]))
        spk, _ = neuron(x[1], mem)
        mem.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            spk.sum().backward()

    def test_a_view_counts_what_is_written_into_its_base(self):
        neuron = make("leaky", "ramp", general_surrogate)
        x = inputs("leaky")[0].requires_grad_()
        _, mem = neuron(x[0], torch.zeros_like(x[0]))
        spk, _ = neuron(x[1, :2], mem[:2])
        mem.detach().zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            spk.sum().backward()


class TestTheTensor:
    def membrane(self):
        return SingleSpikeLeaky(0.9)(torch.tensor([[0.2, 3.0], [1.5, -1.0]]), torch.zeros(2, 2))[1]

    def test_copies_and_files_keep_the_memory(self, tmp_path):
        mem = self.membrane()
        torch.save(mem, tmp_path / "mem.pt")
        for twin in (
            copy.deepcopy(mem),
            pickle.loads(pickle.dumps(mem)),
            torch.load(tmp_path / "mem.pt", weights_only=False),
            mem.clone(),
            mem.data,
            mem.to(torch.float64).float(),
        ):
            assert torch.equal(twin.fired, torch.tensor([[False, True], [True, False]]))
            assert torch.equal(twin.plain(), mem.plain())
        mem.clone().zero_()
        assert mem.fired.sum() == 2
        mem.data.zero_()
        assert mem.fired.sum() == 0

    def test_readers_get_plain_tensors(self):
        mem = self.membrane()
        for read in (
            lambda m: m.sum(),
            lambda m: m > 1,
            lambda m: m @ m.T,
            lambda m: torch.zeros_like(m),
            lambda m: nn.functional.cross_entropy(m, torch.tensor([0, 1])),
            lambda m: nn.functional.linear(m, torch.eye(2)),
            lambda m: m.max(1).values,
        ):
            assert type(read(mem)) is torch.Tensor
        assert np.asarray(mem).tolist() == mem.tolist() == mem.plain().tolist()
        assert "fired=2 of 4" in repr(mem)

    def test_a_mask_puts_exactly_its_zeros_to_rest(self):
        mem = self.membrane()
        mask = torch.tensor([[1.0], [0.0]])
        expected = torch.tensor([[False, True], [False, False]])
        for masked in (mem * mask, mask * mem, torch.mul(mem, mask), mem * (mask > 0)):
            assert torch.equal(masked.fired, expected)
        mem *= mask
        assert torch.equal(mem.fired, expected)
        assert (self.membrane() * 1e-30).fired.sum() == 2

    def test_arithmetic_keeps_the_memory(self):
        mem = self.membrane()
        factor = torch.ones((), requires_grad=True)
        neuron = SingleSpikeLeaky(0.9)
        for scaled in (mem * factor, factor + mem):
            neuron(torch.ones(2, 2), scaled)[1].sum().backward()  # the membrane itself is in no graph
        assert type(factor.grad) is torch.Tensor
        for changed in (mem + 1, 1 - mem, mem.clamp(0, 1), mem.round(), mem - mem.detach(), -mem, mem.add_(3)):
            assert torch.equal(changed.fired, torch.tensor([[False, True], [True, False]]))

    def test_a_neuron_does_not_send_its_states_to_the_replicas_of_a_network(self):
        neuron = SingleSpikeLeaky(0.9, init_hidden=True)
        neuron(torch.ones(2, 3))
        assert "mem" not in dict(neuron.named_buffers())
        assert "mem" not in neuron.state_dict()
        assert neuron.double().mem.dtype == torch.float64
        assert neuron.mem.fired.shape == (2, 3)
