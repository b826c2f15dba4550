"""An engine in memory: it fails, takes long and changes at chosen moments, so that races take milliseconds.

It keeps Docker's rules as far as our code relies on them: an ID with several names is not removed, nor is an image
that a container refers to or another image was built on, nor a container that runs, nor a volume in use; each
change is an event in the stream and in a memory of the last 256. What real engines do is shown by tests/engine.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from collector.engine.protocol import EventStream
from collector.machine import disk
from collector.model.errors import EngineError, EngineNotFoundError, EngineRefusedError
from collector.model.observation import (
    Answers,
    CreatedFrom,
    EngineInfo,
    ExternalContainer,
    ImageObservation,
    Layer,
    ListedContainer,
    ListedImage,
    Place,
    Usage,
    full_id,
    pair_layers,
)
from collector.model.origin import Origin

MIB = 2**20
_MEMORY = 256
_CONFLICT = 409
_NOT_FOUND = 404


def rfc3339(seconds: float) -> str:
    """A time as the engine's API writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


@dataclass
class FakeImage:
    """An image: its names, the layers with their bytes, base first, and what it was built on."""

    image: str
    references: list[str]
    digests: list[str]
    layers: list[tuple[str, int]]
    created: float
    origin: Origin

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(size for _, size in self.layers)


@dataclass
class FakeContainer:
    """A container. Times are UTC seconds."""

    container: str
    image: str
    name: str
    state: str
    created: float
    labels: dict[str, str]
    volumes: tuple[str, ...] = ()
    finished: float = 0.0
    bytes: int = 0


@dataclass
class FakeVolume:
    """A volume."""

    name: str
    created: float
    bytes: int
    labels: dict[str, str]


@dataclass(eq=False)
class _Hook:
    """What happens before one of the questions to come."""

    method: str
    subject: str | None
    act: Callable[[], object]
    skip: int


