"""How recordings become the input of a network that has been trained: what a checkpoint knows of its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from ss_lightning.data.binning import Binning
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.dataset import EventDataset
from ss_lightning.data.store import EventStore, TimeUnit
from ss_lightning.data.validation import one_per_sample
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
            units: their units, numbered as in the data of the training.
            time_unit: what one unit of ``times`` is: ``"s"``, ``"ms"`` or ``"us"``.

        Returns:
            Events, or a uint8 tensor ``[T, B, N]`` for a network that was trained on those.

        Raises:
            DataError: an event is not valid; the message names the recording and the value.
            UsageError: ``time_unit`` is another word.
        """
        times = one_per_sample(times, "recordings: times")
        store = EventStore.from_arrays(
            times,
            units,
            np.zeros(len(times), np.int64),
            num_units=self.num_units,
            time_unit=time_unit,
            class_names=self.class_names,
            allow_empty=True,
            source="recordings",
        )
        dataset = EventDataset(
            store,
            num_steps=self.num_steps,
            step_ms=self.step_ms,
            binning=self.binning,
            input=self.input,
            units_per_input=self.units_per_input,
        )
        return dataset.__getitems__(np.arange(len(store)))[0]
