"""Which local image is the later one of a repository: names that move, and images that nobody saw come one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import replay
from analyzer.trace.naming import Naming, bearing, sights
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.traits import Use
from pruner.policy.file import policy_from

S, DAY = 10**9, 86400.0
GIVEN, TAKEN, GONE = "image_tagged", "image_untagged", "image_deleted"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0, 0, GIVEN, "ci/app:1")], ((("ci/app", 0.0, math.inf),), ())),
        (  # the name moves to a later image
            [(0, 0, GIVEN, "ci/app:latest"), (5 * S, 1, GIVEN, "ci/app:latest")],
            ((("ci/app", 0.0, 5.0),), (("ci/app", 5.0, math.inf),)),
        ),
        (  # it gets another repository's name instead
            [(0, 0, GIVEN, "ci/app:1"), (4 * S, 0, TAKEN, "ci/app:1"), (9 * S, 0, GIVEN, "ci/old:1")],
            ((("ci/app", 0.0, 4.0), ("ci/old", 9.0, math.inf)), ()),
        ),
        (  # an engine takes the names of what it removes: a policy need not have removed it
            [(0, 0, GIVEN, "ci/app:1"), (4 * S, 0, TAKEN, "ci/app:1"), (4 * S, 0, GONE, "")],
            ((("ci/app", 0.0, math.inf),), ()),
        ),
        ([(0, 0, TAKEN, "ci/app:1"), (1, 7, GONE, "")], ()),
        ([], ()),
    ],
)
def test_names_along_a_log(rows: list[Naming], expected: object) -> None:
    assert bearing(rows, np.arange(9), 2, 0) == expected


def test_of_images_first_seen_and_built_at_the_same_time_none_is_later() -> None:
    earliest, created = np.array([7, 5, 5, 5]), np.array([1.0, 1.0, 2.0, 0.0])
    assert sights(earliest, created, np.array([3, 0, 2, -1, 1])[:4]).tolist() == [0, 0, 1, 2]


def history() -> Trace:
    """Two builds of one repository, then nothing for weeks, until the disk is short."""
    facts = [ImageFacts([(name, 30)], (f"ci/app:{name}",), local=True) for name in ("old", "new")]
    uses = [(0.0, 0, 5.0, Use.CONTAINER), (DAY, 1, DAY + 5, Use.CONTAINER)]
    return make_trace(facts, uses, [DiskState(0, 200, 0), DiskState(30 * DAY, 61, 0)], end=31 * DAY)


@pytest.mark.parametrize(
    ("more", "removed"),
    [
        ({}, [0]),
        ({"sight": np.zeros(2, dtype=np.int64)}, []),
        ({"bearing": ((("ci/app", 0.0, math.inf),), (("ci/app", DAY, 2 * DAY),))}, []),
        ({"bearing": ((("ci/app", 0.0, DAY),), (("ci/app", DAY, math.inf),))}, [0]),
    ],
)
def test_what_is_superseded_in_simulation(more: dict[str, object], removed: list[int]) -> None:
    trace = replace(history(), **more)  # type: ignore[arg-type]
    policy = policy_from({"threshold": "20B", "order": "lru", "min_age": "0s", "interval": "1h"}, "test")
    for reference in (True, False):
        result = replay(trace, PolicyCleaner(policy, trace), reference=reference)
        assert [removal.image for removal in result.removed] == removed
