"""The Triton kernels compile for cards that need not be there: without spills, in few registers, one variant each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("triton")
from tests.functional.kernels.compile_ahead import TARGETS, entries, start, table

# Registers of a thread. A multiprocessor has 65,536. So at the first bound it holds 10 programs of a scan, 64 threads
# each, where a layer of 300 neurons and 128 samples needs 5 on each of 132; at the second bound it holds 6.
REGISTERS = {"float32": 96, "float64": 160}
KERNELS = {
    "some": {
        "_spike_forward": 3,
        "_spike_backward": 4,
        "_leaky_forward": 1,
        "_leaky_backward": 2,
        "_first_times": 1,
        "_readout_membrane": 1,
        "_readout_backward": 1,
        "_weight_gradient": 1,
        "_layer_backward": 4,
    }
}
KERNELS["all"] = KERNELS["some"] | {"_spike_backward": 12, "_layer_backward": 12}
# They hold a membrane. Division is computed with fused operations, on AMD in plain sight.
MEMBRANES = {"_spike_forward", "_leaky_forward", "_first_times", "_readout_membrane"}


def assert_sound(found: list[dict[str, Any]], target: str, dtype: str, pairs: str) -> None:
    """What every variant must be, and how many variants there are."""
    assert Counter(entry["kernel"] for entry in found) == KERNELS[pairs]
    for entry in found:
        told = f"{target} {dtype}: {entry}"
        assert not entry["unaligned"], f"a slice of a tensor compiled another variant: {told}"
        assert entry["stack"] == entry["local"] == entry["spilled"] == 0, told
        assert 0 < entry["registers"] <= REGISTERS[dtype], told
        if entry["kernel"] in MEMBRANES or target.startswith("cuda"):
            assert entry["fused"] == 0, f"one rounding too few: {told}"
        if entry["kernel"] == "_layer_backward":
            # Up to the end of the first loop the membrane is stored, after the barrier it is read.
            assert entry["order"].count("b") == 1, told
            assert entry["order"].index(";") < entry["order"].index("b"), told
        if "spike" in entry["kernel"] or "leaky" in entry["kernel"]:
            one_thread_a_column = {"cuda": 2, "hip": 1}[target.split(":")[0]]
            assert entry["num_warps"] == one_thread_a_column, told
            if target.startswith("cuda") and target != "cuda:75":  # Turing has no such copies
                assert entry["copies"] >= 24, f"the loads of three chunks are not under way at a time: {told}"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_for_every_card(target: str) -> None:
    """Every kernel, every estimator once and every surrogate, in float32."""
    assert_sound(entries(start(target, "float32", "some")), target, "float32", "some")


@pytest.mark.slow
@pytest.mark.long  # minutes for each card
@pytest.mark.parametrize("target", TARGETS)
def test_every_pair_of_estimator_and_surrogate_compiles_for_every_card(target: str) -> None:
    jobs = {dtype: start(target, dtype, "all") for dtype in REGISTERS}
    for dtype, job in jobs.items():
        assert_sound(entries(job), target, dtype, "all")


def test_what_is_looked_for_would_be_found() -> None:
    """A negative control: each of the findings below must fail."""
    sound = {
        "kernel": "_spike_forward", "unaligned": False, "order": "ls;", "shared": 0, "num_warps": 2, "registers": 72,
        "stack": 0, "local": 0, "spilled": 0, "fused": 0, "copies": 24,
    }  # fmt: skip
    layer = sound | {"kernel": "_layer_backward", "order": "l;s;blls;s"}
    rest = [sound | {"kernel": name} for name, number in KERNELS["some"].items() for _ in range(number)]
    rest = [layer if entry["kernel"] == "_layer_backward" else entry for entry in rest]
    assert_sound(rest, "cuda:90", "float32", "some")
    for fault in (
        {"unaligned": True}, {"stack": 8}, {"local": 8}, {"spilled": 1}, {"registers": 97}, {"fused": 1},
        {"num_warps": 4}, {"copies": 0},
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            assert_sound([rest[0] | fault, *rest[1:]], "cuda:90", "float32", "some")
    with pytest.raises(AssertionError):
        assert_sound([*rest[:-1], layer | {"order": "l;s;lls;s"}], "cuda:90", "float32", "some")
    with pytest.raises(AssertionError):
        assert_sound([*rest, layer], "cuda:90", "float32", "some")


def test_the_table_shows_the_most_registers_and_every_spill() -> None:
    entry = {"kernel": "_one", "registers": 40, "spilled": 0, "stack": 0, "local": 0}
    found = {"cuda:75": [entry, entry | {"registers": 52}], "cuda:90": [entry | {"stack": 8}, entry | {"spilled": 1}]}
    assert table(found) == ["| kernel | cuda:75 | cuda:90 |", "| --- | --- | --- |", "| `_one` | 52 | 40 + 9 |"]
