"""Thins what is older than is to be kept whole: few events of each image and day stay, the rest becomes sums.

Of the uses of an image on a day stay the first, the last, and those around the longest idle time: from these the
analyzer simulates. Whatever decisions need stays as it is, and so does what explains how an image came and went. The
other uses become rows of `thinned_use`, each as many uses in a row as nothing else has come between, so that
`collector explain` says the same as before.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import duckdb

from collector.eventlog import compaction, experience, hourly
from collector.eventlog.database import NEW_FILE
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.eventlog.rewrite import Change, Checkpoint, Rewritten, rewrite, tidy
from collector.eventlog.schema import FOLDED
from collector.eventlog.settings import no_gain_since
from collector.eventlog.sql import sql_list, sql_text
from collector.model.defaults import KEEP
from collector.model.errors import UsageError
from collector.model.events import CONTAINERS, Event, Kind, with_effect
from collector.model.traits import Effect
from collector.model.units import format_duration, option_value, parse_duration

DAY_NS = experience.DAY_NS
KEEP_S = parse_duration(KEEP)
"""How long events are kept whole unless said otherwise, seconds."""
OFTEN_S = 30 * 86400.0
"""What is thinned by itself is so much at least, seconds of the log's time: to write a file again is work."""
OFTEN_OVER_S = 7 * 86400.0
"""The same where the file is larger than it is to be."""
_ROOM = 0.9  # of the largest size is left then, or it is exceeded again on the next day
LEAST_S = 30 * 86400.0
"""What `auto` and the headroom look back on, seconds: less may not be kept whole."""
# A file is written again for so many bytes and such a share of it, even if nothing can be thinned: by the collector, or
# where somebody asks for it.
_WORTH, _WORTH_AT_ONCE = (8 * 2**20, 1 / 3), (2**20, 1 / 20)
# So many events are looked at with the log held.
_LOOKED_AT = 1_000_000
_DAYS = f"""
SELECT epoch_ns(time) // {DAY_NS}, count(*) FROM event
WHERE seq BETWEEN ? AND ? AND kind NOT IN (SELECT unnest(?::VARCHAR[])) AND host = ? GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction freed.

    Attributes:
        whole_since: from when on the history is complete, UTC seconds; None: all of it is.
        events: how many events it holds now.
        removed: how many events became sums.
        bytes_before, bytes_after: of the file.
        longest_hold: the longest time that nobody could append, seconds.
        bytes_without_gain: of a new file that was larger, so that the old one stayed and nothing became sums; None:
            there was none.
    """

    whole_since: float | None
    events: int
    removed: int
    bytes_before: int
    bytes_after: int
    longest_hold: float
    bytes_without_gain: int | None = None


def parse_keep(text: str) -> float:
    """How long events are to be kept whole, seconds; infinity: forever.

    Raises:
        UsageError: it is not a duration, or too short.
    """
    if text == "forever":
        return math.inf
    seconds = option_value("--keep", text, parse_duration, " (or 'forever')")
    if seconds < LEAST_S:
        raise UsageError(f"--keep: '{text}' is less than the {format_duration(LEAST_S)} that decisions look back on")
    return seconds


