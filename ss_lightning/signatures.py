"""Signatures in the open: a class that passes arguments on to another shows all of them as its own.

Python shows ``**options`` where the options are only passed on, and so do ``help``, an editor and the command line.
Written out, the same twenty arguments would stand in every network, classifier and data module. So they stand once, and
the classes that pass them on are given a signature and a docstring that name them.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from ss_lightning.renamed import renamed_key

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# The block of a docstring that explains arguments, up to the next line that is indented less.
_ARGUMENTS = re.compile(r"^( *)Args:\n((?:\1 +\S.*\n|\n(?=\1 +\S))*)", re.MULTILINE)
# The other blocks, which follow it.
_SECTION = re.compile(r"^(?:Attributes|Returns|Raises|Source|Example):", re.MULTILINE)


def passes_on_to(source: type) -> Callable[[C], C]:
    """Show the arguments of ``source`` in the place of the ``**`` argument of a class's ``__init__``.

    Args:
        source: the class whose ``__init__`` gets what is passed on. Arguments that the decorated class names itself
            are not repeated.

    Returns:
        A class decorator. It changes the signature, the docstring, and what a wrong argument is answered with: a
        ``TypeError`` that names the class that was called. An ``__init__`` that the class inherits, decorated there
        already, is decorated anew.

    Example:
        >>> class Engine:
        ...     def __init__(self, *, power: float = 1.0) -> None:
        ...         self.power = power
        >>> @passes_on_to(Engine)
        ... class Car:
        ...     def __init__(self, *, seats: int = 4, **engine) -> None:
        ...         self.engine = Engine(**engine)
        >>> inspect.signature(Car)
        <Signature (*, seats: int = 4, power: float = 1.0) -> None>
        >>> Car(wings=2)
        Traceback (most recent call last):
        TypeError: Car: got an unexpected keyword argument 'wings'.
    """

    def decorate(cls: C) -> C:
        own = inspect.unwrap(cls.__init__)  # type: ignore[misc]
        signature = _joined(_evaluated(own), source, None)

        @functools.wraps(own)
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            _check_arguments(type(self).__name__, signature, (self, *args), named)
            own(self, *args, **named)

        __init__.__signature__ = signature  # type: ignore[attr-defined]
        __init__.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        cls.__init__ = __init__  # type: ignore[misc]
        cls.__doc__ = _explained(cls.__doc__ or "", list(signature.parameters), [*cls.__mro__[1:], source])
        return cls

    return decorate


def passes_options_to(source: type) -> Callable[[F], F]:
    """Show the arguments of ``source`` in the place of the ``**`` argument of a function.

    Args:
        source: the class whose ``__init__`` gets what is passed on. Arguments that the function names itself are not
            repeated.

    Returns:
        A decorator, which does for a function what :func:`passes_on_to` does for a class. A class method is decorated
        before it becomes one: ``@classmethod`` stands above.
    """

    def decorate(function: F) -> F:
        # Annotations stay text: those of a class method may name its own class, which does not exist yet.
        own = inspect.signature(function)
        signature = _joined(list(own.parameters.values()), source, own.return_annotation)

        @functools.wraps(function)
        def wrapper(*args: Any, **named: Any) -> Any:
            _check_arguments(function.__name__, signature, args, named)
            return function(*args, **named)

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__doc__ = _explained(function.__doc__ or "", list(signature.parameters), [source])
        return cast(F, wrapper)

    return decorate


def _check_arguments(called: str, signature: inspect.Signature, args: tuple, named: dict[str, Any]) -> None:
    """Refuse arguments that do not fit a signature, with the new names of those that have one."""
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        answers = [answer for name in named if (answer := renamed_key(name)) is not None]
        raise TypeError(f"{called}: {' '.join([f'{error}.', *answers])}") from None


def _joined(parameters: list[inspect.Parameter], source: type, returned: Any) -> inspect.Signature:
    """A signature of these parameters with the named arguments of ``source`` where the ``**`` argument stood.

    A ``**`` argument of ``source`` stays: what it takes is not known here.
    """
    theirs = _evaluated(source.__init__)[1:]  # type: ignore[misc]
    passed_on = [p for p in theirs if p.kind in _NAMED and p.name not in {q.name for q in parameters}]
    return inspect.Signature(
        [
            *(p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD),
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in passed_on),
            *(p for p in theirs if p.kind is inspect.Parameter.VAR_KEYWORD),
        ],
        return_annotation=returned,
    )


def _evaluated(function: Callable[..., None]) -> list[inspect.Parameter]:
    """Parameters whose annotations are types, not text that only their own module understands."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(inspect.unwrap(function)) | {
        p.name: p.annotation for p in signature.parameters.values() if not isinstance(p.annotation, str)
    }
    return [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]


def _explained(docstring: str, names: Sequence[str], sources: Sequence[type]) -> str:
    """A docstring that explains all arguments of these names: what it leaves out, as the sources explain it."""
    text = inspect.cleandoc(docstring) + "\n"
    explained = _entries(text)
    known: dict[str, str] = {}
    for source in reversed(sources):
        known |= _entries(f"{inspect.cleandoc(source.__doc__ or '')}\n")
    added = "".join(known[name] for name in names if name in known and name not in explained)
    if not added:
        return text
    if (ours := _ARGUMENTS.search(text)) is not None:
        return text[: ours.end()].rstrip("\n") + "\n" + added + "\n" + text[ours.end() :].lstrip("\n")
    end = section.start() if (section := _SECTION.search(text)) is not None else len(text)
    return text[:end].rstrip("\n") + f"\n\nArgs:\n{added}\n" + text[end:]


def _entries(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument: the line that names it, and those below it that are indented more."""
    block = _ARGUMENTS.search(docstring)
    entries = re.split(r"(?m)^(?=    \w)", block[2]) if block is not None else []
    return {name[1]: entry.rstrip("\n") + "\n" for entry in entries if (name := re.match(r"    (\w+)", entry))}
