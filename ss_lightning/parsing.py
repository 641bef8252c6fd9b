"""What a person reads when a command line or a config cannot be parsed: the key, the fault, the nearest right key.

Which setting is at fault is found by asking each argument itself: whether it exists, and whether its type takes the
value. What the parser says in its own words is passed on, never searched.
"""

from __future__ import annotations

import argparse
import collections.abc
import difflib
import inspect
import os
import re
import sys
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from ss_lightning.errors import DataError, UsageError, suggestion
from ss_lightning.renamed import renamed_key, renamed_value

# How Python shows a class: <class 'torch.optim.Adam'>.
_SHOWN_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")

# Of a message that shows a value, which may be as long as a file.
_LONGEST = 1000

Setting = tuple[str, Any]

# What a key takes that stands for a class.
CLASS_EXAMPLES = {
    "data": "ss_lightning.data.SHDData",
    "lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR",
    "model": "ss_lightning.MLPClassifier",
    "optimizer": "torch.optim.Adam",
}


# What other programs call these.
_OFTEN_MEANT = {
    **dict.fromkeys(("epoch", "epochs", "max_epochs", "num_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("learning_rate", "lr", "model.lr", "trainer.lr"), "optimizer.lr"),
    **dict.fromkeys(("device", "gpu", "gpus"), "trainer.accelerator"),
    **dict.fromkeys(("checkpoint_path", "resume", "weights"), "ckpt_path"),
    **dict.fromkeys(("output", "output_dir", "out", "root"), "trainer.default_root_dir"),
    "seed": "seed_everything",
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
    chosen = {key.removesuffix(".class_path"): value for key, value in settings if isinstance(value, str)}
    for owner in CLASS_EXAMPLES.keys() & chosen.keys():
        value = chosen[owner]
        there = (owner in named and named[owner].path == value) or value in known_classes(owner)
        if not there and value[:1] not in "{[" and not os.path.exists(value):
            return f"{owner}: {_about_class(owner, value)}"
    missing = [
        key for key in ("model", "data") if key in known and not any(k.partition(".")[0] == key for k, _ in settings)
    ]
    if missing:
        return f"nothing says which {' and which '.join(missing)} to use. Name a config: --config configs/yinyang.yaml"
    return _in_short(error).replace('"<unicode string>"', "the config")


def known_classes(owner: str) -> dict[str, str]:
    """Name and import path of the classes that are ready for a key, such as ``optimizer``."""
    module = CLASS_EXAMPLES[owner].rpartition(".")[0]
    kind = {"model": "Classifier", "data": "Data"}.get(owner, "")
    names = [name for name in dir(import_module(module)) if name[0].isupper() and name.endswith(kind)]
    parts = [vars(import_module(module)).get(name) or getattr(import_module(module), name) for name in names]
    own = module.partition(".")[0]
    return {
        name: f"{module}.{name}"
        for name, part in zip(names, parts, strict=True)
        if isinstance(part, type) and part.__module__.startswith(f"{own}.")
    }


def _about_class(owner: str, value: str) -> str:
    """What to say of a class that is not there: the nearest of those that are."""
    classes = known_classes(owner)
    spelled = {name.lower(): path for name, path in classes.items()}
    word = value.rpartition(".")[2].lower()
    inside = sorted((name for name in spelled if word in name), key=len)  # such as cosine
    near = difflib.get_close_matches(word, spelled, n=1) or inside
    if near:
        return f"there is no class {value}. Did you mean {spelled[near[0]]}?"
    return f"expected the path of a class, such as {CLASS_EXAMPLES[owner]}, got {value}"


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
        names = [*arguments, *sorted(known)]
        meant = _OFTEN_MEANT.get(key) or next((name for name in names if name.rpartition(".")[2] == key), None)
        return f"unknown key {key}." + (f" Did you mean {meant}?" if meant else suggestion(key, names))
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
        expected = _expected(annotation)
        if expected is None:
            return f"{owner}.{argument}: {_in_short(error)}"
        shown = str(value) if len(str(value)) < _LONGEST else f"{str(value)[:_LONGEST]} ..."
        return f"{owner}.{argument}: expected {expected}, got {shown or 'nothing'}{_as_written(annotation, value)}"
    return None


# What to write for a value of a type.
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "null",
}
_PLURALS = {int: "whole numbers, such as [200] or [200, 100]", float: "numbers, such as [0.5, 1.0]", str: "texts"}


def _expected(annotation: Any) -> str | None:
    """A type in words; None for one that has no plain ones."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, UnionType):
        # Parts such as a tensor cannot be written.
        parts = [words for part in arguments if (words := _expected(part)) and part is not NoneType]
        choices = " or ".join([*parts, *["null"] * (NoneType in arguments)]).split(" or ")
        return " or ".join(dict.fromkeys(choices)) if parts else None
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}, such as [{', '.join('0.5' if a is float else '1' for a in arguments)}]"
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return f"a list of {_PLURALS.get(arguments[0], 'values, such as [a, b]')}"
    return None


def _as_written(annotation: Any, value: Any) -> str:
    """A sentence that gives a value as it should have been written, where that can be told."""
    text = str(value).strip()
    if float in (annotation, *get_args(annotation)) and re.fullmatch(r"-?\d+,\d+", text):
        return f". Write {text.replace(',', '.')}"
    origin = get_origin(annotation)
    if origin in (list, collections.abc.Sequence) and not isinstance(value, str | Sequence):
        return f". Write [{value}]"
    return ""


def with_lists(
    arguments: Sequence[str], known_keys: Iterable[str], settings: Sequence[Setting], owners: Mapping[str, type]
) -> list[str]:
    """A command line where a value that would be right in brackets has them: ``--model.hidden 200`` is ``[200]``.

    Args:
        arguments: the command line.
        known_keys: as for :func:`explain_parser_error`.
        settings: what was given there and in configs, which names the classes.
        owners: as for :func:`explain_parser_error`.
    """
    classes = {key: Owner("", cls) for key, cls in owners.items()} | _named_classes(settings)
    known = set(known_keys)
    found = list(arguments)
    for index, word in enumerate(arguments):
        if not word.startswith("--"):
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        value = value if equals else "".join(arguments[index + 1 : index + 2])
        if not value or value[0] in "[{" or not _wrong_value(key, value, known, classes):
            continue
        if _wrong_value(key, f"[{value}]", known, classes) is None:
            position = index if equals else index + 1
            found[position] = found[position].removesuffix(value) + f"[{value}]"
    return found


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


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
