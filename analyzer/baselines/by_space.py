"""Tools that remove when space is short, by free space or by what images hold."""

from __future__ import annotations

import fnmatch
import heapq
import math
from collections.abc import Iterable, Sequence

from analyzer.baselines.base import (
    GB,
    GIB,
    MINUTE,
    Baseline,
    remove_until,
    seen_use,
    size,
    unique_size,
    unused,
)
from analyzer.kernel.rules import AgeClock, AgeRule, ToolKind, ToolRules
from analyzer.simulation.host import Host
from collector.model.units import HOUR_S

PER_CENT = 100


class Flush(Baseline):
    """Under a tenth of free space: all unused images (``docker system prune --all``), every 5 min."""

    name = "flush"
    interval = 5 * MINUTE
    rule = AgeRule(AgeClock.BUILT, -math.inf, low=0.1)


class Docuum(Baseline):
    """docuum 0.27: least recently used by any container event, while images hold more than 10 GB.

    It vacuums at its start and when it meets an image that it does not know: growth of anything
    else never triggers it. Its state is a file, so it survives restarts.
    """

    def __init__(self, capacity: float = 10 * GB, share: float | None = None) -> None:
        self.capacity = capacity
        self.share = share
        self.name = "docuum" if share is None else f"docuum-{share:.0%}"
        self.tool = ToolRules(ToolKind.DOCUUM, (capacity, -1.0 if share is None else share))
        self._started = False

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """Vacuum if the image is new to it."""
        if brought_in or not self._started:
            self._started = True
            limit = self.capacity if self.share is None else self.share * host.total
            order = sorted(unused(host), key=lambda i: (seen_use(host, i), i))
            remove_until(host, order, lambda: host.held_bytes <= limit)


class RunnerCleanup(Baseline):
    """gitlab-runner-docker-cleanup (2018-10): under 1 GB or 131,072 inodes, least recently used until twice that.

    It looks every 10 s, keeps all it knows in memory, and counts an image as used for one more
    minute. Every image counts as just used when it starts.
    """

    name = "runner-cleanup"
    low_inodes = 131_072
    ttl = MINUTE
    period = 10.0
    protected: Sequence[str] = ("gitlab/gitlab-runner:*", "quay.io/gitlab-runner*:*", "gitlab/gitlab-runner-helper:*")

    def __init__(self, low: int = GB, expected: int = 2 * GB, *, restarts: float | None = None) -> None:
        self.restarts = restarts
        self.low = low
        self.expected = expected
        self._start = 0.0
        self._spared: dict[int, bool] = {}

    def waits(self, host: Host, until: float, *, use: bool) -> None:  # noqa: ARG002 - the protocol
        """The last look before then; earlier looks could only have taken the same images in the same order."""
        look = until // self.period * self.period
        if self.restarted(look):
            self._start = look
        if look > host.now and (host.free < self.low or host.free_inodes < self.low_inodes):
            host.now = look
            remove_until(host, self._order(host), lambda: self._enough(host))

    def _enough(self, host: Host) -> bool:
        return host.free > self.expected and host.free_inodes > 2 * self.low_inodes

    def _order(self, host: Host) -> list[int]:
        scores = {
            i: int(host.now - max(seen_use(host, i), self._start) - self.ttl)
            for i in host.present
            if not self._spares(host, i)
        }
        for i, score in scores.items():
            if score > 0 and not host.trace.references[i]:
                scores[i] = score + 1000
        return sorted((i for i, score in scores.items() if score >= 0), key=lambda i: (-scores[i], i))

    def _spares(self, host: Host, image: int) -> bool:
        if image not in self._spared:
            names = host.trace.references[image]
            self._spared[image] = any(fnmatch.fnmatchcase(name, glob) for name in names for glob in self.protected)
        return self._spared[image]


