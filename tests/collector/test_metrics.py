"""Metrics of real logs, checked by Prometheus' own tools; the alerts and the dashboard that go with them."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from collector.eventlog.forget import forget_project
from collector.eventlog.log import METRICS, EventLog
from collector.eventlog.pace import Pace
from collector.machine.disk import sample_disk
from collector.machine.prune_runs import PruneRuns, leave_runs
from collector.machine.wake import leave_levels
from collector.model.errors import LogFullError, UsageError
from collector.model.events import Event, Kind
from collector.model.observation import Usage
from collector.monitoring import dashboards
from collector.monitoring.metrics import PREFIX, SPECS, Live, Metrics
from collector.queries import tally
from collector.queries.project_costs import MOST_PROJECTS, OTHERS, ProjectCosts
from collector.queries.tally import Tally
from tests.collector.test_dashboards import promtool
from tests.needs import first_fast

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NOW = 1_700_000_000


def observed(at: int, image: str, **layers: int) -> Event:
    described = [{"diff_id": name, "chain_id": name, "bytes": size} for name, size in layers.items()]
    return event(
        at, Kind.IMAGE_OBSERVED, image=image, attributes={"layers": described, "references": [], "digests": []}
    )


def event(at: int, kind: Kind, **facts: Any) -> Event:
    return Event((NOW - at) * 10**9, kind, **facts)


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb", host="h")
    made.append(
        [
            event(900, Kind.COLLECTOR_STARTED),
            event(900, Kind.IMAGE_PULLED, image=A),
            observed(899, A, base=100, a=10),
            event(800, Kind.IMAGE_PULLED, image=B),
            observed(799, B, base=100, b=20),
            event(700, Kind.CONTAINER_CREATED, image=A, container="c"),
            event(600, Kind.GAP, began_ns=(NOW - 650) * 10**9),
            event(500, Kind.PRUNE_STARTED, attributes={"prune": "p", "policy": {"text": "lfu"}}),
            event(499, Kind.IMAGE_DELETED, image=B),
            event(498, Kind.ITEM_REMOVED, image=B, bytes=20, attributes={"prune": "p"}),
            event(497, Kind.ITEM_FAILED, image=A, attributes={"prune": "p", "item": "image"}),
            event(496, Kind.PRUNE_FINISHED, bytes=20, attributes={"prune": "p", "outcome": "target not reached"}),
        ]
    )
    return made


def live(tmp_path: Path) -> Live:
    return Live(
        engine="20.10",
        store="overlay2",
        disks=(sample_disk(str(tmp_path)),),
        connected=True,
        observed=NOW - 5.0,
        images={A: True, B: True, "sha256:c": False},
        in_use=frozenset({A}),
        containers=1,
        own_bytes=30,
        shared_bytes=100,
        oldest_pending=NOW - 7.0,
        pending=3,
        spooled=2,
        usage=Usage(5, 6, 7),
    )


def values(metrics: Metrics) -> dict[str, float]:
    """Each sample by name and labels, as a scrape reads it."""
    from prometheus_client import generate_latest  # noqa: PLC0415

    return {
        sample.name.removeprefix(PREFIX)
        + "".join(f" {value}" for value in sample.labels.values() if value): sample.value
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
    }


def test_metrics_say_what_the_log_holds_and_go_on_after_a_restart(log: EventLog, tmp_path: Path) -> None:
    metrics = Metrics(log, now=lambda: NOW)
    metrics.publish(live(tmp_path))
    # B comes back, its base never left; and once more it is seen, with another name.
    log.append(
        [event(300, Kind.IMAGE_PULLED, image=B), observed(299, B, base=100, b=20), observed(298, B, base=100, b=20)]
    )
    log.append([event(200, Kind.IMAGE_PULLED, image=A)])
    metrics.publish(live(tmp_path))
    restarted = Metrics(log, now=lambda: NOW)
    restarted.publish(live(tmp_path))
    shown = values(metrics)
    moving = {"disk_free_bytes", "disk_free_inodes", "unaccounted_bytes"}
    assert {k: v for k, v in shown.items() if k not in moving} == {
        k: v for k, v in values(restarted).items() if k not in moving
    }
    expected = {
        "repulls_total": 1,
        "repulled_bytes_total": 20,
        "events_total image_pulled": 4,
        "events_total gap": 1,
        "events_total image_loaded": 0,
        "prunes_total target not reached": 1,
        "prunes_total target reached": 0,
        "prune_items_total image removed": 1,
        "prune_items_total image kept": 1,
        "prune_items_total volume removed": 0,
        "prune_freed_bytes_total": 20,
        "last_prune_timestamp_seconds": NOW - 496,
        "last_prune_reached_target": 0,
        "gaps_total": 1,
        "gap_seconds_total": 50,
        "image_bytes": 130,
        "image_own_bytes": 30,
        "container_bytes": 5,
        "volume_bytes": 6,
        "build_cache_bytes": 7,
        "image_shared_bytes": 100,
        "images in_use": 1,
        "images idle": 1,
        "images dangling": 1,
        "containers": 1,
        "least_recent_use_age_seconds": 300,
        "lag_seconds": 7,
        "pending_events": 3,
        "spooled_events": 2,
        "engine_connected": 1,
        "last_observed_timestamp_seconds": NOW - 5,
    }
    assert {name: shown[name] for name in expected} == expected
    assert shown["coverage_ratio 7d"] == pytest.approx((900 - 200 - 50) / (7 * 86400))


def test_the_pruner_s_levels_and_last_run_are_reported(log: EventLog, tmp_path: Path) -> None:
    metrics = Metrics(log)
    metrics.publish(live(tmp_path))
    assert "threshold_bytes" not in values(metrics)
    for _ in range(2):
        assert leave_levels(log.path, str(tmp_path), 5e9, 0)
    assert values(metrics)["threshold_bytes"] == 5e9
    levels = log.path.with_name(log.path.name + ".levels")
    assert values(metrics)["pruner_last_run_timestamp_seconds"] == pytest.approx(levels.stat().st_mtime)


def test_served_over_http_and_left_in_a_file_they_are_the_same_and_to_prometheus_liking(
    log: EventLog, tmp_path: Path
) -> None:
    file = tmp_path / "docker_hindsight.prom"
    metrics = Metrics(log, file, now=lambda: NOW)
    port = metrics.serve("127.0.0.1:0")
    leave_levels(log.path, str(tmp_path), 5e9, 0)
    leave_runs(log.path, PruneRuns(total=3, reached=NOW - 60))
    metrics.publish(live(tmp_path))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        served = answer.read().decode()

    def names(text: str) -> set[str]:
        return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))

    assert names(served) == names(file.read_text()) == {PREFIX + spec.name for spec in SPECS}
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.glob("*.prom*")] == [file.name]
    assert promtool("check", "metrics", given=served) == ""
    assert promtool("check", "metrics", given=file.read_text()) == ""


def test_a_log_that_cannot_be_read_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "events.duckdb"
    path.write_text("damaged")
    metrics = Metrics(EventLog(path, host="h"), tmp_path / "missing" / "x.prom")
    metrics.publish(live(tmp_path))
    shown = values(metrics)
    assert (shown["pending_events"], shown["events_total gap"]) == (3, 0)
    assert shown["disk_size_bytes"] > 0


@pytest.mark.parametrize("address", ["9633", "127.0.0.1:http", "127.0.0.1:70000", "256.0.0.1:9633"])
def test_an_impossible_address_is_one_line(log: EventLog, address: str) -> None:
    with pytest.raises(UsageError, match=f"--metrics: .*{re.escape(address)}"):
        Metrics(log).serve(address)


def test_a_port_in_use_is_one_line(log: EventLog) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UsageError, match=r"cannot listen on .*in use"):
            Metrics(log).serve(f"127.0.0.1:{other.getsockname()[1]}")


def test_what_an_engine_says_forges_no_metric_and_runs_in_no_dashboard(log: EventLog) -> None:
    hostile = '1"} 5\\\n# TYPE forged gauge\nforged 1 <img src=x onerror=alert(1)>'
    metrics = Metrics(log, now=lambda: float(NOW))
    metrics.publish(Live(engine=hostile, store=hostile))
    found = {
        family.name: family for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
    }
    assert set(found) <= {PREFIX + spec.name.removesuffix("_total") for spec in SPECS}
    assert found[f"{PREFIX}build_info"].samples[0].labels["engine"] == hostile
    # Grafana escapes what a legend or a table shows; only these would take a label for HTML or an address.
    text = "".join(json.dumps(json.loads(build())) for build in (dashboards.host, dashboards.fleet))
    assert not re.search(r'"type": "text"|"mode": "html"|__field|__data|dataLinks|"url"', text)
    assert set(re.findall(r"\{\{(\w+)\}\}", text)) <= {"instance", *(label for spec in SPECS for label in spec.labels)}


def test_each_disk_of_the_engine_has_its_figures_and_its_threshold(log: EventLog, tmp_path: Path) -> None:
    """The first is that of the images; a full second one must not hide behind it."""
    other = replace(sample_disk("/dev/shm"), mount="/srv", holds=("content",))  # noqa: S108 - a second file system
    main = replace(sample_disk(str(tmp_path)), mount="/var", holds=("images",))
    leave_levels(log.path, main.path, 5e9, 0.0, {other.path: (7e9, 0.0)})
    metrics = Metrics(log, now=lambda: NOW)
    metrics.publish(replace(live(tmp_path), disks=(main, other)))
    shown = values(metrics)
    assert shown["disk_size_bytes /var"] == main.total_bytes
    assert shown["disk_size_bytes /srv"] == other.total_bytes
    assert (shown["threshold_bytes /var"], shown["threshold_bytes /srv"]) == (5e9, 7e9)


def test_what_projects_had_pulled_is_counted_by_who_came_first(log: EventLog, tmp_path: Path) -> None:
    def used(at: int, image: str, project: str) -> Event:
        job = {"ci": "gitlab", "job_id": f"{project}{at}", "project": project}
        return event(at, Kind.CONTAINER_CREATED, image=image, container=f"c{at}", attributes={"job": job})

    policy = {"prune": "q", "policy": {"text": "lru"}}
    log.append(
        [
            event(300, Kind.IMAGE_PULLED, image=B),
            used(299, B, "g/one"),  # before it was observed
            observed(298, B, base=100, b=20),
            used(297, B, "g/two"),
            event(296, Kind.PRUNE_STARTED, attributes=policy),
        ]
    )
    metrics = Metrics(log, now=lambda: NOW)
    metrics.publish(live(tmp_path))
    log.append([event(200, Kind.IMAGE_PULLED, image="sha256:c"), observed(199, "sha256:c", c=7)])
    metrics.publish(live(tmp_path))
    log.append([used(198, "sha256:c", "g/two")])
    metrics.publish(live(tmp_path))
    restarted = Metrics(log, now=lambda: NOW)
    restarted.publish(live(tmp_path))
    for shown in (values(metrics), values(restarted)):
        assert {name: value for name, value in shown.items() if name.startswith(("project", "policy"))} == {
            "project_pulled_bytes_total g/one again": 20,
            "project_pulled_bytes_total g/one first": 0,
            "project_pulled_bytes_total g/two again": 0,
            "project_pulled_bytes_total g/two first": 7,
            "policy_info lru": 1,
        }


@pytest.mark.slow
@pytest.mark.parametrize("step", first_fast(3, 1))
def test_a_log_adds_up_to_the_same_a_few_events_at_a_time(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    jobs = ({"ci": "gitlab", "job_id": name, "project": name} for name in ("one", "two"))
    used = (
        event(298, Kind.CONTAINER_CREATED, image=B, container=job["job_id"], attributes={"job": job}) for job in jobs
    )
    log.append([event(300, Kind.IMAGE_PULLED, image=B), observed(299, B, base=100, b=20), *used])
    log.append([event(100, Kind.IMAGE_DELETED, image=B)])
    whole, pieces = Tally(), Tally()
    whole.advance(log)
    monkeypatch.setattr(tally, "PACE", Pace(step, step))
    pieces.advance(log)
    assert pieces == whole
    monkeypatch.undo()
    monkeypatch.setattr(tally, "_STORED_EVERY", 1)
    pieces.advance(log)
    log.append([event(90, Kind.IMAGE_PULLED, image=B), observed(89, B, base=100, b=20)])
    whole.advance(log)
    # A collector that starts goes on from what is stored; what cannot be read of it is added up again.
    for stored in (None, "{", f'{{"version":"{tally.VERSION}","seq":9}}'):
        again = Tally()
        if stored is not None:
            log.append([], (METRICS, stored))
        again.advance(log)
        assert replace(again, _stored=0) == replace(whole, _stored=0)
    assert whole.repulls == 2
    assert sum(whole.costs.bytes.values()) > 0


def test_what_a_log_has_forgotten_does_not_come_back_from_a_collector_that_runs(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "_STORED_EVERY", 1)
    for name in ("secret", "other"):
        job = {"ci": "gitlab", "job_id": name, "project": name}
        used = event(298, Kind.CONTAINER_CREATED, image=B, container=name, attributes={"job": job})
        log.append([event(300, Kind.IMAGE_PULLED, image=B), observed(299, B, base=100, b=20), used])
    running = Tally()
    running.advance(log)
    assert "secret" in (log.position(METRICS) or "")
    forget_project(log, "secret")
    running.advance(log)
    afresh = Tally(_seq=0)
    afresh.advance(log)
    assert running == afresh
    stored = log.position(METRICS) or ""
    assert "other" in stored
    assert "secret" not in stored


def test_a_log_without_room_for_the_sums_still_has_metrics(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_STORED_EVERY", 1)

    def full(*_: object) -> None:
        raise LogFullError("no room")

    monkeypatch.setattr(EventLog, "append", full)
    running = Tally()
    running.advance(log)
    assert running.events.total() == log.query("SELECT count(*) FROM event")[0][0] > 0


def test_the_metrics_of_projects_stay_few_and_never_go_back() -> None:
    costs = ProjectCosts()

    def pay(project: str, size: int) -> None:
        costs.pulled("i", 0.0)
        costs.arrived("i", size, again=False)
        costs.used("i", project, 1.0)

    for number in range(MOST_PROJECTS + 10):
        pay(f"p{number:03}", number + 1)
    before = costs.bounded()
    assert (len(before), before[OTHERS, "first"]) == (2 * MOST_PROJECTS + 2, sum(range(1, 11)))
    pay("p000", 1000)
    after = costs.bounded()
    assert after[OTHERS, "first"] == before[OTHERS, "first"] + 1000
    assert all(after[key] >= size for key, size in before.items())
    # A name that nobody can read is cut; what it counts is added up with others that begin alike.
    pay("x" * 10_000 + "a", 2000)
    pay("x" * 10_000 + "b", 3000)
    assert all(len(name) < 300 for name, _ in ProjectCosts.from_json(costs.to_json()).bounded())
    assert 5000 in ProjectCosts.from_json(costs.to_json()).bounded().values()
    after = costs.bounded()
    costs.pulled("late", 0.0)
    costs.arrived("late", 5, again=False)
    costs.used("late", "p001", 2 * 3600.0)
    assert costs.bounded() == after
