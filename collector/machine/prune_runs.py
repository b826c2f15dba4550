"""How the latest runs of the pruner ended: a small file beside the log, for status and metrics.

A log that took an event of each run that can remove nothing would grow by one every few minutes for as long as
that lasts. So the log has the first such run, and repeats together, at most once an hour; what it does not have
yet is counted here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from collector.model.paths import read_bytes, rewrite_file
from collector.model.units import format_bytes
from collector.model.untrusted import read_object

# Written always as long as this: see `rewrite_file`.
_LENGTH = 16384
_MODE = 0o640


@dataclass(frozen=True, slots=True)
class Fruitless:
    """Runs that removed nothing, and all for the same reasons. Times are UTC seconds.

    Attributes:
        since, until: when the first and the last of them ended.
        runs: how many.
        held_back: rules that stood in the way, each with `rule`, `count` and `bytes`; the most first.
        error: what ended the last of them; None: nothing could go.
    """

    since: float
    until: float
    runs: int
    held_back: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None

    @property
    def reasons(self) -> str:
        """What stood in the way, in words."""
        if self.error:
            return self.error
        parts = [f"{one.get('rule')} {format_bytes(one.get('bytes'))}" for one in self.held_back]
        return ", ".join(parts) or "nothing that could be removed"

    def and_then(self, later: Fruitless) -> Fruitless:
        """Both together, with the later reasons."""
        return Fruitless(self.since, later.until, self.runs + later.runs, later.held_back, later.error)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fruitless:
        """What `leave_runs` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is not that.
        """
        held = tuple(one for one in data.get("held_back") or () if isinstance(one, dict))
        error = data.get("error")
        numbers = float(data["since"]), float(data["until"]), int(data["runs"])
        return cls(*numbers, held, None if error is None else str(error))


@dataclass(frozen=True, slots=True)
class PruneRuns:
    """How the latest runs ended. Times are UTC seconds.

    Attributes:
        total: how many runs removed nothing though the target was not reached, ever.
        reached: when a run last ended with the target reached, or nothing to do; None: not known.
        row: the runs since then that removed nothing; None: there is none.
        recorded: by what stood in the way, when the log last took such a run.
        waiting: by what stood in the way, runs that the log does not have yet.
    """

    total: int = 0
    reached: float | None = None
    row: Fruitless | None = None
    recorded: Mapping[str, float] = field(default_factory=dict)
    waiting: Mapping[str, Fruitless] = field(default_factory=dict)


def runs_path(log_path: Path) -> Path:
    """Where the pruner leaves it: beside the log."""
    return log_path.with_name(log_path.name + ".runs")


def read_runs(log_path: Path) -> PruneRuns:
    """What the pruner left; where that cannot be read, nothing is known."""
    try:
        data = read_object(read_bytes(runs_path(log_path))) or {}
        return PruneRuns(
            int(data.get("total") or 0),
            None if data.get("reached") is None else float(data["reached"]),
            Fruitless.from_json(data["row"]) if data.get("row") else None,
            {str(key): float(time) for key, time in (data.get("recorded") or {}).items()},
            {str(key): Fruitless.from_json(fruitless) for key, fruitless in (data.get("waiting") or {}).items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return PruneRuns()


def leave_runs(log_path: Path, runs: PruneRuns) -> None:
    """Replace what was left.

    Raises:
        OSError: it cannot be written.
    """
    rewrite_file(runs_path(log_path), f"{json.dumps(asdict(runs)):<{_LENGTH - 1}}\n".encode(), _MODE)


def forget_reasons(log_path: Path) -> None:
    """Keep of the runs so far only how many there were: what stood in the way may name images and containers.

    Raises:
        OSError: it cannot be written.
    """
    if runs_path(log_path).exists():
        runs = read_runs(log_path)
        leave_runs(log_path, PruneRuns(runs.total, runs.reached, runs.row and replace(runs.row, error=None)))
