"""snnTorch neurons that fire at most once per sample, their readout and their baselines.

Every class here subclasses :class:`snntorch.Leaky` (one :class:`snntorch.Synaptic`), keeps its constructor and its
calling convention, and so works in existing snnTorch code: one step per ``forward``, ``spk`` with ``init_hidden``, else
``(spk, mem)``. Setting ``neuron.sequence = True`` makes ``forward`` take a whole sequence ``[T, B, ...]`` instead, from
rest.

The maths lives in :mod:`ss_lightning.functional`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import snntorch as snn
import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from ss_lightning.functional.clamp import clamp_inward
from ss_lightning.functional.first_spike import (
    State,
    check_estimator,
    first_spike,
    first_spike_state,
    first_spike_step,
)
from ss_lightning.functional.scan import leaky_scan
from ss_lightning.functional.single_spike import check_beta, single_spike
from ss_lightning.surrogate import ATan


def reset(net: nn.Module) -> None:
    """Put every spiking neuron inside ``net`` to rest, however deep, and nothing outside it.

    ``snntorch.utils.reset`` goes through a global list of neurons instead: it reaches other networks and misses
    nested ones (snntorch#438).
    """
    for module in net.modules():
        if isinstance(module, SpikingNeuron) and hasattr(module, "reset_mem"):
            module.reset_mem()


def _track(neuron: SpikingNeuron) -> None:
    """Let ``snntorch.utils.reset`` reach the neuron without keeping it alive.

    snnTorch appends each neuron to a class list that never forgets (snntorch#328). A weak proxy in the neuron's place
    passes ``isinstance`` and takes assignments just the same, and leaves the list with the neuron.
    """

    def forget(proxy: Any) -> None:
        SpikingNeuron.instances[:] = [entry for entry in SpikingNeuron.instances if entry is not proxy]

    SpikingNeuron.instances[:] = [entry for entry in SpikingNeuron.instances if entry is not neuron]
    SpikingNeuron.instances.append(weakref.proxy(neuron, forget))


class _Tracked(SpikingNeuron):
    """What all neurons here add to snnTorch's: no leak in ``instances``, copies at any time, whole sequences.

    Comes before the snnTorch class among the bases.
    """

    mem: Tensor
    beta: Tensor
    threshold: Tensor

    def __init__(self, **options: Any) -> None:
        for name in ("alpha", "beta"):
            if name in options:
                value = options[name]
                is_float = isinstance(value, Tensor) and value.is_floating_point()
                options[name] = torch.as_tensor(value, dtype=None if is_float else torch.get_default_dtype())
                check_beta(options[name], name)
        if options.get("spike_grad") is None:
            # snnTorch's default is a closure, which cannot be pickled (snntorch#420); this is the same function.
            options["spike_grad"] = ATan(2.0)
        super().__init__(**options)
        self.sequence = False
        _track(self)

    def decay(self) -> Tensor:
        """``beta`` clamped to ``[0, 1]``, with a gradient that can always bring it back inside."""
        return clamp_inward(self.beta)

    def __getstate__(self) -> dict[str, Any]:
        """The neuron with its states cut from the graph, which deepcopy and pickle refuse."""
        state = self.__dict__.copy()
        state["_buffers"] = {k: v if v is None else v.detach() for k, v in self._buffers.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _track(self)


class _Trace(NamedTuple):
    """What the membrane looked like when the neuron last let go of it."""

    pointer: int
    version: int
    has_graph: bool


class _OneSpike(_Tracked):
    """A neuron that also remembers, beside its membrane, whether it has fired.

    Others reset a neuron by assigning ``mem`` (``utils.reset``, a new ``mem`` in the loop), so the memory must clear
    with it, yet survive ``mem.detach()`` and ``detach_hidden`` (truncated BPTT). The membrane that came back is the
    one that was left if it lies at the same address, unwritten; any other one counts as a reset if it is all zero.
    """

    # The states of the snnTorch class, in the order in which it takes and returns them; the membrane is the last.
    _states: ClassVar[tuple[str, ...]] = ("mem",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # snnTorch binds this method to the neuron, a cycle that only the garbage collector frees; we do not use it.
        del self.state_function
        self._memory: State | None = None
        self._trace: _Trace | None = None

    def __getstate__(self) -> dict[str, Any]:
        """See :class:`_Tracked`; the address of the membrane means nothing in a copy."""
        state = super().__getstate__()
        state["_trace"] = None
        if self._memory is not None:
            state["_memory"] = tuple(part.detach() for part in self._memory)
        return state

    def reset_mem(self) -> Any:
        """Rest: states zero, not fired. Returns the states, as snnTorch does."""
        self._memory = None
        return super().reset_mem()

    def forward(self, input_: Tensor, *states: Tensor | None, **named: Tensor | None) -> Any:
        """One step ``[B, ...]``, or a whole sequence ``[T, B, ...]`` when :attr:`sequence` is set.

        Args:
            input_: input current.
            states: the states of the step before, in snnTorch's order, where the neuron does not keep them itself
                (``init_hidden``); or by name.

        Returns:
            ``spk`` with ``init_hidden`` (and ``output`` false), else ``(spk, mem)`` with all states, shaped like the
            input.
        """
        if len(states) > len(self._states) or not named.keys() <= set(self._states):
            raise TypeError(f"{type(self).__name__} takes the states {', '.join(self._states)}")
        given = dict(zip(self._states[: len(states)], states, strict=True)) | named
        given = {name: state for name, state in given.items() if state is not None}
        if given and self.init_hidden:
            raise TypeError(f"`{'`, `'.join(given)}` should not be passed as an argument while `init_hidden=True`")
        only_spikes = self.init_hidden and not self.output
        if self.sequence:
            if given:
                raise TypeError("a sequence starts from rest: pass no states while `sequence` is set")
            if input_.dim() < 2 or len(input_) < 1:
                raise ValueError(f"a sequence must be time-major [T, B, ...] with T >= 1, got {tuple(input_.shape)}")
            if only_spikes:
                return self._grade(self._sequence_spikes(input_))
            spk, *traces = self._sequence(input_)
            return self._grade(spk), *traces
        for name in self._states:
            state = given.get(name, getattr(self, name))
            setattr(self, name, state if state.shape == input_.shape else torch.zeros_like(input_))
        before = tuple(getattr(self, name) for name in self._states)
        spk, after, self._memory = self._step(input_, before, self._recall())
        for name, state in zip(self._states, after, strict=True):
            setattr(self, name, state)
        self._trace = None if torch.compiler.is_compiling() else self._look()
        spk = self._grade(spk)
        return spk if only_spikes else (spk, *after)

    # The rule of each neuron ------------------------------------------------------------------------------------------

    def _rest(self, like: Tensor) -> State:
        """Memory of a neuron that has not fired."""
        raise NotImplementedError

    def _fire(self, mem: Tensor, memory: State) -> tuple[Tensor, State]:
        """Spikes of this step and the memory after it."""
        raise NotImplementedError

    def _integrate(self, current: Tensor, states: State) -> State:
        """States after this step, before any spike."""
        return (self._quantised(self.decay() * states[-1] + current),)

    def _step(self, current: Tensor, states: State, memory: State) -> tuple[Tensor, State, State]:
        """One step: spikes, states and memory after it."""
        states = self._integrate(current, states)
        spk, memory = self._fire(states[-1], memory)
        return spk.to(current.dtype), states, memory

    def _sequence(self, current: Tensor) -> State:
        """Spikes and states ``[T, B, ...]`` from rest, step by step."""
        rest = torch.zeros_like(current[0])
        states, memory = tuple(rest for _ in self._states), self._rest(rest)
        steps = []
        for step in current.unbind(0):
            spk, states, memory = self._step(step, states, memory)
            steps.append((spk, *states))
        return tuple(torch.stack(trace) for trace in zip(*steps, strict=True))

    def _sequence_spikes(self, current: Tensor) -> Tensor:
        return self._sequence(current)[0]

    # Parts ------------------------------------------------------------------------------------------------------------

    def _quantised(self, state: Tensor) -> Tensor:
        return self.state_quant(state) if self.state_quant else state

    def _crossings(self, mem: Tensor) -> Tensor:
        if self.inhibition:
            return self.fire_inhibition(mem.size(0), mem).to(mem.dtype)
        return self.spike_grad(mem - self.threshold).to(mem.dtype)

    def _grade(self, spk: Tensor) -> Tensor:
        factor = self.graded_spikes_factor
        plain = not factor.requires_grad and factor.device.type == "cpu" and not torch.compiler.is_compiling()
        if plain and factor.numel() == 1 and factor.item() == 1:
            return spk  # multiplying a whole sequence by one costs as much as a step of the neuron
        return spk * factor.to(spk.dtype)

    def _look(self) -> _Trace:
        return _Trace(self.mem.data_ptr(), self.mem._version, self.mem.requires_grad)

    def _recall(self) -> State:
        """The memory that belongs to the membrane in ``self.mem``."""
        rest = self._rest(self.mem)
        if self._memory is None or self._memory[0].shape != self.mem.shape:
            return rest
        memory = tuple(part.to(self.mem) for part in self._memory)
        if torch.compiler.is_compiling():
            moved = (self.mem != 0).any()
            return tuple(torch.where(moved, part, new) for part, new in zip(memory, rest, strict=True))
        now = self._look()
        same = self._trace is not None and now[:2] == self._trace[:2]
        if not same and not bool((self.mem != 0).any()):
            return rest
        if self._trace is not None and self._trace.has_graph and not now.has_graph:
            # Someone cut the membrane from the graph (truncated BPTT): the memory is cut at the same place.
            memory = tuple(part.detach() for part in memory)
        return memory


class _FirstCrossing(_OneSpike):
    """The single-spike rule with its gradient estimator; the membrane is never reset, so it is a scan over time."""

    def __init__(self, *, estimator: str, **options: Any) -> None:
        check_estimator(estimator)
        super().__init__(**options)
        self.estimator = estimator

    def _rest(self, like: Tensor) -> State:
        return first_spike_state(like, self.estimator)

    def _fire(self, mem: Tensor, memory: State) -> tuple[Tensor, State]:
        return first_spike_step(self._crossings(mem), memory, self.estimator)

    def _drive(self, current: Tensor) -> State:
        """States before the membrane, each as a whole sequence; the last one drives it."""
        return ()

    @property
    def _is_linear(self) -> bool:
        """Whether the states are plain scans and each crossing depends on its own neuron alone."""
        return not (self.state_quant or self.inhibition)

    def _sequence(self, current: Tensor) -> State:
        if not self._is_linear:
            return super()._sequence(current)
        drive = self._drive(current)
        membrane = leaky_scan((current, *drive)[-1], self.decay())
        spikes = first_spike(self._crossings(membrane), self.estimator)
        return spikes.to(current.dtype), *drive, membrane

    def _sequence_spikes(self, current: Tensor) -> Tensor:
        if not self._is_linear:
            return super()._sequence_spikes(current)
        spikes = single_spike(
            (current, *self._drive(current))[-1],
            self.decay(),
            self.threshold,
            surrogate=self.spike_grad,
            estimator=self.estimator,
        )
        return spikes.to(current.dtype)


class SingleSpikeLeaky(_FirstCrossing, snn.Leaky):
    """A leaky neuron that fires at most once per sample: at its first threshold crossing.

    ``V[t] = beta * V[t-1] + I[t]``, ``S[t] = 1`` at the first ``t`` with ``V[t] > threshold``. It never fires again,
    so the membrane is never reset: ``reset_mechanism`` and ``reset_delay`` are accepted and have no effect. All other
    arguments mean what they mean in :class:`snntorch.Leaky`, which this class replaces without any other change.

    Args:
        beta: membrane decay per step in ``[0, 1]``, a number or a tensor such as ``[N]``; clamped there in
            ``forward`` with a gradient that never dies.
        threshold: the membrane must exceed it (strictly) to fire.
        spike_grad: surrogate gradient, from :mod:`ss_lightning.surrogate` or :mod:`snntorch.surrogate`; None is
            ``ATan(2)``, snnTorch's default in a form that can be pickled.
        surrogate_disable: use a step without a gradient.
        init_hidden: keep the membrane in the neuron and return spikes only.
        inhibition: in each step only the neuron with the highest membrane may cross.
        learn_beta: make ``beta`` a parameter.
        learn_threshold: make ``threshold`` a parameter.
        reset_mechanism: accepted, without effect.
        state_quant: quantisation of the membrane after each step.
        output: with ``init_hidden``, return ``(spk, mem)`` all the same.
        graded_spikes_factor: spikes are multiplied by it.
        learn_graded_spikes_factor: make it a parameter.
        reset_delay: accepted, without effect.
        estimator: how the gradient of the one spike reaches the crossings: ``ramp`` (the paper), ``survival``,
            ``flat`` or ``masked``; see :mod:`ss_lightning.functional.first_spike`.

    Raises:
        ValueError: ``beta`` lies outside ``[0, 1]`` or the estimator is unknown.

    Use one object per layer: whether it has fired is remembered in the neuron, beside ``mem``.

    Source: Taylor, King & Harper, arXiv:2205.15286.
    """

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Any = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
        *,
        estimator: str = "ramp",
    ) -> None:
        super().__init__(
            beta=beta,
            threshold=threshold,
            spike_grad=spike_grad,
            surrogate_disable=surrogate_disable,
            init_hidden=init_hidden,
            inhibition=inhibition,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
            reset_mechanism=reset_mechanism,
            state_quant=state_quant,
            output=output,
            graded_spikes_factor=graded_spikes_factor,
            learn_graded_spikes_factor=learn_graded_spikes_factor,
            reset_delay=reset_delay,
            estimator=estimator,
        )


class SingleSpikeSynaptic(_FirstCrossing, snn.Synaptic):
    """A neuron with synaptic current that fires at most once per sample, in the place of :class:`snntorch.Synaptic`.

    ``syn[t] = alpha * syn[t-1] + I[t]``, ``V[t] = beta * V[t-1] + syn[t]``; the rest as in :class:`SingleSpikeLeaky`.
    A step returns ``(spk, syn, mem)`` without ``init_hidden``.

    Args:
        alpha: decay of the synaptic current per step in ``[0, 1]``, a number or a tensor such as ``[N]``.
        beta: decay of the membrane per step in ``[0, 1]``.
        threshold: the membrane must exceed it (strictly) to fire.
        spike_grad: surrogate gradient; None is ``ATan(2)``.
        surrogate_disable: use a step without a gradient.
        init_hidden: keep the states in the neuron and return spikes only.
        inhibition: in each step only the neuron with the highest membrane may cross.
        learn_alpha: make ``alpha`` a parameter.
        learn_beta: make ``beta`` a parameter.
        learn_threshold: make ``threshold`` a parameter.
        reset_mechanism: accepted, without effect.
        state_quant: quantisation of both states after each step.
        output: with ``init_hidden``, return ``(spk, syn, mem)`` all the same.
        reset_delay: accepted, without effect.
        estimator: ``ramp``, ``survival``, ``flat`` or ``masked``.

    Raises:
        ValueError: ``alpha`` or ``beta`` lies outside ``[0, 1]`` or the estimator is unknown.
    """

    _states: ClassVar[tuple[str, ...]] = ("syn", "mem")
    alpha: Tensor

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Any = False,
        output: bool = False,
        reset_delay: bool = True,
        *,
        estimator: str = "ramp",
    ) -> None:
        super().__init__(
            alpha=alpha,
            beta=beta,
            threshold=threshold,
            spike_grad=spike_grad,
            surrogate_disable=surrogate_disable,
            init_hidden=init_hidden,
            inhibition=inhibition,
            learn_alpha=learn_alpha,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
            reset_mechanism=reset_mechanism,
            state_quant=state_quant,
            output=output,
            reset_delay=reset_delay,
            estimator=estimator,
        )

    def _integrate(self, current: Tensor, states: State) -> State:
        syn, mem = states
        syn = clamp_inward(self.alpha) * syn + current
        return self._quantised(syn), self._quantised(self.decay() * mem + syn)

    def _drive(self, current: Tensor) -> State:
        return (leaky_scan(current, clamp_inward(self.alpha)),)


class StandardSingleSpikeLeaky(_OneSpike, snn.Leaky):
    """The paper's sequential single-spike neuron: a time loop with a membrane that is zeroed after the spike.

    Its spikes are those of :class:`SingleSpikeLeaky`; its gradient is plain backpropagation through time with the
    mask of spent neurons held constant. A model for comparison, as slow as any loop.

    Args:
        beta: membrane decay per step in ``[0, 1]``.
        threshold: the membrane must exceed it (strictly) to fire.
        options: as in :class:`snntorch.Leaky`.

    Source: Taylor, King & Harper, arXiv:2205.15286 ("standard" model).
    """

    def __init__(self, beta: float | Tensor, threshold: float | Tensor = 1.0, **options: Any) -> None:
        super().__init__(beta=beta, threshold=threshold, **options)

    def _rest(self, like: Tensor) -> State:
        return (torch.ones_like(like),)

    def _step(self, current: Tensor, states: State, memory: State) -> tuple[Tensor, State, State]:
        (alive,) = memory
        (mem,) = self._integrate(current, states)
        mem = mem * alive
        spk = self._crossings(mem) * alive
        return spk.to(current.dtype), (mem,), (alive * (1 - spk.detach()),)


class MultiSpikeLeaky(_Tracked, snn.Leaky):
    """The multi-spike baseline: :class:`snntorch.Leaky` itself (detached reset), plus :attr:`sequence`.

    Args:
        beta: membrane decay per step in ``[0, 1]``.
        threshold: the membrane must exceed it (strictly) to fire.
        options: as in :class:`snntorch.Leaky`.
    """

    def __init__(self, beta: float | Tensor, threshold: float | Tensor = 1.0, **options: Any) -> None:
        super().__init__(beta=beta, threshold=threshold, **options)

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        """As ``snn.Leaky``; a whole sequence ``[T, B, ...]`` from rest when :attr:`sequence` is set."""
        if not self.sequence:
            return super().forward(input_, mem)
        if mem is not None:
            raise TypeError("a sequence starts from rest: pass no states while `sequence` is set")
        self.reset_mem()
        spikes, membranes = [], []
        for step in input_.unbind(0):
            out = super().forward(step)
            spikes.append(out[0] if isinstance(out, tuple) else out)
            membranes.append(self.mem)
        self.reset_mem()
        spk = torch.stack(spikes)
        return spk if self.init_hidden and not self.output else (spk, torch.stack(membranes))

    def _base_state_function(self, input_: Tensor) -> Tensor:
        return self.decay() * self.mem + input_


class LeakyReadout(_Tracked, snn.Leaky):
    """A leaky integrator that never fires: the output layer whose membrane is read.

    Args:
        beta: decay per step in ``[0, 1]``, a number or a tensor such as ``[C]``.
        learn_beta: make ``beta`` a parameter.
        init_hidden: keep the membrane in the neuron and return it alone; without it a step returns
            ``(spk, mem)`` with ``spk`` all zero, so that the readout fits into a snnTorch loop.
    """

    def __init__(self, beta: float | Tensor, learn_beta: bool = False, init_hidden: bool = False) -> None:
        super().__init__(beta=beta, learn_beta=learn_beta, init_hidden=init_hidden, reset_mechanism="none")

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        """The membrane after one step ``[B, C]``, or after each of a sequence ``[T, B, C]``."""
        if mem is not None and (self.init_hidden or self.sequence):
            raise TypeError("`mem` should not be passed with `init_hidden=True` or while `sequence` is set")
        if self.sequence:
            out = leaky_scan(input_, self.decay())
        else:
            if mem is not None:
                self.mem = mem
            if self.mem.shape != input_.shape:
                self.mem = torch.zeros_like(input_)
            out = self.mem = self.decay() * self.mem + input_
        return out if self.init_hidden else (torch.zeros_like(out), out)
