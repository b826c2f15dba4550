"""The live view, beside a real engine."""

from __future__ import annotations

import re
import time

import pytest

from collector.model.units import parse_bytes
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner

pytestmark = pytest.mark.engine
MIB = 2**20


def test_it_shows_space_and_events_and_what_would_go_next(docker20: Engine, registry: Registry) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    helper = registry.push_image("gitlab/helper", "1", [base_layer()]).reference
    first, second = (
        registry.push_image(f"mesa/{name}", "1", [base_layer(), random_layer(seed, 20 * MIB)]).reference
        for seed, name in ((401, "alpha"), (402, "beta"))
    )
    runner = FakeRunner(docker20, helper)
    with host.collecting():
        for reference in (second, first, second):
            runner.run_job(reference)
        host.wait_for_events("container_destroyed", 6)
        time.sleep(1.1)  # everything is older than the min_age of one second
        shown = host.run("analyzer", "watch", "--once", "--order", "lru", "--min-age", "1s", "--threshold", "10%")
        free = docker20.disk.free()
    output = re.search(r"(?P<free>\S+ \S+) of \S+ \S+ free .*pruning starts under \S+ MiB", shown)
    assert output is not None, shown
    assert parse_bytes(output["free"].replace(" ", "")) == pytest.approx(free, rel=0.02)
    following, events = shown.split("next to go")[1].split("last events")
    assert following.index(first) < following.index(second)
    assert "container destroyed" in events
    assert host.references() == {helper, first, second}  # looking removes nothing