class DroneGc(Baseline):
    """drone-gc (2023-01): oldest last *container creation* first, while images hold more than 5 GB; every 5 min.

    It books the size plus the shared size for each removal, where it should book the difference, so
    it stops too early. It forgets creations when it restarts, and takes the build time for unseen ones.
    """

    name = "drone-gc"
    interval = 5 * MINUTE

    def __init__(self, capacity: float = 5 * GB, *, exact: bool = False, restarts: float | None = None) -> None:
        self.exact, self.restarts = exact, restarts
        self.capacity = capacity
        self.tool = ToolRules(ToolKind.DRONE_GC, (capacity, HOUR_S), exact, restarts)
        self._created: dict[int, float] = {}
        self._uses: dict[int, int] = {}

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """Remember the creation of a container."""
        if host.uses[image] > self._uses.get(image, 0):
            self._uses[image] = host.uses[image]
            self._created[image] = host.now

    def tick(self, host: Host) -> None:
        """Remove until what it believes to be held is under the capacity."""
        if self.restarted(host.now):
            self._created.clear()
        believed = host.held_bytes
        if believed < self.capacity:
            return
        clock = {i: self._created.get(i, host.created[i]) for i in unused(host)}
        may_go = sorted((i for i, time in clock.items() if host.now - time >= HOUR_S), key=lambda i: (clock[i], i))
        booked = {i: self._booked(host, i) for i in may_go}
        for i in may_go:
            freed = host.remove(i)
            believed -= freed if self.exact else booked[i]
            if believed < self.capacity:
                return

    @staticmethod
    def _booked(host: Host, image: int) -> int:
        whole = size(host, image)
        return whole + (whole - unique_size(host, image))


class Kubelet(Baseline):
    """The kubelet (1.30): from 85 % usage down to 80 %, least recently used by polls each 5 min.

    An image that no poll saw in use counts as never used and goes first. Freed bytes are booked as
    the whole size of each image, shared layers too. All is in memory: a restart forgets it.
    """

    interval = 5 * MINUTE

    def __init__(
        self,
        high: int = 85,
        low: int = 80,
        max_age: float | None = None,
        *,
        exact: bool = False,
        restarts: float | None = None,
    ) -> None:
        self.exact, self.restarts = exact, restarts
        self.name = "kubelet" if max_age is None else "kubelet-maxage"
        self.high = high
        self.low = low
        self.max_age = max_age
        self.min_age = 2 * MINUTE
        self.tool = ToolRules(ToolKind.KUBELET, (high, low, max_age or 0.0, self.min_age), exact, restarts)
        self._start = 0.0
        self._detected: dict[int, float] = {}
        self._last_used: dict[int, float] = {}

    def tick(self, host: Host) -> None:
        """Poll, then collect garbage."""
        if self.restarted(host.now):
            self._start = host.now
            self._detected.clear()
            self._last_used.clear()
        self._poll(host)
        if self.max_age is not None and host.now - self._start > self.max_age:
            used = self._last_used
            for i in self._ranked(i for i in unused(host) if host.now - used.get(i, -math.inf) > self.max_age):
                host.remove(i)
        if PER_CENT - int(host.free * PER_CENT / host.total) >= self.high:
            need = host.total * (PER_CENT - self.low) / PER_CENT - host.free
            self._free(host, self._ranked(unused(host)), need)

    def _ranked(self, images: Iterable[int]) -> list[int]:
        return sorted(images, key=lambda i: (self._last_used.get(i, 0.0), self._detected[i], i))

    def _poll(self, host: Host) -> None:
        present = set(host.present)
        self._detected = {i: self._detected.get(i, host.now) for i in present}
        self._last_used = {i: at for i, at in self._last_used.items() if i in present}
        self._last_used.update({i: host.now for i in present if host.pinned(i)})

    def _free(self, host: Host, idle: Sequence[int], need: float) -> None:
        for i in idle:
            if host.now - self._detected[i] < self.min_age:
                continue
            whole = size(host, i)
            freed = host.remove(i)
            need -= freed if self.exact else whole
            if need <= 0:
                return


