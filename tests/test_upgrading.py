"""docs/upgrading.md lists every private member of other libraries that the code uses; each of them is still there."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import ss_lightning

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
MEMBERS = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)
# Part of Python itself and documented: the methods of a named tuple, and the end of a process.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_replace"}
# What Python puts into the classes that it makes.
MADE_BY_PYTHON = {"_abc_impl", "_is_protocol"}


def make_parser():
    from jsonargparse import ArgumentParser

    return ArgumentParser()


def make_leaky():
    import snntorch

    return snntorch.Leaky(beta=0.5)


def make_trial():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study().ask()


def make_module():
    import torch

    return torch.nn.Linear(1, 1)


def make_dispatcher():
    from numba import njit

    return njit(lambda x: x)


# Members that exist only once an object is made.
INSTANCES = {
    "jsonargparse.ArgumentParser": make_parser,
    "numba.core.dispatcher.Dispatcher": make_dispatcher,
    "optuna.Trial": make_trial,
    "snntorch.Leaky": make_leaky,
    "torch.nn.Module": make_module,
}


def exists(member):
    owner, _, name = member.rpartition(".")
    if owner in INSTANCES:
        return hasattr(INSTANCES[owner](), name)
    parts = owner.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        # An attribute that a constructor sets is not on the class; its name stands in the source of one of its bases.
        bases = [base for base in getattr(found, "__mro__", ()) if base.__module__ != "builtins"]
        return hasattr(found, name) or any(f"self.{name}" in inspect.getsource(base) for base in bases)
    return False


@pytest.mark.parametrize("member", MEMBERS)
def test_member_is_still_there(member):
    if member.startswith("optuna"):
        pytest.importorskip("optuna")
    assert exists(member), f"{member} is gone; docs/upgrading.md says where it was used and what for"


@pytest.mark.parametrize("member", ["torch.nn.Module._nothing", "snntorch.Leaky._nothing", "nothing.at._all"])
def test_a_member_that_is_gone_is_found(member):
    assert not exists(member)


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "ss_lightning").rglob("*.py"))}


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def own_names():
    names = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
                names.add(node.attr)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                names.add(str(node.slice.value))  # self.__dict__["_name"]
    return names


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_in_use():
    """Private names of others that are read, imported or overridden, and where."""
    ours = own_names() | DOCUMENTED
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in ours:
                yield node.attr, path.name
            elif isinstance(node, ast.ImportFrom) and not node.module.startswith(("ss_lightning", "__future__")):
                yield from ((alias.name, path.name) for alias in node.names if is_private(alias.name))
                yield from ((part, path.name) for part in node.module.split(".") if is_private(part))
    for module in pkgutil.walk_packages(ss_lightning.__path__, "ss_lightning."):
        if module.name.endswith(("__main__", "_triton", "benchmark.gpu")):
            continue
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if not kind.__module__.startswith("ss_lightning"):
                continue
            foreign = [
                base for base in kind.__mro__[1:] if not base.__module__.startswith(("ss_lightning", "torch.autog"))
            ]
            for name in filter(is_private, vars(kind)):
                if name not in MADE_BY_PYTHON and any(name in vars(base) for base in foreign):
                    yield name, module.name


def test_every_private_member_in_use_is_listed():
    listed = {part for member in MEMBERS for part in member.split(".")}
    found = set(private_in_use())
    assert len(found) > 5
    assert sorted(where for where in found if where[0] not in listed) == []
