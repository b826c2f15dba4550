from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analyzer.data import mesa_files
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from collector.eventlog.log import EventLog
from collector.job_sources.job_list import import_jobs
from tests.made_once import once_for_all_workers

GIB = 2**30


@pytest.fixture(scope="session")
def mesa_log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    """A year of Mesa's CI: imported once, whichever worker needs it first, and each has a copy."""

    def made() -> Path:
        log = EventLog(tmp_path_factory.mktemp("year") / "events.duckdb", host="mesa")
        import_jobs(*mesa_files(), log, 100 * GIB, 0)
        return log.path

    path = tmp_path_factory.mktemp("mesa") / "events.duckdb"
    shutil.copyfile(once_for_all_workers(tmp_path_factory, "mesa.duckdb", made), path)
    return EventLog(path, host="mesa")


@pytest.fixture(scope="session")
def mesa(mesa_log: EventLog) -> Trace:
    return load_trace(mesa_log)
