"""A sequence as columns, which is how the kernels of a dense current read it."""

from __future__ import annotations

from torch import Tensor


class Columns:
    """A sequence ``[T, B, ...]`` as columns ``[T, M]``: the neurons in the order in which memory holds them.

    So images whose channels lie next to each other (``torch.channels_last``) are neither copied nor reordered.

    Args:
        like: the sequence whose order in memory counts.
    """

    def __init__(self, like: Tensor) -> None:
        self.axes = [0, *sorted(range(1, like.dim()), key=like.stride, reverse=True)]
        self.shape = [like.shape[axis] for axis in self.axes]
        self.inverse = [self.axes.index(axis) for axis in range(like.dim())]

    def columns(self, sequence: Tensor) -> Tensor:
        """``[T, M]`` of ``[T, B, ...]``; a copy only of what lies in another order."""
        return sequence.permute(self.axes).contiguous().flatten(1)

    def row(self, value: Tensor) -> Tensor:
        """``[M]`` of a value that broadcasts against ``[B, ...]``."""
        return self.columns(value.expand([self.shape[axis] for axis in self.inverse[1:]])[None])[0]

    def sequence(self, columns: Tensor) -> Tensor:
        """``[T, B, ...]`` of ``[T, M]``."""
        return columns.view(len(columns), *self.shape[1:]).permute(self.inverse)
