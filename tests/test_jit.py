"""How kernels are compiled and stored: without a folder to write to, after an edit, and without numba at start-up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ss_lightning
from ss_lightning import jit

SUM_ROWS = """
import sys
import numpy as np
from ss_lightning import jit
if sys.argv[1] == "alone":
    jit._source_digest = lambda folder: ""
from ss_lightning.functional.kernels.rows_numba import add_rows
total = np.zeros(48, np.float32)
add_rows(total, np.ones((1, 48), np.float32), np.zeros(1, np.uint32), 0, 1)
print(total.min(), total.max(), sum(add_rows.stats.cache_hits.values()))
"""

WITHOUT_A_FOLDER = """
import warnings
import numpy as np
import torch
from ss_lightning import binning
from ss_lightning.functional import choose_backend
from ss_lightning.surrogate import FastSigmoid
events = np.array([0.5, 2.5]), np.array([1, 0]), np.array([0, 2]), np.array([0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    units, offsets = binning.bin_events(*events, num_steps=3, step_length=1.0, num_units=2)
    kernels = choose_backend("auto", torch.device("cpu"), torch.float32, FastSigmoid())
    total = np.zeros(3)
    kernels.copy_row(total, np.arange(3.0))
print(units.tolist(), offsets.tolist(), total.tolist())
print(kernels.__name__, len(binning._bin_events_loop.dispatcher().signatures), len(kernels.copy_row.signatures))
print(type(kernels.copy_row._cache).__name__)
print(*(str(w.message) for w in caught if "compiled kernels" in str(w.message)), sep="\\n")
"""


@pytest.fixture
def copied(tmp_path: Path):
    """Runs a program with a copy of the package and gives its lines; no Lightning in the root, which saves seconds."""
    package = tmp_path / "ss_lightning"
    shutil.copytree(Path(ss_lightning.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("from ss_lightning._version import __version__\n")

    def run(code: str, *arguments: str, **environment: str) -> list[str]:
        inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        inherited |= {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"} | environment
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=inherited, cwd=tmp_path, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    run.package = package
    return run


@pytest.mark.slow
def test_an_edited_helper_is_compiled_again(copied) -> None:
    """``add_rows`` lies in another file than the sum that is edited; numba alone reads the old one from the disk."""
    alone = {"NUMBA_CACHE_DIR": str(copied.package / "alone")}
    assert copied(SUM_ROWS, "ours") == ["1.0 1.0 0"]
    assert copied(SUM_ROWS, "ours") == ["1.0 1.0 1"]
    assert copied(SUM_ROWS, "alone", **alone) == ["1.0 1.0 0"]
    helper = copied.package / "functional" / "kernels" / "llvm.py"
    source, plus = helper.read_text(), "lambda a, b: self.builder.fadd(a, b,"
    assert source.count(plus) == 1
    helper.write_text(source.replace(plus, plus.replace("fadd", "fsub")))
    assert copied(SUM_ROWS, "ours") == ["-1.0 -1.0 0"]
    assert copied(SUM_ROWS, "alone", **alone) == ["1.0 1.0 1"], "numba now sees helpers by itself: drop the digest"


@pytest.mark.slow
def test_without_a_folder_to_write_to_kernels_are_compiled_for_the_process(copied, tmp_path: Path) -> None:
    """Files stand where the folders would have to be: that stops root too, unlike a read-only folder."""
    for folder in ("data", "functional/kernels"):
        (copied.package / folder / "__pycache__").write_text("not a folder")
    (tmp_path / "home").write_text("not a folder")
    home = str(tmp_path / "home")
    results, signatures, cache, *warned = copied(WITHOUT_A_FOLDER, HOME=home, XDG_CACHE_HOME=home)
    assert results == "[1, 0] [0, 1, 1, 2] [0.0, 1.0, 2.0]"
    assert signatures == "ss_lightning.functional.kernels.network_numba 1 1"
    assert cache == "NullCache"
    assert len(warned) == 1
    assert "NUMBA_CACHE_DIR" in warned[0]
    assert "no locator available" in warned[0]

    written = tmp_path / "elsewhere"
    results_again, _, cache, *warned = copied(
        WITHOUT_A_FOLDER, HOME=home, XDG_CACHE_HOME=home, NUMBA_CACHE_DIR=str(written)
    )
    assert (results_again, cache, "".join(warned)) == (results, "FunctionCache", "")
    assert list(written.rglob("*.nbi"))


@pytest.mark.slow
def test_numba_is_not_imported_before_the_first_kernel() -> None:
    code = (
        "import sys, ss_lightning.data, ss_lightning.functional\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('numba', 'llvmlite')])\n"
        "import ss_lightning.functional.kernels.loops_numba\n"
        "print('numba' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "True"]


@pytest.mark.parametrize("member", jit.NUMBA_MEMBERS)
def test_numba_still_has(member: str) -> None:
    """Members that its documentation does not promise; those of an instance are looked up on one."""
    from ss_lightning.functional.kernels.loops_numba import fill_row

    module, owner, name = member.rsplit(".", 2)
    kind = getattr(import_module(module), owner)
    dispatcher = jit.compiled(fill_row.py_func)
    instances = [dispatcher, dispatcher._cache, getattr(dispatcher._cache, "_cache_file", None)]
    found = [instance for instance in instances if isinstance(instance, kind)]
    assert found, f"numba: no object of {owner} is in use"
    assert hasattr(found[0], name), f"numba: {member} is gone"


def test_what_is_compiled_when_called_shows_its_name_and_compiles_once() -> None:
    def twice(x):
        """Two times x."""
        return 2 * x

    lazy = jit.compiled_when_called(twice)
    assert lazy.__doc__ == "Two times x."
    assert lazy(3) == 6
    assert lazy.dispatcher() is lazy.dispatcher()
    assert len(lazy.dispatcher().signatures) == 1
