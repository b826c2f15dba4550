"""The keys of a policy: how each is read, from the file or from the text of an option, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collector.model.choices import did_you_mean
from collector.model.units import parse_bytes, parse_duration
from pruner.policy.local_images import LOCAL_IMAGES
from pruner.policy.orders import ORDERS
from pruner.policy.policy import AUTO, MOST_SLOTS, NEVER, Space, compile_entry

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the policy: how it is read and what it means.

    Attributes:
        read: the value that what stands in the file (or the option's text) means.
        help: what it is for, in one sentence.
        kind: what its values are: ``space``, ``inodes``, ``duration``, ``size``, ``list``, ``choice``, ``switch``,
            ``number`` or ``path``.
    """

    read: Callable[[Any], Any]
    help: str
    kind: str


def _text(value: Any, kinds: Any, example: str) -> str:
    """A value as text. Raises TypeError if it is of none of these kinds; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"must be {example}")
    return str(value)


def _space(value: Any) -> Space:
    return _without(AUTO, Space.parse(_text(value, str | int | float, 'free space such as "10%" or "50GB"')))


def _level(value: Any) -> Space:
    return _without(NEVER, _space(value))


def _inodes(value: Any) -> Space:
    space = Space.parse_inodes(_text(value, str | int, 'free inodes such as "5%" or 100000'))
    return _without(NEVER, _without(AUTO, space))


def _without(unit: str, space: Space) -> Space:
    if space.unit == unit:
        raise ValueError(f"'{unit}' is only for `{_ONLY_FOR[unit]}`")
    return space


_ONLY_FOR = {AUTO: "threshold", NEVER: "emergency"}


def _threshold(value: Any) -> Space:
    return Space.parse(AUTO) if value == AUTO else _level(value)


def _seconds(value: Any) -> float:
    return parse_duration(_text(value, str | int | float, 'a duration such as "1h"'))


def read_age(value: Any) -> float | None:
    """Seconds; None: as the log shows."""
    return None if value == AUTO else _seconds(value)


def _interval(value: Any) -> float:
    seconds = _seconds(value)
    if seconds < 1:
        raise ValueError("must be at least 1s")
    return seconds


def _size(value: Any) -> int:
    size = parse_bytes(_text(value, str | int, 'a size such as "10GB"'))
    if size < 0:
        raise ValueError("must not be negative")
    return size


def _count(value: Any) -> int:
    try:
        count = int(_text(value, str | int, "a number"))
    except ValueError:
        raise ValueError("must be a whole number") from None
    if not 1 <= count <= MOST_SLOTS:
        raise ValueError("must be at least 1" if count < 1 else f"must be at most {MOST_SLOTS}")
    return count


def _switch(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
        return value.lower() in _TRUE
    if not isinstance(value, bool):
        raise TypeError("must be true or false")
    return value


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("must be an absolute path")
    return value


def _texts(value: Any, of: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise TypeError(f"must be a list of {of}")
    return tuple(value)


def _labels(value: Any) -> tuple[str, ...]:
    entries = _texts(value, "labels, name or name=value")
    for entry in entries:
        if not entry.partition("=")[0].strip():
            raise ValueError(f"'{entry}' is not a label: write name or name=value")
    return entries


def _globs(value: Any) -> tuple[str, ...]:
    entries = _texts(value, "globs or re: regular expressions")
    for entry in entries:
        compile_entry(entry)
    return entries


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}{did_you_mean(str(value), names)}")
        return str(value)

    return read


KEYS: dict[str, Key] = {
    "threshold": Key(
        _threshold,
        "free space under which pruning starts: a share (10%), a size (50GB), 2GB/job, or auto (from the log)",
        "space",
    ),
    "target": Key(_level, "free space at which pruning stops (default: the threshold)", "space"),
    "emergency": Key(
        _space,
        "free space under which allowlisted images go, too, once all others are gone (default: the threshold); never",
        "space",
    ),
    "inode_threshold": Key(_inodes, "like `threshold`, for free inodes: a share or a number", "inodes"),
    "allowlist": Key(
        _globs, "images to spare: globs on repository:tag or on the repository, or re: expressions", "list"
    ),
    "allowlist_idle": Key(_seconds, "an allowlisted image unused for longer loses its protection", "duration"),
    "min_age": Key(read_age, "images used or pulled more recently stay; auto: 5 min to 1 h, from the log", "duration"),
    "order": Key(_one_of(tuple(ORDERS)), f"which images go first: {', '.join(ORDERS)}", "choice"),
    "interval": Key(_interval, "time between ticks of the timer", "duration"),
    "keep_labels": Key(
        _labels, "images, containers and volumes with one of these labels stay: name or name=value", "list"
    ),
    "rollback_grace": Key(
        _seconds, "how long to keep what a swarm or Compose service ran before its last change", "duration"
    ),
    "deadline": Key(_interval, "longest time that a run may take, even if the engine answers slowly", "duration"),
    "local_images": Key(
        _one_of(LOCAL_IMAGES),
        "what to do with images that exist only on the host: superseded (remove those that a later one has "
        "replaced), keep or evict",
        "choice",
    ),
    "local_idle": Key(_seconds, "how long such an image must be unused before it is removed", "duration"),
    "job_slots": Key(
        _count, "jobs that the runners run at once, for amounts per job (default: from runner_config)", "number"
    ),
    "runner_config": Key(_path, "GitLab Runner's config.toml: `concurrent` there is the number of job slots", "path"),
    "rates": Key(
        _path,
        "file of `analyzer rates`: how soon images return on the fleet, to use beside the host's own history",
        "path",
    ),
    "containers.enabled": Key(_switch, "whether stopped containers are removed, before any image", "switch"),
    "containers.job_grace": Key(
        _seconds,
        "a CI job's container is removed this long after it stopped (or was created, if it never started)",
        "duration",
    ),
    "containers.grace": Key(_seconds, "the same for all other stopped containers", "duration"),
    "containers.keep": Key(_globs, "containers to keep: globs or re: expressions on the name", "list"),
    "containers.empty_logs": Key(
        _switch,
        "whether Docker's JSON logs of stopped containers that stay are emptied when the disk is completely full;"
        " needs root",
        "switch",
    ),
    "dangling.enabled": Key(
        _switch, "whether untagged images, and those whose tag has moved on, are removed before all others", "switch"
    ),
    "dangling.age": Key(_seconds, "such an image is removed this long after its last use", "duration"),
    "volumes.enabled": Key(_switch, "whether volumes that no container refers to are removed", "switch"),
    "volumes.anonymous_age": Key(_seconds, "an anonymous volume is removed this long after its last use", "duration"),
    "volumes.cache_age": Key(
        _seconds, "a cache volume of GitLab Runner is removed this long after its last use", "duration"
    ),
    "volumes.builder_age": Key(
        _seconds, "the state volume of a deleted buildx builder is removed this long after its last use", "duration"
    ),
    "volumes.named": Key(_globs, "named volumes to remove, too: globs or re: expressions on the name", "list"),
    "volumes.named_age": Key(
        _seconds, "a volume listed in `named` is removed this long after its last use", "duration"
    ),
    "volumes.keep": Key(_globs, "volumes of any kind to keep: globs or re: expressions on the name", "list"),
    "build_cache.enabled": Key(_switch, "whether build cache is removed", "switch"),
    "build_cache.keep": Key(_size, "how much build cache to keep: a size", "size"),
    "build_cache.age": Key(_seconds, "build cache is removed this long after its last use", "duration"),
}
