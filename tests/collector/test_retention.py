"""What is older than is to be kept becomes sums, and decisions and explanations are the same as before."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analyzer.trace.load import DiskOverride, load_trace
from analyzer.trace.parquet import ParquetLog, export_parquet
from collector.commands.upkeep import forget
from collector.eventlog import compaction, experience, hourly, identity, retention
from collector.eventlog import rewrite as rewriting
from collector.eventlog.database import NEW_FILE
from collector.eventlog.forget import forget_image, forget_project
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.pace import Pace
from collector.eventlog.retention import OFTEN_S, compact, parse_keep, whole_since_ns
from collector.eventlog.salvage import set_aside
from collector.eventlog.schema import BASE, STORED_KEY
from collector.machine.next_removals import NextRemoval, NextRemovals, leave_next_removals
from collector.machine.prune_runs import Fruitless, PruneRuns, leave_runs, read_runs
from collector.model.errors import LogError, LogFullError, UsageError
from collector.model.events import Event, Kind
from collector.queries import tally
from collector.queries.check import check
from collector.queries.jobs import jobs
from collector.queries.status import status
from collector.queries.story import stories
from collector.queries.tally import Tally
from collector.shipping import merge
from collector.shipping.forget import Rule, forget_shipped
from collector.shipping.parts import Manifest, Name
from collector.shipping.ship import ship
from collector.shipping.store import StoreError, open_store
from tests import commands
from tests.collector.test_compaction import IMAGES, KINDS, History, answers, by_hour
from tests.kills import kill_after
from tests.needs import cannot_run

S = 10**9
DAY = 86400
KEEP = 30.0 * DAY
DISK = DiskOverride(100, 10)
STEPS = ("piece", "copied", "folded", "closed", "synced", "replaced")
MIX = (*(kind for kind in KINDS if kind != "set back"), *["container"] * 6, *["pulled"] * 3, "job")


class Crash(BaseException):
    """What a fake crash raises: nothing handles it."""


def filled(path: Path, seed: int, days: int = 2, steps: int = 60, last_days: int = 31) -> tuple[EventLog, float]:
    """A log of some busy days and, after a month, of some quiet ones; and what time it is then."""
    log, history, noise = EventLog(path, host="h"), History(), random.Random(seed)
    for day in range(days + 2):
        for _ in range(steps if day < days else 8):
            history.take(
                noise.choice(MIX), noise.randrange(4), noise.randrange(4), noise.choice((1, 10, 100, 600, 3000))
            )
        history.now += (DAY // 2 if day != days - 1 else last_days * DAY) * S
        log.append(history.events)
        history.events.clear()
    return log, history.now / S + 1


def asked(log: EventLog, now: float) -> dict[str, Any]:
    """All that decisions and explanations are made of."""
    found = answers(log, now)
    found["status"] = found["status"][1], found["status"][4]
    for image in IMAGES:
        try:
            found[f"story {image[-1]}"] = [asdict(story) for story in stories(log, image)]
        except UsageError:
            found[f"story {image[-1]}"] = None
    with log.reading(whole_since=ONLY_KEPT) as connection:
        found["habits"] = [sorted(rows) for rows in experience.read(connection, log.host, int(now * 1e9))]
    found["hours"] = hours(log, now)
    return found


def hours(log: EventLog, now: float) -> tuple[Any, Any]:
    """What counts by its hour."""
    waits, falls = by_hour(log, int(now * S))
    return waits, falls[:-1]  # what is not folded is read from what is left


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """A log's file, and what time it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FOLD_EVERY", 20)
        log, now = filled(tmp_path_factory.mktemp("log") / "events.duckdb", 1)
    return log.path.read_bytes(), now


@pytest.fixture
def log(tmp_path: Path, once: tuple[bytes, float]) -> EventLog:
    path = tmp_path / "events.duckdb"
    path.write_bytes(once[0])
    return EventLog(path, host="h")


