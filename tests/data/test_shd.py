import h5py
import numpy as np
import pytest

from ss_lightning.data import shd as shd_module
from ss_lightning.data.shd import SHDData, SSCData, held_out_speakers, left_out_speakers
from ss_lightning.errors import DataError, UsageError

KEYS = ("one", "two", "three")


def data(root, **kwargs):
    return SHDData(**{"root": str(root), "num_steps": 30, "step_ms": 2.0, "download": False, **kwargs})


@pytest.fixture
def damaged(shd, recordings, tmp_path):
    """Write a pair whose training file has one thing changed; returns the root and the path of that file."""

    def write(without=(), **changes):
        shd.write_pair(tmp_path)
        times, units, labels = recordings(12, num_units=700)
        content = {"times": times, "units": units, "labels": labels, "speakers": np.arange(12) % 4}
        for name, (sample, value) in changes.items():
            content[name] = list(content[name])
            content[name][sample] = value
        path = tmp_path / "SHD" / "shd_train.h5"
        shd.write(path, **content, without=without)
        return path

    return write


def test_the_files_become_batches(shd, tmp_path):
    root = shd.write_pair(tmp_path)
    module = data(root, batch_size=6, binning="count")
    assert (module.num_classes, module.class_names) == (3, KEYS)
    assert (module.input_shape, module.num_inputs) == ((700,), 700)
    events, labels = next(iter(module.test_dataloader()))
    with h5py.File(root / "SHD" / "shd_test.h5") as file:
        assert labels.tolist() == file["labels"][:].tolist()
        dense = events.to_dense().numpy()
        for sample in range(6):
            times, units = file["spikes/times"][sample], file["spikes/units"][sample]
            assert times.dtype == np.float16
            steps = (times.astype(np.float64) * 1000 / 2.0).astype(int)
            expected, *_ = np.histogram2d(steps, units, bins=(range(31), range(701)))
            np.testing.assert_array_equal(dense[:, sample], expected)


@pytest.mark.parametrize(
    ("known", "asked", "expected"),
    [
        ([1, 3, 5], None, [5]),
        (range(6), None, [5]),
        (range(7), None, [5, 6]),
        (range(10), None, [8, 9]),
        ([4, 4, 2, 2], None, [4]),
        ([1, 3, 5], [1], [1]),
        ([1, 3, 5], [3, 1, 3], [1, 3]),
        ([1, 3, 5], [], []),
        ([1], [], []),
    ],
)
def test_held_out_speakers(known, asked, expected):
    assert held_out_speakers(np.asarray(known), asked) == expected


@pytest.mark.parametrize(
    ("known", "asked", "words"),
    [
        ([1, 3, 5], [3, 9], r"\[9\] not among the training speakers; expected some of \[1, 3, 5\]"),
        ([1, 3], [1, 3], r"\[1, 3\] leaves no speaker to train on"),
        ([1], None, r"leaves no speaker to train on.*val_speakers: \[\]"),
    ],
)
def test_speakers_that_cannot_be_held_out(known, asked, words):
    with pytest.raises(UsageError, match=words):
        held_out_speakers(np.asarray(known), asked)


@pytest.mark.parametrize(("asked", "held_out"), [(None, {6}), ([1, 5], {1, 5}), ([], set())])
def test_validation_holds_out_speakers(shd, tmp_path, asked, held_out):
    module = data(shd.write_pair(tmp_path, (1, 3, 5, 6)), val_speakers=asked)
    splits = module.splits
    speakers = splits.train.store.groups
    assert set(speakers[splits.train.samples]) == {1, 3, 5, 6} - held_out
    if held_out:
        assert set(speakers[splits.val.samples]) == held_out
        assert len(splits.train) + len(splits.val) == 12
    else:
        assert splits.val is None
        assert module.val_dataloader() == []
    assert len(splits.test) == 6


def contents(dataset):
    """Of each sample its label and its spikes on the grid, in an order of its own."""
    (batch, labels) = dataset.__getitems__(range(len(dataset)))
    spikes = batch.to_dense().numpy().astype(np.uint8)
    return sorted((int(label), spikes[:, index].tobytes()) for index, label in enumerate(labels))


@pytest.mark.parametrize(
    ("left_out", "val", "expected_val"),
    [([7], [], []), ([7], None, [6]), ([1, 7], [5], [5]), ([3, 5, 6, 7], [], []), ([6, 3], [7], [7])],
)
def test_speakers_of_both_files_can_be_left_out(shd, tmp_path, left_out, val, expected_val):
    root = shd.write_pair(tmp_path, (1, 3, 5, 6))  # and speaker 7 in the test file
    module = data(root, test_speakers=left_out, val_speakers=val)
    assert module.speakers() == [1, 3, 5, 6, 7]
    splits = module.splits
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    found = {name: set(part.store.groups[part.samples]) if part else set() for name, part in parts.items()}
    rest = {1, 3, 5, 6, 7} - set(left_out) - set(expected_val)
    assert found == {"train": rest, "val": set(expected_val), "test": set(left_out)}
    assert sum(len(part) for part in parts.values() if part) == 12 + 6
    # The samples are those of the files, and none is lost or moved: compared with what the files hold without pooling.
    apart = data(root, val_speakers=[]).splits
    whole = contents(module.dataset(apart.train)) + contents(module.dataset(apart.test))
    here = [sample for part in parts.values() if part for sample in contents(module.dataset(part))]
    assert sorted(here) == sorted(whole)
    assert contents(module.dataset(splits.test)) != contents(module.dataset(splits.train))


