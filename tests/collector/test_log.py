"""The event log on real DuckDB files: appends, locks, versions, faults."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import duckdb
import pytest

from collector.eventlog.forget import forget_image
from collector.eventlog.log import EventLog
from collector.eventlog.migration import migrate
from collector.eventlog.schema import MIGRATIONS, SCHEMA_VERSION, STORED_KEY
from collector.model import advice
from collector.model.advice import how_to_get_log
from collector.model.errors import LogBusyError, LogError
from collector.model.events import Event, Kind
from collector.model.paths import default_log_path
from collector.queries.check import check
from tests.held import held
from tests.needs import first_fast

IMAGE = "sha256:" + "a" * 64


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "state" / "events.duckdb", host="runner-1", wait=0.2)


def test_events_come_back_as_they_went_in(log: EventLog) -> None:
    event = Event(
        1_795_508_914_052_262_469,
        Kind.CONTAINER_DESTROYED,
        image=IMAGE,
        reference="debian:12",
        container="c" * 64,
        bytes=7,
        began_ns=1_795_508_900_000_000_001,
        attributes={"exit_code": 0, "labels": {"ä": "\"'\n"}},
    )
    assert log.append([event]) == 1
    rows = log.query(
        "SELECT seq, epoch_ns(time), host, kind, image_id, reference, container, bytes, epoch_ns(began),"
        " attributes ->> '$.labels.ä', epoch_ns(recorded) FROM events"
    )
    assert len(rows) == 1
    assert rows[0][:10] == (
        1,
        event.time_ns,
        "runner-1",
        "container_destroyed",
        IMAGE,
        "debian:12",
        "c" * 64,
        7,
        event.began_ns,
        "\"'\n",
    )
    assert abs(rows[0][10] - time.time_ns()) < 60e9


def test_an_event_is_stored_once(log: EventLog) -> None:
    events = [Event(i, Kind.IMAGE_PULLED, reference=f"a:{i % 3}") for i in range(1, 100)]
    assert log.append(events) == 99
    assert log.append([*events[50:], Event(50, Kind.IMAGE_PULLED, reference="b:1")]) == 1
    assert log.append(events * 2) == 0
    assert [row[0] for row in log.query("SELECT seq FROM events ORDER BY seq")] == list(range(1, 101))


def test_what_is_looked_up_later_does_not_make_an_event_another(log: EventLog) -> None:
    output = Event(5, Kind.IMAGE_PULLED, image=IMAGE, reference="a:1", identity="image pull a:1 a")
    replayed = Event(5, Kind.IMAGE_PULLED, image=None, reference="a:1", identity="image pull a:1 a")
    assert log.append([output]) == 1
    assert log.append([replayed]) == 0


def test_hosts_share_a_log_without_mixing(log: EventLog) -> None:
    other = EventLog(log.path, host="runner-2")
    event = Event(5, Kind.IMAGE_PULLED, image=IMAGE)
    assert (log.append([event]), other.append([event])) == (1, 1)
    assert other.query("SELECT count(*) FROM last_use WHERE host = 'runner-2'") == [(1,)]


def test_file_mode_is_0640(log: EventLog) -> None:
    log.append([Event(1, Kind.GAP)])
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o640


@pytest.mark.slow
def test_a_log_held_by_another_process_is_waited_for_then_said(log: EventLog) -> None:
    log.append([Event(1, Kind.GAP)])
    with held(log.path):
        with pytest.raises(LogBusyError, match=r"held by another process for 0\.2 s"):
            log.append([Event(2, Kind.GAP)])
        with pytest.raises(LogBusyError):
            log.query("SELECT 1")
    assert log.append([Event(2, Kind.GAP)]) == 1


@pytest.mark.parametrize("version", first_fast(*range(1, len(MIGRATIONS))))
def test_an_older_log_is_brought_forward_with_all_it_holds(log: EventLog, version: int) -> None:
    log.path.parent.mkdir()
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (?)", [version])
        for statements in MIGRATIONS[:version]:
            connection.execute(statements)
        connection.execute("INSERT INTO image VALUES (0, ?)", [IMAGE])
        connection.execute(
            "INSERT INTO event (seq, time, key, recorded, host, kind, image)"
            " VALUES (1, make_timestamp_ns(5), 9, make_timestamp_ns(6), 'runner-1', 'image_pulled', 0)"
        )
    assert log.has_current_views()
    assert log.query("SELECT count(*) FROM events") == [(1,)]
    assert log.has_current_views()
    assert log.schema_version() == SCHEMA_VERSION
    assert log.append([Event(7, Kind.IMAGE_PULLED, image=IMAGE)]) == 1
    assert log.query("SELECT epoch_ns(last_use) FROM last_use") == [(7,)]


def test_a_new_log_is_compressed_as_well_as_the_oldest_supported_duckdb_can(log: EventLog) -> None:
    labels = {f"com.gitlab.gitlab-runner.{key}": "5" for key in ("job.id", "project.id", "pipeline.id", "type")}
    log.append(
        [
            Event(n, Kind.CONTAINER_CREATED, container=f"{n:064x}", attributes={"labels": labels, "name": f"{n}"})
            for n in range(1, 5_001)
        ]
    )
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (oldest,) = (one.partition(">=")[2] for one in project["dependencies"] if one.startswith("duckdb"))
    asked = (
        "SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal",
        "SELECT block_size FROM pragma_database_size()",
        """SELECT DISTINCT compression FROM pragma_storage_info('event')
        WHERE column_name = 'attributes' AND segment_type <> 'VALIDITY'""",
        f"SELECT count(*) FROM event WHERE key > {STORED_KEY}",
    )
    with duckdb.connect(str(log.path), read_only=True) as connection:
        found = [connection.execute(sql).fetchall() for sql in asked]
    assert found == [[(f"v{oldest}.0+",)], [(65_536,)], [("ZSTD",)], [(0,)]]


def test_a_missing_log_says_how_to_get_one(log: EventLog) -> None:
    with pytest.raises(LogError, match=r"no event log at .*collector run"):
        log.query("SELECT 1")
    for ask in (check, partial(forget_image, image="a")):
        with pytest.raises(LogError, match=r"no event log at .*collector run"):
            ask(log)
    assert not log.path.parent.exists()


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_no_permission_is_said(log: EventLog, closed: str) -> None:
    log.append([Event(1, Kind.GAP)])
    (log.path if closed == "file" else log.path.parent).chmod(0)
    # Root may read everything, so somebody else tries: from a child, which gives up its rights.
    script = (
        "import os,sys,pathlib,duckdb\n"
        "from collector.eventlog.log import EventLog; from collector.model.errors import LogError\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: EventLog(pathlib.Path(sys.argv[1])).query('SELECT 1')\n"
        "except LogError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(log.path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("no permission on")
    assert "run this with sudo" in done.stdout


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, as they may /var/lib; those of pytest only their owner may."""
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_without_a_log_of_their_own_a_user_is_shown_the_way_to_that_of_the_service(open_folder: Path) -> None:
    service = EventLog(open_folder / "service" / "events.duckdb", host="runner")
    service.append([Event(1, Kind.GAP)])
    group = grp.getgrnam("daemon")
    for path, mode in ((service.path.parent, 0o750), (service.path, 0o640)):
        os.chown(path, 0, group.gr_gid)
        path.chmod(mode)
    script = (
        "import os,sys,pathlib,duckdb\n"
        "from collector.eventlog.log import EventLog; from collector.model.errors import LogError\n"
        "from collector import entry; from collector.model import advice, paths\n"
        "advice.SYSTEM_LOG = paths.SYSTEM_LOG = pathlib.Path(sys.argv[1])\n"
        "os.setgroups([int(group) for group in sys.argv[2:]]); os.setgid(65534); os.setuid(65534)\n"
        "os.environ.update(HOME='/nonexistent'); os.environ.pop('XDG_STATE_HOME', None)\n"
        "try: print(EventLog(paths.default_log_path(), host='runner').query('SELECT count(*) FROM event'))\n"
        "except LogError as error: print(error)\n"
    )

    def said(*groups: int) -> str:
        command = [sys.executable, "-c", script, str(service.path), *map(str, groups)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "no event log at /nonexistent/.local/state" in said()
    no_home = "environ.pop('HOME', None); entry.name_home()"
    nobody = script.replace("65534", "54321").replace("environ.update(HOME='/nonexistent')", no_home)
    command = [sys.executable, "-c", nobody, str(service.path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "no event log at /nonexistent/.local/state" in answer
    assert f"this machine's own log is {service.path}: run this with sudo, or join the group daemon" in said()
    assert said(group.gr_gid) == "[(1,)]\n"


@pytest.mark.slow
def test_kill_9_during_appends_loses_nothing_committed(log: EventLog) -> None:
    script = (
        "import sys,pathlib\n"
        "from collector.eventlog.log import EventLog; from collector.model.events import Event,Kind\n"
        "log=EventLog(pathlib.Path(sys.argv[1]),host='runner-1')\n"
        "for i in range(1,10**6):\n log.append([Event(i,Kind.GAP)]); print(i,flush=True)\n"
    )
    confirmed = 0
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", script, log.path], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(10)]
            writer.kill()
            rest = writer.stdout.read().splitlines()
        last = [line for line in [*lines, *rest] if line.strip().isdigit()][-1]
        confirmed = max(confirmed, int(last))
        assert log.query("SELECT count(*) >= ? FROM events", [confirmed]) == [(True,)]
    assert check(log) == []


def test_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_HINDSIGHT_LOG", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_log_path() == Path("/var/lib/docker-hindsight/events.duckdb")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_log_path() == tmp_path / "docker-hindsight" / "events.duckdb"
    monkeypatch.setenv("DOCKER_HINDSIGHT_LOG", "/elsewhere.duckdb")
    assert default_log_path() == Path("/elsewhere.duckdb")


def test_what_to_do_without_a_log_depends_on_who_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = tmp_path / "docker-hindsight" / "events.duckdb"
    service.parent.mkdir()
    monkeypatch.setattr(advice, "SYSTEM_LOG", service)
    monkeypatch.setattr(advice, "_SYSTEMD", tmp_path)
    assert how_to_get_log(service).startswith("`systemctl status collector.service` says")
    assert how_to_get_log(tmp_path / "other.duckdb").startswith("start `collector run`")


def test_migrating_a_current_log_changes_nothing(log: EventLog) -> None:
    log.append([Event(1, Kind.GAP)])
    with duckdb.connect(str(log.path)) as connection:
        migrate(connection, log.path)
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(1,)]


def seen(time_ns: int, image: str, **facts: object) -> Event:
    return Event(time_ns, Kind.IMAGE_OBSERVED, image=image, attributes={"references": ["a:1"], **facts})


def origins(log: EventLog) -> dict[str, str]:
    """The last word of each image's ID to its origin."""
    rows = log.query("SELECT image_id, origin, local FROM images ORDER BY 1")
    assert all(local == (origin != "registry") for _, origin, local in rows)
    return {image.removeprefix("sha256:"): origin for image, origin, _ in rows}


def test_without_the_engines_records_a_registry_has_what_was_pulled_or_pushed(tmp_path: Path) -> None:
    """Where every image has a digest, what came while the collector ran is local; what came before, nobody knows."""

    def came(time_ns: int, image: str, *kinds: Kind) -> list[Event]:
        happened = [Event(time_ns + n, kind, image=image) for n, kind in enumerate(kinds)]
        return [*happened, seen(time_ns + 5, image, origin="unknown")]

    log = EventLog(tmp_path / "events.duckdb", host="h")
    log.append(
        [
            *came(10, "sha256:before"),
            Event(20, Kind.COLLECTOR_STARTED, attributes={"store": "containerd"}),
            Event(21, Kind.DISK_SAMPLED, bytes=1),
            *came(30, "sha256:built", Kind.IMAGE_TAGGED),
            *came(40, "sha256:pulled", Kind.IMAGE_PULLED),
            *came(50, "sha256:pushed", Kind.IMAGE_BUILT, Kind.IMAGE_PUSHED),
            *came(60, "sha256:loaded", Kind.IMAGE_LOADED),
            *came(70, "sha256:loaded-and-pulled", Kind.IMAGE_LOADED, Kind.IMAGE_PULLED),
            Event(90, Kind.GAP, began_ns=80),
            *came(91, "sha256:in-a-gap"),
        ]
    )
    assert origins(log) == {
        "before": "unknown",
        "built": "local",
        "pulled": "registry",
        "pushed": "registry",
        "loaded": "local",
        "loaded-and-pulled": "registry",
        "in-a-gap": "unknown",
    }


def test_the_engines_records_outweigh_what_a_name_meant_when_it_was_pulled(tmp_path: Path) -> None:
    """A pull is reported with a name, which another image may bear by then; the records are looked at afterwards."""
    log = EventLog(tmp_path / "events.duckdb", host="h")
    log.append(
        [
            Event(1, Kind.COLLECTOR_STARTED, attributes={"store": "containerd"}),
            seen(10, "sha256:pulled", origin="registry"),
            seen(11, "sha256:pulled", origin="unknown"),
            seen(20, "sha256:same-name", origin="local"),
            Event(21, Kind.IMAGE_PULLED, image="sha256:same-name"),
            seen(22, "sha256:same-name", origin="local"),
            seen(30, "sha256:pushed-later", origin="local"),
            Event(31, Kind.IMAGE_PUSHED, image="sha256:pushed-later"),
        ]
    )
    assert origins(log) == {"pulled": "registry", "same-name": "local", "pushed-later": "registry"}


def test_podmans_pulls_and_pushes_prove_nothing(tmp_path: Path) -> None:
    """Those that fail cause the same events."""
    log = EventLog(tmp_path / "events.duckdb", host="h")
    log.append(
        [
            Event(1, Kind.COLLECTOR_STARTED, attributes={"store": "podman"}),
            Event(2, Kind.DISK_SAMPLED, bytes=1),
            *(Event(10, kind, image="sha256:reported") for kind in (Kind.IMAGE_PULLED, Kind.IMAGE_PUSHED)),
            seen(11, "sha256:reported", origin="unknown"),
            Event(20, Kind.IMAGE_BUILT, image="sha256:built"),
            seen(21, "sha256:built", origin="unknown"),
            seen(30, "sha256:packed", origin="registry"),
        ]
    )
    assert origins(log) == {"reported": "unknown", "built": "local", "packed": "registry"}


def test_what_older_versions_recorded_is_judged_by_digests_where_they_say(tmp_path: Path) -> None:
    for store, judged in (
        ("overlay2", "registry"),
        (None, "registry"),
        ("containerd", "unknown"),
        ("podman", "unknown"),
    ):
        log = EventLog(tmp_path / f"{store}.duckdb", host="h")
        log.append(
            [
                seen(1, "sha256:with-digest", local=False),
                seen(1, "sha256:without", local=True),
                seen(1, "sha256:once-with", local=False),
                seen(2, "sha256:once-with", local=True),
                Event(3, Kind.COLLECTOR_STARTED, attributes={"store": store}),
            ]
        )
        assert origins(log) == {"with-digest": judged, "without": "local", "once-with": judged}


_NESTED: list[object] = []
for _ in range(3000):
    _NESTED = [_NESTED]


@pytest.mark.parametrize(
    "event",
    first_fast(
        Event(2**70, Kind.IMAGE_PULLED),
        Event(-(2**70), Kind.IMAGE_PULLED),
        Event(2**63 - 1, Kind.GAP, began_ns=2**63 - 1),
        Event(5, Kind.DISK_SAMPLED, bytes=2**70),
        Event(5, Kind.DISK_SAMPLED, bytes=2**63 - 1),
        Event(5, Kind.IMAGE_PULLED, image="\ud800", reference="a\0b\udfff"),
        Event(5, Kind.IMAGE_PULLED, attributes={"a": "\ud800", "b": "\\ud800", "c": ["\udfff"]}),
        Event(5, Kind.IMAGE_PULLED, attributes={"a": float("nan")}),
        Event(5, Kind.IMAGE_PULLED, attributes={"a": {1}}),
        Event(5, Kind.IMAGE_PULLED, attributes={"a": _NESTED}),
        Event(5, Kind.CONTAINER_CREATED, attributes={"job": {"job_id": "1"}}),
        Event(5, Kind.CONTAINER_CREATED, attributes={"labels": {"com.gitlab.gitlab-runner.job.id": 5}}),
        Event(5, Kind.CONTAINER_CREATED, attributes={"labels": {"com.buildkite.job_id": ["x"]}}),
        Event(5, Kind.IMAGE_PULLED, image=5, reference=["a"], container={}),  # type: ignore[arg-type]
    ),
)
def test_an_impossible_event_stops_no_other(log: EventLog, event: Event) -> None:
    assert log.append([Event(1, Kind.GAP), event, Event(9, Kind.GAP)]) == 3
    assert log.query("SELECT count(*) FROM events") == [(3,)]
    log.query("FROM events")
    log.query("FROM last_use")
    log.query("FROM jobs")
