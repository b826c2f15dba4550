"""Policy files: read with those that they include, with every fault of all of them, and where each value is from.

``include = "base.toml"`` (or a list of them) at the top of a file takes what another file says; what the file
says itself overrides it. A fleet so has one base file, and hosts say only what is different there. Whoever can write
an included file decides what is deleted, so it must belong to root, to the owner of the file that includes it, or to
whoever runs this.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.model.choices import unknown
from collector.model.errors import UsageError
from collector.model.paths import read_bounded

INCLUDE = "include"
_MOST_FILES = 64
# A key and a value without quotes, or a list on one line without any.
_UNQUOTED = re.compile(r"^\s*(?P<key>[\w.\"-]+)\s*=\s*(?P<value>[^\s\"'\[{#][^\"'#]*?|\[[^\"'#]*\])\s*(#.*)?$")
_TYPOGRAPHIC = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"


@dataclass(slots=True)
class Layers:
    """What one policy file and those that it includes say.

    Attributes:
        values: by key, ``section.key`` for those of a section; what goes over others has replaced them.
        origin: the file that each is from.
        faults: what is wrong, a line each.
        files: how many files were read.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Path] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    files: int = 0


def read_layers(path: Path, sections: Iterable[str]) -> Layers:
    """All that a policy file and those that it includes say.

    Args:
        path: the file.
        sections: the names of sections.
    """
    found = Layers()
    _read(path, frozenset(sections), found, ())
    return found


def _read(path: Path, sections: frozenset[str], into: Layers, within: tuple[Path, ...]) -> None:
    into.files += 1
    try:
        if within:
            _check_includable(path, within, into.files)
        values = _parsed(path, within[-1] if within else None)
    except UsageError as error:
        into.faults.append(str(error))
        return
    included = values.pop(INCLUDE, [])
    names = [included] if isinstance(included, str) else included
    if not isinstance(names, list) or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        into.faults.append(f"{path}: {INCLUDE} = {included!r}: must be a file, or a list of files")
        names = []
    for name in names:
        if into.files <= _MOST_FILES:
            _read(path.parent / name, sections, into, (*within, path))
    flat, faults = flatten(values, str(path), sections)
    into.faults += faults
    into.values.update(flat)
    into.origin.update(dict.fromkeys(flat, path))


def _check_includable(path: Path, within: tuple[Path, ...], files: int) -> None:
    """Refuse what would never end. Raises UsageError."""
    if os.path.realpath(path) in map(os.path.realpath, within):
        raise UsageError(f"{within[-1]}: {INCLUDE} = '{path}' leads back to itself: include each file once")
    if files > _MOST_FILES:
        raise UsageError(f"{within[-1]}: {INCLUDE} = '{path}' is one file too many: at most {_MOST_FILES} are read")


def _parsed(path: Path, included_by: Path | None) -> dict[str, Any]:
    """The file's values. Raises UsageError."""
    where = "" if included_by is None else f", included by {included_by}"
    text = ""
    try:
        if included_by is not None:
            _check_owner(path, included_by)
        text = read_bounded(path, "utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        advice = "write it, or name another" if included_by is None else "correct `include` there"
        raise UsageError(f"no policy file {path}{where}: {advice}") from None
    except OSError as error:
        raise UsageError(f"policy file {path}{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"policy file {path}{where} is not text in UTF-8: see its byte {error.start + 1}") from None
    except (ValueError, RecursionError) as error:  # also a number with more digits than Python reads
        advice = _advice(text, str(error)) if isinstance(error, ValueError) else "it is nested too deeply"
        raise UsageError(f"policy file {path}{where} is not valid TOML: {advice}") from None


def _check_owner(path: Path, included_by: Path) -> None:
    """Refuse what others can write, or what is not a file. Raises UsageError and OSError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if code == errno.EISDIR else "it is not a regular file")
    if found.st_uid not in {0, os.geteuid(), included_by.stat().st_uid}:
        what = f"belongs to user {found.st_uid}: only root's files, yours and those of the including file's owner count"
    elif found.st_mode & stat.S_IWOTH:
        what = "can be written by everybody: chmod o-w it"
    else:
        return
    raise UsageError(f"policy file {path}, included by {included_by}, {what}")


def _advice(text: str, error: str) -> str:
    """What to do where a string was meant, or the parser's own words."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = _UNQUOTED.match(line)
        if found and not _is_toml(found["value"]):
            return f"line {number}: {_as_meant(found['key'], found['value'])}"
    if error.startswith("Cannot overwrite a value"):
        return error.replace("Cannot overwrite a value", "this key is there twice")
    return error


def _is_toml(value: str) -> bool:
    try:
        tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return False
    return True


def _as_meant(key: str, value: str) -> str:
    if value.lower() in {"true", "false"}:
        return f"write it in lower case: {key} = {value.lower()}"
    entries = [entry.strip(f" ,;{_TYPOGRAPHIC}") for entry in value.strip("[]").split(",")]
    quoted = ", ".join(f'"{entry}"' for entry in entries if entry)
    straight = "straight quotes" if set(value) & set(_TYPOGRAPHIC) else "quotes"
    if value.startswith("["):
        return f"put each entry in {straight}: {key} = [{quoted}]"
    return f"put the value in {straight}: {key} = {quoted}"


def flatten(values: Mapping[str, Any], source: str, sections: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Keys of sections as ``section.key``, and what is wrong with sections, a line each."""
    flat: dict[str, Any] = {}
    faults = []
    for name, value in values.items():
        if isinstance(value, Mapping) and not value and name not in sections:
            faults.append(f"{source}: unknown section '{name}'{unknown(name, sorted(sections))}")
        elif isinstance(value, Mapping):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        elif name in sections:
            faults.append(f"{source}: '{name}' is a section: write [{name}] and its keys under it")
        else:
            flat[name] = value
    return flat, faults
