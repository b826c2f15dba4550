"""Where an image can be pulled again: what the engines' records show, and what is made of several words."""

from __future__ import annotations

import base64
import itertools
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.arrivals import Arrivals
from collector.daemon.presence import Presence
from collector.engine.bolt import BoltError, _fnv, read_in_children
from collector.engine.provenance import by_content, by_identity, by_manifests
from collector.model.events import Event, Kind
from collector.model.observation import ImageObservation
from collector.model.origin import Origin, agreed

HEX = "0a" * 32
IMAGE = f"sha256:{HEX}"
GZIP = {"layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}]}
PLAIN = {"layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar"}]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"manifest": PLAIN}, Origin.LOCAL),
        ({"manifest": GZIP}, Origin.PACKED),
        ({"manifest": {"layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd"}]}}, Origin.PACKED),
        ({"manifest": {"fsLayers": []}}, Origin.PACKED),
        # Loaded, and pulled later: the manifest of the pull stands beside the other.
        ({"manifest": PLAIN, "manifest-sha256:0b": GZIP}, Origin.PACKED),
        ({"manifest": PLAIN, f"sha256:{HEX}": GZIP, "signature-0b": GZIP}, Origin.LOCAL),
        ({"manifest": ["?"]}, Origin.UNKNOWN),
        ({}, Origin.UNKNOWN),
    ],
)
def test_podmans_manifests_say_a_packed_image_from_a_made_one(
    tmp_path: Path, files: dict[str, object], expected: Origin
) -> None:
    folder = tmp_path / "overlay-images" / HEX
    folder.mkdir(parents=True)
    for name, content in files.items():
        kept = name if name == "manifest" else "=" + base64.b64encode(name.encode()).decode()
        (folder / kept).write_text(json.dumps(content))
    assert by_manifests(str(tmp_path), IMAGE) is expected
    assert by_manifests(str(tmp_path), "sha256:" + "0c" * 32) is Origin.UNKNOWN
    assert by_manifests(str(tmp_path), "sha256:../x") is Origin.UNKNOWN


def test_what_is_not_a_manifest_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "overlay-images" / HEX
    folder.mkdir(parents=True)
    (folder / "manifest").write_text("{")
    (folder / "=x").write_text("{")
    assert by_manifests(str(tmp_path), IMAGE) is Origin.UNKNOWN


def test_an_engine_that_has_an_identity_is_believed() -> None:
    assert by_identity({"Identity": {"Pull": [{"Repository": "docker.io/library/debian"}]}}) is Origin.REGISTRY
    both = {"Build": [{"Ref": "x"}], "Pull": [{"Repository": "registry.example.org/app"}]}
    assert by_identity({"Identity": both}) is Origin.REGISTRY
    assert by_identity({"Identity": {"Build": [{"Ref": "x"}]}}) is Origin.LOCAL
    assert by_identity({"Identity": {"Signature": []}}) is Origin.UNKNOWN
    assert by_identity({"Identity": None}) is by_identity({}) is Origin.UNKNOWN


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\0" * 70000, b"no database at all " * 9999])
def test_a_file_that_is_no_metadata_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "containerd/daemon/io.containerd.metadata.v1.bolt/meta.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(BoltError):
        read_in_children(path, (b"v1",), ())
    assert by_content(str(tmp_path), IMAGE) is Origin.UNKNOWN
    assert by_content(str(tmp_path / "elsewhere"), IMAGE) is Origin.UNKNOWN


def leaf(bucket: dict[bytes, Any]) -> bytes:
    """A leaf page of a bolt database; the buckets in it lie inside."""
    heads, data = b"", b""
    for number, (key, value) in enumerate(sorted(bucket.items())):
        kept = value if isinstance(value, bytes) else bytes(16) + leaf(value)
        heads += struct.pack(
            "<IIII", not isinstance(value, bytes), 16 * (len(bucket) - number) + len(data), len(key), len(kept)
        )
        data += key + kept
    return struct.pack("<QHHI", 0, 0x02, len(bucket), 0) + heads + data


