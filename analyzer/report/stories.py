"""The story of each image, for a page on which it opens wherever the image is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analyzer.report.downsample import distinct_times
from analyzer.simulation import lifelines
from analyzer.trace.recorded import Presence
from analyzer.trace.trace import Flags, Floats, Trace
from collector.model.units import short_id

MOST_STORIES = 1500
_MOST_TICKS = 150
_MOST_PARTNERS = 8
_MOST_PROJECTS = 8
_MOST_NAMES = 6
_MOST_STAYS = 60
_PLACES = 400  # of more stays, those closer than this share of the time count as one

Story = dict[str, Any]


def held_at(stay: Stays, at: float, images: int) -> Flags:
    """Which of so many images were there at a time; shape (images,)."""
    held = np.zeros(images, dtype=np.bool_)
    held[stay.image[(stay.begin <= at) & (at < stay.end)]] = True
    return held


Stays = lifelines.Stays | Presence
"""When images were there, under a policy or as recorded."""


def images_with_story(trace: Trace, lives: Mapping[str, Stays], named: Sequence[int]) -> list[int]:
    """The images whose stories are shown: those that the page names, then those used most."""
    uses = np.bincount(trace.image[trace.demanded], minlength=trace.images)
    weight = uses.astype(np.float64)
    for stay in lives.values():
        weight += np.bincount(stay.image, weights=stay.again, minlength=trace.images)
    order = [int(i) for i in np.argsort(-weight, kind="stable")]
    return list(dict.fromkeys([*named, *order]))[:MOST_STORIES]


def stories(
    trace: Trace,
    lives: Mapping[str, Stays],
    projects: Mapping[str, Mapping[str, int]],
    images: Sequence[int],
) -> list[Story]:
    """The story of each image. Times are seconds after the trace's origin, sizes bytes.

    Args:
        trace: the history.
        lives: when images were there, by policy (or as recorded).
        projects: of each image, by its ID, the uses by each known project.
        images: whose stories.
    """
    place = {image: k for k, image in enumerate(images)}
    demands = trace.demanded
    order = np.argsort(trace.image[demands], kind="stable")
    used, when = trace.image[demands][order], trace.time[demands][order]
    bounds = np.searchsorted(used, np.arange(trace.images + 1))
    stays = {name: _by_image(stay, trace.images) for name, stay in lives.items()}
    holders = _holders(trace)
    found = []
    for image in images:
        times = when[bounds[image] : bounds[image + 1]]
        layers = trace.layer[trace.first[image] : trace.first[image + 1]].tolist()
        owners = projects.get(trace.image_ids[image], {})
        found.append(
            {
                "name": trace.name(image),
                "names": [name for name in trace.names[image] if name != trace.name(image) and "@" not in name][
                    :_MOST_NAMES
                ],
                "id": short_id(trace.image_ids[image]),
                "bytes": int(trace.image_bytes[image]),
                "own": sum(int(trace.layer_bytes[layer]) for layer in layers if len(holders[layer]) == 1),
                "local": bool(trace.local[image]),
                "uses": len(times),
                "last": float(times[-1]) if len(times) else None,
                "times": _whole(distinct_times(times, trace.end, _MOST_TICKS)),
                "projects": sorted(owners.items(), key=lambda owner: (-owner[1], owner[0]))[:_MOST_PROJECTS],
                "partners": _partners(trace, image, layers, holders, place),
                "stays": {name: _stays(lives[name], known[image], trace.end) for name, known in stays.items()},
            }
        )
    return found


def _by_image(stay: Stays, count: int) -> list[Any]:
    """Which stays are of each image; they are in the order of images."""
    bounds = np.searchsorted(stay.image, np.arange(count + 1))
    return [np.arange(bounds[image], bounds[image + 1]) for image in range(count)]


def _holders(trace: Trace) -> dict[int, list[int]]:
    """The images that have each layer."""
    found: dict[int, list[int]] = defaultdict(list)
    owner = np.repeat(np.arange(trace.images), np.diff(trace.first))
    for layer, image in zip(trace.layer.tolist(), owner.tolist(), strict=True):
        found[layer].append(image)
    return found


def _partners(
    trace: Trace, image: int, layers: Sequence[int], holders: Mapping[int, Sequence[int]], place: Mapping[int, int]
) -> dict[str, Any]:
    """With which images layers are shared, and how many bytes of them; those that share most."""
    shared: dict[int, int] = defaultdict(int)
    for layer in layers:
        for other in holders[layer]:
            shared[other] += int(trace.layer_bytes[layer])
    shared.pop(image, None)
    order = sorted(shared, key=lambda other: (-shared[other], other))
    most = [(place.get(other), trace.name(other), shared[other]) for other in order[:_MOST_PARTNERS] if shared[other]]
    return {"most": most, "count": sum(size > 0 for size in shared.values())}


def _stays(stay: Stays, own: Any, end: float) -> list[list[float]]:
    """Of each stay (from, to, removed, bytes pulled again, how often)."""
    begin, until, again = stay.begin[own], stay.end[own], stay.again[own]
    pulled = stay.pulled[own] * again
    if not len(begin):
        return []
    nearest = end / _PLACES if len(begin) > _MOST_STAYS else 0.0
    starts = np.flatnonzero(np.concatenate(([True], begin[1:] - np.maximum.accumulate(until)[:-1] > nearest)))
    stops = np.append(starts[1:], len(begin)) - 1
    return [
        [round(a), round(b), int(b < end), int(size), int(times)]
        for a, b, size, times in zip(
            begin[starts].tolist(),
            until[stops].tolist(),
            np.add.reduceat(pulled, starts).tolist(),
            np.add.reduceat(again.astype(np.int64), starts).tolist(),
            strict=True,
        )
    ]


def _whole(seconds: Floats) -> list[int]:
    found: list[int] = np.round(seconds).astype(np.int64).tolist()
    return found
