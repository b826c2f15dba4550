"""What fills a disk besides images goes too, in order, on real engines: and what somebody needs stays."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pruner.policy.file import policy_from
from pruner.removal.client import DockerRemovingEngine as Border
from pruner.removal.executor import Executor
from pruner.removal.run import make_plan
from pruner.state.volumes import last_references
from tests.conftest import MakeEngine
from tests.engine import builds
from tests.engine.engines import Engine, tags_by_image
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import PREFIX

pytestmark = pytest.mark.engine
MIB = 2**20
CACHE = "runner-abcdefgh-project-7-concurrent-0-cache-3c3f060a0374fc8bc39395164f415a70"
GRACES = (
    *("--containers-job-grace", "1s", "--containers-grace", "1s", "--dangling-age", "1s"),
    *("--volumes-anonymous-age", "1s", "--volumes-cache-age", "1s", "--build-cache-age", "0s", "--min-age", "1s"),
)


class Litter:
    """Things that jobs and people leave behind, each of a size that shows on the disk."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self.client = engine.client()
        self.images = {
            name: registry.push_image(f"litter/{name}", "1", [base_layer(), random_layer(seed, 20 * MIB)])
            for seed, name in enumerate(("job", "idle", "busy", "tool"), start=300)
        }
        for image in self.images.values():
            self.client.images.pull(image.reference)

    def write(self, image: str, path: str, mib: int, **options: Any) -> Any:
        """A container that wrote so much to a path, and ended."""
        command = ["dd", "if=/dev/zero", f"of={path}/filled", "bs=1048576", f"count={mib}", "conv=fsync"]
        made = self.client.containers.create(
            self.images[image].reference, command, network_mode="none", user="0", **options
        )
        made.start()
        assert made.wait()["StatusCode"] == 0, made.logs()
        return made

    def volume(self, name: str, mib: int) -> None:
        """A named volume that no container refers to any more."""
        self.write("tool", "/data", mib, volumes={name: {"bind": "/data"}}).remove(v=False)

    def anonymous(self, mib: int) -> str:
        """An anonymous volume whose container has gone."""
        made = self.write("tool", "/data", mib, volumes=["/data"])
        made.reload()
        (name,) = (mount["Name"] for mount in made.attrs["Mounts"])
        made.remove(v=False)
        return str(name)

    def holds(self) -> tuple[set[str], set[str], set[str]]:
        """Containers by name, volumes, and tags of images."""
        return (
            {str(container.name) for container in self.client.containers.list(all=True)},
            {str(volume.name) for volume in self.client.volumes.list()},
            {tag for tags in tags_by_image(self.client).values() for tag in tags},
        )

    def stuck(self, engine: Engine) -> tuple[str, str]:
        """Something of 20 MiB that would go first, and that the engine refuses to remove: its name, and why."""
        if engine.is_podman:
            made = self.write("tool", "/etc", 20, name="needed")
            self.client.containers.create(
                self.images["tool"].reference,
                ["true"],
                name="needs",
                network_mode=f"container:{made.id}",
                labels={"docker-hindsight.keep": "true"},
            )
            return "needed", "has dependent containers"
        name = self.anonymous(20)
        self._chattr("+i", engine, name)
        return name, "operation not permitted"

    def release(self, engine: Engine, name: str) -> None:
        """Let what is stuck be removed after all."""
        if not engine.is_podman:
            self._chattr("-i", engine, name)

    def _chattr(self, mode: str, engine: Engine, volume: str) -> None:
        subprocess.run(["chattr", "-R", mode, engine.data_root / "volumes" / volume / "_data"], check=True)


def planned_later(host: Host, options: tuple[str, ...], named: tuple[str, ...]) -> set[str]:
    """Names of the volumes that a run would remove."""
    made = host.json("pruner", "plan", "--threshold", "100%", *options, *named)
    return {item["name"] for item in made["items"] if item["item"] == "volume" and item["reason"] == "expired"}


def items(host: Host) -> list[tuple[str, str, int, int]]:
    rows = host.log.query(
        "SELECT attributes ->> '$.item', attributes ->> '$.name', bytes,"
        " CAST(attributes ->> '$.predicted_bytes' AS BIGINT) FROM events WHERE kind = 'item_removed' ORDER BY seq"
    )
    return [(item, name, freed, predicted) for item, name, freed, predicted in rows]


def test_what_the_engine_refuses_keeps_nothing_else(any_engine: Engine, registry: Registry) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    litter = Litter(any_engine, registry)
    name, why = litter.stuck(any_engine)
    time.sleep(1.1)
    options = (*GRACES, "--threshold", f"{any_engine.disk.free() + 19 * MIB}B", "--order", "lru")
    try:
        assert name in host.run("pruner", "run", "--dry-run", *options)
        shown = host.run("pruner", "run", *options)
        assert f"{name} after all: " in shown
        assert why in shown
        assert "removed 1 image in 2 rounds" in shown

        # The next run begins with something else, and comes back to it when nothing else is left.
        again = (*GRACES, "--threshold", f"{any_engine.disk.free() + 19 * MIB}B", "--order", "lru")
        dry = host.run("pruner", "run", "--dry-run", *again)
        assert name not in dry
        assert "removed 1 image, " in host.run("pruner", "run", *again)
        output = host.run("pruner", "run", "--dry-run", *GRACES, "--threshold", "100%").splitlines()
        refused = "last, for the engine refused it"
        going = [line for line in output if line.startswith("remove ") or refused in line]
        assert refused in " ".join(going[-2:])
    finally:
        litter.release(any_engine, name)


