"""Whether a registry has an image: asked of each engine for whatever way an image can come."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import docker.errors
import pytest

from analyzer.trace.load import load_trace
from tests.conftest import MakeEngine
from tests.engine.builds import Builder, build, builders
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Layer, Registry, base_layer, random_layer
from tests.engine.test_identity import tar

pytestmark = pytest.mark.engine
# Nothing listens there.
NOWHERE = "127.0.0.1:1/nowhere/it"


class Comer:
    """Lets images come to an engine in every way."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self.engine = engine
        self.registry = registry
        self.client = engine.client()
        self.serial = 0
        self.base = self.registry.push_image("origin/base", "1", [base_layer()]).reference

    def pulled(self, name: str = "pulled") -> str:
        self.serial += 1
        layers = [base_layer(), random_layer(8000 + self.serial, 10000)]
        pushed = self.registry.push_image(f"origin/{name}", "1", layers)
        self.client.images.pull(pushed.reference)
        return str(self.client.images.get(pushed.reference).id)

    def built(self, tag: str = "built/it:1", builder: Builder = Builder.CLASSIC) -> str:
        self.serial += 1
        return build(self.engine, builder, self.base, tag, f"content {self.serial}")

    def loaded(self, name: str, make: Callable[[Published], bytes], *, known: bool = False) -> str:
        """The image comes by an archive, though a registry has that very one; `known`: its layers have been pulled."""
        self.serial += 1
        layers = [base_layer(), random_layer(8000 + self.serial, 10000)]
        if known:
            self.pulled(f"{name}-layers")
            layers = [random_layer(8000 + self.serial, 10000), base_layer()]
        pushed = self.registry.push_image(f"origin/{name}", "1", layers)
        where = f"http://{self.registry.host}/v2/origin/{name}"
        config = got(f"{where}/blobs/{pushed.image_id}")
        manifest = got(f"{where}/manifests/{pushed.digest}")
        self.client.images.load(make(Published(pushed.reference, layers, config, manifest)))
        return str(self.client.images.get(pushed.reference).id)

    def imported(self) -> str:
        self.client.api.import_image_from_data(tar("imported"), "imported/it", "1")
        # Podman forgets the tag.
        return next(str(image.id) for image in self.client.images.list() if "imported/it" in " ".join(image.tags))

    def committed(self) -> str:
        container = self.client.containers.create(self.base, ["true"], network_mode="none")
        try:
            return str(container.commit("committed/it", "1").id)
        finally:
            container.remove()

    def pushed(self) -> str:
        name = f"{self.registry.host}/origin/pushed"
        made = self.built(f"{name}:1")
        assert "error" not in self.client.api.push(name, tag="1")
        return made

    def not_pushed(self) -> str:
        """Neither push nor pull can succeed, and some engines report both all the same."""
        made = self.built(f"{NOWHERE}:1")
        assert "error" in self.client.api.push(NOWHERE, tag="1")
        with suppress(docker.errors.APIError):
            self.client.api.pull(NOWHERE, tag="1")
        return made


@dataclass(frozen=True)
class Published:
    """An image as a registry has it: its configuration and manifest byte for byte."""

    reference: str
    layers: Sequence[Layer]
    config: bytes
    manifest: bytes


def got(address: str) -> bytes:
    accepted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    with urllib.request.urlopen(urllib.request.Request(address, headers=accepted), timeout=30) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


def docker_archive(image: Published) -> bytes:
    """As `docker save` wrote it for long: layers as they are."""
    layers = {f"{k}.tar": gzip.decompress(layer.blob) for k, layer in enumerate(image.layers)}
    entry = {"Config": "config.json", "RepoTags": [image.reference], "Layers": [*layers]}
    return archive({"config.json": image.config, **layers, "manifest.json": json.dumps([entry]).encode()})


def oci_archive(image: Published) -> bytes:
    """As skopeo writes it: all as in the registry, layers compressed."""
    names = {"org.opencontainers.image.ref.name": image.reference, "io.containerd.image.name": image.reference}
    entry = {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": f"sha256:{hashlib.sha256(image.manifest).hexdigest()}",
        "size": len(image.manifest),
        "annotations": names,
    }
    blobs = (*(layer.blob for layer in image.layers), image.config, image.manifest)
    return archive(
        {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            **{f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in blobs},
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        }
    )


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def shown(host: Host) -> dict[str, str]:
    return {row["image_id"]: row["origin"] for row in host.json("collector", "images")}