@dataclass
class FakeEngine:
    """An engine (`collector.engine.protocol.RemovingEngine`) that tests arrange and disturb.

    Args:
        folder: stands for the data root.
        total: bytes of its disk; what images and the rest hold is taken of it (see `disk_patched`).
        store: ``overlay2``, ``containerd`` or ``podman``.
    """

    folder: Path
    total: int = 1000 * MIB
    store: str = "overlay2"
    host: str = "unix:///fake.sock"
    lag: float = 0.0
    places: tuple[Place, ...] = ()
    reports_failures: bool = False
    image_table: dict[str, FakeImage] = field(default_factory=dict)
    container_table: dict[str, FakeContainer] = field(default_factory=dict)
    external_table: dict[str, ExternalContainer] = field(default_factory=dict)
    volume_table: dict[str, FakeVolume] = field(default_factory=dict)
    cache: list[dict[str, Any]] = field(default_factory=list)
    other_bytes: int = 0
    # The file of a container's log, by its ID.
    log_paths: dict[str, str] = field(default_factory=dict)
    # What was asked, in order: (method, first argument or "").
    calls: list[tuple[str, str]] = field(default_factory=list)
    memory: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_MEMORY))
    mute: Callable[[dict[str, Any]], bool] = lambda _: False
    _hooks: list[_Hook] = field(default_factory=list)
    _streams: list[FakeStream] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: Any = field(default_factory=threading.RLock)
    _last_ns: int = 0

    # What a test arranges.

    def add_image(
        self,
        *references: str,
        layers: Sequence[tuple[str, int]] = (),
        age: float = 0.0,
        origin: Origin = Origin.REGISTRY,
        verb: str | None = "pull",
    ) -> str:
        """An image comes, of one layer of 10 MiB of its own by default; its ID.

        Args:
            references: its names.
            layers: (name, bytes) each, base first; equal names below equal names are shared.
            age: seconds since it was built.
            origin: where the image can be pulled again.
            verb: the event that reports it, once for each name; None: none.
        """
        with self._lock:
            number = next(self._numbers)
            image = _sha(f"image {number}")
            digests = [f"{name.rpartition(':')[0]}@{image}" for name in references] if origin is Origin.REGISTRY else []
            made = list(layers) or [(f"layer {number}", 10 * MIB)]
            for name in references:
                self._untag(name)
            self.image_table[image] = FakeImage(
                image, sorted(references), sorted(set(digests)), made, time.time() - age, origin
            )
        for name in references if verb else ():
            self.emit("image", str(verb), name if verb == "pull" else image, name=name)
        return image

    def add_container(
        self,
        image: str,
        *,
        state: str = "running",
        labels: dict[str, str] | None = None,
        volumes: Sequence[str] = (),
        age: float = 0.0,
        size: int = 0,
        name: str = "",
    ) -> str:
        """A container comes; its ID. `image` is a name or an ID, `age` seconds since it was created and ended."""
        with self._lock:
            found = self._find(image)
            container = _sha(f"container {next(self._numbers)}").removeprefix("sha256:")
            began = time.time() - age
            ended = began if state in {"exited", "dead"} else 0.0
            self.container_table[container] = FakeContainer(
                container,
                found.image,
                name or f"c-{container[:8]}",
                state,
                began,
                labels or {},
                tuple(volumes),
                ended,
                size,
            )
            self.volume_table.update(
                {volume: FakeVolume(volume, began, 0, {}) for volume in volumes if volume not in self.volume_table}
            )
        asked = {"image": image, "name": self.container_table[container].name, **(labels or {})}
        self.emit("container", "create", container, **asked)
        if state != "created":
            self.emit("container", "start", container, **asked)
        if ended:
            self.emit("container", "die", container, **asked, exitCode="0")
        return container

    def add_volume(self, name: str, *, age: float = 0.0, size: int = 0, labels: dict[str, str] | None = None) -> None:
        """A volume comes."""
        self.volume_table[name] = FakeVolume(name, time.time() - age, size, labels or {})

    def add_cache(self, size: int, *, age: float = 0.0, in_use: bool = False) -> None:
        """A record of the build cache comes, last used `age` seconds ago."""
        used = rfc3339(time.time() - age)
        self.cache.append(
            {"ID": f"cache{next(self._numbers)}", "Size": size, "CreatedAt": used, "LastUsedAt": used, "InUse": in_use}
        )

    def emit(self, kind: str, action: str, actor: str, **attributes: str) -> None:
        """Report something, in the stream and in memory, unless `mute` holds it back."""
        with self._lock:
            self._last_ns = max(self._last_ns + 1, time.time_ns())
            event = {
                "Type": kind,
                "Action": action,
                "Actor": {"ID": actor, "Attributes": attributes},
                "time": self._last_ns // 10**9,
                "timeNano": self._last_ns,
            }
            if self.mute(event):
                return
            self.memory.append(event)
            for stream in self._streams:
                stream.put(event)

    # What a test disturbs.

    def before(self, method: str, act: Callable[[], object], subject: str | None = None, skip: int = 0) -> None:
        """Have something happen once, right before a question is answered: a race at a chosen moment.

        Args:
            method: the method's name, as the protocol has it.
            act: what happens; what it raises, the caller gets.
            subject: only if this is the method's first argument; None: whatever it is.
            skip: so many such questions are answered undisturbed first.
        """
        self._hooks.append(_Hook(method, subject, act, skip))

    def fail(
        self, method: str, subject: str | None = None, error: Exception | None = None, *, times: int = 1, skip: int = 0
    ) -> None:
        """Have questions fail, so many after so many that are answered; by default as if nobody answered."""
        fault = error or EngineError(f"no engine answers at {self.host}")

        def act() -> None:
            raise fault

        for _ in range(times):
            self.before(method, act, subject, skip)

    def refuse(self, method: str, explanation: str, subject: str | None = None) -> None:
        """Have a question refused, with these words."""
        self.fail(method, subject, EngineRefusedError(self.host, explanation, _CONFLICT))

    def stop(self) -> None:
        """End all streams, as an engine does that stops or restarts."""
        with self._lock:
            for stream in self._streams:
                stream.close()
            self._streams.clear()

    def asked(self, method: str) -> int:
        """How often a method was called."""
        return Counter(name for name, _ in self.calls)[method]

    @property
    def held_bytes(self) -> int:
        """What all things hold; layers that several images share count once."""
        with self._lock:
            chains = {layer.chain_id: layer.bytes for row in self.image_table.values() for layer in _layers(row)}
            volumes, containers = self.volume_table.values(), self.container_table.values()
            rest = sum(row.bytes for row in volumes) + sum(row.bytes for row in containers)
            rest += sum(row.bytes for row in self.external_table.values())
            return sum(chains.values()) + rest + sum(int(row["Size"]) for row in self.cache) + self.other_bytes

    def disk_patched(self, patch: pytest.MonkeyPatch) -> None:
        """Let `sample_disk` of the data root show what is held here."""
        real = disk._statvfs

        def statvfs(path: str) -> os.statvfs_result:
            if Path(path) != self.folder:
                return real(path)
            free = max(0, self.total - self.held_bytes)
            return os.statvfs_result((1, 1, self.total, free, free, 10**6, 10**6, 10**6, 0, 255))

        patch.setattr(disk, "_statvfs", statvfs)

    # What the code under test asks.

    def close(self) -> None:
        """Nothing is held open."""

    def info(self) -> EngineInfo:
        with self._asked("info"):
            return EngineInfo(str(self.folder), self.store, "fake", places=self.places)

    @property
    def hides_origin(self) -> bool:
        return self.store in {"containerd", "podman"}

    @property
    def keeps_events(self) -> bool:
        return self.store == "podman"

    def stream(self, since_ns: int | None) -> EventStream:
        with self._asked("stream"):
            made = FakeStream()
            for event in self.memory if since_ns is not None else ():
                if event["timeNano"] >= since_ns:
                    made.put(event)
            self._streams.append(made)
            return made

    def buffered_events(self, since_ns: int, until_ns: int) -> list[dict[str, Any]]:
        with self._asked("buffered_events"):
            return [event for event in self.memory if since_ns <= event["timeNano"] <= until_ns]

    def images(self) -> list[ListedImage]:
        with self._asked("images"):
            return [
                ListedImage(row.image, tuple(sorted(row.references)), tuple(sorted(row.digests)), row.size)
                for row in self.image_table.values()
            ]

    def observe(self, listed: ListedImage) -> ImageObservation | None:
        with self._asked("observe", listed.image):
            row = self.image_table.get(listed.image)
            if row is None:
                return None
            layers = _layers(row)
            return ImageObservation(
                listed.image,
                listed.references,
                listed.digests,
                rfc3339(row.created),
                None,
                row.size,
                layers,
                row.origin,
            )

    def origin(self, listed: ListedImage) -> Origin:
        with self._asked("origin", listed.image):
            row = self.image_table.get(listed.image)
            return Origin.UNKNOWN if row is None else row.origin

    def resolve(self, reference: str) -> str | None:
        with self._asked("resolve", reference):
            return next((row.image for row in self.image_table.values() if _called(row, reference)), None)

    def created_from(self, container: str) -> CreatedFrom:
        with self._asked("created_from", container):
            row = self.container_table.get(container)
            return CreatedFrom() if row is None else CreatedFrom(row.image, tuple(row.volumes))

    def silent_changes(self) -> tuple[object, ...]:
        with self._asked("silent_changes"):
            if self.store != "containerd":
                return ()
            return (len(self.image_table), *sorted((row["ID"], row["LastUsedAt"]) for row in self.cache))

    def containers(self) -> list[ListedContainer]:
        with self._asked("containers"):
            return [
                ListedContainer(
                    row.container, row.image, row.name, row.state, int(row.created) * 10**9, row.labels, row.volumes
                )
                for row in self.container_table.values()
            ]

    def container_detail(self, container: str) -> dict[str, Any] | None:
        with self._asked("container_detail", container):
            row = self.container_table.get(container)
            if row is None:
                return None
            finished = rfc3339(row.finished) if row.finished else "0001-01-01T00:00:00Z"
            return {
                "Id": container,
                "Created": rfc3339(row.created),
                "State": {"Status": row.state, "FinishedAt": finished},
                "HostConfig": {"RestartPolicy": {"Name": "no"}},
                "LogPath": self.log_paths.get(container, ""),
            }

    def external_containers(self) -> list[ExternalContainer]:
        with self._asked("external_containers"):
            return list(self.external_table.values())

    def volumes(self) -> list[dict[str, Any]]:
        with self._asked("volumes"):
            return [
                {
                    "Name": row.name,
                    "CreatedAt": rfc3339(row.created),
                    "Mountpoint": str(self.folder / "none" / row.name),
                    "Labels": row.labels,
                    "Driver": "local",
                }
                for row in self.volume_table.values()
            ]

    def disk_usage(self) -> dict[str, Any]:
        with self._asked("disk_usage"):
            containers, volumes = self.container_table.values(), self.volume_table.values()
            return {
                "Containers": [{"Id": row.container, "SizeRw": row.bytes} for row in containers],
                "Volumes": [
                    {"Name": row.name, "UsageData": {"Size": row.bytes, "RefCount": len(self._users(row.name))}}
                    for row in volumes
                ],
                "BuildCache": list(self.cache),
            }

    def usage(self) -> Usage:
        with self._asked("usage"):
            containers, volumes = self.container_table.values(), self.volume_table.values()
            return Usage(
                sum(row.bytes for row in containers),
                sum(row.bytes for row in volumes),
                sum(int(row["Size"]) for row in self.cache),
            )

    def answers(self, image: str) -> Answers:
        with self._asked("answers", image):
            return Answers(True, False, self.store == "containerd", False, "digests")

    def probe(self) -> dict[str, str]:
        with self._asked("probe"):
            return {}

    def remove_image(self, name: str) -> None:
        with self._asked("remove_image", name):
            row = self._find(name)
            by_id = full_id(name) == row.image
            if by_id and len(row.references) > 1:
                self._conflict(f"unable to delete {name}: image is referenced in multiple repositories")
            last = by_id or row.references == [name] or (not row.references and row.digests == [name])
            if last and any(other.image == row.image for other in self._containers()):
                self._conflict(f"unable to remove {name}: image is being used by a container")
            if by_id and any(self._is_below(row, other) for other in self.image_table.values()):
                self._conflict(f"unable to delete {name}: image has dependent child images")
            for reference in list(row.references) if by_id else [name]:
                if reference in row.digests:
                    row.digests.remove(reference)
                else:
                    row.references.remove(reference)
                self.emit("image", "untag", row.image, name=reference if self.store == "podman" else row.image)
                if self.store == "podman":
                    # So it says also while the image has other names.
                    self.emit("image", "delete", row.image, name=reference)
            if last:
                del self.image_table[row.image]
                if self.store != "podman":
                    self.emit("image", "delete", row.image, name=row.image)

    def _containers(self) -> Iterator[FakeContainer | ExternalContainer]:
        yield from self.container_table.values()
        yield from self.external_table.values()

    def tag(self, image: str, repository: str, tag: str) -> None:
        with self._asked("tag", image):
            row = self._find(image)
            name = f"{repository}:{tag}"
            self._untag(name)
            row.references.append(name)
            self.emit("image", "tag", row.image, name=name)

    def remove_container(self, container: str) -> None:
        with self._asked("remove_container", container):
            row = self.container_table.get(container)
            if container in self.external_table:
                if self.external_table[container].mounted:
                    self._conflict(f"container {container} is mounted and cannot be removed without using force")
                del self.external_table[container]
                return
            if row is None:
                raise EngineNotFoundError(self.host, f"No such container: {container}", _NOT_FOUND)
            if row.state in {"running", "paused", "restarting"}:
                self._conflict(f"cannot remove container {container}: container is {row.state}")
            del self.container_table[container]
            self.emit("container", "destroy", container, image=row.image, name=row.name)

    def remove_volume(self, name: str) -> None:
        with self._asked("remove_volume", name):
            if name not in self.volume_table:
                raise EngineNotFoundError(self.host, f"get {name}: no such volume", _NOT_FOUND)
            if self._users(name):
                self._conflict(f"remove {name}: volume is in use")
            del self.volume_table[name]
            self.emit("volume", "destroy", name)

    def prune_build_cache(self, unused_s: float, keep_bytes: int) -> None:
        with self._asked("prune_build_cache"):
            oldest = rfc3339(time.time() - unused_s)
            for row in sorted(self.cache, key=lambda row: str(row["LastUsedAt"])):
                if sum(int(left["Size"]) for left in self.cache) <= keep_bytes:
                    break
                if not row["InUse"] and row["LastUsedAt"] <= oldest:
                    self.cache.remove(row)

    # How it works inside.

    @contextmanager
    def _asked(self, method: str, subject: str = "") -> Iterator[None]:
        self.calls.append((method, subject))
        for hook in [hook for hook in self._hooks if hook.method == method and hook.subject in {None, subject}]:
            if hook.skip:
                hook.skip -= 1
            else:
                self._hooks.remove(hook)
                hook.act()
        with self._lock:
            yield

    def _find(self, name: str) -> FakeImage:
        for row in self.image_table.values():
            if _called(row, name):
                return row
        raise EngineNotFoundError(self.host, f"No such image: {name}", _NOT_FOUND)

    def _untag(self, name: str) -> None:
        for row in self.image_table.values():
            if name in row.references:
                row.references.remove(name)

    def _users(self, volume: str) -> list[FakeContainer]:
        return [row for row in self.container_table.values() if volume in row.volumes]

    @staticmethod
    def _is_below(row: FakeImage, other: FakeImage) -> bool:
        """Whether another image was built on this one: local builds only, as Docker counts them."""
        depth = len(row.layers)
        built = other.origin is Origin.LOCAL and len(other.layers) > depth
        return built and other.layers[:depth] == row.layers

    def _conflict(self, explanation: str) -> None:
        raise EngineRefusedError(self.host, f"conflict: {explanation}", _CONFLICT)


class FakeStream:
    """A stream of a fake engine's events."""

    def __init__(self) -> None:
        self._chunks: queue.SimpleQueue[bytes | EngineError | None] = queue.SimpleQueue()

    def put(self, event: dict[str, Any]) -> None:
        """Report an event."""
        self._chunks.put(json.dumps(event).encode() + b"\n")

    def break_off(self, error: EngineError) -> None:
        """End it with a fault."""
        self._chunks.put(error)

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._chunks.get()) is not None:
            if isinstance(chunk, EngineError):
                raise chunk
            yield chunk

    def close(self) -> None:
        """End it; safe to repeat."""
        self._chunks.put(None)


def _layers(row: FakeImage) -> tuple[Layer, ...]:
    diff_ids = [_sha(name) for name, _ in row.layers]
    return pair_layers(diff_ids, [size for _, size in row.layers], row.size, spread=False)


def _called(row: FakeImage, name: str) -> bool:
    return (
        full_id(name) == row.image
        or name in row.references
        or f"{name}:latest" in row.references
        or name in row.digests
    )


def _sha(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
