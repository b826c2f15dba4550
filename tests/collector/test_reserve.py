"""Space kept back for the day on which the disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.machine.reserve import NAME, Reserve, reserves
from collector.model import environment


def test_space_is_kept_back_and_given_only_when_there_is_next_to_none(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 2**20)
    assert reserve.keep()
    assert reserve.path.stat().st_blocks * 512 >= 2**20
    assert reserve.keep()
    assert not reserve.give()
    assert reserve.path.exists()


def test_no_space_is_taken_where_there_is_little(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 2**60)
    assert not reserve.keep()
    assert not reserve.path.exists()
    assert not reserve.give()


def test_no_space_is_taken_that_a_prune_has_just_freed(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 2**20)
    assert not reserve.keep(2**60)
    assert reserve.keep(2**20)


def test_the_engine_has_a_reserve_of_its_own_where_the_log_is_on_another_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log" / "events.duckdb"

    def paths(*folders: str) -> list[str]:
        return [str(reserve.path) for reserve in reserves(log, folders)]

    monkeypatch.delenv(environment.RESERVE, raising=False)
    beside = f"{log}.reserve"
    assert paths() == paths(str(tmp_path)) == paths("/nonexistent") == [beside]
    assert paths("/dev/shm") == [beside, f"/dev/shm/{NAME}"]  # noqa: S108 - nothing is written
    monkeypatch.setenv(environment.RESERVE, "/dev/shm")  # noqa: S108
    assert paths("/nonexistent") == [beside, f"/dev/shm/{NAME}"]  # noqa: S108
    monkeypatch.setenv(environment.RESERVE, "/nonexistent:/dev/shm")
    assert paths("/nonexistent") == [beside, f"/dev/shm/{NAME}"]  # noqa: S108
