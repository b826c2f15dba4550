"""GitLab Runner's own log: journal exports and files, in each of the runner's three formats. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from collector.job_sources.joblog import ANSI, JobLog, Sighting, plain
from collector.model.events import Kind
from collector.model.jobs import Job, project_of
from collector.model.times import parse_rfc3339_ns
from collector.model.untrusted import MOST_SECONDS, amount, clean, cut, mapping, read_json, whole

SOURCE = "runner log"
_MOST_JOBS = 1000
_STARTS = "Starting multi-runner from "
# What a line has beyond so many characters says nothing about jobs.
MOST_LINE = 65536
# rsyslog writes ESC so.
_SYSLOG_ESCAPE = "#033["
_FIELD = re.compile(r" (?:\x1b\[[0-9;]*m)?(?P<key>[A-Za-z_][\w.\-]*)(?:\x1b\[0;m)?=")
_COLOURED_FIELD = re.compile(r" (?:\x1b\[[0-9;]*m)?(?P<key>[A-Za-z_][\w.\-]*)\x1b\[0;m=")
_LOGFMT = re.compile(r'(?P<key>[A-Za-z_][\w.\-]*)=(?P<value>"(?:[^"\\]|\\.)*"|\S*)')
_LOGFMT_LINE = re.compile(r'^(?:time|level)=(?:"|\S)')
_LEVEL = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR|FATAL|PANIC): ")
_PULL_FAILED = re.compile(
    r'^Job failed(?: \([^)]+\))?: (?:.*: )?failed to pull image "(?P<reference>[^"\s]+)"'
    r"(?: with specified policies \[[^\]]*\])?: (?P<error>.*)$",
    re.DOTALL,
)
_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_MOST_ERROR = 300
_FAILED = re.compile(r"^Job failed(?: \((?P<why>[^)]+)\))?(?:: |$)")
_PREFIX = re.compile(
    r"^(?:(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)"
    r"|(?P<bsd>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)) (?:\S+ )?(?:[\w.\-/]+(?:\[\d+\])?: )?"
)
_GO_ESCAPE = re.compile(r"\\(?:x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<c>.))")
_NUMBER = re.compile(r"[0-9]{1,20}")
_GO_CHARACTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of the runner's log.

    Attributes:
        message: what it says.
        fields: its fields, such as ``job`` and ``project``.
        time_ns: when, UTC nanoseconds; None where the line has no time.
        cursor: its place in the journal, if it came from there.
    """

    message: str
    fields: Mapping[str, str] = field(default_factory=dict)
    time_ns: int | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class JobFact:
    """What a source says of a job.

    Attributes:
        kind: the kind of its event: `JOB_STARTED`, `JOB_IMAGE_USED`, `PULL_FAILED` or `JOB_FINISHED`.
        job: which.
        time_ns: when, UTC nanoseconds; None: not known.
        sighting: the image that it names; None: none.
        details: what else the event holds; what is None there is not known.
    """

    kind: Kind
    job: Job
    time_ns: int | None
    sighting: Sighting | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def finished(
    job: Job, time_ns: int | None, outcome: str | None, seconds: float | None = None, *, disk_full: bool = False
) -> JobFact:
    """That a job ended.

    Args:
        job: which.
        time_ns: when, UTC nanoseconds; None: not known.
        outcome: ``success``, ``failed`` or the runner's word for why it failed.
        seconds: how long it took.
        disk_full: whether it failed because a disk was full.
    """
    details = {"outcome": outcome, "seconds": seconds, "disk_full": disk_full or None}
    return JobFact(Kind.JOB_FINISHED, job, time_ns, details=details)


def parse_line(raw: str, year: int | None = None) -> Line | None:
    """One line of the log, whatever its format; None if it holds nothing.

    Args:
        raw: the line, without its end.
        year: the year to take for times that leave it out (syslog's); None: the current one.
    """
    text = clean(raw[:MOST_LINE]).strip().replace(_SYSLOG_ESCAPE, "\x1b[")
    time_ns = None
    while prefix := _PREFIX.match(text):
        found = parse_rfc3339_ns(_with_zone(prefix["iso"])) if prefix["iso"] else _bsd_time(prefix["bsd"], year)
        time_ns = found if found is not None else time_ns
        text = text[prefix.end() :].strip()
    if not text:
        return None
    if text.startswith("{"):
        inner = _from_object(text, year)
    else:
        inner = _from_text(text) if _LOGFMT_LINE.match(text) else _from_runner(text)
    return inner if inner.time_ns is not None or time_ns is None else Line(inner.message, inner.fields, time_ns)