def write_metadata(path: Path, namespaces: dict[bytes, dict[bytes, bytes]]) -> None:
    """The metadata of a containerd: in each namespace an image with such labels."""
    held = {name: {b"content": {b"blob": {IMAGE.encode(): {b"labels": one}}}} for name, one in namespaces.items()}
    meta = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, 4096, 0, 1, 0, 0, 0, 1)
    first = struct.pack("<QHHI", 0, 0x04, 0, 0) + meta + _fnv(meta).to_bytes(8, "little")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(first.ljust(4096, b"\0") + leaf({b"v1": {b"version": b"3", **held}}).ljust(4096, b"\0"))


@pytest.mark.parametrize(
    ("namespaces", "expected"),
    [
        ({b"moby": {b"containerd.io/distribution.source.docker.io": b"debian"}}, Origin.REGISTRY),
        # With user namespaces the engine's is called so; others may keep the same image.
        ({b"moby-300000.300000": {b"containerd.io/distribution.source.docker.io": b"debian"}}, Origin.REGISTRY),
        ({b"ci": {b"other": b""}, b"k8s.io": {b"containerd.io/distribution.source.x": b"y"}}, Origin.REGISTRY),
        ({b"moby-300000.300000": {b"containerd.io/gc.ref.content.0": b"x"}}, Origin.LOCAL),
        ({}, Origin.UNKNOWN),
    ],
)
def test_the_labels_of_an_image_are_read_in_whatever_namespace_it_is(
    tmp_path: Path, namespaces: dict[bytes, dict[bytes, bytes]], expected: Origin
) -> None:
    write_metadata(tmp_path / "io.containerd.metadata.v1.bolt/meta.db", namespaces)
    assert by_content(str(tmp_path), IMAGE) is expected
    assert by_content(str(tmp_path), "sha256:" + "0c" * 32) is Origin.UNKNOWN


def test_metadata_with_any_byte_damaged_says_nothing_or_something(tmp_path: Path) -> None:
    path = tmp_path / "io.containerd.metadata.v1.bolt/meta.db"
    write_metadata(path, {b"moby": {b"containerd.io/distribution.source.docker.io": b"debian"}})
    whole = path.read_bytes()
    source = random.Random(1)
    for number in [number for number, byte in enumerate(whole) if byte] * 2:
        place = number + source.randrange(-2, 3)
        damage = bytes([source.choice((0, 1, 0x10, 0x7F, 0x80, 0xFF))])
        path.write_bytes(whole[:place] + damage + whole[place + 1 :] if source.random() < 0.9 else whole[:place])
        assert by_content(str(tmp_path), IMAGE) in Origin


def test_who_knows_best_is_heard() -> None:
    for logged, output in itertools.product((None, *Origin), Origin):
        found = agreed(logged, output)
        assert found is not Origin.PACKED
        assert (found is Origin.REGISTRY) == (
            Origin.REGISTRY in (logged, output)
            or (Origin.PACKED in (logged, output) and Origin.LOCAL not in (logged, output))
        )
    assert agreed(Origin.LOCAL, Origin.UNKNOWN) is Origin.LOCAL
    assert agreed(None, Origin.UNKNOWN) is Origin.UNKNOWN


def packed(name: str, image: str = IMAGE, digests: tuple[str, ...] = ("a@sha256:1",)) -> ImageObservation:
    return ImageObservation(image, (name,), digests, None, None, 1, (), Origin.PACKED)


