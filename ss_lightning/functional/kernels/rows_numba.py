"""The innermost loop of the CPU kernels: a sum of rows of a table that stays in registers until it is complete.

numba's own loops are over the columns, one row or a few at a time, and write the sum to memory in between. Here LLVM
is told the other order, which its vectoriser does not find: a strip of columns at a time, all rows, one store.
Measured on the membrane of 300 neurons with 16 events a step: a sixth less time, whatever the width of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError

from ss_lightning.functional.kernels.common import jit
from ss_lightning.functional.kernels.llvm import VECTOR, Lowering, intrinsic

_STRIP = 2 * VECTOR


def _strip_adder(width: int) -> Callable[..., None]:
    """``total[column : column + width] += sum of table[index[k], column : column + width]``, ``start <= k < stop``."""

    @intrinsic
    def add_strip(typing: Any, total: Any, column: Any, table: Any, index: Any, start: Any, stop: Any) -> Any:
        if not (total.layout == table.layout == index.layout == "C" and total.dtype == table.dtype):
            raise TypingError("total, table and index must be contiguous, total and table of one dtype")
        if index.dtype != types.uint32 or any(value != types.int64 for value in (column, start, stop)):
            raise TypingError("index must be uint32, and column, start and stop int64")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            code = Lowering(context, builder, signature, arguments, width // VECTOR)
            column, start, stop = map(code.number, (1, 4, 5))
            stride = builder.extract_value(code.array(2).shape, 1)
            units = code.array(3).data
            total = {"total": code.load(0, column)}
            with code.loop(builder.sub(stop, start), total) as (k, now):
                unit = builder.load(builder.gep(units, [builder.add(start, k)]))
                now["total"] += code.load(2, code.row(column, builder.zext(unit, stride.type), stride))
            code.store(total["total"], 0, column)
            return context.get_dummy_value()

        return types.void(total, column, table, index, start, stop), generate

    return add_strip


_add_wide = _strip_adder(_STRIP)
_add_narrow = _strip_adder(VECTOR)


@jit
def add_rows(total, table, index, start, stop):
    """``total += sum of table[index[k]]`` for ``start <= k < stop``, added one after the other.

    Args:
        total: ``[M]``, contiguous.
        table: ``[R, M']`` with ``M' >= M``, of the dtype of ``total``, contiguous; must not overlap it.
        index: uint32, rows of the table; nothing checks that they exist.
    """
    width = np.int64(total.shape[0])
    first, last = np.int64(start), np.int64(stop)
    column = np.int64(0)
    while column + _STRIP <= width:
        _add_wide(total, column, table, index, first, last)
        column += _STRIP
    while column + VECTOR <= width:
        _add_narrow(total, column, table, index, first, last)
        column += VECTOR
    if column < width:
        for k in range(first, last):
            row = table[index[k]]
            for j in range(column, width):
                total[j] += row[j]
