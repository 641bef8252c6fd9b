"""Text tables with an event a line, as people write them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ss_lightning.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


class Table(NamedTuple):
    """A table as it was read.

    Attributes:
        path: its file.
        columns: of whatever type they are.
        first_line: the line of the file that the first row stands in, from 1.
    """

    path: Path
    columns: pd.DataFrame
    first_line: int

    def numbers(self, column: str, meaning: str) -> np.ndarray:
        """A column as numbers.

        Args:
            column: its name.
            meaning: what messages call it.

        Raises:
            DataError: an entry is none; the message names its line.
        """
        import pandas as pd

        values = self.columns[column]
        numbers = pd.to_numeric(values, errors="coerce")
        if (wrong := numbers.isna()).any():
            row = int(wrong.argmax())
            raise DataError(
                f"{self.path}, line {row + self.first_line}: {meaning} is {str(values.iloc[row])!r}, not a number."
            )
        return numbers.to_numpy()


def read_table(path: Path, names: Sequence[str]) -> Table:
    """Read a table with or without names in its first line, which may begin with ``#``; comments may stand above it.

    Columns are parted by commas, semicolons, tabs or spaces.

    Args:
        path: the file.
        names: what columns without names mean; there must be as many.

    Raises:
        DataError: there are others.
    """
    import pandas as pd  # here, for most who import this read no table

    lines, head = _head(path)
    words = _words(head)
    if not words:
        return Table(path, pd.DataFrame(), 1)
    plain = _are_numbers(words)
    if plain and len(words) != len(names):
        raise DataError(
            f"{path}: {len(words)} columns without names; expected {' and '.join(names)}, or names in the first line."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(
                path,
                sep=_separator(head) or r"\s+",
                header=None,
                index_col=False,
                keep_default_na=False,
                skiprows=lines,
                names=list(names) if plain else words,
                encoding="utf-8-sig",
            )
        except pd.errors.ParserWarning as error:
            raise DataError(f"{path}: its lines have more than {len(words)} entries; expected one a column.") from error
    return Table(path, table, lines + 1)


def _head(path: Path) -> tuple[int, str]:
    """How many lines stand before the rows, and the line with the names of the columns, else the first row.

    Comments and empty lines may stand above it. The last comment has the names if a row of as many numbers follows.
    """
    names = ""
    number = -1
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file):
            text = line.strip().strip("#").strip()
            if not text:
                continue
            if line.lstrip().startswith("#"):
                names = text
                continue
            words = _words(text)
            if not _are_numbers(words):
                return number + 1, text
            return number, names if len(_words(names)) == len(words) else text
    return number + 1, names


def _separator(line: str) -> str | None:
    return next((sign for sign in ",;\t" if sign in line), None)


def _words(line: str) -> list[str]:
    return [word.strip().strip('"') for word in line.split(_separator(line))]


def _are_numbers(words: Sequence[str]) -> bool:
    return all(map(_is_number, words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
