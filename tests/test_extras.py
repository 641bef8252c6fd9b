"""Every extra has releases for every Python that the package supports; pip asks the package index."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib")
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def needed(extra, python):
    """The requirements of an extra on a Python, those of the extras that it names included."""
    found = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.marker is not None and not requirement.marker.evaluate({"python_version": python}):
            continue
        if requirement.name == PROJECT["name"]:
            found |= set().union(*(needed(other, python) for other in requirement.extras))
        else:
            found.add(f"{requirement.name}{requirement.specifier}")
    return found


def asked(requirements, python):
    """What pip says of requirements on a Python that need not be installed here."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--target",
        "none",
    ]
    command += ["--quiet", "--python-version", python, *sorted(requirements)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def index():
    if asked({"packaging"}, "3.12").returncode:
        pytest.skip("no package index can be reached")


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_every_extra_has_releases(index, python):
    requirements = set().union(*(needed(extra, python) for extra in EXTRAS))
    answer = asked(requirements, python)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_a_release_that_is_not_there_is_found(index):
    """Negative control: this is what there was for Python 3.10."""
    assert asked({"pyarrow>=26"}, "3.10").returncode != 0


def test_markers_cover_the_oldest_python():
    assert needed("bench", "3.10") == {"norse>=1.1"}
    assert needed("parquet", "3.10") == {"pyarrow>=22"}
    assert needed("parquet", "3.11") == {"pyarrow>=26"}
