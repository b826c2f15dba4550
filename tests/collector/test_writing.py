"""What is written is written whole, through no link that somebody has laid, and keeps its mode."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collector.cli import app
from collector.daemon.loop import Collector
from collector.eventlog.log import EventLog
from collector.eventlog.spool import Spool
from collector.eventlog.writer import LogWriter
from collector.machine.lock import InUseError, exclusive
from collector.machine.reserve import Reserve
from collector.machine.wake import leave_levels
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from collector.model.paths import replace_file, write_whole
from collector.monitoring import server
from collector.monitoring.metrics import Live, Metrics
from collector.shipping.store import Folder, StoreError
from tests.waiting import wait_for


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that nobody but its owner may read, and that is not to be written to."""
    made = tmp_path / "secret"
    made.write_text("secret")
    made.chmod(0o600)
    return made


def lay_links(target: Path, *names: str) -> None:
    """Links under every name that a writer may be expected to write first."""
    for name in (*names, f".{names[0]}.{os.getpid()}"):
        (target.parent / name).symlink_to(target)


def test_a_link_under_the_name_that_is_written_first_leads_nowhere(secret: Path) -> None:
    folder = secret.parent
    log = EventLog(folder / "l.duckdb")
    lay_links(secret, ".m.prom.new", "m.prom.new", "l.duckdb.levels.new")
    Metrics(log, folder / "m.prom").publish(Live())
    lay_links(secret, ".p.toml.new")
    write_whole(folder / "p.toml", "text")
    leave_levels(log.path, "/", 5, 5)
    assert (secret.read_text(), mode(secret)) == ("secret", 0o600)
    assert (folder / "p.toml").read_text() == "text"
    assert "docker_hindsight_containers" in (folder / "m.prom").read_text()
    assert not [path for path in folder.iterdir() if path.name.startswith(".") and not path.is_symlink()]


def test_a_metrics_file_that_is_a_link_is_replaced_and_not_followed(secret: Path) -> None:
    path = secret.parent / "m.prom"
    path.symlink_to(secret)
    Metrics(EventLog(secret.parent / "l.duckdb"), path).publish(Live())
    assert secret.read_text() == "secret"
    assert not path.is_symlink()
    assert mode(path) == 0o644


