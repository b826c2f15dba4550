"""What an operator does next, by what there is: a collector that runs, a pruner that runs, history enough."""

from __future__ import annotations

import os
from pathlib import Path

from collector.machine.wake import levels_path
from collector.model.advice import as_root, has_systemd, on_log, service_suffix
from collector.model.units import format_duration

# Where systemd keeps which timers start with the machine.
_ENABLED_TIMERS = Path("/etc/systemd/system/timers.target.wants")
# Its timer starts the pruner every 5 minutes; by another's it may be once an hour.
_LATE_S = 3900.0


def next_step(log: Path, now: float, *, watching: bool, sound: bool) -> str:
    """What to do next.

    Args:
        log: the log, which may be that of services.
        now: UTC seconds.
        watching: whether a collector runs.
        sound: whether the history is long enough for a recommendation.
    """
    suffix = service_suffix(log)
    if not watching:
        return f"start the collector: {how_to_start(log)}"
    silent = _since_last_run(log, now)
    pruning = silent is not None and silent <= _LATE_S
    if suffix is not None and os.path.lexists(_ENABLED_TIMERS / f"pruner{suffix}.timer") and not pruning:
        ran = "has not run yet" if silent is None else f"last ran {format_duration(silent)} ago"
        return f"the pruner is switched on and {ran}: `systemctl status pruner{suffix}.service` says why"
    if sound:
        tried = on_log("pruner plan --policy FILE", log)
        recommend = on_log("analyzer recommend", log, reads=True)
        return f"let `{recommend}` propose a policy from this history, and `{tried}` try it"
    if pruning:
        return "nothing: the pruner keeps space free by its policy, and the history is still growing"
    units = f"pruner{suffix}.timer pruner{suffix}.path"
    alone = on_log("pruner run" if has_systemd() else "pruner run --every 5m", log)
    lets = alone if suffix is None or not has_systemd() else as_root(f"systemctl enable --now {units}")
    return f"`{on_log('pruner plan', log)}` shows what the defaults would remove; `{lets}` removes it"


def how_to_start(log: Path) -> str:
    """The commands that start the collector of a log."""
    suffix, start = service_suffix(log), on_log("collector run", log)
    if not has_systemd():
        return f"`{start}`"
    if suffix is None:
        return f"`{start}`, or `{as_root('pruner install-units')}` for services that run with the machine"
    return f"`{as_root(f'systemctl enable --now collector{suffix}.service')}`, or `{start}`"


def _since_last_run(log: Path, now: float) -> float | None:
    """Seconds since a run of the pruner last decided; None: none ever has."""
    try:
        return max(0.0, now - levels_path(log).stat().st_mtime)
    except OSError:
        return None
