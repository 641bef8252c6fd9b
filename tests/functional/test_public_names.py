"""Every public name of the modules of ``functional`` is in its ``__all__``, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

from ss_lightning import functional


def defined(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def test_all_is_complete() -> None:
    modules = Path(functional.__file__).parent.glob("*.py")
    expected = set().union(*(defined(path) for path in modules if path.stem != "__init__"))
    assert len(expected) > 40
    assert set(functional.__all__) == expected
    assert all(hasattr(functional, name) for name in functional.__all__)
