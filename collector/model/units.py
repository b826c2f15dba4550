"""Amounts as people write them: sizes, shares and durations, parsed and printed in one place."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
}
_TIME_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NUMBER = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")
_KIBI = 1024


def parse_bytes(text: str) -> int:
    """Bytes from ``50GB`` (10^9), ``50GiB`` or ``50G`` (2^30), or a bare number of bytes.

    Raises:
        ValueError: the text is no size; the message says what one looks like.
    """
    match = _NUMBER.fullmatch(text)
    factor = _SIZE_UNITS.get(match["unit"].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"'{text}' is not a size (such as 50GB, 20GiB or 1048576)")
    return round(float(match["number"]) * factor)


def parse_duration(text: str) -> float:
    """Seconds from ``90s``, ``5min``, ``12h``, ``14d`` or a bare number of seconds.

    Raises:
        ValueError: the text is no duration; the message says what one looks like.
    """
    match = _NUMBER.fullmatch(text)
    factor = _TIME_UNITS.get(match["unit"].lower() or "s") if match else None
    if match is None or factor is None:
        raise ValueError(f"'{text}' is not a duration (such as 90s, 5min, 12h or 14d)")
    return float(match["number"]) * factor


def format_bytes(count: float | None) -> str:
    """Bytes for people, in binary units with three significant digits: ``1.09 GiB``."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < _KIBI or unit == "TiB":
            break
        amount /= _KIBI
    if unit == "B":
        return f"{amount:.0f} B"
    digits = 2 if abs(amount) < 10 else 1 if abs(amount) < 100 else 0  # noqa: PLR2004
    return f"{amount:,.{digits}f} {unit}"


def format_duration(seconds: float | None) -> str:
    """A duration for people, in its largest unit that is at least one: ``3.2 h``."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if abs(seconds) >= size:
            amount = seconds / size
            return f"{amount:.0f} {unit}" if amount == round(amount) else f"{amount:.1f} {unit}"
    return f"{seconds:.0f} s"


def format_time(seconds: float | None) -> str:
    """A point in time in UTC, to the second: ``2026-11-24 08:27:22Z``."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def format_count(count: int, noun: str) -> str:
    """So many of something: ``0 gaps``, ``1 gap``, ``1,200 gaps``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short_id(image_id: str) -> str:
    """The twelve digits by which engines show an image ID."""
    return image_id.removeprefix("sha256:")[:12]
