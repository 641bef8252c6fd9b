"""``configs``: the recipes that come with the package, listed and copied."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from multiprocessing import parent_process
from pathlib import Path

from ss_lightning._version import __version__
from ss_lightning.errors import UsageError, suggestion
from ss_lightning.files import display_path, save_text

# What a path to a recipe begins with, in a checkout and in the documentation.
_PREFIX = "configs/"


def recipes_folder() -> Path:
    """Where the recipes lie: in the installed package, or at the top of a checkout."""
    package = Path(str(files("ss_lightning")))
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """All recipes as they are given to ``--config``, those for everyday use first."""
    folder = recipes_folder()
    found = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return [_PREFIX + path.as_posix() for path in sorted(found, key=lambda path: (len(path.parts), path.as_posix()))]


def find_recipe(path: str) -> Path | None:
    """The file of a recipe that is named like one of a checkout, such as ``configs/shd.yaml``; None for other paths."""
    name = Path(path).as_posix()
    if not name.startswith(_PREFIX) or ".." in Path(name).parts:
        return None
    recipe = recipes_folder() / name[len(_PREFIX) :]
    return recipe if os.path.isfile(recipe) else None  # a whole config may stand here, longer than a name can be


def with_packaged_recipes(arguments: Sequence[str]) -> list[str]:
    """A command line whose configs that are not on disk are those of the package; says which it took.

    Args:
        arguments: a command line, where ``--config FILE`` and ``--config=FILE`` may stand anywhere.
    """
    found = list(arguments)
    for index, word in enumerate(found):
        if word.startswith("--config="):
            found[index] = f"--config={on_disk_or_packaged(word.partition('=')[2])}"
        elif word == "--config" and index + 1 < len(found):
            found[index + 1] = on_disk_or_packaged(found[index + 1])
    return found


def on_disk_or_packaged(path: str) -> str:
    """A path as it is, or that of the recipe of this name if there is no such file; says so, once."""
    if os.path.lexists(path) or (recipe := find_recipe(path)) is None:
        return path
    _say_once(f"{path} is the one that comes with ss_lightning {__version__}: {display_path(recipe)}")
    return str(recipe)


@cache
def _say_once(line: str) -> None:
    if parent_process() is None:  # a job's command has said it
        print(line, file=sys.stderr)


def summary(recipe: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    comment = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return re.split(r"(?<=\.)\s", " ".join(comment), maxsplit=1)[0].rstrip(".")


def main(arguments: list[str]) -> int:
    """List the recipes, or copy one."""
    parser = argparse.ArgumentParser(
        prog="python -m ss_lightning configs",
        description="List the recipes that come with the package, or copy one out to change it.",
    )
    parser.add_argument("recipe", nargs="?", help="the one to copy, such as configs/shd.yaml")
    parser.add_argument("target", nargs="?", type=Path, help="where to; without it, to the same path in this folder")
    options = parser.parse_args(arguments)
    names = recipe_names()
    if options.recipe is None:
        width = max(map(len, names))
        for name in names:
            print(f"{name:{width}}  {summary(recipes_folder() / name[len(_PREFIX) :])}")
        print("\ncopy one with: python -m ss_lightning configs NAME [FILE]")
        return 0
    recipe = find_recipe(options.recipe) or find_recipe(_PREFIX + options.recipe)
    if recipe is None:
        raise UsageError(f"there is no recipe {options.recipe}.{suggestion(options.recipe, names)}")
    target = options.target or Path(_PREFIX + recipe.relative_to(recipes_folder()).as_posix())
    if target.is_dir():
        target /= recipe.name
    if target.exists():
        raise UsageError(f"{target} is there already. Say where to copy: configs {options.recipe} FILE")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_text(target, recipe.read_text(encoding="utf-8"))
    print(f"copied to {target}")
    return 0
