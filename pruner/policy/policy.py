"""The policy: what an operator may choose, as values that check themselves and say themselves."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from collector.model.references import normal_glob, spellings
from collector.model.units import DAY_S, HOUR_S, format_bytes, format_count, format_duration, has_no_unit, parse_bytes
from pruner.policy.local_images import SUPERSEDED

PER_CENT = 100.0
MAX_PER_CENT = 100.0
BYTES = "B"
PER_JOB = "B/job"
AUTO = "auto"
AUTO_DEFAULT_PER_CENT = 10.0
AUTO_DEFAULT_AGE = HOUR_S
NEVER = "never"

# More jobs at once than any runner takes.
MOST_SLOTS = 10**6


def format_entries(count: int) -> str:
    """So many entries of an allowlist, as a policy's name says it: ``1 allowlist entry``."""
    return "1 allowlist entry" if count == 1 else f"{count:,} allowlist entries"


@dataclass(frozen=True, slots=True)
class Space:
    """An amount of free space: absolute, a share of the disk, or so much for each free job slot.

    Attributes:
        amount: bytes (or inodes), or per cent when `unit` is ``%``.
        unit: ``B`` absolute, ``%`` of the file system, ``B/job`` per job slot, ``never``, or ``auto``:
            derived from the host's past (`pruner.policy.headroom`), a tenth of the disk until that is enough.
        text: as the operator wrote it.
    """

    amount: float
    unit: str
    text: str = field(compare=False, default="")

    @classmethod
    def parse(cls, text: str) -> Space:
        """The space that ``10%``, ``50GB``, ``2GB/job``, ``auto`` or ``never`` means.

        Raises:
            ValueError: it means none, or a share over 100 %.
        """
        clean = text.strip()
        if clean == NEVER:
            return cls(-1.0, NEVER, clean)
        if clean == AUTO:
            return cls(AUTO_DEFAULT_PER_CENT, AUTO, clean)
        if clean.endswith("%"):
            try:
                share = float(clean[:-1])
            except ValueError:
                raise ValueError(f"'{text}' is not a share (such as 10%)") from None
            if not 0.0 <= share <= MAX_PER_CENT:
                raise ValueError(f"'{text}' is not between 0% and 100%")
            return cls(share, "%", clean)
        if clean.endswith("/job"):
            return cls(float(parse_bytes(clean.removesuffix("/job"))), PER_JOB, clean)
        if has_no_unit(clean):
            raise ValueError(f"'{text}' has no unit: write {clean}% for a share, {clean}GB or {clean}B for a size")
        try:
            return cls(float(parse_bytes(clean)), BYTES, clean)
        except ValueError:
            raise ValueError(f"'{text}' is not free space (such as 10%, 50GB or 2GB/job)") from None

    @classmethod
    def parse_inodes(cls, text: str) -> Space:
        """The free inodes that ``5%``, ``100000`` or ``2000/job`` means: a number of inodes has no unit.

        Raises:
            ValueError: it means none.
        """
        clean = text.strip()
        if clean.endswith("%") or clean in {NEVER, AUTO}:
            return cls.parse(clean)
        number, per_job, _ = clean.partition("/job")
        if not number.isdecimal():
            raise ValueError(f"'{text}' is not free inodes (such as 5%, 100000 or 2000/job)")
        return cls(float(number), PER_JOB if per_job else BYTES, clean)

    def of(self, total: float, job_slots: int = 1) -> float:
        """The amount on a file system of `total` bytes (or inodes) with `job_slots` free slots.

        Negative for ``never``: no free space is less than that.
        """
        if self.unit in {"%", AUTO}:
            return self.amount / PER_CENT * total
        if self.unit == PER_JOB:
            # A slot may be free again, and taken, before the next tick: one job always counts.
            return self.amount * max(1, job_slots)
        return self.amount

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Containers:
    """Which stopped containers may go. Running, paused and restarting ones never do.

    The defaults: a CI job's containers are of no use once it has ended (the runner removes them
    itself; those left are of jobs that failed or whose runner was killed), an hour leaves time to
    look at them. Somebody else's stopped container may be needed again the next day.

    Attributes:
        enabled: whether any may go.
        job_grace: seconds since a CI job's container stopped (or was created, if never started).
        grace: the same for all other containers.
        keep: globs (or ``re:`` expressions) of names of containers that stay.
        empty_logs: whether logs of stopped containers that stay are emptied when the disk is completely full.
    """

    enabled: bool = True
    job_grace: float = HOUR_S
    grace: float = DAY_S
    keep: tuple[str, ...] = ()
    empty_logs: bool = False


