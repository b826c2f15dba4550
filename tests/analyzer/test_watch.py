from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collector.log import EventLog
from tests.analyzer.made_host import make_week
from tests.analyzer.test_cli import analyzer

NO_ENGINE = ("-H", "unix:///nonexistent.sock")


@pytest.fixture
def week(log: EventLog) -> EventLog:
    make_week(log)
    return log


@pytest.mark.parametrize("columns", [80, 160])
def test_without_an_engine_the_log_tells_what_is_oldest(week: EventLog, columns: int) -> None:
    done = analyzer("watch", "--once", "--log", str(week.path), *NO_ENGINE, columns=columns)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines) <= columns
    assert lines[1] == "3.00 GiB of 40.0 GiB free (7.5%)"
    assert "no engine answers" in done.stdout
    assert "registry.example.org/group/app/build-1:1" in done.stdout
    assert "container destroyed" in done.stdout
    assert "\x1b" not in done.stdout


def test_in_a_terminal_it_stays_and_ends_with_ctrl_c(week: EventLog, tmp_path: Path) -> None:
    if shutil.which("tmux") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tmux is not installed: run .ci/install-packages")
        pytest.skip("tmux is not installed: run .ci/install-packages")
    server = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    program = [sys.executable, "-c", "from analyzer.cli import main; main()"]
    command = [*program, "watch", "--every", "1s", "--log", str(week.path), *NO_ENGINE]
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    subprocess.run(
        [
            *server,
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "30",
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

    def wait_for(words: str) -> str:
        for _ in range(300):
            if words in screen():
                return screen()
            time.sleep(0.1)
        return pytest.fail(f"never on the screen: {words}\n{screen()}")

    try:
        first = wait_for("last events").splitlines()[0]
        assert "3.00 GiB of 40.0 GiB free" in screen()
        for _ in range(300):
            if screen().splitlines()[0] != first:
                break
            time.sleep(0.1)
        else:
            pytest.fail("the view stands still")
        subprocess.run([*server, "send-keys", "-t", "watch", "C-c"], check=True)
        assert "Traceback" not in wait_for("Pane is dead")
    finally:
        subprocess.run([*server, "kill-server"], check=False)
