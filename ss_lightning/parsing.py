"""What a person reads when the command line or a config cannot be parsed: the key, the fault, the nearest right key."""

from __future__ import annotations

import difflib
import os
import re
from argparse import ArgumentError
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace

from ss_lightning.errors import DataError, UsageError

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN = re.compile(r"(?:Option|does not accept option) '([^']+)'|unrecognized arguments: --([^\s=]+)")
_TYPE = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_MOST_NODES = 100_000
# A config may name classes of these, and of those that this variable lists.
_MODULES = ("lightning", "snntorch", "ss_lightning", "torch", "torchmetrics")
MODULES_VARIABLE = "SS_LIGHTNING_MODULES"
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")


def explain(error: BaseException, known_keys: Iterable[str]) -> str:
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


def innermost(error: BaseException) -> BaseException:
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


def check_config(path: Path) -> None:
    """Look at a YAML file before it is read: it may be of someone else, and reading it imports the classes it names.

    Raises:
        UsageError: it refers to itself, is too large or too deep, has a key twice, of which one would be lost, or names
            something of a module that is not allowed.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        size = _expanded_size(root, {}, path)
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply to be a config") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # the parser will say what is wrong
    if size > _MOST_NODES:
        raise UsageError(f"{path}: too large to be a config, its aliases stand for {size:,} values")
    allowed = {*_MODULES, *os.environ.get(MODULES_VARIABLE, "").replace(",", " ").split()}
    for node in _scalars(root):
        module = node.value.partition(".")[0]
        if _IMPORT_PATH.fullmatch(node.value) and module not in allowed and not Path(node.value).exists():
            raise UsageError(
                f"{path}, line {node.start_mark.line + 1}: {node.value} is not of a module that a config may name "
                f"({', '.join(sorted(allowed))}). If you trust it: {MODULES_VARIABLE}={module}, or name it on the "
                "command line"
            )


def _scalars(node: yaml.Node | None) -> Iterable[yaml.ScalarNode]:
    """All values below a node that could be the name of something to import."""
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _scalars(child)
    elif isinstance(node, yaml.MappingNode):
        for _, child in node.value:
            yield from _scalars(child)


def _expanded_size(node: yaml.Node | None, sizes: dict[int, int | None], path: Path) -> int:
    """How many values a node holds once all aliases are replaced by what they stand for."""
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            line = node.start_mark.line + 1 if node else 0
            raise UsageError(f"{path}, line {line}: this refers to itself (an alias *name inside of its &name)")
        return size
    sizes[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in keys.items() if count > 1 and key != "<<"]:
            line = next(key.start_mark.line + 1 for key, _ in reversed(node.value) if key.value == twice[0])
            raise UsageError(f"{path}, line {line}: the key {twice[0]} is there already. Keep one of the two")
    total = 1 + sum(_expanded_size(child, sizes, path) for child in children)
    sizes[id(node)] = total
    return total


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse the arguments of a subcommand.

    Raises:
        UsageError: they do not fit; the message names the argument and the nearest right one.
    """
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UsageError(explain(error, [action.dest for action in parser._actions])) from error
