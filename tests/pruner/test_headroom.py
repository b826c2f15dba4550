"""The automatic threshold: by hand, from a log, and along a simulated history."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import replay
from analyzer.trace.trace import DiskState, ImageFacts, Use, make_trace
from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from pruner.policy.file import load_policy, policy_from, to_toml
from pruner.policy.headroom import DAY, FreeSpaceDrops, reach_of, read_falls, resolved
from pruner.policy.policy import Policy, Space

T0 = 1_700_000_100 * 10**9  # a multiple of 300 s
AUTO = Policy(threshold=Space.parse("auto"))


def sampled(log: EventLog, free: list[int], step: float = 60.0) -> None:
    log.append(
        [
            Event(T0 + int(k * step) * 10**9, Kind.DISK_SAMPLED, bytes=amount, attributes={"total_bytes": 1000})
            for k, amount in enumerate(free)
        ]
    )


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.duckdb", host="runner")


def test_the_deepest_fall_of_three_months_counts_with_a_margin() -> None:
    falls = FreeSpaceDrops(300.0, [0.0] * 286)
    assert falls.threshold(1000) is None  # less than a day
    falls.add(80.0)
    assert falls.threshold(1000) is None
    falls.add(-5.0)
    assert falls.threshold(1000) == 100.0
    assert falls.threshold(10_000) == 500.0  # 5 % at least
    assert falls.threshold(150) == 75.0  # 50 % at most
    for _ in range(90 * 288 - 1):
        falls.add(40.0)
    assert falls.threshold(800) == 50.0  # the fall of 80 was over three months ago


def test_falls_are_read_from_the_log(log: EventLog) -> None:
    # Within 5 minutes from 900 to 850; up by a prune; down by 60 across the border of two intervals.
    sampled(log, [900, 880, 850, 850, 850, 950, 930, 930, 930, 920, 890])
    assert read_falls(log, 300.0, T0 / 1e9 + 10_000) == [50.0, 30.0, 60.0]
    assert read_falls(log, 300.0, T0 / 1e9 + 120) == [50.0]  # what comes later is not known


def test_the_policy_is_resolved_once_a_day_has_been_sampled(log: EventLog) -> None:
    assert resolved(AUTO, None, 1000, T0 / 1e9) == resolved(AUTO, log, 1000, T0 / 1e9) == AUTO
    assert AUTO.levels(1000, 0).threshold[0] == 100.0
    free = [900] * 290
    free[100] = 700
    sampled(log, free, 300.0)
    found = resolved(AUTO, log, 1000, T0 / 1e9 + 291 * 300)
    assert (found.threshold.amount, found.threshold.unit, str(found.threshold)) == (250.0, "B", "auto")
    given = Policy(threshold=Space.parse("10%"))
    assert resolved(given, log, 1000, T0 / 1e9 + DAY) == given


def test_a_fall_counts_within_what_it_takes_to_make_room(log: EventLog) -> None:
    """Where the collector wakes the pruner, what arrives within a minute; else what arrives within an interval."""
    sampled(log, [900, 880, 850, 850, 850, 950, 930, 930, 930, 920, 890])
    assert read_falls(log, 300.0, T0 / 1e9 + 10_000, reach_of(300.0, early=True)) == [50.0, 20.0, 40.0]
    assert reach_of(300.0, early=False) == 300.0
    assert reach_of(30.0, early=True) == 30.0


def test_only_the_threshold_can_be_automatic(tmp_path: Path) -> None:
    assert policy_from({"threshold": "auto"}, "test").threshold.unit == "auto"
    for key in ("target", "emergency", "inode_threshold"):
        with pytest.raises(UsageError, match="'auto' is only for `threshold`"):
            policy_from({key: "auto"}, "test")
    file = tmp_path / "policy.toml"
    file.write_text(to_toml(AUTO))
    assert load_policy(file) == AUTO


def test_a_simulated_host_learns_from_its_own_falls() -> None:
    """Each second day a burst of five images of 60 bytes comes within one interval."""
    images = [ImageFacts([(f"own{i}", 60)]) for i in range(40)]
    uses = [
        (2 * DAY * burst + 1000.0 + k, 5 * burst + k, 2 * DAY * burst + 1001.0 + k, Use.JOB)
        for burst in range(8)
        for k in range(5)
    ]
    trace = make_trace(images, uses, [DiskState(0, 1000, 0)], end=16 * DAY)
    fixed = replay(trace, PolicyCleaner(Policy(threshold=Space.parse("10%")), trace))
    learned = replay(trace, PolicyCleaner(AUTO, trace))
    # A tenth is 100 bytes and a burst takes 300: it does not fit. From the first burst on 375 stay free.
    assert fixed.disk_full > 0
    assert learned.disk_full == 0
    assert learned.min_free == 100
    assert "auto" in learned.name
