"""Files with the events of one recording each: arrays, tables, and the formats of event cameras.

Arrays and columns are known by their names: times (``t``), and either units (``unit``, ``channel``), or ``x`` and
perhaps ``y`` and ``p``. The formats of cameras are read by tonic, expelliarmus and aedat, whose times are microseconds.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ss_lightning.arrays import END_OF_TIME, TimeUnit, stored_times
from ss_lightning.data.nmnist import decode_recording
from ss_lightning.data.preparation import Arrays, Sizes
from ss_lightning.data.tables import read_table
from ss_lightning.errors import DataError, UsageError

Columns = dict[str, np.ndarray]

_NAMES = {
    "t": ("t", "time", "times", "ts", "timestamp", "timestamps"),
    "unit": ("unit", "units", "channel", "channels", "neuron", "neurons"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity", "polarities", "on"),
}
_EXPECTED = "expected times and units, or t, x, y and p (y and p may be missing)"
# The place of an event on a sensor in one number until the size of the sensor is known: 14 bits of x, as many of y, p.
_BITS = 14
_MOST_PIXELS = 2**_BITS


class Recorded(NamedTuple):
    """Events of a file, checked and in order of time.

    Attributes:
        times: ``[E]``, in ``time_unit``.
        places: ``[E]``: units, or for a camera int32 ``(p << 28) + (y << 14) + x``.
        time_unit: "ms" or, for whole microseconds, "us".
        axes: what the places are made of: ("unit",) or of "x", "y" and "p".
        extent: highest value of each of the axes, -1 without events.
    """

    times: np.ndarray
    places: np.ndarray
    time_unit: str
    axes: tuple[str, ...]
    extent: tuple[int, ...]


@dataclass(frozen=True)
class EventReader:
    """Reads files of events.

    Args:
        time_unit: of arrays and tables.
        num_units: units of a recording; None for what the data have.
        sensor_size: width and height of a camera; None for what the data have.
        merge_polarity: both polarities of a pixel are one input.
        pixels_per_input: so many neighbouring pixels in each direction are one input.
        from_first_event: times count from the first event of a recording.
        window_ms: begin and end of what is kept of a recording, which then begins at 0; None for all.
        sort_times: put events in order; else times that go backwards are an error.
        allow_empty: accept recordings without events.
    """

    time_unit: TimeUnit = "s"
    num_units: int | None = None
    sensor_size: tuple[int, int] | None = None
    merge_polarity: bool = False
    pixels_per_input: int = 1
    from_first_event: bool = False
    window_ms: tuple[float, float] | None = None
    sort_times: bool = False
    allow_empty: bool = False

    def settings(self) -> tuple:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        return ("events", *astuple(self))

    def read(self, path: Path) -> Recorded:
        """The events of a file.

        Raises:
            DataError: it cannot be read, or an event of it is not valid.
        """
        columns, time_unit = read_columns(path)
        return self.checked(str(path), columns, time_unit or self.time_unit)

    def checked(self, source: str, columns: Columns, time_unit: TimeUnit) -> Recorded:
        """Events as they are stored.

        Args:
            source: what the messages call them.
            columns: ``t`` with ``unit``, or with ``x`` and perhaps ``y`` and ``p``, an array ``[E]`` each.
            time_unit: of ``t``.

        Raises:
            DataError: an event is not valid.
        """
        axes = ("unit",) if "unit" in columns else tuple(axis for axis in ("x", "y", "p") if axis in columns)
        if "t" not in columns or not axes or axes[0] not in ("unit", "x"):
            raise DataError(f"{source}: holds {', '.join(columns) or 'nothing that is known'}; {_EXPECTED}.")
        arrays = {name: _numbers(source, name, columns[name]) for name in ("t", *axes)}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise DataError(f"{source}: {found}; expected one of each for every event.")
        t = arrays.pop("t")
        if not len(t) and not self.allow_empty:
            raise DataError(f"{source}: no events. Remove the file, or set data.allow_empty if silence is meant.")
        order = self._check_times(source, t)
        places, extent = self._places(source, arrays)
        if order is not None:
            t, places = t[order], places[order]
        if self.from_first_event and len(t):
            t = t - t[0]
        times, stored_unit = stored_times(t, time_unit)
        if self.window_ms is not None:
            begin, end = (edge * (1000 if stored_unit == "us" else 1) for edge in self.window_ms)
            inside = slice(*np.searchsorted(times, [begin, end]))
            times, places = (times[inside] - begin).astype(times.dtype), places[inside]
        return Recorded(times, places, stored_unit, axes, extent)

    def _check_times(self, source: str, t: np.ndarray) -> np.ndarray | None:
        """The order of the events, where they are not in order.

        Raises:
            DataError: a time is not valid, or they go backwards.
        """
        if not len(t):
            return None
        if not (t.min() >= 0 and t.max() < END_OF_TIME):  # also true for NaN
            event = int((~((t >= 0) & (t < END_OF_TIME))).argmax())
            raise DataError(
                f"{source}, event {event}: time {t[event]}; expected finite times, zero or more. Correct it, or leave "
                "the event out."
            )
        falls = t[1:] < t[:-1]
        if not falls.any():
            return None
        if self.sort_times:
            return np.argsort(t, kind="stable")
        event = int(falls.argmax())
        raise DataError(
            f"{source}, event {event + 1}: time {t[event + 1]} comes after {t[event]}: times must not go backwards. "
            "Set data.sort_times: true if the order in the file means nothing."
        )

    def _places(self, source: str, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, tuple[int, ...]]:
        limits = {"unit": self.num_units or 2**31 - 1, "p": 2}
        limits |= dict(zip(("x", "y"), self.sensor_size or (_MOST_PIXELS, _MOST_PIXELS), strict=True))
        whole: dict[str, np.ndarray] = {}
        extent = []
        for name, array in arrays.items():
            if name == "p" and len(array) and array.min() == -1 and array.max() <= 1:
                array = array > 0
            lowest, highest = (array.min(), array.max()) if len(array) else (0, -1)
            broken = None
            if not (lowest >= 0 and highest < limits[name]):
                broken = ~((array >= 0) & (array < limits[name]))
            elif array.dtype.kind == "f" and (array != np.floor(array)).any():
                broken = array != np.floor(array)
            if broken is not None:
                event = int(broken.argmax())
                about = {"unit": ", or data.num_units", "p": ""}.get(name, ", or data.sensor_size")
                raise DataError(
                    f"{source}, event {event}: {name} is {array[event]}; expected whole numbers from 0 to "
                    f"{limits[name] - 1}. Correct the data{about}."
                )
            whole[name] = array
            extent.append(int(highest))
        if "unit" in whole:
            small = (self.num_units or extent[0] + 1) <= 2**16
            return whole["unit"].astype(np.uint16 if small else np.int32), tuple(extent)
        packed = whole["x"].astype(np.int32)
        for name, shift in (("y", _BITS), ("p", 2 * _BITS)):
            if name in whole:
                packed += whole[name].astype(np.int32) << shift
        return packed, tuple(extent)

    def pack(self, items: Sequence[Recorded], paths: Sequence[Path]) -> tuple[Arrays, Sizes]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        for item, path in zip(items, paths, strict=True):
            _refuse_other_axes(items[0].axes, str(paths[0]), item.axes, str(path))
        in_ms = any(item.time_unit == "ms" for item in items)
        times = [item.times / 1000.0 if in_ms and item.time_unit == "us" else item.times for item in items]
        counts = np.array([len(item.times) for item in items], np.int64)
        arrays = {
            "times": np.concatenate(times),
            "units": np.concatenate([item.places for item in items]),
            "counts": counts,
        }
        return arrays, {
            "time_unit": "ms" if in_ms else "us",
            "times": str(arrays["times"].dtype),
            "axes": list(items[0].axes),
            "extent": np.max([item.extent for item in items], axis=0).tolist(),
            "path": str(paths[0]),
        }

    def join(self, sizes: Sequence[Sizes]) -> Callable[[Arrays, Sizes], tuple[Arrays, Sizes]]:
        """See :class:`~ss_lightning.data.preparation.Reader`."""
        first = sizes[0]
        for other in sizes:
            _refuse_other_axes(first["axes"], first["path"], other["axes"], other["path"])
        extent = dict(zip(first["axes"], np.max([size["extent"] for size in sizes], axis=0).tolist(), strict=True))
        shape = self.input_shape(extent)
        num_units = int(np.prod(shape))
        if num_units >= 2**31:
            raise UsageError(f"the data have {num_units:,} units; expected fewer than 2^31. Set data.pixels_per_input.")
        in_ms = any(size["time_unit"] == "ms" for size in sizes)
        time_type = np.result_type(*(np.float64 if in_ms and s["time_unit"] == "us" else s["times"] for s in sizes))
        total = 0

        def finish(arrays: Arrays, size: Sizes) -> tuple[Arrays, Sizes]:
            nonlocal total
            times = arrays["times"]
            total += len(times)
            if in_ms and size["time_unit"] == "us":
                times = times / 1000.0
            made = {
                "times": times.astype(time_type, copy=False),
                "units": self.units(arrays["units"], tuple(size["axes"]), shape),
                "counts": arrays["counts"],
            }
            more = {"num_events": total, "input_shape": list(shape), "time_unit": "ms" if in_ms else "us"}
            return made, more

        return finish

    def input_shape(self, extent: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of one step of input: ``(units,)``, ``(width,)`` or ``(polarities, height, width)``.

        Args:
            extent: highest value of each axis that the files have.
        """
        if "unit" in extent:
            return (self.num_units or extent["unit"] + 1,)
        width, height = self.sensor_size or (extent["x"] + 1, extent.get("y", 0) + 1)
        width, height = (-(-max(length, 1) // self.pixels_per_input) for length in (width, height))
        polarities = 2 if "p" in extent and not self.merge_polarity else 1
        return (width,) if height == polarities == 1 and "y" not in extent else (polarities, height, width)

    def units(self, places: np.ndarray, axes: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        """Units of what :meth:`read` calls places, as small as ``shape`` allows."""
        small = np.uint16 if np.prod(shape) <= 2**16 else np.int32
        if axes == ("unit",):
            return places.astype(small, copy=False)
        polarities, height, width = (1, 1, *shape) if len(shape) == 1 else shape
        x, y = places & (_MOST_PIXELS - 1), places >> _BITS
        p = y >> _BITS
        y &= _MOST_PIXELS - 1
        if self.pixels_per_input > 1:
            x //= self.pixels_per_input
            y //= self.pixels_per_input
        if polarities > 1:
            y += p * height
        return (y * width + x).astype(small)


def _refuse_other_axes(first: Sequence[str], first_path: str, other: Sequence[str], path: str) -> None:
    if list(first) != list(other):
        raise DataError(
            f"{path}: holds {', '.join(other)}, but {first_path} {', '.join(first)}; expected the same in all files."
        )


def _numbers(source: str, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise DataError(
            f"{source}: {name} is {values.dtype} of shape {values.shape}; expected one flat array of numbers."
        )
    return values


def read_columns(path: Path) -> tuple[Columns, TimeUnit | None]:
    """The arrays of a file by what they mean, and the unit of its times where the format says it.

    Raises:
        DataError: it cannot be read, or holds nothing that could be events.
    """
    read = _READERS[path.suffix.lower()]
    try:
        return read(path)
    except (DataError, UsageError):
        raise
    # What a library says to a damaged file depends on the place; it may also take it for a huge one.
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, AttributeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    except (zipfile.BadZipFile, struct.error, AssertionError, NameError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    if "pickle" in reason:
        reason = "it is none, or holds arrays of objects, which may hold code and are not read"
    raise DataError(f"{path}: cannot be read as {path.suffix.lower()} ({reason}). Get or write it again, or remove it.")


def _meanings(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The name of what holds each of the things that an event has; of several that mean the same, the first."""
    given = list(names)
    found: dict[str, str] = {}
    for meaning, words in _NAMES.items():
        fitting = [name for name in given if name.lower() in words]
        if fitting:
            found[meaning] = fitting[0]
    if "t" not in found or not {"x", "unit"} & set(found):
        raise DataError(f"{path}: holds {', '.join(given) or 'nothing'}; {_EXPECTED}.")
    if "unit" in found:
        found = {meaning: found[meaning] for meaning in ("t", "unit")}
    return found


def _named(path: Path, arrays: Mapping[str, Any]) -> Columns:
    """Arrays under the names that they have here."""
    return {meaning: np.asarray(arrays[name]) for meaning, name in _meanings(path, arrays).items()}


def _structured(path: Path, array: np.ndarray) -> Columns:
    if array.dtype.names is not None:
        return _named(path, {name: array[name] for name in array.dtype.names})
    if array.ndim == 2 and array.shape[1] == 2:
        return {"t": array[:, 0], "unit": array[:, 1]}
    raise DataError(
        f"{path}: an array {array.dtype} of shape {array.shape}; expected a structured array with t, x, y and p, or "
        "two columns, times and units."
    )


def _read_npy(path: Path) -> tuple[Columns, None]:
    return _structured(path, np.load(path, allow_pickle=False)), None


def _read_npz(path: Path) -> tuple[Columns, None]:
    with np.load(path, allow_pickle=False) as arrays:
        if len(arrays.files) == 1:
            return _structured(path, arrays[arrays.files[0]]), None
        words = {word for words in _NAMES.values() for word in words}
        found = {name: arrays[name] for name in arrays.files if name.lower() in words}
        return _named(path, found or dict.fromkeys(arrays.files)), None


def _read_csv(path: Path) -> tuple[Columns, None]:
    table = read_table(path, ("times", "units"))
    return {meaning: table.numbers(name, meaning) for meaning, name in _meanings(path, table.columns).items()}, None


def _read_parquet(path: Path) -> tuple[Columns, None]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            f"{path}: parquet files need pyarrow. Install it: pip install 'ss-lightning[parquet]'"
        ) from error
    table = parquet.read_table(path)
    return _named(path, {name: table[name].to_numpy() for name in table.column_names}), None


def _read_hdf5(path: Path) -> tuple[Columns, None]:
    import h5py

    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}

        def note(name: str, thing: Any) -> None:
            if isinstance(thing, h5py.Dataset):
                found[name] = thing

        file.visititems(note)
        if {"spikes/times", "labels"} <= set(found):
            raise DataError(
                f"{path}: holds many recordings, in the layout of SHD. Use --data ss_lightning.data.SHDData, or write "
                "one file for each recording."
            )
        compound = [thing for thing in found.values() if thing.dtype.names is not None]
        if len(compound) == 1:
            return _structured(path, compound[0][()]), None
        by_name: dict[str, list[str]] = {}
        for whole in found:
            by_name.setdefault(whole.rpartition("/")[2], []).append(whole)
        columns = {}
        for meaning, name in _meanings(path, by_name).items():
            places = [whole for whole in by_name[name] if found[whole].ndim == 1] or by_name[name]
            if len(places) > 1:
                raise DataError(f"{path}: holds {' and '.join(places)}; expected one recording. Write a file for each.")
            columns[meaning] = np.asarray(found[places[0]][()])
        return columns, None


def _read_dat(path: Path) -> tuple[Columns, TimeUnit]:
    from expelliarmus import Wizard

    events = Wizard(encoding="dat").read(path)
    if events is None:
        raise ValueError("it is no recording of Prophesee, or cut short")
    return {name: events[name] for name in ("t", "x", "y", "p")}, "us"


def _read_raw(path: Path) -> tuple[Columns, TimeUnit]:
    """A recording of Prophesee, EVT 2.0 or EVT 3.0.

    Not by expelliarmus, which adds 4.096 ms at each wrap of the lower bits of a time in EVT 3 (1.1.12).
    """
    content = path.read_bytes()
    begin = 0
    while content[begin : begin + 1] == b"%":
        begin = content.index(b"\n", begin) + 1
    head = content[:begin].lower()
    version = re.search(rb"(?:evt |format evt)([\d.]+)", head)
    known: dict[bytes, tuple[Callable[[np.ndarray], tuple[np.ndarray, ...]], int]]
    known = {b"2": (decode_evt2, 4), b"2.0": (decode_evt2, 4), b"3": (decode_evt3, 2), b"3.0": (decode_evt3, 2)}
    if version is None or version[1] not in known:
        found = "no format" if version is None else f"EVT {version[1].decode()}"
        raise ValueError(f"its header names {found}; expected EVT 2.0 or EVT 3.0")
    decode, size = known[version[1]]
    words = np.frombuffer(content, f"<u{size}", (len(content) - begin) // size, begin)
    return dict(zip("txyp", decode(words), strict=True)), "us"


def decode_evt2(words: np.ndarray) -> tuple[np.ndarray, ...]:
    """``t``, ``x``, ``y`` and ``p`` of each event in words of 32 bits; the upper 4 say what a word is.

    Source: https://docs.prophesee.ai/stable/data/encoding_formats/evt2.html
    """
    kind = words >> 28
    high = _unwrapped(_last_known(words & 0x0FFFFFFF, kind == 8), 28)
    event = (kind <= 1) & (high >= 0)
    word = words[event]
    return (high[event] << 6) + (word >> 22 & 0x3F), word >> 11 & 0x7FF, word & 0x7FF, kind[event]


def decode_evt3(words: np.ndarray) -> tuple[np.ndarray, ...]:
    """``t``, ``x``, ``y`` and ``p`` of each event in words of 16 bits; the upper 4 say what a word is.

    Source: https://docs.prophesee.ai/stable/data/encoding_formats/evt3.html
    """
    kind, value = words >> 12, words & 0xFFF
    high = _unwrapped(_last_known(value, kind == 8), 12)
    low, y = (_last_known(value, kind == word) for word in (6, 0))
    known = (high >= 0) & (low >= 0) & (y >= 0)
    t = (high << 12) + low
    # Vectors: bits that say which of the next 12 or 8 pixels fire, counted on from the last base.
    base = _last_known(value, kind == 3)
    width = np.where(kind == 4, 12, np.where(kind == 5, 8, 0))
    before = width.cumsum() - width
    offset = before - _last_known(before, kind == 3)
    vector = np.flatnonzero((width > 0) & (base >= 0) & known)
    bits = (value[vector, None] >> np.arange(12) & 1).astype(bool) & (np.arange(12) < width[vector, None])
    row, bit = np.nonzero(bits)
    single, several = np.flatnonzero((kind == 2) & known), vector[row]
    x = np.concatenate([value[single] & 0x7FF, (base[several] & 0x7FF) + offset[several] + bit])
    p = np.concatenate([value[single], base[several]]) >> 11
    word = np.concatenate([single, several])
    order = np.argsort(word, kind="stable")
    word = word[order]
    return t[word], x[order], y[word] & 0x7FF, p[order]


def _last_known(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For each place the last value up to it that is known, int64; -1 where there is none yet."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return np.where(last >= 0, values[last].astype(np.int64), -1)


def _unwrapped(values: np.ndarray, bits: int) -> np.ndarray:
    """A clock of so many bits that goes on after it has come round; it may step back a little."""
    turns = np.zeros(len(values), np.int64)
    turns[1:] = (np.diff(values) < -(2 ** (bits - 1))).cumsum()
    return np.where(values >= 0, values + (turns << bits), -1)


def _read_aedat(path: Path) -> tuple[Columns, TimeUnit]:
    from tonic import io

    version, begin, _ = io.read_aedat_header_from_file(str(path))
    raw = io.get_aer_events_from_file(str(path), version, begin)
    address, t = raw["address"].astype(np.int64), raw["timeStamp"].astype(np.int64)
    if version >= 3:  # the layout of polarity events
        return {"t": t, "x": address >> 17, "y": (address >> 2) & 0x7FFF, "p": (address >> 1) & 1}, "us"
    if not len(address) or address.max() < 2**16:  # DVS128
        return {"t": t, "x": (address >> 8) & 0x7F, "y": (address >> 1) & 0x7F, "p": address & 1}, "us"
    kept = address < 2**31  # the others are frames and motion of a DAVIS
    address, t = address[kept], t[kept]
    return {"t": t, "x": (address >> 12) & 0x3FF, "y": (address >> 22) & 0x1FF, "p": (address >> 11) & 1}, "us"


def _read_aedat4(path: Path) -> tuple[Columns, TimeUnit]:
    """The first stream of events of a file, which may be in many packets; times count from the first event.

    The file has the time of day, since 1970, in which no time grid begins.
    """
    try:
        import aedat
    except ImportError as error:
        raise UsageError(
            f"{path}: AEDAT 4 files need the library aedat. Install it: pip install 'ss-lightning[aedat]'"
        ) from error
    with panics_as_errors():
        decoder = aedat.Decoder(str(path))
        streams = [number for number, stream in decoder.id_to_stream().items() if stream["type"] == "events"]
        if not streams:
            raise ValueError("it has no stream of events")
        packets = [packet["events"] for packet in decoder if packet["stream_id"] == min(streams)]
    columns = {
        name: np.concatenate([np.zeros(0, kind), *(packet[field] for packet in packets)])
        for name, field, kind in (("t", "t", "u8"), ("x", "x", "u2"), ("y", "y", "u2"), ("p", "on", "?"))
    }
    columns["t"] -= columns["t"].min(initial=END_OF_TIME.astype("u8"))
    return columns, "us"


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Around a call of aedat: at some damages its Rust code panics, which is no Exception.

    Raises:
        ValueError: it did.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)) from None


def _read_atis(path: Path) -> tuple[Columns, TimeUnit]:
    content = np.fromfile(path, np.uint8)
    if content.size % 5:
        raise ValueError(f"{content.size} bytes, not five for each event as in N-MNIST and N-Caltech101")
    x, y, p, t = decode_recording(content)
    return {"t": t, "x": x, "y": y, "p": p}, "us"


_READERS: Mapping[str, Callable[[Path], tuple[Columns, TimeUnit | None]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".dat": _read_dat,
    ".raw": _read_raw,
    ".aedat": _read_aedat,
    ".aedat4": _read_aedat4,
    ".bin": _read_atis,
}
