import os
import threading
import time
import warnings

import pytest

from ss_lightning.data.cache import cache_folder, cached_stores, preparation_lock
from ss_lightning.data.store import EventStore


class Source:
    """A source file and the count of how often it was read."""

    def __init__(self, path):
        self.path = path
        self.reads = 0
        path.write_text("1.5")

    def build(self, path):
        self.reads += 1
        return [EventStore.from_arrays([[float(path.read_text())]], [[0]], [0], num_units=1, time_unit="ms")]

    def load(self, folder, settings=()):
        with preparation_lock(folder, self.path) as writable:
            stores = cached_stores(folder, {"train": self.path}, self.build, writable=writable, settings=settings)
        return stores["train"]


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source.h5")


def entries(folder):
    return [path for path in folder.iterdir() if path.is_dir()]


def test_the_second_load_comes_from_the_cache(source, cache, is_mapped):
    first, second = source.load(cache), source.load(cache)
    assert source.reads == 1
    assert first.times.tolist() == second.times.tolist() == [1.5]
    assert is_mapped(second.times)


def test_a_changed_source_is_read_again_and_its_old_entry_goes(source, cache):
    source.load(cache)
    status = source.path.stat()
    source.path.write_text("2.5")  # the same size
    os.utime(source.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert source.load(cache).times.tolist() == [2.5]
    assert source.reads == 2
    assert len(entries(cache)) == 1


def test_other_settings_and_other_versions_are_built_again(source, cache, monkeypatch):
    source.load(cache, (700,))
    source.load(cache, (800,))
    assert source.reads == 2
    monkeypatch.setattr("ss_lightning.data.cache.FORMAT_VERSION", 99)
    source.load(cache, (800,))
    assert source.reads == 3


def test_files_of_one_name_in_two_folders_are_kept_apart(tmp_path, cache):
    (tmp_path / "other").mkdir()
    one, two = Source(tmp_path / "source.h5"), Source(tmp_path / "other" / "source.h5")
    two.path.write_text("9.0")
    for _ in range(2):
        assert one.load(cache).times.tolist() == [1.5]
        assert two.load(cache).times.tolist() == [9.0]
    assert (one.reads, two.reads) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a" / "one").write_text("other"),
        lambda folder: (folder / "a" / "new").write_text(""),
        lambda folder: (folder / "b" / "two").unlink(),
        lambda folder: (folder / "b" / "two").rename(folder / "b" / "three"),
    ],
)
def test_a_folder_is_read_again_when_anything_in_it_changes(source, tmp_path, cache, change):
    folder = tmp_path / "folder"
    for name in ("a/one", "b/two"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("")
    reads = []

    def load():
        stores = cached_stores(
            cache, {"x": folder}, lambda p: reads.append(p) or source.build(source.path), writable=True
        )
        return stores["x"]

    load()
    load()
    assert len(reads) == 1
    change(folder)
    load()
    load()
    assert len(reads) == 2
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("name", ["times.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_broken_entry_is_built_again(source, cache, name, damage):
    source.load(cache)
    (entry,) = entries(cache)
    if damage == "cut":
        (entry / name).write_bytes((entry / name).read_bytes()[:-3])
    else:
        (entry / name).unlink()
    assert source.load(cache).times.tolist() == [1.5]
    assert source.reads == 2
    source.load(cache)
    assert source.reads == 2


def test_an_unwritable_cache_warns_once_and_works(source, tmp_path):
    blocked = tmp_path / "file" / "cache"  # root may write anywhere, but not below a file
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"Cannot keep prepared data.*SS_LIGHTNING_CACHE") as caught:
        store = source.load(blocked)
    assert len(caught) == 1
    assert store.times.tolist() == [1.5]


def test_a_full_disk_warns_and_works(source, cache, monkeypatch):
    monkeypatch.setattr(EventStore, "write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.warns(UserWarning, match="disk full"):
        assert source.load(cache).times.tolist() == [1.5]


def test_a_cache_that_cannot_be_locked_is_still_read(source, cache, monkeypatch):
    source.load(cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stores = cached_stores(cache, {"train": source.path}, source.build, writable=False)
    assert source.reads == 1
    assert stores["train"].times.tolist() == [1.5]


def test_only_one_of_two_at_once_prepares(source, cache):
    build, together = source.build, threading.Barrier(2)

    def slow_build(path):
        time.sleep(0.3)
        return build(path)

    source.build = slow_build
    found = []

    def run():
        together.wait()
        found.append(source.load(cache).times.tolist())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[1.5], [1.5]]
    assert source.reads == 1


def test_the_folder_comes_from_argument_then_variable_then_user(tmp_path, monkeypatch):
    monkeypatch.setenv("SS_LIGHTNING_CACHE", str(tmp_path / "variable"))
    assert cache_folder(str(tmp_path / "argument")) == tmp_path / "argument"
    assert cache_folder() == tmp_path / "variable"
    monkeypatch.delenv("SS_LIGHTNING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder().name == "ss_lightning"
    assert tmp_path in cache_folder().parents
