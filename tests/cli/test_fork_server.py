"""The server that processes of jobs are forked from."""

import multiprocessing
import subprocess
import sys

import pytest

from ss_lightning.cli import fork_server
from ss_lightning.cli.fork_server import start_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes begin from scratch there")


# In a process of its own: this one may have a server already, of another test.
PROGRAM = """
import multiprocessing
from ss_lightning.cli.fork_server import job_context
for context in (job_context(), multiprocessing.get_context("spawn")):
    with context.Pool(1) as pool:
        print(pool.apply(eval, ("'lightning' in __import__('sys').modules",)))
"""


@pytest.mark.slow
def test_a_process_of_a_job_has_imported_what_takes_long():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["True", "False"], ran.stderr


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (["sweep.yaml", "--jobs", "2"], True),
        (["--config", "shd.yaml", "--jobs=2"], True),
        (["sweep.yaml", "--storage", "shared.journal"], True),
        (["sweep.yaml", "--trials", "2"], False),
        (["sweep.yaml", "--jobs", "1"], False),
        (["sweep.yaml", "--jobs=1", "--trials=2"], False),
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
