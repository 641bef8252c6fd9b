import pickle

import pytest
import torch

from ss_lightning import EventBatch
from ss_lightning.errors import DataError, UsageError


def batch():
    torch.manual_seed(0)
    counts = torch.randint(0, 3, (5, 3, 4)) * (torch.rand(5, 3, 4) < 0.5)
    return counts, EventBatch.from_dense(counts)


def test_round_trip_through_events_keeps_counts():
    counts, events = batch()
    assert events.shape == (5, 3, 4)
    assert torch.equal(events.to_dense(torch.int64), counts)


def test_layout():
    counts, events = batch()
    assert events.batch_size == 3
    assert events.num_events == counts.sum()
    assert torch.equal(events.events_per_sample(), counts.sum((0, 2)))
    in_step = events.units[events.offsets[1 * 5 + 2] : events.offsets[1 * 5 + 3]]  # sample 1, step 2
    expected = counts[2, 1].nonzero().flatten().repeat_interleave(counts[2, 1][counts[2, 1] > 0])
    assert torch.equal(in_step.long(), expected)


def test_no_events():
    events = EventBatch.from_dense(torch.zeros(4, 2, 3))
    assert events.num_events == 0
    assert events.to_dense().sum() == 0


def test_moves_and_pickles():
    counts, events = batch()
    moved = pickle.loads(pickle.dumps(events.to("cpu", non_blocking=True)))
    assert torch.equal(moved.to_dense(torch.int64), counts)


def test_the_host_does_not_wait_for_a_copy_from_pinned_memory(monkeypatch):
    """Lightning moves a batch by ``batch.to(device)``, without ``non_blocking``."""
    events = batch()[1]
    asked = []

    def moved(tensor, device, non_blocking=False):
        asked.append((str(device), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", moved)
    for pinned in (False, True):
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor, pinned=pinned: pinned)
        events.to("cuda:0")
        events.to(torch.device("cpu"))
    assert asked == [*[("cuda:0", False)] * 2, *[("cpu", False)] * 2, *[("cuda:0", True)] * 2, *[("cpu", False)] * 2]


FLAT = {"units": torch.tensor([0, 2], dtype=torch.int32), "offsets": torch.tensor([0, 1, 2], dtype=torch.int32)}
WRONG = {
    "unit beyond the last": {"units": torch.tensor([0, 3], dtype=torch.int32)},
    "unit below zero": {"units": torch.tensor([-1, 2], dtype=torch.int32)},
    "units of 64 bits": {"units": torch.tensor([0, 2])},
    "units that are floats": {"units": torch.tensor([0.0, 2.0])},
    "units in two dimensions": {"units": torch.zeros(1, 2, dtype=torch.int32)},
    "units that are a list": {"units": [0, 2]},
    "offsets beyond the events": {"offsets": torch.tensor([0, 1, 2_000_000_000], dtype=torch.int32)},
    "offsets that fall": {"offsets": torch.tensor([0, 5, 2], dtype=torch.int32)},
    "offsets that do not begin at 0": {"offsets": torch.tensor([-7, 1, 2], dtype=torch.int32)},
    "offsets of 64 bits": {"offsets": torch.tensor([0, 1, 2])},
    "offsets of half a sample": {"offsets": torch.tensor([0, 2], dtype=torch.int32)},
    "no offsets": {"offsets": torch.zeros(0, dtype=torch.int32)},
    "no steps": {"num_steps": 0},
    "half a step": {"num_steps": 1.5},
    "no units": {"num_units": 0},
    "too many units": {"num_units": 2**31},
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_kernels_would_read_memory_by_is_checked(case):
    right = {**FLAT, "num_steps": 2, "num_units": 3}
    assert EventBatch(**right).shape == (2, 1, 3)
    with pytest.raises(UsageError, match="EventBatch: "):
        EventBatch(**{**right, **WRONG[case]})


GRID = {"num_units": 3, "num_steps": 4, "step_ms": 1.0}


def test_arrays_of_one_recording_and_of_several():
    times, units = [0.003, 0.0005, 0.0007, 0.009], [0, 2, 2, 1]  # in no order; one event behind the grid
    one = EventBatch.from_arrays(times, units, **GRID)
    assert one.shape == (4, 1, 3)
    assert one.to_dense()[:, 0].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    counts = EventBatch.from_arrays(times, units, binning="count", **GRID)
    assert counts.to_dense()[:, 0].tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    several = EventBatch.from_arrays([[], times], [[], units], **GRID)
    assert torch.equal(several.to_dense(), torch.cat([torch.zeros(4, 1, 3), one.to_dense()], 1))
    whole = EventBatch.from_arrays(torch.tensor([3000, 500]), iter([0, 2]), time_unit="us", **GRID)
    assert torch.equal(whole.to_dense(), one.to_dense())


def test_a_second_is_a_thousand_milliseconds():
    assert EventBatch.from_arrays([1.001], [0], num_units=1, num_steps=1002, step_ms=1).to_dense().argmax() == 1001


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": [0, 3]}, "recordings, sample 0: unit 3; .* from 0 to 2 .* set num_units"),
        ({"times": [0.1, -1]}, "event time -1.0"),
        ({"times": [0.1]}, "1 times but 2 units"),
        ({"times": [[0.1], [0.2]], "units": [[1]]}, "times of 2 recordings and units of 1"),
        ({"time_unit": "h"}, "time_unit is 'h'"),
        ({"step_ms": 0}, "step_ms is 0"),
        ({"num_steps": 2.5}, "num_steps is 2.5"),
        ({"num_units": 0}, "num_units is 0"),
        ({"binning": "sum"}, "binning is 'sum'"),
    ],
)
def test_arrays_that_make_no_recording_are_named(change, words):
    with pytest.raises((UsageError, DataError), match=words):
        EventBatch.from_arrays(**{"times": [0.001, 0.002], "units": [0, 2], **GRID, **change})