class Arvados(Baseline):
    """arvados-docker-cleaner: when a container starts or ends, keep the most recently used within 1 GiB.

    Sizes are summed as if nothing were shared; a big image that does not fit is skipped while
    smaller, older ones are kept. It knows only images that containers have used since it started.
    """

    name = "arvados"

    def __init__(self, quota: int = GIB, *, exact: bool = False, restarts: float | None = None) -> None:
        self.exact, self.restarts = exact, restarts
        self.quota = quota
        self.tool = ToolRules(ToolKind.ARVADOS, (quota,), exact, restarts)
        self._created: dict[int, float] = {}
        self._uses: dict[int, int] = {}
        self._ends: list[float] = []

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """A container was created."""
        if host.uses[image] > self._uses.get(image, 0):
            self._uses[image] = host.uses[image]
            self._created[image] = host.now
            heapq.heappush(self._ends, host.last_use[image])
            self._clean(host)

    def waits(self, host: Host, until: float, *, use: bool) -> None:  # noqa: ARG002
        """Containers end before then."""
        if self.restarted(until):
            self._created.clear()
        while self._ends and self._ends[0] <= until:
            host.now = max(host.now, heapq.heappop(self._ends))
            self._clean(host)

    def _clean(self, host: Host) -> None:
        known = sorted(
            (i for i in host.present if i in self._created), key=lambda i: (self._created[i], i), reverse=True
        )
        live = [i for i in known if host.pinned(i)] or known[:1]
        left = self.quota - sum(self._size(host, i) for i in live)
        going = []
        for i in known:
            if i in live:
                continue
            if self._size(host, i) <= left:
                left -= self._size(host, i)
            else:
                going.append(i)
        for i in reversed(going):
            host.remove(i)

    def _size(self, host: Host, image: int) -> int:
        return unique_size(host, image) if self.exact else size(host, image)


class Stone(Baseline):
    """A script by hand, every 5 min: under a tenth of free space, least recently used until it is back.

    Its clock is observed use, pull time, or the last job that named the image (``use``, ``pull``,
    ``job``). No image is too young for it, and it removes those that free nothing.
    """

    interval = 5 * MINUTE

    def __init__(self, clock: str = "use", low: float = 0.1) -> None:
        self.name = f"stone-{clock}"
        self.clock = clock
        self.low = low
        self.tool = ToolRules(ToolKind.STONE, (low, ("use", "pull", "job").index(clock)))
        self._uses: dict[int, int] = {}
        self._job: dict[int, float] = {}

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:
        """Remember when a job named the image."""
        if host.uses[image] > self._uses.get(image, 0) or brought_in:
            self._uses[image] = host.uses[image]
            self._job[image] = host.now

    def tick(self, host: Host) -> None:
        """Remove until the space is back."""
        if host.free < self.low * host.total:
            order = sorted(unused(host), key=lambda i: (self._time(host, i), i))
            remove_until(host, order, lambda: host.free >= self.low * host.total)

    def _time(self, host: Host, image: int) -> float:
        if self.clock == "use":
            return seen_use(host, image)
        return host.pulled[image] if self.clock == "pull" else self._job.get(image, host.pulled[image])


class BuildkitRank(Baseline):
    """BuildKit's cache rules (2026-08), on images: lowest rank of last use plus use count, re-ranked each time.

    As dockerd sets them: at most 80 % of the disk, 20 % kept free, at least 10 % kept. Runs after a use, at
    most once a minute.
    """

    name = "buildkit-rank"
    reserved = 0.1
    max_used = 0.8
    min_free = 0.2

    def __init__(self) -> None:
        self._last = -math.inf

    def used(self, host: Host, image: int, *, brought_in: bool) -> None:  # noqa: ARG002 - the protocol
        """Remove one after the other while too much is held."""
        if host.now - self._last < MINUTE:
            return
        self._last = host.now
        while self._excess(host) and (idle := unused(host)):
            host.remove(min(idle, key=self._ranks(host, idle).__getitem__))

    def _excess(self, host: Host) -> bool:
        keep = self.max_used * host.total
        short = self.min_free * host.total - host.free
        if short > 0:
            keep = min(keep, host.held_bytes - short)
        return host.held_bytes > max(keep, self.reserved * host.total)

    @staticmethod
    def _ranks(host: Host, idle: Sequence[int]) -> dict[int, float]:
        recency = _places([seen_use(host, i) for i in idle])
        frequency = _places([float(host.uses[i]) for i in idle])
        highest = (max(recency), max(frequency))
        return {i: recency[k] / highest[0] + frequency[k] / highest[1] for k, i in enumerate(idle)}


def _places(values: Sequence[float]) -> list[int]:
    """The place of each value among the distinct ones, from 1."""
    place = {value: k for k, value in enumerate(sorted(set(values)), start=1)}
    return [place[value] for value in values]
