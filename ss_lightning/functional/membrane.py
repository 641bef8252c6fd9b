"""The membrane of neurons that fire at most once: a tensor that also remembers which of them have fired.

A step of such a neuron needs two things from the step before: the membrane, and whether the neuron has fired. snnTorch
hands one tensor from step to step, ``mem``, and programs index it, mask it, put single rows to rest, cut it from the
graph and compute it again (activation checkpointing). So the memory is part of that tensor. :class:`Membrane` holds two
plain tensors of one shape, the membrane and the mark ``fired``, and everything that moves its elements moves both.

=============================================== ===============================================================
what is done with a membrane                    what comes out
=============================================== ===============================================================
index, view, permute, cat, stack, clone, to,    a membrane: both parts go where the elements go
detach, where, and the like
a plain value written into it (``mem[0] = 0``)  those elements have not fired
product with a mask                             elements whose factor is exactly zero have not fired
other arithmetic with plain tensors, clamp, ... a membrane with other values and the same memory
arithmetic of two membranes whose memories      a :class:`MixedMembrane`: it can be read, and a neuron refuses it,
differ                                          since it cannot know which of its elements have fired
everything else (sum, loss, matmul, numpy, ...) sees the membrane as a plain tensor and returns plain tensors
=============================================== ===============================================================

A plain tensor handed to a neuron is a membrane that has not fired: so zeros, a constant or a learned start begin a
sample.

Gradients: the estimators send a gradient back through time beside that of the membrane (see
:mod:`ss_lightning.functional.first_spike`). The gradient of a :class:`Membrane` is a :class:`MembraneGradient`, which
holds both. It travels over the one edge that autograd knows, so that whatever cuts, moves or computes again the
membrane does the same to the gradient of its memory. A plain gradient means that nothing reaches the memory.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ss_lightning.functional.first_spike import ESTIMATORS

# How many numbers per neuron the gradient of the memory has. `standard` is the paper's sequential model; `sequence` is
# the membrane of a whole sequence, whose spikes have been back-propagated already.
MEMORY_GRADIENTS = {"ramp": 2, "survival": 1, "flat": 1, "masked": 0, "standard": 0, "sequence": 0}
assert set(ESTIMATORS) <= set(MEMORY_GRADIENTS)


class _Parts(Tensor):
    """A tensor made of several plain ones: the first is its value, the others go where its elements go."""

    parts: tuple[Tensor, ...]

    @classmethod
    def _wrap(cls, value: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=value.device,
        )

    def _with(self, parts: Sequence[Tensor]) -> Tensor:
        """Another tensor of this kind from new parts."""
        raise NotImplementedError


class Membrane(_Parts):
    """The membrane ``[B, N]`` of neurons that fire at most once, and which of them have fired.

    Args:
        value: the membrane.
        fired: bool, of the same shape.
        kind: the estimator of the neuron, ``standard`` or ``sequence``: what its memory's gradient consists of.
    """

    kind: str

    def __new__(cls, value: Tensor, fired: Tensor, kind: str) -> Membrane:
        """See the class."""
        self = cls._wrap(value)
        self.parts, self.kind = (value, fired), kind
        return self

    def __init__(self, value: Tensor, fired: Tensor, kind: str) -> None:
        """See the class."""

    @property
    def fired(self) -> Tensor:
        """Which neurons have fired, bool, shaped like the membrane; a copy."""
        return self.parts[1].clone()

    def plain(self) -> Tensor:
        """The membrane as a plain tensor, with its gradient; given to a neuron, it has not fired."""
        return split(self)[0]

    def _with(self, parts: Sequence[Tensor]) -> Tensor:
        return Membrane(parts[0], parts[1], self.kind)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """The values, and how many neurons have fired."""
        value, fired = self.parts
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Membrane({value!r}, fired={int(fired.sum())} of {fired.numel()}{grad})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A copy of both parts; as any tensor, only one that is no part of a graph can be copied."""
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError("a membrane in a graph cannot be deep-copied: detach it first, or use clone")
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle both parts."""
        if not self.is_leaf:
            raise RuntimeError("a membrane in a graph cannot be pickled: detach it first")
        return _rebuild, (*self.parts, self.kind, self.requires_grad)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What a caller in Python does with a membrane: move it, compute with it, or read it (see the module)."""
        if torch.compiler.is_compiling():
            return _call_outside_of_graphs(func, args, kwargs or {})
        return _call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What remains below autograd: operations that move elements act on both parts."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        in_place = name.endswith("_")
        into_plain = in_place and not isinstance(args[0], Membrane)
        if name not in _MOVES or into_plain:
            if into_plain:
                warnings.warn(
                    "A membrane was written into a plain tensor, which does not remember which neurons have fired. "
                    "That is fine for reading it; a neuron that continues from the plain tensor may fire again. To "
                    "continue, keep the membranes in a list or join them with torch.stack.",
                    stacklevel=2,
                )
            read = lambda tree: _each(tree, lambda leaf: leaf.parts[0] if isinstance(leaf, Membrane) else leaf)  # noqa: E731
            return func(*read(args), **read(kwargs))
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        if name == "_to_copy":
            named.pop("dtype", None)
        of_marks = {k: _mark(v) if k in _VALUES else _part(v, 1) for k, v in named.items()}
        # The parts keep count of what is written into them, through all their views, as any tensor does.
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):
            values = func(*_part(args, 0), **_part(kwargs, 0))
            marks = func(**of_marks)
        if in_place:
            return args[0]
        kind = next(leaf.kind for leaf in _leaves((args, kwargs)) if isinstance(leaf, Membrane))
        if isinstance(values, Tensor):
            return Membrane(values, marks, kind)
        return type(values)(Membrane(v, m, kind) for v, m in zip(values, marks, strict=True))


