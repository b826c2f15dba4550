"""A policy's way onto a fleet: with which hosts to begin, what must be seen there, and whether it was.

What is expected of a host is what the policy would have done in its history before it came into force, for as long a
time; what was observed is in the host's log since then. No state is kept in between: both follow from the logs.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.audit.cut_log import copy_of
from analyzer.audit.verify import agreement, verify
from analyzer.kernel.runs import Wake
from analyzer.search.fleet import Findings
from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import Progress, replay
from analyzer.trace.sources import Source
from analyzer.trace.trace import Trace
from collector.eventlog.log import EventLog
from collector.model.errors import HindsightError, LogError
from collector.model.units import DAY_S, format_bytes, format_count, format_duration, format_time
from collector.model.untrusted import mapping, read_object
from collector.queries.coverage import coverage
from collector.queries.status import LEAST_HISTORY_S
from pruner.policy.file import recorded_policy
from pruner.policy.policy import Policy
from pruner.report import history

WEEK_S = 7 * DAY_S
# What a week pulls again differs from week to week; what is twice the average and this share of all pulls is not noise.
_TIMES = 2.0
_OF_ALL = 0.05
# Nor is one image more in a week, however little was predicted.
_OF_DISK = 0.01
_LEAST_AGREEMENT = 0.99
_BLIND_SHARE = 0.05
_AGAIN = "most pulled again"


@dataclass(frozen=True, slots=True)
class Preview:
    """Work on one host: what the policy would have done there, up to a time.

    Attributes:
        policy: the policy.
        until: UTC seconds; None: all of the history.
    """

    policy: Policy
    until: float | None = None

    def __call__(self, trace: Trace, progress: Progress | None = None) -> Findings:
        """The one result. Raises LogError or UsageError, see `replay`."""
        before = trace
        if self.until is not None:
            seconds = self.until - trace.utc(0.0)
            if seconds <= 0:
                raise LogError.about(
                    trace.host, "", f" has no history before {format_time(self.until)} to predict from"
                )
            before = trace.between(0.0, min(seconds, trace.end))
        result = replay(before, PolicyCleaner(self.policy, before, wake=Wake()), progress=progress)
        return Findings.of(before, [result])


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be seen on a host in so long a time. Sizes are bytes.

    Attributes:
        host: its name.
        seconds: for how long.
        repulled: what the policy would pull again.
        most_repulled: what it may pull again.
        least_free: the least that it would have left free.
        full: incidents of a full disk in all of the history.
        losses: images lost in all of the history.
        disk: the size of the disk.
        new: what is pulled for the first time.
    """

    host: str
    seconds: float
    repulled: float
    most_repulled: float
    least_free: int
    full: int
    losses: int
    disk: int
    new: float

    @classmethod
    def of(cls, found: Findings, seconds: float = WEEK_S) -> Expected:
        """What follows from the result of a `Preview`."""
        (result,) = found.results
        share = seconds / result.seconds if result.seconds else 0.0
        again, new = share * result.repulled_bytes, share * result.compulsory_bytes
        disk = found.facts.disk_total_bytes
        most = max(_TIMES * again + _OF_ALL * new, _OF_DISK * disk)
        return cls(found.host, seconds, again, most, result.min_free, result.disk_full, result.losses, disk, new)

    @property
    def trouble(self) -> str:
        """Why the policy must not come to this host, in words; empty: it may."""
        said = []
        if self.full:
            said.append(f"the disk would be full {format_count(self.full, 'time')}")
        if self.losses:
            said.append(f"{format_count(self.losses, 'image')} that no registry has would be lost")
        return ", ".join(said)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "trouble": self.trouble or None}


@dataclass(frozen=True, slots=True)
class Canary:
    """A host to begin with: what is expected there, and why it was taken."""

    expected: Expected
    why: str


