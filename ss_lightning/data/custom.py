"""The user's own events: arrays in memory, or any tonic data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ss_lightning.data.argument_checks import checked_fraction, checked_whole_number
from ss_lightning.data.augment import UNCHANGED, EventAugmentation, checked_augmentation
from ss_lightning.data.datamodule import EventDataModule, Splits, Subset, split_off
from ss_lightning.data.store import EventStore, TimeUnit, with_common_classes
from ss_lightning.errors import DataError, UsageError

Recordings = tuple[Sequence[ArrayLike], Sequence[ArrayLike], ArrayLike]


class EventData(EventDataModule):
    """Any events as a data module, for example from lists of arrays::

    data = EventData.from_arrays(
        train=(times, units, labels), test=(times, units, labels), num_units=64, num_steps=200, step_ms=5
    )
    """

    def __init__(
        self,
        train: EventStore,
        test: EventStore | None = None,
        val: EventStore | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        augment: EventAugmentation = UNCHANGED,
        **kwargs: Any,
    ) -> None:
        """Take stores that are ready.

        Args:
            train: Training data.
            test: Test data.
            val: Validation data; if not given, ``val_fraction`` of the training samples are held out.
            val_fraction: Share of the training samples to hold out; 0 for no validation set.
            seed: Seed of the choice of validation samples.
            augment: How the training samples are changed at random.
            kwargs: The arguments of EventDataModule: num_steps, step_ms, batch_size, binning, input,
                num_workers, pin_memory.

        Raises:
            UsageError: An argument is out of range, or the stores differ in units or classes.
        """
        super().__init__(**kwargs)
        for name, store in (("test", test), ("val", val)):
            for size in ("num_units", "num_classes", "input_shape"):
                if store is not None and getattr(store, size) != getattr(train, size):
                    raise UsageError(
                        f"{name} has {size}={getattr(store, size)} but train has {getattr(train, size)}; "
                        "expected the same."
                    )
        self.augment = checked_augmentation(augment, EventAugmentation, train.input_shape)
        self.train, self.test, self.val = train, test, val
        self.val_fraction = checked_fraction("val_fraction", val_fraction)
        self.seed = checked_whole_number("seed", seed, least=0)

    def load_splits(self) -> Splits:
        """The stores as given, or a random part of the training samples as the validation set."""
        test = None if self.test is None else Subset(self.test)
        if self.val is not None:
            return Splits(Subset(self.train), Subset(self.val), test)
        kept, held_out = split_off(len(self.train), self.val_fraction, self.seed)
        return Splits(Subset(self.train, kept), Subset(self.train, held_out) if len(held_out) else None, test)

    @classmethod
    def from_arrays(
        cls,
        train: Recordings,
        test: Recordings | None = None,
        val: Recordings | None = None,
        *,
        num_units: int,
        num_steps: int,
        step_ms: float,
        time_unit: TimeUnit = "s",
        num_classes: int | None = None,
        input_shape: tuple[int, ...] | None = None,
        class_names: Sequence[str] | None = None,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> EventData:
        """Build from lists of arrays.

        Args:
            train: ``(times, units, labels)``: one array of times and one of units per sample, and one label
                per sample.
            test: The same for the test set.
            val: The same for the validation set; if not given, see ``val_fraction`` of the constructor.
            num_units: Number of input units; units are whole numbers in ``[0, num_units)``.
            num_steps: Steps of the time grid, which begins at 0.
            step_ms: Length of a step in milliseconds.
            time_unit: Unit of the times: "s", "ms" or "us".
            num_classes: Number of classes; if not given, the highest label of all parts + 1.
            input_shape: Shape of one step of input; ``(num_units,)`` if not given.
            class_names: One name per class.
            allow_empty: Accept samples without any event.
            kwargs: The other arguments of the constructor and of EventDataModule.

        Raises:
            DataError: An event, label or sample is not valid; the message has the part and the sample.
            UsageError: An argument is out of range.
        """
        parts = {"train": train, "test": test, "val": val}
        stores: dict[str, EventStore] = {}
        for name, part in parts.items():
            if part is None:
                continue
            if len(part) != 3:
                raise UsageError(f"{name} has {len(part)} items; expected 3: (times, units, labels).")
            times, units, labels = part
            stores[name] = EventStore.from_arrays(
                times,
                units,
                labels,
                num_units=num_units,
                time_unit=time_unit,
                num_classes=num_classes,
                input_shape=input_shape,
                class_names=class_names,
                allow_empty=allow_empty,
                source=name,
            )
        return cls._from_stores(stores, num_steps=num_steps, step_ms=step_ms, **kwargs)

    @classmethod
    def from_tonic(
        cls,
        train_set: Any,
        test_set: Any = None,
        val_set: Any = None,
        *,
        num_steps: int,
        step_ms: float,
        merge_polarity: bool = False,
        sensor_size: tuple[int, int, int] | None = None,
        class_names: Sequence[str] | None = None,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> EventData:
        """Build from tonic data sets without a transform, which are read whole, once.

        Args:
            train_set: Sequence of ``(events, label)``; ``events`` is a structured array with fields t
                (microseconds), x, and optionally y and p. Unit index: ``(p * H + y) * W + x``.
            test_set: The same for the test set.
            val_set: The same for the validation set; if not given, see ``val_fraction`` of the constructor.
            num_steps: Steps of the time grid, which begins at 0.
            step_ms: Length of a step in milliseconds.
            merge_polarity: Ignore p, so that both polarities of a pixel are one unit.
            sensor_size: ``(W, H, P)``; that of ``train_set`` if not given.
            class_names: One name per class; the class numbers if not given.
            allow_empty: Accept samples without any event.
            kwargs: The other arguments of the constructor and of EventDataModule.

        Raises:
            DataError: An event, label or sample is not valid; the message has the part and the sample.
            UsageError: An argument is out of range, or the sensor size is not known.
        """
        size = sensor_size if sensor_size is not None else getattr(train_set, "sensor_size", None)
        if size is None or len(size) != 3:
            raise UsageError(
                f"sensor_size is {size!r}; expected (width, height, polarities). Pass sensor_size=(W, H, P)."
            )
        width, height, polarities = (int(n) for n in size)
        if merge_polarity:
            polarities = 1
        one_line = height == 1 and polarities == 1
        parts = {"train": train_set, "test": test_set, "val": val_set}
        stores: dict[str, EventStore] = {}
        for name, part in parts.items():
            if part is None:
                continue
            times, units, labels = _read_tonic(part, name, (width, height, polarities))
            stores[name] = EventStore.from_arrays(
                times,
                units,
                labels,
                num_units=width * height * polarities,
                time_unit="us",
                input_shape=(width,) if one_line else (polarities, height, width),
                class_names=class_names,
                allow_empty=allow_empty,
                source=name,
            )
        return cls._from_stores(stores, num_steps=num_steps, step_ms=step_ms, **kwargs)

    @classmethod
    def _from_stores(cls, stores: dict[str, EventStore], **kwargs: Any) -> EventData:
        stores = with_common_classes(stores)
        return cls(stores["train"], stores.get("test"), stores.get("val"), **kwargs)


def _read_tonic(part: Any, name: str, size: tuple[int, int, int]) -> tuple[list[np.ndarray], list[np.ndarray], list]:
    _, height, polarities = size
    needed = ["t", "x"] + ["y"] * (height > 1) + ["p"] * (polarities > 1)
    times, units, labels = [], [], []
    for sample in range(len(part)):
        try:
            events, label = part[sample]
        except (OSError, EOFError, ValueError, TypeError, IndexError, KeyError) as error:
            raise DataError(
                f"{name}, sample {sample}: cannot be read, perhaps its file is cut short ({error}). Get it again."
            ) from error
        fields = list(getattr(getattr(events, "dtype", None), "names", None) or ())
        if not set(needed) <= set(fields):
            raise DataError(
                f"{name}, sample {sample}: events of type {type(events).__name__} with fields {fields}; "
                f"expected a structured array with {', '.join(needed)}. Build the tonic data set without a "
                "transform, or correct sensor_size."
            )
        times.append(events["t"].copy())  # a view would keep all the other fields in memory
        units.append(_tonic_units(events, f"{name}, sample {sample}", size))
        labels.append(label)
    return times, units, labels


def _tonic_units(events: np.ndarray, source: str, size: tuple[int, int, int]) -> np.ndarray:
    """``(p * H + y) * W + x``, int64 ``[E]``; p counts only if there is more than one polarity."""
    width, height, polarities = size
    index = np.zeros(len(events), np.int64)
    for field, extent in (("p", polarities), ("y", height), ("x", width)):
        if extent == 1 and field != "x":
            continue
        values = events[field].astype(np.int64)
        if len(values) and not 0 <= values.min() <= values.max() < extent:
            wrong = values.min() if values.min() < 0 else values.max()
            raise DataError(f"{source}: {field} is {wrong}; expected 0 to {extent - 1}. Check sensor_size.")
        index = index * extent + values
    return index
