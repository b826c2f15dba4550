"""What an image and a job may say: on real engines neither collector nor pruner ends, nor believes it."""

from __future__ import annotations

import json
import time

import docker
import pytest

from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer

pytestmark = pytest.mark.engine
MIB = 2**20
LABEL = "com.gitlab.gitlab-runner."
DEEP = "[" * 3000 + "]" * 3000


def test_labels_urls_manifests_and_times_of_any_kind_are_recorded_and_passed(
    any_engine: Engine, registry: Registry
) -> None:
    victim = registry.push_image("hostile/victim", "1", [base_layer(), random_layer(90, 100_000)]).reference
    client = any_engine.client()
    client.images.pull(victim)
    victim_id = str(client.images.get(victim).id)
    lies = {"exitCode": "boom", "imageID": victim_id, "imageRef": "victim:1", "name": "victim", "image": "victim"}
    evil = registry.push_image(
        "hostile/evil", "1", [base_layer()], {**lies, "big": "x" * 10**5}, built="9999-12-31T00:00:00Z", member=DEEP
    ).reference
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    with host.collecting("--inventory-interval", "1s"):
        client.images.pull(evil)
        urls = {f"{LABEL}job.id": "1", f"{LABEL}job.url": "http://[", f"{LABEL}type": "build", "evil": "\n<3>forged"}
        made = client.containers.create(evil, ["sh", "-c", "exit 7"], name="evil", labels=urls, network_mode="none")
        made.start()
        made.wait()
        made.commit("committed/evil", "1")
        host.wait_for_events("container_died", 1)
        host.run("pruner", "plan")
        made.remove()
        host.wait_for_events("container_destroyed", 1)
        host.wait_for(lambda: len(host.json("collector", "images")) == 3, "the commit to be listed")
    # Started again, the engine's memory is replayed.
    with host.collecting():
        host.wait_for_events("collector_started", 2)
    rows = host.log.query(
        "SELECT kind, image_id, coalesce(attributes, '{}') FROM events WHERE container = ? ORDER BY seq",
        [made.id],
    )
    evil_id = str(client.images.get(evil).id)
    output = {kind: (image, json.loads(attributes)) for kind, image, attributes in rows}
    assert {image for kind, (image, _) in output.items() if kind.startswith("container")} == {evil_id}
    labels = output["container_created"][1]["labels"]
    assert labels["exitCode"] == "boom"
    assert labels["big"].endswith("… (100,000 characters)")
    # Docker lets the label stand for the exit code.
    assert output["container_died"][1].get("exit_code") is None
    assert victim_id not in {image for _, image, _ in rows}
    assert host.log.query("SELECT ci, job_id, url, project FROM jobs") == [("gitlab", "1", "http://[", None)]
    assert host.count("event_unreadable") == host.count("gap") == 0
    assert host.log.query("SELECT created FROM images WHERE image_id = ?", [evil_id]) == [(None,)]
    host.run("analyzer", "simulate", "--threshold", "10%", "--interval", "1s")
    pull_without_end(host, registry, client, victim)
    client.close()


def pull_without_end(host: Host, registry: Registry, client: docker.DockerClient, victim: str) -> None:
    """Fill the disk with images, of which one borrows a name of the allowlist, while a container refers to `victim`."""
    client.containers.create(victim, ["true"], network_mode="none")
    endless = [
        registry.push_image("hostile/endless", str(k), [base_layer(), random_layer(91 + k, 2 * MIB)]).reference
        for k in range(4)
    ]
    for reference in endless:
        client.images.pull(reference)
    assert client.images.get(endless[0]).tag("registry.example.org/mesa/x", "1")
    # No collector saw these pulls, so Podman cannot say that a registry has the images.
    options = (
        "--min-age",
        "1s",
        "--order",
        "lru",
        "--allowlist",
        "registry.example.org/mesa/*",
        "--local-images",
        "evict",
    )
    time.sleep(1.1)
    host.run("pruner", "run", "--threshold", f"{host.engine.image_disk.free() + 3 * MIB}B", *options)
    left = host.references()
    # The borrowed name protects as long as others may go: those that the job pulled, here.
    assert left >= {victim, "registry.example.org/mesa/x:1"}
    assert not left.issuperset(endless[1:])
    # In an emergency it does not; what a container refers to stays.
    host.run("pruner", "run", "--threshold", "100%", *options, status=3)
    left = host.references()
    assert victim in left
    assert left.isdisjoint({*endless, "registry.example.org/mesa/x:1"})
