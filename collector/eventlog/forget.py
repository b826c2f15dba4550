"""Removes from a log what the law or a customer asks to remove: a project's jobs, or an image."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from collector.eventlog.database import files_aside
from collector.eventlog.log import METRICS, EventLog
from collector.eventlog.rewrite import Change, Checkpoint, rewrite, tidy
from collector.eventlog.sql import sql_list, sql_text
from collector.eventlog.writer import LogWriter
from collector.model.errors import LogError, UsageError
from collector.model.events import CONTAINERS, Event, Kind, reported_by
from collector.model.references import Reference, bare_id, digest_of, meant, repository, spellings
from collector.model.traits import Reporter

_FORGOTTEN = "forgotten"
# What stands in place of its ID before a name that no known image has: of a failed pull, say.
_UNKNOWN = "\0"
_JOBS = sql_list(reported_by(Reporter.JOBS))
_PRUNES = sql_list(reported_by(Reporter.PRUNER))
_UNREADABLE = "'event_unreadable'"
# Where sentences, and what nobody could read, may name a project.
_TEXTS = f"{_PRUNES}, {_UNREADABLE}, 'gap', 'pull_failed'"
_BEFORE = "(^|[^A-Za-z0-9_./-])"
_AFTER = r"$|[^A-Za-z0-9_./-]|\.(?:$|[^A-Za-z0-9_])"
# What these may name a project by: its path, also in a URL, its containers and cache volumes, its number after a label.
_PATH = rf'(^|[^A-Za-z0-9_./-]|://[^/"\\\s]*/)({{paths}})({_AFTER}|/-/|\.git)'
_SLOT = r'runner-[^"\\\s]*-project-({ids})-concurrent-[^"\\\s]*'
_JOB_SAID = r'(job(?:":"| |s/))([0-9A-Za-z-]+)'
_LABEL = r'project[._]id[\\": ]+({ids})($|[^0-9])'
# What any event may name an image by: its names, a repository that no other image is of, its ID or digest.
_NAME = rf"{_BEFORE}({{words}})({_AFTER})"
_ID = "(^|[^0-9a-f])(?:sha256:)?({words})($|[^0-9a-f])"
NAMELESS = f"""
SELECT DISTINCT reference FROM {{events}} WHERE image IS NULL AND reference IS NOT NULL AND kind NOT IN ({_PRUNES})
"""
"""SQL of the names in events of images that nobody could look up."""
# Of what is known of a container its volumes stay, by whose last use decisions go, but for the slot's own.
_VOLUMES = f"""CASE WHEN kind IN ({sql_list(CONTAINERS)}) AND (attributes -> '$.volumes') IS NOT NULL THEN
    json_object('volumes', list_filter(TRY_CAST((attributes -> '$.volumes') AS VARCHAR[]),
        lambda name: NOT starts_with(name, 'runner-'))) END"""
# What the metrics have added up names projects and images; they do it again.
_POSITION = f"FROM old.position WHERE source <> '{METRICS}'"
# What counts by its hour or day is counted again; of what was thinned before, numbers without names are left.
_AGAIN = {table: f"FROM old.{table} LIMIT 0" for table in ("hourly", "recent_use")}
_ATTRIBUTES = "CAST(attributes AS VARCHAR)"
_INSTEAD = rf"\1{_FORGOTTEN}\3"

Rules = Sequence[tuple[str, str]]
"""Regular expressions, each with what takes the place of what it finds."""
Archive = Callable[[Callable[[duckdb.DuckDBPyConnection], Change]], int]
"""Removes from where a log was shipped to; how many parts. It is given what makes the change there."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed.

    Attributes:
        of: ``project`` or ``image``.
        jobs: how many jobs.
        images: the IDs of images.
        events: how many events are gone or no longer say whose they were.
        left: files beside the log that may still hold it and have to be removed by hand.
        parts: how many parts of an archive held it.
    """

    of: str
    jobs: int
    images: tuple[str, ...]
    events: int
    left: tuple[Path, ...]
    parts: int = 0

    @property
    def found(self) -> bool:
        """Whether the log held anything of it."""
        return bool(self.jobs or self.images or self.events)

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {**asdict(self), "left": [str(path) for path in self.left]}


def forget_project(
    log: EventLog,
    project: str,
    *,
    dry_run: bool = False,
    at: Checkpoint = lambda _: None,
    archive: Archive = lambda _: 0,
) -> Forgotten:
    """Remove all that says that uses of images were those of a project's jobs; the uses themselves stay.

    Args:
        log: the log.
        project: its ID or path; a path may be a glob, such as ``group/*``.
        dry_run: only count.
        at: see `rewrite`.
        archive: has it removed where the log was shipped to, before anything else; what it raises leaves the log.

    Raises:
        LogError: the log cannot be used, or has no space for its own copy; then it is as it was.
    """
    return _Forgetting(log, "project", at, archive).jobs(project, dry_run=dry_run)


def forget_image(
    log: EventLog,
    image: str,
    *,
    dry_run: bool = False,
    at: Checkpoint = lambda _: None,
    archive: Archive = lambda _: 0,
) -> Forgotten:
    """Remove all that is known of images.

    Args:
        log: the log.
        image: a reference, a repository, a digest, or the beginning of an ID.
        dry_run: only count.
        at: see `rewrite`.
        archive: see `forget_project`; there also images are looked for that the log does not know.

    Raises:
        LogError: the log cannot be used, or has no space for its own copy; then it is as it was.
    """
    return _Forgetting(log, "image", at, archive).images(image, dry_run=dry_run)


class _Forgetting:
    """One removal."""

    def __init__(self, log: EventLog, of: str, at: Checkpoint, archive: Archive) -> None:
        self._log, self._of, self._at, self._archive = log, of, at, archive

    def jobs(self, project: str, *, dry_run: bool) -> Forgotten:
        if not project.strip():
            raise UsageError("--project: which one? give its path or ID")
        self._drain()
        name = sql_text(project)
        theirs = f"{name} IN (project, project_id) OR coalesce(project GLOB {name}, false)"
        with self._log.reading() as connection:
            count = _count(connection, f"FROM job WHERE {theirs}")
            events = _count(connection, f"FROM event WHERE job IN (SELECT job FROM job WHERE {theirs})")
            rows = connection.execute(f"SELECT DISTINCT project_id, project FROM job WHERE {theirs}").fetchall()
        change = _project_change(f"SELECT job, job_id FROM old.job WHERE {theirs}", rows)

        def shipped(connection: duckdb.DuckDBPyConnection) -> Change:
            sql = f"SELECT DISTINCT project_id, project FROM every_job WHERE {theirs}"
            all_rows = {*rows, *connection.execute(sql).fetchall()}
            return _project_change(f"SELECT DISTINCT job, job_id FROM every_job WHERE {theirs}", list(all_rows))

        parts = self._archive(shipped)
        return self._done(change, dry_run=dry_run, jobs=count, images=[], events=events, parts=parts)

    def images(self, image: str, *, dry_run: bool) -> Forgotten:
        if not image.strip():
            raise UsageError("--image: which one? give a name, digest or ID")
        self._drain()
        with self._log.reading() as connection:
            ids = dict(connection.execute("SELECT image_id, image FROM image").fetchall())
            names: dict[str, list[str]] = {one: [] for one in ids}
            sql = "SELECT image_id, list(DISTINCT name) FROM image_references GROUP BY image_id"
            names.update(connection.execute(sql).fetchall())
            nameless = connection.execute(NAMELESS.format(events="event")).fetchall()
            names.update({_UNKNOWN + name: [name] for (name,) in nameless})
            found, names_left = _meant(image, names)
            chosen, named = _numbers(ids[one] for one in found), _texts([*names_left, *found])
            events = _count(
                connection, f"FROM event WHERE image IN {chosen} OR (image IS NULL AND reference IN {named})"
            )
        change = _image_change(chosen, named, found, names_left)

        def shipped(connection: duckdb.DuckDBPyConnection) -> Change:
            # What is gone from the log, as it was forgotten there or thinned, may be there still.
            sql = "SELECT image_id, list(DISTINCT name) FILTER (name IS NOT NULL) FROM every_image GROUP BY image_id"
            every = {one: list(known) for one, known in names.items()}
            for one, known in connection.execute(sql).fetchall():
                for name in known or []:
                    every.setdefault(_UNKNOWN + name if one is None else one, []).append(name)
                if one is not None:
                    every.setdefault(one, [])
            there, left = _meant(image, every)
            return _image_change(_texts(there), _texts([*left, *there]), there, left)

        parts = self._archive(shipped)
        return self._done(change, dry_run=dry_run, jobs=0, images=found, events=events, parts=parts)

    def _drain(self) -> None:
        """Have what waits in the spool where it can be found."""
        self._log.require()
        if not LogWriter(self._log).flush():
            raise LogError(f"the spool of {self._log.path} could not be emptied: nothing was changed; try again")

    def _done(
        self, change: Change, *, dry_run: bool, jobs: int, images: Sequence[str], events: int, parts: int
    ) -> Forgotten:
        found = Forgotten(self._of, jobs, tuple(images), events, tuple(_left(self._log.path)), parts)
        if dry_run:
            return found
        facts = {"of": self._of, "jobs": jobs, "images": len(images), "events": events}
        record = Event(time.time_ns(), Kind.DATA_FORGOTTEN, attributes=facts, identity=uuid.uuid4().hex)
        if not found.found:
            tidy(self._log.path)
            if parts:
                self._log.append([record])
            return found
        rewrite(self._log, replace(change, record=lambda _: record), at=self._at)
        return found


def _meant(image: str, names: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The IDs of the images that are meant, and what is theirs alone of names and of repositories."""
    found = set(meant(image, names))
    theirs = {name for one in found for name in names[one]}
    others = {name for one in names.keys() - found for name in names[one]}
    shared = {repository(name) for name in others}
    alone = {name for name in theirs - others if _is_ended(name) or repository(name) not in shared}
    places = {repository(name) for name in theirs} - shared
    return sorted(one for one in found if not one.startswith(_UNKNOWN)), sorted(alone | places)


def _is_ended(name: str) -> bool:
    """Whether a name has a tag or a digest."""
    read = Reference.parse(name)
    return bool(read.tag or read.digest)


def _replaced(text: str, rules: Rules) -> str:
    """SQL of a text without what the rules find."""
    for rule, instead in rules:
        # What follows at once shares its border with what was found before.
        for _ in range(2):
            text = f"regexp_replace({text}, {sql_text(rule)}, {sql_text(instead)}, 'g')"
    return text


def _mentions(rules: Rules, *more: str) -> str:
    """SQL of whether attributes hold what rules, or more regular expressions, find."""
    every = [*(rule for rule, _ in rules), *more]
    return " OR ".join(f"regexp_matches({_ATTRIBUTES}, {sql_text(rule)})" for rule in every) or "false"


def _without(rules: Rules) -> str:
    """SQL of attributes without what the rules find."""
    return f"CASE WHEN {_mentions(rules)} THEN CAST({_replaced(_ATTRIBUTES, rules)} AS JSON) ELSE attributes END"


def _either(words: Iterable[str]) -> str:
    """A regular expression of any of these words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word))))


def _project_change(jobs: str, rows: Sequence[tuple[str | None, str | None]]) -> Change:
    """What becomes of a log's rows without a project's jobs.

    Args:
        jobs: SQL of their numbers and their IDs.
        rows: ID and path of each of their projects.
    """
    ids = _either({project for project, _ in rows if project and project.isalnum()})
    paths = _either({path for _, path in rows if path})
    rules = [(_PATH.format(paths=paths), _INSTEAD)] if paths else []
    rules += [(_SLOT.format(ids=ids), _FORGOTTEN)] if ids else []
    labels = [_LABEL.format(ids=ids)] if ids else []
    theirs = "coalesce(job IN (SELECT job FROM forgotten_job), false)"
    # A plan names each job that it waits for.
    said = f"""list_reduce(list_prepend({_replaced(_ATTRIBUTES, rules)}, list_filter(
        regexp_extract_all({_ATTRIBUTES}, {sql_text(_JOB_SAID)}, 2),
        lambda id: coalesce(list_contains(getvariable('forgotten_ids'), id), false))),
        lambda said, id: regexp_replace(said, '(job(?:":"| |s/))(' || regexp_escape(id) || ')($|[^0-9A-Za-z-])',
            {sql_text(_INSTEAD)}, 'g'))"""
    event = f"""
        SELECT * REPLACE (
            CASE WHEN NOT {theirs} THEN job END AS job,
            CASE WHEN NOT {theirs} THEN role END AS role,
            CASE WHEN {theirs} THEN {_VOLUMES} WHEN kind NOT IN ({_TEXTS}) THEN attributes
                WHEN kind = {_UNREADABLE} THEN
                    CASE WHEN {_mentions(rules, *labels)} THEN json_object('raw', '{_FORGOTTEN}') ELSE attributes END
                WHEN kind IN ({_PRUNES}) THEN CAST({said} AS JSON) ELSE {_without(rules)} END AS attributes,
            CASE WHEN kind IN ({_PRUNES}) THEN {_replaced("reference", rules)} ELSE reference END AS reference)
        FROM piece WHERE NOT ({theirs} AND kind IN ({_JOBS}) AND image IS NULL)"""

    def prepare(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE forgotten_job AS {jobs}")
        connection.execute("SET VARIABLE forgotten = (SELECT list(job) FROM forgotten_job)")
        connection.execute("SET VARIABLE forgotten_ids = (SELECT list(job_id) FROM forgotten_job)")

    # A number may be given again one day.
    thinned = """SELECT * REPLACE (list_transform(jobs, lambda job: CASE
        WHEN NOT coalesce(list_contains(getvariable('forgotten'), job), false) THEN job END) AS jobs)
        FROM piece_use"""
    job = "FROM piece_job WHERE job NOT IN (SELECT job FROM forgotten_job)"
    return Change(prepare, event, job, {"thinned_use": thinned, "position": _POSITION, **_AGAIN}, _nothing)


def _image_change(chosen: str, named: str, ids: Sequence[str], names: Sequence[str]) -> Change:
    """What becomes of a log's rows without some images.

    Args:
        chosen: SQL of their numbers.
        named: SQL of all that means them and no other image.
        ids: their IDs.
        names: the names that are theirs alone.
    """
    digests = (digest_of(name) for name in names if "@" in name)
    whole = {bare_id(one) for one in (*ids, *digests)}
    # A word without a slash, such as `debian`, may name more than images.
    written = {
        one
        for name in names
        for one in (name, *spellings(name))
        if _is_ended(one) or ("/" in one and not _is_ended(name))
    }
    words = {_NAME: written, _ID: whole | {one[:12] for one in whole}}
    rules = [(rule.format(words=_either(found)), _INSTEAD) for rule, found in words.items() if found]
    event = f"""
        SELECT * REPLACE ({_without(rules)} AS attributes) FROM piece
        WHERE coalesce(image NOT IN {chosen}, true) AND NOT coalesce(image IS NULL AND reference IN {named}, false)"""
    folded = [f"{base}{table}" for base in ("", "base_") for table in ("habit", "open_use", "situation")]
    theirs = f"WHERE image NOT IN {chosen}"
    tables = {table: f"FROM old.{table} {theirs}" for table in ("image", *folded)}
    tables |= {"thinned_use": f"FROM piece_use {theirs}", "position": _POSITION, **_AGAIN}
    return Change(_nothing, event, "FROM piece_job", tables, _nothing)


def _nothing(_: duckdb.DuckDBPyConnection) -> None:
    return None


def _count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM ({rows})").fetchall()[0][0])


def _numbers(numbers: Iterable[int]) -> str:
    """Whole numbers as an SQL list, which may be empty."""
    return f"({', '.join(str(int(number)) for number in numbers) or 'NULL'})"


def _texts(texts: Sequence[str]) -> str:
    return f"({', '.join(map(sql_text, texts)) or 'NULL'})"


def _left(path: Path) -> list[Path]:
    """Files that a fault left beside the log."""
    try:
        spools = sorted(path.parent.glob(f"{path.name}.spool.damaged-*"))
    except OSError:
        spools = []
    return [*files_aside(path), *(one for one in spools if one not in files_aside(path))]
