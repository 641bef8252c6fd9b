"""How the input layer of a network is computed: by gathered events, or by dense matrix products.

Gathering reads one row of weights for each event, so its cost grows with the density of the input. A matrix product
over the dense input ``[T, B, N]`` costs the same at any density, and does far more work in the same time. Above some
density, which depends on the card, the product is faster. Hidden layers, whose neurons fire at most once, are always
gathered.

A tensor of spikes on a processor is searched for events first, see :func:`as_events`.

The rule for events on a GPU is :func:`choose_synapse`. Its constants stand in ``crossover.json`` beside this file. Each
says whether it was measured; ``python -m ss_lightning.benchmark.gpu --record`` measures those of a card and writes them
there.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ss_lightning.events import EventBatch
from ss_lightning.nonzero import find_sparse_events

# By the word of ``backend`` that asks for it.
SYNAPSES = ("events", "dense", "dense_bf16")
CROSSOVER_FILE = Path(__file__).with_name("crossover.json")
# Share of non-zero input above which matrix products are faster on a processor: training steps of fully connected
# networks were level, the search included, at 0.2 (784-500-10) and at 0.35 (700-300-20).
_CPU_DENSITY = 0.2
# Share of the memory of a card that the dense input and the currents may take.
_MEMORY_SHARE = 0.25
# Terms of bf16 (8 bits each) that hold the 24 bits of a float32.
_TERMS = 3


def as_events(spikes: Tensor) -> EventBatch | Tensor:
    """The events of a tensor ``[T, B, N]`` where a processor is faster with them; else the tensor.

    A tensor that needs a gradient, holds anything but counts or is too dense stays as it is, and so does one that is
    traced or lies on another device.
    """
    if type(spikes) is not Tensor or spikes.device.type != "cpu" or spikes.layout != torch.strided:
        return spikes
    if spikes.requires_grad or spikes.is_complex() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return spikes
    found = find_sparse_events(spikes, _CPU_DENSITY)
    return spikes if found is None else EventBatch.trusted(*found, len(spikes), spikes.shape[2])


def choose_synapse(backend: str, events: EventBatch, weight: Tensor) -> str:
    """Whether the input layer gathers ``events`` or multiplies a ``dense`` input; no look at the card is needed.

    Args:
        backend: ``dense`` and ``dense_bf16`` ask for products, ``auto`` leaves the choice to the density of the input
            and the card; with any other word events are gathered.
        events: input of the network.
        weight: of the input layer, ``[N_out, N_in]``.

    Returns:
        One of ``SYNAPSES``.
    """
    if backend in SYNAPSES:
        return backend
    if backend != "auto" or events.device.type != "cuda" or weight.dtype != torch.float32:
        return "events"
    steps, batch, units = events.shape
    if 4 * steps * batch * (units + 2 * len(weight)) > _MEMORY_SHARE * card_memory(events.device):
        return "events"
    density = events.num_events / max(steps * batch * units, 1)
    return "dense" if density > crossover(card_name(events.device)) else "events"


@lru_cache
def card_name(device: torch.device) -> str:
    """Name of a GPU."""
    return torch.cuda.get_device_name(device)


@lru_cache
def card_memory(device: torch.device) -> int:
    """Memory of a GPU in bytes."""
    return torch.cuda.get_device_properties(device).total_memory


@lru_cache
def read_crossovers(path: Path) -> dict[str, Any]:
    """The constants of the rule."""
    return json.loads(path.read_text(encoding="utf-8"))


def crossover(card: str, path: Path = CROSSOVER_FILE) -> float:
    """The density above which products are faster on a card, in the precision that float32 products have now.

    Args:
        card: name of the card, such as ``NVIDIA H100 80GB HBM3``.
        path: the file of the constants.
    """
    constants = read_crossovers(path)
    known = [name for name in constants["cards"] if name in card]
    values = constants["cards"][max(known, key=len)] if known else constants["other"]
    return values["fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"]


def dense_current(spikes: Tensor, weight: Tensor, synapse: str) -> Tensor:
    """``W s`` of every row, never in less than the precision of the weights, whatever autocast says.

    Args:
        spikes: whole numbers, ``[R, N_in]``.
        weight: ``[N_out, N_in]``.
        synapse: ``dense``, or ``dense_bf16`` for :func:`split_linear`.

    Returns:
        ``[R, N_out]``.
    """
    with torch.autocast(spikes.device.type, enabled=False):
        return split_linear(spikes, weight) if synapse == "dense_bf16" else F.linear(spikes, weight)


def split_linear(spikes: Tensor, weight: Tensor, terms: int = _TERMS) -> Tensor:
    """``F.linear`` by the fast bf16 units of a card: every weight is a sum of bf16 numbers, added up in float32.

    With three terms a weight keeps all its 24 bits. Spikes must be whole numbers up to 256, which bf16 holds exactly.

    Args:
        spikes: ``[R, N_in]``.
        weight: float32 ``[N_out, N_in]``.
        terms: bf16 numbers for each weight.

    Returns:
        float32 ``[R, N_out]``.
    """
    half, rest = spikes.bfloat16(), weight
    current = weight.new_zeros(len(spikes), len(weight))
    for _ in range(terms):
        part = rest.bfloat16()
        rest = rest - part.float()
        if spikes.is_cuda:
            current += torch.mm(half, part.t(), out_dtype=torch.float32)
        else:  # what a card does, for tests: products of bf16 numbers are exact in float32
            current += F.linear(half.float(), part.float())
    return current
