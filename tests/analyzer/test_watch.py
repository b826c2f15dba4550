from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analyzer.audit import watch as watch_module
from analyzer.audit.watch import Snapshot, look
from collector.eventlog.log import EventLog
from collector.model.errors import LogBusyError
from collector.terminal.faults import faults_in_one_line
from pruner.policy.policy import Policy
from tests.analyzer.command import analyzer
from tests.analyzer.made_host import make_week
from tests.needs import cannot_run
from tests.waiting import wait_for

NO_ENGINE = ("-H", "unix:///nonexistent.sock")
EVENTS_SHOWN = 8


@pytest.fixture
def week(log: EventLog) -> EventLog:
    make_week(log)
    return log


@pytest.mark.parametrize("columns", [80, 160])
def test_without_an_engine_the_log_says_what_is_oldest(week: EventLog, columns: int) -> None:
    done = analyzer("watch", "--once", "--log", str(week.path), *NO_ENGINE, columns=columns)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines) <= columns
    assert lines[1] == "3.00 GiB of 40.0 GiB free (7.5%)"
    assert re.search(r"the latest sample is \d+\.\d d old: is `collector run` running\?", done.stdout)
    assert "no engine answers" in done.stdout
    assert "registry.example.org/group/app/build-1:1" in done.stdout
    assert "container destroyed" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_in_a_terminal_it_stays_and_ends_with_ctrl_c(week: EventLog, tmp_path: Path) -> None:
    if shutil.which("tmux") is None:
        cannot_run("tmux is not installed: run .ci/install-packages")
    server = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    program = [sys.executable, "-c", "from analyzer.cli import main; main()"]
    command = [*program, "watch", "--every", "1s", "--log", str(week.path), *NO_ENGINE]
    # A test's worker may carry the size of another terminal (GNU readline sets it).
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    subprocess.run(
        [
            *server,
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "40",
            "-s",
            "watch",
            *command,
            ";",
            "set",
            "remain-on-exit",
            "on",
        ],
        check=True,
        env={**kept, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
    )

    def screen() -> str:
        shown = [*server, "capture-pane", "-p", "-t", "watch"]
        return subprocess.run(shown, capture_output=True, text=True, check=True).stdout

    def dead() -> bool:  # that a pane is dead is not always drawn, but always known
        state = [*server, "list-panes", "-t", "watch", "-F", "#{pane_dead}"]
        return subprocess.run(state, capture_output=True, text=True, check=True).stdout.strip() == "1"

    def whole() -> bool:
        """Whether the view is there with all its events: half of it may be drawn before the rest."""
        rows = [line.split() for line in screen().splitlines()]
        heading = ["TIME", "EVENT", "OF"]
        events = rows[rows.index(heading) + 1 :] if heading in rows else []
        return len([row for row in events if row]) == EVENTS_SHOWN and ["FREES", "LAST", "USE", "IMAGE"] in rows

    try:
        wait_for(whole, screen, every=0.1)
        wait_for(lambda: "3.00 GiB of 40.0 GiB free" in screen(), screen, every=0.1)
        first = screen().splitlines()[0]
        wait_for(lambda: screen().splitlines()[0] != first, screen, every=0.1)
        subprocess.run([*server, "send-keys", "-t", "watch", "C-c"], check=True)
        wait_for(dead, screen, every=0.1)
        assert "File " not in screen()
        assert "Query interrupted" not in screen()
    finally:
        subprocess.run([*server, "kill-server"], check=False)


def test_an_interrupt_within_a_query_ends_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    # DuckDB takes the signal up between the steps of a query, so that the real one comes when it likes.
    with pytest.raises(SystemExit) as ended, faults_in_one_line("analyzer"):
        raise RuntimeError("Query interrupted")
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")
    with pytest.raises(RuntimeError, match="something else"), faults_in_one_line("analyzer"):
        raise RuntimeError("something else")


def test_a_log_that_is_busy_leaves_what_was_seen_last(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_week(log)
    seen = look(log, NO_ENGINE[1], Policy())
    answers: Iterator[Snapshot | BaseException] = iter((seen, LogBusyError("busy"), KeyboardInterrupt()))

    def answer(*_: object) -> Snapshot:
        found = next(answers)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(watch_module, "look", answer)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    with pytest.raises(KeyboardInterrupt):
        watch_module.watch(log, None, Policy(), 0.0, once=False)
    assert "next to go" in capsys.readouterr().out
    answers = iter((LogBusyError("busy"),))
    with pytest.raises(LogBusyError):
        watch_module.watch(log, None, Policy(), 0.0, once=False)
