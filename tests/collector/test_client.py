"""What engines answer in shapes of their own is the same to us: as Docker 20 to 29 and Podman say it."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from collector.engine.translate import Translator
from collector.model.events import Kind
from collector.model.observation import CreatedFrom, ListedImage
from collector.model.origin import Origin
from pruner.policy.policy import Policy
from pruner.removal.client import DockerRemovingEngine
from pruner.state.containers import read_build_cache
from pruner.state.event_watch import raw_use
from pruner.state.volumes import VolumeUses, read_volumes

IMAGE, OTHER = ("sha256:" + letter * 64 for letter in "ab")
DIGEST = "sha256:" + "d" * 64
ANONYMOUS = "e" * 64
FOLDER = f"/var/lib/docker/volumes/{ANONYMOUS}/_data"
VOLUME = {"Name": ANONYMOUS, "Driver": "local", "Mountpoint": FOLDER, "CreatedAt": "2026-11-01T00:00:00Z"}
CACHE = {"ID": "c", "Size": 7, "LastUsedAt": "2026-11-02T00:00:00Z", "InUse": False, "Shared": False}
Answers = dict[str, Any]


class Canned(socketserver.ThreadingUnixStreamServer):
    """An engine that answers each path with what it was given, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path, answers: Answers, version: str) -> None:
        self.answers = {"/version": {"ApiVersion": version, "Version": "29"}, "/events": [], **answers}
        self.pong: str | None = None
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Canned

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = "/" + parts.path.split("/", 2)[2] if parts.path.startswith("/v1.") else parts.path
        self.server.asked.append((parts.path, parse_qs(parts.query)))
        self.server.headers.append(dict(self.headers))
        body = json.dumps(self.server.answers.get(path, {"message": "no such thing"})).encode()
        self.send_response(200 if path in self.server.answers else 404)
        self.send_header("Content-Type", "application/json")
        if path == "/_ping" and self.server.pong is not None:
            self.send_header("Api-Version", self.server.pong)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - http.server looks for it


@pytest.fixture
def canned(tmp_path: Path) -> Iterator[Any]:
    servers: list[Canned] = []

    def make(answers: Answers, version: str = "1.55") -> tuple[DockerRemovingEngine, Canned]:
        server = Canned(tmp_path / "engine.sock", answers, version)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return DockerRemovingEngine(f"unix://{tmp_path}/engine.sock"), server

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def containers(mounts: list[dict[str, Any]]) -> Answers:
    row = {"Id": "1" * 64, "ImageID": IMAGE, "Names": ["/one"], "State": "running", "Created": 1, "Mounts": mounts}
    return {"/containers/json": [row], "/volumes": {"Volumes": [VOLUME]}}


