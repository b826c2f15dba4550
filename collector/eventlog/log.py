"""The event log: appends, reads, and the only place that knows DuckDB.

No process keeps the file open: a writer shuts out readers and a reader shuts out writers, so each
opens it for as long as its work needs, and waits its turn.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from collector.eventlog import identity
from collector.eventlog.schema import FINGERPRINT, JOBS_VERSION, MIGRATIONS, SCHEMA_VERSION, TEMPORARY_VIEWS, VIEWS
from collector.model.errors import LogBusyError, LogError, LogFullError
from collector.model.events import Event, Kind
from collector.model.jobs import JOB_FIELDS, Job, attribution

_FIRST_RETRY_S = 0.01
_LAST_RETRY_S = 0.5
_UMASK = 0o027  # the log is 0640: it tells which projects run which images
_BATCH = 20_000
_NO_SPACE = "No space left on device"
_DAMAGED = ("Could not read enough bytes", "orrupt", "checksum", "Checksum")


class EventLog:
    """An append-only log of events in a DuckDB file.

    Args:
        path: the file; made with its folder when something is first appended.
        host: under which key events are stored and read; None: that of this host, whatever it is called now.
        wait: how long to wait for another process to let go of the file, seconds.
    """

    def __init__(self, path: Path, host: str | None = None, wait: float = 10.0) -> None:
        self.path = path
        self._host = self._given = host
        self.wait = wait

    @property
    def host(self) -> str:
        """The key of this host's events, as the log tells it. Raises as `reading` does."""
        if self._host is None:
            if not self.exists():
                return socket.gethostname()
            with self.reading():
                pass
        return str(self._host)

    def forget_host(self) -> None:
        """Look up again whose log this is: the file was replaced."""
        self._host = self._given

    def exists(self) -> bool:
        """Whether there is a file at all. Raises LogError where one may not look."""
        with _told_in_one_line(self.path):
            return self.path.exists()

    def append(self, events: Sequence[Event], mark: tuple[str, str] | None = None) -> int:
        """Store the events that are not stored yet, in order, all or none; return how many were new.

        Args:
            events: the events.
            mark: a source of events and the position in it that is reached with these; stored with them.

        Raises:
            LogBusyError: others held the file for longer than `wait`.
            LogFullError: the file system is full; what was stored before is intact.
            LogError: the file is no log, of a newer schema, or may not be written.
        """
        if not events and mark is None:
            return 0
        with self._opened(read_only=False) as connection:
            connection.begin()
            host = self._resolved(connection)
            if self._given is None:
                identity.check(identity.known_hosts(connection), host, identity.this_machine(), self.path)
            identity.register(connection, host, is_here=self._given is None)
            new = _unseen(connection, host, events) if events else {}
            if new:
                _insert(connection, host, new)
            if mark is not None:
                connection.execute("DELETE FROM position WHERE host = ? AND source = ?", [host, mark[0]])
                connection.execute("INSERT INTO position VALUES (?, ?, ?)", [host, *mark])
            connection.commit()
        return len(new)

    def position(self, source: str) -> str | None:
        """How far a source of events was read, as told by `append`; None if not at all. Raises LogError."""
        if not self.exists():
            return None
        rows = self.query("SELECT position FROM position WHERE host = ? AND source = ?", [self.host, source])
        return str(rows[0][0]) if rows else None

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection; close it soon, for meanwhile nobody can append.

        Raises:
            LogBusyError, LogError: see `append`; also when there is no log yet.
        """
        if not self.exists():
            raise LogError(
                f"no event log at {self.path}: start `collector run`, make one with `collector import`, "
                "or name another with --log"
            )
        with self._opened(read_only=True) as connection:
            if _version(connection) == SCHEMA_VERSION:
                connection.execute(TEMPORARY_VIEWS)
                self._resolved(connection)
                yield connection
                return
        with self._opened(read_only=False):
            pass  # it is brought to this version
        with self._opened(read_only=True) as connection:
            connection.execute(TEMPORARY_VIEWS)
            self._resolved(connection)
            yield connection

    def claim(self, here: identity.Identity, *, readonly: bool = False) -> list[Event]:
        """See that the log is this host's, and note what it is recognised by.

        Args:
            here: what this host is recognised by.
            readonly: only look; the collector will note it.

        Returns:
            What the log does not tell yet of a changed host, to be appended.

        Raises:
            LogError: it is another host's (with what to do), or cannot be used.
        """
        if not self.exists():
            return []
        self.forget_host()
        with self.reading() as connection:
            known = identity.check(identity.known_hosts(connection), self.host, here, self.path)
        if known is None:
            return []
        after = known.identity.updated(here)
        if not readonly and after != known.identity:
            self._store_host(identity.KnownHost(known.key, known.id, after))
        return [] if readonly else identity.changed(known.identity, after)

    def adopt(self, here: identity.Identity, host: str | None = None) -> tuple[identity.KnownHost, identity.KnownHost]:
        """Go on with a log on another machine or engine than it was recorded on; who it was, and who it is.

        Args:
            here: what this host is recognised by.
            host: whose history, by key or name; None: the only one.

        Raises:
            LogError: there is no such host, or no saying which; or the log cannot be used.
        """
        with self.reading() as connection:
            hosts = identity.known_hosts(connection)
        before = identity.chosen(hosts, host, self.path)
        # Whoever goes on with the original is another host from now on.
        after = identity.KnownHost(before.key, uuid.uuid4().hex, before.identity.updated(here))
        self._store_host(after)
        EventLog(self.path, before.key, self.wait).append(
            identity.changed(before.identity, after.identity, adopted=before.id)
        )
        self.forget_host()
        return before, after

    def _store_host(self, host: identity.KnownHost) -> None:
        with self._opened(read_only=False) as connection:
            connection.begin()
            identity.store(connection, host)
            connection.commit()

    def _resolved(self, connection: duckdb.DuckDBPyConnection) -> str:
        if self._host is None:
            self._host = identity.key_of_this_host(connection)
        return self._host

    def query(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises as `reading` does."""
        with self.reading() as connection:
            return connection.execute(sql, parameters).fetchall()

    def schema_version(self) -> int:
        """The schema version of the file. Raises as `reading` does."""
        with self._opened(read_only=True) as connection:
            return _version(connection)

    @contextmanager
    def _opened(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        with _told_in_one_line(self.path):
            connection = self._connect(read_only=read_only)
            try:
                if not read_only:
                    migrate(connection, self.path)
                elif _version(connection) > SCHEMA_VERSION:
                    raise _newer(self.path, _version(connection))
                yield connection
            finally:
                connection.close()

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.wait
        delay = _FIRST_RETRY_S
        while True:
            try:
                return _open(self.path, read_only=read_only)
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() + delay > deadline:
                    raise LogBusyError(
                        f"event log {self.path} has been held by another process for {self.wait:g} s: "
                        "end that process (`fuser` names it) or try again later"
                    ) from None
            time.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY_S)


