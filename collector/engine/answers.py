"""What members of an engine's answers mean, whichever engine it is. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from collector.model.observation import full_id
from collector.model.times import parse_rfc3339
from collector.model.untrusted import mapping, objects, past_seconds, text, texts

# Where the local driver keeps a volume's data, beneath the volume's own folder.
_VOLUME_DATA = "/_data"


def tags(row: dict[str, Any]) -> tuple[str, ...]:
    """All names with a tag. What was pulled by digest is listed here, too, by the containerd store: see `digests`."""
    return tuple(sorted(tag for tag in texts(row.get("RepoTags")) if tag != "<none>:<none>" and "@" not in tag))


def digests(row: dict[str, Any]) -> tuple[str, ...]:
    """All names with a digest. The containerd store lists what was pulled by digest among the tags alone."""
    names = {*texts(row.get("RepoDigests")), *(name for name in texts(row.get("RepoTags")) if "@" in name)}
    return tuple(sorted(digest for digest in names if not digest.startswith("<none>@")))


def nameless_volumes(row: dict[str, Any]) -> list[str]:
    """The folders that a container mounts and that may be volumes: some engines leave out an anonymous one's name."""
    return [
        source
        for mount in objects(row.get("Mounts"))
        if not mount.get("Name")
        and (source := text(mount.get("Source")))
        and (mount.get("Type") == "volume" or source.endswith(_VOLUME_DATA))
    ]


def last_tag_time(detail: dict[str, Any]) -> float | None:
    """When the engine last gave the image a name; graphdrivers leave it zero for pulled images."""
    seconds = parse_rfc3339(text(mapping(detail.get("Metadata")).get("LastTagTime")))
    return past_seconds(seconds, time.time()) or None


def build_time(detail: dict[str, Any]) -> str | None:
    """When the image was built, as it says; None where it names a time that nobody can have built it at."""
    said = text(detail.get("Created"))
    return said if past_seconds(parse_rfc3339(said), time.time()) is not None else None


def volumes_of(container: dict[str, Any], volume_of: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the volumes that a container, listed or inspected, refers to.

    Args:
        container: as the engine reports it.
        volume_of: the name of each volume, by its folder.
    """
    named = [text(mount.get("Name")) for mount in objects(container.get("Mounts")) if text(mount.get("Name"))]
    nameless = [volume_of[folder] for folder in nameless_volumes(container) if folder in volume_of]
    return tuple(dict.fromkeys([*named, *nameless]))


def image_id(said: object) -> str | None:
    """The whole ID of an image that an answer names; None: it names none."""
    return full_id(text(said)) if text(said) else None
