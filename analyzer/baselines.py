"""What others do about full disks, as simulator policies.

Each follows the named tool's own code, its faults included; where it leans on something that the
log does not tell, its docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable

from analyzer.host import Host
from analyzer.replay import Cleaner

HOUR = 3600.0
DAY = 86400.0


class Baseline:
    """Something others run; by itself it removes nothing, ever (``never``).

    Its results bound the re-pulls from below and show how much disk keeping everything takes.
    """

    baseline = True
    name = "keep-everything"
    interval = 0.0

    def tick(self, host: Host) -> None:
        """Nothing."""

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:
        """Nothing."""

    def sampled(self, host: Host) -> None:
        """Nothing."""


class DockerGc(Baseline):
    """spotify/docker-gc (2021-02), hourly: every unused image *built* longer ago than the grace period.

    Free space does not matter to it. It removes by image ID without force, so an image with two
    references stays (the engine refuses). It also removes exited containers; the log's containers
    end where they were removed in fact.
    """

    def __init__(self, grace: float = DAY, interval: float = HOUR) -> None:
        self.name = f"docker-gc {_age(grace)}"
        self.grace = grace
        self.interval = interval

    def tick(self, host: Host) -> None:
        """Remove all that is older than the grace period."""
        for i in host.present:
            built = host.created[i]
            if host.now - built > self.grace and not host.pinned(i) and len(host.trace.references[i]) <= 1:
                host.remove(i)


class PruneUntil(Baseline):
    """``docker image prune --all --force --filter until=AGE``, by cron.

    The age is that of the build under graphdrivers, and that of the local image record (pulled or
    tagged) under the containerd store (moby, `image_prune.go` and `containerd/image_list.go`).
    """

    def __init__(self, age: float = DAY, interval: float = DAY, clock: str = "built") -> None:
        self.name = f"docker-image-prune {_age(age)} ({clock})"
        self.age = age
        self.interval = interval
        self.clock = clock

    def tick(self, host: Host) -> None:
        """Remove all that is older than the age."""
        since = host.created if self.clock == "built" else host.pulled
        for i in host.present:
            if since[i] < host.now - self.age and not host.pinned(i):
                host.remove(i)


def _age(seconds: float) -> str:
    return f"{seconds / HOUR:g}h"


BASELINES: dict[str, Callable[[], Cleaner]] = {
    "keep-everything": Baseline,
    "docker-gc": DockerGc,
    "docker-gc-12h": lambda: DockerGc(12 * HOUR),
    "docker-image-prune": PruneUntil,
    "docker-image-prune-local": lambda: PruneUntil(clock="pulled"),
}
DEFAULT_BASELINES = ("keep-everything", "docker-gc", "docker-image-prune", "docker-image-prune-local")
