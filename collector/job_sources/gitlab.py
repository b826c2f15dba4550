"""Which images a runner's jobs used, from GitLab's REST API: its jobs and their traces.

The API does not report a job's image; only the traces do. `python-gitlab` is imported when it is needed: it
is an extra.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlunsplit

from collector.job_sources.joblog import sightings
from collector.job_sources.runnerlog import JobFact, finished
from collector.job_sources.source import Batch, JobSource
from collector.model.errors import HindsightError, UsageError
from collector.model.events import Kind
from collector.model.jobs import Job, project_of
from collector.model.paths import read_bounded
from collector.model.times import parse_rfc3339_ns
from collector.model.untrusted import (
    MOST_SECONDS,
    amount,
    cut,
    is_loopback,
    mapping,
    read_object,
    split_url,
    text,
    whole,
)

if TYPE_CHECKING:
    from gitlab import Gitlab

TOKEN_VARIABLE = "GITLAB_TOKEN"  # noqa: S105 - its name, not its value
_PAGE = 100
_BATCH = 20
_TIMEOUT_S = 60.0
_UNFINISHED = frozenset({"created", "pending", "running", "canceling", "waiting_for_resource", "preparing"})
_NO_TRACE = frozenset({403, 404, 410})
_LONGEST_LINE = 65536
# What an answer holds at most, bytes: a job or a page of them, what a redirect or a fault says; and a trace.
_MOST_ANSWER, _MOST_TRACE = 64 * 2**20, 2**30
# After so long an answer has come as a whole, seconds: the timeout above is for each piece of it.
_ANSWER_LASTS_S = 1800.0


class GitLabError(HindsightError):
    """The GitLab server cannot be reached or refused."""


def read_token(path: Path | None) -> str:
    """The token: from a file, else from the environment.

    Raises:
        UsageError: there is none.
    """
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            raise UsageError(f"no GitLab token: give a file with --token-file, or set {TOKEN_VARIABLE}")
        return token
    try:
        token = read_bounded(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"token file {path} cannot be read: {reason}") from None
    if not token or len(token.split()) > 1:
        raise UsageError(f"token file {path} must hold one token and nothing else")
    return token


class Server:
    """A GitLab server as seen with one token.

    Args:
        url: its address.
        token: with scope `read_api`; it is sent to the server and goes nowhere else.
        retries: how often a request is tried again after a rate limit or a server's fault.
        insecure: whether the token may be sent unencrypted over a network.

    Raises:
        UsageError: python-gitlab is not installed, or the address is invalid, or a token sent there can be read by all.
    """

    def __init__(self, url: str, token: str, retries: int = 6, *, insecure: bool = False) -> None:
        parts = split_url(url)
        if parts is None or parts.scheme not in {"http", "https"} or _origin(url) is None:
            raise UsageError("--url must be an address such as https://gitlab.example.org")
        if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname or ""):
            raise UsageError(
                "--url: over http:// everybody on the way can read the token: take https://, "
                "or give --allow-plain-http if the network is yours alone"
            )
        # Whatever else the address carries must not get into messages.
        self.url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        self._retries = retries
        self._client = _client(self.url, token)

    def jobs(self, runner: int, after: int, limit: int) -> list[Mapping[str, Any]]:
        """The newest jobs of a runner with IDs above `after`, `limit` at most, oldest first. Raises GitLabError."""
        found: list[Mapping[str, Any]] = []
        with self._as_gitlab_error(f"runner {runner}"):
            listed = self._client.http_list(
                f"/runners/{runner}/jobs",
                {"order_by": "id", "sort": "desc", "per_page": _PAGE},
                iterator=True,
                max_retries=self._retries,
            )
            for job in listed:
                number = whole(mapping(job).get("id"), 1)
                if number is None:
                    continue
                if number <= after or len(found) >= limit:
                    break
                found.append(job)
        return found[::-1]

    def job(self, project: int, job: int) -> Mapping[str, Any] | None:
        """One job; None if it has gone. Raises GitLabError."""
        found = self._get(f"/projects/{project}/jobs/{job}", f"job {job}", streamed=False)
        return None if found is None else read_object(found.content)

    def trace(self, project: int, job: int) -> Iterator[str] | None:
        """The lines of a job's trace; None if it was erased, has expired or may not be read. Raises GitLabError."""
        found = self._get(f"/projects/{project}/jobs/{job}/trace", f"the trace of job {job}", streamed=True)
        return None if found is None else self._lines(found, f"the trace of job {job}")

    def _get(self, path: str, what: str, *, streamed: bool) -> Any:
        from gitlab.exceptions import GitlabHttpError  # noqa: PLC0415 - an extra

        with self._as_gitlab_error(what):
            try:
                return self._client.http_request("get", path, streamed=streamed, max_retries=self._retries)
            except GitlabHttpError as error:
                if error.response_code in _NO_TRACE:
                    return None
                raise

    def _lines(self, response: Any, what: str) -> Iterator[str]:
        """Lines as they come, so that a trace of any size takes little memory."""
        rest = b""
        # Of a trace without end the beginning counts, or this job would stand in the way of all others.
        with self._as_gitlab_error(what), suppress(_TooLongError):
            for chunk in response.iter_content(_LONGEST_LINE):
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
                rest = rest[-_LONGEST_LINE:]
        yield rest.decode(errors="replace")

    @contextmanager
    def _as_gitlab_error(self, what: str) -> Iterator[None]:
        import requests  # noqa: PLC0415 - comes with the extra
        from gitlab.exceptions import GitlabAuthenticationError, GitlabError  # noqa: PLC0415 - an extra

        try:
            yield
        except _ElsewhereError as error:
            raise GitLabError(
                f"{self.url} leads to {error} for {what}, and the token is not sent there: "
                "give the server's own address with --url"
            ) from None
        except _TooLongError:
            raise GitLabError(f"{self.url} sends an endless answer for {what}: is it a GitLab server?") from None
        except GitlabAuthenticationError:
            raise GitLabError(
                f"{self.url} refuses the token: give one that is valid and has the scope read_api"
            ) from None
        except GitlabError as error:
            code = error.response_code or "no status"
            raise GitLabError(
                f"{self.url} answered {code} for {what}: check that it exists and that the token may read it"
            ) from None
        except (requests.RequestException, OSError, ValueError, RecursionError, TypeError, LookupError) as error:
            raise GitLabError(
                f"{self.url} cannot be reached for {what} ({type(error).__name__}): try again later"
            ) from None


