"""How soon images return on a fleet, by situation: what a new host starts from until it has a past of its own.

`analyzer rates` writes the file, and `rates` in a policy names it. However many hosts it is from, it counts as four
weeks of an average one: that is enough to begin with, and a host's own past soon outweighs it.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from collector.eventlog.experience import (
    BUCKETS,
    HABITS,
    HIGHEST_BIN,
    LOWEST_BIN,
    LOWEST_HABIT,
    PHASES,
)
from collector.model.errors import UsageError
from collector.model.paths import read_bounded
from collector.model.units import DAY_S, format_count, format_duration
from collector.model.untrusted import whole
from pruner.state.learning import CELLS, STAGES, Learned

WORTH_S = 28 * DAY_S
"""As how much of an average host's past a file counts, seconds."""
_SCALE = [LOWEST_BIN, HIGHEST_BIN, BUCKETS, LOWEST_HABIT, HABITS, *(int(phase) for phase in PHASES)]
_MOST = 10**15
_COLUMNS = 3


def read_rates(path: Path) -> Learned:
    """What a file says, at its weight.

    Raises:
        UsageError: it cannot be read, or is not such a file.
    """
    try:
        values = tomllib.loads(read_bounded(path))
        shared = path.stat().st_mode & stat.S_IWOTH
    except OSError as error:
        raise UsageError(f"rates file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"rates file {path} is not valid TOML: {error}") from None
    if shared:
        raise UsageError(f"rates file {path} can be written by everybody: chmod o-w it")
    if values.get("scale") != _SCALE:
        raise UsageError(f"rates file {path} is of another version: write it again with `analyzer rates`")
    rows, seconds = values.get("situations"), whole(values.get("host_seconds"), 1, _MOST)
    hosts = whole(values.get("hosts"), 1, _MOST)
    if seconds is None or hosts is None or not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise UsageError(f"rates file {path} is damaged: write it again with `analyzer rates`")
    weight = min(1.0, hosts * WORTH_S / seconds) / hosts
    returns, exposure = [0.0] * CELLS, [0.0] * CELLS
    for cell, count, idle in rows:
        returns[cell] += weight * count
        exposure[cell] += weight * idle
    return Learned(tuple(returns), tuple(exposure))


def _is_row(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != _COLUMNS:
        return False
    most = (CELLS - 1, _MOST, _MOST)
    # TOML has numbers of its own: none is meant by text.
    return all(type(value) is int and 0 <= value <= limit for value, limit in zip(row, most, strict=True))


def to_toml(returns: Sequence[float], exposure: Sequence[float], hosts: Iterable[str], seconds: float) -> str:
    """The file of what was counted on hosts together.

    Args:
        returns: idle times that ended in a use, by situation; length `CELLS`.
        exposure: idle time in seconds, likewise.
        hosts: their names.
        seconds: how long their histories are together.
    """
    count = len(list(hosts))
    lines = [
        f"# How soon images return on {format_count(count, 'host')}, of {format_duration(seconds)} together.",
        '# A policy names this file: rates = "/etc/docker-hindsight/rates.toml"',
        f"scale = {_SCALE}",
        f"hosts = {count}",
        f"host_seconds = {max(1, round(seconds))}",
        "# Number of the situation, returns, seconds idle in it.",
        "situations = [",
    ]
    for cell in range(CELLS):
        if returns[cell] or round(exposure[cell]):
            row = [cell, round(returns[cell]), round(exposure[cell])]
            lines.append(f"  {row}, # {_words(cell)}")
    return "\n".join([*lines, "]", ""])


def _words(cell: int) -> str:
    """A situation in words; see `pruner.state.learning.situation`."""
    rest, stage = divmod(cell, STAGES)
    rest, habit = divmod(rest, HABITS)
    age, often = divmod(rest, BUCKETS)
    idle = f"idle for {format_duration(2.0 ** (age + LOWEST_BIN - 1)) if age else '0 s'} and more"
    used = "never used" if not often else f"used {format_count(2 ** (often - 1), 'time')} or more"
    usual = "" if not habit else f", usually idle for about {format_duration(2.0 ** (habit + LOWEST_HABIT - 1))}"
    later = "" if not stage else f", superseded for {format_duration(PHASES[stage - 1])} and more"
    return f"{idle}, {used}{usual}{later}"
