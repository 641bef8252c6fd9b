"""Slices side by side: all of the work, once, in order, whatever team of threads does it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from ss_lightning import threads
from ss_lightning.threads import map_slices, num_slices


@pytest.fixture(params=["openmp", "pool"], autouse=True)
def team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both teams, with three threads whatever the machine has."""
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda process: None)
    elif threads._openmp(os.getpid()) is None:
        pytest.skip("torch has no OpenMP here")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_every_part_is_done_once_and_in_order(count: int) -> None:
    parts = map_slices(lambda low, high: list(range(low, high)), count)
    assert len(parts) == num_slices(count) == min(3, count)
    assert [i for part in parts for i in part] == list(range(count))


def test_slices_run_side_by_side() -> None:
    """Each waits for the others: one thread alone would wait for ever."""
    barrier = threading.Barrier(3, timeout=30)
    map_slices(lambda low, high: barrier.wait(), 3)


def test_one_thread_does_all_at_once() -> None:
    torch.set_num_threads(1)
    assert map_slices(lambda low, high: (low, high, threading.get_ident()), 9) == [(0, 9, threading.get_ident())]


def test_slices_inside_slices(team: str) -> None:
    """A thread of the team that asks for a team gets a smaller one; nothing may be left undone."""
    if team == "pool":
        pytest.skip("a pool that waits for itself would wait for ever; the kernels do not nest")
    inner = map_slices(lambda low, high: map_slices(lambda a, b: b - a, 5), 3)
    assert [sum(sizes) for sizes in inner] == [5, 5, 5]


def test_an_error_reaches_the_caller_after_the_others_are_done() -> None:
    done = []

    def work(low: int, high: int) -> None:
        if low == 1:
            raise KeyError("the second")
        time.sleep(0.05)
        done.append(low)

    with pytest.raises(KeyError, match="the second"):
        map_slices(work, 3)
    assert sorted(done) == [0, 2]
    assert map_slices(lambda low, high: low, 3) == [0, 1, 2]