def compact(
    log: EventLog,
    keep: float = KEEP_S,
    max_size: int | None = None,
    *,
    least_s: float = 0.0,
    now: float | None = None,
    pause: float = 0.0,
    archive: Callable[[], object] = lambda: None,
    at: Checkpoint = lambda _: None,
) -> Compacted:
    """Thin what is older than is to be kept, and write the log again without it.

    Where there is nothing to thin, it is written again as it is if that makes its file much smaller. Where the new
    file would be larger, the old one stays: what is kept of old uses takes space, too, once for each image.

    Args:
        log: the log.
        keep: how long events are kept whole, seconds; infinity: forever, unless `max_size` says otherwise.
        max_size: where the file is larger, bytes, less is kept whole, but never less than `LEAST_S`.
        least_s: do nothing, unless the history would begin to be complete so much later than now, seconds; where the
            file is larger than `max_size`, `OFTEN_OVER_S` at most; nor so soon after that won nothing.
        now: what time it is, UTC seconds.
        pause: see `rewrite`.
        archive: called before anything is thinned; what it raises leaves the log as it is.
        at: see `rewrite`.

    Raises:
        LogBusyError, LogFullError, LogError: see `rewrite`; the log is as it was.
    """
    now_ns = time.time_ns() if now is None else int(now * 1e9)
    size = log.path.stat().st_size if log.exists() else 0
    cut_ns = _cut(log, keep, max_size, now_ns)
    known_ns = whole_since_ns(log)
    if max_size is not None and size > max_size:
        least_s = min(least_s, OFTEN_OVER_S)
    found, may_win = None, _may_win(log, least_s, now_ns)

    def is_due(cut_ns: int) -> bool:
        return known_ns is None or cut_ns - known_ns > least_s * 1e9

    if cut_ns is not None and is_due(cut_ns) and may_win:
        cut_ns = _folded_until(log, cut_ns, now_ns)
    if cut_ns is not None and is_due(cut_ns) and may_win:
        archive()
        found = rewrite(log, _change(log, cut_ns, now_ns), pause=pause, at=at)
        known_ns = known_ns if found is None or found.is_kept else cut_ns
    elif log.exists():
        tidy(log.path)
    if found is None and may_win and _is_loose(log, *(_WORTH if least_s else _WORTH_AT_ONCE)):
        found = rewrite(log, _as_it_is(now_ns), pause=pause, at=at)
    without_gain = None
    if found is not None and found.is_kept:
        log.note_no_gain(now_ns)
        without_gain, found = found.bytes_after, None
    events = log.query("SELECT count(*) FROM event", as_recorded=True)[0][0]
    found = found or Rewritten(size, size, events, events + 1, 0.0)
    removed = found.events_before + 1 - found.events_after
    since = None if known_ns is None else known_ns / 1e9
    return Compacted(since, events, removed, found.bytes_before, found.bytes_after, found.longest_hold, without_gain)


def _may_win(log: EventLog, least_s: float, now_ns: int) -> bool:
    """Whether it is so long ago that writing a log again won nothing, seconds, that it is worth another attempt."""
    if not log.exists():
        return False
    with log.reading(as_recorded=True, whole_since=ONLY_KEPT) as connection:
        ago_ns = no_gain_since(connection, now_ns)
    return ago_ns is None or ago_ns >= least_s * 1e9


def _is_loose(log: EventLog, least: float, share: float) -> bool:
    """Whether much of a log's file holds nothing, or was written as older versions did, which takes twice the space.

    Args:
        log: the log.
        least: how much, bytes.
        share: how much of the file.
    """
    block, used, free = log.query("SELECT block_size, used_blocks, free_blocks FROM pragma_database_size()")[0]
    to_win = free if block == int(NEW_FILE["default_block_size"]) else free + used // 2
    return bool(to_win * block >= least and to_win >= share * (used + free))


def _as_it_is(now_ns: int) -> Change:
    event = Event(now_ns, Kind.LOG_COMPACTED, attributes={"events_removed": 0}, identity=uuid.uuid4().hex)
    return Change(lambda _: None, "FROM piece", "FROM piece_job", {}, lambda _: event, is_for_space=True)


def whole_since_ns(log: EventLog) -> int | None:
    """From when on a log's history is whole, UTC nanoseconds; None: from its beginning. Raises LogError."""
    found: int | None = log.query(WHOLE_SINCE, [log.host], whole_since=ONLY_KEPT)[0][0]
    return found


WHOLE_SINCE = f"SELECT epoch_ns(max(began)) FROM event WHERE host = ? AND kind = '{Kind.LOG_COMPACTED}'"


