"""The server that processes of jobs are forked from."""

import multiprocessing
import sys

import pytest

from ss_lightning.cli import fork_server
from ss_lightning.cli.fork_server import job_context, start_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes begin from scratch there")


@pytest.mark.slow
def test_a_process_of_a_job_has_imported_what_takes_long():
    question = ("'lightning' in __import__('sys').modules",)
    with job_context().Pool(1) as pool:
        assert pool.apply(eval, question)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert not pool.apply(eval, question)


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (["sweep.yaml", "--jobs", "2"], True),
        (["--config", "shd.yaml", "--jobs=2"], True),
        (["sweep.yaml", "--storage", "shared.journal"], True),
        (["sweep.yaml", "--trials", "2"], False),
        ([], False),
    ],
)
def test_it_starts_where_a_command_line_has_jobs(words, starts, monkeypatch):
    started = []
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: started.append(True))
    start_server(words)
    assert started == [True] * starts


def test_where_forking_is_not_safe_nothing_starts(monkeypatch):
    monkeypatch.setattr(fork_server, "job_context", lambda: multiprocessing.get_context("spawn"))
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: pytest.fail("a server"))
    start_server(["sweep.yaml", "--jobs", "2"])