def canaries(expected: Sequence[Expected], most: int) -> list[Canary]:
    """The hosts to begin with: the tightest, the one that pulls most again, the most usual, then others unlike them.

    Args:
        expected: what is expected of each host; those where the policy makes trouble are not taken.
        most: how many.
    """
    left = [one for one in expected if not one.trouble]
    if not left:
        return []
    places = _places(left)
    usual = np.abs(places - np.median(places, axis=0)).sum(axis=1)
    reasons: tuple[tuple[str, Callable[[int], float]], ...] = (
        ("least space left", lambda k: left[k].least_free / max(left[k].disk, 1)),
        (_AGAIN, lambda k: -left[k].repulled),
        ("the most usual disk and load", lambda k: float(usual[k])),
    )
    chosen: dict[int, str] = {}
    for why, key in reasons:
        if not any(map(key, range(len(left)))) and why == _AGAIN:
            continue
        rest = [k for k in range(len(left)) if k not in chosen]
        if rest and len(chosen) < most:
            chosen[min(rest, key=lambda k: (key(k), left[k].host))] = why
    while len(chosen) < min(most, len(left)):
        far = np.array([min(np.abs(places[k] - places[c]).sum() for c in chosen) for k in range(len(left))])
        far[list(chosen)] = -1.0
        chosen[int(far.argmax())] = "unlike the others in disk or load"
    return [Canary(left[k], why) for k, why in chosen.items()]


