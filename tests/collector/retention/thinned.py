"""Logs with old events, and all that must be the same once these have become sums."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collector.eventlog import experience
from collector.eventlog.log import ONLY_KEPT, EventLog
from collector.model.errors import UsageError
from collector.queries.story import stories
from tests.collector.histories import IMAGES, KINDS, History, answers, by_hour

S = 10**9
DAY = 86400
KEEP = 30.0 * DAY
STEPS = ("piece", "copied", "folded", "closed", "synced", "replaced")
MIX = (*(kind for kind in KINDS if kind != "set back"), *["container"] * 6, *["pulled"] * 3, "job")


class Crash(BaseException):
    """What a fake crash raises: nothing handles it."""


def filled(path: Path, seed: int, days: int = 2, steps: int = 60, last_days: int = 31) -> tuple[EventLog, float]:
    """A log of some busy days and, after a month, of some quiet ones; and what time it is then."""
    log, history, noise = EventLog(path, host="h"), History(), random.Random(seed)
    for day in range(days + 2):
        for _ in range(steps if day < days else 8):
            history.take(
                noise.choice(MIX), noise.randrange(4), noise.randrange(4), noise.choice((1, 10, 100, 600, 3000))
            )
        history.now += (DAY // 2 if day != days - 1 else last_days * DAY) * S
        log.append(history.events)
        history.events.clear()
    return log, history.now / S + 1


def asked(log: EventLog, now: float) -> dict[str, Any]:
    """All that decisions and explanations are made of."""
    found = answers(log, now)
    found["status"] = found["status"][1], found["status"][4]
    for image in IMAGES:
        try:
            found[f"story {image[-1]}"] = [asdict(story) for story in stories(log, image)]
        except UsageError:
            found[f"story {image[-1]}"] = None
    with log.reading(whole_since=ONLY_KEPT) as connection:
        found["habits"] = [sorted(rows) for rows in experience.read(connection, log.host, int(now * 1e9))]
    found["hours"] = hours(log, now)
    return found


def hours(log: EventLog, now: float) -> tuple[Any, Any]:
    """What counts by its hour."""
    waits, falls = by_hour(log, int(now * S))
    return waits, falls[:-1]  # what is not folded is read from what is left
