"""An engine in memory: it fails, takes long and changes at chosen moments, so that races take milliseconds.

It keeps Docker's rules as far as our code relies on them: an ID with several names is not removed, nor is an image
that a container refers to or another image was built on, nor a container that runs, nor a volume in use; each
change is an event in the stream and in a memory of the last 256. What real engines do is shown by tests/engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from collector.engine.protocol import EventStream
from collector.model.errors import EngineNotFoundError, EngineRefusedError
from collector.model.observation import (
    Answers,
    CreatedFrom,
    EngineInfo,
    ExternalContainer,
    ImageObservation,
    ListedContainer,
    ListedImage,
    Usage,
    full_id,
)
from collector.model.origin import Origin
from tests.fake_holdings import (
    CONFLICT,
    NOT_FOUND,
    FakeContainer,
    FakeHoldings,
    FakeImage,
    FakeStream,
    is_called,
    layers_of,
    rfc3339,
)


@dataclass
class FakeEngine(FakeHoldings):
    """An engine (`collector.engine.protocol.RemovingEngine`) that tests arrange and disturb."""

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
            layers = layers_of(row)
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
            return next((row.image for row in self.image_table.values() if is_called(row, reference)), None)

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
                raise EngineNotFoundError(self.host, f"No such container: {container}", NOT_FOUND)
            if row.state in {"running", "paused", "restarting"}:
                self._conflict(f"cannot remove container {container}: container is {row.state}")
            del self.container_table[container]
            self.emit("container", "destroy", container, image=row.image, name=row.name)

    def remove_volume(self, name: str) -> None:
        with self._asked("remove_volume", name):
            if name not in self.volume_table:
                raise EngineNotFoundError(self.host, f"get {name}: no such volume", NOT_FOUND)
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

    def _users(self, volume: str) -> list[FakeContainer]:
        return [row for row in self.container_table.values() if volume in row.volumes]

    @staticmethod
    def _is_below(row: FakeImage, other: FakeImage) -> bool:
        """Whether another image was built on this one: local builds only, as Docker counts them."""
        depth = len(row.layers)
        built = other.origin is Origin.LOCAL and len(other.layers) > depth
        return built and other.layers[:depth] == row.layers

    def _conflict(self, explanation: str) -> None:
        raise EngineRefusedError(self.host, f"conflict: {explanation}", CONFLICT)