def test_an_image_that_was_pulled_by_digest_and_tagged_otherwise_keeps_its_name(canned: Any) -> None:
    row = {"Id": IMAGE, "RepoTags": ["other:1", f"reg/keep/base@{DIGEST}"], "RepoDigests": [f"other@{DIGEST}"]}
    bare = {"Id": OTHER, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"], "Size": 3}
    engine, _ = canned({"/images/json": [row, bare]})
    kept, nameless = engine.images()
    assert kept == ListedImage(IMAGE, ("other:1",), (f"other@{DIGEST}", f"reg/keep/base@{DIGEST}"), 0)
    assert nameless == ListedImage(OTHER, (), (), 3)
    assert Policy(allowlist=("*/keep/base*",)).protects((*kept.references, *kept.digests)) is not None


@pytest.mark.parametrize(
    ("mounts", "volumes"),
    [
        ([{"Type": "volume", "Name": "named", "Source": "/x/_data"}], ("named",)),
        ([{"Type": "volume", "Source": FOLDER, "Destination": "/data"}], (ANONYMOUS,)),
        ([{"Type": "volume", "Name": "", "Source": FOLDER}, {"Type": "volume", "Name": "named"}], ("named", ANONYMOUS)),
        ([{"Type": "bind", "Source": FOLDER}], (ANONYMOUS,)),
        ([{"Source": FOLDER}], (ANONYMOUS,)),
        ([{"Type": "volume", "Name": ANONYMOUS, "Source": FOLDER}], (ANONYMOUS,)),
        ([{"Type": "volume", "Source": "/gone/_data"}, {"Type": "tmpfs"}, {"Type": "volume"}], ()),
        ([{"Type": "bind", "Source": "/var/run/docker.sock"}], ()),
    ],
)
def test_volumes_that_mounts_do_not_name_are_known_by_their_folder(
    canned: Any, mounts: list[dict[str, Any]], volumes: tuple[str, ...]
) -> None:
    engine, server = canned({"/info": {"DockerRootDir": "/x", "Driver": "overlay2"}, **containers(mounts)})
    (row,) = engine.containers()
    assert row.volumes == volumes
    # Other binds, which are many, cost no question.
    assert ("/v1.55/volumes" in [path for path, _ in server.asked]) == any(
        "_data" in mount.get("Source", "") and not mount.get("Name") for mount in mounts
    )
    (volume,) = read_volumes(engine, [row], {}, VolumeUses())
    assert volume.containers == (ANONYMOUS in volumes)


OLD = {
    "LayersSize": 9,
    "Containers": [{"Id": "1" * 64, "SizeRw": 5}],
    "Volumes": [{**VOLUME, "UsageData": {"Size": 11, "RefCount": 1}}],
    "BuildCache": [CACHE],
}
NEW = {
    "ImageUsage": {"TotalSize": 9, "Items": []},
    **{
        f"{name}Usage": {"TotalCount": 1, "TotalSize": 1, "Items": OLD[f"{name}s" if name != "BuildCache" else name]}
        for name in ("Container", "Volume", "BuildCache")
    },
}


@pytest.mark.parametrize("usage", [OLD, NEW, {**OLD, **NEW}], ids=["until 1.51", "without old members", "both"])
def test_what_things_hold_is_read_in_each_shape(canned: Any, usage: Answers) -> None:
    info = {"DockerRootDir": "/x", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]], "Images": 4}
    engine, server = canned({"/system/df": usage, "/info": info, **containers([])})
    found = engine.usage()
    assert (found.container_bytes, found.volume_bytes, found.build_cache_bytes) == (5, 11, 7)
    output = engine.disk_usage()
    (volume,) = read_volumes(engine, [], output, VolumeUses())
    assert (volume.bytes, volume.containers) == (11, 1)
    assert read_build_cache(output).bytes == 7
    assert engine.silent_changes() == (4, ("c", CACHE["LastUsedAt"]))
    assert all(query["verbose"] == ["1"] for path, query in server.asked if path.endswith("/df"))


@pytest.mark.parametrize("usage", [{}, {"ContainerUsage": None, "VolumeUsage": {"TotalSize": 3}, "BuildCache": None}])
def test_what_nobody_lists_holds_nothing(canned: Any, usage: Answers) -> None:
    engine, _ = canned({"/system/df": usage})
    assert engine.usage().volume_bytes == 0
    assert engine.disk_usage()["Containers"] == []


def test_the_build_cache_is_pruned_under_both_names_of_what_stays(canned: Any) -> None:
    engine, server = canned({"/build/prune": {"SpaceReclaimed": 1}})
    engine.prune_build_cache(60.0, 123)
    path, query = server.asked[-1]
    assert path == "/v1.55/build/prune"
    assert query == {"filters": ['{"until": ["60s"]}'], "keep-storage": ["123"], "reserved-space": ["123"]}


@pytest.mark.parametrize("version", ["1.41", "1.55"])
def test_the_newest_version_of_the_interface_that_the_engine_has_is_spoken(canned: Any, version: str) -> None:
    engine, server = canned({"/images/json": []}, version)
    assert engine.images() == []
    assert server.asked[-1][0] == f"/v{version}/images/json"


@pytest.mark.parametrize(("said", "spoken"), [("1.44", "1.44"), ("x/../1", "1.55"), ("", "1.55")])
def test_an_engine_that_says_it_with_a_ping_is_not_asked_for_its_version(canned: Any, said: str, spoken: str) -> None:
    engine, server = canned({"/info": {"DockerRootDir": "/x", "Driver": "vfs", "ServerVersion": "28.5.2"}})
    server.pong = said
    assert engine.info().version == "28.5.2"
    expected = ["/_ping", *(["/version"] if spoken != said else []), f"/v{spoken}/info"]
    assert [path for path, _ in server.asked] == expected


