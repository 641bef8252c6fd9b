"""A look at YAML before it is read: it may be of someone else."""

from __future__ import annotations

import difflib
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


# What a config of a training has, and what a sweep file has instead.
_KEYS = (
    *(
        "checkpoint",
        "ckpt_path",
        "config",
        "data",
        "format",
        "lr_scheduler",
        "lr_scheduler_interval",
        "model",
        "optimizer",
    ),
    *("pictures", "return_predictions", "seed_everything", "trainer", "verbose", "weights_only"),
)
_SWEEP_KEYS = ("method", "parameters")


def check_syntax(path: Path) -> None:
    """Look whether a file is YAML at all.

    Raises:
        UsageError: it is not; the message names the line.
    """
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        hint = ". Give a checkpoint with --ckpt_path" if path.suffix == ".ckpt" else ""
        raise UsageError(f"{path} is no text, and so no config{hint}") from error
    except yaml.reader.ReaderError as error:
        raise UsageError(f"{path} is no text, and so no config: it has a character {error.character!r}") from error
    except yaml.MarkedYAMLError as error:
        # Where it began to go wrong says more than where no way out was left.
        mark = error.context_mark or error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        said = " ".join(part for part in (error.context, error.problem) if part)
        tab = " YAML is indented with spaces, not with tabs." if "'\\t'" in said else ""
        raise UsageError(f"{path}{line}: this is no valid YAML, {said}.{tab}") from error
    except ValueError:
        return  # a date or a number that is none: the parser will say which key has it


def check_kind(path: Path) -> None:
    """Look whether a file is a config of a training, whole or in part.

    Raises:
        UsageError: it is something else.
    """
    check_syntax(path)
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    example = "A config looks like configs/yinyang.yaml, see python -m ss_lightning configs"
    if root is None:
        raise UsageError(f"{path} is empty. {example}")
    if not isinstance(root, yaml.MappingNode):
        what = "a list" if isinstance(root, yaml.SequenceNode) else "a text"
        raise UsageError(f"{path} holds {what}; expected keys such as model, data and trainer. {example}")
    keys = [str(key.value) for key, _ in root.value]
    if any(key in _KEYS for key in keys):
        return
    if all(key in keys for key in _SWEEP_KEYS):
        raise UsageError(f"{path} is a sweep file. Search with it: python -m ss_lightning sweep {path}")
    if not any(difflib.get_close_matches(key.partition(".")[0], _KEYS) for key in keys):
        raise UsageError(
            f"{path} is no config of a training: it has {', '.join(keys[:5]) or 'no keys'}; expected model, data, "
            f"trainer, optimizer and the like. {example}"
        )


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
