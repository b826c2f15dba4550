"""The container image, built on a bare Debian and run against the engine that holds it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.install import MB
from collector.eventlog.log import EventLog
from tests.engine import machine as machines
from tests.engine.engines import GIB, Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.release.test_sizes import TOLERANCE, stated

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
MIB = 2**20


@pytest.fixture
def engine(make_engine: Any) -> Engine:
    made: Engine = make_engine("docker20", 2 * GIB)
    return made


@pytest.fixture
def image(engine: Engine, package: Path, tmp_path: Path) -> str:
    """The image of the Dockerfile in the tree."""
    left_out = ("./srv", "./var/cache", "./usr/share/doc", "./usr/share/locale", "./usr/lib/podman", "./usr/bin/podman")
    archive = tmp_path / "base.tar"
    exclude = [f"--exclude={path}" for path in left_out]
    subprocess.run(["tar", "--create", "--file", archive, *exclude, "--directory", machines.ROOT, "."], check=True)
    client = engine.client()
    client.api.import_image(src=str(archive), repository="base", tag="1")
    archive.unlink()
    context = tmp_path / "context"
    (context / "dist").mkdir(parents=True)
    shutil.copy(package, context / "dist")
    shutil.copy(ROOT / "Dockerfile", context)
    client.images.build(path=str(context), buildargs={"BASE": "base:1"}, tag="docker-hindsight", network_mode="none")
    return "docker-hindsight"


def test_it_records_and_prunes_as_on_the_host(image: str, engine: Engine, registry: Registry, tmp_path: Path) -> None:
    client, state = engine.client(), tmp_path / "state"
    state.mkdir()
    seen = {
        str(engine.socket): {"bind": "/var/run/docker.sock", "mode": "rw"},
        str(engine.disk.path): {"bind": str(engine.disk.path), "mode": "ro"},
        str(state): {"bind": "/var/lib/docker-hindsight", "mode": "rw"},
    }
    often = {"interval": 10**9}  # the rest of the check is the image's
    collector = client.containers.run(image, detach=True, volumes=seen, network_mode="none", healthcheck=often)
    log = EventLog(state / "events.duckdb")

    def logged(sql: str) -> list[tuple[Any, ...]]:
        return log.query(sql) if log.exists() else []

    def has(sql: str) -> bool:
        return bool(logged(sql))

    def healthy() -> bool:
        collector.reload()
        return bool(collector.attrs["State"]["Health"]["Status"] == "healthy")

    Host.wait_for(lambda: has("SELECT 1 FROM event WHERE kind = 'collector_started'"), "the collector")
    pushed = registry.push_image("ops/image", "1", [base_layer(), random_layer(11, 8 * MIB)])
    client.images.pull(pushed.reference)
    Host.wait_for(lambda: has(f"SELECT 1 FROM event WHERE reference LIKE '%{pushed.reference}'"), "the pull")
    Host.wait_for(healthy, "the health check")
    # The log speaks of the engine's host, not of the container that keeps it.
    assert logged("SELECT DISTINCT host FROM event") == [(client.info()["Name"],)]

    command = ["pruner", "run", "--every", "2s", "--threshold", "99%", "--min-age", "1s"]
    pruner = client.containers.run(image, command, detach=True, volumes=seen, network_mode="none")
    Host.wait_for(lambda: has("SELECT 1 FROM event WHERE kind = 'prune_finished'"), "a prune")
    pruner.stop(timeout=60)
    assert pruner.wait()["StatusCode"] == 0
    collector.stop(timeout=60)
    assert collector.wait()["StatusCode"] == 0
    ((left,),) = logged("SELECT count(*) FROM event WHERE kind = 'collector_stopped'")
    assert left == 1
    added = client.images.get(image).attrs["Size"] - client.images.get("base:1").attrs["Size"]
    assert stated("container image") == pytest.approx(added / MB, rel=TOLERANCE)
    # Neither the image of the two containers nor what is theirs was a candidate.
    assert client.images.get(image)
