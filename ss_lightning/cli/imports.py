"""What a config may import and call, whatever way a name comes in.

A config names classes and functions, and Python runs a module when it is imported. Three walls stand between a config
of someone else and their code, each where the thing happens:

- An import is checked by the parser itself, against its own list of import paths, before a module is loaded and again
  by the module in which the object was made, so that ``torch.os.system`` is ``os.system``. A name in a string in a
  string, in a second file or in a variable of the environment comes to the same place.
- What was parsed is looked through before anything of it is called: a class must be of a kind that a training is made
  of, and a function must be mathematics, or of a module that the user trusts.
- A text is measured before it is read: aliases of YAML can make a short one endless.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse._common import parsing_settings
from lightning.fabric.loggers import Logger
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ss_lightning.errors import UsageError
from ss_lightning.runs.config_check import check_text

MODULES_VARIABLE = "SS_LIGHTNING_MODULES"

# What a config may name is of these packages, ...
_PACKAGES = ("lightning", "snntorch", "ss_lightning", "tonic", "torch", "torchmetrics")
# ... of torch only of those parts that hold what a training is made of. Others load libraries, compile, or run code.
_IMPORTABLE = (
    *(package for package in _PACKAGES if package not in ("tonic", "torch")),
    "tonic.datasets",
    *("torch.amp", "torch.distributed.algorithms", "torch.distributed.fsdp", "torch.nn", "torch.optim"),
    *("torch.special", "torch._C._nn", "torch._C._special"),
)
# ... and of these kinds.
_KINDS = (
    *(Accelerator, Callback, CheckpointIO, ClusterEnvironment, LayerSync, LightningDataModule, LightningModule),
    *(Logger, LRScheduler, Module, Optimizer, Precision, Profiler, Strategy),
)
# A function of these computes numbers and does nothing else.
_MATHEMATICS = (
    *("snntorch.functional", "snntorch.surrogate", "ss_lightning.functional", "ss_lightning.losses"),
    *("ss_lightning.surrogate", "torch.nn.functional", "torch.nn.init", "torch.special", "torch._C._nn"),
    *("torch._C._special", "torchmetrics.functional"),
)
# Options whose values are files.
_FILE_OPTIONS = ("--config", "-c", "--ckpt_path")


class Trust:
    """What one command may import and call beside what every config may.

    Args:
        typed: arguments that the user typed. What they name is taken as it is; the files that they name are not.

    Attributes:
        modules: modules that the user trusts altogether, from the environment.
        names: import paths that the user typed.

    Raises:
        UsageError: the variable of the environment holds something else than names of modules.
    """

    def __init__(self, typed: Sequence[str]) -> None:
        self.modules = trusted_modules()
        self.names = frozenset(_typed_names(typed))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Let the parser import what may be imported, and read no text that stands for too much.

        What was set before is set again at the end: other parsers of this process have nothing to do with it.
        """
        before, loader = dict(parsing_settings), get_loader("yaml")
        packages = {name.partition(".")[0] for name in self.names} - {"jsonargparse"}
        try:
            set_parsing_settings(
                import_path_denylist=["*"], import_path_allowlist=[*_IMPORTABLE, *self.modules, *sorted(packages)]
            )
            set_loader("yaml", functools.partial(_load_measured, loader), exceptions=(yaml.YAMLError,))
            yield
        finally:
            parsing_settings.update(before)
            set_loader("yaml", loader, exceptions=(yaml.YAMLError,))

    def check_names(self, path: Path) -> None:
        """Refuse a file by its text, for a message with the line; what escapes this meets the walls behind it.

        Raises:
            UsageError: the file names something of a module that is installed and may not be named.
        """
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError):
            return  # the parser will say what is wrong
        for node in _scalars(root):
            for name in import_paths(node.value):
                known = name in self.names or _within(name, (*_PACKAGES, *self.modules)) or os.path.exists(name)
                if not known and _is_installed(name.partition(".")[0]):
                    raise UsageError(f"{path}, line {node.start_mark.line + 1}: {refusal(name)}")

    def check(self, config: Namespace) -> None:
        """Look through what was parsed, before anything of it is called.

        Raises:
            UsageError: it names something that may not be called.
        """
        self._typed = [found for name in self.names if (found := loaded(name)) is not None]
        subcommand = config.get("subcommand")
        self._check(config if subcommand is None else config[subcommand], "", {})

    def _check(self, value: Any, key: str, defaults: Mapping[str, Any]) -> None:
        if isinstance(value, Namespace | Mapping):
            content = vars(value) if isinstance(value, Namespace) else value
            path = content.get("class_path")
            named = self._imported(path) if isinstance(path, str) else None
            if isinstance(path, str) and not ((named is None and isinstance(value, Mapping)) or self._may_call(named)):
                raise UsageError(f"{key}: {refusal(path, named)}")
            inner = _defaults(named) if isinstance(named, type) else {}
            for name, part in content.items():
                # The arguments of a class lie one level below its path.
                self._check(part, f"{key}.{name}".strip("."), inner if name in _ARGUMENTS else defaults)
        elif isinstance(value, list | tuple | set | frozenset):
            for part in value:
                self._check(part, key, {})
        elif callable(value) and not _is_plain(value):
            chosen_by_its_author = value is defaults.get(key.rpartition(".")[2])
            if not chosen_by_its_author and not self._may_call(value):
                raise UsageError(f"{key}: {refusal(_own_path(value), value)}")

    def _imported(self, path: str) -> Any:
        """What the parser has found for a class path; None for a text that only looks like one."""
        if path in self.names or not _within(path, (*_IMPORTABLE, *self.modules)):
            return loaded(path)
        try:
            return resolve_name(path)
        except (ImportError, AttributeError, ValueError):
            return None

    def _may_call(self, found: Any) -> bool:
        """Whether a class or function may be called, by the module that it was made in."""
        if any(found is typed for typed in self._typed):
            return True
        if isinstance(found, functools.partial):
            return all(map(self._may_call, filter(callable, (found.func, *found.args, *found.keywords.values()))))
        owner = getattr(found, "__self__", None)
        if inspect.ismethod(found):
            # A class method of Lightning, called by way of a class, is code of Lightning.
            return self._may_call(found.__func__) and self._may_call(owner if isinstance(owner, type) else type(owner))
        if owner is not None and not inspect.ismodule(owner) and not isinstance(owner, type):
            return self._may_call(owner)  # such as the method __call__ of a function
        if not isinstance(found, type) and not inspect.isroutine(found):
            found = type(found)
        module = getattr(found, "__module__", None) or ""
        if _within(module, self.modules):
            return True
        if not isinstance(found, type):
            return _within(module, _MATHEMATICS)
        if _within(module, ("tonic.datasets",)):
            # By name, for an import of tonic takes seconds.
            return any((base.__module__, base.__name__) == ("tonic.dataset", "Dataset") for base in found.__mro__)
        # Some modules of torch build or run code when they are made; those to compose networks of do not.
        of_torch = _within(module, ("torch",))
        right_kind = issubclass(found, _KINDS) and (not of_torch or _within(module, _IMPORTABLE))
        return _within(module, _PACKAGES) and (right_kind or is_dataclass(found))