class MixedMembrane(Tensor):
    """What comes out when membranes with different memories are added or multiplied; neurons refuse it."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Stays mixed while it is moved or computed with; plain when it is read."""
        what, _ = _classify(func)
        result = super().__torch_function__(func, types, args, kwargs or {})
        if what == "read" and isinstance(result, MixedMembrane):
            return result.as_subclass(Tensor)
        return result


class MembraneGradient(_Parts):
    """The gradient of a :class:`Membrane`: that of its value, then what the estimator sends back through its memory.

    Args:
        parts: gradients of the shape of the membrane; as many as the estimator of the neuron has.
    """

    def __new__(cls, *parts: Tensor) -> MembraneGradient:
        """See the class."""
        self = cls._wrap(parts[0])
        self.parts = parts
        return self

    def __init__(self, *parts: Tensor) -> None:
        """See the class."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """All parts."""
        return f"MembraneGradient{self.parts!r}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle all parts."""
        return MembraneGradient, self.parts

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Backward formulas are linear in the gradient, so each part goes through on its own.

        A plain gradient that is added or joined has nothing for the memory.
        """
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("copy_", "add_", "index_put_") and not isinstance(args[0], MembraneGradient):
            return func(*_part(args, 0), **_part(kwargs, 0))
        number = max(len(leaf.parts) for leaf in _leaves((args, kwargs)) if isinstance(leaf, MembraneGradient))
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        results = []
        for index in range(number):
            added = index > 0 and not name.startswith(("mul", "div"))
            mine = {k: _zeros(v) if added and k in _VALUES else v for k, v in named.items()}
            results.append(func(**{k: _part(v, index) for k, v in mine.items()}))
        if name.endswith("_"):
            return args[0]
        if isinstance(results[0], Tensor):
            return MembraneGradient(*results)
        if isinstance(results[0], (list, tuple)):
            return type(results[0])(MembraneGradient(*parts) for parts in zip(*results, strict=True))
        return results[0]


# Parts and membrane, differentiable ------------------------------------------------------------------------------


def split(mem: Membrane) -> tuple[Tensor, ...]:
    """The value of a membrane as a plain tensor, and handles by which the gradient of its memory reaches it.

    The handles hold zeros; what they are for is their gradient.
    """
    return _Split.apply(mem)


def join(value: Tensor, fired: Tensor, kind: str, handles: Sequence[Tensor] = ()) -> Membrane:
    """A membrane from its parts. The gradient of its memory goes to ``handles``, see :func:`split`."""
    return _Join.apply(value, fired, kind, *handles)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mem: Membrane) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        value = mem.parts[0]
        ctx.like = (value.shape, value.dtype, value.device)
        number = MEMORY_GRADIENTS[mem.kind] if ctx.needs_input_grad[0] else 0
        return value.detach(), *(value.new_zeros(()).expand(value.shape) for _ in range(number))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        return gradient_of(grads, ctx.like)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("forward-mode derivatives of neurons that fire once are not implemented")


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, fired: Tensor, kind: str, *handles: Tensor) -> Membrane:
        ctx.set_materialize_grads(False)
        ctx.number = len(handles)
        return Membrane(value.detach(), fired, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        value, *memory = parts_of(grad, ctx.number)
        return value, None, None, *memory[: ctx.number]


def gradient_of(grads: Sequence[Tensor | None], like: tuple[Any, ...]) -> Tensor | None:
    """The gradient of a membrane from those of its parts; plain where nothing reaches the memory."""
    value, *memory = grads
    if all(part is None for part in memory):
        return value
    shape, dtype, device = like
    zeros = functools.partial(torch.zeros, shape, dtype=dtype, device=device)
    return MembraneGradient(*(zeros() if part is None else part for part in grads))


def parts_of(grad: Tensor | None, number: int) -> tuple[Tensor | None, ...]:
    """The gradient of a membrane's value, then ``number`` gradients of its memory; None for zero."""
    if isinstance(grad, MembraneGradient):
        return (*grad.parts, *[None] * (number + 1 - len(grad.parts)))
    return (grad, *[None] * number)


