"""Files of recordings without labels, as ``predict`` takes them: the ending of a file says how it is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ss_lightning.arrays import TimeUnit
from ss_lightning.data.tables import read_table
from ss_lightning.data.validation import refuse_broken_link, whole_numbers
from ss_lightning.errors import DataError, UsageError


class Recording(NamedTuple):
    """Events of one recording of a file, as they are written there.

    Attributes:
        file: the file.
        number: which recording of the file it is, from 0.
        times: ``[E]``, in no order.
        units: ``[E]``.
        time_unit: what one unit of ``times`` is.
        currents: of a recording without events: the constant input of each unit in every step, float32 ``[N]``.
    """

    file: Path
    number: int
    times: np.ndarray
    units: np.ndarray
    time_unit: TimeUnit
    currents: np.ndarray | None = None


# Gets a file, and what one unit of its times is where the file itself does not say it.
Reader = Callable[[Path, TimeUnit], Iterable[Recording]]

_COLUMNS = {"times": ("times", "time", "t"), "units": ("units", "unit", "channel", "x")}


def read_npz(path: Path, time_unit: TimeUnit = "s") -> Iterator[Recording]:
    """One recording from the arrays ``times`` and ``units``, as ``numpy.savez`` writes it.

    Beside an array ``lengths`` they are those of several recordings, one after the other.
    """
    with np.load(path, allow_pickle=False) as arrays:
        missing = [name for name in ("times", "units") if name not in arrays.files]
        if missing:
            raise DataError(
                f"{path}: no array {' and no array '.join(missing)} (it has {_names(arrays.files)}); expected those of "
                "one recording, as numpy.savez(path, times=times, units=units) writes them."
            )
        times, units = arrays["times"], arrays["units"]
        if "lengths" not in arrays.files:
            yield Recording(path, 0, times, units, time_unit)
            return
        lengths = whole_numbers(arrays["lengths"], f"{path}: lengths")
    if lengths.min(initial=0) < 0 or not times.shape == units.shape == (lengths.sum(),):
        raise DataError(
            f"{path}: times of shape {times.shape} and units of shape {units.shape}, and the lengths add up to "
            f"{lengths.sum()}; expected them to fit."
        )
    ends = lengths.cumsum()
    for number, (begin, end) in enumerate(zip(ends - lengths, ends, strict=True)):
        yield Recording(path, number, times[begin:end], units[begin:end], time_unit)


def holds_several(path: Path) -> bool:
    """Whether :func:`read_npz` finds ``lengths`` in a file."""
    with np.load(path, allow_pickle=False) as arrays:
        return "lengths" in arrays.files


def read_hdf5(path: Path, time_unit: TimeUnit = "s") -> Iterator[Recording]:
    """The recordings of a file in SHD layout, ``spikes/times`` and ``spikes/units``; labels are not looked at."""
    with h5py.File(path, "r") as file:
        missing = [name for name in ("spikes/times", "spikes/units") if name not in file]
        if missing:
            raise DataError(
                f"{path}: no data set {' and no data set '.join(missing)} (it has {_names(file)}); expected the layout "
                "of SHD: spikes/times and spikes/units, with one array per recording."
            )
        times, units = file["spikes/times"], file["spikes/units"]
        if times.shape != units.shape or times.ndim != 1:
            raise DataError(
                f"{path}: spikes/times has shape {times.shape} and spikes/units {units.shape}; expected one array per "
                "recording in each."
            )
        for number in range(len(times)):
            yield Recording(path, number, np.asarray(times[number]), np.asarray(units[number]), time_unit)


def read_csv(path: Path, time_unit: TimeUnit = "s") -> Iterator[Recording]:
    """One recording from a table, see :func:`ss_lightning.data.tables.read_table`: columns ``times`` and ``units``.

    A column of another name is not looked at.
    """
    table = read_table(path, tuple(_COLUMNS))
    found = {
        name: next((column for word in words for column in table.columns if column.lower() == word), None)
        for name, words in _COLUMNS.items()
    }
    if None in found.values():
        raise DataError(
            f"{path}: its columns are {_names(table.columns)}; expected times and units, in an event a line."
        )
    times, units = (table.numbers(str(column), name) for name, column in found.items())
    yield Recording(path, 0, times, units, time_unit)


# Of each ending of a file name what reads it. A data module that knows more has a ``recording_readers`` of its own.
READERS: Mapping[str, Reader] = {
    ".npz": read_npz,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
}


def read_recordings(
    path: str | Path, time_unit: TimeUnit = "s", readers: Mapping[str, Reader] = READERS
) -> list[Recording]:
    """The recordings of a file, by the ending of its name.

    Args:
        path: the file.
        time_unit: what one unit of its times is, where the file does not say it.
        readers: what reads which ending; those of a data module are
            :meth:`ss_lightning.data.EventDataModule.recording_readers`.

    Raises:
        DataError: the file cannot be read or does not hold what its reader expects; the message names it.
        UsageError: there is no such file, or no reader for its ending.

    Example:
        >>> import tempfile, numpy, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.npz"
        >>> numpy.savez(path, times=[0.001, 0.004], units=[0, 2])
        >>> [one] = read_recordings(path)
        >>> one.times.tolist(), one.units.tolist(), one.time_unit
        ([0.001, 0.004], [0, 2], 's')
    """
    path = Path(path)
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path}: recordings are read from {_names(readers)}, not from {path.suffix or 'such'} files")
    refuse_broken_link(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        return list(readers[path.suffix.lower()](path, time_unit))
    except (DataError, UsageError):
        raise
    # What a library says to a damaged file depends on the place; it may also take it for a huge one.
    except (
        OSError, RuntimeError, LookupError, TypeError, AttributeError, ValueError, EOFError, MemoryError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read as {path.suffix} ({reason}). Write or get it again.") from error


def recording_files(paths: Sequence[str | Path], readers: Mapping[str, Reader] = READERS) -> list[Path]:
    """The files that are meant: each one that is named, and those in each folder whose ending has a reader.

    Raises:
        UsageError: there is no such file or folder, or a folder has no file that can be read.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in readers and not _is_hidden(file, path)
        )
        if not inside:
            raise UsageError(f"{path}: no recordings in this folder; expected files that end in {_names(readers)}")
        found += inside
    missing = [path for path in found if not path.exists() and not path.is_symlink()]
    if missing:
        raise UsageError(f"there is no file {missing[0]}")
    return found


def _is_hidden(file: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(below).parts)


def _names(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
