"""What a person reads when a command line or a config cannot be parsed: the key, the fault, the nearest right key.

Which setting is at fault is found by asking each argument itself: whether it exists, and whether its type takes the
value. What the parser says in its own words is passed on, never searched.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from ss_lightning.errors import DataError, UsageError
from ss_lightning.renamed import renamed_key, renamed_value

# How Python shows a class: <class 'torch.optim.Adam'>.
_SHOWN_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")

# Of a message that shows a value, which may be as long as a file.
_LONGEST = 1000

Setting = tuple[str, Any]

# What a key takes that stands for a class.
_CLASS_EXAMPLES = {
    "data": "ss_lightning.data.SHDData",
    "lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR",
    "model": "ss_lightning.MLPClassifier",
    "optimizer": "torch.optim.Adam",
}


class Owner(NamedTuple):
    """The class whose arguments follow a key, and the path that the settings name it by; empty if it is fixed."""

    path: str
    cls: type


def typed_settings(arguments: Sequence[str]) -> list[Setting]:
    """Keys and values of the options on a command line, ``--key value`` or ``--key=value``; values stay text."""
    settings: list[Setting] = []
    for word, after in zip(arguments, [*arguments[1:], ""], strict=False):
        if word.startswith("--"):
            key, equals, value = word.removeprefix("--").partition("=")
            settings.append((key.removesuffix("+"), value if equals else after))
    return settings


def written_settings(content: Any, prefix: str = "") -> list[Setting]:
    """Keys, with dots, and values of a config."""
    settings: list[Setting] = []
    for key, value in content.items() if isinstance(content, Mapping) else ():
        settings.append((f"{prefix}{key}", value))
        settings += written_settings(value, f"{prefix}{key}.")
    return settings


def explain_parser_error(
    error: BaseException,
    known_keys: Iterable[str],
    settings: Sequence[Setting] = (),
    owners: Mapping[str, type] | None = None,
    kinds: Mapping[str, type] | None = None,
) -> str:
    """One clear message from the nested ones of the parser.

    Args:
        error: what the parser raised; the causes behind it say more and more exactly what is wrong.
        known_keys: keys that the subcommand accepts, such as ``trainer.max_epochs``.
        settings: what was given, in order.
        owners: classes whose arguments follow a key, such as the trainer's; those that the settings name by
            ``class_path`` are added.
        kinds: what a class that the settings name for a key must be derived from.
    """
    for cause in _chain(error):
        if isinstance(cause, AttributeError) and isinstance(cause.obj, ModuleType):
            where = cause.obj.__name__
            return f"there is no class {cause.name} in {where}." + suggestion(str(cause.name), dir(cause.obj))
    named = _named_classes(settings)
    for key, kind in (kinds or {}).items():
        if key in named and not issubclass(named[key].cls, kind):
            return f"{key}: {named[key].path} does not correspond to a subclass of {kind.__name__}"
    classes = {key: Owner("", cls) for key, cls in (owners or {}).items()} | named
    known = {key for key in known_keys if not key.endswith(".help")}
    for key, value in settings:
        if key == "config" and isinstance(value, str) and value[:1] not in "{" and not os.path.isfile(value):
            return f"--config: there is no file {value}"
    for find in (_unknown_key, _wrong_value):
        for key, value in settings:
            if fault := find(key, value, known, classes):
                return fault
    for key, value in settings:
        if key in _CLASS_EXAMPLES and isinstance(value, str) and "." not in value:
            return f"{key}: expected the path of a class, such as {_CLASS_EXAMPLES[key]}, got {value}"
    core = _in_short(error).replace('"<unicode string>"', "the config")
    if "model" in known and not any(key.partition(".")[0] in ("model", "config") for key, _ in settings):
        return f"{core}. Name a config: --config configs/yinyang.yaml"
    return core


def _in_short(error: BaseException) -> str:
    """What the root of a chain of errors says, in one line."""
    said = _SHOWN_CLASS.sub(r"\1", " ".join(str(list(_chain(error))[-1]).split()))
    return said if len(said) < _LONGEST else f"{said[:_LONGEST]} ..."


def innermost_error(error: BaseException) -> BaseException:
    """The first of a chain of errors that was written for a person, or else its root."""
    chain = list(_chain(error))
    return next((e for e in chain if type(e) in (DataError, UsageError)), chain[-1])


def _named_classes(settings: Iterable[Setting]) -> dict[str, Owner]:
    """The class that the settings name for a key, such as ``data``.

    Nothing is imported here: what the parser accepted as a class is imported already, and everything else that has a
    dot in it, such as the name of a file, is not ours to run.
    """
    found = {}
    for key, value in settings:
        if isinstance(value, str) and "." in value:
            module, _, name = value.rpartition(".")
            # Of other packages what is there: some import more as soon as a name is asked for.
            lazy = module.partition(".")[0] == "ss_lightning"
            loaded = sys.modules.get(module)
            named = getattr(loaded, name, None) if lazy else getattr(loaded, "__dict__", {}).get(name)
            if isinstance(named, type):
                found[key.removesuffix(".class_path")] = Owner(value, named)
    return found


def _arguments(cls: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class, with types where they are known; none of a class that does not tell."""
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return {}
    try:
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except Exception:  # annotations of other libraries may name what only a type checker imports
        return parameters
    return {name: p.replace(annotation=hints.get(name, p.annotation)) for name, p in parameters.items()}