def test_the_test_file_can_be_spared(shd, tmp_path):
    root = shd.write_pair(tmp_path, (1, 3, 5, 6))
    module = data(root, test_speakers=[3, 6], val_speakers=[], exclude_test_file=True)
    assert module.speakers() == [1, 3, 5, 6]
    train, test = module.splits.train, module.splits.test
    assert set(train.store.groups[train.samples]) == {1, 5}
    assert set(test.store.groups[test.samples]) == {3, 6}
    official = data(root, val_speakers=[]).splits
    training_file = contents(module.dataset(official.train))
    assert sorted(contents(module.dataset(train)) + contents(module.dataset(test))) == training_file
    with pytest.raises(UsageError, match=r"\[7\]; expected some of the speakers \[1, 3, 5, 6\]"):
        _ = data(root, test_speakers=[7], exclude_test_file=True).splits
    with pytest.raises(UsageError, match="leaves nothing to test on"):
        _ = data(root, exclude_test_file=True).splits


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([9, 3], r"test_speakers is \[9, 3\]; expected some of the speakers \[1, 3, 5\]"),
        ([], r"test_speakers is \[\]; .* null for the official test file"),
        ([1, 3, 5], r"leaving out all of \[1, 3, 5\] leaves no speaker to train on"),
    ],
)
def test_speakers_that_cannot_be_left_out(asked, words):
    with pytest.raises(UsageError, match=words):
        left_out_speakers(np.asarray([5, 1, 3, 3]), asked)


def test_a_speaker_cannot_be_left_out_and_validate(shd, tmp_path):
    with pytest.raises(UsageError, match=r"\[7\] not among the training speakers; expected some of \[1, 3, 5, 6\]"):
        _ = data(shd.write_pair(tmp_path, (1, 3, 5, 6)), test_speakers=[7], val_speakers=[7]).splits


def test_classes_come_from_both_files_and_the_keys(shd, recordings, tmp_path):
    shd.write_pair(tmp_path)
    times, units, _ = recordings(4, num_units=700)
    test = tmp_path / "SHD" / "shd_test.h5"
    shd.write(test, times, units, [0, 1, 2, 4], speakers=[7] * 4)
    module = data(tmp_path)
    assert (module.num_classes, module.class_names) == (5, (*KEYS, "3", "4"))
    shd.write(test, times, units, [0, 0, 0, 0], speakers=[7] * 4, keys=("eins", "zwei", "drei", "vier"))
    assert data(tmp_path).class_names == ("eins", "zwei", "drei", "vier")


def test_a_file_without_class_names_numbers_them(damaged, tmp_path):
    damaged(without=["extra/keys"])
    module = data(tmp_path)
    assert module.num_classes == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"times": (3, [0.1]), "units": (3, [700])}, ["sample 3", "unit 700", "0 to 699", "num_units=700"]),
        ({"times": (2, [-0.5]), "units": (2, [1])}, ["sample 2", "-0.5"]),
        ({"times": (2, [np.nan]), "units": (2, [1])}, ["sample 2", "nan"]),
        ({"times": (2, [np.inf]), "units": (2, [1])}, ["sample 2", "inf"]),
        ({"times": (5, []), "units": (5, [])}, ["sample 5", "no events"]),
        ({"times": (5, [0.1, 0.2]), "units": (5, [1])}, ["sample 5", "2 times but 1 units"]),
        ({"without": ["spikes/times"]}, ["'spikes/times'", "zenkelab.org"]),
        ({"without": ["spikes/units"]}, ["'spikes/units'"]),
        ({"without": ["labels"]}, ["'labels'"]),
        ({"without": ["extra/speaker"]}, ["'extra/speaker'"]),
        ({"without": ["extra"]}, ["'extra/speaker'"]),
    ],
)
def test_bad_content_is_named(damaged, tmp_path, changes, words):
    path = damaged(**changes)
    with pytest.raises(DataError) as caught:
        data(tmp_path).setup("fit")
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_lengths_that_differ_are_named(damaged, tmp_path):
    path = damaged()
    with h5py.File(path, "a") as file:
        del file["labels"]
        file["labels"] = np.zeros(11, np.uint16)
    with pytest.raises(DataError, match=r"shd_train\.h5: 12 times, 12 units, 11 labels, 12 groups"):
        data(tmp_path).setup("fit")


@pytest.mark.parametrize("size", [0, 100, -1, -600])
def test_a_file_cut_short_is_named(shd, tmp_path, size):
    path = shd.write_pair(tmp_path) / "SHD" / "shd_test.h5"
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(DataError) as caught:
        data(tmp_path).setup("fit")
    for word in [str(path), "cut short", "https://zenkelab.org/datasets/shd_test.h5.zip"]:
        assert word in str(caught.value)


