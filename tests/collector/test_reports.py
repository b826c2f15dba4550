"""What a log says of itself: what was observed, and what was not."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from collector.cli import app
from collector.eventlog.log import EventLog
from collector.machine.wake import leave_levels, levels_path
from collector.model.advice import on_log
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from collector.model.units import DAY_S
from collector.queries import next_step
from collector.queries.coverage import Coverage
from collector.queries.status import DiskState, status

NS = 10**9
NOW = 1_790_000_000.0


def at(days_ago: float) -> int:
    return round((NOW - days_ago * DAY_S) * NS)


def gap(began: float, ended: float) -> Event:
    return Event(at(ended), Kind.GAP, began_ns=at(began), identity=f"{began} {ended}")


def test_coverage_counts_overlapping_gaps_once_and_only_what_lies_inside(log: EventLog) -> None:
    log.append(
        [
            # A container older than the collector does not show that anything was observed then.
            Event(at(25), Kind.CONTAINER_CREATED, container="c"),
            Event(at(20), Kind.COLLECTOR_STARTED),
            gap(9, 6),  # one day of it within the last seven
            gap(4, 2),
            gap(3, 1),  # overlaps the one before
            gap(3, 2.5),  # lies within it
            Event(at(0), Kind.DISK_SAMPLED),
        ]
    )
    found = status(log, NOW)
    assert found.gaps == 4
    assert found.gap_seconds == pytest.approx(6 * DAY_S)
    assert found.coverage_7_days == pytest.approx((7 - 1 - 3) / 7)
    assert found.coverage_30_days == pytest.approx((20 - 3 - 3) / 30)


def test_time_without_a_collector_is_blind_even_if_a_pruner_wrote_meanwhile(log: EventLog) -> None:
    log.append(
        [
            Event(at(30), Kind.COLLECTOR_STARTED),
            Event(at(3.5), Kind.COLLECTOR_STOPPED),
            Event(at(1), Kind.PRUNE_STARTED),
            Event(at(1), Kind.PRUNE_FINISHED),
            Event(at(0.5), Kind.JOB_IMAGE_USED),
        ]
    )
    assert status(log, NOW).coverage_7_days == pytest.approx(0.5)


@pytest.mark.slow
def test_the_status_warns_when_no_collector_is_running(log: EventLog) -> None:
    now = time.time()
    began, sampled, stopped, pruned = (int((now - age) * 1e9) for age in (9000, 3000, 2990, 2000))
    log.append([Event(began, Kind.COLLECTOR_STARTED), Event(sampled, Kind.DISK_SAMPLED, bytes=5)])
    assert status(log, now - 2400).unwatched_seconds is None
    assert status(log, now).unwatched_seconds == pytest.approx(3000, abs=1)
    log.append([Event(stopped, Kind.COLLECTOR_STOPPED), Event(pruned, Kind.PRUNE_STARTED)])
    assert status(log, now - 2930).unwatched_seconds == pytest.approx(60, abs=1)
    found = CliRunner().invoke(app, ["status", "--log", str(log.path)])
    assert "warning: no collector has been running for" in found.output


def test_a_short_history_of_long_ago_is_not_called_sound(log: EventLog) -> None:
    """`analyzer recommend` asks for the same span."""
    now, began = time.time(), time.time() - 90 * 86400
    used = [Event(int((began + day * 86400) * 1e9), Kind.CONTAINER_STARTED, image="sha256:a") for day in (0, 2)]
    log.append(used)
    assert status(log, now).recommendation_from == pytest.approx(now + 4.5 * 86400, abs=1)
    log.append([Event(int((began + 7 * 86400) * 1e9), Kind.CONTAINER_STARTED, image="sha256:a")])
    assert status(log, now).recommendation_from == pytest.approx(began + 6.5 * 86400, abs=1)


@pytest.mark.slow
def test_the_status_says_from_when_on_a_recommendation_is_sound_and_what_to_do_next(log: EventLog) -> None:
    now = time.time()
    log.append([Event(int((now - 2 * 86400) * 1e9), Kind.COLLECTOR_STARTED), Event(int(now * 1e9), Kind.DISK_SAMPLED)])
    assert status(log, now).recommendation_from is None
    log.append([Event(int((now - 86400) * 1e9), Kind.CONTAINER_STARTED, image="sha256:a", container="c")])
    young = status(log, now)
    assert young.recommendation_from == pytest.approx(now + 4.5 * 86400, abs=1)
    assert f"`{on_log('pruner plan', log.path)}` shows" in young.next_step
    leave_levels(log.path, "/var/lib/docker", 5.0, 0.0)
    assert status(log, now).next_step.startswith("nothing")
    assert "start the collector" in status(log, now + 3600).next_step
    found = CliRunner().invoke(app, ["status", "--log", str(log.path)])
    assert "sound from" in found.output
    log.append([Event(int((now - 9 * 86400) * 1e9), Kind.DISK_SAMPLED, bytes=1)])
    assert "`analyzer recommend" in status(log, now).next_step
    assert "sound: there is history enough" in CliRunner().invoke(app, ["status", "--log", str(log.path)]).output


def test_the_status_names_a_pruner_that_is_switched_on_and_does_not_run(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a policy that cannot be read: each start of the service fails, and nothing is removed."""
    now = time.time()
    log.append([Event(int((now - 9 * 86400) * 1e9), Kind.COLLECTOR_STARTED), Event(int(now * 1e9), Kind.DISK_SAMPLED)])
    log.append([Event(int((now - 86400) * 1e9), Kind.CONTAINER_STARTED, image="sha256:a", container="c")])
    monkeypatch.setattr(next_step, "service_suffix", lambda _log: "-ci")
    monkeypatch.setattr(next_step, "_ENABLED_TIMERS", tmp_path)
    assert "`analyzer recommend" in status(log, now).next_step
    (tmp_path / "pruner-ci.timer").symlink_to("/lib/systemd/system/pruner-ci.timer")
    said = status(log, now).next_step
    assert said == "the pruner is switched on and has not run yet: `systemctl status pruner-ci.service` says why"
    leave_levels(log.path, "/var/lib/docker", 5.0, 0.0)
    assert "`analyzer recommend" in status(log, now).next_step
    os.utime(levels_path(log.path), (now - 7200, now - 7200))
    assert "last ran 2 h ago" in status(log, now).next_step


