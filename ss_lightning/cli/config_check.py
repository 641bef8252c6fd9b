"""A look at a YAML file before it is read: it may be of someone else, and reading it imports what it names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import yaml

from ss_lightning.errors import UsageError

_MOST_NODES = 100_000


# A config may name classes of these, and of those that this variable lists.
_MODULES = ("lightning", "snntorch", "ss_lightning", "torch", "torchmetrics")


MODULES_VARIABLE = "SS_LIGHTNING_MODULES"


_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


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