def _rebuild(value: Tensor, fired: Tensor, kind: str, requires_grad: bool) -> Tensor:
    return Membrane(value, fired, kind).requires_grad_(requires_grad)


def _call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    what, name = _classify(func)
    if what == "move":
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    if what == "write":  # in place: compute, then copy both parts back
        if not isinstance(args[0], Membrane):
            return func(*_plain(args), **_plain(kwargs))
        return args[0].copy_(_out_of_place(name)(*args, **kwargs))
    result = func(*_plain(args), **_plain(kwargs))
    return _rejoin(result, name, args, kwargs) if what == "compute" else result


# A compiler that looked into the functions above would lose the gradient of the memory.
_call_outside_of_graphs = torch.compiler.disable(_call)


# What callers in Python do with a membrane ------------------------------------------------------------------------

# Operations that move, join or overwrite elements; under these names in torch, as methods and in the dispatcher.
_MOVES = {
    *("alias", "as_strided", "as_strided_", "atleast_1d", "atleast_2d", "atleast_3d", "bfloat16", "broadcast_to"),
    *("cat", "chunk", "clone", "column_stack", "concat", "concatenate", "constant_pad_nd", "contiguous", "copy_"),
    *("cpu", "cuda", "data", "detach", "detach_", "diagonal", "double", "dsplit", "dstack", "expand", "expand_as"),
    *("fill_", "flatten", "flip", "fliplr", "flipud", "float", "gather", "half", "hsplit", "hstack", "index"),
    *("index_copy", "index_copy_", "index_fill", "index_fill_", "index_put", "index_put_", "_index_put_impl_"),
    *("index_select", "lift_fresh", "masked_fill", "masked_fill_", "masked_scatter", "masked_scatter_"),
    *("masked_select", "moveaxis", "movedim", "narrow", "narrow_copy", "pad", "permute", "pin_memory", "ravel"),
    *("repeat", "repeat_interleave", "reshape", "reshape_as", "_reshape_alias", "roll", "rot90", "select"),
    *("select_scatter", "scatter", "scatter_", "slice", "slice_scatter", "split", "split_with_sizes", "squeeze"),
    *("squeeze_", "stack", "swapaxes", "swapdims", "t", "take", "take_along_dim", "tensor_split", "tile", "to"),
    *("_to_copy", "transpose", "transpose_", "type", "type_as", "unbind", "unflatten", "unfold", "_unsafe_view"),
    *("unsafe_chunk", "unsafe_split", "unsqueeze", "unsqueeze_", "view", "view_as", "vsplit", "vstack", "where"),
    *("zero_", "getitem", "setitem", "iter", "mT", "T"),
}
# What a membrane is asked about itself.
_QUESTIONS = {
    *("backward", "deepcopy", "dim", "dtype", "element_size", "get_device", "hash", "is_complex", "is_contiguous"),
    *("is_floating_point", "is_inference", "is_pinned", "is_same_size", "len", "ndimension", "nelement", "numel"),
    *("reduce_ex", "register_hook", "register_post_accumulate_grad_hook", "repr", "requires_grad_", "retain_grad"),
    *("size", "storage_offset", "stride", "_is_view", "_make_subclass", "get", "set", "delete"),
}
# Elementwise, though torch does not say so of the name.
_ELEMENTWISE = {
    "dropout",
    "floor_divide",
    "hardtanh",
    "relu6",
    "rsub",
    "softplus",
    "subtract",
    "multiply",
    "divide",
    "true_divide",
}
# Arguments of the dispatcher's operations that hold values, not positions or conditions.
_VALUES = {"self", "other", "value", "values", "src", "source", "tensors"}


