"""The same work on each of several hosts: handed out, and what came of it brought together in their order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Generic, TypeVar

from analyzer.search.workers import Workers, one_heap, outcome
from analyzer.simulation.replay import Progress, one_thread
from analyzer.trace.kept_database import let_memory_go
from analyzer.trace.load import DiskOverride
from analyzer.trace.sources import Source
from analyzer.trace.trace import Trace
from collector.model.errors import HindsightError, LogError, UsageError

T = TypeVar("T")
Work = Callable[[Trace, Progress | None], T]


def on_each(
    sources: Sequence[Source],
    work: Work[T],
    disk: DiskOverride | None = None,
    workers: Workers | int | None = None,
    progress: Progress | None = None,
    *,
    none_will_do: bool = False,
) -> tuple[list[T], list[str]]:
    """The work done on each host, in the order given, and a note for each host on which it is impossible.

    The same whatever the number of workers.

    Args:
        sources: the hosts' histories.
        work: what to do; of several hosts what it returns can be pickled, and so can it where other processes do it.
        disk: the disk to take in place of the recorded one.
        workers: who does it, or how many hosts at once on this machine; None: one for each available processor.
        progress: called with the share that is done, from 0 to 1.
        none_will_do: whether it may be impossible on all hosts, too.

    Raises:
        HindsightError: it is impossible on all hosts.
        ClusterError, UsageError: the cluster cannot be used.
    """
    chosen = workers if isinstance(workers, Workers) else Workers(workers)
    tasks = [_Task(source.absolute() if chosen.cluster else source, work, disk) for source in sources]
    if len(tasks) == 1 and not chosen.cluster:
        outcomes = [tasks[0].outcome(progress)]
    else:
        is_alone = not chosen.cluster and chosen.count(len(tasks)) <= 1
        outcomes = list(_opened((_in_turn if is_alone else _at_once)(chosen, work, tasks, progress)))
    failed = [outcome for outcome in outcomes if isinstance(outcome, HindsightError)]
    if failed and len(failed) == len(outcomes) and not none_will_do:
        raise failed[0]
    notes = [
        left_out(source, outcome)
        for source, outcome in zip(sources, outcomes, strict=True)
        if isinstance(outcome, HindsightError)
    ]
    return [outcome for outcome in outcomes if not isinstance(outcome, HindsightError)], notes


def left_out(host: Source | str, error: HindsightError) -> str:
    """A note on a host, or what a report calls it, that is left out; it is named once."""
    names = (host,) if isinstance(host, str) else (host.name, host.host)
    return f"host {names[0]} is left out: {error.unnamed if error.host in names else error}"


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    source: Source
    work: Work[T]
    disk: DiskOverride | None

    def outcome(self, progress: Progress | None = None) -> T | HindsightError:
        try:
            return self.work(self.source.load(self.disk), progress)
        except HindsightError as error:
            return error


def _packed(found: Sequence[T | HindsightError]) -> bytes:
    """Outcomes as they are sent, and kept until all are there: in a quarter of the memory.

    Those who pass them on do not look into them.
    """
    return pickle.dumps([plain_error(one) if isinstance(one, HindsightError) else one for one in found])


def plain_error(error: HindsightError) -> HindsightError:
    """An error as it is sent to another process: not every one of ours can be made again from its words."""
    made = (UsageError if isinstance(error, UsageError) else LogError)(str(error))
    made.host, made.unnamed = error.host, error.unnamed
    return made


def _opened(packed: list[bytes]) -> Iterator[T | HindsightError]:
    """The outcomes; each piece of the list is let go of once it is opened."""
    packed.reverse()
    while packed:
        yield from pickle.loads(packed.pop())  # noqa: S301 - our own workers wrote it


def _run(tasks: Sequence[_Task[T]]) -> bytes:
    """The outcomes of tasks, packed."""
    with one_thread():
        return _packed([task.outcome() for task in tasks])


def _in_turn(
    workers: Workers,
    work: Work[T],  # noqa: ARG001 - the tasks have it
    tasks: Sequence[_Task[T]],
    progress: Progress | None,
) -> list[bytes]:
    if workers.is_program:
        one_heap()
    found = [
        _packed([task.outcome(None if progress is None else _part(progress, k, len(tasks)))])
        for k, task in enumerate(tasks)
    ]
    let_memory_go()
    return found


def _at_once(workers: Workers, work: Work[T], tasks: Sequence[_Task[T]], progress: Progress | None) -> list[bytes]:
    packed: dict[int, bytes] = {}
    done = 0
    with workers.pool(work, len(tasks)) as (pool, together):
        waiting = [range(k, min(k + together, len(tasks))) for k in range(0, len(tasks), together)]
        while waiting:
            numbers = {pool.submit(_run, [tasks[k] for k in some]): some for some in waiting}
            waiting = []
            for future in as_completed(list(numbers)):
                # The future is let go of, and with it what a cluster still keeps for it.
                some = numbers.pop(future)
                found = outcome(future)
                if isinstance(found, HindsightError) and len(some) > 1:
                    # One of them is the reason: that one alone is to be left out.
                    waiting += [range(k, k + 1) for k in some]
                    continue
                packed[some[0]] = _packed([found]) if isinstance(found, HindsightError) else found
                done += len(some)
                if progress:
                    progress(done / len(tasks))
    return [packed[first] for first in sorted(packed)]


def _part(progress: Progress, k: int, count: int) -> Progress:
    return lambda share: progress((k + share) / count)
