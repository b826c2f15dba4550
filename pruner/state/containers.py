"""Reads containers and the build cache as the engine reports them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from collector.engine.protocol import Engine
from collector.model.jobs import ci_job, orchestrator_of
from collector.model.observation import ExternalContainer, ListedContainer
from collector.model.times import parse_rfc3339
from collector.model.untrusted import mapping, objects, size, text
from pruner.state.inventory import (
    ENDED,
    EXTERNAL,
    BuildCacheUsage,
    CacheRecord,
    Container,
)
from pruner.state.questions import Questions

# A container about which the engine says nothing may be running.
_UNKNOWN: dict[str, Any] | None = {"State": {"Status": "unknown"}}
_BLOCK = 512  # what st_blocks counts, whatever the file system's own blocks are


def read_containers(
    engine: Engine,
    listed: Sequence[ListedContainer],
    usage: Mapping[str, Any],
    questions: Questions,
    data_root: str,
) -> tuple[Container, ...]:
    """All containers with what they hold, those that are stopped with when they stopped. Raises EngineError."""
    sizes = {text(row.get("Id")): size(row.get("SizeRw")) for row in objects(usage.get("Containers"))}
    found = []
    for row in listed:
        container = Container(
            container_id=row.container,
            name=row.name,
            image=row.image,
            state=row.state,
            stopped_at=row.created_ns / 1e9,
            job=ci_job(row.labels, row.name),
            orchestrator=orchestrator_of(row.labels, row.name),
            volumes=row.volumes,
        )
        if row.state in ENDED:
            inspect: Callable[[], dict[str, Any] | None] = partial(engine.container_detail, row.container)
            detail = questions.ask(inspect, _UNKNOWN, f"container {row.name} stays")
            if detail is None:
                continue
            written, logged = sizes.get(row.container, 0), _log_bytes(detail)
            container = replace(read_container(detail, container), bytes=written + logged, log_bytes=logged)
            container = replace(container, log_path=text(detail.get("LogPath")))
        else:
            # To ask for each container that runs would cost more than this is worth: Docker's usual place does.
            folder = Path(data_root, "containers", row.container)
            logged = _log_bytes({"LogPath": str(folder / f"{row.container}-json.log")})
            container = replace(container, bytes=sizes.get(row.container, 0) + logged, log_bytes=logged)
        found.append(container)
    return tuple(found)


def external_container(found: ExternalContainer) -> Container:
    """A container that the engine does not manage: what works in it keeps it, and then its age."""
    held_by = ""
    if not found.is_build:
        held_by = "no build's: what made it removes it"
    elif found.mounted:
        held_by = f"mounted by a build; if that was killed, `podman rm --force {found.name}` removes it"
    return Container(
        container_id=found.container,
        name=found.name,
        image=found.image,
        state=EXTERNAL,
        stopped_at=found.changed,
        bytes=found.bytes,
        external=True,
        held_by=held_by,
        mounted=found.is_build and found.mounted,
    )


def read_container(detail: Mapping[str, Any], known: Container) -> Container:
    """A container with what only its inspection shows: since when it is stopped, and whether it comes back."""
    state, host = mapping(detail.get("State")), mapping(detail.get("HostConfig"))
    created = parse_rfc3339(text(detail.get("Created"))) or 0.0
    finished = parse_rfc3339(text(state.get("FinishedAt"))) or 0.0
    return replace(
        known,
        state=text(state.get("Status")).lower() or "unknown",
        # A container that never started is said to have finished in the year 1.
        stopped_at=max(created, finished) or known.stopped_at,
        never_started=finished <= 0,
        restarts=(text(mapping(host.get("RestartPolicy")).get("Name")) or "no") != "no",
    )


def _log_bytes(detail: Mapping[str, Any]) -> int:
    """What the container's log holds, with those that were rotated; 0 where it may not be looked at."""
    path = text(detail.get("LogPath"))
    if not path:
        return 0
    try:
        return sum(
            file.stat().st_blocks * _BLOCK for file in Path(path).parent.glob(glob.escape(Path(path).name) + "*")
        )
    except (OSError, ValueError):
        return 0


def read_build_cache(usage: Mapping[str, Any]) -> BuildCacheUsage:
    """The build cache, as the engine reports it; none on an engine without one."""
    return BuildCacheUsage(
        tuple(
            CacheRecord(
                bytes=size(row.get("Size")),
                last_use=max(parse_rfc3339(text(row.get(key))) or 0.0 for key in ("LastUsedAt", "CreatedAt")),
                in_use=bool(row.get("InUse")),
                shared=bool(row.get("Shared")),
            )
            for row in objects(usage.get("BuildCache"))
        )
    )
