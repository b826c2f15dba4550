"""The pruner is woken early, at once and not too often."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from collector.machine.disk import DiskSample
from collector.machine.wake import (
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    Alarm,
    leave_levels,
    levels_path,
    read_levels,
    read_min_age,
    wake_path,
)
from tests.engine.disk import LoopDisk
from tests.needs import cannot_run

GB = 10**9
PLENTY = DiskSample("/data", total_bytes=100 * GB, free_bytes=50 * GB, total_inodes=1000, free_inodes=500)
SHORT = replace(PLENTY, free_bytes=9 * GB)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.duckdb"
    leave_levels(path, "/data", 10 * GB, 50)
    return path


class Time:
    """A clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_sample_under_the_threshold_wakes_at_once(log: Path) -> None:
    alarm = Alarm(log)
    assert not alarm.hear(PLENTY)
    assert not wake_path(log).exists()
    assert alarm.hear(SHORT)
    assert wake_path(log).exists()


def test_few_free_inodes_wake_too_where_the_disk_counts_them(log: Path) -> None:
    few = replace(PLENTY, free_inodes=49)
    assert Alarm(log).hear(few)
    assert not Alarm(log).hear(replace(few, total_inodes=0, free_inodes=0))


def test_what_the_pruner_cannot_help_does_not_start_it_in_a_hot_loop(log: Path) -> None:
    clock = Time()
    alarm = Alarm(log, clock)
    woken = 0
    for _ in range(3600):
        woken += alarm.hear(SHORT)
        clock.now += 1.0
    assert FIRST_PAUSE_S == 10
    assert LAST_PAUSE_S == 300
    # At 0, 10, 30, 70, 150, 310 s, then every 300 s.
    assert woken == 6 + (3600 - 310 - 1) // 300


def test_after_recovery_it_wakes_at_once_again(log: Path) -> None:
    clock = Time()
    alarm = Alarm(log, clock)
    for _ in range(5):
        assert alarm.hear(SHORT)
        assert alarm.again == math.inf
        assert not alarm.hear(SHORT)
        # What came too soon after the last is looked at again as soon as possible.
        assert alarm.again == clock.now + FIRST_PAUSE_S
        assert not alarm.hear(PLENTY)
        assert alarm.again == math.inf


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"data_root": "/data"}', '{"free_bytes": "x"}', "\xff"])
def test_levels_that_make_no_sense_are_none(log: Path, text: str) -> None:
    levels_path(log).write_text(text, encoding="latin-1")
    assert read_levels(log, "/data") is None
    assert not Alarm(log).hear(SHORT)


def test_levels_of_another_disk_do_not_count(log: Path) -> None:
    assert not Alarm(log).hear(replace(SHORT, path="/elsewhere"))


def test_no_pruner_no_alarm(tmp_path: Path) -> None:
    assert not Alarm(tmp_path / "events.duckdb").hear(SHORT)
    assert list(tmp_path.iterdir()) == []


def test_the_minimum_age_by_which_the_pruner_decides_is_left_in_words(tmp_path: Path) -> None:
    log = tmp_path / "events.duckdb"
    assert read_min_age(log) == ""
    assert leave_levels(log, "/data", 10 * GB, 50, min_age="10 min (auto): GitLab jobs are known")
    assert read_min_age(log) == "10 min (auto): GitLab jobs are known"
    assert leave_levels(log, "/data", 10 * GB, 50, min_age="x" * 5000)
    assert len(read_min_age(log)) <= 250
    levels_path(log).write_text("[1]", encoding="utf-8")
    assert read_min_age(log) == ""


def test_both_files_can_be_written_on_a_full_disk(state_root: Path) -> None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        cannot_run("a loop-mounted disk needs root and loop devices")
    disk = LoopDisk(state_root / "full", 8 * 2**20)
    log = disk.path / "events.duckdb"
    assert leave_levels(log, "/data", 10 * GB, 50)
    Alarm(log).hear(SHORT)
    before = wake_path(log).stat().st_ctime_ns
    disk.fill_to(0)
    with pytest.raises(OSError, match="No space left"):
        fill_with_crumbs(disk)
    assert leave_levels(log, "/data", 20 * GB, 60)
    assert read_levels(log, "/data") == (20 * GB, 60)
    assert Alarm(log).hear(SHORT)
    assert wake_path(log).stat().st_ctime_ns > before
    assert not leave_levels(disk.path / "another.duckdb", "/data", 20 * GB, 60)


def fill_with_crumbs(disk: LoopDisk) -> None:
    """Take the last blocks, which one large file does not get."""
    for number in range(1000):
        (disk.path / f"crumb-{number}").write_bytes(b"x")
