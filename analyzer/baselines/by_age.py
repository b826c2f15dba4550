"""Tools that remove what is older than something, whatever is free."""

from __future__ import annotations

import heapq
import math

from analyzer.baselines.base import GIB, MINUTE, Baseline, age_name, follow
from analyzer.kernel.rules import AgeClock, AgeRule, ToolKind, ToolRules
from analyzer.simulation.host import Host
from collector.model.units import DAY_S, HOUR_S


class DockerGc(Baseline):
    """spotify/docker-gc (2021-02), hourly: every unused image *built* longer ago than the grace period.

    Free space does not matter to it. It removes by image ID without force, so an image with two
    references stays (the engine refuses). It also removes exited containers; the log's containers
    end where they were removed in fact.
    """

    def __init__(self, grace: float = DAY_S, interval: float = HOUR_S) -> None:
        self.name = f"docker-gc-{age_name(grace)}"
        self.interval = interval
        self.rule = AgeRule(AgeClock.BUILT, grace, by_id=True)


class PruneUntil(Baseline):
    """``docker image prune --all --force --filter until=AGE``, by cron.

    The age is that of the build under graphdrivers, and that of the local image record (pulled or
    tagged) under the containerd store (moby, `image_prune.go` and `containerd/image_list.go`).
    """

    def __init__(self, age: float = DAY_S, interval: float = DAY_S, clock: str = "built") -> None:
        self.name = f"prune-until-{age_name(age)}-{clock}"
        self.interval = interval
        self.rule = AgeRule(AgeClock.BUILT if clock == "built" else AgeClock.PULLED, age)


class Buildkite(Baseline):
    """Buildkite's elastic stack (2026-08): under 5 GiB or 250,000 inodes, prune with ``until=4h``.

    Checked hourly and before every job. When that does not help it fails the job or replaces the
    machine; here the job goes on.
    """

    name = "buildkite"
    interval = HOUR_S
    prune = AgeRule(AgeClock.BUILT, 4 * HOUR_S)
    low_inodes = 250_000

    def __init__(self, low: int = 5 * GIB) -> None:
        self.low = low

    def tick(self, host: Host) -> None:
        """Check and prune."""
        if host.free < self.low or host.free_inodes < self.low_inodes:
            follow(self.prune, host)

    def waits(self, host: Host, until: float, *, use: bool) -> None:
        """Check before a job."""
        if use:
            host.now = until
            self.tick(host)


class ClearDockerCache(Baseline):
    """GitLab Runner's ``clear-docker-cache`` by weekly cron.

    In 19.2 it runs ``docker image prune --all --force``; before and after that it prunes only what
    carries the runner's label, which no pulled image does.
    """

    interval = 7 * DAY_S

    def __init__(self, version: str = "19.2") -> None:
        self.name = f"clear-docker-cache-{version}"
        self.rule = AgeRule(AgeClock.BUILT, -math.inf if version == "19.2" else math.inf)


class TtlIdle(Baseline):
    """docker-housekeep: every image unused for a week, daily at six."""

    name = "ttl-idle"
    interval = DAY_S
    rule = AgeRule(AgeClock.USED, 7 * DAY_S)


class Ecs(Baseline):
    """The Amazon ECS agent (2026-06): every 30 min up to five least recently used images, whatever is free.

    An image may go an hour after it was first recorded, once no task's container refers to it; those
    are kept for three hours after they stop, and last use is when they go.
    """

    name = "ecs"

    def __init__(
        self, count: int = 5, interval: float = 30 * MINUTE, kept: float = 3 * HOUR_S, age: float = HOUR_S
    ) -> None:
        self.count = count
        self.interval = interval
        self.kept = kept
        self.age = age
        self.tool = ToolRules(ToolKind.ECS, (count, kept, age))
        self._recorded: dict[int, float] = {}

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:
        """Record an image that is new to it."""
        if brought_in or image not in self._recorded:
            self._recorded[image] = host.now

    def tick(self, host: Host) -> None:
        """Remove the least recently used of those that may go."""
        may_go = [
            i
            for i in host.present
            if i in self._recorded
            and host.now - self._recorded[i] > self.age
            and host.now >= host.last_use[i] + self.kept
        ]
        for i in sorted(may_go, key=lambda i: (host.last_use[i], i))[: self.count]:
            host.remove(i)


class Nomad(Baseline):
    """Nomad's Docker driver (2026-08): each image three minutes after its last task has ended.

    References are kept in memory: after a restart it never removes what it had pulled before.
    """

    name = "nomad"

    def __init__(self, delay: float = 3 * MINUTE, *, restarts: float | None = None) -> None:
        self.restarts = restarts
        self.delay = delay
        self.tool = ToolRules(ToolKind.NOMAD, (delay,), restarts=restarts)
        self._due: list[tuple[float, int]] = []

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """A new use restarts the timer."""
        heapq.heappush(self._due, (host.last_use[image] + self.delay, image))

    def waits(self, host: Host, until: float, *, use: bool) -> None:  # noqa: ARG002
        """Remove those whose timer has run out."""
        if self.restarted(until):
            self._due.clear()
        while self._due and self._due[0][0] <= until:
            due, image = heapq.heappop(self._due)
            if host.held[image] and host.last_use[image] + self.delay == due:
                host.now = max(due, host.now)
                host.remove(image)


class Taskcluster(Baseline):
    """taskcluster's docker-worker (2020-05): images unused for two hours; under 30 GB all unused ones. Each minute."""

    name = "taskcluster"

    def __init__(self, ttl: float = 2 * HOUR_S, low: int = 30 * 10**9, period: float = MINUTE) -> None:
        self.ttl = ttl
        self.low = low
        self.period = period
        self.tool = ToolRules(ToolKind.TASKCLUSTER, (ttl, low, period))
        self._marked: dict[int, float] = {}
        self._earliest = 0.0

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """Mark it again."""
        self._marked[image] = host.now + self.ttl
        self._earliest = min(self._earliest, max(self._marked[image], host.last_use[image]))

    def waits(self, host: Host, until: float, *, use: bool) -> None:  # noqa: ARG002
        """Sweep each minute until then."""
        full = host.free <= self.low
        if not full and self._earliest > until:
            return
        tick = host.now // self.period * self.period + self.period
        while tick <= until:
            host.now = tick
            self._sweep(host)
            tick = max(tick + self.period, -(-self._next(host) // self.period) * self.period)

    def _sweep(self, host: Host) -> None:
        full = host.free <= self.low
        for i in [i for i, expires in self._marked.items() if full or expires < host.now]:
            if not host.pinned(i) and host.held[i]:
                host.remove(i)
            if not host.held[i]:
                del self._marked[i]

    def _next(self, host: Host) -> float:
        """When something may go next, if nothing else happens."""
        full = host.free <= self.low
        self._earliest = min(
            (host.last_use[i] if full else max(expires, host.last_use[i]) for i, expires in self._marked.items()),
            default=float("inf"),
        )
        return self._earliest
