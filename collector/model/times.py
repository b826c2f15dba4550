"""Points in time as engines and files write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?(?P<zone>Z|[+-]\d\d:\d\d)?"
)

_END_NS = 2**63


def parse_rfc3339(text: str | None) -> float | None:
    """UTC seconds since 1970 of an RFC 3339 time; None if there is none that makes sense.

    Engines write nanoseconds (Python reads six digits) and, for "unknown", the year 1.
    """
    nanoseconds = parse_rfc3339_ns(text)
    return None if nanoseconds is None else nanoseconds / 1e9


def parse_rfc3339_ns(text: str | None) -> int | None:
    """As `parse_rfc3339`, in nanoseconds; None outside the years 1970 to 2262, which 64 bits can hold."""
    match = _RFC3339.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    zone = (match["zone"] or "Z").replace("Z", "+00:00")
    try:
        whole = datetime.fromisoformat(f"{match['date']}T{match['time']}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    fraction = (match["fraction"] or "0")[:9].ljust(9, "0")
    found = round(whole.timestamp()) * 10**9 + int(fraction)
    return found if 0 <= found < _END_NS else None
