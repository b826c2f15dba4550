"""Job sources: the runner's own log and jobs' traces, in every format and wording, each fact once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collector.cli import app
from collector.eventlog.log import EventLog
from collector.job_sources.ingest import Ingested, ingest, journal_cursor
from collector.job_sources.joblog import JobLog, Sighting, sightings
from collector.job_sources.reading import JOURNAL, PipedLog, StoredLog
from collector.job_sources.runnerlog import JobFact, RunnerLog, parse_line
from collector.job_sources.source import Batch, JobSource
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from collector.model.jobs import Job
from tests.collector.runner_lines import read_lines
from tests.collector.test_jobs import JOB_A, JOB_B, SERVICE, recorded
from tests.collector.test_translate import CAPTURES

ID = "sha256:" + "7" * 64
DIGEST = "registry.example.org/a@sha256:" + "d" * 64
NOW = 1_795_520_000 * 10**9


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"Using docker image debian:12 ID={ID} for build container...", Sighting("build", "debian:12", ID)),
        (f"Using docker image redis:7 ID={ID} for service redis...", Sighting("service", "redis:7", ID)),
        (f"Using docker image x:1 ID={ID} for predefined container...", Sighting("predefined", "x:1", ID)),
        (f"Using docker image {ID} for debian:12 ...", Sighting(None, "debian:12", ID)),
        (f"Using docker image {ID} for a:1 with digest {DIGEST} ...", Sighting(None, "a:1", ID, DIGEST)),
        (
            f"2026-11-24T08:00:00.000000Z 00O \x1b[0KUsing docker image {ID} for a:1 ...\x1b[0;m",
            Sighting(None, "a:1", ID, time_ns=1_795_507_200 * 10**9),
        ),
        ("\x1b[0KUsing Docker executor with image debian:12 ...\x1b[0;m", Sighting("build", "debian:12")),
        ("Using Kubernetes executor with image debian:12 ...", Sighting("build", "debian:12")),
        ("Using Docker-SSH executor with image debian:12 ...", Sighting("build", "debian:12")),
        (f"$ echo Using docker image {ID} for a:1 ...", None),
        (f"Using docker image {ID[:20]} for a:1 ...", None),
        ("Using Docker executor with image", None),
    ],
)
def test_every_wording_of_a_job_log(line: str, expected: Sighting | None) -> None:
    assert JobLog().read(line) == expected


def test_a_pull_is_reported_with_what_it_took() -> None:
    lines = (
        "2026-11-24T08:00:00.000000Z 00O Using Docker executor with image a:1 ...\n"
        "2026-11-24T08:00:01.000000Z 00O Pulling docker image a:1 for platform linux/amd64 ...\n"
        f"2026-11-24T08:00:09.500000Z 00O Using docker image {ID} for a:1 ...\n"
    )
    (seen,) = sightings(lines.split("\n"))
    assert (seen.role, seen.image, seen.pulled, seen.pull_seconds) == ("build", ID, True, 8.5)


@pytest.mark.parametrize("name", ["a", "v12", "race-if-not-present", "race-never"])
def test_traces_of_captured_jobs_name_the_images_that_the_events_name(name: str, log: EventLog) -> None:
    recorded(log, name)
    from_events = set(
        log.query("SELECT DISTINCT job_id, role, image_id FROM job_images WHERE role IN ('build', 'service')")
    )
    from_traces = {
        (path.stem.removeprefix("trace-"), seen.role, seen.image)
        for path in (CAPTURES / name).glob("trace-*.log")
        for seen in sightings(path.read_text().split("\n"))
        if seen.role != "predefined"
    }
    if name == "race-never":
        # It was to use the image, which was gone before its container was made.
        assert (from_events, from_traces) == (set(), {("2001", "build", JOB_A)})
    else:
        assert from_traces == from_events


MESSAGE = "Image configured for job"


@pytest.mark.parametrize(
    "line",
    [
        f"{MESSAGE:50}\x1b[0;m  image_name\x1b[0;m=debian:12 job\x1b[0;m=5 project\x1b[0;m=7 runner\x1b[0;m=abc",
        f"{MESSAGE:50}  image_name=debian:12 job=5 project=7 runner=abc",
        (
            f"Nov 24 08:00:00 host gitlab-runner[9]: {MESSAGE:50}#033[0;m  image_name#033[0;m=debian:12 job#033[0;m=5"
            " project#033[0;m=7 runner#033[0;m=abc"
        ),
        f'time="2026-11-24T08:00:00Z" level=info msg="{MESSAGE}" image_name="debian:12" job=5 project=7 runner=abc',
        f'level=info msg="{MESSAGE}" image_name=debian:12 job=5 project=7 runner=abc',
        json.dumps(
            {"time": "2026-11-24T08:00:00Z", "level": "info", "msg": MESSAGE, "image_name": "debian:12"}
            | {"job": 5, "project": 7, "runner": "abc"}
        ),
        json.dumps(
            {
                "MESSAGE": list(f"{MESSAGE:50}\x1b[0;m  image_name\x1b[0;m=debian:12 job\x1b[0;m=5 ".encode())
                + list(b"project\x1b[0;m=7 runner\x1b[0;m=abc"),
                "__REALTIME_TIMESTAMP": "1795507200000000",
                "__CURSOR": "s=1",
            }
        ),
        "2026-11-24T08:00:00+00:00 host gitlab-runner[9]: "
        + json.dumps({"msg": MESSAGE, "image_name": "debian:12", "job": 5, "project": 7, "runner": "abc"}),
    ],
)
def test_every_format_of_the_runner_log(line: str) -> None:
    ((entry, output),) = read_lines([line])
    assert output is not None
    assert output.sighting == Sighting("build", "debian:12")
    assert (output.job.job_id, output.job.project_id, output.job.runner) == ("5", "7", "abc")
    assert entry.time_ns in {None, 1_795_507_200 * 10**9}


@pytest.mark.parametrize(
    ("message", "fields", "outcome", "seconds"),
    [
        ("Job succeeded", {"duration_s": 4.5}, "success", 4.5),
        ("Job succeeded", {"duration": "1m2.5s"}, "success", 62.5),
        ("Job failed: exit status 1", {"duration_s": 2}, "failed", 2.0),
        ("Job failed (system failure): no such image", {"duration": "x"}, "system failure", None),
        ("Job failed (canceled): canceled", {}, "canceled", None),
    ],
)
def test_the_end_of_a_job(message: str, fields: dict[str, object], outcome: str, seconds: float | None) -> None:
    ((_, output),) = read_lines([json.dumps({"msg": message, "job": 5, **fields})])
    assert output is not None
    assert (output.kind, output.details["outcome"], output.details["seconds"]) == (Kind.JOB_FINISHED, outcome, seconds)


def test_names_with_variables_and_jobs_without_number_say_nothing() -> None:
    lines = [
        json.dumps({"msg": MESSAGE, "image_name": "$IMAGE", "job": 5}),
        json.dumps({"msg": MESSAGE, "image_name": "a:1", "job": "x"}),
        json.dumps({"msg": MESSAGE, "image_name": "a:1"}),
        "{broken",
        "[1, 2]",
        '{"MESSAGE": null, "__REALTIME_TIMESTAMP": "x"}',
        '{"MESSAGE": [1, 999, "a"], "__REALTIME_TIMESTAMP": "1"}',
        'time="not closed',
        "",
    ]
    assert [output for _, output in read_lines(lines)] == [None] * 8


def test_quotes_and_escapes_of_the_text_format() -> None:
    line = parse_line(r'time="2026-11-24T08:00:00Z" level=warning msg="say \"\x1b[0Khi\"\u00e4\n" job=5')
    assert line is not None
    assert (line.message, line.fields) == ('say "hi"ä', {"job": "5"})


def journal(*messages: tuple[int, dict[str, object]]) -> list[str]:
    """Entries of a journal export, by seconds after the start."""
    return [
        json.dumps(
            {
                "MESSAGE": json.dumps(message),
                "__REALTIME_TIMESTAMP": str((1_795_507_200 + second) * 10**6),
                "__CURSOR": f"s={second}",
            }
        )
        for second, message in messages
    ]


STORY = journal(
    (0, {"msg": "Checking for jobs... received", "job": 5, "repo_url": "https://git.example.org/g/p.git"}),
    (1, {"msg": "Using Docker executor with image a:1 ...", "job": 5, "project": 7}),
    (2, {"msg": "Starting service r:7 ...", "job": 5, "project": 7}),
    (3, {"msg": "Pulling docker image r:7 ...", "job": 5, "project": 7}),
    (4, {"msg": f"Using docker image {SERVICE} for r:7 ...", "job": 5, "project": 7}),
    (5, {"msg": f"Using docker image {ID} for helper:x ...", "job": 5, "project": 7}),
    (6, {"msg": f"Using docker image {JOB_A} for a:1 with digest {DIGEST} ...", "job": 5, "project": 7}),
    (7, {"msg": f"Using docker image {JOB_A} for a:1 with digest {DIGEST} ...", "job": 5, "project": 7}),
    (9, {"msg": "Job succeeded", "job": 5, "project": 7, "duration_s": 9.0}),
)
RECORDED = [
    ("job_started", None, None, None),
    ("job_image_used", "service", "r:7", SERVICE),
    ("job_image_used", "predefined", "helper:x", ID),
    ("job_image_used", "build", "a:1", JOB_A),
    ("job_finished", None, None, None),
]
FACTS = "SELECT kind, role, reference, image_id FROM events ORDER BY time"


def test_a_journal_gives_jobs_to_hosts_without_engine_events(log: EventLog) -> None:
    found = ingest(log, PipedLog(STORY, NOW))
    assert (found.lines, found.facts, found.new, found.unresolved, found.untimed) == (9, 7, 5, 0, 0)
    assert log.query(FACTS) == RECORDED
    rows = log.query("SELECT project_id, project, outcome, seconds, images, epoch_ns(ended) FROM jobs")
    assert rows == [("7", "g/p", "success", 9.0, 2, (1_795_507_200 + 9) * 10**9)]
    assert dict(log.query("SELECT image_id, evidence FROM last_use"))[JOB_A] == "used by a job"
    assert log.query("SELECT attributes ->> '$.pulled' FROM events WHERE reference = 'r:7'") == [("true",)]


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 2, 3, 4, 6, 8])
def test_however_a_journal_is_cut_and_repeated_each_fact_is_reported_once(log: EventLog, cut: int) -> None:
    ingest(log, PipedLog(STORY[:cut], NOW))
    assert journal_cursor(log) == (f"s={[0, 1, 2, 3, 4, 5, 6, 7, 9][cut - 1]}" if cut else None)
    ingest(log, PipedLog(STORY[cut:], NOW))
    ingest(log, PipedLog(STORY, NOW))
    # What a job means to use is reported early where the rest is not there yet.
    intended: list[tuple[str, str | None, str | None, str | None]] = (
        [("job_image_used", "build", "a:1", None)] if cut in {2, 3, 4, 6} else []
    )
    assert sorted(log.query(FACTS), key=str) == sorted(RECORDED + intended, key=str)
    assert log.query("SELECT count(*) FROM job") == [(1,)]


def test_what_containers_show_is_not_reported_again(log: EventLog) -> None:
    recorded(log, "a")
    for trace in sorted((CAPTURES / "a").glob("trace-*.log")):
        job = int(trace.stem.removeprefix("trace-"))
        said = [line for line in trace.read_text().split("\n") if "Job succeeded" not in line]
        lines = [json.dumps({"msg": line, "job": job, "project": 7}) for line in said]
        assert ingest(log, PipedLog(lines, NOW)).new == 0
    found = ingest(log, StoredLog(CAPTURES / "a" / "runner.log"))
    assert (found.facts, found.new, found.untimed) == (6, 6, 6)
    rows = log.query("SELECT job_id, outcome, seconds FROM jobs ORDER BY job_id")
    assert rows == [
        ("1001", "success", 4.671811979),
        ("1002", "success", 2.460707403),
        ("1003", "success", 4.022339243),
    ]


def test_a_file_is_read_on_from_where_it_ended_and_again_after_rotation(log: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "runner.log"
    lines = [json.dumps({"msg": "Job succeeded", "job": k, "time": "2026-11-24T08:00:00Z"}) + "\n" for k in range(6)]
    path.write_text("".join(lines[:2]) + lines[2][:20])
    assert ingest(log, StoredLog(path)).new == 2
    path.write_text("".join(lines[:3]))
    found = ingest(log, StoredLog(path))
    assert (found.lines, found.new) == (1, 1)
    assert ingest(log, StoredLog(path)).lines == 0
    path.write_text("".join(lines[3:]))
    assert ingest(log, StoredLog(path)).new == 3
    assert log.query("SELECT count(*) FROM event") == [(6,)]


def observed(time_ns: int, image: str, *names: str) -> Event:
    attributes = {"references": [name for name in names if "@" not in name], "layers": []}
    attributes["digests"] = [name for name in names if "@" in name]
    return Event(time_ns, Kind.IMAGE_OBSERVED, image=image, attributes=attributes)


def test_a_name_that_a_job_intends_is_the_image_that_it_meant_then(log: EventLog) -> None:
    at = 1_795_507_200 * 10**9
    log.append([observed(at - 10, JOB_A, "debian:latest"), observed(at + 10**9, JOB_B, "debian:latest", DIGEST)])

    def configured(second: int, job: int, name: str) -> str:
        return journal((second, {"msg": MESSAGE, "job": job, "image_name": name}))[0]

    lines = [
        configured(0, 1, "docker.io/library/debian"),
        configured(5, 2, "debian"),
        configured(6, 3, DIGEST),
        configured(7, 4, "never/seen:1"),
    ]
    found = ingest(log, PipedLog(lines, NOW))
    assert (found.new, found.unresolved) == (4, 1)
    rows = log.query("SELECT job_id, image_id FROM job_images ORDER BY job_id")
    assert rows == [("1", JOB_A), ("2", JOB_B), ("3", JOB_B), ("4", None)]
    log.append([Event(at + 8 * 10**9, Kind.IMAGE_PULLED, image=ID, reference="soon/pulled:1")])
    ingest(log, PipedLog([configured(7, 5, "soon/pulled:1")], NOW))
    assert log.query("SELECT image_id FROM job_images WHERE job_id = '5'") == [(ID,)]


def test_the_command_takes_a_pipe_and_says_its_cursor(log: EventLog) -> None:
    command = ["ingest", "gitlab-runner-log", "--log", str(log.path)]
    shown = CliRunner().invoke(app, [*command, "-"], input="\n".join(STORY))
    assert shown.output == "9 lines, 7 facts on jobs, 5 of them new\n"
    assert CliRunner().invoke(app, [*command, "--show-cursor"]).output == "s=9\n"
    again = CliRunner().invoke(app, [*command, "--format", "json"], input="\n".join(STORY))
    assert json.loads(again.output)["new"] == 0
    assert JOURNAL in {row[0] for row in EventLog(log.path).query("SELECT source FROM position")}


def test_a_file_that_names_no_job_is_kept_apart(log: EventLog, tmp_path: Path) -> None:
    (tmp_path / "other.log").write_text("Nov 25 host sshd[1]: Accepted publickey\n")
    command = ["ingest", "gitlab-runner-log", str(tmp_path / "other.log"), "--log", str(log.path)]
    output = CliRunner().invoke(app, command)
    assert output.exit_code == 0
    assert "if jobs ran, is this the log of GitLab Runner itself?" in output.output


def test_starts_are_reported_with_the_project() -> None:
    ((_, output),) = read_lines(
        [json.dumps({"msg": "Checking for jobs... received", "job": 5, "repo_url": "https://git.example.org/g/p.git"})]
    )
    assert output is not None
    assert (output.kind, output.job.project) == (Kind.JOB_STARTED, "g/p")


def runner_says(message: str, **fields: object) -> str:
    return json.dumps({"msg": message, "time": "2026-11-24T08:00:00Z", **fields}) + "\n"


def test_a_start_of_the_runner_ends_the_jobs_before_it(log: EventLog, tmp_path: Path) -> None:
    file = tmp_path / "runner.log"
    begun = [runner_says("Checking for jobs... received", job=job, project=7, runner="abc") for job in (1, 2)]
    file.write_text("".join(begun) + runner_says("Job succeeded", job=2, project=7, runner="abc"))
    ingest(log, StoredLog(file))
    with file.open("a") as more:
        # A reload of its configuration ends none.
        more.write(runner_says("Configuration loaded"))
    ingest(log, StoredLog(file))
    ended = "SELECT job_id, attributes ->> '$.outcome' FROM event JOIN job USING (job) WHERE kind = 'job_finished'"
    assert log.query(ended) == [("2", "success")]
    with file.open("a") as more:
        more.write(runner_says("Starting multi-runner from /etc/gitlab-runner/config.toml...", builds=0))
        more.write(runner_says("Checking for jobs... received", job=3, project=7, runner="abc"))
    ingest(log, StoredLog(file))
    assert log.query(ended + " ORDER BY job_id") == [("1", "runner restarted"), ("2", "success")]
    assert log.query("SELECT project_id, runner FROM job WHERE job_id = '1'") == [("7", "abc")]


def test_jobs_whose_end_is_never_reported_do_not_pile_up() -> None:
    reader = RunnerLog()
    for job in range(1, 1_500):
        line = parse_line(f'time="2026-11-24T08:00:00Z" level=info msg="Job succeeded" job={job}')
        late = parse_line(f'time="2026-11-24T08:00:00Z" level=info msg="Updating job..." job={job}')
        assert line is not None
        assert late is not None
        reader.facts(line)
        reader.facts(late)
    assert len(reader.state) == 1_000
    assert len(reader._logs) == len(reader._jobs) == 1_000


@pytest.mark.parametrize("state", [{"5": {"build": "debian:12"}}, {"5": {"job": 3}}, {"5": {"job": {"job_id": "9"}}}])
def test_a_position_of_an_older_version_is_read_on(state: dict[str, object]) -> None:
    line = parse_line(runner_says("Starting multi-runner from /etc/x..."))
    assert line is not None
    (fact,) = RunnerLog(state).facts(line)
    assert (fact.kind, fact.job.job_id) == (Kind.JOB_FINISHED, "5")


class Numbered(JobSource):
    """A CI system of ten jobs, whose server fails after some of them."""

    evidence = "another CI"
    key = "another CI, runner 1"

    def __init__(self, fails_at: int = 10) -> None:
        self.fails_at = fails_at

    def batches(self, position: str | None) -> Iterator[Batch]:
        for number in range(int(position or 0), 10):
            if number == self.fails_at:
                raise UsageError("the server is gone")
            started = JobFact(Kind.JOB_STARTED, Job("another", str(number)), NOW + number)
            yield Batch(1, [started], NOW, (self.key, str(number + 1)))


@pytest.mark.slow
def test_any_source_is_resumed_where_it_failed(log: EventLog) -> None:
    with pytest.raises(UsageError):
        ingest(log, Numbered(fails_at=4))
    assert log.position(Numbered.key) == "4"
    assert ingest(log, Numbered()).new == 6
    assert ingest(log, Numbered()) == Ingested()
