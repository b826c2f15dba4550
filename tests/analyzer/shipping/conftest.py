"""A runner's log, and places that it is shipped to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.eventlog import identity
from collector.eventlog.log import EventLog
from collector.shipping.store import Folder
from tests.analyzer.shipping.shipped import days
from tests.object_store import ObjectStore


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this host another: its name, its machine."""

    def other(name: str, machine: str | None = "m1") -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        monkeypatch.setattr(identity, "_machine_ids", lambda: (machine, None))

    other("runner")
    return other


@pytest.fixture
def log(tmp_path: Path, become: Callable[..., None]) -> EventLog:  # noqa: ARG001 - first of all
    made = EventLog(tmp_path / "events.duckdb")
    made.append(days(0, 5))
    return made


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "fleet")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    made = ObjectStore(tmp_path_factory.mktemp("s3"))
    yield made
    made.kill()
