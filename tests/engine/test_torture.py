"""Short runs of `python -m bench torture` and `crowd`: killed or disturbed beside another record; a crowd of images."""

from __future__ import annotations

import pytest

from bench.crowd import fill, measure
from bench.torture import torture
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry

pytestmark = pytest.mark.engine
LIMIT_S = 12.0
IMAGES, CONTAINERS = 200, 40


@pytest.mark.parametrize("faults", [("kill",), ("readonly", "clock", "errors", "socket")])
def test_killed_or_disturbed_while_jobs_run_neither_loses_an_event_nor_removes_what_was_not_planned(
    docker20: Engine, registry: Registry, faults: tuple[str, ...]
) -> None:
    found = torture(docker20, registry, kills=3, faults=faults, limit_s=LIMIT_S)
    assert found.hold, str(found)
    assert found.facts["kills of the collector"] >= 1
    assert found.facts["events captured"] > found.facts["of them before the log began"]


def test_of_very_many_images_and_containers_each_is_recorded_and_planned(docker20: Engine) -> None:
    fill(docker20, IMAGES, CONTAINERS)
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    assert len(list(measure(host))) > 1
    assert len(host.json("collector", "images")) == IMAGES
    assert host.count("container_created") == CONTAINERS
