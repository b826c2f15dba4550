"""Removes from a store what counts no longer: files that no manifest names, and parts that a merged one replaces.

Readers go by manifests, so a part's manifest is removed before its files: what an interruption leaves of these is named
by no manifest, and the next removal finds it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from collector.eventlog.identity import KnownHost
from collector.shipping import parts
from collector.shipping.merge import read_manifest, sound_manifest
from collector.shipping.parts import Name
from collector.shipping.store import INCOMING, Folder, Store, StoreError


def remove_unnamed(store: Store, host: str, known: KnownHost) -> None:
    """Remove a host's files that no manifest names: what an interrupted run left.

    Args:
        store: where they are.
        host: what the store calls the host.
        known: the host.

    Raises:
        StoreError: the store cannot be used, or lets nothing be removed.
    """
    named = {
        _without_host(file)
        for name in parts.listed(store.names(parts.manifests_of(host)))
        for file in (name.events(host), name.jobs(host))
    }
    places = [f"{place}/{parts.partition(host)}" for place in (parts.EVENTS, parts.JOBS, parts.MERGED)]
    if isinstance(store, Folder):  # a bucket has no such place, and credentials may be for the host's own alone
        places.append(INCOMING)
    for path in [path for place in places for path in store.names(place)]:
        # A stream is its host's alone, whatever else lies there.
        is_own = re.split(r"[/+]", path)[-1].startswith(f"{parts.stream_id(known)}.")
        if is_own and _without_host(path) not in named:
            _remove(store, path)


def remove_replaced(store: Store, host: str, known: KnownHost, after_s: float) -> None:
    """Remove a host's parts for which there has been a merged one for some time, if it is whole.

    Args:
        store: where they are.
        host: what the store calls the host.
        known: the host.
        after_s: how long, in seconds: readers that listed the parts before may still be at work.

    Raises:
        StoreError: the store cannot be used, or lets nothing be removed.
    """
    listed = parts.listed(store.names(parts.manifests_of(host)))
    own = [one for one in listed if one.stream.id == parts.stream_id(known)]
    merged = sorted((one for one in own if one.is_merged), key=lambda one: one.first - one.last)
    for whole in merged:  # the widest come first
        replaced = [one for one in own if one != whole and whole.covers(one)]
        if whole in own and replaced and _is_sound(store, host, whole, after_s):
            for one in replaced:
                _remove(store, one.manifest(host))
                own.remove(one)
    remove_unnamed(store, host, known)


def _is_sound(store: Store, host: str, name: Name, after_s: float) -> bool:
    """Whether a merged part was written so long ago and can be read back."""
    manifest = read_manifest(store, host, name)
    if manifest is None or manifest.merged_ns is None or time.time_ns() - manifest.merged_ns < after_s * 1e9:
        return False
    return sound_manifest(store, host, name) is not None


def _without_host(path: str) -> Sequence[str]:
    """A path without the host, which a listing may escape differently."""
    folder, _, *rest = path.split("/")
    return (folder, *rest)


def _remove(store: Store, path: str) -> None:
    try:
        store.remove(path)
    except StoreError as error:
        raise StoreError(f"{path} is no longer needed and cannot be removed: {error}") from None