@functools.lru_cache(maxsize=1024)
def _classify(func: Callable[..., Any]) -> tuple[str, str]:
    """Whether a function moves elements, computes with them one by one, writes results into its first argument, or
    reads; and its name without underscores around it."""
    name = getattr(func, "__name__", "")
    special = name.startswith("__") and name.endswith("__")
    if special:
        name = name[2:-2]
    if name in _MOVES or name in _QUESTIONS:
        return "move", name
    if special and name in ("iadd", "isub", "imul", "itruediv", "ipow"):
        return "write", name[1:]
    if special and name in ("radd", "rmul", "rsub", "rtruediv", "rpow", "rdiv"):
        return "compute", name[1:]
    if name.endswith("_") and _is_elementwise(name[:-1]):
        return "write", name[:-1]
    return ("compute" if _is_elementwise(name) else "read"), name


def _is_elementwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return name in _ELEMENTWISE
    tags = (getattr(packet, overload).tags for overload in packet.overloads())
    return name in _ELEMENTWISE or any(torch.Tag.pointwise in tag for tag in tags)


def _out_of_place(name: str) -> Callable[..., Any]:
    return getattr(torch.Tensor, {"truediv": "true_divide"}.get(name, name))


def _rejoin(result: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of elementwise arithmetic as a membrane with the memory of the one that went in."""
    leaves = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    membranes = [leaf for leaf in leaves if isinstance(leaf, Membrane)]
    if not isinstance(result, Tensor) or not result.is_floating_point() or not membranes:
        return result
    membranes = [mem for mem in membranes if mem.shape == result.shape]
    if not membranes:
        return result
    mem = next((mem for mem in membranes if mem.requires_grad), membranes[0])
    fired = mem.parts[1]
    if any(other is not mem and not torch.equal(other.parts[1], fired) for other in membranes):
        return result.as_subclass(MixedMembrane)
    keep = None
    if name in ("mul", "multiply"):
        factors = [leaf for leaf in _leaves((args, kwargs)) if not isinstance(leaf, Membrane)]
        for factor in factors:
            keep = (torch.as_tensor(factor, device=fired.device) != 0).expand(fired.shape)
    fired = fired.clone() if keep is None else fired & keep
    _, *handles = split(mem)
    if keep is not None:
        handles = [handle * keep for handle in handles]
    return join(result, fired, mem.kind, handles)


# Trees of arguments -----------------------------------------------------------------------------------------------


def _each(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, (list, tuple)):
        changed = [_each(leaf, change) for leaf in tree]
        return type(tree)(changed) if type(tree) in (list, tuple) else tuple(changed)
    if isinstance(tree, dict):
        return {key: _each(leaf, change) for key, leaf in tree.items()}
    return change(tree)


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    _each(tree, found.append)
    return found


def _plain(tree: Any) -> Any:
    return _each(tree, lambda leaf: leaf.plain() if isinstance(leaf, Membrane) else leaf)


def _part(tree: Any, index: int) -> Any:
    """The tree with each wrapped tensor replaced by one of its parts; zeros where it has no such part."""

    def pick(leaf: Any) -> Any:
        if not isinstance(leaf, _Parts):
            return leaf
        return leaf.parts[index] if index < len(leaf.parts) else torch.zeros_like(leaf.parts[0])

    return _each(tree, pick)


def _mark(tree: Any) -> Any:
    """The tree for the marks: those of a membrane, and "has not fired" for plain values."""

    def pick(leaf: Any) -> Any:
        if isinstance(leaf, Membrane):
            return leaf.parts[1]
        if isinstance(leaf, Tensor):
            return torch.zeros_like(leaf, dtype=torch.bool)
        return False if isinstance(leaf, (bool, int, float)) else leaf

    return _each(tree, pick)


def _zeros(tree: Any) -> Any:
    return _each(tree, lambda leaf: torch.zeros_like(leaf) if type(leaf) is Tensor else leaf)
