"""What the engine's events never reported is seen by the next listing of containers."""

from __future__ import annotations

import json
import time

import pytest

from collector.machine.wake import FIRST_PAUSE_S, wake_path
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.proxy import Proxy
from tests.engine.registry import Registry, base_layer

pytestmark = pytest.mark.engine
LOST = "lost"


def of_lost_container(line: bytes) -> bool:
    """Whether an event of the stream is about the container whose events are lost."""
    event = json.loads(line)
    attributes = (event.get("Actor") or {}).get("Attributes") or {}
    return event.get("Type") == "container" and attributes.get("name") == LOST


def test_a_container_whose_events_are_lost_is_seen_by_the_listing(any_engine: Engine, registry: Registry) -> None:
    reference = registry.push_image("missed/image", "1", [base_layer()]).reference
    client = any_engine.client()
    client.images.pull(reference)
    image = str(client.images.get(reference).id)
    with Proxy(any_engine.socket, any_engine.folder / "proxy.sock", of_lost_container) as proxy:
        host = Host(any_engine, any_engine.folder / "log" / "events.duckdb", proxy.host)
        with host.collecting("--listing-interval", "1s"):
            host.wait_for_events("image_observed", 1)
            output = client.containers.create(reference, ["true"], name="reported", network_mode="none")
            output.remove()
            host.wait_for_events("container_destroyed", 1)
            before = time.time()
            lost = client.containers.create(
                reference, ["sleep", "60"], name=LOST, network_mode="none", labels={"a": "b"}
            )
            lost.start()
            host.wait_for_events("container_created", 2)
            removing = time.time()
            lost.remove(force=True)
            removed = time.time()
            host.wait_for_events("container_destroyed", 2)
            seen = time.time()
        # Create, start, die and remove, at least.
        assert proxy.dropped >= 4
    client.close()
    rows = host.log.query(
        "SELECT kind, image_id, attributes ->> '$.inferred', attributes ->> '$.labels.a', epoch_ns(time) / 1e9"
        " FROM events WHERE container = ? ORDER BY seq",
        [lost.id],
    )
    assert [row[:4] for row in rows] == [
        ("container_created", image, "true", "b"),
        ("container_destroyed", image, "true", None),
    ]
    assert int(before) <= rows[0][4] <= removed  # as the engine lists it: in whole seconds
    ((used, evidence, evidence_source, uses),) = host.log.query(
        "SELECT epoch_ns(last_use) / 1e9, evidence, evidence_source, uses FROM last_use"
    )
    # Known from listing to listing only, and never too early.
    assert removing <= used <= seen
    assert (evidence, evidence_source, uses) == ("container removed", lost.id, 2)
    assert host.count("gap") == 0


def test_a_shortage_that_came_too_soon_after_the_last_wakes_the_pruner_later(
    docker20: Engine, registry: Registry
) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    host.run("pruner", "run", "--threshold", "100%", status=3)
    woken = wake_path(host.log_path)
    with host.collecting():
        host.wait_for(woken.exists, "the first alarm")
        first = woken.stat().st_mtime
        client = docker20.client()
        client.images.pull(registry.push_image("soon/image", "1", [base_layer()]).reference)
        client.close()
        host.wait_for(lambda: woken.stat().st_mtime > first, "the second alarm")
        assert woken.stat().st_mtime - first > FIRST_PAUSE_S - 1
