"""``import ss_lightning`` imports no library, and every public name is there when it is asked for."""

import subprocess
import sys

import pytest

import ss_lightning


def names_after(code, *libraries):
    """Those of the libraries that are imported once the code has run in a process of its own."""
    program = f"{code}\nimport sys\nprint([name for name in {list(libraries)!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_the_package_alone_imports_no_library():
    assert names_after("import ss_lightning", "torch", "lightning", "snntorch", "numba") == "[]"


@pytest.mark.slow
def test_the_maths_needs_torch_alone():
    code = "import ss_lightning.functional.network, ss_lightning.benchmark.cells"
    others = ("lightning", "snntorch", "numba", "jsonargparse", "matplotlib", "pandas", "torchmetrics", "tonic", "rich")
    assert names_after(code, "torch", *others) == "['torch']"


def test_dir_lists_public_names_and_modules():
    assert {*ss_lightning.__all__, "data", "functional"} <= set(dir(ss_lightning))


def test_a_name_is_the_same_object_as_in_its_module():
    from ss_lightning import MLP, data, single_spike
    from ss_lightning.functional.single_spike import single_spike as original

    assert single_spike is original
    assert MLP.__module__.startswith("ss_lightning.networks")
    assert data.SHDData is ss_lightning.SHDData


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="module 'ss_lightning' has no attribute 'Mlp'"):
        _ = ss_lightning.Mlp