@pytest.fixture
def now(once: tuple[bytes, float]) -> float:
    return once[1]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 20)
    monkeypatch.setattr(rewriting, "PIECE", 90)
    monkeypatch.setattr(rewriting, "_LAST_PIECE", 5)
    monkeypatch.setattr(rewriting, "GROWTH", 2**30)  # a few events weigh less than what is kept of them
    monkeypatch.setattr(tally, "_STORED_EVERY", 2)


@pytest.mark.slow
def test_decisions_and_explanations_are_the_same_after_compactions(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = asked(log, now)
    assert compact(log, KEEP + 2.5 * DAY, now=now).removed > 0
    assert compact(log, KEEP, now=now).removed > 0
    assert asked(log, now) == before
    assert check(log) == []
    assert whole_since_ns(log) == int(now - KEEP) // DAY * DAY * S
    assert compact(log, KEEP, now=now).removed == 0
    # What is folded can be lost, and is made again of the base and the events since.
    log.forget_folded()
    log.append([Event(int(now * S), Kind.COLLECTOR_STARTED)])
    assert asked(log, now)["habits"] == before["habits"]
    assert check(log) == []
    # Neither other rules nor an event of then count again by the hour what has become sums.
    monkeypatch.setattr(hourly, "PACE", Pace(60, 60))
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE hourly SET version = 'older'")
    assert hours(log, now) == before["hours"]
    late = Event(int((now - KEEP - 2.8 * DAY) * S), Kind.DISK_SAMPLED, bytes=0, attributes={"path": "/"})
    for second, event in enumerate([late] * 9):
        log.append([replace(event, time_ns=event.time_ns + second * S)])
    assert log.query("SELECT version FROM hourly") == [(hourly.VERSION,)]
    assert hours(log, now) == before["hours"]
    assert check(log) == []


# What a simulation goes by: each image's first and last use of a day, and its longest idle time on it.
IDLE = """
WITH used AS (
    SELECT image, epoch_ns(coalesce(began, time)) AS began, epoch_ns(time) AS ended FROM event WHERE image NOTNULL
        AND (kind = 'job_image_used' OR kind = 'container_destroyed' AND began NOTNULL)
    UNION ALL SELECT image, epoch_ns(began), epoch_ns(ended) FROM thinned_use WHERE len(jobs) > 0
)
SELECT image, day, min(began), max(ended), max(idle) FROM (
    SELECT *, began // 86400000000000 AS day,
        began - max(ended) OVER (PARTITION BY image, began // 86400000000000 ORDER BY began, ended
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS idle FROM used
) GROUP BY image, day ORDER BY image, day
"""


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    days=st.lists(
        st.lists(
            st.tuples(st.sampled_from(MIX), st.integers(0, 3), st.integers(0, 3), st.sampled_from((1, 60, 3000))),
            min_size=1,
            max_size=20,
        ),
        min_size=1,
        max_size=3,
    ),
    cuts=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(STEPS)), min_size=1, max_size=2),
)
def test_what_decisions_need_is_the_same_wherever_a_history_is_cut(
    tmp_path_factory: pytest.TempPathFactory, days: list[Any], cuts: list[tuple[int, str]]
) -> None:
    log, history, running = EventLog(tmp_path_factory.mktemp("log") / "events.duckdb", host="h"), History(), Tally()
    for day in [*days, [("container", 0, 0, 60), ("restart", 0, 0, 60)]]:
        for step in day:
            history.take(*step)
        history.now += (31 if day is days[-1] else 1) * DAY * S
        log.append(history.events)
        history.events.clear()
        running.advance(log)
    now = history.now / S + 1
    before, idle = asked(log, now), log.query(IDLE)
    for keep, step in cuts:

        def crash(at: str, step: str = step) -> None:
            if at == step:
                raise Crash

        with suppress(Crash):
            compact(log, KEEP + keep * DAY, now=now, at=crash)
        compact(log, KEEP + keep * DAY, now=now)
    assert asked(log, now) == before
    assert log.query(IDLE) == idle
    assert check(log) == []


