"""GitLab's API over real HTTP: pages, rate limits, faults, erased traces; resumed, and each fact once."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from collector.eventlog.log import EventLog
from collector.job_sources import gitlab
from collector.job_sources.gitlab import GitLabError, RunnerJobs, Server
from collector.job_sources.ingest import ingest
from collector.model.errors import UsageError
from tests import hostile
from tests.collector.test_jobs import JOB_A, JOB_B, SERVICE
from tests.collector.test_translate import CAPTURES

TOKEN = "glpat-SecretSecretSecret"  # noqa: S105 - made up
RUNNER = 42


class Api:
    """What the server answers: the runner's jobs, their traces, and faults still to come."""

    def __init__(self) -> None:
        self.jobs: dict[int, dict[str, Any]] = {}
        self.traces: dict[int, str] = {}
        # (status, headers) of the next answers to paths that contain the key.
        self.faults: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.asked: list[str] = []
        # Where the link to the next page leads, if not to the server itself.
        self.elsewhere = ""
        # Bodies of the next pages, and the status of an answer that has no end.
        self.pages: list[bytes] = []
        self.endless: int | None = None

    def add(self, number: int, trace: str | None, status: str = "success", project: int = 7) -> None:
        self.jobs[number] = {
            "id": number,
            "name": "build",
            "status": status,
            "ref": "main",
            "started_at": f"2026-11-24T08:{number % 60:02}:00.000Z",
            "finished_at": None if status == "running" else f"2026-11-24T08:{number % 60:02}:30.000Z",
            "duration": None if status == "running" else 30.0,
            "web_url": f"https://git.example.org/mesa/mesa/-/jobs/{number}",
            "pipeline": {"id": 99, "sha": "c0ffee"},
            "commit": {"id": "c0ffee"},
            "project": {"id": project, "path_with_namespace": "mesa/mesa"},
            "runner_manager": {"system_id": "s_1"},
        }
        if trace is not None:
            self.traces[number] = trace


class Handler(BaseHTTPRequestHandler):
    api: ClassVar[Api]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        api, parts = self.api, urlsplit(self.path)
        api.asked.append(self.path)
        for path, faults in api.faults.items():
            if path in self.path and faults:
                status, headers = faults.pop(0)
                return self.answer(status, b'{"message": "no"}', headers)
        if self.headers.get("PRIVATE-TOKEN") != TOKEN:
            return self.answer(401, b'{"message": "401 Unauthorized"}')
        steps = parts.path.removeprefix("/api/v4/").split("/")
        if steps == ["runners", str(RUNNER), "jobs"]:
            return self.page(parse_qs(parts.query))
        if steps[0] == "projects" and steps[-1] == "trace" and int(steps[3]) in api.traces:
            return self.answer(200, api.traces[int(steps[3])].encode(), kind="text/plain")
        if steps[0] == "projects" and steps[-1].isdigit() and int(steps[-1]) in api.jobs:
            job = {key: value for key, value in api.jobs[int(steps[-1])].items() if key != "project"}
            return self.answer(200, json.dumps(job).encode())
        return self.answer(404, b'{"message": "404 Not found"}')

    def answer_without_end(self, status: int) -> None:
        self.send_response(status)
        for key, value in {"Transfer-Encoding": "chunked", "Location": "/", "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"400\r\n" + b" " * 0x400 + b"\r\n")

    def page(self, query: dict[str, list[str]]) -> None:
        if self.api.pages:
            self.answer(200, self.api.pages.pop())
            return
        assert (query["order_by"], query["sort"]) == (["id"], ["desc"])
        size, number = int(query["per_page"][0]), int(query.get("page", ["1"])[0])
        rows = [self.api.jobs[key] for key in sorted(self.api.jobs, reverse=True)]
        body = json.dumps(rows[(number - 1) * size : number * size]).encode()
        headers = {"X-Page": str(number), "X-Per-Page": str(size)}
        if number * size < len(rows):
            host = self.headers["Host"]
            base = f"{self.api.elsewhere or f'http://{host}'}/api/v4/runners/{RUNNER}/jobs"
            link = f"{base}?order_by=id&sort=desc&per_page={size}&page={number + 1}"
            headers["Link"] = f'<{link}>; rel="next"'
        self.answer(200, body, headers)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        if self.api.endless is not None:
            self.answer_without_end(self.api.endless)
            return
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[tuple[Api, str]]:
    made = Api()
    handler = type("OwnHandler", (Handler,), {"api": made})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def trace(number: int) -> str:
    return (CAPTURES / "a" / f"trace-{number}.log").read_text()


def minimal(image: str) -> str:
    return f"Using Docker executor with image a:1 ...\nUsing docker image {image} for a:1 ...\n"


IMAGES = "SELECT job_id, role, image_id FROM job_images WHERE role IN ('build', 'service') ORDER BY job_id, role"


def test_traces_of_the_runners_jobs_are_taken_up_and_each_job_once(api: tuple[Api, str], log: EventLog) -> None:
    made, url = api
    for number in (1001, 1002, 1003):
        made.add(number, trace(number))
    made.add(1004, None, "failed")
    server = Server(url, TOKEN)
    found = ingest(log, RunnerJobs(server, RUNNER))
    assert (found.lines, found.missing, found.unresolved) == (4, 1, 0)
    expected = [
        ("1001", "build", JOB_A),
        ("1002", "build", JOB_A),
        ("1003", "build", JOB_B),
        ("1003", "service", SERVICE),
    ]
    assert log.query(IMAGES) == expected
    row = log.query(
        "SELECT project_id, project, pipeline_id, ref, sha, system_id, outcome, seconds, name FROM jobs LIMIT 1"
    )
    assert row == [("7", "mesa/mesa", "99", "main", "c0ffee", "s_1", "success", 30.0, "build")]
    asked = len(made.asked)
    assert ingest(log, RunnerJobs(server, RUNNER)).lines == 0
    assert len(made.asked) == asked + 1


@pytest.mark.slow
def test_pages_are_followed_and_the_newest_come_first_where_there_are_too_many(
    api: tuple[Api, str], log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = api
    monkeypatch.setattr(gitlab, "_PAGE", 10)
    for number in range(1, 26):
        made.add(number, minimal(JOB_A))
    assert ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER, limit=23)).lines == 23
    assert log.query("SELECT count(*), min(job_id::INT), max(job_id::INT) FROM jobs") == [(23, 3, 25)]
    assert sum("page=3" in path for path in made.asked) == 1


