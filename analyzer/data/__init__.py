"""The workload that ships with the project: a year of Mesa's CI as jobs and layers (see SOURCES.md)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def mesa_files() -> tuple[Path, Path]:
    """The jobs and the layers of the Mesa year 2023-03-01 to 2024-03-01, as gzip-compressed CSV."""
    folder = Path(str(files(__name__)))
    return folder / "mesa-ci-2023-jobs.csv.gz", folder / "mesa-ci-2023-layers.csv.gz"
