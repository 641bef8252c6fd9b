"""One cache for many processes, and downloads that are whole or not there."""

import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torchvision.datasets

from ss_lightning.data import EventStore, MNISTData, SHDData
from ss_lightning.data.cache import cached_stores, preparation_lock
from ss_lightning.errors import DataError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("SS_LIGHTNING_LONG_TESTS"))

PREPARE = """
import sys, time
from ss_lightning.data import SHDData
from ss_lightning.data import shd
read = shd.read_shd_file
def slow(path, *options):
    print("read", path.name, flush=True)
    store = read(path, *options)
    time.sleep(0.5)
    return store
shd.read_shd_file = slow
print("ready", flush=True)
sys.stdin.readline()
splits = SHDData(root=sys.argv[1], download=False).splits
print("sum", splits.train.store.times.sum(), splits.test.store.units.sum(), flush=True)
"""


def preparing(root):
    """A process that prepares the data as soon as it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def entries(cache):
    return sorted(path.name.split("-")[0] for path in cache.iterdir() if path.is_dir())


def test_processes_that_start_at_once_share_one_cache(tmp_path, shd, cache):
    """Each file is read once, by whichever process is first, and all see the same."""
    shd.write_pair(tmp_path)
    processes = [preparing(tmp_path) for _ in range(4 if LONG else 2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    assert sorted(line for output in outputs for line in output if line.startswith("read")) == [
        "read shd_test.h5", "read shd_train.h5",
    ]  # fmt: skip
    assert len({output[-1] for output in outputs}) == 1
    assert entries(cache) == ["shd_test", "shd_train"]


def test_a_process_that_is_killed_as_it_prepares_blocks_and_spoils_nothing(tmp_path, shd, cache):
    shd.write_pair(tmp_path)
    process = preparing(tmp_path)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "read shd_train.h5\n"
    process.kill()  # it holds the lock now
    process.communicate()
    splits = SHDData(root=str(tmp_path), download=False).splits
    assert len(splits.test) == 6
    assert entries(cache) == ["shd_test", "shd_train"]


class Source:
    """A source file and the count of how often it was read."""

    def __init__(self, folder, text="1.5"):
        self.path = folder / "source.h5"
        self.path.write_text(text)
        self.reads = 0

    def build(self, path):
        self.reads += 1
        return [EventStore.from_arrays([[float(path.read_text())]], [[0]], [0], num_units=1, time_unit="ms")]

    def load(self, cache):
        with preparation_lock(cache, self.path) as writable:
            return cached_stores(cache, {"train": self.path}, self.build, writable=writable)["train"].times.tolist()


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path)


def test_what_a_killed_writer_left_is_removed(source, cache):
    source.load(cache)
    (entry,) = [path for path in cache.iterdir() if path.is_dir()]
    entry.rename(cache / f".{entry.name}-abc123")  # it was killed before it gave the folder its name
    assert source.load(cache) == [1.5]
    assert source.reads == 2
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [entry.name]


def test_a_file_that_was_replaced_with_its_old_time_is_read_again(source, cache):
    source.load(cache)
    status = source.path.stat()
    source.path.write_text("2.5")
    os.utime(source.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.load(cache) == [2.5]


def test_the_cache_of_another_version_is_built_again(source, cache, monkeypatch):
    """Also where the name of the entry is that of today."""
    with monkeypatch.context() as earlier:
        earlier.setattr("ss_lightning.data.storage.FORMAT_VERSION", 1)
        source.load(cache)
    for _ in range(2):
        assert source.load(cache) == [1.5]
    assert source.reads == 2


class Server:
    """Serves files to torchvision, faultily if told so."""

    def __init__(self, files):
        self.files, self.fault = files, ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                content = outer.files[self.path.strip("/")]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if outer.fault == "cut":
                    content = content[: len(content) // 2]
                elif outer.fault == "other":
                    content = content[:-1] + bytes([content[-1] ^ 1])
                self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(tmp_path, idx, monkeypatch):
    idx.write_all(tmp_path / "official")
    raw = tmp_path / "official" / "MNIST" / "raw"
    files = {f"{path.name}.gz": gzip.compress(path.read_bytes()) for path in raw.iterdir()}
    made = Server(files)
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [made.url])
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.mark.parametrize("fault", ["cut", "other"])
def test_a_download_that_is_cut_or_altered_is_not_taken(tmp_path, server, fault):
    """Its checksum is wrong; nothing of it stays, and the next try brings the whole."""
    root = tmp_path / "root"
    server.fault = fault
    with pytest.raises(DataError, match="the download failed"):
        MNISTData(root=str(root)).prepare_data()
    assert [path for path in root.rglob("*") if path.is_file()] == []
    server.fault = ""
    assert len(MNISTData(root=str(root)).splits.test) == 10
    assert {path.name for path in root.iterdir()} == {"MNIST"}


def test_a_download_that_was_killed_is_begun_again(tmp_path, server):
    root = tmp_path / "root"
    half = root / ".MNIST.download" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    assert len(MNISTData(root=str(root)).splits.test) == 10
    assert {path.name for path in root.iterdir()} == {"MNIST"}
