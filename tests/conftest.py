"""Fixtures: a private registry and private engines, removed again whatever happens."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from collector.entry import collect_seldom
from collector.eventlog.log import EventLog
from tests import made_once
from tests.engine import leftovers, machine
from tests.engine.engines import GIB, STORES, VARIANTS, Engine, available
from tests.engine.registry import Registry
from tests.needs import UNDER_CI, cannot_run, examples
from tests.shares import with_long_ones_first

MakeEngine = Callable[..., Engine]

# How fast examples come says nothing on a busy machine. A gate judges a change, so it tries the same examples
# each time; whoever works on the code tries new ones, and a failure prints the blob that brings it back.
settings.register_profile(
    "here",
    max_examples=examples(100),
    deadline=None,
    derandomize=UNDER_CI,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("here")
collect_seldom()
made_once.share_commands()
made_once.share_bytecode()


@pytest.fixture(scope="session", autouse=True)
def shared_empty_log(tmp_path_factory: pytest.TempPathFactory) -> None:
    made_once.share_empty_log(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A log that does not exist yet."""
    return EventLog(tmp_path / "events.duckdb", host="runner")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """What needs a whole year of a project's CI is slow; of what is chosen then, the long tests begin first."""
    for item in items:
        if "mesa_log" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    yield
    items[:] = with_long_ones_first(items)


@pytest.fixture(scope="session")
def state_root() -> Iterator[Path]:
    """A folder for all that this run starts."""
    with leftovers.state_root() as root:
        yield root


@pytest.fixture(scope="session")
def registry(state_root: Path) -> Iterator[Registry]:
    """A private registry."""
    if shutil.which("docker-registry") is None:
        cannot_run("docker-registry is not installed: run .ci/install-packages")
    made = Registry(state_root / "registry")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def programs(state_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our commands as a user installs them, for machines and for users who cannot reach this environment.

    Installed once, whichever worker needs them first; each has a copy where such users reach it.
    """
    if (reason := machine.unavailable()) is not None:
        cannot_run(reason)

    def made() -> Path:
        return machine.install_package(tmp_path_factory.mktemp("package"))

    installed = made_once.once_for_all_workers(tmp_path_factory, "programs", made)
    return Path(shutil.copytree(installed, state_root / "programs", symlinks=True))


@pytest.fixture
def make_engine(state_root: Path, request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    """Makes and starts engines; they end with the test."""
    made: list[Engine] = []

    def make(variant: str = "docker20", disk_bytes: int = GIB, inodes: int | None = None, **more: Any) -> Engine:
        reason = available(variant)
        if reason is not None:
            cannot_run(reason)
        registry: Registry = request.getfixturevalue("registry")
        folder = state_root / f"e{next(_numbers)}"
        engine = Engine(variant, folder, registry.host, disk_bytes, inodes, **more)
        made.append(engine)
        return engine.start()

    yield make
    for engine in made:
        engine.remove()
        shutil.rmtree(engine.folder, ignore_errors=True)


_numbers = itertools.count(1)


@pytest.fixture
def docker20(make_engine: MakeEngine) -> Engine:
    """Docker 20.10 with overlay2 on a disk of 1 GiB."""
    return make_engine("docker20")


@pytest.fixture(params=STORES)
def any_engine(make_engine: MakeEngine, request: pytest.FixtureRequest) -> Engine:
    """One engine of each kind of image store in turn."""
    return make_engine(request.param)


@pytest.fixture(params=VARIANTS)
def every_engine(make_engine: MakeEngine, request: pytest.FixtureRequest) -> Engine:
    """Each engine in each set-up in turn."""
    return make_engine(request.param)
