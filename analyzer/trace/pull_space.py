"""What a pull takes of the disk for a while, beside what its image then holds.

`python -m bench pull_space` measures it: docs/simulation.md says what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from analyzer.trace.trace import Floats, Integers

# Bytes that a layer takes as registries hold it, by unpacked byte.
COMPRESSED = 0.37


def _not_unpacked_yet(sizes: Floats, above: Floats) -> Floats:
    """Graphdrivers: all are fetched, then unpacked one by one from the base up, and each compressed one goes then."""
    return COMPRESSED * sizes - (1.0 - COMPRESSED) * above


def _nothing(sizes: Floats, above: Floats) -> Floats:  # noqa: ARG001 - as the others
    """The containerd store keeps compressed layers: they are part of what an image holds."""
    return np.zeros_like(sizes)


def _all(sizes: Floats, above: Floats) -> Floats:
    """Podman keeps what it has fetched in a temporary folder, until the image is complete."""
    return COMPRESSED * (sizes + above)


_BESIDE: Mapping[str, Callable[[Floats, Floats], Floats]] = {"containerd": _nothing, "podman": _all}


def pull_space(store: str, first: Integers, layer: Integers, layer_bytes: Integers) -> Integers:
    """What `Trace.pull_space` is of an engine's store.

    Where a layer of an image is missing, all above it are, for a layer is known by what lies below it, too.

    Args:
        store: ``overlay2`` or another graphdriver, ``containerd`` or ``podman``; empty: unknown.
        first: where each image's layers begin; see `Trace`.
        layer: the layers of all images.
        layer_bytes: bytes of each layer.

    Returns:
        Bytes; shape (first[n],).
    """
    if not store:
        return np.zeros(len(layer), dtype=np.int64)
    sizes = layer_bytes[layer].astype(np.float64)
    # Of the layers from each on to the top one of its image: this one, and those above.
    sums = np.concatenate(([0.0], np.cumsum(sizes)))
    above = np.repeat(sums[first[1:]], np.diff(first)) - sums[1:]
    found = _BESIDE.get(store, _not_unpacked_yet)(sizes, above)
    space: Integers = np.maximum(found, 0.0).astype(np.int64)
    return space
