"""Which neurons have fired goes where their membrane goes: every loop that people write, against the formulas.

The reference at the top knows nothing of the package: it goes sample by sample through the equations in
``docs/snntorch.md`` and the table of ``ss_lightning/functional/first_spike.py``.
"""

import copy
import functools
import itertools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ss_lightning import FastSigmoid, SingleSpikeLeaky, SingleSpikeSynaptic, StandardSingleSpikeLeaky, reset

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
        return None

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
    step = step or neuron
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
    step = step or neuron
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
    step = step or neuron
    names = names_of(neuron)
    first = program.first(neuron, start)
    rest = torch.zeros(NEURONS, dtype=current.dtype)
    streams = [{name: rest for name in names} for _ in range(BATCH)]
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
WAYS = pytest.mark.parametrize("spike_grad", [FastSigmoid(SLOPE), general_surrogate], ids=["ours", "general"])
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
    return spikes.detach(), torch.autograd.grad(loss, list(leaves.values()))


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