def test_what_comes_packed_is_what_events_say_and_not_known_until_they_do() -> None:
    now = [0.0]
    arrivals = Arrivals(lambda: now[0])
    assert arrivals.origin(packed("docker.io/library/a:1"), 0) is Origin.UNKNOWN
    # A pull that failed, then an archive in its place.
    assert arrivals.take(Event(1, Kind.IMAGE_PULLED, reference="a:1"))
    assert arrivals.take(Event(2, Kind.IMAGE_LOADED, reference="/srv/a.tar"))
    assert arrivals.origin(packed("docker.io/library/a:1"), 3) is Origin.LOCAL
    arrivals.take(Event(3, Kind.IMAGE_PULLED, reference="b"))
    arrivals.clear()
    assert arrivals.origin(packed("docker.io/library/b:latest"), 4) is Origin.REGISTRY
    assert arrivals.origin(packed("docker.io/library/c:latest"), 4) is Origin.LOCAL
    now[0] = 3600.0
    assert arrivals.origin(packed("docker.io/library/c:latest"), 4) is Origin.UNKNOWN
    arrivals.clear()
    assert arrivals.origin(packed("docker.io/library/b:latest"), 4) is Origin.UNKNOWN
    assert not arrivals.take(Event(4, Kind.CONTAINER_CREATED, image=IMAGE))


def test_what_is_known_to_be_local_stays_so_until_another_manifest_comes() -> None:
    presence = Presence()
    assert presence.has_come(packed("a:1"))
    first = presence.resolved_origin(packed("a:1"), Origin.LOCAL)
    presence.observed(first, 1)
    # However often it is seen again.
    for again in (packed("a:2"), packed("a:2", digests=("b@sha256:1",))):
        assert not presence.has_come(again)
        assert presence.resolved_origin(again).origin is Origin.LOCAL
    further = packed("a:2", digests=("a@sha256:1", "a@sha256:2"))
    assert presence.has_come(further)
    for came in (Origin.LOCAL, Origin.REGISTRY):
        assert presence.resolved_origin(further, came).origin is came
    # Not reported at first, nor since: it was pulled, as most are.
    presence.observed(presence.resolved_origin(packed("b:1", "sha256:b"), Origin.UNKNOWN), 2)
    assert presence.origin("sha256:b") is Origin.UNKNOWN
    assert presence.resolved_origin(packed("b:1", "sha256:b")).origin is Origin.REGISTRY


def test_what_is_reported_late_shows_how_images_have_come_that_were_seen_before() -> None:
    now, late, far = [0.0], 10 * 10**9 - 10**8, 12 * 10**9
    arrivals, seen_ns = Arrivals(lambda: now[0]), 10 * 10**9

    def see(name: str) -> Origin:
        return arrivals.origin(packed(f"docker.io/library/{name}:1", f"sha256:{name}"), seen_ns)

    assert (see("a"), see("b"), see("c")) == (Origin.UNKNOWN,) * 3
    # Begun before it was seen: that pull brought it. Long after: it may have failed.
    arrivals.take(Event(late, Kind.IMAGE_PULLED, reference="a:1"))
    arrivals.take(Event(far, Kind.IMAGE_PULLED, reference="b:1"))
    assert arrivals.drain_updates()[1] == {"sha256:a": Origin.REGISTRY}
    # An archive says nothing of what was seen long before it. What was seen just then and not pulled is local.
    arrivals.take(Event(far, Kind.IMAGE_LOADED, reference="/srv/x.tar"))
    assert arrivals.drain_updates() == (set(), {})
    arrivals.take(Event(late, Kind.IMAGE_LOADED, reference="/srv/c.tar"))
    assert arrivals.drain_updates()[1] == dict.fromkeys(("sha256:b", "sha256:c"), Origin.LOCAL)
    # What seemed to come from that archive, and was asked of a registry before it was seen.
    assert see("d") is Origin.LOCAL
    arrivals.take(Event(late, Kind.IMAGE_PULLED, reference="d:1"))
    assert arrivals.drain_updates()[1] == {"sha256:d": Origin.REGISTRY}
    assert arrivals.is_pending("sha256:d")
    now[0] = 100.0
    assert not arrivals.is_pending("sha256:d")
