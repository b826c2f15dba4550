"""When the uses of a trace need which layers, and for how long these may not go: what bounds are computed from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.simulation.cleaner import protection
from analyzer.trace.trace import Flags, Floats, Images, Integers, Trace
from collector.model.traits import Use
from pruner.policy.local_images import KEEP, SUPERSEDED
from pruner.policy.policy import Policy


def needs_of_layers(trace: Trace, policy: Policy, min_age: float) -> tuple[NDArray[Any], ...]:
    """Each layer of each use, by tick and layer, as seven columns of one length.

    Args:
        trace: the history.
        policy: whose interval, allowlist and treatment of local images hold.
        min_age: seconds for which a use keeps an image.

    Returns:
        The tick, the layer, whether it is needed, whether it may have to be pulled again, until when it may not go
        and until when that is doubtful (seconds), and up to which tick it takes space for a costly need.
    """
    tick, layer, needed, costs, until, doubt = _uses_of_layers(trace, policy, min_age)
    if not len(tick):
        return tick, layer, needed, costs, until, doubt, until
    # Of all that happens to a layer between two ticks, the first need says what its fetch is.
    order = np.lexsort((~needed, tick, layer))
    tick, layer, needed, costs = tick[order], layer[order], needed[order], costs[order]
    start = np.flatnonzero(np.append([True], (layer[1:] != layer[:-1]) | (tick[1:] != tick[:-1])))
    latest, doubtful = np.maximum.reduceat(until[order], start), np.maximum.reduceat(doubt[order], start)
    tick, layer, needed, costs = tick[start], layer[start], needed[start], costs[start]
    need = np.flatnonzero(needed)
    again = (layer[need][1:] == layer[need][:-1]) & costs[need][1:]
    following = np.full(len(tick), math.inf)
    # From a doubtful use on it takes no space; what comes after the next need is that need's affair.
    stops = np.append(np.flatnonzero(doubtful > -math.inf), len(tick))
    stop = stops[np.searchsorted(stops, need[:-1], side="right")]
    following[need[:-1][again]] = tick[np.minimum(stop, need[1:])[again]]
    order = np.lexsort((layer, tick))
    return tuple(column[order] for column in (tick, layer, needed, costs, latest, doubtful, following))


def _uses_of_layers(
    trace: Trace, policy: Policy, min_age: float
) -> tuple[Integers, Integers, Flags, Flags, Floats, Floats]:
    """Each layer of each use: tick, layer, whether needed, may re-pull, exempt until, doubtful until."""
    demand = trace.demanded
    first = _is_first(trace.image, demand | (trace.kind <= Use.ARRIVED))
    # What appears without a pull, or is pulled for the first time, costs no re-pull.
    free = (trace.kind == Use.ARRIVED) | first
    needed = free | (demand & ~trace.local[trace.image])
    tick = np.maximum(np.ceil(trace.time / policy.interval), 1).astype(np.int64)
    never_goes = trace.local & (policy.local_images == KEEP)
    until = np.where(never_goes[trace.image], math.inf, trace.until + min_age)
    until, known, there = _presence(trace, needed, until)
    doubt = np.where(known & ~there & (until > tick * policy.interval), until, -math.inf)
    until = np.where(there, until, -math.inf)
    count = trace.first[trace.image + 1] - trace.first[trace.image]
    owner = np.repeat(np.arange(len(count)), count)
    begin = np.cumsum(count) - count
    layer = trace.layer[np.arange(int(count.sum())) - np.repeat(begin - trace.first[trace.image], count)]
    counted = ~_spared_layers(trace, policy)[layer]
    owner, layer = owner[counted], layer[counted]
    return tick[owner], layer, needed[owner], (demand & ~free)[owner], until[owner], doubt[owner]


def _presence(trace: Trace, needed: Flags, until: Floats) -> tuple[Floats, Flags, Flags]:
    """Of each use: until when its image is exempt by then, and whether it has ever been, and surely is, there.

    An image is surely there from each need on for as long as it is exempt.
    """
    order = np.argsort(trace.image, kind="stable")
    image, position = trace.image[order], np.arange(len(order))
    values, rank = np.unique(until, return_inverse=True)
    offset = image * len(values)
    latest = values[np.maximum.accumulate(offset + rank[order]) - offset]
    last = np.maximum.accumulate(np.where(needed[order], position, -1))
    known = (last >= 0) & (image[last] == image)
    there = known & (needed[order] | (trace.time[order] < latest[last]))
    back = np.argsort(order)
    return latest[back], known[back], there[back]


def spares(policy: Policy) -> bool:
    """Whether the allowlist may keep anything while free space is under the threshold."""
    return policy.emergency is not None and policy.emergency != policy.threshold


def _spared_layers(trace: Trace, policy: Policy) -> Flags:
    """Per layer whether the allowlist, or not being superseded, may keep it while free space is under the threshold."""
    images = np.zeros(len(trace.local), dtype=np.bool_)
    if spares(policy):
        images |= np.array(protection(policy, trace), dtype=np.bool_)
    if policy.local_images == SUPERSEDED:
        images |= trace.local
    spared = np.zeros(len(trace.layer_bytes), dtype=np.bool_)
    spared[trace.layer[np.repeat(images, np.diff(trace.first))]] = True
    return spared


def _is_first(image: Images, counted: Flags) -> Flags:
    """Whether each counted entry is the first counted one of its image."""
    first = np.zeros(len(image), dtype=np.bool_)
    where = np.flatnonzero(counted)
    _, at = np.unique(image[where], return_index=True)
    first[where[at]] = True
    return first
