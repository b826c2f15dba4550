"""`min_age = "auto"`: from rows by hand, from a log, and the same along a simulated history."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.trace.load import load_trace
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from pruner.policy.file import load_policy, policy_from, to_json, to_toml
from pruner.policy.min_age import MEMORY_HOURS, Evidence, decisive_hours, history, with_min_age
from pruner.policy.policy import Policy

HOUR = 3600
T0 = 472_223 * HOUR  # 2023-11-15 00:00 UTC less an hour
IMAGE = "sha256:" + "a" * 64


def test_nearly_all_pulls_are_covered_twice_between_five_minutes_and_an_hour() -> None:
    seen = Evidence()
    seen.add([(0, 200, 49)], [])
    assert (seen.waited, seen.age) == (None, 3600.0)  # too few
    seen.add([(1, 400, 1)], [])
    assert (seen.waited, seen.age) == (400, 800.0)
    seen.add([(2, 10, 50)], [])
    assert (seen.waited, seen.age) == (200, 400.0)  # one of a hundred is let go
    seen.add([(0, 200, 49), (1, 400, 1)], [], -1)
    assert (seen.waited, seen.age) == (10, 300.0)
    seen.add([(3, 3000, 50)], [])
    assert (seen.waited, seen.age) == (3000, 3600.0)


def test_ten_minutes_are_enough_where_jobs_in_flight_are_known() -> None:
    seen = Evidence()
    seen.add([], [(0, 19)])
    assert seen.age == 3600.0
    seen.add([], [(1, 1)])
    assert (seen.age, seen.gitlab) == (600.0, True)
    seen.add([(2, 3000, 50)], [])
    assert seen.age == 600.0
    seen.add([(2, 3000, 50)], [], -1)
    seen.add([(2, 100, 50)], [])
    assert seen.age == 300.0


def test_what_was_seen_in_an_hour_is_known_at_its_end_and_forgotten_after_a_month() -> None:
    assert list(history([(10, 250, 50)], [])) == [(11, 500.0), (11 + MEMORY_HOURS, 3600.0)]
    assert list(history([(10, 250, 30), (12, 250, 30)], [(20, 25)])) == [
        (13, 500.0),
        (11 + MEMORY_HOURS, 600.0),
        (21 + MEMORY_HOURS, 3600.0),
    ]


@given(st.lists(st.integers(0, 24), max_size=12), st.integers(0, 2**50 - 1), st.randoms(use_true_random=False))
def test_hours_are_counted_only_where_spans_do_not_decide(counts: list[int], shift: int, source: Random) -> None:
    span = 2**50
    first = T0 * 10**9 // span
    times = [(first + k) * span + source.randrange(span) for k, count in enumerate(counts) for _ in range(count)]
    # Many are close together: a span may have enough in one hour at its edge.
    times += [(first + k) * span + shift for k, count in enumerate(counts) if count % 3 == 0 for _ in range(20)]
    by_hour = Counter(time // (HOUR * 10**9) for time in times)
    decisive = decisive_hours(Counter(time // span for time in times), span)
    some = [row for begin, end in decisive.hours for row in by_hour.items() if begin <= row[0] <= end]
    pulls = [((T0 // HOUR) + 100 * k, 250, 30) for k in range(40)]
    expected = list(history(pulls, list(by_hour.items())))
    assert list(history(pulls, [*some, *decisive.others])) == expected


def test_a_busy_year_has_few_hours_to_count() -> None:
    decisive = decisive_hours(dict.fromkeys(range(100, 128), 5000), 2**50)
    assert len(decisive.hours) == 2
    assert sum(end - begin + 1 for begin, end in decisive.hours) < 2 * 314
    assert [count for _, count in decisive.others] == [5000] * 26


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb", host="runner")
    layers = [{"diff_id": "sha256:1", "chain_id": "sha256:1", "bytes": 10}]
    facts = {"references": ["a:1"], "digests": [], "created": "2023-01-01T00:00:00Z", "size": 10, "layers": layers}
    disk = Event(T0 * 10**9, Kind.DISK_SAMPLED, bytes=900, attributes={"total_bytes": 1000, "image_bytes": 10})
    events = [disk, Event(T0 * 10**9, Kind.IMAGE_OBSERVED, IMAGE, "a:1", attributes={**facts, "origin": "registry"})]
    for k in range(60):
        begun = (T0 + 60 * k) * 10**9
        events.append(Event(begun, Kind.IMAGE_PULLED, IMAGE, "a:1"))
        # The first container after the pull counts, and a second one does not.
        for later in (199.4, 210.0):
            created = begun + int(later * 10**9)
            container = f"{k}-{later}"
            events.append(Event(created, Kind.CONTAINER_CREATED, IMAGE, "a:1", container))
            events.append(Event(created + 10**9, Kind.CONTAINER_DESTROYED, IMAGE, "a:1", container, began_ns=created))
    end = Event((T0 + 5 * HOUR) * 10**9, Kind.DISK_SAMPLED, bytes=900, attributes={"total_bytes": 1000})
    made.append([*events, end])
    return made


@pytest.mark.slow
def test_live_and_simulated_it_is_the_same_at_any_time(log: EventLog) -> None:
    trace = load_trace(log)
    cleaner = PolicyCleaner(Policy(), trace)
    ages = set()
    for now in np.arange(0.0, 5 * HOUR, 701.3):
        found = with_min_age(Policy(), log, T0 + now)
        assert found.min_age == cleaner.min_age(now), now
        ages.add(found.min_age)
    # The first pulls wait for 199.4 s, later ones not so long for the container of a pull before them.
    assert ages == {3600.0, 400.0}


def test_why_is_said(log: EventLog) -> None:
    early, late = (with_min_age(Policy(), log, T0 + hours * HOUR) for hours in (0.5, 3.0))
    assert early.min_age_evidence.startswith("too few pulls were seen yet")
    assert "99% of 60 pulls were followed by a container within" in late.min_age_evidence
    assert "min age 6.7 min (auto)" in str(late)
    assert with_min_age(Policy(min_age=60.0), log, T0) == Policy(min_age=60.0)
    assert with_min_age(Policy(), None, T0).min_age == 3600.0


def test_it_is_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(to_toml(Policy()))
    assert 'min_age = "auto"' in file.read_text()
    assert load_policy(file) == Policy()
    assert policy_from({"min_age": "auto"}, "test", Policy(min_age=5.0)).min_age is None
    assert to_json(Policy())["min_age"] == "auto"
