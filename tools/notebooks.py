"""Runs the notebooks from top to bottom and writes their output into them."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook as it is."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook as it is after a run in its own folder. Raises CellExecutionError."""
    notebook = read(path)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the run would change the file each time
    return notebook


if __name__ == "__main__":
    for place in sorted(FOLDER.glob("*.ipynb")):
        sys.stderr.write(f"{place.name}\n")
        nbformat.write(execute(place), place)