def _from_object(text: str, year: int | None) -> Line:
    try:
        entry = read_json(text)
    except ValueError:
        return Line(plain(text))
    if not isinstance(entry, dict):
        return Line(plain(text))
    return _from_journal(entry, year) if "__REALTIME_TIMESTAMP" in entry or "MESSAGE" in entry else _from_json(entry)


def _from_journal(entry: Mapping[str, Any], year: int | None) -> Line:
    """An object of ``journalctl -o json``; a message with control characters is an array of bytes there."""
    message = entry.get("MESSAGE")
    if isinstance(message, list):
        message = bytes(byte for byte in message if isinstance(byte, int) and 0 <= byte < 256).decode(errors="replace")  # noqa: PLR2004
    inner = parse_line(message, year) if isinstance(message, str) else None
    stamp = whole(entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry.get("__REALTIME_TIMESTAMP"), 1, 2**63 // 1000)
    time_ns = None if stamp is None else stamp * 1000
    cursor = cut(str(entry["__CURSOR"])) if entry.get("__CURSOR") else None
    if inner is None:
        return Line("", {}, time_ns, cursor)
    return Line(inner.message, inner.fields, time_ns if time_ns is not None else inner.time_ns, cursor)


def _from_json(entry: Mapping[str, Any]) -> Line:
    fields = {str(key): _text(value) for key, value in entry.items() if key not in {"msg", "time", "level"}}
    return Line(plain(_text(entry.get("msg"))), fields, parse_rfc3339_ns(_text(entry.get("time"))))


def _from_text(text: str) -> Line:
    fields = _said_once([(match["key"], _unquoted(match["value"])) for match in _LOGFMT.finditer(text)])
    message = plain(fields.pop("msg", ""))
    fields.pop("level", None)
    return Line(message, fields, parse_rfc3339_ns(fields.pop("time", None)))


def _from_runner(text: str) -> Line:
    """The message padded to 50 columns, then its fields; coloured but where colours are off."""
    pattern = _COLOURED_FIELD if _COLOURED_FIELD.search(text) else _FIELD
    marks = list(pattern.finditer(text))
    found = []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):
        value = text[mark.end() : end]
        found.append((mark["key"], ANSI.sub("", value).strip()))
    message = plain(text[: marks[0].start()] if marks else text)
    return Line(_LEVEL.sub("", message), _said_once(found))


