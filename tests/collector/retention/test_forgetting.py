"""What is forgotten is forgotten in sums, in an archive and in notes beside the log, too."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.commands.upkeep import forget
from collector.eventlog import rewrite as rewriting
from collector.eventlog.forget import forget_image, forget_project
from collector.eventlog.log import EventLog
from collector.eventlog.retention import compact
from collector.machine.next_removals import NextRemoval, NextRemovals, leave_next_removals
from collector.machine.prune_runs import Fruitless, PruneRuns, leave_runs, read_runs
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from collector.queries.check import check
from collector.queries.jobs import jobs
from collector.shipping import merge
from collector.shipping.forget import Rule, forget_shipped
from collector.shipping.parts import Manifest, Name
from collector.shipping.ship import ship
from collector.shipping.store import StoreError, open_store
from tests.collector.histories import IMAGES
from tests.collector.retention.thinned import KEEP, S, filled


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
def test_sums_are_taken_over_in_pieces(log: EventLog, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(log, KEEP, now=now)
    before = log.query("FROM thinned_use ORDER BY ALL")
    assert len(before) > 1
    monkeypatch.setattr(rewriting, "_SUMS_AT_ONCE", 1)
    (image,) = log.query("SELECT max(image_id) FROM thinned_use JOIN image USING (image)")[0]
    (number,) = log.query("SELECT image FROM image WHERE image_id = ?", [image])[0]
    forget_image(log, image)
    assert log.query("FROM thinned_use ORDER BY ALL") == [row for row in before if row[1] != number]


@pytest.mark.slow
def test_jobs_that_only_sums_speak_of_stay(tmp_path: Path) -> None:
    log, now = filled(tmp_path / "events.duckdb", 3)
    compact(log, KEEP, now=now)
    sql = """SELECT * FROM job WHERE job IN (SELECT unnest(jobs) FROM thinned_use)
        AND job NOT IN (SELECT job FROM event WHERE job NOTNULL) ORDER BY job"""
    before = log.query(sql)
    assert before
    forget_image(log, IMAGES[1])
    assert log.query(sql) == before


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
