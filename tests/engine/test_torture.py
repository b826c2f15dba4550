"""A short run of ``python -m bench torture``: collector and pruner killed while jobs run, beside another record."""

from __future__ import annotations

import pytest

from bench.torture import torture
from tests.engine.engines import Engine
from tests.engine.registry import Registry

pytestmark = pytest.mark.engine
LIMIT_S = 12.0


@pytest.mark.parametrize("faults", [("kill",), ("readonly", "clock", "socket")])
def test_killed_or_disturbed_while_jobs_run_neither_loses_an_event_nor_removes_what_was_not_planned(
    docker20: Engine, registry: Registry, faults: tuple[str, ...]
) -> None:
    found = torture(docker20, registry, kills=3, faults=faults, limit_s=LIMIT_S)
    assert found.hold, str(found)
    assert found.facts["kills of the collector"] >= 1
    assert found.facts["events captured"] > found.facts["of them before the log began"]
