"""Run notebooks and store them with their output: ``python notebooks/execute.py notebooks/*.ipynb``.

Pictures are stored with a palette, which keeps a notebook small at a resolution that can be read.
"""

import base64
import io
import sys
from pathlib import Path

import nbclient
import nbformat
from PIL import Image


def lighten(png):
    """A picture in base64 with at most 128 colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    out = io.BytesIO()
    picture.quantize(128, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode() + "\n"


def execute(path):
    """Run one notebook in its folder and store it."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = lighten(output.data["image/png"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
        print(name)