def _said_once(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The fields of a line, without those that it has twice: a job's name may hold ` job=1`, and pass for another."""
    counts = Counter(key for key, _ in found)
    return {key: value for key, value in found if counts[key] == 1}


class RunnerLog:
    """Reads the log of one runner process, entry by entry, and returns what it says about jobs.

    Args:
        state: what `state` of an earlier reader gave, to go on where that ended.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        known = {job: saved for job, saved in (state or {}).items() if isinstance(saved, dict)}
        self._logs = {job: JobLog(saved) for job, saved in known.items()}
        self._jobs = {job: Job.from_json({**mapping(saved.get("job")), **_own(job)}) for job, saved in known.items()}

    @property
    def state(self) -> dict[str, Any]:
        """Of the jobs under way, what was read so far, as JSON."""
        return {job: {**log.state, "job": self._jobs[job].to_json()} for job, log in self._logs.items()}

    def facts(self, line: Line) -> list[JobFact]:
        """All that an entry says about jobs: the runner's start ends those of the process before it."""
        if line.message.startswith(_STARTS) and "job" not in line.fields:
            # A reboot or a kill leaves no line for them. (A reload of the configuration ends no job, and has another.)
            found = [finished(self._jobs[job], line.time_ns, "runner restarted") for job in self._logs]
            self._logs.clear()
            self._jobs.clear()
            return found
        failed = _failed_pull(line)
        fact = self.read(line)
        return [one for one in (failed, fact) if one is not None]

    def _log_of(self, job: Job) -> JobLog:
        """What was read of a job so far; jobs whose end is never reported must not pile up."""
        job_id = job.job_id or ""
        known = self._jobs.get(job_id) if job_id in self._logs else None
        self._jobs[job_id] = known.merged(job) if known else job
        found = self._logs.setdefault(job_id, JobLog())
        if len(self._logs) > _MOST_JOBS:
            self._ended(next(iter(self._logs)))
        return found

    def _ended(self, job_id: str) -> None:
        self._logs.pop(job_id, None)
        self._jobs.pop(job_id, None)

    def read(self, line: Line) -> JobFact | None:
        """What an entry says about a job; None if nothing."""
        job_id = line.fields.get("job")
        if not job_id or not _NUMBER.fullmatch(job_id):
            return None
        job = job_from(line.fields)
        message = line.message
        if message in {"Checking for jobs... received", "Added job to processing list"}:
            self._log_of(job)
            return JobFact(Kind.JOB_STARTED, job, line.time_ns)
        if message == "Removed job from processing list":
            self._ended(job_id)
            return finished(job, line.time_ns, None)
        if message == "Job succeeded":
            self._ended(job_id)
            return finished(job, line.time_ns, "success", _seconds(line.fields))
        if failed := _FAILED.match(message):
            self._ended(job_id)
            full = _DISK_FULL.search(message) is not None
            return finished(job, line.time_ns, failed["why"] or "failed", _seconds(line.fields), disk_full=full)
        sighting = _configured(line) or self._log_of(job).read(message)
        return None if sighting is None else JobFact(Kind.JOB_IMAGE_USED, job, line.time_ns, sighting)


def _own(job_id: str) -> dict[str, str]:
    return {"ci": "gitlab", "job_id": job_id}


def job_from(fields: Mapping[str, str]) -> Job:
    """The job that the fields of an entry name."""
    project = fields.get("project_full_path") or project_of(fields.get("repo_url"))
    number = fields.get("project") or ""
    return Job(
        "gitlab",
        fields["job"],
        project_id=number if _NUMBER.fullmatch(number) else None,
        project=project,
        pipeline_id=fields.get("pipeline_id") or None,
        runner=fields.get("runner") or None,
        system_id=fields.get("system_id") or None,
        name=fields.get("job_name") or None,
    )


def _failed_pull(line: Line) -> JobFact | None:
    """The image whose pull let a job fail; None: the line names none."""
    failed = _PULL_FAILED.match(line.message)
    if failed is None or not _NUMBER.fullmatch(line.fields.get("job", "")):
        return None
    full = _DISK_FULL.search(failed["error"]) is not None
    details = {"error": cut(failed["error"].strip(), _MOST_ERROR), "disk_full": full or None}
    wanted = Sighting(None, cut(failed["reference"]))
    return JobFact(Kind.PULL_FAILED, job_from(line.fields), line.time_ns, wanted, details)


def _configured(line: Line) -> Sighting | None:
    """The lines that FF_LOG_IMAGES_CONFIGURED_FOR_JOB brings, and the one that names the default image."""
    role = {
        "Image configured for job": "build",
        "Service image configured for job": "service",
        "Using default image": "build",
    }.get(line.message)
    reference = line.fields.get("image_name") or line.fields.get("image")
    # Until 19.0 a name may still hold variables, and then says nothing.
    if role is None or not reference or "$" in reference:
        return None
    return Sighting(role, reference)


def _seconds(fields: Mapping[str, str]) -> float | None:
    """A job's duration: a number of seconds, or in Go's words (``1m2.5s``) before 13.11."""
    text = fields.get("duration_s") or fields.get("duration") or ""
    parts = re.findall(r"([0-9.]+)(h|ms|µs|us|ns|m|s)", text)
    if not parts:
        return amount(text, MOST_SECONDS)
    unit = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
    try:
        return amount(sum(float(count) * unit[name] for count, name in parts), MOST_SECONDS)
    except ValueError:
        return None


def _unquoted(value: str) -> str:
    """A value of the text format, which Go quotes where it must."""
    if not value.startswith('"'):
        return value
    return _GO_ESCAPE.sub(_unescaped, value[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    digits = match["x"] or match["u"] or match["U"]
    if digits:
        try:
            return clean(chr(int(digits, 16)))
        except (ValueError, OverflowError):
            return "\N{REPLACEMENT CHARACTER}"
    return _GO_CHARACTERS.get(match["c"], match["c"])


def _text(value: object) -> str:
    if isinstance(value, dict | list):
        return ""
    return "" if value is None else cut(str(value), MOST_LINE)


def _with_zone(text: str) -> str:
    """RFC 3339 with a colon in the zone, as ISO 8601 may leave it out."""
    return re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text)


def _bsd_time(text: str, year: int | None) -> int | None:
    """Syslog's time, which has no year and no zone: the latest such time that is not to come, in UTC."""
    now = datetime.now(UTC)
    for candidate in (year,) if year else (now.year, now.year - 1):
        try:
            found = datetime.strptime(f"{candidate} {text}", "%Y %b %d %H:%M:%S").replace(tzinfo=UTC)
        except ValueError:
            continue
        if year or found <= now:
            return int(found.timestamp()) * 10**9
    return None
