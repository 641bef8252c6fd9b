"""A batch of spikes as a list of events: the sparse twin of a time-major tensor ``[T, B, N]``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ss_lightning.arrays import FlatEvents, SamplePlace, TimeUnit, as_recordings, flat_events, length_in
from ss_lightning.binning import Binning, bin_events
from ss_lightning.errors import UsageError
from ss_lightning.nonzero import find_events


@dataclass(repr=False)  # not frozen: Lightning's precision plugins rebuild a batch field by field
class EventBatch:
    """Spikes of ``B`` samples over ``T`` steps and ``N`` units, stored as events.

    Events lie sample by sample, inside a sample in order of time. A unit that is listed twice in one step counts
    twice, so a batch can hold binary spikes as well as counts.

    The constructor checks its arguments once, for the kernels behind it read memory by them.

    Raises:
        UsageError: an argument is not what is said here.

    Attributes:
        units: int32 ``[E]``, the unit of each event, in ``[0, N)``.
        offsets: int32 ``[B * T + 1]``. The events of sample ``b`` in step ``t`` are
            ``units[offsets[b * T + t] : offsets[b * T + t + 1]]``.
        num_steps: ``T``.
        num_units: ``N``.

    Example:
        Two steps of one sample with three units: unit 1 fires first, then units 0 and 2.

        >>> import torch
        >>> from ss_lightning import EventBatch
        >>> spikes = torch.tensor([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 1.0]]])
        >>> batch = EventBatch.from_dense(spikes)
        >>> batch
        EventBatch(shape=(2, 1, 3), events=3)
        >>> batch.units.tolist(), batch.offsets.tolist()
        ([1, 0, 2], [0, 1, 3])
        >>> torch.equal(batch.to_dense(), spikes)
        True
    """

    units: Tensor
    offsets: Tensor
    num_steps: int
    num_units: int

    def __post_init__(self) -> None:
        _check_layout(self)
        _check_values(self)
        self.units, self.offsets = self.units.contiguous(), self.offsets.contiguous()

    @classmethod
    def trusted(cls, units: Tensor, offsets: Tensor, num_steps: int, num_units: int) -> EventBatch:
        """A batch of which it is known that its parts fit each other, such as a copy of another; nothing is checked."""
        batch = cls.__new__(cls)
        batch.units, batch.offsets, batch.num_steps, batch.num_units = units, offsets, num_steps, num_units
        return batch

    def __repr__(self) -> str:
        return f"EventBatch(shape={self.shape}, events={self.num_events})"

    @property
    def batch_size(self) -> int:
        """Number of samples ``B``."""
        return (self.offsets.numel() - 1) // self.num_steps

    @property
    def num_events(self) -> int:
        """Number of events ``E`` in the whole batch."""
        return self.units.numel()

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(T, B, N)``, the shape of :meth:`to_dense`."""
        return self.num_steps, self.batch_size, self.num_units

    @property
    def device(self) -> torch.device:
        """Where the events are."""
        return self.units.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EventBatch:
        """The same events on another device (Lightning calls this to move a batch).

        From page-locked memory to a GPU the host never waits for the copy. Lightning asks for that of tensors only.
        """
        non_blocking = non_blocking or (torch.device(device).type == "cuda" and self.units.is_pinned())
        return EventBatch.trusted(
            self.units.to(device, non_blocking=non_blocking),
            self.offsets.to(device, non_blocking=non_blocking),
            self.num_steps,
            self.num_units,
        )

    def pin_memory(self) -> EventBatch:
        """The same events in page-locked memory (the DataLoader calls this)."""
        return EventBatch.trusted(self.units.pin_memory(), self.offsets.pin_memory(), self.num_steps, self.num_units)

    def events_per_sample(self) -> Tensor:
        """int64 ``[B]``, how many events each sample has."""
        return self.offsets[:: self.num_steps].diff().long()

    def bags(self) -> Tensor:
        """int64 ``[E]``, the row ``b * T + t`` that each event belongs to."""
        rows = torch.arange(self.offsets.numel() - 1, device=self.device)
        return torch.repeat_interleave(rows, self.offsets.diff(), output_size=self.num_events)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Spike counts as a contiguous time-major tensor ``[T, B, N]``."""
        steps, batch, units = self.shape
        rows = self.bags()
        sample = torch.div(rows, steps, rounding_mode="floor")
        index = ((rows - sample * steps) * batch + sample) * units + self.units
        dense = torch.zeros(steps * batch * units, dtype=dtype, device=self.device)
        dense.index_add_(0, index, torch.ones_like(index, dtype=dtype))
        return dense.view(steps, batch, units)

    @classmethod
    def from_dense(cls, spikes: Tensor) -> EventBatch:
        """Events of a time-major tensor of spike counts; on the CPU one pass over its memory.

        Args:
            spikes: whole numbers, zero or more, ``[T, B, N]``, of any dtype. No gradient passes.

        Raises:
            UsageError: it is no such tensor, has no step or no unit, or a value is no count.
        """
        if not isinstance(spikes, Tensor) or spikes.dim() != 3:
            found = f"a tensor of shape {list(spikes.shape)}" if isinstance(spikes, Tensor) else type(spikes).__name__
            raise UsageError(f"EventBatch: {found}; expected a tensor [T, B, N]")
        if spikes.layout != torch.strided or spikes.is_complex():
            kind = str(spikes.dtype if spikes.is_complex() else spikes.layout).removeprefix("torch.")
            raise UsageError(f"EventBatch: a {kind} tensor; expected a dense one (to_dense()) of real numbers")
        steps, _, units = spikes.shape
        for name, size in (("num_steps", steps), ("num_units", units)):
            _check_size(name, size)
        return cls.trusted(*find_events(spikes), steps, units)

    @classmethod
    def from_arrays(
        cls,
        times: Iterable[ArrayLike] | ArrayLike,
        units: Iterable[ArrayLike] | ArrayLike,
        *,
        num_units: int,
        num_steps: int,
        step_ms: float,
        time_unit: TimeUnit = "s",
        binning: Binning = "binary",
    ) -> EventBatch:
        """Recordings on a time grid, which begins at 0; times and units are given as to ``model.predict``.

        Args:
            times: times of the events of a recording, in any order, or a list of such arrays.
            units: units of the events, whole numbers in ``[0, num_units)``, likewise.
            num_units: ``N``.
            num_steps: ``T``. Later events are dropped.
            step_ms: length of a step in milliseconds.
            time_unit: what one unit of ``times`` is: ``"s"``, ``"ms"`` or ``"us"``.
            binning: ``"binary"`` counts a unit once per step, ``"count"`` counts every event.

        Raises:
            DataError: an event is not valid; the message names the recording and the value.
            UsageError: another argument makes no sense.

        Example:
            Two recordings of three units on a grid of four steps of a millisecond.

            >>> from ss_lightning import EventBatch
            >>> batch = EventBatch.from_arrays(
            ...     [[0.0005, 0.003], [0.001]], [[2, 0], [1]], num_units=3, num_steps=4, step_ms=1.0
            ... )
            >>> batch
            EventBatch(shape=(4, 2, 3), events=3)
            >>> batch.to_dense()[:, 0].tolist()
            [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
        """
        for name, size in (("num_units", num_units), ("num_steps", num_steps)):
            _check_size(name, size)
        if isinstance(step_ms, bool) or not isinstance(step_ms, Real) or not 0 < float(step_ms) < math.inf:
            raise UsageError(f"EventBatch: step_ms is {step_ms!r}; expected a number greater than 0")
        if binning not in ("binary", "count"):
            raise UsageError(f'EventBatch: binning is {binning!r}; expected "binary" or "count"')
        times, units = as_recordings(times, units)
        place = SamplePlace("recordings")
        events = flat_events(times, units, place, num_units=num_units, time_unit=time_unit, allow_empty=True)
        return cls.from_flat(events, num_units=num_units, num_steps=num_steps, step_ms=step_ms, binning=binning)

    @classmethod
    def from_flat(
        cls,
        events: FlatEvents,
        *,
        num_units: int,
        num_steps: int,
        step_ms: float,
        binning: Binning = "binary",
        units_per_input: int = 1,
    ) -> EventBatch:
        """Checked events on a time grid, ``units_per_input`` neighbouring units merged into one."""
        length = length_in(events.time_unit, step_ms)
        samples = np.arange(len(events.offsets) - 1)
        units, offsets = bin_events(
            events.times,
            events.units,
            events.offsets,
            samples,
            num_steps=num_steps,
            step_length=length,
            num_units=num_units,
            binning=binning,
            units_per_input=units_per_input,
        )
        num_inputs = -(-num_units // units_per_input)
        return cls.trusted(torch.from_numpy(units), torch.from_numpy(offsets), num_steps, num_inputs)


def _check_size(name: str, size: object) -> None:
    if not isinstance(size, Integral) or isinstance(size, bool) or not 1 <= int(size) < 2**31:
        raise UsageError(f"EventBatch: {name} is {size!r}; expected a whole number from 1 to 2^31 - 1")


def _check_layout(batch: EventBatch) -> None:
    for name in ("num_steps", "num_units"):
        _check_size(name, getattr(batch, name))
    for name in ("units", "offsets"):
        tensor = getattr(batch, name)
        if not isinstance(tensor, Tensor):
            raise UsageError(f"EventBatch: {name} is {type(tensor).__name__}; expected a tensor")
        if tensor.dtype != torch.int32 or tensor.dim() != 1 or tensor.layout != torch.strided:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(f"EventBatch: {name} is {kind} of shape {tuple(tensor.shape)}; expected flat int32")
    rows = batch.offsets.numel() - 1
    if rows < 0 or rows % batch.num_steps:
        raise UsageError(
            f"EventBatch: offsets has {rows + 1} entries; expected B * T + 1 with T = num_steps = {batch.num_steps}"
        )
    if batch.units.device != batch.offsets.device:
        raise UsageError(
            f"EventBatch: units is on {batch.units.device}, offsets on {batch.offsets.device}; expected one device"
        )


def _check_values(batch: EventBatch) -> None:
    units, offsets = batch.units, batch.offsets
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != units.numel():
        raise UsageError(
            f"EventBatch: offsets goes from {first} to {last}; expected from 0 to {units.numel()}, the number of units"
        )
    falls = offsets[1:] < offsets[:-1]
    if bool(falls.any()):
        row = int(falls.int().argmax())
        raise UsageError(f"EventBatch: offsets falls from {offsets[row]} to {offsets[row + 1]}; expected it to rise")
    if units.numel() and (int(units.min()) < 0 or int(units.max()) >= batch.num_units):
        wrong = units[(units < 0) | (units >= batch.num_units)][0]
        raise UsageError(
            f"EventBatch: unit {int(wrong)}; expected 0 to {batch.num_units - 1} (num_units={batch.num_units})"
        )
