"""Collector and pruner killed and disturbed while jobs run, against an independent record: ``python -m bench torture``.

Jobs pull images from a private registry and run containers on a private engine, while the collector and the pruner
are ended by kill -9 again and again, at any moment of theirs. A thread that does nothing else takes the engine's
events from the first to the last. In the end, what it took is compared with what the log says: an event that the log
neither holds nor covers by a gap, or a removal that was not planned and stored before it happened, is a fault.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench._torture.comparison import Figures, compare
from bench._torture.faults import FAULTS, Disturber, FakedClock
from bench._torture.kills import CollectorKiller, PrunerKiller, settle
from bench._torture.traffic import Capture, Traffic, push_images
from tests.engine import leftovers
from tests.engine.disk import LoopDisk
from tests.engine.engines import Engine, available
from tests.engine.host import Host
from tests.engine.proxy import Proxy
from tests.engine.registry import Registry

ENGINES = ("docker20", "docker26", "docker28")
_LOG_DISK_BYTES = 128 * 2**20


def main(argv: Sequence[str] = ()) -> int:
    """Torture, and print a line for each figure; 1 if one is not as it must be."""
    options = _parser().parse_args(argv)
    wanted = tuple(filter(None, options.faults.split(",")))
    if unknown := set(wanted) - {"kill", *FAULTS}:
        sys.stderr.write(f"bench: unknown fault '{min(unknown)}'; known are kill, {', '.join(FAULTS)}\n")
        return 2
    if reason := available(options.engine):
        sys.stderr.write(f"bench: {reason}\n")
        return 2
    with leftovers.state_root() as root:
        registry = Registry(root / "registry")
        with Engine(options.engine, root / "torture", registry.host).running() as engine:
            limit_s = 60 * options.minutes
            found = torture(engine, registry, options.kills, wanted, options.seed, options.keep, limit_s)
    sys.stdout.write(f"{json.dumps(found.to_json(), indent=2)}\n" if options.format == "json" else f"{found}\n")
    return 0 if found.hold else 1


def torture(
    engine: Engine,
    registry: Registry,
    kills: int,
    faults: Sequence[str] = ("kill",),
    seed: int = 1,
    keep: Path | None = None,
    limit_s: float = 1800.0,
) -> Figures:
    """Torture collector and pruner on an engine that has started.

    Args:
        engine: the engine.
        registry: where its images come from.
        kills: how often each of the two is killed; without the fault ``kill``: how often each runs to its end.
        faults: ``kill`` and names of `FAULTS`: those come in turn, all the time.
        seed: of all that is left to chance.
        keep: a folder for the log, the captured events and what the two wrote; None: they go.
        limit_s: after so many seconds nothing more is begun, whatever is left to do.

    Returns:
        What was counted.
    """
    backing = LoopDisk(engine.folder / "backing", 2 * _LOG_DISK_BYTES) if "errors" in faults else None
    disk = LoopDisk((backing.path if backing else engine.folder) / "log-disk", _LOG_DISK_BYTES)
    over = threading.Event()
    with Proxy(engine.socket, engine.folder / "proxy.sock") as proxy:
        host = Host(engine, disk.path / "events.duckdb", proxy.host)
        capture = Capture(engine)
        traffic = Traffic(engine, push_images(registry, engine), over, seed)
        deadly = "kill" in faults
        disturbing = [fault for fault in faults if fault != "kill"]
        # Disturbed at once, the log would begin late, or without the room that it keeps for a full disk.
        if disturbing or not deadly:
            host.run("collector", "run", "--once")
        until = time.monotonic() + limit_s
        clock = FakedClock(engine.folder / "clock")
        faked = clock.environment if "clock" in faults else {}
        killers = (
            CollectorKiller(host, kills, seed, until, traffic, deadly=deadly, preloaded=faked),
            PrunerKiller(host, kills, seed, until, deadly=deadly),
        )
        disturber = Disturber(host, disk, backing, clock, proxy, disturbing, over)
        traffic.start()
        disturber.start()
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
        over.set()
        disturber.join()
        traffic.join()
        settle(host, capture)
        if keep is not None:
            _keep(host, capture, keep)
        return compare(host, capture, traffic, killers, disturber.done)


def _keep(host: Host, capture: Capture, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in (host.log_path, *host.engine.folder.glob("*.out")):
        shutil.copy(path, folder)
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in capture.events))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench torture", description="Kill collector and pruner while jobs run.")
    parser.add_argument("--kills", type=int, default=20, help="how often each of the two is killed (default: 20)")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="on which engine (default: docker20)")
    parser.add_argument("--faults", default="kill", help=f"with commas, from: kill,{','.join(FAULTS)} (default: kill)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance (default: 1)")
    parser.add_argument("--keep", type=Path, help="a folder for the log and the events that were captured")
    parser.add_argument("--minutes", type=float, default=30, help="begin nothing more after so long (default: 30)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="how figures are printed")
    return parser
