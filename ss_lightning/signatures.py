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
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from ss_lightning.renamed import renamed_key

C = TypeVar("C", bound=type)

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# The block of a docstring that explains arguments, up to the next line that is indented less.
_ARGUMENTS = re.compile(r"^( *)Args:\n((?:\1 +\S.*\n|\n(?=\1 +\S))*)", re.MULTILINE)


def passes_on_to(source: type, without: Collection[str] = ()) -> Callable[[C], C]:
    """Show the arguments of ``source`` in the place of the ``**`` argument of a class's ``__init__``.

    Args:
        source: the class whose ``__init__`` gets what is passed on. Arguments that the decorated class names itself
            are not repeated.
        without: arguments of ``source`` that the decorated class does not take.

    Returns:
        A class decorator. It changes the signature, the docstring, and what a wrong argument is answered with: a
        ``TypeError`` that names the class that was called.
    """

    def decorate(cls: C) -> C:
        own = cls.__init__  # type: ignore[misc]
        signature = _joined(own, source.__init__, without)  # type: ignore[misc]

        @functools.wraps(own)
        def __init__(self: Any, *args: Any, **named: Any) -> None:
            try:
                signature.bind(self, *args, **named)
            except TypeError as error:
                answers = [answer for name in named if (answer := renamed_key(name)) is not None]
                raise TypeError(f"{cls.__name__}: {' '.join([f'{error}.', *answers])}") from None
            own(self, *args, **named)

        __init__.__signature__ = signature  # type: ignore[attr-defined]
        __init__.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        cls.__init__ = __init__  # type: ignore[misc]
        hidden = {*inspect.signature(own).parameters, *without}
        cls.__doc__ = _explained(cls.__doc__ or "", source, hidden)
        return cls

    return decorate


def _joined(own: Callable[..., None], source: Callable[..., None], without: Collection[str]) -> inspect.Signature:
    """The signature of ``own`` with the named arguments of ``source`` where its ``**`` argument stood."""
    parameters = _evaluated(own)
    hidden = {*without, *(p.name for p in parameters)}
    passed_on = [p for p in _evaluated(source)[1:] if p.kind in _NAMED and p.name not in hidden]
    return inspect.Signature(
        [
            *(p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD),
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in passed_on),
        ]
    )


def _evaluated(function: Callable[..., None]) -> list[inspect.Parameter]:
    """Parameters whose annotations are types, not text that only their own module understands."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(inspect.unwrap(function)) | {
        p.name: p.annotation for p in signature.parameters.values() if not isinstance(p.annotation, str)
    }
    return [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]


def _explained(docstring: str, source: type, own: set[str]) -> str:
    """A docstring whose arguments are followed by those of ``source``."""
    theirs = _ARGUMENTS.search(f"{inspect.getdoc(source) or ''}\n")
    text = inspect.cleandoc(docstring) + "\n"
    if theirs is None:
        return text
    # One entry a name: the line that names it, and those below it that are indented more.
    entries = re.split(r"(?m)^(?=    \w)", theirs[2])
    added = "".join(entry for entry in entries if (name := re.match(r"    (\w+)", entry)) and name[1] not in own)
    ours = _ARGUMENTS.search(text)
    if ours is None:
        return f"{text}\nArgs:\n{added}"
    return text[: ours.end()].rstrip("\n") + "\n" + added.rstrip("\n") + "\n" + text[ours.end() :]