def test_a_group_in_the_place_of_a_data_set_is_named(damaged, tmp_path):
    path = damaged(without=["spikes/times"])
    with h5py.File(path, "a") as file:
        file.create_group("spikes/times")
    with pytest.raises(DataError, match=r"shd_train\.h5: cannot be read"):
        data(tmp_path).setup("fit")


def test_num_units_widens_the_input(damaged, tmp_path):
    damaged(units=(3, [700]), times=(3, [0.1]))
    assert data(tmp_path, num_units=701).input_shape == (701,)


@pytest.mark.parametrize("input", ["events", "dense"])
@pytest.mark.parametrize("binning", ["binary", "count"])
@pytest.mark.parametrize("units_per_input", [5, 99, 700])
def test_neighbouring_channels_can_be_merged(shd, tmp_path, units_per_input, binning, input):
    shd.write_pair(tmp_path)
    options = {"batch_size": 6, "input": input}
    module = data(tmp_path, units_per_input=units_per_input, binning=binning, **options)
    begin = np.arange(0, 700, units_per_input)
    assert (module.input_shape, module.num_inputs) == ((len(begin),), len(begin))

    def dense(of):
        spikes, _ = next(iter(of.test_dataloader()))
        return (spikes if input == "dense" else spikes.to_dense()).numpy().astype(int)

    expected = np.add.reduceat(dense(data(tmp_path, binning="count", **options)), begin, axis=2)
    assert expected.max() > 1 or units_per_input == 5
    np.testing.assert_array_equal(dense(module), np.minimum(expected, 1) if binning == "binary" else expected)


def test_the_files_are_read_once(shd, tmp_path, monkeypatch):
    read, paths = shd_module.read_shd_file, []

    def counted(path, *options):
        paths.append(path.name)
        return read(path, *options)

    monkeypatch.setattr(shd_module, "read_shd_file", counted)
    shd.write_pair(tmp_path)
    first = data(tmp_path)
    assert paths == []  # nothing is read when the module is built
    first.setup("fit")
    first.setup("test")
    second = data(tmp_path)
    second.prepare_data()
    assert paths == ["shd_train.h5", "shd_test.h5"]
    np.testing.assert_array_equal(first.splits.train.store.times, second.splits.train.store.times)


def test_files_are_read_in_pieces_that_change_nothing(shd, tmp_path, monkeypatch):
    shd.write_pair(tmp_path)
    whole = data(tmp_path, cache_dir=str(tmp_path / "one")).splits
    monkeypatch.setattr(shd_module, "_SAMPLES_AT_ONCE", 5)
    pieces = data(tmp_path, cache_dir=str(tmp_path / "two")).splits
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="Cannot keep prepared data"):
        in_memory = data(tmp_path, cache_dir=str(tmp_path / "file" / "cache")).splits
    for other in (pieces, in_memory):
        for part in ("train", "test"):
            one, two = getattr(whole, part).store, getattr(other, part).store
            for name in ("times", "units", "offsets", "labels", "groups"):
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
                assert getattr(one, name).dtype == getattr(two, name).dtype


@pytest.mark.parametrize("sample", [0, 4, 5, 11])
def test_the_sample_is_named_in_whatever_piece(damaged, tmp_path, monkeypatch, sample):
    monkeypatch.setattr(shd_module, "_SAMPLES_AT_ONCE", 5)
    damaged(times=(sample, [0.1]), units=(sample, [700]))
    with pytest.raises(DataError, match=rf"shd_train\.h5, sample {sample}: unit 700"):
        data(tmp_path).setup("fit")


def test_an_unwritable_cache_warns_once(shd, tmp_path, monkeypatch):
    shd.write_pair(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="Cannot keep prepared data") as caught:
        splits = data(tmp_path, cache_dir=str(tmp_path / "file" / "cache")).splits
    assert len(caught) == 1
    assert len(splits.test) == 6


def test_numbers_are_checked():
    with pytest.raises(UsageError, match="num_units is 0"):
        SHDData(num_units=0)
    with pytest.raises(UsageError, match="units_per_input is 0"):
        SHDData(units_per_input=0)


# Spiking Speech Commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", [(), ("extra/speaker",)])
def test_the_valid_file_is_the_validation_set(shd, tmp_path, without):
    module = SSCData(
        root=str(shd.write_ssc(tmp_path, without)), num_steps=30, step_ms=2.0, units_per_input=10, batch_size=4
    )
    splits = module.splits
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [12, 4, 6]
    assert (module.input_shape, module.num_classes, module.class_names) == ((70,), 3, KEYS)
    events, labels = next(iter(module.val_dataloader()))
    with h5py.File(tmp_path / "SSC" / "ssc_valid.h5") as file:
        assert labels.tolist() == file["labels"][:].tolist()
        times, units = file["spikes/times"][1], file["spikes/units"][1]
    expected, *_ = np.histogram2d(times.astype(np.float64) * 500, units // 10, bins=(range(31), range(71)))
    np.testing.assert_array_equal(events.to_dense().numpy()[:, 1], np.minimum(expected, 1))
