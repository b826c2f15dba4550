"""Synthetic CI histories, to try orders on hosts that nobody has recorded; the same seed gives the same history.

What is drawn, and why:

- Projects differ widely in how often they run pipelines (log-normal), follow office hours and weekdays,
  and this host gets a share of their jobs only.
- A project's jobs use images of a few repositories. Each repository gets a new tag now and then (from
  every few days to a few times a year); the default branch uses the newest at once, a merge request
  those of the day it was opened, for as long as it lives, and a stable branch those of its release, once
  a week or so.
- Some projects run at night, by schedule, with images that nothing else uses; now and then somebody
  tries an image once.
- Images share a distribution's layers among projects, and a repository's lower layers among its tags.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace, numbered
from collector.model.traits import Use

DAY = 86400.0
MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Host:
    """What a synthetic host is like.

    Attributes:
        projects: how many projects run jobs on it.
        days: how long it is watched.
        pipelines: median pipelines per day and project.
        share: the share of jobs that this host gets.
        disk_bytes: its disk.
        other_bytes: what something else than images holds of it.
        job_minutes: median length of a job.
    """

    projects: int = 20
    days: int = 90
    pipelines: float = 4.0
    share: float = 0.3
    disk_bytes: int = 200 * GIB
    other_bytes: int = 20 * GIB
    job_minutes: float = 6.0


@dataclass(slots=True)
class _Repository:
    """A repository's tags: since when each is the newest, and its image's number."""

    name: str
    since: list[float] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def newest(self, time: float) -> int:
        return self.images[max(0, int(np.searchsorted(self.since, time, side="right")) - 1)]


class _Maker:
    """Draws one history."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.draw = np.random.default_rng(seed)
        self.images: list[ImageFacts] = []
        self.uses: list[tuple[float, int, float, Use]] = []
        self.bases = [
            [(f"base{k}-{j}", self.size(60, 0.8)) for j in range(int(self.draw.integers(1, 4)))] for k in range(8)
        ]
        self.end = host.days * DAY

    def size(self, mebibytes: float, spread: float = 1.0) -> int:
        """Bytes, log-normal about a median."""
        return int(mebibytes * MIB * self.draw.lognormal(0.0, spread))

    def image(self, reference: str, layers: list[tuple[str, int]], created: float) -> int:
        self.images.append(ImageFacts(layers, references=(reference,), created=created))
        return len(self.images) - 1

    def repository(self, name: str) -> _Repository:
        """A repository with all the tags that it gets from half a year before the watch on."""
        made = _Repository(name)
        lifetime = DAY * self.draw.choice([4.0, 12.0, 30.0, 90.0])
        base = self.bases[int(self.draw.integers(len(self.bases)))]
        middle = [(f"{name}-middle0", self.size(250))]
        time = -180 * DAY * self.draw.random()
        while time < self.end:
            if self.draw.random() < 1 / 3:
                middle = [(f"{name}-middle{len(made.images)}", self.size(250))]
            layers = [*base, *middle, (f"{name}-own{len(made.images)}", self.size(350))]
            made.since.append(time)
            made.images.append(self.image(f"{name}:{len(made.images)}", layers, time))
            time += lifetime * self.draw.exponential()
        return made

    def times(self, per_day: float) -> list[float]:
        """When pipelines start: most of them on weekdays in office hours."""
        candidates = np.sort(self.draw.random(self.draw.poisson(3 * per_day * self.host.days))) * self.end
        hour = candidates % DAY / 3600
        weekend = candidates // DAY % 7 >= 5  # noqa: PLR2004 - Saturday, the origin being a Monday
        chance = (0.15 + 0.85 * ((hour > 7) & (hour < 19))) * np.where(weekend, 0.15, 1.0)  # noqa: PLR2004
        kept: list[float] = candidates[self.draw.random(len(candidates)) < chance].tolist()
        return kept

    def job(self, image: int, earliest: float) -> None:
        begin = earliest
        end = begin + 60 * self.host.job_minutes * self.draw.lognormal(0.0, 0.9)
        self.uses.append((begin, image, end, Use.CONTAINER))

    def project(self, number: int) -> None:
        """One project's pipelines."""
        repositories = [self.repository(f"registry/p{number}/r{k}") for k in range(1 + self.draw.poisson(2.5))]
        jobs = [
            (repository, stage, 0.2 + 0.8 * self.draw.random())
            for stage in range(int(self.draw.integers(1, 4)))
            for repository in repositories
            for _ in range(1 + self.draw.poisson(1.5))
        ]
        opened: list[float] = []
        release = float(self.draw.random() * 60 * DAY)
        for time in self.times(self.host.pipelines * self.draw.lognormal(0.0, 1.2)):
            release = release if time < release + 90 * DAY else time
            opened = [start for start in opened if self.draw.random() < 0.9]  # noqa: PLR2004 - the others are merged
            kind = self.draw.random()
            if kind < 0.35 or not opened:  # noqa: PLR2004 - the default branch, and new merge requests
                as_of = time
                if self.draw.random() < 0.5:  # noqa: PLR2004
                    opened.append(time)
            elif kind < 0.95:  # noqa: PLR2004
                as_of = opened[int(self.draw.integers(len(opened)))]
            else:
                as_of = min(release, time)
            for repository, stage, chance in jobs:
                if self.draw.random() < chance * self.host.share:
                    self.job(
                        repository.newest(as_of), time + 60 * self.host.job_minutes * stage + 30 * self.draw.random()
                    )

    def nightly(self, number: int) -> None:
        """A schedule with images of its own, each night or each week."""
        repositories = [self.repository(f"registry/n{number}/r{k}") for k in range(1 + self.draw.poisson(1.0))]
        step = DAY * self.draw.choice([1, 1, 7])
        time = DAY * self.draw.random()
        while time < self.end:
            for repository in repositories:
                self.job(repository.newest(time), time + 600 * self.draw.random())
            time += step

    def once(self, number: int) -> None:
        """Somebody tries an image."""
        time = self.end * self.draw.random()
        layers = [*self.bases[int(self.draw.integers(len(self.bases)))], (f"once{number}", self.size(300))]
        self.job(self.image(f"hub/once{number}:1", layers, time), time)


def make_history(host: Host, seed: int) -> Trace:
    """A synthetic history of a host.

    Args:
        host: what the host is like.
        seed: what to draw from; the same seed gives the same history.
    """
    maker = _Maker(host, seed)
    for number in range(host.projects):
        maker.project(number)
    for number in range(host.projects // 4):
        maker.nightly(number)
    for number in range(host.projects * host.days // 60):
        maker.once(number)
    images, uses = numbered(maker.images, maker.uses)
    disk = [DiskState(0.0, host.disk_bytes, host.other_bytes)]
    return make_trace(images, [use for use in uses if use[0] < maker.end], disk, end=maker.end)