# Where a class path has its arguments.
_ARGUMENTS = ("init_args", "dict_kwargs")


def trusted_modules() -> tuple[str, ...]:
    """The modules of their own that the user lets configs name.

    Raises:
        UsageError: the variable holds something else.
    """
    words = os.environ.get(MODULES_VARIABLE, "").replace(",", " ").split()
    for word in words:
        if not all(part.isidentifier() for part in word.split(".")) or word.partition(".")[0] == "jsonargparse":
            raise UsageError(
                f"{MODULES_VARIABLE} holds {word}, which is no module that could be named there; expected names such "
                "as mypackage,other"
            )
    return tuple(words)


def refusal(path: str, found: Any = None) -> str:
    """Why something that a config names is not imported or called, and what to do about it.

    Args:
        path: how the config names it.
        found: what it is, if it is known.
    """
    own = path if found is None else _own_path(found)
    top = own.partition(".")[0]
    shown = path if own == path or not own else f"{path} ({own})"
    if top in _PACKAGES:
        return (
            f"{shown} is nothing that a config may name: not a part of a training (model, data, optimizer, schedule, "
            "callback, logger and the like) nor a function that only computes, such as those of torch.nn.functional. "
            f"Put what else you need into a module of your own, and name that in {MODULES_VARIABLE}"
        )
    allowed = ", ".join(sorted({*_PACKAGES, *trusted_modules()}))
    return (
        f"{shown} is not of a module that a config may name ({allowed}). If you trust it: {MODULES_VARIABLE}={top}, or "
        "name it on the command line"
    )