def _cut(log: EventLog, keep: float, max_size: int | None, now_ns: int) -> int | None:
    """The midnight from which on all is to be kept, UTC nanoseconds; None: there is nothing to do."""
    if not log.exists():
        return None
    least_ns = now_ns - int(LEAST_S * 1e9)
    cut_ns = 0 if keep * 1e9 >= now_ns else now_ns - int(keep * 1e9)
    size = log.path.stat().st_size
    if max_size is not None and size > max_size:
        cut_ns = max(cut_ns, min(_day_after(log, 1 - _ROOM * max_size / size), least_ns))
    midnight = cut_ns // DAY_NS * DAY_NS
    return midnight or None


def _day_after(log: EventLog, share: float) -> int:
    """The midnight before which so much of all that may be thinned happened, UTC nanoseconds."""
    kept = [kind.value for kind in with_effect(Effect.GOES, Effect.SEEN)]
    newest = log.query("SELECT coalesce(max(seq), 0) FROM event", as_recorded=True)[0][0]
    days: Counter[int] = Counter()
    for first in range(0, newest + 1, _LOOKED_AT):
        days += Counter(dict(log.query(_DAYS, [first, first + _LOOKED_AT - 1, kept, log.host], as_recorded=True)))
    left = share * days.total()
    for day in sorted(days):
        left -= days[day]
        if left <= 0:
            return day * DAY_NS
    return 0