def _client(url: str, token: str) -> Gitlab:
    try:
        from gitlab import Gitlab  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise UsageError("python-gitlab is not installed: install docker-hindsight[gitlab]") from None
    return Gitlab(
        url,
        private_token=token,
        timeout=_TIMEOUT_S,
        retry_transient_errors=True,
        keep_base_url=True,
        session=_session(url),
    )


class _ElsewhereError(Exception):
    """A server wants a request to go to another one; the message is where to."""


class _TooLongError(Exception):
    """An answer has no end."""


def _bounded(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    """The pieces of an answer. Raises _TooLongError where there are too many, or they take too long."""
    until = time.monotonic() + _ANSWER_LASTS_S
    for piece in pieces:
        most -= len(piece)
        if most < 0 or time.monotonic() > until:
            raise _TooLongError
        yield piece


def _session(url: str) -> Any:
    """A session that sends requests to one scheme, host and port only, whatever redirects and links say."""
    import requests  # noqa: PLC0415 - comes with the extra
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - comes with the extra

    class Bounded(HTTPAdapter):
        """Lets no answer be without end, whoever reads it: requests itself reads those of redirects."""

        def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
            found = super().send(request, *args, **options)
            most = _MOST_TRACE if options.get("stream") and found.ok and not found.is_redirect else _MOST_ANSWER
            raw: Any = found.raw
            pieces = raw.stream
            raw.stream = lambda *sizes, **how: _bounded(pieces(*sizes, **how), most)
            return found

    class OneServer(requests.Session):
        """Every request, also one that follows a redirect or a link to a next page, goes through `send`."""

        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            if _origin(request.url) != _origin(url):
                raise _ElsewhereError(_shown_origin(request.url))
            return super().send(request, **options)

    made = OneServer()
    for scheme in ("http://", "https://"):
        made.mount(scheme, Bounded())
    return made


def _origin(address: object) -> tuple[str, str, int] | None:
    """Scheme, host and port of an address; None if it is not one."""
    parts = split_url(address)
    try:
        host, port = (parts.hostname, parts.port) if parts else (None, None)
    except ValueError:
        return None
    return (parts.scheme, host, port or (443 if parts.scheme == "https" else 80)) if parts and host else None


def _shown_origin(address: object) -> str:
    """An address for a message: without what may be secret in its path or query."""
    found = _origin(address)
    return "an invalid address" if found is None else cut("{}://{}:{}".format(*found), 200)


class RunnerJobs(JobSource):
    """The jobs of one runner: those that are new since the last reading, and those that had not ended then.

    Args:
        server: the server.
        runner: the runner's number on it.
        limit: how many new jobs at most: the newest.
        progress: called with the jobs done and the jobs in all.
    """

    evidence = "job trace"

    def __init__(
        self, server: Server, runner: int, limit: int = 1000, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.key = f"gitlab {server.url} runner {runner}"
        self._server = server
        self._runner = runner
        self._limit = limit
        self._progress = progress

    def batches(self, position: str | None) -> Iterator[Batch]:
        """A few jobs with their traces at a time. Raises GitLabError: the server cannot be reached or refused."""
        known = read_object(position or "{}") or {}
        last = whole(known.get("last")) or 0
        unfinished = _pairs(known.get("unfinished"))
        fresh = self._server.jobs(self._runner, last, self._limit)
        waiting = [job for project, number in unfinished if (job := self._server.job(project, number)) is not None]
        pending = {number: project for project, number in unfinished}
        queue = [entry for entry in (*waiting, *fresh) if _project(entry, pending) is not None]
        missing = len(waiting) + len(fresh) - len(queue)
        for first in range(0, len(queue), _BATCH):
            entries = queue[first : first + _BATCH]
            collected: list[JobFact] = []
            for entry in entries:
                number, project = whole(entry["id"]) or 0, _project(entry, pending) or 0
                facts, traced = _facts(self._server, entry, project)
                collected += facts
                missing += not traced
                last = max(last, number)
                pending.pop(number, None)
                if text(entry.get("status")) in _UNFINISHED:
                    pending[number] = project
            open_jobs = [(project, number) for number, project in pending.items()]
            reached = json.dumps({"last": last, "unfinished": open_jobs})
            yield Batch(len(entries), collected, 0, (self.key, reached), missing)
            missing = 0
            if self._progress:
                self._progress(first + len(entries), len(queue))
        if missing:
            yield Batch(0, [], 0, None, missing)


def _pairs(value: Any) -> list[tuple[int, int]]:
    """Of each job that had not ended its project and its number."""
    rows = value if isinstance(value, list) else []
    found = [(whole(row[0]), whole(row[1])) for row in rows if isinstance(row, list) and len(row) == len(("of", "job"))]
    return [(project, number) for project, number in found if project is not None and number is not None]


def _project(entry: Mapping[str, Any], pending: Mapping[int, int]) -> int | None:
    """The project of a job; None where the server does not say it."""
    number = whole(entry.get("id"), 1)
    if number is None:
        return None
    return pending.get(number) or whole(mapping(entry.get("project")).get("id"), 1)


def _facts(server: Server, entry: Mapping[str, Any], project: int) -> tuple[list[JobFact], bool]:
    """The facts in a job and its trace, and whether there was a trace."""
    job = _job(entry, project)
    started = parse_rfc3339_ns(text(entry.get("started_at"))) or parse_rfc3339_ns(text(entry.get("created_at")))
    if started is None:
        return [], True
    collected = [JobFact(Kind.JOB_STARTED, job, started)]
    lines = server.trace(project, whole(entry["id"]) or 0)
    if lines is not None:
        collected += [JobFact(Kind.JOB_IMAGE_USED, job, started, seen) for seen in sightings(lines)]
    ended = parse_rfc3339_ns(text(entry.get("finished_at")))
    if ended is not None:
        outcome = text(entry.get("failure_reason") or entry.get("status")).replace("_", " ")
        collected.append(finished(job, ended, outcome or None, amount(entry.get("duration"), MOST_SECONDS)))
    return collected, lines is not None


def _job(entry: Mapping[str, Any], project: int) -> Job:
    url, pipeline = text(entry.get("web_url")), mapping(entry.get("pipeline"))
    number = whole(pipeline.get("id"))
    return Job(
        "gitlab",
        str(whole(entry["id"])),
        str(project),
        text(mapping(entry.get("project")).get("path_with_namespace")) or project_of(url),
        None if number is None else str(number),
        text(entry.get("ref")) or None,
        text(mapping(entry.get("commit")).get("id")) or text(pipeline.get("sha")) or None,
        url or None,
        None,
        text(mapping(entry.get("runner_manager")).get("system_id")) or None,
        text(entry.get("name")) or None,
    )