def _places(hosts: Sequence[Expected]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Where hosts stand beside each other: disk, what is new, and what is pulled again, in powers of two."""
    return np.log2([[one.disk + 1.0, one.new + 1.0, one.repulled + 1.0] for one in hosts])


def default_count(hosts: int) -> int:
    """With how many hosts to begin: three, or one in fifty."""
    return max(3, math.ceil(hosts / 50))


@dataclass(frozen=True, slots=True)
class Observed:
    """What a host's log says since the policy came into force. Sizes are bytes, times seconds.

    Attributes:
        seconds: how long the log goes on.
        prunes: prunes by this policy.
        others: prunes by another one.
        repulled: pulled again after it had been removed.
        least_free: the least free space in a sample; None: there is none.
        full: pulls that found the disk full.
        losses: removed images that no registry has and that were asked for.
        agreement: the share of verdicts that are what the history says; None: no prune could be replayed.
        blind: how long the collector did not look.
    """

    seconds: float = 0.0
    prunes: int = 0
    others: int = 0
    repulled: int = 0
    least_free: int | None = None
    full: int = 0
    losses: int = 0
    agreement: float | None = None
    blind: float = 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """One host: what was expected and observed, and what is wrong with that."""

    expected: Expected
    observed: Observed
    faults: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "host": self.expected.host,
            "expected": self.expected.to_json(),
            "observed": asdict(self.observed),
            "faults": list(self.faults),
        }


def observe(log: EventLog, host: str, policy: Policy, since: float) -> Observed:
    """What a log says of a host from a time on.

    Args:
        log: the host's log, with its events alone.
        host: its key there.
        policy: the policy that is rolled out.
        since: when it came into force, UTC seconds.

    Raises:
        LogError: the log cannot be read.
    """
    started = log.query(_STARTED, [host, since])
    ours = [_is_by(row[0], policy) for row in started]
    removed = history.totals(history.read(log, since))
    full, least, last = log.query(_FIGURES, {"host": host, "since": since})[0]
    with log.reading() as connection:
        blind = coverage(connection, host).blind(since, last) if last is not None and last > since else 0.0
    share = agreement(verify(log, host, len(started))) if started else None
    return Observed(
        seconds=max(0.0, (last or since) - since),
        prunes=sum(ours),
        others=len(ours) - sum(ours),
        repulled=int(removed["bytes_back_again"]),
        least_free=least,
        full=int(full),
        losses=int(removed["unrecoverable_misses"]),
        agreement=share,
        blind=blind,
    )


def _is_by(recorded: str, policy: Policy) -> bool:
    values = mapping(mapping((read_object(recorded) or {}).get("policy")).get("values"))
    try:
        return bool(values) and recorded_policy(values) == policy
    except (HindsightError, ValueError):
        return False


def judge(source: Source, found: Findings, policy: Policy, since: float) -> Judged:
    """Compare what was expected of a host with what its log says. Raises LogError."""
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        # It is read several times, and may lie in a store.
        copy = copy_of(source.log(), source.host, Path(folder))
        seen = observe(copy, source.host, policy, since)
    expected = Expected.of(found, seen.seconds)
    return Judged(expected, seen, tuple(_faults(expected, seen, policy)))


def _faults(expected: Expected, seen: Observed, policy: Policy) -> list[str]:
    """What speaks against going on, in words."""
    said = []
    if seen.full:
        said.append(f"the disk was full {format_count(seen.full, 'time')}")
    if seen.losses:
        said.append(f"{format_count(seen.losses, 'image')} that no registry has were asked for again")
    if seen.repulled > expected.most_repulled:
        said.append(
            f"{format_bytes(seen.repulled)} pulled again, more than {format_bytes(expected.most_repulled)} "
            f"(predicted {format_bytes(expected.repulled)})"
        )
    threshold = policy.levels(expected.disk, 0).threshold[0]
    if seen.least_free is not None and seen.least_free < min(expected.least_free, threshold) / 2:
        said.append(
            f"only {format_bytes(seen.least_free)} free at worst (predicted {format_bytes(expected.least_free)})"
        )
    if not seen.prunes and seen.least_free is not None and seen.least_free < threshold:
        said.append(f"{format_bytes(seen.least_free)} were free, under its threshold, and it pruned nothing")
    if seen.agreement is not None and seen.agreement < _LEAST_AGREEMENT:
        said.append(f"{1 - seen.agreement:.1%} of the verdicts are not what the history says (`analyzer verify`)")
    if seen.others:
        said.append(f"{format_count(seen.others, 'prune')} by another policy")
    if seen.seconds < LEAST_HISTORY_S:
        said.append(f"only {format_duration(seen.seconds)} of its log are there yet")
    elif seen.blind > _BLIND_SHARE * seen.seconds:
        said.append(f"{format_duration(seen.blind)} were not observed")
    return said


def verdict(judged: Sequence[Judged], unjudged: Sequence[str] = ()) -> tuple[bool, str]:
    """Whether to go on, and that in one line.

    Args:
        judged: the hosts that it was begun with.
        unjudged: those of them whose logs say nothing.
    """
    bad = [f"{one.expected.host}: {', '.join(one.faults)}" for one in judged if one.faults]
    bad += [f"{host}: it cannot be judged" for host in unjudged]
    if bad:
        hosts = format_count(len(judged) + len(unjudged), "host")
        return False, f"wait: {len(bad)} of {hosts} did not do as predicted: {'; '.join(bad)}"
    idle = [one.expected.host for one in judged if not one.observed.prunes]
    if len(idle) == len(judged):
        return (
            False,
            f"wait: no prune by this policy was seen on {', '.join(idle)}: is it in force there, and needed?",
        )
    again = sum(one.observed.repulled for one in judged)
    predicted = sum(one.expected.repulled for one in judged)
    prunes = sum(one.observed.prunes for one in judged)
    shares = [one.observed.agreement for one in judged if one.observed.agreement is not None]
    agree = f", {min(shares):.1%} of verdicts or more are what the history says" if shares else ""
    unneeded = f"; no prune was needed on {', '.join(idle)}" if idle else ""
    return True, (
        f"go on: {format_count(len(judged), 'host')} did as predicted: {format_count(prunes, 'prune')}, no disk full, "
        f"{format_bytes(again)} pulled again (predicted {format_bytes(predicted)}){agree}{unneeded}"
    )


_STARTED = """
SELECT CAST(attributes AS VARCHAR) FROM event
WHERE kind = 'prune_started' AND host = ? AND epoch_ns(time) / 1e9 >= ?
    AND coalesce(attributes ->> '$.round', '') <> '0'
ORDER BY seq
"""
_FIGURES = """
SELECT (SELECT count(*) FROM failed_pulls WHERE host = $host AND disk_full AND epoch_ns(time) / 1e9 >= $since),
    (SELECT min(free_bytes) FROM disk WHERE host = $host AND epoch_ns(time) / 1e9 >= $since),
    (SELECT epoch_ns(max(time)) / 1e9 FROM event WHERE host = $host)
"""
