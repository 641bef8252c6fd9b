"""Runs the command line in forked processes and ends each by a signal at a chosen moment.

A program of its own, for the parent of a fork must have no threads: ``python driver.py JOBS.json RESULTS.json``. A job
is a folder and a list of runs; a run has the arguments of the command line, and optionally the event at which it ends,
as a name and a number, and how: by a signal, by an error, or because its time is over. Events happen as it works:
batches, and the steps of every write to the disk.
"""

import functools
import json
import os
import signal
import sys
import time
import traceback
import types
import warnings
from collections import Counter
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Timer

from ss_lightning import files
from ss_lightning.cli import commands
from ss_lightning.module import SpikingClassifier
from ss_lightning.runs.checkpoints import MetricsWriter


class Events:
    """Counts events, and ends this process at one of them."""

    def __init__(self, folder, stop_at, by):
        self.log = (folder / "events.txt").open("a")
        self.order = (folder / "order.txt").open("a")
        self.stop_at, self.by, self.counts = stop_at, by, Counter()

    def __call__(self, name):
        self.log.write(f"{name}\n")
        self.log.flush()
        self.counts[name] += 1
        if [name, self.counts[name] - 1] == self.stop_at:
            self.end()

    def end(self):
        if self.by == "time":
            Timer.time_elapsed = lambda timer, stage=None: 1e9
        elif self.by == "error":
            raise RuntimeError("this training is to end here")
        else:
            os.kill(os.getpid(), self.by)

    def watch(self, owner, name, *, before=True, after=False):
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*args, **kwargs):
            if before:
                self(f"{name} before")
            result = original(*args, **kwargs)
            if after:
                self(f"{name} after")
            return result

        setattr(owner, name, watched)

    def install(self):
        self.watch(SpikingClassifier, "validation_step")
        # Others sync and rename files too, such as numba's cache: watch what our own module does.
        files.os = types.SimpleNamespace(**vars(os))
        self.watch(files.os, "replace", after=True)
        self.watch(torch, "save")
        step, write = SpikingClassifier.training_step, MetricsWriter.save

        def training_step(module, batch, index):
            self("training_step")
            self.order.write(f"{module.current_epoch} {index} {batch[0].units.tolist()}\n")
            self.order.flush()
            # Something random, as data augmentation or dropout would be.
            return step(module, batch, index) * (1 + 0.1 * torch.rand(()))

        def slow_sync(file):
            whole = os.pread(file, os.fstat(file).st_size, 0)
            os.ftruncate(file, len(whole) // 2)
            self("file half")
            os.pwrite(file, whole, 0)
            self("file whole")

        def slow_write(writer):
            path = Path(writer.metrics_file_path)
            if writer.metrics and path.is_file():
                whole = path.read_bytes()
                path.write_bytes(whole + b"0,1")
                self("metrics.csv half")
                path.write_bytes(whole)
            write(writer)

        SpikingClassifier.training_step = training_step
        files.os.fsync = slow_sync
        MetricsWriter.save = slow_write


def run_forked(folder, arguments, stop_at=None, by=signal.SIGKILL, limit=120):
    """Exit code of a run; minus the signal where one ended it, "timeout" where it did not end."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        # A shell starts what it runs in the background deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
        Events(Path(folder), stop_at, by).install()
        code = 99
        try:
            code = commands.main(arguments)
        except RuntimeError:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def main(jobs, results):
    warnings.simplefilter("ignore")
    found = []
    for job in json.loads(Path(jobs).read_text()):
        Path(job["folder"]).mkdir(parents=True)
        found.append([run_forked(job["folder"], **run) for run in job["runs"]])
    Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
