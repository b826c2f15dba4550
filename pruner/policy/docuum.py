"""Reads the settings of docuum: its command line, wherever it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from collector.model.errors import UsageError
from collector.model.units import format_bytes, option_value, parse_bytes
from pruner.policy.other_tools import (
    LOCAL_IMAGES_GO,
    LOCAL_IMAGES_NOTE,
    NEVER_REMOVED,
    TAGGED,
    Import,
    checked,
    text_of,
)


def import_docuum(sources: Sequence[str], disk_bytes: int | None = None) -> Import:
    """The settings of docuum.

    Args:
        sources: files with its command line (a systemd unit, a compose file's command, a script), or the
            arguments themselves.
        disk_bytes: size of the engine's disk, for a threshold in bytes; None: unknown.

    Raises:
        UsageError: a file cannot be read, or an argument is not one of docuum's.
    """
    made = Import("docuum")
    made.values.update(
        {
            "order": "lru",
            **LOCAL_IMAGES_GO,
            "containers.enabled": False,
            "dangling.enabled": False,
            "volumes.enabled": False,
            "build_cache.enabled": False,
        }
    )
    options = _docuum_options(_docuum_arguments(sources))
    _docuum_threshold(made, options.get("threshold", ["10 GB"])[-1], disk_bytes)
    keep = []
    for pattern in options.get("keep", []):
        try:
            keep.append(_rust_entry(pattern))
        except ValueError as error:
            made.notes.append(f"--keep '{pattern}' is not carried over: {error}")
    if keep:
        made.values.update({"allowlist": keep, **NEVER_REMOVED})
    if "min-age" in options:
        made.values["min_age"] = f"{_long_duration(options['min-age'][-1]):g}s"
    else:
        made.notes.append(
            "docuum has no minimum age unless set; here what was used within min_age (5 min to 1 h) stays"
        )
    if "deletion-chunk-size" in options:
        made.notes.append("--deletion-chunk-size: not carried over; free space is measured after each removal")
    made.notes.append(LOCAL_IMAGES_NOTE)
    made.notes.append("docuum removes by force and forgets pulls that it did not see; here neither happens")
    return made


def _docuum_arguments(sources: Sequence[str]) -> list[str]:
    """The arguments of docuum: as given, or behind its name in a command line or a file."""
    if not sources:
        raise UsageError("import-config docuum: name its unit file, or its arguments after --")
    if sources[0].startswith("-"):
        return list(sources)
    looks_like_file = "/" in sources[0] or "." in sources[0]
    text = "\n".join(text_of(Path(source)) for source in sources) if looks_like_file else shlex.join(sources)
    lines = text.replace("\\\n", " ").splitlines()
    found = [arguments for line in lines if (arguments := _behind_docuum(line)) is not None]
    if not found:
        raise UsageError("no command line of docuum was found there: give its arguments after --")
    return max(found, key=len)


def _behind_docuum(line: str) -> list[str] | None:
    """The arguments on one line of a unit, a script or a compose file; None: it does not start docuum."""
    bare = line.strip()
    try:
        words = shlex.split(re.sub(r"^(ExecStart=[-@:+!]*|command:|-\s)", "", bare), comments=True)
    except ValueError:
        return None
    if bare.startswith("command:") and words and words[0].startswith("-"):
        return words
    # The last one: the name of its container may be the same.
    starts = [number for number, word in enumerate(words) if re.search(r"(^|/)docuum(:[\w.-]+)?$", word)]
    rest = words[starts[-1] + 1 :] if starts else None
    return rest if rest is None or not rest or rest[0].startswith("-") else None


_DOCUUM_OPTIONS = {"-t": "threshold", "-k": "keep", "-d": "deletion-chunk-size", "-m": "min-age"}


def _docuum_options(arguments: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            name, equals, value = name[:2], word[2:], word[2:].removeprefix("=")
        long = _DOCUUM_OPTIONS.get(name, name.removeprefix("--"))
        if long not in _DOCUUM_OPTIONS.values():
            raise UsageError(f"'{word}' is not an option of docuum")
        if not equals:
            value = next(words, "")
        if not value:
            raise UsageError(f"--{long} has no value")
        found.setdefault(long, []).append(value)
    return found


def _docuum_threshold(made: Import, text: str, disk_bytes: int | None) -> None:
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if share:
        free = 100 - float(share[1])
        if not 0 <= free <= 100:  # noqa: PLR2004 - per cent
            raise UsageError(f"--threshold '{text}' is not between 0% and 100%")
        made.values["threshold"] = f"{free:g}%"
        made.notes.append(
            f"--threshold '{text}' limits what images take of the disk; here {free:g}% is to be free of all"
        )
        return
    limit = option_value("--threshold", text, partial(parse_bytes, bare=True))
    if disk_bytes is None:
        made.notes.append(
            f"--threshold '{text}' limits what images take, whatever else fills the disk; `threshold` is free space "
            "and stays at its default: give --disk SIZE, or try some with `analyzer simulate`"
        )
        return
    if limit >= disk_bytes:
        raise UsageError(f"--threshold '{text}' is not less than the disk's {format_bytes(disk_bytes)}")
    made.values["threshold"] = f"{disk_bytes - limit}B"
    made.notes.append(
        f"--threshold '{text}' limits what images take; on a disk of {format_bytes(disk_bytes)} that leaves "
        f"{format_bytes(disk_bytes - limit)} free"
    )


def _rust_entry(pattern: str) -> str:
    """An entry that matches what docuum's unanchored regular expression finds in a `repository:tag`."""
    flags = re.match(r"\(\?([a-z]+)\)", pattern)
    body = f"(?{flags[1]}:{pattern[flags.end() :]})" if flags else f"(?:{pattern})"
    body = body.replace(r"\z", r"\Z")
    return checked(f"re:{TAGGED}.*{body}.*")


_LONG_UNITS = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600, "day": 86400, "week": 604800}
_LONG_UNITS |= {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2_630_016, "year": 31_557_600}


def _long_duration(text: str) -> float:
    """Seconds of ``3 days`` or ``1h 30m``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.lower())
    units = [_LONG_UNITS.get(unit) or _LONG_UNITS.get(unit.removesuffix("s")) for _, unit in parts]
    if not parts or None in units or re.sub(r"(\d+(?:\.\d+)?)\s*([a-z]+)|\s|,|and", "", text.lower()):
        raise UsageError(f"--min-age: '{text}' is not a duration (such as 24h or 3 days)")
    return sum(float(number) * (unit or 0) for (number, _), unit in zip(parts, units, strict=True))
