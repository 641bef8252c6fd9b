"""LLVM vector code for the innermost loops of the CPU kernels, where numba's own loops go through the cache too often.

The body of a numba intrinsic is written with :class:`Strip` like arithmetic on whole arrays; strips stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _numba_intrinsic

from ss_lightning.functional.kernels.common import LINE

VECTOR = 16  # columns of one LLVM vector; cut into what the processor has

# numba calls such a function with a typing context in front, its users without: no type can say both.
intrinsic: Callable[[Any], Callable[..., None]] = _numba_intrinsic


class Strip:
    """The LLVM values of one number, or one truth value, for every column of a strip."""

    def __init__(self, builder: Any, parts: Sequence[Any]) -> None:
        self.builder, self.parts = builder, parts

    def zip_with(self, operation: Callable[..., Any], *others: Strip) -> Strip:
        """What the operation gives for every vector of this strip and of the others."""
        together = zip(self.parts, *(other.parts for other in others), strict=True)
        return Strip(self.builder, [operation(*parts) for parts in together])

    # Products and sums may be fused into one rounding, but for those of _integrate.
    def __add__(self, other: Strip) -> Strip:
        return self.zip_with(lambda a, b: self.builder.fadd(a, b, flags=("contract",)), other)

    def __sub__(self, other: Strip) -> Strip:
        return self.zip_with(lambda a, b: self.builder.fsub(a, b, flags=("contract",)), other)

    def __mul__(self, other: Strip) -> Strip:
        return self.zip_with(lambda a, b: self.builder.fmul(a, b, flags=("contract",)), other)

    def __truediv__(self, other: Strip) -> Strip:
        return self.zip_with(self.builder.fdiv, other)

    def __abs__(self) -> Strip:
        return self.zip_with(self.builder.fneg).where(self.compare("<", self.zero()), self)

    def __and__(self, other: Strip) -> Strip:
        return self.zip_with(self.builder.and_, other)

    def compare(self, sign: str, other: Strip) -> Strip:
        """Truth values of ``self sign other``; false for NaN."""
        return self.zip_with(lambda a, b: self.builder.fcmp_ordered(sign, a, b), other)

    def where(self, condition: Strip, other: Strip) -> Strip:
        """This where the condition holds, else the other."""
        return condition.zip_with(self.builder.select, self, other)

    def zero(self) -> Strip:
        """Zeros of the same dtype."""
        return self.zip_with(lambda part: ir.Constant(part.type, None))


class Lowering:
    """What the body of an intrinsic needs: its arguments by number, as scalars or strips of arrays; and loops.

    Args:
        context: with ``builder``, ``signature`` and ``arguments`` what numba gives to the body.
        parts: vectors of a strip.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Sequence[Any], parts: int) -> None:
        self.context, self.builder, self.parts = context, builder, parts
        self.types, self.arguments = signature.args, arguments
        self.scalar = context.get_value_type(signature.args[0].dtype)
        self.vector = ir.VectorType(self.scalar, VECTOR)

    def array(self, argument: int) -> Any:
        """The structure of an array: its data, shape and so on."""
        return self.context.make_array(self.types[argument])(self.context, self.builder, self.arguments[argument])

    def _pointers(self, array: int, offset: Any) -> list[Any]:
        data = self.array(array).data
        first = self.builder.bitcast(self.builder.gep(data, [offset]), self.vector.as_pointer())
        return [self.builder.gep(first, [self.whole(i)]) for i in range(self.parts)]

    @property
    def _align(self) -> int:
        return self.context.get_abi_sizeof(self.scalar)

    def load(self, array: int, offset: Any) -> Strip:
        """The strip of a flat array that begins at ``offset``."""
        parts = [self.builder.load(pointer) for pointer in self._pointers(array, offset)]
        for part in parts:
            part.align = self._align
        return Strip(self.builder, parts)

    def store(self, strip: Strip, array: int, offset: Any, *, stream: bool = False) -> None:
        """Write a strip; a stream of whole, aligned cache lines goes to memory without being read first."""
        for part, pointer in zip(strip.parts, self._pointers(array, offset), strict=True):
            instruction = self.builder.store(part, pointer)
            instruction.align = LINE if stream else self._align
            if stream:
                one = ir.Constant(ir.IntType(32), 1)
                instruction.set_metadata("nontemporal", self.builder.module.add_metadata([one]))

    def number(self, argument: int, kind: Any = types.int64) -> Any:
        """A scalar argument."""
        return self.context.cast(self.builder, self.arguments[argument], self.types[argument], kind)

    def whole(self, value: int) -> Any:
        """An int64 constant."""
        return ir.Constant(ir.IntType(64), value)

    def at(self, offset: Any, plus: int) -> Any:
        """``offset + plus``."""
        return self.builder.add(offset, self.whole(plus))

    def row(self, offset: Any, k: Any, stride: Any) -> Any:
        """``offset + k * stride``."""
        return self.builder.add(offset, self.builder.mul(k, stride))

    def splat(self, value: Any) -> Strip:
        """A strip that holds one number throughout."""
        if not isinstance(value, ir.Value):
            value = ir.Constant(self.scalar, value)
        nothing = ir.Constant(self.vector, ir.Undefined)
        lane = self.builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
        part = self.builder.shuffle_vector(lane, nothing, ir.Constant(ir.VectorType(ir.IntType(32), VECTOR), None))
        return Strip(self.builder, [part] * self.parts)

    @contextmanager
    def loop(self, count: Any, carried: dict[str, Strip], *, down: bool = False) -> Iterator[tuple[Any, dict]]:
        """``for k in range(count)``, or down from ``count - 1``; changes of ``carried`` last to the next turn.

        LLVM turns these variables into registers.
        """
        rooms = {
            name: [cgutils.alloca_once_value(self.builder, part) for part in strip.parts]
            for name, strip in carried.items()
        }

        def fetch() -> dict[str, Strip]:
            return {
                name: Strip(self.builder, [self.builder.load(slot) for slot in slots]) for name, slots in rooms.items()
            }

        with cgutils.for_range(self.builder, count) as turn:
            k = turn.index
            if down:
                k = self.builder.sub(self.at(count, -1), k)
            values = fetch()
            yield k, values
            for name, slots in rooms.items():
                for part, slot in zip(values[name].parts, slots, strict=True):
                    self.builder.store(part, slot)
        carried.update(fetch())