def _owned(key: str, classes: Mapping[str, Owner]) -> tuple[str, Owner, str] | None:
    """The key that an argument follows, the class that takes it, and the argument, with what lies below it."""
    for owner in sorted(classes, key=len, reverse=True):
        if key.startswith(f"{owner}."):
            return owner, classes[owner], key.removeprefix(f"{owner}.").removeprefix("init_args.")
    return None


def _unknown_key(key: str, value: Any, known: set[str], classes: Mapping[str, Owner]) -> str | None:
    """A message if there is no argument of this name."""
    if key in known or key.endswith((".class_path", ".init_args", ".help")):
        return None
    owned = _owned(key, classes)
    if owned is None:
        if any(key.startswith(f"{other}.") for other in known):
            return None  # below a key whose class is not known
        arguments = (f"{owner}.{name}" for owner, (_, cls) in classes.items() for name in _arguments(cls))
        return f"unknown key {key}.{suggestion(key, [*arguments, *known])}"
    owner, (path, cls), argument = owned
    name = argument.partition(".")[0]
    parameters = _arguments(cls)
    if not parameters or name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    if f"{owner}.{name}" in known:
        return None
    shown = f"{owner}.{name}" + (f" of {path}" if path else "")
    if (answer := renamed_key(name)) is not None:
        return f"unknown key {shown}. {answer}"
    near = suggestion(name, parameters) if path else suggestion(f"{owner}.{name}", known)
    return f"unknown key {shown}.{near}"


def _wrong_value(key: str, value: Any, known: set[str], classes: Mapping[str, Owner]) -> str | None:
    """A message if the argument's type does not take the value."""
    owned = _owned(key, classes)
    if owned is None or key.endswith((".class_path", ".init_args")):
        return None
    owner, (_, cls), argument = owned
    *above, name = argument.split(".")
    for part in above:  # an argument that is itself an object, such as data.augment
        outer = _arguments(cls).get(part)
        if outer is None or not isinstance(outer.annotation, type):
            return None
        cls = outer.annotation
    parameter = _arguments(cls).get(name)
    annotation = None if parameter is None else parameter.annotation
    if annotation in (None, inspect.Parameter.empty) or isinstance(annotation, str):
        return None
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=annotation)
    except Exception:  # a type that the parser cannot ask for alone
        return None
    try:
        if isinstance(value, str):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except (ArgumentError, TypeError, ValueError) as error:
        if (answer := renamed_value(name, value)) is not None:
            return f"{owner}.{answer}"
        if get_origin(annotation) is Literal:
            return f"{owner}.{argument}: expected {' or '.join(map(str, get_args(annotation)))}, got {value}"
        return f"{owner}.{argument}: {_in_short(error)}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of the known names, to be put behind a message."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else " --help lists what there is."


def read_yaml(path: str) -> Any:
    """The content of a YAML file; None where it cannot be read (the parser says why)."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return None


def parser_keys(parser: ArgumentParser) -> list[str]:
    """All keys that a parser knows."""
    options = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
    return [*(action.dest for action in parser._actions), *options]


def parse_arguments(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse the arguments of a subcommand.

    Raises:
        UsageError: they do not fit; the message names the argument and the nearest right one.
    """
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UsageError(explain_parser_error(error, parser_keys(parser), typed_settings(arguments))) from error


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
