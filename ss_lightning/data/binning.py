"""Events of a batch sorted into the steps of a fixed time grid: a NumPy reference and a fast numba kernel.

Both functions share one signature. A data set lies in flat arrays, sample ``s`` owning
``times[offsets[s] : offsets[s + 1]]`` in order of time; the grid starts at 0 and has ``num_steps`` steps of
``step_length``, given in the unit of ``times``. With ``t`` the time of an event, computed in float64::

    step(t) = floor(t / step_length)          events with step(t) >= num_steps are dropped

so an event exactly on a grid line belongs to the step that begins there.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np

Binning = Literal["binary", "count"]


def bin_events_reference(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    *,
    num_steps: int,
    step_length: float,
    num_units: int,
    binning: Binning = "binary",
) -> tuple[np.ndarray, np.ndarray]:
    """Bin the events of a batch with plain NumPy.

    Args:
        times: ``[E]``, time of each event of the data set, zero or more, in order of time inside a sample.
        units: ``[E]``, integers in ``[0, num_units)``.
        offsets: int64 ``[S + 1]``, where each sample of the data set begins.
        samples: int64 ``[B]``, the samples of the batch.
        num_steps: ``T``, steps of the grid.
        step_length: Length of a step, in the unit of ``times``.
        num_units: ``N``.
        binning: ``"binary"``: a unit counts once per step however often it fired; ``"count"``: every event
            counts.

    Returns:
        ``units`` int32 ``[E']`` and ``offsets`` int32 ``[B * T + 1]`` of an
        :class:`~ss_lightning.events.EventBatch`. The order of units inside one step is not defined: this
        function gives them in rising order when ``binning`` is ``"binary"``, the fast one in order of time.
    """
    begin = offsets[samples]
    counts = offsets[samples + 1] - begin
    sample = np.repeat(np.arange(samples.size), counts)
    event = np.arange(sample.size) + np.repeat(begin - np.cumsum(counts) + counts, counts)

    step = np.floor(times[event].astype(np.float64) / step_length)
    inside = step < num_steps
    row = sample[inside] * num_steps + step[inside].astype(np.int64)
    unit = units[event][inside].astype(np.int64)
    if binning == "binary":
        key = np.sort(row * num_units + unit)  # np.unique gives the same, ten times slower
        row, unit = np.divmod(key[np.diff(key, prepend=-1) != 0], num_units)

    rows = np.zeros(samples.size * num_steps + 1, np.int32)
    rows[1:] = np.bincount(row, minlength=samples.size * num_steps).cumsum()
    return unit.astype(np.int32), rows


def _bin_events_loop(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    num_steps: int,
    step_length: float,
    num_units: int,
    binary: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The body of :func:`bin_events` that numba compiles: one pass over the events, no sorting."""
    most = 0
    for sample in samples:
        most += offsets[sample + 1] - offsets[sample]
    binned = np.empty(most, np.int32)
    rows = np.zeros(samples.size * num_steps + 1, np.int32)
    # The last row each unit was seen in. Rows only rise, so the stamps never need to be cleared.
    stamp = np.full(num_units, -1, np.int64)

    written = 0
    filled = 0  # rows[: filled + 1] are final
    for b in range(samples.size):
        for event in range(offsets[samples[b]], offsets[samples[b] + 1]):
            step = times[event] / step_length
            if step >= num_steps:
                break
            row = b * num_steps + int(step)  # times are not negative, so int() is floor
            unit = units[event]
            if binary and stamp[unit] == row:
                continue
            stamp[unit] = row
            while filled < row:
                filled += 1
                rows[filled] = written
            binned[written] = unit
            written += 1
    rows[filled + 1 :] = written
    return binned[:written].copy(), rows


@functools.cache
def _compiled_loop() -> Callable | None:
    try:
        from numba import njit
    except ImportError as error:
        warnings.warn(
            f"numba could not be imported ({error}), so events are binned with NumPy, 4 to 25 times slower. "
            "Install a numba that fits this Python and NumPy: pip install -U numba",
            stacklevel=3,
        )
        return None
    try:
        return njit(cache=True, nogil=True)(_bin_events_loop)
    except RuntimeError:  # no writable folder for compiled code: compile in every process instead
        return njit(nogil=True)(_bin_events_loop)


def bin_events(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    *,
    num_steps: int,
    step_length: float,
    num_units: int,
    binning: Binning = "binary",
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`bin_events_reference` in one compiled pass, O(events + B * T).

    Without numba it warns once and takes the reference. Arguments and results are those of
    :func:`bin_events_reference`, except that the units of one step come in order of time.
    """
    loop = _compiled_loop()
    if loop is None:
        return bin_events_reference(
            times,
            units,
            offsets,
            samples,
            num_steps=num_steps,
            step_length=step_length,
            num_units=num_units,
            binning=binning,
        )
    return loop(times, units, offsets, samples, num_steps, float(step_length), num_units, binning == "binary")


def dense_spikes(
    units: np.ndarray, offsets: np.ndarray, *, num_steps: int, num_units: int, binning: Binning
) -> np.ndarray:
    """Binned events as a time-major array.

    Args:
        units: int32 ``[E]``, from :func:`bin_events`.
        offsets: int32 ``[B * T + 1]``, from :func:`bin_events`.
        num_steps: ``T``.
        num_units: ``N``.
        binning: How the events were binned.

    Returns:
        uint8 ``[T, B, N]``. A count beyond 255 wraps round.
    """
    batch = (len(offsets) - 1) // num_steps
    begin_of_row = (np.arange(num_steps) * batch + np.arange(batch)[:, None]).ravel() * num_units
    index = np.repeat(begin_of_row, np.diff(offsets)) + units
    dense = np.zeros(num_steps * batch * num_units, np.uint8)
    if binning == "binary":
        dense[index] = 1
    else:
        np.add.at(dense, index, 1)
    return dense.reshape(num_steps, batch, num_units)
