"""``threshold = "auto"`` on a real engine: the pruner takes it from the disk samples of its log."""

from __future__ import annotations

import time

import pytest

from collector.model.events import Event, Kind
from tests.engine.engines import Engine
from tests.engine.host import Host

pytestmark = pytest.mark.engine
MIB = 2**20


def test_the_threshold_is_what_free_space_has_fallen_by(docker20: Engine) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    total = docker20.disk.total()
    now = time.time_ns() // 10**9 * 10**9
    falls = {150: 160 * MIB, 40: 80 * MIB}
    samples = [
        Event(
            now - (300 - k) * 300 * 10**9,
            Kind.DISK_SAMPLED,
            bytes=total - falls.get(k, 0),
            attributes={"total_bytes": total},
        )
        for k in range(300)
    ]
    host.log.append(samples[200:])
    young = host.json("pruner", "plan", "--threshold", "auto")
    assert young["threshold_bytes"] == pytest.approx(0.1 * total, rel=0.01)  # less than a day is known
    host.log.append(samples[:200])
    assert host.json("pruner", "plan", "--threshold", "auto")["threshold_bytes"] == 1.25 * 160 * MIB
