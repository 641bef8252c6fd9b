import json

import numpy as np
import pytest

from ss_lightning.data import storage
from ss_lightning.data.store import EventStore
from ss_lightning.errors import DataError, UsageError


@pytest.mark.parametrize("mmap", [True, False])
def test_save_and_load(store, tmp_path, is_mapped, mmap):
    store.save(tmp_path / "kept")
    loaded = EventStore.load(tmp_path / "kept", mmap=mmap)
    for name in ("times", "units", "offsets", "labels", "groups"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(store, name))
        assert getattr(loaded, name).dtype == getattr(store, name).dtype
    for name in ("num_units", "num_classes", "input_shape", "class_names", "time_unit"):
        assert getattr(loaded, name) == getattr(store, name)
    assert is_mapped(loaded.times) == mmap
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("silent", [[], [0], [1, 2], [5], range(6)])
def test_parts_are_written_and_joined_as_one(build_store, tmp_path, silent):
    """Parts of one or several samples, the first of them silent too."""
    rng = np.random.default_rng(0)
    times = [np.sort(rng.random(0 if sample in silent else sample + 1)) for sample in range(6)]
    units = [rng.integers(0, 3, len(t)) for t in times]
    options = {"num_classes": 6, "allow_empty": True}
    whole = build_store(times, units, range(6), groups=range(6), **options)
    parts = [build_store(times[p], units[p], range(6)[p], groups=range(6)[p], **options) for p in PARTS]
    EventStore.write(tmp_path / "kept", iter(parts))
    for store in (EventStore.load(tmp_path / "kept"), EventStore.joined(parts)):
        for name in ("times", "units", "offsets", "labels", "groups"):
            np.testing.assert_array_equal(getattr(store, name), getattr(whole, name))
            assert getattr(store, name).dtype == getattr(whole, name).dtype


PARTS = [slice(0, 1), slice(1, 3), slice(3, 6)]


def test_parts_of_other_types_are_refused(build_store, tmp_path):
    whole, single = build_store([[0, 1], [2]], time_unit="us"), build_store()
    with pytest.raises(ValueError, match="types"):
        EventStore.write(tmp_path / "kept", [whole, single])
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_events_can_be_kept(build_store, tmp_path):
    build_store([[], []], [[], []], allow_empty=True).save(tmp_path / "kept")
    assert EventStore.load(tmp_path / "kept").num_events == 0


def test_save_replaces_a_store_but_no_other_folder(build_store, store, tmp_path):
    build_store().save(tmp_path / "kept")
    store.save(tmp_path / "kept")
    assert len(EventStore.load(tmp_path / "kept")) == len(store)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear")
    with pytest.raises(UsageError, match="thesis exists and is not a stored data set"):
        store.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "dear"


def test_a_failed_save_leaves_the_old_store_and_no_rest(build_store, store, tmp_path, monkeypatch):
    build_store().save(tmp_path / "kept")
    monkeypatch.setattr(storage._ArrayFile, "append", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.save(tmp_path / "kept")
    assert len(EventStore.load(tmp_path / "kept")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "units.npy").unlink(),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "times.npy").write_bytes((folder / "times.npy").read_bytes()[:-8]),
        lambda folder: (folder / "labels.npy").write_bytes(b""),
        lambda folder: flip_last_byte(folder / "units.npy"),
        lambda folder: flip_last_byte(folder / "offsets.npy"),
    ],
    ids=["no units", "no meta", "half meta", "other meta", "short times", "empty labels", "units", "offsets"],
)
@pytest.mark.parametrize("mmap", [True, False])
def test_a_damaged_store_is_not_loaded(store, tmp_path, damage, mmap):
    store.save(tmp_path / "kept")
    damage(tmp_path / "kept")
    with pytest.raises(DataError, match=r"kept.*Build it again"):
        EventStore.load(tmp_path / "kept", mmap=mmap)


def test_another_format_version_is_not_loaded(store, tmp_path):
    store.save(tmp_path / "kept")
    meta = json.loads((tmp_path / "kept" / "meta.json").read_text())
    (tmp_path / "kept" / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(DataError, match="format 99, expected 2"):
        EventStore.load(tmp_path / "kept")
