from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from collector.eventlog import compaction, rewrite
from collector.eventlog.log import EventLog
from collector.eventlog.retention import LEAST_S, compact
from collector.job_sources import job_list
from collector.job_sources.job_list import image_id, import_jobs
from collector.model.errors import LogError, UsageError
from collector.model.events import Kind
from collector.model.observation import pair_layers

JOBS = "start,seconds,pipeline,job,image\n1000,60,p1,build,r/a:1\n1030.5,10,p1,test,r/b:1\n2000,5,p2,build,r/a:1\n"
LAYERS = "image,position,diff_id,bytes\nr/a:1,0,sha256:d0,100\nr/b:1,1,sha256:d1,7\nr/b:1,0,sha256:d0,100\n"


def files(folder: Path, jobs: str = JOBS, layers: str = LAYERS) -> tuple[Path, Path]:
    (folder / "jobs.csv").write_text(jobs)
    (folder / "layers.csv").write_text(layers)
    return folder / "jobs.csv", folder / "layers.csv"


def test_jobs_become_the_events_that_they_would_have_caused(tmp_path: Path, log: EventLog) -> None:
    assert import_jobs(*files(tmp_path), log, 1000, 300) == 2 + 2 + 3 * 2
    rows = log.query("SELECT kind, epoch_ns(time), image_id, bytes FROM events ORDER BY seq")
    a, b = image_id("r/a:1"), image_id("r/b:1")
    second = 10**9
    assert [tuple(row) for row in rows] == [
        (Kind.DISK_SAMPLED, 1000 * second, None, 700),
        (Kind.IMAGE_OBSERVED, 1000 * second, a, None),
        (Kind.CONTAINER_CREATED, 1000 * second, a, None),
        (Kind.IMAGE_OBSERVED, 1030 * second + second // 2, b, None),
        (Kind.CONTAINER_CREATED, 1030 * second + second // 2, b, None),
        (Kind.CONTAINER_DESTROYED, 1040 * second + second // 2, b, None),
        (Kind.CONTAINER_DESTROYED, 1060 * second, a, None),
        (Kind.CONTAINER_CREATED, 2000 * second, a, None),
        (Kind.DISK_SAMPLED, 2005 * second, None, 700),
        (Kind.CONTAINER_DESTROYED, 2005 * second, a, None),
    ]
    assert log.query("SELECT chain_id, bytes FROM image_layers WHERE image_id = ? ORDER BY position", [b]) == [
        ("sha256:d0", 100),
        ("sha256:" + hashlib.sha256(b"sha256:d0 sha256:d1").hexdigest(), 7),
    ]
    assert log.query("SELECT DISTINCT attributes ->> '$.labels.\"com.gitlab.gitlab-runner.job.id\"' FROM events") != []


def test_importing_again_adds_nothing(tmp_path: Path, log: EventLog) -> None:
    import_jobs(*files(tmp_path), log, 1000, 300)
    assert import_jobs(*files(tmp_path), log, 1000, 300) == 0


def test_an_import_cut_short_goes_on_with_a_list_that_has_grown(
    tmp_path: Path, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "_BATCH_OF_NEW", 3)

    def cut(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_jobs(*files(tmp_path), log, 1000, 300, cut)
    assert log.query("SELECT count(*) FROM uses WHERE ended IS NULL") == [(1,)]
    import_jobs(*files(tmp_path, f"{JOBS}3000,5,p3,build,r/a:1\n"), log, 1000, 300)
    assert log.query("SELECT count(*), count(*) FILTER (ended IS NULL) FROM uses WHERE container <> ''") == [(4, 0)]


def test_what_became_sums_is_not_imported_again(tmp_path: Path, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(rewrite, "GROWTH", 2**30)
    starts = (*range(3000, 20_000, 1000), 39 * 86400)
    jobs, layers = files(tmp_path, JOBS + "".join(f"{start},5,p{start},build,r/a:1\n" for start in starts))
    import_jobs(jobs, layers, log, 1000, 0)
    assert compact(log, LEAST_S, now=40 * 86400.0).removed > 0
    uses = log.query("FROM image_uses ORDER BY ALL")
    with pytest.raises(LogError, match=r"was compacted: .* import into another log$"):
        import_jobs(jobs, layers, log, 1000, 0)
    assert log.query("FROM image_uses ORDER BY ALL") == uses
    later = JOBS.splitlines()[0] + f"\n{39 * 86400 + 60},5,p,build,r/a:1\n"
    assert import_jobs(*files(tmp_path, later), log, 1000, 0) > 0


def test_compressed_files_are_read(tmp_path: Path, log: EventLog) -> None:
    jobs, layers = files(tmp_path)
    for path in (jobs, layers):
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert import_jobs(jobs, layers, log, 1000, 0) == 10


def test_progress_ends_at_the_whole(tmp_path: Path, log: EventLog) -> None:
    output: list[tuple[int, int]] = []
    import_jobs(*files(tmp_path), log, 1000, 0, lambda done, total: output.append((done, total)))
    assert output == [(10, 10)]


def test_chain_ids_are_those_of_the_oci_specification() -> None:
    second = "sha256:" + hashlib.sha256(b"sha256:a sha256:b").hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} sha256:c".encode()).hexdigest()
    layers = pair_layers(["sha256:a", "sha256:b", "sha256:c"], None, 0, spread=False)
    assert [layer.chain_id for layer in layers] == ["sha256:a", second, third]


@pytest.mark.parametrize(
    ("jobs", "layers", "words"),
    [
        ("", LAYERS, ["jobs.csv, line 1", "start, seconds, pipeline, job, image missing"]),
        ("start,seconds,pipeline,job\n1,2,p,j\n", LAYERS, ["jobs.csv, line 1", "column image missing"]),
        ("\ufeffstart,seconds,pipeline,job,image,job\n", LAYERS, ["jobs.csv, line 1", "column job appears twice"]),
        ("start,seconds,pipeline,job,image\n", LAYERS, ["jobs.csv holds no rows"]),
        (JOBS + "x,1,p,j,r/a:1\n", LAYERS, ["jobs.csv, line 5", "start is 'x', not a number"]),
        (JOBS + "1,-1,p,j,r/a:1\n", LAYERS, ["jobs.csv, line 5", "seconds is -1"]),
        (JOBS + "nan,1,p,j,r/a:1\n", LAYERS, ["jobs.csv, line 5", "start is nan"]),
        (JOBS + "1677658023000,1,p,j,r/a:1\n", LAYERS, ["line 5", "must be in seconds"]),
        (JOBS + "1,1,p,j,r/c:1\n", LAYERS, ["jobs.csv, line 5", "image 'r/c:1' has no layers in", "layers.csv"]),
        (JOBS + "1,1,p\n", LAYERS, ["jobs.csv, line 5", "fewer than 5 values"]),
        (JOBS, LAYERS + "r/a:1,1.5,sha256:d,1\n", ["layers.csv, line 5", "position is 1.5", "whole number"]),
        (JOBS, LAYERS + "r/a:1,0,sha256:d,1\n", ["layers.csv, line 5", "two layers at position 0"]),
        (JOBS, LAYERS + "r/a:1,2,sha256:d,1\n", ["layers.csv", "r/a:1 lacks a layer"]),
        (JOBS, LAYERS + "r/a:1,1,,1\n", ["layers.csv, line 5", "diff_id is empty"]),
    ],
)
def test_bad_input_is_named_with_its_place(
    tmp_path: Path, log: EventLog, jobs: str, layers: str, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        import_jobs(*files(tmp_path, jobs, layers), log, 1000, 0)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not log.exists()


def test_unreadable_files_are_named(tmp_path: Path, log: EventLog) -> None:
    jobs, layers = files(tmp_path)
    with pytest.raises(UsageError, match=r"nothing\.csv cannot be read: No such file"):
        import_jobs(tmp_path / "nothing.csv", layers, log, 1000, 0)
    jobs.write_bytes(b"start,seconds,pipeline,job,image\n\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        import_jobs(jobs, layers, log, 1000, 0)
    jobs.write_bytes(gzip.compress(JOBS.encode())[:40])
    with pytest.raises(UsageError, match="damaged gzip"):
        import_jobs(jobs, layers, log, 1000, 0)


@pytest.mark.parametrize(("disk", "other"), [(0, 0), (100, 100), (100, -1)])
def test_an_impossible_disk_is_refused(tmp_path: Path, log: EventLog, disk: int, other: int) -> None:
    with pytest.raises(UsageError, match="has no room for images"):
        import_jobs(*files(tmp_path), log, disk, other)
