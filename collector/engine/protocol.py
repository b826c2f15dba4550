"""What the daemon and the pruner ask of a container engine, whatever stands behind it.

The real one is `collector.engine.client.DockerEngine`; tests have another, which fails and races on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from collector.model.observation import (
    Answers,
    CreatedFrom,
    EngineInfo,
    ExternalContainer,
    ImageObservation,
    ListedContainer,
    ListedImage,
    Usage,
)
from collector.model.origin import Origin


class EventStream(Protocol):
    """An open stream of events: raw chunks of JSON lines."""

    def __iter__(self) -> Iterator[bytes]:
        """Each chunk as it arrives. Raises EngineError when the connection breaks."""

    def close(self) -> None:
        """End the stream; whoever iterates over it stops."""


class Engine(Protocol):
    """One container engine, as far as it is read.

    Each method may raise EngineError: the engine cannot be reached, or refuses.

    Attributes:
        host: its address, ``unix:///path`` or ``tcp://host:port``.
    """

    host: str

    def close(self) -> None:
        """Let go of all connections; the next question opens new ones."""

    def info(self) -> EngineInfo:
        """What the engine says of itself."""

    @property
    def store(self) -> str:
        """The kind of image store, as `EngineInfo.store`."""

    @property
    def hides_origin(self) -> bool:
        """Whether digests do not show that a registry has an image: this store gives every image one."""

    @property
    def reports_failures(self) -> bool:
        """Whether events of pulls and pushes report those that failed, too, in the same words."""

    @property
    def keeps_events(self) -> bool:
        """Whether events outlive the engine's process."""

    @property
    def lag(self) -> float:
        """How long after its answer the engine may report a pull or a tag, seconds."""

    def stream(self, since_ns: int | None) -> EventStream:
        """Follow the events from `since_ns` (UTC nanoseconds) on, as far as the engine still has them."""

    def buffered_events(self, since_ns: int, until_ns: int) -> list[dict[str, Any]]:
        """The raw events of an interval (UTC nanoseconds) that the engine still has."""

    def images(self) -> list[ListedImage]:
        """All images but intermediate build steps."""

    def observe(self, listed: ListedImage) -> ImageObservation | None:
        """All that the engine knows of a listed image; None if it has gone meanwhile."""

    def origin(self, listed: ListedImage) -> Origin:
        """Where an image can be pulled again, as the engine's records show now."""

    def resolve(self, reference: str) -> str | None:
        """The ID of the image that a reference means now; None if it means none."""

    def created_from(self, container: str) -> CreatedFrom:
        """The image and the volumes that a container was created from; unknown if it has gone."""

    def silent_changes(self) -> tuple[object, ...]:
        """What differs after images came or went without an event; empty where events report all."""

    def containers(self) -> list[ListedContainer]:
        """All containers in any state."""

    def container_detail(self, container: str) -> dict[str, Any] | None:
        """All that the engine knows of a container; None if it has gone."""

    def external_containers(self) -> list[ExternalContainer]:
        """Containers in the engine's storage that it does not manage; only Podman has such."""

    def volumes(self) -> list[dict[str, Any]]:
        """All volumes, as the engine lists them."""

    def disk_usage(self) -> dict[str, Any]:
        """What each container, volume and record of the build cache holds, as the engine's API says it."""

    def usage(self) -> Usage:
        """What containers, volumes and build cache hold in sum."""

    def answers(self, image: str) -> Answers:
        """Which questions about an image the engine answers."""

    def probe(self) -> dict[str, str]:
        """Make, tag and remove an empty image: which events reported it, each with the name that it gave."""


class RemovingEngine(Engine, Protocol):
    """An engine that things are removed from: for the pruner's remover alone. Nothing is ever forced.

    Each method raises EngineRefusedError if the engine refuses (EngineNotFoundError: nothing of that name is
    there), and another EngineError if it cannot be reached, so that nobody knows whether it was done.
    """

    def remove_image(self, name: str) -> None:
        """Take a name from an image; with its last name, or by its ID, the image itself is removed."""

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image (by its ID) a name."""

    def remove_container(self, container: str) -> None:
        """Remove a container that is stopped; its volumes stay."""

    def remove_volume(self, name: str) -> None:
        """Remove a volume that no container refers to."""

    def prune_build_cache(self, unused_s: float, keep_bytes: int) -> None:
        """Have the engine remove build cache that has been unused for so long, down to what is to be kept."""
