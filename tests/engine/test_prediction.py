"""What the analyzer predicts from a recorded history is what the pruner does on the engine."""

from __future__ import annotations

import time

import pytest

from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import replay
from analyzer.trace.load import load_trace
from pruner.policy.file import policy_from
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner

pytestmark = pytest.mark.engine
MIB = 2**20


def test_the_simulation_of_the_recorded_log_predicts_the_prune(any_engine: Engine, registry: Registry) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    shared = random_layer(50, 15 * MIB)
    images = [
        registry.push_image(
            f"job/{k}", "1", [base_layer(), *([shared] if k % 2 else []), random_layer(60 + k, 20 * MIB)]
        )
        for k in range(6)
    ]
    runner = FakeRunner(any_engine, registry.push_image("gitlab/helper", "1", [base_layer()]).reference)
    with host.collecting():
        for k in (0, 1, 2, 3, 4, 5, 1, 0):
            runner.run_job(images[k].reference)
        host.wait_for_events("container_destroyed", 16)
        time.sleep(1.1)
        threshold = any_engine.disk.free() + 70 * MIB
        options = ("--threshold", f"{threshold}B", "--min-age", "1s", "--allowlist", "*/job/3")
        before = any_engine.disk.free()
        host.run("pruner", "run", *options)
        freed = any_engine.disk.free() - before
    removed = host.log.query("SELECT image_id FROM events WHERE kind = 'item_removed' ORDER BY seq")
    assert removed

    # A timer whose first tick comes when the pruner ran.
    ((span,),) = host.log.query(
        "SELECT (epoch_ns(max(time) FILTER (kind = 'prune_started')) - epoch_ns(min(time))) / 1e9 FROM event"
    )
    interval = f"{span - 0.05:.3f}s"
    timer = ("--trigger", "tick", "--interval", interval)
    (row,) = host.json("analyzer", "simulate", *options, *timer, "--baseline", "none")["policies"]
    assert (row["removals"], row["repulls"], row["disk_full"]) == (len(removed), 0, 0)
    assert abs(row["removed_bytes"] - freed) <= 0.02 * freed + MIB

    trace = load_trace(host.log)
    policy = policy_from(
        {"threshold": f"{threshold}B", "min_age": "1s", "allowlist": ["*/job/3"], "interval": interval}, "test"
    )
    result = replay(trace, PolicyCleaner(policy, trace))
    assert [trace.image_ids[removal.image] for removal in result.removed] == [image for (image,) in removed]
