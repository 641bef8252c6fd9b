"""How the input layer is computed on a GPU: the rule, its constants, and weights split into bf16 terms."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ss_lightning import MLP, EventBatch
from ss_lightning.benchmark.cells import Cell
from ss_lightning.benchmark.split import moved_spikes
from ss_lightning.functional import input_synapse
from ss_lightning.functional.input_synapse import (
    CROSSOVER_FILE,
    choose_synapse,
    crossover,
    dense_current,
    read_crossovers,
    split_linear,
)

GIB = 2**30


@pytest.fixture
def card(monkeypatch):
    """A card that need not be there."""

    def put(name: str, memory: int = 80 * GIB) -> None:
        monkeypatch.setattr(input_synapse, "card_name", lambda device: name)
        monkeypatch.setattr(input_synapse, "card_memory", lambda device: memory)

    yield put
    torch.set_float32_matmul_precision("highest")


def on_card(density: float) -> EventBatch:
    """The size and density of a batch whose tensors are said to be on a card."""
    steps, batch, units = 100, 8, 50
    return SimpleNamespace(  # type: ignore[return-value]
        shape=(steps, batch, units), num_events=round(steps * batch * units * density), device=torch.device("cuda", 0)
    )


WEIGHT = torch.zeros(30, 50)


@pytest.mark.parametrize(("density", "expected"), [(0.0, "events"), (0.009, "events"), (0.011, "dense"), (1, "dense")])
def test_auto_follows_density_and_card(card, density, expected):
    card("NVIDIA H100 80GB HBM3")
    assert choose_synapse("auto", on_card(density), WEIGHT) == expected


def test_another_card_and_another_precision_have_another_crossover(card):
    card("Tesla T4")
    assert choose_synapse("auto", on_card(0.04), WEIGHT) == "events"
    card("Some card of the future")
    assert choose_synapse("auto", on_card(0.04), WEIGHT) == "dense"
    assert choose_synapse("auto", on_card(0.015), WEIGHT) == "events"
    torch.set_float32_matmul_precision("high")
    assert choose_synapse("auto", on_card(0.015), WEIGHT) == "dense"


def test_what_has_no_room_or_no_fast_product_gathers_events(card):
    card("NVIDIA H100 80GB HBM3", memory=1_000_000)
    assert choose_synapse("auto", on_card(0.5), WEIGHT) == "events"
    card("NVIDIA H100 80GB HBM3")
    assert choose_synapse("auto", on_card(0.5), WEIGHT.double()) == "events"


def test_the_word_of_the_user_comes_first(card):
    card("NVIDIA H100 80GB HBM3")
    assert choose_synapse("triton", on_card(0.9), WEIGHT) == "events"
    assert choose_synapse("dense", on_card(0.0), WEIGHT) == "dense"
    assert choose_synapse("dense_bf16", on_card(0.0), WEIGHT) == "dense_bf16"


def test_the_processor_gathers_events():
    events = EventBatch.from_dense(torch.ones(3, 2, 50))
    assert choose_synapse("auto", events, WEIGHT) == "events"


def test_constants_say_where_they_come_from():
    constants = read_crossovers(CROSSOVER_FILE)
    for values in [*constants["cards"].values(), constants["other"]]:
        assert 0 < values["tf32"] < 1
        assert 0 < values["fp32"] < 1
        assert values["source"]


def test_the_longest_name_that_fits_counts(tmp_path):
    cards = {name: {"fp32": value, "tf32": value} for name, value in (("H1", 0.1), ("H100 PCIe", 0.3), ("A1", 0.2))}
    path = tmp_path / "crossover.json"
    path.write_text(json.dumps({"cards": cards, "other": {"fp32": 0.5, "tf32": 0.5}}))
    names = ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "A100", "L4")
    assert [crossover(name, path) for name in names] == [0.3, 0.1, 0.2, 0.5]


@pytest.mark.parametrize("backend", ["dense", "dense_bf16"])
def test_a_network_takes_the_words(backend):
    network = MLP(input_shape=[5], num_classes=2, step_ms=1.0, hidden=[4], backend=backend)
    assert network.backend == backend
    with pytest.raises(ValueError, match=f"{backend}.*cannot run this network"):
        MLP(input_shape=[5], num_classes=2, step_ms=1.0, hidden=[4], neuron="multi", backend=backend)


def test_autocast_leaves_the_product_in_full_precision():
    weight = torch.rand(30, 50)
    spikes = (torch.rand(20, 50) < 0.3).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert F.linear(spikes, weight).dtype == torch.bfloat16
        found = dense_current(spikes, weight, "dense")
    assert torch.equal(found, F.linear(spikes, weight))


def test_three_terms_hold_a_weight_to_the_last_bit():
    torch.manual_seed(0)
    weight = torch.randn(64, 64) * torch.logspace(-6, 6, 64)
    for terms, bits in ((1, 8), (2, 16), (3, 24)):
        # A product with the unit vectors is the sum of the terms.
        error = ((split_linear(torch.eye(64), weight, terms).t() - weight) / weight).abs().max().item()
        assert error <= 2.0**-bits
    assert error == 0
    counts = torch.randint(0, 257, (10, 64)).float()
    weight = torch.randn(30, 64)
    torch.testing.assert_close(split_linear(counts, weight), F.linear(counts, weight), rtol=1e-5, atol=1e-3)


def test_moved_spikes_fall_with_the_terms():
    cell = Cell("step", "small", 16, 100, (300, 100, 5), density=0.05)
    moved = {name: (error, share) for name, error, share in moved_spikes(cell, torch.device("cpu"))}
    errors = [moved[name][0] for name in ("bf16, 1 terms", "bf16, 2 terms", "bf16, 3 terms")]
    assert errors[0] > 100 * errors[1] > 1000 * errors[2]
    assert moved["bf16, 1 terms"][1] > 1e-3
    assert moved["bf16, 3 terms"][1] == moved["float32"][1] == 0