@pytest.mark.slow
def test_a_check_of_the_status_fails_by_the_rule_that_the_status_warns_by(log: EventLog) -> None:
    def checked() -> str | None:
        """What is wrong, None if nothing is."""
        found = CliRunner().invoke(app, ["status", "--check", "--log", str(log.path)], standalone_mode=False)
        assert found.output == ""
        assert found.exception is None or (isinstance(found.exception, LogError) and found.exception.exit_status == 1)
        return None if found.exception is None else str(found.exception)

    now = time.time_ns()
    assert str(log.path) in (checked() or "")  # there is no log
    log.append([Event(now - 9000 * NS, Kind.JOB_IMAGE_USED), Event(now - 8000 * NS, Kind.PRUNE_STARTED)])
    assert "no collector has recorded anything" in (checked() or "")
    log.append([Event(now - 3000 * NS, Kind.COLLECTOR_STARTED)])
    assert "no collector has been running for 50." in (checked() or "")  # it was killed, or its engine is away
    log.append([Event(now, Kind.DISK_SAMPLED, bytes=5)])
    assert checked() is None
    log.append([Event(now + 1, Kind.COLLECTOR_STOPPED)])
    assert "no collector has been running for" in (checked() or "")
    log.append([Event(now + 2, Kind.COLLECTOR_STARTED)])
    assert checked() is None


def test_a_log_that_only_a_job_source_fed_has_observed_nothing(log: EventLog) -> None:
    log.append([Event(at(5), Kind.JOB_IMAGE_USED), Event(at(1), Kind.JOB_IMAGE_USED)])
    assert status(log, NOW).coverage_7_days is None


@pytest.mark.slow
def test_a_log_from_elsewhere_is_reported_by_its_own_host(log: EventLog) -> None:
    log.append([Event(at(7), Kind.COLLECTOR_STARTED), Event(at(0), Kind.DISK_SAMPLED, bytes=5)])
    elsewhere = status(EventLog(log.path, host="laptop"), NOW)
    assert (elsewhere.host, elsewhere.events, elsewhere.free_bytes) == ("runner", 2, 5)
    EventLog(log.path, host="laptop").append([Event(at(1), Kind.GAP, began_ns=at(2))])
    assert status(EventLog(log.path, host="laptop"), NOW).events == 1
    assert status(log, NOW).gaps == 0


