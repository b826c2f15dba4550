"""Traces out of plain values, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.trace.trace import Trace
from collector.model.traits import Use


@dataclass(frozen=True, slots=True)
class DiskState:
    """The disk from `time` on, until the next state: bytes and inodes, in all and held by others."""

    time: float
    total: int
    other: int
    total_inodes: int = 0
    other_inodes: int = 0


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image for `make_trace`: layers as (chain ID, bytes) from the base up."""

    layers: Sequence[tuple[str, int]]
    references: tuple[str, ...] = ()
    local: bool = False
    created: float = 0.0


def numbered(
    images: Sequence[ImageFacts], uses: Sequence[tuple[float, int, float, Use]]
) -> tuple[list[ImageFacts], list[tuple[float, int, float, Use]]]:
    """Images and uses, with images numbered by first sight, and without those that were never used."""
    first: dict[int, float] = {}
    for begin, image, _, _ in uses:
        first[image] = min(begin, first.get(image, np.inf))
    order = sorted(first, key=lambda image: (first[image], image))
    number = {image: k for k, image in enumerate(order)}
    return [images[image] for image in order], [(begin, number[image], end, kind) for begin, image, end, kind in uses]


def make_trace(
    images: Sequence[ImageFacts],
    uses: Sequence[tuple[float, int, float, Use]],
    disk: Sequence[DiskState],
    blind: Sequence[tuple[float, float]] = (),
    end: float | None = None,
) -> Trace:
    """A trace from plain values: uses as (time, image, until, kind), in any order.

    Layers with the same chain ID are one. The end is the last use's unless given.
    """
    numbers: dict[str, int] = {}
    sizes: list[int] = []
    layer: list[int] = []
    first = [0]
    for facts in images:
        for chain_id, size in dict(facts.layers).items():
            if chain_id not in numbers:
                numbers[chain_id] = len(sizes)
                sizes.append(size)
            layer.append(numbers[chain_id])
        first.append(len(layer))
    references = tuple(facts.references or (f"image:{number}",) for number, facts in enumerate(images))
    entries = sorted(uses, key=lambda use: (use[0], use[3]))
    states = sorted(disk, key=lambda state: state.time)
    return Trace(
        host="made",
        origin_ns=0,
        end=end if end is not None else max((use[0] for use in uses), default=0.0),
        image_ids=tuple(f"sha256:{number:064x}" for number in range(len(images))),
        references=references,
        names=references,
        local=np.array([facts.local for facts in images], dtype=np.bool_),
        created=np.array([facts.created for facts in images], dtype=np.float64),
        first=np.array(first, dtype=np.int64),
        layer=np.array(layer, dtype=np.int64),
        layer_bytes=np.array(sizes, dtype=np.int64),
        time=np.array([use[0] for use in entries], dtype=np.float64),
        image=np.array([use[1] for use in entries], dtype=np.int32),
        until=np.array([use[2] for use in entries], dtype=np.float64),
        kind=np.array([use[3] for use in entries], dtype=np.uint8),
        disk_time=np.array([state.time for state in states], dtype=np.float64),
        disk_total=np.array([state.total for state in states], dtype=np.int64),
        disk_other=np.array([state.other for state in states], dtype=np.int64),
        inode_total=np.array([state.total_inodes for state in states], dtype=np.int64),
        inode_other=np.array([state.other_inodes for state in states], dtype=np.int64),
        layer_inodes=np.zeros(len(sizes)),
        blind=np.array(blind, dtype=np.float64).reshape(-1, 2),
    )