@pytest.mark.parametrize("variant", ["podman", "podman58"])
def test_containers_of_killed_builds_are_shown_and_go_by_age(
    make_engine: MakeEngine, registry: Registry, variant: str
) -> None:
    engine = make_engine(variant)
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    litter = Litter(engine, registry)
    left, killed = litter.images["job"].reference, litter.images["idle"].reference
    # Nothing works any more in what one build left; another one was killed, and what it left is mounted.
    builds.leave_container(engine, left)
    builds.unmount_all(engine)
    builds.kill_midway(engine, killed)
    time.sleep(1.1)
    options = (*GRACES, "--threshold", "100%")
    made = host.json("pruner", "plan", *options)
    found = {item["reason"]: item for item in made["items"] if item["item"] == "container"}
    assert "podman rm --force" in found["running"]["detail"]
    assert "of a build, by Buildah" in found["expired"]["detail"]
    reasons = {name: image["reason"] for image in made["images"] for name in image["references"]}
    assert reasons[killed] == "pinned"
    assert {item["reason"] for item in host.json("pruner", "plan", *options, "--containers-grace", "1h")["items"]} == {
        *("running", "young")
    }
    shown = host.run("pruner", "run", *options, status=3)
    assert "after all" not in shown
    # What the build wrote went with its container.
    assert items(host)[0][2] >= 4 * MIB
    assert litter.holds()[2] == {killed}
    builds.unmount_all(engine)
    time.sleep(1.1)
    host.run("pruner", "run", *options, status=3)
    assert litter.holds() == (set(), set(), set())
    litter.client.close()


def test_containers_and_volumes_go_before_images_and_only_as_far_as_needed(
    any_engine: Engine, registry: Registry
) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    litter = Litter(any_engine, registry)
    job = {f"{PREFIX}job.id": "1001", f"{PREFIX}type": "build"}
    litter.write("job", "/etc", 12, name="job-left", labels=job)
    litter.client.containers.create(
        litter.images["idle"].reference, ["true"], name="never-started", network_mode="none"
    )
    litter.client.containers.run(
        litter.images["busy"].reference, ["sleep", "600"], name="busy", network_mode="none", detach=True
    )
    litter.write("tool", "/data", 3, name="kept", volumes={"in-use": {"bind": "/data"}})
    with host.collecting():
        anonymous = litter.anonymous(15)
        litter.volume(CACHE, 14)
        litter.volume("data", 8)
        ended = time.time()
        litter.write("tool", "/data", 3, name="leaves-data", volumes={"orphan": {"bind": "/data"}})
        host.wait_for_events("container_destroyed", 3)
    shown_by_log = last_references(host.log)
    assert {anonymous, CACHE, "data"} <= set(shown_by_log)
    assert abs(shown_by_log["data"] - ended) < 1
    time.sleep(2.1)
    containers, volumes, tags = litter.holds()

    # Ten MiB too little: the job's container is enough, and its image stays.
    options = (*GRACES, "--containers-keep", "kept")
    threshold = ("--threshold", f"{any_engine.disk.free() + 10 * MIB}B")
    planned = host.run("pruner", "run", "--dry-run", *threshold, *options)
    assert litter.holds() == (containers, volumes, tags)
    host.run("pruner", "run", *threshold, *options)
    assert litter.holds() == (containers - {"job-left"}, volumes, tags)
    assert "job-left" in planned
    assert CACHE not in planned

    # All that may go: what is running, kept, named or in use stays, with its images.
    time.sleep(1.1)  # the image of the container that was removed has got older than the min_age, too
    named = ("--volumes-named", "orph*", "--volumes-named-age", "0s")
    shown = host.run("pruner", "run", "--threshold", "100%", *options, *named, status=3)
    left = litter.holds()
    assert left[0] == {"busy", "kept"}
    # What lost its container in this run is judged in a later one.
    assert left[1] == {"in-use", "data", "orphan"}
    assert "orphan" in planned_later(host, options, named)
    assert "orphan" not in planned_later(host, options, ("--volumes-named", "orph*", "--volumes-named-age", "10min"))
    assert left[2] == {litter.images["busy"].reference, litter.images["tool"].reference}
    assert "removed 2 containers, 2 volumes, 2 images" in shown
    found = items(host)
    images = [("image", litter.images[name].reference) for name in ("idle", "job")]
    assert [row[:2] for row in found[:5]] == [
        *(("container", "job-left"), ("container", "never-started"), ("container", "leaves-data")),
        *(("volume", anonymous), ("volume", CACHE)),
    ]
    assert sorted(row[:2] for row in found[5:]) == images
    for item, name, freed, predicted in found:
        assert abs(freed - predicted) <= 0.02 * predicted + MIB, (item, name, freed, predicted)
    assert host.log.query("SELECT count(*) FROM events WHERE kind = 'item_failed'") == [(0,)]

    # A volume that is listed goes, too.
    host.run(
        "pruner",
        "run",
        "--threshold",
        "100%",
        *options,
        "--volumes-named",
        "da*",
        "--volumes-named-age",
        "1s",
        status=3,
    )
    assert litter.holds()[1] == {"in-use", "orphan"}
    litter.client.close()


