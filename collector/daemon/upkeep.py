"""Has old events thinned once they are due: by a process of its own, which rests most of the time."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from collector.eventlog.rewrite import tidy
from collector.model.errors import LogError

logger = logging.getLogger(__name__)

_FIRST_S = 3600.0
_EVERY_S = 86400.0
# After a step it rests so many times as long as that took.
_PAUSE = "4"
_COMPACT = (sys.executable, "-c", "from collector.entry import collector; collector()", "compact", "--if-due")


class Upkeep:
    """Looks once a day whether the log is to be compacted.

    Args:
        log_path: the event log.
        options: options of `collector compact`.
        command: what does it.
        now: a clock that nobody sets, seconds.
    """

    def __init__(
        self,
        log_path: Path,
        options: Sequence[str] = (),
        command: Sequence[str] = _COMPACT,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log_path = log_path
        self._is_tidy = False
        self._argv = [*command, "--log", str(log_path), "--pause", _PAUSE, *options]
        self._now = now
        self._next = now() + _FIRST_S if options else math.inf
        self._process: subprocess.Popen[bytes] | None = None

    def attend(self, *, is_short: bool) -> None:
        """Begin or end what is due; never while space is short."""
        if not self._is_tidy:
            self._tidy()
        process = self._process
        if process is None:
            if not is_short and self._now() >= self._next:
                self._begin()
        elif is_short:
            logger.info("space is short: the compaction of the log is postponed")
            self.close()
        elif process.poll() is not None:
            said = b"" if process.stdout is None else process.stdout.read()
            for line in said.decode(errors="replace").splitlines():
                logger.info("%s", line)
            self.close()

    def _begin(self) -> None:
        self._next = self._now() + _EVERY_S
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            logger.warning("the log cannot be compacted: %s", error.strerror)

    def close(self) -> None:
        """End what is under way, at once: the log is as it was, or already the new one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._tidy()

    def _tidy(self) -> None:
        """Free the space of a copy that was not finished, unless somebody else works on it."""
        self._is_tidy = True
        with suppress(LogError):
            tidy(self._log_path)
