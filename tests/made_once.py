"""What tests would make alike hundreds of times, made once: commands out of their functions, and the empty log."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import typer.main

from collector.eventlog import log
from collector.eventlog.database import made_whole

_make, _migrate = log.EventLog._make, log.migrate


def share_commands() -> None:
    """Let a command be put together once in a process, not for each call; before `typer.testing` is imported."""
    typer.main.get_command = functools.cache(typer.main.get_command)


def share_empty_log(folder: Path) -> None:
    """Let each new log be a copy of one that was made empty, where a test does not disturb how it is made."""
    empty = log.EventLog(folder / "empty.duckdb")
    empty._make()

    def copy(wanted: log.EventLog) -> None:
        if log.migrate is not _migrate:
            return _make(wanted)
        try:
            with made_whole(wanted.path) as fresh:
                shutil.copyfile(empty.path, fresh)
        except OSError:
            _make(wanted)

    log.EventLog._make = copy  # type: ignore[method-assign, assignment]