@pytest.mark.slow
def test_the_lists_of_a_log_from_elsewhere_are_those_of_its_host(log: EventLog) -> None:
    log.append([Event(at(7), Kind.IMAGE_OBSERVED, image="sha256:" + "a" * 64, attributes={"size": 3})])
    found = CliRunner().invoke(app, ["images", "--log", str(log.path), "--format", "json"])
    assert [row["image_id"] for row in json.loads(found.output)] == ["sha256:" + "a" * 64]
    EventLog(log.path, host="k").append([Event(at(1), Kind.COLLECTOR_STARTED)])
    for command in (["images"], ["jobs"], ["explain", "a"], ["status"]):
        refused = CliRunner().invoke(app, [*command, "--log", str(log.path)], standalone_mode=False)
        assert isinstance(refused.exception, LogError)
        assert "holds the hosts k, runner, not this one" in str(refused.exception)


DAYS = st.integers(0, 60)


@given(first=DAYS, last=DAYS, gaps=st.lists(st.tuples(DAYS, DAYS).map(lambda pair: tuple(sorted(pair)))))
def test_every_second_is_seen_or_blind_or_before_the_beginning(
    first: int, last: int, gaps: list[tuple[int, int]]
) -> None:
    first, last = sorted((first, last))
    covered = Coverage(first, last, tuple(sorted(gaps)))
    days = [any(began <= day < ended for began, ended in gaps) for day in range(20, 50) if first <= day < last]
    assert covered.seen(20, 50) == days.count(False)
    assert covered.blind(20, 50) == max(0, 50 - max(first, 20)) - days.count(False)


@pytest.mark.slow
def test_free_space_is_reported_of_a_minute_as_of_a_week(log: EventLog) -> None:
    for spacing, count in ((2.0, 30), (300.0, 2016)):
        samples = [
            Event(round((NOW - k * spacing) * NS), Kind.DISK_SAMPLED, bytes=k, attributes={"total_bytes": 5000})
            for k in reversed(range(count))
        ]
        log.append(samples)
        history = status(log, NOW).free_history
        assert min(count, 100) <= len(history) <= 168
        assert history == sorted(history)
        assert min(free for _, free in history) == 0
    assert status(log, NOW).free_history[0][0] < NOW - 6.9 * DAY_S


def test_status_says_what_fills_the_disk_and_what_nobody_accounts_for(log: EventLog) -> None:
    facts = {"total_bytes": 100, "image_bytes": 30, "container_bytes": 5, "volume_bytes": 7}
    log.append([Event(at(1), Kind.COLLECTOR_STARTED), Event(at(0), Kind.DISK_SAMPLED, bytes=40, attributes=facts)])
    assert status(log, NOW).holds == {"images": 30, "containers": 5, "volumes": 7, "unaccounted": 18}
    assert status(log, NOW).disks == [DiskState(None, [], 40, 100)]
    # Of the 60 that are not free, 8 are kept for root: nobody holds them.
    log.append([Event(at(0) + 1, Kind.DISK_SAMPLED, bytes=40, attributes={**facts, "used_bytes": 52})])
    assert status(log, NOW).holds["unaccounted"] == 10
    assert status(log, NOW).image_bytes == 30


def test_status_shows_each_disk_of_the_engine_as_last_sampled(log: EventLog) -> None:
    for moment, left in ((2, 50), (0, 40)):
        main = {"total_bytes": 100, "file_system": "/", "holds": ["images"]}
        other = {"total_bytes": 10, "file_system": "/srv", "holds": ["content"], "main": False}
        log.append(
            [
                Event(at(moment), Kind.DISK_SAMPLED, bytes=left, attributes=main, identity="disk"),
                Event(at(moment), Kind.DISK_SAMPLED, bytes=left // 10, attributes=other, identity="disk /srv"),
            ]
        )
    assert status(log, NOW).disks == [DiskState("/", ["images"], 40, 100), DiskState("/srv", ["content"], 4, 10)]
