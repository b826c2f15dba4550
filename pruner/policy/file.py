"""The policy's file format (TOML): read with errors that name key, value and file; and written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collector.model.choices import unknown
from collector.model.errors import UsageError
from collector.model.units import format_duration, has_no_unit, parse_duration
from pruner.policy.keys import KEYS, read_age
from pruner.policy.layers import INCLUDE, flatten, read_layers
from pruner.policy.policy import AUTO, Policy

DEFAULT_POLICY_PATH = Path("/etc/docker-hindsight/policy.toml")
COMMAND_LINE = "command line"
SECTIONS = tuple(dict.fromkeys(name.partition(".")[0] for name in KEYS if "." in name))


def policy_from(values: Mapping[str, Any], source: str, base: Policy | None = None) -> Policy:
    """The policy that `values` make of `base` (default: the built-in one).

    Args:
        values: keys as in the file; those of a section in a mapping of their own, or as ``section.key``.
        source: the file or option that they are from, for messages.
        base: what holds where `values` are silent.

    Raises:
        UsageError: an unknown key, an impossible value or a contradiction.
    """
    flat, faults = flatten(values, source, SECTIONS)
    if faults:
        raise UsageError(faults[0])
    policy, faults = _applied(flat, dict.fromkeys(flat, source), base)
    if faults:
        raise UsageError(faults[0])
    _check_levels(policy, source)
    return policy


def _applied(
    values: Mapping[str, Any], sources: Mapping[str, str], base: Policy | None = None
) -> tuple[Policy, list[str]]:
    """The policy that values make as far as they are possible, and what is wrong with the others, a line each."""
    policy, faults = base or Policy(), []
    given = dict(policy.sources)
    for name, value in values.items():
        key = KEYS.get(name)
        if key is None:
            faults.append(f"{sources[name]}: unknown key '{name}'{_instead(name)}")
            continue
        try:
            policy = _with(policy, name, key.read(value))
            given[name] = sources[name]
        except (ValueError, TypeError) as error:
            faults.append(f"{_place(sources[name], name, value)}: {error}")
    return replace(policy, sources=tuple(given.items())), faults


def _instead(name: str) -> str:
    """What to write in place of an unknown key: one key of that name may be there in another section."""
    elsewhere = [key for key in KEYS if key.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"; did you mean '{elsewhere[0]}'?" if len(elsewhere) == 1 else unknown(name, (*KEYS, INCLUDE))


def recorded_policy(values: Mapping[str, Any]) -> Policy:
    """The policy that a prune's record in the log holds.

    Older versions recorded sizes in bytes without a unit.

    Raises:
        UsageError: the values are not a policy, as another version may have recorded them.
    """
    known = {name: value for name, value in values.items() if value is not None}
    for name, value in known.items():
        if name in KEYS and KEYS[name].kind in _WITH_UNIT and has_no_unit(str(value)):
            known[name] = f"{value}{_WITH_UNIT[KEYS[name].kind]}"
    return policy_from(known, "the recorded policy")


_WITH_UNIT = {"space": "B", "size": "B", "duration": "s"}


def value_of(policy: Policy, name: str) -> Any:
    """The value of a key, ``section.key`` for one in a section."""
    section, _, key = name.rpartition(".")
    return getattr(getattr(policy, section) if section else policy, key)


def _with(policy: Policy, name: str, value: Any) -> Policy:
    section, _, key = name.rpartition(".")
    if not section:
        return replace(policy, **{key: value})
    return replace(policy, **{section: replace(getattr(policy, section), **{key: value})})


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy file with those that it includes.

    Attributes:
        policy: what they say together; without the values that are impossible.
        origin: the file that each value is from, by key; the others are defaults.
        faults: what is wrong, a line each.
    """

    policy: Policy
    origin: Mapping[str, Path]
    faults: tuple[str, ...]


def read_policy(path: Path) -> PolicyFile:
    """Read a policy file with those that it includes, and find all that is wrong with them."""
    found = read_layers(path, SECTIONS)
    sources = {name: str(origin) for name, origin in found.origin.items()}
    policy, faults = _applied(found.values, sources)
    faults = [*found.faults, *faults]
    if not faults:
        try:
            _check_levels(policy, str(path))
        except UsageError as error:
            faults = [str(error)]
    return PolicyFile(policy, found.origin, tuple(faults))


def load_policy(path: Path) -> Policy:
    """The policy in a file and those that it includes.

    Raises:
        UsageError: a file is missing, is not valid TOML, or holds no possible policy.
    """
    found = read_policy(path)
    if found.faults:
        more = len(found.faults) - 1
        hint = f" (and {more} more: `pruner check-policy {path}` lists them)" if more else ""
        raise UsageError(found.faults[0] + hint)
    return found.policy


def to_toml(policy: Policy) -> str:
    """The policy as a file that `load_policy` reads, with the meaning of each key."""
    lines: list[str] = []
    section = ""
    for name, key in KEYS.items():
        place, _, bare = name.rpartition(".")
        if place != section:
            section = place
            lines += [f"[{section}]", ""]
        lines += [f"# {key.help}", _line(policy, name, bare), ""]
    return "\n".join(lines)


def changes(policy: Policy) -> str:
    """The lines of a policy file that say how the policy differs from the built-in one; empty if it does not."""
    usual = Policy()
    differing = [name for name in KEYS if value_of(policy, name) != value_of(usual, name)]
    return "\n".join(_line(policy, name, name) for name in differing)


def to_json(policy: Policy) -> dict[str, Any]:
    """All values by key, as they stand in a file; None where another key speaks for it."""
    return {name: as_text(name, value_of(policy, name)) for name in KEYS}


def as_text(name: str, value: Any) -> Any:
    """A value as one would write it in the file."""
    if value is None and KEYS[name].read is read_age:
        return AUTO
    if value in (None, "") or isinstance(value, bool):
        return None if value == "" else value
    kind = KEYS[name].kind
    if kind == "duration":
        shown = format_duration(value).replace(" ", "")
        return shown if parse_duration(shown) == value else f"{value:g}s"
    if kind == "list":
        return list(value)
    if kind == "number":
        return value
    return _size_text(value) if kind == "size" else str(value)


def _size_text(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def _line(policy: Policy, name: str, bare: str) -> str:
    value = as_text(name, value_of(policy, name))
    if value is None:
        examples = {"number": "4", "path": '"/etc/docker-hindsight/rates.toml"'}
        return f"# {bare} = " + examples.get(KEYS[name].kind, f'"{policy.threshold}"')
    return f"{bare} = {json.dumps(value, ensure_ascii=False)}"


def _check_levels(policy: Policy, source: str) -> None:
    """Compare the levels where they can be compared: given in the same unit."""
    for lower, upper in (("threshold", "target"), ("emergency", "target"), ("emergency", "threshold")):
        low, high = getattr(policy, lower), getattr(policy, upper)
        if upper == "threshold" and policy.target is not None:
            continue
        if low is not None and high is not None and low.unit == high.unit and low.amount > high.amount:
            raise UsageError(f"{source}: {lower} = {low} must not be more than {upper} = {high}")


def _place(source: str, name: str, value: Any) -> str:
    """Where a value stands, as whoever wrote it knows it: an option, or a line of a file."""
    if source != COMMAND_LINE:
        return f"{source}: {name} = {_shown(value)}"
    option = "--" + re.sub(r"[._]", "-", name)
    return f"{option} {value}" if isinstance(value, str) else option


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
