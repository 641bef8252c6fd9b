"""Every Python block of docs/ runs, those of one page one after the other, and prints what the page says."""

import contextlib
import importlib
import io
import re
import sys
from pathlib import Path

import pytest

from ss_lightning.metrics import EvaluationMetrics

DOCS = Path(__file__).parents[1] / "docs"
# Pages that people write; those in folders called "generated" are made by the build, which checks them.
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if not {"generated", "_build", "_extensions"} & set(path.relative_to(DOCS).parts)
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NEEDS = {"export.md": "nir", "neurobench.md": "neurobench"}


def blocks(page):
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


WITH_EXAMPLES = [page for page in PAGES if any(language == "python" for language, _ in blocks(page))]


def test_pages_with_examples_are_found():
    assert {"start.md", "snntorch.md", "howto/own_data.md", "explanation/model.md"} <= set(WITH_EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples(page, tmp_path, monkeypatch):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    printed = ""
    for language, content in blocks(page):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(content, page, "exec"), namespace)
            printed = out.getvalue()
        elif language == "text":
            assert printed == content


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Those to generated pages and to anchors are checked by the build."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (DOCS / page).read_text(encoding="utf-8")):
        found = target.startswith("http") or "generated/" in target or ((DOCS / page).parent / target).exists()
        assert found, target


def test_every_page_stands_in_a_table_of_contents():
    listed = set()
    for page in PAGES:
        for toctree in re.findall(r"^```{toctree}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S):
            entries = [line.split("<")[-1].strip("> ") for line in toctree.splitlines() if line and line[0] != ":"]
            listed |= {((DOCS / page).parent / f"{entry}.md").relative_to(DOCS).as_posix() for entry in entries}
    assert set(PAGES) - {"index.md"} <= listed


def test_every_metric_is_explained():
    page = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    names = {
        name.split("/")[0]
        for name, _ in EvaluationMetrics(3, [4, 5], 1.0, weight_uses=9, fires_once=True).named_metrics()
    }
    assert {"accuracy", "spikes_per_sample"} <= names
    assert names == set(re.findall(r"^\| `(\w+)` \|", page, re.M))


@pytest.fixture
def generated_pages(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    yield importlib.import_module("generated_pages")
    sys.modules.pop("generated_pages")


def test_the_reference_shows_every_public_name_once(generated_pages):
    shown = [name for entries in generated_pages.api_entries().values() for name, _ in entries]
    assert len(shown) == len(set(shown))
    things = {id(thing) for entries in generated_pages.api_entries().values() for _, thing in entries}
    for module in map(importlib.import_module, generated_pages.PACKAGES):
        for name in module.__all__:
            assert name == "__version__" or id(getattr(module, name)) in things, name


def test_the_page_of_config_keys_has_types_defaults_and_meanings(generated_pages):
    page = generated_pages.key_page()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    keys = {row[0].strip("`"): row[1:] for row in rows}
    hidden = [row[1:3] for row in rows if row[0] == "`model.hidden`"]
    assert hidden == [["list of whole numbers", f"`[{size}]`"] for size in (300, 1000)]
    assert keys["model.decoder"][:2] == ["`sum`, `max`, `softmax`, `first_spike`", "`sum`"]
    assert keys["data.batch_size"][:2] == ["whole number", "`128`"]
    assert "data.augment.unit_shift" in keys
    assert all(len(row) == 4 for row in rows)
    generated = [name for name in keys if name.startswith(("model.", "data.", "pictures."))]
    assert len(generated) > 50
    assert not [name for name in generated if not keys[name][2].strip()]
