"""Pages that are written at build time from the package itself, so that they cannot say something else than the code.

Written into folders called ``generated``, which are not kept in version control:

- the API reference, from the public names and their docstrings;
- every key of a config with type, default and meaning, from the signatures that the command line reads;
- every command, from its own ``--help``;
- the configs that come with the package, from their first comment;
- the tutorials, which are the notebooks of ``notebooks/``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import re
import shutil
import typing
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from docutils import nodes
from jsonargparse import ArgumentParser
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
REFERENCE = DOCS / "reference" / "generated"
TUTORIALS = DOCS / "tutorials" / "generated"

PACKAGE = "ss_lightning"
# Pages of the API reference in their order: title, what the page is about, and what it shows. "*" stands for all
# public names of a module that no earlier page has shown.
API = {
    "classifiers": (
        "Classifiers and networks",
        "Networks of spiking neurons, and the Lightning modules that train them.",
        {
            PACKAGE: ["MLPClassifier", "ConvClassifier", "SpikingClassifier", "MLP", "ConvNet"],
            "ss_lightning.networks": "*",
        },
    ),
    "neurons": (
        "Neurons",
        "Neurons for snnTorch code, and layers for them.",
        {
            PACKAGE: [
                "SingleSpikeLeaky",
                "SingleSpikeSynaptic",
                "StandardSingleSpikeLeaky",
                "MultiSpikeLeaky",
                "LeakyReadout",
                "reset",
            ],
            "ss_lightning.delayed_linear": "*",
        },
    ),
    "surrogates": (
        "Surrogate gradients",
        "The derivative that takes the place of the derivative of a step.",
        {PACKAGE: ["FastSigmoid", "ATan", "Triangle"], "ss_lightning.surrogate": "*"},
    ),
    "data": (
        "Data",
        "Batches of events, and the Lightning data modules that make them.",
        {
            PACKAGE: [
                "EventBatch",
                "EventData",
                "EventDataModule",
                "YinYangData",
                "MNISTData",
                "FashionMNISTData",
                "SHDData",
            ],
            "ss_lightning.data": "*",
        },
    ),
    "functional": (
        "Functions",
        "The equations as functions of time-major tensors `[T, B, N]`. Each fast function has a readable reference.",
        {PACKAGE: ["single_spike"], "ss_lightning.functional": "*"},
    ),
    "losses": (
        "Losses, metrics and calibration",
        "What a training minimises and what an evaluation reports.",
        {f"ss_lightning.{name}": "*" for name in ("losses", "metrics", "energy", "calibration")},
    ),
    "plots": ("Pictures", "Pictures of spikes and membranes from arrays.", {"ss_lightning.plots": "*"}),
    "export": ("Export", "Trained networks for other tools.", {"ss_lightning.export": "*"}),
    "package": ("Errors and the rest", "Errors caused by user input, and further names.", {PACKAGE: "*"}),
}
# Packages whose every public name must be shown.
PACKAGES = (
    PACKAGE,
    "ss_lightning.data",
    "ss_lightning.functional",
    "ss_lightning.networks",
    "ss_lightning.export",
)
# Hooks that Lightning calls and a reader does not.
HOOKS = re.compile(r"^(on_|(training|validation|test)_step$)")
COMMANDS = ("fit", "validate", "test", "predict", "report", "results", "folds", "sweep", "export", "benchmark")


# Public names ---------------------------------------------------------------------------------------------------------


def public_names(module: ModuleType) -> list[str]:
    """``__all__`` of a module; without one, the public classes and functions that it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return [name for name in listed if not name.startswith("__")]
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    ]


def api_entries() -> dict[str, list[tuple[str, Any]]]:
    """For each page the full names it shows and what they stand for; everything is shown once."""
    seen: set[int] = set()
    pages: dict[str, list[tuple[str, Any]]] = {}
    for page, (_, _, modules) in API.items():
        pages[page] = []
        for module_name, chosen in modules.items():
            module = import_module(module_name)
            for name in public_names(module) if chosen == "*" else chosen:
                thing = getattr(module, name)
                if id(thing) not in seen:
                    seen.add(id(thing))
                    pages[page].append((f"{module_name}.{name}", thing))
    return pages


def kind_of(thing: Any) -> str:
    """The autodoc directive for something."""
    if inspect.isclass(thing):
        return "exception" if issubclass(thing, BaseException) else "class"
    return "function" if inspect.isroutine(thing) else "data"


def api_page(title: str, about: str, entries: list[tuple[str, Any]]) -> str:
    """One page: a table of its names, then the docstrings."""
    table = "\n".join(f"   {name}" for name, thing in entries if kind_of(thing) != "data")
    parts = [f"# {title}\n\n{about}\n\n```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n{table}\n```\n"]
    for name, thing in entries:
        kind = kind_of(thing)
        heading = f"## {name.rpartition('.')[2]}"
        if kind == "data":  # constants and types: their value says it
            directive = f".. py:data:: {name}\n   :value: {' '.join(str(thing).split())}\n"
        else:
            options = "   :members:\n   :show-inheritance:\n" if kind == "class" else ""
            directive = f".. auto{kind}:: {name}\n{options}"
        parts.append(f"{heading}\n\n```{{eval-rst}}\n{directive}```\n")
    return "\n".join(parts)


