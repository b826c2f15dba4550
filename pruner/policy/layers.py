"""Policy files: read with those that they include, with every fault of all of them, and where each value is from.

``include = "base.toml"`` (or a list of them) at the top of a file takes what another file says; what the file
says itself goes over it. A fleet so has one base file, and hosts say only what is different there.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.model.errors import UsageError
from collector.model.paths import read_bounded

INCLUDE = "include"
DEFAULT = "default"
_DEEPEST = 8
# A value that was meant to be a string: 10%, 50GB, 2GB/job, auto.
_UNQUOTED = re.compile(r"^\s*(?P<key>[\w.\"-]+)\s*=\s*(?P<value>-?[\d.]*[A-Za-z%][\w%/.]*)\s*(#.*)?$")
_TOML_WORDS = {"true", "false", "inf", "nan"}


@dataclass(slots=True)
class Layers:
    """What one policy file and those that it includes say.

    Attributes:
        values: by key, ``section.key`` for those of a section; what goes over others has replaced them.
        origin: the file that each is from.
        faults: what is wrong, a line each.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Path] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


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
    if path.resolve() in within or len(within) >= _DEEPEST:
        into.faults.append(f"{within[-1]}: include = '{path}' leads back to itself or too far: include it once")
        return
    try:
        values = _parsed(path, within[-1] if within else None)
    except UsageError as error:
        into.faults.append(str(error))
        return
    included = values.pop(INCLUDE, [])
    if not isinstance(included, str | list) or not all(isinstance(name, str) for name in included):
        into.faults.append(f"{path}: {INCLUDE} = {included!r}: must be a file, or a list of files")
        included = []
    for name in [included] if isinstance(included, str) else included:
        _read(path.parent / name, sections, into, (*within, path.resolve()))
    flat, faults = flatten(values, str(path), sections)
    into.faults += faults
    into.values.update(flat)
    into.origin.update(dict.fromkeys(flat, path))


def _parsed(path: Path, included_by: Path | None) -> dict[str, Any]:
    """The file's values. Raises UsageError."""
    where = "" if included_by is None else f", included by {included_by}"
    try:
        text = read_bounded(path, "utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        advice = "write one or name another with --policy" if included_by is None else "correct `include` there"
        raise UsageError(f"no policy file {path}{where}: {advice}") from None
    except OSError as error:
        raise UsageError(f"policy file {path}{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"policy file {path}{where} is not valid TOML: {error}") from None
    except (ValueError, RecursionError) as error:  # also a number with more digits than Python reads
        raise UsageError(f"policy file {path}{where} is not valid TOML: {_advice(text, str(error))}") from None


def _advice(text: str, error: str) -> str:
    """The parser's own words, or what to do where a string was meant."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = _UNQUOTED.match(line)
        if found and found["value"] not in _TOML_WORDS:
            return f'line {number}: put the value in quotes: {found["key"]} = "{found["value"]}"'
    return error or "it is nested too deeply"


def flatten(values: Mapping[str, Any], source: str, sections: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Keys of sections as ``section.key``, and what is wrong with sections, a line each."""
    flat: dict[str, Any] = {}
    faults = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        elif name in sections:
            faults.append(f"{source}: '{name}' is a section: write [{name}] and its keys under it")
        else:
            flat[name] = value
    return flat, faults


def unknown(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not one of those known: the most similar ones, or all."""
    names = list(known)
    similar = " or ".join(f"'{one}'" for one in difflib.get_close_matches(name, names, n=2))
    return f"did you mean {similar}?" if similar else f"known are {', '.join(names)}"
