"""The story of the project, on real engines: jobs fill a disk, the collector records, the pruner decides."""

from __future__ import annotations

import time

import pytest

from pruner.planning.plan import plan
from pruner.policy.file import policy_from
from pruner.removal.client import DockerRemovingEngine as Border
from pruner.removal.executor import Executor
from pruner.state.survey import survey
from tests.engine.engines import Engine
from tests.engine.host import END_S, Host
from tests.engine.registry import PushedImage, Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner

pytestmark = pytest.mark.engine
MIB = 2**20
JOBS = ("alpha", "beta", "gamma", "delta")


def push_all(registry: Registry, size: int) -> dict[str, PushedImage]:
    """Images of which each has so many bytes of its own, and a third as many that all share."""

    def push(name: str, seed: int) -> PushedImage:
        layers = [base_layer(), random_layer(size + 99, size // 3), random_layer(size + seed, size)]
        return registry.push_image(f"{name}-{size // MIB}", "1", layers)

    made = {name: push(f"mesa/{name}", seed) for seed, name in enumerate(JOBS)}
    made["base"] = push("gst/base", 10)
    made["helper"] = registry.push_image("gitlab/helper", "1", [base_layer()])
    return made


@pytest.fixture
def images(registry: Registry) -> dict[str, PushedImage]:
    return push_all(registry, 9 * MIB)


@pytest.fixture
def large_images(registry: Registry) -> dict[str, PushedImage]:
    """Such that a bound of two per cent says something."""
    return push_all(registry, 30 * MIB)


def tell_the_story(host: Host, images: dict[str, PushedImage]) -> None:
    """Jobs whose order of last use is base, beta, gamma, delta, alpha; pulled first of all was alpha."""
    runner = FakeRunner(host.engine, images["helper"].reference)
    for name in ("alpha", "base", "beta", "gamma", "delta", "alpha"):
        runner.run_job(images[name].reference)
    host.wait_for_events("container_destroyed", 12)
    time.sleep(1.1)  # everything is older than the min_age of one second


def test_the_least_recently_used_go_and_allowlisted_images_stay_until_an_emergency(
    any_engine: Engine, images: dict[str, PushedImage]
) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    with host.collecting():
        tell_the_story(host, images)
        every = {image.reference for image in images.values()}
        assert host.references() == every
        allowlist = ("--allowlist", "*/gst/*", "--min-age", "1s")

        # While there is space nothing goes.
        assert "nothing to do" in host.run("pruner", "plan", "--threshold", "10%", *allowlist)
        host.run("pruner", "run", "--threshold", "10%", *allowlist)
        assert host.references() == every

        # One and a half images too little: two go, those whose last job is the longest ago.
        one = own_bytes(host, images["beta"])
        threshold = any_engine.disk.free() + one * 3 // 2
        options = ("--threshold", f"{threshold}B", *allowlist)
        dry = host.run("pruner", "run", "--dry-run", *options)
        assert host.references() == every
        done = host.run("pruner", "run", *options)
        gone = [images["beta"].reference, images["gamma"].reference]
        assert host.references() == every - set(gone)
        assert removed(host) == gone
        for reference in gone:
            assert reference in dry
            assert f"removed {reference}" in done
        assert any_engine.disk.free() >= threshold

        # More than all others together: the allowlisted image goes too, last.
        threshold = any_engine.disk.free() + one * 5 // 2
        host.run("pruner", "run", "--threshold", f"{threshold}B", *allowlist)
        assert removed(host)[-1] == images["base"].reference
        assert set(removed(host)[2:]) >= {images["delta"].reference, images["alpha"].reference}

        # What cannot be reached is said with its own exit status.
        host.run("pruner", "run", "--threshold", "100%", *allowlist, status=3)
    rows = host.log.query("SELECT outcome, removed FROM prunes ORDER BY started")
    assert rows[0] == ("target reached", 2)
    assert rows[1][0] == "target reached"

    # The history alone says of every image what was done with it.
    checked = host.json("analyzer", "verify")
    assert checked["agreement"] == 1.0, checked
    assert [made["skipped"] for made in checked["prunes"]] == [None] * len(checked["prunes"])
    assert len(checked["prunes"]) >= 2
    assert sum(len(made["removed"]) for made in checked["prunes"]) == len(removed(host))


def own_bytes(host: Host, image: PushedImage) -> int:
    """What the image alone holds: stores count differently."""
    (found,) = (row["own_bytes"] for row in host.json("collector", "images") if image.reference in row["references"])
    return int(found)


def removed(host: Host) -> list[str]:
    rows = host.log.query("SELECT reference FROM events WHERE kind = 'item_removed' ORDER BY seq")
    return [str(row[0]) for row in rows]


def test_freed_bytes_are_as_predicted(any_engine: Engine, large_images: dict[str, PushedImage]) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    with host.collecting():
        tell_the_story(host, large_images)
        before = any_engine.disk.free()
        threshold = f"{before + 70 * MIB}B"
        plan = host.json("pruner", "plan", "--threshold", threshold, "--min-age", "1s")
        host.run("pruner", "run", "--threshold", threshold, "--min-age", "1s")
        freed = any_engine.disk.free() - before
    assert plan["frees"] >= 70 * MIB
    assert abs(freed - plan["frees"]) <= 0.02 * plan["frees"] + MIB


def test_images_of_containers_in_any_state_stay(docker20: Engine, images: dict[str, PushedImage]) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    client = docker20.client()
    for name in ("alpha", "beta", "gamma"):
        client.images.pull(images[name].reference)
    client.containers.create(images["alpha"].reference, network_mode="none")
    running = client.containers.run(images["beta"].reference, ["sleep", "60"], detach=True, network_mode="none")
    client.images.get(images["alpha"].reference).tag("other/name", "2")
    time.sleep(1.1)
    shown = host.run("pruner", "run", "--threshold", "100%", "--min-age", "1s", status=3)
    assert "warning: no event log at" in shown
    # The pruner's own records are there now, and show no use.
    assert "warning: no use is recorded in the event log at" in host.run("pruner", "plan", "--threshold", "100%")
    assert host.references() == {images["alpha"].reference, images["beta"].reference, "other/name:2"}
    running.remove(force=True)
    client.close()


def test_every_tag_of_an_image_goes_and_only_without_force(docker20: Engine, images: dict[str, PushedImage]) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    client = docker20.client()
    client.images.pull(images["alpha"].reference)
    image = client.images.get(images["alpha"].reference)
    image.tag("other/name", "1")
    image.tag("other/name", "2")
    time.sleep(1.1)
    host.run("pruner", "run", "--threshold", "100%", "--min-age", "1s", status=3)
    assert client.images.list() == []
    client.close()


def test_a_pull_after_the_plan_keeps_the_image(docker20: Engine, images: dict[str, PushedImage]) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    client = docker20.client()
    client.images.pull(images["alpha"].reference)
    time.sleep(1.1)
    border = Border(docker20.host)
    policy = policy_from({"threshold": "100%", "min_age": "1s"}, "test")
    made = plan(policy, survey(border, host.log, policy))
    assert [verdict.image.name for verdict in made.evictions] == [images["alpha"].reference]
    client.images.pull(images["alpha"].reference)
    outcome = Executor(border, host.log, "test").run(lambda _: made)
    assert outcome.removed == ()
    assert "pulled since the plan was made" in outcome.failed[0][1]
    assert host.references() == {images["alpha"].reference}
    border.close()
    client.close()


def test_the_collector_resumes_without_loss_after_kill_9_and_daemon_restart(
    docker20: Engine, images: dict[str, PushedImage]
) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    runner = FakeRunner(docker20, images["helper"].reference)
    collector = host.start_collector()
    runner.run_job(images["alpha"].reference)
    host.wait_for_events("container_destroyed", 2)
    collector.kill()
    collector.wait()
    # Known from the engine's own short memory only.
    runner.run_job(images["beta"].reference)
    collector = host.start_collector()
    host.wait_for_events("container_destroyed", 4)
    assert host.count("gap") == 0
    assert host.count("container_created") == 4

    docker20.restart()
    host.wait_for(lambda: host.count("gap") == 1, "the gap of the daemon's restart")
    runner.run_job(images["gamma"].reference)
    host.wait_for_events("container_destroyed", 6)
    collector.terminate()
    assert collector.wait(timeout=END_S) == 0
    uses = host.log.query("SELECT count(*), count(ended) FROM uses WHERE evidence = 'container'")
    assert uses == [(6, 6)]
    shown = {row["references"][0]: row for row in host.json("collector", "images") if row["references"]}
    assert shown[images["gamma"].reference]["uses"] == 1
    assert shown[images["gamma"].reference]["evidence"] == "container removed"


def test_what_went_and_came_unobserved_is_inferred(docker20: Engine, images: dict[str, PushedImage]) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    client = docker20.client()
    client.images.pull(images["alpha"].reference)
    host.run("collector", "run", "--once")
    docker20.restart()
    client.images.remove(images["alpha"].reference)
    client.images.pull(images["beta"].reference)
    client.containers.create(images["beta"].reference, network_mode="none", labels={"team": "mesa"})
    docker20.restart()
    host.run("collector", "run", "--once")
    rows = host.log.query(
        "SELECT kind, image_id, attributes ->> '$.inferred' FROM events"
        " WHERE kind IN ('image_deleted', 'container_created') ORDER BY kind"
    )
    assert rows == [
        ("container_created", images["beta"].image_id, "true"),
        ("image_deleted", images["alpha"].image_id, "true"),
    ]
    assert [row["references"] for row in host.json("collector", "images")] == [[images["beta"].reference]]
    client.close()


def test_no_engine_no_permission_no_log_are_one_line(docker20: Engine) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    docker20.stop()
    for argv in (("collector", "run", "--once"), ("pruner", "run"), ("pruner", "plan")):
        shown = host.run(*argv, status=1)
        assert "no engine socket at" in shown
        assert len(shown.splitlines()) == 1
    shown = host.run("collector", "status", status=1)
    assert "no event log at" in shown