def _folded_until(log: EventLog, cut_ns: int, now_ns: int) -> int | None:
    """The midnight before which all is folded, up to a cut, UTC nanoseconds; None: there is nothing. Folds what is not.

    What counts by the hour is made again from the events as long as some of the hour wait to be folded: so none of
    them may have become sums.
    """
    before = "SELECT 1 FROM event WHERE host = ? AND time < make_timestamp_ns(?) LIMIT 1"
    if not log.query(before, [log.host, cut_ns], as_recorded=True):
        return None
    # What is left would be read at once later, with the log held.
    if log.fold(now_ns) < cut_ns:
        return None
    with log.reading(whole_since=ONLY_KEPT) as connection:
        waiting_ns = hourly.waiting_since(connection, log.host)
    cut_ns = min(cut_ns, (waiting_ns - hourly.HOUR_NS) // DAY_NS * DAY_NS)
    return cut_ns if log.query(before, [log.host, cut_ns], as_recorded=True) else None


def _change(log: EventLog, cut_ns: int, now_ns: int) -> Change:
    host = sql_text(log.host)
    with log.reading(whole_since=ONLY_KEPT) as connection:
        folded = compaction.reached(connection) or 0
        doubted = experience.doubted(connection, log.host, now_ns)
    values = {
        "host": host,
        # What was thinned once would be thinned ever more.
        "known": str(whole_since_ns(log) or 0),
        "cut": str(cut_ns),
        "folded": str(folded),
        "doubted": ", ".join(map(str, doubted)) or "NULL",
    }
    steps = [statement.format(**values) for statement in _STEPS]
    before = {"thinned": 0}

    def prepare(connection: duckdb.DuckDBPyConnection) -> None:
        for statement in _STATE:
            connection.execute(statement)

    def prepare_piece(connection: duckdb.DuckDBPyConnection) -> None:
        for statement in steps:
            connection.execute(statement)
        before["thinned"] += connection.execute("SELECT count(*) FROM dropped").fetchall()[0][0]

    def record(_: duckdb.DuckDBPyConnection) -> Event | None:
        if not before["thinned"]:
            return None
        facts = {"events_removed": before["thinned"]}
        return Event(now_ns, Kind.LOG_COMPACTED, began_ns=cut_ns, attributes=facts, identity=uuid.uuid4().hex)

    tables = {f"base_{table}": f"FROM old.{table}" for table in FOLDED}
    return Change(prepare, "FROM piece ANTI JOIN dropped USING (seq)", _JOBS, tables, record, prepare_piece, True)


_CONTAINERS = sql_list(CONTAINERS)
_ARRIVES = sql_list(with_effect(Effect.COMES, Effect.SEEN))
_GOES = sql_list(with_effect(Effect.GOES))
_DETAILS = ("pipeline_id", "ref", "sha", "url", "runner", "system_id", "name")
# Of a job whose events have all become sums, those of this piece and of earlier ones, only the project is needed.
_JOBS = f"""
    SELECT * EXCLUDE (whole) REPLACE ({", ".join(f"CASE WHEN whole THEN {name} END AS {name}" for name in _DETAILS)})
    FROM (SELECT *, job IN (SELECT job FROM piece ANTI JOIN dropped USING (seq) WHERE job IS NOT NULL)
            OR job IN (SELECT job FROM event SEMI JOIN piece_job USING (job)) AS whole
        FROM piece_job)"""
# What is folded of all events.
_STATE = (
    "CREATE OR REPLACE TEMP TABLE chosen_event AS SELECT seq FROM old.compacted",
    """CREATE OR REPLACE TEMP TABLE set_back AS
    SELECT host, seq, time FROM old.compacted WHERE kind = 'clock_set_back'""",
    """CREATE OR REPLACE TEMP TABLE pulling_host AS
    SELECT DISTINCT host FROM old.kind_count WHERE kind = 'image_pulled'""",
)
_STEPS = (
    # What may become sums: old, folded, at a time that nobody doubts, and not chosen for decisions.
    """
    CREATE OR REPLACE TEMP TABLE past AS
    SELECT p.* EXCLUDE (attributes, key, recorded, role), time::DATE AS day,
        coalesce(attributes ->> '$.pulled' = 'true', false) AS pulled,
        CASE WHEN kind = 'disk_sampled' THEN concat_ws(' ', attributes ->> '$.main', attributes ->> '$.file_system')
            END AS disk,
        seq IN (FROM chosen_event) AS chosen
    FROM piece AS p WHERE host = {host} AND seq <= {folded}
        AND time >= make_timestamp_ns({known}) AND time < make_timestamp_ns({cut})
        AND coalesce(image NOT IN ({doubted}), true) AND NOT EXISTS (
            FROM set_back AS b WHERE b.host = p.host AND b.seq > p.seq AND b.time <= p.time)
    """,
    # Containers of which all is here.
    f"""
    CREATE OR REPLACE TEMP TABLE stay AS
    SELECT max(image) AS image, container, least(min(began), min(time)) AS began,
        max(time) FILTER (kind = 'container_destroyed') AS ended, max(job) AS job, min(seq) AS seq,
        bool_or(chosen) AS chosen
    FROM past WHERE kind IN ({_CONTAINERS}) AND container IS NOT NULL AND container NOT IN (
        SELECT container FROM piece ANTI JOIN past USING (seq) WHERE container IS NOT NULL)
    GROUP BY container HAVING bool_or(kind = 'container_created')
        AND bool_or(kind = 'container_destroyed' AND began IS NOT NULL)
        AND count(image) = count(*) AND min(image) = max(image) AND min(began) >= min(time)
    """,
    # Pulls of an image that was there. What came first after a removal is kept, and so is the first of each piece.
    f"""
    CREATE OR REPLACE TEMP TABLE checked AS
    SELECT seq, image, time AS began, time AS ended FROM (
        SELECT seq, image, time, kind, lag(kind) OVER (PARTITION BY image ORDER BY time, seq) AS before
        FROM piece WHERE host = {{host}} AND image IS NOT NULL AND kind IN ({_ARRIVES}, {_GOES})
    ) SEMI JOIN (FROM past WHERE NOT chosen) USING (seq)
    WHERE kind = 'image_pulled' AND before IN ({_ARRIVES})
    """,
    """
    CREATE OR REPLACE TEMP TABLE used AS
    WITH every AS (
        SELECT image, began, ended, job, seq, container, chosen FROM stay
        UNION ALL
        SELECT image, time, time, job, seq, NULL, chosen OR (pulled AND NOT EXISTS (
            FROM pulling_host WHERE host = {host}))
        FROM past WHERE kind = 'job_image_used' AND image IS NOT NULL
    ), pull AS (
        SELECT image, time AS began, seq FROM piece ANTI JOIN checked USING (seq)
        WHERE host = {host} AND kind = 'image_pulled' AND image IS NOT NULL
    ), paid AS (
        -- Whose job a pull was for shows its first container afterwards.
        SELECT seq FROM (
            SELECT seq, is_pull, lag(is_pull) OVER (PARTITION BY image ORDER BY began, is_pull DESC, seq) AS after_pull
            FROM (SELECT image, began, seq, false AS is_pull FROM stay WHERE job IS NOT NULL
                UNION ALL SELECT image, began, seq, true FROM pull)
        ) WHERE NOT is_pull AND after_pull
    ), idle AS (
        SELECT *, began::DATE AS day, epoch_ns(began) - epoch_ns(max(ended) OVER before) AS idle,
            arg_max(seq, ended) OVER before AS previous
        FROM every
        WINDOW before AS (
            PARTITION BY image, began::DATE ORDER BY began, seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ), kept AS (
        SELECT unnest([arg_min(seq, (began, seq)), arg_max(seq, (began, seq)), arg_max(seq, ended),
            arg_max(seq, idle), arg_max(previous, idle), min(seq) FILTER (job IS NOT NULL AND container IS NOT NULL)])
        FROM idle GROUP BY image, day
        UNION ALL FROM paid
        UNION ALL SELECT seq FROM every WHERE chosen
    )
    SELECT *, seq IN (SELECT seq FROM kept AS k(seq) WHERE seq IS NOT NULL) AS kept,
        seq IN (SELECT arg_max(seq, idle) FROM idle GROUP BY image, day HAVING max(idle) IS NOT NULL) AS idled
    FROM every
    """,
    f"""
    INSERT INTO thinned_use
    WITH going AS (
        SELECT image, began, ended, job, seq, true AS is_use, false AS bounds FROM used WHERE NOT kept
        UNION ALL
        SELECT image, began, ended, NULL, seq, false, false FROM checked
    ), every AS (
        FROM going UNION ALL
        -- No use that is left says that an image was used in its longest idle time.
        SELECT image, began, began, NULL, seq, false, true FROM used WHERE idled UNION ALL
        SELECT image, time, time, NULL, seq, false, true FROM piece ANTI JOIN checked USING (seq)
        WHERE host = {{host}} AND image IS NOT NULL AND kind NOT IN ({_CONTAINERS}, 'job_image_used')
    ), stretched AS (
        SELECT *, count(*) FILTER (bounds) OVER (
            PARTITION BY image ORDER BY began, seq ROWS UNBOUNDED PRECEDING) AS stretch
        FROM every
    )
    SELECT {{host}}, image, arg_min(seq, (began, seq)), min(began), max(ended),
        coalesce(list(job ORDER BY seq) FILTER (is_use), []), count(*) FILTER (NOT is_use)
    FROM stretched WHERE NOT bounds GROUP BY image, stretch, began::DATE
    """,
    """
    CREATE OR REPLACE TEMP TABLE dropped AS
    SELECT seq FROM past
        SEMI JOIN (SELECT container FROM used WHERE NOT kept AND container IS NOT NULL) USING (container)
    UNION
    SELECT seq FROM past SEMI JOIN stay USING (container)
    WHERE kind IN ('container_started', 'container_died') AND NOT past.chosen
    UNION
    SELECT seq FROM used WHERE NOT kept AND container IS NULL
    UNION
    SELECT seq FROM checked
    UNION
    SELECT seq FROM past WHERE NOT chosen
        AND (kind IN ('job_started', 'job_finished') OR (kind = 'job_image_used' AND image IS NULL))
    UNION
    FROM (SELECT seq FROM past WHERE kind = 'disk_sampled' AND NOT chosen) ANTI JOIN (
        SELECT unnest([arg_min(seq, bytes), arg_max(seq, bytes)]) AS seq FROM past WHERE kind = 'disk_sampled'
        GROUP BY day, disk) USING (seq)
    """,
)