def test_where_podman_keeps_containers_of_builds_is_asked_only_if_there_are_any(canned: Any, tmp_path: Path) -> None:
    info = {"DockerRootDir": "/x", "Driver": "overlay", "BuildahVersion": "1"}
    store = {"graphRoot": str(tmp_path), "runRoot": str(tmp_path), "graphDriverName": "overlay"}
    listing = "/v4.0.0/libpod/containers/json"
    engine, server = canned({"/info": info, listing: [], "/v4.0.0/libpod/info": {"store": store}})
    assert engine.external_containers() == []
    assert server.asked[-1][0] == listing
    server.answers[listing] = [{"Id": "1" * 64, "ImageID": "a" * 64, "State": "storage", "Command": ["buildah"]}]
    (found,) = engine.external_containers()
    assert (found.container, found.is_build, found.mounted) == ("1" * 64, True, False)
    assert server.asked[-1][0] == "/v4.0.0/libpod/info"


@pytest.mark.parametrize(
    ("identity", "origin"),
    [
        ({"Pull": [{"Repository": "docker.io/library/debian"}]}, Origin.REGISTRY),
        ({"Build": [{"Ref": "x", "CreatedAt": "2026-11-01T00:00:00Z"}]}, Origin.LOCAL),
        ({"Signature": [{}]}, Origin.UNKNOWN),
        (None, Origin.UNKNOWN),
    ],
)
def test_identity_says_whether_a_registry_has_the_image(canned: Any, identity: Any, origin: Origin) -> None:
    info = {"DockerRootDir": "/nonexistent", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    stored = "2026-11-01T00:00:00Z"
    detail = {"Id": IMAGE, "Identity": identity, "RootFS": {}, "Metadata": {"LastTagTime": stored}, "Size": 3}
    engine, _ = canned({f"/images/{IMAGE}/json": detail, f"/images/{IMAGE}/history": [], "/info": info})
    seen = engine.observe(ListedImage(IMAGE, ("a:1",), (f"a@{DIGEST}",), 0))
    assert seen is not None
    assert (seen.origin, seen.stored, seen.size) == (origin, 1793491200.0, 3)


class _Nothing:
    def resolve(self, reference: str) -> str | None:
        return IMAGE if reference == "debian:12" else None

    def created_from(self, container: str) -> CreatedFrom:
        return CreatedFrom(IMAGE if container else None)


def test_events_are_understood_without_the_members_of_old() -> None:
    asked = {"ID": "debian:12", "Attributes": {"name": "debian"}}
    pull = {"Type": "image", "Action": "pull", "timeNano": 5, "Actor": asked}
    create = {
        "Type": "container",
        "Action": "create",
        "timeNano": 6,
        "Actor": {"ID": "1" * 64, "Attributes": {"image": "debian:12", "name": "one"}},
    }
    old = {"status": "pull", "id": "debian:12", "from": "debian"}
    for more in ({}, old):
        translator = Translator(_Nothing())
        (first,), (second,) = (translator.translate({**more, **raw}) for raw in (pull, create))
        assert (first.kind, first.image, first.reference) == (Kind.IMAGE_PULLED, IMAGE, "debian:12")
        assert (second.kind, second.image, second.container) == (Kind.CONTAINER_CREATED, IMAGE, "1" * 64)
    use = raw_use(create)
    assert use is not None
    assert use.called >= {"debian:12", "1" * 64}


@pytest.mark.parametrize("others", ['"auths": 5', '"auths": {"a": {"auth": "%"}}', '"proxies": []', '"credsStore": 7'])
def test_of_docker_s_own_configuration_sound_headers_alone_count(
    tmp_path: Path, canned: Any, monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    headers = {"X-Meta": "one", "X-Number": 5, "X-Line": "a\nb", "": "x"}
    (tmp_path / "config.json").write_text(f'{{"HttpHeaders": {json.dumps(headers)}, {others}}}')
    engine, server = canned({"/images/json": []})
    assert engine.images() == []
    assert {sent["X-Meta"] for sent in server.headers} == {"one"}
    assert not {"X-Number", "X-Line"} & {name for sent in server.headers for name in sent}
