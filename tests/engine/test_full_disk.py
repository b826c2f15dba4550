"""A disk that is completely full, with the engine and the log on it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import docker.errors
import pytest

from collector.machine.reserve import NAME
from tests.conftest import MakeEngine
from tests.engine.engines import Engine, tags_by_image
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner, PullError, pull
from tests.needs import cannot_run

pytestmark = pytest.mark.engine
MIB = 2**20


def fill_up(engine: Engine) -> None:
    """Take every block, also those that engine and collector give back while they fail to write."""

    def is_full() -> bool:
        # XFS shows some blocks as free that nobody gets.
        return engine.disk.top_up() and (engine.disk.file_system != "ext4" or engine.disk.free() == 0)

    Host.wait_for(is_full, "the disk to be full")


@pytest.mark.parametrize("variant", ["docker20", "docker26"])
def test_a_completely_full_disk_is_freed_and_all_is_reported(
    make_engine: MakeEngine, registry: Registry, variant: str
) -> None:
    engine = make_engine(variant, 640 * MIB)
    host = Host(engine, engine.disk.path / "log" / "events.duckdb")
    spool = host.log_path.with_name(host.log_path.name + ".spool")
    reserve = host.log_path.with_name(host.log_path.name + ".reserve")
    images = [
        registry.push_image(f"full/{name}", "1", [base_layer(), random_layer(seed, 20 * MIB)])
        for seed, name in enumerate(("alpha", "beta", "gamma"), start=500)
    ]
    runner = FakeRunner(engine, registry.push_image("gitlab/helper", "1", [base_layer()]).reference)
    client = engine.client()
    with host.collecting():
        for image in images:
            runner.run_job(image.reference)
        busy = client.containers.run(images[2].reference, ["sleep", "600"], detach=True, network_mode="none")
        host.wait_for_events("container_started", 7)
        (own,) = (
            row["own_bytes"] for row in host.json("collector", "images") if images[0].reference in row["references"]
        )
        threshold = own * 3 // 2
        sizes = [path.stat().st_blocks for path in (spool, reserve)]
        pulls = host.count("image_pulled")
        engine.disk.fill_to(0)
        fill_up(engine)

        # What happens now can neither be appended to the log nor allocated for.
        done = 0
        for _ in range(3):
            try:
                pull(client, images[2].reference)
                done += 1
            except (PullError, docker.errors.APIError) as error:
                assert "no space left" in str(error)  # noqa: PT017 - not every engine refuses, nor each time
        busy.kill()
        time.sleep(1.1)
        fill_up(engine)
        shown = host.run("pruner", "run", "--threshold", f"{threshold}B", "--min-age", "1s")
        assert f"removed {images[0].reference}" in shown
        assert engine.disk.free() >= threshold
        host.wait_for_events("container_died", 7)
        host.wait_for_events("image_deleted", 2)
    assert host.count("image_pulled") == pulls + done
    assert host.count("gap") == 0
    rows = host.log.query(
        "SELECT kind, reference FROM events WHERE kind LIKE 'prune_%' OR kind LIKE 'item_%' ORDER BY seq"
    )
    assert rows == [
        ("prune_started", None),
        ("item_removed", images[0].reference),
        ("item_removed", images[1].reference),
        ("prune_finished", None),
    ]
    # What was kept back for such a day is kept back again.
    assert [path.stat().st_blocks for path in (spool, reserve)] == sizes
    assert not spool.read_bytes().strip(b"\0")
    client.close()


# Docker 26 on ext4 is above.
@pytest.mark.parametrize(("variant", "file_system"), [("docker20", "ext4"), ("docker20", "xfs"), ("docker26", "xfs")])
def test_a_full_disk_costs_no_image_its_names_and_the_engine_has_a_reserve_of_its_own(
    make_engine: MakeEngine, registry: Registry, variant: str, file_system: str
) -> None:
    if shutil.which(f"mkfs.{file_system}") is None:
        cannot_run(f"mkfs.{file_system} is not installed: run .ci/install-packages")
    engine = make_engine(variant, 640 * MIB, file_system=file_system)
    host = Host(engine, engine.folder / "log" / "events.duckdb")
    client = engine.client()
    for seed in range(4):
        image = registry.push_image(f"names/{seed}", "1", [base_layer(), random_layer(510 + seed, 20 * MIB)])
        client.images.pull(image.reference)
        client.images.get(image.reference).tag(f"second/{seed}", "1")
    host.run("collector", "run", "--once")
    run = ("pruner", "run", "--now", "--min-age", "1s", "--free", "30MB")
    reserve = engine.data_root / NAME
    before = host.references()
    time.sleep(1.1)
    engine.disk.fill_to(0)
    fill_up(engine)

    def prune() -> tuple[str, set[str]]:
        """What a run says, and the names that images lost although they stay."""
        held = {image: set(tags) for image, tags in tags_by_image(client).items()}
        shown = host.run(*run, status=None)
        left = {image: set(tags) for image, tags in tags_by_image(client).items()}
        return shown, {name for image, names in left.items() for name in held[image] - names}

    # Nothing was kept back for this day: either the engine gets along, or the run stops at the first refusal.
    shown, lost = prune()
    assert not lost, shown
    if engine.disk.free() < 30_000_000:
        assert shown.count("kept ") == 1, shown
        assert "completely full" in shown
        assert "Get one block by hand" in shown
        assert host.references() == before
        engine.disk.give_a_block()
        shown, lost = prune()
        assert not lost, shown
    assert engine.disk.free() >= 30_000_000, shown
    assert reserve.stat().st_blocks * 512 >= MIB

    # From now on there is something to give.
    engine.disk.fill_to(0)
    fill_up(engine)
    time.sleep(1.1)
    shown, lost = prune()
    assert not lost, shown
    assert f"at {reserve} is released" in shown
    assert engine.disk.free() >= 30_000_000, shown
    if (variant, file_system) == ("docker20", "ext4"):
        check_that_a_log_is_emptied(engine, host, image.reference)
    client.close()


def check_that_a_log_is_emptied(engine: Engine, host: Host, reference: str) -> None:
    """With nothing else to give, the log of a container that stays gives the blocks, if the policy permits it."""
    client = engine.client()
    engine.disk.unfill()
    client.images.pull(reference)
    command = ["sh", "-c", "yes 0123456789 | head -c 4000000"]
    talker = client.containers.create(reference, command, network_mode="none")
    talker.start()
    talker.wait()
    path = Path(client.api.inspect_container(str(talker.id))["LogPath"])
    assert path.stat().st_size > 4_000_000
    (engine.data_root / NAME).unlink(missing_ok=True)
    engine.disk.fill_to(0)
    fill_up(engine)
    run = ("pruner", "run", "--now", "--free", "3MB", "--min-age", "1h")
    assert "log of container" not in host.run(*run, status=None)
    assert path.stat().st_size > 4_000_000
    shown = host.run(*run, "--containers-empty-logs", "true")
    assert f"removed log of container {talker.name}: freed" in shown
    assert path.stat().st_size == 0
    assert engine.disk.free() >= 3_000_000, shown
    talker.remove()
    client.close()
