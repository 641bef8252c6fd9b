"""snnTorch neurons that fire at most once per sample, their readout and their baselines.

Every class here subclasses :class:`snntorch.Leaky` (one :class:`snntorch.Synaptic`), keeps its constructor and its
calling convention, and so works in existing snnTorch code: one step per ``forward``, ``spk`` with ``init_hidden``, else
``(spk, mem)``. With ``sequence=True`` (an argument, and an attribute that can be set later) ``forward`` takes a whole
sequence ``[T, B, ...]`` instead and starts from rest.

The maths lives in :mod:`ss_lightning.functional`; the tensor that ``mem`` is, in
:mod:`ss_lightning.functional.membrane`.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

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
from ss_lightning.functional.membrane import Membrane
from ss_lightning.functional.scan import leaky_scan
from ss_lightning.functional.single_spike import check_beta, single_spike
from ss_lightning.functional.step import fire_step, has_not_fired, leaky_step, open_membrane, sequence_membrane
from ss_lightning.signatures import passes_on_to
from ss_lightning.surrogate import ATan, Surrogate


def reset(net: nn.Module) -> None:
    """Put every spiking neuron inside ``net`` to rest, however deep, and nothing outside it.

    ``snntorch.utils.reset`` goes through a global list of neurons instead: it reaches other networks and misses
    nested ones (snntorch#438).

    Args:
        net: a network with neurons of this package or of snnTorch.

    Example:
        >>> import torch
        >>> from ss_lightning import SingleSpikeLeaky, reset
        >>> net = torch.nn.Sequential(SingleSpikeLeaky(beta=0.9, init_hidden=True))
        >>> [net(torch.full((1, 1), 2.0)).item() for _ in range(3)]
        [1.0, 0.0, 0.0]
        >>> reset(net)
        >>> net(torch.full((1, 1), 2.0)).item()
        1.0
    """
    for module in net.modules():
        if isinstance(module, SpikingNeuron) and hasattr(module, "reset_mem"):
            module.reset_mem()


_MODULE_CALL = nn.Module.__call__


def _warn_of_nirtorch(neuron: nn.Module) -> None:
    """Say so when nirtorch reads the network for snnTorch's ``export_to_nir``, which takes subclasses for their base.

    It replaces the call of all modules meanwhile.
    """
    if nn.Module.__call__ is not _MODULE_CALL and nn.Module.__call__.__module__.startswith("nirtorch"):
        name = type(neuron).__name__
        does = "never fires" if isinstance(neuron, LeakyReadout) else "fires at most once"
        warnings.warn(
            f"nirtorch is reading this network: snntorch.export_nir writes {name}, which {does}, as a neuron that "
            "fires any number of times. Write it with ss_lightning.export.to_nir instead.",
            stacklevel=3,
        )


def _clamped(decay: Tensor) -> Tensor:
    return clamp_inward(decay) if decay.requires_grad and torch.is_grad_enabled() else decay.clamp(0, 1)


def _track(neuron: SpikingNeuron) -> None:
    """Let ``snntorch.utils.reset`` reach the neuron without keeping it alive.

    snnTorch appends each neuron to a class list that never forgets (snntorch#328). A weak proxy in the neuron's place
    passes ``isinstance`` and takes assignments just the same, and leaves the list with the neuron.
    """

    if not isinstance(SpikingNeuron.instances, _Instances):
        SpikingNeuron.instances = _Instances(SpikingNeuron.instances)
    instances = SpikingNeuron.instances
    instances.replace(neuron, None)
    instances.append(weakref.proxy(neuron, lambda proxy: instances.replace(proxy, None)))


class _Instances(list[Any]):
    """snnTorch's list of neurons. It drops those that are gone when its length is asked for, and only then.

    snnTorch goes through the list by index, and a neuron may be freed in the middle of that loop. If the list became
    shorter there, the loop would miss a neuron or run beyond the end.
    """

    def replace(self, old: Any, new: Any) -> None:
        """Put ``new`` where ``old`` stands."""
        for index, entry in enumerate(self):
            if entry is old:
                self[index] = new

    def __len__(self) -> int:
        for index in range(super().__len__() - 1, -1, -1):
            if self[index] is None:
                del self[index]
        return super().__len__()


class _Tracked(SpikingNeuron):
    """What all neurons here add to snnTorch's: no leak in ``instances``, copies at any time, whole sequences.

    Comes before the snnTorch class among the bases.
    """

    mem: Tensor
    beta: Tensor
    threshold: Tensor
    _parameters_shown: ClassVar[tuple[str, ...]] = ("beta", "threshold")

    def __init__(self, *, sequence: bool = False, **options: Any) -> None:
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
        self.sequence = sequence
        _track(self)

    def decay(self) -> Tensor:
        """``beta`` clamped to ``[0, 1]``, with a gradient that can always bring it back inside."""
        return _clamped(self.beta)

    def extra_repr(self) -> str:
        """What ``print(neuron)`` shows: numbers, vectors as their shape and range, and the modes."""
        shown = {name: _in_short(getattr(self, name)) for name in self._parameters_shown}
        if "threshold" in shown:
            if hasattr(self, "estimator"):
                shown["estimator"] = self.estimator
            shown["surrogate"] = "none" if self.surrogate_disable else _surrogate_name(self.spike_grad)
        if self.init_hidden:
            shown["init_hidden"] = "True"
        shown["sequence"] = str(self.sequence)
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def __getstate__(self) -> dict[str, Any]:
        """The neuron with its states cut from the graph, which deepcopy and pickle refuse."""
        state = self.__dict__.copy()
        state["_buffers"] = {k: v if v is None else v.detach() for k, v in self._buffers.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _track(self)


def _in_short(value: Tensor) -> str:
    """A number, or the shape and range of a vector; whether it is learned."""
    learned = " (learned)" if isinstance(value, nn.Parameter) else ""
    value = value.detach()
    if value.dim() == 0:
        return f"{value.item():.4g}{learned}"
    low, high = (f"{end.item():.4g}" for end in torch.aminmax(value.cpu()))
    return f"{list(value.shape)} {low if low == high else f'{low} to {high}'}{learned}"


def _surrogate_name(spike_grad: Any) -> str:
    """A surrogate of this package as it prints itself, a function by its name."""
    if isinstance(spike_grad, Surrogate):
        return repr(spike_grad)
    return str(getattr(spike_grad, "__qualname__", type(spike_grad).__name__)).partition(".<locals>")[0]


class _OneSpike(_Tracked):
    """A neuron that fires at most once; which neurons have fired is part of ``mem``.

    See :mod:`ss_lightning.functional.membrane`. The neuron itself only keeps the latest states, as snnTorch's do; a
    step depends on nothing but what it is given or what stands in ``mem``.
    """

    # The states of the snnTorch class, in the order in which it takes and returns them; the membrane is the last.
    _states: ClassVar[tuple[str, ...]] = ("mem",)
    # What the memory of this neuron is, see `functional.membrane.MEMORY_GRADIENTS`.
    _kind: str

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # snnTorch binds this method to the neuron, a cycle that only the garbage collector frees; we do not use it.
        del self.state_function
        self._watch = _Watch()

    def _init_mem(self) -> None:
        """States that are no buffers: a replica of the network keeps its own, where torch would send one to all."""
        for name in self._states:
            setattr(self, name, torch.zeros(0))

    @property
    def mem(self) -> Tensor:
        """The membrane after the latest step; it knows which neurons have fired. A plain tensor puts them to rest."""
        return self.__dict__["_mem"]

    @mem.setter
    def mem(self, value: Tensor) -> None:
        # Part of the neuron's own record, so that nn.Module need not look at it.
        self.__dict__["_mem"] = value
        self.__dict__["_set_in_backward"] = torch._C._current_graph_task_id()
        if not isinstance(value, Membrane):
            self.__dict__["_rests"] = self.__dict__.get("_rests", 0) + 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """``to``, ``double`` and the like; torch moves parameters and buffers only."""
        super()._apply(fn, recurse)
        rests = self._rests
        for name in self._states:
            state = getattr(self, name)
            moved = state._with([fn(part) for part in state.parts]) if isinstance(state, Membrane) else fn(state)
            setattr(self, name, moved)
        self.__dict__["_rests"] = rests  # to move is not to reset
        return self

    def __getstate__(self) -> dict[str, Any]:
        """See :class:`_Tracked`."""
        state = super().__getstate__()
        for name in ("_mem", *self._states[:-1]):
            state[name] = state[name].detach()
        return state

    def forward(self, input_: Tensor, *states: Tensor | None, **named: Tensor | None) -> Any:
        """One step ``[B, ...]``, or a whole sequence ``[T, B, ...]`` when :attr:`sequence` is set.

        Args:
            input_: input current.
            states: the states of the step before, in snnTorch's order, where the neuron does not keep them itself
                (``init_hidden``); or by name. A membrane that this package returned knows which neurons have fired;
                with a plain tensor none has.

        Returns:
            ``spk`` with ``init_hidden`` (and ``output`` false), else ``(spk, mem)`` with all states, shaped like the
            input.

        Raises:
            TypeError: states are given where the neuron keeps them itself, or with a sequence.
            ValueError: a state does not fit the input, or it is unknown which of its neurons have fired.
            RuntimeError: a neuron with ``init_hidden`` is computed again in the backward pass (activation
                checkpointing), where its state is no longer the one of that step.
        """
        if not torch.compiler.is_compiling():
            _warn_of_nirtorch(self)
        if len(states) > len(self._states) or not named.keys() <= set(self._states):
            raise TypeError(f"{type(self).__name__} takes the states {', '.join(self._states)}")
        both = dict(zip(self._states[: len(states)], states, strict=True)) | named
        given = {name: state for name, state in both.items() if state is not None}
        if given and self.init_hidden:
            raise TypeError(f"`{'`, `'.join(given)}` should not be passed as an argument while `init_hidden=True`")
        if isinstance(input_, Membrane):
            input_ = input_.plain()
        if self.sequence:
            if given:
                raise TypeError("a sequence starts from rest: pass no states while `sequence` is set")
            if input_.dim() < 2 or len(input_) < 1:
                raise ValueError(f"a sequence must be time-major [T, B, ...] with T >= 1, got {tuple(input_.shape)}")
            if self.init_hidden and not self.output:
                return self._grade(self._sequence_spikes(input_))
            spk, *traces = self._sequence(input_)
            if not torch.compiler.is_compiling():
                traces[-1] = sequence_membrane(traces[-1], spk)
            return self._grade(spk), *traces
        if torch.compiler.is_compiling():
            return self._step_outside_of_graphs(input_, given)
        return self._step(input_, given)

    def _step(self, input_: Tensor, given: dict[str, Tensor]) -> Any:
        """One step: the states it starts from, the rule of the neuron, the states it leaves."""
        before = self._states_before(input_, given)
        spk, after = self._advance(input_, before)
        for name, state in zip(self._states, after, strict=True):
            setattr(self, name, state)
        if self.init_hidden and self._rests < 2:
            self._watch.look(self, spk)
        spk = self._grade(spk)
        return spk if self.init_hidden and not self.output else (spk, *after)

    @torch.compiler.disable
    def _step_outside_of_graphs(self, input_: Tensor, given: dict[str, Tensor]) -> Any:
        if torch.compiler.is_exporting():
            raise NotImplementedError(
                f"a single step of {type(self).__name__} cannot be exported, since plain tensors do not tell which "
                "neurons have fired: set `sequence = True` and export the whole sequence, or export one step of an MLP "
                "or ConvNet with ss_lightning.export.export_step"
            )
        return self._step(input_, given)

    def _states_before(self, input_: Tensor, given: dict[str, Tensor]) -> State:
        states = tuple(given.get(name, getattr(self, name)) for name in self._states)
        if self.init_hidden and self._set_in_backward != torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                f"{type(self).__name__} with init_hidden=True is computed again in the backward pass (activation "
                "checkpointing), but its state is no longer that of this step. Build it with init_hidden=False and "
                "hand the states through the checkpoint, or checkpoint the whole loop with its reset inside."
            )
        if all(_shape(state) == input_.shape for state in states):
            return states
        if isinstance(states[-1], Membrane):
            warnings.warn(
                f"{type(self).__name__} was given a membrane of the shape {tuple(states[-1].shape)} with an input of "
                f"the shape {tuple(input_.shape)} and starts from rest. If a new batch has begun, call "
                "ss_lightning.reset(net) (or start from a new membrane) between batches.",
                stacklevel=2,
            )
            return tuple(torch.zeros_like(input_) for _ in states)
        return tuple(_start(name, state, input_) for name, state in zip(self._states, states, strict=True))

    # The rule of each neuron ------------------------------------------------------------------------------------------

    def _advance(self, current: Tensor, states: State) -> tuple[Tensor, State]:
        """Spikes of one step and the states after it."""
        *drive, current = self._drive_step(current, states)
        if self._is_linear and isinstance(self.spike_grad, Surrogate):
            spk, mem = leaky_step(current, states[-1], self.decay(), self.threshold, self.spike_grad, self._kind)
            return spk, (*drive, mem)
        before, *handles = open_membrane(states[-1], self._kind)
        value = self._integrate(current, before)
        if self._kind == "standard":
            value = value * has_not_fired(states[-1])
        spk, mem = fire_step(self._crossings(value), value, states[-1], self._kind, handles)
        return spk.to(current.dtype), (*drive, mem)

    def _drive_step(self, current: Tensor, states: State) -> State:
        """States of this step before the membrane, and what drives it."""
        return (current,)

    def _integrate(self, current: Tensor, mem: Tensor) -> Tensor:
        """The membrane of this step, before any spike."""
        return self._quantised(self.decay() * mem + current)

    def _sequence(self, current: Tensor) -> State:
        """Spikes and states ``[T, B, ...]`` from rest."""
        raise NotImplementedError

    def _sequence_spikes(self, current: Tensor) -> Tensor:
        return self._sequence(current)[0]

    # Parts ------------------------------------------------------------------------------------------------------------

    @property
    def _is_linear(self) -> bool:
        """Whether the states are plain scans and each crossing depends on its own neuron alone."""
        return not (self.state_quant or self.inhibition)

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


def _shape(state: Tensor) -> torch.Size:
    return state.parts[0].shape if isinstance(state, Membrane) else state.shape


def _start(name: str, state: Tensor, input_: Tensor) -> Tensor:
    """A state of another shape than the input's as the start of a sample: rest if it is zero, else spread."""
    if state.numel() == 0 or not bool(state.any()):
        return torch.zeros_like(input_)
    try:
        return state.expand(input_.shape)
    except RuntimeError:
        raise ValueError(
            f"`{name}` has the shape {tuple(state.shape)}, which does not fit the input {tuple(input_.shape)}"
        ) from None


class _Watch:
    """Says once when a neuron that was never put to rest seems to have gone on from one sample to the next.

    It has then been silent for as long as everything before, though some of its neurons are above the threshold.
    """

    def __init__(self) -> None:
        self.steps = self.last_spike = 0
        self.said = False

    def look(self, neuron: Any, spk: Tensor) -> None:
        """Note one step with ``init_hidden``."""
        if self.said or spk.device.type != "cpu":  # a look at a GPU would stall it
            return
        self.steps += 1
        if bool(spk.any()):
            self.last_spike = self.steps
            return
        silent = self.steps - self.last_spike
        if silent < max(self.last_spike, _LONG_SILENCE):
            return
        value, fired = neuron.mem.parts
        if bool((fired & (value > neuron.threshold)).any()):
            self.said = True
            warnings.warn(
                f"{type(neuron).__name__} has emitted no spike for {silent} steps, though some neurons are above their "
                "threshold: they have fired already, and nothing has put them to rest since they were built. If a new "
                "sample has begun, call ss_lightning.reset(net) between samples.",
                stacklevel=2,
            )


_LONG_SILENCE = 10  # steps


class _FirstCrossing(_OneSpike):
    """The single-spike rule with its gradient estimator; the membrane is never reset, so it is a scan over time."""

    def __init__(self, *, estimator: str, **options: Any) -> None:
        check_estimator(estimator)
        super().__init__(**options)
        self.estimator = estimator

    @property
    def _kind(self) -> str:  # type: ignore[override]
        return self.estimator

    def _drive(self, current: Tensor) -> State:
        """States before the membrane, each as a whole sequence; the last one drives it."""
        return ()

    def _sequence(self, current: Tensor) -> State:
        if not self._is_linear:
            return self._sequence_by_steps(current)
        drive = self._drive(current)
        membrane = leaky_scan((current, *drive)[-1], self.decay())
        spikes = first_spike(self._crossings(membrane), self.estimator)
        return spikes.to(current.dtype), *drive, membrane

    def _sequence_by_steps(self, current: Tensor) -> State:
        """In plain operators, which tracers can read."""
        rest = torch.zeros_like(current[0])
        states, memory = tuple(rest for _ in self._states), first_spike_state(rest, self.estimator)
        steps = []
        for step in current.unbind(0):
            *drive, step = self._drive_step(step, states)
            value = self._integrate(step, states[-1])
            spk, memory = first_spike_step(self._crossings(value), memory, self.estimator)
            states = (*drive, value)
            steps.append((spk.to(current.dtype), *states))
        return tuple(torch.stack(trace) for trace in zip(*steps, strict=True))

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
    arguments mean what they mean in :class:`snntorch.Leaky`, which this class replaces.

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
        sequence: let ``forward`` take a whole sequence ``[T, B, ...]``, from rest; an attribute that can be set.

    Raises:
        ValueError: ``beta`` lies outside ``[0, 1]`` or the estimator is unknown.

    Which neurons have fired is part of ``mem``: it goes where ``mem`` goes, and a plain tensor in its place (zeros, a
    constant, a learned start) begins a new sample.

    Example:
        >>> import torch
        >>> from ss_lightning import SingleSpikeLeaky
        >>> neuron = SingleSpikeLeaky(beta=0.9)
        >>> mem, spikes = torch.zeros(1, 1), []
        >>> for current in (0.6, 0.6, 2.0):
        ...     spk, mem = neuron(torch.full((1, 1), current), mem)
        ...     spikes.append(spk.item())
        >>> spikes
        [0.0, 1.0, 0.0]
        >>> neuron
        SingleSpikeLeaky(beta=0.9, threshold=1, estimator=ramp, surrogate=ATan(slope=2.0), sequence=False)

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
        sequence: bool = False,
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
            sequence=sequence,
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
        sequence: let ``forward`` take a whole sequence ``[T, B, ...]``, from rest.

    Raises:
        ValueError: ``alpha`` or ``beta`` lies outside ``[0, 1]`` or the estimator is unknown.
    """

    _states: ClassVar[tuple[str, ...]] = ("syn", "mem")
    _parameters_shown = ("alpha", "beta", "threshold")
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
        sequence: bool = False,
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
            sequence=sequence,
        )

    def _drive_step(self, current: Tensor, states: State) -> State:
        syn = _clamped(self.alpha) * states[0] + current
        return self._quantised(syn), syn

    def _drive(self, current: Tensor) -> State:
        return (leaky_scan(current, clamp_inward(self.alpha)),)


@passes_on_to(SingleSpikeLeaky, without=["estimator"])
class StandardSingleSpikeLeaky(_OneSpike, snn.Leaky):
    """The paper's sequential single-spike neuron: a time loop with a membrane that is zeroed after the spike.

    Its spikes are those of :class:`SingleSpikeLeaky`; its gradient is plain backpropagation through time with the
    mask of spent neurons held constant. A model for comparison, as slow as any loop.

    Args:
        beta: membrane decay per step in ``[0, 1]``.
        threshold: the membrane must exceed it (strictly) to fire.

    Source: Taylor, King & Harper, arXiv:2205.15286 ("standard" model).
    """

    _kind = "standard"

    def __init__(self, beta: float | Tensor, threshold: float | Tensor = 1.0, **options: Any) -> None:
        super().__init__(beta=beta, threshold=threshold, **options)

    def _sequence(self, current: Tensor) -> State:
        """In plain operators, which tracers can read."""
        mem = torch.zeros_like(current[0])
        alive = torch.ones_like(mem)
        spikes, membranes = [], []
        for step in current.unbind(0):
            mem = self._integrate(step, mem) * alive
            spk = self._crossings(mem) * alive
            alive = alive * (1 - spk.detach())
            spikes.append(spk.to(current.dtype))
            membranes.append(mem)
        return torch.stack(spikes), torch.stack(membranes)


@passes_on_to(SingleSpikeLeaky, without=["estimator"])
class MultiSpikeLeaky(_Tracked, snn.Leaky):
    """The multi-spike baseline: :class:`snntorch.Leaky` itself (detached reset), plus :attr:`sequence`.

    Args:
        beta: membrane decay per step in ``[0, 1]``.
        threshold: the membrane must exceed it (strictly) to fire.
        reset_mechanism: ``subtract``, ``zero`` or ``none``.
        reset_delay: whether the reset follows the spike by one step.
    """

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        *,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            beta=beta, threshold=threshold, reset_mechanism=reset_mechanism, reset_delay=reset_delay, **options
        )

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
        sequence: let ``forward`` take a whole sequence ``[T, B, C]``, from rest; an attribute that can be set.

    Raises:
        ValueError: ``beta`` lies outside ``[0, 1]``.

    Example:
        >>> import torch
        >>> from ss_lightning import LeakyReadout
        >>> readout = LeakyReadout(beta=0.5, init_hidden=True, sequence=True)
        >>> readout(torch.tensor([1.0, 0.0, 2.0]).view(3, 1, 1)).flatten()
        tensor([1.0000, 0.5000, 2.2500])
        >>> readout
        LeakyReadout(beta=0.5, init_hidden=True, sequence=True)
    """

    _parameters_shown = ("beta",)

    def __init__(
        self,
        beta: float | Tensor,
        learn_beta: bool = False,
        init_hidden: bool = False,
        *,
        sequence: bool = False,
    ) -> None:
        super().__init__(
            beta=beta, learn_beta=learn_beta, init_hidden=init_hidden, reset_mechanism="none", sequence=sequence
        )

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        """The membrane after one step ``[B, C]``, or after each of a sequence ``[T, B, C]``."""
        if not torch.compiler.is_compiling():
            _warn_of_nirtorch(self)
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
