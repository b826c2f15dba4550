"""The log's tables, as migrations from one schema version to the next.

A new log is one that has gone through all of them, so the path is used every time. Its views, which use the newest
tables, are those of `collector.eventlog.view_definitions`.
"""

from __future__ import annotations

import re

MIGRATIONS: tuple[str, ...] = (
    # 1: events, image IDs interned as small integers. Labels of containers are much alike: a log of another compression
    # gets this one when it is written again.
    """
    CREATE TABLE image (image INTEGER PRIMARY KEY, image_id VARCHAR NOT NULL UNIQUE);
    CREATE SEQUENCE event_seq;
    CREATE TABLE event (
        seq BIGINT NOT NULL,
        time TIMESTAMP_NS NOT NULL,
        key BIGINT NOT NULL,
        recorded TIMESTAMP_NS NOT NULL,
        host VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        image INTEGER,
        reference VARCHAR,
        container VARCHAR,
        bytes BIGINT,
        attributes JSON USING COMPRESSION ZSTD
    );
    """,
    # 2: an interval's beginning stands beside its end, so that uses need no join.
    """
    ALTER TABLE event ADD COLUMN began TIMESTAMP_NS;
    """,
    # 3: jobs, typed, and which of them an event speaks of (see `collector.model.jobs`).
    """
    CREATE TABLE job (
        job INTEGER NOT NULL,
        host VARCHAR NOT NULL,
        ci VARCHAR NOT NULL,
        job_id VARCHAR,
        project_id VARCHAR,
        project VARCHAR,
        pipeline_id VARCHAR,
        ref VARCHAR,
        sha VARCHAR,
        url VARCHAR,
        runner VARCHAR,
        system_id VARCHAR,
        name VARCHAR
    );
    ALTER TABLE event ADD COLUMN job INTEGER;
    ALTER TABLE event ADD COLUMN role VARCHAR;
    """,
    # 4: how far each job source has been read.
    """
    CREATE TABLE position (host VARCHAR NOT NULL, source VARCHAR NOT NULL, position VARCHAR NOT NULL);
    """,
    # 5: views only: what is local on the containerd store.
    "",
    # 6: views only: where each image can be pulled again, on every store.
    "DROP VIEW IF EXISTS unpulled_images;",
    # 7: what each host is recognised by; `name` is a label, `host` is the key of its events and never changes.
    """
    CREATE TABLE host (
        host VARCHAR NOT NULL,
        id VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        machine VARCHAR,
        hardware VARCHAR,
        engine VARCHAR,
        data_root VARCHAR
    );
    INSERT INTO host (host, id, name) SELECT host, replace(uuid()::VARCHAR, '-', ''), host
        FROM (SELECT DISTINCT host FROM event ORDER BY host);
    """,
    # 8: which views the file holds: its own are renewed where the program's have changed (see `FINGERPRINT`).
    "ALTER TABLE schema_version ADD COLUMN views VARCHAR;",
    # 9: what is folded of the events up to a number: see `collector.eventlog.compaction`.
    """
    CREATE TABLE compacted (
        seq BIGINT NOT NULL,
        time TIMESTAMP_NS NOT NULL,
        key BIGINT NOT NULL,
        recorded TIMESTAMP_NS NOT NULL,
        host VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,
        image INTEGER,
        reference VARCHAR,
        container VARCHAR,
        bytes BIGINT,
        attributes JSON USING COMPRESSION ZSTD,
        began TIMESTAMP_NS,
        job INTEGER,
        role VARCHAR,
        part VARCHAR
    );
    CREATE TABLE image_count (host VARCHAR NOT NULL, image INTEGER NOT NULL, uses BIGINT NOT NULL);
    CREATE TABLE kind_count (host VARCHAR NOT NULL, kind VARCHAR NOT NULL, events BIGINT NOT NULL);
    CREATE TABLE projection (version VARCHAR NOT NULL, seq BIGINT NOT NULL);
    """,
    # 10: how each image has been used up to a midnight: see `collector.eventlog.experience`.
    """
    CREATE TABLE experience (
        host VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        until BIGINT NOT NULL,
        seq BIGINT NOT NULL,
        origin BIGINT
    );
    CREATE TABLE habit (
        host VARCHAR NOT NULL,
        image INTEGER NOT NULL,
        began BIGINT NOT NULL,
        ended BIGINT NOT NULL,
        uses BIGINT NOT NULL,
        returns BIGINT NOT NULL,
        gaps DOUBLE[] NOT NULL,
        first BIGINT,
        demanded BIGINT,
        used_first BIGINT,
        found BIGINT,
        since BIGINT
    );
    CREATE TABLE open_use (host VARCHAR NOT NULL, image INTEGER NOT NULL, container VARCHAR NOT NULL);
    CREATE TABLE situation (
        host VARCHAR NOT NULL,
        image INTEGER NOT NULL,
        cell INTEGER NOT NULL,
        returns BIGINT NOT NULL,
        exposure BIGINT NOT NULL
    );
    """,
    # 11: settings of the log that all who write to it must keep: see `collector.eventlog.settings`.
    "CREATE TABLE setting (name VARCHAR NOT NULL, value VARCHAR NOT NULL);",
    # 12: what is left of old uses, and what was folded of them when they went: see `collector.eventlog.retention`.
    """
    CREATE TABLE thinned_use (
        host VARCHAR NOT NULL,
        image INTEGER NOT NULL,
        seq BIGINT NOT NULL,
        began TIMESTAMP_NS NOT NULL,
        ended TIMESTAMP_NS NOT NULL,
        jobs INTEGER[] NOT NULL,
        checks BIGINT NOT NULL
    );
    CREATE TABLE base_experience AS FROM experience LIMIT 0;
    CREATE TABLE base_habit AS FROM habit LIMIT 0;
    CREATE TABLE base_open_use AS FROM open_use LIMIT 0;
    CREATE TABLE base_situation AS FROM situation LIMIT 0;
    """,
    # 13: what counts by its hour: see `collector.eventlog.hourly`.
    """
    CREATE TABLE hourly (host VARCHAR NOT NULL, version VARCHAR NOT NULL, seq BIGINT NOT NULL);
    CREATE TABLE pull_wait (
        host VARCHAR NOT NULL,
        hour BIGINT NOT NULL,
        seconds BIGINT NOT NULL,
        pulls BIGINT NOT NULL
    );
    CREATE TABLE free_space_fall (
        host VARCHAR NOT NULL,
        disk VARCHAR NOT NULL,
        slot BIGINT NOT NULL,
        in_minute BIGINT NOT NULL,
        in_slot BIGINT NOT NULL,
        free BIGINT NOT NULL
    );
    """,
    # 14: how often each image was used lately: see `collector.eventlog.recent_uses`.
    """
    CREATE TABLE recent_use (
        host VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        until BIGINT NOT NULL,
        image INTEGER NOT NULL,
        day BIGINT NOT NULL,
        uses BIGINT NOT NULL
    );
    """,
    # 15: no table changes, but an older program would not find what an event repeats of its job, nor know it again.
    "",
)
# So much of an event's key is stored: it distinguishes events of one nanosecond, and hashes do not compress.
# Logs and shipped parts of older versions hold all 63 bits.
STORED_KEY = 2**36 - 1
# The version that brought typed jobs: events of older logs are attributed when they reach it.
JOBS_VERSION = 3
# The version that brought what each host is recognised by.
IDENTITY_VERSION = 7

