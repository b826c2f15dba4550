"""How the three commands end where something is wrong: one line, a status, no traceback."""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from collector.engine.connection import connect
from collector.engine.surroundings import Address, find_engine
from collector.eventlog.database import refuse_special, wal_path
from collector.eventlog.log import EventLog
from collector.model.errors import EngineError, LogError, UsageError
from collector.model.events import Event, Kind
from collector.model.paths import read_bounded, read_bytes, write_whole
from collector.terminal import faults
from collector.terminal.faults import run
from tests import commands
from tests.needs import first_fast

BIN = Path(sys.executable).parent
WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def said(*command: str | bytes | Path, status: int) -> str:
    """The one line on stderr of a command that ends with this status."""
    program, *arguments = map(os.fsdecode, command)
    done = commands.run(program, *arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["collector", "status", "--bogus"], "collector status: no such option: --bogus"),
        (["pruner", "nope"], "pruner: no such command 'nope': see `pruner --help`"),
        (["pruner", "plan", "--threshold"], "pruner: option '--threshold' requires an argument: see `pruner --help`"),
        (
            ["collector", "images", "--format", "xml"],
            (
                "collector images: invalid value for '--format': 'xml' is not one of 'table', 'json': "
                "see `collector images --help`"
            ),
        ),
        (
            ["analyzer", "simulate", "--log", "a.duckdb", "b.duckdb"],
            (
                "analyzer simulate: got unexpected extra argument(s) (b.duckdb) "
                "(quote a glob, so that the shell leaves it whole): see `analyzer simulate --help`"
            ),
        ),
    ],
)
def test_a_wrong_command_line_is_reported_in_one_line(command: list[str], line: str) -> None:
    assert said(*command, status=2).startswith(line)


def test_a_question_that_nobody_answers_is_not_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pruner"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    app = typer.Typer()
    app.command()(lambda: typer.confirm("Sure?"))
    with pytest.raises(SystemExit) as ended:
        run(app, "pruner")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "pruner: not answered: nothing was done\n"


def test_without_a_command_the_help_is_shown() -> None:
    done = subprocess.run([BIN / "collector"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: collector [OPTIONS] COMMAND")


@pytest.mark.slow
def test_a_full_device_for_the_output_is_reported() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [BIN / "analyzer", "baselines"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "analyzer: the output cannot be used: No space left on device\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_output_that_cannot_be_written_is_one_line_or_no_hindrance(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*file: str) -> None:
        raise OSError(number, os.strerror(number), *file)

    monkeypatch.setattr(faults, "_drop_output", lambda: None)
    with pytest.raises(SystemExit) as ended, faults.faults_in_one_line("pruner"):
        write()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"pruner: the output cannot be used: {os.strerror(number)}\n"
    with faults.output_may_fail():
        write()
    with pytest.raises(OSError, match="a file"), faults.output_may_fail():
        write("a file")


@pytest.mark.parametrize("arguments", first_fast(["sweep", "--help"], ["baselines", "--format", "json"], ["baselines"]))
def test_a_reader_that_has_had_enough_is_not_a_fault(arguments: list[str]) -> None:
    into, out = os.pipe()
    os.close(into)
    done = subprocess.run([BIN / "analyzer", *arguments], stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    os.close(out)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_command_ends_with_itself_stays() -> None:
    code = (
        "import typer; from collector.terminal import faults; app = typer.Typer()\n"
        "@app.command()\ndef end() -> None: raise SystemExit(5)\nfaults.run(app, 'end')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 5


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"", b"x" * 20_000])
def test_a_log_whose_name_is_not_utf8_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.duckdb"
    if content is not None:
        Path(os.fsdecode(path)).write_bytes(content)
    assert "a name that is not UTF-8: rename it" in said("collector", "status", "--log", path, status=1)
    assert "a name that is not UTF-8: rename it" in said("analyzer", "simulate", "--log", path, status=1)


def test_a_folder_in_place_of_a_log_is_reported(tmp_path: Path) -> None:
    assert said("collector", "status", "--log", tmp_path, status=1).endswith(
        "is a folder and no event log: name the log itself with --log"
    )


def test_a_folder_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    done = subprocess.run(
        [*WITHOUT_OVERRIDE, BIN / "analyzer", "simulate", "--log", closed / "events.duckdb"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"analyzer: {closed / 'events.duckdb'} cannot be used: Permission denied\n"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write_whole(path, "old")
    path.chmod(0o640)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_a_file_is_written_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    write_whole(link, "gone")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize("lay", [_pipe, _endless, _huge, Path.mkdir])
def test_whatever_takes_a_file_s_place_is_neither_waited_for_nor_read_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lay: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".docker").mkdir()
    for name in (".docker/config.json", "ca.pem", "cert.pem", "key.pem", "log"):
        lay(tmp_path / name)
    with pytest.raises(OSError, match=r"regular file|too large|directory"):
        read_bytes(tmp_path / "ca.pem")
    assert find_engine().how.startswith("the ")
    with pytest.raises(EngineError, match="no engine socket"):
        connect(Address(f"unix://{tmp_path}/none.sock", "a test"), 1)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no ca\.pem"):
        find_engine("tcp://127.0.0.1")


@pytest.mark.parametrize("lay", [_pipe, _endless])
def test_nor_is_what_takes_the_place_of_a_log(tmp_path: Path, lay: Callable[[Path], None]) -> None:
    log = EventLog(tmp_path / "log")
    log.append([Event(time_ns=1, kind=Kind.COLLECTOR_STARTED)])
    lay(wal_path(log.path))
    with pytest.raises(LogError, match=r"log\.wal is a pipe, device or socket, not an event log: move it away"):
        log.query("SELECT 1")
    wal_path(log.path).unlink()
    log.path.unlink()
    lay(log.path)
    with pytest.raises(LogError, match="log is a pipe, device or socket, not an event log: name the log itself"):
        log.query("SELECT 1")


def test_a_write_ahead_log_may_vanish_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = wal_path(tmp_path / "log")
    wal.touch()
    stat = Path.stat

    def goes(path: Path, **how: bool) -> os.stat_result:
        found = stat(path, **how)
        if path == wal:
            wal.unlink()
        return found

    monkeypatch.setattr(Path, "stat", goes)
    refuse_special(tmp_path / "log")
    assert not wal.exists()


def test_the_null_device_is_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    assert read_bounded(tmp_path / "link") == ""


@pytest.mark.parametrize(
    "argv",
    [
        ("collector", "run", "--once", "--log", "LOOP", "--host", "unix:///none"),
        ("collector", "status", "--log", "LOOP"),
        ("collector", "ingest", "gitlab-runner-log", "LOOP", "--log", "l.duckdb"),
        ("analyzer", "simulate", "--threshold", "10%", "--policy", "LOOP", "--log", "l.duckdb"),
    ],
)
def test_links_in_a_circle_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    done = commands.run(*(str(loop) if one == "LOOP" else one for one in argv))
    assert done.returncode in {1, 2}
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_file_whose_name_leads_in_a_circle_is_written(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    write_whole(loop, "text")
    assert loop.read_text() == "text"
