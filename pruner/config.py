"""The policy's file format (TOML): read with errors that name key, value and file; and written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from collector.errors import UsageError
from collector.units import format_duration, parse_duration
from pruner.orders import ORDERS
from pruner.policy import Policy, Space, compile_entry

DEFAULT_POLICY_PATH = Path("/etc/docker-hindsight/policy.toml")
LOCAL_IMAGES = ("keep", "evict")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the policy: how it is read and what it means."""

    read: Callable[[Any], Any]
    help: str


def _space(value: Any) -> Space:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError('must be free space such as "10%", "50GB" or a number of bytes')
    return Space.parse(str(value))


def _level(value: Any) -> Space:
    space = _space(value)
    if space.unit == "never":
        raise ValueError("'never' is only for `emergency`")
    return space


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError('must be a duration such as "1h" or a number of seconds')
    return parse_duration(str(value))


def _interval(value: Any) -> float:
    seconds = _seconds(value)
    if seconds < 1:
        raise ValueError("must be at least 1s")
    return seconds


def _allowlist(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise TypeError("must be a list of globs or re: regular expressions")
    for entry in value:
        compile_entry(entry)
    return tuple(value)


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return str(value)

    return read


KEYS: dict[str, Key] = {
    "threshold": Key(_level, "free space under which pruning starts: a share (10%), a size (50GB), or 2GB/job"),
    "target": Key(_level, "free space at which pruning stops (default: the threshold)"),
    "emergency": Key(
        _space,
        "free space under which allowlisted images go too, once all others are gone (default: the threshold); never",
    ),
    "inode_threshold": Key(_level, "the same as `threshold` for free inodes: a share or a number"),
    "allowlist": Key(_allowlist, "images to spare: globs on repository:tag or on the repository, or re: expressions"),
    "allowlist_idle": Key(_seconds, "an allowlisted image unused for longer loses its protection"),
    "min_age": Key(_seconds, "no image used or pulled more recently goes"),
    "order": Key(_one_of(tuple(ORDERS)), "which images go first"),
    "interval": Key(_interval, "time between ticks of the timer"),
    "local_images": Key(_one_of(LOCAL_IMAGES), "keep or evict images that no registry can give back"),
}


def policy_from(values: Mapping[str, Any], source: str, base: Policy | None = None) -> Policy:
    """The policy that `values` make of `base` (default: the built-in one).

    Args:
        values: keys as in the file.
        source: the file or option that they are from, for messages.
        base: what holds where `values` are silent.

    Raises:
        UsageError: an unknown key, an impossible value or a contradiction.
    """
    chosen = {field.name: getattr(base or Policy(), field.name) for field in fields(Policy)}
    for name, value in values.items():
        key = KEYS.get(name)
        if key is None:
            raise UsageError(f"{source}: unknown key '{name}'; known are {', '.join(KEYS)}")
        try:
            chosen[name] = key.read(value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{source}: {name} = {_shown(value)}: {error}") from None
    policy = Policy(**chosen)
    _check_levels(policy, source)
    return policy


def load_policy(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        UsageError: the file is missing, no TOML, or holds no possible policy.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no policy file {path}: write one or name another with --policy") from None
    except OSError as error:
        raise UsageError(f"policy file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"policy file {path} is no TOML: {error}") from None
    return policy_from(values, str(path))


def to_toml(policy: Policy) -> str:
    """The policy as a file that `load_policy` reads, with the meaning of each key."""
    lines = []
    for name, key in KEYS.items():
        value = getattr(policy, name)
        lines.append(f"# {key.help}")
        if value is None:
            lines.append(f'# {name} = "{policy.threshold}"')
        elif isinstance(value, tuple):
            lines.append(f"{name} = {json.dumps(list(value), ensure_ascii=False)}")
        else:
            lines.append(f"{name} = {json.dumps(as_text(name, value))}")
        lines.append("")
    return "\n".join(lines)


def as_text(name: str, value: Any) -> str:
    """A value as one would write it in the file."""
    if name in {"allowlist_idle", "min_age", "interval"}:
        shown = format_duration(value).replace(" ", "")
        return shown if parse_duration(shown) == value else f"{value:g}s"
    return str(value)


def _check_levels(policy: Policy, source: str) -> None:
    """Compare the levels where they can be compared: given in the same unit."""
    for lower, upper in (("threshold", "target"), ("emergency", "target"), ("emergency", "threshold")):
        low, high = getattr(policy, lower), getattr(policy, upper)
        if upper == "threshold" and policy.target is not None:
            continue
        if low is not None and high is not None and low.unit == high.unit and low.amount > high.amount:
            raise UsageError(f"{source}: {lower} = {low} is more than {upper} = {high}; it must not be")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
