"""The work on many hosts by a real Dask scheduler and its workers, each a process of its own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from analyzer.search import each
from analyzer.search.each import on_each
from analyzer.search.fleet import Findings, Simulation
from analyzer.search.workers import ClusterError, Workers, outcome
from analyzer.simulation.replay import Progress
from analyzer.trace.sources import Source, find
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


def dask_client(address: str | None = None, scheduler_file: str | None = None) -> Any:
    from distributed import Client  # noqa: PLC0415 - half a second, which the quick tests need not wait

    return Client(address, scheduler_file=scheduler_file, set_as_default=False)  # type: ignore[no-untyped-call]


class FakeClient:
    """What Dask is to us, in this process: one worker, of the version that `run` finds."""

    workers = 1

    def __init__(self, address: str, *, timeout: float, set_as_default: bool) -> None:
        assert (timeout > 0, set_as_default) == (True, False)
        if address.endswith(":9"):
            raise OSError("refused")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_for_workers(self, count: int, timeout: float) -> None:
        if self.workers < count:
            raise TimeoutError(timeout)

    def run(self, question: Callable[[], str], on_error: str) -> dict[str, object]:
        assert on_error == "return"
        return {"tcp://worker": question()}

    def get_executor(self, *, pure: bool) -> ThreadPoolExecutor:
        assert not pure
        return ThreadPoolExecutor(1)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    made = type("Client", (FakeClient,), {})
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=made))
    return made


ADDRESS = "tcp://127.0.0.1:8786"


@pytest.mark.parametrize("workers", [Workers(processes=1), Workers(processes=2), Workers(cluster=ADDRESS)])
@pytest.mark.usefixtures("client")
def test_work_is_done_here_as_on_a_cluster_and_a_fault_is_the_caller_s(workers: Workers) -> None:
    with workers.pool(abs, 3) as (pool, _):
        assert [outcome(pool.submit(abs, number)) for number in (-1, 2, -3)] == [1, 2, 3]
    assert workers.count(1) == 1
    with pytest.raises(KeyboardInterrupt), workers.pool(abs, 3):
        raise KeyboardInterrupt


def test_a_cluster_that_cannot_be_used_is_one_line(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(address: str, error: type[Exception], line: str) -> None:
        with pytest.raises(error, match=line), Workers(cluster=address).pool(abs, 1):
            pass

    for address in ("", "nonsense", "foo://x:1", "tcp://x"):
        refused(address, UsageError, "is not an address such as tcp://scheduler:8786")
    refused("tcp://127.0.0.1:9", ClusterError, "the scheduler at tcp://127.0.0.1:9 does not answer: refused")
    monkeypatch.setattr(client, "workers", 0)
    refused(ADDRESS, ClusterError, "has no workers: start some")
    monkeypatch.setattr(client, "workers", 1)
    for found, line in (("0.0", "has docker-hindsight 0.0: install version"), (ImportError("x"), "lacks docker-hind")):
        monkeypatch.setattr(client, "run", lambda *_, found=found, **__: {"tcp://worker": found})
        refused(ADDRESS, ClusterError, f"worker tcp://worker {line}")
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(ADDRESS, UsageError, r"Dask is not installed: install 'docker-hindsight\[cluster\]'")


def test_a_worker_that_dies_is_one_host_s_fault_on_a_cluster_and_the_end_here() -> None:
    def failed(error: Exception) -> Future[Any]:
        future = Future[Any]()
        future.set_exception(error)
        return future

    killed = type("KilledWorker", (Exception,), {"__module__": "distributed.scheduler"})
    assert str(outcome(failed(killed()))) == "the cluster's workers failed at it (KilledWorker)"
    assert str(outcome(failed(MemoryError()))) == "the cluster's workers failed at it (MemoryError)"
    with pytest.raises(ClusterError, match="try fewer with --processes"):
        outcome(failed(BrokenExecutor()))
    with pytest.raises(ZeroDivisionError):
        outcome(failed(ZeroDivisionError()))


@pytest.mark.usefixtures("client")
def test_of_hosts_that_are_handed_out_together_only_the_one_that_fails_is_left_out(
    sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzer.search.workers._LEAST_SHARES", 1)
    handed_out: list[tuple[str, ...]] = []
    run = each._run

    def watched(tasks: Sequence[Any]) -> bytes:
        handed_out.append(tuple(task.source.host for task in tasks))
        if "host-4" in handed_out[-1]:
            raise MemoryError
        return run(tasks)

    monkeypatch.setattr(each, "_run", watched)
    done: list[float] = []
    found, notes = on_each(sources, Simulation((Policy(),)), workers=Workers(cluster=ADDRESS), progress=done.append)
    names = tuple(source.host for source in sources)
    assert [one.host for one in found] == [name for name in names if name != "host-4"]
    assert notes == ["host host-4 is left out: the cluster's workers failed at it (MemoryError)"]
    assert handed_out == [names, *((name,) for name in names)]
    assert done[-1] == 1.0


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
        with dask_client(scheduler_file=str(listens)) as client:
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
    with dask_client(cluster) as client:
        wait_for(lambda: client.run_on_scheduler(_tasks) == 0, "the end of the work")


def _tasks(dask_scheduler: object) -> int:
    return len(dask_scheduler.tasks)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_what_is_no_cluster_is_one_line(sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyzer.search.workers._CONNECT_S", 1)
    work = Simulation((Policy(),))
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


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused(
    sources: list[Source], cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzer.search.workers.version", lambda _: "9.9")
    with pytest.raises(ClusterError, match=r"worker tcp://\S+ has docker-hindsight \S+: install version 9.9, as here"):
        on_each(sources, Simulation((Policy(),)), workers=Workers(cluster=cluster))


_HEAPS = """
import ctypes, sys, threading
from analyzer.search.workers import one_heap
one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
met = threading.Barrier(4)
threads = [threading.Thread(target=lambda: (met.wait(), libc.malloc(5000), met.wait())) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def test_threads_of_a_process_that_works_on_hosts_share_one_heap(tmp_path: Path) -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_info"):
        pytest.skip("this C library tells nothing of its heaps")
    told = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", _HEAPS, told], check=True, cwd=ROOT)
    assert told.read_text().count("<heap nr=") == 1
