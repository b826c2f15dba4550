"""The work on many hosts by a real Dask scheduler and its workers, each a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import Client

from analyzer.search.fleet import Findings, Simulation, Source, find, on_each
from analyzer.search.workers import ClusterError, Workers
from analyzer.simulation.replay import Progress
from analyzer.trace.trace import Trace
from collector.model.errors import UsageError
from collector.shipping.ship import ship
from collector.shipping.store import Folder
from pruner.policy.policy import Policy
from tests.analyzer.command import analyzer
from tests.analyzer.test_fleet import history
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
DASK = Path(sys.executable).with_name("dask")
HOSTS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, which are started again when they die."""
    place = tmp_path_factory.mktemp("cluster")
    listens = place / "scheduler.json"
    # A task that two workers died of is not tried again.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    common = ["--scheduler-file", str(listens), "--no-dashboard"]
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": place}
        started.append(subprocess.Popen([DASK, *argv], env=environment, start_new_session=True, **quiet))  # type: ignore[call-overload]

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0", *common)
        wait_for(listens.exists, "the scheduler")
        start("worker", "--nworkers", "2", "--nthreads", "1", "--memory-limit", "0", *common)
        with Client(scheduler_file=str(listens), set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(2)
            address = str(client.scheduler.address)
        yield address
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    place = tmp_path_factory.mktemp("hosts")
    store = Folder(place / "fleet")
    for number in range(HOSTS):
        ship(history(place / f"{number}.duckdb", f"host-{number}", "abcd"[: 1 + number % 4]), store)
    return find([store.path])


@dataclass(frozen=True)
class Deadly:
    """Work that some hosts kill the worker with: as lack of memory does."""

    hosts: tuple[str, ...]
    once: Path | None = None
    seconds: float = 0.0

    def __call__(self, trace: Trace, progress: Progress | None = None) -> Findings:
        time.sleep(self.seconds)
        if trace.host in self.hosts and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Simulation((Policy(),))(trace, progress)


@pytest.mark.slow
def test_a_cluster_finds_the_same_bytes_as_this_machine(
    sources: list[Source], cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sources[0].path.parent)  # workers have another working folder
    for command in ("simulate", "sweep"):
        argv = [command, "--log", "fleet", "--threshold", "10%", "--threshold", "40%", "--format", "json"]
        here = analyzer(*argv, "--processes", "1")
        there = analyzer(*argv, "--cluster", cluster)
        assert here.returncode == there.returncode == 0, there.stderr
        assert here.stdout == there.stdout


@pytest.mark.slow
def test_a_worker_that_is_killed_midway_changes_nothing(sources: list[Source], cluster: str, tmp_path: Path) -> None:
    expected, _ = on_each(sources, Simulation((Policy(),)))
    found, notes = on_each(sources, Deadly(("host-3",), tmp_path / "died"), workers=Workers(cluster=cluster))
    assert (tmp_path / "died").exists()
    assert (found, notes) == (expected, [])


@pytest.mark.slow
def test_a_host_that_workers_die_of_is_named_and_left_out(sources: list[Source], cluster: str) -> None:
    found, notes = on_each(sources, Deadly(("host-5",)), workers=Workers(cluster=cluster))
    assert [one.host for one in found] == [f"host-{number}" for number in range(HOSTS) if number != 5]
    assert notes == ["host host-5 is left out: the cluster's workers failed at it (KilledWorker)"]


@pytest.mark.slow
def test_a_host_that_cannot_be_read_is_named_and_left_out(sources: list[Source], cluster: str, tmp_path: Path) -> None:
    shutil.copytree(sources[0].path, tmp_path / "fleet")
    shutil.rmtree(tmp_path / "fleet/event/host=host-2")
    torn = find([tmp_path / "fleet"])
    _, notes = on_each(torn, Simulation((Policy(),)), workers=Workers(cluster=cluster))
    assert len(notes) == 1
    assert notes[0].startswith("host host-2 is left out: ")
    assert notes == on_each(torn, Simulation((Policy(),)), workers=1)[1]


@pytest.mark.slow
def test_an_interrupt_ends_the_work_of_the_cluster(sources: list[Source], cluster: str) -> None:
    def interrupt(share: float) -> None:
        assert share > 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_each(sources, Deadly((), seconds=1.0), workers=Workers(cluster=cluster), progress=interrupt)
    with Client(cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        wait_for(lambda: client.run_on_scheduler(_tasks) == 0, "the end of the work")


def _tasks(dask_scheduler: object) -> int:
    return len(dask_scheduler.tasks)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_what_is_no_cluster_is_one_line(sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyzer.search.workers._CONNECT_S", 1)
    work = Simulation((Policy(),))
    for address in ("", "nonsense", "foo://x:1", "tcp://x"):
        with pytest.raises(UsageError, match="is not an address such as tcp://scheduler:8786"):
            on_each(sources, work, workers=Workers(cluster=address))
    one = ["--log", str(sources[0].path), "--only-host", "host-1", "--threshold", "10%", "--baseline", "none"]
    for command in ("simulate", "sweep"):
        argv = [command, *(one if command == "simulate" else one[:-2])]
        refused = analyzer(*argv, "--cluster", "nonsense")
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        alone = analyzer(*argv, "--cluster", "tcp://127.0.0.1:9")
        assert alone.returncode == 0
        assert "note: --cluster is for several hosts" in alone.stderr
    with pytest.raises(ClusterError, match=r"the scheduler at tcp://127.0.0.1:9 does not answer"):
        on_each(sources, work, workers=Workers(cluster="tcp://127.0.0.1:9"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"Dask is not installed: install 'docker-hindsight\[cluster\]'"):
        on_each(sources, work, workers=Workers(cluster="tcp://127.0.0.1:9"))


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused(
    sources: list[Source], cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzer.search.workers.version", lambda _: "9.9")
    with pytest.raises(ClusterError, match=r"worker tcp://\S+ has docker-hindsight \S+: install version 9.9, as here"):
        on_each(sources, Simulation((Policy(),)), workers=Workers(cluster=cluster))
