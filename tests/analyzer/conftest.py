from __future__ import annotations

import shutil

import pytest

from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from collector.eventlog.log import EventLog
from tests.made_once import MESA, year_of_mesa

GIB = 2**30


@pytest.fixture(scope="session")
def mesa_log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    """A year of Mesa's CI: imported once, whichever worker needs it first, and each has a copy."""
    path = tmp_path_factory.mktemp("mesa") / "events.duckdb"
    shutil.copyfile(year_of_mesa(tmp_path_factory), path)
    return EventLog(path, host=MESA)


@pytest.fixture(scope="session")
def mesa(mesa_log: EventLog) -> Trace:
    return load_trace(mesa_log)
