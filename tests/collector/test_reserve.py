"""Space kept back for the day on which the disk is full."""

from __future__ import annotations

from pathlib import Path

from collector.machine.reserve import Reserve


def test_space_is_kept_back_and_given_only_when_there_is_next_to_none(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "log" / "events.duckdb", 2**20)
    assert reserve.keep()
    assert reserve.path.stat().st_blocks * 512 >= 2**20
    assert reserve.keep()
    assert not reserve.give()
    assert reserve.path.exists()


def test_no_space_is_taken_where_there_is_little(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "log" / "events.duckdb", 2**60)
    assert not reserve.keep()
    assert not reserve.path.exists()
    assert not reserve.give()
