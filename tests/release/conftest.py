"""What is released, built once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import machine as machines
from tests.engine.machine import Machine
from tests.needs import cannot_run
from tools.dist import SUITES, debian_package


@pytest.fixture(scope="session")
def package(state_root: Path) -> Path:
    """The package for the release that the machines run."""
    if (reason := machines.unavailable()) is not None:
        cannot_run(reason)
    release = dict(line.split("=", 1) for line in (machines.ROOT / "etc/os-release").read_text().splitlines())
    suite = release["VERSION_CODENAME"]
    if suite not in SUITES:
        cannot_run(f"there is no package for {suite}")
    return debian_package(suite, state_root / "deb")


@pytest.fixture
def bare(state_root: Path) -> Iterator[Machine]:
    """A machine without an engine, and without a compiler."""
    if (reason := machines.unavailable()) is not None:
        cannot_run(reason)
    folder = state_root / "bare"
    (folder / "nothing").mkdir(parents=True, exist_ok=True)
    made = Machine(folder / "machine", None, folder / "nothing", folder / "nothing", state_root)
    yield made
    made.stop()