def test_without_python_gitlab_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gitlab", None)
    with pytest.raises(UsageError, match=r"install docker-hindsight\[gitlab\]"):
        Server("https://git.example.org", TOKEN)


@pytest.mark.slow
def test_rate_limits_are_kept_and_a_servers_faults_overcome(api: tuple[Api, str], log: EventLog) -> None:
    made, url = api
    made.add(5, minimal(JOB_A))
    made.faults = {"/trace": [(429, {"Retry-After": "1"}), (502, {})], "/runners": [(500, {})]}
    began = time.monotonic()
    assert ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER)).new == 3
    assert time.monotonic() - began >= 1.0
    assert log.query(IMAGES) == [("5", "build", JOB_A)]


@pytest.mark.slow
def test_what_was_taken_before_a_fault_stays_and_the_rest_follows(api: tuple[Api, str], log: EventLog) -> None:
    made, url = api
    for number in range(1, 31):
        made.add(number, minimal(JOB_A))
    made.faults = {"/jobs/25/trace": [(503, {})] * 2}
    with pytest.raises(GitLabError, match=r"answered 503 for the trace of job 25"):
        ingest(log, RunnerJobs(Server(url, TOKEN, retries=1), RUNNER))
    assert log.query("SELECT count(*) FROM jobs") == [(20,)]
    made.faults = {}
    assert ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER)).lines == 10
    assert log.query("SELECT count(*), count(outcome) FROM jobs") == [(30, 30)]


def test_a_job_that_still_runs_is_asked_for_again(api: tuple[Api, str], log: EventLog) -> None:
    made, url = api
    made.add(5, "Using Docker executor with image a:1 ...\n", "running")
    ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER))
    assert log.query("SELECT ended IS NULL, outcome FROM jobs") == [(True, None)]
    assert log.query("SELECT reference, image_id FROM job_images") == [("a:1", None)]
    made.add(5, minimal(JOB_B), "failed")
    made.add(6, minimal(JOB_A))
    assert ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER)).lines == 2
    assert log.query("SELECT job_id, outcome FROM jobs ORDER BY 1") == [("5", "failed"), ("6", "success")]
    assert ("5", "build", JOB_B) in log.query(IMAGES)
    assert ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER)).lines == 0


def test_jobs_of_any_shape_are_taken_or_passed_over(api: tuple[Api, str], log: EventLog) -> None:
    made, url = api
    leaves: list[Any] = [*hostile.TEXTS, 2**70, -1, None, [], {}, True]
    for number, leaf in enumerate(leaves, 1):
        made.add(number, minimal(JOB_A))
        job = made.jobs[number]
        job |= dict.fromkeys(("name", "ref", "started_at", "duration", "web_url", "pipeline", "commit"), leaf)
        job |= dict.fromkeys(("status", "failure_reason", "finished_at", "runner_manager"), leaf)
        if number % 3 == 0:
            job["project"] = leaf
    found = ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER))
    assert found.lines + found.missing >= len(made.jobs)
    assert ingest(log, RunnerJobs(Server(url, TOKEN), RUNNER)).lines == 0


ODD_PAGES = [b"{}", b"5", b"null", b'"x"', b"[[]]", b"[5, null]", b'{"id": 1}', b"[" * 9999, b"<html>"]


@pytest.mark.parametrize("body", ODD_PAGES)
def test_a_page_of_any_shape_is_no_jobs_or_one_line(api: tuple[Api, str], log: EventLog, body: bytes) -> None:
    made, url = api
    made.pages = [body]
    with contextlib.suppress(GitLabError):
        assert ingest(log, RunnerJobs(Server(url, TOKEN, retries=0), RUNNER)).lines == 0


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_an_answer_without_end_is_one_line(
    api: tuple[Api, str], log: EventLog, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = api
    monkeypatch.setattr(gitlab, "_MOST_ANSWER", 2**16)
    made.endless = status
    with pytest.raises(GitLabError, match="sends an endless answer"):
        ingest(log, RunnerJobs(Server(url, TOKEN, retries=0), RUNNER))


def test_a_trace_without_end_counts_as_far_as_it_is_read(
    api: tuple[Api, str], log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = api
    monkeypatch.setattr(gitlab, "_MOST_TRACE", 2**18)
    made.add(5, minimal(JOB_A) + "x" * 2**20)
    made.add(6, minimal(JOB_A))
    assert ingest(log, RunnerJobs(Server(url, TOKEN, retries=0), RUNNER)).lines == 2
    assert len(log.query("SELECT 1 FROM job_images WHERE role = 'build'")) == 2
