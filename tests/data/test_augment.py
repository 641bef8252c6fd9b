from math import log1p

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss_lightning.cli.commands import main
from ss_lightning.data import EventAugmentation, EventData, EventStore, ImageAugmentation, MNISTData, SHDData
from ss_lightning.data import augment as augment_module
from ss_lightning.data.augment import (
    EventAugmenter,
    augment_events,
    augment_events_reference,
    augment_images,
    moved_units,
    normal_quantiles,
    random_words,
)
from ss_lightning.errors import UsageError

ALL = EventAugmentation(
    unit_shift=2, time_stretch=0.2, time_shift_ms=3, jitter_ms=1.5, unit_dropout=0.2, loudness=0.5, blend=0.5
)


# Random numbers -------------------------------------------------------------------------------------------------------


def test_words_are_those_of_splitmix64():
    """The first outputs for the seed 1234567, published with many implementations of SplitMix64."""
    key = np.array([1234567], np.uint64)
    assert [int(random_words(key, n)[0]) for n in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_normal_quantiles_are_standard_normal():
    z = normal_quantiles()
    assert z.shape == (4096,)
    np.testing.assert_allclose(z, -z[::-1], atol=1e-12)
    assert abs(z.std() - 1) < 1e-3
    assert abs(np.mean(np.abs(z) < 1) - 0.6827) < 1e-3


# Recordings -----------------------------------------------------------------------------------------------------------


@st.composite
def batches(draw):
    """Arguments of augment_events: any kind of times, silent samples, samples that come twice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_samples, num_units, size = (draw(st.integers(1, most)) for most in (4, 6, 5))
    counts = rng.integers(0, 12, num_samples)
    offsets = np.concatenate([[0], counts.cumsum()])
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int32, np.uint8]))
    times = (rng.random(offsets[-1]) * 50).astype(dtype)
    arrays = (times, rng.integers(0, num_units, offsets[-1]).astype(np.uint16), offsets)
    for array in arrays:
        array.flags.writeable = False
    moved = rng.permuted(np.tile(np.arange(num_units), (size, 1)), axis=1) - draw(st.integers(0, 2))
    drawn = {
        "partners": rng.integers(-1, num_samples, size),
        "keep": rng.choice([0.0, 0.3, 0.5, 1.0], size),
        "stretch": np.exp(rng.normal(0, 0.3, size)),
        "delay": rng.normal(0, 10, size),
        "moved": moved.astype(np.int32),
        "jitter": draw(st.sampled_from([0.0, 2.0])),
        "keys": rng.integers(0, 2**64, size, dtype=np.uint64),
    }
    return (*arrays, rng.integers(0, num_samples, size)), drawn


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(batches())
def test_fast_and_reference_agree_to_the_bit(batch):
    arguments, drawn = batch
    expected, found = augment_events_reference(*arguments, **drawn), augment_events(*arguments, **drawn)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    assert found[2][-1] == len(found[0]) == len(found[1])
    assert (found[0] >= 0).all()


def test_they_agree_for_a_reason(recordings):
    """The negative control: other keys give other events."""
    store, drawn = unchanged_draws(recordings)
    drawn["keep"] = np.full(12, 0.5)
    arguments = (store.times, store.units, store.offsets, np.arange(12))
    fast = augment_events(*arguments, **drawn)
    slow = augment_events_reference(*arguments, **{**drawn, "keys": drawn["keys"] + np.uint64(1)})
    assert len(fast[0]) != len(slow[0]) or (fast[0] != slow[0]).any()


def unchanged_draws(recordings):
    times, units, labels = recordings()
    store = EventStore.from_arrays(times, units, labels, num_units=7, time_unit="s")
    size = len(store)
    drawn = {
        "partners": np.full(size, -1),
        "keep": np.ones(size),
        "stretch": np.ones(size),
        "delay": np.zeros(size),
        "moved": np.tile(np.arange(7, dtype=np.int32), (size, 1)),
        "jitter": 0.0,
        "keys": np.arange(size).astype(np.uint64),
    }
    return store, drawn


def test_nothing_drawn_changes_nothing(recordings):
    store, drawn = unchanged_draws(recordings)
    samples = np.array([3, 0, 11])
    drawn = {name: value[samples] if np.ndim(value) else value for name, value in drawn.items()}
    times, units, offsets = augment_events(store.times, store.units, store.offsets, samples, **drawn)
    for place, sample in enumerate(samples):
        ours, theirs = slice(*offsets[place : place + 2]), slice(*store.offsets[sample : sample + 2])
        np.testing.assert_array_equal(times[ours], store.times[theirs])
        np.testing.assert_array_equal(units[ours], store.units[theirs])


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 4)])
def test_units_that_leave_the_sensor_are_gone(shape):
    right, down = np.array([0, 1, -2, 3]), np.array([0, -1, 2, 0])
    moved = moved_units(shape, right, down)
    for b in range(4):
        for unit in range(np.prod(shape)):
            place = list(np.unravel_index(unit, shape))
            place[-1] += right[b]
            if len(shape) > 1:
                place[-2] += down[b]
            inside = all(0 <= n < extent for n, extent in zip(place, shape, strict=True))
            assert moved[b, unit] == (np.ravel_multi_index(place, shape) if inside else -1)


# What each argument does, seen on events that are easy to follow: sample s has the units 10 to 14 at 100 to 104 ms (and
# its partner of the same class the same at 300 ms and later).
SAMPLES, UNITS, EVENTS = 400, 25, 60


def augmented(labels=None, units_per_input=1, key=5, **arguments):
    """Times, units and samples of the events of one big batch."""
    rng = np.random.default_rng(0)
    times = [100.0 + 200 * (s % 2) + np.sort(rng.integers(0, 5, EVENTS)) for s in range(SAMPLES)]
    units = [rng.integers(10, 15, EVENTS) for _ in range(SAMPLES)]
    labels = np.arange(SAMPLES) // 2 if labels is None else labels
    store = EventStore.from_arrays(times, units, labels, num_units=UNITS, time_unit="ms")
    augmenter = EventAugmenter(
        EventAugmentation(**arguments), store, np.arange(SAMPLES), step_ms=2.0, units_per_input=units_per_input
    )
    times, units, offsets = augmenter(np.arange(SAMPLES), np.full(SAMPLES, key))
    return times, units, np.repeat(np.arange(SAMPLES), np.diff(offsets)), store


def by_sample(function, values, samples):
    return np.array([function(values[samples == s]) for s in range(SAMPLES) if (samples == s).any()])


def test_unit_shift_moves_a_sample_as_a_whole():
    times, units, samples, store = augmented(unit_shift=3)
    np.testing.assert_array_equal(times, store.times)
    shifts = units - store.units.astype(int)
    assert (by_sample(np.ptp, shifts, samples) == 0).all()
    counts = np.bincount(by_sample(np.min, shifts, samples) + 3)
    assert len(counts) == 7
    assert counts.min() > SAMPLES / 7 * 0.6


def test_unit_shift_is_in_units_of_the_files():
    """Shifted, then merged: shifts of less than a group are seen, and the ends are those before merging."""
    _, shifted, samples, _ = augmented(unit_shift=12)
    _, merged, merged_samples, _ = augmented(unit_shift=12, units_per_input=5)
    np.testing.assert_array_equal(samples, merged_samples)
    np.testing.assert_array_equal(merged, shifted // 5)
    assert len(samples) < SAMPLES * EVENTS  # some have left


def test_time_stretch_is_log_uniform():
    times, _, _, store = augmented(time_stretch=0.25)
    factors = (times / store.times).reshape(SAMPLES, EVENTS)
    np.testing.assert_allclose(factors, np.repeat(factors[:, :1], EVENTS, 1), rtol=1e-12)
    exponents = np.log(factors[:, 0]) / log1p(0.25)
    assert -1 <= exponents.min() < -0.98
    assert 0.98 < exponents.max() <= 1
    assert abs(exponents.mean()) < 0.1
    assert abs(exponents.std() - 3**-0.5) < 0.05


def test_time_shift_is_in_milliseconds():
    times, _, _, store = augmented(time_shift_ms=20)
    shifts = (times - store.times).reshape(SAMPLES, EVENTS)
    np.testing.assert_allclose(shifts, np.repeat(shifts[:, :1], EVENTS, 1), atol=1e-9)
    assert -20 <= shifts.min() < -19
    assert 19 < shifts.max() <= 20
    times, _, samples, _ = augmented(time_shift_ms=200)
    assert times.min() >= 0
    assert len(samples) < SAMPLES * EVENTS


def test_jitter_moves_events_one_by_one():
    times, _, _, store = augmented(jitter_ms=3.0)
    moves = times - store.times
    assert abs(moves.mean()) < 0.1
    assert abs(moves.std() - 3) < 0.1
    assert len(np.unique(moves[:EVENTS])) > EVENTS / 2


@pytest.mark.parametrize(("time_unit", "per_ms"), [("ms", 1), ("us", 1000), ("step", 0.5)])
def test_milliseconds_are_milliseconds_whatever_the_store_holds(time_unit, per_ms):
    times = np.full(4000, 200, np.int32 if time_unit == "us" else np.float64)
    store = EventStore(
        times=times * int(max(per_ms, 1)), units=np.zeros(4000, np.uint16), offsets=np.array([0, 4000]),
        labels=np.zeros(1, np.int64), groups=None, num_units=1, num_classes=1, input_shape=(1,), class_names=("a",),
        time_unit=time_unit,
    )  # fmt: skip
    changed, _, _ = EventAugmenter(EventAugmentation(jitter_ms=4), store, np.arange(1), step_ms=2.0)(
        np.array([0]), np.array([1])
    )
    assert abs((changed - store.times).std() / per_ms - 4) < 0.2


def test_unit_dropout_silences_units_of_a_sample():
    _, units, samples, store = augmented(unit_dropout=0.3)
    before = np.zeros((SAMPLES, UNITS), int)
    after = before.copy()
    np.add.at(before, (np.repeat(np.arange(SAMPLES), EVENTS), store.units), 1)
    np.add.at(after, (samples, units), 1)
    assert set(np.unique(after[before > 0] / before[before > 0])) == {0.0, 1.0}
    assert abs((after == 0)[before > 0].mean() - 0.3) < 0.05


def test_loudness_thins_each_sample_to_its_own_degree():
    _, _, samples, _ = augmented(loudness=0.8)
    share = np.bincount(samples, minlength=SAMPLES) / EVENTS
    assert abs(share.mean() - 0.6) < 0.05
    assert abs(share.std() - np.hypot(0.8 / 12**0.5, (0.6 * 0.4 / EVENTS) ** 0.5)) < 0.05
    assert (share > 0.9).any()
    assert (share < 0.3).any()


def test_blending_takes_half_of_each_and_aligns_them():
    times, _, samples, store = augmented(blend=1.0)
    own = np.array([store.times[s * EVENTS : (s + 1) * EVENTS].mean() for s in range(SAMPLES)])
    assert np.abs(by_sample(np.mean, times, samples) - own).max() < 2  # the partners lie 200 ms away
    # Of 60 + 60 events, each with probability 1/2.
    counts = np.bincount(samples, minlength=SAMPLES)
    assert abs(counts.mean() - EVENTS) < 1
    assert abs(counts.std() - (EVENTS / 2) ** 0.5) < 0.8
    # The times of a sample are whole; those that came from its partner are not, moved by a difference of means.
    foreign = times != np.floor(times)
    assert abs(foreign.mean() - 0.5) < 0.05


def test_blending_is_with_the_own_class_and_never_with_oneself():
    labels = np.arange(SAMPLES) % 3
    labels[7] = 3  # alone in its class
    times = [np.full(4, float(s)) for s in range(SAMPLES)]
    store = EventStore.from_arrays(times, [np.zeros(4, int)] * SAMPLES, labels, num_units=1, time_unit="ms")
    chosen = np.arange(1, SAMPLES, 2)  # of the others no one may be a partner
    augmenter = EventAugmenter(EventAugmentation(blend=1.0), store, chosen, step_ms=1.0)
    seen = {}
    for key in range(20):
        partners = augmenter._partners(np.arange(len(chosen)), uniform(len(chosen), key))
        for sample, partner in zip(chosen, partners, strict=True):
            seen.setdefault(sample, set()).add(int(partner))
    assert seen.pop(7) == {-1}
    for sample, partners in seen.items():
        assert sample not in partners
        assert partners <= set(chosen.tolist())
        assert {int(labels[p]) for p in partners} == {int(labels[sample])}
        assert len(partners) > 5
    pair = EventAugmenter(EventAugmentation(blend=1.0), store, np.array([1, 4]), step_ms=1.0)
    for drawn in (0.0, 0.5, np.nextafter(1, 0)):
        assert pair._partners(np.arange(2), np.full(2, drawn)).tolist() == [4, 1]


def uniform(size, seed):
    return np.random.default_rng(seed).random(size)


def test_blend_is_a_probability():
    times, _, samples, _ = augmented(blend=0.3)
    blended = by_sample(lambda t: (t != np.floor(t)).any(), times, samples)
    assert abs(blended.mean() - 0.3) < 0.07


# In a data module -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(recordings):
    def make(**kwargs):
        options = {"num_steps": 25, "step_ms": 2.0, "batch_size": 5, "val_fraction": 0.25, "augment": ALL, **kwargs}
        module = EventData.from_arrays(train=recordings(30), test=recordings(11, seed=1), num_units=7, **options)
        module._order_seed = 3
        return module

    return make


def fingerprints(loader):
    """What is in each batch, as text."""
    return [f"{events.units.tolist()} {events.offsets.tolist()} {labels.tolist()}" for events, labels in loader]


def test_a_sample_gets_the_same_whoever_asks_and_in_whatever_batch(data):
    module = data()
    dataset = module.dataset(module.splits.train)
    pairs = [(key, number) for key in (1, 2) for number in range(22)]
    whole = dataset.__getitems__(pairs)[0].to_dense()
    for place, pair in enumerate(pairs):
        assert torch.equal(dataset[pair][0].to_dense()[:, 0], whole[:, place])
    assert not torch.equal(whole[:, :22], whole[:, 22:])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing_but_epochs_do(data, workers):
    alone, helped = data().train_dataloader(), data(num_workers=workers).train_dataloader()
    epochs = [fingerprints(alone) for _ in range(3)]
    assert [fingerprints(helped) for _ in range(3)] == epochs  # the same persistent workers in all of them
    again = data().train_dataloader()
    again.sampler.set_epoch(2)  # as a resumed training does
    assert fingerprints(again) == epochs[2]
    samples = [sorted(batch for batch in epoch) for epoch in epochs]
    assert samples[0] != samples[1] != samples[2]


class Listener(lightning.LightningModule):
    """Learns nothing and remembers each batch."""

    def __init__(self):
        super().__init__()
        self.weight, self.heard = torch.nn.Parameter(torch.zeros(())), {}

    def training_step(self, batch, index):
        events, labels = batch
        self.heard[self.current_epoch, index] = f"{events.units.tolist()} {labels.tolist()}"
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_sees_what_one_left_alone_sees(data, tmp_path, workers):
    def train(epochs, checkpoint=None):
        listener = Listener()
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(listener, data(num_workers=workers), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return listener.heard

    alone = train(3)
    assert len(alone) == 15
    assert {k: v for k, v in alone.items() if k[0] == 0} == train(1)
    assert {k: v for k, v in alone.items() if k[0] > 0} == train(3, tmp_path / "last.ckpt")


def test_each_epoch_changes_a_sample_in_another_way_and_each_seed_too(data):
    module = data(batch_size=1)
    of_sample = {}
    for seed in (3, 4):
        module._order_seed = seed
        loader = module.train_dataloader()
        for _ in range(3):
            for (_, number), text in zip(list(keyed(loader)), fingerprints(loader), strict=True):
                of_sample.setdefault(number, set()).add(text)
    assert (
        np.mean([len(texts) for texts in of_sample.values()]) > 5
    )  # of 6; a sample of one event may come out the same


def keyed(loader):
    """The indices of the epoch that comes next."""
    epoch = loader.sampler.epoch
    yield from loader.sampler
    loader.sampler.set_epoch(epoch)


def test_several_devices_see_what_one_sees(data):
    def batches(rank, world_size, size):
        module = data(batch_size=size)
        module._processes = lambda: (world_size, rank)
        loader = module.train_dataloader()
        return [events.to_dense() for _ in range(2) for events, _ in loader]

    alone = batches(0, 1, 4)
    shared = [batches(rank, 2, 2) for rank in range(2)]
    assert len(alone) == len(shared[0]) == len(shared[1])
    for whole, first, second in zip(alone, *shared, strict=True):
        together = torch.stack([first, second], dim=2).flatten(1, 2)
        assert torch.equal(together, whole)


def test_evaluation_is_left_alone(data):
    plain, changed = data(augment=EventAugmentation()), data()
    for name in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        assert fingerprints(getattr(plain, name)()) == fingerprints(getattr(changed, name)())
    assert fingerprints(plain.train_dataloader()) != fingerprints(changed.train_dataloader())


@pytest.mark.parametrize("binning", ["binary", "count"])
def test_dense_input_is_augmented_alike(data, binning):
    events = [e.to_dense() for e, _ in data(binning=binning).train_dataloader()]
    dense = [d.float() for d, _ in data(binning=binning, input="dense").train_dataloader()]
    assert all(torch.equal(a, b) for a, b in zip(events, dense, strict=True))
    assert max(d.max() for d in dense) > 1 if binning == "count" else max(d.max() for d in dense) == 1


# Images ---------------------------------------------------------------------------------------------------------------


def test_images_are_mirrored_moved_and_erased_pixel_by_pixel():
    rng = np.random.default_rng(0)
    batch, channels, height, width = 40, 2, 5, 7
    images = rng.integers(0, 9, (batch, channels, height, width)).astype(np.int32)
    mirrored = rng.random(batch) < 0.5
    right, down = rng.integers(-3, 4, batch), rng.integers(-3, 4, batch)
    boxes = np.stack([rng.integers(0, n, batch) for n in (height, width, height, width)], axis=1)
    expected = np.full_like(images, 11)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                new_y, new_x = y + down[b], (width - 1 - x if mirrored[b] else x) + right[b]
                if 0 <= new_y < height and 0 <= new_x < width:
                    expected[b, :, new_y, new_x] = images[b, :, y, x]
        top, left, tall, wide = boxes[b]
        expected[b, :, top : top + tall, left : left + wide] = 11
    arguments = {"mirrored": mirrored, "right": right, "down": down, "boxes": boxes, "background": 11}
    found = augment_images(images, **arguments)
    assert found.dtype == images.dtype
    np.testing.assert_array_equal(found, expected)
    assert (augment_images(images, **{**arguments, "right": -right}) != expected).any()


def mnist(idx, root, **kwargs):
    idx.write_all(root)
    module = MNISTData(root=str(root), **{"num_steps": 12, "batch_size": 18, **kwargs})
    module._order_seed = 0
    return module


@pytest.mark.parametrize("background", ["last_step", "silent"])
def test_shifted_images_keep_their_background(idx, tmp_path, background):
    plain = mnist(idx, tmp_path, background=background)
    changed = mnist(idx, tmp_path, background=background, augment=ImageAugmentation(shift=3))
    before, labels = next(iter(plain.train_dataloader()))
    after, same_labels = next(iter(changed.train_dataloader()))
    assert labels.tolist() == same_labels.tolist()
    shape = (12, 18, 28, 28)
    before, after = before.to_dense().view(shape), after.to_dense().view(shape)
    black = torch.zeros(12)
    black[-1] = float(background == "last_step")
    shifts = set()
    for b in range(18):
        (fit,) = [
            (dy, dx)
            for dy in range(-3, 4)
            for dx in range(-3, 4)
            if torch.equal(after[:, b], moved(before[:, b], dy, dx, black))
        ]
        shifts.add(fit)
    assert len(shifts) > 8


def moved(image, down, right, black):
    result = black[:, None, None].expand(12, 28, 28).clone()
    height, width = 28 - abs(down), 28 - abs(right)
    y, x, from_y, from_x = max(down, 0), max(right, 0), max(-down, 0), max(-right, 0)
    result[:, y : y + height, x : x + width] = image[:, from_y : from_y + height, from_x : from_x + width]
    return result


def test_flip_mirrors_half_of_the_images(idx, tmp_path):
    before, _ = next(iter(mnist(idx, tmp_path).train_dataloader()))
    loader = mnist(idx, tmp_path, augment=ImageAugmentation(flip=True)).train_dataloader()
    after, _ = next(iter(loader))
    before, after = (e.to_dense().view(12, 18, 28, 28) for e in (before, after))
    same = [torch.equal(before[:, b], after[:, b]) for b in range(18)]
    mirrored = [torch.equal(before[:, b].flip(-1), after[:, b]) for b in range(18)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 3 < sum(mirrored) < 15


def test_erasing_makes_one_rectangle_black(idx, tmp_path):
    before, _ = next(iter(mnist(idx, tmp_path).train_dataloader()))
    after, _ = next(iter(mnist(idx, tmp_path, augment=ImageAugmentation(erase=0.7)).train_dataloader()))
    before, after = (e.to_dense().view(12, 18, 28, 28).argmax(0).numpy() for e in (before, after))
    erased = 0
    for b in range(18):
        y, x = np.nonzero(before[b] != after[b])
        if len(y):
            erased += 1
            box = after[b, y.min() : y.max() + 1, x.min() : x.max() + 1]
            assert (box == 11).all()
            assert 0 < box.size <= 0.36 * 784
    assert 7 < erased < 18


def test_workers_change_no_images(idx, tmp_path):
    every = ImageAugmentation(shift=2, flip=True, erase=0.5)
    alone = mnist(idx, tmp_path, augment=every).train_dataloader()
    helped = mnist(idx, tmp_path, augment=every, num_workers=2).train_dataloader()
    epochs = [fingerprints(alone) for _ in range(2)]
    assert [fingerprints(helped) for _ in range(2)] == epochs
    assert epochs[0] != epochs[1]


# From the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"unit_shift": -1}, "augment.unit_shift is -1; expected a whole number, 0 or more"),
        ({"unit_shift": 2.5}, "augment.unit_shift is 2.5"),
        ({"time_stretch": -0.1}, "augment.time_stretch is -0.1; expected a number, 0 or more"),
        ({"time_stretch": float("nan")}, "augment.time_stretch is nan"),
        ({"jitter_ms": float("inf")}, "augment.jitter_ms is inf"),
        ({"time_shift_ms": "1"}, "augment.time_shift_ms is '1'"),
        ({"unit_dropout": 1.0}, "augment.unit_dropout is 1.0; expected a number from 0 .none. to less than 1"),
        ({"loudness": 1}, "augment.loudness is 1"),
        ({"blend": 1.5}, "augment.blend is 1.5; expected a number, from 0 to 1"),
    ],
)
def test_event_arguments_are_checked(arguments, words):
    with pytest.raises(UsageError, match=words):
        EventAugmentation(**arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImageAugmentation(shift=-1), "augment.shift is -1"),
        (lambda: ImageAugmentation(erase=2), "augment.erase is 2; expected a number, from 0 to 1"),
        (lambda: SHDData(augment=EventAugmentation(unit_shift=700)), r"unit_shift is 700; expected less than 700"),
        (lambda: MNISTData(augment=ImageAugmentation(shift=28)), r"augment.shift is 28; expected less than 28"),
        (lambda: SHDData(augment={"unit_shift": 3}), "augment is {'unit_shift': 3}; expected an EventAugmentation"),
        (lambda: MNISTData(augment=EventAugmentation()), "expected an ImageAugmentation"),
    ],
)
def test_augmentation_must_fit_the_data(make, words):
    with pytest.raises(UsageError, match=words):
        make()


FIT = ["fit", "--data=ss_lightning.data.SHDData", "--data.num_steps=20", "--data.download=false"]
MODEL = ["--model=ss_lightning.MLPClassifier", "--model.hidden=[4]", "--trainer.max_epochs=1"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--data.augment.unit_shift=-4", "augment.unit_shift is -4; expected a whole number, 0 or more"),
        ("--data.augment.blend=x", "augment.blend"),
        ("--data.augment.unit_shft=4", "augment.unit_shft"),
        ("--data.augment.unit_shift=900", "augment.unit_shift is 900; expected less than 700"),
        ("--data.augment=7", "augment"),
    ],
)
def test_a_wrong_value_is_a_mistake_of_usage(argument, words, shd, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shd.write_pair(tmp_path / "data")
    assert main([*FIT, *MODEL, argument]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_command_line_trains_with_augmentation(shd, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SS_LIGHTNING_RUN", raising=False)
    shd.write_pair(tmp_path / "data")
    seen = []
    call = augment_module.EventAugmenter.__call__
    monkeypatch.setattr(
        augment_module.EventAugmenter, "__call__", lambda self, *a: seen.append(self.augment) or call(self, *a)
    )
    (tmp_path / "more.yaml").write_text(
        "data:\n  init_args:\n    units_per_input: 5\n    augment: {blend: 0.5, jitter_ms: 1}\n"
    )
    arguments = [*FIT, *MODEL, "--config", "more.yaml", "--data.augment.unit_shift", "40", "--trainer.fast_dev_run=2"]
    assert main(arguments) == 0
    assert set(seen) == {EventAugmentation(unit_shift=40, blend=0.5, jitter_ms=1)}
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--print_config"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for line in ("unit_shift: 40", "blend: 0.5", "time_stretch: 0.0", "units_per_input: 5"):
        assert line in printed
