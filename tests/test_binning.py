import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss_lightning import binning
from ss_lightning.binning import bin_events, bin_events_reference


def flat(times, units, time_dtype=np.float64, in_order=True):
    """Lists of samples as read-only flat arrays, sorted by time (as an EventStore holds them) or left as they are."""
    orders = [np.argsort(t, kind="stable") if in_order else np.arange(len(t)) for t in times]
    flat_times = np.concatenate([np.asarray(t, time_dtype)[o] for t, o in zip(times, orders, strict=True)])
    flat_units = np.concatenate([np.asarray(u, np.uint16)[o] for u, o in zip(units, orders, strict=True)])
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in times])]).astype(np.int64)
    for array in (flat_times, flat_units, offsets):
        array.flags.writeable = False
    return flat_times, flat_units, offsets


def histogram(times, units, samples, num_steps, step_length, num_units):
    """Counts [B, T, N], one event after the other: slow and obvious."""
    counts = np.zeros((len(samples), num_steps, num_units), int)
    for b, sample in enumerate(samples):
        for time, unit in zip(times[sample], units[sample], strict=True):
            step = int(np.floor(np.float64(time) / step_length))
            if step < num_steps:
                counts[b, step, unit] += 1
    return counts


def to_counts(units, offsets, batch, num_steps, num_units):
    rows = np.repeat(np.arange(batch * num_steps), np.diff(offsets))
    counts = np.zeros((batch * num_steps, num_units), int)
    np.add.at(counts, (rows, units), 1)
    return counts.reshape(batch, num_steps, num_units)


@st.composite
def batches(draw):
    num_units = draw(st.integers(1, 9))
    num_steps = draw(st.integers(1, 13))
    time_dtype = draw(st.sampled_from([np.float32, np.float64, np.uint8]))
    whole = time_dtype is np.uint8
    step_length = draw(st.sampled_from([1.0, 2.0] if whole else [1.0, 0.5, 0.3, 7.0]))
    line = st.integers(0, num_steps + 2).map(lambda k: time_dtype(k * step_length))
    if whole:
        time = st.one_of(line, st.integers(0, 40))
    else:
        before = line.map(lambda t: np.nextafter(t, time_dtype(0)))
        anywhere = st.floats(0, 1).map(lambda share: time_dtype(share * (num_steps + 2) * step_length))
        time = st.one_of(line, before, anywhere)
    sample = st.lists(st.tuples(time, st.integers(0, num_units - 1)), max_size=20)
    # Duplicates: some events are repeated at the same time.
    data = draw(st.lists(sample.map(lambda s: s + s[: len(s) // 3]), min_size=1, max_size=4))
    times = [[time_dtype(t) for t, _ in s] for s in data]
    units = [[u for _, u in s] for s in data]
    samples = draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=5))
    return times, units, np.asarray(samples), num_steps, step_length, num_units, time_dtype


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("mode", ["binary", "count"])
def test_fast_reference_and_histogram_agree(mode, in_order):
    @settings(deadline=None, max_examples=100)
    @given(batches(), st.integers(1, 10))
    def check(batch, units_per_input):
        times, units, samples, num_steps, step_length, num_units, time_dtype = batch
        expected = histogram(times, units, samples, num_steps, step_length, num_units)
        expected = np.add.reduceat(expected, np.arange(0, num_units, units_per_input), axis=2)
        if mode == "binary":
            expected = np.minimum(expected, 1)
        for function in (bin_events, bin_events_reference):
            binned, offsets = function(
                *flat(times, units, time_dtype, in_order),
                samples,
                num_steps=num_steps,
                step_length=step_length,
                num_units=num_units,
                binning=mode,
                units_per_input=units_per_input,
                in_order=in_order,
            )
            assert binned.dtype == offsets.dtype == np.int32
            assert offsets[0] == 0
            assert offsets[-1] == len(binned)
            found = to_counts(binned, offsets, len(samples), num_steps, -(-num_units // units_per_input))
            np.testing.assert_array_equal(found, expected, err_msg=function.__name__)

    check()


def test_events_in_no_order_must_be_announced(canonical):
    """The negative control: the pass that relies on the order gives something else."""
    arguments = (*flat([[5.0, 0.0, 9.0, 1.0]], [[0, 1, 2, 3]], in_order=False), np.array([0]))
    grid = {"num_steps": 6, "step_length": 1.0, "num_units": 4}
    expected = canonical(*bin_events_reference(*arguments, **grid))
    np.testing.assert_array_equal(canonical(*bin_events(*arguments, **grid, in_order=False)), expected)
    found, offsets = bin_events(*arguments, **grid)
    assert (
        len(found) != expected.shape[1] or (np.diff(offsets) < 0).any() or (canonical(found, offsets) != expected).any()
    )


def test_the_fast_ones_are_compiled():
    for loop in (binning._bin_events_loop, binning._bin_unordered_loop):
        assert hasattr(loop.dispatcher(), "py_func")


@pytest.mark.parametrize("function", [bin_events, bin_events_reference])
def test_grid_lines_open_their_step_and_the_end_is_outside(function):
    times = [[0.0, 2.0, np.nextafter(2.0, 0), 4.0, np.nextafter(6.0, 0), 6.0, 60.0]]
    units = [[0, 1, 2, 3, 4, 5, 6]]
    binned, offsets = function(
        *flat(times, units), np.array([0]), num_steps=3, step_length=2.0, num_units=7, binning="count"
    )
    steps = np.split(binned, offsets[1:-1])
    assert [sorted(step) for step in steps] == [[0, 2], [1], [3, 4]]


@pytest.mark.parametrize("function", [bin_events, bin_events_reference])
def test_a_shifted_grid_does_not_match(function, recordings, canonical):
    times, units, _ = recordings()
    arguments = {"num_steps": 40, "step_length": 1.0, "num_units": 7}
    milliseconds = [t * 1000 for t in times]
    samples = np.arange(len(times))
    right = canonical(*bin_events_reference(*flat(milliseconds, units), samples, **arguments))
    shifted = canonical(*function(*flat([t + 0.5 for t in milliseconds], units), samples, **arguments))
    assert right.shape != shifted.shape or (right != shifted).any()
