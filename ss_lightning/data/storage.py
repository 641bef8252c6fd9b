"""A stored data set: a folder with one ``.npy`` file for each array and a ``meta.json`` with their checksums."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ss_lightning.errors import DataError, UsageError
from ss_lightning.files import write_whole_folder

FORMAT_VERSION = 2


def write_arrays(
    path: str | os.PathLike[str], parts: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]
) -> None:
    """Write flat arrays that come in parts, of which only one need be in memory at a time.

    The folder appears at once and whole.

    Args:
        path: the folder to write; a stored data set that is already there is replaced.
        parts: the arrays of each part by name, which follow one another in the files, and what else ``meta.json``
            says; the last part has the last word.

    Raises:
        UsageError: ``path`` exists and is not a stored data set.
        ValueError: the parts of an array differ in type.
        OSError: the folder could not be written.
    """
    path = Path(path)
    if path.exists() and not (path / "meta.json").is_file():
        raise UsageError(f"{path} exists and is not a stored data set. Choose another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole_folder(path) as folder:
        files: dict[str, _ArrayFile] = {}
        meta: dict[str, Any] = {"format": FORMAT_VERSION}
        with ExitStack() as stack:
            for arrays, more in parts:
                if not files:
                    files = {name: stack.enter_context(_ArrayFile(folder / f"{name}.npy")) for name in arrays}
                for name, file in files.items():
                    file.append(arrays[name])
                meta.update(more)
        meta["crc32"] = {name: file.crc for name, file in files.items()}
        meta["checksum"] = _checksum(meta)
        (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def read_arrays(
    path: str | os.PathLike[str], mapped: Collection[str] = (), only: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write_arrays` wrote, and compare the checksums.

    Args:
        path: the folder.
        mapped: names of the arrays to leave on disk, for the operating system to page in; several processes then
            share them. An array without entries is read in any case, because it cannot be mapped.
        only: names of the arrays to read; all if not given.

    Returns:
        The arrays by name, and what else ``meta.json`` says.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of another format version.
    """
    path = Path(path)
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise DataError(f"{path}: stored in format {meta['format']}, expected {FORMAT_VERSION}. Build it again.")
        if meta.pop("checksum") != _checksum(meta):
            raise DataError(f"{path}/meta.json: its checksum differs. Build it again.")
        arrays = {}
        for name, crc in meta["crc32"].items():
            if only is not None and name not in only:
                continue
            in_file = name in mapped and meta["num_events"] > 0
            arrays[name] = np.load(path / f"{name}.npy", mmap_mode="r" if in_file else None)
            if zlib.crc32(arrays[name].data) != crc:
                raise DataError(f"{path / name}.npy: checksum differs from meta.json. Build it again.")
        return arrays, meta
    except DataError:
        raise
    except Exception as error:  # NumPy even says SyntaxError to a damaged header
        raise DataError(f"{path}: not a complete stored data set ({error}). Build it again.") from error


class _ArrayFile:
    """A ``.npy`` file that grows along its one axis."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._type: Any = None  # known with the first array
        self._length = 0
        self.crc = 0

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            if self._type is not None:
                self._file.seek(0)
                self._write_header()

    def append(self, array: np.ndarray) -> None:
        """Write ``array`` behind what is there.

        Raises:
            ValueError: it is of another type.
        """
        if self._type is None:
            self._type = array.dtype
            self._write_header()
        if array.dtype != self._type:
            raise ValueError(f"parts of one array are of types {self._type} and {array.dtype}; expected one type")
        content = np.ascontiguousarray(array).data
        self._file.write(content)
        self.crc = zlib.crc32(content, self.crc)
        self._length += len(array)

    def _write_header(self) -> None:
        # NumPy leaves room in it for any length of the first axis.
        header = {"descr": np.lib.format.dtype_to_descr(self._type), "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def _checksum(meta: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
