"""Write a file or a folder whole or not at all; show a path as a person would type it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ss_lightning.errors import NoRoomError


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a scratch file to write to, and put it in the place of ``path`` once it is written and on the disk.

    The scratch file lies in the same folder (a move between file systems is a copy, which can be cut short), so whoever
    opens ``path`` finds the old file or the new one, never a part. It has the same ending, which some writers go by.
    """
    scratch = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        with suppress(OSError):
            scratch.unlink()


@contextmanager
def write_for_user(path: Path) -> Iterator[Path]:
    """:func:`write_whole` to a place that a person chose.

    Raises:
        NoRoomError: nothing can be written there.
    """
    with at_place_of_user(path), write_whole(path) as scratch:
        yield scratch


@contextmanager
def at_place_of_user(path: Path) -> Iterator[None]:
    """Around writes to a file or folder that a person chose.

    Raises:
        NoRoomError: nothing can be written there.
    """
    try:
        yield
    except OSError as error:
        raise NoRoomError(f"cannot write {path}: {error.strerror or error}. Choose another place") from error


_lost: set[Path] = set()


@contextmanager
def keep_going(path: Path, run: Path) -> Iterator[None]:
    """Around a write that a command can do without: where it fails, that is said once for each run.

    Args:
        path: what is written.
        run: the run folder that it belongs to.
    """
    try:
        yield
    except OSError as error:
        if run.resolve() not in _lost:
            _lost.add(run.resolve())
            reason = error.strerror or error
            print(
                f"note  cannot write {display_path(path)}: {reason}. The training goes on. What it writes besides "
                "checkpoints is incomplete until there is room again",
                file=sys.stderr,
                flush=True,
            )


def save_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    save_bytes(path, utf8(text))


def utf8(text: str) -> bytes:
    """A text in UTF-8, whatever is in it.

    In an ASCII locale Python reads the other letters of names and arguments as lone surrogates, which stand for their
    bytes. Bytes that are no UTF-8 become question marks.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, as JSON may hold
        return text.encode("utf-8", "replace")


def save_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with write_whole(path) as scratch:
        scratch.write_bytes(content)


def display_path(path: str | os.PathLike[str]) -> str:
    """A path as a person would type it: relative when it lies below the current folder, with slashes on Windows too."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # on another drive of Windows
        relative = ".."
    return (os.fspath(path) if relative.startswith("..") else relative).replace(os.sep, "/")


@contextmanager
def write_whole_folder(path: Path) -> Iterator[Path]:
    """Give a scratch folder to fill, and put it in the place of ``path`` once it is filled.

    The scratch folder lies beside ``path``. Its name begins with a dot and the name of ``path``, so that what a process
    that was killed has left there can be found.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
