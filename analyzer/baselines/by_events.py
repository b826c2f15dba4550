"""Tools that decide by the engine's own record of events."""

from __future__ import annotations

import math
from collections import deque

from analyzer.baselines.base import MINUTE, Baseline, unused
from analyzer.simulation.host import Host
from collector.model.references import repository
from collector.model.units import DAY_S, HOUR_S

ENGINE_EVENTS = 256
EVENTS_OF_A_USE = 6
_NEVER = 2.0**62  # seconds


class Codefresh(Baseline):
    """codefresh's dind (2026-04): what no event of three days names goes at a build's end; all unused at 80 % usage.

    It cleans if it did so six hours or ten builds ago, or when 80 % of the disk is used. Images built
    within three days stay, and its own. What it saves are the engine's last 256 events, none from before
    the build: at six events a use, what was used earlier in a busy build counts as not used. Over
    90 % an agent does the same each 5 s, and then takes all that was built three hours ago.

    The log does not contain its builds: every half hour is taken for one. Its containers end with it;
    here they go on, and their images stay.

    Args:
        build: seconds that a build takes.
        remembers: whether the engine keeps all events of a build.
    """

    name = "codefresh"
    high = 0.8
    full = 0.9
    retained = 3 * DAY_S
    purged = 3 * HOUR_S
    seconds_between = 6 * HOUR_S
    builds_between = 10
    period = 5.0
    preserved = frozenset(
        f"{registry}codefresh/{name}" for registry in ("", "quay.io/") for name in ("fs-ops", "pikolo")
    )

    def __init__(self, build: float = 30 * MINUTE, *, remembers: bool = False) -> None:
        self.interval = build
        self._events: deque[int] = deque(maxlen=None if remembers else ENGINE_EVENTS // EVENTS_OF_A_USE)
        self._saved: dict[int, float] = {}
        self._builds = 0
        self._cleaned: tuple[float, int] | None = None

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """The engine reports it."""
        self._events.append(image)

    def tick(self, host: Host) -> None:
        """A build is over: its engine stops, and forgets all events."""
        self._save(host.now)
        if self._due(host):
            self._clean(host)
            self._cleaned = (host.now, self._builds)
            if _usage(host) > self.high:
                for i in unused(host):
                    host.remove(i)
        self._events.clear()
        self._builds += 1

    def waits(self, host: Host, until: float, *, use: bool) -> None:  # noqa: ARG002 - the protocol
        """The agent's looks before then: between those at which an image passes some age nothing changes."""
        look = host.now // self.period * self.period + self.period
        last = until // self.period * self.period
        if look > last:
            return
        while look <= last and _usage(host) > self.full:
            host.now = look
            self._save(look)
            self._clean(host)
            if _usage(host) > self.full:
                for i in unused(host):
                    if host.created[i] < look - self.purged:
                        host.remove(i)
            look = max(look + self.period, math.ceil(self._next(host) / self.period) * self.period)
        if _usage(host) > self.full:
            self._save(last)

    def _due(self, host: Host) -> bool:
        crowded = _usage(host) > self.high
        if self._cleaned is None:  # its first build leaves a note from which it counts
            self._cleaned = (host.now, self._builds)
            return crowded
        time, build = self._cleaned
        enough = host.now - time >= self.seconds_between or self._builds - build >= self.builds_between
        return enough or crowded

    def _save(self, now: float) -> None:
        self._saved.update(dict.fromkeys(self._events, now))

    def _clean(self, host: Host) -> None:
        for i in unused(host):
            named = host.now - self._saved.get(i, -math.inf) <= self.retained
            built = 0.0 < host.now - host.created[i] < self.retained
            if not named and not built and self.preserved.isdisjoint(map(repository, host.trace.references[i])):
                host.remove(i)

    def _next(self, host: Host) -> float:
        """When another image may go, if nothing else happens."""
        return min(
            (
                time
                for i in host.present
                for time in (
                    host.last_use[i],
                    host.created[i] + self.purged,
                    host.created[i] + self.retained,
                    self._saved.get(i, -math.inf) + self.retained,
                )
                if host.now <= time < _NEVER
            ),
            default=_NEVER,
        )


def _usage(host: Host) -> float:
    """The share of the disk, or of its inodes, that is used: whichever is more."""
    inodes = 1.0 - host.free_inodes / host.total_inodes if host.total_inodes else 0.0
    return max(1.0 - host.free / host.total, inodes)