@pytest.mark.parametrize(
    ("lay", "fault"), [(Path.symlink_to, "it is a link"), (Path.hardlink_to, "it has another name")]
)
def test_files_beside_the_log_are_no_links_and_no_pipes(
    secret: Path, lay: Callable[[Path, Path], None], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    log_path = secret.parent / "l.duckdb"
    event = Event(1, Kind.COLLECTOR_STARTED)
    spool, reserve = Spool(log_path.with_name("l.duckdb.spool"), 4096), Reserve(secret.parent / "l.reserve", 4096)
    # Something that a line of a spool may begin with, and no more.
    secret.write_text("{")
    for place in (spool.path, reserve.path, log_path.with_name("l.duckdb.pruner-lock")):
        lay(place, secret)
    with pytest.raises(LogError, match=f"spool .* {fault}"):
        spool.write([event])
    with pytest.raises(LogError, match=f"lock .* {fault}"), exclusive(log_path, "pruner"):
        pass
    with exclusive(log_path, "pruner", required=False):
        pass
    assert not reserve.keep()
    # The log takes what it can all the same, and that is said once.
    writer = LogWriter(EventLog(log_path), spool_size=4096)
    for moment in (1, 2):
        writer.add([Event(moment, Kind.COLLECTOR_STARTED)])
        assert writer.keep()
    assert writer.log.query("SELECT count(*) FROM event") == [(2,)]
    assert caplog.text.count(fault) == 2, caplog.text
    assert (secret.read_text(), mode(secret)) == ("{", 0o600)
    # Nobody writes to the pipe, and nobody waits for that.
    spool.path.unlink()
    os.mkfifo(spool.path)
    with pytest.raises(LogError, match="not a regular file"):
        spool.waiting()
    writer.add([Event(3, Kind.COLLECTOR_STARTED)])
    assert writer.keep()
    with pytest.raises(LogError, match="is a pipe, device"):
        EventLog(spool.path).query("FROM events")
    spool.path.unlink()
    assert writer.keep()


def test_a_folder_that_hosts_share_leads_nowhere_else(secret: Path) -> None:
    store = Folder(secret.parent / "fleet")
    for lay in (Path.symlink_to, Path.hardlink_to):
        (store.path / ".incoming").mkdir(parents=True, exist_ok=True)
        lay(store.path / ".incoming" / "event+a", secret)
        store.write("event/a", b"new")
        (store.path / "event" / "a").unlink()
        lay(store.path / "event" / "a", secret)
        store.write("event/a", b"newer")
        assert store.read("event/a") == b"newer"
    assert (secret.read_text(), mode(secret)) == ("secret", 0o600)
    (store.path / "event" / "b").symlink_to(secret)
    os.mkfifo(store.path / "event" / "c")
    for name in ("event/b", "event/c"):
        with pytest.raises(StoreError):
            store.read(name)


@pytest.mark.parametrize("had", [0o600, 0o640, 0o644])
def test_a_file_keeps_the_mode_that_it_has(tmp_path: Path, had: int) -> None:
    path = tmp_path / "report.html"
    path.touch()
    path.chmod(had)
    write_whole(path, "new")
    replace_file(path, b"newer", 0o666)
    assert (path.read_bytes(), mode(path)) == (b"newer", had)


def test_space_that_cannot_be_held_whole_is_not_held_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last blocks of a full disk are for the engine, which writes before it removes."""

    def take_what_is_left(descriptor: int, offset: int, size: int) -> None:
        os.ftruncate(descriptor, offset + size // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", take_what_is_left)
    path = tmp_path / "events.duckdb.spool"
    path.write_bytes(b"{}\n")
    with pytest.raises(LogError, match="No space left"):
        Spool(path).reserve()
    assert path.read_bytes() == b"{}\n"


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        replace_file(tmp_path / "folder", b"x", 0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.slow
def test_slow_clients_hold_neither_the_collector_nor_other_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_CONNECTION_S", 3.0)
    metrics = Metrics(EventLog(tmp_path / "l.duckdb"))
    port = metrics.serve("127.0.0.1:0")
    done = threading.Event()
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]

    def drip() -> None:
        for byte in b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 10**6:
            for one in slow:
                with contextlib.suppress(OSError):
                    one.send(bytes([byte]))
            if done.wait(1.0):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        for _ in range(3):
            began = time.monotonic()
            metrics.publish(Live())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                assert b"docker_hindsight_containers" in answer.read()
            assert time.monotonic() - began < 60
        # None of them is kept for longer than a scrape may take.
        wait_for(
            lambda: not any("process_request_thread" in one.name for one in threading.enumerate()), "the last scrape"
        )
    finally:
        done.set()
        thread.join()
        for one in slow:
            one.close()


@pytest.mark.slow
def test_more_connections_than_there_are_places_for_are_closed_at_once(tmp_path: Path) -> None:
    port = Metrics(EventLog(tmp_path / "l.duckdb")).serve("127.0.0.1:0")
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(server._MOST_CONNECTIONS + 20)]
    held[-1].settimeout(60)
    assert held[-1].recv(1) == b""
    for one in held:
        one.close()


def test_one_collector_and_one_pruner_at_a_time_work_on_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.duckdb"
    monkeypatch.setattr(Collector, "run", lambda _: pytest.fail("it ran beside another"))
    with exclusive(path, "collector"), exclusive(path, "pruner"), exclusive(tmp_path / "other.duckdb", "collector"):
        refused = CliRunner().invoke(app, ["run", "--log", str(path)]).exception
    assert isinstance(refused, InUseError)
    assert f"another collector (process {os.getpid()}) is running on {path}" in str(refused)
    ran = list[Path]()
    monkeypatch.setattr(Collector, "run", lambda _: ran.append(path))
    assert CliRunner().invoke(app, ["run", "--log", str(path)]).exit_code == 0
    assert ran == [path]


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        ("", "--archive: it is empty: name a folder"),
        ("s3://", "--archive: 's3://' is not"),
        ("{log}", "--archive: {log}"),
    ],
)
def test_what_is_wrong_with_an_archive_names_the_option(tmp_path: Path, archive: str, words: str) -> None:
    log = tmp_path / "l.duckdb"
    EventLog(log, host="h").append([Event(1, Kind.COLLECTOR_STARTED)])
    place, project = archive.format(log=log), ["--project", "1"]
    refused = CliRunner().invoke(app, ["forget", *project, "--log", str(log), "--archive", place]).exception
    assert str(refused).startswith(words.format(log=log))
    assert "name a folder" in str(refused) or "BUCKET" in str(refused)
