from __future__ import annotations

from pathlib import Path

import pytest

from analyzer.data import mesa_files
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from collector.eventlog.log import EventLog
from collector.job_sources.job_list import import_jobs

GIB = 2**30


@pytest.fixture(scope="session")
def mesa_log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    log = EventLog(tmp_path_factory.mktemp("mesa") / "events.duckdb", host="mesa")
    import_jobs(*mesa_files(), log, 100 * GIB, 0)
    return log


@pytest.fixture(scope="session")
def mesa(mesa_log: EventLog) -> Trace:
    return load_trace(mesa_log)


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.duckdb", host="runner")