def wait_for(host: Host, expected: dict[str, str]) -> None:
    host.wait_for(
        lambda: expected.items() <= shown(host).items(), lambda: f"the origins {expected}, found {shown(host)}"
    )


def test_only_what_a_registry_has_is_removed(any_engine: Engine, registry: Registry) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    comer = Comer(any_engine, registry)
    comer.client.images.pull(comer.base)
    is_podman = any_engine.is_podman
    expected = {comer.pulled("before"): "registry", comer.built("built/before:1"): "local"}
    with host.collecting("--listing-interval", "1s"):
        expected |= {
            comer.pulled(): "registry",
            **{comer.built(f"built/by-{one.name.lower()}:1", one): "local" for one in builders(any_engine)},
            comer.imported(): "local",
            comer.committed(): "local",
            # Podman reports a push that failed like one that did not.
            comer.pushed(): "local" if is_podman else "registry",
            comer.not_pushed(): "local",
        }
        archives = {"loaded": comer.loaded("loaded", docker_archive)}
        # Podman remembers how layers were compressed, and writes down these as if they had come so.
        archives["known"] = comer.loaded("known", docker_archive, known=True)
        if any_engine.variant != "docker20":
            archives["packed"] = comer.loaded("packed", oci_archive)
        expected |= dict.fromkeys(archives.values(), "local")
        wait_for(host, expected)

        # The registry is asked for it now, and has it. Docker 26 does not list it where a Docker archive
        # brought its layers; Podman cannot distinguish the registry's from the OCI archive's.
        name = "packed" if any_engine.setup.store else "loaded"
        comer.client.images.pull(f"{registry.host}/origin/{name}:1")
        expected[archives[name]] = "registry"
        wait_for(host, expected)

    trace = load_trace(host.log)
    simulated = dict(zip(trace.image_ids, trace.local.tolist(), strict=True))
    assert {image: simulated[image] for image in expected} == {
        image: origin != "registry" for image, origin in expected.items()
    }
    time.sleep(1.1)
    host.run("pruner", "run", "--threshold", "100%", "--min-age", "1s", status=3)
    left = {str(image.id) for image in comer.client.images.list()}
    assert {image for image in expected if image in left} == {
        image for image, origin in expected.items() if origin == "local"
    }
    comer.client.close()


def test_what_nothing_speaks_of_counts_as_local_until_root_looks(make_engine: MakeEngine, registry: Registry) -> None:
    engine = make_engine("docker26")
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    comer = Comer(engine, registry)
    before = comer.pulled("before")
    time.sleep(1.1)  # older than the min_age of one second
    engine.restart()  # it remembers no pull any more
    # As for a service that may use the socket and nothing else.
    hidden = engine.data_root / "containerd/daemon/io.containerd.metadata.v1.bolt"
    assert hidden.is_dir()

    def blindly(*argv: str) -> str:
        """Run one of our commands where the engine's records are not to be seen."""
        script = 'mount -t tmpfs none "$0" && exec "$@"'
        found = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, hidden, *host.command(*argv)],
            capture_output=True,
            text=True,
            check=True,
            env=host.environment,
            timeout=120,
        )
        return found.stdout

    short_of_space = ("--threshold", "100%", "--min-age", "1s")
    blindly("collector", "run", "--once")
    assert shown(host) == {before: "unknown"}
    findings = {row["subject"]: row for row in json.loads(blindly("collector", "doctor", "--format", "json"))}
    assert (findings["origin of images"]["state"], findings["origin of images"]["answer"]) == ("blind", "not reported")
    output = " ".join(blindly("pruner", "plan", "--all", *short_of_space).split())
    assert "whether a registry has 1 image is not known, so they count as local " in output
    assert "whether a registry has it is not known, so it counts as local (local_images = superseded: " in output
    assert any("whether a registry has 1 image is not known" in word for word in load_trace(host.log).assumptions)
    # Root's own plan looks by itself; what root's inventory finds is there for all.
    assert [row["reason"] for row in host.json("pruner", "plan", *short_of_space)["images"]] == ["evict"]
    host.run("collector", "run", "--once")
    assert shown(host) == {before: "registry"}
    comer.client.close()
