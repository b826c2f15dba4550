"""How fast a fleet is simulated: 20 policies on many hosts, by processes of this machine and by a Dask cluster on it.

Every host has Mesa's recorded year (0.24 million events) as `collector ship` lays it out: parts by day, which a later
run merged in one go. With BENCH_SHIPPED=daily the last four weeks came day by day, as on a runner, where they wait to
be merged, and each host takes up to half as much processor time more. The folders of all hosts are links to those of
the first, so that a thousand take no space; each is read, checked and replayed, from the page cache. BENCH_HOSTS says
how many hosts: 10,100,1000 take a quarter of an hour on two cores.
On a busy machine wall times say little: what the cluster costs is the processor time of all its processes, beside that
of the same work by this machine; but what Dask does many times a second counts for as long as the work takes there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from bench._costs import Cost, of_command, processor_seconds
from bench._traces import mesa_log
from collector.model.units import format_bytes
from collector.shipping import parts
from collector.shipping.ship import ship
from collector.shipping.store import Folder
from collector.terminal import console

# Dask samples what its workers do a hundred times a second, which nobody looks at here (see docs/howto/fleets.md).
_UNWATCHED = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False", "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s"}
HOSTS = tuple(int(count) for count in os.environ.get("BENCH_HOSTS", "10,100").split(","))
WORKERS = (1, 2)
_POLICIES = "5%:24%:1%"
_DAYS = 27 if os.environ.get("BENCH_SHIPPED") == "daily" else 0
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class _Cost(Cost):
    client: float = 0.0


def run() -> None:
    """Print the table, and what it means for a larger fleet."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        # By another process: the memory that this one took would count as that of each process that it starts.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(_ship, folder).result()
        costs: dict[tuple[int, str, int], _Cost] = {}
        for hosts in HOSTS:
            fleet = _fleet(folder, hosts)
            for kind in ("processes", "cluster"):
                for workers in WORKERS:
                    cost = costs[hosts, kind, workers] = _measured(folder, fleet, kind, workers)
                    print(f"{hosts} hosts, {workers} {kind}: {cost.processor:.1f} s of processor", file=sys.stderr)  # noqa: T201
            assert len({cost.printed for (count, *_), cost in costs.items() if count == hosts}) == 1, (  # noqa: S101
                "the results differ"
            )
        console.print_table(_COLUMNS, [_row(costs, key) for key in costs], right=(_COLUMNS[0], *_COLUMNS[2:]))
        if len(HOSTS) > 1:
            _extrapolate(costs)


def _ship(folder: Path) -> None:
    log, store = mesa_log(folder), Folder(folder / "first")
    with duckdb.connect(str(log.path)) as connection:
        connection.execute(
            "CREATE TABLE later AS FROM event WHERE seq >= (SELECT min(seq) FROM event WHERE time >"
            f" (SELECT max(time) FROM event) - to_days({_DAYS}));"
            " DELETE FROM event WHERE seq IN (SELECT seq FROM later)"
        )
    for _ in range(2):  # the second run merges what the first one shipped, as on a runner each month
        ship(log, store)
    for left in reversed(range(_DAYS)):
        with duckdb.connect(str(log.path)) as connection:
            connection.execute(
                "INSERT INTO event FROM later WHERE seq > (SELECT max(seq) FROM event)"
                f" AND time <= (SELECT max(time) FROM later) - to_days({left}) ORDER BY seq"
            )
        ship(log, store)


_COLUMNS = ("HOSTS", "WORKERS", "WALL", "PROCESSOR", "PEAK", "SPEED-UP", "OVERHEAD")


def _row(costs: Mapping[tuple[int, str, int], _Cost], key: tuple[int, str, int]) -> tuple[str, ...]:
    hosts, kind, workers = key
    cost, alone = costs[key], costs[hosts, kind, WORKERS[0]]
    beside = costs[hosts, "processes", workers]
    return (
        f"{hosts:,}",
        f"{workers} {kind}",
        f"{cost.wall:.1f} s",
        f"{cost.processor:.1f} s",
        format_bytes(cost.peak),
        f"{alone.wall / cost.wall:.2f}",
        f"{cost.processor / beside.processor - 1:+.0%}" if kind == "cluster" else "-",
    )


def _extrapolate(costs: Mapping[tuple[int, str, int], _Cost]) -> None:
    """What a host more costs, and from that 10,000 hosts on 100 workers."""
    few, many = HOSTS[0], HOSTS[-1]
    last = WORKERS[-1]
    first, cluster = ([costs[hosts, kind, last] for hosts in (few, many)] for kind in ("processes", "cluster"))
    here, there = ((pair[1].processor - pair[0].processor) / (many - few) for pair in (first, cluster))
    client = (cluster[1].client - cluster[0].client) / (many - few)
    fixed = cluster[0].processor - few * there
    console.print_text(
        f"a host more takes {here:.3f} s of processor here and {there:.3f} s on the cluster ({there / here - 1:+.0%}), "
        f"{client:.4f} s of them the client's; {fixed:.1f} s are fixed"
    )
    console.print_text(
        f"10,000 hosts on 100 workers: {10_000 * max((there - client) / 100, client) + fixed:,.0f} s, if hosts are "
        "alike, each worker has a processor of its own, and the store gives as fast as this machine's page cache"
    )


def _fleet(folder: Path, hosts: int) -> Path:
    fleet = folder / f"fleet-{hosts}"
    for table in (parts.EVENTS, parts.JOBS, parts.MERGED, parts.MANIFESTS):
        (fleet / table).mkdir(parents=True)
        for number in range(hosts):
            link = fleet / table / parts.partition(f"host-{number:04}")
            link.symlink_to(folder / "first" / table / parts.partition("mesa"))
    return fleet


def _measured(folder: Path, fleet: Path, kind: str, workers: int) -> _Cost:
    argv = [str(_BIN / "analyzer"), "sweep", "--log", str(fleet), "--threshold", _POLICIES, "--format", "json"]
    if kind == "processes":
        return _Cost(**vars(of_command(*argv, "--processes", str(workers))))
    with _cluster(folder, workers) as (address, processes):
        before = sum(map(processor_seconds, processes))
        cost = of_command(*argv, "--cluster", address)
        theirs = sum(map(processor_seconds, processes)) - before
        return _Cost(
            cost.wall, cost.processor + theirs, max(cost.peak, *map(_peak, processes)), cost.printed, cost.processor
        )


@contextmanager
def _cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[int]]]:
    """A scheduler with so many workers on this machine: its address, and the numbers of all their processes."""
    listens = folder / "scheduler.json"
    listens.unlink(missing_ok=True)
    common = ["--scheduler-file", str(listens), "--no-dashboard"]
    worker = ["worker", "--nthreads", "1", "--no-nanny", "--memory-limit", "0"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for argv in (["scheduler", "--host", "127.0.0.1", "--port", "0"], *[worker] * workers):
            quiet, environment = subprocess.DEVNULL, os.environ | _UNWATCHED
            started.append(
                subprocess.Popen(
                    [str(_BIN / "dask"), *argv, *common], stdout=quiet, stderr=quiet, cwd=folder, env=environment
                )
            )
            while not listens.exists():
                time.sleep(0.05)
        from distributed import Client  # noqa: PLC0415

        with Client(scheduler_file=str(listens), set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(workers)
            address = str(client.scheduler.address)
        yield address, [process.pid for process in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _peak(process: int) -> int:
    """Bytes of memory that a process had at most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
