"""Text tables with an event a line, as people write them."""

from __future__ import annotations

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
    """Read a table with or without names in its first line, which may begin with ``#``.

    Columns are parted by commas, semicolons, tabs or spaces.

    Args:
        path: the file.
        names: what columns without names mean; there must be as many.

    Raises:
        DataError: there are others.
    """
    import pandas as pd  # here, for most who import this read no table

    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().strip().strip("#").strip()
    separator = next((sign for sign in ",;\t" if sign in first), None)
    head = [word.strip().strip('"') for word in first.split(separator)]
    if not head:
        return Table(path, pd.DataFrame(), 1)
    plain = all(map(_is_number, head))
    if plain and len(head) != len(names):
        raise DataError(
            f"{path}: {len(head)} columns without names; expected {' and '.join(names)}, or names in the first line."
        )
    table = pd.read_csv(
        path,
        sep=separator or r"\s+",
        header=None,
        skiprows=0 if plain else 1,
        names=list(names) if plain else head,
        encoding="utf-8-sig",
    )
    return Table(path, table, 1 if plain else 2)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
