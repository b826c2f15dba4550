"""What a running collector knows now, for the metrics."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from collector.daemon.sampling import Sampling
from collector.daemon.watcher import ImageWatch
from collector.engine.translate import OpenContainer
from collector.eventlog.writer import LogWriter
from collector.model.observation import EngineInfo

if TYPE_CHECKING:
    from collector.monitoring.metrics import Live


def live_state(
    info: EngineInfo | None,
    images: ImageWatch,
    containers: Collection[OpenContainer],
    sampling: Sampling,
    writer: LogWriter,
    alive_ns: int | None,
) -> Live:
    """Put together what the parts of the collector know; `alive_ns`: when the engine was last heard of, or None."""
    from collector.monitoring.metrics import Live  # noqa: PLC0415 # without metrics its library is not loaded

    own, shared = images.presence.shares()
    return Live(
        engine=info.version if info else "",
        store=info.store if info else "",
        disks=sampling.disks,
        connected=images.following,
        observed=None if alive_ns is None else alive_ns / 1e9,
        images={image: bool(names) for image, names in images.presence.names().items()},
        in_use=frozenset(container.image for container in containers if container.image),
        containers=len(containers),
        own_bytes=own,
        shared_bytes=shared,
        oldest_pending=None if writer.oldest_ns is None else writer.oldest_ns / 1e9,
        pending=writer.pending,
        spooled=writer.spooled,
        usage=sampling.usage,
    )
