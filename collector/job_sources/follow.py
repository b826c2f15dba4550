"""Follows a runner's log while jobs run, in a thread that waits for nobody and for whom nobody waits.

The thread reads and parses; who owns the event log takes the batches when it can. Until it does, the thread reads no
further, and the lines stay where they are: in the file or the journal.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from collector.job_sources.reading import JOURNAL, JournalExport, Lines, RunnerLogFile, source_of
from collector.job_sources.source import Batch
from collector.model.advice import join_group, reader
from collector.model.backoff import Backoff
from collector.model.errors import UsageError
from collector.model.paths import read_bounded
from collector.model.untrusted import read_object

logger = logging.getLogger(__name__)

AUTO, OFF, IN_JOURNAL = "auto", "none", "journal"
# Under which the event log keeps what is followed, and what stands in the way.
STATE = "runner log followed"
UNIT = "gitlab-runner.service"
JOURNAL_GROUP = "systemd-journal"
_UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))
_MACHINE_ID = Path("/etc/machine-id")
# How far back the first look goes: a job's preparation takes no longer (see `pruner.state.jobs_in_flight`). What lies
# further back is for `collector ingest`.
_FIRST_LOOK = "-6h"
_FIRST_LOOK_BYTES = 4 * 2**20
_MOST_LINES = 2000
_MOST_BATCHES = 4
_CHUNK = 2**20
_LOOK_S = 1.0
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
# A file that is being rotated is not there for a moment.
_FAILURES = 2
_CLOSE_S = 5.0


class _CannotFollowError(Exception):
    """A log cannot be followed now; the message says why and what to do."""


class _Source(Protocol):
    """Where a runner writes its log."""

    name: str
    key: str

    def resume(self, position: str | None) -> None:
        """Begin where the mark of the last batch says."""

    def check(self) -> bool:
        """Whether there is anything to follow. Raises _CannotFollowError or OSError where it cannot be read."""

    def batches(self) -> Generator[Batch]:
        """What has come, and maybe what comes from now on. Raises as `check`."""

    def close(self) -> None:
        """Let go of all, also during `batches`; from another thread."""


class _File:
    """A log file that is looked at again and again."""

    def __init__(self, path: Path) -> None:
        self.name, self.key = str(path), source_of(path)
        self._path = path
        self.resume(None)

    def resume(self, position: str | None) -> None:
        self._file = RunnerLogFile(self._path, position, _FIRST_LOOK_BYTES)

    def check(self) -> bool:
        try:
            self._file.check()
        except PermissionError:
            raise _CannotFollowError(f"{self.name} may not be read: let {reader()} read it") from None
        except OSError as error:
            raise _CannotFollowError(f"{self.name} cannot be read ({error.strerror}): is it the right file?") from None
        return True

    def batches(self) -> Generator[Batch]:
        return self._file.read(_MOST_LINES)

    def close(self) -> None:
        self._file.close()


class _Journal:
    """The journal of the runner's unit, as `journalctl` follows it.

    Args:
        expected: whether there is one for sure; else only where that unit is installed.
    """

    name = f"the journal of {UNIT}"
    key = JOURNAL

    def __init__(self, *, expected: bool) -> None:
        self._expected = expected
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self.resume(None)

    def resume(self, position: str | None) -> None:
        # Where journalctl goes on at a cursor, times say nothing: the clock may have been set back.
        self._export = JournalExport(position, all_times=True)

    def check(self) -> bool:
        if not self._expected and not runner_is_installed():
            return False
        if shutil.which("journalctl") is None:
            raise _CannotFollowError(f"{self.name} cannot be read: there is no journalctl")
        found = _journals()
        if not found:
            raise _CannotFollowError(f"{self.name} cannot be read: no journal is kept here")
        # Without the right to read it, journalctl waits forever and says nothing.
        if not any(os.access(path, os.R_OK) for path in found):
            raise _CannotFollowError(
                f"{self.name} may not be read: `pruner install-units` gives the collector's service the group "
                f"{JOURNAL_GROUP}; else {join_group(JOURNAL_GROUP)}, and start it again"
            )
        return True

    def batches(self) -> Generator[Batch]:
        cursor = self._export.cursor
        begin = f"--after-cursor={cursor}" if cursor else f"--since={_FIRST_LOOK}"
        fields = "--output-fields=MESSAGE,_SOURCE_REALTIME_TIMESTAMP"
        argv = ["journalctl", "--quiet", f"--unit={UNIT}", "--output=json", fields, "--follow", "--no-tail", begin]
        process = self._process = subprocess.Popen(  # noqa: S603 - our own words, and a cursor as one argument
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            yield from self._read(process)
        finally:
            process.kill()
            status = process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if not self._closed:
            # A cursor that journalctl refuses must not stand in the way forever; what is read twice is stored once.
            self._export.cursor = None
            raise _CannotFollowError(f"{self.name} cannot be read: journalctl ended with status {status}")

    def _read(self, process: subprocess.Popen[bytes]) -> Iterator[Batch]:
        lines = Lines()
        while not self._closed and process.stdout is not None and (chunk := os.read(process.stdout.fileno(), _CHUNK)):
            if found := lines.take(chunk):
                yield self._export.read(found, time.time_ns())

    def close(self) -> None:
        self._closed = True
        if self._process is not None:
            self._process.kill()


class Follower:
    """Follows one runner's log.

    Args:
        choice: ``auto`` (the journal, where the runner's unit is installed), ``journal``, ``none``, or a file's path.
        wake: called by the thread when there is something to take.

    Raises:
        UsageError: that cannot be a file.
    """

    def __init__(self, choice: str, wake: Callable[[], None]) -> None:
        self._source = _source(choice)
        self._wake = wake
        self._batches: queue.Queue[Batch] = queue.Queue(_MOST_BATCHES)
        self._next: Batch | None = None
        self._reported: Batch | None = None
        self._failures = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def key(self) -> str | None:
        """Under which the event log keeps the position that is reached; None: nothing is followed."""
        return None if self._source is None else self._source.key

    def resume(self, position: str | None) -> None:
        """Before `start`: begin where the mark of the last batch says; None: some way before the end."""
        if self._source is not None:
            self._source.resume(position)

    def start(self) -> None:
        """Begin to follow."""
        if self._source is None:
            # Nobody must take what was followed before for what is followed now.
            self._batches.put(_note(None, None))
            return
        self._thread = threading.Thread(target=self._run, args=(self._source,), name="runner-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what was not taken is read again after the next start."""
        self._stopping.set()
        if self._source is not None:
            self._source.close()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def waiting(self) -> Batch | None:
        """The oldest batch that was not taken, until `taken`; None: there is none now."""
        if self._next is None and not self._batches.empty():
            self._next = self._batches.get()
        return self._next

    def taken(self) -> None:
        """That batch is stored."""
        self._next = None

    def _run(self, source: _Source) -> None:
        retries = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        while not self._stopping.is_set():
            fault = None
            try:
                present = source.check()
                if not self._failures:
                    self._report(source, None, present=present)
                if present:
                    self._read(source)
            except _CannotFollowError as error:
                fault = str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the collector goes on, and this tries again
                fault = f"{source.name} cannot be read: {type(error).__name__}: {error}"
            if fault is None:
                retries.reset()
                self._failures = 0
                self._stopping.wait(_LOOK_S if present else _LAST_RETRY_S)
                continue
            self._failures += 1
            if self._failures >= _FAILURES:
                self._report(source, fault)
            self._stopping.wait(retries.next())
        source.close()

    def _read(self, source: _Source) -> None:
        with closing(source.batches()) as batches:
            for batch in batches:
                self._failures = 0
                self._report(source, None)
                self._put(batch)
                if self._stopping.is_set():
                    return

    def _report(self, source: _Source, fault: str | None, *, present: bool = True) -> None:
        """Say and note once what is followed, or what stands in the way."""
        state = _note(source.name if present else None, fault)
        if state == self._reported:
            return
        if fault:
            logger.warning("%s", fault)
        elif present:
            logger.info("following %s", source.name)
        self._reported = state
        self._put(state)

    def _put(self, batch: Batch) -> None:
        while not self._stopping.is_set():
            try:
                self._batches.put(batch, timeout=_LOOK_S)
            except queue.Full:
                continue
            self._wake()
            return


@dataclass(frozen=True, slots=True)
class Followed:
    """What a collector follows.

    Attributes:
        name: the log, in words; None: no runner was found here.
        fault: what stands in the way, and what to do; None: nothing.
    """

    name: str | None
    fault: str | None

    @classmethod
    def from_position(cls, position: str | None) -> Followed | None:
        """What a follower noted last, as the event log keeps it; None: nothing."""
        known = read_object(position or "{}")
        if not known:
            return None
        name, fault = known.get("name"), known.get("fault")
        return cls(name if isinstance(name, str) else None, fault if isinstance(fault, str) else None)


def _note(name: str | None, fault: str | None) -> Batch:
    return Batch(0, (), 0, (STATE, json.dumps({"name": name, "fault": fault})))


def runner_is_installed() -> bool:
    """Whether GitLab Runner is a service of this host."""
    return any(Path(folder, UNIT).exists() for folder in _UNIT_FOLDERS)


def _source(choice: str) -> _Source | None:
    if choice == OFF:
        return None
    if choice in {AUTO, IN_JOURNAL}:
        return _Journal(expected=choice == IN_JOURNAL)
    # A file may come later, and its folder be closed for now: only what can never be one is refused.
    if not choice or os.path.isdir(choice):  # noqa: PTH112 - False where pathlib raises
        raise UsageError(f"--runner-log: '{choice}' is not a file: name the runner's log, or auto, journal or none")
    return _File(Path(choice))


def _journals() -> list[Path]:
    """The files that the system's journal is written to now."""
    try:
        machine = read_bounded(_MACHINE_ID, "ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    return [path for folder in _JOURNALS if (path := folder / machine / "system.journal").exists()]
