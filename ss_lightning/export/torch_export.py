"""Networks as ``torch.export`` programs, and those as ONNX files."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import snntorch as snn
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from ss_lightning.errors import UsageError
from ss_lightning.files import write_for_user
from ss_lightning.networks import SpikingNetwork
from ss_lightning.neurons import LeakyReadout, MultiSpikeLeaky, StandardSingleSpikeLeaky


class _ReadoutOnly(nn.Module):
    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, spikes: Tensor) -> Tensor:
        return self.network(spikes).readout


def export_program(network: SpikingNetwork, num_steps: int) -> torch.export.ExportedProgram:
    """The network as a program that runs without this package.

    Args:
        network: an MLP or a ConvNet; it is left as it was.
        num_steps: ``T``, fixed in the program.

    Returns:
        A program that takes dense spikes ``[T, B, *input_shape]`` of any batch size ``B`` and returns the readout
        ``[T, B, C]``, as the network does. ``torch.export.save`` writes it; ``torch.export.load(file).module()`` reads
        it as a function. It is for inference: no gradient passes through it.

    Raises:
        UsageError: ``num_steps`` is below 1.
    """
    if num_steps < 1:
        raise UsageError(f"num_steps must be 1 or more, got {num_steps}")
    copied = network.plain_copy()
    _replace_neurons(copied, (MultiSpikeLeaky, StandardSingleSpikeLeaky), _Loop)
    with torch.no_grad():
        return torch.export.export(
            _ReadoutOnly(copied).eval(),
            (_silence(network, num_steps),),
            dynamic_shapes={"spikes": {1: torch.export.Dim("batch")}},
        )


def _advance(neuron: snn.Leaky, before: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """One step of a layer ``[B, ...]``: the membrane after it, and what the layer sends on.

    A neuron that has fired is kept at minus infinity, where no input lifts it, so its state is one plain tensor.
    """
    membrane = cast(Any, neuron).decay() * before + current
    if isinstance(neuron, LeakyReadout):
        return membrane, membrane
    if isinstance(neuron, MultiSpikeLeaky):
        membrane = membrane - (before > neuron.threshold) * neuron.threshold
    spikes = membrane > neuron.threshold
    after = membrane
    if not isinstance(neuron, MultiSpikeLeaky):
        after = membrane.masked_fill(spikes | (before == -math.inf), -math.inf)
    return after, spikes.to(current.dtype)


class _States:
    """The membranes of all layers on their way through one step, in the order in which the layers ask for them."""

    before: Iterator[Tensor]
    after: list[Tensor]


class _OneStep(nn.Module):
    """Stands in the place of a neuron: a sequence of one step that begins where the last one ended."""

    def __init__(self, neuron: snn.Leaky, states: _States) -> None:
        super().__init__()
        self.neuron = neuron
        self.threshold = neuron.threshold
        self.states = states

    def forward(self, sequence: Tensor) -> Tensor:
        current = sequence[0]
        before = next(self.states.before, None)
        after, out = _advance(self.neuron, torch.zeros_like(current) if before is None else before, current)
        self.states.after.append(after)
        return out[None]


class _Loop(nn.Module):
    """Stands in the place of a neuron whose own loop over a sequence cannot be exported, or would be unrolled."""

    def __init__(self, neuron: snn.Leaky) -> None:
        super().__init__()
        self.neuron = neuron
        self.threshold = neuron.threshold

    def forward(self, sequence: Tensor) -> Tensor:
        return scan(partial(_advance, self.neuron), torch.zeros_like(sequence[0]), sequence)[1]


def _replace_neurons(network: nn.Module, kind: type[Any] | tuple[type[Any], ...], make: Callable[[Any], Any]) -> None:
    for part in [*network.modules()]:
        for name, child in [*part.named_children()]:
            if isinstance(child, kind):
                setattr(part, name, make(child))


class _Step(nn.Module):
    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.states = _States()
        _replace_neurons(network, snn.Leaky, partial(_OneStep, states=self.states))
        self.network = network

    def forward(self, spikes: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        self.states.before, self.states.after = iter(states), []
        readout = self.network(spikes[None]).readout[0]
        return readout, *self.states.after


def export_step(network: SpikingNetwork) -> torch.export.ExportedProgram:
    """One step of the network as a program that runs without this package, for input that arrives step by step.

    Args:
        network: an MLP or a ConvNet; it is left as it was.

    Returns:
        A program that takes the dense spikes of a step ``[B, *input_shape]`` of any batch size ``B`` and the membranes
        of all layers ``[B, ...]``, those of the readout last. It returns the readout ``[B, C]`` and the membranes
        after the step. A sample begins with membranes of zero. A neuron that has fired stands at minus infinity.
        ``program.example_inputs[0][1:]`` are the membranes of two samples at rest.

    Raises:
        UsageError: the network has delays or onsets, so that a step needs more than the membranes of the one before.
    """
    if getattr(network, "max_delay_ms", 0) or any(getattr(network, "delay_line", [])) or network.onset_ms:
        raise UsageError(
            "one step of a network with delays (delay_line_ms, max_delay_ms) or onsets (onset_ms) needs more than the "
            "membranes of the step before; export the whole sequence instead"
        )
    step = _Step(network.plain_copy()).eval()
    spikes = _silence(network, 1)[0]
    batch = {0: torch.export.Dim("batch")}
    with torch.no_grad():
        _, *after = step(spikes)
        rest = [torch.zeros_like(state) for state in after]
        shapes = {"spikes": batch, "states": tuple(batch for _ in rest)}
        return torch.export.export(step, (spikes, *rest), dynamic_shapes=shapes)


def _silence(network: SpikingNetwork, num_steps: int) -> Tensor:
    """An input without spikes ``[T, 2, *input_shape]``."""
    weight = next(network.parameters())
    return torch.zeros(num_steps, 2, *network.input_shape, dtype=weight.dtype, device=weight.device)


def to_onnx(program: torch.export.ExportedProgram, out: Path | str) -> None:
    """Write a program of :func:`export_program` or :func:`export_step` as an ONNX file.

    The inputs are called ``spikes`` and, of one step, ``membrane_0``, ``membrane_1``, ...; the outputs ``readout`` and
    ``next_0``, ``next_1``, ...

    Args:
        program: what is written.
        out: the file. It appears whole or not at all.

    Raises:
        UsageError: the packages of the extra ``onnx`` are not installed, or the file cannot be written.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise UsageError('ONNX files need `pip install "ss-lightning[onnx]"`')
    layers = range(len(program.graph_signature.user_outputs) - 1)
    written = torch.onnx.export(
        program,
        input_names=["spikes", *(f"membrane_{layer}" for layer in layers)],
        output_names=["readout", *(f"next_{layer}" for layer in layers)],
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    with write_for_user(Path(out)) as scratch:
        written.save(scratch)
