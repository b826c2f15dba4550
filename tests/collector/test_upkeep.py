"""The log is compacted once a day by a process of its own, and never while space is short."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from collector.daemon.upkeep import Upkeep
from collector.eventlog.database import alone
from tests.waiting import wait_for

DAY = 86400.0
SAY = (sys.executable, "-c", "import sys; print('argv', *sys.argv[1:])")
WAIT = (sys.executable, "-c", "import time; time.sleep(600)")


class Watch:
    """A clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def runs(upkeep: Upkeep) -> bool:
    return upkeep._process is not None


def has_ended(upkeep: Upkeep) -> bool:
    return upkeep._process is None or upkeep._process.poll() is not None


def test_it_is_done_once_a_day_and_what_it_says_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Watch()
    upkeep = Upkeep(tmp_path / "log", ["--keep", "40d"], SAY, clock)
    upkeep.attend(is_short=False)
    assert not runs(upkeep)
    for _ in range(2):
        clock.now += DAY
        caplog.clear()
        upkeep.attend(is_short=False)
        assert runs(upkeep)
        wait_for(lambda: has_ended(upkeep), "its end")
        upkeep.attend(is_short=False)
        assert caplog.messages == [f"argv --log {tmp_path / 'log'} --pause 4 --keep 40d"]
        upkeep.attend(is_short=False)
        assert not runs(upkeep)


def test_it_neither_begins_nor_goes_on_while_space_is_short(tmp_path: Path) -> None:
    clock = Watch()
    upkeep = Upkeep(tmp_path / "log", ["--keep", "40d"], WAIT, clock)
    clock.now += DAY
    upkeep.attend(is_short=True)
    assert not runs(upkeep)
    upkeep.attend(is_short=False)
    process = upkeep._process
    assert process is not None
    copy = tmp_path / ".log.rewrite"
    copy.write_bytes(b"what it had copied by then")
    upkeep.attend(is_short=True)
    assert process.poll() is not None
    assert not copy.exists()


def test_what_an_interrupted_rewriting_left_goes_at_the_start_and_what_is_under_way_stays(tmp_path: Path) -> None:
    copy = tmp_path / ".log.rewrite"
    for under_way in (True, False):
        copy.write_bytes(b"a copy")
        with alone(tmp_path / "log", ".rewrite-lock", "rewritten") if under_way else nullcontext():
            Upkeep(tmp_path / "log", [], WAIT, Watch()).attend(is_short=True)
        assert copy.exists() is under_way


def test_nothing_is_done_where_everything_is_kept(tmp_path: Path) -> None:
    clock = Watch()
    upkeep = Upkeep(tmp_path / "log", [], WAIT, clock)
    clock.now += 1000 * DAY
    upkeep.attend(is_short=False)
    assert not runs(upkeep)
