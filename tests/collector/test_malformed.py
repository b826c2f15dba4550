"""Attributes of an unexpected shape cost no more than the row that they are in."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from collector.daemon.presence import Presence
from collector.eventlog.log import EventLog
from collector.eventlog.schema import VIEWS
from collector.model.events import Event, Kind
from collector.queries.status import images, status
from pruner.state.inventory import read_history

IMAGE, BAD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
KEYS = [
    *("references", "digests", "layers", "size", "stored", "created", "local", "origin", "total_bytes", "free_inodes"),
    *("total_inodes", "image_bytes", "container_bytes", "holds", "main", "seconds", "outcome", "prune", "own_time_ns"),
    *("predicted_bytes", "concurrent_uses", "labels", "plan", "item", "inferred", "policy", "trigger", "reason"),
]
VALUES: list[object] = [5, ["a", None], [{"bytes": "x", "chain_id": 4}]]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:24])
def test_a_malformed_row_breaks_no_query(tmp_path: Path, value: object) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    now_ns = time.time_ns()
    began_ns = now_ns - 86400 * 10**9
    layers = [{"chain_id": "c", "diff_id": "d", "bytes": 7}]
    good = {"references": ["a:1"], "digests": [], "size": 7, "layers": layers, "origin": "registry"}
    attributes = dict.fromkeys(KEYS, value)
    log.append(
        [
            Event(began_ns, Kind.DISK_SAMPLED, bytes=1, attributes={"total_bytes": 100, "image_bytes": 7}),
            Event(began_ns, Kind.IMAGE_OBSERVED, image=IMAGE, attributes=good),
            Event(began_ns + 5, Kind.CONTAINER_CREATED, image=IMAGE, container="c" * 64),
            *(
                Event(began_ns + 10 + number, kind, image=BAD, reference="b:1", attributes=attributes, bytes=3)
                for number, kind in enumerate(Kind)
            ),
            Event(began_ns + 99, Kind.IMAGE_OBSERVED, image=BAD, attributes=attributes),
            Event(now_ns - 10**9, Kind.DISK_SAMPLED, bytes=1, attributes={"total_bytes": 100, "image_bytes": 7}),
        ]
    )
    for view in re.findall(r"CREATE OR REPLACE VIEW (\w+)", VIEWS):
        log.query(f"FROM {view}")
    status(log)
    assert IMAGE in {row.image_id for row in images(log)}
    history = read_history(log)
    assert history.observed[IMAGE].references == ("a:1",)
    Presence().restore(log)
