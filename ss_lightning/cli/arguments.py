"""The words of a training's command line before they are parsed: what takes which, and which run is meant."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ss_lightning.cli.recipes import find_recipe, recipe_names
from ss_lightning.errors import UsageError
from ss_lightning.parsing import CLASS_EXAMPLES, known_classes, read_yaml, typed_settings
from ss_lightning.runs.folders import DEFAULT_ROOT, config_beside, config_name, find_checkpoint

_CONFIG = ("--config", "-c")
_HELP = ("--help", "-h")

# What the keys of a config begin with.
_TOP_KEYS = ("checkpoint", "ckpt_path", "data", "lr_scheduler", "model", "optimizer", "pictures", "trainer")


# Options whose value is a class, of which a config may hold the arguments.
_CLASSES = ("--data", "--lr_scheduler", "--model", "--optimizer")


class Option(NamedTuple):
    """An option, its value (None if it has none) and the words behind it that belong to no option."""

    word: str
    value: str | None
    strays: tuple[str, ...]


def options(words: Sequence[str]) -> Iterator[Option]:
    """The options among the words behind a subcommand; what stands before the first has an empty option."""
    position = 0
    word, value = "", None
    while True:
        start = position
        while position < len(words) and not _is_option(words[position]):
            position += 1
        yield Option(word, value, tuple(words[start:position]))
        if position == len(words):
            return
        word, equals, text = words[position].partition("=")
        value = text if equals else None
        position += 1
        if not equals and _takes_value(word) and position < len(words) and not words[position].startswith("--"):
            value = words[position]
            position += 1


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.match(r"-\.?\d", word)


def _takes_value(option: str) -> bool:
    return option not in (*_HELP, "--print_config")


def check_words(arguments: Sequence[str]) -> None:
    """Look for words that no option takes.

    Raises:
        UsageError: there are some; the message says what to write.
    """
    for option, value, strays in options(arguments[1:]):
        if re.match(r"-\w[\w.]", option):
            raise UsageError(f"{option}: options begin with two dashes. Write -{option}")
        if strays:
            raise UsageError(_about_strays(option, value, strays))


def _about_strays(option: str, value: str | None, strays: Sequence[str]) -> str:
    first = strays[0]
    key, equals, _ = first.partition("=")
    if first[0] in "\N{EN DASH}\N{EM DASH}":
        return f"{first} begins with a long dash. Write --{first.lstrip(first[0])}"
    if first.endswith((".yaml", ".yml")):
        return f"{first}: a config needs its option. Write --config {first}"
    if first.endswith(".ckpt"):
        return f"{first}: a checkpoint needs its option. Write --ckpt_path {first}"
    if equals or key.partition(".")[0] in _TOP_KEYS:
        return f"{first}: options begin with two dashes. Write --{' '.join(strays) if not equals else first}"
    if value is not None:
        parts = [part for word in (value, *strays) for part in re.split(r"[\s,\[\]]+", word) if part]
        return (
            f"{option} takes one word, got {' '.join((value, *strays))}. A list is written {option} [{','.join(parts)}]"
        )
    return f"{first} belongs to no option. Write --KEY VALUE; --help lists the keys"


def configs_first(arguments: Sequence[str]) -> list[str]:
    """The same command line with its configs in front, so that whatever else was typed goes over them.

    A class that was typed before them stands in front as well: a config may hold arguments of it alone.
    """
    classes: list[str] = []
    configs: list[str] = []
    others: list[str] = []
    words = iter(arguments[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _CONFIG:
            others.append(word)
            if name in _CLASSES and not configs:
                taken = [] if equals else [next(words, "")]
                others += taken
                classes += [word, *taken]
            continue
        following = value if equals else next(words, "")
        if not following or following.startswith("--"):
            raise UsageError("--config: name a file, such as --config configs/yinyang.yaml")
        configs += ["--config", following]
    return [*arguments[:1], *classes, *configs, *others]


def check_config_files(arguments: Sequence[str]) -> None:
    """Look whether the configs are there.

    Raises:
        UsageError: one is not.
    """
    for value in _values(arguments, _CONFIG):
        if os.path.isfile(value) or value.lstrip()[:1] == "{" or "\n" in value:  # it may be a config itself
            continue
        if os.path.isdir(value):
            inside = Path(value) / "config.yaml"
            raise UsageError(
                f"--config: {value} is a folder."
                + (f" Did you mean {inside}?" if inside.is_file() else " Name a file in it")
            )
        if find_recipe(value) is None:
            raise UsageError(f"--config: there is no file {value}{_near_file(value, recipe_names())}")


def check_checkpoint_file(path: str) -> None:
    """Look whether a checkpoint is there.

    Raises:
        UsageError: it is not.
    """
    if os.path.isfile(path):
        return
    if os.path.isdir(path):
        found = sorted(Path(path).rglob("*.ckpt"))
        near = f" Did you mean {found[0]}?" if found else " There is none in it"
        raise UsageError(f"--ckpt_path: {path} is a folder, not a checkpoint.{near}")
    raise UsageError(f"--ckpt_path: there is no file {path}{_near_file(path)}")


def _near_file(path: str, others: Sequence[str] = ()) -> str:
    """A sentence that names a file that may be meant, to be put behind a message; empty if none is like it."""
    folder, ending = Path(path).parent, Path(path).suffix
    beside = [str(found) for found in folder.glob(f"*{ending}")] if folder.is_dir() else []
    near = difflib.get_close_matches(path, [*beside, *others], n=1, cutoff=0.8)
    return f". Did you mean {near[0]}?" if near else ""


def _values(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    return [option.value for option in options(arguments[1:]) if option.word in names and option.value is not None]


def with_class_for_help(arguments: Sequence[str]) -> list[str]:
    """A command line whose ``--model.help`` and the like name the class that its config names.

    Raises:
        UsageError: there is none; the message says which there are.
    """
    found = list(arguments)
    for index, word in enumerate(arguments):
        owner = word.removeprefix("--").removesuffix(".help")
        follows = arguments[index + 1 : index + 2]
        if word != f"--{owner}.help" or owner not in CLASS_EXAMPLES or (follows and not follows[0].startswith("--")):
            continue
        named = dict(typed_settings(arguments))
        path = named.get(owner) or named.get(f"{owner}.class_path") or _class_in_configs(arguments, owner)
        if path is None:
            classes = ", ".join(sorted(known_classes(owner).values()))
            raise UsageError(f"--{owner}.help: name a class, such as {CLASS_EXAMPLES[owner]}. There are {classes}")
        found[index] = f"{word}={path}"
    return found


def _class_in_configs(arguments: Sequence[str], owner: str) -> str | None:
    """The class that the last config names for a key."""
    contents = [read_yaml(config) for config in _values(arguments, _CONFIG) if os.path.isfile(config)]
    path = _last(contents, owner, "class_path") or _last(contents, owner)
    return path if isinstance(path, str) else None


# The run that is meant -----------------------------------------------------------------------------------------------


def with_config_of_run(arguments: Sequence[str], checkpoint: str | None = None) -> list[str]:
    """A command line that begins with the config of the run whose checkpoint it uses.

    An evaluation takes the config that the run was trained with; a config that it names has then done its part by
    picking the run. What goes over that are configs without a model, such as ``configs/wandb.yaml``, and what was
    typed. A whole config of another name than the run's is taken as it is.

    Args:
        arguments: the command line, configs first.
        checkpoint: the one to use, if it is known already.

    Raises:
        UsageError: the checkpoint is not there.
    """
    subcommand, evaluates = arguments[0], arguments[0] != "fit"
    if not set(arguments).isdisjoint(_HELP):
        return list(arguments)
    configs = _values(arguments, _CONFIG)
    contents = {config: read_yaml(config) for config in configs if os.path.isfile(config)}
    whole = [config for config in configs if config not in contents or _names_model(contents[config])]
    typed = dict(typed_settings(arguments))
    path = typed.get("ckpt_path") or _last(contents.values(), "ckpt_path") or ("best" if evaluates else None)
    if path is None or (path in ("best", "last") and not (evaluates and whole and whole[0] in contents)):
        return list(arguments)
    root = Path(
        typed.get("trainer.default_root_dir") or _last(contents.values(), "trainer", "default_root_dir") or DEFAULT_ROOT
    )
    if path in ("best", "last"):
        own = whole[:1]
        path = checkpoint or str(find_checkpoint(root / config_name(Path(own[0]), root), path))
    else:
        check_checkpoint_file(path)
        own = []
    beside = config_beside(Path(path))
    if beside is None:
        return list(arguments)
    name = config_name(beside, root)
    own = own or [
        config for config in whole if evaluates and config in contents and config_name(Path(config), root) == name
    ]
    over = [config for config in configs if config not in own]
    if any(config in whole for config in over):
        return list(arguments)
    kept = [word for config in over for word in ("--config", config)]
    others = list(arguments[1 + 2 * len(configs) :])
    return [subcommand, "--config", str(beside), *kept, *others, f"--ckpt_path={path}"]


def _names_model(content: Any) -> bool:
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, str) or (isinstance(model, dict) and "class_path" in model)


def _last(contents: Any, *keys: str) -> Any:
    """The value of a key in the last of several configs that has it; None if none has."""
    found = None
    for content in contents:
        for key in keys:
            content = content.get(key) if isinstance(content, dict) else None
        found = found if content is None else content
    return found
