"""A log with events that become sums, in small steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.eventlog import compaction
from collector.eventlog import rewrite as rewriting
from collector.eventlog.log import EventLog
from collector.queries import tally
from tests.collector.retention.thinned import filled


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """A log's file, and what time it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FOLD_EVERY", 20)
        log, now = filled(tmp_path_factory.mktemp("log") / "events.duckdb", 1)
    return log.path.read_bytes(), now


@pytest.fixture
def log(tmp_path: Path, once: tuple[bytes, float]) -> EventLog:
    path = tmp_path / "events.duckdb"
    path.write_bytes(once[0])
    return EventLog(path, host="h")


@pytest.fixture
def now(once: tuple[bytes, float]) -> float:
    return once[1]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 20)
    monkeypatch.setattr(rewriting, "PIECE", 90)
    monkeypatch.setattr(rewriting, "_LAST_PIECE", 5)
    monkeypatch.setattr(rewriting, "GROWTH", 2**30)  # a few events weigh less than what is kept of them
    monkeypatch.setattr(tally, "_STORED_EVERY", 2)