def migrate(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bring an open log to this program's schema version and views, in one transaction.

    Raises:
        LogError: the log is of a newer version, or a DuckDB file with other tables.
    """
    version = _version(connection)
    if version > SCHEMA_VERSION:
        raise _newer(path, version)
    if version == SCHEMA_VERSION and _fingerprint(connection) == FINGERPRINT:
        return
    if version == 0 and connection.execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchall():
        raise LogError(f"{path} is a DuckDB file of something else: name another with --log")
    connection.begin()
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    for statements in MIGRATIONS[version:]:
        connection.execute(statements)
    if 0 < version < JOBS_VERSION:
        _attribute_old_events(connection)
    connection.execute(VIEWS)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?, ?)", [SCHEMA_VERSION, FINGERPRINT])
    connection.commit()


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    found = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'schema_version'").fetchall()
    if not found:
        return 0
    return int(connection.execute("SELECT max(version) FROM schema_version").fetchall()[0][0])


def _fingerprint(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Which views a log of this schema version holds; None: not known."""
    found = connection.execute("SELECT max(views) FROM schema_version").fetchall()[0][0]
    return None if found is None else str(found)


def _newer(path: Path, version: int) -> LogError:
    return LogError(
        f"event log {path} has schema version {version}, this program knows {SCHEMA_VERSION}: "
        "install the newer docker-hindsight that wrote it"
    )


def _open(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    str(path).encode()  # DuckDB stumbles over names that are no UTF-8
    if read_only:
        return duckdb.connect(str(path), read_only=True)
    before = os.umask(_UMASK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An append is short: threads, of which DuckDB starts one a core, would cost more than they do.
        return duckdb.connect(str(path), config={"threads": 1})
    finally:
        os.umask(before)


def _unseen(connection: duckdb.DuckDBPyConnection, host: str, events: Sequence[Event]) -> dict[tuple[int, int], Event]:
    """The events that are not stored yet, each once, in order."""
    new: dict[tuple[int, int], Event] = {}
    for event in events:
        new.setdefault((event.time_ns, event.key), event)
    times = [time_ns for time_ns, _ in new]
    # A range on `time` lets DuckDB skip all but the newest blocks; no index has to be kept.
    stored = connection.execute(
        "SELECT epoch_ns(time), key FROM event WHERE time BETWEEN make_timestamp_ns(?) AND make_timestamp_ns(?)"
        " AND host = ?",
        [min(times), max(times), host],
    ).fetchall()
    for time_ns, key in stored:
        new.pop((time_ns, key), None)
    return new


def _insert(connection: duckdb.DuckDBPyConnection, host: str, events: dict[tuple[int, int], Event]) -> None:
    numbers = _intern(connection, {event.image for event in events.values() if event.image})
    attributed = [attribution(event) for event in events.values()]
    jobs = _intern_jobs(connection, host, [found and found[0] for found in attributed])
    last = connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()[0][0]
    rows = list(events.values())
    connection.execute(
        """
        INSERT INTO event (seq, time, key, recorded, host, kind, image, reference, container, bytes, began,
            attributes, job, role)
        SELECT unnest(?::BIGINT[]), make_timestamp_ns(unnest(?::BIGINT[])), unnest(?::BIGINT[]),
            make_timestamp_ns(?), ?, unnest(?::VARCHAR[]), unnest(?::INTEGER[]), unnest(?::VARCHAR[]),
            unnest(?::VARCHAR[]), unnest(?::BIGINT[]), make_timestamp_ns(unnest(?::BIGINT[])),
            unnest(?::VARCHAR[])::JSON, unnest(?::INTEGER[]), unnest(?::VARCHAR[])
        """,
        [
            list(range(last + 1, last + 1 + len(rows))),
            [time_ns for time_ns, _ in events],
            [key for _, key in events],
            time.time_ns(),
            host,
            [event.kind.value for event in rows],
            [numbers.get(event.image or "") for event in rows],
            [event.reference for event in rows],
            [event.container for event in rows],
            [event.bytes for event in rows],
            [event.began_ns for event in rows],
            [_json(event) for event in rows],
            jobs,
            [found and found[1] for found in attributed],
        ],
    )


def _json(event: Event) -> str | None:
    if not event.attributes:
        return None
    return json.dumps(event.attributes, separators=(",", ":"), sort_keys=True)


def _intern(connection: duckdb.DuckDBPyConnection, image_ids: set[str]) -> dict[str, int]:
    """The number of each image ID; new ones get the next."""
    wanted = sorted(image_ids)
    numbers: dict[str, int] = dict(
        connection.execute(
            "SELECT image_id, image FROM image WHERE image_id IN (SELECT unnest(?::VARCHAR[]))", [wanted]
        ).fetchall()
    )
    missing = [image_id for image_id in wanted if image_id not in numbers]
    if missing:
        first = connection.execute("SELECT coalesce(max(image) + 1, 0) FROM image").fetchall()[0][0]
        fresh = dict(zip(missing, range(first, first + len(missing)), strict=True))
        connection.execute(
            "INSERT INTO image SELECT unnest(?::INTEGER[]), unnest(?::VARCHAR[])",
            [list(fresh.values()), list(fresh)],
        )
        numbers.update(fresh)
    return numbers


def _intern_jobs(connection: duckdb.DuckDBPyConnection, host: str, wanted: Sequence[Job | None]) -> list[int | None]:
    """The number of each job; new ones get the next, known ones what was not known of them."""
    distinct = list(dict.fromkeys(job for job in wanted if job is not None))
    if not distinct:
        return [None] * len(wanted)
    known = _known_jobs(connection, host, distinct)
    following = connection.execute("SELECT coalesce(max(job) + 1, 0) FROM job").fetchall()[0][0]
    numbers: dict[Job, int] = {}
    changed: dict[int, Job] = {}
    first_new = following
    for job in distinct:
        candidates = known.setdefault((job.ci, job.job_id), {})
        number = next((number for number, other in candidates.items() if other.is_same(job)), following)
        following += number == following
        merged = candidates[number].merged(job) if number in candidates else job
        if candidates.get(number) != merged:
            candidates[number] = changed[number] = merged
        numbers[job] = number
    connection.execute(
        "DELETE FROM job WHERE job IN (SELECT unnest(?::INTEGER[]))",
        [[number for number in changed if number < first_new]],
    )
    _store_jobs(connection, host, changed)
    return [None if job is None else numbers[job] for job in wanted]


def _known_jobs(
    connection: duckdb.DuckDBPyConnection, host: str, wanted: Sequence[Job]
) -> dict[tuple[str, str | None], dict[int, Job]]:
    """Stored jobs with the same IDs (or without any), by system and ID, then by number."""
    rows = connection.execute(
        f"SELECT job, {', '.join(JOB_FIELDS)} FROM job"
        " WHERE host = ? AND (job_id IS NULL OR job_id IN (SELECT unnest(?::VARCHAR[])))",
        [host, [job.job_id for job in wanted if job.job_id is not None]],
    ).fetchall()
    found: dict[tuple[str, str | None], dict[int, Job]] = {}
    for number, *values in rows:
        job = Job(*values)
        found.setdefault((job.ci, job.job_id), {})[number] = job
    return found


def _store_jobs(connection: duckdb.DuckDBPyConnection, host: str, jobs: dict[int, Job]) -> None:
    if not jobs:
        return
    columns = [list(column) for column in zip(*(job.values() for job in jobs.values()), strict=True)]
    connection.execute(
        f"INSERT INTO job (job, host, {', '.join(JOB_FIELDS)})"
        f" SELECT unnest(?::INTEGER[]), ?, {', '.join('unnest(?::VARCHAR[])' for _ in JOB_FIELDS)}",
        [list(jobs), host, *columns],
    )


def _attribute_old_events(connection: duckdb.DuckDBPyConnection) -> None:
    """Type the jobs of what was stored before they were."""
    last = 0
    while rows := connection.execute(_ATTRIBUTABLE, [last, _BATCH]).fetchall():
        last = rows[-1][0]
        for host in sorted({row[1] for row in rows}):
            told = [_attributed(seq, kind, attributes) for seq, of, kind, attributes in rows if of == host]
            found = [row for row in told if row is not None]
            connection.execute(
                "UPDATE event SET job = n.job, role = n.role FROM ("
                "SELECT unnest(?::BIGINT[]) AS seq, unnest(?::INTEGER[]) AS job, unnest(?::VARCHAR[]) AS role) AS n"
                " WHERE event.seq = n.seq",
                [
                    [seq for seq, _, _ in found],
                    _intern_jobs(connection, host, [job for _, job, _ in found]),
                    [role for _, _, role in found],
                ],
            )


def _attributed(seq: int, kind: str, attributes: str) -> tuple[int, Job, str | None] | None:
    found = attribution(Event(0, Kind(kind), attributes=json.loads(attributes)))
    return None if found is None else (seq, *found)


_ATTRIBUTABLE = """
SELECT seq, host, kind, attributes FROM event
WHERE seq > ? AND ((attributes -> '$.labels') IS NOT NULL OR (attributes -> '$.job') IS NOT NULL)
ORDER BY seq LIMIT ?
"""


@contextmanager
def _told_in_one_line(path: Path) -> Iterator[None]:
    """Turn DuckDB's and the system's faults into ours."""
    try:
        yield
    except PermissionError as error:
        raise _forbidden(path, error.filename) from None
    except OSError as error:
        raise LogError(f"event log {path} cannot be used: {error}") from None
    except UnicodeEncodeError:
        raise LogError(f"event log {path} has a name that is no UTF-8: rename it, or name another with --log") from None
    except duckdb.Error as error:
        text = str(error)
        first_line = text.splitlines()[0] if text else type(error).__name__
        if _NO_SPACE in text:
            raise LogFullError(f"no space left for the event log {path}: free some") from None
        if "Permission denied" in text:
            raise _forbidden(path, path) from None
        if "Is a directory" in text:
            raise LogError(f"{path} is a folder and no event log: name the log itself with --log") from None
        if "not a valid DuckDB database file" in text:
            raise LogError(f"{path} is no DuckDB file: move it away or name another with --log") from None
        if any(sign in text for sign in _DAMAGED):
            raise LogError(
                f"event log {path} is damaged: move it away, and a new one begins, or put a copy back ({first_line})"
            ) from None
        raise LogError(f"event log {path} cannot be used: {first_line}") from None


def _forbidden(path: Path, place: object) -> LogError:
    return LogError(
        f"no permission on {place} for the event log {path}: run as root or as the user of the service, "
        "or name another with --log"
    )
