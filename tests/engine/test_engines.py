"""What engines say in words of their own means the same to us: names by digest, nameless volumes, disk usage."""

from __future__ import annotations

import time

import pytest

from pruner.removal.client import DockerRemovingEngine as Border
from tests.conftest import MakeEngine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer

pytestmark = pytest.mark.engine
MIB = 2**20
ALL_OLD = (
    "--threshold",
    "100%",
    "--min-age",
    "1s",
    "--volumes-anonymous-age",
    "1s",
    "--allowlist",
    "*/keep/base*",
    "--emergency",
    "never",
)


# What lies between answers as one of these: test_doctor asks all of them.
@pytest.mark.parametrize("variant", ["docker20", "docker28", "podman", "podman58"])
def test_names_by_digest_and_nameless_volumes_are_known(
    make_engine: MakeEngine, registry: Registry, variant: str
) -> None:
    engine = make_engine(variant)
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    client = engine.client()
    ids = {}
    with host.collecting():
        for seed, name in enumerate(("keep/base", "other/app"), start=400):
            made = registry.push_image(name, "1", [base_layer(), random_layer(seed, 10 * MIB)])
            digest = f"{made.reference.removesuffix(':1')}@{made.digest}"
            image = client.images.pull(digest)
            image.tag(f"renamed/{name}", "1")
            ids[name] = str(image.id)
        tool = registry.push_image("tools/tool", "1", [base_layer()]).reference
        client.images.pull(tool)
        write = ["dd", "if=/dev/zero", "of=/data/filled", "bs=1048576", "count=5"]
        one = client.containers.create(tool, write, network_mode="none", user="0", volumes=["/data"])
        one.start()
        assert one.wait()["StatusCode"] == 0
        (volume,) = (str(volume.name) for volume in client.volumes.list())
        host.wait_for_events("container_died", 1)
        time.sleep(1.1)

        border = Border(engine.host)
        assert [row.volumes for row in border.containers()] == [(volume,)]
        assert (border.usage().volume_bytes or 0) >= 5 * MIB
        plan = host.json("pruner", "plan", *ALL_OLD)
        assert {item["name"]: item["reason"] for item in plan["items"] if item["item"] == "volume"} == {
            volume: "in_use"
        }
        reasons = {row["image"]: row["reason"] for row in plan["images"]}
        assert (reasons[ids["keep/base"]], reasons[ids["other/app"]]) == ("protected", "evict")
        before = engine.image_disk.free()
        host.run("pruner", "run", *ALL_OLD, status=3)
        freed = engine.image_disk.free() - before
    rows = host.log.query("SELECT image_id, attributes ->> '$.predicted_bytes' FROM events WHERE kind = 'item_removed'")
    assert [image for image, _ in rows] == [ids["other/app"]]
    assert abs(freed - int(rows[0][1])) <= 0.02 * freed + MIB
    assert [volume.name for volume in client.volumes.list()] == [volume]
    assert ids["other/app"] not in {str(image.id) for image in client.images.list()}
    border.close()
    client.close()
