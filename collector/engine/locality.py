"""Whether an engine is on this host, where its disk can be measured: asked and looked at, never assumed.

A path of another machine may exist here, too. To free space there because this host's disk is short, or to
leave it alone because this one's is not, would both be wrong; so an engine has to be shown to be here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collector.engine.places import is_kept_under, peer_of, process_name
from collector.engine.protocol import Engine
from collector.engine.surroundings import UNIX
from collector.model import environment
from collector.model.errors import EngineError
from collector.model.observation import EngineInfo
from collector.model.own_container import in_container
from collector.model.paths import read_bounded
from collector.model.units import short_id

# Of so many containers one is enough.
_CONTAINERS_ASKED = 5


@dataclass(frozen=True, slots=True)
class Locality:
    """Whether an engine is on this host, and what shows it.

    Attributes:
        here: whether it is; None: nothing shows it.
        how: what shows it, in words.
    """

    here: bool | None
    how: str


def locate(engine: Engine, info: EngineInfo, images: Sequence[str]) -> Locality:
    """Find out whether an engine is on this host.

    Args:
        engine: the engine.
        info: what it says of itself.
        images: IDs of images that it holds.

    Raises:
        EngineError: it does not answer.
    """
    kernel = os.uname().release
    if info.kernel and info.kernel != kernel:
        return Locality(False, f"it runs on kernel {info.kernel}, this host on {kernel}")
    kept = is_kept_under(info.places, info.store, images) if info.places else None
    if kept:
        return Locality(True, f"its images are recorded under {info.places[0].path}")
    if kept is False:
        return Locality(False, f"none of its images is recorded under {_record_of(info)} as this host sees it")
    own = _engine_id(info.data_root)
    if own is not None and info.engine_id is not None:
        return Locality(own == info.engine_id, f"{info.data_root}/engine-id says {own}, the engine {info.engine_id}")
    if engine.host.startswith(UNIX):
        return _by_socket(engine.host)
    return _by_container(engine)


def require_local(engine: Engine, info: EngineInfo, images: Sequence[str]) -> None:
    """Refuse an engine that is not shown to be on this host. Raises EngineError with what to do."""
    found = locate(engine, info, images)
    if found.here:
        return
    what = "is not on this host" if found.here is False else "is not shown to be on this host"
    mount = f"mount {info.data_root} into this container at the same path, read-only, or " if in_container() else ""
    setting = f"; if it is here, set {environment.CONTAINERD_ROOT} to its containerd's root"
    raise EngineError(
        f"the engine at {engine.host} {what} ({found.how}), so its disk cannot be measured here: {mount}run "
        "collector and pruner on its own host, as root or by its socket (--host unix:///path, or DOCKER_HOST)"
        f"{setting if info.store == 'containerd' else ''}"
    )


def _record_of(info: EngineInfo) -> str:
    return info.places[1 if info.store == "containerd" else 0].path if info.places else info.data_root


def _engine_id(data_root: str) -> str | None:
    try:
        return read_bounded(Path(data_root) / "engine-id", errors="replace").strip() or None
    except OSError:
        return None


def _by_socket(host: str) -> Locality:
    peer = peer_of(host)
    if not peer:
        return Locality(True, "it is asked by a socket of this host")
    name = process_name(peer)
    if name in {"ssh", "sshd"}:
        return Locality(False, f"its socket is forwarded by {name} (process {peer})")
    return Locality(True, f"it is asked by a socket of this host, which process {peer} ({name or '?'}) made")


def _by_container(engine: Engine) -> Locality:
    """A container that runs here is one of this host's processes."""
    running = [row.container for row in engine.containers() if row.state == "running"]
    for container in running[:_CONTAINERS_ASKED]:
        detail = engine.container_detail(container) or {}
        number = (detail.get("State") or {}).get("Pid")
        try:
            groups = Path(f"/proc/{int(number or 0)}/cgroup").read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            continue
        if container in groups:
            return Locality(True, f"its container {short_id(container)} runs here as process {number}")
    return Locality(None, "its data root may not be looked at, and no container of it is a process here")
