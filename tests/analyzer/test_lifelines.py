"""When each image was there: as one sees it who walks through the uses one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.host import Removal
from analyzer.simulation.lifelines import stays
from analyzer.simulation.replay import replay
from analyzer.simulation.result import Removals
from analyzer.trace.trace import Trace
from collector.model.traits import Use
from pruner.policy.policy import Policy
from tests.analyzer.test_kernel import policies, traces
from tests.needs import examples

Stay = tuple[int, float, float, float, bool]


def walked(trace: Trace, removed: list[Removal]) -> list[Stay]:
    """(image, begin, end, last use, again) of each stay."""
    found: list[Stay] = []
    for i in range(trace.images):
        uses = [k for k in range(len(trace.time)) if trace.image[k] == i]
        gone = sorted(removal.time for removal in removed if removal.image == i)
        known = False
        for k, end in enumerate([*gone, np.inf]):
            start = gone[k - 1] if k else -np.inf
            here = [use for use in uses if start < trace.time[use] <= end]
            brings = [use for use in here if _brings(trace, use, known=known)]
            if brings:
                last = min(end, trace.end)
                latest = min(max(float(trace.until[use]) for use in here), last)
                found.append((i, float(trace.time[brings[0]]), last, latest, known))
                known = True
    return found


def _brings(trace: Trace, use: int, *, known: bool) -> bool:
    kind = Use(int(trace.kind[use]))
    if not known:
        return kind.demands or kind in {Use.ARRIVED, Use.FOUND}
    return kind is Use.ARRIVED or (kind.demands and not trace.local[trace.image[use]])


@settings(max_examples=examples(100))
@given(traces(), policies())
def test_stays_are_those_that_one_sees_walking(trace: Trace, policy: Policy) -> None:
    removed = list(replay(trace, PolicyCleaner(policy, trace)).removed)
    for listed in (removed, Removals.of(removed)):
        found = stays(trace, listed)
        columns = (found.image, found.begin, found.end, found.last_use, found.again)
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == walked(trace, removed)


@settings(max_examples=examples(100))
@given(traces(), policies())
def test_what_stays_transferred_is_what_the_replay_counted(trace: Trace, policy: Policy) -> None:
    # What is used after the end is not part of a replay.
    trace = trace.between(0.0, np.nextafter(trace.end, np.inf))
    result = replay(trace, PolicyCleaner(policy, trace))
    found = stays(trace, result.removed)
    assert int(found.pulled[found.again].sum()) == result.repulled_bytes
    assert int(found.pulled[~found.again].sum()) == result.compulsory_bytes
