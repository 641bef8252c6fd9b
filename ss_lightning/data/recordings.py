"""How recordings become the input of a network that has been trained: what a checkpoint knows of its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from ss_lightning.arrays import FlatEvents, SamplePlace, TimeUnit, as_recordings, flat_events, length_in
from ss_lightning.binning import Binning
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.dataset import dense_batch
from ss_lightning.events import EventBatch


@dataclass(frozen=True)
class RecordingFormat:
    """The time grid, the units and the classes of the data that a network was trained on.

    Attributes:
        num_steps: ``T``, steps of the grid, which begins at 0. Later events are dropped.
        step_ms: length of a step in milliseconds.
        num_units: units of a recording, numbered from 0.
        input_shape: shape of one step of the network's input.
        class_names: one name per class.
        binning: "binary" counts a unit once per step, "count" counts every event.
        input: "events" or "dense", what the network is given.
        units_per_input: how many neighbouring units are merged into one input.

    Example:
        >>> from ss_lightning.data import RecordingFormat
        >>> grid = RecordingFormat(num_steps=4, step_ms=1.0, num_units=3, input_shape=(3,), class_names=("no", "yes"))
        >>> grid.batch([[0.0005, 0.003]], [[2, 0]]).to_dense()[:, 0].tolist()  # times in seconds
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """

    num_steps: int
    step_ms: float
    num_units: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    binning: Binning = "binary"
    input: Literal["events", "dense"] = "events"
    units_per_input: int = 1

    @classmethod
    def of(cls, data: EventDataModule) -> RecordingFormat:
        """The format of a data module, which is prepared if it is not yet."""
        return cls(
            num_steps=data.num_steps,
            step_ms=data.step_ms,
            num_units=data.splits.train.store.num_units,
            input_shape=tuple(data.input_shape),
            class_names=tuple(data.class_names),
            binning=data.binning,
            input=data.input,
            units_per_input=data.units_per_input,
        )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> RecordingFormat:
        """The format that :meth:`values` wrote."""
        tuples = {name: tuple(values[name]) for name in ("input_shape", "class_names")}
        return cls(**{**values, **tuples})

    def values(self) -> dict[str, Any]:
        """Plain values, as a checkpoint holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def batch(
        self, times: Iterable[ArrayLike], units: Iterable[ArrayLike], time_unit: TimeUnit = "s"
    ) -> EventBatch | Tensor:
        """Recordings as a batch of the network's input.

        Args:
            times: times of the events of each recording, in any order.
            units: their units, numbered as in the data of the training, likewise.
            time_unit: what one unit of ``times`` is: ``"s"``, ``"ms"`` or ``"us"``.

        Returns:
            Events, or a uint8 tensor ``[T, B, N]`` for a network that was trained on those.

        Raises:
            DataError: an event is not valid; the message names the recording and the value.
            UsageError: ``time_unit`` is another word.
        """
        return self.input_of(self.events(*as_recordings(times, units), time_unit))

    def events(
        self,
        times: Iterable[ArrayLike],
        units: Iterable[ArrayLike],
        time_unit: TimeUnit = "s",
        first: int = 0,
        source: str = "recordings",
    ) -> FlatEvents:
        """The events of recordings, checked and in order of time.

        Arguments and errors are those of :meth:`batch`; messages call the recordings ``source`` and number them from
        ``first``.
        """
        advice = (
            f"The network was trained on recordings of {self.num_units} units: number the units of these in the same "
            "way, and leave out events of units that it does not know."
        )
        place = SamplePlace(source, first, advice)
        return flat_events(times, units, place, num_units=self.num_units, time_unit=time_unit, allow_empty=True)

    def input_of(self, events: FlatEvents) -> EventBatch | Tensor:
        """Checked events as a batch of the network's input.

        Raises:
            UsageError: the network takes dense input, and counts do not fit uint8.
        """
        batch = EventBatch.from_flat(
            events,
            num_units=self.num_units,
            num_steps=self.num_steps,
            step_ms=self.step_ms,
            binning=self.binning,
            units_per_input=self.units_per_input,
        )
        if self.input == "events":
            return batch
        units_and_offsets = batch.units.numpy(), batch.offsets.numpy()
        return dense_batch(*units_and_offsets, self.num_steps, batch.num_units, self.binning, self.step_ms)

    def begins_too_late(self, events: FlatEvents) -> np.ndarray:
        """Of each recording whether it has events and all lie after the end of the grid, bool ``[S]``."""
        begin, end = events.offsets[:-1], events.offsets[1:]
        late = end > begin
        late[late] = events.times[begin[late]] >= self.num_steps * length_in(events.time_unit, self.step_ms)
        return late
