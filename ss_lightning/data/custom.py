"""The user's own events: arrays in memory, or any tonic data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ss_lightning.data.argument_checks import checked_fraction, checked_whole_number
from ss_lightning.data.augment import UNCHANGED, EventAugmentation, checked_augmentation
from ss_lightning.data.datamodule import EventDataModule
from ss_lightning.data.splits import Splits, Subset
from ss_lightning.data.store import EventStore, TimeUnit, with_common_classes
from ss_lightning.errors import DataError, UsageError
from ss_lightning.signatures import passes_on_to, passes_options_to

Recordings = tuple[Iterable[ArrayLike], Iterable[ArrayLike], ArrayLike]


@passes_on_to(EventDataModule)
class EventData(EventDataModule):
    """Any events as a data module: from arrays, from a tonic data set, or from stores.

    Build one with :meth:`from_arrays` or :meth:`from_tonic`; the constructor takes stores that are ready.

    Args:
        train: training data.
        test: test data.
        val: validation data; if not given, ``val_fraction`` of the training samples are held out.
        val_fraction: share of the training samples to hold out; 0 for no validation set.
        seed: seed of the choice of validation samples.
        augment: how the training samples are changed at random.

    Raises:
        UsageError: an argument is out of range, or the stores differ in units or classes.
    """

    def __init__(
        self,
        train: EventStore,
        test: EventStore | None = None,
        val: EventStore | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        augment: EventAugmentation = UNCHANGED,
        **options: Any,
    ) -> None:
        super().__init__(**options)
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

    def _known_sizes(self) -> dict[str, Any]:
        return {"classes": self.train.num_classes, "units": self.train.num_units}

    def load_splits(self) -> Splits:
        """The stores as given, or a random part of the training samples as the validation set."""
        if self.val is None:
            return Splits.held_out(self.train, self.test, self.val_fraction, self.seed)
        return Splits(Subset(self.train), Subset(self.val), None if self.test is None else Subset(self.test))

    @classmethod
    @passes_options_to(EventDataModule)
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
        val_fraction: float = 0.1,
        seed: int = 0,
        augment: EventAugmentation = UNCHANGED,
        **options: Any,
    ) -> EventData:
        """Build from lists of arrays.

        Args:
            train: ``(times, units, labels)``: one array of times and one of units per sample, and one label
                per sample.
            test: the same for the test set.
            val: the same for the validation set; if not given, ``val_fraction`` of the training samples.
            num_units: number of input units; units are whole numbers in ``[0, num_units)``.
            num_steps: steps of the time grid, which begins at 0.
            step_ms: length of a step in milliseconds.
            time_unit: unit of the times: "s", "ms" or "us".
            num_classes: number of classes; if not given, the highest label of all parts + 1.
            input_shape: shape of one step of input; ``(num_units,)`` if not given.
            class_names: one name per class.
            allow_empty: accept samples without any event.
            val_fraction: share of the training samples to hold out where ``val`` is not given; 0 for no validation set.
            seed: seed of the choice of validation samples.
            augment: how the training samples are changed at random.

        Raises:
            DataError: an event, label or sample is not valid; the message has the part and the sample.
            UsageError: an argument is out of range.

        Example:
            Thirty recordings of four channels, each with five events in the first 100 ms.

            >>> import numpy as np
            >>> from ss_lightning.data import EventData
            >>> rng = np.random.default_rng(0)
            >>> times = [np.sort(rng.random(5) * 0.1) for _ in range(30)]
            >>> units = [rng.integers(0, 4, 5) for _ in range(30)]
            >>> labels = np.arange(30) % 2
            >>> train = (times, units, labels)
            >>> data = EventData.from_arrays(train, num_units=4, num_steps=50, step_ms=2, batch_size=9, binning="count")
            >>> data.prepare_data()
            >>> data
            EventData(classes=2, units=4, steps=50, step_ms=2, train=27, val=3, test=0)
            >>> events, labels = next(iter(data.train_dataloader()))
            >>> events
            EventBatch(shape=(50, 9, 4), events=45)
        """
        stores = {}
        for name, part in [("train", train), *_given_parts(None, test, val)]:
            if not isinstance(part, (tuple, list)) or len(part) != 3:
                found = (
                    f"has {len(part)} items" if isinstance(part, (tuple, list)) else f"is of type {type(part).__name__}"
                )
                raise UsageError(f"{name} {found}; expected 3 items: (times, units, labels).")
            stores[name] = EventStore.from_arrays(
                *part,
                num_units=num_units,
                time_unit=time_unit,
                num_classes=num_classes,
                input_shape=input_shape,
                class_names=class_names,
                allow_empty=allow_empty,
                source=name,
            )
        options |= {"num_steps": num_steps, "step_ms": step_ms, "augment": augment}
        return cls._from_stores(stores, val_fraction=val_fraction, seed=seed, **options)

    @classmethod
    @passes_options_to(EventDataModule)
    def from_tonic(
        cls,
        train: Any,
        test: Any = None,
        val: Any = None,
        *,
        num_steps: int,
        step_ms: float,
        merge_polarity: bool = False,
        sensor_size: tuple[int, int, int] | None = None,
        class_names: Sequence[str] | None = None,
        allow_empty: bool = False,
        val_fraction: float = 0.1,
        seed: int = 0,
        augment: EventAugmentation = UNCHANGED,
        **options: Any,
    ) -> EventData:
        """Build from tonic data sets without a transform, which are read whole, once.

        Args:
            train: sequence of ``(events, label)``; ``events`` is a structured array with fields t
                (microseconds), x, and optionally y and p. Polarities are 0 and 1, or -1 and 1, or false and true.
                Unit index: ``(p * H + y) * W + x``.
            test: the same for the test set.
            val: the same for the validation set; if not given, ``val_fraction`` of the training samples.
            num_steps: steps of the time grid, which begins at 0.
            step_ms: length of a step in milliseconds.
            merge_polarity: ignore p, so that both polarities of a pixel are one unit. True is what a sensor with one
                polarity needs whose events carry two.
            sensor_size: ``(W, H, P)``; that of ``train`` if not given.
            class_names: one name per class; the class numbers if not given.
            allow_empty: accept samples without any event.
            val_fraction: share of the training samples to hold out where ``val`` is not given; 0 for no validation set.
            seed: seed of the choice of validation samples.
            augment: how the training samples are changed at random.

        Raises:
            DataError: an event, label or sample is not valid; the message has the part and the sample.
            UsageError: an argument is out of range, or the sensor size is not known.
        """
        size = sensor_size if sensor_size is not None else getattr(train, "sensor_size", None)
        if size is None or len(size) != 3:
            raise UsageError(
                f"sensor_size is {size!r}; expected (width, height, polarities). Pass sensor_size=(W, H, P)."
            )
        width, height, polarities = (int(n) for n in size)
        if merge_polarity:
            polarities = 1
        one_line = height == 1 and polarities == 1
        stores, only = {}, _OnlyValues()
        for name, part in _given_parts(train, test, val):
            stores[name] = EventStore.from_arrays(
                *_read_tonic(part, name, (width, height, polarities), merge_polarity, only),
                num_units=width * height * polarities,
                time_unit="us",
                input_shape=(width,) if one_line else (polarities, height, width),
                class_names=class_names,
                allow_empty=allow_empty,
                source=name,
            )
        options |= {"num_steps": num_steps, "step_ms": step_ms, "augment": augment}
        return cls._from_stores(stores, val_fraction=val_fraction, seed=seed, **options)

    @classmethod
    def _from_stores(cls, stores: dict[str, EventStore], **options: Any) -> EventData:
        stores = with_common_classes(stores)
        return cls(stores["train"], stores.get("test"), stores.get("val"), **options)


def _given_parts(train: Any, test: Any, val: Any) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in (("train", train), ("test", test), ("val", val)) if part is not None]


class _OnlyValues:
    """The coordinates that a sensor has one value of, whatever it is called: one for all samples of all parts."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def check(self, values: np.ndarray, field: str, source: str) -> None:
        """Refuse a second value: it would be merged with the first."""
        if not len(values):
            return
        first = self.values.setdefault(field, int(values[0]))
        others = values[values != first]
        if not len(others):
            return
        found = f"{first} and {others[0]}"
        if field == "p":
            raise DataError(
                f"{source}: sensor_size says one polarity, but the events carry {found}. Pass merge_polarity=True to "
                "make one input of them, or sensor_size=(width, height, 2) to keep them apart."
            )
        raise DataError(
            f"{source}: {field} is {found}, but sensor_size says one value of it. Correct sensor_size, or set {field} "
            "to 0 to make one input of them."
        )


