"""The host's page: what it answers, to whom, and what it shows of a log."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest

from collector.eventlog.log import EventLog
from collector.machine.next_removals import (
    NextRemoval,
    NextRemovals,
    leave_next_removals,
    next_removals_path,
    read_next_removals,
)
from collector.machine.prune_runs import Fruitless, PruneRuns, leave_runs
from collector.machine.wake import leave_levels
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from collector.monitoring.host_page import HostPage
from collector.queries.overview import overview

NOW = 1_700_000_000
GIB = 2**30
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
HOSTILE = 'evil/</script><img src=x onerror="document.title=1">:1'


def happened(at: int, kind: Kind, **facts: Any) -> Event:
    return Event((NOW + at) * 10**9, kind, **facts)


def make_log(log: EventLog) -> None:
    """A day with a prune of two images, of which one was pulled again."""
    prune = {"prune": "p1"}
    disk = {"total_bytes": 100 * GIB, "path": "/var/lib/docker", "image_bytes": 40 * GIB}
    log.append(
        [
            happened(0, Kind.COLLECTOR_STARTED, attributes={"version": "1"}),
            happened(10, Kind.DISK_SAMPLED, bytes=8 * GIB, attributes=disk),
            *(
                happened(20, Kind.IMAGE_OBSERVED, image=image, attributes={"references": [HOSTILE], "layers": []})
                for image in (A, B)
            ),
            happened(100, Kind.PRUNE_STARTED, attributes={**prune, "trigger": "timer"}),
            *(
                happened(101, Kind.ITEM_REMOVED, image=image, bytes=GIB, attributes={**prune, "predicted_bytes": GIB})
                for image in (A, B)
            ),
            happened(110, Kind.PRUNE_FINISHED, bytes=2 * GIB, attributes={**prune, "outcome": "target reached"}),
            happened(500, Kind.IMAGE_PULLED, image=A, reference=HOSTILE),
            happened(600, Kind.DISK_SAMPLED, bytes=9 * GIB, attributes=disk),
        ]
    )
    leave_levels(log.path, "/var/lib/docker", 10.0 * GIB, 0.0)
    leave_next_removals(
        log.path,
        NextRemovals(NOW, "prune below 10% free", (NextRemoval(HOSTILE, GIB, NOW - 3600, "idle"),), 3, 5 * GIB),
    )


def ask(page: HostPage, path: str = "/state.json", method: str = "GET", host: str = "127.0.0.1:9634") -> Any:
    answered: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]]) -> None:
        answered.extend((int(status.split(maxsplit=1)[0]), dict(headers)))

    body = b"".join(page.app({"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": host}, start))
    return (*answered, body)


def test_it_says_what_is_free_what_went_with_its_regret_and_what_would_go_next(log: EventLog) -> None:
    make_log(log)
    found = overview(log, NOW + 700).to_json()
    assert (found["free_bytes"], found["total_bytes"], found["threshold_bytes"]) == (9 * GIB, 100 * GIB, 10 * GIB)
    (prune,) = found["prunes"]
    assert (prune["removed"], prune["freed"], prune["trigger"]) == (2, 2 * GIB, "timer")
    assert (prune["returned"], prune["returned_bytes"]) == (1, GIB)
    assert found["next"]["removals"][0]["name"] == HOSTILE
    assert any("under the threshold" in warning for warning in found["warnings"])
    assert not any("no pruner" in warning for warning in found["warnings"])


def test_without_a_pruner_it_says_that_nothing_is_removed(log: EventLog) -> None:
    log.append([happened(0, Kind.COLLECTOR_STARTED), happened(1, Kind.DISK_SAMPLED, bytes=GIB)])
    found = overview(log, NOW + 10)
    assert any("no pruner has run here" in warning for warning in found.warnings)
    assert found.next is None
    # One that could not even reach the engine has run nevertheless.
    leave_runs(log.path, PruneRuns(1, row=Fruitless(NOW, NOW, 1, error="no engine")))
    warnings = overview(log, NOW + 10).warnings
    assert [one for one in warnings if "prune" in one] == ["for 10 s 1 prune run removed nothing: no engine"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"time": 1, "removals": [{}]}', "\x00", '{"removals": 7}'])
def test_what_a_pruner_left_and_cannot_be_read_is_nothing(log: EventLog, text: str) -> None:
    log.append([happened(0, Kind.COLLECTOR_STARTED)])
    next_removals_path(log.path).write_text(text)
    assert read_next_removals(log.path) is None


def test_only_this_hosts_names_are_answered(log: EventLog) -> None:
    make_log(log)
    page = HostPage(log)
    assert page.serve("127.0.0.1:0") > 0
    for host in ("127.0.0.1:9634", "localhost", "LOCALHOST:1", "[::1]:80"):
        assert ask(page, "/", host=host)[0] == 200
    for host in (
        "attacker.example",
        "attacker.example:9634",
        "127.0.0.1.attacker.example",
        "",
        "10.0.0.1",
        "[::2]",
        "a@localhost",
        "[[::1]]",
        "localhost:\xb2",
        "localhost:1:1",
        "127.0.0.1,a.example",
    ):
        status, _, body = ask(page, "/state.json", host=host)
        assert (status, b"GiB" in body) == (421, False)


def test_on_every_address_any_address_is_answered_and_no_foreign_name(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    page = HostPage(log)
    for own in ("127.0.0.1:0", "localhost:0"):
        page.serve(own)
    assert not caplog.records
    page.serve("0.0.0.0:0")
    assert "without a password" in caplog.text
    assert ask(page, "/", host="192.0.2.7:9634")[0] == 200
    assert ask(page, "/", host="attacker.example")[0] == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_it_can_only_be_read(log: EventLog, method: str) -> None:
    page = HostPage(log)
    page.serve("127.0.0.1:0")
    assert ask(page, "/", method)[0] == 405
    status, headers, body = ask(page, "/", "HEAD")
    assert (status, int(headers["Content-Length"]) > len(body), body) == (200, True, b"")


def test_nothing_is_computed_while_nobody_looks(log: EventLog) -> None:
    make_log(log)
    page = HostPage(log)
    page.serve("127.0.0.1:0")
    woken: list[int] = []
    page.wake = lambda: woken.append(1)
    wanted = [page.wanted]
    assert ask(page)[2] == b"null\n"
    assert woken
    wanted.append(page.wanted)
    page.publish()
    status, headers, body = ask(page)
    assert (status, json.loads(body)["host"]) == (200, log.host)
    assert [*wanted, page.wanted] == [False, True, False]  # once it was published, not at once again
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"


def test_it_serves_over_http_and_nothing_else(log: EventLog) -> None:
    make_log(log)
    page = HostPage(log)
    port = page.serve("127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        headers: Mapping[str, str] = answer.headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert b"<script src" in answer.read()
    for path in ("/../status.py", "/page.py", "/%2e%2e/page.css"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30)


@pytest.mark.parametrize("address", ["", "9634", "127.0.0.1:99999", "no such host:1", "127.0.0.1:x"])
def test_an_impossible_address_is_one_line(log: EventLog, address: str) -> None:
    with pytest.raises(UsageError, match="--page: "):
        HostPage(log).serve(address)
