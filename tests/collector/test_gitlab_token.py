"""The token of a GitLab server goes there and nowhere else, and is never shown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collector import cli
from collector.eventlog.log import EventLog
from collector.job_sources import gitlab
from collector.job_sources.gitlab import GitLabError, RunnerJobs, Server, read_token
from collector.job_sources.ingest import ingest
from collector.model.errors import UsageError
from collector.terminal.faults import faults_in_one_line
from tests.collector.test_gitlab import RUNNER, TOKEN, Api, api, minimal, trace  # noqa: F401 - a fixture
from tests.collector.test_jobs import JOB_A


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": "glpat-WrongWrongWrong"}, "refuses the token"),
        ({"runner": "43"}, "answered 404 for runner 43"),
        ({"url": "http://127.0.0.1:9"}, "cannot be reached for runner 42 (ConnectionError)"),
        ({"url": "ftp://x"}, "--url must be an address"),
    ],
)
def test_faults_are_one_line_and_never_show_the_token(
    api: tuple[Api, str],  # noqa: F811
    log: EventLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    message: str,
) -> None:
    made, url = api
    made.add(5, minimal(JOB_A))
    token = change.get("token", TOKEN)
    (tmp_path / "token").write_text(f"{token}\n")
    monkeypatch.setattr(gitlab.Server.__init__, "__defaults__", (0,))
    argv = ["ingest", "gitlab", "--url", change.get("url", url), "--runner", change.get("runner", str(RUNNER))]
    argv += ["--token-file", str(tmp_path / "token"), "--log", str(log.path)]
    shown = CliRunner().invoke(cli.app, argv)
    assert shown.exception is not None
    with pytest.raises(SystemExit), faults_in_one_line("collector"):
        raise shown.exception
    text = str(shown.exception)
    assert message in text
    assert len(text.splitlines()) == 1
    assert token not in text + shown.output


def test_the_token_is_in_neither_log_nor_output(
    api: tuple[Api, str],  # noqa: F811
    log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, url = api
    made.add(1001, trace(1001))
    monkeypatch.setenv("GITLAB_TOKEN", TOKEN)
    address = url.replace("http://", f"http://user:{TOKEN}@")
    argv = ["ingest", "gitlab", "--url", address, "--runner", str(RUNNER), "--log", str(log.path)]
    shown = CliRunner().invoke(cli.app, argv)
    assert shown.output.startswith("1 job, 4 facts on jobs, 4 of them new\n")
    assert TOKEN.encode() not in log.path.read_bytes()
    assert TOKEN not in str(log.query("SELECT * FROM event")) + str(log.query("SELECT * FROM position"))


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITLAB_TOKEN", raising=False)
    with pytest.raises(UsageError, match="no GitLab token"):
        read_token(None)
    monkeypatch.setenv("GITLAB_TOKEN", "x")
    assert read_token(None) == "x"
    for text in ("", "two words"):
        (tmp_path / "t").write_text(text)
        with pytest.raises(UsageError, match="must hold one token"):
            read_token(tmp_path / "t")
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "none")


@pytest.fixture
def elsewhere() -> Iterator[tuple[list[dict[str, str]], int]]:
    """Another server, on another address of this host: the headers of all that it is asked, and its port."""
    heard: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.2", 0), Listener) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield heard, server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/runners", "/jobs/5/trace"])
def test_the_token_follows_no_redirect_to_another_server(
    api: tuple[Api, str],  # noqa: F811
    log: EventLog,
    elsewhere: tuple[list[dict[str, str]], int],
    status: int,
    path: str,
) -> None:
    made, url = api
    heard, port = elsewhere
    made.add(5, minimal(JOB_A))
    made.faults = {path: [(status, {"Location": f"http://127.0.0.2:{port}/secret"})]}
    with pytest.raises(GitLabError, match=rf"leads to http://127\.0\.0\.2:{port} ") as output:
        ingest(log, RunnerJobs(Server(url, TOKEN, retries=0), RUNNER))
    assert heard == []
    assert "secret" not in str(output.value)


def test_nor_a_next_page_there_but_a_redirect_on_the_same_server(
    api: tuple[Api, str],  # noqa: F811
    log: EventLog,
    elsewhere: tuple[list[dict[str, str]], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, url = api
    heard, port = elsewhere
    monkeypatch.setattr(gitlab, "_PAGE", 1)
    made.add(5, minimal(JOB_A))
    made.faults = {
        "/runners": [(302, {"Location": f"{url}/api/v4/runners/{RUNNER}/jobs?order_by=id&sort=desc&per_page=1"})]
    }
    assert ingest(log, RunnerJobs(Server(url, TOKEN, retries=0), RUNNER)).lines == 1
    made.add(6, minimal(JOB_A))
    made.elsewhere = f"http://127.0.0.2:{port}"
    # The next page is asked of the server itself.
    assert ingest(log, RunnerJobs(Server(url, TOKEN, retries=0), RUNNER)).lines == 1
    assert sum("page=2" in path for path in made.asked) == 1
    assert heard == []


@pytest.mark.parametrize("url", ["http://gitlab.example.org", "http://127.0.0.1.example.org", "http://10.0.0.1:80"])
def test_the_token_is_not_sent_in_clear_over_a_network_unless_asked_to(url: str) -> None:
    with pytest.raises(UsageError, match="--allow-plain-http"):
        Server(url, TOKEN)
    Server(url, TOKEN, insecure=True)
    Server(url.replace("http:", "https:"), TOKEN)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.9.9.9", "http://[::1]:80"])
def test_but_to_this_host_it_may_be(url: str) -> None:
    Server(url, TOKEN)


@pytest.mark.parametrize("url", ["http://[", "https://", "https://h:99999", "https://a℀b/", "", "//h", "https:///x"])
def test_what_is_not_an_address_is_one_line(url: str) -> None:
    with pytest.raises(UsageError, match="--url must be an address"):
        Server(url, TOKEN)
