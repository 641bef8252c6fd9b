"""A look at YAML before it is read: it may be of someone else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import yaml

from ss_lightning.errors import UsageError

_MOST_NODES = 100_000


def check_config(path: Path) -> None:
    """Look at a YAML file before it is read.

    Raises:
        UsageError: it refers to itself, is too large or too deep, or has a key twice, of which one would be lost.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return  # the reader will say what is wrong
    check_text(text, str(path))


def check_text(text: str, name: str) -> None:
    """Look at YAML before it is read.

    Args:
        text: the YAML; a text inside of it that is YAML again is looked at as well.
        name: what a message calls it.

    Raises:
        UsageError: as for :func:`check_config`.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise UsageError(f"{name}: nested too deeply to be a config") from error
    except (yaml.YAMLError, ValueError):
        return  # the reader will say what is wrong
    _check_node(root, name)


def _check_node(root: yaml.Node | None, name: str) -> None:
    inner: list[str] = []
    try:
        size = _expanded_size(root, {}, name, inner)
    except RecursionError as error:
        raise UsageError(f"{name}: nested too deeply to be a config") from error
    if size > _MOST_NODES:
        raise UsageError(f"{name}: too large to be a config, its aliases stand for {size:,} values")
    for text in inner:
        if text != getattr(root, "value", None):
            check_text(text, name)


def _expanded_size(node: yaml.Node | None, sizes: dict[int, int | None], name: str, inner: list[str]) -> int:
    """How many values a node holds once all aliases are replaced by what they stand for.

    Texts in it that have aliases of their own are added to ``inner``.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            line = node.start_mark.line + 1 if node else 0
            raise UsageError(f"{name}, line {line}: this refers to itself (an alias *name inside of its &name)")
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
            raise UsageError(f"{name}, line {line}: the key {twice[0]} is there already. Keep one of the two")
    elif isinstance(node, yaml.ScalarNode) and "&" in node.value and "*" in node.value:
        inner.append(node.value)
    total = 1 + sum(_expanded_size(child, sizes, name, inner) for child in children)
    sizes[id(node)] = total
    return total
