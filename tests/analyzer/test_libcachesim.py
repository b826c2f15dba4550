"""Strict least recently used, held against libcachesim's own: misses and bytes are equal."""

from __future__ import annotations

import math
from pathlib import Path

import libcachesim  # type: ignore[import-untyped]
import numpy as np
import pytest

from analyzer.kernel.runs import Wake
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import replay
from analyzer.trace.trace import Floats, Integers, Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.model.traits import Use
from pruner.policy.policy import Policy, Space

# A prune ends seconds after the pull that calls for it; the cache of a textbook makes room before its next request.
AT_ONCE = Wake(latency=0.0, pull_rate=math.inf)


def theirs(folder: Path, image: Integers, sizes: Integers, capacity: int) -> tuple[int, int]:
    """Misses and missed bytes of libcachesim's LRU on the sequence."""
    record = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])
    rows = np.zeros(len(image), dtype=record)
    rows["time"], rows["object"], rows["size"], rows["next"] = np.arange(len(image)), image, sizes[image], -2
    path = folder / "trace.oracleGeneral"
    rows.tofile(path)
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    missed, missed_bytes = libcachesim.LRU(cache_size=capacity).process_trace(reader)
    return round(missed * len(image)), round(missed_bytes * int(sizes[image].sum()))


def ours(trace: Trace, capacity: int) -> tuple[int, int]:
    """The same of our replay: one layer an image, no duration, no age, and room is made at once.

    libcachesim makes room before a miss is stored; we do right after, so the image that has just
    come must not be the one that goes: it is the most recently used.
    """
    policy = Policy(threshold=Space.parse("0"), inode_threshold=Space.parse("0"), min_age=0.0, order="lru")
    result = replay(trace, PolicyCleaner(policy, trace, trigger=Trigger.EVENT, wake=AT_ONCE))
    assert trace.disk_total.tolist() == [capacity]
    return result.compulsory + result.repulls, result.compulsory_bytes + result.repulled_bytes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_misses_and_bytes_are_those_of_libcachesim(tmp_path: Path, seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    popular = 1.0 / np.arange(1, 301) ** 0.9
    image = draw.choice(300, size=4000, p=popular / popular.sum())
    _, image = np.unique(image, return_inverse=True)
    first = np.argsort(np.unique(image, return_index=True)[1], kind="stable")
    image = np.argsort(first)[image]  # numbered by first sight
    sizes = draw.integers(1, 1000, image.max() + 1)
    capacity = max(int(share * sizes.sum()), int(sizes.max()))
    time: Floats = np.arange(len(image), dtype=np.float64)
    uses = [(float(t), int(i), float(t), Use.JOB) for t, i in zip(time, image, strict=True)]
    images = [ImageFacts([(f"own{i}", int(size))]) for i, size in enumerate(sizes)]
    trace = make_trace(images, uses, [DiskState(0, capacity, 0)], end=5000.0)
    assert ours(trace, capacity) == theirs(tmp_path, image, sizes, capacity)