# Keys of configs ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Key:
    """One key of a config."""

    name: str
    type: str
    default: str
    meaning: str


def keys_of(cls: type, skip: tuple[str, ...] = ()) -> list[Key]:
    """The arguments of a class as the command line reads them."""
    parser = ArgumentParser()
    parser.add_class_arguments(cls, "x", fail_untyped=False)
    keys = []
    for action in parser._actions:
        name = action.dest.removeprefix("x.")
        kind = getattr(action, "_typehint", None) or action.type
        if not action.dest.startswith("x.") or name in skip or action.default == "==SUPPRESS==":
            continue
        default = "required" if action.required else in_yaml(action.default)
        keys.append(Key(name, type_words(kind), default, one_line(action.help or "")))
    return keys


def in_yaml(value: Any) -> str:
    """A default as it is written in a config."""
    if isinstance(value, tuple):
        value = list(value)
    if dataclasses.is_dataclass(value) or not isinstance(value, bool | int | float | str | list | dict | type(None)):
        return "see its keys"
    if isinstance(value, dict):
        return "{}" if not value else "see its keys"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def type_words(kind: Any) -> str:
    """A type in the words of a config."""
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", type(None): "null"}
    if kind in words:
        return words[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{in_yaml(value)}`" for value in arguments)
    if arguments and (origin is typing.Union or str(origin) == "<class 'types.UnionType'>"):
        return " or ".join(dict.fromkeys(type_words(part) for part in arguments))
    if arguments and isinstance(origin, type):
        inner = list(dict.fromkeys(type_words(part) for part in arguments if part is not Ellipsis))
        plain = len(inner) == 1 and " or " not in inner[0] and inner[0] in words.values()
        return f"list of {inner[0]}s" if plain else f"list ({', '.join(inner)})"
    return re.sub(r"\b[\w.]+\.(\w+)", r"\1", getattr(kind, "__name__", str(kind)))


def one_line(text: str) -> str:
    """A docstring's entry in one line of Markdown: its roles become code, its literals single backticks."""
    text = re.sub(r":\w+:`~?([^`<]+?)`", lambda found: f"`{found[1]}`", " ".join(text.split()))
    text = re.sub(r"``(.+?)``", r"`\1`", text).replace("|", r"\|")
    return text[:1].upper() + text[1:]


def key_table(keys: list[Key], prefix: str) -> str:
    """Keys as a Markdown table."""
    rows = [
        f"| `{prefix}{key.name}` | {key.type} | {key.default if key.default == 'required' else f'`{key.default}`'} "
        f"| {key.meaning} |"
        for key in keys
    ]
    return "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def key_page() -> str:
    """Every key of a config."""
    package, data = import_module(PACKAGE), import_module("ss_lightning.data")
    linked = ("input_shape", "num_classes", "step_ms")
    mlp, conv = keys_of(package.MLPClassifier, linked), keys_of(package.ConvClassifier, linked)
    common = {key.name for key in mlp if key in conv}
    modules = [
        thing
        for name in data.__all__
        if inspect.isclass(thing := getattr(data, name))
        and issubclass(thing, data.EventDataModule)
        and thing not in (data.EventDataModule, data.EventData)
    ]
    everywhere = keys_of(data.EventDataModule)
    shared = {key.name for key in everywhere}
    pictures = import_module("ss_lightning.cli.lightning_cli").Pictures
    parts = [
        (DOCS / "_extensions" / "config_keys.md").read_text(encoding="utf-8"),
        "## model: both classifiers\n",
        key_table([key for key in mlp if key.name in common], "model."),
        "## model: MLPClassifier\n\nFully connected networks, `class_path: ss_lightning.MLPClassifier`.\n",
        key_table([key for key in mlp if key.name not in common], "model."),
        "## model: ConvClassifier\n\nConvolutional networks, `class_path: ss_lightning.ConvClassifier`.\n",
        key_table([key for key in conv if key.name not in common], "model."),
        "## data: every data set\n\nA data set may have other defaults; its own table then says so.\n",
        key_table(everywhere, "data."),
    ]
    defaults = {key.name: key.default for key in everywhere}
    for module in modules:
        own = [key for key in keys_of(module) if key.name not in shared or key.default != defaults[key.name]]
        about = one_line((module.__doc__ or "").strip().split("\n\n")[0])
        parts += [
            f"## data: {module.__name__}\n\n`class_path: ss_lightning.data.{module.__name__}`. {about}\n",
            key_table(own, "data.") if own else "",
        ]
    parts += ["## pictures\n", key_table(keys_of(pictures), "pictures.")]
    return "\n".join(parts)


# Commands, configs, notebooks -----------------------------------------------------------------------------------------


def help_of(command: str) -> str:
    """What ``python -m ss_lightning COMMAND --help`` prints, without Lightning's hundreds of keys."""
    main = import_module("ss_lightning.cli.commands").main
    out, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([command, "--help"])
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    if command in ("fit", "validate", "test", "predict"):
        text = text.split("\noptions:")[0]
    return text.strip()


def command_page() -> str:
    """The help of every command."""
    parts = [(DOCS / "_extensions" / "commands.md").read_text(encoding="utf-8")]
    parts += [f"## {command}\n\n```text\n{help_of(command)}\n```\n" for command in COMMANDS]
    return "\n".join(parts)


def config_page() -> str:
    """The configs that come with the package, with what they say of themselves."""
    parts = [(DOCS / "_extensions" / "configs.md").read_text(encoding="utf-8")]
    folders = {
        "": "First choices",
        "own": "Your own data",
        "quick": "Trained in seconds",
        "best": "Highest accuracy",
        "paper": "Recipes of the paper",
        "sweeps": "Sweep files",
    }
    found = {path.parent.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    for folder in sorted(found, key=lambda name: [*folders, name.strip(".")].index(name.strip("."))):
        key = folder.strip(".")
        rows = []
        for path in sorted((ROOT / "configs" / folder).glob("*.yaml")):
            comment = re.match(r"(# .*\n)+", path.read_text(encoding="utf-8"))
            words = " ".join(line.removeprefix("# ") for line in (comment[0] if comment else "").splitlines())
            words = re.sub(r"(?<![\w-])(--[\w.]+)", r"`\1`", words.replace("|", r"\|").replace("<", r"\<"))
            rows.append(f"| `{path.relative_to(ROOT).as_posix()}` | {words} |")
        title = folders.get(key, key)
        parts.append("\n".join([f"## {title}\n", "| file | what it is |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)


def pages() -> Iterator[tuple[Path, str]]:
    """All generated pages and their text."""
    entries = api_entries()
    for page, (title, about, _) in API.items():
        yield REFERENCE / f"{page}.md", api_page(title, about, entries[page])
    yield REFERENCE / "config_keys.md", key_page()
    yield REFERENCE / "commands.md", command_page()
    yield REFERENCE / "configs.md", config_page()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield TUTORIALS / notebook.name, notebook.read_text(encoding="utf-8")


def write_pages(app: Sphinx, config: Any) -> None:
    """Write what has changed, and remove what is no longer made."""
    made = set()
    for path, text in pages():
        path.parent.mkdir(parents=True, exist_ok=True)
        made.add(path)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
    for folder in (REFERENCE, TUTORIALS):
        for path in set(folder.iterdir()) - made:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@cache
def shown_names() -> dict[int, str]:
    """The name under which the reference shows something, by its identity."""
    return {id(thing): name for entries in api_entries().values() for name, thing in entries}


# References -----------------------------------------------------------------------------------------------------------


def documented_name(target: str, module: str) -> str | None:
    """The name under which the reference shows what ``target`` means; None for what is not shown."""
    shown = shown_names()
    for name in (target, f"{module}.{target}"):
        parts = name.split(".")
        if parts[0] != PACKAGE:
            continue
        for cut in range(len(parts) - 1, 0, -1):
            try:
                thing: Any = import_module(".".join(parts[:cut]))
            except ImportError:
                continue
            for depth in range(cut, len(parts)):
                thing = getattr(thing, parts[depth], None)
                if id(thing) in shown and thing is not None:
                    return ".".join([shown[id(thing)], *parts[depth + 1 :]])
            break
    return None


def exists(target: str) -> bool:
    """Whether a full name of ours stands for something, also for something that the reference does not show."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing: Any = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(thing, part) and part not in getattr(thing, "__annotations__", {}):
                return False
            thing = getattr(thing, part, None)
        return True
    return False


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """Find a name of ours under the name it is shown by.

    Names of other packages and names that the reference does not show become plain text. Only a name of ours that does
    not exist is left to Sphinx, which then warns.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    name = documented_name(target, node.get("py:module") or "")
    objects = env.domains.python_domain.objects
    if name is None and "." in target:
        found = [known for known in objects if known.endswith(f".{target}")]
        name = found[0] if len(found) == 1 else None
    if name in objects:
        entry = objects[name]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)
    return None if target.split(".")[0] == PACKAGE and not exists(target) else content


def show_public_bases(app: Sphinx, name: str, thing: Any, options: Any, bases: list[Any]) -> None:
    """In the place of a base that the reference does not show, show that one's bases."""
    while hidden := [base for base in bases if is_hidden(base)]:
        at = bases.index(hidden[0])
        bases[at : at + 1] = [base for base in hidden[0].__bases__ if base not in bases]
    if len(bases) > 1 and object in bases:
        bases.remove(object)


def is_hidden(base: Any) -> bool:
    """Whether a class is one of ours that the reference does not show."""
    ours = inspect.isclass(base) and base.__module__.split(".")[0] == PACKAGE
    return ours and id(base) not in shown_names()


def leave_out(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out hooks that Lightning calls, and fields of named tuples, which the docstring explains."""
    if HOOKS.match(name) or type(thing).__name__ == "_tuplegetter":
        return True
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for them."""
    app.connect("config-inited", write_pages)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-bases", show_public_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
