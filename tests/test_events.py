import pickle

import torch

from ss_lightning import EventBatch


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