@pytest.mark.slow
def test_a_log_of_an_older_version_is_written_again_with_all_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    events = [Event(n * S, Kind.IMAGE_PULLED, image="sha256:" + f"{n % 9:064x}") for n in range(1, 200)]
    with monkeypatch.context() as older:
        older.setitem(NEW_FILE, "default_block_size", "262144")
        log.append(events)
    with duckdb.connect(str(log.path)) as connection:
        connection.execute(f"UPDATE event SET key = key + {STORED_KEY + 1}")
    before = log.query("SELECT * EXCLUDE (key), key & ? FROM event", [STORED_KEY])
    assert compact(log, math.inf).bytes_after == log.path.stat().st_size  # there is little to win
    assert log.query("SELECT count(*) FROM event") == [(199,)]
    monkeypatch.setattr(retention, "_WORTH", 0)
    found = compact(log, math.inf)
    assert found.removed == 0
    assert found.whole_since is None
    assert found.bytes_after == log.path.stat().st_size < found.bytes_before
    assert log.query(f"SELECT * EXCLUDE (key), key FROM event WHERE kind <> '{Kind.LOG_COMPACTED}'") == before
    assert log.append(events) == 0
    assert check(log) == []


@pytest.mark.slow
def test_a_project_and_an_image_are_forgotten_in_an_archive_too(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "archive"))
    monkeypatch.setattr(merge, "LEAST", 2)
    log.append([Event(S, Kind.PULL_FAILED, None, "nowhere/app:9")])
    for _ in range(2):
        ship(log, store)

    def shown(table: str) -> list[tuple[Any, ...]]:
        archive = tmp_path / "archive"
        files = [str(path) for path in (*(archive / table).rglob("*"), *archive.rglob(f"*.{table}.parquet"))]
        files = [file for file in files if file.endswith(".parquet")]
        return duckdb.execute("SELECT * FROM read_parquet(?, union_by_name = true)", [files]).fetchall()

    assert list((tmp_path / "archive" / "merged").rglob("*.job.parquet"))
    # What an interrupted run left is named by no manifest, and may hold it all the same.
    left = [max((tmp_path / "archive" / table).rglob("*.parquet")) for table in ("event", "job", "merged")]
    left = [Path(shutil.copy(path, path.with_name(path.name.replace(".1-", ".2-")))) for path in left]
    left.append(Path(shutil.copy(left[0], tmp_path / "archive/.incoming" / left[0].name)))
    foreign = Path(shutil.copy(left[0], left[0].with_name("other.parquet")))
    (project,) = log.query("SELECT min(project_id) FROM job")[0]
    jobs_before, events = len(shown("job")), len(shown("event"))

    def there(rule: Rule) -> int:
        return forget_shipped(log, store, rule)

    class Own:
        """A bucket, with credentials for the host's own folders."""

        name = "s3://own"

        def __getattr__(self, called: str) -> Any:
            def guarded(path: str, *rest: Any) -> Any:
                assert path.partition("/")[2].startswith("host=h/") or path.endswith("/host=h"), path
                return getattr(store, called)(path, *rest)

            return guarded

    forget_project(log, "none", archive=lambda rule: forget_shipped(log, Own(), rule))
    assert [path.exists() for path in left] == [False] * 3 + [True]
    left = [Path(shutil.copy(foreign, path)) for path in left]
    forget_project(log, project, dry_run=True, archive=lambda rule: forget_shipped(log, store, rule, dry_run=True))
    assert all(path.exists() for path in left)
    assert forget_project(log, project, archive=there).parts > 0
    assert [path.exists() for path in (*left, foreign)] == [False] * 4 + [True]
    foreign.unlink()
    assert len(shown("job")) < jobs_before
    (image,) = log.query("SELECT max(image_id) FROM event JOIN image USING (image) WHERE kind = 'image_pulled'")[0]
    assert image in repr(shown("event"))
    assert forget_image(log, image, archive=there).parts > 0
    assert image not in repr(shown("event"))
    assert len(shown("event")) < events
    for path in (tmp_path / "archive" / "manifest").rglob("*-*.json"):
        name, manifest = Name.parsed(str(path)), Manifest.from_bytes(path.read_bytes())
        assert name is not None
        data = store.read(name.events("h"))
        assert data is not None
        assert hashlib.sha256(data).hexdigest() == manifest.sha256
        assert not manifest.becoming
    assert forget_project(log, project, archive=there).parts == 0
    # What was forgotten in the log alone, or thinned there, is found by its name all the same.
    (name,) = log.query("SELECT min(name) FROM image_references")[0]
    found = forget_image(log, name)
    assert (found.images != (), name in repr(shown("event"))) == (True, True)
    assert (forget_image(log, name, archive=there).parts > 0, name in repr(shown("event"))) == (True, False)
    assert forget_image(log, "nowhere/app", archive=there).parts > 0
    assert "nowhere" not in repr(shown("event"))
    assert log.query("SELECT count(*) FROM event WHERE kind = 'data_forgotten'") == [(5,)]
    assert all(not shipped.notes for shipped in ship(log, store))
    path.write_bytes(b"{}")
    with pytest.raises(StoreError, match="remove them by hand"):
        forget_project(log, project, archive=there)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["copied", "synced", "replaced"])
