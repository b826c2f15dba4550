"""What all baselines have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from analyzer.kernel.rules import AgeClock, AgeRule, ToolRules, removable_by_id
from analyzer.simulation.host import Host
from collector.model.units import HOUR_S

MINUTE = 60.0
GB = 10**9
GIB = 2**30


class Baseline:
    """Something others run; by itself it removes nothing.

    Attributes:
        exact: whether it books what a removal frees as it is, where the tool is wrong about it.
        restarts: seconds between restarts, at which a tool forgets what it keeps in memory; None: it never restarts.
        rule: all that it does, if that is a rule of age at each tick.
        tool: all that it does, if the compiled kernel knows it. Who changes what it does leaves that out.
    """

    baseline = True
    name = "baseline"
    interval = 0.0
    due = math.inf
    rule: AgeRule | None = None
    tool: ToolRules | None = None
    exact = False
    restarts: float | None = None
    _began = 0.0

    def tick(self, host: Host) -> None:
        """Follow the rule, if it is one."""
        if self.rule is not None:
            follow(self.rule, host)

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:
        """Nothing."""

    def sampled(self, host: Host) -> None:
        """Nothing."""

    def waits(self, host: Host, until: float, *, use: bool) -> None:
        """Time passes until `until`, when a use begins or something else happens. Nothing."""

    def wakes(self, host: Host) -> None:
        """It is due. Nothing: it never is."""

    def restarted(self, now: float) -> bool:
        """Whether it has been restarted since this was asked last."""
        if self.restarts is None or now - self._began < self.restarts:
            return False
        self._began += (now - self._began) // self.restarts * self.restarts
        return True


class Never(Baseline):
    """Something that removes nothing, ever: the re-pulls that no policy avoids, and how much disk keeping all takes."""

    name = "never"
    rule = AgeRule(AgeClock.BUILT, math.inf)


def unused(host: Host) -> list[int]:
    """The images that are there and that no container refers to, in order of first sight."""
    return [i for i in host.present if not host.pinned(i)]


def follow(rule: AgeRule, host: Host) -> None:
    """Remove what a rule of age says; the compiled replay does the same, and a test holds the two together."""
    if rule.low is not None and host.free >= rule.low * host.total:
        return
    since = {AgeClock.BUILT: host.created, AgeClock.PULLED: host.pulled, AgeClock.USED: host.last_use}[rule.clock]
    for i in unused(host):
        if since[i] < host.now - rule.age and not (rule.by_id and not removable_by_id(host.trace.references[i])):
            host.remove(i)


def seen_use(host: Host, image: int) -> float:
    """The latest moment at which the image has been in use; now while a container exists."""
    return min(host.last_use[image], host.now)


def size(host: Host, image: int) -> int:
    """Bytes of all layers of an image, as `docker image ls` shows it."""
    return host.sizes[image]


def unique_size(host: Host, image: int) -> int:
    """Bytes of the layers that no other image has, as `docker system df` shows it."""
    return sum(host.layer_bytes[j] for j in host.layers[image] if host.holders[j] == 1)


def remove_until(host: Host, order: Iterable[int], enough: Callable[[], bool]) -> None:
    """Remove one after the other, measuring each time, until it is enough."""
    for i in order:
        if enough():
            return
        host.remove(i)


def age_name(seconds: float) -> str:
    """An age as the tools write it."""
    return f"{seconds / HOUR_S:g}h"


def at(host: Host, time: float, act: Callable[[], None]) -> None:
    """Do something at a time between two happenings."""
    host.now, before = time, host.now
    act()
    host.now = max(host.now, before)
