"""What tests would make alike again and again, made once: bytecode, commands, the empty log, a year of Mesa's CI."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from analyzer.data import mesa_files
from collector.eventlog import file
from collector.eventlog.database import NEW_FILE
from collector.eventlog.log import EventLog
from collector.job_sources.job_list import import_jobs

# What `analyzer demo` calls its host.
MESA = "mesa-ci-2023"
_fill = file.LogFile._fill


def _how_logs_are_made() -> tuple[object, ...]:
    return vars(file)["migrate"], *sorted(NEW_FILE.items())


def share_bytecode() -> None:
    """Let a module be compiled once, not in each of the hundreds of processes that tests start, whatever is set."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def share_commands() -> None:
    """Let a command be put together once in a process, not for each call; before `typer.testing` is imported."""
    typer.main.get_command = functools.cache(typer.main.get_command)


def share_empty_log(folder: Path) -> None:
    """Let each new log be a copy of one that was made empty, where a test does not disturb how it is made."""
    empty = file.LogFile(folder / "empty.duckdb", wait=10.0)
    empty._make()
    usual = _how_logs_are_made()

    def copy(wanted: file.LogFile, fresh: Path) -> None:
        if _how_logs_are_made() != usual:
            return _fill(wanted, fresh)
        try:
            shutil.copyfile(empty.path, fresh)
        except OSError:
            fresh.unlink(missing_ok=True)
            _fill(wanted, fresh)

    file.LogFile._fill = copy  # type: ignore[method-assign, assignment]


def once_for_all_workers(folders: pytest.TempPathFactory, name: str, make: Callable[[], Path]) -> Path:
    """A file that the first worker makes which needs it, and all others wait for."""
    folder = folders.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            make().rename(folder / name)
    return folder / name


def year_of_mesa(folders: pytest.TempPathFactory) -> Path:
    """A log of a year of Mesa's CI on a disk of 100 GiB, which takes ten seconds to import: copy it."""

    def made() -> Path:
        log = EventLog(folders.mktemp("year") / "events.duckdb", host=MESA)
        import_jobs(*mesa_files(), log, 100 * 2**30, 0)
        return log.path

    return once_for_all_workers(folders, "mesa.duckdb", made)
