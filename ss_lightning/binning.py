"""Events of a batch sorted into the steps of a fixed time grid: a NumPy reference and fast numba kernels.

Both functions share one signature. A data set lies in flat arrays, sample ``s`` owning
``times[offsets[s] : offsets[s + 1]]``; the grid starts at 0 and has ``num_steps`` steps of ``step_length``, given
in the unit of ``times``. With ``t`` the time of an event, computed in float64::

    step(t) = floor(t / step_length)          events with step(t) >= num_steps are dropped

so an event exactly on a grid line belongs to the step that begins there. Neighbouring units can be merged:
``unit // units_per_input`` takes the place of ``unit``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ss_lightning.jit import compiled_when_called

Binning = Literal["binary", "count"]

# Beyond this many units the loops' notes of 12 bytes for each unit cost more than sorting the events of a batch.
_MOST_NOTED = 2**21


def bin_events_by_sorting(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    *,
    num_steps: int,
    step_length: float,
    num_units: int,
    binning: Binning = "binary",
    units_per_input: int = 1,
    in_order: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Bin the events of a batch with plain NumPy.

    Args:
        times: ``[E]``, time of each event of the data set, zero or more.
        units: ``[E]``, integers in ``[0, num_units)``.
        offsets: int64 ``[S + 1]``, where each sample of the data set begins.
        samples: int64 ``[B]``, the samples of the batch.
        num_steps: ``T``, steps of the grid.
        step_length: length of a step, in the unit of ``times``.
        num_units: ``N``.
        binning: ``"binary"``: a unit counts once per step however often it fired; ``"count"``: every event
            counts.
        units_per_input: how many neighbouring units are merged into one; the last one may consist of fewer.
        in_order: the events of each sample are known to lie in order of time, which saves the fast function a
            pass; this one does not need to know.

    Returns:
        ``units`` int32 ``[E']``, in ``[0, ceil(num_units / units_per_input))``, and ``offsets`` int32 ``[B * T + 1]``
        of an :class:`~ss_lightning.events.EventBatch`. The order of units inside one step is not defined: this
        function gives them in rising order, the fast one as they come.
    """
    begin = offsets[samples]
    counts = offsets[samples + 1] - begin
    sample = np.repeat(np.arange(samples.size), counts)
    event = np.arange(sample.size) + np.repeat(begin - np.cumsum(counts) + counts, counts)

    step = np.floor(times[event].astype(np.float64) / step_length)
    inside = step < num_steps
    row = sample[inside] * num_steps + step[inside].astype(np.int64)
    unit = units[event][inside].astype(np.int64) // units_per_input
    key = np.sort(row * num_units + unit)
    if binning == "binary":
        key = key[np.diff(key, prepend=-1) != 0]  # np.unique gives the same, ten times slower
    row, unit = np.divmod(key, num_units)

    rows = np.zeros(samples.size * num_steps + 1, np.int32)
    rows[1:] = np.bincount(row, minlength=samples.size * num_steps).cumsum()
    return unit.astype(np.int32), rows


# The readable form, against which the compiled one is held.
bin_events_reference = bin_events_by_sorting


@compiled_when_called
def _bin_events_loop(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    num_steps: int,
    step_length: float,
    group: np.ndarray,
    binary: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The body of :func:`bin_events`: one pass over events in order of time, no sorting.

    ``group`` int32 ``[N]`` is what each unit becomes.
    """
    most = 0
    for sample in samples:
        most += offsets[sample + 1] - offsets[sample]
    binned = np.empty(most, np.int32)
    rows = np.zeros(samples.size * num_steps + 1, np.int32)
    # The last row each unit was seen in. Rows only rise, so the stamps never need to be cleared.
    stamp = np.full(group.size, -1, np.int64)

    written = 0
    filled = 0  # rows[: filled + 1] are final
    for b in range(samples.size):
        for event in range(offsets[samples[b]], offsets[samples[b] + 1]):
            step = times[event] / step_length
            if step >= num_steps:
                break
            row = b * num_steps + int(step)  # times are not negative, so int() is floor
            unit = group[units[event]]
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


@compiled_when_called
def _bin_unordered_loop(
    times: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
    samples: np.ndarray,
    num_steps: int,
    step_length: float,
    group: np.ndarray,
    binary: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`_bin_events_loop` for events in any order: a counting sort by row, then duplicates are left out."""
    most = 0
    for sample in samples:
        most += offsets[sample + 1] - offsets[sample]
    rows = np.zeros(samples.size * num_steps + 1, np.int32)
    row_of = np.empty(most, np.int32)  # -1 behind the end of the grid
    position = 0
    for b in range(samples.size):
        for event in range(offsets[samples[b]], offsets[samples[b] + 1]):
            step = times[event] / step_length
            row = -1
            if step < num_steps:
                row = b * num_steps + int(step)
                rows[row + 1] += 1
            row_of[position] = row
            position += 1
    for row in range(rows.size - 1):
        rows[row + 1] += rows[row]

    binned = np.empty(rows[-1], np.int32)
    free = rows.copy()  # where the next event of each row goes
    position = 0
    for sample in samples:
        for event in range(offsets[sample], offsets[sample + 1]):
            row = row_of[position]
            position += 1
            if row >= 0:
                binned[free[row]] = group[units[event]]
                free[row] += 1
    if not binary:
        return binned, rows

    stamp = np.full(group.size, -1, np.int64)
    written = 0
    begin = 0
    for row in range(rows.size - 1):
        end = rows[row + 1]
        for event in range(begin, end):
            unit = binned[event]
            if stamp[unit] != row:
                stamp[unit] = row
                binned[written] = unit
                written += 1
        begin = end
        rows[row + 1] = written
    return binned[:written].copy(), rows


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
    units_per_input: int = 1,
    in_order: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`bin_events_reference` in compiled passes, one if the events are ``in_order``, O(events + B * T).

    Arguments and results are those of :func:`bin_events_reference`, except that the units of one step come in the
    order of the events. Very many units are sorted as there, at a cost that does not depend on their number.
    """
    if num_units > _MOST_NOTED:
        grid: dict[str, Any] = {"num_steps": num_steps, "step_length": step_length, "binning": binning}
        return bin_events_by_sorting(
            times, units, offsets, samples, num_units=num_units, units_per_input=units_per_input, **grid
        )
    loop = _bin_events_loop if in_order else _bin_unordered_loop
    group = (np.arange(num_units) // units_per_input).astype(np.int32)
    return loop(times, units, offsets, samples, num_steps, float(step_length), group, binning == "binary")


def dense_spikes(
    units: np.ndarray, offsets: np.ndarray, *, num_steps: int, num_units: int, binning: Binning
) -> np.ndarray:
    """Binned events as a time-major array.

    Args:
        units: int32 ``[E]``, from :func:`bin_events`.
        offsets: int32 ``[B * T + 1]``, from :func:`bin_events`.
        num_steps: ``T``.
        num_units: ``N``.
        binning: how the events were binned.

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
