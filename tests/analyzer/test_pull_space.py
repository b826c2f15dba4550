"""What a pull takes for a while: as it was measured on each store, and what it does to a simulated disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.search.room import headroom
from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import replay
from analyzer.trace import pull_space as module
from analyzer.trace.load import load_trace
from analyzer.trace.pull_space import pull_space
from bench.made import DiskState, ImageFacts, make_trace
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.model.traits import Use
from pruner.policy.policy import Policy, Space

SHAPES = {(40, 20, 5): 40, (5, 20, 40): 40, (64,): 64, (12,) * 6: 12}


@pytest.mark.parametrize(("store", "measured"), [("overlay2", SHAPES), ("containerd", {}), ("podman", None)])
def test_space_is_as_measured(
    store: str, measured: dict[tuple[int, ...], int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m bench pull_space`, MiB: layers that do not compress, all of them missing."""
    monkeypatch.setattr(module, "COMPRESSED", 1.0)
    for sizes in SHAPES:
        first, layer = np.array([0, len(sizes)]), np.arange(len(sizes))
        space = pull_space(store, first, layer, np.array(sizes))
        assert space.max() == (sum(sizes) if measured is None else measured.get(sizes, 0))


def test_only_what_is_missing_takes_space() -> None:
    """The base is there already: of an image of 100 + 10 bytes only the top layer is fetched."""
    images = [ImageFacts([("base", 100)]), ImageFacts([("base", 100), ("top", 10)])]
    uses = [(1.0, 0, 50.0, Use.CONTAINER), (2.0, 1, 50.0, Use.CONTAINER)]
    made = make_trace(images, uses, [DiskState(0, 150, 0)], end=60)
    space = pull_space("overlay2", made.first, made.layer, made.layer_bytes)
    assert space.tolist() == [37, 30, 3]
    trace = replace(made, pull_space=space)
    assert headroom(trace) == 1.25 * (110 + 30) + 110
    for reference in (True, False):
        cleaner = PolicyCleaner(Policy(threshold=Space.parse("1B"), interval=10.0), trace)
        result = replay(trace, cleaner, reference=reference, timeline=True)
        assert result.min_free == 150 - 100 - 37
        assert result.timeline is not None
        assert result.timeline.free.tolist() == [150, 13, 50, 37, 40]


@pytest.mark.parametrize("total", [136, 137])
def test_a_pull_needs_room_for_what_is_not_unpacked_yet(total: int) -> None:
    made = make_trace([ImageFacts([("a", 100)])], [(1.0, 0, 50.0, Use.CONTAINER)], [DiskState(0, total, 0)], end=60)
    trace = replace(made, pull_space=pull_space("overlay2", made.first, made.layer, made.layer_bytes))
    for reference in (True, False):
        cleaner = PolicyCleaner(Policy(threshold=Space.parse("1B"), interval=10.0), trace)
        assert replay(trace, cleaner, reference=reference).disk_full == (total < 137)


def test_the_store_is_known_from_the_log(log: EventLog) -> None:
    layers = [{"diff_id": "sha256:a", "bytes": 1000}]
    facts = {"references": ["a:1"], "size": 1000, "layers": layers}
    log.append(
        [
            Event(10**9, Kind.COLLECTOR_STARTED, attributes={"store": "podman"}),
            Event(2 * 10**9, Kind.IMAGE_OBSERVED, image="sha256:" + "1" * 64, attributes=facts),
            Event(2 * 10**9, Kind.DISK_SAMPLED, bytes=5000, attributes={"total_bytes": 10**4, "image_bytes": 1000}),
        ]
    )
    assert load_trace(log).pull_space.tolist() == [370]
