"""Attributes of an unexpected shape cost no more than the row that they are in, whatever is asked of the log."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from prometheus_client.parser import text_string_to_metric_families

import analyzer.cli
import collector.cli
import pruner.cli
from analyzer.trace.shipped import ShippedLog
from collector.daemon.presence import Presence
from collector.eventlog.log import EventLog
from collector.eventlog.view_definitions import VIEWS
from collector.model.events import Event, Kind
from collector.monitoring.host_page import HostPage
from collector.monitoring.metrics import Live, Metrics
from collector.queries.images import images
from collector.queries.status import status
from collector.queries.tally import Tally
from collector.shipping.ship import ship
from collector.shipping.store import Folder
from pruner.removal.aftermath import read_unfinished
from pruner.state.inventory import read_history
from pruner.state.job_memory import read_jobs
from pruner.state.learning import read_experience
from pruner.state.refusals import read_refusals
from pruner.state.services import read_rollbacks
from pruner.state.volumes import last_references, last_slots

S = 10**9
HOUR = 3600 * S
IMAGE, OTHER, BAD = ("sha256:" + letter * 64 for letter in "abd")
LAYERS = [{"chain_id": "c", "diff_id": "d", "bytes": 7}]
# What each attribute looks like where nothing is wrong.
GOOD: dict[str, Any] = {
    "references": ["b:1"],
    "digests": ["b@sha256:1"],
    "layers": LAYERS,
    "size": 7,
    "stored": 1.7e9,
    "created": "2023-11-01T00:00:00Z",
    "local": False,
    "origin": "registry",
    "total_bytes": 100,
    "image_bytes": 7,
    "free_inodes": 5,
    "total_inodes": 9,
    "container_bytes": 1,
    "volume_bytes": 1,
    "build_cache_bytes": 1,
    "holds": ["images"],
    "main": True,
    "path": "/",
    "file_system": "/",
    "seconds": 3.5,
    "outcome": "target reached",
    "prune": "p",
    "item": "image",
    "predicted_bytes": 5,
    "concurrent_uses": ["a:1"],
    "labels": {"a": "b"},
    "trigger": "timer",
    "reason": "old",
    "detail": "old",
    "error": "no",
    "refused": True,
    "inferred": False,
    "policy": {"threshold": "10%"},
    "plan": {"images": [], "items": [], "threshold_bytes": 5, "target_bytes": 5},
    "job": {"ci": "gitlab", "job_id": "7", "project": "p", "name": "n", "url": "http://h/"},
    "role": "build",
    "volumes": ["v"],
    "name": "runner-abcdefgh-project-7-concurrent-0-1-build-2",
    "own_time_ns": 5,
    "round": 0,
    "exit_code": 0,
    "by": "commit",
    "evidence": "layers",
    "store": "overlay2",
    "pulled": True,
    "source": "trace",
    "free_bytes": 5,
    "free_before": 5,
    "free_after": 5,
    "changes": {"name": {"from": "a", "to": "b"}},
}
VALUES: dict[str, object] = {
    "null": None,
    "list": ["a", None, 5, ["b"], {"c": 1}],
    "list of objects": [{"bytes": "x", "chain_id": 4}, {"bytes": -1, "chain_id": None}, None],
    "object": {"a": 1, "image": None, "images": 5, "items": {"b": []}},
    "plan of nonsense": {"images": [5, None, {"image": 5, "reason": 7}, {}], "items": [{"key": []}, "x"]},
    "number": 5,
    "true": True,
    "huge number": 2**70,
    "huger number": 10**400,
    "negative": -5,
    "fraction": 0.5,
    "huge fraction": 1e300,
    "nan": "nan",
    "infinity": "-Infinity",
    "exponent": "1E+9999999",
    "empty": "",
    "empty list": [],
    "nested": json.loads("[" * 400 + "]" * 400),
    "nested objects": json.loads('{"a":' * 400 + "1" + "}" * 400),
    "lone surrogate": "\ud800",
    "NUL": "a\0b",
    "terminal": "\x1b[31m\u202e\u009b",
    "far future": "9999-12-31T23:59:59Z",
    "far past": "-290000-01-01T00:00:00Z",
    "text": "boom",
    "quoted": "'\"$.a[0]",
}


_BIG_KINDS = (Kind.IMAGE_OBSERVED, Kind.CONTAINER_CREATED, Kind.ITEM_REMOVED, Kind.PRUNE_STARTED)


def shapes(values: Iterable[object]) -> Iterator[dict[str, Any]]:
    """Attributes of which all are malformed, and of which one is, in each way."""
    for value in values:
        yield dict.fromkeys(GOOD, value)
        yield from ({**GOOD, key: value} for key in GOOD)


def fill(log: EventLog, values: Iterable[object]) -> None:
    """Append two days in which nothing is wrong, and among them events of every kind with malformed attributes."""
    now_ns = time.time_ns()
    began_ns = now_ns - 48 * HOUR
    sample = {"total_bytes": 2**40, "image_bytes": 7}
    good = {"references": ["a:1"], "digests": [], "size": 7, "layers": LAYERS, "origin": "registry"}
    events = [
        Event(began_ns, Kind.DISK_SAMPLED, bytes=2**39, attributes=sample),
        Event(began_ns, Kind.IMAGE_OBSERVED, image=IMAGE, attributes=good),
        Event(began_ns, Kind.IMAGE_OBSERVED, image=OTHER, attributes={**good, "references": ["o:1"]}),
        Event(now_ns - 60 * S, Kind.DISK_SAMPLED, bytes=2**39, attributes=sample),
    ]
    for hour in range(40):
        at_ns, image, container = began_ns + hour * HOUR, (IMAGE, OTHER)[hour % 2], f"u{hour}"
        events += [
            Event(at_ns, Kind.CONTAINER_CREATED, image=image, container=container),
            Event(at_ns + HOUR // 2, Kind.CONTAINER_DESTROYED, image=image, container=container, began_ns=at_ns),
        ]
    # A step of the clock would let all before it have happened by then.
    kinds = [kind for kind in Kind if kind is not Kind.CLOCK_SET_BACK]
    big = [{**GOOD, key: "x" * 10**6} for key in ("references", "reason", "labels", "plan")]
    for number, shape in enumerate([*shapes(values), *big]):
        own = {"prune": f"p{number}", "references": [f"b:{number}"]}
        attributes = {**shape, **{key: value for key, value in own.items() if shape[key] == GOOD[key]}}
        for kind in _BIG_KINDS if shape in big else kinds[number % 2 :: 2]:
            at_ns = began_ns + number * 60 * S + len(events)
            events.append(
                Event(
                    *(
                        at_ns,
                        kind,
                        f"{BAD[:-4]}{number:04}",
                        f"b:{number}",
                        f"{number:064}",
                        *((3, at_ns - S) if number % 3 else (None, None)),
                        attributes,
                    )
                )
            )
    log.append(events)


def commands(log: EventLog, folder: Path) -> list[tuple[Callable[[], None], list[str]]]:
    """All commands that read a log and need no engine; what they print for people and for machines."""
    collector_, pruner_, analyzer_ = collector.cli.main, pruner.cli.main, analyzer.cli.main
    asked = [
        *((collector_, ["collector", *argv]) for argv in (["status"], ["check"], ["images"], ["jobs"])),
        *((collector_, ["collector", "explain", name]) for name in ("a:1", "b:20")),
        *((pruner_, ["pruner", "history", *argv]) for argv in ([], ["b:20"])),
        (analyzer_, ["analyzer", "verify", "--last", "60"]),
        *((analyzer_, ["analyzer", "costs", "--by", by]) for by in ("project", "image")),
    ]
    once = [
        ["simulate", "--threshold", "10%", "--interval", "1h"],
        ["recommend", "--threshold", "10%", "--least-history", "1h", "--disk-size", "1TB"],
        ["sweep", "--threshold", "10%"],
        ["allowlist"],
        ["export", "--parquet", str(folder / "parquet")],
    ]
    watch = ["analyzer", "watch", "--once", "--host", "unix:///nonexistent.sock"]
    made = [
        (analyzer_, watch),
        *((main, [*argv, "--format", form]) for main, argv in asked for form in ("json", "table")),
    ]
    made += [(analyzer_, ["analyzer", *argv, "--format", "json"]) for argv in once]
    made.append((analyzer_, ["analyzer", "report", "--threshold", "10%", "-o", str(folder / "report.html")]))
    return [(main, [*argv, "--log", str(log.path)]) for main, argv in made]


def run(main: Callable[[], None], argv: list[str]) -> tuple[int, str, str]:
    """The status that a command ends with, and what it prints."""
    out, err, ended = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as status:
            ended = int(status.code or 0)
    return ended, out.getvalue(), err.getvalue()


def ask_all(log: EventLog) -> None:
    """Every query of the daemons."""
    now = time.time()
    for view in re.findall(r"CREATE OR REPLACE VIEW (\w+)", VIEWS):
        log.query(f"FROM {view}")
    status(log)
    assert {IMAGE, OTHER} <= {row.image_id for row in images(log)}
    history = read_history(log)
    assert (history.observed[IMAGE].references, history.observed[OTHER].references) == (("a:1",), ("o:1",))
    Presence().restore(log)
    Tally().advance(log)
    read_jobs(log, now)
    read_experience(log, now)
    read_refusals(log, now)
    read_rollbacks(log, now, 86400.0)
    last_slots(log)
    last_references(log)
    read_unfinished(log, "p0")


def serve_all(log: EventLog, folder: Path) -> None:
    """What the collector serves to others."""
    metrics = Metrics(log, folder / "metrics.prom")
    metrics.publish(Live())
    samples = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families((folder / "metrics.prom").read_text())
        for one in family.samples
    }
    assert all(math.isfinite(value) for value in samples.values())
    assert samples["docker_hindsight_events_total", Kind.PULL_FAILED] > 0
    page = HostPage(log)
    page.publish()
    (body,) = page.app({"REQUEST_METHOD": "GET", "PATH_INFO": "/state.json", "HTTP_HOST": "localhost"}, lambda *_: None)
    json.loads(body, parse_constant=pytest.fail)
    store = Folder(folder / "fleet")
    events = log.query("SELECT seq, kind, epoch_ns(time), CAST(attributes AS VARCHAR) FROM event ORDER BY seq")
    assert sum(one.events for one in ship(log, store)) == len(events)
    shipped = ShippedLog(store, log.host)
    assert (
        shipped.query("SELECT seq, kind, epoch_ns(time), CAST(attributes AS VARCHAR) FROM event ORDER BY seq") == events
    )


@pytest.mark.slow
def test_a_malformed_row_breaks_no_query(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb")
    fill(log, VALUES.values())
    ask_all(log)
    serve_all(log, tmp_path)
    for main, argv in commands(log, tmp_path):
        ended, out, err = run(main, argv)
        # What is wrong with it is what `check` is there to say.
        assert ended == (argv[1] == "check"), (argv, err)
        assert not re.search("[\x1b\x9b\u202e]", out + err), argv
        if "json" in argv:
            json.loads(out)
