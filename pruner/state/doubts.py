"""What a decision has to do without, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from collector.eventlog.log import EventLog
from collector.model.advice import hidden_system_log
from collector.model.origin import Origin
from collector.model.units import DAY_S, format_count, format_duration, format_time
from pruner.policy.local_images import EVICT
from pruner.policy.policy import Policy
from pruner.state.inventory import (
    HostRecord,
    Image,
)

_STALE_S = 900.0
# At least this share of the recent past must have been observed, or the decision says so.
_LOOKED_AT_S = 7 * DAY_S
_BLIND_SHARE = 0.01


def warnings(history: HostRecord, log: EventLog | None, policy: Policy, now: float) -> tuple[str, ...]:
    """What the decision has to do without."""
    found = []
    first, last = history.coverage.first, history.coverage.last
    if first is None or last is None:
        where = f" at {log.path}" if log is not None else ""
        what = "no event log" if log is None or not log.path.exists() else "no use is recorded in the event log"
        found.append(
            f"{what}{where}: last use is unknown and build or pull time is used instead; "
            f"{hidden_system_log() or 'start `collector run` on this host'}"
        )
        return tuple(found)
    if now - first < policy.age:
        found.append(
            f"the log is young (since {format_time(first)}): images without an observed use "
            "are judged by build or pull time"
        )
    if now - last > _STALE_S:
        found.append(
            f"nothing has been recorded for {format_duration(now - last)}: "
            "is the collector running? Uses since then are known only as far as the engine remembers them"
        )
    gap = max((ended for _, ended in history.coverage.gaps), default=None)
    if gap is not None and now - gap < policy.age:
        found.append(f"the history has a gap until {format_time(gap)}")
    blind = history.coverage.blind(now - _LOOKED_AT_S, now)
    if blind > _BLIND_SHARE * _LOOKED_AT_S:
        found.append(
            f"{format_duration(blind)} of the last {format_duration(_LOOKED_AT_S)} were not observed: "
            "images used only then seem unused for longer than they are"
        )
    return tuple(found)


def unknown_origins(images: Iterable[Image], policy: Policy) -> Iterator[str]:
    """What is kept only because it is not known whether a registry has it."""
    unknown = sum(image.origin is Origin.UNKNOWN for image in images)
    if unknown and policy.local_images != EVICT:
        yield (
            f"whether a registry has {format_count(unknown, 'image')} is not known, so they count as local "
            f"(local_images = {policy.local_images}): as root, `collector run --once` looks it up in the engine's own "
            "records"
        )
