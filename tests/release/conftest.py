"""What is released, built once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.engine import machine as machines
from tests.engine.machine import Machine
from tests.needs import cannot_run
from tools.dist import SUITES, debian_package


@pytest.fixture
def root() -> Path:
    """What the machine boots from; a test that is parametrised with `root` boots from others, too."""
    return machines.ROOT


@pytest.fixture(scope="session")
def package_for(state_root: Path) -> Callable[[str], Path]:
    """Builds the package for a Debian release, once for all tests."""
    return cache(lambda suite: debian_package(suite, state_root / "deb" / suite))


@pytest.fixture
def package(package_for: Callable[[str], Path], root: Path) -> Path:
    """The package for the release that the machine runs."""
    if (reason := machines.unavailable(root)) is not None:
        cannot_run(reason)
    release = dict(line.split("=", 1) for line in (root / "etc/os-release").read_text().splitlines())
    suite = release["VERSION_CODENAME"]
    if suite not in SUITES:
        cannot_run(f"there is no package for {suite}")
    return package_for(suite)


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