def denied_import(error: BaseException) -> str | None:
    """What to say if the parser did not import something that it was told to; None if that is not what went wrong.

    The parser tries all types that an argument may have, and keeps what went wrong with each only in its words.
    """
    denied = re.search(r"Importing '([\w.]+)' is not allowed", str(error))
    return None if denied is None else refusal(denied[1])


def _load_measured(load: Callable[[str], Any], text: str) -> Any:
    """Read YAML whose size is known: a short text with aliases can stand for more than any memory holds."""
    if "\n" in text or "&" in text:
        check_text(text, "the config")
    return load(text)


def _typed_names(arguments: Sequence[str]) -> Iterator[str]:
    """Import paths among the values of options, not of those that name a file."""
    option = ""
    for word in arguments:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
        else:
            equals, value = "=", word
        if not equals or option in _FILE_OPTIONS or os.path.exists(value):
            continue
        try:
            content = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            continue
        yield from import_paths(content)


def import_paths(value: Any) -> Iterator[str]:
    """All strings below a value that could be the import path of something."""
    if isinstance(value, str):
        if "." in value and all(part.isidentifier() for part in value.split(".")):
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from import_paths(part)
    elif isinstance(value, Iterable):
        for part in value:
            yield from import_paths(part)


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """All texts below a node."""
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _scalars(child)
    elif isinstance(node, yaml.MappingNode):
        for _, child in node.value:
            yield from _scalars(child)


def _is_installed(package: str) -> bool:
    """Whether there is a module of this name. A folder that happens to be called so is none."""
    try:
        spec = find_spec(package)
    except (ImportError, AttributeError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def loaded(path: str) -> Any:
    """What an import path stands for, if its module is loaded already; no module is loaded for it."""
    module, _, name = path.rpartition(".")
    if module in sys.modules:
        return getattr(sys.modules[module], name, None)
    owner, _, inner = module.rpartition(".")
    return getattr(getattr(sys.modules.get(owner), inner, None), name, None)


def _own_path(found: Any) -> str:
    """The import path of the place where an object was made."""
    if isinstance(found, functools.partial):
        return _own_path(found.func)
    owner = getattr(found, "__self__", None)
    if owner is not None and not inspect.ismodule(owner) and not inspect.ismethod(found):
        return _own_path(owner)
    named = found if inspect.isroutine(found) or isinstance(found, type) else type(found)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{getattr(named, '__qualname__', named)}"


def _defaults(kind: type) -> dict[str, Any]:
    """The defaults of a class's arguments: what its author chose may be called."""
    defaults: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        try:
            parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        except (TypeError, ValueError):
            continue
        defaults |= {name: parameter.default for name, parameter in parameters.items()}
    return defaults


def _is_plain(value: Any) -> bool:
    """Whether a value is one of the parser's own, such as a path, which can be called to open it."""
    return type(value).__module__.partition(".")[0] == "jsonargparse"


def _within(module: str, parents: Iterable[str]) -> bool:
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)
