"""The notebooks run from start to end, on less data than their readers see, and keep their pictures."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[1] / "notebooks"
# In the place of the cell tagged "parameters".
SMALL = {
    "single_spike_in_snntorch": "NUM_TRAIN, NUM_TEST, NUM_STEPS, EPOCHS = 400, 100, 12, 1",
    "how_it_works": "NUM_TRAIN, EPOCHS = 400, 2",
    "reproduction": 'RESULTS = "../results"',
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def pictures(notebook):
    return sum("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", []))


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name):
    notebook = read(name)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    given = {line.split("=")[0].strip() for line in parameters.source.splitlines()}
    assert sorted(", ".join(given).split(", ")) == sorted(SMALL[name].split(" = ")[0].split(", "))
    parameters.source = SMALL[name]
    # Raises with the traceback of the cell that fails.
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert pictures(notebook) >= 3


@pytest.mark.parametrize("name", SMALL)
def test_what_is_stored_is_whole_and_light(name):
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [out for cell in code for out in cell.outputs]
    assert not any(out.output_type == "error" or out.get("name") == "stderr" for out in outputs)
    assert pictures(notebook) >= 3
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000
