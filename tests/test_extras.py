"""Every extra has releases for every Python that the package supports, by the files on the package index."""

import json
import urllib.request
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

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


@cache
def releases(name):
    """The files of a project on the package index: its version, the Pythons that it admits, the tags of a wheel."""
    url = f"https://pypi.org/simple/{canonicalize_name(name)}/"
    request = urllib.request.Request(url, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    found = []
    for file in files:
        try:
            if file["filename"].endswith(".whl"):
                _, version, _, tags = parse_wheel_filename(file["filename"])
            else:
                (_, version), tags = parse_sdist_filename(file["filename"]), None
            found.append((version, SpecifierSet(file["requires-python"] or ""), tags))
        except ValueError:  # files of another age
            continue
    return found


def fits(tag, python):
    minor = int(python.partition(".")[2])
    known = {"py3", *(f"py3{number}" for number in range(minor + 1)), f"cp3{minor}"}
    stable = tag.abi == "abi3" and tag.interpreter.startswith("cp3") and int(tag.interpreter[3:] or 0) <= minor
    return tag.interpreter in known or stable


def has_release(requirement, python):
    specifier = Requirement(requirement).specifier
    return any(
        version in specifier
        and pythons.contains(f"{python}.0")
        and (tags is None or any(fits(t, python) for t in tags))
        for version, pythons, tags in releases(Requirement(requirement).name)
    )


@pytest.fixture(scope="module")
def index():
    try:
        releases("packaging")
    except OSError:
        pytest.skip("no package index can be reached")


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_every_extra_has_releases(index, python):
    requirements = set().union(*(needed(extra, python) for extra in EXTRAS))
    assert [one for one in sorted(requirements) if not has_release(one, python)] == []


@pytest.mark.slow
def test_a_release_that_is_not_there_is_found(index):
    """Negative control: this is what there was for Python 3.10."""
    assert not has_release("pyarrow>=26", "3.10")
    assert has_release("pyarrow>=26", "3.11")
    assert not has_release("spikingjelly>=2.0", "3.10")


def test_markers_cover_the_oldest_python():
    assert needed("bench", "3.10") == {"norse>=1.1"}
    assert needed("parquet", "3.10") == {"pyarrow>=22"}
    assert needed("parquet", "3.11") == {"pyarrow>=26"}
