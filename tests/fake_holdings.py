"""What a fake engine holds, and what a test lets happen to it."""

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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from collector.machine import disk
from collector.model.errors import EngineError, EngineNotFoundError, EngineRefusedError
from collector.model.observation import (
    ExternalContainer,
    Layer,
    Place,
    full_id,
    pair_layers,
)
from collector.model.origin import Origin

MIB = 2**20
_MEMORY = 256
CONFLICT = 409
NOT_FOUND = 404


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
class FakeHoldings:
    """What an engine in memory holds, remembers and is about to do; `FakeEngine` answers from it.

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
            image = sha(f"image {number}")
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
            container = sha(f"container {next(self._numbers)}").removeprefix("sha256:")
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
        self.fail(method, subject, EngineRefusedError(self.host, explanation, CONFLICT))

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
            chains = {layer.chain_id: layer.bytes for row in self.image_table.values() for layer in layers_of(row)}
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

    def _find(self, name: str) -> FakeImage:
        for row in self.image_table.values():
            if is_called(row, name):
                return row
        raise EngineNotFoundError(self.host, f"No such image: {name}", NOT_FOUND)

    def _untag(self, name: str) -> None:
        for row in self.image_table.values():
            if name in row.references:
                row.references.remove(name)


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


def layers_of(row: FakeImage) -> tuple[Layer, ...]:
    diff_ids = [sha(name) for name, _ in row.layers]
    return pair_layers(diff_ids, [size for _, size in row.layers], row.size, spread=False)


def is_called(row: FakeImage, name: str) -> bool:
    return (
        full_id(name) == row.image
        or name in row.references
        or f"{name}:latest" in row.references
        or name in row.digests
    )


def sha(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