@dataclass(frozen=True, slots=True)
class Dangling:
    """Whether images without a name go before all others.

    Attributes:
        enabled: whether they do; if not, they wait for their turn in the order.
        age: seconds unused after which they may.
    """

    enabled: bool = True
    age: float = DAY_S


@dataclass(frozen=True, slots=True)
class Volumes:
    """Which volumes may go. One that any container refers to never does.

    Attributes:
        enabled: whether any may go.
        anonymous_age: seconds unused after which a volume without a name may.
        cache_age: seconds unused after which a cache volume of GitLab Runner may.
        builder_age: seconds unused after which the state of a buildx builder that is gone may.
        named: globs (or ``re:`` expressions) of named volumes that may go, too.
        named_age: seconds unused after which those may.
        keep: globs (or ``re:`` expressions) of volumes of any kind that stay.
    """

    enabled: bool = True
    anonymous_age: float = DAY_S
    cache_age: float = 7 * DAY_S
    builder_age: float = 14 * DAY_S
    named: tuple[str, ...] = ()
    named_age: float = 14 * DAY_S
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildCache:
    """How much build cache stays.

    Attributes:
        enabled: whether any may go.
        keep: bytes that stay.
        age: seconds unused after which a record may go.
    """

    enabled: bool = True
    keep: int = 10 * 10**9
    age: float = DAY_S


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be removed, when, and in which order.

    Attributes:
        threshold: free space under which pruning starts.
        target: free space at which it stops; None: the threshold.
        emergency: free space under which protected images go too, once all others are gone;
            None: the threshold; ``never`` switches it off.
        inode_threshold: free inodes under which pruning starts (and at which it stops).
        allowlist: globs on ``repository:tag`` (or on the repository), or ``re:`` regular expressions, in any spelling.
        allowlist_idle: seconds unused after which an allowlisted image loses its protection.
        min_age: seconds; no image used or pulled more recently goes. None: derived from the host's past
            (`pruner.policy.min_age`).
        order: which images go first, a name in `pruner.policy.orders.ORDERS`.
        interval: seconds between ticks of the timer.
        keep_labels: labels, ``name`` or ``name=value``; images, containers and volumes that have one stay.
        rollback_grace: seconds from a service's last change for which the image that it ran before stays.
        deadline: seconds after which a run asks nothing more of the engine, and ends.
        local_images: what becomes of images that exist only on the host: ``superseded`` (see
            `pruner.policy.local_images`), ``keep`` or ``evict``.
        local_idle: seconds unused after which one that is superseded may go.
        job_slots: jobs that the host's runners run at once, for amounts per job; None: read from `runner_config`.
        runner_config: GitLab Runner's configuration, whose `concurrent` is the number of slots.
        rates: the file with what a fleet knows of how soon images return, which counts beside the host's own past;
            empty: none.
        containers, dangling, volumes, build_cache: what else may go, before images in use.
        min_age_evidence: how it follows from the host's past, in words; empty: it was given.
        sources: where each value that is given is from (a file, the command line), as (key, source).
    """

    threshold: Space = field(default_factory=lambda: Space.parse(AUTO))
    target: Space | None = None
    emergency: Space | None = None
    inode_threshold: Space = field(default_factory=lambda: Space.parse("5%"))
    allowlist: tuple[str, ...] = ()
    allowlist_idle: float = 14 * DAY_S
    min_age: float | None = None
    order: str = "forecast"
    interval: float = 300.0
    deadline: float = 600.0
    rollback_grace: float = DAY_S
    local_images: str = SUPERSEDED
    local_idle: float = 7 * DAY_S
    keep_labels: tuple[str, ...] = ("docker-hindsight.keep=true",)
    job_slots: int | None = None
    runner_config: str = "/etc/gitlab-runner/config.toml"
    rates: str = ""
    containers: Containers = field(default_factory=Containers)
    dangling: Dangling = field(default_factory=Dangling)
    volumes: Volumes = field(default_factory=Volumes)
    build_cache: BuildCache = field(default_factory=BuildCache)
    min_age_evidence: str = field(default="", compare=False)
    sources: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @property
    def per_job(self) -> bool:
        """Whether an amount is given per free job slot."""
        levels = (self.threshold, self.target, self.emergency, self.inode_threshold)
        return any(level is not None and level.unit == PER_JOB for level in levels)

    def levels(self, total: float, total_inodes: float, job_slots: int | None = None) -> Levels:
        """The policy's amounts on one file system, bytes and inodes.

        Args:
            total: bytes of the file system.
            total_inodes: its inodes; 0 where it makes them as needed.
            job_slots: free job slots of the runner; None: all of them, if the policy has the number.

        Raises:
            ValueError: the target is under the threshold, or the emergency level over it, there.
        """
        job_slots = job_slots if job_slots is not None else (self.job_slots or 1)
        threshold = self.threshold.of(total, job_slots)
        target = (self.target or self.threshold).of(total, job_slots)
        emergency = (self.emergency or self.threshold).of(total, job_slots)
        if target < threshold:
            raise ValueError(
                f"target {self.target} is less than threshold {self.threshold}: pruning would start and not run"
            )
        if emergency > target:
            raise ValueError(
                f"emergency {self.emergency} is more than {self.target or self.threshold}, at which pruning stops"
            )
        inodes = self.inode_threshold.of(total_inodes, job_slots) if total_inodes else 0.0
        never = self.emergency is not None and self.emergency.unit == NEVER
        return Levels((threshold, inodes), (target, inodes), (emergency, -1.0 if never else inodes))

    @property
    def age(self) -> float:
        """The minimum age, seconds; the longest possible where it has not been derived from the host's past yet."""
        return AUTO_DEFAULT_AGE if self.min_age is None else self.min_age

    @property
    def age_text(self) -> str:
        """The minimum age in words, with ``auto`` where it follows from the host's past."""
        if self.min_age is None:
            return AUTO
        return format_duration(self.min_age) + (f" ({AUTO})" if self.min_age_evidence else "")

    @property
    def age_explained(self) -> str:
        """The same with the evidence for it, if it follows from the host's past."""
        return ": ".join(filter(None, (self.age_text, self.min_age_evidence)))

    def kept_by(self, labels: Mapping[str, str]) -> str:
        """The entry of `keep_labels` that one of the labels meets; empty: none."""
        for entry in self.keep_labels:
            name, given, value = entry.partition("=")
            if name in labels and (not given or labels[name] == value):
                return entry
        return ""

    def protects(self, references: tuple[str, ...]) -> str | None:
        """The allowlist entry that names one of the references, or None."""
        for entry in self.allowlist:
            pattern = compile_entry(entry if entry.startswith("re:") else normal_glob(entry))
            if any(pattern.fullmatch(name) for reference in references for name in spellings(reference)):
                return entry
        return None

    def __str__(self) -> str:
        parts = [f"prune below {_said(self.threshold)} free ({self.order} order)"]
        if self.per_job and self.job_slots is not None:
            parts.append(format_count(self.job_slots, "job slot"))
        if self.target is not None and self.target != self.threshold:
            parts.append(f"up to {_said(self.target)}")
        if self.allowlist:
            parts.append(f"sparing {format_entries(len(self.allowlist))}")
        if self.emergency is not None and self.emergency != self.threshold:
            parts.append(f"emergency {_said(self.emergency)}")
        if self.local_images != SUPERSEDED:
            parts.append(f"{self.local_images} local images")
        parts.append(f"min age {self.age_text}")
        return ", ".join(parts)


def _said(space: Space) -> str:
    """Space as one says it: a number of bytes in a larger unit."""
    return format_bytes(space.amount) if space.text.removesuffix("B").isdigit() else str(space)


@dataclass(frozen=True, slots=True)
class Levels:
    """A policy's levels of free space on one file system, each as (bytes, inodes)."""

    threshold: tuple[float, float]
    target: tuple[float, float]
    emergency: tuple[float, float]


def first_match(entries: tuple[str, ...], name: str) -> str | None:
    """The entry that names a container or a volume, or None."""
    return next((entry for entry in entries if compile_entry(entry).fullmatch(name)), None)


@lru_cache(maxsize=1024)
def compile_entry(entry: str) -> re.Pattern[str]:
    """The regular expression of an allowlist entry, which must match a whole name.

    Raises:
        ValueError: the entry is empty or no regular expression.
    """
    if not entry.strip():
        raise ValueError("an allowlist entry is empty")
    try:
        return re.compile(entry.removeprefix("re:") if entry.startswith("re:") else fnmatch.translate(entry))
    except re.error as error:
        raise ValueError(f"allowlist entry '{entry}' is not a regular expression: {error}") from None
