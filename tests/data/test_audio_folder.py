"""Sound as spikes: the filters, the two codes, and folders of sound files."""

import numpy as np
import pytest
import soundfile

from ss_lightning.data import AudioFolderData
from ss_lightning.data.sound import SoundReader, level_crossings, mel_energies, mel_filters, read_sound
from ss_lightning.errors import DataError, UsageError

RATE = 8000


def tone(hz, ms=300, rate=RATE):
    t = np.arange(rate * ms // 1000) / rate
    return 0.5 * np.sin(2 * np.pi * hz * t) * np.hanning(len(t))


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture
def digits(tmp_path):
    """A flat folder of low and high tones of three speakers, as the Free Spoken Digit Dataset names its files."""
    for speaker, factor in (("ann", 1.0), ("bob", 1.1), ("cat", 1.2)):
        for n in range(3):
            for name, hz in (("low", 300), ("high", 1500)):
                write(tmp_path / "flat" / f"{name}_{speaker}_{n}.wav", tone(hz * factor + 10 * n))
    return tmp_path / "flat"


def data(folder, **options):
    return AudioFolderData(root=str(folder), cache_dir=str(folder.parent / "cache"), **options)


def test_a_flat_folder_holds_speakers_out(digits):
    module = data(digits)
    assert module.class_names == ("high", "low")
    assert module.speakers() == ["ann", "bob", "cat"]
    assert module.input_shape == (2, 1, 64)
    splits = module.splits
    groups = [set(splits.train.store.groups[part.indices]) for part in (splits.train, splits.val, splits.test)]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert len(set.union(*groups)) == 3
    assert data(digits, seed=0).splits.test.indices.tolist() == splits.test.indices.tolist()
    chosen = data(digits, test_speakers=["bob"], val_speakers=[])
    assert set(chosen.splits.test.store.groups[chosen.splits.test.indices]) == {1}
    assert (len(chosen.splits.train), chosen.splits.val) == (12, None)


def test_a_tone_fires_its_band():
    reader = SoundReader(bands=20)
    centres = mel_filters(RATE, 200, 20, 50.0, 4000.0)
    for hz in (300, 1000, 2500):
        levels = reader.levels(tone(hz).astype(np.float32))
        expected = centres[:, round(hz / RATE * 2 * (centres.shape[1] - 1))].argmax()
        assert levels.max(0).argmax() == expected
        assert levels.max() == 50
        _, units = reader.encode(levels)
        assert np.bincount(units[units < 20]).argmax() == expected


def test_volume_makes_no_difference():
    reader = SoundReader()
    loud, quiet = (reader.encode(reader.levels((tone(700) * volume).astype(np.float32))) for volume in (1, 0.01))
    np.testing.assert_allclose(loud[0], quiet[0], atol=1e-3)
    assert loud[1].tolist() == quiet[1].tolist()


def test_silence_at_both_ends_is_cut_off():
    reader = SoundReader()
    plain = reader.levels(tone(700).astype(np.float32))
    padded = reader.levels(np.concatenate([np.zeros(8000), tone(700), np.zeros(4000)]).astype(np.float32))
    assert len(padded) == len(plain)
    untrimmed = SoundReader(trim_db=None).levels(np.concatenate([np.zeros(8000), tone(700)]).astype(np.float32))
    assert len(untrimmed) == (8000 + 2400) // 40


@pytest.mark.slow
def test_energies_are_those_of_librosa():
    librosa = pytest.importorskip("librosa")
    samples = np.random.default_rng(0).standard_normal(4000)
    filters = mel_filters(RATE, 256, 16, 0.0, 4000.0)
    ours = mel_energies(samples, 80, 256, filters)
    theirs = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=256, hop_length=80, window=np.hanning(256), pad_mode="constant", n_mels=16
    )
    assert filters.shape == (16, 129)
    np.testing.assert_allclose(ours, theirs.T[: len(ours)], rtol=1e-4)