SCHEMA_VERSION = len(MIGRATIONS)
# The version since which events and jobs are stored as they are now.
TABLES_VERSION = max(
    version for version, text in enumerate(MIGRATIONS, 1) if re.search(r"(TABLE|INTO|UPDATE|FROM) (event|job)\b", text)
)


def _columns() -> frozenset[tuple[str, str, str, bool]]:
    """Table, name, type, and whether it may be NULL, of each column that the migrations make."""
    tables = {"schema_version": [("version", "INTEGER", False)]}
    statements = r"CREATE TABLE (\w+) \((.*?)\);|ALTER TABLE (\w+) ADD COLUMN (.*?);|CREATE TABLE (\w+) AS FROM (\w+)"
    for made, columns, altered, added, copied, model in re.findall(statements, "".join(MIGRATIONS), re.DOTALL):
        if model:
            tables[copied] = [(name, kind, True) for name, kind, _ in tables[model]]
            continue
        found = re.findall(r"(\w+) ([A-Z_]+(?:\[\])?)((?: [A-Z]+)*)", columns or added)
        rows = [(name, kind, not re.search("NOT NULL|PRIMARY", more)) for name, kind, more in found]
        tables.setdefault(made or altered, []).extend(rows)
    return frozenset((table, *row) for table, rows in tables.items() for row in rows)


COLUMNS = _columns()
TABLES = frozenset(table for table, *_ in COLUMNS) - {"schema_version"}
# What is folded of the events, and can be folded again.
# What a compaction keeps of the events that it takes: their sums, and the projections that it folded them into.
FOLDED = ("experience", "habit", "open_use", "situation")
BASE = ("thinned_use", *(f"base_{table}" for table in FOLDED))
# Rows by time, of which those before a compaction can't be made again.
HOURLY = ("pull_wait", "free_space_fall")
PROJECTIONS = frozenset(
    ("compacted", "image_count", "kind_count", "projection", "recent_use", "hourly", *FOLDED, *HOURLY)
)
