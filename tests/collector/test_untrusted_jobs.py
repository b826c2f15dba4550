"""Whatever a runner's log or a list of jobs says: it is taken, or unknown and one line; nothing ends."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.eventlog.log import EventLog
from collector.job_sources.ingest import ingest
from collector.job_sources.job_list import JOB_COLUMNS, LAYER_COLUMNS, import_jobs
from collector.job_sources.joblog import sightings
from collector.job_sources.reading import PipedLog, StoredLog, bounded_lines
from collector.job_sources.runnerlog import parse_line
from collector.model.errors import UsageError
from collector.model.untrusted import one_line
from tests import hostile
from tests.collector.runner_lines import read_lines
from tests.collector.test_translate import ID_1, ID_2
from tests.collector.test_untrusted import NOW_NS

fields = st.dictionaries(
    st.sampled_from(
        [
            "msg",
            "time",
            "job",
            "project",
            "repo_url",
            "duration_s",
            "MESSAGE",
            "__REALTIME_TIMESTAMP",
            "__CURSOR",
            "_SOURCE_REALTIME_TIMESTAMP",
            "image",
            "level",
        ]
    ),
    hostile.any_json | st.sampled_from(["Job succeeded", "Job failed (x): y", "1001", "Image configured for job"]),
)


lines = (
    fields.map(hostile.as_json)
    | st.builds("{} {}".format, hostile.any_text, hostile.any_text)
    | st.builds("time={} level=info msg={} job={} duration_s={}".format, *[hostile.any_text] * 4)
    | st.sampled_from([hostile.TOO_DEEP, '{"a":' + hostile.TOO_DEEP, "Jan  1 00:00:00 host runner: " * 9_000])
)


@given(st.lists(lines, max_size=5))
def test_lines_of_any_kind_are_read_or_passed_over(rows: list[str]) -> None:
    for line in rows:
        parse_line(line)
    list(read_lines(rows))


def test_lines_of_any_kind_are_stored(tmp_path: Path) -> None:
    rows = []
    for number, leaf in enumerate([*hostile.TEXTS, *hostile.NUMBERS, [1, {}], {"a": []}]):
        job = {"msg": "Job succeeded", "job": str(number + 1), "duration_s": leaf, "repo_url": leaf, "job_name": leaf}
        stamps = {"time": leaf} if number % 2 else {"__REALTIME_TIMESTAMP": leaf, "__CURSOR": leaf}
        rows.append(hostile.as_json({**job, **stamps}))
        rows.append(hostile.as_json({"MESSAGE": hostile.as_json(job), "__REALTIME_TIMESTAMP": leaf, "__CURSOR": leaf}))
    rows += [hostile.TOO_DEEP, "x" * 10**6]
    log = EventLog(tmp_path / "events.duckdb")
    assert ingest(log, PipedLog(rows, NOW_NS)).facts > 50
    (tmp_path / "log").write_text("\n".join(rows), errors="surrogatepass")
    ingest(log, StoredLog(tmp_path / "log"))
    assert ingest(log, StoredLog(tmp_path / "log")).lines == 0  # the last has no end yet, and waits for it
    assert log.query("SELECT max(epoch_ns(time)) <= ? FROM event", [time.time_ns()]) == [(True,)]


def test_of_a_line_without_end_no_more_is_held_than_is_read_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\n" + b"b" * 10**6 + b"\nc")
    with path.open("rb") as file:
        found = list(bounded_lines(file))
    assert [(len(line), length, ended) for line, length, ended in found] == [
        (2, 2, True),
        (262144, 10**6 + 1, True),
        (1, 1, False),
    ]


def files(folder: Path, job: str, layer: str) -> tuple[Path, Path]:
    """A list of jobs and a list of layers with a line each."""
    jobs, layers = folder / "jobs.csv", folder / "layers.csv"
    jobs.write_text(f"{','.join(JOB_COLUMNS)}\n{job}\n")
    layers.write_text(f"{','.join(LAYER_COLUMNS)}\n{layer}\n")
    return jobs, layers


BAD = ["1E+9999999", "nan", "inf", "-1", str(2**63), "1" * 10**4, "", "0x10", "NaN123", "-0.5", "1_000_000E+999999"]


@pytest.mark.parametrize("number", BAD)
@pytest.mark.parametrize("place", ["start", "seconds", "position", "bytes"])
def test_what_is_not_a_number_is_one_line_at_once(tmp_path: Path, number: str, place: str) -> None:
    job = {"start": "1", "seconds": "1"} | ({place: number} if place in JOB_COLUMNS else {})
    layer = {"position": "0", "bytes": "1"} | ({place: number} if place in LAYER_COLUMNS else {})
    made = files(
        tmp_path, f"{job['start']},{job['seconds']},p,j,a:1", f"a:1,{layer['position']},sha256:a,{layer['bytes']}"
    )
    with pytest.raises(UsageError, match=rf", line 2: {place} is") as found:
        import_jobs(*made, EventLog(tmp_path / "l.duckdb"), 2**40, 0)
    assert len(str(found.value)) < 500


def test_the_largest_numbers_are_taken_and_their_sum_is_not(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "l.duckdb")
    now = int(time.time())
    assert import_jobs(*files(tmp_path, f"{now},1,p,j\0,a:1", f"a:1,0,sha256:a,{2**60}"), log, 2**60, 0) == 5
    assert log.query("SELECT size_bytes FROM images") == [(2**60,)]
    with pytest.raises(UsageError, match=r"more than 2\^60 bytes in all"):
        import_jobs(*files(tmp_path, "1,1,p,j,a:1", f"a:1,0,x,{2**60}\na:1,1,y,1"), log, 2**60, 0)
    for start, seconds, wrong in (("8589934591", "1", "start is 8"), (str(now), "999", "seconds is 999")):
        with pytest.raises(UsageError, match=f"{wrong}.*no job may end after now"):
            import_jobs(*files(tmp_path, f"{start},{seconds},p,j,a:1", "a:1,0,x,1"), log, 2**60, 0)


def test_a_gzip_bomb_is_read_as_far_as_a_line_may_be(tmp_path: Path) -> None:
    jobs, layers = files(tmp_path, "1,1,p,j,a:1", "a:1,0,x,1")
    with gzip.open(jobs, "wb", compresslevel=1) as bomb:
        for _ in range(64):
            bomb.write(b"0" * 2**20)
    with pytest.raises(UsageError, match="a line has more than 65,536 characters"):
        import_jobs(jobs, layers, EventLog(tmp_path / "l.duckdb"), 2**40, 0)


@given(
    st.lists(st.tuples(*[hostile.any_text] * 5), max_size=3), st.lists(st.tuples(*[hostile.any_text] * 4), max_size=3)
)
def test_lists_of_any_kind_are_taken_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[tuple[str, ...]], layers: list[tuple[str, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    for name, head, rows in (("jobs.csv", JOB_COLUMNS, jobs), ("layers.csv", LAYER_COLUMNS, layers)):
        text = "\n".join(",".join(row) for row in (head, *rows))
        (folder / name).write_bytes(text.encode(errors="surrogatepass"))
    try:
        import_jobs(folder / "jobs.csv", folder / "layers.csv", EventLog(folder / "l.duckdb"), 2**40, 0)
    except UsageError as error:
        assert len(one_line(str(error)).splitlines()) == 1  # noqa: PT017 - most lists are refused, some are not


FORGED = f"Using docker image {ID_2} for victim:1 ..."


RUNNER_SAYS = f"Using Docker executor with image a:1 ...\nUsing docker image {ID_1} for a:1 ...\n"


@pytest.mark.parametrize(
    "boundary",
    [
        "Running on runner-1-project-7-concurrent-0 via host...",
        "2026-11-24T08:28:41.084097Z 00O Running on runner-1 via host...",
        "section_end:1795507200:prepare_script\r\x1b[0Ksection_start:1795507200:get_sources\r\x1b[0K",
        "\x1b[0Ksection_start:1795507200:step_script\r\x1b[0K\x1b[36;1mExecuting it\x1b[0;m",
        'Executing "step_script" stage of the job script',
        "Getting source from Git repository",
        "\x1b[32;1m$ echo hello\x1b[0;m",
    ],
)
@pytest.mark.parametrize(
    "before",
    ["", "\x1b[0Ksection_start:1:prepare_executor\r\x1b[0KPreparing\n", "2026-11-24T08:28:40.1Z x\r" + FORGED + "\n"],
)
def test_what_the_script_prints_is_no_evidence(boundary: str, before: str) -> None:
    again = "section_end:1795507201:step_script\r\x1b[0Ksection_start:1795507201:prepare_executor\r\x1b[0K"
    forged = f"Pulling docker image victim:1 ...\n{FORGED}\n{again}\n{again}{FORGED}\nPulling docker image a:1 ...\n"
    found = sightings((before + RUNNER_SAYS + boundary + "\n" + forged + RUNNER_SAYS).split("\n"))
    assert [(seen.reference, seen.image, seen.pulled) for seen in found] == [("a:1", ID_1, False)]


@pytest.mark.parametrize("name", ["x job=999", "x project=9 job=999 runner=z", "x \x1b[0;m job\x1b[0;m=999"])
def test_a_job_s_name_does_not_pass_for_another_job(name: str) -> None:
    lines = [
        f"Job succeeded   duration_s=1 job=5 job_name={name} project=7",
        f"Job succeeded  duration_s\x1b[0;m=1 job\x1b[0;m=5 job_name\x1b[0;m={name} project\x1b[0;m=7",
        f"Image configured for job image_name={name} job=5 project=7",
    ]
    rows = [fact.job.job_id for _, fact in read_lines(lines) if fact is not None]
    assert "999" not in rows
