"""What a person reads when a command line or a config cannot be parsed: the key, the fault, the nearest right key."""

from __future__ import annotations

import argparse
import difflib
import re
from argparse import ArgumentError
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ss_lightning.errors import DataError, UsageError

_KEY = re.compile(r'Parser key "([^"]+)"')


_CLASS = re.compile(r"Problem with given class_path '([^']+)'")


_UNKNOWN = re.compile(r"(?:Option|does not accept option) '([^']+)'|unrecognized arguments: --([^\s=]+)")


_TYPE = re.compile(r"<class '(?:\w+\.)*(\w+)'>")


_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")


def explain_parser_error(error: BaseException, known_keys: Iterable[str]) -> str:
    """One clear message from the nested ones of the parser.

    Args:
        error: what the parser raised; the causes behind it say more and more exactly what is wrong.
        known_keys: keys that the subcommand accepts, such as ``trainer.max_epochs``.
    """
    messages = [str(e) for e in _chain(error)]
    keys = list(dict.fromkeys(key for message in messages for key in _KEY.findall(message)))
    classes = list(dict.fromkeys(name for message in messages for name in _CLASS.findall(message)))
    core = _TYPE.sub(r"\1", " ".join(messages[-1].split())).replace('"<unicode string>"', "the config")
    if unknown := _UNKNOWN.search(messages[-1]):
        name = unknown[1] or unknown[2]
        if classes:
            known_keys = class_arguments(classes[-1])
        where = f" of {classes[-1]}" if classes else ""
        return f"unknown key {'.'.join([*keys, name])}{where}." + suggestion(name, known_keys)
    if missing := _NO_CLASS.search(messages[-1]):
        module = __import__(missing[1], fromlist=["__all__"])
        return f"there is no class {missing[2]} in {missing[1]}." + suggestion(missing[2], dir(module))
    if "arguments are required" in core and ".model" in core:
        return f"{core}. Name a config: --config configs/yinyang.yaml"
    if keys and not core.startswith("Parser key"):
        return f"{'.'.join(keys)}: {core}"
    return core


def innermost_error(error: BaseException) -> BaseException:
    """The first of a chain of errors that was written for a person, or else its root."""
    chain = list(_chain(error))
    return next((e for e in chain if type(e) in (DataError, UsageError)), chain[-1])


def class_arguments(class_path: str) -> list[str]:
    """Names of the arguments that a class takes, those it passes on to others included."""
    module, _, name = class_path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    return parser.add_class_arguments(getattr(__import__(module, fromlist=[name]), name), fail_untyped=False)


def _chain(error: BaseException) -> Iterable[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of the known names, to be put behind a message."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else " --help lists what there is."


def parse_arguments(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse the arguments of a subcommand.

    Raises:
        UsageError: they do not fit; the message names the argument and the nearest right one.
    """
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UsageError(explain_parser_error(error, [action.dest for action in parser._actions])) from error


class WordsParser(argparse.ArgumentParser):
    """A parser for a command that passes words it does not know on to every training.

    Args:
        command: the word of the command.
        options: as for :class:`argparse.ArgumentParser`.
    """

    def __init__(self, command: str, **options: Any) -> None:
        self.command = command
        super().__init__(prog=f"python -m ss_lightning {command}", allow_abbrev=False, **options)

    def error(self, message: str) -> Any:
        """Leave the message to the command line."""
        raise UsageError(f"{self.command}: {message}")
