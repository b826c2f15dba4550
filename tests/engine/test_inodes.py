"""A disk that runs out of inodes while there is space enough, on real engines."""

from __future__ import annotations

import os
import time

import pytest

from tests.conftest import MakeEngine
from tests.engine.engines import STORES, Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner

pytestmark = pytest.mark.engine
FILES = 1500
INODES = 24_000


def free_inodes(engine: Engine) -> int:
    return os.statvfs(engine.disk.path).f_favail


@pytest.mark.parametrize("variant", STORES)
def test_too_few_inodes_start_a_prune_that_ends_when_there_are_enough(
    variant: str, make_engine: MakeEngine, registry: Registry
) -> None:
    engine = make_engine(variant, inodes=INODES)
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    helper = registry.push_image("gitlab/helper", "1", [base_layer()])
    images = [
        registry.push_image(f"many/{name}", "1", [base_layer(), random_layer(800 + seed, FILES * 512, FILES)])
        for seed, name in enumerate(("first", "second", "third", "fourth"))
    ]
    runner = FakeRunner(engine, helper.reference)
    with host.collecting():
        for image in (*images, images[0]):
            runner.run_job(image.reference)
        host.wait_for_events("container_destroyed", 10)
        time.sleep(1.1)
        wanted = free_inodes(engine) + FILES // 2
        space = engine.disk.free()
        assert space > 100 * 2**20
        options = ("--threshold", "1B", "--min-age", "1s", "--inode-threshold")
        assert "nothing to do" in host.run("pruner", "plan", *options, str(wanted - FILES))
        host.run("pruner", "run", *options, str(wanted))
    removed = [
        row[0] for row in host.log.query("SELECT reference FROM events WHERE kind = 'item_removed' ORDER BY seq")
    ]
    # The least recently used goes; by how many inodes each is estimated to hold, a second one may go too.
    assert removed[0] == images[1].reference
    assert images[0].reference not in removed
    assert free_inodes(engine) >= wanted
    assert host.log.query("SELECT outcome FROM prunes ORDER BY started DESC LIMIT 1") == [("target reached",)]