def test_an_end_at_any_step_leaves_the_old_log_or_the_new_one(log: EventLog, now: float, step: str) -> None:
    before = log.query("SELECT count(*) FROM event")

    def crash(at: str) -> None:
        if at == step:
            raise Crash

    with pytest.raises(Crash):
        compact(log, KEEP, now=now, at=crash)
    if step != "replaced":
        assert log.query("SELECT count(*) FROM event") == before
        assert compact(log, KEEP, now=now).removed > 0
    assert whole_since_ns(log) is not None
    assert check(log) == []


@pytest.mark.slow
def test_an_image_and_a_project_are_forgotten_in_what_became_sums_too(log: EventLog, now: float) -> None:
    compact(log, KEEP, now=now)
    thinned = "SELECT count(*) FILTER (image = (SELECT image FROM image WHERE image_id = ?)) FROM thinned_use"
    (image,) = log.query("SELECT max(image_id) FROM thinned_use JOIN image USING (image)")[0]
    assert log.query(thinned, [image])[0][0] > 0
    forget_image(log, image)
    assert log.query(thinned, [image])[0][0] == 0
    (job,) = log.query("SELECT max(project_id) FROM job WHERE job IN (SELECT unnest(jobs) FROM thinned_use)")[0]
    forget_project(log, str(job))
    assert log.query(
        "SELECT count(*) FROM (SELECT unnest(jobs) AS job FROM thinned_use) WHERE job IS NOT NULL"
        " AND job NOT IN (SELECT job FROM job)"
    ) == [(0,)]
    assert [one for one in check(log) if one.rule != "projection"] == []
    assert all(row.began for row in jobs(log, None, 10_000))


@pytest.mark.slow
def test_what_a_compaction_left_of_its_events_is_in_a_log_that_is_salvaged(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "host_name", lambda: "h")

    def left() -> tuple[Any, ...]:
        return hours(log, now), *(log.query(f"FROM {table} ORDER BY ALL") for table in ("image_uses", *BASE))

    assert compact(log, KEEP, now=now).removed > 0
    before = left()
    assert before[0][0][0]
    set_aside(log, "a test")
    assert left() == before
    log.append([Event(int(now * S) + n, Kind.EVENT_UNREADABLE, attributes={"raw": str(n)}) for n in range(60)])
    assert compaction_reached(log)
    assert left() == before
    assert check(log) == []


def compaction_reached(log: EventLog) -> int | None:
    """The number of the last event that is folded."""
    with log.reading() as connection:
        return compaction.reached(connection)


@pytest.mark.slow
def test_the_analyzer_loads_what_is_left_and_says_so(log: EventLog, now: float, tmp_path: Path) -> None:
    before = load_trace(log, None, DISK)
    compact(log, KEEP, now=now)
    after = load_trace(log, None, DISK)
    assert any("complete from" in text for text in after.assumptions)
    assert after.image_ids == before.image_ids
    assert 0 < len(after.time) <= len(before.time)
    # An export is as whole as the log.
    export_parquet(log, tmp_path / "export")
    exported = load_trace(ParquetLog(tmp_path / "export", "h"), None, DISK)
    assert [exported.time.tolist(), exported.image_ids] == [after.time.tolist(), after.image_ids]
    with ParquetLog(tmp_path / "export", "h").reading() as connection:
        assert connection.execute("SELECT count(*) > 0 FROM base_habit").fetchall() == [(True,)]
    for table in ("thinned_use", "base_habit"):
        (file,) = (tmp_path / "export" / table).rglob("*.parquet")
        copy = file.with_stem("copy")
        copy.write_bytes(file.read_bytes())
        with pytest.raises(LogError, match=f"has rows of {table} twice"):
            load_trace(ParquetLog(tmp_path / "export", "h"), None, DISK)
        copy.unlink()


