"""The door for what others say: engines, images, jobs, files. What cannot be read is unknown, never an error.

A CI job chooses the names and labels of images, the names of jobs and the lines of a log, and a file may be
damaged. Nothing of it is trusted in type, size or range. All functions are pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

NS = 10**9
# More than any disk holds; sums of some thousand of these still fit into 64 bits with room to spare.
MOST_BYTES = 2**60
# Clocks of one host agree to the second; a time further ahead than this is not in the past.
AHEAD_S = 60
# The range of times that the log, DuckDB and numpy can all hold in nanoseconds ends in 2262.
LAST_NS = 2**63 - 2
# A text is kept up to here, with its length; a reference has 255 characters at most, a URL hardly more than 2000.
MOST_TEXT = 4096
MOST_LABELS = 200
MOST_LABEL = 1024
# Nothing lasts longer than 272 years.
MOST_SECONDS = 2.0**33
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
# JSON escapes that stand for half a character, which no encoding can write, and for NUL, which C strings end at.
_ODD_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_ODD = re.compile("[\ud800-\udfff\0]")
# What steers a terminal, ends a line, turns the direction of writing, or stands for nothing that one sees: Unicode's
# categories Cc, Cf, Cs, Zl and Zp, tags and variation selectors, and fillers that count as letters.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


# To make one for each text takes longer than to read a short text.
_JSON = json.JSONDecoder(parse_constant=lambda _: None)


def read_json(data: str | bytes) -> Any:
    """A JSON text from elsewhere, without lone surrogates and NUL in its strings; numbers that are none are None.

    Raises:
        ValueError: it is not JSON, or nested too deeply to be read.
    """
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    try:
        found = _decoded(text)
        is_plain = text.isascii() and "\\u" not in text and "\0" not in text
        return found if is_plain or not (_ODD_ESCAPE.search(text) or _ODD.search(text)) else _without_odd(found)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decoded(text: str) -> Any:
    try:
        # To look for blanks around the value takes as long as to read a short text.
        found, end = _JSON.raw_decode(text)
    except json.JSONDecodeError:
        end = -1
    return found if end == len(text) else _JSON.decode(text)


def read_object(data: str | bytes) -> dict[str, Any] | None:
    """As `read_json`; None if it cannot be read or is not an object."""
    try:
        found = read_json(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def mapping(value: object) -> dict[str, Any]:
    """A JSON object; empty if it is not one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON array; none if it is not an array."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """The strings of a JSON array; none if it is not an array."""
    return [clean(entry) for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def text(value: object) -> str:
    """A string, cut where it is longer than any that is of use; empty if it is not a string."""
    return cut(clean(value)) if isinstance(value, str) else ""


def clean(value: str) -> str:
    """A string that every encoding, file and table can hold."""
    if value.isascii() and "\0" not in value:
        return value
    return _ODD.sub("\N{REPLACEMENT CHARACTER}", value)


def is_visible(value: str) -> bool:
    """Whether a string is one line of visible characters."""
    return (value.isascii() and value.isprintable()) or not UNPRINTABLE.search(value)


def one_line(value: str) -> str:
    """A string that is one line of visible characters, whatever was in it."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)


def cut(value: str, most: int = MOST_TEXT) -> str:
    """A string of `most` characters at most; of a longer one the beginning, with its length."""
    if len(value) <= most:
        return value
    return f"{value[:most]}… ({len(value):,} characters)"


def whole(value: object, least: int = 0, most: int = MOST_BYTES) -> int | None:
    """A whole number, also one in digits, between two limits (included); None if it is not one."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if least <= value <= most else None


def amount(value: object, most: float) -> float | None:
    """A number between 0 and `most`, also one in digits; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found <= most else None


def size(value: object) -> int:
    """Bytes, 0 to 2^60; 0 if it is not a size."""
    return whole(value) or 0


def past_ns(value: object, now_ns: int) -> int | None:
    """UTC nanoseconds from 1970 to a minute after `now_ns`; None for any other time."""
    return whole(value, 1, now_ns + AHEAD_S * NS)


def time_ns(value: object) -> int | None:
    """UTC nanoseconds after 1970 that the log can hold; None if it is not such a time."""
    return whole(value, 1, LAST_NS)


def event_time_ns(raw: Mapping[str, Any]) -> int:
    """When an event of an engine happened, UTC nanoseconds; 0 if it does not say so."""
    found = time_ns(raw.get("timeNano"))
    if found is not None:
        return found
    return (whole(raw.get("time"), 0, LAST_NS // NS) or 0) * NS


def past_seconds(seconds: float | None, now: float) -> float | None:
    """UTC seconds from 1970 to a minute after `now`; None for any other time: nobody can have been then."""
    return seconds if seconds is not None and 0 <= seconds <= now + AHEAD_S else None


def strings(value: object) -> dict[str, str]:
    """The strings of a JSON object, by their keys."""
    return {clean(str(key)): clean(one) for key, one in mapping(value).items() if isinstance(one, str)}


def labels(value: object, first: Collection[str] = ()) -> dict[str, str]:
    """The labels of an image or container, as many and as long as are kept.

    Args:
        value: what the engine says.
        first: keys that are kept before all others where there are more than `MOST_LABELS`.
    """
    found = strings(value)
    if len(found) > MOST_LABELS:
        keys = list(dict.fromkeys((*(key for key in first if key in found), *found)))
        found = {key: found[key] for key in keys[:MOST_LABELS]}
    return {cut(key, MOST_LABEL): cut(one, MOST_LABEL) for key, one in found.items()}


def as_address(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host's name is; None: it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this host's own, which nothing leaves on the way there."""
    address = as_address(host)
    if address is not None:
        return address.is_loopback
    return host.lower() == "localhost" or host.lower().endswith(".localhost")


def split_url(address: object) -> SplitResult | None:
    """The parts of an address; None if it is not one."""
    if not isinstance(address, str):
        return None
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _without_odd(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_without_odd(entry) for entry in value]
    if isinstance(value, dict):
        return {clean(key): _without_odd(entry) for key, entry in value.items()}
    return value
