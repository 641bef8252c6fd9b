"""The house as CONTRIBUTING.md draws it, held against the imports."""

import ast
import collections
import graphlib
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ss_lightning

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ss_lightning"
# Libraries that only some rooms may know, so that a change of theirs is met in one place.
ONLY_IN = {
    "tonic": {"data", "benchmark"},
    "wandb": {"cli"},
    "jsonargparse": {"parsing", "cli", "benchmark", "export", "experiments"},
    "optuna": {"cli"},
    "triton": {"functional"},
    "numba": {"jit", "functional"},
    "jax": {"benchmark"},
}
SLOW = ("tonic", "wandb", "optuna", "nir")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def is_for_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk(tree):
    """All nodes of a module, those inside functions included, but for imports that only a type checker sees."""
    todo = collections.deque([tree])
    while todo:
        node = todo.popleft()
        yield node
        todo.extend(child for child in ast.iter_child_nodes(node) if not is_for_types_only(child))


def imports(tree):
    """Module and name (None for a whole module) of everything that a module imports anywhere."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


IMPORTS = {name: list(imports(tree)) for name, tree in SOURCES.items()}


def graph(imported):
    """For every module the modules of the package that it imports."""
    edges: dict = {name: set() for name in imported}
    for name, found in imported.items():
        for module, attribute in found:
            target = f"{module}.{attribute}" if f"{module}.{attribute}" in imported else module
            if target in imported and target != "ss_lightning":
                edges[name].add(target)
    return edges


def rooms():
    """The rows of the table in CONTRIBUTING.md: the rooms of each, from the ground up."""
    table = re.findall(r"^\| (`[^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    return [[re.sub(r"/$|\.py$", "", name) for name in re.findall(r"`([\w/.]+)`", row)] for row in table]


def room_of(module):
    return module.split(".")[1]


def test_there_is_no_circle_of_imports():
    list(graphlib.TopologicalSorter(graph(IMPORTS)).static_order())


def test_a_circle_would_be_found():
    one, two = ast.parse("def f():\n    from ss_lightning.b import x"), ast.parse("from ss_lightning import a")
    with pytest.raises(graphlib.CycleError):
        list(
            graphlib.TopologicalSorter(
                graph({"ss_lightning.a": imports(one), "ss_lightning.b": imports(two)})
            ).static_order()
        )


def test_rooms_import_only_from_rows_above_them_in_the_table():
    floor = {room: number for number, row in enumerate(rooms()) for room in row}
    modules = {room_of(name) for name in SOURCES if name != "ss_lightning"}
    assert modules == set(floor), "the table in CONTRIBUTING.md names every room once"
    arrows = {
        (room_of(name), room_of(target))
        for name, targets in graph(IMPORTS).items()
        for target in targets
        if name != "ss_lightning" and room_of(name) != room_of(target)
    }
    assert len(arrows) > 20
    assert not {arrow for arrow in arrows if floor[arrow[0]] <= floor[arrow[1]]}


@pytest.mark.parametrize(("library", "allowed"), ONLY_IN.items())
def test_a_library_is_known_in_its_rooms_only(library, allowed):
    found = {
        room_of(name)
        for name, imported in IMPORTS.items()
        if name != "ss_lightning" and any(module.split(".")[0] == library for module, _ in imported)
    }
    assert found <= allowed


def test_no_module_imports_a_private_name_of_another():
    private = [
        f"{name} imports {attribute} of {module}"
        for name, imported in IMPORTS.items()
        for module, attribute in imported
        if module.startswith("ss_lightning")
        and attribute is not None
        and attribute.startswith("_")
        and attribute not in ("__version__", "_version")
    ]
    assert private == []


def opened_without_encoding(tree):
    """Lines that open a text file in the encoding of the locale."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        binary = any("b" in word for word in words if isinstance(word, str) and len(word) <= 3)
        if name in ("read_text", "write_text") or (name in ("open", "fdopen", "NamedTemporaryFile") and not binary):
            of_a_library = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "Image"
            if not of_a_library:
                yield node.lineno


def test_text_files_are_opened_with_an_encoding():
    """The locale may be ASCII."""
    sample = "path.open('w', newline='')\nopen(x, 'rb')\nx.read_text()"
    assert list(opened_without_encoding(ast.parse(sample))) == [1, 3]
    for path in (ROOT / "ss_lightning").rglob("*.py"):
        lines = list(opened_without_encoding(ast.parse(path.read_text(encoding="utf-8"))))
        assert not lines, f"{path}, lines {lines}: give encoding='utf-8'"


def test_module_names_are_unique():
    stems = collections.Counter(name.rpartition(".")[2] for name, _ in SOURCES.items() if name != "ss_lightning")
    assert [name for name, count in stems.items() if count > 1] == []


def called_references(tree):
    """Names of the ``*_reference`` functions that anything but a reference calls."""

    def search(node, inside):
        if isinstance(node, ast.FunctionDef):
            inside = inside or node.name.endswith("_reference")
        if isinstance(node, ast.Call) and not inside:
            name = ast.unparse(node.func).rpartition(".")[2]
            if name.endswith("_reference"):
                yield name
        for child in ast.iter_child_nodes(node):
            yield from search(child, inside)

    return list(search(tree, False))


def test_references_are_for_tests():
    assert {name: found for name, tree in SOURCES.items() if (found := called_references(tree))} == {}
    assert called_references(ast.parse("def f():\n    return scan_reference(x)")) == ["scan_reference"]


PACKAGES = sorted({module_name(path) for path in PACKAGE.rglob("__init__.py")} - {"ss_lightning.functional.kernels"})


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names(package):
    module = import_module(package)
    assert isinstance(module.__all__, list)
    for name in module.__all__:
        assert hasattr(module, name), name


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", ss_lightning.__version__)


@pytest.mark.slow
def test_slow_libraries_are_not_imported_with_the_package():
    code = f"import ss_lightning.cli.commands, sys; print([n for n in {SLOW!r} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