@pytest.mark.slow
def test_a_largest_size_keeps_less_but_never_less_than_decisions_need(log: EventLog, now: float) -> None:
    assert compact(log, KEEP + 2.5 * DAY, now=now).removed > 0
    # A month has not passed since, nor need it where the file is too large; a week must have.
    assert compact(log, KEEP, 1, least_s=OFTEN_S, now=now).removed == 0
    assert compact(log, KEEP, least_s=OFTEN_S, now=now + 8 * DAY).removed == 0
    assert compact(log, KEEP, 1, least_s=OFTEN_S, now=now + 8 * DAY).removed > 0
    now += 8 * DAY
    found = compact(log, math.inf, 1, now=now)
    assert found.whole_since == int(now - KEEP) // DAY * DAY
    assert compact(log, math.inf, 2**40, now=now).removed == 0


@pytest.mark.slow
def test_what_cannot_be_done_is_one_line_and_nothing_is_lost(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_keep("forever") == math.inf
    for text in ("29d", "x", "0"):
        with pytest.raises(UsageError, match="--keep"):
            parse_keep(text)
    data = log.query("SELECT * FROM event ORDER BY seq")
    monkeypatch.setattr(rewriting, "MARGIN", 2**60)
    with pytest.raises(LogFullError, match="nothing was changed"):
        compact(log, KEEP, now=now)
    assert log.query("SELECT * FROM event ORDER BY seq") == data


@pytest.mark.slow
def test_a_disk_that_fills_while_the_copy_is_written_leaves_the_log_as_it_was(
    log: EventLog, now: float, state_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can mount a small file system")
    monkeypatch.setattr(rewriting, "MARGIN", -(2**60))
    disk = state_root / "small"
    disk.mkdir()
    size = log.path.stat().st_size * 5 // 4
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        small = EventLog(disk / "events.duckdb", host="h")
        small.path.write_bytes(log.path.read_bytes())
        data = small.query("SELECT * FROM event ORDER BY seq")
        with pytest.raises(LogFullError) as raised:
            compact(small, KEEP, now=now)
        assert "\n" not in str(raised.value)
        assert small.query("SELECT * FROM event ORDER BY seq") == data
        assert [path.name for path in disk.iterdir() if path.name.startswith(".events")] == []
        assert check(small) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_compaction_that_is_killed_at_any_moment_loses_nothing(log: EventLog, now: float) -> None:
    before = log.query("SELECT count(*) FROM event")[0][0]
    script = (
        "import sys; from pathlib import Path; from collector.eventlog import rewrite;"
        "from collector.eventlog.log import EventLog; from collector.eventlog.retention import compact;"
        "rewrite.PIECE, rewrite._LAST_PIECE, rewrite.GROWTH = 90, 5, 2**30; print('.', flush=True);"
        "compact(EventLog(Path(sys.argv[1]), host='h'), float(sys.argv[2]), now=float(sys.argv[3]))"
    )
    for pause in (0.1, 0.3):
        kill_after(pause, script, str(log.path), str(KEEP), str(now))
        assert check(log) == []
        is_whole = whole_since_ns(log) is None
        assert (log.query("SELECT count(*) FROM event")[0][0] == before) is is_whole
    compact(log, KEEP, now=now)
    assert whole_since_ns(log) == int(now - KEEP) // DAY * DAY * S


@pytest.mark.slow
def test_what_another_version_folded_is_estimated_and_said(
    log: EventLog, now: float, caplog: pytest.LogCaptureFixture
) -> None:
    compact(log, KEEP, now=now)
    with log._opened(read_only=False) as connection:
        connection.execute("UPDATE base_experience SET version = 'x'; UPDATE experience SET version = 'x'")
    habits = asked(log, now)["habits"]
    assert "estimated" in caplog.text
    assert habits[0]


def test_the_pruner_s_notes_beside_a_log_name_nothing_that_is_forgotten(log: EventLog) -> None:
    row = Fruitless(1.0, 2.0, 1, error="secret/app:1 is in use")
    leave_runs(log.path, PruneRuns(3, None, row, {"secret/app": 1.0}, {"secret/app": row}))
    removal = NextRemoval("secret/app:1", 1, 1.0, "unused")
    leave_next_removals(log.path, NextRemovals(1.0, "lru", (removal,), 1, 1))
    forget(log.path, image="secret/app")
    assert [path.name for path in log.path.parent.iterdir() if b"secret" in path.read_bytes()] == []
    assert read_runs(log.path).total == 3
    with pytest.raises(StoreError, match="holds nothing of this log"):
        forget(log.path, image="secret/app", archive=str(log.path.parent / "elsewhere"))
    with pytest.raises(UsageError, match="which one"):
        forget(log.path, image=" ")


def test_the_command_says_what_it_won(log: EventLog) -> None:
    command = ["collector", "compact", "--log", str(log.path)]
    shown = commands.run(*command, "--keep", "3d")
    assert (shown.returncode, shown.stderr.count("\n")) == (2, 1)
    shown = commands.run(*command, "--format", "json")
    assert json.loads(shown.stdout)["bytes_before"] > 0


@pytest.mark.slow
def test_a_compaction_that_would_make_the_file_larger_leaves_it_and_is_not_tried_again_soon(
    log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "GROWTH", -(2**30))
    before = log.query("FROM event ORDER BY seq")
    found = compact(log, KEEP, now=now, least_s=DAY)
    assert (found.removed, found.bytes_before) == (0, found.bytes_after)
    assert found.bytes_without_gain
    assert log.query("FROM event ORDER BY seq") == before
    assert whole_since_ns(log) is None
    monkeypatch.setattr(rewriting, "GROWTH", 2**30)
    assert compact(log, KEEP, now=now + DAY / 2, least_s=DAY).removed == 0
    assert compact(log, KEEP, now=now + DAY, least_s=DAY).removed > 0


def test_a_command_that_won_nothing_says_so(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    found = retention.Compacted(None, 9, 0, 2**20, 2**20, 0.0, 3 * 2**20)
    monkeypatch.setattr(retention, "compact", lambda *_, **__: found)
    shown = commands.run("collector", "compact", "--log", str(log.path))
    assert (shown.returncode, shown.stdout.count("\n")) == (0, 1)
    assert shown.stdout.startswith("nothing was won: thinned, the file would take 3.00 MiB instead of 1.00 MiB")


@pytest.mark.slow
def test_an_archive_has_what_a_compaction_thins_or_nothing_is_thinned(tmp_path: Path) -> None:
    log, now = filled(tmp_path / "log", 3)
    before = log.query("SELECT count(*) FROM event")[0][0]
    archive = tmp_path / "archive"
    archive.touch()
    with pytest.raises(StoreError):
        compact(log, KEEP, now=now, archive=lambda: ship(log, open_store(str(archive))))
    assert log.query("SELECT count(*) FROM event")[0][0] == before
    assert whole_since_ns(log) is None
    archive.unlink()
    compact(log, KEEP, now=now, archive=lambda: ship(log, open_store(str(archive))))
    assert log.query("SELECT count(*) FROM event WHERE kind <> 'log_compacted'")[0][0] < before
    shipped = [str(path) for path in (archive / "event").rglob("*.parquet")]
    assert duckdb.execute("SELECT count(DISTINCT seq) FROM read_parquet(?)", [shipped]).fetchall() == [(before,)]
    assert status(log, now).whole_since == (whole_since_ns(log) or 0) / S
    program = [sys.executable, "-c", "from collector.entry import collector; collector()", "compact"]
    done = subprocess.run(
        [*program, "--log", str(log.path), "--archive", str(archive)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
