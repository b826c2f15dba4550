"""On a real engine: the image of a job that has no build container yet stays, whatever the threshold."""

from __future__ import annotations

import json
import time

import pytest

from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner

pytestmark = pytest.mark.engine
MIB = 2**20
PRUNE = ("pruner", "run", "--threshold", "100%", "--min-age", "1s")


def test_the_image_of_a_job_in_flight_stays_until_its_build_container_does(
    docker20: Engine, registry: Registry
) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    names = {"helper": [base_layer()]}
    names |= {
        name: [base_layer(), random_layer(seed, 2 * MIB)] for seed, name in enumerate(("known", "named", "other"))
    }
    images = {name: registry.push_image(f"flight/{name}", "1", layers).reference for name, layers in names.items()}
    runner = FakeRunner(docker20, images["helper"])
    seen: list[set[str]] = []

    def known() -> set[str]:
        return {name for row in host.json("collector", "images") for name in row["references"]}

    def prune(*options: str, status: int = 3) -> None:
        host.wait_for(lambda: known() == host.references(), "the log to follow")
        time.sleep(1.2)
        host.run(*(options or PRUNE), status=status)
        seen.append(host.references())

    def prune_a_little() -> None:
        """Two of three images have to go; who knows nothing of jobs takes the least recently used one first."""
        little = f"{docker20.disk.free() + 3 * MIB}B"
        prune("pruner", "run", "--threshold", little, "--min-age", "1s", "--order", "pulled", status=0)

    def name_it() -> None:
        """The runner says in its log, before the build container, which image it is going to use."""
        entry = {"msg": "Image configured for job", "image_name": images["named"], "job": 5000, "project": 9}
        output = docker20.folder / "runner.log"
        output.write_text(json.dumps(entry) + "\n")
        host.run("collector", "ingest", "gitlab-runner-log", str(output))
        prune()

    with host.collecting():
        client = docker20.client()
        runner.run_job(images["known"], project_id=7)
        host.wait_for_events("container_destroyed", 2)
        time.sleep(1.2)
        # Nobody names the image of this project's second job, but its first one used it: that one goes last.
        for name in ("named", "other"):
            client.images.pull(images[name])
        runner.run_job(images["known"], project_id=7, between=prune_a_little)
        assert seen.pop() == {images["known"], images["helper"]}

        # A project without a past, whose image the runner's log names.
        for name in ("named", "other"):
            client.images.pull(images[name])
        runner.run_job(images["named"], job_id=5000, project_id=9, between=name_it)
        assert seen.pop() == {images["named"], images["helper"]}
        host.wait_for_events("container_destroyed", 6)
        prune()
        assert seen.pop() == set()
        client.close()
