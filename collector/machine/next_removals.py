"""What the pruner would remove next, were space short: a small file beside the log, for whoever shows the host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from collector.model.paths import read_bytes, replace_file
from collector.model.untrusted import read_object

_MODE = 0o640
_MOST_TEXT = 300


@dataclass(frozen=True, slots=True)
class NextRemoval:
    """An image that would go.

    Attributes:
        name: what people call it.
        frees: bytes that its removal frees at its turn; None: not known.
        last_use: UTC seconds.
        why: the reason in words.
    """

    name: str
    frees: int | None
    last_use: float
    why: str


@dataclass(frozen=True, slots=True)
class NextRemovals:
    """What would go first, first to go first.

    Attributes:
        time: when the pruner looked, UTC seconds.
        policy: by which policy, in words.
        removals: the first of them.
        count: how many there are in all.
        frees: bytes that all of them free.
    """

    time: float
    policy: str
    removals: tuple[NextRemoval, ...]
    count: int
    frees: int


def next_removals_path(log_path: Path) -> Path:
    """Where the pruner leaves it: beside the log."""
    return log_path.with_name(log_path.name + ".next")


def read_next_removals(log_path: Path) -> NextRemovals | None:
    """What the pruner left; None where there is nothing that can be read."""
    try:
        data = read_object(read_bytes(next_removals_path(log_path))) or {}
        removals = tuple(
            NextRemoval(str(one["name"]), int(one["frees"]), float(one["last_use"]), str(one["why"]))
            for one in data["removals"]
        )
        return NextRemovals(float(data["time"]), str(data["policy"]), removals, int(data["count"]), int(data["frees"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None


def leave_next_removals(log_path: Path, found: NextRemovals) -> None:
    """Replace what was left.

    Raises:
        OSError: it cannot be written.
    """
    kept: Sequence[NextRemoval] = [
        replace(one, name=one.name[:_MOST_TEXT], why=one.why[:_MOST_TEXT]) for one in found.removals
    ]
    data = {**asdict(found), "removals": [asdict(one) for one in kept]}
    replace_file(next_removals_path(log_path), f"{json.dumps(data)}\n".encode(), _MODE)


def forget_next_removals(log_path: Path) -> None:
    """Remove what was left; the pruner leaves it again. Raises OSError."""
    next_removals_path(log_path).unlink(missing_ok=True)