def _read_tonic(
    part: Any, name: str, size: tuple[int, int, int], merge_polarity: bool, only: _OnlyValues
) -> tuple[list[np.ndarray], list[np.ndarray], list]:
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
        units.append(_tonic_units(events, f"{name}, sample {sample}", size, merge_polarity, only))
        labels.append(label)
    return times, units, labels


def _tonic_units(
    events: np.ndarray, source: str, size: tuple[int, int, int], merge_polarity: bool, only: _OnlyValues
) -> np.ndarray:
    """``(p * H + y) * W + x``, int64 ``[E]``; a coordinate of one value does not count."""
    width, height, polarities = size
    index = np.zeros(len(events), np.int64)
    for field, extent in (("p", polarities), ("y", height), ("x", width)):
        if field not in (events.dtype.names or ()) or (field == "p" and merge_polarity):
            continue
        values = events[field].astype(np.int64)
        if extent == 1 and field != "x":
            only.check(values, field, source)
            continue
        if field == "p" and np.isin(values, (-1, 1)).all():
            values = (values > 0).astype(np.int64)
        if len(values) and not 0 <= values.min() <= values.max() < extent:
            wrong = values.min() if values.min() < 0 else values.max()
            raise DataError(f"{source}: {field} is {wrong}; expected 0 to {extent - 1}. Check sensor_size.")
        index = index * extent + values
    return index
