"""Amounts as people write them: sizes, shares and durations, parsed and printed in one place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from collector.model.errors import UsageError
from collector.model.references import bare_id
from collector.model.untrusted import MOST_BYTES, MOST_SECONDS, cut

_SIZE_UNITS: dict[str, float] = {
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
HOUR_S, DAY_S = 3600.0, 86400.0
_TIME_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}
T = TypeVar("T")
_NUMBER = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")
_KIBI = 1024
_SHOWN = 100  # characters of what somebody wrote, in messages


def option_value(option: str, text: str, parse: Callable[[str], T], advice: str = "") -> T:
    """What the text of an option means.

    Raises:
        UsageError: `parse` raised ValueError; the message names the option and ends with the advice.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}{advice}") from None


def size_option(option: str, text: str | None) -> int | None:
    """Bytes of an option, if it is given. Raises UsageError."""
    return None if text is None else option_value(option, text, parse_bytes)


def parse_bytes(text: str, *, bare: bool = False) -> int:
    """Bytes from ``50GB`` (10^9), ``50GiB`` or ``50G`` (2^30), or ``1048576B``.

    Args:
        text: what somebody wrote.
        bare: whether a number without a unit means bytes; else only 0 needs none.

    Raises:
        ValueError: the text is not a size, or has no unit; the message says what one looks like.
    """
    example = "a size (such as 50GB, 20GiB or 1048576B)"
    return round(_amount(text, _SIZE_UNITS, "" if bare else None, example, MOST_BYTES))


def parse_duration(text: str, *, bare: bool = False) -> float:
    """Seconds from ``90s``, ``5min``, ``12h`` or ``14d``.

    Args:
        text: what somebody wrote.
        bare: whether a number without a unit means seconds; else only 0 needs none.

    Raises:
        ValueError: the text is not a duration, or has no unit; the message says what one looks like.
    """
    example = "a duration (such as 90s, 5min, 12h or 14d)"
    return _amount(text, _TIME_UNITS, "s" if bare else None, example, MOST_SECONDS)


def has_no_unit(text: str) -> bool:
    """Whether a text is a number that needs a unit and has none: all but 0."""
    match = _NUMBER.fullmatch(text)
    return match is not None and not match["unit"] and float(match["number"]) != 0


def _amount(text: str, units: dict[str, float], default: str | None, example: str, most: float) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or not math.isfinite(float(match["number"])):
        raise ValueError(f"'{cut(text, _SHOWN)}' is not {example}")
    if default is None and has_no_unit(text):
        raise ValueError(f"'{cut(text, _SHOWN)}' has no unit: write {example}")
    unit = match["unit"]
    known = {name.upper(): factor for name, factor in units.items()}
    factor = known.get(unit.upper()) if unit else known.get((default or "").upper(), 1.0)
    if factor is None:
        raise ValueError(f"'{cut(text, _SHOWN)}' is not {example}")
    found = float(match["number"]) * factor
    if found > most:
        raise ValueError(f"'{cut(text, _SHOWN)}' is too much for {example}")
    return found


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
    for unit, size in (("d", DAY_S), ("h", HOUR_S), ("min", 60.0)):
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
    return bare_id(image_id)[:12]
