"""How much room images have on a disk, and how much of it a worse future may take. Pure functions of a trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analyzer.kernel.runs import Wake
from analyzer.trace.trace import Trace

_DAY_S = 86400.0
# The largest pull that was seen may be followed by a larger one.
_LARGEST = 1.25


def on_share(trace: Trace, share: float) -> Trace:
    """The same history with a disk that has this share of the room for images."""
    room = trace.disk_total - trace.disk_other.max()
    return replace(trace, disk_total=trace.disk_total - room + (room * share).astype(np.int64))


def headroom(trace: Trace) -> int:
    """Bytes to keep free for what is worse than the past: the largest image, a quarter more, and the most that arrived.

    An image is as large as its pull makes it for a while. What arrives within the latency of a wake-up counts as one;
    what was there before takes none.
    """
    demand = trace.demanded
    image, at = np.unique(trace.image[demand], return_index=True)
    if not len(image):
        return 0
    time = np.repeat(trace.time[demand][at], np.diff(trace.first)[image])
    layer = trace.layer[np.concatenate([np.arange(trace.first[i], trace.first[i + 1]) for i in image])]
    order = np.lexsort((time, layer))
    time, layer = time[order], layer[order]
    new = np.diff(layer, prepend=-1) > 0
    time, size = time[new], trace.layer_bytes[layer[new]]
    order = np.argsort(time, kind="stable")
    time, total = time[order], np.concatenate(([0], np.cumsum(size[order])))
    begin = np.searchsorted(time, time - Wake().latency, side="left")
    arrived = int((total[1:] - total[begin]).max(initial=0))
    return int(_LARGEST * largest_pull(trace)) + arrived


def largest_pull(trace: Trace) -> int:
    """The most bytes that the pull of one image takes for a while, of the images that are asked for."""
    if not len(image := np.unique(trace.image[trace.demanded])):
        return 0
    largest = trace.image_bytes.copy()
    if len(trace.pull_space):
        beside = np.zeros(trace.images, dtype=np.int64)
        np.maximum.at(beside, np.repeat(np.arange(trace.images), np.diff(trace.first)), trace.pull_space)
        largest += beside
    return int(largest[image].max())


def used_in_a_day(trace: Trace) -> int:
    """Bytes of images that were used in one day, the median of all days with uses."""
    demand = trace.demanded
    if not demand.any():
        return 0
    # A day and an image, or a layer, as one number: to sort pairs takes ten times as long.
    days, image = np.divmod(
        np.unique((trace.time[demand] // _DAY_S).astype(np.int64) * trace.images + trace.image[demand]), trace.images
    )
    count = np.diff(trace.first)[image]
    at = np.arange(count.sum()) + np.repeat(trace.first[:-1][image] - (np.cumsum(count) - count), count)
    layers = len(trace.layer_bytes)
    day, layer = np.divmod(np.unique(np.repeat(days, count) * layers + trace.layer[at]), max(layers, 1))
    held = np.zeros(len(np.unique(days)), dtype=np.int64)
    np.add.at(held, np.searchsorted(np.unique(days), day), trace.layer_bytes[layer])
    return int(np.median(held))
