"""The automatic threshold: by hand, from a log, and along a simulated history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.knowledge import knowledge_of
from analyzer.simulation.replay import replay
from analyzer.trace.load import load_trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from collector.model.traits import Use
from collector.model.units import DAY_S
from pruner.policy.file import load_policy, policy_from, to_toml
from pruner.policy.headroom import (
    FreeSpaceDrops,
    capped,
    reach_of,
    read_falls,
    read_working_sets,
    resolved,
    usual_bytes,
)
from pruner.policy.policy import Policy, Space

T0 = 1_700_000_100 * 10**9  # a multiple of 300 s
PARTS = (("a", [(0, 100), (1, 10)]), ("b", [(0, 100), (2, 20)]), ("c", [(3, 30)]))
AUTO = Policy(threshold=Space.parse("auto"))


def sampled(log: EventLog, free: list[int], step: float = 60.0) -> None:
    log.append(
        [
            Event(T0 + int(k * step) * 10**9, Kind.DISK_SAMPLED, bytes=amount, attributes={"total_bytes": 1000})
            for k, amount in enumerate(free)
        ]
    )


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
    assert resolved(given, log, 1000, T0 / 1e9 + DAY_S) == given


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
        (2 * DAY_S * burst + 1000.0 + k, 5 * burst + k, 2 * DAY_S * burst + 1001.0 + k, Use.JOB)
        for burst in range(8)
        for k in range(5)
    ]
    trace = make_trace(images, uses, [DiskState(0, 1000, 0)], end=16 * DAY_S)
    fixed = replay(trace, PolicyCleaner(Policy(threshold=Space.parse("10%")), trace))
    learned = replay(trace, PolicyCleaner(AUTO, trace))
    # A tenth is 100 bytes and a burst takes 300: it does not fit. From the first burst on 375 stay free.
    assert fixed.disk_full > 0
    assert learned.disk_full == 0
    assert learned.min_free == 100
    assert "auto" in learned.name


def test_the_threshold_leaves_room_for_what_most_days_use() -> None:
    assert usual_bytes([10.0, 20.0]) is None
    assert usual_bytes([40.0, 10.0, 30.0, 20.0]) == 30.0
    assert capped(50.0, 100.0, 90.0, None) == 50.0
    assert capped(50.0, 100.0, 90.0, 60.0) == 30.0
    assert capped(50.0, 100.0, 90.0, 20.0) == 50.0
    assert capped(50.0, 100.0, 90.0, 89.0) == 5.0
    # They do not fit, whatever is kept free: a lower threshold would only fail more jobs.
    assert capped(50.0, 100.0, 90.0, 90.5) == capped(50.0, 100.0, 90.0, 200.0) == 50.0


@pytest.mark.slow
def test_what_most_days_use_is_the_same_live_and_simulated(log: EventLog) -> None:
    day = 86400 * 10**9
    events = [Event(T0, Kind.DISK_SAMPLED, bytes=900, attributes={"total_bytes": 1000, "image_bytes": 0})]
    for name, parts in PARTS:
        layers = [{"diff_id": f"sha256:{k}", "chain_id": f"sha256:{k}", "bytes": size} for k, size in parts]
        facts = {"references": [f"{name}:1"], "digests": [], "size": sum(size for _, size in parts), "layers": layers}
        attributes = {**facts, "origin": "registry"}
        events.append(Event(T0, Kind.IMAGE_OBSERVED, f"sha256:{name * 64}", f"{name}:1", attributes=attributes))
    for number, used in enumerate(("a", "ab", "", "abc", "c", "b", "abc")):
        for k, name in enumerate(used):
            begun = T0 + number * day + k * 10**9
            image = f"sha256:{name * 64}"
            events.append(Event(begun, Kind.CONTAINER_CREATED, image, f"{name}:1", f"{number}{name}"))
            end = Event(begun + 10**9, Kind.CONTAINER_DESTROYED, image, f"{name}:1", f"{number}{name}", began_ns=begun)
            events.append(end)
    log.append([*events, Event(T0 + 8 * day, Kind.DISK_SAMPLED, bytes=900, attributes={"total_bytes": 1000})])
    sets = knowledge_of(load_trace(log)).working_sets
    found = []
    for now in range(0, 8 * 86400, 7 * 3600):
        live = usual_bytes(read_working_sets(log, T0 / 1e9 + now))
        simulated = sets[int(np.searchsorted(sets[:, 0], now, side="right")) - 1, 1]
        assert simulated == (-np.inf if live is None else live), now
        found.append(live)
    # The bytes of a day's layers, each once; the shares of days: a, ab, abc, c, b, abc.
    assert list(dict.fromkeys(found)) == [None, 160.0, 130.0]
