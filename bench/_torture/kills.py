"""Collector and pruner, started again and again, and killed at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from bench._torture.traffic import LAST, Capture, Traffic
from collector.eventlog.database import SHARED_MEMORY
from tests.engine.host import Host

_FLOOD_EVERY = 10
# What each says when it is at work; the pruner says first what it plans, and stores that.
_AT_WORK = {"collector": b"observing ", "pruner": b"\nremoved "}
_PLANNED = b": removing "
# What has not come by then does not come: the kill falls where it falls, seconds.
_PATIENCE_S = 90.0
# How long a collector is at work: on average before a kill, and at most where it sees faults instead, seconds.
_LIVES_S, _LASTS_S = 0.7, 20.0
# After so many removals of its own a pruner is killed. Fewer on average would not keep the disk from filling.
_REMOVALS = (1, 1, 2, 3, 5, 8, 13)
# Of all kills, those at any moment, start-up included, up to so many seconds; the others come when it is at work.
_ANY_MOMENT, _MOMENTS_S = 0.5, (0.1, 6.0)
# Of the pruner's, those at any moment, and those so long after it said what it plans (before it stores that).
_PRUNER_ANY_MOMENT, _AFTER_PLAN, _AFTER_PLAN_S = 0.25, 0.3, (0.0, 1.5)
# What a process with a faked clock leaves in shared memory when it is killed, by its number.
_FAKED_CLOCKS = ("faketime_shm_{}", "sem.faketime_sem_{}")
# The pruner's own ends: nothing to do, and target not reached.
_ENDS = (0, 3)
# Things are old after a second here, not after an hour.
PRUNE = (
    *("--threshold", "100%", "--order", "lru", "--min-age", "1s"),
    *("--containers-grace", "1s", "--containers-job-grace", "1s"),
    *("--volumes-anonymous-age", "1s", "--dangling-age", "1s", "--local-images", "evict"),
)


class Killer(threading.Thread):
    """Starts a command again as often as it is to be killed.

    Args:
        host: where it runs.
        kills: how often.
        seed: of when.
        until: when it ends whatever is left to do, on the monotonic clock.
        deadly: whether it is killed, or only started.
        preloaded: what else its environment has.
    """

    def __init__(
        self,
        host: Host,
        kills: int,
        seed: int,
        name: str,
        until: float,
        *,
        deadly: bool,
        preloaded: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name=name)
        self._host = host
        self._kills = kills
        self._until = until
        self._deadly = deadly
        self._environment = {**host.environment, **(preloaded or {})}
        self._source = random.Random(f"{name} {seed}")
        self.killed = 0
        # Statuses with which it ended by itself, where nothing gave it reason to.
        self.odd_ends: list[int] = []

    def _start_one(self, *argv: str) -> subprocess.Popen[bytes]:
        with said_by(self._host, self.name).open("ab") as file:
            return subprocess.Popen(self._host.command(*argv), stdout=file, stderr=file, env=self._environment)

    def _end(self, process: subprocess.Popen[bytes], expected: Collection[int] = ()) -> None:
        process.kill()
        status = process.wait()
        for name in _FAKED_CLOCKS:
            (SHARED_MEMORY / name.format(process.pid)).unlink(missing_ok=True)
        if status == -signal.SIGKILL:
            self.killed += 1
        elif status not in expected:
            self.odd_ends.append(status)

    def _said(self, text: bytes) -> int:
        """How often it said something, in all its lives."""
        path = said_by(self._host, self.name)
        return path.read_bytes().count(text) if path.exists() else 0

    @property
    def _is_over(self) -> bool:
        return time.monotonic() > self._until

    def _wait_for_text(self, process: subprocess.Popen[bytes], text: bytes, enough: int, tick: float) -> None:
        """Wait until it has said something so often in all its lives, it ended, or that takes too long."""
        until = min(self._until, time.monotonic() + _PATIENCE_S)
        while process.poll() is None and self._said(text) < enough and time.monotonic() < until:
            time.sleep(tick)

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        try:
            process.wait(timeout=max(0.0, min(seconds, self._until - time.monotonic())))
        except subprocess.TimeoutExpired:
            return

    def _let_end(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for it to end by itself, but not forever: one that does not is killed, and that shows."""
        try:
            process.wait(timeout=2 * _PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.odd_ends.append(-signal.SIGKILL)


class CollectorKiller(Killer):
    """Kills the collector while it starts and while it watches; now and then the engine forgets before it is back."""

    def __init__(
        self,
        host: Host,
        kills: int,
        seed: int,
        until: float,
        traffic: Traffic,
        *,
        deadly: bool,
        preloaded: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(host, kills, seed, "collector", until, deadly=deadly, preloaded=preloaded)
        self._traffic = traffic

    def run(self) -> None:
        """Kill so often."""
        for number in range(self._kills):
            if self._is_over:
                return
            before = self._said(_AT_WORK[self.name])
            process = self._start_one("collector", "run", "--listing-interval", "2s", "--inventory-interval", "5s")
            if number and self._source.random() < _ANY_MOMENT:
                self._wait(process, self._source.uniform(*_MOMENTS_S))
            else:
                self._wait_for_text(process, _AT_WORK[self.name], before + 1, 0.02)
                lives = self._source.expovariate(1 / _LIVES_S)
                self._wait(process, lives if self._deadly else self._source.uniform(0.0, _LASTS_S))
            if not self._deadly:
                process.send_signal(signal.SIGTERM)
                self._let_end(process)
            self._end(process, () if self._deadly else (0,))
            self.killed += not self._deadly
            if self._deadly and number % _FLOOD_EVERY == _FLOOD_EVERY - 1:
                self._traffic.flood()
            time.sleep(self._source.uniform(0, 0.3))


class PrunerKiller(Killer):
    """Kills the pruner at any moment, right after it said what it plans, or after it has removed something."""

    def __init__(self, host: Host, kills: int, seed: int, until: float, *, deadly: bool) -> None:
        super().__init__(host, kills, seed, "pruner", until, deadly=deadly)

    def run(self) -> None:
        """Kill so often; one that ends by itself does not count."""
        tries = 0
        while self.killed < self._kills and tries < 3 * self._kills and not self._is_over:
            tries += 1
            planned, removed = self._said(_PLANNED), self._said(_AT_WORK[self.name])
            process = self._start_one("pruner", "run", *PRUNE)
            how = self._source.random()
            if how < _PRUNER_ANY_MOMENT:
                self._wait(process, self._source.uniform(*_MOMENTS_S))
            elif how < _PRUNER_ANY_MOMENT + _AFTER_PLAN:
                self._wait_for_text(process, _PLANNED, planned + 1, 0.005)
                self._wait(process, self._source.uniform(*_AFTER_PLAN_S))
            else:
                enough = removed + self._source.choice(_REMOVALS)
                self._wait_for_text(process, _AT_WORK[self.name], enough, 0.005)
                self._wait(process, self._source.choice((0.0, 0.01, 0.05, 0.2, 0.5)))
            if not self._deadly:
                self._let_end(process)
            self._end(process, _ENDS)
            self.killed += not self._deadly


def said_by(host: Host, name: str) -> Path:
    """What a command wrote, all its lives together."""
    return host.engine.folder / f"{name}.out"


def settle(host: Host, capture: Capture) -> None:
    """Let a last collector and a last pruner, which nobody disturbs, take down what is left to say."""
    with host.collecting():
        client = host.engine.client()
        client.api.import_image_from_data(b"\0" * 1024, repository=LAST, tag="1")
        # Not every engine names an import in its event; each names a tag.
        client.api.tag(f"{LAST}:1", LAST, "2")
        client.close()
        host.wait_for(capture.has_last, "the capture to come to its end")
        sql = "SELECT count(*) FROM event WHERE reference LIKE ?"
        host.wait_for(lambda: host.log.query(sql, [f"%{LAST}%"])[0][0] > 0, "the log to come to its end")
        # It removes nothing, but records the outcome of what others began.
        host.run("pruner", "run", "--threshold", "1B")
    capture.close()
