"""Which room may know which: the rules of CONTRIBUTING.md, held against the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import ss_lightning

PACKAGE = Path(ss_lightning.__file__).parent

# What each room may import of the others.
ALLOWED = {
    "_version": set(),
    "errors": set(),
    "events": set(),
    "files": set(),
    "renamed": set(),
    "signatures": {"renamed"},
    "surrogate": set(),
    "jit": set(),
    "functional": {"events", "jit", "surrogate"},
    "neurons": {"functional", "signatures", "surrogate"},
    "delayed_linear": {"events", "functional"},
    "networks": {"delayed_linear", "events", "functional", "neurons", "renamed", "signatures", "surrogate"},
    "losses": set(),
    "metrics": {"events", "networks"},
    "calibration": {"networks"},
    "module": {"calibration", "delayed_linear", "errors", "losses", "metrics", "networks", "signatures"},
    "data": {"errors", "events", "files", "jit", "renamed", "signatures"},
    "plots": set(),
    "parsing": {"errors"},
    "runs": {"errors", "files", "events", "losses", "module", "networks", "plots"},
    "cli": {"renamed", "benchmark", "data", "errors", "files", "export", "parsing", "plots", "runs"},
    "experiments": {"data", "errors", "files", "losses", "networks", "plots", "runs"},
    "benchmark": {"data", "errors", "files", "events", "functional", "networks", "neurons", "parsing", "surrogate"},
    "export": {"_version", "errors", "files", "module", "networks", "neurons", "parsing", "runs", "surrogate"},
    "__main__": {"cli"},
}
ONLY_IN = {"tonic": {"data", "benchmark"}, "wandb": {"runs", "cli"}, "nir": {"export"}}


def imports():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((room, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                if node.module == "ss_lightning":
                    yield from ((room, f"ss_lightning.{alias.name}") for alias in node.names)
                else:
                    yield room, str(node.module)


def test_every_room_imports_only_what_it_may():
    seen = 0
    for room, name in imports():
        parts = name.split(".")
        if parts[0] == "ss_lightning" and len(parts) > 1 and parts[1] != room:
            seen += 1
            assert parts[1] in ALLOWED[room], f"{room} imports {name}"
        if parts[0] in ONLY_IN:
            assert room in ONLY_IN[parts[0]], f"{room} imports {name}"
    assert seen > 20


def test_slow_libraries_are_not_imported_with_the_package():
    code = "import ss_lightning.cli.commands, sys; print([n for n in ('tonic', 'wandb', 'optuna') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names():
    for name in ss_lightning.__all__:
        assert hasattr(ss_lightning, name)
    assert ss_lightning.__version__.count(".") == 2
