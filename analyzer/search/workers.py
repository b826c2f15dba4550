"""Who does the work on many hosts: this process, threads, processes, or the workers of a Dask cluster.

All of them are reached through the standard library's executors, so there is one way to hand work out and to
collect what comes of it, and the same bytes come of it.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from collector.model.errors import HindsightError, UsageError

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
# From so many hosts on it is soon made good that a process takes a second to start.
WORTH_PROCESSES = 32
_CONNECT_S = 10
# A cluster that starts its workers on demand takes a while.
_WORKERS_S = 120
# To hand out a task and to collect its result takes scheduler, client and worker 25 ms in all, a tenth of what the work
# on a host takes; but each worker is to have its turn several times, so that all end at the same time.
_MOST_TOGETHER = 8
_LEAST_SHARES = 4
# From glibc's malloc.h, see mallopt(3).
_M_ARENA_MAX = -8
_PACKAGE = "docker-hindsight"
_ADDRESS = re.compile(r"(tcp|tls|wss?)://[^/\s]+:[0-9]{1,5}")


class ClusterError(HindsightError):
    """The cluster cannot be used."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Who does the work.

    Attributes:
        processes: how many hosts at once on this machine; None: one for each available processor.
        cluster: the address of a Dask scheduler, such as ``tcp://scheduler:8786``; None: this machine.
        is_program: whether the program that runs is ours: processes import it, and may import no caller's.

    Raises:
        UsageError: that is not an address.
    """

    processes: int | None = None
    cluster: str | None = None
    is_program: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.cluster is not None and not _ADDRESS.fullmatch(self.cluster):
            raise UsageError(f"--cluster: '{self.cluster}' is not an address such as tcp://scheduler:8786")

    def count(self, tasks: int) -> int:
        """How many hosts are worked on at once on this machine."""
        return min(self.processes or len(os.sched_getaffinity(0)), tasks)

    @contextmanager
    def pool(self, work: Callable[..., object], tasks: int) -> Iterator[tuple[Executor, int]]:
        """An executor, and how many hosts to hand out together.

        What has not begun when the block ends with an error, or is interrupted, is called off.

        Raises:
            ClusterError: the cluster does not answer, has no workers, or another version of this program.
            UsageError: Dask is not installed.
        """
        if self.cluster is not None:
            with _client(self.cluster) as (client, count), client.get_executor(pure=False) as pool:  # type: ignore[no-untyped-call]
                try:
                    yield pool, max(1, min(_MOST_TOGETHER, tasks // (_LEAST_SHARES * count)))
                except BaseException:
                    pool.shutdown(wait=False)
                    raise
            return
        made = self._local_pool(work, tasks)
        try:
            yield made, 1
        except BaseException:
            made.shutdown(wait=False, cancel_futures=True)
            raise
        made.shutdown()

    def _local_pool(self, work: Callable[..., object], tasks: int) -> Executor:
        """Processes where the work is done in Python, or there is much of it; else threads, which begin at once.

        Most of the work is done by compiled code, which threads share, but two of them get no more than one and a half
        times as much done. A fork would inherit DuckDB's and the kernel's threads in whatever state they are, so none
        is made.
        """
        if getattr(work, "baselines", ()) or (self.is_program and tasks >= WORTH_PROCESSES):
            spawn = multiprocessing.get_context("spawn")
            return ProcessPoolExecutor(self.count(tasks), mp_context=spawn, initializer=_begin)
        return ThreadPoolExecutor(self.count(tasks))


def _begin() -> None:
    """Make a process ready for work."""
    # Ctrl-C reaches all processes: the first one calls off what the others have not begun, and says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _settle()
    # Who is killed ends none of them: they would wait for work forever.
    if (parent := multiprocessing.parent_process()) is not None:
        Thread(target=_end_with, args=[parent], daemon=True).start()


def _settle() -> None:
    """Make a process ready for one host after another, of which each takes the memory of those before."""
    # What was imported stays: nobody need look through it for garbage again and again.
    gc.freeze()
    one_heap()


def one_heap() -> None:
    """Let all threads of this process take memory from one place, as far as the C library lets us ask for it.

    glibc gives each thread a place of its own, which keeps what is free in it; the threads of a process that works on
    hosts hardly ever ask at the same time.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def outcome(future: Future[T]) -> T | HindsightError:
    """What came of the work on one host; also where whoever did it died of it.

    Raises:
        ClusterError: this machine's processes died, and with them all work.
    """
    try:
        return future.result()
    except BrokenExecutor:
        raise ClusterError("a process of ours was killed (is memory short?): try fewer with --processes") from None
    except HindsightError as error:
        return error
    except Exception as error:
        # What a cluster's worker raises is its own: no memory, a missing module, or that it died of this host.
        if not type(error).__module__.startswith(("distributed", "dask")) and not isinstance(error, MemoryError):
            raise
        return ClusterError(f"the cluster's workers failed at it ({type(error).__name__})")


@contextmanager
def _client(address: str) -> Iterator[tuple[Client, int]]:
    """A client of a cluster, and how many workers that has now."""
    try:
        from distributed import Client  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(f"--cluster: Dask is not installed: install '{_PACKAGE}[cluster]'") from None
    # What goes on among its workers is the cluster's business; what becomes of a host is said in a line of ours.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no answer"
        raise ClusterError(f"--cluster: the scheduler at {address} does not answer: {reason}") from None
    with client:
        yield client, _checked(client, address)


def _checked(client: Client, address: str) -> int:
    """How many workers there are, all of this version: results are the same bytes only then."""
    try:
        client.wait_for_workers(1, timeout=_WORKERS_S)
    except TimeoutError:
        raise ClusterError(f"--cluster: the scheduler at {address} has no workers: start some") from None
    ours = version(_PACKAGE)
    found: dict[str, Any] = client.run(_installed, on_error="return")
    for worker, theirs in sorted(found.items()):
        if theirs != ours:
            what = f"has {_PACKAGE} {theirs}" if isinstance(theirs, str) else f"lacks {_PACKAGE}[analyzer]"
            raise ClusterError(f"--cluster: worker {worker} {what}: install version {ours}, as here")
    return len(found)


def _installed() -> str:
    """The version on a worker, which is ready for work then."""
    _settle()
    return version(_PACKAGE)
