"""The border to the container engine: docker-py is known here and in `connection` only.

Docker Engine (graphdrivers and containerd image store) and Podman's Docker-compatible service
answer the same calls differently; what differs is found by asking the engine, and normalised here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
import requests

from collector.engine.answers import build_time, digests, image_id, last_tag_time, nameless_volumes, tags, volumes_of
from collector.engine.api import EngineApi, as_object, as_rows
from collector.engine.connection import REFUSED, EngineStream, again, as_engine_error
from collector.engine.content import compressed_sizes
from collector.engine.external import Storage, external_containers
from collector.engine.places import describe
from collector.engine.probe import probe
from collector.engine.protocol import EventStream
from collector.engine.provenance import by_content, by_digests, by_identity, by_manifests
from collector.engine.translate import read_events
from collector.model.observation import (
    Answers,
    CreatedFrom,
    EngineInfo,
    ExternalContainer,
    ImageObservation,
    Layer,
    ListedContainer,
    ListedImage,
    Usage,
    full_id,
    pair_layers,
)
from collector.model.origin import Origin
from collector.model.untrusted import (
    event_time_ns,
    mapping,
    objects,
    size,
    strings,
    text,
    texts,
    whole,
)

# The version of Podman's own interface that each Podman from 4.0 on serves.
_LIBPOD = "v4.0.0/libpod"

logger = logging.getLogger(__name__)


class DockerEngine(EngineApi):
    """One container engine behind Docker's API: `collector.engine.protocol.Engine` says what each method does.

    Args:
        host: ``unix:///path`` or ``tcp://host:port``; None: as the docker command line finds it.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, host: str | None = None, timeout: float = 60.0) -> None:
        super().__init__(host, timeout)
        self._store: str | None = None
        self._data_root = ""
        self._unreadable: set[str] = set()
        self._containerd_root = ""

    def info(self) -> EngineInfo:
        """What the engine says of itself. Raises EngineError."""
        with as_engine_error(self.host):
            info = self.api.info()
        found = describe(mapping(info), self.host)
        self._store, self._data_root = found.store, found.data_root
        self._containerd_root = str(Path(found.places[0].path).parent)
        return found

    @property
    def store(self) -> str:
        """The kind of image store, asked once. Raises EngineError."""
        return self._store or self.info().store

    def stream(self, since_ns: int | None) -> EventStream:
        """Follow the events from `since_ns` on, as far as the engine still has them, without end.

        Raises:
            EngineError: there is no engine, now or when iterating later.
        """
        with as_engine_error(self.host):
            return EngineStream(self.api.events(since=_stamp(since_ns), decode=False), self.host)

    def buffered_events(self, since_ns: int, until_ns: int) -> list[dict[str, Any]]:
        """The events of an interval that the engine still has. Raises EngineError."""
        # Podman stops to read its file when `until` has passed, wherever it is then: so it is given none.
        end = {"stream": "false"} if self.keeps_events else {"until": _stamp(until_ns)}
        with as_engine_error(self.host):
            answer = self.request("events", {"since": _stamp(since_ns), **end})
            found = read_events(answer.content.split(b"\n"))
        return [event for event in found if not self.keeps_events or since_ns <= event_time_ns(event) <= until_ns]

    def images(self) -> list[ListedImage]:
        """All images but intermediate build steps. Raises EngineError."""
        with as_engine_error(self.host):
            rows = as_rows(again(self.api.images))
        return [
            ListedImage(
                full_id(text(row["Id"])), tags(row), digests(row), size(row.get("Size")), strings(row.get("Labels"))
            )
            for row in rows
            if text(row.get("Id"))
        ]

    def observe(self, listed: ListedImage) -> ImageObservation | None:
        """All that the engine reports about a listed image; None if it has gone meanwhile.

        For an image that the engine lists but refuses to show, what the listing says: one such image must
        not hide all others.
        """
        with as_engine_error(self.host):
            try:
                detail = self._inspect(listed.image)
                sizes = self._layer_sizes(listed.image)
            except docker.errors.NotFound:
                return None
            except REFUSED as error:
                self._report(listed.image, error)
                return ImageObservation(listed.image, listed.references, listed.digests, None, None, listed.size, ())
        diff_ids = texts(mapping(detail.get("RootFS")).get("Layers"))
        total = max(listed.size, size(detail.get("Size")))
        return ImageObservation(
            image=listed.image,
            references=listed.references,
            digests=listed.digests,
            created=build_time(detail),
            stored=last_tag_time(detail),
            size=total,
            layers=self._layers(listed.image, diff_ids, sizes, total),
            origin=self._origin(listed, detail),
        )

    def _report(self, image: str, error: Exception) -> None:
        """Say once that the engine does not show an image."""
        if image not in self._unreadable:
            self._unreadable.add(image)
            why = str(getattr(error, "explanation", None) or error)
            logger.warning("the engine lists image %s but does not show it (%s): its layers are unknown", image, why)

    def origin(self, listed: ListedImage) -> Origin:
        """Where an image can be pulled again, as the engine's records show now. Raises EngineError."""
        if not self.hides_origin:
            return by_digests(listed.digests)
        with as_engine_error(self.host):
            try:
                return self._origin(listed, self._inspect(listed.image))
            except docker.errors.NotFound:
                return Origin.UNKNOWN
            except REFUSED as error:
                self._report(listed.image, error)
                return Origin.UNKNOWN

    def _origin(self, listed: ListedImage, detail: dict[str, Any]) -> Origin:
        if not self.hides_origin:
            return by_digests(listed.digests)
        reported = by_identity(detail)
        if reported is not Origin.UNKNOWN:
            return reported
        if not self._data_root:
            self.info()
        if self.store == "podman":
            return by_manifests(self._data_root, listed.image)
        return by_content(self._containerd_root, listed.image)

    @property
    def hides_origin(self) -> bool:
        """Whether a digest does not prove that a registry has an image: this store gives every image one."""
        return self.store in {"containerd", "podman"}

    @property
    def reports_failures(self) -> bool:
        """Whether failed pulls and pushes cause the same events as successful ones."""
        return self.store == "podman"

    def _layers(self, image: str, diff_ids: Sequence[str], sizes: Sequence[int] | None, size: int) -> tuple[Layer, ...]:
        if self.store != "containerd":
            return pair_layers(diff_ids, sizes, size, spread=False)
        kept = compressed_sizes(self._containerd_root, image, diff_ids)
        if kept is None or sizes is None:
            return pair_layers(diff_ids, sizes, size, spread=True)
        unpacked = pair_layers(diff_ids, sizes, sum(sizes), spread=False)
        return tuple(replace(layer, bytes=layer.bytes + extra) for layer, extra in zip(unpacked, kept, strict=True))

    def _inspect(self, image: str) -> dict[str, Any]:
        return as_object(cast("Any", self.api).inspect_image(image))

    def _layer_sizes(self, image: str) -> list[int] | None:
        """Bytes of the non-empty history entries, base first; None if the engine does not know."""
        try:
            history = cast("Any", self.api).history(image)
        except docker.errors.NotFound:
            raise
        except docker.errors.APIError:
            return None
        return [size(entry.get("Size")) for entry in reversed(objects(history)) if size(entry.get("Size"))]

    def resolve(self, reference: str) -> str | None:
        """The ID of the image that a reference means now; None if it means none."""
        with as_engine_error(self.host):
            try:
                return image_id(self._inspect(reference).get("Id"))
            except docker.errors.NotFound:
                return None
            except docker.errors.APIError as error:
                if error.status_code is not None and error.status_code < requests.codes.server_error:
                    return None
                raise

    def created_from(self, container: str) -> CreatedFrom:
        """The image and the volumes that a container was created from; unknown if it has gone."""
        detail = self.container_detail(container)
        if detail is None:
            return CreatedFrom()
        volume_of = self._volumes_by_folder() if nameless_volumes(detail) else {}
        return CreatedFrom(image_id(detail.get("Image")), volumes_of(detail, volume_of))

    @property
    def keeps_events(self) -> bool:
        """Whether events outlive the engine's process; Docker has its last 256 in memory."""
        return self.store == "podman"

    @property
    def lag(self) -> float:
        """How long after its answer an engine may emit the event of a pull or a tag, seconds: Podman collects them."""
        return 0.2 if self.store == "podman" else 0.0

    def silent_changes(self) -> tuple[object, ...]:
        """What differs after images came or went without an event, or some time after it.

        The containerd store builds and prunes without one until 28. Asking this costs it next to nothing, while a
        listing of images there takes some 10 ms of an image. Podman reports a pull or an archive when it begins;
        there a listing takes less than 1 ms of an image. Empty where events report everything. Raises EngineError.
        """
        if self.store == "podman":
            return tuple(sorted(row.image for row in self.images()))
        if self.store != "containerd":
            return ()
        with as_engine_error(self.host):
            rows = self._disk_usage(type="build-cache")["BuildCache"]
            used = sorted((text(row.get("ID")), text(row.get("LastUsedAt"))) for row in rows)
            return (mapping(self.api.info()).get("Images"), *used)

    def answers(self, image: str) -> Answers:
        """What the engine reports about an image that is there. Raises EngineError."""
        with as_engine_error(self.host):
            detail = self._inspect(image)
            sizes = self._layer_sizes(image)
        return Answers(
            layer_sizes=bool(sizes),
            by_manifest=any(digest.endswith(full_id(text(detail.get("Id")))) for digest in digests(detail)),
            keeps_content=self.store == "containerd",
            stored=last_tag_time(detail) is not None,
            origin=self._origin_shown_by(image, detail),
        )

    def _origin_shown_by(self, image: str, detail: dict[str, Any]) -> str | None:
        if not self.hides_origin:
            return "digests"
        if by_identity(detail) is not Origin.UNKNOWN:
            return "identity"
        shown = self._origin(ListedImage(image, (), (), 0), detail)
        if shown is Origin.UNKNOWN:
            return None
        return "manifests" if self.store == "podman" else "labels of content"

    def probe(self) -> dict[str, str]:
        """Import an empty image, tag it, untag it, remove it: which events reported it, each with the name it gave."""
        return probe(self, self.api)

    def containers(self) -> list[ListedContainer]:
        """All containers in any state. Raises EngineError."""
        with as_engine_error(self.host):
            rows = as_rows(again(lambda: self.api.containers(all=True)))
        now = int(time.time())
        volume_of = self._volumes_by_folder() if any(map(nameless_volumes, rows)) else {}
        return [
            ListedContainer(
                container=text(row["Id"]),
                image=full_id(text(row.get("ImageID"))),
                name=(*texts(row.get("Names")), "")[0].removeprefix("/"),
                # One whose state cannot be read does not count as stopped.
                state=text(row.get("State")),
                created_ns=(whole(row.get("Created"), 1, now) or now) * 10**9,
                labels=strings(row.get("Labels")),
                volumes=volumes_of(row, volume_of),
            )
            for row in rows
            if text(row.get("Id"))
        ]

    def _volumes_by_folder(self) -> dict[str, str]:
        """The names of volumes by the folders that hold them."""
        return {text(row.get("Mountpoint")): text(row.get("Name")) for row in self.volumes()}

    def container_detail(self, container: str) -> dict[str, Any] | None:
        """All that the engine reports about a container; None if it has gone. Raises EngineError."""
        with as_engine_error(self.host):
            try:
                return as_object(self.api.inspect_container(container))
            except docker.errors.NotFound:
                return None

    def external_containers(self) -> list[ExternalContainer]:
        """Containers in Podman's storage that Podman does not manage. Raises EngineError."""
        if self.store != "podman":
            return []
        return external_containers(self._libpod("containers/json", all="true", external="true"), self._storage)

    def _storage(self) -> Storage:
        """Where Podman keeps layers and containers. Raises EngineError."""
        store = mapping(mapping(self._libpod("info")).get("store"))
        return Storage(
            Path(text(store.get("graphRoot"))), Path(text(store.get("runRoot"))), text(store.get("graphDriverName"))
        )

    def _libpod(self, path: str, **parameters: str) -> object:
        """An answer of Podman's own interface. Raises EngineError."""
        with as_engine_error(self.host):
            return cast("object", self.request(path, parameters, version=_LIBPOD).json())

    def volumes(self) -> list[dict[str, Any]]:
        """All volumes, as the engine lists them. Raises EngineError."""
        with as_engine_error(self.host):
            rows = as_rows(as_object(self.api.volumes()).get("Volumes"))
        return [row for row in rows if text(row.get("Name"))]

    def disk_usage(self) -> dict[str, Any]:
        """What the engine says that each of its things holds; slow on a busy host. Raises EngineError."""
        with as_engine_error(self.host):
            return again(self._disk_usage)

    def _disk_usage(self, **parameters: str) -> dict[str, Any]:
        """`/system/df` with the members that it has had until API 1.52, also where it leaves them out."""
        usage = as_object(self.request("system/df", {"verbose": "1", **parameters}).json())
        old = {member: usage.get(member) for member in _DF_MEMBERS}
        new = {member: mapping(usage.get(successor)).get("Items") for member, successor in _DF_MEMBERS.items()}
        return {**usage, **{member: objects(new[member] if old[member] is None else old[member]) for member in old}}

    def usage(self) -> Usage:
        """What containers, volumes and build cache hold; slow on a busy host. Raises EngineError."""
        usage = self.disk_usage()
        return Usage(
            sum(size(row.get("SizeRw")) for row in objects(usage.get("Containers"))),
            sum(size(mapping(row.get("UsageData")).get("Size")) for row in objects(usage.get("Volumes"))),
            sum(size(row.get("Size")) for row in objects(usage.get("BuildCache"))),
        )


# The members of `/system/df`, and where the engine's API has the same from 1.52 on.
_DF_MEMBERS = {"Containers": "ContainerUsage", "Volumes": "VolumeUsage", "BuildCache": "BuildCacheUsage"}


def _stamp(time_ns: int | None) -> Any:
    """Seconds with nanoseconds, as the engine's API takes them."""
    return None if time_ns is None else f"{time_ns // 10**9}.{time_ns % 10**9:09d}"