def test_level_crossings():
    """Rises from 0 to 5 within a frame, by thresholds of 2 up and down, in between linear."""
    times, units = level_crossings(np.array([[0.0], [5.0], [5.0], [1.0], [2.9]]), 2.0)
    assert units.tolist() == [0, 0, 1]
    np.testing.assert_allclose(times, [1 + 2 / 5, 1 + 4 / 5, 3 + 3 / 4])
    times, units = level_crossings(np.array([[0.0, 4.0]]), 2.0)
    assert units.tolist() == [1, 1]
    np.testing.assert_allclose(times, [0.5, 1.0])


def test_latency_code():
    times, units = SoundReader(bands=3, code="latency", hop_ms=10).encode(
        np.array([[50.0, 25.0, 0.0], [0.0, 6.0, 5.0]])
    )
    assert units.tolist() == [0, 1, 1]
    np.testing.assert_allclose(times, [0, 5, 10 * (2 - 6 / 50)], rtol=1e-6)


def test_resampling_and_flac(tmp_path):
    path = write(tmp_path / "a.flac", tone(500, rate=16000), 16000)
    samples = read_sound(path, RATE)
    assert len(samples) == 2400
    np.testing.assert_allclose(samples[200:-200], tone(500)[200:-200], atol=0.01)


def test_stereo(tmp_path):
    path = write(tmp_path / "a.wav", np.stack([tone(500), 0 * tone(500)], 1))
    with pytest.raises(DataError, match=r"a\.wav: 2 channels; expected one\. Set data\.stereo: mix"):
        read_sound(path, RATE)
    np.testing.assert_allclose(read_sound(path, RATE, "mix"), tone(500) / 2, atol=1e-4)


def rate_of_zero(path):
    write(path, tone(500))
    content = bytearray(path.read_bytes())
    content[24:28] = bytes(4)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no sound"), r"a\.wav: cannot be read as sound"),
        (rate_of_zero, r"a\.wav: cannot be read as sound \(its sample rate is 0 Hz\)"),
        (lambda path: write(path, np.zeros(0)), r"a\.wav: holds no samples"),
        (lambda path: write(path, np.zeros(4000)), r"a\.wav: is silent"),
    ],
)
def test_broken_sounds_are_named(tmp_path, make, message):
    path = tmp_path / "sounds/x/a.wav"
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(DataError, match=message):
        data(tmp_path / "sounds").prepare_data()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high_hz": 5000}, "low_hz is 50 and high_hz 5000; expected low_hz < high_hz <= 4000"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"bands": 0}, "bands is 0"),
        ({"threshold_db": 0}, "threshold_db is 0"),
        ({"code": "rate"}, "code is 'rate'"),
        ({"test_speakers": ["dan"]}, "test_speakers: dan not among the data; expected some of ann, bob, cat"),
        ({"test_speakers": ["ann", "bob", "cat"]}, "leaves none to train on"),
        ({"test_speakers": ["ann"], "val_speakers": ["bob", "cat"]}, "val_speakers: .* leaves none to train on"),
    ],
)
def test_arguments(digits, options, message):
    with pytest.raises(UsageError, match=message):
        data(digits, **options).prepare_data()


def test_folders_without_speakers(tmp_path):
    for n in range(10):
        write(tmp_path / "sounds" / ("a" if n % 2 else "b") / f"{n}.wav", tone(300 + 100 * n))
    module = data(tmp_path / "sounds")
    assert [len(part) for part in (module.splits.train, module.splits.val, module.splits.test)] == [8, 1, 1]
    with pytest.raises(UsageError, match=r"the paths name no speakers to leave out\. .*data\.pattern"):
        module.speakers()


def test_predictions_hear_what_the_training_heard(digits):
    module = data(digits, bands=32, code="latency")
    path = digits / "low_ann_0.wav"
    (recording,) = module.recording_readers()[".wav"](path, "s")
    number = sorted(file.name for file in digits.iterdir()).index(path.name)
    store = module.splits.train.store
    events = slice(store.offsets[number], store.offsets[number + 1])
    assert recording.time_unit == "ms"
    assert recording.times.tolist() == store.times[events].tolist()
    assert recording.units.tolist() == store.units[events].tolist()