def build(engine: Engine, folder: Path, tag: str | None) -> None:
    """Build with BuildKit, whose cache stays behind."""
    subprocess.run(
        ["/usr/bin/docker", "build", "--quiet", *(["--tag", tag] if tag else []), folder],
        env={**os.environ, "DOCKER_HOST": engine.host, "DOCKER_BUILDKIT": "1"},
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("variant", ["docker20", "docker26"])
def test_build_cache_is_kept_to_its_size_and_nameless_builds_go(
    make_engine: MakeEngine, tmp_path: Path, variant: str
) -> None:
    engine = make_engine(variant)
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    client = engine.client()
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY filled /\n")
    host.run("collector", "run", "--once")
    for seed in range(3):
        (tmp_path / "filled").write_bytes(random_layer(400 + seed, 12 * MIB).blob)
        build(engine, tmp_path, "built:1" if seed == 0 else None)
    host.run("collector", "run", "--once")
    assert client.api.df()["BuildCache"]
    time.sleep(1.1)
    before = engine.disk.free()
    shown = host.run(
        *("pruner", "run", "--threshold", "100%", *GRACES, "--build-cache-keep", "0", "--local-images", "keep"),
        status=3,
    )
    assert "build cache" in shown
    assert engine.disk.free() - before > 20 * MIB
    left = client.api.df()["BuildCache"] or []
    assert sum(row["Size"] for row in left if not row["Shared"]) < 15 * MIB
    assert [image.tags for image in client.images.list()] == [["built:1"]]
    assert [row[0] for row in items(host)].count("build_cache") >= 1

    # What exists only on the host goes once a later one of its repository is there, and is marked.
    (tmp_path / "filled").write_bytes(random_layer(410, 12 * MIB).blob)
    build(engine, tmp_path, "built:2")
    host.run("collector", "run", "--once")
    time.sleep(1.1)
    full = ("--threshold", "100%", *GRACES)
    host.run("pruner", "run", *full, status=3)
    assert sorted(image.tags[0] for image in client.images.list()) == ["built:1", "built:2"]
    host.run("pruner", "run", *full, "--local-idle", "1s", status=3)
    assert [image.tags for image in client.images.list()] == [["built:2"]]
    removed = host.json("pruner", "history")["removals"]
    assert [one["reason"] for one in removed if one["name"] == "built:1"] == ["evict_local"]
    assert host.json("analyzer", "verify")["agreement"] == 1.0
    client.close()


def test_what_is_used_after_the_plan_stays(docker20: Engine, registry: Registry) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    litter = Litter(docker20, registry)
    started = litter.client.containers.create(
        litter.images["job"].reference, ["sleep", "600"], name="started", network_mode="none"
    )
    ended = litter.write("idle", "/etc", 1, name="ended")
    anonymous = litter.anonymous(2)
    renewed = litter.anonymous(2)
    time.sleep(2.1)
    border = Border(docker20.host)
    names = {
        *("containers.job_grace", "containers.grace", "dangling.age", "volumes.anonymous_age", "min_age"),
    }
    policy = policy_from({"threshold": "100%", **dict.fromkeys(names, "1s")}, "test")
    made = make_plan(border, host.log, policy)
    assert {removal.name for removal in made.removals} >= {"started", "ended", anonymous, renewed}
    started.start()
    ended.start()
    ended.wait()
    litter.client.containers.create(
        litter.images["tool"].reference, ["true"], volumes={anonymous: {"bind": "/data"}}, network_mode="none"
    )
    litter.client.volumes.get(renewed).remove()
    time.sleep(1.1)  # the engine gives a volume's age in seconds
    litter.client.volumes.create(renewed)
    outcome = Executor(border, host.log, "test").run(lambda _: made)
    output = {removal.name: obstacle for removal, obstacle in outcome.failed}
    assert output["started"] == "it is running now"
    assert output["ended"] == "it ran since the plan was made"
    assert output[anonymous] == "a container refers to it now"
    assert output[renewed] == "it was created again since the plan was made"
    assert {litter.images[name].reference for name in ("job", "idle", "tool")} <= set(output)
    assert {container.name for container in litter.client.containers.list(all=True)} >= {"started", "ended"}
    border.close()
    litter.client.close()
